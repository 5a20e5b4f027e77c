//! Rows as the text that `LOAD DATA` reads: fields end with a tab, rows with a newline, a backslash escapes either and
//! itself, NULL is `\N`. Everything else goes as it is, also bytes of no character set.

use std::ops::Range;

use super::quote_text;
use crate::data::{Batch, Error, ErrorKind, Row, Value};

/// The clauses of `LOAD DATA` that say all this, whatever the server's defaults.
pub(super) const CLAUSES: &str = "CHARACTER SET binary FIELDS TERMINATED BY '\\t' ENCLOSED BY '' ESCAPED BY '\\\\' \
    LINES STARTING BY '' TERMINATED BY '\\n'";

/// What a column expects of its values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// Most digits after the point of a decimal number: the server would round the others away without a word.
    pub(super) fraction_max: Option<u16>,
    /// A FLOAT column: the shortest decimal of its largest number is out of its range, the exact one is not.
    pub(super) narrow: bool,
    /// A YEAR column: fewer digits than four mean a year of the twentieth or twenty-first century, 0 the year 2000.
    pub(super) year: bool,
    /// An ENUM none of whose members is empty: the empty text is MySQL's error value. It goes in, with one warning.
    pub(super) empty_is_error_value: bool,
}

/// Encoded rows, in buffers that are reused.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    bytes: Vec<u8>,
    /// Where each row ends, with its newline.
    ends: Vec<usize>,
    /// For each row the warnings that it will cause and that mean no loss. Empty if there are none in any row.
    expected_warnings: Vec<u16>,
}

/// A row that cannot be sent at all, with its values as encoded text.
pub(super) struct Unfit {
    pub(super) error: Error,
    pub(super) line: Vec<u8>,
}

impl Chunk {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT_BYTES_MAX);
        self.ends.clear();
        self.expected_warnings.clear();
    }

    pub(super) fn rows(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    fn start(&self, row: usize) -> usize {
        if row == 0 { 0 } else { self.ends[row - 1] }
    }

    /// The text of some rows.
    pub(super) fn text(&self, rows: Range<usize>) -> &[u8] {
        if rows.is_empty() { &[] } else { &self.bytes[self.start(rows.start)..self.ends[rows.end - 1]] }
    }

    /// Warnings that loading these rows causes when all is well.
    pub(super) fn expected_warnings(&self, rows: Range<usize>) -> u64 {
        self.expected_warnings.get(rows).unwrap_or_default().iter().map(|warnings| u64::from(*warnings)).sum()
    }

    /// The rows from `row` on whose text is at most `bytes_max` long; at least one.
    pub(super) fn rows_within(&self, row: usize, bytes_max: usize) -> Range<usize> {
        let limit = self.start(row).saturating_add(bytes_max);
        let count = self.ends[row..].partition_point(|end| *end <= limit);
        row..row + count.max(1)
    }

    /// Appends a complete row; one that MySQL has no text for is given back instead.
    pub(super) fn push<'a>(&mut self, row: impl Iterator<Item = Value<'a>>, rules: &[Rule]) -> Result<(), Unfit> {
        let warnings = push_line(row, rules, &mut self.bytes)?;
        if warnings > 0 && self.expected_warnings.is_empty() {
            self.expected_warnings.resize(self.ends.len(), 0);
        }
        if warnings > 0 || !self.expected_warnings.is_empty() {
            self.expected_warnings.push(warnings);
        }
        self.ends.push(self.bytes.len());
        Ok(())
    }
}

/// Appends a complete row to `out` and gives the warnings that it will cause and that mean no loss.
pub(super) fn push_line<'a>(
    row: impl Iterator<Item = Value<'a>>,
    rules: &[Rule],
    out: &mut Vec<u8>,
) -> Result<u16, Unfit> {
    let start = out.len();
    let mut unfit = None;
    let mut warnings = 0;
    for (value, rule) in row.zip(rules) {
        if let Err(error) = push_value(value, *rule, out) {
            unfit.get_or_insert(error);
        }
        if rule.empty_is_error_value && value == Value::String(&[]) {
            warnings += 1;
        }
        out.push(b'\t');
    }
    if out.len() > start {
        out.pop();
    }
    out.push(b'\n');
    match unfit {
        Some(reason) => {
            let line = out.split_off(start);
            Err(Unfit { error: Error::new(ErrorKind::Data, reason).with_native(1366), line })
        }
        None => Ok(warnings),
    }
}

