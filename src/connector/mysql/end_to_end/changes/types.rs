//! Values of the log are those of the snapshot, to the byte.

use std::collections::BTreeMap;

use super::*;

/// Tables with every type at its ends, and their rows.
pub(super) const TABLES: [(&str, &str, &str); 8] = [
    (
        "numbers",
        "id INT PRIMARY KEY, ti TINYINT, tu TINYINT UNSIGNED, si SMALLINT, su SMALLINT UNSIGNED ZEROFILL, mi MEDIUMINT, \
         mu MEDIUMINT UNSIGNED, i INT, iu INT UNSIGNED, bi BIGINT, bu BIGINT UNSIGNED ZEROFILL, z5 INT(5) ZEROFILL, f FLOAT, \
         fd FLOAT(7,4), d DOUBLE, dd DOUBLE(20,3), dec1 DECIMAL(65,30), dec2 DECIMAL(5,0), dec3 DECIMAL(9,9), \
         dz DECIMAL(12,3) ZEROFILL, b1 BIT(1), b9 BIT(9), b64 BIT(64), y YEAR, bo BOOLEAN",
        "(0, -128, 255, -32768, 65535, -8388608, 16777215, -2147483648, 4294967295, -9223372036854775808, \
          18446744073709551615, 42, 3.4028234e38, 999.0001, 1.7976931348623157e308, 12345678901234567.891, \
          99999999999999999999999999999999999.999999999999999999999999999999, -99999, 0.999999999, 1.5, b'1', b'111111111', \
          0xFFFFFFFFFFFFFFFF, 2155, 1), \
         (1, 127, 0, 32767, 0, 8388607, 0, 2147483647, 0, 9223372036854775807, 42, 1234567, 1.4e-45, -0.0001, 5e-324, -0.001, \
          -0.000000000000000000000000000001, 0, -0.000000001, 123456789, b'0', b'100000000', 0x5C00, 1901, 0), \
         (2, 0, 9, 0, 9, 0, 9, 0, 9, 0, 9, 0, 0.1, 0, 0.1, 0, 0, 99999, 0, 0, b'1', 0x5C, 0, 0, NULL), \
         (3, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
          NULL, NULL, NULL, NULL, NULL), \
         (4, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, 1, 16777217, 0, 1e23, 0, -1, -1, 0, 0, 1, 1, 1, 2000, 1), \
         (5, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, 1, -0e0, 0, -0e0, 0, 100, -1, 0.5, 0, 1, 1, 1, 2000, 1), \
         (6, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, 1, 1.00000012, 0, 0.30000000000000004, 0, 1234567890.0987654321, 10, 0.5, 0, 1, 1, 1, 2000, 1), \
         (7, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, 1, -1e15, 0, 123456789012345678, 0, 1, 1, 0.5, 0, 1, 1, 1, 2000, 1), \
         (8, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, 1, 1e-15, 0, 1234567890123456.7, 0, 1, 1, 0.5, 0, 1, 1, 1, 2000, 1)",
    ),
    (
        "times",
        "id INT PRIMARY KEY, d DATE, dt DATETIME, dt1 DATETIME(1), dt3 DATETIME(3), dt6 DATETIME(6) NOT NULL, tm TIME, tm2 TIME(2), \
         tm3 TIME(3), tm6 TIME(6), ts TIMESTAMP NULL, ts2 TIMESTAMP(2) NOT NULL DEFAULT 0, ts4 TIMESTAMP(4) NOT NULL DEFAULT 0, \
         ts6 TIMESTAMP(6) NOT NULL DEFAULT 0",
        "(1, '0000-00-00', '0000-00-00', 0, 0, 0, '-838:59:59', '-838:59:59.99', '-838:59:59.999', '-838:59:59.999999', 0, 0, 0, 0), \
         (2, '9999-12-31', '9999-12-31 23:59:59', '9999-12-31 23:59:59.9', '9999-12-31 23:59:59.999', '9999-12-31 23:59:59.999999', \
          '838:59:59', '838:59:59.99', '838:59:59.999', '838:59:59.999999', '2038-01-19 08:44:07', '1970-01-01 05:30:00.01', \
          '2038-01-19 08:44:07.9999', '1970-01-01 05:30:00.000001'), \
         (3, '2024-02-31', '2024-02-30 01:02:03', '2024-00-00', '2024-01-00', '2024-01-01 00:00:00.000001', '00:00:00', \
          '-00:00:00.01', '-00:00:00.001', '-00:00:00.000001', NULL, '2024-03-10 15:30:00.5', '2024-11-03 14:30:00', \
          '2024-11-03 15:30:00.123456'), \
         (4, '0001-01-01', '0000-01-01 00:00:00', '1000-01-01', '1969-12-31 23:59:59.999', '1000-01-01 00:00:00.1', NULL, NULL, NULL, \
          '12:34:56.7', '2024-03-10 15:29:59', '2000-01-01', '2001-09-09 07:16:39.1234', '2010-06-30')",
    ),
    (
        "texts",
        "id INT PRIMARY KEY, a VARCHAR(300) CHARACTER SET latin1, u CHAR(20) CHARACTER SET ucs2, \
         u3 VARCHAR(20) CHARACTER SET utf8mb3, u4 CHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin, \
         u16 VARCHAR(20) CHARACTER SET utf16, ul VARCHAR(20) CHARACTER SET utf16le, u32 CHAR(20) CHARACTER SET utf32, \
         g VARCHAR(20) CHARACTER SET cp1251, asc1 VARCHAR(20) CHARACTER SET ascii, tt TINYTEXT, tx TEXT CHARACTER SET latin1, \
         mt MEDIUMTEXT, lt LONGTEXT CHARACTER SET latin2, b BINARY(4), vb VARBINARY(300), tb TINYBLOB, bl BLOB, mb MEDIUMBLOB, \
         lb LONGBLOB, e ENUM('x','ß','it''s \\\\\\\\,\\\"','a\\nb') CHARACTER SET latin1, s SET('a','ö','c') CHARACTER SET latin1, \
         e0 ENUM('','y'), j JSON, c4 CHAR(3) CHARACTER SET latin1, big VARCHAR(3000), cb CHAR(9) CHARACTER SET sjis, \
         ge ENUM('Ж','б') CHARACTER SET cp1251",
        "(1, 'naïve ß', 'ünï', 'ünï€', 'emoji 😀', 'x😀€', 'x😀€', 'x😀', 'Привет', 'plain', '', 'tä\\\\tx\\\\n\\\\\\\\N', REPEAT('é😀', 1000), \
          'Łódź', 'ab', UNHEX('00FF5C0A09'), '', '\\\\\\\\N', 'N', REPEAT('x', 70000), 'ß', 'a,ö,c', '', '{\\\"k\\\": [1, \\\"ü\\\"]}', 'a ', \
          REPEAT('ü', 2000), 'テスト', 'б'), \
         (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
          NULL, NULL, NULL, NULL, NULL, NULL, NULL), \
         (3, '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', '', 'bad', '', 'y', '[]', '', '', '', 'bad'), \
         (4, ' trailing ', ' x ', ' x ', ' x ', ' x ', ' x ', ' x ', ' x ', ' x ', ' x ', ' x ', ' x ', ' x ', UNHEX('61000000'), \
          UNHEX('6100'), UNHEX('00'), 'x', 'x', UNHEX('00'), 'a\\nb', 'c', '', 'null', '  ', ' y ', 'ｱｲｳ\\\\\\\\~', 'Ж'), \
         (5, 'x', UNHEX('0100'), 'x', REPEAT('😀', 255), 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', 'x', UNHEX('00000061'), 'x', 'x', 'x', \
          'x', 'x', 'it''s \\\\\\\\,\\\"', 'ö', 'y', '1.5', 'ö', 'x', '表', 'б')",
    ),
    (
        "geometry",
        "id INT PRIMARY KEY, g GEOMETRY, p POINT, c GEOMETRYCOLLECTION",
        "(1, ST_GeomFromText('LINESTRING(0 0,1 1,2.5 -1e300)', 4326), POINT(9, 10), \
        ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),POLYGON((0 0,1 0,1 1,0 0)))')), (2, NULL, NULL, NULL)",
    ),
    (
        "addresses",
        "id INT PRIMARY KEY, u UUID, i6 INET6, i4 INET4",
        "(1, '00000000-0000-0000-0000-000000000000', '::', '0.0.0.0'), \
         (2, '123e4567-e89b-12d3-a456-426614174000', '2001:db8::1', '10.0.0.1'), \
         (3, 'ffffffff-ffff-ffff-ffff-ffffffffffff', '::ffff:1.2.3.4', '255.255.255.255'), \
         (4, '018f3d40-1111-7abc-8def-0123456789ab', '::1.2.3.4', '1.2.3.0'), (5, NULL, 'fe80::1:0:0:1', '1.0.0.0'), \
         (6, '123e4567-e89b-12d3-0456-426614174000', '1:0:2:3:4:5:6:7', NULL), (7, NULL, '::1', NULL), (8, NULL, '::1:0', NULL), \
         (9, NULL, '1::', NULL), (10, NULL, '1:2:0:0:5:6:0:0', NULL), (11, NULL, '0:1:0:0:0:0:0:0', NULL), (12, NULL, '::ffff:0:0', NULL), \
         (13, NULL, '0:0:0:0:0:1:2:3', NULL), (14, NULL, '1:2:3:4:5:6:7:8', NULL), (15, NULL, '0:0:1:0:0:2:0:0', NULL)",
    ),
    (
        "compressed",
        "id INT PRIMARY KEY, t TEXT COMPRESSED CHARACTER SET latin1, v VARCHAR(1000) COMPRESSED, b LONGBLOB COMPRESSED, \
         vb VARBINARY(300) COMPRESSED",
        "(1, REPEAT('äb', 500), 'short', REPEAT('x', 300), REPEAT('y', 280)), (2, '', '', '', ''), (3, NULL, NULL, NULL, NULL), \
         (4, 'abc', REPEAT('ü', 200), REPEAT('z', 70000), 'e')",
    ),
    (
        "made",
        "id INT, hid INT INVISIBLE DEFAULT 5, v INT AS (id+1) VIRTUAL, hid2 LONGTEXT INVISIBLE, st VARCHAR(9) AS (CONCAT('s', id)) STORED, \
         t TEXT, PRIMARY KEY (id), UNIQUE (t)",
        "(1, DEFAULT, DEFAULT, 'x'), (2, DEFAULT, DEFAULT, NULL)",
    ),
    (
        "wide",
        "id INT PRIMARY KEY, c63 BIT(63), s64 SET('a0','a1','a2','a3','a4','a5','a6','a7','a8','a9','b0','b1','b2','b3','b4','b5','b6',\
      'b7','b8','b9','c0','c1','c2','c3','c4','c5','c6','c7','c8','c9','d0','d1','d2','d3','d4','d5','d6','d7','d8','d9','e0','e1','e2','e3',\
      'e4','e5','e6','e7','e8','e9','f0','f1','f2','f3','f4','f5','f6','f7','f8','f9','g0','g1','g2','g3'), y2 YEAR(2), vbig VARCHAR(256)",
        "(1, 0x7FFFFFFFFFFFFFFF, 'a0,g3,c1', 99, REPEAT('v', 256)), (2, 0, '', 0, '')",
    ),
];

