//! Changes applied to a real server.

mod failures;
mod speed;
mod table_changes;
mod types;

use super::*;
use crate::connector::{Applier, ChangeSet, Conflict, Key, RowChange};
use crate::data::{Op, Row};

/// Images of rows of a table, in all of its columns.
struct Rows {
    /// As it is called on the target.
    table: TableSchema,
    batch: Batch,
}

const NULL: &str = "\\N";
const ABSENT: &str = "-";

impl Rows {
    /// Images as `a|b|c`, a line each, in the text form of a source's log.
    async fn new(pair: &Pair, table: &str, images: &[&str]) -> Rows {
        let mut rows = Rows { table: pair.target_table(table).await, batch: Batch::new() };
        rows.batch.clear(Format::Text);
        for image in images {
            for field in image.split('|') {
                rows.batch.push(match field {
                    NULL => Value::Null,
                    ABSENT => Value::Absent,
                    text => Value::String(text.as_bytes()),
                });
            }
            rows.batch.end_row();
        }
        rows
    }

    /// All rows of a table of the source, as the full load reads them.
    async fn read(pair: &Pair, table: &str, format: Format) -> Rows {
        let schema = pair.describe(table).await;
        let snapshot = pair.source().snapshot(1).await.unwrap();
        let mut reader = snapshot.read(pair.plan(&schema, format)).await.unwrap();
        let mut rows = Rows { table: pair.target_table(table).await, batch: Batch::new() };
        assert!(reader.next(&mut rows.batch).await.unwrap());
        assert!(!reader.next(&mut Batch::new()).await.unwrap(), "one batch holds them all");
        rows
    }

    fn images(&self) -> Vec<Row<'_>> {
        (0..self.batch.rows()).map(|index| self.batch.row(index)).collect()
    }

    fn key(&self) -> Key<'_> {
        Key::Unique(self.table.row_key())
    }

    /// Applies the images, so many at a time: of an INSERT or UPDATE the new ones, of a DELETE the old ones.
    async fn apply_some(&self, applier: &mut dyn Applier, op: Op, conflict: Conflict, some: usize) -> Result<u64> {
        let change = |image| match op {
            Op::Delete => RowChange { old: Some(image), new: None },
            Op::Insert | Op::Update => RowChange { old: None, new: Some(image) },
        };
        let rows: Vec<_> = self.images().into_iter().map(change).collect();
        let mut changed = 0;
        for rows in rows.chunks(some) {
            changed += self.change(applier, op, self.key(), conflict, rows).await?;
        }
        Ok(changed)
    }

    async fn apply(&self, applier: &mut dyn Applier, op: Op, conflict: Conflict) -> Result<u64> {
        self.apply_some(applier, op, conflict, usize::MAX).await
    }

    async fn change(
        &self,
        applier: &mut dyn Applier,
        op: Op,
        key: Key<'_>,
        conflict: Conflict,
        rows: &[RowChange<'_>],
    ) -> Result<u64> {
        let columns: Vec<usize> = (0..self.table.columns.len()).collect();
        applier.apply(&ChangeSet { table: &self.table, columns: &columns, key, op, rows, conflict }).await
    }
}

impl Pair {
    /// Two databases with the same tables.
    fn both(sql: &str) -> Pair {
        let pair = Pair::new();
        pair.sql(sql);
        pair.server.client(&format!("CREATE DATABASE {0} CHARACTER SET utf8mb4", pair.to));
        pair.target_sql(sql);
        pair
    }

    /// Runs statements in the target database.
    fn target_sql(&self, sql: &str) -> String {
        let mode = "SET sql_mode='NO_AUTO_VALUE_ON_ZERO'; SET NAMES utf8mb4;";
        self.server.client(&format!("USE {}; {mode} {sql}", self.to))
    }

    async fn target_table(&self, table: &str) -> TableSchema {
        let schema = self.describe(table).await;
        TableSchema { name: TableName::new(&self.to, table), ..schema }
    }

