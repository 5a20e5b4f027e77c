//! The log of a real server.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use super::*;
use crate::connector::{Beginning, Capture, ChangeReader};
use crate::data::{Changes, Entry, Position, TableVersion, Value};

/// A task that captures the schema `public` of a source.
struct Log {
    capture: Capture,
    reader: Box<dyn ChangeReader>,
    tables: Vec<Arc<TableVersion>>,
    /// What the last piece that was read says.
    resume: Option<Position>,
}

async fn capture(pair: &Pair, format: Format) -> Capture {
    let tables = pair.source.tables().await.unwrap();
    let tables: Vec<TableEntry> = tables.into_iter().filter(|table| table.name.schema == "public").collect();
    Capture {
        task: format!("TASK{}", pair.source_database.to_uppercase()),
        tables: pair.source.describe(&tables).await.unwrap(),
        loaded_at: HashMap::new(),
        selects: Arc::new(|name| name.schema == "public"),
        format,
        lob_bytes_max: None,
        batch_bytes: 1 << 20,
    }
}

impl Log {
    async fn begin(pair: &Pair, format: Format) -> (Log, Box<dyn Snapshot>) {
        let capture = capture(pair, format).await;
        let Beginning { snapshot, position } = pair.source.begin_capture(&capture, 1).await.unwrap();
        (Log::from(pair, capture, &position).await, snapshot)
    }

    async fn from(pair: &Pair, capture: Capture, position: &Position) -> Log {
        let reader = pair.source.changes(&capture, position).await.unwrap();
        Log { capture, reader, tables: Vec::new(), resume: None }
    }

    /// Reads so many transactions and tells them, a line an entry.
    async fn transactions(&mut self, count: usize) -> String {
        let (mut told, mut commits, mut changes) = (String::new(), 0, Changes::default());
        while commits < count {
            self.reader.next(&mut changes).await.unwrap();
            for entry in &changes.entries {
                commits += usize::from(matches!(entry, Entry::Commit { .. }));
                self.tell(entry, &changes, &mut told);
            }
            self.resume = changes.resume.take().or(self.resume.take());
        }
        assert_eq!(commits, count, "{told}");
        told
    }

    fn tell(&mut self, entry: &Entry, changes: &Changes, told: &mut String) {
        let name = |log: &Log, table: u32| log.tables[table as usize].schema.name.table.clone();
        let row = |index: &Option<u32>| index.map_or(String::new(), |index| values(changes.rows.row(index as usize)));
        match entry {
            Entry::Table { table, version } => {
                match self.tables.get_mut(*table as usize) {
                    Some(slot) => *slot = version.clone(),
                    None => self.tables.push(version.clone()),
                }
                let columns: Vec<String> =
                    version.schema.columns.iter().map(|column| format!("{} {}", column.name, column.native)).collect();
                let identity = &version.identity;
                writeln!(told, "{}: {} by {identity:?}", version.schema.name.table, columns.join(", ")).unwrap();
            }
            Entry::Row { table, op, old, new } => {
                let name = name(self, *table);
                writeln!(told, "{op:?} {name} {}->{}", row(old), row(new)).unwrap();
            }
            Entry::Unreadable { table, reason } => writeln!(told, "Unreadable {table}: {reason}").unwrap(),
            Entry::Ddl { table, ddl } => writeln!(told, "{ddl:?} {}", name(self, *table)).unwrap(),
            Entry::Truncate { table } => writeln!(told, "Truncate {}", name(self, *table)).unwrap(),
            Entry::Commit { transaction, time, .. } => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                let age = now.as_micros() as i64 - time;
                assert!(*transaction > 0 && age.abs() < 600_000_000, "{transaction} {time}");
                told.push_str("Commit\n");
            }
        }
    }

    fn lsn(&self) -> u64 {
        match &self.resume {
            Some(Position::Lsn(lsn)) => *lsn,
            _ => 0,
        }
    }
}

fn values(row: crate::data::Row<'_>) -> String {
    let value = |value: Value<'_>| match value {
        Value::Absent => "-".to_owned(),
        Value::Null => "NULL".to_owned(),
        Value::String(text) | Value::Numeric(text) => String::from_utf8_lossy(text).into_owned(),
        other => format!("{other:?}"),
    };
    format!("({})", row.map(value).collect::<Vec<_>>().join(","))
}

