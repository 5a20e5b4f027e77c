//! The messages of the output plugin `pglogical_output`, version 1 of its native protocol, taken apart without a copy into
//! what pgoutput says, too.
//! <https://github.com/2ndQuadrant/pglogical>: `internals-doc/protocol.txt`, and what its source writes.
//!
//! It does not tell the types of columns, and of TRUNCATE it tells by rows of a table of its own ([`emptied`]).

use serde::Deserialize;

use super::pgoutput::{Image, Input, Message, Relation, RelationColumn, Texts};
use crate::data::TableName;

/// The schema of the extension, and its table of messages to those that read the log.
pub const SCHEMA: &str = "pglogical";
pub const QUEUE_TABLE: &str = "queue";

/// In the queue: a table was emptied.
const TRUNCATE: &[u8] = b"T";

/// Takes a message apart; `None` when it is not what the protocol says.
pub fn parse(message: &[u8]) -> Option<Message<'_>> {
    // What is sent for an origin that has been dropped since.
    let Some((kind, rest)) = message.split_first() else { return Some(Message::Other) };
    let mut input = Input(rest);
    if *kind == b'S' {
        // What the server can do; that it does as asked it has said by not refusing.
        return (input.u8()? == 1).then_some(Message::Other);
    }
    // Flags that nobody knows change what follows.
    (input.u8()? == 0).then_some(())?;
    let parsed = match kind {
        b'B' => Message::Begin { commit: input.u64()?, time: input.time()?, xid: input.u32()? },
        b'C' => {
            let _commit = input.u64()?;
            let end = input.u64()?;
            input.time()?;
            Message::Commit { end }
        }
        b'O' => {
            let _commit = input.u64()?;
            let length = input.u8()?;
            Message::Origin { name: text(&mut input, length.into())? }
        }
        b'R' => Message::Relation(relation(&mut input)?),
        b'I' => {
            let relation = input.u32()?;
            Message::Insert { relation, new: row(&mut input, b'N')? }
        }
        b'U' => {
            let relation = input.u32()?;
            let old = match input.0.first()? {
                b'K' => Some((Image::Key, row(&mut input, b'K')?)),
                _ => None,
            };
            Message::Update { relation, old, new: row(&mut input, b'N')? }
        }
        b'D' => {
            let relation = input.u32()?;
            Message::Delete { relation, old: (Image::Key, row(&mut input, b'K')?) }
        }
        _ => return None,
    };
    input.0.is_empty().then_some(parsed)
}

fn expect(input: &mut Input<'_>, byte: u8) -> Option<()> {
    (input.u8()? == byte).then_some(())
}

/// A row of a kind.
fn row<'a>(input: &mut Input<'a>, kind: u8) -> Option<super::pgoutput::Tuple<'a>> {
    expect(input, kind)?;
    expect(input, b'T')?;
    input.tuple(Texts::Terminated)
}

/// A text whose length counts the zero at its end.
fn text<'a>(input: &mut Input<'a>, length: usize) -> Option<&'a str> {
    let (text, rest) = input.0.split_at_checked(length)?;
    input.0 = rest;
    std::str::from_utf8(text.strip_suffix(b"\0")?).ok()
}

fn relation<'a>(input: &mut Input<'a>) -> Option<Relation<'a>> {
    let oid = input.u32()?;
    let length = input.u8()?;
    let schema = text(input, length.into())?;
    let length = input.u8()?;
    let table = text(input, length.into())?;
    expect(input, b'A')?;
    let count = input.u16()?;
    let mut columns = Vec::with_capacity(count.into());
    for _ in 0..count {
        expect(input, b'C')?;
        let flags = input.u8()?;
        expect(input, b'N')?;
        let length = input.u16()?;
        columns.push(RelationColumn { name: text(input, length.into())?, key: flags & 1 != 0, type_of: None });
    }
    Some(Relation { oid, schema, table, columns })
}

