//! Logs made by hand, of servers that are not at hand.

use std::fmt::Write;

use proptest::prelude::*;

use super::super::compressed::Payload;
use super::super::event::{HEADER, Header};
use super::*;
use crate::connector::mysql::source::StoredColumn;
use crate::data::{Column, DataType, Ddl, ErrorKind, Family, Format, TableKind, TableSchema, Value};

const MYSQL_8: ServerVersion = ServerVersion { number: 80_036, mariadb: false };

/// Writes a log.
#[derive(Default)]
struct Writer {
    events: Vec<Vec<u8>>,
}

fn event(kind: u8, body: &[u8]) -> Vec<u8> {
    let size = (HEADER + body.len()) as u32;
    let mut bytes = 1_700_000_000_u32.to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(body);
    bytes
}

fn query(text: &str) -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend([1, 0, 0]);
    let variables = [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 4, 45, 0, 45, 0, 45, 0][..]].concat();
    body.extend((variables.len() as u16).to_le_bytes());
    body.extend(variables);
    body.extend(b"d\0");
    body.extend(text.as_bytes());
    event(kind::QUERY, &body)
}

/// Columns as types with what describes them.
fn table_map(id: u8, name: &str, kinds: &[u8], metas: &[u8]) -> Vec<u8> {
    let mut body = vec![id, 0, 0, 0, 0, 0, 1, 0, 1, b'd', 0, name.len() as u8];
    body.extend(name.as_bytes());
    body.push(0);
    body.push(kinds.len() as u8);
    body.extend(kinds);
    body.push(metas.len() as u8);
    body.extend(metas);
    body.push(0xFF);
    event(kind::TABLE_MAP, &body)
}

fn rows(kind: u8, id: u8, columns: u8, images: &[u8], rows: &[u8]) -> Vec<u8> {
    let mut body = vec![id, 0, 0, 0, 0, 0, 1, 0, 2, 0, columns];
    body.extend(images);
    body.extend(rows);
    event(kind, &body)
}

fn xid(number: u64) -> Vec<u8> {
    event(kind::XID, &number.to_le_bytes())
}

/// A GTID event of MySQL 8 with a commit time.
fn gtid(number: u64, micros: u64) -> Vec<u8> {
    let mut body = vec![0];
    body.extend([7; 16]);
    body.extend(number.to_le_bytes());
    body.push(2);
    body.extend([0; 16]);
    body.extend(&micros.to_le_bytes()[..7]);
    event(kind::GTID, &body)
}

impl Writer {
    fn of(events: &[Vec<u8>]) -> Writer {
        Writer { events: events.to_vec() }
    }

    /// Reads the log and tells its entries, in pieces of at most so many bytes.
    fn told(&self, interpreter: &mut Interpreter, piece_bytes: usize) -> Result<String> {
        let (mut told, mut offset) = (String::new(), 100);
        interpreter.setting.capture.batch_bytes = piece_bytes;
        let mut changes = Changes::default();
        changes.clear(interpreter.setting.capture.format);
        for bytes in &self.events {
            let end = offset + bytes.len() as u64;
            let place = Place { file: "b.000001", start: offset, end };
            let header = Header::parse(bytes).unwrap();
            let mut one = |bytes: &[u8], changes: &mut Changes| -> Result<()> {
                let event = Event { header: Header::parse(bytes).unwrap(), body: &bytes[HEADER..] };
                loop {
                    match interpreter.apply(&event, &place, false, changes)? {
                        Outcome::Taken => return Ok(()),
                        Outcome::Full => {
                            tell(changes, &mut told);
                            changes.clear(interpreter.setting.capture.format);
                            interpreter.begin_piece();
                        }
                        Outcome::Ask(Question::Tables(names)) => {
                            interpreter.learn_tables(names, vec![], HashMap::new())
                        }
                        Outcome::Ask(Question::Charset(name)) => interpreter.learn_charset(name, None),
                        Outcome::Ask(question) => return Err(Error::fatal(format!("{question:?}"))),
                        Outcome::Replayed => return Err(Error::fatal("there is nothing to replay")),
                    }
                }
            };
            if header.kind == kind::TRANSACTION_PAYLOAD {
                let mut payload = Payload::parse(&bytes[HEADER..])?;
                while payload.advance()? {
                    one(payload.event(), &mut changes)?;
                }
            } else {
                one(bytes, &mut changes)?;
            }
            offset = end;
        }
        tell(&changes, &mut told);
        Ok(told)
    }
}

