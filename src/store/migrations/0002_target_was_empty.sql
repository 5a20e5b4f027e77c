-- Whether all rows of a table's target were put there by the task, so that an interrupted load can take them away.
ALTER TABLE table_statistics ADD COLUMN target_was_empty INTEGER NOT NULL DEFAULT 0;
