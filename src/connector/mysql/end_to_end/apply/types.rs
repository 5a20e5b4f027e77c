//! Values of every type, changed and found by.

use super::*;

/// A type, whether a key of it needs a prefix, and values that are all different.
type Type = (&'static str, &'static str, &'static [&'static str]);

const TYPES: &[Type] = &[
    ("TINYINT", "", &["-128", "-1", "0", "1", "9", "127"]),
    ("BIGINT", "", &["-9223372036854775808", "-9007199254740993", "9007199254740992", "9007199254740993", "0", "9"]),
    ("BIGINT UNSIGNED ZEROFILL", "", &["0", "18446744073709551615", "18446744073709551614", "9", "10", "92"]),
    ("FLOAT", "", &["0.1", "-0.1", "3.4028234e38", "1.4e-45", "16777217", "1.00000012"]),
    ("FLOAT(7,4)", "", &["0.1", "-0.1", "999.0001", "0.0001", "1.2345", "0"]),
    ("DOUBLE", "", &["0.1", "0.30000000000000004", "1e23", "5e-324", "-1.7976931348623157e308", "9007199254740993"]),
    (
        "DECIMAL(65,30)",
        "",
        &[
            "0.1",
            "-0.000000000000000000000000000001",
            "99999999999999999999999999999999999.999999999999999999999999999999",
            "99999999999999999999999999999999999.999999999999999999999999999998",
            "0",
            "1",
        ],
    ),
    ("BIT(9)", "", &["0", "9", "10", "92", "256", "511"]),
    ("BIT(1)", "", &["0", "1"]),
    ("YEAR", "", &["1901", "2155", "0", "1999", "2000", "2001"]),
    ("DATE", "", &["'0000-00-00'", "'9999-12-31'", "'2024-02-31'", "'2024-01-00'", "'0001-01-01'", "'2024-02-29'"]),
    (
        "DATETIME(6)",
        "",
        &[
            "'0000-00-00'",
            "'9999-12-31 23:59:59.999999'",
            "'2024-02-30 01:02:03.000001'",
            "'2024-02-29 01:02:03'",
            "'2024-02-29 01:02:03.1'",
            "'1000-01-01'",
        ],
    ),
    ("TIMESTAMP(3)", "", &["0", "'1970-01-01 00:00:01'", "'2038-01-19 03:14:07.999'", "'2024-03-10 02:30:00.5'"]),
    ("TIME(6)", "", &["'-838:59:59.999999'", "'838:59:59.999999'", "'-00:00:00.000001'", "0", "'12:00'", "'24:00'"]),
    ("VARCHAR(50) CHARACTER SET utf8mb4", "", &["'a'", "'ö'", "''", "'😀 it''s \\\\ \\t\\n\"'", "'z\\0'", "' a'"]),
    ("VARCHAR(50) COLLATE utf8mb4_bin", "", &["'a'", "'A'", "'ä'", "''", "'%_'", "'NULL'"]),
    ("VARCHAR(50) CHARACTER SET latin1", "", &["'naïve ß'", "'naive'", "''", "'\\\\N'", "'€'", "'x'"]),
    ("CHAR(20) CHARACTER SET ucs2", "", &["'ünï'", "'uni2'", "''", "' x'", "'я'", "'y'"]),
    ("CHAR(20)", "", &["'ü'", "'a b'", "''", "' x'", "'я'", "'y'"]),
    ("TEXT CHARACTER SET cp1251", "(20)", &["'Привет'", "'при'", "''", "'x'", "'y'", "'z'"]),
    ("LONGTEXT", "(20)", &["'x😀'", "'x'", "''", "'a\\tb'", "'y'", "'z'"]),
    ("BINARY(4)", "", &["'ab'", "x'00FF5C0A'", "''", "x'61620020'", "'abcd'", "'b'"]),
    ("VARBINARY(50)", "", &["'a'", "'A'", "x'00FF5C0A09'", "''", "x'6100'", "x'C3'"]),
    ("BLOB", "(20)", &["'a'", "'A'", "x'00FF5C0A09'", "''", "x'6100'", "x'C3'"]),
    ("ENUM('x','ß','it''s \\\\,\"') CHARACTER SET latin1", "", &["'x'", "'ß'", "'it''s \\\\,\"'", "''"]),
    ("ENUM('','y')", "", &["''", "'y'"]),
    ("SET('a','ö','c') CHARACTER SET latin1", "", &["'a'", "'a,ö'", "''", "'c'", "'a,ö,c'"]),
    ("UUID", "", &["'123e4567-e89b-12d3-a456-426614174000'", "'00000000-0000-0000-0000-000000000000'"]),
    ("INET6", "", &["'2001:db8::1'", "'::'", "'::ffff:1.2.3.4'"]),
    ("INET4", "", &["'10.0.0.1'", "'0.0.0.0'"]),
];