/// All rows by their first value.
type Rows = BTreeMap<String, Vec<String>>;

fn add(rows: &mut Rows, batch: &Batch, row: usize) {
    let values: Vec<String> = batch.row(row).map(|value| format!("{value:?}")).collect();
    rows.insert(values[0].clone(), values);
}

async fn snapshot_rows(pair: &Pair, schema: &TableSchema, format: Format) -> (Rows, u64) {
    let snapshot = pair.zoned_source().snapshot(1).await.unwrap();
    let mut reader = snapshot.read(ReadPlan { batch_bytes: 1 << 30, ..pair.plan(schema, format) }).await.unwrap();
    let (mut batch, mut rows, mut truncated) = (Batch::new(), Rows::new(), 0);
    while reader.next(&mut batch).await.unwrap() {
        (0..batch.rows()).for_each(|row| add(&mut rows, &batch, row));
        truncated += batch.truncated();
    }
    (rows, truncated)
}

/// Reads so many transactions, which insert rows into one table.
async fn log_rows(log: &mut Log, transactions: usize) -> (Rows, u64, Arc<TableVersion>) {
    let (mut rows, mut truncated, mut version, started) = (Rows::new(), 0, None, std::time::Instant::now());
    let mut commits = 0;
    while commits < transactions {
        assert!(started.elapsed() < Duration::from_secs(60), "there are no more rows: {version:?}");
        let mut changes = Changes::default();
        log.reader.next(&mut changes).await.unwrap();
        truncated += changes.rows.truncated();
        for entry in &changes.entries {
            match entry {
                Entry::Table { version: told, .. } => version = Some(told.clone()),
                Entry::Row { op: Op::Insert, new: Some(row), .. } => add(&mut rows, &changes.rows, *row as usize),
                Entry::Commit { .. } => commits += 1,
                Entry::Begin { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    (rows, truncated, version.unwrap())
}

async fn assert_same(pair: &Pair, format: Format) {
    assert_same_in(pair, format, &TABLES).await;
}

pub(super) async fn assert_same_in(pair: &Pair, format: Format, tables: &[(&str, &str, &str)]) {
    for (name, columns, _) in tables {
        pair.sql(&format!(
            "SET sql_mode='ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO'; DROP TABLE IF EXISTS {name}; CREATE TABLE {name} ({columns})"
        ));
    }
    let mut log = Log::begin(pair, format).await;
    for (name, _, rows) in tables {
        pair.sql(&format!(
            "SET sql_mode='ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO', time_zone='+05:30'; INSERT INTO {name} VALUES {rows}"
        ));
        let schema = pair.describe(name).await;
        let (expected, expected_truncated) = snapshot_rows(pair, &schema, format).await;
        let (rows, truncated, version) = log_rows(&mut log, 1).await;
        assert_eq!(version.schema.columns, schema.columns);
        assert_eq!(rows.len(), expected.len(), "{name}");
        for (key, expected) in &expected {
            for ((found, expected), column) in rows[key].iter().zip(expected).zip(&schema.columns) {
                assert_eq!(found, expected, "{format:?} {name}.{} {} of row {key}", column.name, column.native);
            }
        }
        assert_eq!(truncated, expected_truncated, "{name}");
    }
}

#[tokio::test]
async fn values_are_the_same_in_the_engines_own_text() {
    assert_same(&Pair::new(), Format::Text).await;
}

#[tokio::test]
async fn values_are_the_same_in_the_types_of_dms() {
    assert_same(&Pair::new(), Format::Values).await;
}

#[tokio::test]
async fn values_are_the_same_where_the_log_tells_more_and_is_compressed() {
    let pair = Pair::of(telling_server());
    assert_same(&pair, Format::Text).await;
    assert_same(&pair, Format::Values).await;
}

#[tokio::test]
async fn values_are_the_same_in_the_zone_of_the_endpoint() {
    let mut pair = Pair::new();
    // A server without time zone tables knows offsets only, and its own zone.
    pair.settings.insert("ServerTimezone".to_owned(), Json::from("-07:15"));
    assert_same(&pair, Format::Text).await;
    pair.server.client(&zone_rules());
    for zone in ["Test/Pacific", "Test/Odd"] {
        pair.settings.insert("ServerTimezone".to_owned(), Json::from(zone));
        assert_same(&pair, Format::Text).await;
        assert_same(&pair, Format::Values).await;
    }
}

/// Time zone tables with two zones: one with daylight saving time in 2024, one that changes for three weeks.
fn zone_rules() -> String {
    let mut sql = String::from("USE mysql; SET SESSION sql_log_bin=0;");
    for (id, name, summer, winter) in
        [(90, "Test/Pacific", 1_710_064_800, 1_730_624_400), (91, "Test/Odd", 1_000_000_000, 1_001_814_400)]
    {
        write!(
            sql,
            "REPLACE INTO time_zone VALUES ({id}, 'N'); REPLACE INTO time_zone_name VALUES ('{name}', {id});
             REPLACE INTO time_zone_transition_type VALUES ({id}, 0, -28800, 0, 'S'), ({id}, 1, -25200, 1, 'D');
             REPLACE INTO time_zone_transition VALUES ({id}, {summer}, 1), ({id}, {winter}, 0);"
        )
        .unwrap();
    }
    sql
}

#[tokio::test]
async fn large_values_are_cut_where_the_snapshot_cuts_them() {
    let mut pair = Pair::new();
    pair.lob_bytes_max = Some(7);
    for format in [Format::Text, Format::Values] {
        assert_same(&pair, format).await;
    }
    let columns: Vec<String> = (0..6).map(|n| format!("l{n} LONGTEXT, b{n} LONGBLOB")).collect();
    pair.sql(&format!("CREATE TABLE cut (id INT PRIMARY KEY, {})", columns.join(",")));
    let mut log = Log::begin(&pair, Format::Text).await;
    let values: Vec<String> =
        (0..6).map(|n| format!("CONCAT(REPEAT('x', {n}), '😀é€😀'), REPEAT('y', {})", n + 4)).collect();
    pair.sql(&format!("INSERT INTO cut VALUES (1, {})", values.join(",")));
    let (expected, truncated) = snapshot_rows(&pair, &pair.describe("cut").await, Format::Text).await;
    assert_eq!(truncated, 8);
    let (rows, also_truncated, _) = log_rows(&mut log, 1).await;
    assert_eq!((rows, also_truncated), (expected, truncated));
}

#[tokio::test]
async fn text_of_every_character_set_is_the_same() {
    let pair = Pair::new();
    let sets = pair.server.client("SELECT CHARACTER_SET_NAME, MAXLEN FROM information_schema.CHARACTER_SETS");
    let sets: Vec<(&str, u8)> =
        sets.lines().filter_map(|line| line.split_once('\t')).map(|(name, len)| (name, len.parse().unwrap())).collect();
    assert!(sets.len() > 30);
    let mut told = Vec::new();
    for (name, longest) in &sets {
        pair.sql(&format!("CREATE TABLE cs_{name} (id INT PRIMARY KEY, v MEDIUMTEXT CHARACTER SET {name}, c CHAR(1) CHARACTER SET {name})"));
        told.push((*name, *longest));
    }
    let mut log = Log::begin(&pair, Format::Text).await;
    for (name, longest) in told {
        // Every character that the set has: single bytes, and pairs of them where characters have two.
        let insert = format!(
            "SET sql_mode='', group_concat_max_len=4000000; \
             INSERT INTO cs_{name} SELECT 1, GROUP_CONCAT(CHAR(seq USING {name}) ORDER BY seq SEPARATOR ''), CHAR(233 USING {name}) FROM seq_0_to_255;"
        );
        let double = format!(
            "INSERT INTO cs_{name} SELECT 2, GROUP_CONCAT(CHAR(seq USING {name}) ORDER BY seq SEPARATOR ''), 'x' FROM seq_33088_to_65535;"
        );
        let triple = format!(
            "INSERT INTO cs_{name} SELECT 3, GROUP_CONCAT(CHAR(seq USING {name}) ORDER BY seq SEPARATOR ''), 'x' FROM seq_9413025_to_9436926;"
        );
        let all = [Some(insert), (longest > 1).then_some(double), (longest == 3).then_some(triple)];
        let rows = all.iter().flatten().count();
        pair.sql(&all.into_iter().flatten().collect::<String>());
        let (expected, _) = snapshot_rows(&pair, &pair.describe(&format!("cs_{name}")).await, Format::Text).await;
        let (found, ..) = log_rows(&mut log, rows).await;
        assert_eq!(found.len(), expected.len(), "{name}");
        for (key, expected) in &expected {
            for (found, expected) in found[key].iter().zip(expected) {
                if found != expected {
                    let at = found.chars().zip(expected.chars()).take_while(|(one, other)| one == other).count();
                    let near = |text: &str| text.chars().skip(at.saturating_sub(5)).take(20).collect::<String>();
                    panic!("{name} {key}: {:?} is {:?} in the log", near(expected), near(found));
                }
            }
        }
    }
}
