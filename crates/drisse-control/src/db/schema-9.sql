-- What a service's name was made of: the stem of a file, or the name of a folder; null if the user gave the name.
ALTER TABLE services ADD COLUMN stem TEXT;
