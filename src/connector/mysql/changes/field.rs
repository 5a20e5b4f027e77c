//! How a column's values are found in the rows of the log and given on: the same values, to the byte, that the snapshot
//! gives when it reads the table.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::super::decode::{cut_text, shortest};
use super::super::type_map::{base, charset, is_geometry};
use super::charset::Charset;
use super::compressed::inflate_column;
use super::json::{write_changed_json, write_json};
use super::number::{Decimal, write_double, write_int, write_uint};
use super::table_map::{WireColumn, wire};
use super::temporal::{Moment, Span, Zone, fraction_bytes, timestamp};
use crate::data::{Batch, Column, DataType, Format, Value};

/// Where a value ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Fixed(usize),
    /// After a length of so many bytes.
    Prefixed(usize),
}

/// What the bytes of a value mean.
#[derive(Clone, Debug)]
enum Form {
    Signed,
    /// With zeros in front up to so many digits.
    Unsigned {
        width: usize,
    },
    Float,
    Double,
    Decimal {
        decimal: Decimal,
        fill: bool,
    },
    /// Of four digits, or of two.
    Year {
        short: bool,
    },
    Bit,
    Bool,
    Date,
    Time {
        digits: u8,
    },
    OldTime,
    DateTime {
        digits: u8,
    },
    OldDateTime,
    Timestamp {
        digits: u8,
    },
    OldTimestamp,
    Text {
        charset: Charset,
        /// Blanks at the end are no part of the value.
        padded: bool,
    },
    /// Filled up with zeros to so many bytes.
    Bytes {
        len: usize,
    },
    Json,
    Enum(Arc<[Box<[u8]>]>),
    Set(Arc<[Box<[u8]>]>),
    Uuid,
    Inet6,
    Inet4,
}

#[derive(Clone, Debug)]
pub(super) struct Field {
    size: Size,
    form: Form,
    /// JSON as MySQL stores it.
    pub(super) json: bool,
    /// The column is compressed by itself.
    compressed: bool,
    text: bool,
    /// The LOB limit, where it applies.
    bytes_max: Option<usize>,
}

/// Why a column of the log is not the column that it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// The types differ.
    Type,
    /// The character set must be asked for.
    Charset(String),
    /// The server once stored it in a way of its own.
    Storage(&'static str),
}

/// How the fields of a capture are given on.
#[derive(Clone, Copy)]
pub(super) struct Style<'a> {
    pub(super) format: Format,
    pub(super) lob_bytes_max: Option<u64>,
    /// Character sets that have been asked for.
    pub(super) charsets: &'a dyn Fn(&str) -> Option<Charset>,
}

/// A value of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    Absent,
    Null,
    /// From one byte of the rows to another.
    At(u32, u32),
    /// The same, of changes to a JSON document.
    Diff(u32, u32),
}

impl Field {
    pub(super) fn of(column: &Column, log: WireColumn, style: Style<'_>) -> Result<Field, Misfit> {
        let native = column.native.to_ascii_lowercase();
        let base = base(&native);
        let form = Form::of(column, &native, base, log, style)?;
        Ok(Field {
            size: size(log).ok_or(Misfit::Type)?,
            form,
            json: log.kind == wire::JSON,
            compressed: matches!(log.kind, wire::BLOB_COMPRESSED | wire::VARCHAR_COMPRESSED),
            text: style.format == Format::Text,
            bytes_max: style
                .lob_bytes_max
                .filter(|_| column.data_type.is_lob())
                .map(|most| usize::try_from(most).unwrap_or(usize::MAX)),
        })
    }

    /// A column that is in the log and of no interest.
    pub(super) fn skipped(log: WireColumn) -> Option<Field> {
        let json = log.kind == wire::JSON;
        Some(Field { size: size(log)?, form: Form::Bit, json, compressed: false, text: false, bytes_max: None })
    }

    /// Where the value that begins at `at` is.
    #[inline]
    pub(super) fn locate(&self, rows: &[u8], at: usize) -> Option<(usize, usize)> {
        match self.size {
            Size::Fixed(len) => {
                let end = at.checked_add(len)?;
                (end <= rows.len()).then_some((at, end))
            }
            Size::Prefixed(width) => {
                let start = at.checked_add(width)?;
                let prefix = rows.get(at..start)?;
                let len = prefix.iter().rev().fold(0, |len, byte| len << 8 | usize::from(*byte));
                let end = start.checked_add(len)?;
                (end <= rows.len()).then_some((start, end))
            }
        }
    }

