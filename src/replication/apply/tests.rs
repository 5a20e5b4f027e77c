//! Changes from a real server to a real server; and when they are committed, on one that only counts.

mod commits;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::log::TaskLog;
use super::super::settings::{self, TaskSettings};
use super::*;
use crate::connector::testing::nothing_durable;
use crate::connector::testing::postgres::{PostgresServer, postgres_server};
use crate::connector::{Beginning, Capture, ChangeReader, Source, engine};
use crate::data::Format;
use crate::mapping::Mapping;

/// A source and a target with the same tables, and the log between them.
struct Pair {
    server: &'static PostgresServer,
    from: String,
    to: String,
    source: Box<dyn Source>,
    target: Box<dyn Target>,
    capture: Capture,
    beginning: Position,
    rules: Rules,
}

impl Pair {
    async fn new(tables: &str, settings: serde_json::Value) -> Pair {
        let server = postgres_server();
        let (from, to) = (server.create_database(), server.create_database());
        for database in [&from, &to] {
            server.sql(database, &format!("CREATE TABLE ends (at timestamptz DEFAULT now()); {tables}"));
        }
        let postgres = engine("postgres").unwrap();
        let source = (postgres.open_source)(server.connection(&from));
        let tables = source.describe(&source.tables().await.unwrap()).await.unwrap();
        let capture = Capture {
            tables,
            selects: Arc::new(|name| name.schema == "public"),
            format: Format::Text,
            batch_bytes: 1 << 14,
            ..Capture::of(&from)
        };
        let Beginning { position, .. } = source.begin_capture(&capture, 1).await.unwrap();
        Pair {
            target: (postgres.open_target)(server.connection(&to)),
            server,
            from,
            to,
            source,
            capture,
            beginning: position,
            rules: rules(settings),
        }
    }

    fn both(&self, sql: &str) -> (String, String) {
        (self.server.sql(&self.from, sql), self.server.sql(&self.to, sql))
    }

    /// Reads and applies the log from its beginning; of its tables nothing is known.
    async fn begin(&self, start: Start) -> (Box<dyn ChangeReader>, Apply<'_>) {
        let reader = self.source.changes(&self.capture, &self.beginning, nothing_durable()).await.unwrap();
        let tables = self.capture.tables.iter().map(|table| (table.name.clone(), Known::default())).collect();
        let apply = Apply::start(&self.rules, &*self.target, Start { tables, ..start }).await.unwrap();
        (reader, apply)
    }

    /// Applies the log until the place where it is now; gives the counts by table.
    async fn catch_up(&self, replay: bool) -> Vec<AtCheckpoint> {
        let end: Position = self.server.sql(&self.from, "SELECT pg_current_wal_flush_lsn()").parse().unwrap();
        let start = Start { tolerant_until: replay.then_some(end.clone()), ..Start::default() };
        let (mut reader, mut apply) = self.begin(start).await;
        // A last transaction: of log without any for us the server tells only when it likes to.
        self.server.sql(&self.from, "INSERT INTO ends DEFAULT VALUES");
        let mut all = None;
        while all.as_ref().is_none_or(|durable: &Durable| durable.position < end) {
            let mut piece = Changes::default();
            reader.next(&mut piece).await.unwrap();
            let idle = piece.entries.is_empty() || matches!(piece.entries.last(), Some(Entry::Commit { .. }));
            let (durable, halt) = apply.take(piece, idle).await.unwrap();
            assert_eq!(halt, None);
            all = merge(all, durable);
        }
        all.unwrap().tables.into_iter().filter(|table| table.name.table != "ends").collect()
    }
}

