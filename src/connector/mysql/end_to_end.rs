//! The connector against a real MariaDB.

mod apply;
mod changes;
mod sessions;

use super::*;
use crate::connector::testing::mysql::{MySqlServer, mysql_server};
use crate::connector::{ApplyException, CreateKey, PrepareMode, ReadPlan, Rejected, TableEntry};
use crate::data::{Batch, Column, DataType, ErrorKind, Format, TableKind, TableSchema, Value};

/// Two databases of one server, a source and a target.
struct Pair {
    server: &'static MySqlServer,
    from: String,
    to: String,
    settings: serde_json::Map<String, Json>,
    batch_rows: usize,
    batch_bytes: usize,
    lob_bytes_max: Option<u64>,
}

impl Pair {
    fn new() -> Pair {
        Pair::of(mysql_server())
    }

    fn of(server: &'static MySqlServer) -> Pair {
        let (from, to) = (server.new_database(), server.new_database());
        server.client(&format!("CREATE DATABASE {from} CHARACTER SET utf8mb4"));
        Pair {
            server,
            from,
            to,
            settings: serde_json::Map::new(),
            batch_rows: 1000,
            batch_bytes: 1 << 20,
            lob_bytes_max: None,
        }
    }

    /// Runs statements in the source database, in the engine's own client.
    fn sql(&self, sql: &str) -> String {
        self.server
            .client(&format!("USE {}; SET sql_mode='NO_AUTO_VALUE_ON_ZERO'; SET NAMES utf8mb4; {sql}", self.from))
    }

    fn source(&self) -> Box<dyn Source> {
        (MARIADB.open_source)(self.server.connection())
    }

    fn target(&self) -> Box<dyn Target> {
        (MARIADB.open_target)(Connection { settings: self.settings.clone(), ..self.server.connection() })
    }

    async fn describe(&self, table: &str) -> TableSchema {
        let entry = TableEntry { name: TableName::new(&self.from, table), kind: TableKind::Table };
        self.source().describe(&[entry]).await.unwrap().pop().unwrap()
    }

    fn plan(&self, table: &TableSchema, format: Format) -> ReadPlan {
        ReadPlan {
            columns: (0..table.columns.len()).collect(),
            table: table.clone(),
            format,
            lob_bytes_max: self.lob_bytes_max,
            batch_rows: self.batch_rows,
            batch_bytes: self.batch_bytes,
        }
    }