    /// Pushes a value. `None`: the bytes are no value of the column.
    #[inline]
    pub(super) fn push(&self, bytes: &[u8], zone: &Zone, batch: &mut Batch) -> Option<()> {
        if self.compressed {
            let mut plain = Vec::new();
            inflate_column(bytes, &mut plain)?;
            return self.push_plain(&plain, zone, batch);
        }
        self.push_plain(bytes, zone, batch)
    }

    #[inline]
    fn push_plain(&self, bytes: &[u8], zone: &Zone, batch: &mut Batch) -> Option<()> {
        match &self.form {
            Form::Signed => {
                let value = signed(bytes)?;
                self.either(batch, Value::Int(value), |out| write_int(value, out))
            }
            Form::Unsigned { width } => {
                let value = unsigned(bytes)?;
                self.either(batch, Value::UInt(value), |out| write_uint(value, *width, out))
            }
            Form::Float => {
                let value = f32::from_le_bytes(*bytes.first_chunk()?);
                self.either(batch, Value::Real(shortest(value)), |out| write_double(value.into(), out))
            }
            Form::Double => {
                let value = f64::from_le_bytes(*bytes.first_chunk()?);
                self.either(batch, Value::Real(value), |out| write_double(value, out))
            }
            Form::Decimal { decimal, fill } if self.text => {
                batch.push_string_with(|out| decimal.write(bytes, *fill, out).ok_or(())).ok()
            }
            Form::Decimal { decimal, fill } => {
                batch.push_numeric_with(|out| decimal.write(bytes, *fill, out).ok_or(())).ok()
            }
            Form::Year { short } => {
                let value = match *bytes.first()? {
                    0 => 0,
                    year => u64::from(year) + 1900,
                };
                let (shown, width) = if *short { (value % 100, 2) } else { (value, 4) };
                self.either(batch, Value::Int(shown as i64), |out| write_uint(shown, width, out))
            }
            Form::Bool if !self.text => {
                batch.push(Value::Bool(bytes.iter().any(|byte| *byte != 0)));
                Some(())
            }
            Form::Bit | Form::Bool => {
                batch.push(Value::Bytes(bytes));
                Some(())
            }
            Form::Date => {
                let date = Moment::of_date(bytes);
                self.either(batch, date.date(), |out| date.write_date(out))
            }
            Form::Time { digits } => push_string(batch, |out| Span::of_time(bytes).write(*digits, out)),
            Form::OldTime => push_string(batch, |out| Span::of_old_time(bytes).write(0, out)),
            Form::DateTime { digits } => {
                let moment = Moment::of_datetime(bytes);
                self.either(batch, moment.datetime(), |out| moment.write_datetime(*digits, out))
            }
            Form::OldDateTime => {
                let moment = Moment::of_old_datetime(u64::from_le_bytes(*bytes.first_chunk()?));
                self.either(batch, moment.datetime(), |out| moment.write_datetime(0, out))
            }
            Form::Timestamp { digits } => {
                let (seconds, micros) = timestamp(bytes);
                let moment = zone.moment(seconds, micros);
                self.either(batch, moment.datetime(), |out| moment.write_datetime(*digits, out))
            }
            Form::OldTimestamp => {
                let moment = zone.moment(u32::from_le_bytes(*bytes.first_chunk()?), 0);
                self.either(batch, moment.datetime(), |out| moment.write_datetime(0, out))
            }
            Form::Text { charset, padded } => self.push_text(batch, |out| {
                let start = out.len();
                charset.write(bytes, out);
                if *padded {
                    let blanks = out[start..].iter().rev().take_while(|byte| **byte == b' ').count();
                    out.truncate(out.len() - blanks);
                }
                Some(())
            }),
            Form::Bytes { len } => self.push_bytes(bytes, *len, batch),
            Form::Json => self.push_text(batch, |out| write_json(bytes, out)),
            Form::Enum(labels) => {
                let label: &[u8] = match usize::try_from(unsigned(bytes)?).ok()? {
                    // The value of what was none of the labels.
                    0 => b"",
                    number => labels.get(number - 1)?,
                };
                batch.push(Value::String(label));
                Some(())
            }
            Form::Set(labels) => push_string_if(batch, |out| write_set(unsigned(bytes)?, labels, out)),
            Form::Uuid => push_string(batch, |out| {
                out.extend_from_slice(uuid::Uuid::from_bytes(filled(bytes)).to_string().as_bytes());
            }),
            Form::Inet6 => push_string(batch, |out| out.extend_from_slice(inet6(filled(bytes)).as_bytes())),
            Form::Inet4 => push_string(batch, |out| {
                out.extend_from_slice(Ipv4Addr::from(filled::<4>(bytes)).to_string().as_bytes());
            }),
        }
    }