/// Of a task that follows the schema `public`.
fn rules(settings: serde_json::Value) -> Rules {
    let mappings = serde_json::json!({ "rules": [{
        "rule-type": "selection", "rule-id": "1", "rule-name": "1", "rule-action": "include",
        "object-locator": { "schema-name": "public", "table-name": "%" }
    }]});
    let context = settings::Context { replication_instance_identifier: "ri", task_resource_id: "TASK" };
    let settings = settings::create(Some(&settings.to_string()), context).unwrap();
    Rules {
        task: "TASK".into(),
        mapping: Arc::new(Mapping::parse(&mappings.to_string()).unwrap()),
        settings: Arc::new(TaskSettings::from_canonical(&settings).unwrap()),
        log: Arc::new(TaskLog::nowhere()),
        format: Format::Text,
    }
}

/// The next piece that has the end of a transaction.
async fn with_commit(reader: &mut dyn ChangeReader) -> Changes {
    let mut piece = Changes::default();
    while !piece.entries.iter().any(|entry| matches!(entry, Entry::Commit { .. })) {
        reader.next(&mut piece).await.unwrap();
    }
    piece
}

const TABLES: &str = "
    CREATE TABLE keyed (id int PRIMARY KEY, a text, b numeric(9, 2), big text);
    ALTER TABLE keyed ALTER big SET STORAGE EXTERNAL;
    CREATE TABLE twice (x text, y int, v int, PRIMARY KEY (y, x));
    CREATE TABLE whole (a int, b text); ALTER TABLE whole REPLICA IDENTITY FULL;
    CREATE TABLE log (a int, b text);";

/// Some transactions of everything, some of which are rolled back.
fn workload(random: &mut StdRng, transactions: usize) -> String {
    let mut sql = String::new();
    for _ in 0..transactions {
        sql.push_str("BEGIN;\n");
        for _ in 0..random.random_range(1..12) {
            let (id, n) = (random.random_range(0..40), random.random_range(0..1000));
            let statement = match random.random_range(0..14) {
                0..3 => {
                    format!("INSERT INTO keyed VALUES ({id}, 'n{n}', {n}, repeat('{n}', 3000)) ON CONFLICT DO NOTHING")
                }
                3..5 => format!("UPDATE keyed SET a = 'it''s \\ {n}' WHERE id = {id}"),
                5 => format!("UPDATE keyed SET b = NULL, big = NULL WHERE id = {id}"),
                6 => format!("DELETE FROM keyed WHERE id = {id}"),
                7 => format!(
                    "UPDATE keyed SET id = {n} WHERE id = {id} AND NOT EXISTS (SELECT FROM keyed WHERE id = {n})"
                ),
                8 => format!(
                    "INSERT INTO twice VALUES ('k{id}', {id}, {n}) ON CONFLICT (y, x) DO UPDATE SET v = EXCLUDED.v"
                ),
                9 => format!("DELETE FROM twice WHERE y = {id}"),
                10 => format!("INSERT INTO whole VALUES ({id}, NULL), ({id}, NULL), ({id}, 'x')"),
                11 => {
                    format!("UPDATE whole SET b = 'y{n}' WHERE ctid = (SELECT ctid FROM whole WHERE a = {id} LIMIT 1)")
                }
                12 => format!("DELETE FROM whole WHERE ctid = (SELECT ctid FROM whole WHERE a = {id} LIMIT 1)"),
                _ => format!("INSERT INTO log SELECT {n}, 'l' FROM generate_series(1, {})", random.random_range(1..50)),
            };
            sql.push_str(&statement);
            sql.push_str(";\n");
        }
        sql.push_str(if random.random_ratio(1, 8) { "ROLLBACK;\n" } else { "COMMIT;\n" });
    }
    sql
}

const ALL: &str =
    "SELECT md5(string_agg(r, '|' ORDER BY r COLLATE \"C\")) FROM (SELECT 'k' || t::text AS r FROM keyed t
    UNION ALL SELECT 't' || t::text FROM twice t UNION ALL SELECT 'w' || t::text FROM whole t
    UNION ALL SELECT 'l' || t::text FROM log t) r";

