//! Changes applied to a real server.

use super::*;
use crate::connector::{Applier, ChangeSet, Conflict, Key, RowChange};
use crate::data::{ErrorKind, Op, Value};

/// A table of both databases, and the images of its rows.
struct Rows {
    table: TableSchema,
    batch: Batch,
}

const NULL: &str = "\\N";
const ABSENT: &str = "-";

impl Rows {
    /// Images as `a|b|c`, a line each.
    async fn new(pair: &Pair, table: &str, images: &[&str]) -> Rows {
        let table = pair.describe("public", table).await;
        let mut batch = Batch::new();
        batch.clear(Format::Text);
        for image in images {
            for field in image.split('|') {
                batch.push(match field {
                    NULL => Value::Null,
                    ABSENT => Value::Absent,
                    text => Value::String(text.as_bytes()),
                });
            }
            batch.end_row();
        }
        Rows { table, batch }
    }

    fn images(&self) -> Vec<crate::data::Row<'_>> {
        (0..self.batch.rows()).map(|index| self.batch.row(index)).collect()
    }

    /// Applies the images: of an INSERT or UPDATE the new ones, of a DELETE the old ones.
    async fn apply(&self, applier: &mut dyn Applier, op: Op, conflict: Conflict) -> Result<u64> {
        let change = |image| match op {
            Op::Delete => RowChange { old: Some(image), new: None },
            Op::Insert | Op::Update => RowChange { old: None, new: Some(image) },
        };
        let rows: Vec<_> = self.images().into_iter().map(change).collect();
        self.change(applier, op, Key::Unique(&self.table.primary_key), conflict, &rows).await
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

async fn both_sides(sql: &str) -> Pair {
    let pair = Pair::new(sql);
    pair.target_sql(sql);
    pair
}

async fn begun(pair: &Pair) -> Box<dyn Applier> {
    let mut applier = pair.target.applier("task", Format::Text, 3).await.unwrap();
    applier.begin().await.unwrap();
    applier
}

#[tokio::test]
async fn sets_of_rows_are_changed_by_their_key() {
    let pair = both_sides(
        "CREATE TABLE t (a int, \"B \"\"b\" text, n numeric(6, 2), l int[], PRIMARY KEY (\"B \"\"b\", a));
         INSERT INTO t VALUES (1, 'x', 1, '{}'), (2, 'y', 2, '{2}'), (3, 'z', 3, NULL)",
    )
    .await;
    let mut applier = begun(&pair).await;
    let all = "SELECT t::text FROM t ORDER BY a";
    let insert = Rows::new(&pair, "t", &["4|it's \\ \"q\", {}\t|4.5|{1,2}", "5||\\N|\\N"]).await;
    assert_eq!(insert.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap(), 2);
    // Some columns of some rows did not change; one row is not there.
    let update = Rows::new(&pair, "t", &["1|x|-|{7}", "2|y|20|-", "9|none|1|-", "4|it's \\ \"q\", {}\t|\\N|-"]).await;
    assert_eq!(update.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 3);
    let delete = Rows::new(&pair, "t", &["3|z|-|-", "8|z|-|-"]).await;
    assert_eq!(delete.apply(&mut *applier, Op::Delete, Conflict::Refuse).await.unwrap(), 1);
    assert_eq!(pair.target_sql("SELECT count(*) FROM t"), "3", "nothing shows before the commit");
    applier.commit().await.unwrap();
    let expected = "(1,x,1.00,{7})\n(2,y,20.00,{2})\n(4,\"it's \\\\ \"\"q\"\", {}\t\",,\"{1,2}\")\n(5,\"\",,)";
    assert_eq!(pair.target_sql(all), expected);
}

#[tokio::test]
async fn a_key_that_changes_is_found_by_what_it_was() {
    let pair =
        both_sides("CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'one'), (2, 'two')").await;
    let mut applier = begun(&pair).await;
    let rows = Rows::new(&pair, "t", &["1|-", "10|-", "2|-", "20|zwei"]).await;
    let images = rows.images();
    let changes: Vec<RowChange<'_>> =
        images.chunks(2).map(|pair| RowChange { old: Some(pair[0].clone()), new: Some(pair[1].clone()) }).collect();
    let key = Key::Unique(&rows.table.primary_key);
    assert_eq!(rows.change(&mut *applier, Op::Update, key, Conflict::Refuse, &changes).await.unwrap(), 2);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM t ORDER BY a"), "10|one\n20|zwei");
}

#[tokio::test]
async fn rows_change_in_the_order_of_their_key_unless_they_could_stand_in_each_others_way() {
    let pair = both_sides(
        "CREATE TABLE free (a int PRIMARY KEY, b int); INSERT INTO free SELECT n, n FROM generate_series(1, 12) n;
         CREATE TABLE bound (a int PRIMARY KEY, b int UNIQUE); INSERT INTO bound VALUES (1, 10), (2, 20);
         CREATE TABLE partly (a int PRIMARY KEY, b int); INSERT INTO partly SELECT * FROM bound;
         CREATE UNIQUE INDEX ON partly (b) WHERE b > 0;
         CREATE TABLE exclusive (a int PRIMARY KEY, b int, EXCLUDE USING btree (b WITH =));
         INSERT INTO exclusive SELECT * FROM bound",
    )
    .await;
    let mut applier = begun(&pair).await;
    let rows = Rows::new(&pair, "free", &["10|1", "2|2", "9|3", "1|4"]).await;
    assert_eq!(rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 4);
    for table in ["bound", "partly", "exclusive"] {
        // By their keys, the first would come to have what the second still has.
        let rows = Rows::new(&pair, table, &["2|30", "1|20"]).await;
        assert_eq!(rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 2, "{table}");
    }
    applier.commit().await.unwrap();
    assert_eq!(
        pair.target_sql("SELECT string_agg(a::text, ' ' ORDER BY ctid) FROM free WHERE b < 5 AND ctid > '(0,12)'"),
        "1 2 9 10"
    );
}

#[tokio::test]
async fn rows_that_are_there_already_refuse_a_set_or_are_replaced() {
    let pair = both_sides("CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'old')").await;
    let mut applier = begun(&pair).await;
    let rows = Rows::new(&pair, "t", &["1|new", "2|new"]).await;
    applier.savepoint().await.unwrap();
    let error = rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap_err();
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Data, Some("23505")));
    applier.back_to_savepoint().await.unwrap();
    assert_eq!(rows.apply(&mut *applier, Op::Insert, Conflict::Replace).await.unwrap(), 2);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM t ORDER BY a"), "1|new\n2|new");
    applier.begin().await.unwrap();
    applier.truncate(&rows.table).await.unwrap();
    applier.rollback().await.unwrap();
    assert_eq!(pair.target_sql("SELECT count(*) FROM t"), "2");
}

