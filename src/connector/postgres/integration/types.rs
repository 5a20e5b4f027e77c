//! Every type there and back.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use super::*;
use crate::data::Value;

/// One column per built-in type, the first six rows its extremes and oddities, then nulls.
const EVERY_TYPE: &[(&str, &[&str])] = &[
    ("boolean", &["true", "false"]),
    ("smallint", &["-32768", "32767", "0"]),
    ("integer", &["-2147483648", "2147483647"]),
    ("bigint", &["-9223372036854775808", "9223372036854775807"]),
    ("real", &["3.4028235e38", "1e-45", "NaN", "-Infinity", "-0", "0.1"]),
    ("double precision", &["1.7976931348623157e308", "5e-324", "NaN", "Infinity", "-0", "0.1"]),
    ("numeric", &["NaN", "Infinity", "-Infinity", "0.000", "-1.50", "12345678901234567890.12345678901234567890"]),
    ("numeric(10,2)", &["99999999.99", "-0.01"]),
    ("numeric(1000,500)", &["1e499", "1e-500"]),
    ("numeric(3,-2)", &["99900", "-100"]),
    ("money", &["-92233720368547758.08", "92233720368547758.07", "0.01"]),
    ("character(5)", &["a", "", "  b", "naïve"]),
    ("character varying(20)", &["", "padded  ", "\u{1F600}", "a\tb\nc\rd\\e"]),
    ("text", &["", "\\N", "\\.", "\t", "a'b\"c", "\u{1}\u{8}\u{c}\u{b}\u{7f}\u{e000}\u{10ffff}"]),
    ("text COLLATE \"C\"", &["Ünï"]),
    ("name", &["a name"]),
    ("\"char\"", &["x", ""]),
    ("bytea", &["", "\\x00", "\\xff00fe5c6e0a0d09", "\\\\N"]),
    ("date", &["4713-01-01 BC", "5874897-12-31", "infinity", "-infinity", "0001-01-01", "2000-02-29"]),
    ("time", &["00:00:00", "24:00:00", "23:59:59.999999"]),
    ("time(3)", &["12:34:56.789"]),
    (
        "timestamp",
        &[
            "4713-01-01 00:00:00 BC",
            "294276-12-31 23:59:59.999999",
            "infinity",
            "-infinity",
            "1969-12-31 23:59:59.999999",
        ],
    ),
    ("timestamp(0)", &["2024-02-29 12:00:00"]),
    (
        "timestamptz",
        &[
            "4713-01-01 00:00:00 BC",
            "294276-12-31 23:59:59.999999+00",
            "infinity",
            "-infinity",
            "2024-06-30 12:00:00+05:45",
        ],
    ),
    ("interval", &["-178000000 years", "178000000 years", "1 year -2 mons +3 days -04:05:06.789", "0"]),
    ("interval day to second(3)", &["3 days 04:05:06.789"]),
    ("uuid", &["00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"]),
    ("json", &["{\"a\" : [1,  2.50, null], \"a\": \"\\u00e4\\n\"}", "null"]),
    ("jsonb", &["{\"a\": [1, 2.50, null], \"b\": \"\\u00e4\\n\\\\\"}", "1e1000"]),
    ("xml", &["<a b=\"c\">d &amp; e\n</a>", "text"]),
    ("bit(5)", &["10101", "00000"]),
    ("bit varying", &["", "1", "101010101010101010101010101010101"]),
    ("inet", &["192.168.0.1/24", "::ffff:1.2.3.4/128", "0.0.0.0/0"]),
    ("cidr", &["10.0.0.0/8", "2001:db8::/32"]),
    ("macaddr", &["08:00:2b:01:02:03"]),
    ("macaddr8", &["08:00:2b:01:02:03:04:05"]),
    ("point", &["(1.5,-2)", "(Infinity,NaN)"]),
    ("line", &["{1,-1,0}"]),
    ("lseg", &["[(0,0),(1,1)]"]),
    ("box", &["(1,1),(0,0)"]),
    ("path", &["((0,0),(1,1))", "[(0,0),(1e300,1)]"]),
    ("polygon", &["((0,0),(1,1),(2,0))"]),
    ("circle", &["<(1,2),3>"]),
    ("tsvector", &["'a':1A,2B 'it''s \\\\':3"]),
    ("tsquery", &["'a' & !'b' | 'c':*A <-> 'd'"]),
    ("int4range", &["[1,10)", "empty", "(,)"]),
    ("int8range", &["[-9223372036854775808,5)"]),
    ("numrange", &["(1.10,2.5]"]),
    ("tsrange", &["[2020-01-01 00:00:00,infinity)"]),
    ("tstzrange", &["(2020-01-01 00:00:00+00,)"]),
    ("daterange", &["[2020-01-01,2020-02-01)"]),
    ("int4multirange", &["{[1,3),[5,7)}", "{}"]),
    ("tstzmultirange", &["{[2020-01-01 00:00:00+00,2020-01-02 00:00:00+00)}"]),
    ("oid", &["0", "4294967295"]),
    ("xid", &["4294967295"]),
    ("cid", &["4294967295"]),
    ("tid", &["(4294967295,65535)"]),
    ("xid8", &["18446744073709551615"]),
    ("pg_lsn", &["FFFFFFFF/FFFFFFFF"]),
    ("pg_snapshot", &["10:20:10,14,15"]),
    ("txid_snapshot", &["10:20:10,14,15"]),
    ("integer[]", &["{1,NULL,-3}", "{}", "[2:3]={1,2}", "{{1,2},{3,4}}"]),
    ("text[]", &["{\"\",NULL,\"NULL\",\"a\\\\b\\\"c\",\"{}\",\"\t\n\"}"]),
    ("numeric(4,1)[]", &["{1.5,NaN}"]),
    ("jsonb[]", &["{\"{\\\"a\\\": 1}\"}"]),
    ("int4range[]", &["{\"[1,2)\"}"]),
    ("bytea[]", &["{\"\\\\x00ff\"}"]),
];