    /// Pushes a JSON document that an UPDATE has changed in parts.
    pub(super) fn push_changed(&self, before: &[u8], diffs: &[u8], batch: &mut Batch) -> Option<()> {
        self.push_text(batch, |out| write_changed_json(before, diffs, out))
    }

    /// In its engine's text, or as a value of DMS's types.
    #[inline]
    fn either(&self, batch: &mut Batch, value: Value<'_>, write: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
        if self.text {
            return push_string(batch, write);
        }
        batch.push(value);
        Some(())
    }

    #[inline]
    fn push_text(&self, batch: &mut Batch, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
        let mut cut = false;
        push_string_if(batch, |out| {
            let start = out.len();
            write(out)?;
            if let Some(most) = self.bytes_max.filter(|most| out.len() - start > *most) {
                let end = cut_text(&out[start..], most);
                out.truncate(start + end);
                cut = true;
            }
            Some(())
        })?;
        if cut {
            batch.add_truncated(1);
            batch.mark_cut();
        }
        Some(())
    }

    fn push_bytes(&self, bytes: &[u8], len: usize, batch: &mut Batch) -> Option<()> {
        if let Some(most) = self.bytes_max.filter(|most| bytes.len() > *most) {
            batch.push(Value::Bytes(&bytes[..most]));
            batch.add_truncated(1);
            batch.mark_cut();
        } else if bytes.len() < len {
            let fill = std::iter::repeat_n(0, len - bytes.len());
            let padded = |out: &mut Vec<u8>| {
                out.extend_from_slice(bytes);
                out.extend(fill);
                Ok::<(), ()>(())
            };
            batch.push_bytes_with(padded).ok()?;
        } else {
            batch.push(Value::Bytes(bytes));
        }
        Some(())
    }
}

#[inline]
fn push_string(batch: &mut Batch, write: impl FnOnce(&mut Vec<u8>)) -> Option<()> {
    push_string_if(batch, |out| {
        write(out);
        Some(())
    })
}

#[inline]
fn push_string_if(batch: &mut Batch, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
    batch.push_string_with(|out| write(out).ok_or(())).ok()
}

#[inline]
fn unsigned(bytes: &[u8]) -> Option<u64> {
    Some(match *bytes {
        [a] => a.into(),
        [a, b] => u16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_le_bytes([a, b, c, d]).into(),
        _ if bytes.len() <= 8 => bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)),
        _ => return None,
    })
}

#[inline]
fn signed(bytes: &[u8]) -> Option<i64> {
    let shift = 64_u32.checked_sub(8 * bytes.len() as u32)?;
    Some((unsigned(bytes)? << shift).cast_signed() >> shift)
}

/// Zeros at the end of a value of fixed length are not in the log.
fn filled<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut filled = [0; N];
    let len = bytes.len().min(N);
    filled[..len].copy_from_slice(&bytes[..len]);
    filled
}

fn write_set(bits: u64, labels: &[Box<[u8]>], out: &mut Vec<u8>) -> Option<()> {
    if bits.checked_shr(labels.len() as u32).unwrap_or(0) != 0 {
        return None;
    }
    let mut first = true;
    for (index, label) in labels.iter().enumerate() {
        if bits >> index & 1 == 1 {
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(label);
        }
    }
    Some(())
}

/// The text of an address as MariaDB prints it: the longest run of zeros is left out, and what holds an address of version
/// 4 ends in its text.
fn inet6(bytes: [u8; 16]) -> String {
    let words: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let (mut gap, mut gap_len, mut at) = (0, 0, 0);
    while at < words.len() {
        let len = words[at..].iter().take_while(|word| **word == 0).count();
        if len > gap_len {
            (gap, gap_len) = (at, len);
        }
        at += len.max(1);
    }
    let four = || Ipv4Addr::new(bytes[12], bytes[13], bytes[14], bytes[15]);
    match (gap, gap_len) {
        (0, 6) => return format!("::{}", four()),
        (0, 5) if words[5] == 0xFFFF => return format!("::ffff:{}", four()),
        _ => {}
    }
    let join = |words: &[u16]| words.iter().map(|word| format!("{word:x}")).collect::<Vec<_>>().join(":");
    match gap_len {
        0 => join(&words),
        _ => format!("{}::{}", join(&words[..gap]), join(&words[gap + gap_len..])),
    }
}

