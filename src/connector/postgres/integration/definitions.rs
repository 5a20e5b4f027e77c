//! Statements that define tables, in the log of a real server.

use super::log::{Log, capture, plugins};
use super::*;
use crate::connector::{Adoption, Capture};
use crate::data::{Changes, Entry};

fn pair(plugin: &str, setup: &str) -> Pair {
    Pair::with(setup, json!({ "PluginName": plugin }))
}

/// One that sees only what rows show.
fn blind(plugin: &str, setup: &str) -> Pair {
    Pair::with(setup, json!({ "PluginName": plugin, "CaptureDdls": false }))
}

#[tokio::test]
async fn statements_are_told_in_the_order_of_the_log_though_the_catalog_is_ahead() {
    for plugin in plugins() {
        let setup = "CREATE TYPE mood AS ENUM ('ok'); CREATE DOMAIN tiny AS numeric(5, 2);
            CREATE TABLE t (a int PRIMARY KEY, gone tiny, m mood); CREATE SCHEMA elsewhere";
        let pair = pair(plugin, setup);
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("INSERT INTO t VALUES (1, 2.5, 'ok')");
        pair.source_sql("ALTER TABLE t DROP COLUMN gone, ADD COLUMN late varchar(3) COLLATE \"C\"");
        pair.source_sql("INSERT INTO t VALUES (2, 'ok', 'new')");
        pair.source_sql("ALTER TABLE public.t ALTER late TYPE numeric(9, 1) USING NULL");
        pair.source_sql("BEGIN; ALTER TABLE t RENAME m TO \"Mood\"; UPDATE t SET late = 3 WHERE a = 2; COMMIT");
        pair.source_sql("ALTER TABLE IF EXISTS t RENAME TO \"T two\"; INSERT INTO \"T two\" VALUES (3)");
        pair.source_sql("TRUNCATE \"T two\"; DROP TABLE \"T two\" CASCADE");
        let expected = "t: a integer, gone numeric(5,2), m public.mood by [0]\nInsert t ->(1,2.50,ok)\nCommit\n\
            Alter t: drop gone, add late character varying(3)\nCommit\nInsert t ->(2,ok,new)\nCommit\n\
            Alter t: retype late to numeric(9,1)\nCommit\n\
            Alter t: rename m to Mood\nUpdate t ->(2,ok,3.0)\nCommit\n\
            Rename public.t to public.T two\nCommit\nInsert T two ->(3,NULL,NULL)\nCommit\n\
            Truncate T two\nCommit\nDrop T two\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn what_the_catalog_still_has_is_told_with_all_it_knows() {
    for plugin in plugins() {
        let pair = pair(plugin, "CREATE TABLE t (a int PRIMARY KEY)");
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("CREATE TABLE new (b text COLLATE \"C\", a int NOT NULL, UNIQUE (a), PRIMARY KEY (b))");
        pair.source_sql("ALTER TABLE t ADD c text COLLATE \"C\" NOT NULL");
        let mut changes = Changes::default();
        let mut told = Vec::new();
        while told.len() < 2 {
            log.reader.next(&mut changes).await.unwrap();
            told.extend(changes.entries.iter().filter_map(|entry| match entry {
                Entry::Ddl { ddl: crate::data::Ddl::Create(version), .. }
                | Entry::Ddl { ddl: crate::data::Ddl::Alter { version, .. }, .. } => Some(version.clone()),
                _ => None,
            }));
        }
        let (new, t) = (&told[0].schema, &told[1].schema);
        assert_eq!(
            (new.primary_key.as_slice(), new.columns[0].native.as_str()),
            ([0].as_slice(), "text COLLATE \"pg_catalog\".\"C\"")
        );
        assert_eq!((told[0].identity.as_slice(), new.columns[1].nullable), ([0].as_slice(), false));
        assert_eq!((t.columns[1].nullable, t.columns[1].native.as_str()), (false, "text COLLATE \"pg_catalog\".\"C\""));
    }
}

#[tokio::test]
async fn new_tables_are_told_and_taken_in() {
    for plugin in plugins() {
        let pair = pair(plugin, "CREATE TABLE t (a int PRIMARY KEY)");
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("CREATE TABLE new (id bigserial, v varchar(7) NOT NULL, PRIMARY KEY (id)); INSERT INTO new (v) VALUES ('a')");
        pair.source_sql("CREATE TABLE copied AS SELECT 1 AS one, 'x'::text AS two");
        pair.source_sql("CREATE TEMP TABLE mine (a int); CREATE SCHEMA other; CREATE TABLE other.theirs (a int)");
        pair.source_sql("CREATE TABLE IF NOT EXISTS new (a int); CREATE TABLE IF NOT EXISTS t (b int)");
        let told = log.rest(&pair).await;
        let created = "Create new: id bigint, v character varying(7) by [0]\n";
        let copied = "Create copied: one integer, two text by []\n";
        let names = [TableName::new("public", "new"), TableName::new("public", "copied")];
        let adoption = pair.source.adopt(&log.capture, &names).await.unwrap();
        if plugin != "test-decoding" {
            assert_eq!(adoption, Adoption::FromNow);
            assert_eq!(told, format!("{created}Commit\n{copied}Commit\n"));
        } else {
            assert_eq!(adoption, Adoption::InLog);
            let rows = "Insert new ->(1,a)\nCommit\n";
            assert_eq!(told, format!("{created}Commit\n{rows}{copied}Insert copied ->(1,x)\nCommit\n"));
        }
        pair.source_sql(
            "INSERT INTO new (v) VALUES ('b'); UPDATE new SET v = 'c' WHERE v = 'b'; INSERT INTO copied VALUES (2)",
        );
        let told = log.rest(&pair).await;
        let told: Vec<&str> = told.lines().filter(|line| *line != "Commit").collect();
        assert_eq!(told, ["Insert new ->(2,b)", "Update new ->(2,c)", "Insert copied ->(2,NULL)"], "{plugin}");
    }
}

#[tokio::test]
async fn a_table_that_has_gone_by_now_is_told_by_its_text() {
    for plugin in plugins() {
        let pair = pair(plugin, "CREATE TABLE t (a int PRIMARY KEY)");
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql(
            "CREATE TABLE brief (a int, b numeric(4, 1) DEFAULT 2, c text, CONSTRAINT k PRIMARY KEY (c, a))",
        );
        pair.source_sql("ALTER TABLE brief DROP b, ADD d timestamp(3) with time zone");
        pair.source_sql("DROP TABLE t, brief CASCADE");
        pair.source_sql("CREATE TABLE t (b text PRIMARY KEY)");
        let expected = "Create brief: a integer, b numeric(4,1), c text by [0, 2]\nCommit\n\
            Alter brief: drop b, add d timestamp(3) with time zone\nCommit\n\
            t: a integer by [0]\nDrop t\nDrop brief\nCommit\nCreate t: b text by [0]\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn a_type_that_has_gone_by_now_is_what_it_was() {
    for plugin in plugins() {
        let setup = "CREATE TYPE mood AS ENUM ('ok'); CREATE TYPE pair AS (x int, y int);
            CREATE TABLE t (a int PRIMARY KEY, m mood)";
        let pair = pair(plugin, setup);
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql(
            "INSERT INTO t VALUES (1, 'ok'); ALTER TABLE t ADD p pair; INSERT INTO t VALUES (2, 'ok', '(1,2)')",
        );
        pair.source_sql("ALTER TABLE t DROP m, DROP p; DROP TYPE mood; DROP TYPE pair; INSERT INTO t VALUES (3)");
        let expected = "t: a integer, m public.mood by [0]\nInsert t ->(1,ok)\nCommit\nAlter t: add p text\nCommit\n\
            Insert t ->(2,ok,(1,2))\nCommit\nAlter t: drop m, drop p\nCommit\nInsert t ->(3)\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn each_statement_of_a_text_is_told_in_its_place() {
    for plugin in plugins() {
        let pair = pair(plugin, "CREATE TABLE t (a int PRIMARY KEY)");
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        // One message to the server, as drivers send it; psql would send one for each.
        let mut client = super::session(&pair).await;
        let text = "ALTER TABLE t ADD b int; INSERT INTO t VALUES (1, 2); ALTER TABLE t RENAME b TO c; \
                    INSERT INTO t VALUES (3, 4); ALTER TABLE t DROP c";
        client.query(text).await.unwrap();
        client.query("BEGIN; ALTER TABLE t ADD d int; ROLLBACK; ALTER TABLE t ADD e int").await.unwrap();
        client
            .query("SET search_path = nowhere, public; ALTER TABLE IF EXISTS absent ADD x int; SELECT 1")
            .await
            .unwrap();
        let expected = "t: a integer by [0]\nAlter t: add b integer\nInsert t ->(1,2)\nAlter t: rename b to c\n\
            Insert t ->(3,4)\nAlter t: drop c\nCommit\nAlter t: add e integer\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn what_no_statement_tells_rows_show() {
    for plugin in plugins() {
        let pair = blind(plugin, "CREATE TABLE t (a int PRIMARY KEY, b int, c text, d text)");
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("INSERT INTO t VALUES (1)");
        assert_eq!(
            log.rest(&pair).await,
            "t: a integer, b integer, c text, d text by [0]\nInsert t ->(1,NULL,NULL,NULL)\nCommit\n"
        );
        pair.source_sql("ALTER TABLE t DROP c, ADD e varchar(2)");
        assert_eq!(log.rest(&pair).await, "");
        pair.source_sql("INSERT INTO t VALUES (2, 3, 'd', 'e')");
        let expected = "Alter t: drop c, add e character varying(2)\nInsert t ->(2,3,d,e)\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
        // In the middle of old columns a new name is that of an old one; the catalog knows the last.
        pair.source_sql(
            "ALTER TABLE t RENAME b TO \"B b\"; ALTER TABLE t RENAME e TO f; ALTER TABLE t ALTER d TYPE int USING 4",
        );
        pair.source_sql("UPDATE t SET \"B b\" = 5 WHERE a = 2");
        let expected = "Alter t: rename b to B b, rename e to f, retype d to integer\nUpdate t ->(2,5,4,e)\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
        pair.source_sql("ALTER TABLE t REPLICA IDENTITY FULL; DELETE FROM t WHERE a = 1");
        let expected = match plugin {
            "pglogical" => {
                "t: a integer, B b integer, d integer, f character varying(2) by []\n\
                 Unreadable public.t: table public.t has REPLICA IDENTITY FULL, which pglogical does not support: let it be \
                 DEFAULT or USING INDEX, or PluginName may be test-decoding or pgoutput\nCommit\n"
            }
            _ => {
                "t: a integer, B b integer, d integer, f character varying(2) by [0, 1, 2, 3]\n\
                 Delete t (1,NULL,4,NULL)->\nCommit\n"
            }
        };
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn statements_in_functions_are_seen_by_what_rows_show() {
    for plugin in plugins() {
        let pair = pair(plugin, "CREATE TABLE t (a int PRIMARY KEY)");
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("DO $$ BEGIN ALTER TABLE t ADD b int; END $$; INSERT INTO t VALUES (1, 2)");
        let expected = "t: a integer by [0]\nAlter t: add b integer\nInsert t ->(1,2)\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
        pair.source_sql("DO $$ BEGIN ALTER TABLE t ALTER b TYPE text; END $$; INSERT INTO t VALUES (2, 'b')");
        let expected = "Alter t: retype b to text\nInsert t ->(2,b)\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn a_reader_begins_with_the_tables_as_they_were() {
    for plugin in plugins() {
        let pair = pair(plugin, "CREATE TABLE t (a int PRIMARY KEY, b text, c text)");
        let capture = capture(&pair, Format::Text).await;
        let position = pair.source.begin_capture(&capture, 1).await.unwrap().position;
        pair.source_sql("INSERT INTO t VALUES (1, 'b', 'c')");
        pair.source_sql("ALTER TABLE t DROP b, ADD b int; INSERT INTO t VALUES (2, 'c', 3)");
        // Read twice, as after a crash.
        for _ in 0..2 {
            let mut log = Log::from(&pair, capture.clone(), &position).await;
            let expected = "t: a integer, b text, c text by [0]\nInsert t ->(1,b,c)\nCommit\n\
                Alter t: drop b, add b integer\nCommit\nInsert t ->(2,c,3)\nCommit\n";
            assert_eq!(log.rest(&pair).await, expected, "{plugin}");
        }
        // From a place behind it, the table is as it is there.
        let capture = Capture { tables: vec![pair.describe("public", "t").await], ..capture };
        let end = pair.source.log_end().await.unwrap();
        let mut log = Log::from(&pair, capture, &end).await;
        pair.source_sql("INSERT INTO t VALUES (3, 'c', 4)");
        assert_eq!(log.rest(&pair).await, "t: a integer, c text, b integer by [0]\nInsert t ->(3,c,4)\nCommit\n");
    }
}

#[tokio::test]
async fn tables_come_and_go_by_the_names_that_are_captured() {
    for plugin in plugins() {
        let setup = "CREATE TABLE t (a int PRIMARY KEY); CREATE SCHEMA other; CREATE TABLE t_new (a int PRIMARY KEY, b int); INSERT INTO t_new VALUES (1, 2)";
        let pair = pair(plugin, setup);
        let (mut log, _) = Log::selecting(&pair, |name| *name == TableName::new("public", "t")).await;
        pair.source_sql("BEGIN; ALTER TABLE t RENAME TO t_old; ALTER TABLE t_new RENAME TO t; COMMIT");
        pair.source_sql("INSERT INTO t_old VALUES (9)");
        let expected = "t: a integer by [0]\nDrop t\nCreate t: a integer, b integer by [0]\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
        // Its rows of before are nowhere in the log.
        let names = [TableName::new("public", "t")];
        assert_eq!(pair.source.adopt(&log.capture, &names).await.unwrap(), Adoption::FromNow);
        pair.source_sql(
            "INSERT INTO t VALUES (2, 3); ALTER TABLE t SET SCHEMA other; INSERT INTO other.t VALUES (4, 5)",
        );
        assert_eq!(log.rest(&pair).await, "Insert t ->(2,3)\nCommit\nDrop t\nCommit\n", "{plugin}");
    }
}

#[tokio::test]
async fn children_follow_their_parent() {
    for plugin in plugins() {
        let setup = "CREATE TABLE parent (a int PRIMARY KEY, b int); CREATE TABLE child () INHERITS (parent);
            ALTER TABLE child ADD PRIMARY KEY (a)";
        let pair = pair(plugin, setup);
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        pair.source_sql("ALTER TABLE parent RENAME b TO c");
        pair.source_sql("ALTER TABLE parent ADD d int");
        pair.source_sql("INSERT INTO child VALUES (1, 2, 3)");
        let expected = "parent: a integer, b integer by [0]\nAlter parent: rename b to c\n\
            child: a integer, b integer by [0]\nAlter child: rename b to c\nCommit\n\
            Alter parent: add d integer\nAlter child: add d integer\nCommit\nInsert child ->(1,2,3)\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
    }
}

#[tokio::test]
async fn the_record_of_statements_is_shaped_as_that_of_dms_and_stays() {
    let pair = Pair::with("CREATE TABLE t (a int PRIMARY KEY)", json!({ "DdlArtifactsSchema": "a b" }));
    let (log, _) = Log::begin(&pair, Format::Text).await;
    let columns = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
        FROM pg_attribute WHERE attrelid = '\"a b\".awsdms_ddl_audit'::regclass AND attnum > 0";
    let expected = "c_key bigint, c_time timestamp without time zone, c_user character varying(64), c_txn character \
        varying(16), c_tag character varying(24), c_oid integer, c_name character varying(64), c_schema character \
        varying(64), c_ddlqry text";
    assert_eq!(pair.source_sql(columns), expected);
    let objects = "SELECT (SELECT evtname FROM pg_event_trigger), (SELECT conname FROM pg_constraint
        WHERE conrelid = '\"a b\".awsdms_ddl_audit'::regclass AND contype = 'p'),
        pg_get_serial_sequence('\"a b\".awsdms_ddl_audit', 'c_key'), '\"a b\".awsdms_intercept_ddl'::regproc";
    let expected =
        "awsdms_intercept_ddl|awsdms_ddl_audit_pkey|\"a b\".awsdms_ddl_audit_c_key_seq|\"a b\".awsdms_intercept_ddl";
    assert_eq!(pair.source_sql(objects), expected);
    pair.source_sql(
        "CREATE ROLE nobody_much; GRANT ALL ON SCHEMA public TO nobody_much; SET ROLE nobody_much;
        CREATE TABLE theirs (a int)",
    );
    assert_eq!(pair.source_sql("SELECT count(*) FROM \"a b\".awsdms_ddl_audit"), "0", "the log has it, the table not");
    pair.source.end_capture(&log.capture).await.unwrap();
    assert_eq!(pair.source_sql("SELECT count(*) FROM pg_event_trigger"), "1");
}

#[tokio::test]
async fn a_user_who_may_not_record_statements_still_captures() {
    for plugin in plugins() {
        let pair = pair(plugin, "CREATE TABLE t (a int PRIMARY KEY)");
        let user = super::capturing_user(&pair, "ALTER TABLE t OWNER TO");
        let source = super::source_as(&pair, &user, plugin);
        let capture = capture(&pair, Format::Text).await;
        let position = source.begin_capture(&capture, 1).await.unwrap().position;
        let reader = source.changes(&capture, &position, nothing_durable()).await.unwrap();
        let mut log = Log::reading(capture, reader);
        pair.source_sql("ALTER TABLE t ADD b int; INSERT INTO t VALUES (1, 2)");
        let expected = "t: a integer by [0]\nAlter t: add b integer\nInsert t ->(1,2)\nCommit\n";
        assert_eq!(log.rest(&pair).await, expected, "{plugin}");
        assert_eq!(pair.source_sql("SELECT count(*) FROM pg_event_trigger"), "0");
    }
}

#[tokio::test]
async fn reading_can_be_given_up_at_any_moment() {
    for plugin in plugins() {
        let pair = pair(plugin, "CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE u (a int PRIMARY KEY, m int[])");
        let (mut log, _) = Log::begin(&pair, Format::Text).await;
        let mut expected = 0;
        for number in 0..30 {
            pair.source_sql(&format!(
                "INSERT INTO t (a) VALUES ({number}); ALTER TABLE t ADD c{number} numeric({}, 1);
                 INSERT INTO u VALUES ({number}); UPDATE t SET c{number} = 1",
                number + 3
            ));
            expected += 3;
        }
        let (mut rows, mut alters, mut changes) = (0, 0, Changes::default());
        let mut polls = 0;
        while rows < expected + 30 * 29 / 2 {
            let mut next = log.reader.next(&mut changes);
            for _ in 0..=polls % 97 {
                if futures_util::poll!(&mut next).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(next);
            polls += 1;
            for entry in &changes.entries {
                rows += usize::from(matches!(entry, Entry::Row { .. }));
                alters += usize::from(matches!(entry, Entry::Ddl { .. }));
            }
        }
        assert_eq!((rows, alters), (expected + 30 * 29 / 2, 30), "{plugin}");
    }
}
