//! Slots and what else a capture has on a real server.

use std::sync::OnceLock;

use super::log::{Log, capture, count};
use super::*;
use crate::connector::{Adoption, Capture, StartPoint};
use crate::data::{Error, ErrorKind, Position};

fn slot(pair: &Pair, column: &str) -> String {
    pair.source_sql(&format!("SELECT {column} FROM pg_replication_slots WHERE database = current_database()"))
}

async fn refusal(outcome: impl Future<Output = Result<Position>>) -> Error {
    let error = outcome.await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fatal, "{error}");
    error
}

#[tokio::test]
async fn a_capture_may_begin_with_the_next_transaction() {
    for plugin in super::log::plugins() {
        let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({ "PluginName": plugin }));
        let capture = capture(&pair, Format::Text).await;
        pair.source_sql("INSERT INTO t VALUES (1)");
        let position = pair.source.begin_capture_at(&capture, &StartPoint::Now).await.unwrap();
        pair.source_sql("INSERT INTO t VALUES (2)");
        let mut log = Log::from(&pair, capture, &position).await;
        assert_eq!(log.rest(&pair).await, "t: a integer by [0]\nInsert t ->(2)\nCommit\n");
        pair.source.end_capture(&log.capture).await.unwrap();
        assert_eq!(slot(&pair, "count(*)"), "0");
    }
}

#[tokio::test]
async fn a_capture_cannot_begin_at_a_time_or_at_a_place_without_a_slot() {
    let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({}));
    let capture = capture(&pair, Format::Text).await;
    let error = refusal(pair.source.begin_capture_at(&capture, &StartPoint::Time(0))).await;
    assert!(error.message.contains("from a time on"), "{error}");
    let at = StartPoint::At(Position::Lsn(0x12_0000_0034));
    let error = refusal(pair.source.begin_capture_at(&capture, &at)).await;
    assert_eq!(error.message, "the log cannot be read from 12/34: SlotName has to name a replication slot that has it");
    let other = StartPoint::At("mysql-bin.000024:373".parse().unwrap());
    assert!(refusal(pair.source.begin_capture_at(&capture, &other)).await.message.contains("no position"));
    let pair = Pair::with("", json!({ "SlotName": "absent" }));
    let error = refusal(pair.source.begin_capture_at(&capture, &at)).await;
    assert_eq!(error.message, "replication slot absent, which SlotName names, does not exist");
}

/// A source with a slot that the user has made.
pub fn given(plugin: &str) -> Pair {
    let choice = if plugin == "pglogical_output" { "pglogical" } else { "no-preference" };
    let setup = "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1)";
    let pair = Pair::with(setup, json!({ "PluginName": choice }));
    let name = format!("mine_{}", pair.source_database);
    pair.source_sql(&format!("SELECT pg_create_logical_replication_slot('{name}', '{plugin}')"));
    let settings = json!({ "SlotName": name, "PluginName": "no-preference" });
    let source = source_of(with_settings(pair.server.connection(&pair.source_database), &settings));
    Pair { source, ..pair }
}

#[tokio::test]
async fn a_slot_of_the_user_is_read_from_a_place_and_left() {
    let pair = given("test_decoding");
    let capture = capture(&pair, Format::Text).await;
    let confirmed: Position = slot(&pair, "confirmed_flush_lsn").parse().unwrap();
    let Position::Lsn(lsn) = confirmed else { panic!() };
    let before = Position::Lsn(lsn - 1);
    let error = refusal(pair.source.begin_capture_at(&capture, &StartPoint::At(before.clone()))).await;
    let name = slot(&pair, "slot_name");
    let expected =
        format!("the log cannot be read from {before}: replication slot {name} has it only from {confirmed} on");
    assert_eq!(error.message, expected);
    pair.source_sql("INSERT INTO t VALUES (2)");
    let middle = pair.source.log_end().await.unwrap();
    pair.source_sql("INSERT INTO t VALUES (3)");
    for (start, expected) in [(confirmed, "Insert t ->(2)\nCommit\nInsert t ->(3)\n"), (middle, "Insert t ->(3)\n")] {
        let at = StartPoint::At(start.clone());
        assert_eq!(pair.source.begin_capture_at(&capture, &at).await.unwrap(), start);
        let mut log = Log::from(&pair, capture.clone(), &start).await;
        assert_eq!(log.rest(&pair).await, format!("t: a integer by [0]\n{expected}Commit\n"));
    }
    pair.source.end_capture(&capture).await.unwrap();
    assert_eq!(slot(&pair, "slot_name"), name);
}

