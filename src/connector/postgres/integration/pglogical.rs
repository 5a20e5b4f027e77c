//! What is particular to pglogical, on a real server that has it.

use std::time::Duration;

use super::log::{Log, capture};
use super::*;
use crate::connector::{Adoption, Capture, StartPoint};
use crate::data::{Changes, Error, ErrorKind, Position};

/// A source that is read with pglogical; `None` where the server does not have it.
fn pair(setup: &str) -> Option<Pair> {
    pglogical_server().map(|_| Pair::with(setup, json!({ "PluginName": "pglogical" })))
}

async fn refusal(pair: &Pair) -> Error {
    let capture = capture(pair, Format::Text).await;
    let error = pair.source.begin_capture(&capture, 1).await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fatal, "{error}");
    error
}

/// What pglogical has in the database: its node, and sets with their tables.
fn sets(pair: &Pair) -> String {
    pair.source_sql(
        "SELECT node_name FROM pglogical.node; SELECT s.set_name, t.set_reloid FROM pglogical.replication_set s
         LEFT JOIN pglogical.replication_set_table t USING (set_id)
         WHERE s.set_name NOT IN ('default', 'default_insert_only', 'ddl_sql') ORDER BY 1, 2::text",
    )
}

#[tokio::test]
async fn a_task_has_two_sets_as_with_dms_and_leaves_nothing() {
    let Some(pair) =
        pair("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE keyless (a int); CREATE UNLOGGED TABLE u (a int)")
    else {
        return;
    };
    let (log, snapshot) = Log::begin(&pair, Format::Text).await;
    let slot = pair
        .source_sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND NOT temporary");
    let expected = format!("dms_local\ni{slot}|awsdms_ddl_audit\ni{slot}|keyless\ni{slot}|t\n{slot}|t");
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&sets(&pair)), sorted(&expected));
    // A second beginning takes the place of the first.
    drop(snapshot);
    let (_again, snapshot) = Log::begin(&pair, Format::Text).await;
    assert_eq!(sorted(&sets(&pair)), sorted(&expected));
    drop(snapshot);
    // The node is there for all.
    let other = Capture { task: "OTHER".into(), ..log.capture.clone() };
    pair.source.begin_capture(&other, 1).await.unwrap();
    pair.source.end_capture(&log.capture).await.unwrap();
    assert_eq!(sets(&pair).lines().count(), 5, "{}", sets(&pair));
    pair.source.end_capture(&other).await.unwrap();
    assert_eq!(sets(&pair), "");
    assert_eq!(pair.source_sql("SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"), "0");
    // Its triggers do nothing without a set.
    pair.source_sql("TRUNCATE t; DROP TABLE t");
    pair.source.end_capture(&other).await.unwrap();
}

#[tokio::test]
async fn what_pglogical_keeps_for_itself_is_no_table_of_the_users() {
    let Some(pair) = pair("CREATE TABLE t (a int PRIMARY KEY)") else { return };
    assert_eq!(pair.source.schemas().await.unwrap(), ["public"]);
    let tables = pair.source.tables().await.unwrap();
    let names: Vec<String> = tables.iter().map(|table| table.name.to_string()).collect();
    assert_eq!(names, ["public.t"]);
    let (mut log, _) = Log::selecting(&pair, |_| true).await;
    pair.source_sql("TRUNCATE t; SELECT pglogical.create_replication_set('theirs')");
    assert_eq!(log.rest(&pair).await, "t: a integer by [0]\nTruncate t\nCommit\n");
}