/// Keeps a chunk that one long row has grown from holding its memory for the rest of the load.
const KEPT_BYTES_MAX: usize = 4 << 20;

/// One row that comes in pieces: its text so far is taken away as it is made.
#[derive(Default)]
pub(super) struct Pieces {
    /// Columns whose values are begun.
    column: usize,
    pub(super) unfit: Option<&'static str>,
    /// The start of the row's text, for the control table.
    pub(super) head: Vec<u8>,
}

/// Bytes of a spread row that are kept for the control table.
const HEAD_BYTES: usize = 4 << 10;

impl Pieces {
    /// Encodes the values of `row` into `out`; the first carries on the last of the piece before if there was one.
    pub(super) fn push(&mut self, row: Row<'_>, rules: &[Rule], out: &mut Vec<u8>) {
        let from = out.len();
        for (index, value) in row.enumerate() {
            let carried = index == 0 && self.column > 0;
            if !carried {
                if self.column > 0 {
                    out.push(b'\t');
                }
                self.column += 1;
            }
            let rule = rules.get(self.column - 1).copied().unwrap_or_default();
            if let Err(error) = push_value(value, rule, out) {
                self.unfit.get_or_insert(error);
            }
        }
        let room = HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend_from_slice(&out[from..out.len().min(from + room)]);
    }

    pub(super) fn end(self, out: &mut Vec<u8>) -> Pieces {
        out.push(b'\n');
        self
    }
}

/// Whether all values of a batch are encoded one way or the other: a value without a MySQL form is written as a text
/// that only the control table will ever see.
fn push_value(value: Value<'_>, rule: Rule, out: &mut Vec<u8>) -> Result<(), &'static str> {
    match value {
        Value::Null => out.extend_from_slice(b"\\N"),
        Value::Absent => {
            out.extend_from_slice(b"\\N");
            return Err("the source did not send a value of the row");
        }
        Value::Bool(value) => out.push(b'0' + u8::from(value)),
        Value::Int(value) if rule.year => out.extend_from_slice(format!("{value:04}").as_bytes()),
        Value::Int(value) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        Value::UInt(value) => out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes()),
        Value::Real(value) => {
            let float = value as f32;
            let value = if rule.narrow && float.is_finite() { f64::from(float) } else { value };
            out.extend_from_slice(ryu::Buffer::new().format(value).as_bytes());
            if !value.is_finite() {
                return Err("MySQL has no number that is not finite (NaN, Infinity)");
            }
        }
        Value::Numeric(text) => {
            escape(text, out);
            return check_numeric(text, rule);
        }
        Value::String(bytes) | Value::Bytes(bytes) => escape(bytes, out),
        Value::Date(days) => return push_date(days, out),
        Value::Time(micros) => push_time(micros, out),
        Value::DateTime(micros) => return push_date_time(micros, out),
    }
    Ok(())
}

#[inline]
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = memchr::memchr3(b'\\', b'\t', b'\n', rest) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(match rest[at] {
            b'\t' => b"\\t",
            b'\n' => b"\\n",
            _ => b"\\\\",
        });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

fn check_numeric(text: &[u8], rule: Rule) -> Result<(), &'static str> {
    if text.first().is_none_or(|first| !matches!(first, b'-' | b'+' | b'.' | b'0'..=b'9')) || text.ends_with(b"y") {
        return Err("MySQL has no number that is not finite (NaN, Infinity)");
    }
    let Some(most) = rule.fraction_max else { return Ok(()) };
    let Some(point) = memchr::memchr(b'.', text) else { return Ok(()) };
    let fraction = &text[point + 1..];
    if fraction.len() <= most.into() {
        return Ok(());
    }
    match fraction.iter().rposition(|digit| *digit != b'0') {
        Some(last) if last >= most.into() => Err("the number has more digits after the point than the column"),
        _ => Ok(()),
    }
}

