//! Partitioned tables, in the log of a real server.

use super::log::{BUILT_IN, Log};
use super::*;

/// `sales` with the parts `s1` and `s2`, and `s9` outside, whose columns are in another order.
const SALES: &str = "CREATE TABLE sales (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    CREATE TABLE s1 PARTITION OF sales FOR VALUES FROM (0) TO (10);
    CREATE TABLE s2 PARTITION OF sales FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id);
    CREATE TABLE s2a PARTITION OF s2 FOR VALUES FROM (10) TO (20);
    CREATE TABLE s9 (v text, gone int, id int PRIMARY KEY); ALTER TABLE s9 DROP gone;";

fn sources() -> impl Iterator<Item = (&'static str, Pair)> {
    BUILT_IN.into_iter().map(|plugin| (plugin, Pair::with(SALES, json!({ "PluginName": plugin }))))
}

const WORK: &str = "INSERT INTO sales VALUES (1, 'a'), (11, 'b'); UPDATE sales SET id = 12 WHERE id = 1;
    UPDATE sales SET v = 'c' WHERE id = 11; DELETE FROM sales WHERE id = 12; TRUNCATE s1; TRUNCATE sales";

/// What of [`WORK`] comes of which table.
fn told(first: &str, second: &str, truncated: &[&str]) -> Vec<String> {
    let mut told = vec![
        format!("Insert {first} ->(1,a)"),
        format!("Insert {second} ->(11,b)"),
        format!("Delete {first} (1,-)->"),
        format!("Insert {second} ->(12,a)"),
        format!("Update {second} ->(11,c)"),
        format!("Delete {second} (12,-)->"),
    ];
    told.extend(truncated.iter().map(|table| format!("Truncate {table}")));
    told.sort();
    told
}