    async fn begun(&self, format: Format) -> Box<dyn Applier> {
        // Of an owner there is one at a time; these are to be there at once.
        let owner = format!("{} {}", self.to, uuid::Uuid::new_v4());
        let mut applier = self.target().applier(&owner, format, 3).await.unwrap();
        applier.begin().await.unwrap();
        applier
    }
}

#[tokio::test]
async fn sets_of_rows_are_changed_by_their_key() {
    let pair = Pair::both(
        "CREATE TABLE t (a INT, `B ``b` VARCHAR(20), n DECIMAL(6,2), j JSON, PRIMARY KEY (`B ``b`, a));
         INSERT INTO t VALUES (1, 'x', 1, '{}'), (2, 'y', 2, '[2]'), (3, 'z', 3, NULL)",
    );
    for some in [1, 100] {
        let mut applier = pair.begun(Format::Text).await;
        let insert = Rows::new(&pair, "t", &["4|it's \\ \"q\", \t\n|4.5|[1, 2]", "5||\\N|\\N"]).await;
        assert_eq!(insert.apply_some(&mut *applier, Op::Insert, Conflict::Refuse, some).await.unwrap(), 2);
        // Some columns of some rows did not change; one row is not there, one is the same as before.
        let images = ["1|x|-|[7]", "2|y|20|-", "9|none|1|-", "4|it's \\ \"q\", \t\n|\\N|-", "3|z|3|-", "5||-|-"];
        let update = Rows::new(&pair, "t", &images).await;
        assert_eq!(update.apply_some(&mut *applier, Op::Update, Conflict::Refuse, some).await.unwrap(), 5);
        let delete = Rows::new(&pair, "t", &["3|z|-|-", "8|z|-|-"]).await;
        assert_eq!(delete.apply_some(&mut *applier, Op::Delete, Conflict::Refuse, some).await.unwrap(), 1);
        assert_eq!(pair.target_sql("SELECT COUNT(*) FROM t"), "3\n", "nothing shows before the commit");
        applier.commit().await.unwrap();
        let expected = "1\tx\t1.00\t[7]\n2\ty\t20.00\t[2]\n4\tit's \\ \"q\", \t\n\tNULL\t[1, 2]\n5\t\tNULL\tNULL\n";
        assert_eq!(pair.target_sql("SELECT * FROM t ORDER BY a"), expected);
        pair.target_sql("TRUNCATE t; INSERT INTO t VALUES (1, 'x', 1, '{}'), (2, 'y', 2, '[2]'), (3, 'z', 3, NULL)");
    }
}

#[tokio::test]
async fn a_key_that_changes_is_found_by_what_it_was() {
    let rows: Vec<String> = (1..=8).map(|id| format!("({id}, 'v{id}')")).collect();
    let pair =
        Pair::both(&format!("CREATE TABLE t (a INT PRIMARY KEY, b TEXT); INSERT INTO t VALUES {}", rows.join(",")));
    let mut applier = pair.begun(Format::Text).await;
    let images = ["1|-", "10|-", "2|-", "20|zwei", "3|-", "30|-", "4|x", "4|four", "5|-", "50|\\N", "6|-", "60|-"];
    let rows = Rows::new(&pair, "t", &images).await;
    let images = rows.images();
    let changes: Vec<RowChange<'_>> =
        images.chunks(2).map(|pair| RowChange { old: Some(pair[0].clone()), new: Some(pair[1].clone()) }).collect();
    // Few and many.
    assert_eq!(rows.change(&mut *applier, Op::Update, rows.key(), Conflict::Refuse, &changes[..1]).await.unwrap(), 1);
    assert_eq!(rows.change(&mut *applier, Op::Update, rows.key(), Conflict::Refuse, &changes[1..]).await.unwrap(), 5);
    // A key that is taken already.
    applier.savepoint().await.unwrap();
    let taken = Rows::new(&pair, "t", &["7|-", "8|-"]).await;
    let images = taken.images();
    let taken_key = [RowChange { old: Some(images[0].clone()), new: Some(images[1].clone()) }];
    let error = taken.change(&mut *applier, Op::Update, taken.key(), Conflict::Refuse, &taken_key).await.unwrap_err();
    assert_eq!((error.kind, error.native), (ErrorKind::Data, Some(1062)));
    applier.back_to_savepoint().await.unwrap();
    applier.commit().await.unwrap();
    let expected = "4\tfour\n7\tv7\n8\tv8\n10\tv1\n20\tzwei\n30\tv3\n50\tNULL\n60\tv6\n";
    assert_eq!(pair.target_sql("SELECT * FROM t ORDER BY a"), expected);
}

