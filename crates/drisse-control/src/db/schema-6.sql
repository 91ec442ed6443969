-- What surrounds a revision's scoring servers (limits, environment, restarts), as JSON.
ALTER TABLE revisions ADD COLUMN resources TEXT NOT NULL DEFAULT '{}';
-- Targets that were attached: how, as JSON.
CREATE TABLE targets (name TEXT PRIMARY KEY, spec TEXT NOT NULL) STRICT;