#[tokio::test]
async fn of_rows_that_are_alike_one_is_changed() {
    let pair = both_sides(
        "CREATE TABLE t (a int, p point, j json); INSERT INTO t VALUES (1, '(1,2)', '{}'), (1, '(1,2)', '{}'), (NULL, NULL, NULL)",
    )
    .await;
    let mut applier = begun(&pair).await;
    let rows = Rows::new(&pair, "t", &["1|(1,2)|{}", "1|(1,2)|{ }", "\\N|\\N|\\N"]).await;
    let images = rows.images();
    let key = Key::Any(&[0, 1, 2]);
    let update = [RowChange { old: Some(images[0].clone()), new: Some(images[1].clone()) }];
    assert_eq!(rows.change(&mut *applier, Op::Update, key, Conflict::Refuse, &update).await.unwrap(), 1);
    let deletes = [0, 2, 2].map(|index: usize| RowChange { old: Some(images[index].clone()), new: None });
    assert_eq!(rows.change(&mut *applier, Op::Delete, key, Conflict::Refuse, &deletes).await.unwrap(), 2);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM t"), "1|(1,2)|{ }");
}

#[tokio::test]
async fn statements_are_prepared_once_and_kept_in_number() {
    let pair = both_sides("CREATE TABLE t (a int PRIMARY KEY, b int, c int); INSERT INTO t VALUES (1, 1, 1)").await;
    let mut applier = begun(&pair).await;
    for image in ["1|2|-", "1|-|2", "1|3|3", "1|-|4", "1|5|-", "1|6|-"] {
        let rows = Rows::new(&pair, "t", &[image]).await;
        assert_eq!(rows.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 1, "{image}");
    }
    let delete = Rows::new(&pair, "t", &["1|-|-"]).await;
    assert_eq!(delete.apply(&mut *applier, Op::Delete, Conflict::Refuse).await.unwrap(), 1);
    applier.commit().await.unwrap();
}

/// What the target's definition of a table `t` with the key `a` and a column `c` may have besides.
const INDEXES: [&str; 7] = [
    "SELECT 1",
    "CREATE UNIQUE INDEX ON t (c)",
    "CREATE UNIQUE INDEX ON t (a) WHERE a > 100",
    "ALTER TABLE t ADD UNIQUE (a) DEFERRABLE",
    "CREATE UNIQUE INDEX ON t (a, c)",
    "CREATE UNIQUE INDEX ON t (a) INCLUDE (c)",
    "CREATE UNIQUE INDEX ON t (c); CREATE UNIQUE INDEX ON t (a); CREATE UNIQUE INDEX ON t (b)",
];