#[tokio::test]
async fn rows_that_are_there_already_refuse_a_set_or_are_replaced() {
    let pair = Pair::both(
        "CREATE TABLE t (a INT PRIMARY KEY, b VARCHAR(10), u INT UNIQUE); INSERT INTO t VALUES (1, 'old', 1)",
    );
    let many: Vec<String> = (1..=100).map(|id| format!("{id}|new|{id}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    for images in [&many[..2], &many[..10], &many[..]] {
        let mut applier = pair.begun(Format::Text).await;
        let rows = Rows::new(&pair, "t", images).await;
        applier.savepoint().await.unwrap();
        let error = rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap_err();
        assert_eq!((error.kind, error.native), (ErrorKind::Data, Some(1062)), "{error}");
        applier.back_to_savepoint().await.unwrap();
        for _ in 0..2 {
            let replaced = rows.apply(&mut *applier, Op::Insert, Conflict::Replace).await.unwrap();
            assert_eq!(replaced, images.len() as u64);
        }
        applier.commit().await.unwrap();
        let expected: String = images.iter().map(|image| format!("{}\n", image.replace('|', "\t"))).collect();
        assert_eq!(pair.target_sql("SELECT * FROM t ORDER BY a"), expected);
        pair.target_sql("TRUNCATE t; INSERT INTO t VALUES (1, 'old', 1)");
    }
    // Another row that has a value which must be unique is not replaced.
    pair.target_sql("TRUNCATE t; INSERT INTO t VALUES (700, 'seven', 2)");
    for images in [&many[..2], &many[..10]] {
        let mut applier = pair.begun(Format::Text).await;
        let rows = Rows::new(&pair, "t", images).await;
        let error = rows.apply(&mut *applier, Op::Insert, Conflict::Replace).await.unwrap_err();
        assert_eq!((error.kind, error.native), (ErrorKind::Data, Some(1062)), "{error}");
        applier.rollback().await.unwrap();
    }
    assert_eq!(pair.target_sql("SELECT * FROM t"), "700\tseven\t2\n");
}

#[tokio::test]
async fn of_rows_that_are_alike_one_is_changed() {
    let pair = Pair::both(
        "CREATE TABLE t (a INT, f FLOAT, s VARCHAR(10), p POINT);
         INSERT INTO t VALUES (1, 0.1, 'x', POINT(1, 2)), (1, 0.1, 'x', POINT(1, 2)), (1, 0.1, 'X', POINT(1, 2)), \
         (1, 0.1, 'x ', POINT(1, 2)), (NULL, NULL, NULL, NULL), (NULL, NULL, NULL, NULL)",
    );
    let mut applier = pair.begun(Format::Text).await;
    let rows = Rows::read(&pair, "t", Format::Text).await;
    let images = rows.images();
    let key = Key::Any(&[0, 1, 2, 3]);
    let update = [RowChange { old: Some(images[0].clone()), new: Some(images[4].clone()) }];
    assert_eq!(rows.change(&mut *applier, Op::Update, key, Conflict::Refuse, &update).await.unwrap(), 1);
    let count = "SELECT COUNT(*), COUNT(a), SUM(BINARY s='x'), SUM(BINARY s='X') FROM t";
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql(count), "6\t3\t1\t1\n");
    let deletes = [2, 4, 4, 0, 0].map(|index: usize| RowChange { old: Some(images[index].clone()), new: None });
    assert_eq!(rows.change(&mut *applier, Op::Delete, key, Conflict::Refuse, &deletes).await.unwrap(), 4);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT a, s FROM t"), "1\tx \nNULL\tNULL\n");
    // Values that a literal says exactly need no work table.
    pair.sql("CREATE TABLE u (a INT, s TEXT, d DATETIME(3))");
    pair.target_sql("CREATE TABLE u (a INT, s TEXT, d DATETIME(3)); INSERT INTO u VALUES (1, 'é', '2024-01-01 01:02:03.5'), (1, 'e', '2024-01-01 01:02:03.5'), (1, 'é', NULL)");
    let rows = Rows::new(&pair, "u", &["1|é|2024-01-01 01:02:03.500", "1|é|\\N", "2|\\N|-"]).await;
    let images = rows.images();
    let key = Key::Any(&[0, 1, 2]);
    let delete = [RowChange { old: Some(images[0].clone()), new: None }];
    let update = [RowChange { old: Some(images[1].clone()), new: Some(images[2].clone()) }];
    assert_eq!(rows.change(&mut *applier, Op::Delete, key, Conflict::Refuse, &delete).await.unwrap(), 1);
    assert_eq!(rows.change(&mut *applier, Op::Update, key, Conflict::Refuse, &update).await.unwrap(), 1);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM u ORDER BY a"), "1\te\t2024-01-01 01:02:03.500\n2\tNULL\tNULL\n");
}

