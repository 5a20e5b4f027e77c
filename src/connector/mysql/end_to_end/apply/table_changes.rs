//! Definitions that change, and change again when the log is read again.

use super::*;
use crate::connector::{TableChange, Transaction};

async fn change(pair: &Pair, change: TableChange<'_>) -> Result<()> {
    let mut applier = pair.begun(Format::Text).await;
    let changed = applier.change_table(&change).await;
    if changed.is_ok() {
        // Once more, as after a crash.
        let _ = applier.change_table(&change).await.unwrap();
    }
    applier.commit().await.unwrap();
    changed.map(|left| assert_eq!(left, Transaction::Ended))
}

fn shape(pair: &Pair, table: &str) -> String {
    let read = format!(
        "SELECT GROUP_CONCAT(CONCAT(COLUMN_NAME, ' ', COLUMN_TYPE, IF(IS_NULLABLE='NO', ' not null', '')) \
         ORDER BY ORDINAL_POSITION SEPARATOR ', ') FROM information_schema.COLUMNS WHERE TABLE_SCHEMA='{}' AND TABLE_NAME='{table}'",
        pair.to
    );
    pair.server.client(&read).trim_end().to_owned()
}

fn column(name: &str, native: &str, nullable: bool) -> Column {
    Column { name: name.to_owned(), data_type: DataType::Int4, native: native.to_owned(), nullable, generated: false }
}

#[tokio::test]
async fn tables_come_and_go_and_are_renamed() {
    let mut pair = Pair::both("CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(5) NOT NULL)");
    pair.to = format!("{}_new", pair.to);
    let table = pair.target_table("t").await;
    change(&pair, TableChange::Create(&table)).await.unwrap();
    assert_eq!(shape(&pair, "t"), "a int(11) not null, b varchar(5) not null");
    pair.target_sql("INSERT INTO t VALUES (1, 'x')");
    change(&pair, TableChange::Create(&table)).await.unwrap();
    let renamed = TableName::new(format!("{}_2", pair.to), "it's `new`");
    change(&pair, TableChange::Rename { from: &table.name, to: &renamed }).await.unwrap();
    assert_eq!(shape(&pair, "t"), "NULL");
    assert_eq!(pair.server.client(&format!("SELECT * FROM {}", quote_table(&renamed))), "1\tx\n");
    let gone = TableName::new(&pair.to, "gone");
    let nowhere = TableName::new(&pair.to, "nowhere");
    let error = change(&pair, TableChange::Rename { from: &gone, to: &nowhere }).await.unwrap_err();
    assert_eq!((error.kind, error.native), (ErrorKind::Table, Some(1146)), "{error}");
    change(&pair, TableChange::Drop(&renamed)).await.unwrap();
    let left = format!("SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA='{}'", renamed.schema);
    assert_eq!(pair.server.client(&left), "0\n");
}

#[tokio::test]
async fn swapped_tables_stay_swapped() {
    let pair = Pair::both("CREATE TABLE a (n INT); CREATE TABLE b (n INT)");
    pair.target_sql("INSERT INTO a VALUES (1); INSERT INTO b VALUES (2)");
    let [a, b, old] = ["a", "b", "old"].map(|name| TableName::new(&pair.to, name));
    for _ in 0..2 {
        change(&pair, TableChange::Rename { from: &a, to: &old }).await.unwrap();
        change(&pair, TableChange::Rename { from: &b, to: &a }).await.unwrap();
        assert_eq!(pair.target_sql("SELECT n FROM a UNION ALL SELECT n FROM old"), "2\n1\n");
    }
}

#[tokio::test]
async fn columns_come_and_go_and_are_renamed() {
    let pair =
        Pair::both("CREATE TABLE t (a INT PRIMARY KEY AUTO_INCREMENT, b VARCHAR(5)); INSERT INTO t VALUES (1, 'x')");
    let mut table = pair.target_table("t").await;
    for added in [
        column("c", "int(10) unsigned", true),
        column("d `x`", "varchar(10) CHARACTER SET latin1 COLLATE latin1_bin", false),
        column("ts", "timestamp", false),
        column("odd", "varchar(7) CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_ai_ci", true),
    ] {
        table.columns.push(added);
        let added = table.columns.len() - 1;
        change(&pair, TableChange::AddColumn { table: &table, column: added }).await.unwrap();
    }
    assert_eq!(
        shape(&pair, "t"),
        "a int(11) not null, b varchar(5), c int(10) unsigned, d `x` varchar(10) not null, ts timestamp not null, odd varchar(7)"
    );
    let declared = pair.target_sql("SHOW CREATE TABLE t");
    assert!(
        !declared.contains("ON UPDATE") && !declared.contains("1971") && declared.contains("latin1_bin"),
        "{declared}"
    );
    let name = table.name.clone();
    change(&pair, TableChange::DropColumn { table: &name, column: "C" }).await.unwrap();
    change(&pair, TableChange::RenameColumn { table: &name, from: "d `x`", to: "e" }).await.unwrap();
    change(&pair, TableChange::RenameColumn { table: &name, from: "e", to: "E" }).await.unwrap();
    let error = change(&pair, TableChange::RenameColumn { table: &name, from: "none", to: "new" }).await.unwrap_err();
    assert_eq!((error.kind, error.native), (ErrorKind::Table, Some(1054)), "{error}");
    assert!(shape(&pair, "t").contains("E varchar(10) not null, ts"), "{}", shape(&pair, "t"));

    table.columns = vec![column("a", "bigint(20)", true), column("b", "varchar(50) CHARACTER SET latin1", false)];
    for retyped in 0..2 {
        change(&pair, TableChange::RetypeColumn { table: &table, column: retyped }).await.unwrap();
    }
    assert!(shape(&pair, "t").starts_with("a bigint(20) not null, b varchar(50), E"), "{}", shape(&pair, "t"));
    assert!(pair.target_sql("SHOW CREATE TABLE t").contains("AUTO_INCREMENT"));
    // Values that the new type does not take cost the table.
    table.columns[1].native = "int(11)".to_owned();
    let error = change(&pair, TableChange::RetypeColumn { table: &table, column: 1 }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Table, "{error}");
    assert_eq!(pair.target_sql("SELECT b FROM t"), "x\n");
}