fn push_date(days: i32, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if matches!(days, Value::DATE_INFINITY | Value::DATE_NEG_INFINITY) {
        out.extend_from_slice(if days > 0 { b"infinity" } else { b"-infinity" });
        return Err("MySQL has no infinite date");
    }
    let (year, month, day) = civil(days.into());
    push_civil(year, month, day, out)
}

fn push_date_time(micros: i64, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if matches!(micros, Value::INFINITY | Value::NEG_INFINITY) {
        out.extend_from_slice(if micros > 0 { b"infinity" } else { b"-infinity" });
        return Err("MySQL has no infinite timestamp");
    }
    let (year, month, day) = civil(micros.div_euclid(DAY));
    let checked = push_civil(year, month, day, out);
    out.push(b' ');
    push_time(micros.rem_euclid(DAY), out);
    checked
}

const DAY: i64 = 86_400_000_000;

fn push_civil(year: i64, month: u8, day: u8, out: &mut Vec<u8>) -> Result<(), &'static str> {
    if !(1..=9999).contains(&year) {
        out.extend_from_slice(format!("{year}-{month:02}-{day:02}").as_bytes());
        return Err("the date is outside of MySQL's years 1 to 9999");
    }
    push_pair((year / 100) as u8, out);
    push_pair((year % 100) as u8, out);
    out.push(b'-');
    push_pair(month, out);
    out.push(b'-');
    push_pair(day, out);
    Ok(())
}

fn push_time(micros: i64, out: &mut Vec<u8>) {
    let (seconds, micros) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    push_pair((seconds / 3600) as u8, out);
    out.push(b':');
    push_pair((seconds / 60 % 60) as u8, out);
    out.push(b':');
    push_pair((seconds % 60) as u8, out);
    if micros != 0 {
        out.push(b'.');
        push_pair((micros / 10_000) as u8, out);
        push_pair((micros / 100 % 100) as u8, out);
        push_pair((micros % 100) as u8, out);
    }
}

#[inline]
fn push_pair(number: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'0' + number / 10 % 10, b'0' + number % 10]);
}

/// Year, month and day of a day counted from 1970-01-01, with years that begin in March.
fn civil(days: i64) -> (i64, u8, u8) {
    let days = days + 719_468;
    let (era, in_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    let month = (5 * in_year + 2) / 153;
    let day = in_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + i64::from(month <= 2), month as u8, day as u8)
}

/// The values of an encoded row; `None` is NULL.
pub(super) fn fields(line: &[u8]) -> Vec<Option<Vec<u8>>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut fields = Vec::new();
    let mut field = Vec::new();
    let mut null = false;
    let mut bytes = line.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\t' => fields.push(Some(std::mem::take(&mut field)).filter(|_| !std::mem::take(&mut null))),
            b'\\' => match bytes.next() {
                Some(b'N') => null = true,
                Some(b't') => field.push(b'\t'),
                Some(b'n') => field.push(b'\n'),
                Some(other) => field.push(*other),
                None => {}
            },
            byte => field.push(*byte),
        }
    }
    fields.push(Some(field).filter(|_| !null));
    fields
}

/// A value as an SQL literal that holds these bytes, whatever they are.
pub(super) fn literal(bytes: &[u8]) -> String {
    let plain = |byte: &u8| matches!(byte, 0x20..=0x7E) && !matches!(byte, b'\'' | b'\\');
    if bytes.iter().all(plain) {
        format!("'{}'", String::from_utf8_lossy(bytes))
    } else {
        format!("x'{}'", data_encoding::HEXLOWER.encode(bytes))
    }
}

/// Longest value and longest list of values in a statement for the control table, in bytes.
const SHOWN_VALUE_MAX: usize = 1 << 10;
const SHOWN_MAX: usize = 32 << 10;

