//! What goes wrong, and what it is called.

use super::*;
use crate::connector::Secret;
use crate::connector::testing::mysql::start;

fn many(from: i32, to: i32) -> Vec<String> {
    (from..to).map(|id| format!("{id}|v{id}")).collect()
}

async fn rows(pair: &Pair, images: &[String]) -> Rows {
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    Rows::new(pair, "t", &images).await
}

#[tokio::test]
async fn a_row_that_is_refused_leaves_nothing_of_its_set() {
    let pair = Pair::both("CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(5) NOT NULL CHECK (b <> 'bad'))");
    let cases = [("7|too long", 1406), ("7|bad", 4025), ("7|\\N", 1048), ("x|y", 1366), ("99999999999|y", 1264)];
    for (image, native) in cases {
        for count in [0, 1, 10, 100, 1000] {
            let mut images = many(100, 100 + count);
            images.insert(count as usize / 2, image.to_owned());
            let rows = rows(&pair, &images).await;
            let mut applier = pair.begun(Format::Text).await;
            for _ in 0..2 {
                let error = rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap_err();
                assert!(matches!(error.kind, ErrorKind::Data | ErrorKind::Truncation), "{image} of {count}: {error}");
                if count < 50 {
                    assert_eq!(error.native, Some(native), "{image} of {count}: {error}");
                }
                applier.rollback().await.unwrap();
            }
            pair.target_sql("INSERT INTO t VALUES (7, 'old')");
            if image.starts_with('7') {
                let error = rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap_err();
                assert!(matches!(error.kind, ErrorKind::Data | ErrorKind::Truncation), "{image} of {count}: {error}");
                applier.rollback().await.unwrap();
            }
            assert_eq!(pair.target_sql("SELECT * FROM t"), "7\told\n", "{image} of {count}");
            // The session is as good as before.
            let fine = super::Rows::new(&pair, "t", &["7|new", "8|-", "9|-", "10|-", "11|-"]).await;
            assert_eq!(fine.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 1);
            assert_eq!(fine.apply(&mut *applier, Op::Delete, Conflict::Refuse).await.unwrap(), 1);
            applier.commit().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_table_that_is_not_as_expected_is_a_tables_error() {
    let pair = Pair::both("CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(5))");
    let rows = rows(&pair, &many(1, 9)).await;
    let mut applier = pair.begun(Format::Text).await;
    for (sql, native) in [("ALTER TABLE t DROP b", 1054), ("DROP TABLE t", 1146)] {
        for op in [Op::Insert, Op::Update] {
            // Known to the session, and not.
            for mut applier in
                [std::mem::replace(&mut applier, pair.begun(Format::Text).await), pair.begun(Format::Text).await]
            {
                pair.target_sql("CREATE OR REPLACE TABLE t (a INT PRIMARY KEY, b VARCHAR(5))");
                rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
                rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap();
                applier.rollback().await.unwrap();
                pair.target_sql(sql);
                for _ in 0..2 {
                    let error = rows.apply(&mut *applier, op, Conflict::Refuse).await.unwrap_err();
                    assert_eq!((error.kind, error.native), (ErrorKind::Table, Some(native)), "{error}");
                    assert!(error.to_string().contains(&format!("apply changes to {}.t", pair.to)), "{error}");
                    applier.rollback().await.unwrap();
                }
            }
        }
    }
}

#[tokio::test]
async fn locks_and_lost_connections_can_be_recovered_from() {
    let mut pair = Pair::both("CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(5)); INSERT INTO t VALUES (1, 'x')");
    pair.settings.insert("AfterConnectScript".to_owned(), Json::from("SET innodb_lock_wait_timeout=1"));
    let rows = rows(&pair, &many(1, 2)).await;
    let mut one = pair.begun(Format::Text).await;
    let mut other = pair.begun(Format::Text).await;
    rows.apply(&mut *one, Op::Update, Conflict::Refuse).await.unwrap();
    let error = rows.apply(&mut *other, Op::Update, Conflict::Refuse).await.unwrap_err();
    assert_eq!((error.kind, error.native), (ErrorKind::Recoverable, Some(1205)), "{error}");
    other.rollback().await.unwrap();
    let ours = "SELECT ID FROM information_schema.PROCESSLIST WHERE COMMAND='Sleep' AND DB IS NULL AND USER='root'";
    let _ = ours;
    drop(other);
    let id = pair.server.client(
        "SELECT trx_mysql_thread_id FROM information_schema.INNODB_TRX WHERE trx_rows_modified > 0 \
         ORDER BY trx_started DESC LIMIT 1",
    );
    pair.server.client(&format!("KILL CONNECTION {id}"));
    let error = rows.apply(&mut *one, Op::Update, Conflict::Refuse).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Recoverable, "{error}");
    assert_eq!(one.commit().await.unwrap_err().kind, ErrorKind::Recoverable);
    assert_eq!(pair.target_sql("SELECT * FROM t"), "1\tx\n");
}

#[tokio::test]
async fn an_account_without_temporary_tables_changes_row_after_row() {
    let pair = Pair::both("CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(5)); CREATE TABLE f (a FLOAT PRIMARY KEY)");
    let user = format!("plain_{}", pair.to);
    pair.server.client(&format!(
        "CREATE USER {user} IDENTIFIED BY 'p'; GRANT SELECT, INSERT, UPDATE, DELETE ON {}.* TO {user}",
        pair.to
    ));
    let connection = Connection { user, password: Secret::new("p"), ..pair.server.connection() };
    let mut applier = (MARIADB.open_target)(connection).applier("a test of failures", Format::Text, 50).await.unwrap();
    applier.begin().await.unwrap();
    let rows = rows(&pair, &many(1, 400)).await;
    rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
    for _ in 0..2 {
        assert_eq!(rows.apply(&mut *applier, Op::Insert, Conflict::Replace).await.unwrap(), 399);
        assert_eq!(rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 399);
    }
    assert_eq!(rows.apply(&mut *applier, Op::Delete, Conflict::Refuse).await.unwrap(), 399);
    applier.commit().await.unwrap();
    // What only a work table finds.
    let floats = super::Rows::new(&pair, "f", &["0.1"]).await;
    let error = floats.apply(&mut *applier, Op::Delete, Conflict::Refuse).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Table, "{error}");
    assert!(error.message.contains("CREATE TEMPORARY TABLES"), "{error}");
}

#[tokio::test]
async fn a_session_keeps_few_work_tables() {
    let pair = Pair::new();
    pair.server.client(&format!("CREATE DATABASE {}", pair.to));
    let mut applier = pair.begun(Format::Text).await;
    for round in 0..2 {
        for number in 0..8 {
            let create = format!("CREATE TABLE IF NOT EXISTS t{number} (a INT PRIMARY KEY, b TEXT)");
            pair.sql(&create);
            pair.target_sql(&create);
            let images: Vec<String> = (1..=20).map(|id| format!("{id}|v{id}")).collect();
            let images: Vec<&str> = images.iter().map(String::as_str).collect();
            let rows = super::Rows::new(&pair, &format!("t{number}"), &images).await;
            if round == 0 {
                rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
            }
            assert_eq!(rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 20);
        }
    }
    applier.commit().await.unwrap();
    let open = pair.server.client(
        "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_NAME LIKE 'awsdms\\_changes%' AND TEMPORARY='Y'",
    );
    // Temporary tables show to their own session only; none is left for others in any case.
    assert_eq!(open, "0\n");
}

#[tokio::test]
async fn a_server_that_allows_little_takes_changes_all_the_same() {
    let server: &'static MySqlServer = Box::leak(Box::new(start(&[
        "--local-infile=0",
        "--max-allowed-packet=1M",
        "--binlog-format=STATEMENT",
        "--max-heap-table-size=64K",
    ])));
    let pair = Pair { server, ..Pair::new() };
    let create = "CREATE TABLE t (a INT PRIMARY KEY, b LONGTEXT, c VARCHAR(100))";
    server.client(&format!(
        "CREATE DATABASE IF NOT EXISTS {0}; CREATE DATABASE {1}; CREATE TABLE {0}.x (a INT)",
        pair.from, pair.to
    ));
    pair.sql(create);
    pair.target_sql(create);
    let table = pair.target_table("t").await;
    let mut applier = pair.begun(Format::Values).await;
    let batch = |count: i64, long: usize| {
        let mut batch = Batch::new();
        batch.clear(Format::Values);
        for id in 0..count {
            batch.push(Value::Int(id));
            batch.push(Value::String("ü".repeat(long / 2).as_bytes()));
            batch.push(Value::String(b"c"));
            batch.end_row();
        }
        super::Rows { table: table.clone(), batch }
    };
    for (count, long) in [(2, 100_000), (500, 10), (5000, 1000), (10, 100_000)] {
        let rows = batch(count, long);
        for (op, conflict) in [
            (Op::Insert, Conflict::Refuse),
            (Op::Insert, Conflict::Replace),
            (Op::Update, Conflict::Refuse),
            (Op::Delete, Conflict::Refuse),
        ] {
            assert_eq!(rows.apply(&mut *applier, op, conflict).await.unwrap(), count as u64, "{op:?} {count} {long}");
        }
        applier.commit().await.unwrap();
    }
    for count in [1, 10] {
        let rows = batch(count, 1_200_000);
        for op in [Op::Insert, Op::Update] {
            let error = rows.apply(&mut *applier, op, Conflict::Refuse).await.unwrap_err();
            assert_eq!((error.kind, error.native), (ErrorKind::Data, Some(1153)), "{error}");
            assert!(error.message.contains("1048576") && error.to_string().contains(".t"), "{error}");
            applier.rollback().await.unwrap();
        }
    }
    // Control tables are made without local files.
    pair.target().prepare(&table, PrepareMode::DoNothing, CreateKey::WithTable).await.unwrap();
}

