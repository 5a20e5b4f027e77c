//! The formats of COPY: rows of text taken apart into values and put together from values, and the frame of the
//! binary format.
//! <https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9>

use super::datetime::{parse_date, parse_time, parse_timestamp, write_date, write_time, write_timestamp};
use crate::data::{Batch, Row, Value};

/// Signature, flags and the length of an extension, of which there is none.
pub const BINARY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What stands for a row's number of fields after the last row.
pub const BINARY_TRAILER: &[u8] = &[0xff, 0xff];

const NULL: &[u8] = b"\\N";
/// Begins the text form of a bytea, as COPY writes it.
const HEX_PREFIX: &[u8] = b"\\\\x";

/// How the text of a column becomes a value. Text that does not read as the type says (a timestamp beyond 64 bits of
/// microseconds) is passed on as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decode {
    Text,
    /// Without the blanks that pad a `character(n)`.
    TrimmedText,
    Bool,
    /// As the words DMS makes of a boolean.
    BoolText,
    Int,
    UInt,
    Real4,
    Real8,
    Numeric,
    Bytea,
    Date,
    Time,
    Timestamp,
}

impl Decode {
    /// Whether a value may be larger than the read buffer, so that it has to be spread over batches.
    fn spreads(self) -> bool {
        matches!(self, Decode::Text | Decode::Bytea)
    }
}

/// Appends a whole row, given without its line end.
pub fn decode_row(row: &[u8], columns: &[Decode], batch: &mut Batch) {
    // Most rows hold neither a null nor an escape: one look spares one at every field.
    let plain = memchr::memchr(b'\\', row).is_none();
    let mut ends = memchr::memchr_iter(b'\t', row).chain([row.len()]);
    let mut start = 0;
    for column in columns {
        let end = ends.next().unwrap_or(row.len());
        let field = row.get(start..end).unwrap_or_default();
        match column {
            Decode::Text if plain => batch.push(Value::String(field)),
            Decode::TrimmedText if plain => batch.push(Value::String(trimmed(field))),
            column => decode(field, *column, batch),
        }
        start = end + 1;
    }
    batch.end_row();
}

#[inline]
fn decode(field: &[u8], column: Decode, batch: &mut Batch) {
    if field == NULL {
        return batch.push(Value::Null);
    }
    match column {
        Decode::Text => push_text(field, batch),
        Decode::TrimmedText => push_text(trimmed(field), batch),
        Decode::Bytea => push_bytea(field.strip_prefix(HEX_PREFIX).unwrap_or_default(), batch),
        _ => match parse(field, column) {
            Some(value) => batch.push(value),
            None => push_text(field, batch),
        },
    }
}

/// Appends a value from its text as the server writes it anywhere but in a COPY: nothing is escaped.
#[inline]
pub fn decode_unescaped(text: &[u8], column: Decode, batch: &mut Batch) {
    match column {
        Decode::Text => batch.push(Value::String(text)),
        Decode::TrimmedText => batch.push(Value::String(trimmed(text))),
        Decode::Bytea => push_bytea(text.strip_prefix(b"\\x").unwrap_or_default(), batch),
        _ => batch.push(parse(text, column).unwrap_or(Value::String(text))),
    }
}

/// A value whose text has nothing to escape; `None` where it does not read as the type says.
#[inline]
fn parse(field: &[u8], column: Decode) -> Option<Value<'_>> {
    match column {
        Decode::Text | Decode::TrimmedText | Decode::Bytea => None,
        Decode::Bool => Some(Value::Bool(field == b"t")),
        Decode::BoolText => Some(Value::String(if field == b"t" { b"true" } else { b"false" })),
        Decode::Int => integer(field).map(Value::Int),
        Decode::UInt => std::str::from_utf8(field).ok().and_then(|text| text.parse().ok()).map(Value::UInt),
        Decode::Real4 => real4(field).map(Value::Real),
        Decode::Real8 => real8(field).map(Value::Real),
        Decode::Numeric => Some(Value::Numeric(field)),
        Decode::Date => parse_date(field).map(Value::Date),
        Decode::Time => parse_time(field).map(Value::Time),
        Decode::Timestamp => parse_timestamp(field).map(Value::DateTime),
    }
}

#[inline]
fn push_text(field: &[u8], batch: &mut Batch) {
    if memchr::memchr(b'\\', field).is_none() {
        return batch.push(Value::String(field));
    }
    let Ok(()) = batch.push_string_with(|into| {
        unescape(field, into);
        Ok::<(), std::convert::Infallible>(())
    });
}

