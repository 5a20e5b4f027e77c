//! JSON as MySQL stores it, in the text that the server sends for it, and changes of parts of it.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/json__binary_8h.html>,
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/json__diff_8h.html>

use super::cursor::Cursor;
use super::number::{Decimal, write_double, write_int, write_uint};
use super::temporal::{Moment, Span};

/// The server takes none deeper.
const DEPTH_MAX: usize = 100;

#[derive(Clone, Debug, PartialEq)]
enum Json<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Double(f64),
    String(&'a [u8]),
    /// A value of another type of the server, with that type's number.
    Opaque(u8, &'a [u8]),
    Array(Vec<Json<'a>>),
    /// Sorted as the server sorts: by the length of the keys, then by their bytes.
    Object(Vec<(Vec<u8>, Json<'a>)>),
}

/// Appends the text of a stored document. `None`: it is none.
pub(super) fn write_json(document: &[u8], out: &mut Vec<u8>) -> Option<()> {
    parse(document)?.write(out)
}

/// Appends the text of a document to which the changes of an UPDATE are applied.
pub(super) fn write_changed_json(document: &[u8], diffs: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut json = parse(document)?;
    let mut cursor = Cursor(diffs);
    while let Some(operation) = cursor.u8() {
        let path = parse_path(cursor.lenenc_bytes()?)?;
        let value = match operation {
            REMOVE => None,
            _ => Some(parse(cursor.lenenc_bytes()?)?),
        };
        json.change(operation, &path, value)?;
    }
    json.write(out)
}

fn parse(document: &[u8]) -> Option<Json<'_>> {
    match document.split_first() {
        // What the server takes from a row that was inserted without a value.
        None => Some(Json::Null),
        Some((kind, value)) => Parser { left: document.len() }.value(*kind, value, 0),
    }
}

struct Parser {
    /// Values still to come. Each has bytes of its own in a sound document; one that shows the same bytes again and again
    /// would grow without end.
    left: usize,
}

impl Parser {
    fn value<'a>(&mut self, kind: u8, bytes: &'a [u8], depth: usize) -> Option<Json<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut cursor = Cursor(bytes);
        Some(match kind {
            0x00 => Json::Object(self.object(bytes, Width::Small, depth + 1)?),
            0x01 => Json::Object(self.object(bytes, Width::Large, depth + 1)?),
            0x02 => Json::Array(self.array(bytes, Width::Small, depth + 1)?),
            0x03 => Json::Array(self.array(bytes, Width::Large, depth + 1)?),
            0x04 => match cursor.u8()? {
                0 => Json::Null,
                1 => Json::Bool(true),
                2 => Json::Bool(false),
                _ => return None,
            },
            0x05 => Json::Int(cursor.u16()?.cast_signed().into()),
            0x06 => Json::UInt(cursor.u16()?.into()),
            0x07 => Json::Int(cursor.u32()?.cast_signed().into()),
            0x08 => Json::UInt(cursor.u32()?.into()),
            0x09 => Json::Int(cursor.u64()?.cast_signed()),
            0x0A => Json::UInt(cursor.u64()?),
            0x0B => Json::Double(f64::from_bits(cursor.u64()?)),
            0x0C => Json::String(counted(&mut cursor)?),
            0x0F => Json::Opaque(cursor.u8()?, counted(&mut cursor)?),
            _ => return None,
        })
    }

    fn array<'a>(&mut self, bytes: &'a [u8], width: Width, depth: usize) -> Option<Vec<Json<'a>>> {
        let mut cursor = Cursor(bytes);
        let (count, bytes) = Self::head(&mut cursor, bytes, width, depth)?;
        (0..count).map(|_| self.entry(&mut cursor, bytes, width, depth)).collect()
    }

    fn object<'a>(&mut self, bytes: &'a [u8], width: Width, depth: usize) -> Option<Vec<(Vec<u8>, Json<'a>)>> {
        let mut cursor = Cursor(bytes);
        let (count, bytes) = Self::head(&mut cursor, bytes, width, depth)?;
        let mut keys = Cursor(cursor.take(count.checked_mul(width.bytes() + 2)?)?);
        let mut members = Vec::new();
        for _ in 0..count {
            let (offset, len) = (width.read(&mut keys)?, usize::from(keys.u16()?));
            let key = bytes.get(offset..offset.checked_add(len)?)?.to_vec();
            members.push((key, self.entry(&mut cursor, bytes, width, depth)?));
        }
        Some(members)
    }

    /// How many elements there are, and the bytes that offsets are within.
    fn head<'a>(cursor: &mut Cursor<'a>, bytes: &'a [u8], width: Width, depth: usize) -> Option<(usize, &'a [u8])> {
        let (count, size) = (width.read(cursor)?, width.read(cursor)?);
        (depth <= DEPTH_MAX).then_some((count, bytes.get(..size)?))
    }

    /// An element: its type, and the value itself if it is short, or else where it is.
    fn entry<'a>(&mut self, cursor: &mut Cursor<'a>, bytes: &'a [u8], width: Width, depth: usize) -> Option<Json<'a>> {
        let kind = cursor.u8()?;
        let value = cursor.take(width.bytes())?;
        match kind {
            0x04..=0x06 => self.value(kind, value, depth),
            0x07 | 0x08 if width == Width::Large => self.value(kind, value, depth),
            _ => self.value(kind, bytes.get(width.read(&mut Cursor(value))?..)?, depth),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Small,
    Large,
}

impl Width {
    fn bytes(self) -> usize {
        if self == Width::Small { 2 } else { 4 }
    }

    fn read(self, cursor: &mut Cursor<'_>) -> Option<usize> {
        match self {
            Width::Small => cursor.u16().map(usize::from),
            Width::Large => cursor.u32().and_then(|number| usize::try_from(number).ok()),
        }
    }
}

/// Bytes after their length, of which each byte holds seven bits.
fn counted<'a>(cursor: &mut Cursor<'a>) -> Option<&'a [u8]> {
    let mut len = 0_usize;
    for shift in 0..5 {
        let byte = cursor.u8()?;
        len |= usize::from(byte & 0x7F) << (7 * shift);
        if byte & 0x80 == 0 {
            return cursor.take(len);
        }
    }
    None
}