/// Rows of a key of each type are inserted, updated and deleted, few at a time and all at once.
async fn round_trip(format: Format, types: &[Type]) {
    let pair = Pair::new();
    pair.server.client(&format!("CREATE DATABASE {0} CHARACTER SET utf8mb4", pair.to));
    let tables: Vec<String> = (0..types.len()).map(|number| format!("t{number}")).collect();
    let (mut create, mut fill, mut touch, mut all) = (String::new(), String::new(), String::new(), Vec::new());
    for (table, (native, prefix, values)) in tables.iter().zip(types) {
        create += &format!("CREATE TABLE {table} (k {native} NOT NULL, v INT NOT NULL, PRIMARY KEY (k{prefix}));");
        let rows: Vec<String> = values.iter().enumerate().map(|(v, value)| format!("({value},{v})")).collect();
        fill += &format!("INSERT INTO {table} VALUES {};", rows.join(","));
        touch += &format!("UPDATE {table} SET v=v+1000;");
        all.push(format!("SELECT '{table} {}' AS t, HEX(k) AS k, v FROM {table}", native.replace(['\'', '\\'], "")));
    }
    let all = format!("{} ORDER BY t, v", all.join(" UNION ALL "));
    pair.sql(&format!("SET sql_mode='ALLOW_INVALID_DATES', time_zone='+00:00'; {create} {fill}"));
    pair.target_sql(&create);
    for some in [1, 1000] {
        let mut applier = pair.begun(format).await;
        for (op, conflict) in [
            (Op::Insert, Conflict::Refuse),
            (Op::Update, Conflict::Refuse),
            (Op::Insert, Conflict::Replace),
            (Op::Insert, Conflict::Replace),
            (Op::Delete, Conflict::Refuse),
        ] {
            pair.sql(&touch);
            for (table, (native, _, values)) in tables.iter().zip(types) {
                let rows = Rows::read(&pair, table, format).await;
                let changed = rows.apply_some(&mut *applier, op, conflict, some).await;
                let what = format!("{op:?} of {native}, {format:?}, {some} at a time");
                assert_eq!(changed.expect(&what), values.len() as u64, "{what}");
            }
            applier.commit().await.unwrap();
            let expected = if op == Op::Delete { String::new() } else { pair.sql(&all) };
            assert_eq!(pair.target_sql(&all), expected);
        }
    }
}

#[tokio::test]
async fn rows_are_found_by_keys_of_every_type_as_text() {
    round_trip(Format::Text, TYPES).await;
}

#[tokio::test]
async fn rows_are_found_by_keys_of_every_type_as_values() {
    // Dates that only MySQL has are no values of DMS's types, bits are found by bytes, and more than a day is a text.
    let known: Vec<Type> = TYPES
        .iter()
        .filter(|(native, ..)| !["DATE", "TIMESTAMP", "BIT(9)"].iter().any(|kind| native.starts_with(kind)))
        .copied()
        .chain([
            ("DATE", "", &["'9999-12-31'", "'0001-01-01'", "'2024-02-29'", "'1969-12-31'", "'1970-01-01'"][..]),
            ("DATETIME(6)", "", &["'9999-12-31 23:59:59.999999'", "'1000-01-01'", "'1969-12-31 23:59:59.999999'"]),
            ("DATETIME", "", &["'9999-12-31 23:59:59'", "'1000-01-01'", "'1969-12-31 23:59:59'", "'1970-01-01'"]),
        ])
        .collect();
    round_trip(Format::Values, &known).await;
}