#[tokio::test]
async fn a_load_may_go_with_a_slot_of_the_user() {
    for plugin in ["pgoutput", "test_decoding"].into_iter().chain(pglogical_server().map(|_| "pglogical_output")) {
        let pair = given(plugin);
        pair.source_sql("INSERT INTO t VALUES (2)");
        let (mut log, snapshot) = Log::begin(&pair, Format::Text).await;
        assert_eq!(count(&pair, &*snapshot, "t").await, 2);
        drop(snapshot);
        pair.source_sql("INSERT INTO t VALUES (3)");
        assert_eq!(log.rest(&pair).await, "t: a integer by [0]\nInsert t ->(3)\nCommit\n");
        let capture = log.capture.clone();
        drop(log);
        let now = pair.source.begin_capture_at(&capture, &StartPoint::Now).await.unwrap();
        pair.source_sql("INSERT INTO t VALUES (4)");
        let mut log = Log::from(&pair, capture, &now).await;
        assert_eq!(log.rest(&pair).await, "t: a integer by [0]\nInsert t ->(4)\nCommit\n");
        pair.source.end_capture(&log.capture).await.unwrap();
        assert_eq!(pair.source_sql("SELECT count(*) FROM pg_publication"), "0");
        assert_eq!(slot(&pair, "count(*)"), "1");
    }
}

#[tokio::test]
async fn a_log_of_before_the_publications_is_refused_or_read_never_passed_over() {
    let pair = given("pgoutput");
    let capture = capture(&pair, Format::Text).await;
    let start: Position = slot(&pair, "confirmed_flush_lsn").parse().unwrap();
    pair.source_sql("INSERT INTO t VALUES (2)");
    let at = StartPoint::At(start.clone());
    pair.source.begin_capture_at(&capture, &at).await.unwrap();
    let mut reader = pair.source.changes(&capture, &start, nothing_durable()).await.unwrap();
    let mut changes = crate::data::Changes::default();
    let error = loop {
        match reader.next(&mut changes).await {
            Ok(()) => assert!(changes.resume.is_none(), "nothing was read"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, ErrorKind::Fatal);
    assert!(error.message.contains("publications were not there yet"), "{error}");
}

#[tokio::test]
async fn a_slot_that_is_in_use_or_gone_is_told() {
    let pair = given("pgoutput");
    let (log, _) = Log::begin(&pair, Format::Text).await;
    let name = slot(&pair, "slot_name");
    let error =
        pair.source.changes(&log.capture, &Position::Lsn(u64::MAX), nothing_durable()).await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Recoverable);
    let expected = format!("replication slot {name} is in use by another session (process ");
    assert!(error.message.starts_with(&expected), "{error}");
    let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({}));
    let capture = capture(&pair, Format::Text).await;
    let position = pair.source.begin_capture(&capture, 1).await.unwrap().position;
    let name = slot(&pair, "slot_name");
    pair.source_sql(&format!("SELECT pg_drop_replication_slot('{name}')"));
    for outcome in [
        pair.source.changes(&capture, &position, nothing_durable()).await.map(drop),
        pair.source.snapshot_in_log(&capture, 1).await.map(drop),
        pair.source.adopt(&capture, &[]).await.map(drop),
    ] {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Fatal);
        assert!(error.message.starts_with(&format!("replication slot {name} does not exist any more")), "{error}");
    }
}