#[tokio::test]
async fn keys_that_the_target_blurs_are_told_apart() {
    let pair = Pair::both("CREATE TABLE t (a VARCHAR(10) COLLATE utf8mb4_bin PRIMARY KEY, b INT)");
    pair.target_sql("DROP TABLE t; CREATE TABLE t (a VARCHAR(10) COLLATE utf8mb4_general_ci PRIMARY KEY, b INT); INSERT INTO t VALUES ('a', 1), ('b', 2), ('c ', 3), ('d', 4), ('e', 5), ('f', 6)");
    for images in [&["A|9", "b|8", "c|7"][..], &["A|10", "b|11", "c|12", "D|13", "E|14", "F|15"]] {
        let mut applier = pair.begun(Format::Text).await;
        let rows = Rows::new(&pair, "t", images).await;
        assert_eq!(rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 1);
        assert_eq!(rows.apply(&mut *applier, Op::Delete, Conflict::Refuse).await.unwrap(), 1);
        applier.rollback().await.unwrap();
    }
    // The same collation on both sides: a key whose case changes is the same row's.
    pair.sql("CREATE TABLE u (a VARCHAR(10) COLLATE utf8mb4_general_ci PRIMARY KEY, b INT)");
    pair.target_sql(
        "CREATE TABLE u (a VARCHAR(10) COLLATE utf8mb4_general_ci PRIMARY KEY, b INT); INSERT INTO u VALUES ('KEY', 1)",
    );
    let mut applier = pair.begun(Format::Text).await;
    let rows = Rows::new(&pair, "u", &["key|2"]).await;
    rows.apply(&mut *applier, Op::Insert, Conflict::Replace).await.unwrap();
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM u"), "key\t2\n");
}

