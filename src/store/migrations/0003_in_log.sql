-- What a task must know of a table to go on in the source's log: counts, place of its load and definition at the
-- checkpoint. JSON; empty for tasks without changes.
ALTER TABLE table_statistics ADD COLUMN in_log TEXT NOT NULL DEFAULT '';