/// Types, and values of a type, that came with a version of PostgreSQL.
const SINCE: &[(&str, u32)] = &[
    ("int4multirange", 14),
    ("tstzmultirange", 14),
    ("numeric Infinity", 14),
    ("numeric -Infinity", 14),
    ("numeric(3,-2)", 15),
];

fn every_type(version: u32) -> String {
    let is_known = |what: &str| SINCE.iter().all(|(name, since)| what != *name || version >= *since);
    let known: Vec<_> = EVERY_TYPE.iter().filter(|(name, _)| is_known(name)).collect();
    let columns: Vec<String> = known.iter().enumerate().map(|(index, (name, _))| format!("c{index} {name}")).collect();
    let mut sql = format!("CREATE TABLE every (id integer PRIMARY KEY, {});\n", columns.join(", "));
    for row in 0..7 {
        let value = |(name, values): &&(&str, &[&str])| match values.get(row) {
            Some(value) if is_known(&format!("{name} {value}")) => format!("'{}'", value.replace('\'', "''")),
            _ => "NULL".into(),
        };
        let values: Vec<String> = known.iter().copied().map(|column| value(&column)).collect();
        sql += &format!("INSERT INTO every VALUES ({row}, {});\n", values.join(", "));
    }
    // A number as long as numbers get.
    sql += "UPDATE every SET c6 = (repeat('9', 131072) || '.' || repeat('7', 16383))::numeric WHERE id = 6;";
    sql
}

#[tokio::test]
async fn every_type_comes_back_in_every_format() {
    let pair = Pair::new(&every_type(postgres_server().version()));
    let types = "SELECT string_agg(format_type(atttypid, atttypmod) || attnotnull, ',' ORDER BY attnum) \
        FROM pg_attribute WHERE attrelid = 'every'::regclass AND attnum > 0";
    for format in FORMATS {
        for (batch_rows, batch_bytes) in [(1000, 1 << 20), (1, 1 << 20), (1000, 5000)] {
            let load = pair.load("every", How { batch_rows, batch_bytes, ..how(format) }).await;
            assert_eq!((load.rows, load.rejected.len()), (7, 0), "{format:?} {:?}", load.rejected);
            let (source, target) = pair.both("every", "t");
            for (source, target) in source.lines().zip(target.lines()) {
                assert_eq!(source, target, "{format:?}");
            }
            assert_eq!(source, target, "{format:?}");
            assert_eq!(pair.source_sql(types), pair.target_sql(types));
        }
    }
}

#[tokio::test]
async fn values_between_engines_have_the_types_of_dms() {
    let pair = Pair::new(
        "CREATE TABLE v (flag boolean, padded char(5), zoned timetz, at timestamptz, m money, r real, raw bytea, o xid8);
         INSERT INTO v VALUES (true, 'ab', '12:00:00+02', '2024-01-01 02:00:00+02', '-1.5', 0.1, '\\x00ff', '18446744073709551615')",
    );
    let table = pair.describe("public", "v").await;
    let snapshot = open(&*pair.source, 1).await;
    let mut reader = snapshot.read(plan(&table, how(Format::Values))).await.unwrap();
    let mut batch = Batch::new();
    assert!(reader.next(&mut batch).await.unwrap());
    let expected = [
        Value::String(b"true"),
        Value::String(b"ab"),
        Value::Time(43_200_000_000),
        Value::DateTime(1_704_067_200_000_000),
        Value::Numeric(b"-1.50"),
        Value::Real(0.1),
        Value::Bytes(&[0, 255]),
        Value::UInt(u64::MAX),
    ];
    assert_eq!(batch.row(0).collect::<Vec<_>>(), expected);
    assert!(!reader.next(&mut batch).await.unwrap());
}