fn tell(changes: &Changes, told: &mut String) {
    let row = |index: &Option<u32>| {
        let value = |value: Value<'_>| match value {
            Value::Absent => "-".to_owned(),
            Value::Null => "NULL".to_owned(),
            Value::String(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        };
        index.map_or(String::new(), |index| {
            format!("({})", changes.rows.row(index as usize).map(value).collect::<Vec<_>>().join(","))
        })
    };
    for entry in &changes.entries {
        match entry {
            Entry::Begin { .. } => Ok(()),
            Entry::Table { table, version } => {
                writeln!(told, "{table} is {} by {:?}", version.schema.name.table, version.identity)
            }
            Entry::Row { table, op, old, new } => writeln!(told, "{op:?} {table} {}->{}", row(old), row(new)),
            Entry::Unreadable { table, .. } => writeln!(told, "unreadable {table}"),
            Entry::Truncate { table } => writeln!(told, "truncate {table}"),
            Entry::Ddl { table, ddl: Ddl::Create(_) } => writeln!(told, "create {table}"),
            Entry::Ddl { table, ddl } => writeln!(told, "{ddl:?} {table}"),
            Entry::Commit { transaction, time, .. } => writeln!(told, "commit {transaction} at {time}"),
        }
        .unwrap();
    }
}

fn table(name: &str, columns: &[(&str, &str)], key: &[usize]) -> Table {
    let column = |(name, native): &(&str, &str)| Column {
        name: (*name).to_owned(),
        data_type: DataType::NClob,
        native: (*native).to_owned(),
        nullable: true,
        generated: false,
    };
    let schema = TableSchema {
        name: TableName::new("d", name),
        kind: TableKind::Table,
        family: Family::MySql,
        columns: columns.iter().map(column).collect(),
        primary_key: key.to_vec(),
        unique_key: vec![],
        rows_estimate: 0,
    };
    Table::new(&schema, None)
}

fn interpreter(tables: Vec<Table>) -> Interpreter {
    let capture = Capture { selects: Arc::new(|name| name.schema == "d"), format: Format::Text, ..Capture::of("T") };
    let setting = Setting {
        capture,
        server: MYSQL_8,
        fold_names: 0,
        collations: Arc::new(HashMap::from([(45, "utf8mb4".to_owned())])),
        zone: Zone::default(),
        undone: Undone::default(),
        renamed: Default::default(),
    };
    Interpreter::new(setting, tables)
}

fn told(tables: Vec<Table>, events: &[Vec<u8>]) -> Result<String> {
    Writer::of(events).told(&mut interpreter(tables), 1 << 20)
}

fn ints() -> Table {
    table("t", &[("id", "int"), ("v", "varchar(9) CHARACTER SET utf8mb4")], &[0])
}

/// `t` with an INT and a VARCHAR(9).
fn ints_map() -> Vec<u8> {
    table_map(5, "t", &[3, 15], &[36, 0])
}

fn row(id: u8, text: &str) -> Vec<u8> {
    [&[0, id, 0, 0, 0, text.len() as u8][..], text.as_bytes()].concat()
}

/// A body of MySQL 8.0's transaction with one row.
fn transaction() -> Vec<Vec<u8>> {
    vec![query("BEGIN"), ints_map(), rows(kind::WRITE_ROWS, 5, 2, &[3], &row(7, "x")), xid(9)]
}

#[test]
fn the_time_of_a_commit_has_microseconds_where_the_log_has() {
    let events = [vec![gtid(4, 1_700_000_000_123_456)], transaction()].concat();
    assert_eq!(told(vec![ints()], &events).unwrap(), "0 is t by [0]\nInsert 0 ->(7,x)\ncommit 9 at 1700000000123456\n");
    assert!(told(vec![ints()], &transaction()).unwrap().ends_with("commit 9 at 1700000000000000\n"));
}

