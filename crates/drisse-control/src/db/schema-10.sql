-- Further names of the service, while the revision is wanted.
ALTER TABLE revisions ADD COLUMN aliases TEXT NOT NULL DEFAULT '[]';