/// What happened to rows, in whatever order.
fn rows(told: &str) -> Vec<String> {
    let mut rows: Vec<String> =
        told.lines().filter(|line| *line != "Commit" && !line.contains(" by [")).map(str::to_owned).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn rows_come_as_the_partitioned_table_s_if_that_is_captured_alone() {
    for (plugin, pair) in sources() {
        let (mut log, _) = Log::selecting(&pair, |name| name.table == "sales").await;
        pair.source_sql(WORK);
        let text = log.rest(&pair).await;
        assert!(text.starts_with("sales: id integer, v text by [0]\n"), "{plugin} {text}");
        assert_eq!(rows(&text), told("sales", "sales", &["sales"]), "{plugin} {text}");
        // Partitions of later, one of them made before.
        pair.source_sql("ALTER TABLE sales ATTACH PARTITION s9 FOR VALUES FROM (90) TO (100)");
        pair.source_sql("CREATE TABLE s3 PARTITION OF sales FOR VALUES FROM (20) TO (30)");
        pair.source_sql("INSERT INTO sales VALUES (91, 'x'), (21, 'y'); UPDATE sales SET v = 'z' WHERE id = 91");
        pair.source_sql("ALTER TABLE sales ADD w int; INSERT INTO sales VALUES (92, 'x', 3), (22, 'y', 4)");
        // Before version 15 the server goes on to send what happens in a part that was taken out.
        if pair.server.version() >= 15 {
            pair.source_sql("ALTER TABLE sales DETACH PARTITION s9; INSERT INTO s9 VALUES ('q', 93, 1)");
        }
        pair.source_sql("DROP TABLE s3");
        let mut expected = vec![
            "Alter sales: add w integer",
            "Insert sales ->(21,y)",
            "Insert sales ->(22,y,4)",
            "Insert sales ->(91,x)",
            "Insert sales ->(92,x,3)",
            "Update sales ->(91,z)",
        ];
        expected.sort_unstable();
        assert_eq!(rows(&log.rest(&pair).await), expected, "{plugin}");
    }
}

#[tokio::test]
async fn rows_come_as_the_partitions_own_if_those_are_captured() {
    for (plugin, pair) in sources() {
        let (mut log, _) = Log::selecting(&pair, |name| name.table.starts_with('s') && name.table != "s2").await;
        pair.source_sql(WORK);
        let text = log.rest(&pair).await;
        assert_eq!(rows(&text), told("s1", "s2a", &["s1", "s1", "s2a", "sales"]), "{plugin} {text}");
    }
}

#[tokio::test]
async fn rows_of_partitions_that_are_not_captured_come_as_those_of_what_is() {
    for (plugin, pair) in sources() {
        let (mut log, _) = Log::selecting(&pair, |name| ["sales", "s1"].contains(&name.table.as_str())).await;
        pair.source_sql(WORK);
        let text = log.rest(&pair).await;
        assert_eq!(rows(&text), told("s1", "sales", &["s1", "s1", "sales"]), "{plugin} {text}");
        pair.source_sql("ALTER TABLE sales ATTACH PARTITION s9 FOR VALUES FROM (90) TO (100)");
        pair.source_sql("INSERT INTO sales VALUES (91, 'x'); UPDATE sales SET v = 'z' WHERE id = 91");
        pair.source_sql("ALTER TABLE sales RENAME v TO w; DELETE FROM sales WHERE id = 91");
        let mut expected = vec![
            "Alter s1: rename v to w",
            "Alter sales: rename v to w",
            "Delete sales (91,-)->",
            "Insert sales ->(91,x)",
            "Update sales ->(91,z)",
        ];
        expected.sort_unstable();
        assert_eq!(rows(&log.rest(&pair).await), expected, "{plugin}");
    }
}

#[tokio::test]
async fn middle_tables_may_be_captured() {
    for (plugin, pair) in sources() {
        let (mut log, _) = Log::selecting(&pair, |name| name.table == "s2").await;
        pair.source_sql(WORK);
        let text = log.rest(&pair).await;
        let expected: Vec<String> = told("s1", "s2", &["s2"]).into_iter().filter(|line| line.contains("s2")).collect();
        assert_eq!(rows(&text), expected, "{plugin} {text}");
    }
}

#[tokio::test]
async fn a_partition_that_is_taken_in_later_comes_as_its_own() {
    let pair = Pair::with(SALES, json!({ "PluginName": "pgoutput" }));
    let (mut log, _) = Log::selecting(&pair, |name| ["sales", "s3"].contains(&name.table.as_str())).await;
    pair.source_sql("CREATE TABLE s3 PARTITION OF sales FOR VALUES FROM (20) TO (30)");
    let names = [TableName::new("public", "s3")];
    pair.source.adopt(&log.capture, &names).await.unwrap();
    pair.source_sql("INSERT INTO sales VALUES (1, 'a'), (21, 'b')");
    let expected = ["Insert s3 ->(21,b)", "Insert sales ->(1,a)"];
    assert_eq!(rows(&log.rest(&pair).await), expected);
}

#[tokio::test]
async fn an_application_can_always_change_its_rows() {
    // No partition has a key of its own; one cannot be told apart, as little as the whole.
    let setup = "CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
        CREATE TABLE p2 PARTITION OF p FOR VALUES IN (2); ALTER TABLE p1 REPLICA IDENTITY FULL;
        ALTER TABLE p REPLICA IDENTITY FULL; CREATE UNLOGGED TABLE fleeting (a int)";
    let pair = Pair::with(setup, json!({ "PluginName": "pgoutput" }));
    let (mut log, _) = Log::selecting(&pair, |name| ["p", "fleeting"].contains(&name.table.as_str())).await;
    pair.source_sql("INSERT INTO p VALUES (1), (2); INSERT INTO fleeting VALUES (1); DELETE FROM fleeting");
    pair.source_sql("UPDATE p SET a = 2 WHERE a = 1; DELETE FROM p");
    assert_eq!(rows(&log.rest(&pair).await), ["Insert p ->(1)", "Insert p ->(2)", "Insert p ->(2)"]);
}
