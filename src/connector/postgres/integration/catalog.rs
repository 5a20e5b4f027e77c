//! What the catalog tells, and what snapshots show.

use super::*;
use crate::data::{DataType, ErrorKind};

fn names(entries: &[TableEntry]) -> Vec<String> {
    entries.iter().map(|entry| format!("{}:{:?}", entry.name, entry.kind)).collect()
}

#[tokio::test]
async fn lists_what_dms_reports() {
    let pair = Pair::new(
        "CREATE SCHEMA app; CREATE TABLE app.plain (a int); CREATE VIEW app.seen AS SELECT 1 AS one;
         CREATE MATERIALIZED VIEW app.stored AS SELECT 1 AS one; CREATE TABLE awsdms_status (a int);
         CREATE TABLE parted (a int) PARTITION BY RANGE (a); CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (9);
         CREATE UNLOGGED TABLE unlogged (a int); CREATE SEQUENCE sequence; CREATE TEMP TABLE temporary (a int)",
    );
    pair.source.check().await.unwrap();
    assert_eq!(pair.source.schemas().await.unwrap(), ["app", "public"]);
    let tables = pair.source.tables().await.unwrap();
    let expected =
        ["app.plain:Table", "app.seen:View", "public.part:Table", "public.parted:Table", "public.unlogged:Table"];
    assert_eq!(names(&tables), expected);
    let gone = TableEntry { name: TableName::new("app", "gone"), kind: TableKind::Table };
    let described = pair.source.describe(&[tables[4].clone(), gone, tables[0].clone()]).await.unwrap();
    let described: Vec<_> = described.iter().map(|table| table.name.table.as_str()).collect();
    assert_eq!(described, ["unlogged", "plain"]);
}

#[tokio::test]
async fn describes_columns_and_keys() {
    let pair = Pair::new(
        "CREATE TABLE keyed (dropped int, b int, a text NOT NULL, gone int, i int GENERATED ALWAYS AS IDENTITY,
           g int GENERATED ALWAYS AS (b * 2) STORED, s bigserial, v varchar(7) NOT NULL,
           PRIMARY KEY (a, b) INCLUDE (v));
         ALTER TABLE keyed DROP COLUMN dropped, DROP COLUMN gone;
         CREATE TABLE unique_only (a int, b int NOT NULL, c int NOT NULL, d int NOT NULL, UNIQUE (a), UNIQUE (b, c, d),
           UNIQUE (d) DEFERRABLE, UNIQUE (b, d));
         CREATE UNIQUE INDEX ON unique_only (c) WHERE b > 0; CREATE UNIQUE INDEX ON unique_only ((d + 1));
         INSERT INTO unique_only SELECT i, i, i, i FROM generate_series(1, 500) i; ANALYZE unique_only",
    );
    let table = pair.describe("public", "keyed").await;
    let columns: Vec<_> =
        table.columns.iter().map(|c| (c.name.as_str(), c.native.as_str(), c.nullable, c.generated)).collect();
    let expected = [
        ("b", "integer", false, false),
        ("a", "text", false, false),
        ("i", "integer", false, false),
        ("g", "integer", true, true),
        ("s", "bigint", false, false),
        ("v", "character varying(7)", false, false),
    ];
    assert_eq!(columns, expected);
    assert_eq!((table.primary_key.as_slice(), table.row_key()), (&[1, 0][..], &[1, 0][..]));
    assert_eq!(table.columns[1].data_type, DataType::NClob);
    let table = pair.describe("public", "unique_only").await;
    assert_eq!((table.primary_key.len(), table.unique_key.as_slice(), table.rows_estimate), (0, &[1, 3][..], 500));
}