    /// Copies a table as a task does. Returns rows written and rows refused.
    async fn copy(&self, table: &str, format: Format) -> (u64, Vec<Rejected>) {
        let schema = self.describe(table).await;
        let mut renamed = schema.clone();
        renamed.name.schema = self.to.clone();
        let target = self.target();
        target.prepare(&renamed, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
        let outcome = self.load(&schema, &renamed, format).await;
        target.finish(&renamed, CreateKey::WithTable).await.unwrap();
        outcome
    }

    async fn load(&self, from: &TableSchema, to: &TableSchema, format: Format) -> (u64, Vec<Rejected>) {
        let snapshot = self.source().snapshot(1).await.unwrap();
        let mut reader = snapshot.read(self.plan(from, format)).await.unwrap();
        let target = self.target();
        assert!(target.formats(to).await.unwrap().contains(&format));
        let mut writer = target.writer(to, format, 10_000).await.unwrap();
        let (mut batch, mut rows, mut rejected) = (Batch::new(), 0, Vec::new());
        while reader.next(&mut batch).await.unwrap() {
            assert!(batch.bytes() <= self.batch_bytes + (600 << 10), "a batch of {} bytes", batch.bytes());
            let written = writer.write(&batch).await.unwrap();
            rows += written.rows;
            rejected.extend(written.rejected);
        }
        let written = writer.finish().await.unwrap();
        rejected.extend(written.rejected);
        (rows + written.rows, rejected)
    }

    /// Asserts that two tables hold the same bytes: the server compares hexadecimal forms of all columns.
    fn assert_same(&self, table: &str, columns: &[&str]) {
        let hex: Vec<String> = columns.iter().map(|column| format!("HEX({column})")).collect();
        let list = hex.join(",");
        let read =
            |database: &str| self.server.client(&format!("SELECT {list} FROM {database}.{table} ORDER BY {list}"));
        let (from, to) = (read(&self.from), read(&self.to));
        assert!(!from.is_empty());
        if from != to {
            for (a, b) in from.lines().zip(to.lines()) {
                for ((a, b), column) in a.split('\t').zip(b.split('\t')).zip(columns) {
                    assert_eq!(a, b, "column {column}");
                }
            }
            panic!("row counts differ: {} and {}", from.lines().count(), to.lines().count());
        }
    }

    async fn values(&self, table: &TableSchema) -> Vec<Vec<String>> {
        let snapshot = self.source().snapshot(1).await.unwrap();
        let mut reader = snapshot.read(self.plan(table, Format::Values)).await.unwrap();
        let mut batch = Batch::new();
        let mut rows = Vec::new();
        while reader.next(&mut batch).await.unwrap() {
            rows.extend((0..batch.rows()).map(|row| batch.row(row).map(|value| format!("{value:?}")).collect()));
        }
        rows
    }
}

#[tokio::test]
async fn numbers_survive_to_the_bit() {
    let pair = Pair::new();
    pair.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, ti TINYINT, tu TINYINT UNSIGNED, bi BIGINT, bu BIGINT UNSIGNED ZEROFILL, \
         f FLOAT, fd FLOAT(7,4), d DOUBLE, dd DOUBLE(20,3), dec1 DECIMAL(65,30), dec2 DECIMAL(5,0), b1 BIT(1), \
         b9 BIT(9), b64 BIT(64), y YEAR, bo BOOLEAN);
         INSERT INTO t VALUES (0, -128, 255, -9223372036854775808, 18446744073709551615, 3.4028234e38, 999.0001, \
         1.7976931348623157e308, 12345678901234567.891, 99999999999999999999999999999999999.999999999999999999999999999999, \
         -99999, b'1', b'111111111', b'1111111111111111111111111111111111111111111111111111111111111111', 2155, 1);
         INSERT INTO t VALUES (1, 127, 0, 9223372036854775807, 42, 1.4e-45, -0.0001, 5e-324, -0.001, \
         -0.000000000000000000000000000001, 0, b'0', b'100000000', b'1010010111110000', 0, 0);
         INSERT INTO t VALUES (2, 0, 9, 92, 10, -1.17549435e-38, 0.1, -2.2250738585072014e-308, 0.1, 0.1, 1, \
         b'1', 9, 10, 1901, 1), (3, 0, 0, 0, 0, 0.1, 0, 0.1, 0, 0, 0, 0, 0, 92, 2000, 0), \
         (4, 0, 0, 0, 0, 16777217, 0, 1e23, 0, 0, 0, 0, 0, 9, 2000, 0), \
         (5, 0, 0, 0, 0, 1.00000012, 0, 4.9406564584124654e-324, 0, 0, 0, 0, 0, 0x5c, 2000, 0), \
         (6, 0, 0, 0, 0, 8388608.5, 0, 0.30000000000000004, 0, 0, 0, 0, 0, 0x5c74, 2000, 0), \
         (7, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);",
    );
    let (rows, rejected) = pair.copy("t", Format::Text).await;
    assert_eq!((rows, rejected.len()), (8, 0), "{rejected:?}");
    // HEX of a float rounds it: these show all of it.
    let columns = [
        "id",
        "ti",
        "tu",
        "bi",
        "bu",
        "CAST(f*1e0 AS CHAR)",
        "CAST(fd*1e0 AS CHAR)",
        "CAST(d*1e0 AS CHAR)",
        "CAST(dd*1e0 AS CHAR)",
        "CAST(dec1 AS CHAR)",
        "dec2",
        "b1+0",
        "b9+0",
        "b64+0",
        "y",
        "bo",
    ];
    pair.assert_same("t", &columns);
    let schema = pair.describe("t").await;
    let values = pair.values(&schema).await;
    assert_eq!(values[0][4], "UInt(18446744073709551615)");
    assert_eq!(values[3][5], "Real(0.1)");
    assert_eq!((values[0][11].as_str(), values[1][11].as_str()), ("Bool(true)", "Bool(false)"));
    assert_eq!(values[1][12], "Bytes([1, 0])");
    assert_eq!((values[1][7].as_str(), values[7][1].as_str()), ("Real(5e-324)", "Null"));
}

#[tokio::test]
async fn dates_survive_to_the_bit_and_invalid_ones_are_null_for_other_engines() {
    let pair = Pair::new();
    pair.sql(
        "SET sql_mode='ALLOW_INVALID_DATES'; SET time_zone='+05:30';
         CREATE TABLE t (id INT PRIMARY KEY, d DATE, dt DATETIME, dt6 DATETIME(6) NOT NULL, tm TIME, tm6 TIME(6), \
         ts TIMESTAMP NULL, ts3 TIMESTAMP(3) NOT NULL DEFAULT 0, ts0 TIMESTAMP NOT NULL);
         INSERT INTO t VALUES (1, '0000-00-00', '0000-00-00', 0, '-838:59:59', '-838:59:59.999999', 0, 0, 0),
         (2, '9999-12-31', '9999-12-31 23:59:59', '9999-12-31 23:59:59.999999', '838:59:59', '838:59:59.999999', \
          '2038-01-19 08:44:07', '1970-01-01 05:30:00.001', '1970-01-01 05:30:01'),
         (3, '2024-02-31', '2024-02-30 01:02:03', '2024-01-00', '00:00:00', '-00:00:00.000001', NULL, \
          '2024-03-10 02:30:00.5', '2024-03-10 02:30:00'),
         (4, '0001-01-01', '0000-01-01 00:00:00', '1000-01-01 00:00:00.000001', NULL, NULL, NULL, 0, 0);",
    );
    let (rows, rejected) = pair.copy("t", Format::Text).await;
    assert_eq!((rows, rejected.len()), (4, 0), "{rejected:?}");
    pair.assert_same("t", &["id", "d", "dt", "dt6", "tm", "tm6", "ts", "ts3", "ts0"]);
    let declared = pair.server.client(&format!("SHOW CREATE TABLE {}.t", pair.to));
    assert!(!declared.contains("DEFAULT '19") && !declared.contains("ON UPDATE"), "{declared}");

    let schema = pair.describe("t").await;
    let values = pair.values(&schema).await;
    assert_eq!(values[0][1..4], ["Null", "Null", "Null"]);
    assert_eq!(values[1][1], "Date(2932896)");
    // 2038-01-19 08:44:07 in Kolkata is 03:14:07 UTC, the last moment of a TIMESTAMP.
    assert_eq!(values[1][6], "DateTime(2147483647000000)");
    assert_eq!(values[1][7], "DateTime(1000)");
    assert_eq!(values[1][4], format!("{:?}", Value::String(b"838:59:59")));

    // The time zone of the endpoint decides in which clock a TIMESTAMP is read.
    let settings = serde_json::json!({"ServerTimezone": "+05:30"});
    let zoned = Connection { settings: settings.as_object().unwrap().clone(), ..pair.server.connection() };
    let snapshot = (MYSQL.open_source)(zoned).snapshot(1).await.unwrap();
    let mut reader = snapshot.read(pair.plan(&schema, Format::Values)).await.unwrap();
    let mut batch = Batch::new();
    assert!(reader.next(&mut batch).await.unwrap());
    assert_eq!(batch.row(1).nth(6), Some(Value::DateTime(2_147_483_647_000_000 + 19_800_000_000)));
}

