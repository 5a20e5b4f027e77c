//! Statements that define tables.

use super::*;

/// Runs statements one by one and tells what the log has of each.
async fn told(log: &mut Log, pair: &Pair, sql: &[&str]) -> String {
    let mut all = String::new();
    for statement in sql {
        pair.sql(statement);
        all.push_str(&log.transactions(1).await);
    }
    all
}

#[tokio::test]
async fn tables_are_made_changed_and_dropped() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(9))");
    let mut log = Log::begin(&pair, Format::Text).await;
    let statements = [
        "INSERT INTO t VALUES (1, 'x')",
        "ALTER TABLE t ADD COLUMN n INT UNSIGNED AFTER id, CHANGE v w VARCHAR(20)",
        "INSERT INTO t VALUES (2, 3, 'y')",
        "ALTER TABLE t DROP COLUMN n, MODIFY w LONGTEXT",
        "UPDATE t SET w='z' WHERE id=2",
        "ALTER TABLE t RENAME COLUMN w TO x, ADD d DECIMAL(5,2) DEFAULT 1.5, ALGORITHM=INSTANT",
        "DELETE FROM t WHERE id=1",
        "TRUNCATE t",
        "DROP TABLE t",
        "CREATE TABLE t (a INT) COMMENT 'not the same'",
        "INSERT INTO t VALUES (5)",
    ];
    assert_eq!(
        told(&mut log, &pair, &statements).await,
        "t: id int, v varchar(9) by [0]\nInsert t ->(1,x)\nCommit\n\
         t: Alter [Rename { from: \"v\", column: 2 }, Add { column: 1 }, Retype { column: 2 }] \
         t: id int, n int unsigned, w varchar(20) by [0]\nCommit\n\
         t: id int, n int unsigned, w varchar(20) by [0]\nInsert t ->(2,3,y)\nCommit\n\
         t: Alter [Drop { name: \"n\" }, Retype { column: 1 }] t: id int, w longtext by [0]\nCommit\n\
         t: id int, w longtext by [0]\nUpdate t ->(2,z)\nCommit\n\
         t: Alter [Rename { from: \"w\", column: 1 }, Add { column: 2 }] t: id int, x longtext, d decimal(5,2) by [0]\nCommit\n\
         t: id int, x longtext, d decimal(5,2) by [0]\nDelete t (1,x,1.50)->\nCommit\nTruncate t\nCommit\nt: Drop\nCommit\n\
         t: a int by [0]\nt: Create t: a int by [0]\nCommit\nInsert t ->(5)\nCommit\n"
    );
}

#[tokio::test]
async fn a_log_of_before_a_change_is_read_in_the_old_shape() {
    for server in [mysql_server(), telling_server()] {
        let pair = Pair::of(server);
        pair.sql(
            "CREATE TABLE t (id INT PRIMARY KEY, gone INT UNSIGNED, v VARCHAR(20) CHARACTER SET latin1, h INT INVISIBLE, e ENUM('a','b'));
             CREATE TABLE u (a INT)",
        );
        let mut log = Log::begin(&pair, Format::Text).await;
        pair.sql(
            "INSERT INTO t VALUES (1, 4294967295, 'ä', 'b'); ALTER TABLE t ADD late TIMESTAMP(3) NULL FIRST, DROP gone",
        );
        pair.sql(
            "INSERT INTO t VALUES (NULL, 2, 'ö', 'a'); ALTER TABLE t MODIFY v VARCHAR(20) CHARACTER SET utf8mb4, MODIFY e ENUM('b','a')",
        );
        pair.sql("INSERT INTO t VALUES (NULL, 3, 'ü', 'a'); ALTER TABLE t DROP late, RENAME TO s; INSERT INTO s VALUES (4, '€', 'b')");
        pair.sql("CREATE TABLE m (x INT, y TEXT); INSERT INTO m VALUES (1, 'm'); DROP TABLE m, s; DROP TABLE u");
        // By now the catalog has forgotten all of them.
        let told = log.transactions(11).await;
        let rows: Vec<&str> = told.lines().filter(|line| line.starts_with("Insert")).collect();
        assert_eq!(
            rows,
            [
                "Insert t ->(1,4294967295,ä,b)",
                "Insert t ->(NULL,2,ö,a)",
                "Insert t ->(NULL,3,ü,a)",
                "Insert s ->(4,€,b)",
                "Insert m ->(1,m)"
            ],
            "{told}"
        );
        let ddl: Vec<&str> = told
            .lines()
            .filter(|line| [": Alter", ": Rename", ": Drop", ": Create"].iter().any(|ddl| line.contains(ddl)))
            .collect();
        assert_eq!(
            ddl,
            [
                "t: Alter [Drop { name: \"gone\" }, Add { column: 0 }] t: late timestamp(3), id int, v varchar(20), e enum('a','b') by [1]",
                "t: Alter [Retype { column: 2 }, Retype { column: 3 }] t: late timestamp(3), id int, v varchar(20), e enum('b','a') by [1]",
                "t: Alter [Drop { name: \"late\" }] t: id int, v varchar(20), e enum('b','a') by [0]",
                "t: Rename s: id int, v varchar(20), e enum('b','a') by [0]",
                "m: Create m: x int, y text by [0, 1]",
                "m: Drop",
                "s: Drop",
                "u: Drop"
            ],
            "{told}"
        );
    }
}