#[tokio::test]
async fn whatever_happened_on_the_source_is_so_on_the_target() {
    for (seed, size) in [(1, 1), (2, 1000), (3, 50), (4, 1000), (5, 10)] {
        let settings = serde_json::json!({ "ChangeProcessingTuning": { "MinTransactionSize": size } });
        let pair = Pair::new(TABLES, settings).await;
        pair.server.sql(&pair.from, &workload(&mut StdRng::seed_from_u64(seed), 150));
        let counts = pair.catch_up(false).await;
        let (source, target) = pair.both(ALL);
        assert_eq!(source, target, "seed {seed}");
        for table in &counts {
            assert_eq!(table.captured, table.applied, "{}", table.name);
        }
        assert_eq!(counts.len(), 4);
        assert_eq!(pair.server.sql(&pair.to, "SELECT to_regclass('public.awsdms_apply_exceptions')"), "");
        // The log again, from its beginning: nothing that has a key is harmed.
        pair.catch_up(true).await;
        let keyed =
            "SELECT md5(string_agg(r, '|' ORDER BY r COLLATE \"C\")) FROM (SELECT 'k' || t::text AS r FROM keyed t
            UNION ALL SELECT 't' || t::text FROM twice t) r";
        let (source, target) = pair.both(keyed);
        assert_eq!(source, target, "seed {seed}, again");
        pair.source.end_capture(&pair.capture).await.unwrap();
    }
}

#[tokio::test]
async fn a_change_that_is_refused_is_recorded_and_takes_no_other_along() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY, b int)", serde_json::json!({})).await;
    pair.server.sql(&pair.to, "INSERT INTO t VALUES (2, 22); ALTER TABLE t ADD CHECK (b <> 13)");
    pair.server.sql(
        &pair.from,
        "BEGIN; INSERT INTO t VALUES (1, 1), (2, 2), (3, 13), (4, 4); UPDATE t SET b = 5 WHERE a = 3;
         UPDATE t SET b = 7 WHERE a = 4; DELETE FROM t WHERE a = 1; COMMIT",
    );
    let counts = pair.catch_up(false).await;
    assert_eq!(pair.server.sql(&pair.to, "SELECT * FROM t ORDER BY a"), "2|22\n4|7");
    let recorded = "SELECT \"STATEMENT\" FROM awsdms_apply_exceptions ORDER BY 1";
    let expected = "INSERT INTO \"public\".\"t\" (\"a\", \"b\") VALUES ('2', '2')\n\
        INSERT INTO \"public\".\"t\" (\"a\", \"b\") VALUES ('3', '13')\n\
        UPDATE \"public\".\"t\" SET \"a\" = '3', \"b\" = '5' WHERE \"a\" = '3'";
    assert_eq!(pair.server.sql(&pair.to, recorded), expected);
    assert_eq!(counts[0].captured, Counts { inserts: 4, updates: 2, deletes: 1, ddls: 0 });
    assert_eq!(counts[0].applied, Counts { inserts: 2, updates: 1, deletes: 1, ddls: 0 });
}