fn push_bytea(digits: &[u8], batch: &mut Batch) {
    let Ok(()) = batch.push_bytes_with(|into| {
        into.reserve(digits.len() / 2);
        into.extend(digits.chunks_exact(2).map(|pair| hex_digit(pair[0]) << 4 | hex_digit(pair[1])));
        Ok::<(), std::convert::Infallible>(())
    });
}

#[inline]
fn hex_digit(digit: u8) -> u8 {
    // Letters have bit 6 set, and their low bits count from 1.
    (digit & 0x0f) + (digit >> 6) * 9
}

fn trimmed(field: &[u8]) -> &[u8] {
    let end = field.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
    &field[..end]
}

/// Undoes the escapes that the server writes.
fn unescape(field: &[u8], into: &mut Vec<u8>) {
    let mut rest = field;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        into.extend_from_slice(&rest[..at]);
        let Some(escaped) = rest.get(at + 1) else { return };
        into.push(match escaped {
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 11,
            b'f' => 12,
            b'r' => b'\r',
            other => *other,
        });
        rest = &rest[at + 2..];
    }
    into.extend_from_slice(rest);
}

#[inline]
fn integer(field: &[u8]) -> Option<i64> {
    let (negative, digits) = match field {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    // Counted below zero, where one more number fits.
    let mut number: i64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        number = number.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(number) } else { number.checked_neg() }
}

fn real8(field: &[u8]) -> Option<f64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// The double whose shortest decimal is that of the narrow float: versions before 12 write more digits than needed.
fn real4(field: &[u8]) -> Option<f64> {
    let narrow: f32 = std::str::from_utf8(field).ok()?.parse().ok()?;
    if narrow.is_finite() { ryu::Buffer::new().format_finite(narrow).parse().ok() } else { Some(narrow.into()) }
}

/// A row of text that is taken apart while it arrives, because it is too large for one batch.
#[derive(Debug, Default)]
pub struct Partial {
    column: usize,
    /// The value of `column` has been begun in an earlier batch.
    open: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The row is complete.
    RowEnded,
    /// The batch ends inside a value.
    ValueOpen,
    /// Nothing can be done with what is left of the bytes until more of them are there.
    Starved,
}

impl Partial {
    /// A batch that goes on with this row has to begin with [`Batch::carry_on`].
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Appends what the bytes hold to the batch. `ends` when they end the row, with its line end. Also gives how many
    /// of them are done with.
    pub fn feed(&mut self, bytes: &[u8], ends: bool, columns: &[Decode], batch: &mut Batch) -> (usize, Step) {
        let mut done = 0;
        loop {
            let rest = &bytes[done..];
            let Some(column) = columns.get(self.column) else {
                return (bytes.len(), if ends { Step::RowEnded } else { Step::Starved });
            };
            let tab = memchr::memchr(b'\t', rest);
            if let Some(end) = tab.or_else(|| ends.then(|| rest.len().saturating_sub(1))) {
                match self.open {
                    true => push_rest(&rest[..end], *column, batch),
                    false => decode(&rest[..end], *column, batch),
                }
                self.open = false;
                self.column += 1;
                done += end + 1;
                if tab.is_none() {
                    batch.end_row();
                    return (bytes.len(), Step::RowEnded);
                }
                continue;
            }
            let (begun, rest) = match (self.open, column) {
                // Until three bytes are there, this could be NULL.
                (false, _) if rest.len() < 3 || !column.spreads() => return (done, Step::Starved),
                (false, Decode::Bytea) => (HEX_PREFIX.len(), &rest[HEX_PREFIX.len()..]),
                _ => (0, rest),
            };
            let part = whole_units(rest, *column);
            if part.is_empty() {
                return (done, Step::Starved);
            }
            push_rest(part, *column, batch);
            batch.leave_open();
            self.open = true;
            return (done + begun + part.len(), Step::ValueOpen);
        }
    }
}

/// Appends a part of a value that is not its beginning.
fn push_rest(part: &[u8], column: Decode, batch: &mut Batch) {
    match column {
        Decode::Bytea => push_bytea(part, batch),
        _ => push_text(part, batch),
    }
}