#[tokio::test]
async fn a_slot_that_cannot_be_read_is_told() {
    let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({}));
    let capture = capture(&pair, Format::Text).await;
    let physical = format!("physical_{}", pair.source_database);
    pair.source_sql(&format!("SELECT pg_create_physical_replication_slot('{physical}')"));
    let elsewhere = given("pgoutput");
    for (name, expected) in
        [(physical.clone(), "is a physical one"), (slot(&elsewhere, "slot_name"), "belongs to another database")]
    {
        let settings = json!({ "SlotName": name });
        let source = source_of(with_settings(pair.server.connection(&pair.source_database), &settings));
        let error = refusal(source.begin_capture_at(&capture, &StartPoint::Now)).await;
        assert!(error.message.contains(&name) && error.message.contains(expected), "{error}");
    }
    pair.source_sql(&format!("SELECT pg_drop_replication_slot('{physical}')"));
}

#[tokio::test]
async fn a_snapshot_in_the_log_shows_what_was_committed_before_it() {
    for plugin in super::log::plugins() {
        let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({ "PluginName": plugin }));
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("INSERT INTO t SELECT generate_series(1, 5)");
        let beginning = pair.source.snapshot_in_log(&log.capture, 2).await.unwrap();
        pair.source_sql("INSERT INTO t SELECT generate_series(6, 9)");
        assert_eq!(slot(&pair, "count(*)"), "2");
        assert_eq!(count(&pair, &*beginning.snapshot, "t").await, 5);
        drop(beginning.snapshot);
        while slot(&pair, "count(*)") != "1" {
            tokio::task::yield_now().await;
        }
        // Five rows are told before its position, and four after it.
        let mut changes = crate::data::Changes::default();
        let (mut before, mut after, mut rows) = (0, 0, 0);
        while after == 0 {
            log.reader.next(&mut changes).await.unwrap();
            for entry in &changes.entries {
                match entry {
                    crate::data::Entry::Row { .. } => rows += 1,
                    crate::data::Entry::Commit { position, .. } if *position <= beginning.position => {
                        before += std::mem::take(&mut rows);
                    }
                    crate::data::Entry::Commit { .. } => after += std::mem::take(&mut rows),
                    _ => {}
                }
            }
        }
        assert_eq!((before, after), (5, 4), "{plugin}");
    }
}

#[tokio::test]
async fn tables_that_are_taken_in_are_whole() {
    for plugin in super::log::plugins().filter(|plugin| *plugin != "test-decoding") {
        let setup = "CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE late (a int PRIMARY KEY)";
        let pair = Pair::with(setup, json!({ "PluginName": plugin }));
        let mut capture = capture(&pair, Format::Text).await;
        let all = std::mem::take(&mut capture.tables);
        capture.tables = all.iter().filter(|table| table.name.table == "t").cloned().collect();
        let (mut log, _) = Log::of(&pair, capture).await;
        pair.source_sql("INSERT INTO late VALUES (1)");
        let names = [TableName::new("public", "late"), TableName::new("public", "no such")];
        for _ in 0..2 {
            assert_eq!(pair.source.adopt(&log.capture, &names).await.unwrap(), Adoption::FromNow);
        }
        pair.source_sql("INSERT INTO late VALUES (2)");
        let snapshot = pair.source.snapshot_in_log(&log.capture, 1).await.unwrap().snapshot;
        pair.source_sql("DELETE FROM late WHERE a = 1");
        assert_eq!(count(&pair, &*snapshot, "late").await, 2);
        let told = log.rest(&pair).await;
        assert_eq!(told, "Create late: a integer by [0]\nInsert late ->(2)\nCommit\nDelete late (1)->\nCommit\n");
        pair.source.end_capture(&log.capture).await.unwrap();
    }
}