#[test]
fn a_tagged_number_is_one_too() {
    // Version 2, the size, the last field that must be known; flags, uuid, number, tag, two clocks, and the time.
    let varlen = |number: u64| [&[0xFF][..], &number.to_le_bytes()].concat();
    let mut body = vec![2 << 1, 100 << 1, 12 << 1, 0, 1 << 1, 1 << 1];
    body.extend((0..16).map(|byte| byte << 1));
    body.extend([2 << 1, (4 << 1) << 1, 3 << 1, 3 << 1]);
    body.extend(b"tag");
    body.extend([4 << 1, 0, 5 << 1, 2 << 1, 6 << 1]);
    body.extend(varlen(1_700_000_000_123_456));
    let begin = event::parse_gtid(kind::GTID_TAGGED, &body).unwrap();
    let source = "00010203-0405-0607-0809-0a0b0c0d0e0f:tag".to_owned();
    assert_eq!(begin.gtid, event::Gtid::MySql { source, number: 4 });
    assert_eq!(begin.time, Some(1_700_000_000_123_456));
    let events = [vec![event(kind::GTID_TAGGED, &body)], transaction()].concat();
    assert!(told(vec![ints()], &events).unwrap().ends_with("commit 9 at 1700000000123456\n"));
}

fn payload(algorithm: u8, events: &[Vec<u8>]) -> Vec<u8> {
    let plain = events.concat();
    let data = match algorithm {
        0 => {
            // Two frames, as a server may write them.
            let (one, other) = plain.split_at(plain.len() / 2);
            let level = ruzstd::encoding::CompressionLevel::Fastest;
            let frame = |data: &[u8]| ruzstd::encoding::compress_to_vec(data, level);
            [frame(one), frame(other)].concat()
        }
        _ => plain.clone(),
    };
    let mut body = vec![2, 1, algorithm];
    if algorithm == 255 {
        body = vec![2, 3, 0xFC, 255, 0];
    }
    body.extend([1, 9, 0xFE]);
    body.extend((data.len() as u64).to_le_bytes());
    body.extend([3, 3, 0xFC]);
    body.extend((plain.len() as u16).to_le_bytes());
    body.push(0);
    body.extend(data);
    event(kind::TRANSACTION_PAYLOAD, &body)
}

#[test]
fn a_compressed_transaction_is_one_like_others() {
    let expected = told(vec![ints()], &transaction()).unwrap();
    for algorithm in [0, 255] {
        assert_eq!(told(vec![ints()], &[payload(algorithm, &transaction())]).unwrap(), expected);
    }
    let mut damaged = payload(0, &transaction());
    let at = damaged.len() - 20;
    damaged.truncate(at);
    assert_eq!(told(vec![ints()], &[damaged]).unwrap_err().kind, ErrorKind::Fatal);
}

#[test]
fn parts_of_documents_are_put_into_the_document() {
    let document = || table("t", &[("id", "int"), ("j", "json"), ("k", "json")], &[0]);
    // `[1, 2]` as it is stored.
    let stored: &[u8] = &[2, 2, 0, 10, 0, 5, 1, 0, 5, 2, 0];
    let length = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes().to_vec();
    let diff: &[u8] = &[0, 4, b'$', b'[', b'1', b']', 3, 5, 9, 0];
    let before = [&[0, 7, 0, 0, 0][..], &length(stored), stored, &length(stored), stored].concat();
    let after = [&[1, 0b01, 0, 7, 0, 0, 0][..], &length(diff), diff, &length(stored), stored].concat();
    let map = table_map(5, "t", &[3, 245, 245], &[4, 4]);
    let update =
        |images: &[u8], data: &[u8]| vec![map.clone(), rows(kind::PARTIAL_UPDATE_ROWS, 5, 3, images, data), xid(1)];
    let whole = told(vec![document()], &update(&[7, 7], &[before, after.clone()].concat())).unwrap();
    assert!(whole.contains("Update 0 ->(7,[1, 9],[1, 2])\n"), "{whole}");
    // The old document is not in the log: rather nothing than something wrong.
    let least = told(vec![document()], &update(&[1, 7], &[&[0, 7, 0, 0, 0][..], &after].concat())).unwrap();
    assert!(least.contains("Update 0 ->(7,-,[1, 2])\n"), "{least}");
    // A change that does not fit the document.
    let wrong = [&[1, 0b01, 0, 7, 0, 0, 0][..], &length(&diff[1..]), &diff[1..], &length(stored), stored].concat();
    let row_before = [&[0, 7, 0, 0, 0][..], &length(stored), stored, &length(stored), stored].concat();
    let error = told(vec![document()], &update(&[7, 7], &[row_before, wrong].concat())).unwrap_err();
    assert!(error.kind == ErrorKind::Table && error.message.contains("column j"), "{error}");
}