const REPLACE: u8 = 0;
const INSERT: u8 = 1;
const REMOVE: u8 = 2;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Leg {
    Key(Vec<u8>),
    Cell(usize),
}

/// `$.a."b c"[0]`
fn parse_path(path: &[u8]) -> Option<Vec<Leg>> {
    let mut rest = path.strip_prefix(b"$")?;
    let mut legs = Vec::new();
    loop {
        match rest {
            [] => return Some(legs),
            [b'[', cell @ ..] => {
                let end = memchr::memchr(b']', cell)?;
                legs.push(Leg::Cell(std::str::from_utf8(&cell[..end]).ok()?.trim().parse().ok()?));
                rest = &cell[end + 1..];
            }
            [b'.', b'"', quoted @ ..] => {
                let mut escaped = false;
                let end = quoted.iter().position(|byte| {
                    let ends = *byte == b'"' && !escaped;
                    escaped = *byte == b'\\' && !escaped;
                    ends
                })?;
                let quoted_key = &rest[1..end + 3];
                legs.push(Leg::Key(serde_json::from_slice::<String>(quoted_key).ok()?.into_bytes()));
                rest = &quoted[end + 1..];
            }
            [b'.', key @ ..] => {
                let end = key.iter().position(|byte| matches!(byte, b'.' | b'[')).unwrap_or(key.len());
                legs.push(Leg::Key(key[..end].to_vec()));
                rest = &key[end..];
            }
            _ => return None,
        }
    }
}

impl<'a> Json<'a> {
    /// `None` where the document has no such place: then it is not the one that the change was made to.
    fn change(&mut self, operation: u8, path: &[Leg], value: Option<Json<'a>>) -> Option<()> {
        let Some((last, parents)) = path.split_last() else {
            // Only the whole document can be replaced.
            *self = value.filter(|_| operation == REPLACE)?;
            return Some(());
        };
        let mut parent = self;
        for leg in parents {
            parent = parent.child(leg)?;
        }
        match (operation, last, parent, value) {
            (REPLACE, leg, parent, Some(value)) => *parent.child(leg)? = value,
            (INSERT, Leg::Cell(cell), Json::Array(elements), Some(value)) => {
                elements.insert((*cell).min(elements.len()), value);
            }
            (INSERT, Leg::Key(key), Json::Object(members), Some(value)) => {
                let at = members.partition_point(|(known, _)| (known.len(), known) < (key.len(), key));
                if members.get(at).is_some_and(|(known, _)| known == key) {
                    return None;
                }
                members.insert(at, (key.clone(), value));
            }
            (REMOVE, Leg::Cell(cell), Json::Array(elements), None) if *cell < elements.len() => {
                elements.remove(*cell);
            }
            (REMOVE, Leg::Key(key), Json::Object(members), None) => {
                let at = members.iter().position(|(known, _)| known == key)?;
                members.remove(at);
            }
            _ => return None,
        }
        Some(())
    }