#[tokio::test]
async fn the_end_of_the_log_has_what_was_committed_without_waiting_for_the_disk() {
    let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({}));
    let (mut log, _) = Log::begin(&pair, Format::Text).await;
    pair.source_sql("SET synchronous_commit = off; INSERT INTO t VALUES (1)");
    assert!(log.rest(&pair).await.contains("Insert t ->(1)"));
}

/// A server with less of everything.
fn poor() -> &'static PostgresServer {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    SERVER.get_or_init(|| {
        PostgresServer::start("max_replication_slots = 1\nmax_wal_senders = 1\nwal_sender_timeout = 1s\nmax_slot_wal_keep_size = 1MB\nmin_wal_size = 32MB")
    })
}

#[tokio::test]
async fn what_the_server_lacks_is_told_with_what_to_set() {
    let server: &'static PostgresServer = Box::leak(Box::new(PostgresServer::start("wal_level = replica")));
    let pair = Pair::on(server, "CREATE TABLE t (a int PRIMARY KEY)", json!({}));
    let capture = capture(&pair, Format::Text).await;
    let begin = |source: Box<dyn Source>, capture: Capture| async move {
        source.begin_capture_at(&capture, &StartPoint::Now).await
    };
    let error = refusal(begin(source_as(&pair, "postgres", "pgoutput"), capture.clone())).await;
    assert!(error.message.contains("wal_level") && error.message.contains("set wal_level = logical"), "{error}");
    let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({}));
    let user = capturing_user(&pair, "ALTER TABLE t OWNER TO");
    pair.source_sql(&format!("ALTER USER {user} NOREPLICATION"));
    let error = refusal(begin(source_as(&pair, &user, "pgoutput"), capture)).await;
    assert!(error.message.contains("the user needs the attribute REPLICATION"), "{error}");
}

#[tokio::test]
async fn a_server_with_little_room_is_read_and_says_what_it_lacks() {
    let pair = Pair::on(poor(), "CREATE TABLE t (a int PRIMARY KEY, b text)", json!({}));
    let capture = capture(&pair, Format::Text).await;
    let position = pair.source.begin_capture(&capture, 1).await.unwrap().position;
    let error = {
        let other = Capture { task: "OTHER".into(), ..capture.clone() };
        refusal(pair.source.begin_capture_at(&other, &StartPoint::Now)).await
    };
    assert!(error.message.contains("max_replication_slots"), "{error}");
    let mut log = Log::from(&pair, capture.clone(), &position).await;
    let other = Capture { task: "OTHER".into(), ..capture.clone() };
    let error = refusal(pair.source.begin_capture_at(&other, &StartPoint::Now)).await;
    assert!(error.message.contains("max_wal_senders"), "{error}");
    // The server gives a silent reader up after a second.
    let started = std::time::Instant::now();
    while started.elapsed() < std::time::Duration::from_millis(2500) {
        let mut changes = crate::data::Changes::default();
        let read = tokio::time::timeout(std::time::Duration::from_millis(200), log.reader.next(&mut changes)).await;
        assert!(read.is_err() || changes.entries.is_empty());
    }
    pair.source_sql("INSERT INTO t VALUES (1)");
    assert!(log.rest(&pair).await.contains("Insert t ->(1,NULL)"));
    drop(log);
    // The log outgrows what the server keeps for a slot.
    for _ in 0..3 {
        pair.source_sql("INSERT INTO t SELECT (SELECT max(a) FROM t) + i, 'x' FROM generate_series(1, 10) i; SELECT pg_switch_wal()");
    }
    pair.source_sql("CHECKPOINT");
    let error =
        refusal(async { pair.source.changes(&capture, &position, nothing_durable()).await.map(|_| position.clone()) })
            .await;
    let name = slot(&pair, "slot_name");
    assert!(error.message.starts_with(&format!("replication slot {name} has lost the log")), "{error}");
    assert!(error.message.contains("max_slot_wal_keep_size"), "{error}");
    pair.source.end_capture(&capture).await.unwrap();
}