/// The table that a row of the queue says was emptied, by the kind of the row and what it says.
pub fn emptied(kind: &[u8], message: &[u8]) -> Option<TableName> {
    #[derive(Deserialize)]
    struct Emptied {
        schema_name: String,
        table_name: String,
    }
    let is_truncate = kind == TRUNCATE;
    let Emptied { schema_name, table_name } = is_truncate.then(|| serde_json::from_slice(message).ok()).flatten()?;
    Some(TableName::new(schema_name, table_name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::pgoutput::{Field, Tuple};
    use super::*;

    fn message(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        [&[kind, 0], parts.concat().as_slice()].concat()
    }

    const ROW: &[u8] = b"T\0\x03n\x75t\0\0\0\x03ab\0";
    const KEY: &[u8] = b"T\0\x01t\0\0\0\x02x\0";

    fn fields(tuple: Tuple<'_>) -> Vec<Field<'_>> {
        assert_eq!(tuple.len(), tuple.count());
        tuple.collect()
    }

    #[test]
    fn takes_rows_apart() {
        let whole = [Field::Null, Field::Unchanged, Field::Text(b"ab")];
        let insert = message(b'I', &[b"\0\0\0\x07N", ROW]);
        let Some(Message::Insert { relation: 7, new }) = parse(&insert) else { panic!() };
        assert_eq!(fields(new), whole);
        let update = message(b'U', &[b"\0\0\0\x07K", KEY, b"N", ROW]);
        let Some(Message::Update { old: Some((Image::Key, old)), new, .. }) = parse(&update) else { panic!() };
        assert_eq!((fields(old), fields(new)), (vec![Field::Text(b"x")], whole.to_vec()));
        let update = message(b'U', &[b"\0\0\0\x07N", ROW]);
        assert!(matches!(parse(&update), Some(Message::Update { old: None, .. })));
        let delete = message(b'D', &[b"\0\0\0\x07K", KEY]);
        let Some(Message::Delete { old: (Image::Key, old), .. }) = parse(&delete) else { panic!() };
        assert_eq!(fields(old), [Field::Text(b"x")]);
    }

    #[test]
    fn takes_relations_and_transactions_apart() {
        let relation = message(b'R', &[b"\0\0\0\x07\x02s\0\x02t\0A\0\x02", b"C\x01N\0\x03id\0", b"C\0N\0\x02v\0"]);
        let column = |name, key| RelationColumn { name, key, type_of: None };
        let columns = vec![column("id", true), column("v", false)];
        assert_eq!(parse(&relation), Some(Message::Relation(Relation { oid: 7, schema: "s", table: "t", columns })));
        let begin = message(b'B', &[&9_u64.to_be_bytes(), &1_i64.to_be_bytes(), &5_u32.to_be_bytes()]);
        let time = super::super::pgoutput::EPOCH_MICROS + 1;
        assert_eq!(parse(&begin), Some(Message::Begin { commit: 9, time, xid: 5 }));
        let commit = message(b'C', &[&9_u64.to_be_bytes(), &12_u64.to_be_bytes(), &1_i64.to_be_bytes()]);
        assert_eq!(parse(&commit), Some(Message::Commit { end: 12 }));
        let origin = message(b'O', &[&9_u64.to_be_bytes(), b"\x05here\0"]);
        assert_eq!(parse(&origin), Some(Message::Origin { name: "here" }));
        assert_eq!([parse(b""), parse(b"S\x01max_proto_version\x001\0")], [Some(Message::Other), Some(Message::Other)]);
    }

    #[test]
    fn what_is_not_of_the_protocol_is_refused() {
        let begin = message(b'B', &[&9_u64.to_be_bytes(), &1_i64.to_be_bytes(), &5_u32.to_be_bytes()]);
        let with_flag = [b"B\x01", &begin[2..]].concat();
        let without_end = message(b'I', &[b"\0\0\0\x07NT\0\x01t\0\0\0\x02ab"]);
        let binary = message(b'I', &[b"\0\0\0\x07NT\0\x01b\0\0\0\x02a\0"]);
        for wrong in [&with_flag[..], &without_end, &binary, b"S\x02", b"T\0", b"B"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_queue_tells_what_was_emptied() {
        let json = br#"{"schema_name": "public","table_name": "T \"x\""}"#;
        assert_eq!(emptied(b"T", json), Some(TableName::new("public", "T \"x\"")));
        assert_eq!(emptied(b"A", json), None);
        assert_eq!(emptied(b"T", b"{}"), None);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused_or_read_to_its_end(bytes: Vec<u8>) {
            for kind in *b"SBCORIUD" {
                let bytes = message(kind, &[&bytes]);
                if let Some(Message::Insert { new, .. }) = parse(&bytes) {
                    prop_assert_eq!(new.len(), new.count());
                }
            }
            emptied(b"T", &bytes);
        }

        #[test]
        fn a_message_cut_short_is_refused(at in 1..24_usize) {
            let whole = message(b'I', &[b"\0\0\0\x07N", ROW]);
            prop_assert!(parse(&whole).is_some());
            prop_assert!(parse(&whole[..at.min(whole.len() - 1)]).is_none());
        }
    }
}