#[tokio::test]
async fn a_table_that_was_never_analyzed_is_estimated() {
    let pair = Pair::new("CREATE TABLE fresh WITH (autovacuum_enabled = off) AS SELECT generate_series(1, 700) i");
    // A session tells its counts at its end at the latest, which another sees a moment later.
    while pair.describe("public", "fresh").await.rows_estimate != 700 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn parents_are_read_with_their_children() {
    let pair = Pair::new(
        "CREATE TABLE parted (a int PRIMARY KEY, b text) PARTITION BY RANGE (a);
         CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (50) PARTITION BY RANGE (a);
         CREATE TABLE lowest PARTITION OF low FOR VALUES FROM (0) TO (50);
         CREATE TABLE high PARTITION OF parted FOR VALUES FROM (50) TO (100);
         INSERT INTO parted SELECT i, 'x' FROM generate_series(1, 99) i;
         CREATE TABLE parent (a int, g int GENERATED ALWAYS AS (a + 1) STORED); CREATE TABLE child (b int) INHERITS (parent);
         INSERT INTO parent VALUES (1), (2); INSERT INTO child (a, b) VALUES (3, 4); ANALYZE",
    );
    assert_eq!(pair.describe("public", "parted").await.rows_estimate, 99);
    for format in FORMATS {
        for (table, rows) in [("parted", 99), ("low", 49), ("high", 50), ("parent", 3), ("child", 1)] {
            assert_eq!(pair.load(table, how(format)).await.rows, rows, "{table} {format:?}");
        }
        let (source, target) = pair.both("parent", "t");
        assert_eq!(source, target);
    }
    assert_eq!(pair.target_sql("SELECT relkind FROM pg_class WHERE relname = 'parted'"), "r");
}

#[tokio::test]
async fn all_readers_see_one_moment() {
    let pair = Pair::new(
        "CREATE TABLE a (n int); CREATE TABLE b (n int); INSERT INTO a VALUES (1); INSERT INTO b VALUES (1);",
    );
    let (a, b) = (pair.describe("public", "a").await, pair.describe("public", "b").await);
    let snapshot = open(&*pair.source, 2).await;
    pair.source_sql("INSERT INTO a VALUES (2); INSERT INTO b VALUES (2); ");
    assert_eq!(snapshot.readers(), 2);
    let mut batch = Batch::new();
    let mut readers = Vec::new();
    for table in [&a, &b] {
        readers.push(snapshot.read(plan(table, how(Format::Text))).await.unwrap());
    }
    for reader in &mut readers {
        assert!(reader.next(&mut batch).await.unwrap());
        assert_eq!(batch.rows(), 1);
        assert!(!reader.next(&mut batch).await.unwrap());
    }
}

#[tokio::test]
async fn a_dropped_reader_gives_its_place_back_and_stops_the_server() {
    let pair = Pair::new("CREATE TABLE n (n int); INSERT INTO n VALUES (1); CREATE VIEW v AS
        SELECT generate_series(1, 100000000) AS n; CREATE VIEW slow AS SELECT count(*) FROM generate_series(1, 10000000000)");
    let snapshot = open(&*pair.source, 1).await;
    let mut batch = Batch::new();
    for view in ["v", "slow"] {
        let entry = TableEntry { name: TableName::new("public", view), kind: TableKind::View };
        let table = pair.source.describe(&[entry]).await.unwrap().pop().unwrap();
        // The server answers nothing before the slow view's first row, so that one never gets to a reader.
        let reading = async {
            let mut reader = snapshot.read(plan(&table, how(Format::Text))).await.unwrap();
            assert!(reader.next(&mut batch).await.unwrap());
        };
        let limit_ms = if view == "v" { 60_000 } else { 500 };
        let done = tokio::time::timeout(std::time::Duration::from_millis(limit_ms), reading).await;
        assert_eq!(done.is_ok(), view == "v");
        let busy = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%COPY%\"{view}\"%' AND state = 'active' \
             AND datname = '{}' AND pid <> pg_backend_pid()",
            pair.source_database
        );
        let stopped = async {
            while pair.source_sql(&busy) != "0" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), stopped).await.expect("the server has stopped");
    }
    let table = pair.describe("public", "n").await;
    let mut reader = snapshot.read(plan(&table, how(Format::Text))).await.unwrap();
    assert!(reader.next(&mut batch).await.unwrap());
}

#[tokio::test]
async fn a_table_that_cannot_be_read_is_an_error_of_that_table() {
    let pair = Pair::new("CREATE TABLE gone (n int); CREATE TABLE there (n int); INSERT INTO there VALUES (7)");
    let (gone, there) = (pair.describe("public", "gone").await, pair.describe("public", "there").await);
    pair.source_sql("DROP TABLE gone");
    let snapshot = open(&*pair.source, 1).await;
    let error = snapshot.read(plan(&gone, how(Format::Text))).await.err().unwrap();
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Table, Some("42P01")));
    assert_eq!(error.to_string(), "read public.gone: relation \"public.gone\" does not exist [SQLSTATE 42P01]");
    let mut batch = Batch::new();
    assert!(snapshot.read(plan(&there, how(Format::Values))).await.unwrap().next(&mut batch).await.unwrap());
}