/// A value as a person reads it, shortened to a bound.
pub(super) fn shown_value(field: Option<&[u8]>) -> String {
    let Some(bytes) = field else { return "NULL".to_owned() };
    let head = &bytes[..bytes.len().min(SHOWN_VALUE_MAX)];
    let mut shown = match std::str::from_utf8(head) {
        Ok(text) => quote_text(text),
        // The cut may have split the last character.
        Err(error) if bytes.len() > head.len() && error.error_len().is_none() => {
            quote_text(&String::from_utf8_lossy(&head[..error.valid_up_to()]))
        }
        Err(_) => format!("x'{}'", data_encoding::HEXLOWER.encode(head)),
    };
    if bytes.len() > head.len() {
        shown.push_str(&format!(" /* and {} bytes more */", bytes.len() - head.len()));
    }
    shown
}

/// Parts of a statement with a separator between them, as many as the bound allows.
pub(super) fn shown_list(parts: impl Iterator<Item = String>, separator: &str) -> String {
    let mut list = String::new();
    for (index, part) in parts.enumerate() {
        if index > 0 {
            list.push_str(separator);
        }
        if list.len() > SHOWN_MAX {
            list.push('…');
            break;
        }
        list.push_str(&part);
    }
    list
}

/// The values of an encoded row as a person reads them, shortened to a bound.
fn shown(line: &[u8]) -> String {
    shown_list(fields(line).iter().map(|field| shown_value(field.as_deref())), ", ")
}

/// The INSERT of an encoded row as the control table has it; its names are quoted.
pub(super) fn shown_insert(table: &str, names: &[String], line: &[u8]) -> String {
    format!("INSERT INTO {table}({}) VALUES ({})", names.join(","), shown(line))
}