#[test]
fn rows_of_one_event_may_be_more_than_a_piece_holds() {
    let many: Vec<u8> = (0..100).flat_map(|id| row(id, "some text")).collect();
    let events = [ints_map(), rows(kind::WRITE_ROWS, 5, 2, &[3], &many), xid(1)];
    let mut at_once = interpreter(vec![ints()]);
    let mut in_pieces = interpreter(vec![ints()]);
    let expected = Writer::of(&events).told(&mut at_once, 1 << 20).unwrap();
    assert_eq!(Writer::of(&events).told(&mut in_pieces, 500).unwrap(), expected);
    assert_eq!((expected.lines().count(), in_pieces.piece > 10), (102, true));
}

#[test]
fn a_table_that_does_not_fit_is_given_up_and_others_go_on() {
    let other = table("u", &[("a", "int")], &[]);
    let mut interpreter = interpreter(vec![ints(), other]);
    let begin = [query("BEGIN"), table_map(6, "t", &[3, 3], &[])];
    let error = Writer::of(&begin).told(&mut interpreter, 1 << 20).unwrap_err();
    assert!(error.kind == ErrorKind::Table && error.message.contains("d.t"), "{error}");
    // Whoever reads on is spared its rows.
    let rest = [
        table_map(6, "t", &[3, 3], &[]),
        rows(kind::WRITE_ROWS, 6, 2, &[3], &[0, 1, 0, 0, 0, 2, 0, 0, 0]),
        table_map(7, "u", &[3], &[]),
        rows(kind::WRITE_ROWS, 7, 1, &[1], &[0, 5, 0, 0, 0]),
        xid(2),
    ];
    let told = Writer::of(&rest).told(&mut interpreter, 1 << 20).unwrap();
    assert_eq!(told, "0 is u by [0]\nInsert 0 ->(5)\ncommit 2 at 1700000000000000\n");
}

#[test]
fn the_log_itself_tells_of_a_table_that_changed_unseen() {
    // Signs, collations and names: `id int unsigned`, `w varchar(9)`.
    let mut map = table_map(5, "t", &[3, 15], &[36, 0]);
    map.extend([1, 1, 0x80, 2, 1, 45, 4, 5, 2, b'i', b'd', 1, b'w']);
    let size = (map.len() as u32).to_le_bytes();
    map[9..13].copy_from_slice(&size);
    let told =
        told(vec![ints()], &[map, rows(kind::WRITE_ROWS, 5, 2, &[3], &[0, 255, 255, 255, 255, 1, b'x']), xid(1)])
            .unwrap();
    assert!(told.contains("Insert 0 ->(4294967295,x)\n"), "{told}");
}

#[test]
fn what_a_log_cannot_hold_is_an_error_in_words() {
    let cases = [
        (vec![event(kind::INCIDENT, &[1, 0, 4, b'l', b'o', b's', b't'])], "not complete: lost"),
        (vec![event(kind::START_ENCRYPTION, &[])], "encrypted"),
        (vec![event(99, &[])], "unknown type (99)"),
        (vec![query("BEGIN"), query("INSERT INTO t VALUES (1)")], "binlog_format"),
        (vec![rows(kind::WRITE_ROWS, 9, 2, &[3], &row(1, ""))], "within a statement"),
        (vec![ints_map(), rows(kind::WRITE_ROWS, 5, 2, &[3], &[0, 1])], "malformed"),
    ];
    for (events, words) in cases {
        let error = told(vec![ints()], &events).unwrap_err();
        assert!(error.message.contains(words), "{error}");
    }
    // One that a replica may pass over.
    let mut ignorable = event(99, &[1, 2, 3]);
    ignorable[17] = 0x80;
    assert_eq!(told(vec![], &[ignorable]).unwrap(), "");
}

