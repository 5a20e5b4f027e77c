//! Definitions of tables changed on a real server.

use super::*;
use crate::connector::{Applier, ChangeSet, Conflict, Key, RowChange, TableChange};
use crate::data::{ErrorKind, Op, Value};

/// A table of the source, as it is there now.
async fn table(pair: &Pair, name: &str) -> TableSchema {
    let (schema, table) = name.split_once('.').unwrap_or(("public", name));
    pair.describe(schema, table).await
}

async fn begun(pair: &Pair) -> Box<dyn Applier> {
    let mut applier = pair.target.applier(Format::Text, 10).await.unwrap();
    applier.begin().await.unwrap();
    applier
}

/// Inserts and then updates a row of texts by its first column.
async fn write(applier: &mut dyn Applier, table: &TableSchema, row: &[&str]) -> Result<()> {
    let mut batch = Batch::new();
    batch.clear(Format::Text);
    row.iter().for_each(|value| batch.push(Value::String(value.as_bytes())));
    batch.end_row();
    let columns: Vec<usize> = (0..table.columns.len()).collect();
    let rows = [RowChange { old: None, new: Some(batch.row(0)) }];
    let set = |op| ChangeSet {
        table,
        columns: &columns,
        key: Key::Unique(&[0]),
        op,
        rows: &rows,
        conflict: Conflict::Replace,
    };
    applier.apply(&set(Op::Insert)).await?;
    assert_eq!(applier.apply(&set(Op::Update)).await?, 1);
    Ok(())
}

fn columns(pair: &Pair, table: &str) -> String {
    pair.target_sql(&format!(
        "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) FROM pg_attribute
         WHERE attrelid = to_regclass('{table}') AND attnum > 0 AND NOT attisdropped"
    ))
}

#[tokio::test]
async fn tables_follow_those_of_the_source_in_one_transaction() {
    let pair = Pair::new(
        "CREATE TYPE mood AS ENUM ('ok'); CREATE SCHEMA \"S p\";
         CREATE TABLE \"S p\".t (id int PRIMARY KEY, m mood, n text COLLATE \"C\" NOT NULL)",
    );
    let mut applier = begun(&pair).await;
    let mut t = table(&pair, "S p.t").await;
    // Twice each, as after a crash.
    for _ in 0..2 {
        applier.change_table(&TableChange::Create(&t)).await.unwrap();
        write(&mut *applier, &t, &["1", "ok", "one"]).await.unwrap();
    }
    assert_eq!(columns(&pair, "\"S p\".t"), "", "nothing shows before the commit");
    pair.source_sql("ALTER TABLE \"S p\".t ADD late numeric(5, 1) NOT NULL");
    t = table(&pair, "S p.t").await;
    for _ in 0..2 {
        applier.change_table(&TableChange::AddColumn { table: &t, column: 3 }).await.unwrap();
        write(&mut *applier, &t, &["2", "ok", "two", "2.5"]).await.unwrap();
    }
    pair.source_sql("ALTER TABLE \"S p\".t RENAME n TO \"N n\"; ALTER TABLE \"S p\".t ALTER late TYPE varchar(9)");
    t = table(&pair, "S p.t").await;
    for _ in 0..2 {
        let rename = TableChange::RenameColumn { table: &t.name, from: "n", to: "N n" };
        applier.change_table(&rename).await.unwrap();
        applier.change_table(&TableChange::RetypeColumn { table: &t, column: 3 }).await.unwrap();
        write(&mut *applier, &t, &["3", "ok", "three", "text now"]).await.unwrap();
    }
    for _ in 0..2 {
        applier.change_table(&TableChange::DropColumn { table: &t.name, column: "m" }).await.unwrap();
    }
    pair.source_sql("ALTER TABLE \"S p\".t DROP m");
    t = table(&pair, "S p.t").await;
    write(&mut *applier, &t, &["4", "four", "x"]).await.unwrap();
    let to = TableName::new("elsewhere", "T t");
    for _ in 0..2 {
        applier.change_table(&TableChange::Rename { from: &t.name, to: &to }).await.unwrap();
    }
    t.name = to;
    write(&mut *applier, &t, &["5", "five", "y"]).await.unwrap();
    applier.commit().await.unwrap();
    let expected = "id integer, N n text, late character varying(9)";
    assert_eq!(columns(&pair, "elsewhere.\"T t\""), expected);
    let rows = "1|one|\n2|two|2.5\n3|three|text now\n4|four|x\n5|five|y";
    assert_eq!(pair.target_sql("SELECT * FROM elsewhere.\"T t\" ORDER BY id"), rows);
    assert_eq!(
        pair.target_sql(
            "SELECT conname FROM pg_constraint WHERE contype = 'p' AND conrelid = 'elsewhere.\"T t\"'::regclass"
        ),
        "t_pkey"
    );
    applier.begin().await.unwrap();
    for _ in 0..2 {
        applier.change_table(&TableChange::Drop(&t.name)).await.unwrap();
    }
    applier.change_table(&TableChange::Drop(&TableName::new("no such schema", "t"))).await.unwrap();
    applier.commit().await.unwrap();
    assert_eq!(columns(&pair, "elsewhere.\"T t\""), "");
}