#[tokio::test]
async fn a_column_that_makes_rows_too_long_goes_off_the_row() {
    let pair = Pair::both("CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(16000))");
    let mut table = TableSchema { family: Family::PostgreSql, ..pair.target_table("t").await };
    table.columns.push(Column { data_type: DataType::WString { length: 4000 }, ..column("c", "", true) });
    change(&pair, TableChange::AddColumn { table: &table, column: 2 }).await.unwrap();
    assert!(shape(&pair, "t").ends_with("c longtext"), "{}", shape(&pair, "t"));
}

#[tokio::test]
async fn rows_are_applied_to_what_a_table_has_become() {
    let pair = Pair::both("CREATE TABLE t (a INT PRIMARY KEY, b INT)");
    let many: Vec<String> = (1..=20).map(|id| format!("{id}|{id}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let mut applier = pair.begun(Format::Text).await;
    let rows = Rows::new(&pair, "t", &many).await;
    rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
    rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap();
    // What is before it is durable with it.
    pair.sql("ALTER TABLE t MODIFY b TEXT, ADD c INT");
    let table = pair.target_table("t").await;
    applier.change_table(&TableChange::RetypeColumn { table: &table, column: 1 }).await.unwrap();
    applier.change_table(&TableChange::AddColumn { table: &table, column: 2 }).await.unwrap();
    applier.savepoint().await.unwrap();
    let many: Vec<String> = (1..=20).map(|id| format!("{id}|text {id}|{id}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let rows = Rows::new(&pair, "t", &many).await;
    assert_eq!(rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 20);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT COUNT(*) FROM t WHERE b=CONCAT('text ', a) AND c=a"), "20\n");
    // A definition that is refused leaves no transaction behind either.
    applier.savepoint().await.unwrap();
    let gone = TableName::new(&pair.to, "gone");
    let error = applier.change_table(&TableChange::DropColumn { table: &gone, column: "x" }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Table, "{error}");
    applier.back_to_savepoint().await.unwrap();
    assert_eq!(rows.apply(&mut *applier, Op::Delete, Conflict::Refuse).await.unwrap(), 20);
    applier.commit().await.unwrap();
}

#[tokio::test]
async fn a_table_is_emptied_in_the_transaction_unless_it_is_large() {
    let pair = Pair::both("CREATE TABLE t (a INT PRIMARY KEY)");
    pair.target_sql("INSERT INTO t SELECT seq FROM seq_1_to_1000");
    let table = pair.target_table("t").await;
    let row = Rows::new(&pair, "t", &["5000000"]).await;
    let mut applier = pair.begun(Format::Text).await;
    applier.truncate(&table).await.unwrap();
    applier.savepoint().await.unwrap();
    applier.rollback().await.unwrap();
    assert_eq!(pair.target_sql("SELECT COUNT(*) FROM t"), "1000\n");
    pair.target_sql("INSERT INTO t SELECT seq FROM seq_1001_to_300000; ANALYZE TABLE t");
    // Something is before it in the transaction.
    applier.begin().await.unwrap();
    row.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
    applier.truncate(&table).await.unwrap();
    applier.rollback().await.unwrap();
    assert_eq!(pair.target_sql("SELECT COUNT(*) FROM t"), "300000\n");
    // Nothing is.
    applier.begin().await.unwrap();
    applier.savepoint().await.unwrap();
    applier.truncate(&table).await.unwrap();
    assert_eq!(pair.target_sql("SELECT COUNT(*) FROM t"), "0\n");
    applier.back_to_savepoint().await.unwrap();
    row.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM t"), "5000000\n");
}