#[test]
fn a_server_that_died_takes_its_open_transaction_along() {
    let description = |created: u32| {
        let mut body = vec![4, 0];
        body.extend(b"8.0.36");
        body.resize(52, 0);
        body.extend(created.to_le_bytes());
        body.push(19);
        body.extend([0; 40]);
        body.extend([1, 0, 0, 0, 0]);
        event(kind::FORMAT_DESCRIPTION, &body)
    };
    let mut open = transaction();
    open.pop();
    let events = [open.clone(), vec![description(1_700_000_000)], transaction()].concat();
    let told = told(vec![ints()], &events).unwrap();
    assert_eq!(told.matches("Insert").count(), 1, "{told}");
    // A file that only follows the one before does not.
    let events = [open, vec![description(0), xid(1)]].concat();
    assert!(super::tests::told(vec![ints()], &events).unwrap().contains("Insert"));
}

#[test]
fn tables_keep_their_numbers_when_others_come_and_go() {
    let mut events = Vec::new();
    for number in 0..50 {
        events.push(query(&format!("CREATE TABLE x{} (a int)", number % 2)));
        events.push(query(&format!("DROP TABLE x{}", number % 2)));
    }
    let mut interpreter = interpreter(vec![ints()]);
    let told = Writer::of(&events).told(&mut interpreter, 1 << 20).unwrap();
    assert_eq!((interpreter.tables.len(), interpreter.numbers_used), (2, 2), "{told}");
    assert!(told.starts_with("0 is x0 by [0]\ncreate 0\ncommit 0 at 1700000000000000\nDrop 0\n"), "{told}");
}

#[test]
fn hidden_columns_are_in_the_log_and_not_in_its_rows() {
    let mut hidden = ints();
    let column = hidden.columns[1].column.clone();
    hidden.columns.insert(1, StoredColumn { column, hidden: true });
    let map = table_map(5, "t", &[3, 15, 15], &[36, 0, 36, 0]);
    let data = [&[0, 1, 0, 0, 0, 3][..], b"hid", &[1, b'v']].concat();
    let told = told(vec![hidden], &[map, rows(kind::WRITE_ROWS, 5, 3, &[7], &data), xid(1)]).unwrap();
    assert!(told.contains("Insert 0 ->(1,v)\n"), "{told}");
}

proptest! {
    #[test]
    fn never_panics_on_a_damaged_log(at in 0usize..400, byte: u8, which in 0usize..6) {
        let mut events = [
            vec![gtid(1, 5)],
            transaction(),
            vec![ints_map(), rows(kind::UPDATE_ROWS, 5, 2, &[3, 3], &[row(1, "a"), row(2, "b")].concat()), xid(1)],
            vec![query("ALTER TABLE t ADD x int"), payload(0, &transaction())],
        ]
        .concat();
        let which = which % events.len();
        let bytes = &mut events[which];
        let at = HEADER + at % (bytes.len() - HEADER);
        bytes[at] = byte;
        let _ = told(vec![ints()], &events);
    }

    #[test]
    fn never_panics_on_any_event(kind: u8, body in prop::collection::vec(any::<u8>(), 0..120)) {
        let _ = told(vec![ints()], &[ints_map(), event(kind, &body)]);
        let rows = [&[5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 2][..], &body].concat();
        for kind in [kind::WRITE_ROWS, kind::UPDATE_ROWS, kind::PARTIAL_UPDATE_ROWS, kind::UPDATE_ROWS_COMPRESSED] {
            let _ = told(vec![ints()], &[ints_map(), event(kind, &rows)]);
        }
    }
}