#[tokio::test]
async fn what_is_rolled_back_is_forgotten() {
    let pair = Pair::new("CREATE TABLE t (id int PRIMARY KEY, v int)");
    let mut applier = begun(&pair).await;
    let before = table(&pair, "t").await;
    applier.change_table(&TableChange::Create(&before)).await.unwrap();
    applier.commit().await.unwrap();
    pair.source_sql("ALTER TABLE t ADD w text");
    let after = table(&pair, "t").await;
    applier.begin().await.unwrap();
    applier.savepoint().await.unwrap();
    applier.change_table(&TableChange::AddColumn { table: &after, column: 2 }).await.unwrap();
    write(&mut *applier, &after, &["1", "1", "w"]).await.unwrap();
    applier.back_to_savepoint().await.unwrap();
    let error = write(&mut *applier, &after, &["1", "1", "w"]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Table, "{error}");
    write(&mut *applier, &before, &["1", "1"]).await.unwrap();
    applier.change_table(&TableChange::AddColumn { table: &after, column: 2 }).await.unwrap();
    write(&mut *applier, &after, &["2", "2", "w"]).await.unwrap();
    applier.rollback().await.unwrap();
    applier.begin().await.unwrap();
    write(&mut *applier, &before, &["3", "3"]).await.unwrap();
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM t"), "3|3");
}

#[tokio::test]
async fn values_are_taken_over_into_a_new_type_if_it_takes_them() {
    let pair = Pair::new("CREATE TABLE t (id int PRIMARY KEY, j json, n text, c varchar(3), b boolean)");
    let mut applier = begun(&pair).await;
    let before = table(&pair, "t").await;
    applier.change_table(&TableChange::Create(&before)).await.unwrap();
    write(&mut *applier, &before, &["1", "12", "34", "abc", "t"]).await.unwrap();
    applier.commit().await.unwrap();
    pair.source_sql(
        "ALTER TABLE t ALTER j TYPE int USING 1, ALTER n TYPE numeric(5, 1) USING 1, ALTER c TYPE varchar(2) USING '',
         ALTER b TYPE int USING 1",
    );
    let after = table(&pair, "t").await;
    applier.begin().await.unwrap();
    // There is no cast from json to a number, but its text is one.
    for column in [1, 2, 3, 4] {
        applier.change_table(&TableChange::RetypeColumn { table: &after, column }).await.unwrap();
    }
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM t"), "1|12|34.0|ab|1");
    pair.source_sql("ALTER TABLE t ALTER c TYPE date USING NULL");
    let after = table(&pair, "t").await;
    applier.begin().await.unwrap();
    let error = applier.change_table(&TableChange::RetypeColumn { table: &after, column: 3 }).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Table, "{error}");
    assert!(!error.to_string().contains("ab\""), "{error}");
}

#[tokio::test]
async fn a_table_that_is_not_there_cannot_be_changed() {
    let pair = Pair::new("CREATE TABLE t (id int PRIMARY KEY)");
    let t = table(&pair, "t").await;
    let to = TableName::new("public", "u");
    let changes = [
        TableChange::AddColumn { table: &t, column: 0 },
        TableChange::DropColumn { table: &t.name, column: "id" },
        TableChange::RenameColumn { table: &t.name, from: "id", to: "b" },
        TableChange::RetypeColumn { table: &t, column: 0 },
        TableChange::Rename { from: &t.name, to: &to },
    ];
    for change in &changes {
        let mut applier = begun(&pair).await;
        let error = applier.change_table(change).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Table, "{error}");
        assert!(error.to_string().ends_with("table public.t does not exist on the target"), "{error}");
    }
}

#[tokio::test]
async fn columns_of_other_engines_get_types_of_this_one() {
    let pair = Pair::new("");
    let mut t = foreign(&pair, &[("id", DataType::Int8), ("name", DataType::WString { length: 10 })]).await;
    t.columns.push(Column { name: "size".into(), data_type: DataType::UInt4, ..t.columns[1].clone() });
    t.columns[1].data_type = DataType::NClob;
    let mut applier = begun(&pair).await;
    applier.change_table(&TableChange::AddColumn { table: &t, column: 2 }).await.unwrap();
    applier.change_table(&TableChange::RetypeColumn { table: &t, column: 1 }).await.unwrap();
    let other = TableSchema { name: TableName::new("shop two", "items"), ..t.clone() };
    applier.change_table(&TableChange::Create(&other)).await.unwrap();
    applier.commit().await.unwrap();
    let expected = "id bigint, name text, size bigint";
    assert_eq!(columns(&pair, "shop.items"), expected);
    assert_eq!(columns(&pair, "\"shop two\".items"), expected);
}

#[tokio::test]
async fn the_checkpoint_of_a_task_is_read_from_its_control_table() {
    let pair = Pair::new("");
    let of = |schema: &'static str, task: &'static str| pair.target.recovery_checkpoint(schema, task);
    assert_eq!(of("", "T").await.unwrap(), None);
    let table = "(\"SERVER_NAME\" varchar(128) NOT NULL, \"TASK_NAME\" varchar(128) NOT NULL,
        \"STATE_TIME\" timestamp NOT NULL, \"CHECKPOINT\" varchar(1024) NOT NULL)";
    pair.target_sql(&format!(
        "CREATE TABLE awsdms_txn_state {table}; CREATE SCHEMA \"C c\"; CREATE TABLE \"C c\".awsdms_txn_state {table};
         INSERT INTO awsdms_txn_state VALUES ('s', 'T', '2024-01-02', 'later'), ('r', 'T', '2024-01-01', 'before');
         INSERT INTO \"C c\".awsdms_txn_state VALUES ('s', 'it''s', '2024-01-01', 'elsewhere')"
    ));
    assert_eq!(of("", "T").await.unwrap().as_deref(), Some("later"));
    assert_eq!(of("", "U").await.unwrap(), None);
    assert_eq!(of("C c", "it's").await.unwrap().as_deref(), Some("elsewhere"));
}
