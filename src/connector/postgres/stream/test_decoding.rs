//! The lines of the output plugin `test_decoding`, taken apart without a copy.
//! <https://www.postgresql.org/docs/current/test-decoding.html>, and what its source writes.

use super::super::datetime::parse_timestamp;
use crate::data::{Op, TableName};

#[derive(Debug, PartialEq)]
pub enum Line<'a> {
    Begin {
        xid: u32,
    },
    Commit {
        /// Microseconds since 1970.
        time: i64,
    },
    Change(Change<'a>),
    /// The names of tables, as [`name`] reads them.
    Truncate(Vec<&'a [u8]>),
    /// A message of an application.
    Other,
}

#[derive(Debug, PartialEq)]
pub struct Change<'a> {
    /// As it is written, with its schema and quotation marks.
    pub table: &'a [u8],
    pub op: Op,
    /// The columns of the replica identity, or all; without those that are null.
    pub old: Option<Vec<Item<'a>>>,
    /// All columns.
    pub new: Option<Vec<Item<'a>>>,
}

/// A column with its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// As it is written.
    pub name: &'a [u8],
    /// Without a modifier.
    pub type_name: &'a [u8],
    pub value: Written<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written<'a> {
    Null,
    /// A value stored out of line that this change did not touch.
    Unchanged,
    True,
    False,
    Plain(&'a [u8]),
    /// Quotation marks inside are doubled.
    Quoted(&'a [u8]),
}

/// Takes a line apart; `None` when it is none that the plugin writes.
pub fn parse(line: &[u8]) -> Option<Line<'_>> {
    if let Some(rest) = line.strip_prefix(b"table ") {
        return change(rest);
    }
    if let Some(xid) = line.strip_prefix(b"BEGIN ") {
        return Some(Line::Begin { xid: std::str::from_utf8(xid).ok()?.parse().ok()? });
    }
    if let Some(rest) = line.strip_prefix(b"COMMIT ") {
        let at = memchr::memmem::find(rest, b" (at ")?;
        return Some(Line::Commit { time: parse_timestamp(rest[at + 5..].strip_suffix(b")")?)? });
    }
    line.starts_with(b"message: ").then_some(Line::Other)
}

fn change(line: &[u8]) -> Option<Line<'_>> {
    let mut tables = Vec::new();
    let mut rest = line;
    loop {
        let (table, after) = name_end(rest)?;
        tables.push(table);
        match after.strip_prefix(b", ") {
            Some(next) => rest = next,
            None => {
                rest = after.strip_prefix(b": ")?;
                break;
            }
        }
    }
    if rest.starts_with(b"TRUNCATE:") {
        return Some(Line::Truncate(tables));
    }
    let [table] = tables[..] else { return None };
    let (kind, rest) = rest.split_at_checked(7)?;
    let op = match kind {
        b"INSERT:" => Op::Insert,
        b"UPDATE:" => Op::Update,
        b"DELETE:" => Op::Delete,
        _ => return None,
    };
    const NOTHING: &[u8] = b" (no-tuple-data)";
    let (mut old, mut new) = (None, None);
    let mut rest = rest;
    if op == Op::Update
        && let Some(after) = rest.strip_prefix(b" old-key:")
    {
        let (items, after) = items(after)?;
        (old, rest) = (Some(items), after.strip_prefix(b" new-tuple:")?);
    }
    if rest != NOTHING {
        let (items, after) = items(rest)?;
        if !after.is_empty() {
            return None;
        }
        match op {
            Op::Delete => old = Some(items),
            Op::Insert | Op::Update => new = Some(items),
        }
    }
    Some(Line::Change(Change { table, op, old, new }))
}

/// The columns up to the end or to what follows an old row.
fn items(mut rest: &[u8]) -> Option<(Vec<Item<'_>>, &[u8])> {
    let mut items = Vec::new();
    while !rest.is_empty() && !rest.starts_with(b" new-tuple:") {
        let (name, after) = identifier_end(rest.strip_prefix(b" ")?)?;
        let (type_name, after) = type_end(after.strip_prefix(b"[")?)?;
        let (value, after) = value(after)?;
        items.push(Item { name, type_name, value });
        rest = after;
    }
    Some((items, rest))
}

/// Splits behind an identifier, which may be in quotation marks.
fn identifier_end(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = match text.first()? {
        b'"' => quoted_end(text, b'"')?,
        _ => text
            .iter()
            .position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_' || *byte == b'$' || *byte >= 0x80))
            .unwrap_or(text.len()),
    };
    (end > 0).then(|| text.split_at(end))
}

/// Splits behind `schema.table`.
fn name_end(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, after) = identifier_end(text)?;
    let (_, after) = identifier_end(after.strip_prefix(b".")?)?;
    Some(text.split_at(text.len() - after.len()))
}