const ALL: &str = "ti TINYINT, bu BIGINT UNSIGNED, f FLOAT, fd FLOAT(7,4), d DOUBLE, de DECIMAL(65,30), b1 BIT(1), \
    b9 BIT(9), y YEAR, da DATE, dt DATETIME(6), tm TIME(6), ts TIMESTAMP(3) NULL, vc VARCHAR(300) CHARACTER SET latin1, \
    ch CHAR(20) CHARACTER SET ucs2, u4 VARCHAR(20) COLLATE utf8mb4_bin, tt TINYTEXT, lt LONGTEXT CHARACTER SET cp1251, \
    bi BINARY(4), vb VARBINARY(300), lb LONGBLOB, e ENUM('x','ß') CHARACTER SET latin1, s SET('a','ö','c'), j JSON, \
    i6 INET6, uu UUID, g GEOMETRY, p POINT";

const ALL_ROWS: &[&str] = &[
    "-128, 18446744073709551615, 3.4028234e38, 999.0001, 1.7976931348623157e308, -0.000000000000000000000000000001, \
     1, 511, 2155, '9999-12-31', '9999-12-31 23:59:59.999999', '-838:59:59.999999', '2038-01-19 03:14:07.999', \
     'naïve \\t\\n\\\\N', 'ünï', 'x😀 ', '', 'Привет', 'ab', x'00FF5C0A09', x'00', 'ß', 'a,ö,c', '{\"k\": [1, \"ü\"]}', \
     '2001:db8::1', '123e4567-e89b-12d3-a456-426614174000', ST_GeomFromText('LINESTRING(0 0,1 1)', 4326), POINT(9, 10)",
    "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, \
     NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL",
    "0, 0, 0.1, -0.1, 0.1, 0, 0, 0, 0, '0000-00-00', '2024-02-30 01:02:03', '00:00:00', 0, '', '', '', '', '', '', '', \
     '', 'bad', '', '{}', '::', '00000000-0000-0000-0000-000000000000', POINT(1, 1), POINT(0, 0)",
    "1, 1, 16777217, 1.2345, 5e-324, 0.5, 1, 92, 1901, '2024-01-00', '1000-01-01', '12:00', '1970-01-01 00:00:01', \
     ' x ', ' y ', 'X😀', REPEAT('long', 60), REPEAT('я', 1000), x'5C', x'5C74', REPEAT('blob', 100000), 'x', 'c', '1', \
     '::1', '123e4567-e89b-12d3-a456-426614174001', POINT(1, -1e300), POINT(1, 2)",
];

fn compared() -> Vec<String> {
    let name = |column: &str| column.split_whitespace().next().unwrap().to_owned();
    let columns = ALL.split(", ").map(name).filter(|name| !name.is_empty() && !name.starts_with('\''));
    // HEX of a float rounds it: this shows all of it.
    columns.map(|name| if name == "f" || name == "d" { format!("CAST({name}*1e0 AS CHAR)") } else { name }).collect()
}

fn all_types(key: &str) -> Pair {
    let pair = Pair::both(&format!("CREATE TABLE t (id INT, {ALL}{key})"));
    let mode = "SET sql_mode='ALLOW_INVALID_DATES', time_zone='+00:00'";
    for (id, row) in ALL_ROWS.iter().enumerate() {
        pair.sql(&format!("{mode}; INSERT INTO t VALUES ({id}, {row})"));
    }
    pair
}

fn assert_same(pair: &Pair, and: &str) {
    let compared = compared();
    let columns: Vec<&str> = [and].into_iter().chain(compared.iter().map(String::as_str)).collect();
    pair.assert_same("t", &columns);
}

#[tokio::test]
async fn values_of_every_type_take_each_others_place() {
    for some in [1, 1000] {
        let pair = all_types(", PRIMARY KEY (id)");
        // Enough rows for a work table.
        pair.sql("INSERT INTO t (id) VALUES (4), (5), (6)");
        let mut applier = pair.begun(Format::Text).await;
        let rows = Rows::read(&pair, "t", Format::Text).await;
        assert_eq!(rows.apply_some(&mut *applier, Op::Insert, Conflict::Refuse, some).await.unwrap(), 7);
        applier.commit().await.unwrap();
        assert_same(&pair, "id");
        for _ in 0..3 {
            pair.sql("UPDATE t SET id=id+100; UPDATE t SET id=(id-99)%7");
            let rows = Rows::read(&pair, "t", Format::Text).await;
            assert_eq!(rows.apply_some(&mut *applier, Op::Update, Conflict::Refuse, some).await.unwrap(), 7);
            assert_eq!(rows.apply_some(&mut *applier, Op::Insert, Conflict::Replace, some).await.unwrap(), 7);
            applier.commit().await.unwrap();
            assert_same(&pair, "id");
        }
    }
}