/// A value that does not get to the target is none of it, and one that does is, though it be of the row before.
#[tokio::test]
async fn a_value_that_was_cut_counts_where_the_target_gets_it() {
    let settings = serde_json::json!({
        "TargetMetadata": { "LobMaxSize": 1 },
        "ErrorBehavior": { "DataTruncationErrorPolicy": "IGNORE_RECORD" },
    });
    let tables = "CREATE TABLE t (a int PRIMARY KEY, kept text, gone text); ALTER TABLE t REPLICA IDENTITY FULL";
    let mut pair = Pair::new(tables, settings).await;
    let locator = serde_json::json!({ "schema-name": "public", "table-name": "t" });
    let rule = |number: u32, kind: &str, more: serde_json::Value| {
        let name = number.to_string();
        let mut rule = serde_json::json!({ "rule-type": kind, "rule-id": name, "rule-name": name });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    let before = serde_json::json!({ "column-prefix": "old_", "column-filter": "all" });
    let mappings = serde_json::json!({ "rules": [
        rule(1, "selection", serde_json::json!({ "rule-action": "include",
            "object-locator": { "schema-name": "public", "table-name": "%" } })),
        rule(2, "transformation", serde_json::json!({ "rule-action": "remove-column", "rule-target": "column",
            "object-locator": { "schema-name": "public", "table-name": "t", "column-name": "gone" } })),
        rule(3, "transformation", serde_json::json!({ "rule-action": "add-before-image-columns",
            "rule-target": "column", "object-locator": locator, "before-image-def": before })),
    ]});
    pair.rules.mapping = Arc::new(Mapping::parse(&mappings.to_string()).unwrap());
    pair.capture.lob_bytes_max = pair.rules.lob_bytes_max();
    pair.capture.old_rows = true;
    pair.server.sql(&pair.to, "ALTER TABLE t DROP gone, ADD old_a int, ADD old_kept text");
    pair.server.sql(
        &pair.from,
        "INSERT INTO t VALUES (1, 'short', repeat('x', 1025)), (2, repeat('x', 1025), 'short'), (3, repeat('x', 1024), '');
         UPDATE t SET kept = repeat('y', 1025) WHERE a = 3; UPDATE t SET kept = 'short again' WHERE a = 3;
         UPDATE t SET kept = 'changed' WHERE a = 1; DELETE FROM t WHERE a = 2",
    );
    let counts = pair.catch_up(false).await;
    assert_eq!(pair.server.sql(&pair.to, "SELECT a, kept, old_kept FROM t WHERE a = 1"), "1|changed|short");
    assert_eq!(pair.server.sql(&pair.to, "SELECT length(kept) FROM t WHERE a = 3"), "1024");
    assert_eq!(counts[0].captured, Counts { inserts: 3, updates: 3, deletes: 1, ddls: 0 });
    assert_eq!(counts[0].applied, Counts { inserts: 2, updates: 1, deletes: 0, ddls: 0 });
}

/// The source is idle, and nothing more comes.
#[tokio::test]
async fn a_table_that_the_log_cannot_tell_of_is_given_up_at_once() {
    let pair = Pair::new("CREATE TABLE t (a int NOT NULL)", serde_json::json!({})).await;
    pair.server.sql(&pair.from, "ALTER TABLE t ADD PRIMARY KEY (a)");
    let (mut reader, mut apply) = pair.begin(Start::default()).await;
    let mut piece = Changes::default();
    reader.next(&mut piece).await.unwrap();
    let (durable, _) = apply.take(piece, true).await.unwrap();
    let durable = durable.unwrap();
    assert_eq!(durable.position, pair.beginning);
    let told: Vec<_> = durable.tables.iter().map(|table| (table.name.table.as_str(), table.standing)).collect();
    assert_eq!(told, [("t", Standing::Suspended)]);
}

/// The transaction up to which the target has all held rows of a table that is not followed any more.
#[tokio::test]
async fn what_comes_after_the_place_that_the_target_has_is_applied() {
    let tables = "CREATE TABLE gone (a int PRIMARY KEY); CREATE TABLE kept (a int PRIMARY KEY)";
    let mut pair = Pair::new(tables, serde_json::json!({})).await;
    pair.server.sql(&pair.from, "INSERT INTO gone VALUES (1)");
    pair.catch_up(false).await;
    pair.capture.tables.retain(|table| table.name.table == "kept");
    pair.capture.selects = Arc::new(|name| name.table == "kept");
    pair.server.sql(&pair.from, "INSERT INTO kept VALUES (1)");

    let mut reader = pair.source.changes(&pair.capture, &pair.beginning, nothing_durable()).await.unwrap();
    let tables = HashMap::from([(TableName::new("public", "kept"), Known::default())]);
    let start = Start { tables, from: Some(pair.beginning.clone()), ..Start::default() };
    let mut apply = Apply::start(&pair.rules, &*pair.target, start).await.unwrap();
    let mut told = false;
    while !told {
        let mut piece = Changes::default();
        reader.next(&mut piece).await.unwrap();
        let (durable, _) = apply.take(piece, true).await.unwrap();
        told = durable.is_some_and(|durable| !durable.tables.is_empty());
    }
    assert_eq!(pair.server.sql(&pair.to, "SELECT * FROM kept"), "1");
}

/// Whoever waits for what is due would come again and again, with a `CommitTimeout` of 0 without a pause.
#[tokio::test]
async fn nothing_is_due_in_the_middle_of_a_transaction() {
    let settings = serde_json::json!({ "ChangeProcessingTuning": { "CommitTimeout": 0 } });
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)", settings).await;
    pair.server.sql(&pair.from, "INSERT INTO t VALUES (1)");
    let (mut reader, mut apply) = pair.begin(Start::default()).await;
    let (mut piece, mut rest) = (Changes::default(), Changes::default());
    while !piece.entries.iter().any(|entry| matches!(entry, Entry::Row { .. })) {
        reader.next(&mut piece).await.unwrap();
    }
    let commit = piece.entries.iter().position(|entry| matches!(entry, Entry::Commit { .. })).unwrap();
    rest.entries = piece.entries.split_off(commit);
    rest.resume = piece.resume.take();
    apply.take(piece, true).await.unwrap();
    assert!(apply.is_partial());
    assert_eq!(apply.due(), None);
    let (durable, _) = apply.take(rest, false).await.unwrap();
    assert!(durable.is_some());
}

