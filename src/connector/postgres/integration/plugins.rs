//! What turns the log of a real server into text.

use super::log::{BUILT_IN, Log, capture, plugins};
use super::*;
use crate::data::ErrorKind;

fn plugin_of(pair: &Pair) -> String {
    pair.source_sql("SELECT plugin FROM pg_replication_slots WHERE database = current_database()")
}

#[tokio::test]
async fn the_plugins_tell_the_same() {
    let mut told = Vec::new();
    for plugin in plugins() {
        let setup =
            "CREATE TABLE \"T: x\" (id int PRIMARY KEY, \"order\" text, b boolean, bits bit(3), y bytea, a text[],
                f float8, n numeric, d timestamptz, j jsonb, big text, c char(5), i interval);
            ALTER TABLE \"T: x\" ALTER big SET STORAGE EXTERNAL;
            CREATE TABLE none (a int); CREATE SCHEMA other; CREATE TABLE other.t (a int PRIMARY KEY);
            CREATE TABLE composite (a int, \"user\" text, c int, PRIMARY KEY (c, \"user\"));
            INSERT INTO composite VALUES (1, 'x', 2), (3, 'y', 4)";
        let pair = Pair::with(setup, json!({ "PluginName": plugin }));
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        assert!(plugin_of(&pair).starts_with(&plugin.replace('-', "_")));
        pair.source_sql(
            "DELETE FROM composite WHERE a = 1; UPDATE composite SET \"user\" = 'z''\" ' WHERE a = 3;
             BEGIN; INSERT INTO other.t VALUES (1); COMMIT;
             INSERT INTO \"T: x\" VALUES (1, E'it''s\n new-tuple: x[text]:''', true, B'101', '\\x00ff', '{\"a b\",NULL}', 0.1,
                 1e20, '2024-02-29 12:00:00.5+03', '{\"k\": \"v''\"}', repeat('x', 9000), 'ab', '1 day 2 hours'),
                 (-3, 'null', NULL, NULL, '', '{}', 0, 0, 'infinity', 'null', '', '', '0');
             INSERT INTO \"T: x\" VALUES (2, '', false);
             BEGIN; UPDATE \"T: x\" SET f = 'NaN', n = NULL WHERE id = 1; ROLLBACK;
             BEGIN; UPDATE \"T: x\" SET f = '-Infinity', n = NULL WHERE id = 1; SAVEPOINT s; DELETE FROM \"T: x\";
             ROLLBACK TO s; UPDATE \"T: x\" SET id = 9 WHERE id = 2; DELETE FROM \"T: x\" WHERE id < 0; COMMIT;
             INSERT INTO none VALUES (1); UPDATE none SET a = 2; DELETE FROM none; TRUNCATE composite, none",
        );
        let mut text = log.rest(&pair).await;
        // The order of what one TRUNCATE empties is nobody's.
        text = text.replace("Truncate none\nTruncate composite", "Truncate composite\nTruncate none");
        assert!(text.contains("Delete composite (-,x,2)->"), "{text}");
        assert!(text.contains("Update T: x ->(1,it's\n new-tuple: x[text]:',t,101,"), "{text}");
        assert_eq!(text.lines().filter(|line| *line == "Commit").count(), 7, "{text}");
        told.push(text);
    }
    assert!(told.iter().all(|text| *text == told[0]), "{told:?}");
}

