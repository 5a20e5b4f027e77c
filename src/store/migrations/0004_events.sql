-- What has happened to resources, for DescribeEvents. `time` in milliseconds since 1970; `categories` is JSON.
CREATE TABLE event (
    sequence    INTEGER PRIMARY KEY AUTOINCREMENT,
    account     TEXT    NOT NULL,
    region      TEXT    NOT NULL,
    source_type TEXT    NOT NULL,
    source      TEXT    NOT NULL,
    category    TEXT    NOT NULL,
    message     TEXT    NOT NULL,
    time        INTEGER NOT NULL
) STRICT;

CREATE INDEX event_by_time ON event (account, region, time);