#[tokio::test]
async fn columns_that_the_log_lacks_or_the_target_makes_are_left_alone() {
    let pair = Pair::both(
        "CREATE TABLE t (id INT PRIMARY KEY, a INT, g INT AS (a + 1) STORED, v INT AS (a + 2) VIRTUAL, \
         n INT NOT NULL DEFAULT 7, at TIMESTAMP NOT NULL DEFAULT '2001-01-01' ON UPDATE CURRENT_TIMESTAMP)",
    );
    let mut applier = pair.begun(Format::Text).await;
    let images: Vec<String> = (1..=6).map(|id| format!("{id}|{id}|99|99|-|2002-02-02 00:00:00")).collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let rows = Rows::new(&pair, "t", &images).await;
    assert_eq!(rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap(), 6);
    for (images, count) in [(&["1|10|5|5|-|-", "2|-|5|5|-|-"][..], 2), (&["1|11|-|-|-|-"; 1], 1)] {
        let rows = Rows::new(&pair, "t", images).await;
        assert_eq!(rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), count);
    }
    let images: Vec<String> = (1..=6).map(|id| format!("{id}|2{id}|-|-|-|-")).collect();
    let images: Vec<&str> = images.iter().map(String::as_str).collect();
    let rows = Rows::new(&pair, "t", &images).await;
    assert_eq!(rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 6);
    applier.commit().await.unwrap();
    let expected = "1\t21\t22\t23\t7\t2002-02-02 00:00:00\n6\t26\t27\t28\t7\t2002-02-02 00:00:00\n";
    assert_eq!(pair.target_sql("SET time_zone='+00:00'; SELECT * FROM t WHERE id IN (1, 6)"), expected);
}

#[tokio::test]
async fn sets_of_any_size_and_width_go_in() {
    let pair = Pair::both(
        "CREATE TABLE t (id BIGINT PRIMARY KEY, a VARCHAR(2000), b VARCHAR(500), c LONGTEXT, d VARBINARY(1000));",
    );
    // Work tables in memory are small here: many rows take several turns.
    pair.server.client("SET GLOBAL max_heap_table_size=1048576");
    let target = pair.target_table("t").await;
    let mut applier = pair.begun(Format::Values).await;
    pair.server.client("SET GLOBAL max_heap_table_size=16777216");
    for (count, long) in [(1_i64, 3_000_000_usize), (3, 100), (70, 10), (5000, 300), (20, 200_000)] {
        let mut batch = Batch::new();
        batch.clear(Format::Values);
        for id in (0..count).rev() {
            batch.push(Value::Int(id * 13 % count));
            batch.push(Value::String("ä\t".repeat(id as usize % 500).as_bytes()));
            batch.push(Value::Null);
            batch.push(Value::String("\\x🦀\n".repeat(long / 7).as_bytes()));
            batch.push(Value::Bytes(&[0, 255, 92, 9, 10, 13, 39]));
            batch.end_row();
        }
        let rows = Rows { table: target.clone(), batch };
        assert_eq!(rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap(), count as u64);
        let sums = "SELECT COUNT(*), SUM(CRC32(CONCAT_WS('|', id, a, b, c, HEX(d)))) FROM t";
        applier.commit().await.unwrap();
        let before = pair.target_sql(sums);
        pair.target_sql("UPDATE t SET a='', b='x', c=NULL, d=NULL");
        assert_eq!(rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), count as u64);
        applier.commit().await.unwrap();
        assert_eq!(pair.target_sql(sums), before, "{count} rows");
        // Without the long column: through memory.
        let columns = [0, 1, 2, 4];
        let narrow = TableSchema {
            columns: columns.iter().map(|column| target.columns[*column].clone()).collect(),
            ..target.clone()
        };
        pair.target_sql("UPDATE t SET a='', b='x', d=NULL");
        let changes: Vec<RowChange<'_>> =
            rows.images().into_iter().map(|image| RowChange { old: None, new: Some(image) }).collect();
        let key = Key::Unique(&[0]);
        let set = ChangeSet {
            table: &narrow,
            columns: &columns,
            key,
            op: Op::Update,
            rows: &changes,
            conflict: Conflict::Refuse,
        };
        assert_eq!(applier.apply(&set).await.unwrap(), count as u64);
        applier.commit().await.unwrap();
        assert_eq!(pair.target_sql(sums), before, "{count} rows");
        assert_eq!(rows.apply(&mut *applier, Op::Delete, Conflict::Refuse).await.unwrap(), count as u64);
        applier.commit().await.unwrap();
        assert_eq!(pair.target_sql("SELECT COUNT(*) FROM t"), "0\n");
    }
}