/// A source may tell of it once, and then be idle.
#[tokio::test]
async fn log_that_holds_nothing_for_us_is_behind_when_the_batch_before_it_is_durable() {
    let settings = serde_json::json!({ "TargetMetadata": { "BatchApplyEnabled": true } });
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)", settings).await;
    pair.server.sql(&pair.from, "INSERT INTO t VALUES (1)");
    let (mut reader, mut apply) = pair.begin(Start::default()).await;
    let piece = with_commit(reader.as_mut()).await;
    assert_eq!(apply.take(piece, true).await.unwrap(), (None, None));
    let further = Position::Lsn(u64::MAX);
    let nothing = Changes { resume: Some(further.clone()), ..Changes::default() };
    assert_eq!(apply.take(nothing, true).await.unwrap(), (None, None));
    let durable = apply.at_due().await.unwrap().unwrap();
    assert_eq!((durable.position, durable.tables.len()), (further, 1));
}

/// Of a table that came into being, the log may tell before it is known that rows of it are lacking.
#[tokio::test]
async fn what_was_told_of_a_table_that_must_be_loaded_counts_as_in_the_load() {
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY)", serde_json::json!({})).await;
    pair.server.sql(&pair.from, "INSERT INTO t VALUES (1)");
    let beginning = pair.source.log_end().await.unwrap();
    pair.server.sql(&pair.from, "DELETE FROM t");
    let mut reader = pair.source.changes(&pair.capture, &beginning, nothing_durable()).await.unwrap();
    let mut apply = Apply::start(&pair.rules, &*pair.target, Start::default()).await.unwrap();
    let mut take = async |apply: &mut Apply<'_>| {
        let piece = with_commit(reader.as_mut()).await;
        apply.take(piece, true).await.unwrap().0
    };
    let mut durable = take(&mut apply).await;
    let names = apply.take_created();
    assert_eq!(names, [TableName::new("public", "t")]);
    apply.must_load(&names, &mut durable);
    let counts = |durable: Option<Durable>| {
        let table = durable.unwrap().tables.into_iter().next().unwrap();
        (table.captured, table.applied, table.standing)
    };
    let deleted = Counts { deletes: 1, ..Counts::default() };
    assert_eq!(counts(durable), (deleted, deleted, Standing::Unloaded));
    pair.server.sql(&pair.from, "INSERT INTO t VALUES (2)");
    let both = Counts { inserts: 1, ..deleted };
    assert_eq!(counts(take(&mut apply).await), (both, both, Standing::Unloaded));
    assert_eq!(pair.server.sql(&pair.to, "SELECT count(*) FROM t"), "0");
}