#[tokio::test]
async fn tables_change_places() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE a (id INT PRIMARY KEY); CREATE TABLE b (id INT PRIMARY KEY, v INT);");
    let mut log = Log::begin(&pair, Format::Text).await;
    let statements = [
        "RENAME TABLE a TO tmp, b TO a, tmp TO b",
        "INSERT INTO a VALUES (1, 2)",
        "INSERT INTO b VALUES (1)",
        // As tools do that copy a table to alter it.
        "CREATE TABLE skip_new LIKE a; ALTER TABLE skip_new ADD w INT; RENAME TABLE a TO skip_old, skip_new TO a",
        "INSERT INTO a VALUES (2, 3, 4)",
        "RENAME TABLE b TO skip_b; INSERT INTO skip_b VALUES (9); RENAME TABLE skip_b TO c",
        "INSERT INTO c VALUES (3)",
        "CREATE OR REPLACE TABLE c (z INT)",
        "CREATE TABLE d LIKE a",
    ];
    assert_eq!(
        told(&mut log, &pair, &statements).await,
        "a: id int by [0]\na: Rename tmp: id int by [0]\nb: id int, v int by [0]\nb: Rename a: id int, v int by [0]\n\
         tmp: id int by [0]\ntmp: Rename b: id int by [0]\nCommit\n\
         a: id int, v int by [0]\nInsert a ->(1,2)\nCommit\nb: id int by [0]\nInsert b ->(1)\nCommit\n\
         a: id int, v int by [0]\na: Alter [Add { column: 2 }] a: id int, v int, w int by [0]\nCommit\n\
         a: id int, v int, w int by [0]\nInsert a ->(2,3,4)\nCommit\n\
         c: id int by [0]\nc: Create c: id int by [0]\nCommit\nInsert c ->(3)\nCommit\n\
         c: Drop\nc: z int by [0]\nc: Create c: z int by [0]\nCommit\n\
         d: id int, v int, w int by [0]\nd: Create d: id int, v int, w int by [0]\nCommit\n"
    );
    pair.server.client(&format!("DROP DATABASE {}", pair.from));
    let told = log.transactions(1).await;
    assert_eq!(told.lines().filter(|line| line.ends_with(": Drop")).count(), 3, "{told}");
}