#[tokio::test]
async fn a_node_that_others_use_stays() {
    let Some(pair) = pair("CREATE TABLE t (a int PRIMARY KEY)") else { return };
    let (log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("SELECT pglogical.create_replication_set('theirs')");
    pair.source.end_capture(&log.capture).await.unwrap();
    assert_eq!(sets(&pair), "dms_local\ntheirs|");
    pair.source_sql("SELECT pglogical.drop_node('dms_local'); SELECT pglogical.create_node('provider', 'dbname=x')");
    let (log, _) = Log::begin(&pair, Format::Text).await;
    pair.source.end_capture(&log.capture).await.unwrap();
    assert_eq!(sets(&pair), "provider");
}

#[tokio::test]
async fn what_empties_tables_is_told_in_its_place() {
    let Some(pair) = pair("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE \"u \"\"x\" (a int REFERENCES t)") else {
        return;
    };
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("BEGIN; INSERT INTO t VALUES (1); TRUNCATE t CASCADE; INSERT INTO t VALUES (2); COMMIT");
    pair.source_sql("BEGIN; TRUNCATE t CASCADE; ROLLBACK");
    let expected = "t: a integer by [0]\nInsert t ->(1)\nTruncate t\nu \"x: a integer by []\nTruncate u \"x\n\
        Insert t ->(2)\nCommit\n";
    assert_eq!(log.rest(&pair).await, expected);
}

#[tokio::test]
async fn what_it_cannot_send_is_refused_by_name() {
    for (setup, expected) in [
        (
            "CREATE TABLE t (a int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY FULL",
            "table public.t has REPLICA IDENTITY FULL, which pglogical does not support",
        ),
        (
            "CREATE TABLE t (a int PRIMARY KEY) PARTITION BY RANGE (a)",
            "partitioned table public.t cannot be captured with pglogical",
        ),
    ] {
        let Some(pair) = pair(setup) else { return };
        let error = refusal(&pair).await;
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn partitions_can_be_captured_by_themselves() {
    let setup = "CREATE TABLE p (a int PRIMARY KEY) PARTITION BY RANGE (a);
        CREATE TABLE one PARTITION OF p FOR VALUES FROM (0) TO (9)";
    let Some(pair) = pair(setup) else { return };
    let (mut log, _) = Log::selecting(&pair, |name| name.table == "one").await;
    pair.source_sql("INSERT INTO p VALUES (1); UPDATE p SET a = 2; TRUNCATE p");
    let expected =
        "one: a integer by [0]\nInsert one ->(1)\nCommit\nUpdate one (1)->(2)\nCommit\nTruncate one\nCommit\n";
    assert_eq!(log.rest(&pair).await, expected);
}

#[tokio::test]
async fn a_table_that_it_cannot_send_is_told_when_it_comes() {
    let Some(pair) = pair("CREATE TABLE t (a int PRIMARY KEY)") else { return };
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("CREATE TABLE late (a int); ALTER TABLE late REPLICA IDENTITY FULL");
    log.rest(&pair).await;
    let late = [TableName::new("public", "late")];
    assert_eq!(pair.source.adopt(&log.capture, &late).await.unwrap(), Adoption::FromNow);
    let (place, capture) = (log.resume.clone().unwrap(), log.capture.clone());
    drop(log);
    let mut log = Log::from(&pair, capture, &place).await;
    pair.source_sql("INSERT INTO late VALUES (1); INSERT INTO t VALUES (1)");
    let told = log.rest(&pair).await;
    assert!(told.starts_with("Unreadable public.late: table public.late has REPLICA IDENTITY FULL"), "{told}");
    assert!(told.ends_with("Insert t ->(1)\nCommit\n") && !told.contains("Insert late"), "{told}");
}

#[tokio::test]
async fn what_is_missing_on_the_server_is_told_with_what_to_do() {
    let Some(pair) = pair("DROP EXTENSION pglogical; CREATE TABLE t (a int PRIMARY KEY)") else { return };
    let error = refusal(&pair).await.to_string();
    let database = &pair.source_database;
    assert!(error.contains(&format!("not in database {database}: run CREATE EXTENSION pglogical")), "{error}");
    assert_eq!(pair.source_sql("SELECT count(*) FROM pg_event_trigger"), "0", "nothing was made before");
    pair.source_sql("CREATE EXTENSION pglogical");
    let user = capturing_user(&pair, "ALTER TABLE t OWNER TO");
    pair.source_sql(&format!("REVOKE ALL ON SCHEMA pglogical FROM {user}"));
    let capture = capture(&pair, Format::Text).await;
    let source = source_as(&pair, &user, "pglogical");
    let error = source.begin_capture(&capture, 1).await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fatal);
    assert!(error.to_string().contains("the user needs USAGE on the schema pglogical"), "{error}");
    source.end_capture(&capture).await.unwrap();

    let name = format!("{database}_latin");
    let create = format!("CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
    pair.server.sql("postgres", &create);
    pair.server.sql(&name, "CREATE EXTENSION pglogical; CREATE TABLE t (a int PRIMARY KEY)");
    let settings = json!({ "PluginName": "pglogical" });
    let source = source_of(with_settings(pair.server.connection(&name), &settings));
    let error = source.begin_capture(&capture, 1).await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fatal);
    assert!(error.to_string().contains("pglogical_output sends text as it is stored"), "{error}");
}

/// A source with a slot and the sets that go with it, made by hand as DMS's guide says.
fn given() -> Option<(Pair, String)> {
    pglogical_server()?;
    let pair = super::slots::given("pglogical_output");
    let slot = pair.source_sql("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()");
    pair.source_sql(&format!(
        "SELECT pglogical.create_node('provider', 'dbname=x');
         SELECT pglogical.create_replication_set('{slot}', false, true, true, false);
         SELECT pglogical.create_replication_set('i{slot}', true, false, false, true)"
    ));
    Some((pair, slot))
}

#[tokio::test]
async fn a_slot_of_the_user_is_read_with_his_sets_from_where_they_have_a_table() {
    let Some((pair, slot)) = given() else { return };
    let start = pair.source.log_end().await.unwrap();
    let capture = capture(&pair, Format::Text).await;
    let at = StartPoint::At(start.clone());
    // What is inserted alone is not all.
    for _ in 0..2 {
        let error = pair.source.begin_capture_at(&capture, &at).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Fatal);
        let expected =
            format!("what happened to table public.t only from where it is in the replication sets {slot} and i{slot}");
        assert!(error.message.contains(&expected), "{error}");
        pair.source_sql(&format!(
            "SELECT pglogical.replication_set_add_table('i{slot}', 't')
             WHERE NOT EXISTS (SELECT FROM pglogical.replication_set_table)"
        ));
    }
    pair.source_sql(&format!("SELECT pglogical.replication_set_add_table('{slot}', 't')"));
    let made = sets(&pair);
    let start = pair.source.log_end().await.unwrap();
    pair.source_sql("INSERT INTO t VALUES (2); UPDATE t SET a = 3 WHERE a = 2; TRUNCATE t");
    let at = StartPoint::At(start.clone());
    assert_eq!(pair.source.begin_capture_at(&capture, &at).await.unwrap(), start);
    let mut log = Log::from(&pair, capture, &start).await;
    let expected = "t: a integer by [0]\nInsert t ->(2)\nCommit\nUpdate t (2)->(3)\nCommit\nTruncate t\nCommit\n";
    assert_eq!(log.rest(&pair).await, expected);
    // A table that comes later is in the task's own.
    pair.source_sql("CREATE TABLE late (a int PRIMARY KEY)");
    log.rest(&pair).await;
    pair.source.adopt(&log.capture, &[TableName::new("public", "late")]).await.unwrap();
    pair.source_sql("INSERT INTO late VALUES (1); UPDATE late SET a = 2");
    assert_eq!(log.rest(&pair).await, "Insert late ->(1)\nCommit\nUpdate late (1)->(2)\nCommit\n");
    let capture = log.capture.clone();
    drop(log);
    pair.source.end_capture(&capture).await.unwrap();
    assert_eq!(sets(&pair), made, "what the user has made stays");
}

#[tokio::test]
async fn a_table_is_taken_in_when_nobody_writes_to_it_and_writers_are_let_by() {
    let Some(pair) = pair("CREATE TABLE t (a int PRIMARY KEY)") else { return };
    let (log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("CREATE TABLE late (a int PRIMARY KEY)");
    let mut writer = session(&pair).await;
    writer.query("BEGIN; INSERT INTO late VALUES (1)").await.unwrap();
    let late = [TableName::new("public", "late")];
    let hasty = Capture { transactions_timeout: Duration::ZERO, ..log.capture.clone() };
    let error = pair.source.adopt(&hasty, &late).await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Recoverable);
    assert!(
        error.message.starts_with("transactions that write to table public.late did not end within 0 s"),
        "{error}"
    );
    let patient = async {
        pair.source.adopt(&log.capture, &late).await.unwrap();
    };
    let mut other = session(&pair).await;
    let writers = async {
        other.query("SET lock_timeout = '3s'; INSERT INTO late VALUES (2)").await.unwrap();
        writer.query("COMMIT").await.unwrap();
    };
    tokio::join!(patient, writers);
    assert!(sets(&pair).contains("|late"));
}

#[tokio::test]
async fn a_set_that_goes_ends_the_reading() {
    let Some(pair) = pair("CREATE TABLE t (a int PRIMARY KEY)") else { return };
    let (mut log, snapshot) = Log::begin(&pair, Format::Text).await;
    drop(snapshot);
    let place: Position = pair.source.log_end().await.unwrap();
    pair.source_sql(
        "SELECT pglogical.drop_replication_set(set_name) FROM pglogical.replication_set WHERE set_name LIKE 'i%'",
    );
    let mut changes = Changes::default();
    let error = loop {
        if let Err(error) = log.reader.next(&mut changes).await {
            break error;
        }
    };
    assert!(error.to_string().contains("was deleted"), "{error}");
    let again = pair.source.changes(&log.capture, &place, nothing_durable()).await.map(drop).unwrap_err();
    assert_eq!(again.kind, ErrorKind::Fatal);
    assert!(again.message.contains("does not exist any more: the task has to be started anew"), "{again}");
}