#[tokio::test]
async fn text_and_bytes_survive_in_every_character_set() {
    let pair = Pair::new();
    pair.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(300) CHARACTER SET latin1, u CHAR(20) CHARACTER SET ucs2, \
         u3 VARCHAR(20) CHARACTER SET utf8mb3, u4 VARCHAR(20) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, \
         u32 VARCHAR(20) CHARACTER SET utf32, g VARCHAR(20) CHARACTER SET cp1251, asc1 VARCHAR(20) CHARACTER SET ascii, \
         tt TINYTEXT, tx TEXT CHARACTER SET latin1, lt LONGTEXT, b BINARY(4), vb VARBINARY(300), tb TINYBLOB, \
         bl BLOB, lb LONGBLOB, e ENUM('x','ß','it''s \\\\,\"') CHARACTER SET latin1, s SET('a','ö','c') CHARACTER SET latin1, \
         e0 ENUM('','y'), j JSON, ip INET6, i4 INET4, uu UUID);
         INSERT INTO t VALUES (1, 'naïve ß', 'ünï', 'ünï€', 'emoji 😀', 'x😀', 'Привет', 'plain', '', 'tä\\tx\\n\\\\N', \
         REPEAT('é😀', 1000), 'ab', UNHEX('00FF5C0A09'), '', '\\\\N', 'N', 'ß', 'a,ö,c', '', '{\"k\": [1, \"ü\"]}', \
         '2001:db8::1', '10.0.0.1', '123e4567-e89b-12d3-a456-426614174000');
         INSERT INTO t (id) VALUES (2);
         INSERT INTO t (id, a, e, s, e0, vb, lb) VALUES (3, '', 'bad', '', 'y', '', ''), (4, ' trailing ', '', 'c', '', 0x00, 0x00);
         INSERT INTO t (id, vb) SELECT 10, GROUP_CONCAT(CHAR(seq) ORDER BY seq SEPARATOR '') FROM seq_0_to_255;
         INSERT INTO t (id, a) SELECT 11, GROUP_CONCAT(CONVERT(CHAR(seq) USING latin1) ORDER BY seq SEPARATOR '') FROM seq_0_to_255;",
    );
    assert_eq!(pair.sql("SELECT LENGTH(vb) FROM t WHERE id=10"), "256\n");
    let (rows, rejected) = pair.copy("t", Format::Text).await;
    assert_eq!((rows, rejected.len()), (6, 0), "{rejected:?}");
    pair.assert_same(
        "t",
        &[
            "id", "a", "u", "u3", "u4", "u32", "g", "asc1", "tt", "tx", "lt", "b", "vb", "tb", "bl", "lb", "e", "e+0",
            "s", "s+0", "e0", "e0+0", "j", "ip", "i4", "uu",
        ],
    );
    let types = |database: &str| {
        pair.server.client(&format!(
            "SELECT COLUMN_NAME, COLUMN_TYPE, CHARACTER_SET_NAME, COLLATION_NAME, IS_NULLABLE FROM \
             information_schema.COLUMNS WHERE TABLE_SCHEMA='{database}' ORDER BY ORDINAL_POSITION"
        ))
    };
    assert_eq!(types(&pair.from), types(&pair.to));
    // The forms for other engines, and from there into columns that exist: also without a loss.
    let schema = pair.describe("t").await;
    let mut renamed = schema.clone();
    renamed.name.schema = pair.to.clone();
    pair.target().prepare(&renamed, PrepareMode::TruncateBeforeLoad, CreateKey::WithTable).await.unwrap();
    let (rows, rejected) = pair.load(&schema, &renamed, Format::Values).await;
    assert_eq!((rows, rejected.len()), (6, 0), "{rejected:?}");
    pair.assert_same("t", &["id", "a", "u", "u4", "u32", "lt", "vb", "lb", "e", "s", "j", "ip", "uu"]);
}