#[tokio::test]
async fn a_table_that_is_filled_as_it_is_made_comes_with_its_rows() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY, v VARCHAR(3) CHARACTER SET latin1); INSERT INTO t VALUES (1, 'ä'), (2, 'b')");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("CREATE TABLE u AS SELECT * FROM t; CREATE TEMPORARY TABLE x AS SELECT 1; DROP TABLE x");
    let expected = "u: id int, v varchar(3) by [0, 1]\nu: Create u: id int, v varchar(3) by [0, 1]\nCommit\n\
                    Insert u ->(1,ä)\nInsert u ->(2,b)\nCommit\n";
    assert_eq!(log.transactions(2).await, expected);
    // A restart between the two is as good.
    let place = log.commits[0].0.clone();
    log.capture = pair.capture(Format::Text).await;
    log.reopen(&place).await;
    log.tables.clear();
    assert!(log.transactions(1).await.ends_with("Insert u ->(1,ä)\nInsert u ->(2,b)\nCommit\n"));
}

#[tokio::test]
async fn what_does_not_change_columns_is_passed_over() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT NOT NULL, v INT NOT NULL) ");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql(
        "ALTER TABLE t ADD INDEX (v), COMMENT 'add x int'; CREATE VIEW w AS SELECT * FROM t; ANALYZE TABLE t; OPTIMIZE TABLE t;
         CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET NEW.v=NEW.v+1; ALTER TABLE t ALTER v SET DEFAULT 5, ENGINE=InnoDB;
         ALTER TABLE t MODIFY v INT NOT NULL DEFAULT 7 COMMENT 'c'; INSERT INTO t VALUES (1, 1); ALTER TABLE t ADD PRIMARY KEY (id);
         UPDATE t SET v=9; ALTER TABLE t DROP PRIMARY KEY, ADD UNIQUE u (v); UPDATE t SET id=3; DROP INDEX u ON t; DELETE FROM t",
    );
    assert_eq!(
        log.transactions(4).await,
        "t: id int, v int by [0, 1]\nInsert t ->(1,2)\nCommit\nt: id int, v int by [0]\nUpdate t ->(1,9)\nCommit\n\
         t: id int, v int by [1]\nUpdate t ->(3,9)\nCommit\nt: id int, v int by [0, 1]\nDelete t (3,9)->\nCommit\n"
    );
}

#[tokio::test]
async fn a_change_that_is_logged_twice_is_done_once() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY)");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("SET binlog_alter_two_phase=1; ALTER TABLE t ADD a INT; INSERT INTO t VALUES (1, 2)");
    assert_eq!(
        log.transactions(2).await,
        "t: id int by [0]\nt: Alter [Add { column: 1 }] t: id int, a int by [0]\nCommit\n\
         t: id int, a int by [0]\nInsert t ->(1,2)\nCommit\n"
    );
}

#[tokio::test]
async fn names_are_folded_where_the_server_folds_them() {
    let pair = Pair::of(Box::leak(Box::new(start(&["--lower-case-table-names=1", "--skip-ssl"]))));
    pair.sql("CREATE TABLE Big (Id INT PRIMARY KEY)");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("ALTER TABLE BIG ADD `Größe` INT AFTER ID; INSERT INTO bIg VALUES (1, 2); RENAME TABLE BIG TO Other");
    assert_eq!(
        log.transactions(3).await,
        "big: Id int by [0]\nbig: Alter [Add { column: 1 }] big: Id int, Größe int by [0]\nCommit\n\
         big: Id int, Größe int by [0]\nInsert big ->(1,2)\nCommit\nbig: Rename other: Id int, Größe int by [0]\nCommit\n"
    );
}

#[tokio::test]
async fn statements_are_read_in_the_character_set_and_mode_of_their_client() {
    let pair = Pair::new();
    pair.sql("CREATE TABLE t (id INT PRIMARY KEY)");
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql(
        "SET NAMES latin1; SET character_set_client=latin1; ALTER TABLE t ADD `\u{fc}` INT; SET NAMES utf8mb4;
         SET sql_mode='ANSI_QUOTES,NO_BACKSLASH_ESCAPES'; ALTER TABLE \"t\" ADD \"a`b\" ENUM('\\','x') COMMENT 'c\\';
         INSERT INTO t VALUES (1, 2, '\\')",
    );
    let told = log.transactions(3).await;
    // The client wrote two bytes, which are two characters of latin1.
    assert!(told.contains("t: id int, Ã¼ int, a`b enum('\\\\','x') by [0]\nInsert t ->(1,2,\\)\nCommit\n"), "{told}");
}