const USER_TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'it''s ok'); CREATE TYPE pair AS (a integer, b text);
    CREATE DOMAIN positive AS numeric(6,2) CHECK (VALUE > 0); CREATE DOMAIN small AS positive CHECK (VALUE < 100);";

#[tokio::test]
async fn types_of_users_become_text_or_their_namesakes() {
    let pair = Pair::new(&format!(
        "{USER_TYPES} CREATE TABLE u (id integer, m mood, ms mood[], p pair, d small);
         INSERT INTO u VALUES (1, 'it''s ok', '{{sad,\"it''s ok\"}}', '(1,\"a,b\")', 12.5), (2, NULL, NULL, NULL, NULL)"
    ));
    let types = "SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) \
        FROM pg_attribute WHERE attrelid = 'u'::regclass AND attnum > 0";
    for _ in 0..2 {
        for format in [Format::Text, Format::Values] {
            assert_eq!(pair.load("u", how(format)).await.rows, 2);
            let (source, target) = pair.both("u", "t");
            assert_eq!(source, target);
        }
        let described = pair.describe("public", "u").await;
        assert_eq!(described.columns[4].native, "numeric(6,2)");
        let text = "integer,character varying,character varying,character varying,numeric(6,2)";
        let expected = if pair.target_sql("SELECT to_regtype('mood')").is_empty() {
            text
        } else {
            "integer,mood,mood[],pair,numeric(6,2)"
        };
        assert_eq!(pair.target_sql(types), expected);
        if expected == text {
            pair.target_sql(USER_TYPES);
        }
    }
}