#[tokio::test]
async fn tables_are_prepared_as_asked() {
    let pair =
        Pair::new("CREATE TABLE p (id int PRIMARY KEY, n varchar(9) NOT NULL, o int); INSERT INTO p VALUES (1, 'x')");
    let table = pair.describe("public", "p").await;
    let mut elsewhere = table.clone();
    elsewhere.name = TableName::new("New Schema", "p");
    let prepare = |mode, key| pair.target.prepare(&elsewhere, mode, key);
    let count = || pair.target_sql("SELECT count(*) FROM \"New Schema\".p");
    let insert = || pair.target_sql("INSERT INTO \"New Schema\".p VALUES (9, 'y', NULL)");
    prepare(PrepareMode::DoNothing, CreateKey::AfterLoad).await.unwrap();
    let keys = "SELECT count(*) FROM pg_index WHERE indrelid = '\"New Schema\".p'::regclass";
    assert_eq!(pair.target_sql(keys), "0");
    for _ in 0..2 {
        pair.target.finish(&elsewhere, CreateKey::AfterLoad).await.unwrap();
        assert_eq!(pair.target_sql(keys), "1");
    }
    let nulls = "SELECT string_agg(attnotnull::text, ',' ORDER BY attnum) FROM pg_attribute \
        WHERE attrelid = '\"New Schema\".p'::regclass AND attnum > 0";
    assert_eq!(pair.target_sql(nulls), "true,true,false");
    insert();
    prepare(PrepareMode::DoNothing, CreateKey::WithTable).await.unwrap();
    assert_eq!(count(), "1");
    prepare(PrepareMode::TruncateBeforeLoad, CreateKey::WithTable).await.unwrap();
    assert_eq!(count(), "0");
    insert();
    pair.target_sql("ALTER TABLE \"New Schema\".p ADD extra int");
    prepare(PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
    assert_eq!((count(), pair.target_sql(keys)), ("0".into(), "1".into()));
    pair.target_sql(
        "CREATE VIEW \"New Schema\".v AS SELECT extra FROM (SELECT 1 AS extra, id FROM \"New Schema\".p) x",
    );
    let error = prepare(PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap_err();
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Table, Some("2BP01")));
}

#[tokio::test]
async fn a_schema_may_be_created_by_many_at_once() {
    let pair = Pair::new("CREATE TABLE p (id int PRIMARY KEY)");
    let table = pair.describe("public", "p").await;
    let target = &pair.target;
    let all = (0..8).map(|index| {
        let mut table = table.clone();
        table.name = TableName::new("shared", format!("p{index}"));
        async move { target.prepare(&table, PrepareMode::DropAndCreate, CreateKey::WithTable).await }
    });
    for prepared in futures_util::future::join_all(all).await {
        prepared.unwrap();
    }
    assert_eq!(pair.target_sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'shared'"), "8");
}

#[tokio::test]
async fn exceptions_are_recorded_as_dms_does() {
    use crate::connector::ApplyException;
    let pair = Pair::new("");
    let exceptions: Vec<ApplyException> = (0..250)
        .map(|index| ApplyException {
            task: "TASK".repeat(40),
            table: TableName::new("s", "t"),
            statement: format!("INSERT 'it''s {index}' \\ \0"),
            error: "error \"x\"".into(),
        })
        .collect();
    pair.target.record_exceptions("", &exceptions).await.unwrap();
    pair.target.record_exceptions("dms logs", &exceptions[..1]).await.unwrap();
    let sql = "SELECT count(*), min(length(\"TASK_NAME\")), min(\"TABLE_OWNER\"), min(\"TABLE_NAME\"), min(\"STATEMENT\"), \
        min(\"ERROR\"), max(abs(extract(epoch FROM \"ERROR_TIME\" - timezone('UTC', now()))) < 600) FROM awsdms_apply_exceptions";
    let sql = sql.replace("max(abs", "bool_and(abs");
    assert_eq!(pair.target_sql(&sql), "250|128|s|t|INSERT 'it''s 0' \\  |error \"x\"|t");
    assert_eq!(pair.target_sql("SELECT count(*) FROM \"dms logs\".awsdms_apply_exceptions"), "1");
}
