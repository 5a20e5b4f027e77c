-- One row per resource. `spec` is what the data plane reads (inputs merged over time, secrets included); `body` is the
-- wire shape that Describe returns. Only what queries need is a column of its own.
CREATE TABLE resource (
    sequence   INTEGER PRIMARY KEY AUTOINCREMENT,
    arn        TEXT    NOT NULL UNIQUE,
    account    TEXT    NOT NULL,
    region     TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    identifier TEXT    NOT NULL,
    status     TEXT    NOT NULL,
    spec       TEXT    NOT NULL,
    body       TEXT    NOT NULL,
    UNIQUE (account, region, kind, identifier)
) STRICT;

CREATE INDEX resource_by_kind ON resource (account, region, kind, sequence);

CREATE TABLE tag (
    arn   TEXT NOT NULL,
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (arn, key)
) STRICT, WITHOUT ROWID;

-- One row per table of a task, in load order.
CREATE TABLE table_statistics (
    task        TEXT    NOT NULL,
    position    INTEGER NOT NULL,
    schema_name TEXT    NOT NULL,
    table_name  TEXT    NOT NULL,
    table_state TEXT    NOT NULL,
    body        TEXT    NOT NULL,
    PRIMARY KEY (task, schema_name, table_name)
) STRICT, WITHOUT ROWID;
