-- How a revision's scoring servers run its model, as JSON.
ALTER TABLE revisions ADD COLUMN serving TEXT NOT NULL DEFAULT '{}';