#[tokio::test]
async fn rows_are_replaced_by_their_key_whatever_indexes_there_are() {
    let pair = Pair::new("CREATE TABLE t (a int NOT NULL UNIQUE, b text, c int)");
    for index in INDEXES {
        pair.target_sql(&format!(
            "DROP TABLE IF EXISTS t; CREATE TABLE t (a int NOT NULL, b text DEFAULT 'of its own', c int); {index};
             INSERT INTO t VALUES (1, 'old', 10), (2, 'stays', 20)"
        ));
        let mut applier = begun(&pair).await;
        let rows = Rows::new(&pair, "t", &["1|-|11", "3|three|30", "4|-|\\N"]).await;
        let images = rows.images();
        let changes: Vec<_> = images.iter().map(|image| RowChange { old: None, new: Some(image.clone()) }).collect();
        for _ in 0..2 {
            let replaced = rows.change(&mut *applier, Op::Insert, Key::Unique(&[0]), Conflict::Replace, &changes).await;
            assert_eq!(replaced.unwrap(), 3, "{index}");
        }
        applier.savepoint().await.unwrap();
        let taken = Rows::new(&pair, "t", &["5|five|20"]).await;
        let change = [RowChange { old: None, new: Some(taken.batch.row(0)) }];
        let outcome = taken.change(&mut *applier, Op::Insert, Key::Unique(&[0]), Conflict::Replace, &change).await;
        match index.contains("(c)") && !index.contains("INCLUDE") {
            true => assert_eq!(outcome.unwrap_err().sqlstate.as_deref(), Some("23505"), "{index}"),
            false => assert_eq!(outcome.unwrap(), 1, "{index}"),
        }
        applier.back_to_savepoint().await.unwrap();
        applier.commit().await.unwrap();
        let expected = "1|old|11\n2|stays|20\n3|three|30\n4|of its own|";
        assert_eq!(pair.target_sql("SELECT * FROM t ORDER BY a"), expected, "{index}");
    }
}

#[tokio::test]
async fn a_value_that_the_log_does_not_have_is_the_targets_default() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY, b text)");
    pair.target_sql("CREATE TABLE t (a int DEFAULT 7, b text DEFAULT 'b')");
    let mut applier = begun(&pair).await;
    let rows = Rows::new(&pair, "t", &["1|-", "2|two", "-|-", "-|null", "3|\\N"]).await;
    assert_eq!(rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap(), 5);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM t ORDER BY a, b"), "1|b\n2|two\n3|\n7|b\n7|null");
}

#[tokio::test]
async fn what_is_too_long_for_the_target_is_refused_and_not_cut() {
    let pair = Pair::new("CREATE TABLE t (k text PRIMARY KEY, v text, c text, b text, d text, l text[], n numeric)");
    pair.target_sql(
        "CREATE DOMAIN three AS varchar(3); CREATE TABLE t (k varchar(3) PRIMARY KEY, v varchar(3), c char(3), b bit(3),
         d three, l varchar(3)[], n numeric(4, 1)); INSERT INTO t (k) VALUES ('abc'), ('xyz')",
    );
    let mut applier = begun(&pair).await;
    for image in
        ["abc|abcd|-|-|-|-|-", "abc|-|abcd|-|-|-|-", "abc|-|-|1010|-|-|-", "abc|-|-|-|abcd|-|-", "abc|-|-|-|-|{abcd}|-"]
    {
        let rows = Rows::new(&pair, "t", &[image]).await;
        for (op, conflict) in [(Op::Update, Conflict::Refuse), (Op::Insert, Conflict::Replace)] {
            applier.savepoint().await.unwrap();
            let error = rows.apply(&mut *applier, op, conflict).await.unwrap_err();
            assert!(matches!(error.kind, ErrorKind::Truncation | ErrorKind::Data), "{image}: {error}");
            applier.back_to_savepoint().await.unwrap();
        }
        let change = [RowChange { old: Some(rows.batch.row(0)), new: Some(rows.batch.row(0)) }];
        let error =
            rows.change(&mut *applier, Op::Update, Key::Any(&[0]), Conflict::Refuse, &change).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Truncation | ErrorKind::Data), "{image}: {error}");
        applier.back_to_savepoint().await.unwrap();
    }
    let fits = Rows::new(&pair, "t", &["abc|abc|ab|101|abc|{abc}|1.25"]).await;
    assert_eq!(fits.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 1);
    // No row is found by the beginning of a key.
    let other = Rows::new(&pair, "t", &["abcd|-|-|-|-|-|-"]).await;
    assert_eq!(other.apply(&mut *applier, Op::Update, Conflict::Refuse).await.unwrap(), 0);
    assert_eq!(other.apply(&mut *applier, Op::Delete, Conflict::Refuse).await.unwrap(), 0);
    let change = [RowChange { old: Some(other.batch.row(0)), new: None }];
    assert_eq!(other.change(&mut *applier, Op::Delete, Key::Any(&[0]), Conflict::Refuse, &change).await.unwrap(), 0);
    // One is found by what was rounded.
    let change = [RowChange { old: Some(fits.batch.row(0)), new: None }];
    let key = Key::Unique(&[0, 2, 3, 4, 6]);
    assert_eq!(fits.change(&mut *applier, Op::Delete, key, Conflict::Refuse, &change).await.unwrap(), 1);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT k FROM t"), "xyz");
}

