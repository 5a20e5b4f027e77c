//! Rows that are refused, servers that go away, and what is safe when.

use super::*;
use crate::data::{DataType, ErrorKind, Value};

/// Twenty thousand rows in several COPYs, of which the target will refuse three.
async fn with_bad_rows(format: Format, batch_rows: usize) {
    let pair = Pair::new(
        "CREATE TABLE bad (id integer, must text, short varchar(20), pad text);
         INSERT INTO bad SELECT i, 'm' || i, 's', repeat('p', 350) FROM generate_series(1, 20000) i;
         UPDATE bad SET id = 12 WHERE id = 17000; UPDATE bad SET must = NULL WHERE id = 5000;
         UPDATE bad SET short = 'it''s too long\there' WHERE id = 20000;",
    );
    pair.target_sql("CREATE TABLE bad (id integer PRIMARY KEY, must text NOT NULL, short varchar(10), pad text)");
    let how = How { batch_rows, mode: PrepareMode::DoNothing, ..how(format) };
    let load = pair.load("bad", how).await;
    assert_eq!(load.rows, 19_997, "{format:?}");
    assert_eq!(pair.target_sql("SELECT count(*) FROM bad"), "19997");
    let mut rejected = load.rejected;
    rejected.sort_by_key(|row| row.error.sqlstate.clone());
    let found: Vec<_> = rejected
        .iter()
        .map(|row| (row.error.kind, row.error.sqlstate.as_deref().unwrap(), row.statement.as_str()))
        .collect();
    let pad = "p".repeat(350);
    let columns = "\"id\", \"must\", \"short\", \"pad\"";
    let insert = |values| format!("INSERT INTO \"public\".\"bad\" ({columns}) VALUES ({values}, '{pad}')");
    let (long, null, twice) = (
        insert("'20000', 'm20000', 'it''s too long\there'"),
        insert("'5000', NULL, 's'"),
        insert("'12', 'm17000', 's'"),
    );
    let expected = [
        (ErrorKind::Truncation, "22001", long.as_str()),
        (ErrorKind::Data, "23502", null.as_str()),
        (ErrorKind::Data, "23505", twice.as_str()),
    ];
    assert_eq!(found, expected, "{format:?}");
    for row in &rejected {
        let text = row.error.to_string();
        assert!(!text.contains("too long\t") && !text.contains("17000") && !text.contains("(12)"), "{text}");
    }
}

#[tokio::test]
async fn bad_rows_do_not_take_others_along() {
    for format in FORMATS {
        for batch_rows in [300, 10_000, 100_000] {
            with_bad_rows(format, batch_rows).await;
        }
    }
}

#[tokio::test]
async fn a_batch_of_bad_rows_is_sorted_out() {
    let pair = Pair::new("CREATE TABLE bad AS SELECT i, NULLIF(i % 2, 0) AS odd FROM generate_series(1, 2000) i");
    pair.target_sql("CREATE TABLE bad (i integer, odd integer NOT NULL)");
    for format in FORMATS {
        let load = pair.load("bad", How { mode: PrepareMode::TruncateBeforeLoad, ..how(format) }).await;
        assert_eq!((load.rows, load.rejected.len()), (1000, 1000));
        assert_eq!(pair.target_sql("SELECT count(*), sum(i) FROM bad"), "1000|1000000");
    }
}

#[tokio::test]
async fn a_large_bad_row_is_rejected_alone() {
    let pair = Pair::new(
        "CREATE TABLE large (id integer, t text, tail text);
         INSERT INTO large SELECT i, CASE WHEN i IN (3, 5) THEN repeat('x', 2000000) ELSE 'x' END, 'y'
         FROM generate_series(1, 9) i",
    );
    pair.target_sql("CREATE TABLE large (id integer CHECK (id <> 3), t text, tail text)");
    for format in FORMATS {
        let how = How { mode: PrepareMode::TruncateBeforeLoad, batch_bytes: 100_000, ..how(format) };
        let load = pair.load("large", how).await;
        assert_eq!((load.rows, load.rejected.len()), (8, 1), "{format:?}");
        let rejected = &load.rejected[0];
        assert_eq!(rejected.error.sqlstate.as_deref(), Some("23514"));
        assert!(rejected.statement.len() < 70_000);
        assert_eq!(pair.target_sql("SELECT count(*), sum(length(t)), count(tail) FROM large"), "8|2000007|8");
    }
}