/// As much of a value's text as does not end inside an escape, a character or a byte's two digits.
fn whole_units(part: &[u8], column: Decode) -> &[u8] {
    if column == Decode::Bytea {
        return &part[..part.len() & !1];
    }
    let start = part.len().saturating_sub(3);
    let begins = part[start..].iter().rposition(|byte| *byte & 0xc0 != 0x80).map_or(part.len(), |at| start + at);
    let length = match part.get(begins) {
        Some(0xf0..) => 4,
        Some(0xe0..) => 3,
        Some(0xc0..) => 2,
        _ => 1,
    };
    let part = if begins + length > part.len() { &part[..begins] } else { part };
    let backslashes = part.iter().rev().take_while(|byte| **byte == b'\\').count();
    &part[..part.len() - backslashes % 2]
}

/// Appends a row without its line end; only the columns marked in `sent`.
pub fn encode_row(row: Row<'_>, sent: &[bool], into: &mut Vec<u8>) {
    encode_values(row.zip(sent).filter(|(_, sent)| **sent).map(|(value, _)| value), into);
}

/// Appends the values of a row without its line end.
pub fn encode_values<'a>(values: impl Iterator<Item = Value<'a>>, into: &mut Vec<u8>) {
    let mut separator: &[u8] = b"";
    for value in values {
        into.extend_from_slice(separator);
        encode(value, into);
        separator = b"\t";
    }
}

/// Appends a whole value in COPY's text format.
#[inline]
pub fn encode(value: Value<'_>, into: &mut Vec<u8>) {
    match value {
        Value::Null | Value::Absent => into.extend_from_slice(NULL),
        Value::String(text) => escape(text, into),
        Value::Bytes(bytes) => {
            into.extend_from_slice(HEX_PREFIX);
            push_hex(bytes, into);
        }
        value => encode_unescaped(value, into),
    }
}

/// Appends the text of a value, which is nothing for NULL. A zero character becomes a space.
#[inline]
pub fn encode_unescaped(value: Value<'_>, into: &mut Vec<u8>) {
    match value {
        Value::Null | Value::Absent => {}
        Value::Bool(true) => into.extend_from_slice(b"true"),
        Value::Bool(false) => into.extend_from_slice(b"false"),
        Value::Int(number) => into.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Value::UInt(number) => into.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Value::Real(number) if number.is_nan() => into.extend_from_slice(b"NaN"),
        Value::Real(f64::INFINITY) => into.extend_from_slice(b"Infinity"),
        Value::Real(f64::NEG_INFINITY) => into.extend_from_slice(b"-Infinity"),
        Value::Real(number) => into.extend_from_slice(ryu::Buffer::new().format_finite(number).as_bytes()),
        // Digits, and words of letters: nothing to escape.
        Value::Numeric(text) => into.extend_from_slice(text),
        Value::String(text) => match memchr::memchr(0, text) {
            None => into.extend_from_slice(text),
            Some(_) => into.extend(text.iter().map(|byte| if *byte == 0 { b' ' } else { *byte })),
        },
        Value::Bytes(bytes) => {
            into.extend_from_slice(b"\\x");
            push_hex(bytes, into);
        }
        Value::Date(days) => write_date(days, into),
        Value::Time(micros) => write_time(micros, into),
        Value::DateTime(micros) => write_timestamp(micros, into),
    }
}

/// Appends a part of a value that is spread over batches and is not its first.
pub fn encode_rest(value: Value<'_>, into: &mut Vec<u8>) {
    match value {
        Value::Bytes(bytes) => push_hex(bytes, into),
        value => encode(value, into),
    }
}