#[tokio::test]
async fn every_definition_is_understood_as_the_catalog_understands_it() {
    let pair = Pair::of(mysql_server());
    let columns = "a INTEGER, b BOOL, c DEC(7), d FIXED(9,3) UNSIGNED, e DOUBLE PRECISION, f FLOAT(30), g REAL(8,2), h BIT, i CHAR, \
         j NATIONAL VARCHAR(9), k NCHAR(3), l CHARACTER VARYING(20) COLLATE utf8mb4_bin, m LONG VARCHAR, n TEXT(70000), o BLOB(300), \
         p CHAR(4) BYTE, q VARCHAR(5) CHARACTER SET binary, r TINYTEXT ASCII, s JSON, t YEAR, u TIMESTAMP(6) NULL, v TIME(3), w DATETIME, \
         x ENUM('a','it''s, (b)') CHARSET latin2, y SET('x','y\\\\\\\\z'), z INT(5) ZEROFILL, aa INT1 UNSIGNED, ab MIDDLEINT, ac INT8, \
         ad GEOMETRY NOT NULL, ae UUID, af INET6, ag VARBINARY(10), ah MEDIUMTEXT CHARACTER SET ucs2, ai NUMERIC, aj VARCHAR(10) COMPRESSED, \
         ak INT AS (a + 1) PERSISTENT, al TEXT INVISIBLE, am FLOAT8, an INT REFERENCES other (a), ao DATE DEFAULT '2024-01-01' CHECK (ao > 0), \
         ap DECIMAL(10, 2) COMMENT 'first, AFTER b' , aq SERIAL, `as` BINARY, at2 LONGBLOB";
    let mut log = Log::begin(&pair, Format::Text).await;
    pair.sql("CREATE TABLE other (a INT PRIMARY KEY)");
    pair.sql(&format!(
        "CREATE TABLE made ({columns}) CHARACTER SET cp1251; CREATE TABLE altered (id INT) CHARACTER SET cp1251"
    ));
    let split: Vec<String> = split_columns(columns).iter().map(|column| format!("ADD COLUMN {column}")).collect();
    pair.sql(&format!("ALTER TABLE altered {}", split.join(", ")));
    let expected = [pair.describe("made").await, pair.describe("altered").await];
    // The catalog is of no help any more.
    pair.sql("ALTER TABLE made ADD later INT FIRST; ALTER TABLE altered DROP id");
    log.transactions(6).await;
    assert_eq!(log.versions.len(), 6);
    for (expected, found) in expected.iter().zip([&log.versions[1], &log.versions[3]]) {
        let names = |columns: &[Column]| columns.iter().map(|column| column.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&found.schema.columns), names(&expected.columns));
        for (found, expected) in found.schema.columns.iter().zip(&expected.columns) {
            assert!(
                crate::connector::mysql::changes::same_type(&found.native, &expected.native),
                "{}: {} is {}",
                found.name,
                found.native,
                expected.native
            );
            let without_text = |column: &Column| Column { native: String::new(), ..column.clone() };
            assert_eq!(without_text(found), without_text(expected));
        }
        assert_eq!(
            (&found.schema.primary_key, &found.schema.unique_key),
            (&expected.primary_key, &expected.unique_key)
        );
    }
}

/// Splits at commas that are in no brackets or quotes.
fn split_columns(columns: &str) -> Vec<String> {
    let (mut depth, mut quoted, mut parts) = (0, false, vec![String::new()]);
    for c in columns.chars() {
        match c {
            '\'' => quoted = !quoted,
            '(' if !quoted => depth += 1,
            ')' if !quoted => depth -= 1,
            ',' if !quoted && depth == 0 => {
                parts.push(String::new());
                continue;
            }
            _ => {}
        }
        parts.last_mut().unwrap().push(c);
    }
    parts
}