#[tokio::test]
async fn generated_columns_of_the_target_are_left_to_it() {
    let pair = Pair::new(
        "CREATE TABLE g (g integer GENERATED ALWAYS AS (id * 3) STORED, id integer, t text, h integer DEFAULT 7);
         INSERT INTO g (id, t) VALUES (1, 'a'), (2, repeat('x', 400000)), (3, NULL)",
    );
    pair.target_sql(
        "CREATE TABLE g (g integer GENERATED ALWAYS AS (id * 3) STORED, id integer GENERATED ALWAYS AS IDENTITY,
         t text, h integer GENERATED ALWAYS AS (8) STORED)",
    );
    let table = pair.describe("public", "g").await;
    assert_eq!(pair.target.formats(&table).await.unwrap(), [Format::Text, Format::Values]);
    for format in [Format::Text, Format::Values] {
        let how = How { mode: PrepareMode::TruncateBeforeLoad, batch_bytes: 65_536, ..how(format) };
        assert_eq!(pair.load("g", how).await.rows, 3);
        let rows = "SELECT g, id, length(t), h FROM g ORDER BY id";
        assert_eq!(pair.target_sql(rows), "3|1|1|8\n6|2|400000|8\n9|3||8");
    }
}

#[tokio::test]
async fn values_of_another_engine_are_written_or_refused_one_by_one() {
    let pair = Pair::new("");
    let columns = [
        ("id", DataType::UInt8),
        ("text", DataType::WString { length: 10 }),
        ("time", DataType::Time { scale: 6 }),
        ("raw", DataType::Bytes { length: 4 }),
        ("real", DataType::Real8),
        ("flag", DataType::Boolean),
        ("price", DataType::Numeric { precision: 8, scale: 2 }),
    ];
    let table = foreign(&pair, &columns).await;
    assert_eq!(pair.target.formats(&table).await.unwrap(), [Format::Values]);
    let mut writer = pair.target.writer(&table, Format::Values, 10_000).await.unwrap();
    let mut batch = Batch::new();
    batch.clear(Format::Values);
    let good = |id, text| {
        let price = Value::Numeric(b"999999.99");
        [Value::UInt(id), text, Value::Time(0), Value::Bytes(&[0]), Value::Real(-0.5), Value::Bool(false), price]
    };
    let mut push = |row: [Value<'_>; 7]| {
        row.into_iter().for_each(|value| batch.push(value));
        batch.end_row();
    };
    push(good(1, Value::String(b"nul\0 \\N\r\n")));
    push(good(2, Value::String(b"latin \xe4")));
    push(good(u64::MAX, Value::String(b"too much")));
    let mut long = good(3, Value::Null);
    long[2] = Value::Time(838 * 3_600_000_000);
    push(long);
    push(good(4, Value::String("eleven char".as_bytes())));
    push(good(5, Value::String(b"")));
    let mut written = writer.write(&batch).await.unwrap();
    let finished = writer.finish().await.unwrap();
    written.rejected.extend(finished.rejected);
    let states: Vec<_> = written.rejected.iter().map(|row| row.error.sqlstate.clone().unwrap()).collect();
    assert_eq!(
        (written.rows + finished.rows, states),
        (2, ["22021", "22003", "22008", "22001"].map(String::from).into())
    );
    let rows =
        "SELECT id, text = E'nul  \\\\N\\r\\n', text = '', time, raw, real, flag, price FROM shop.items ORDER BY id";
    assert_eq!(pair.target_sql(rows), "1|t|f|00:00:00|\\x00|-0.5|f|999999.99\n5|f|t|00:00:00|\\x00|-0.5|f|999999.99");
}