/// How long values of a type are in the log.
fn size(log: WireColumn) -> Option<Size> {
    use wire::*;
    let digits = || u8::try_from(log.meta).ok().filter(|digits| *digits <= 6);
    let length = |most: u16| if log.meta > most { Size::Prefixed(2) } else { Size::Prefixed(1) };
    Some(match log.kind {
        TINY | YEAR => Size::Fixed(1),
        SHORT => Size::Fixed(2),
        INT24 | DATE | NEWDATE | TIME => Size::Fixed(3),
        LONG | FLOAT | TIMESTAMP => Size::Fixed(4),
        LONGLONG | DOUBLE | DATETIME => Size::Fixed(8),
        NEWDECIMAL => {
            let [precision, scale] = log.meta.to_le_bytes();
            Size::Fixed(Decimal::new(precision, scale)?.bytes())
        }
        BIT => Size::Fixed(usize::from(log.meta.div_ceil(8))),
        TIMESTAMP2 => Size::Fixed(4 + fraction_bytes(digits()?)),
        DATETIME2 => Size::Fixed(5 + fraction_bytes(digits()?)),
        TIME2 => Size::Fixed(3 + fraction_bytes(digits()?)),
        ENUM | SET => Size::Fixed(usize::from(log.meta).clamp(1, 8)),
        VARCHAR | VARCHAR_COMPRESSED | VAR_STRING | STRING => length(255),
        BLOB | BLOB_COMPRESSED | GEOMETRY | JSON | VECTOR => Size::Prefixed(usize::from(log.meta).clamp(1, 4)),
        _ => return None,
    })
}

impl Form {
    fn of(column: &Column, native: &str, base: &str, log: WireColumn, style: Style<'_>) -> Result<Form, Misfit> {
        let declared_digits = || arguments(native).next().unwrap_or(0);
        let digits = log.meta as u8;
        let old = |form| match declared_digits() {
            0 => Ok(form),
            _ => Err(Misfit::Storage("the temporal format of MariaDB 5.3 (ALTER TABLE … FORCE renews it)")),
        };
        let is_integer = |base: &str, kind| {
            let kinds = [("tinyint", wire::TINY), ("smallint", wire::SHORT), ("mediumint", wire::INT24)];
            let more = [("int", wire::LONG), ("integer", wire::LONG), ("bigint", wire::LONGLONG)];
            kinds.iter().chain(&more).any(|known| *known == (base, kind))
        };
        match (base, log.kind) {
            (base, kind) if is_integer(base, kind) => Ok(match native.contains("unsigned") {
                // ZEROFILL makes a column unsigned.
                true => Form::Unsigned { width: if native.contains("zerofill") { width(native, base) } else { 0 } },
                false => Form::Signed,
            }),
            ("float", wire::FLOAT) => Ok(Form::Float),
            ("double" | "real", wire::DOUBLE) => Ok(Form::Double),
            ("decimal" | "numeric", wire::NEWDECIMAL) => {
                let [precision, scale] = log.meta.to_le_bytes();
                let decimal = Decimal::new(precision, scale).ok_or(Misfit::Type)?;
                let mut declared = arguments(native);
                let same =
                    (declared.next().unwrap_or(10), declared.next().unwrap_or(0)) == (precision.into(), scale.into());
                let fill = native.contains("zerofill");
                if same { Ok(Form::Decimal { decimal, fill }) } else { Err(Misfit::Type) }
            }
            ("year", wire::YEAR) => Ok(Form::Year { short: declared_digits() == 2 }),
            ("bit", wire::BIT) if arguments(native).next().unwrap_or(1) == u32::from(log.meta) => {
                Ok(if column.data_type == DataType::Boolean { Form::Bool } else { Form::Bit })
            }
            ("date", wire::DATE | wire::NEWDATE) => Ok(Form::Date),
            ("time", wire::TIME2) if declared_digits() == u32::from(digits) => Ok(Form::Time { digits }),
            ("datetime", wire::DATETIME2) if declared_digits() == u32::from(digits) => Ok(Form::DateTime { digits }),
            ("timestamp", wire::TIMESTAMP2) if declared_digits() == u32::from(digits) => Ok(Form::Timestamp { digits }),
            ("time", wire::TIME) => old(Form::OldTime),
            ("datetime", wire::DATETIME) => old(Form::OldDateTime),
            ("timestamp", wire::TIMESTAMP) => old(Form::OldTimestamp),
            ("binary", wire::STRING) => Ok(Form::Bytes { len: log.meta.into() }),
            ("uuid", wire::STRING) => Ok(Form::Uuid),
            ("inet6", wire::STRING) => Ok(Form::Inet6),
            ("inet4", wire::STRING) => Ok(Form::Inet4),
            ("enum", wire::ENUM) => Ok(Form::Enum(labels(&column.native))),
            ("set", wire::SET) => Ok(Form::Set(labels(&column.native))),
            ("json", wire::JSON) => Ok(Form::Json),
            (base, wire::GEOMETRY) if is_geometry(base) => Ok(Form::Bytes { len: 0 }),
            ("vector", wire::VECTOR | wire::VARCHAR) => Ok(Form::Bytes { len: 0 }),
            ("char", wire::STRING) => Ok(Form::Text { charset: text_charset(native, style)?, padded: true }),
            ("varbinary", wire::VARCHAR | wire::VAR_STRING | wire::VARCHAR_COMPRESSED) => Ok(Form::Bytes { len: 0 }),
            ("varchar", wire::VARCHAR | wire::VAR_STRING | wire::VARCHAR_COMPRESSED) => {
                Ok(Form::Text { charset: text_charset(native, style)?, padded: false })
            }
            (base, wire::BLOB | wire::BLOB_COMPRESSED) if blob_bytes(base) == Some(log.meta) => {
                match base.ends_with("blob") {
                    true => Ok(Form::Bytes { len: 0 }),
                    false => Ok(Form::Text { charset: text_charset(native, style)?, padded: false }),
                }
            }
            _ => Err(Misfit::Type),
        }
    }
}

