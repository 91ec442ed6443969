-- The file that a model was registered from. A repair can read it if the store is damaged.
ALTER TABLE models ADD COLUMN source TEXT;