async fn count(pair: &Pair, snapshot: &dyn Snapshot, table: &str) -> usize {
    let table = pair.describe("public", table).await;
    let mut reader = snapshot.read(plan(&table, how(Format::Text))).await.unwrap();
    let (mut batch, mut rows) = (Batch::new(), 0);
    while reader.next(&mut batch).await.unwrap() {
        rows += batch.rows();
    }
    rows
}

#[tokio::test]
async fn the_log_goes_on_where_the_snapshot_ends() {
    let pair = Pair::new("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'before')");
    let (mut log, snapshot) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO t VALUES (2, 'after'), (3, NULL)");
    pair.source_sql("UPDATE t SET v = E'tab\\there \\\\ ''quoted''' WHERE id = 1");
    assert_eq!(count(&pair, &*snapshot, "t").await, 1);
    let expected = "t: id integer, v text by [0]\nInsert t ->(2,after)\nInsert t ->(3,NULL)\nCommit\n\
        Update t ->(1,tab\there \\ 'quoted')\nCommit\n";
    assert_eq!(log.transactions(2).await, expected);
}

#[tokio::test]
async fn rows_are_told_by_what_identifies_them() {
    let pair = Pair::new(
        "CREATE TABLE keyed (a int, b text, c int, PRIMARY KEY (c, a)); CREATE TABLE whole (a int, b text);
         ALTER TABLE whole REPLICA IDENTITY FULL; CREATE TABLE none (a int);
         CREATE TABLE indexed (a int NOT NULL UNIQUE, b int); ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_a_key;
         INSERT INTO keyed VALUES (1, 'x', 2), (3, 'y', 4); INSERT INTO whole VALUES (1, 'x');
         INSERT INTO none VALUES (1); INSERT INTO indexed VALUES (1, 1)",
    );
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("BEGIN; UPDATE keyed SET a = 9 WHERE a = 1; DELETE FROM keyed WHERE a = 3; COMMIT");
    pair.source_sql("BEGIN; UPDATE whole SET b = 'z'; DELETE FROM whole; COMMIT");
    // The application must be able to, though nobody can tell which row it was.
    pair.source_sql("UPDATE none SET a = 2; INSERT INTO none VALUES (3); DELETE FROM none");
    pair.source_sql("BEGIN; UPDATE indexed SET b = 2; UPDATE indexed SET a = 5; DELETE FROM indexed; COMMIT");
    let expected = "keyed: a integer, b text, c integer by [0, 2]\nUpdate keyed (1,-,2)->(9,x,2)\n\
        Delete keyed (3,-,4)->\nCommit\n\
        whole: a integer, b text by [0, 1]\nUpdate whole (1,x)->(1,z)\nDelete whole (1,z)->\nCommit\n\
        none: a integer by []\nInsert none ->(3)\nCommit\n\
        indexed: a integer, b integer by [0]\nUpdate indexed ->(1,2)\nUpdate indexed (1,-)->(5,2)\n\
        Delete indexed (5,-)->\nCommit\n";
    assert_eq!(log.transactions(4).await, expected);
}

#[tokio::test]
async fn values_that_are_stored_apart_and_did_not_change_are_absent() {
    let pair = Pair::new(
        "CREATE TABLE t (id int PRIMARY KEY, n int, big text); ALTER TABLE t ALTER big SET STORAGE EXTERNAL;
         INSERT INTO t VALUES (1, 1, repeat('x', 10000))",
    );
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("UPDATE t SET n = 2");
    assert_eq!(log.transactions(1).await, "t: id integer, n integer, big text by [0]\nUpdate t ->(1,2,-)\nCommit\n");
}

#[tokio::test]
async fn values_are_of_the_types_of_dms_between_engines() {
    let pair = Pair::new(
        "CREATE TABLE t (i bigint PRIMARY KEY, b boolean, r real, n numeric(9, 2), d date, s timestamp, y bytea,
         c char(4), e text, a int[])",
    );
    let (mut log, _) = Log::begin(&pair, Format::Values).await;
    pair.source_sql(
        "INSERT INTO t VALUES (-5, true, 0.1, 3.50, '1970-01-03', '1970-01-01 00:00:01', '\\x00ff', 'ab', E'a\\\\b\t',
         '{1}')",
    );
    let told = log.transactions(1).await;
    let row = told.lines().find(|line| line.starts_with("Insert")).unwrap();
    let expected = "Insert t ->(Int(-5),true,Real(0.1),3.50,Date(2),DateTime(1000000),Bytes([0, 255]),ab,a\\b\t,{1})";
    assert_eq!(row, expected);
}

