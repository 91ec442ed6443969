-- Origins whose web pages may score from browsers: a JSON list.
ALTER TABLE services ADD COLUMN cors_origins TEXT NOT NULL DEFAULT '[]';
