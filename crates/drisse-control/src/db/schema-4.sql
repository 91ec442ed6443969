-- Whether the gateway writes the service's requests down.
ALTER TABLE services ADD COLUMN access_log INTEGER NOT NULL DEFAULT 0;