#[tokio::test]
async fn geometry_survives_to_the_bit() {
    let pair = Pair::new();
    pair.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, g GEOMETRY, p POINT, c GEOMETRYCOLLECTION);
         INSERT INTO t VALUES (1, ST_GeomFromText('LINESTRING(0 0,1 1,2.5 -1e300)', 4326), POINT(9, 10), \
         ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),POLYGON((0 0,1 0,1 1,0 0)))')), (2, NULL, NULL, NULL);",
    );
    assert_eq!(pair.copy("t", Format::Text).await.0, 2);
    pair.assert_same("t", &["id", "g", "p", "c", "ST_SRID(g)"]);
}

#[tokio::test]
async fn names_may_be_anything() {
    let mut pair = Pair::new();
    pair.to = format!("{} ta`r'get ü", pair.to);
    pair.sql("CREATE TABLE `select ``from`` \"t'\\é` (`group` INT PRIMARY KEY, `a``b` INT, `sp ace` TEXT, `üñ'\"` TEXT CHARACTER SET latin1);
         INSERT INTO `select ``from`` \"t'\\é` VALUES (1, 2, 'x', 'ü');");
    let (rows, rejected) = pair.copy("select `from` \"t'\\é", Format::Text).await;
    assert_eq!((rows, rejected.len()), (1, 0), "{rejected:?}");
    let read = format!("SELECT * FROM {}", quote_table(&TableName::new(&pair.to, "select `from` \"t'\\é")));
    assert_eq!(pair.server.client(&read), "1\t2\tx\tü\n");
    let name = TableName::new(&pair.from, "select `from` \"t'\\é");
    assert!(pair.source().tables().await.unwrap().iter().any(|entry| entry.name == name));
}

#[tokio::test]
async fn describes_keys_generated_and_hidden_columns() {
    let pair = Pair::new();
    pair.sql(
        "CREATE TABLE keyed (b INT NOT NULL, a VARCHAR(10) NOT NULL, c INT AUTO_INCREMENT, v INT AS (b+1) VIRTUAL, \
         st INT AS (b+2) STORED, hid INT INVISIBLE, dflt DATETIME DEFAULT CURRENT_TIMESTAMP, PRIMARY KEY (a, b), KEY (c));
         INSERT INTO keyed (a, b, c, hid) VALUES ('x', 1, 0, 5), ('x', 2, 7, 6);
         CREATE TABLE uniq (a INT, b INT NOT NULL, c INT NOT NULL, UNIQUE (a), UNIQUE wide (b, c), UNIQUE (c), UNIQUE pre (b));
         CREATE TABLE bare (a INT);
         CREATE TABLE parts (a INT PRIMARY KEY) PARTITION BY HASH (a) PARTITIONS 3;
         INSERT INTO bare VALUES (1), (1), (NULL);
         INSERT INTO parts VALUES (1), (2), (3), (4);
         CREATE VIEW seen AS SELECT a FROM bare;
         CREATE TABLE awsdms_mine (a INT);
         CREATE TABLE versioned (a INT) WITH SYSTEM VERSIONING;",
    );
    let entries = pair.source().tables().await.unwrap();
    let own: Vec<_> = entries.iter().filter(|entry| entry.name.schema == pair.from).collect();
    let names: Vec<&str> = own.iter().map(|entry| entry.name.table.as_str()).collect();
    assert_eq!(names, ["bare", "keyed", "parts", "seen", "uniq"]);
    assert_eq!(own[3].kind, TableKind::View);
    assert!(entries.iter().all(|entry| entry.name.schema != "mysql"));
    assert!(pair.source().schemas().await.unwrap().contains(&pair.from));

    let keyed = pair.describe("keyed").await;
    assert_eq!(keyed.primary_key, [1, 0]);
    let generated: Vec<bool> = keyed.columns.iter().map(|column| column.generated).collect();
    assert_eq!(generated, [false, false, false, true, true, false]);
    let uniq = pair.describe("uniq").await;
    assert_eq!((uniq.primary_key.len(), uniq.row_key()), (0, &[2][..]));

    assert_eq!(pair.copy("keyed", Format::Text).await.0, 2);
    pair.assert_same("keyed", &["a", "b", "c", "v", "st"]);
    assert_eq!(pair.copy("bare", Format::Text).await.0, 3);
    pair.sql("CREATE TABLE lone (a VARCHAR(5)); INSERT INTO lone VALUES (''), (NULL), ('x'), ('')");
    assert_eq!(pair.copy("lone", Format::Text).await.0, 4);
    pair.assert_same("lone", &["a", "a IS NULL"]);
    assert_eq!(pair.copy("parts", Format::Text).await.0, 4);
    pair.assert_same("parts", &["a"]);
    assert_eq!(pair.copy("seen", Format::Text).await.0, 3);
    // A target that makes its own values is not sent any.
    pair.server.client(&format!("DROP TABLE {0}.keyed; CREATE TABLE {0}.keyed LIKE {1}.keyed", pair.to, pair.from));
    let mut renamed = keyed.clone();
    renamed.name.schema = pair.to.clone();
    assert_eq!(pair.load(&keyed, &renamed, Format::Text).await.0, 2);
    pair.assert_same("keyed", &["a", "b", "c", "v", "st"]);
}

#[tokio::test]
async fn a_table_may_have_a_thousand_columns() {
    let pair = Pair::new();
    let columns: Vec<String> = (0..1000)
        .map(|index| format!("c{index} {}", ["INT", "VARCHAR(20)", "DATE", "DECIMAL(10,2)", "TEXT"][index % 5]))
        .collect();
    pair.sql(&format!(
        "SET innodb_strict_mode=0; CREATE TABLE t ({}); INSERT INTO t (c0, c999, c501) VALUES (1, 'x', 'y'), (2, NULL, '');",
        columns.join(",")
    ));
    assert_eq!(pair.copy("t", Format::Text).await.0, 2);
    pair.assert_same("t", &["c0", "c999", "c501", "c2"]);
    // From another engine every text may be long.
    let mut foreign = pair.describe("t").await;
    foreign.family = Family::PostgreSql;
    foreign.name = TableName::new(&pair.to, "foreign_t");
    for column in &mut foreign.columns {
        column.data_type = DataType::WString { length: 500 };
    }
    pair.target().prepare(&foreign, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
}

#[tokio::test]
async fn a_large_object_passes_in_bounded_batches() {
    let mut pair = Pair::new();
    pair.batch_bytes = 256 << 10;
    pair.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, a LONGBLOB, b INT, c LONGTEXT CHARACTER SET latin1, d LONGTEXT);
         INSERT INTO t VALUES (1, REPEAT(UNHEX('00095C0A4E27FF2C'), 13107200), 7, NULL, 'x'), \
         (2, 'small', 8, REPEAT('é\\t', 8388608), REPEAT('😀', 4194304)), (3, '', NULL, '', ''), \
         (4, REPEAT('a', 300000), NULL, REPEAT('b', 70000), REPEAT('c', 70000));",
    );
    let (rows, rejected) = pair.copy("t", Format::Text).await;
    assert_eq!((rows, rejected.len()), (4, 0), "{rejected:?}");
    let sums = |database: &str| {
        pair.server.client(&format!(
            "SELECT id, LENGTH(a), MD5(a), b, LENGTH(c), MD5(c), LENGTH(d), MD5(d) FROM {database}.t ORDER BY id"
        ))
    };
    assert_eq!(sums(&pair.from), sums(&pair.to));
    assert!(sums(&pair.to).starts_with("1\t104857600\t"));
}