#[tokio::test]
async fn what_comes_after_the_savepoint_is_undone() {
    let pair = Pair::both("CREATE TABLE t (a INT PRIMARY KEY)");
    let row = |number: i32| number.to_string();
    let mut applier = pair.begun(Format::Text).await;
    for (step, number) in [("", 1), ("mark", 2), ("back", 3), ("mark", 4), ("mark", 5), ("back", 6)] {
        match step {
            "mark" => applier.savepoint().await.unwrap(),
            "back" => applier.back_to_savepoint().await.unwrap(),
            _ => {}
        }
        let rows = Rows::new(&pair, "t", &[&row(number)]).await;
        rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
    }
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT GROUP_CONCAT(a ORDER BY a) FROM t"), "1,3,4,6\n");
    let rows = Rows::new(&pair, "t", &["7", "8", "9", "10", "11", "12"]).await;
    applier.begin().await.unwrap();
    rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
    rows.apply(&mut *applier, Op::Delete, Conflict::Refuse).await.unwrap();
    applier.savepoint().await.unwrap();
    applier.back_to_savepoint().await.unwrap();
    applier.rollback().await.unwrap();
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT COUNT(*) FROM t"), "4\n");
}

#[tokio::test]
async fn the_statement_of_a_change_can_be_read_and_run() {
    let pair = Pair::both("CREATE TABLE t (a INT PRIMARY KEY, b TEXT, c BLOB); INSERT INTO t VALUES (2, 'x', NULL)");
    let applier = pair.begun(Format::Text).await;
    let rows = Rows::new(&pair, "t", &["1|it's \\ é|\\N", "2|new|-", "2|-|-"]).await;
    let images = rows.images();
    let columns = [0, 1, 2];
    let statement = |op, key, change: RowChange<'_>| {
        let rows = [change];
        let set = ChangeSet {
            table: &rows_table(&pair),
            columns: &columns,
            key,
            op,
            rows: &rows,
            conflict: Conflict::Refuse,
        };
        applier.statement(&set)
    };
    fn rows_table(pair: &Pair) -> TableSchema {
        let column = |name: &str| Column {
            name: name.to_owned(),
            data_type: DataType::Clob,
            native: "text".to_owned(),
            nullable: true,
            generated: false,
        };
        TableSchema {
            name: TableName::new(&pair.to, "t"),
            kind: TableKind::Table,
            family: Family::MySql,
            columns: ["a", "b", "c"].map(column).to_vec(),
            primary_key: vec![0],
            unique_key: Vec::new(),
            rows_estimate: 0,
        }
    }
    let new = |index: usize| RowChange { old: None, new: Some(images[index].clone()) };
    let old = |index: usize| RowChange { old: Some(images[index].clone()), new: None };
    let to = &pair.to;
    let cases = [
        (
            statement(Op::Insert, Key::Unique(&[0]), new(0)),
            format!("INSERT INTO `{to}`.`t`(`a`,`b`,`c`) VALUES ('1', 'it\\'s \\\\ é', NULL)"),
        ),
        (
            statement(Op::Update, Key::Unique(&[0]), new(1)),
            format!("UPDATE `{to}`.`t` SET `a`='2', `b`='new' WHERE `a`='2'"),
        ),
        (
            statement(Op::Delete, Key::Any(&[0, 2]), old(0)),
            format!("DELETE FROM `{to}`.`t` WHERE `a`='1' AND `c` IS NULL"),
        ),
    ];
    for (found, expected) in cases {
        assert_eq!(found, expected);
        pair.target_sql(&found);
    }
    assert_eq!(pair.target_sql("SELECT * FROM t"), "2\tnew\tNULL\n");
}