/// Encodes the rows of a batch from `from` on.
pub(super) fn encode(batch: &Batch, from: usize, rules: &[Rule], chunk: &mut Chunk, unfit: &mut Vec<Unfit>) {
    for index in from..batch.rows() {
        if let Err(row) = chunk.push(batch.row(index), rules) {
            unfit.push(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Format;
    use proptest::prelude::*;

    fn text(value: Value<'_>) -> String {
        let mut out = Vec::new();
        let checked = push_value(value, Rule { fraction_max: Some(2), ..Rule::default() }, &mut out);
        let text = String::from_utf8(out).unwrap();
        if checked.is_ok() { text } else { format!("! {text}") }
    }

    #[test]
    fn writes_each_value_as_mysql_reads_it() {
        let cases = [
            (Value::Null, "\\N"),
            (Value::Bool(true), "1"),
            (Value::Int(i64::MIN), "-9223372036854775808"),
            (Value::UInt(u64::MAX), "18446744073709551615"),
            (Value::Real(1e300), "1e300"),
            (Value::Real(-0.0), "-0.0"),
            (Value::Real(f64::NAN), "! NaN"),
            (Value::Numeric(b"-1.50"), "-1.50"),
            (Value::Numeric(b"1.500"), "1.500"),
            (Value::Numeric(b"1.501"), "! 1.501"),
            (Value::Numeric(b"NaN"), "! NaN"),
            (Value::Numeric(b"-Infinity"), "! -Infinity"),
            (Value::String(b"\\N\t\n\r\0'"), "\\\\N\\t\\n\r\0'"),
            (Value::Date(0), "1970-01-01"),
            (Value::Date(2_932_896), "9999-12-31"),
            (Value::Date(2_932_897), "! 10000-01-01"),
            (Value::Date(-719_163), "! 0-12-31"),
            (Value::Date(Value::DATE_INFINITY), "! infinity"),
            (Value::Time(86_400_000_000), "24:00:00"),
            (Value::Time(1), "00:00:00.000001"),
            (Value::DateTime(-1), "1969-12-31 23:59:59.999999"),
            (Value::DateTime(Value::NEG_INFINITY), "! -infinity"),
        ];
        for (value, expected) in cases {
            assert_eq!(text(value), expected);
        }
    }

    #[test]
    fn writes_the_largest_float_within_its_range() {
        let mut out = Vec::new();
        let rule = Rule { narrow: true, ..Rule::default() };
        push_value(Value::Real(3.4028235e38), rule, &mut out).unwrap();
        out.push(b' ');
        push_value(Value::Real(1e39), rule, &mut out).unwrap();
        assert_eq!(out, b"3.4028234663852886e38 1e39");
    }

    #[test]
    fn keeps_rows_apart_and_gives_back_those_that_do_not_fit() {
        let mut batch = Batch::new();
        batch.clear(Format::Values);
        for value in [1.0, f64::INFINITY, 3.0] {
            batch.push(Value::Real(value));
            batch.push(Value::String(b""));
            batch.end_row();
        }
        let rules = [Rule::default(), Rule { empty_is_error_value: true, ..Rule::default() }];
        let (mut chunk, mut unfit) = (Chunk::default(), Vec::new());
        encode(&batch, 0, &rules, &mut chunk, &mut unfit);
        assert_eq!(chunk.text(0..2), b"1.0\t\n3.0\t\n");
        assert_eq!((chunk.rows(), chunk.expected_warnings(0..2), chunk.expected_warnings(1..2)), (2, 2, 1));
        assert_eq!((chunk.rows_within(0, 5), chunk.rows_within(0, 10), chunk.rows_within(1, 1)), (0..1, 0..2, 1..2));
        assert_eq!(unfit.len(), 1);
        assert_eq!(shown(&unfit[0].line), "'inf', ''");
    }

    #[test]
    fn bounds_what_the_control_table_is_shown() {
        let mut line = Vec::new();
        for _ in 0..100 {
            escape("ä".repeat(5_000).as_bytes(), &mut line);
            line.push(b'\t');
        }
        let text = shown(&line);
        assert!(text.len() < SHOWN_MAX + 2 * SHOWN_VALUE_MAX && text.contains("/* and 8976 bytes more */"));
        assert!(shown(&[0xFF; 3_000]).starts_with("x'ffff"));
    }

    proptest! {
        #[test]
        fn gives_back_any_bytes_it_has_encoded(
            values in prop::collection::vec(prop::option::of(prop::collection::vec(any::<u8>(), 0..20)), 1..6),
            at in 0usize..20,
        ) {
            let rules = vec![Rule::default(); values.len()];
            let mut batch = Batch::new();
            batch.clear(Format::Text);
            for value in &values {
                batch.push(value.as_deref().map_or(Value::Null, Value::Bytes));
            }
            batch.end_row();
            let mut chunk = Chunk::default();
            prop_assert!(chunk.push(batch.row(0), &rules).is_ok());
            prop_assert_eq!(fields(chunk.text(0..1)), values.clone());

            // The same row in pieces, its first value split, has the same text.
            let (mut pieces, mut out) = (Pieces::default(), Vec::new());
            if let Some(first) = &values[0] {
                let (start, rest) = first.split_at(at.min(first.len()));
                let mut open = Batch::new();
                open.clear(Format::Text);
                open.push(Value::Bytes(start));
                open.leave_open();
                pieces.push(open.open_row(), &rules, &mut out);
                batch.clear(Format::Text);
                batch.carry_on();
                batch.push(Value::Bytes(rest));
                for value in &values[1..] {
                    batch.push(value.as_deref().map_or(Value::Null, Value::Bytes));
                }
                batch.end_row();
                pieces.push(batch.row(0), &rules, &mut out);
                pieces.end(&mut out);
                prop_assert_eq!(&out, chunk.text(0..1));
            }
        }

        #[test]
        fn agrees_with_the_reader_on_every_date(days in -719_162i32..2_932_897, micros in 0i64..DAY) {
            let mut out = Vec::new();
            prop_assert!(push_date_time(i64::from(days) * DAY + micros, &mut out).is_ok());
            let mut batch = Batch::new();
            batch.clear(Format::Values);
            crate::connector::mysql::decode::Decoder::DateTime.push(&out, &mut batch).unwrap();
            batch.end_row();
            prop_assert_eq!(batch.row(0).next(), Some(Value::DateTime(i64::from(days) * DAY + micros)));
        }
    }
}