#[tokio::test]
async fn rows_without_a_key_are_found_by_values_of_every_type() {
    let pair = all_types("");
    pair.sql("UPDATE t SET id=1; INSERT INTO t SELECT * FROM t");
    let mut applier = pair.begun(Format::Text).await;
    let rows = Rows::read(&pair, "t", Format::Text).await;
    assert_eq!(rows.apply(&mut *applier, Op::Insert, Conflict::Refuse).await.unwrap(), 8);
    let columns: Vec<usize> = (0..rows.table.columns.len()).collect();
    let images = rows.images();
    // Each of the first four becomes like the next, one by one; two of each kind stay.
    let updates: Vec<RowChange<'_>> = (0..4)
        .map(|index: usize| RowChange { old: Some(images[index].clone()), new: Some(images[(index + 1) % 4].clone()) })
        .collect();
    for update in updates.chunks(1) {
        let any = Key::Any(&columns);
        assert_eq!(rows.change(&mut *applier, Op::Update, any, Conflict::Refuse, update).await.unwrap(), 1);
    }
    applier.commit().await.unwrap();
    assert_same(&pair, "id");
    for (index, image) in images.iter().enumerate() {
        let delete = [RowChange { old: Some(image.clone()), new: None }];
        let deleted = rows.change(&mut *applier, Op::Delete, Key::Any(&columns), Conflict::Refuse, &delete).await;
        assert_eq!(deleted.unwrap(), 1, "row {index}");
    }
    applier.commit().await.unwrap();
    assert_eq!(pair.target_sql("SELECT COUNT(*) FROM t"), "0\n");
}

/// A table of another engine's types, as [`Target::prepare`] makes it.
async fn foreign(pair: &Pair) -> TableSchema {
    let column = |(name, data_type, nullable): (&str, DataType, bool)| Column {
        name: name.to_owned(),
        data_type,
        native: String::new(),
        nullable,
        generated: false,
    };
    let columns = [
        ("id", DataType::WString { length: 20 }, false),
        ("b", DataType::Boolean, true),
        ("r4", DataType::Real4, true),
        ("r8", DataType::Real8, true),
        ("n", DataType::Numeric { precision: 0, scale: 0 }, true),
        ("d", DataType::Date, true),
        ("tm", DataType::Time { scale: 6 }, true),
        ("ts", DataType::DateTime { scale: 6 }, true),
        ("c", DataType::NClob, true),
        ("by", DataType::Blob, true),
    ];
    let table = TableSchema {
        name: TableName::new(&pair.to, "t"),
        kind: TableKind::Table,
        family: Family::PostgreSql,
        columns: columns.map(column).to_vec(),
        primary_key: vec![0],
        unique_key: Vec::new(),
        rows_estimate: 0,
    };
    pair.target().prepare(&table, PrepareMode::DropAndCreate, CreateKey::WithTable).await.unwrap();
    table
}