    fn child(&mut self, leg: &Leg) -> Option<&mut Json<'a>> {
        match (self, leg) {
            (Json::Array(elements), Leg::Cell(cell)) => elements.get_mut(*cell),
            (Json::Object(members), Leg::Key(key)) => {
                members.iter_mut().find(|(known, _)| known == key).map(|(_, value)| value)
            }
            _ => None,
        }
    }

    fn write(&self, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Json::Null => out.extend_from_slice(b"null"),
            Json::Bool(true) => out.extend_from_slice(b"true"),
            Json::Bool(false) => out.extend_from_slice(b"false"),
            Json::Int(value) => write_int(*value, out),
            Json::UInt(value) => write_uint(*value, 0, out),
            Json::Double(value) => {
                let start = out.len();
                write_double(*value, out);
                // It stays a double for who reads it.
                if !out[start..].iter().any(|byte| matches!(byte, b'.' | b'e')) {
                    out.extend_from_slice(b".0");
                }
            }
            Json::String(text) => write_string(text, out),
            Json::Opaque(kind, bytes) => write_opaque(*kind, bytes, out)?,
            Json::Array(elements) => {
                out.push(b'[');
                for (index, element) in elements.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    element.write(out)?;
                }
                out.push(b']');
            }
            Json::Object(members) => {
                out.push(b'{');
                for (index, (key, value)) in members.iter().enumerate() {
                    if index > 0 {
                        out.extend_from_slice(b", ");
                    }
                    write_string(key, out);
                    out.extend_from_slice(b": ");
                    value.write(out)?;
                }
                out.push(b'}');
            }
        }
        Some(())
    }
}

fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
            0x08 => out.extend_from_slice(b"\\b"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0x0C => out.extend_from_slice(b"\\f"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0x00..=0x1F => {
                let hex = |digit: u8| if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
            }
            _ => out.push(*byte),
        }
    }
    out.push(b'"');
}

