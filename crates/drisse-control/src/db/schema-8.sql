-- The wanted revisions of a service, and their shares of its requests.
CREATE TABLE wanted (
    service TEXT NOT NULL REFERENCES services (name) ON DELETE CASCADE,
    revision INTEGER NOT NULL,
    -- Relative to the service's other wanted revisions.
    weight INTEGER NOT NULL,
    -- As asked for …
    replicas INTEGER NOT NULL,
    -- … and as an autoscaler has set it since.
    scaled INTEGER,
    PRIMARY KEY (service, revision)
) STRICT;
INSERT INTO wanted (service, revision, weight, replicas) SELECT name, revision, 1, replicas FROM services;
ALTER TABLE services DROP COLUMN replicas;