#[tokio::test]
async fn values_of_other_engines_are_applied_as_the_full_load_does() {
    let pair = Pair::new();
    let table = foreign(&pair).await;
    let good: [&[Value<'_>]; 3] = [
        &[
            Value::Bool(true),
            Value::Real(3.4028235e38),
            Value::Real(f64::MIN_POSITIVE),
            Value::Numeric(b"-0.123456789012345678901234567890"),
            Value::Date(2_932_896),
            Value::Time(86_400_000_000),
            Value::DateTime(253_402_300_799_999_999),
            Value::String("{\"ü\"} \\ ' 🦀".as_bytes()),
            Value::Bytes(&[0, 9, 10, 92, 255]),
        ],
        &[Value::Null; 9],
        &[
            Value::Bool(false),
            Value::Real(0.1),
            Value::Real(-0.0),
            Value::Numeric(b"1e5"),
            Value::Date(-719_162),
            Value::Time(1),
            Value::DateTime(-1),
            Value::String(b""),
            Value::Bytes(b""),
        ],
    ];
    let bad: [(usize, Value<'_>); 8] = [
        (2, Value::Real(f64::NAN)),
        (2, Value::Real(1e39)),
        (3, Value::Real(f64::INFINITY)),
        (4, Value::Numeric(b"NaN")),
        (4, Value::Numeric(b"0.1234567890123456789012345678901")),
        (5, Value::Date(Value::DATE_INFINITY)),
        (7, Value::DateTime(Value::NEG_INFINITY)),
        (5, Value::Date(2_932_897)),
    ];
    let mut batch = Batch::new();
    batch.clear(Format::Values);
    // Keys that other engines tell apart.
    for (row, key) in ["k", "K", "k ", "é", "e", "x", "y"].iter().enumerate() {
        batch.push(Value::String(key.as_bytes()));
        good[row % 3].iter().for_each(|value| batch.push(*value));
        batch.end_row();
    }
    let rows = Rows { table, batch };
    for some in [1, 1000] {
        let mut applier = pair.begun(Format::Values).await;
        // MySQL's collations of that time call "k" and "k " the same key.
        let images = rows.images();
        let new = |index: usize| RowChange { old: None, new: Some(images[index].clone()) };
        let fit: Vec<RowChange<'_>> = [0, 1, 3, 4, 5, 6].map(new).to_vec();
        for op in [Op::Insert, Op::Update, Op::Delete] {
            let mut changed = 0;
            for rows_some in fit.chunks(some) {
                let set: Vec<RowChange<'_>> = match op {
                    Op::Delete => rows_some.iter().map(|row| RowChange { old: row.new.clone(), new: None }).collect(),
                    Op::Insert | Op::Update => rows_some.to_vec(),
                };
                changed += rows.change(&mut *applier, op, rows.key(), Conflict::Refuse, &set).await.unwrap();
            }
            assert_eq!(changed, 6, "{op:?}");
            if op == Op::Update {
                applier.commit().await.unwrap();
                let read = "SELECT id, b, r4*1e0, r8, n, d, tm, ts, c, HEX(`by`) FROM t WHERE HEX(id) IN ('4B', '6B', 'C3A9') ORDER BY HEX(id)";
                let expected = "K\tNULL\tNULL\tNULL\tNULL\tNULL\tNULL\tNULL\tNULL\tNULL\n\
                    k\t1\t3.4028234663852886e38\t2.2250738585072014e-308\t-0.123456789012345678901234567890\t\
                    9999-12-31\t24:00:00.000000\t9999-12-31 23:59:59.999999\t{\"ü\"} \\ ' 🦀\t00090A5CFF\n\
                    é\t1\t3.4028234663852886e38\t2.2250738585072014e-308\t-0.123456789012345678901234567890\t\
                    9999-12-31\t24:00:00.000000\t9999-12-31 23:59:59.999999\t{\"ü\"} \\ ' 🦀\t00090A5CFF\n";
                assert_eq!(pair.target_sql(read), expected);
            }
        }
        applier.commit().await.unwrap();
        // A row of the same key but for a space at its end is not there.
        let blurred = [RowChange { old: Some(images[2].clone()), new: None }];
        rows.change(&mut *applier, Op::Insert, rows.key(), Conflict::Refuse, &fit[..1]).await.unwrap();
        assert_eq!(rows.change(&mut *applier, Op::Delete, rows.key(), Conflict::Refuse, &blurred).await.unwrap(), 0);
        applier.rollback().await.unwrap();
    }
    for (column, value) in bad {
        for count in [1, 6, 80] {
            let mut applier = pair.begun(Format::Values).await;
            let mut batch = Batch::new();
            batch.clear(Format::Values);
            for row in 0..count {
                batch.push(Value::String(format!("{row}").as_bytes()));
                for place in 1..10 {
                    batch.push(if place == column && row + 1 == count { value } else { Value::Null });
                }
                batch.end_row();
            }
            let rows = Rows { table: rows.table.clone(), batch };
            for (op, conflict) in
                [(Op::Insert, Conflict::Refuse), (Op::Update, Conflict::Refuse), (Op::Insert, Conflict::Replace)]
            {
                let error = match rows.apply(&mut *applier, op, conflict).await {
                    // Nobody looks at a value for a row that is not there.
                    Ok(0) if op == Op::Update && count < 6 => continue,
                    Ok(changed) => panic!("{changed} of {count} with {value:?}"),
                    Err(error) => error,
                };
                assert!(matches!(error.kind, ErrorKind::Data | ErrorKind::Truncation), "{op:?} {value:?}: {error}");
                assert!(!error.to_string().contains("NaN'"), "{error}");
                applier.rollback().await.unwrap();
            }
            assert_eq!(pair.target_sql("SELECT COUNT(*) FROM t"), "0\n");
        }
    }
}
