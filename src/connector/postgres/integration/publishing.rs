//! Tables that are others than when they were published.

use super::log::{Log, capture, plugins};
use super::*;
use crate::connector::{Adoption, Capture};

fn pair(plugin: &str, setup: &str, capture_ddls: bool) -> Pair {
    Pair::with(setup, json!({ "PluginName": plugin, "CaptureDdls": capture_ddls }))
}

/// Those that send tables that were taken in for it.
fn selective() -> impl Iterator<Item = &'static str> {
    plugins().filter(|plugin| *plugin != "test-decoding")
}

/// Reads on in another session.
async fn again(pair: &Pair, log: Log, capture: Capture) -> Log {
    let place = log.resume.clone().unwrap();
    drop(log);
    Log::from(pair, capture, &place).await
}

const GOT_A_KEY: &str = "Unreadable public.t: table public.t has got a key: its updates and deletes are captured when it \
    is loaded again";

/// What is updated between the statement and the publishing is in no log.
#[tokio::test]
async fn a_table_that_gets_a_key_has_to_be_loaded_again_and_is_whole_then() {
    for (plugin, capture_ddls) in selective().flat_map(|plugin| [(plugin, true), (plugin, false)]) {
        let pair = pair(plugin, "CREATE TABLE t (a int NOT NULL, b text); INSERT INTO t VALUES (1, 'x')", capture_ddls);
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("ALTER TABLE t ADD PRIMARY KEY (a)");
        pair.source_sql("UPDATE t SET b = 'lost'; INSERT INTO t VALUES (2, 'y')");
        let told = log.rest(&pair).await;
        assert!(told.contains(GOT_A_KEY) && told.contains("Insert t ->(2,y)"), "{plugin} {capture_ddls} {told}");
        // Whoever was told may have died since.
        let now = capture(&pair, Format::Text).await;
        let mut log = again(&pair, log, now.clone()).await;
        pair.source_sql("UPDATE t SET b = 'lost, too'");
        let told = log.rest(&pair).await;
        assert_eq!(told, format!("t: a integer, b text by [0]\n{GOT_A_KEY}\n"), "{plugin} {capture_ddls}");
        // It is published for the load.
        let position = pair.source.snapshot_in_log(&now, 1).await.unwrap().position;
        pair.source_sql("UPDATE t SET b = 'seen' WHERE a = 1");
        log.resume = Some(position);
        let mut log = again(&pair, log, now).await;
        pair.source_sql("DELETE FROM t WHERE a = 2");
        let expected = "t: a integer, b text by [0]\nUpdate t ->(1,seen)\nCommit\nDelete t (2,-)->\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin} {capture_ddls}");
    }
}

#[tokio::test]
async fn a_table_that_loses_its_key_can_be_changed_on_the_source() {
    for plugin in selective() {
        let pair = pair(plugin, "CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE u (a int PRIMARY KEY)", true);
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("INSERT INTO t VALUES (1); INSERT INTO u VALUES (1); ALTER TABLE t DROP CONSTRAINT t_pkey");
        log.rest(&pair).await;
        pair.source_sql("UPDATE t SET a = 2; INSERT INTO t VALUES (3)");
        assert!(log.rest(&pair).await.ends_with("Insert t ->(3)\nCommit\n"));
        // Also if nobody was there to see it.
        let (place, before) = (log.resume.clone().unwrap(), log.capture.clone());
        drop(log);
        pair.source_sql("ALTER TABLE u DROP CONSTRAINT u_pkey");
        let mut log = Log::from(&pair, before, &place).await;
        pair.source_sql("DELETE FROM u; INSERT INTO u VALUES (3)");
        let told = log.rest(&pair).await;
        assert!(told.ends_with("Insert u ->(3)\nCommit\n") && !told.contains("Unreadable"), "{told}");
    }
}

#[tokio::test]
async fn a_table_of_another_user_is_told_and_the_others_go_on() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE lost (a int PRIMARY KEY)");
    let user = capturing_user(&pair, "ALTER TABLE t OWNER TO");
    pair.source_sql(&format!("ALTER TABLE lost OWNER TO {user}"));
    let source = source_as(&pair, &user, "pgoutput");
    let mut capture = capture(&pair, Format::Text).await;
    let mut position = source.begin_capture(&capture, 1).await.unwrap().position;
    pair.source_sql(&format!(
        "CREATE TABLE theirs (a int PRIMARY KEY); ALTER TABLE lost OWNER TO postgres; GRANT SELECT ON theirs, lost TO {user}"
    ));
    let theirs = TableName::new("public", "theirs");
    assert_eq!(source.adopt(&capture, std::slice::from_ref(&theirs)).await.unwrap(), Adoption::FromNow);
    let reason = "Unreadable public.theirs: table public.theirs cannot be published: the user must be its owner\n";
    // The task may know the table or not.
    for expected in [reason.to_owned(), format!("theirs: a integer by [0]\n{reason}")] {
        let reader = source.changes(&capture, &position, nothing_durable()).await.unwrap();
        let mut log = Log::reading(capture.clone(), reader);
        pair.source_sql("INSERT INTO theirs SELECT count(*) FROM theirs; INSERT INTO t SELECT count(*) FROM t");
        pair.source_sql("INSERT INTO lost SELECT count(*) FROM lost");
        let told = log.rest(&pair).await;
        assert!(told.starts_with(&expected), "{told}");
        // What was published before it was another's is captured as before.
        let rows: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("Insert ")?.split(' ').next()).collect();
        assert_eq!(rows, ["t", "lost"], "{told}");
        position = log.resume.clone().unwrap();
        capture.tables.push(pair.describe("public", "theirs").await);
    }
}

/// The server tells no rows apart by such a key, and refuses updates in what is published as if it did.
#[tokio::test]
async fn a_key_that_is_checked_later_is_none() {
    for plugin in plugins() {
        let pair = pair(plugin, "CREATE TABLE t (a int PRIMARY KEY DEFERRABLE)", true);
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("INSERT INTO t VALUES (1); UPDATE t SET a = 2; DELETE FROM t");
        let told = log.rest(&pair).await;
        let rows: Vec<&str> = told.lines().filter(|line| *line != "Commit" && !line.starts_with("t:")).collect();
        assert_eq!(rows, ["Insert t ->(1)"], "{plugin} {told}");
    }
}