#[tokio::test]
async fn a_table_that_changes_is_told_again() {
    let pair = Pair::new(
        "CREATE TYPE mood AS ENUM ('ok'); CREATE TABLE t (a int PRIMARY KEY, gone numeric(5, 2), m mood);
         CREATE TABLE u (a int)",
    );
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO t VALUES (1, 2.5, 'ok')");
    pair.source_sql("ALTER TABLE t DROP COLUMN gone, ADD COLUMN late varchar(3)");
    pair.source_sql("BEGIN; INSERT INTO t VALUES (2, 'ok', 'new'); TRUNCATE u, t; COMMIT");
    let told = log.transactions(2).await;
    let mut lines = told.lines();
    // By now the catalog has forgotten the column of the first row.
    assert_eq!(lines.next(), Some("t: a integer, gone numeric(5,2), m public.mood by [0]"));
    assert_eq!(lines.next(), Some("Insert t ->(1,2.50,ok)"));
    assert_eq!(lines.next(), Some("Commit"));
    assert_eq!(lines.next(), Some("t: a integer, m public.mood, late character varying(3) by [0]"));
    assert_eq!(lines.next(), Some("Insert t ->(2,ok,new)"));
    let mut rest: Vec<&str> = lines.collect();
    rest.sort_unstable();
    assert_eq!(rest, ["Commit", "Truncate t", "Truncate u", "u: a integer by []"]);
}

#[tokio::test]
async fn what_is_confirmed_is_not_sent_again_and_may_be_forgotten() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)");
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO t VALUES (1)");
    log.transactions(1).await;
    let (first, task) = (log.resume.clone().unwrap(), log.capture.clone());
    pair.source_sql("INSERT INTO t VALUES (2)");
    log.transactions(1).await;
    log.reader.confirm(&first).await.unwrap();
    let slot = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()";
    while pair.source_sql(slot).parse::<Position>().unwrap() != first {
        tokio::task::yield_now().await;
    }
    drop(log);
    while pair.source_sql("SELECT active FROM pg_replication_slots WHERE database = current_database()") == "t" {
        tokio::task::yield_now().await;
    }
    let mut log = Log::from(&pair, task, &first).await;
    assert_eq!(log.transactions(1).await, "t: a integer by [0]\nInsert t ->(2)\nCommit\n");
}

#[tokio::test]
async fn a_log_that_holds_nothing_for_us_moves_the_place() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY); CREATE SCHEMA other; CREATE TABLE other.t (a int)");
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO other.t SELECT generate_series(1, 1000)");
    let Ok(Position::Lsn(end)) = pair.source_sql("SELECT pg_current_wal_flush_lsn()").parse() else { panic!() };
    let mut changes = Changes::default();
    while log.lsn() < end {
        log.reader.next(&mut changes).await.unwrap();
        assert!(changes.entries.is_empty());
        log.resume = changes.resume.take();
    }
}

#[tokio::test]
async fn a_long_transaction_comes_in_pieces_of_bounded_size() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY, b text)");
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 20000) i");
    let (mut changes, mut rows, mut pieces) = (Changes::default(), 0, 0);
    loop {
        log.reader.next(&mut changes).await.unwrap();
        assert!(changes.bytes() < (1 << 20) + (64 << 10), "{}", changes.bytes());
        rows += changes.rows.rows();
        pieces += 1;
        if matches!(changes.entries.last(), Some(Entry::Commit { .. })) {
            break;
        }
    }
    assert!(rows == 20_000 && pieces >= 10, "{rows} rows in {pieces} pieces");
}

#[tokio::test]
async fn nothing_is_left_on_the_source() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)");
    let left = "SELECT (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())
        + (SELECT count(*) FROM pg_publication)";
    let (first, _snapshot) = Log::begin(&pair, Format::Text).await;
    assert_eq!(pair.source_sql(left), "3");
    // A second beginning takes the place of the first, though that is still reading.
    let (again, _) = Log::begin(&pair, Format::Text).await;
    assert_eq!(pair.source_sql(left), "3");
    pair.source.end_capture(&again.capture).await.unwrap();
    assert_eq!(pair.source_sql(left), "0");
    pair.source.end_capture(&first.capture).await.unwrap();
}

#[tokio::test]
async fn a_reader_that_nobody_asks_goes_on_where_it_was() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)");
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("INSERT INTO t VALUES (1)");
    assert!(futures_util::poll!(log.reader.keep_alive()).is_pending());
    assert!(log.transactions(1).await.contains("Insert t ->(1)"));
}