fn push_hex(bytes: &[u8], into: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    into.reserve(bytes.len() * 2);
    for byte in bytes {
        into.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Appends text with the characters escaped that mean something to COPY. A zero character becomes a space, which is
/// what DMS does, because PostgreSQL cannot store it.
#[inline]
fn escape(text: &[u8], into: &mut Vec<u8>) {
    let mut rest = text;
    loop {
        let plain = plain_length(rest);
        into.extend_from_slice(&rest[..plain]);
        let Some((special, after)) = rest[plain..].split_first() else { return };
        into.extend_from_slice(match special {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\\' => b"\\\\",
            _ => b" ",
        });
        rest = after;
    }
}

#[inline]
fn is_special(byte: u8) -> bool {
    byte == 0 || byte == b'\t' || byte == b'\n' || byte == b'\r' || byte == b'\\'
}

/// How many bytes need no escape. Eight at a time are looked at for a control character or a backslash, which is all
/// that is special; a control character that is not special only costs the closer look.
#[inline]
fn plain_length(text: &[u8]) -> usize {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let mut at = 0;
    while let Some(chunk) = text[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let backslash = word ^ (EACH * b'\\' as u64);
        // A byte below the subtracted one borrows into its highest bit.
        let control = word.wrapping_sub(EACH * 0x20) & !word;
        let escape = backslash.wrapping_sub(EACH) & !backslash;
        if (control | escape) & (EACH * 0x80) != 0
            && let Some(special) = chunk.iter().position(|byte| is_special(*byte))
        {
            return at + special;
        }
        at += chunk.len();
    }
    at + text[at..].iter().position(|byte| is_special(*byte)).unwrap_or(text.len() - at)
}

/// The values of an encoded row as they were before COPY's escapes.
pub fn fields(row: &[u8]) -> impl Iterator<Item = Option<String>> {
    row.split(|byte| *byte == b'\t').map(|field| {
        (field != NULL).then(|| {
            let mut text = Vec::with_capacity(field.len());
            unescape(field, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        })
    })
}

/// The fields of a row in the binary format; `None` when it is not one.
pub fn binary_fields(row: &[u8]) -> Option<Vec<Option<&[u8]>>> {
    let (count, mut rest) = row.split_first_chunk::<2>()?;
    let mut fields = Vec::with_capacity(u16::from_be_bytes(*count).into());
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let (field, after) = match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => after.split_at_checked(length).map(|(field, after)| (Some(field), after))?,
            Err(_) => (None, after),
        };
        fields.push(field);
        rest = after;
    }
    rest.is_empty().then_some(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::data::Format;

    fn decoded(row: &[u8], columns: &[Decode]) -> Vec<String> {
        let mut batch = Batch::new();
        batch.clear(Format::Values);
        decode_row(row, columns, &mut batch);
        batch.row(0).map(|value| format!("{value:?}")).collect()
    }

    fn encoded(value: Value<'_>) -> String {
        let mut text = Vec::new();
        encode(value, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn reads_every_kind_of_column() {
        for (text, column, expected) in [
            ("\\N", Decode::Int, Value::Null),
            ("", Decode::Text, Value::String(b"")),
            ("a\\tb\\\\N\\n", Decode::Text, Value::String(b"a\tb\\N\n")),
            ("ab  ", Decode::TrimmedText, Value::String(b"ab")),
            ("t", Decode::Bool, Value::Bool(true)),
            ("f", Decode::BoolText, Value::String(b"false")),
            ("-9223372036854775808", Decode::Int, Value::Int(i64::MIN)),
            ("9223372036854775807", Decode::Int, Value::Int(i64::MAX)),
            ("9223372036854775808", Decode::Int, Value::String(b"9223372036854775808")),
            ("18446744073709551615", Decode::UInt, Value::UInt(u64::MAX)),
            ("0.1", Decode::Real4, Value::Real(0.1)),
            ("0.100000001", Decode::Real4, Value::Real(0.1)),
            ("-Infinity", Decode::Real4, Value::Real(f64::NEG_INFINITY)),
            ("1e-300", Decode::Real8, Value::Real(1e-300)),
            ("NaN", Decode::Numeric, Value::Numeric(b"NaN")),
            ("\\\\x00fFa0", Decode::Bytea, Value::Bytes(&[0, 255, 160])),
            ("\\\\x", Decode::Bytea, Value::Bytes(&[])),
            ("2000-01-01", Decode::Date, Value::Date(10_957)),
            ("24:00:00", Decode::Time, Value::Time(86_400_000_000)),
            ("294276-12-31 00:00:00", Decode::Timestamp, Value::String(b"294276-12-31 00:00:00")),
        ] {
            assert_eq!(decoded(text.as_bytes(), &[column]), [format!("{expected:?}")], "{text}");
        }
        assert_eq!(decoded(b"1\t\t\\N", &[Decode::Int, Decode::Text, Decode::Text]).len(), 3);
    }

    #[test]
    fn writes_every_kind_of_value() {
        for (value, expected) in [
            (Value::Null, "\\N"),
            (Value::Bool(true), "true"),
            (Value::Int(i64::MIN), "-9223372036854775808"),
            (Value::UInt(u64::MAX), "18446744073709551615"),
            (Value::Real(f64::NAN), "NaN"),
            (Value::Real(f64::INFINITY), "Infinity"),
            (Value::Real(-0.0), "-0.0"),
            (Value::Numeric(b"-1.50"), "-1.50"),
            (Value::String(b"\\N\r\n\t\0."), "\\\\N\\r\\n\\t ."),
            (Value::Bytes(&[0, 255]), "\\\\x00ff"),
            (Value::Date(0), "1970-01-01"),
            (Value::DateTime(-1), "1969-12-31 23:59:59.999999"),
        ] {
            assert_eq!(encoded(value), expected);
        }
    }

    /// Feeds a row in pieces of the given sizes and puts its values together again.
    fn fed(row: &[u8], columns: &[Decode], mut sizes: impl Iterator<Item = usize>) -> Vec<Value<'static>> {
        let (mut batch, mut partial, mut done, mut at_hand) = (Batch::new(), Partial::default(), 0, 0);
        let mut values: Vec<Value<'static>> = Vec::new();
        let owned = |value: Value<'_>| match value {
            Value::String(text) => Value::String(text.to_vec().leak()),
            Value::Bytes(bytes) => Value::Bytes(bytes.to_vec().leak()),
            Value::Int(number) => Value::Int(number),
            _ => Value::Null,
        };
        loop {
            batch.clear(Format::Values);
            let continues = partial.is_open();
            if continues {
                batch.carry_on();
            }
            let step = loop {
                at_hand = (at_hand + sizes.next().unwrap()).min(row.len());
                let bytes = &row[done..at_hand];
                let (taken, step) = partial.feed(bytes, at_hand == row.len(), columns, &mut batch);
                done += taken;
                if step != Step::Starved {
                    break step;
                }
            };
            let mut new = if batch.is_open() { batch.open_row() } else { batch.row(0) };
            if continues {
                let joined = match (values.pop().unwrap(), new.next().unwrap()) {
                    (Value::String(a), Value::String(b)) => Value::String([a, b].concat().leak()),
                    (Value::Bytes(a), Value::Bytes(b)) => Value::Bytes([a, b].concat().leak()),
                    other => panic!("{other:?}"),
                };
                values.push(joined);
            }
            values.extend(new.map(owned));
            if step == Step::RowEnded {
                return values;
            }
        }
    }

    proptest! {
        #[test]
        fn text_comes_back(text in proptest::collection::vec(1_u8.., 0..200)) {
            let row = encoded_bytes(Value::String(&text));
            prop_assert_eq!(decoded(&row, &[Decode::Text]), vec![format!("{:?}", Value::String(&text))]);
        }

        #[test]
        fn numbers_come_back(int: i64, real: f64, narrow: f32) {
            prop_assert_eq!(decoded(encoded(Value::Int(int)).as_bytes(), &[Decode::Int]), [format!("Int({int})")]);
            prop_assert_eq!(decoded(encoded(Value::Real(real)).as_bytes(), &[Decode::Real8]), [format!("Real({real:?})")]);
            let text = ryu::Buffer::new().format(narrow).to_owned();
            let expected: f64 = text.parse().unwrap();
            prop_assert_eq!(decoded(text.as_bytes(), &[Decode::Real4]), [format!("Real({expected:?})")]);
        }

        #[test]
        fn a_row_in_pieces_is_the_same_row(
            text in "\\PC{0,80}|[\\\\\t\n\r]{0,20}",
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            number: i64,
            size in 1_usize..40,
        ) {
            let values = [Value::String(text.as_bytes()), Value::Int(number), Value::Bytes(&bytes), Value::Null];
            let mut row = Vec::new();
            for (index, value) in values.into_iter().enumerate() {
                if index > 0 {
                    row.push(b'\t');
                }
                encode(value, &mut row);
            }
            row.push(b'\n');
            let columns = [Decode::Text, Decode::Int, Decode::Bytea, Decode::Text];
            prop_assert_eq!(fed(&row, &columns, std::iter::repeat(size)), values.to_vec());
        }
    }

    fn encoded_bytes(value: Value<'_>) -> Vec<u8> {
        let mut text = Vec::new();
        encode(value, &mut text);
        text
    }

    #[test]
    fn takes_binary_rows_apart() {
        let row = [&[0, 2, 0, 0, 0, 1, 7][..], &[0xff; 4]].concat();
        assert_eq!(binary_fields(&row), Some(vec![Some(&[7][..]), None]));
        assert_eq!(binary_fields(&row[..8]), None);
        assert_eq!(binary_fields(&[]), None);
    }
}
