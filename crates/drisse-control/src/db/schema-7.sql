-- Signatures of packages: the digests of the manifests that refer to them.
CREATE TABLE signatures (package TEXT NOT NULL, manifest TEXT NOT NULL, PRIMARY KEY (package, manifest)) STRICT;