#[tokio::test]
async fn whole_old_rows_are_told_the_same() {
    for plugin in BUILT_IN {
        let setup = "CREATE TABLE whole (\"order\" int, b text, c text); ALTER TABLE whole REPLICA IDENTITY FULL;
            INSERT INTO whole VALUES (1, NULL, ''), (2, 'x', NULL)";
        let pair = Pair::with(setup, json!({ "PluginName": plugin }));
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("DELETE FROM whole WHERE \"order\" = 2; UPDATE whole SET b = 'b'; TRUNCATE whole");
        let expected = "whole: order integer, b text, c text by [0, 1, 2]\nDelete whole (2,x,NULL)->\nCommit\n\
            Update whole (1,NULL,)->(1,b,)\nCommit\nTruncate whole\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn without_a_preference_it_is_pgoutput_if_the_user_may_publish() {
    for (setup, expected) in [("ALTER TABLE t OWNER TO", "pgoutput"), ("GRANT ALL ON t TO", "test_decoding")] {
        let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)");
        let user = capturing_user(&pair, setup);
        let source = source_as(&pair, &user, "no-preference");
        let capture = capture(&pair, Format::Text).await;
        source.begin_capture(&capture, 1).await.unwrap();
        assert_eq!(plugin_of(&pair), expected);
        source.end_capture(&capture).await.unwrap();
        assert_eq!(pair.source_sql("SELECT count(*) FROM pg_publication"), "0");
        // Asked for, it must be had.
        let asked = source_as(&pair, &user, "pgoutput").begin_capture(&capture, 1).await.map(drop);
        match expected {
            "pgoutput" => asked.unwrap(),
            _ => {
                let error = asked.unwrap_err();
                assert_eq!(error.kind, ErrorKind::Fatal);
                assert!(error.to_string().contains("publish the tables: must be owner of table t"), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_slot_is_read_with_the_plugin_that_it_was_made_for() {
    let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({ "PluginName": "test_decoding" }));
    let capture = capture(&pair, Format::Text).await;
    let position = pair.source.begin_capture(&capture, 1).await.unwrap().position;
    pair.source_sql("INSERT INTO t VALUES (1)");
    let other = source_as(&pair, "postgres", "pgoutput");
    let mut log = Log::reading(capture.clone(), other.changes(&capture, &position, nothing_durable()).await.unwrap());
    assert_eq!(log.transactions(1).await, "t: a integer by [0]\nInsert t ->(1)\nCommit\n");
}

#[tokio::test]
async fn columns_that_the_server_computes_are_read_where_they_are_sent() {
    let setup = "CREATE TABLE t (a int PRIMARY KEY, twice int GENERATED ALWAYS AS (a * 2) STORED, b int)";
    let pairs = pglogical_server().map(|_| Pair::with(setup, json!({ "PluginName": "pglogical" })));
    let pair = Pair::new(setup);
    for pair in pairs.iter().chain([&pair]) {
        let (mut log, _) = Log::begin(pair, Format::Text).await;
        pair.source_sql("INSERT INTO t VALUES (1, DEFAULT, 3)");
        let expected = "t: a integer, twice integer, b integer by [0]\nInsert t ->(1,2,3)\nCommit\n";
        assert_eq!(log.rest(pair).await, expected);
    }
    if pair.server.version() < 18 {
        assert_eq!(plugin_of(&pair), "test_decoding");
        let pair = Pair::with(setup, json!({ "PluginName": "pgoutput" }));
        let capture = capture(&pair, Format::Text).await;
        let error = pair.source.begin_capture(&capture, 1).await.map(drop).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Fatal);
        let reason = "table public.t has columns that the server computes and stores, which pgoutput does not send";
        assert!(error.to_string().contains(reason), "{error}");
        pair.source_sql("ALTER TABLE t DROP twice");
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("ALTER TABLE t ADD twice int GENERATED ALWAYS AS (a * 2) STORED");
        let told = log.rest(&pair).await;
        assert!(told.contains(&format!("Unreadable public.t: {reason}")), "{told}");
    }
}

#[tokio::test]
async fn a_plugin_that_cannot_be_had_is_named() {
    for (plugin, expected) in [
        ("pglogical", "PluginName pglogical: the server has not loaded pglogical: add it to shared_preload_libraries"),
        ("wal2json", "PluginName wal2json is not supported: pglogical, pgoutput and test-decoding are"),
    ] {
        if plugin == "pglogical" && pglogical_server().is_none() {
            continue;
        }
        let settings = json!({ "PluginName": plugin });
        let pair = Pair::on(postgres_server(), "CREATE TABLE t (a int PRIMARY KEY)", settings);
        let capture = capture(&pair, Format::Text).await;
        let error = pair.source.begin_capture(&capture, 1).await.map(drop).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Fatal);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn text_of_another_encoding_is_read_through_pgoutput_alone() {
    let pair = Pair::new("");
    let name = format!("{}_latin", pair.source_database);
    pair.server.sql(
        "postgres",
        &format!("CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"),
    );
    let setup = "CREATE TABLE t (a int PRIMARY KEY, b text)";
    pair.server.sql(&name, setup);
    let of = |plugin: &str| {
        let source = source_of(with_settings(pair.server.connection(&name), &json!({ "PluginName": plugin })));
        Pair {
            source,
            source_database: name.clone(),
            target: target_of(pair.server.connection(&name)),
            target_database: name.clone(),
            server: pair.server,
        }
    };
    let latin = of("no-preference");
    let (mut log, _) = Log::begin(&latin, Format::Text).await;
    latin.source_sql("INSERT INTO t VALUES (1, 'grün')");
    assert!(log.rest(&latin).await.contains("Insert t ->(1,grün)"));
    let capture = capture(&latin, Format::Text).await;
    let error = of("test-decoding").source.begin_capture(&capture, 1).await.map(drop).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Fatal);
    assert!(error.to_string().contains("LATIN1"), "{error}");
}

#[tokio::test]
async fn changes_from_elsewhere_are_left_out_if_asked() {
    for plugin in plugins().chain(["no-preference"]) {
        let local_only = json!({ "PluginName": plugin, "origin": "none" });
        for (settings, expected) in [
            (local_only, "Insert t ->(1)\nCommit\n"),
            (json!({ "PluginName": plugin }), "Insert t ->(1)\nCommit\nInsert t ->(2)\nCommit\n"),
        ] {
            let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", settings.clone());
            let pgoutput_cannot = pair.server.version() < 16 && settings.get("origin").is_some();
            if plugin == "pgoutput" && pgoutput_cannot {
                let capture = capture(&pair, Format::Text).await;
                let error = pair.source.begin_capture(&capture, 1).await.map(drop).unwrap_err();
                assert_eq!(error.kind, ErrorKind::Fatal);
                assert!(error.to_string().contains("pgoutput from version 16 of PostgreSQL on"), "{error}");
                continue;
            }
            let (mut log, _) = Log::begin(&pair, Format::Text).await;
            if plugin == "no-preference" {
                assert_eq!(plugin_of(&pair), if pgoutput_cannot { "test_decoding" } else { "pgoutput" });
            }
            let origin = &pair.source_database;
            pair.source_sql(&format!(
                "INSERT INTO t VALUES (1); SELECT pg_replication_origin_create('{origin}');
                 SELECT pg_replication_origin_session_setup('{origin}'); INSERT INTO t VALUES (2)"
            ));
            assert_eq!(log.rest(&pair).await, format!("t: a integer by [0]\n{expected}"), "{plugin}");
            pair.source_sql(&format!("SELECT pg_replication_origin_drop('{origin}')"));
        }
    }
}