/// Values that JSON does not have: by their types' numbers.
fn write_opaque(kind: u8, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    const TIMESTAMP: u8 = 7;
    const DATE: u8 = 10;
    const TIME: u8 = 11;
    const DATETIME: u8 = 12;
    const DECIMAL: u8 = 246;
    const VAR_STRING: u8 = 253;
    let packed = || bytes.first_chunk().map(|bytes| i64::from_le_bytes(*bytes));
    match kind {
        DECIMAL => {
            let (&[precision, scale], digits) = bytes.split_first_chunk()?;
            Decimal::new(precision, scale)?.write(digits, false, out)?;
        }
        DATE => {
            let date = Moment::of_json(packed()?.cast_unsigned());
            out.push(b'"');
            date.write_date(out);
            out.push(b'"');
        }
        DATETIME | TIMESTAMP => {
            let moment = Moment::of_json(packed()?.cast_unsigned());
            out.push(b'"');
            moment.write_datetime(6, out);
            out.push(b'"');
        }
        TIME => {
            let span = Span::of_packed(packed()?);
            out.push(b'"');
            span.write(6, out);
            out.push(b'"');
        }
        VAR_STRING => write_string(bytes, out),
        _ => {
            let mut text = format!("base64:type{kind}:").into_bytes();
            // The server breaks the lines of what it encodes.
            const LINE: usize = 76;
            let encoded = data_encoding::BASE64.encode(bytes);
            for (index, line) in encoded.as_bytes().chunks(LINE).enumerate() {
                if index > 0 {
                    text.push(b'\n');
                }
                text.extend_from_slice(line);
            }
            write_string(&text, out);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(document: &[u8]) -> String {
        let mut out = Vec::new();
        write_json(document, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn changed(document: &[u8], diffs: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        write_changed_json(document, diffs, &mut out)?;
        String::from_utf8(out).ok()
    }

    /// `{"a": [1, "x"], "bb": null}` as the server stores it.
    fn document() -> Vec<u8> {
        let mut object = vec![2, 0];
        let array: &[u8] = &[2, 0, 12, 0, 0x05, 1, 0, 0x0C, 10, 0, 1, b'x'];
        let size = 4 + 8 + 6 + 3 + array.len() as u16;
        object.extend(size.to_le_bytes());
        object.extend([18, 0, 1, 0, 19, 0, 2, 0]);
        object.extend([0x02, 21, 0, 0x04, 0, 0]);
        object.extend(b"abb");
        object.extend(array);
        [&[0][..], &object].concat()
    }

    #[test]
    fn prints_documents_as_the_server_does() {
        assert_eq!(text(&document()), r#"{"a": [1, "x"], "bb": null}"#);
        assert_eq!(text(b""), "null");
        assert_eq!(text(&[0x0B, 0, 0, 0, 0, 0, 0, 0x08, 0x40]), "3.0");
        assert_eq!(text(&[0x0C, 4, b'"', b'\n', 0x01, b'/']), r#""\"\n\u0001/""#);
        assert_eq!(text(&[0x0A, 255, 255, 255, 255, 255, 255, 255, 255]), "18446744073709551615");
        // DECIMAL(5,2) 1.50, and 2015-01-15 23:24:25.12 of the documentation.
        assert_eq!(text(&[0x0F, 246, 5, 5, 2, 0x80, 1, 50]), "1.50");
        let packed: u64 = ((2015 * 13 + 1) << 5 | 15) << 41 | (23 << 12 | 24 << 6 | 25) << 24 | 120_000;
        let datetime = [&[0x0F, 12, 8][..], &packed.to_le_bytes()].concat();
        assert_eq!(text(&datetime), r#""2015-01-15 23:24:25.120000""#);
        assert_eq!(text(&[0x0F, 252, 2, 1, 2]), r#""base64:type252:AQI=""#);
    }

    fn diff(operation: u8, path: &str, value: &[u8]) -> Vec<u8> {
        let mut bytes = vec![operation, path.len() as u8];
        bytes.extend(path.as_bytes());
        if operation != REMOVE {
            bytes.push(value.len() as u8);
            bytes.extend(value);
        }
        bytes
    }

    #[test]
    fn parts_of_a_document_change() {
        let seven: &[u8] = &[0x05, 7, 0];
        let cases = [
            (diff(REPLACE, "$.a[0]", seven), r#"{"a": [7, "x"], "bb": null}"#),
            (diff(INSERT, "$.a[1]", seven), r#"{"a": [1, 7, "x"], "bb": null}"#),
            (diff(INSERT, "$.\"a\\n.\"", seven), r#"{"a": [1, "x"], "bb": null, "a\n.": 7}"#),
            (diff(INSERT, "$.b", seven), r#"{"a": [1, "x"], "b": 7, "bb": null}"#),
            (diff(REMOVE, "$.bb", &[]), r#"{"a": [1, "x"]}"#),
            (diff(REPLACE, "$", seven), "7"),
            ([diff(REMOVE, "$.a[1]", &[]), diff(REMOVE, "$.a[0]", &[])].concat(), r#"{"a": [], "bb": null}"#),
        ];
        for (diffs, expected) in cases {
            assert_eq!(changed(&document(), &diffs).as_deref(), Some(expected));
        }
        for diffs in [diff(REPLACE, "$.c", seven), diff(REMOVE, "$.a[2]", &[]), diff(INSERT, "$.a", seven)] {
            assert_eq!(changed(&document(), &diffs), None);
        }
    }

    proptest! {
        #[test]
        fn never_panics_nor_grows_without_end(mut bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0u8..16) {
            if let Some(first) = bytes.first_mut() {
                *first = kind;
            }
            let mut out = Vec::new();
            let _ = write_json(&bytes, &mut out);
            prop_assert!(out.len() < 1 << 20);
            let _ = write_changed_json(&document(), &bytes, &mut out);
        }

        #[test]
        fn never_panics_on_a_damaged_document(at in 0usize..33, byte: u8) {
            let mut bytes = document();
            let at = at % bytes.len();
            bytes[at] = byte;
            let _ = write_json(&bytes, &mut Vec::new());
        }
    }
}