/// Its time is far away.
#[tokio::test]
async fn a_batch_goes_when_it_has_its_memory() {
    let settings = serde_json::json!({
        "TargetMetadata": { "BatchApplyEnabled": true },
        "ChangeProcessingTuning": { "BatchApplyMemoryLimit": 1, "BatchApplyTimeoutMin": 3600, "BatchApplyTimeoutMax": 7200 },
    });
    let pair = Pair::new("CREATE TABLE t (a int PRIMARY KEY, b text)", settings).await;
    let insert = |rows: &str| format!("INSERT INTO t SELECT n, repeat('b', 1000) FROM generate_series({rows}) n;");
    let small: String = (1..=600).map(|n| insert(&format!("{n}, {n}"))).collect();
    pair.server.sql(&pair.from, &format!("{small} {}", insert("1001, 5000")));
    let (mut reader, mut apply) = pair.begin(Start::default()).await;
    let (mut durable, mut bytes) = (None, 0);
    while durable.is_none() {
        let mut piece = Changes::default();
        reader.next(&mut piece).await.unwrap();
        bytes += piece.bytes();
        (durable, _) = apply.take(piece, true).await.unwrap();
        assert!(bytes < 8 << 20, "{bytes} bytes wait");
    }
    // Not before it has it; what is too large for it at once becomes durable in its end.
    assert_eq!((durable.unwrap().rows, pair.server.sql(&pair.to, "SELECT count(*) FROM t")), (4600, "4600".into()));

    // What comes right after it does not wait for the time between two batches, what comes after that does.
    for (number, waits) in [(1, false), (2, true)] {
        pair.server.sql(&pair.from, &format!("DELETE FROM t WHERE a = {number}"));
        let piece = with_commit(reader.as_mut()).await;
        assert_eq!(apply.take(piece, true).await.unwrap(), (None, None));
        assert_eq!(apply.due().unwrap() > Instant::now() + Duration::from_secs(60), waits);
        if !waits {
            assert_eq!(apply.at_due().await.unwrap().unwrap().rows, 1);
        }
    }
}

#[tokio::test]
async fn no_more_statements_are_kept_on_the_target_than_the_setting_says() {
    // Those of the session that applies, told by what it sets off.
    let told = "CREATE TABLE held (n bigint);
        CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO held SELECT count(*) FROM pg_prepared_statements; RETURN NULL; END $$;";
    let tables = |sql: &str| (0..6).map(|number| sql.replace('#', &number.to_string())).collect::<String>();
    // The first rows are told again: there are three statements for each table.
    for (size, most) in [(0, 0), (1, 1), (4, 4), (200, 18)] {
        let settings = serde_json::json!({ "ChangeProcessingTuning": { "StatementCacheSize": size } });
        let pair = Pair::new(&tables("CREATE TABLE t# (id int PRIMARY KEY, a int);"), settings).await;
        pair.both(&tables("INSERT INTO t# SELECT n, 1 FROM generate_series(1, 5) AS n;"));
        let triggers = "CREATE TRIGGER told AFTER UPDATE OR DELETE ON t# EXECUTE FUNCTION tell();";
        let refusal = "ALTER TABLE t# ADD CHECK (a <> 13);";
        pair.server.sql(&pair.to, &format!("{told}{}{}", tables(triggers), tables(refusal)));
        for (gone, refused) in [(2, 4), (3, 5)] {
            let sql = format!(
                "UPDATE t# SET a = 13 WHERE id = {refused}; DELETE FROM t# WHERE id = {gone}; UPDATE t# SET a = {gone} WHERE id = 1;"
            );
            pair.server.sql(&pair.from, &tables(&sql));
        }
        pair.catch_up(true).await;
        let (source, target) = pair.both("SELECT * FROM t0, t5 WHERE t0.id < 4 AND t5.id < 4");
        assert_eq!(source, target);
        assert_eq!(pair.server.sql(&pair.to, "SELECT count(*) FROM awsdms_apply_exceptions"), "12");
        assert_eq!(pair.server.sql(&pair.to, "SELECT max(n) FROM held"), most.to_string(), "{size}");
        pair.source.end_capture(&pair.capture).await.unwrap();
    }
}