#[tokio::test]
async fn a_row_that_fills_its_packet_exactly_is_read_to_its_end() {
    let pair = Pair::new();
    // Four bytes of length before the value make 16 MiB less one: the packet that ends the row is empty.
    pair.sql("CREATE TABLE t (a LONGBLOB); INSERT INTO t VALUES (REPEAT('x', 16777211)), ('next')");
    let (rows, rejected) = pair.copy("t", Format::Text).await;
    assert_eq!((rows, rejected.len()), (2, 0), "{rejected:?}");
    pair.assert_same("t", &["MD5(a)"]);
}

#[tokio::test]
async fn limited_lobs_are_cut_between_characters_and_counted() {
    let mut pair = Pair::new();
    pair.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, a LONGBLOB, b LONGTEXT CHARACTER SET latin1, c LONGTEXT, short VARCHAR(100));
         INSERT INTO t VALUES (1, REPEAT('x', 11), REPEAT('é', 6), REPEAT('😀', 3), REPEAT('y', 50)), \
         (2, REPEAT('x', 10), REPEAT('é', 5), '😀😀é', 'z'), (3, NULL, '', REPEAT('€', 200000), NULL);",
    );
    let schema = pair.describe("t").await;
    for (limit, expected) in [(10, (vec![10, 10, 8], 4)), (399_999, (vec![11, 12, 12], 1))] {
        pair.lob_bytes_max = Some(limit);
        for format in [Format::Text, Format::Values] {
            let snapshot = pair.source().snapshot(1).await.unwrap();
            let mut reader = snapshot.read(pair.plan(&schema, format)).await.unwrap();
            let mut batch = Batch::new();
            assert!(reader.next(&mut batch).await.unwrap());
            let lengths: Vec<usize> = batch
                .row(0)
                .skip(1)
                .take(3)
                .map(|value| match value {
                    Value::String(bytes) | Value::Bytes(bytes) => bytes.len(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!((lengths, batch.truncated()), expected);
            let Some(Value::String(text)) = batch.row(2).nth(3) else { panic!() };
            assert_eq!(text.len() as u64, limit / 3 * 3);
            assert!(std::str::from_utf8(text).is_ok());
        }
    }
    // In pieces too: the value is longer than the read buffer, and the cut goes through a character.
    pair.lob_bytes_max = Some(500_001);
    pair.batch_bytes = 100_000;
    assert_eq!(pair.copy("t", Format::Text).await.0, 3);
    assert_eq!(pair.server.client(&format!("SELECT LENGTH(c) FROM {}.t WHERE id=3", pair.to)), "500001\n");
    pair.lob_bytes_max = Some(500_000);
    assert_eq!(pair.copy("t", Format::Text).await.0, 3);
    let cut = format!("SELECT LENGTH(c), RIGHT(c, 1) FROM {}.t WHERE id=3", pair.to);
    assert_eq!(pair.server.client(&cut), "499998\t€\n");
}

/// A writer for a table made by `ddl`, and rows for it.
async fn write(pair: &Pair, ddl: &str, columns: &[(&str, DataType)], rows: &[&[Value<'_>]]) -> (u64, Vec<Rejected>) {
    pair.server.client(&format!("CREATE DATABASE IF NOT EXISTS {0}; USE {0}; {ddl}", pair.to));
    let schema = TableSchema {
        name: TableName::new(&pair.to, "t"),
        kind: TableKind::Table,
        family: Family::PostgreSql,
        columns: columns
            .iter()
            .map(|(name, data_type)| Column {
                name: (*name).to_owned(),
                data_type: *data_type,
                native: String::new(),
                nullable: true,
                generated: false,
            })
            .collect(),
        primary_key: Vec::new(),
        unique_key: Vec::new(),
        rows_estimate: 0,
    };
    let mut writer = pair.target().writer(&schema, Format::Values, 10_000).await.unwrap();
    let mut batch = Batch::new();
    batch.clear(Format::Values);
    for row in rows {
        row.iter().for_each(|value| batch.push(*value));
        batch.end_row();
    }
    let mut written = writer.write(&batch).await.unwrap();
    let last = writer.finish().await.unwrap();
    written.rejected.extend(last.rejected);
    (written.rows + last.rows, written.rejected)
}

#[tokio::test]
async fn bad_rows_are_found_and_do_not_take_others_along() {
    let pair = Pair::new();
    let rows: Vec<[Value<'_>; 5]> = (0..500)
        .map(|id| {
            let mut row = [Value::Int(id), Value::String(b"ok"), Value::Numeric(b"1"), Value::Int(1), Value::Date(0)];
            match id {
                100 => row[1] = Value::String(b"longer than ten characters"),
                200 => row[1] = Value::Null,
                201 => row[1] = Value::String(b"\xff\xfe"),
                300 => row[2] = Value::Numeric(b"NaN"),
                301 => row[2] = Value::Numeric(b"123456"),
                302 => row[2] = Value::Numeric(b"abc"),
                400 => row[0] = Value::Int(399),
                401 => row[3] = Value::Int(-5),
                402 => row[4] = Value::Date(Value::DATE_INFINITY),
                _ => {}
            }
            row
        })
        .collect();
    let rows: Vec<&[Value<'_>]> = rows.iter().map(|row| &row[..]).collect();
    let (written, rejected) = write(
        &pair,
        "CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(10) NOT NULL, n DECIMAL(5,2), u INT CHECK (u > 0), d DATE)",
        &[
            ("id", DataType::Int4),
            ("a", DataType::WString { length: 10 }),
            ("n", DataType::Numeric { precision: 5, scale: 2 }),
            ("u", DataType::Int4),
            ("d", DataType::Date),
        ],
        &rows,
    )
    .await;
    assert_eq!(written, 491);
    assert_eq!(pair.server.client(&format!("SELECT COUNT(*), COUNT(DISTINCT id) FROM {}.t", pair.to)), "491\t491\n");
    let mut found: Vec<(String, ErrorKind, Option<i64>)> = rejected
        .iter()
        .map(|row| {
            let id = row.statement.split(['(', ',']).nth(6).unwrap_or_default();
            (id.to_owned(), row.error.kind, row.error.native)
        })
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let expected = [
        ("'100'", ErrorKind::Truncation, 1406),
        ("'200'", ErrorKind::Data, 1048),
        ("'201'", ErrorKind::Data, 1300),
        ("'300'", ErrorKind::Data, 1366),
        ("'301'", ErrorKind::Truncation, 1264),
        ("'302'", ErrorKind::Data, 1366),
        ("'399'", ErrorKind::Data, 1062),
        ("'401'", ErrorKind::Data, 4025),
        ("'402'", ErrorKind::Data, 1366),
    ];
    assert_eq!(found, expected.map(|(id, kind, code)| (id.to_owned(), kind, Some(code))));
    assert!(rejected.iter().all(|row| !row.error.to_string().contains("longer than")));
    let text = rejected.iter().find(|row| row.error.native == Some(1406)).unwrap();
    assert!(text.statement.starts_with(&format!("INSERT INTO `{}`.`t`(`id`,`a`,", pair.to)));
    assert!(text.statement.contains("'longer than ten characters'"));
}

#[tokio::test]
async fn values_of_other_engines_reach_every_column_type() {
    let pair = Pair::new();
    let (written, rejected) = write(
        &pair,
        "CREATE TABLE t (id INT PRIMARY KEY, f FLOAT, d DOUBLE, n DECIMAL(65,30), b BOOLEAN, dt DATETIME(6), tm TIME(6), \
         j JSON, c VARCHAR(20) CHARACTER SET utf8mb3, bl LONGBLOB)",
        &[
            ("id", DataType::Int4),
            ("f", DataType::Real4),
            ("d", DataType::Real8),
            ("n", DataType::Numeric { precision: 0, scale: 0 }),
            ("b", DataType::Boolean),
            ("dt", DataType::DateTime { scale: 6 }),
            ("tm", DataType::Time { scale: 6 }),
            ("j", DataType::NClob),
            ("c", DataType::WString { length: 20 }),
            ("bl", DataType::Blob),
        ],
        &[
            &[
                Value::Int(1),
                Value::Real(3.4028235e38),
                Value::Real(f64::MIN_POSITIVE),
                Value::Numeric(b"-0.123456789012345678901234567890"),
                Value::Bool(true),
                Value::DateTime(253_402_300_799_999_999),
                Value::Time(86_400_000_000),
                Value::String(b"{\"a\": \"\\u00e9\"}"),
                Value::String("€".as_bytes()),
                Value::Bytes(&[0, 9, 10, 92, 255]),
            ],
            &[
                Value::Int(2),
                Value::Null,
                Value::Null,
                Value::Numeric(b"0.1234567890123456789012345678901"),
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
            ],
            &[
                Value::Int(3),
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::String(b"not json"),
                Value::Null,
                Value::Null,
            ],
            &[
                Value::Int(4),
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::Null,
                Value::String("😀".as_bytes()),
                Value::Null,
            ],
        ],
    )
    .await;
    let codes: Vec<_> = rejected.iter().map(|row| row.error.native).collect();
    assert_eq!((written, codes), (1, vec![Some(1366), Some(4025), Some(1366)]));
    let read = format!("SELECT f*1e0, d, n, b, dt, tm, j, c, HEX(bl) FROM {}.t", pair.to);
    assert_eq!(
        pair.server.client(&read),
        "3.4028234663852886e38\t2.2250738585072014e-308\t-0.123456789012345678901234567890\t1\t\
         9999-12-31 23:59:59.999999\t24:00:00.000000\t{\"a\": \"\\u00e9\"}\t€\t00090A5CFF\n"
    );
}

#[tokio::test]
async fn a_bad_row_that_comes_in_pieces_is_found_too() {
    let mut pair = Pair::new();
    pair.batch_bytes = 64 << 10;
    pair.sql(
        "CREATE TABLE t (id INT, a LONGTEXT);
         INSERT INTO t VALUES (1, 'x'), (2, REPEAT('long', 500000)), (3, 'y'), (2, 'again')",
    );
    let schema = pair.describe("t").await;
    let mut renamed = schema.clone();
    renamed.name.schema = pair.to.clone();
    pair.server.client(&format!("CREATE DATABASE {0}; CREATE TABLE {0}.t (id INT PRIMARY KEY, a TEXT)", pair.to));
    let (rows, rejected) = pair.load(&schema, &renamed, Format::Text).await;
    assert_eq!((rows, rejected.len()), (3, 1), "{rejected:?}");
    assert!(matches!(rejected[0].error.native, Some(1265 | 1406)), "{:?}", rejected[0].error);
    assert!(rejected[0].statement.len() < 8192);
    assert_eq!(pair.server.client(&format!("SELECT * FROM {}.t ORDER BY id", pair.to)), "1\tx\n2\tagain\n3\ty\n");
}

#[tokio::test]
async fn engines_without_transactions_and_columns_of_other_kinds_are_loaded_correctly() {
    let pair = Pair::new();
    let (written, rejected) = write(
        &pair,
        "CREATE TABLE t (id INT PRIMARY KEY, b BIT(4), txt VARCHAR(20) CHARACTER SET latin1) ENGINE=MyISAM",
        &[("id", DataType::Int4), ("b", DataType::Boolean), ("txt", DataType::Clob)],
        &[
            &[Value::Int(1), Value::Bool(true), Value::String("ä".as_bytes())],
            &[Value::Int(1), Value::Bool(false), Value::Null],
            &[Value::Int(2), Value::Bool(false), Value::String("😀".as_bytes())],
            &[Value::Int(3), Value::Null, Value::String(b"")],
        ],
    )
    .await;
    assert_eq!(written, 2);
    let codes: Vec<_> = rejected.iter().map(|row| row.error.native).collect();
    assert_eq!(codes, [Some(1062), Some(1366)]);
    let read = format!("SELECT id, b+0, HEX(txt) FROM {}.t ORDER BY id", pair.to);
    assert_eq!(pair.server.client(&read), "1\t1\tE4\n3\tNULL\t\n");
}

#[tokio::test]
async fn an_enums_error_value_is_loaded_among_bad_rows() {
    let pair = Pair::new();
    pair.sql(
        "CREATE TABLE t (id INT, e ENUM('a','b'), f ENUM('','c'));
         INSERT INTO t VALUES (1, 'a', 'c'), (2, 'none', ''), (3, NULL, NULL), (4, '', 'c'), (2, 'b', 'c'), (5, 'zz', '')",
    );
    let schema = pair.describe("t").await;
    let mut renamed = schema.clone();
    renamed.name.schema = pair.to.clone();
    let ddl = "(id INT PRIMARY KEY, e ENUM('a','b'), f ENUM('','c'))";
    pair.server.client(&format!("CREATE DATABASE {0}; CREATE TABLE {0}.t {ddl}", pair.to));
    let (rows, rejected) = pair.load(&schema, &renamed, Format::Text).await;
    assert_eq!((rows, rejected.len(), rejected[0].error.native), (5, 1, Some(1062)));
    let read = format!("SELECT id, e, e+0, f FROM {}.t ORDER BY id", pair.to);
    assert_eq!(pair.server.client(&read), "1\ta\t1\tc\n2\t\t0\t\n3\tNULL\tNULL\tNULL\n4\t\t0\tc\n5\t\t0\t\n");
}

#[tokio::test]
async fn several_connections_load_one_table() {
    let mut pair = Pair::new();
    pair.settings.insert("ParallelLoadThreads".to_owned(), Json::from(4));
    pair.settings.insert("MaxFileSize".to_owned(), Json::from(1));
    pair.batch_rows = 100;
    pair.sql(
        "CREATE TABLE t (id INT PRIMARY KEY, a VARCHAR(50)); INSERT INTO t SELECT seq, MD5(seq) FROM seq_1_to_5000",
    );
    assert_eq!(pair.copy("t", Format::Values).await.0, 5000);
    pair.assert_same("t", &["id", "a"]);
}

#[tokio::test]
async fn prepares_tables_as_the_mode_says() {
    let mut pair = Pair::new();
    pair.sql(
        "CREATE TABLE t (id INT NOT NULL, v TEXT NOT NULL, PRIMARY KEY (v(10), id)); INSERT INTO t VALUES (1, 'x')",
    );
    let mut schema = pair.describe("t").await;
    schema.name.schema = pair.to.clone();
    let count = || pair.server.client(&format!("SELECT COUNT(*) FROM {}.t", pair.to));
    let target = pair.target();
    target.prepare(&schema, PrepareMode::DoNothing, CreateKey::AfterLoad).await.unwrap();
    let declared = || pair.server.client(&format!("SHOW CREATE TABLE {}.t", pair.to));
    assert!(!declared().contains("PRIMARY KEY"));
    target.finish(&schema, CreateKey::AfterLoad).await.unwrap();
    assert!(declared().contains("PRIMARY KEY (`v`("), "{}", declared());
    target.finish(&schema, CreateKey::AfterLoad).await.unwrap();

    pair.server.client(&format!("INSERT INTO {}.t VALUES (5, 'x')", pair.to));
    target.prepare(&schema, PrepareMode::DoNothing, CreateKey::WithTable).await.unwrap();
    assert_eq!(count(), "1\n");
    target.prepare(&schema, PrepareMode::TruncateBeforeLoad, CreateKey::WithTable).await.unwrap();
    assert_eq!(count(), "0\n");
    pair.server.client(&format!("ALTER TABLE {}.t ADD COLUMN extra INT", pair.to));
    target.prepare(&schema, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
    assert!(!declared().contains("extra"));

    // One database for all schemas.
    let other = pair.server.new_database();
    pair.server.client(&format!("CREATE DATABASE {other}"));
    pair.settings.insert("TargetDbType".to_owned(), Json::from("specific-database"));
    let mut connection = Connection { settings: pair.settings.clone(), ..pair.server.connection() };
    connection.database = other.clone();
    let target = (MYSQL.open_target)(connection);
    target.prepare(&schema, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
    assert_eq!(pair.server.client(&format!("SELECT COUNT(*) FROM {other}.t")), "0\n");
}

#[tokio::test]
async fn exceptions_are_recorded_with_every_character() {
    let pair = Pair::new();
    let exception = ApplyException {
        task: "TASK".to_owned(),
        table: TableName::new("it's", "t\\"),
        statement: "INSERT INTO t VALUES ('it''s', '\\\\', '😀')".to_owned(),
        error: "1062 \0 'x'".to_owned(),
    };
    let exceptions = vec![exception; 120];
    pair.target().record_exceptions(&pair.to, &exceptions).await.unwrap();
    let read = format!(
        "SELECT COUNT(*), MIN(TASK_NAME), MIN(TABLE_OWNER), MIN(TABLE_NAME), MIN(STATEMENT), HEX(MIN(ERROR)) \
         FROM {}.awsdms_apply_exceptions WHERE ERROR_TIME > UTC_TIMESTAMP() - INTERVAL 1 HOUR",
        pair.to
    );
    assert_eq!(
        pair.server.client(&read),
        "120\tTASK\tit's\tt\\\tINSERT INTO t VALUES ('it''s', '\\\\', '😀')\t31303632200020277827\n"
    );
    pair.target().record_exceptions("", &exceptions[..1]).await.unwrap();
    assert_eq!(pair.server.client("SELECT COUNT(*) FROM awsdms_control.awsdms_apply_exceptions"), "1\n");
}