#[tokio::test]
async fn what_was_written_is_on_disk_after_finish() {
    let pair = Pair::new("CREATE TABLE d AS SELECT generate_series(1, 1000) AS i");
    pair.target_sql("CREATE EXTENSION pageinspect");
    let table = pair.describe("public", "d").await;
    pair.target.prepare(&table, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
    let snapshot = open(&*pair.source, 1).await;
    let mut reader = snapshot.read(plan(&table, how(Format::Text))).await.unwrap();
    let mut writer = pair.target.writer(&table, Format::Text, 10_000).await.unwrap();
    let mut batch = Batch::new();
    let mut rows = 0;
    while reader.next(&mut batch).await.unwrap() {
        rows += writer.write(&batch).await.unwrap().rows;
    }
    rows += writer.finish().await.unwrap().rows;
    // The server's own background flush is ten seconds away.
    let on_disk = "SELECT pg_current_wal_flush_lsn() > max(lsn) FROM generate_series(0, \
        pg_relation_size('d')::integer / 8192 - 1) AS page, page_header(get_raw_page('d', page))";
    assert_eq!((rows, pair.target_sql(on_disk).as_str()), (1000, "t"));
}

/// A task that was killed may have left a whole COPY in its connection. What empties the table must come after it.
#[tokio::test]
async fn a_table_is_not_emptied_while_an_earlier_load_may_still_write() {
    let pair = Pair::new("CREATE TABLE f AS SELECT generate_series(1, 10) AS i");
    for mode in [PrepareMode::TruncateBeforeLoad, PrepareMode::DropAndCreate] {
        let table = pair.describe("public", "f").await;
        pair.target.prepare(&table, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
        let earlier = pair.target.writer(&table, Format::Text, 10_000).await.unwrap();
        let prepare = pair.target.prepare(&table, mode, CreateKey::WithTable);
        tokio::pin!(prepare);
        let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted \
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        // Each look takes a psql; the server answers our own connection meanwhile.
        while pair.target_sql(waits) == "0" {
            let turn = tokio::time::timeout(std::time::Duration::from_millis(10), prepare.as_mut());
            assert!(turn.await.is_err(), "{mode:?} did not wait");
        }
        drop(earlier);
        prepare.await.unwrap();
    }
}

#[tokio::test]
async fn a_chatty_trigger_does_not_stop_a_load() {
    let pair = Pair::new("CREATE TABLE c AS SELECT generate_series(1, 50000) AS i");
    pair.target_sql(
        "CREATE TABLE c (i integer); CREATE FUNCTION talk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         RAISE WARNING 'a long sentence about row %, said again and again and again and again', NEW.i;
         IF NEW.i = 40000 THEN RAISE EXCEPTION 'not this one'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER talk BEFORE INSERT ON c FOR EACH ROW EXECUTE FUNCTION talk()",
    );
    let how = How { mode: PrepareMode::DoNothing, batch_rows: 50_000, ..how(Format::PostgresCopy) };
    let load = pair.load("c", how).await;
    assert_eq!((load.rows, load.rejected.len()), (49_999, 1));
    assert_eq!(load.rejected[0].error.message, "not this one");
}

/// Ends our sessions in a database, and returns when they are gone: before version 14 the server does not wait for that.
fn end_sessions(sql: impl Fn(&str) -> String) {
    let ours = "FROM pg_stat_activity WHERE application_name = 'dms-local' AND datname = current_database()";
    assert_ne!(sql(&format!("SELECT count(pg_terminate_backend(pid)) {ours}")), "0");
    while sql(&format!("SELECT count(*) {ours}")) != "0" {}
}

#[tokio::test]
async fn a_session_that_is_ended_is_an_error_to_recover_from() {
    let pair = Pair::new("CREATE TABLE e AS SELECT i, repeat('x', 1000) AS x FROM generate_series(1, 5000) i");
    let table = pair.describe("public", "e").await;
    pair.target.prepare(&table, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
    let snapshot = open(&*pair.source, 1).await;
    let mut reader = snapshot.read(plan(&table, How { batch_bytes: 100_000, ..how(Format::Text) })).await.unwrap();
    let mut writer = pair.target.writer(&table, Format::Text, 10_000).await.unwrap();
    let mut batch = Batch::new();
    assert!(reader.next(&mut batch).await.unwrap());
    writer.write(&batch).await.unwrap();
    end_sessions(|sql| pair.target_sql(sql));
    let error = match writer.write(&batch).await {
        Err(error) => error,
        Ok(_) => writer.finish().await.unwrap_err(),
    };
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Recoverable, Some("57P01")), "{error}");

    end_sessions(|sql| pair.source_sql(sql));
    let error = loop {
        match reader.next(&mut batch).await {
            Ok(more) => assert!(more),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, ErrorKind::Recoverable, "{error}");
    drop(reader);
    // The snapshot is lost with the session that exported it.
    let error = snapshot.read(plan(&table, how(Format::Text))).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Recoverable, "{error}");
}

#[tokio::test]
async fn a_table_that_is_gone_from_the_target_is_an_error_of_the_table() {
    let pair = Pair::new("CREATE TABLE t AS SELECT 1 AS i");
    let table = pair.describe("public", "t").await;
    let error = pair.copy(&table, how(Format::Text)).await.err().unwrap();
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Table, Some("42P01")));
    pair.target_sql("CREATE TABLE t (other integer)");
    let error = pair.copy(&table, how(Format::Text)).await.err().unwrap();
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Table, Some("42703")));
}