#[tokio::test]
async fn a_collation_is_kept_where_the_target_has_it() {
    let pair = Pair::new(
        "CREATE COLLATION mine (provider = libc, locale = 'C');
         CREATE TABLE c (a text COLLATE mine, b varchar(9) COLLATE \"POSIX\", c text COLLATE \"default\")",
    );
    pair.load("c", how(Format::Text)).await;
    let collations = "SELECT string_agg(format_type(atttypid, atttypmod) || collname, ',' ORDER BY attnum) \
        FROM pg_attribute JOIN pg_collation c ON c.oid = attcollation WHERE attrelid = 'c'::regclass AND attnum > 0";
    assert_eq!(pair.target_sql(collations), "textdefault,character varying(9)POSIX,textdefault");
}

#[tokio::test]
async fn a_thousand_columns_and_odd_names() {
    let columns: Vec<String> = (0..1000).map(|index| format!("\"Spalte \"\"ü\"\" {index}\" integer")).collect();
    let pair = Pair::new(&format!(
        "CREATE SCHEMA \"Select \"\" Schema\"; CREATE TABLE \"Select \"\" Schema\".\"Ta.b,le'x\" ({});
         INSERT INTO \"Select \"\" Schema\".\"Ta.b,le'x\" (\"Spalte \"\"ü\"\" 999\") SELECT generate_series(1, 100)",
        columns.join(", ")
    ));
    let table = pair.describe("Select \" Schema", "Ta.b,le'x").await;
    for format in FORMATS {
        pair.target.prepare(&table, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
        assert_eq!(pair.copy(&table, how(format)).await.unwrap().rows, 100);
        let sum = "SELECT count(*), sum(\"Spalte \"\"ü\"\" 999\") FROM \"Select \"\" Schema\".\"Ta.b,le'x\"";
        assert_eq!(pair.target_sql(sum), "100|5050");
    }
}

#[tokio::test]
async fn a_value_of_100_mb_passes_through_small_batches() {
    // Random, so that no boundary falls where another did; every byte; text with escapes and wide characters.
    let pair = Pair::new(
        "CREATE TABLE big (id integer PRIMARY KEY, before text, raw bytea, t text, after numeric);
         INSERT INTO big SELECT i, repeat('b', 300000), CASE WHEN i = 2 THEN
           (SELECT string_agg(decode(md5(n::text), 'hex'), '') FROM generate_series(1, 65536) n) END,
           'x', repeat('9', 100000)::numeric FROM generate_series(1, 3) i;
         UPDATE big SET raw = (SELECT string_agg(o.raw, '') FROM big o, generate_series(1, 100) WHERE o.id = 2),
           t = repeat(E'a\\\\b\\tä€\\n\\U0001F600', 500000) WHERE id = 2;",
    );
    assert_eq!(pair.source_sql("SELECT max(octet_length(raw)) FROM big"), "104857600");
    let digest = "SELECT id, md5(before), md5(raw), md5(t), md5(after::text) FROM big ORDER BY id";
    let expected = pair.source_sql(digest);
    for format in FORMATS {
        let batch_bytes = 512 << 10;
        let load = pair.load("big", How { batch_bytes, ..how(format) }).await;
        assert_eq!((load.rows, load.rejected.len()), (3, 0), "{format:?}");
        assert!(load.batch_bytes_max <= batch_bytes, "{format:?}: {}", load.batch_bytes_max);
        assert!(load.batches > 200, "{format:?}: {}", load.batches);
        assert_eq!(pair.target_sql(digest), expected, "{format:?}");
    }
}

#[tokio::test]
async fn lobs_are_cut_at_the_source_before_a_character() {
    let pair = Pair::new(
        "CREATE TABLE lob (id integer PRIMARY KEY, t text, b bytea, j jsonb, short varchar(5000));
         INSERT INTO lob VALUES (1, repeat('€', 10), decode(repeat('00ff', 20), 'hex'), NULL, repeat('x', 5000)),
           (2, 'fits 12 byte', '\\x', '[1]', 'y'), (3, NULL, NULL, NULL, NULL), (4, repeat('😀', 3000000), NULL, NULL, ''),
           (5, repeat('a', 11) || 'ä', NULL, '{\"key\": \"a long value\"}', '');",
    );
    let table = pair.describe("public", "lob").await;
    let snapshot = open(&*pair.source, 1).await;
    let all: Vec<usize> = (0..5).collect();
    assert_eq!(snapshot.formats(&table, &all, Some(12)), [Format::Text, Format::Values]);
    assert_eq!(snapshot.formats(&table, &[0, 1, 2, 4], Some(12)), FORMATS);
    drop(snapshot);
    pair.source_sql("ALTER TABLE lob DROP COLUMN j");
    for format in FORMATS {
        let load = pair.load("lob", How { lob_bytes_max: Some(12), ..how(format) }).await;
        assert_eq!((load.rows, load.truncated), (5, 4), "{format:?}");
        assert!(load.batch_bytes_max < 100_000);
        assert_eq!(
            pair.target_sql("SELECT id, t, b, length(short) FROM lob ORDER BY id"),
            "1|€€€€|\\x00ff00ff00ff00ff00ff00ff|5000\n2|fits 12 byte|\\x|1\n3|||\n4|😀😀😀||0\n5|aaaaaaaaaaa||0"
        );
    }
    // Limits so short that no character fits.
    for limit in 0..4 {
        let load = pair.load("lob", How { lob_bytes_max: Some(limit), ..how(Format::Text) }).await;
        assert_eq!((load.rows, load.truncated), (5, 5), "{limit}");
    }
    // A row too large for a batch counts as well.
    let load = pair.load("lob", How { lob_bytes_max: Some(9_000_000), batch_bytes: 65_536, ..how(Format::Text) }).await;
    assert_eq!((load.rows, load.truncated), (5, 1));
    let load = pair
        .load("lob", How { lob_bytes_max: Some(9_000_001), batch_bytes: 65_536, ..how(Format::PostgresCopy) })
        .await;
    assert_eq!((load.rows, load.truncated), (5, 1));
    assert_eq!(pair.target_sql("SELECT max(octet_length(t)) FROM lob"), "9000000");
}

#[tokio::test]
async fn other_lobs_are_cut_as_text() {
    let pair = Pair::new(
        "CREATE TABLE doc (id integer, j jsonb, a integer[]);
         INSERT INTO doc VALUES (1, '{\"key\": \"a long value\"}', '{1,2,3,4,5,6,7,8}'), (2, '[]', '{}')",
    );
    let table = pair.describe("public", "doc").await;
    let snapshot = open(&*pair.source, 1).await;
    let how = How { lob_bytes_max: Some(8), ..how(Format::Values) };
    let mut reader = snapshot.read(plan(&table, how)).await.unwrap();
    let mut batch = Batch::new();
    assert!(reader.next(&mut batch).await.unwrap());
    assert_eq!((batch.rows(), batch.truncated()), (2, 2));
    let texts: Vec<_> = batch.row(0).map(|value| format!("{value:?}")).collect();
    assert!(texts[1].contains(&format!("{:?}", b"{\"key\": ")), "{texts:?}");
}

#[tokio::test]
async fn any_value_comes_back_from_the_server() {
    let pair = Pair::new("");
    let columns = [
        ("id", DataType::Int8),
        ("text", DataType::NClob),
        ("raw", DataType::Blob),
        ("real", DataType::Real8),
        ("narrow", DataType::Real4),
        ("day", DataType::Date),
        ("time", DataType::Time { scale: 6 }),
        ("at", DataType::DateTime { scale: 6 }),
    ];
    let table = foreign(&pair, &columns).await;
    let any_row = (
        proptest::option::of(proptest::collection::vec(prop_oneof!["\\PC", "[\\\\\\x01-\\x20Nx.]"], 0..60)),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..60)),
        (any::<f64>(), any::<f32>()),
        -2_440_588..2_145_042_906_i32,
        0..=86_400_000_000_i64,
        -210_866_803_200_000_000..i64::MAX,
    );
    let mut runner = TestRunner::default();
    let rows: Vec<_> = (0..2000).map(|_| any_row.new_tree(&mut runner).unwrap().current()).collect();
    let rows: Vec<_> = rows.into_iter().map(|row| (row.0.as_ref().map(|text| text.concat()), row)).collect();
    let narrow = |real: f32| ryu::Buffer::new().format_finite(real).parse().unwrap();
    let mut batch = Batch::new();
    batch.clear(Format::Values);
    let mut expected = Vec::new();
    for (id, (text, (_, raw, (real, real4), day, time, at))) in rows.iter().enumerate() {
        let values = [
            Value::Int(id as i64),
            text.as_ref().map_or(Value::Null, |text| Value::String(text.as_bytes())),
            raw.as_ref().map_or(Value::Null, |raw| Value::Bytes(raw)),
            Value::Real(*real),
            Value::Real(if real4.is_finite() { narrow(*real4) } else { f64::from(*real4) }),
            Value::Date(*day),
            Value::Time(*time),
            Value::DateTime(*at),
        ];
        values.iter().for_each(|value| batch.push(*value));
        batch.end_row();
        expected.push(values);
    }
    let mut writer = pair.target.writer(&table, Format::Values, 10_000).await.unwrap();
    let mut written = writer.write(&batch).await.unwrap();
    let finished = writer.finish().await.unwrap();
    written.rejected.extend(finished.rejected);
    assert_eq!((written.rows + finished.rows, written.rejected.first().map(|row| &row.error)), (2000, None));

    let source = source_of(pair.server.connection(&pair.target_database));
    let entry = TableEntry { name: table.name.clone(), kind: TableKind::Table };
    let table = source.describe(&[entry]).await.unwrap().pop().unwrap();
    let snapshot = open(&*source, 1).await;
    let mut reader = snapshot.read(plan(&table, How { batch_bytes: 16 << 20, ..how(Format::Values) })).await.unwrap();
    let mut read = Batch::new();
    assert!(reader.next(&mut read).await.unwrap());
    assert_eq!(read.rows(), expected.len());
    for index in 0..read.rows() {
        let found: Vec<_> = read.row(index).collect();
        let Value::Int(id) = found[0] else { panic!("{found:?}") };
        // NaN is not equal to itself.
        assert_eq!(format!("{found:?}"), format!("{:?}", expected[id as usize]));
    }
}

#[tokio::test]
async fn a_database_in_another_encoding_is_read_as_unicode() {
    let pair = Pair::new("");
    let database = format!("{}_latin1", pair.source_database);
    let create = format!("CREATE DATABASE {database} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    pair.server.sql("postgres", &create);
    pair.server.sql(&database, "CREATE TABLE \"é\" (\"ü\" text); INSERT INTO \"é\" VALUES ('éééé'), ('aé'), ('é')");
    let pair = Pair { source: source_of(pair.server.connection(&database)), source_database: database, ..pair };
    for format in FORMATS {
        let load = pair.load("é", How { lob_bytes_max: Some(5), ..how(format) }).await;
        assert_eq!((load.rows, load.truncated), (3, 1), "{format:?}");
        assert_eq!(pair.target_sql("SELECT string_agg(\"ü\", ',') FROM \"é\""), "éé,aé,é");
    }
}

#[tokio::test]
async fn a_table_without_columns_is_created_and_empty() {
    let pair = Pair::new("CREATE TABLE none (); INSERT INTO none DEFAULT VALUES");
    for format in FORMATS {
        assert_eq!(pair.load("none", how(format)).await.rows, 0);
    }
}