/// The numbers in the brackets of a type.
fn arguments(native: &str) -> impl Iterator<Item = u32> {
    let list = native.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map_or("", |(list, _)| list);
    list.split(',').map_while(|number| number.trim().parse().ok())
}

/// Digits of an integer with ZEROFILL, also of one that states none.
fn width(native: &str, base: &str) -> usize {
    let usual = match base {
        "tinyint" => 3,
        "smallint" => 5,
        "mediumint" => 8,
        "bigint" => 20,
        _ => 10,
    };
    arguments(native).next().map_or(usual, |width| width.min(255) as usize)
}

/// Bytes of the length of these types' values.
fn blob_bytes(base: &str) -> Option<u16> {
    match base {
        "tinyblob" | "tinytext" => Some(1),
        "blob" | "text" => Some(2),
        "mediumblob" | "mediumtext" => Some(3),
        "longblob" | "longtext" => Some(4),
        _ => None,
    }
}

fn text_charset(native: &str, style: Style<'_>) -> Result<Charset, Misfit> {
    // JSON of MariaDB is text in UTF-8.
    let name = charset(&native.replace("character set", "CHARACTER SET")).unwrap_or("utf8mb4").to_owned();
    Charset::known(&name).or_else(|| (style.charsets)(&name)).ok_or(Misfit::Charset(name))
}

/// The labels of an ENUM or SET from its type: `enum('a','it''s')`.
pub(super) fn labels(native: &str) -> Arc<[Box<[u8]>]> {
    let mut labels: Vec<Box<[u8]>> = Vec::new();
    let mut label: Option<Vec<u8>> = None;
    let mut bytes = native.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match (&mut label, byte) {
            (None, b'\'') => label = Some(Vec::new()),
            (None, b')') => break,
            (None, _) => {}
            (Some(text), b'\'') if bytes.peek() == Some(&b'\'') => {
                bytes.next();
                text.push(b'\'');
            }
            (Some(text), b'\'') => {
                labels.push(std::mem::take(text).into_boxed_slice());
                label = None;
            }
            (Some(text), b'\\') => text.push(match bytes.next() {
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b'0') => 0,
                Some(other) => other,
                None => b'\\',
            }),
            (Some(text), byte) => text.push(byte),
        }
    }
    labels.into()
}