#[tokio::test]
async fn of_rows_in_several_partitions_one_is_changed() {
    let pair = Pair::new("CREATE TABLE t (a int, b int, c int)");
    pair.target_sql(
        "CREATE TABLE t (a int, b int, c int) PARTITION BY LIST (b); CREATE TABLE one PARTITION OF t FOR VALUES IN (1);
         CREATE TABLE two PARTITION OF t FOR VALUES IN (2); INSERT INTO t VALUES (1, 1, 0), (1, 2, 0)",
    );
    let mut applier = begun(&pair).await;
    let rows = Rows::new(&pair, "t", &["1|-|-", "1|-|5"]).await;
    let images = rows.images();
    let update = [RowChange { old: Some(images[0].clone()), new: Some(images[1].clone()) }];
    assert_eq!(rows.change(&mut *applier, Op::Update, Key::Any(&[0]), Conflict::Refuse, &update).await.unwrap(), 1);
    let delete = [RowChange { old: Some(images[0].clone()), new: None }];
    assert_eq!(rows.change(&mut *applier, Op::Delete, Key::Any(&[0]), Conflict::Refuse, &delete).await.unwrap(), 1);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT count(*) FROM t"), "1");
}

#[tokio::test]
async fn identity_columns_of_the_target_take_the_values_of_the_source() {
    let pair = Pair::new("CREATE TABLE t (id int PRIMARY KEY, v text, n int)");
    pair.target_sql("CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, n int)");
    let mut applier = begun(&pair).await;
    let rows = Rows::new(&pair, "t", &["5|a|1", "5|b|1", "5|c|1", "5|c|1"]).await;
    let images = rows.images();
    let insert = [RowChange { old: None, new: Some(images[0].clone()) }];
    let by_id = Key::Unique(&[0]);
    for _ in 0..2 {
        assert_eq!(rows.change(&mut *applier, Op::Insert, by_id, Conflict::Replace, &insert).await.unwrap(), 1);
    }
    // The source has whole old rows. The last one does not change, and is there all the same.
    let update = |place: usize| [RowChange { old: Some(images[place - 1].clone()), new: Some(images[place].clone()) }];
    assert_eq!(rows.change(&mut *applier, Op::Update, by_id, Conflict::Refuse, &update(1)).await.unwrap(), 1);
    assert_eq!(
        rows.change(&mut *applier, Op::Update, Key::Any(&[0, 1]), Conflict::Refuse, &update(2)).await.unwrap(),
        1
    );
    assert_eq!(rows.change(&mut *applier, Op::Update, by_id, Conflict::Refuse, &update(3)).await.unwrap(), 1);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM t"), "5|c|1");

    // Beside the key, too.
    pair.target_sql("DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, v text, n int GENERATED ALWAYS AS IDENTITY)");
    let mut applier = begun(&pair).await;
    for _ in 0..2 {
        assert_eq!(rows.change(&mut *applier, Op::Insert, by_id, Conflict::Replace, &insert).await.unwrap(), 1);
    }
    let update = [RowChange { old: None, new: Some(images[1].clone()) }];
    assert_eq!(rows.change(&mut *applier, Op::Update, by_id, Conflict::Refuse, &update).await.unwrap(), 1);
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT * FROM t"), "5|b|1");
}

#[tokio::test]
async fn a_commit_of_what_has_failed_is_an_error() {
    let pair = both_sides("CREATE TABLE t (a int PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'old')").await;
    let mut applier = begun(&pair).await;
    let rows = Rows::new(&pair, "t", &["2|new"]).await;
    rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
    rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap_err();
    let error = applier.commit().await.unwrap_err();
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Recoverable, Some("25P02")), "{error}");
    assert_eq!(pair.target_sql("SELECT * FROM t"), "1|old");
    applier.begin().await.unwrap();
    rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap();
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT count(*) FROM t"), "2");
}