#[tokio::test]
async fn the_checkpoint_of_a_task_is_read_where_it_was_written() {
    let mut pair = Pair::new();
    assert_eq!(pair.target().recovery_checkpoint(&pair.to, "T").await.unwrap(), None, "no database");
    pair.server.client(&format!("CREATE DATABASE {}", pair.to));
    assert_eq!(pair.target().recovery_checkpoint(&pair.to, "T").await.unwrap(), None, "no table");
    let text = |name: &str, length| Column {
        name: name.to_owned(),
        data_type: DataType::WString { length },
        native: format!("varchar({length}) CHARACTER SET utf8mb4"),
        nullable: false,
        generated: false,
    };
    let table = TableSchema {
        name: TableName::new(&pair.to, "awsdms_txn_state"),
        kind: TableKind::Table,
        family: Family::MySql,
        columns: vec![
            text("SERVER_NAME", 128),
            text("TASK_NAME", 128),
            Column {
                data_type: DataType::DateTime { scale: 6 },
                native: "datetime(6)".to_owned(),
                ..text("STATE_TIME", 1)
            },
            text("CHECKPOINT", 1024),
        ],
        primary_key: vec![0, 1],
        unique_key: Vec::new(),
        rows_estimate: 0,
    };
    // DMS's own tables stay where they are when all others go into one database.
    let connection = Connection { database: "mysql".to_owned(), ..pair.server.connection() };
    pair.settings.insert("TargetDbType".to_owned(), Json::from("specific-database"));
    let target = (MYSQL.open_target)(Connection { settings: pair.settings.clone(), ..connection });
    target.prepare(&table, PrepareMode::DoNothing, CreateKey::WithTable).await.unwrap();
    let mut applier = target.applier("another test of failures", Format::Text, 1).await.unwrap();
    for (task, checkpoint) in [("it's", "checkpoint:V1#1"), ("T", "old"), ("T", "checkpoint:V1#2#'\\#")] {
        let mut batch = Batch::new();
        batch.clear(Format::Text);
        for value in ["localhost", task, "2024-02-29 01:02:03.5", checkpoint] {
            batch.push(Value::String(value.as_bytes()));
        }
        batch.end_row();
        let row = super::Rows { table: table.clone(), batch };
        applier.begin().await.unwrap();
        assert_eq!(row.apply(&mut *applier, Op::Insert, Conflict::Replace).await.unwrap(), 1);
        applier.commit().await.unwrap();
    }
    for target in [target, pair.target()] {
        let read = |task| target.recovery_checkpoint(&table.name.schema, task);
        assert_eq!(read("T").await.unwrap().as_deref(), Some("checkpoint:V1#2#'\\#"));
        assert_eq!(read("it's").await.unwrap().as_deref(), Some("checkpoint:V1#1"));
        assert_eq!(read("other").await.unwrap(), None);
    }
}
