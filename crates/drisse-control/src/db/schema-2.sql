-- The file a model was registered from: where its bytes may still be, should the store's be damaged.
ALTER TABLE models ADD COLUMN source TEXT;