/// Splits at the end of a type, which may have brackets and quotation marks in it.
fn type_end(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b']', &text[at..])?;
        match (text[at], text.get(at + 1)) {
            (b']', Some(b':')) => return Some((&text[..at], &text[at + 2..])),
            (b'"', _) => at += quoted_end(&text[at..], b'"')?,
            _ => at += 1,
        }
    }
}

/// Splits behind a value.
fn value(text: &[u8]) -> Option<(Written<'_>, &[u8])> {
    let quoted = match text {
        [b'\'', ..] => Some(text),
        // Bits.
        [b'B', rest @ ..] if rest.first() == Some(&b'\'') => Some(rest),
        _ => None,
    };
    if let Some(text) = quoted {
        let end = quoted_end(text, b'\'')?;
        return Some((Written::Quoted(&text[1..end - 1]), &text[end..]));
    }
    let (value, after) = text.split_at(memchr::memchr(b' ', text).unwrap_or(text.len()));
    let value = match value {
        b"" => return None,
        b"null" => Written::Null,
        b"unchanged-toast-datum" => Written::Unchanged,
        b"true" => Written::True,
        b"false" => Written::False,
        plain => Written::Plain(plain),
    };
    Some((value, after))
}

/// Where what is in quotation marks ends; the text begins with one.
fn quoted_end(text: &[u8], mark: u8) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr::memchr(mark, text.get(at..)?)? + 1;
        if text.get(at) != Some(&mark) {
            return Some(at);
        }
        at += 1;
    }
}

/// A table's name from how it is written.
pub fn name(written: &[u8]) -> Option<TableName> {
    let (schema, after) = identifier_end(written)?;
    Some(TableName::new(identifier(schema)?, identifier(after.strip_prefix(b".")?)?))
}

/// An identifier from how it is written.
pub fn identifier(written: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(written).ok()?;
    match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(quoted) => Some(quoted.replace("\"\"", "\"")),
        None => Some(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item<'a>(name: &'a str, type_name: &'a str, value: Written<'a>) -> Item<'a> {
        Item { name: name.as_bytes(), type_name: type_name.as_bytes(), value }
    }

    #[test]
    fn takes_rows_apart() {
        let line = r#"table public."T ""x"": y": INSERT: id[integer]:-1 "a b"[character varying[]]:'{"x''s]: "}' b[bit]:B'101' t[boolean]:true n["Sp ace]:"."m"]:null"#;
        let Some(Line::Change(change)) = parse(line.as_bytes()) else { panic!() };
        assert_eq!((name(change.table), change.op), (Some(TableName::new("public", "T \"x\": y")), Op::Insert));
        let expected = vec![
            item("id", "integer", Written::Plain(b"-1")),
            item("\"a b\"", "character varying[]", Written::Quoted(b"{\"x''s]: \"}")),
            item("b", "bit", Written::Quoted(b"101")),
            item("t", "boolean", Written::True),
            item("n", "\"Sp ace]:\".\"m\"", Written::Null),
        ];
        assert_eq!((change.old, change.new), (None, Some(expected)));
        let line = b"table s.t: UPDATE: old-key: id[integer]:1 new-tuple: id[integer]:2 x[text]:unchanged-toast-datum";
        let Some(Line::Change(Change { op: Op::Update, old, new, .. })) = parse(line) else { panic!() };
        assert_eq!(old, Some(vec![item("id", "integer", Written::Plain(b"1"))]));
        let expected = vec![item("id", "integer", Written::Plain(b"2")), item("x", "text", Written::Unchanged)];
        assert_eq!(new, Some(expected));
        let line = b"table s.t: DELETE: id[integer]:1";
        assert!(matches!(parse(line), Some(Line::Change(Change { op: Op::Delete, old: Some(_), new: None, .. }))));
        let line = b"table s.t: DELETE: (no-tuple-data)";
        assert!(matches!(parse(line), Some(Line::Change(Change { old: None, new: None, .. }))));
    }

    #[test]
    fn takes_transactions_apart() {
        assert_eq!(parse(b"BEGIN 529"), Some(Line::Begin { xid: 529 }));
        let time = 1_632_358_980_765_321;
        assert_eq!(parse(b"COMMIT 529 (at 2021-09-23 01:03:00.765321+00)"), Some(Line::Commit { time }));
        let truncate = parse(b"table a.b, \"C\".d: TRUNCATE: restart_seqs cascade");
        assert_eq!(truncate, Some(Line::Truncate(vec![b"a.b", b"\"C\".d"])));
        assert_eq!(parse(b"message: transactional: 1 prefix: x, sz: 1 content:y"), Some(Line::Other));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_refused_or_read(bytes: Vec<u8>, text in "[a-z\"'\\[\\]: .,B]{0,60}") {
            for kind in ["table ", "table a.b: INSERT:", "table a.b: UPDATE: old-key:", "COMMIT ", "BEGIN "] {
                parse(&[kind.as_bytes(), &bytes].concat());
                parse(&[kind.as_bytes(), text.as_bytes()].concat());
            }
        }
    }
}
