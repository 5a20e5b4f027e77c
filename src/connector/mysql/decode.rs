//! Values of the text protocol as DMS's own types.

use crate::data::{Batch, DataType, Error, Result, Value};

/// How the text of one column becomes a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    /// As it is, as [`Value::String`].
    Text,
    /// As it is, as [`Value::Bytes`].
    Raw,
    Int,
    UInt,
    /// FLOAT: selected as a double, given back as the shortest decimal that names the float.
    Float,
    Double,
    Numeric,
    /// BIT(1).
    Bool,
    Date,
    DateTime,
}

impl Decoder {
    /// For [`Format::Values`](crate::data::Format::Values). `narrow`: a FLOAT column.
    pub(super) fn of(data_type: DataType, narrow: bool) -> Decoder {
        match data_type {
            DataType::Boolean => Decoder::Bool,
            DataType::Int1 | DataType::Int2 | DataType::Int4 | DataType::Int8 => Decoder::Int,
            DataType::UInt1 | DataType::UInt2 | DataType::UInt4 | DataType::UInt8 => Decoder::UInt,
            DataType::Real4 | DataType::Real8 if narrow => Decoder::Float,
            DataType::Real4 | DataType::Real8 => Decoder::Double,
            DataType::Numeric { .. } => Decoder::Numeric,
            DataType::Date => Decoder::Date,
            DataType::DateTime { .. } => Decoder::DateTime,
            DataType::Bytes { .. } | DataType::Blob => Decoder::Raw,
            DataType::String { .. }
            | DataType::WString { .. }
            | DataType::Time { .. }
            | DataType::Clob
            | DataType::NClob => Decoder::Text,
        }
    }

    /// Whether a value may be handed over in pieces.
    pub(super) fn is_divisible(self) -> bool {
        matches!(self, Decoder::Text | Decoder::Raw)
    }

    #[inline]
    pub(super) fn push(self, bytes: &[u8], batch: &mut Batch) -> Result<()> {
        let value = match self {
            Decoder::Text => Value::String(bytes),
            Decoder::Raw => Value::Bytes(bytes),
            Decoder::Numeric => Value::Numeric(bytes),
            Decoder::Int => Value::Int(int(bytes).ok_or_else(|| unreadable("integer"))?),
            Decoder::UInt => Value::UInt(uint(bytes).ok_or_else(|| unreadable("unsigned integer"))?),
            Decoder::Double => Value::Real(double(bytes).ok_or_else(|| unreadable("double"))?),
            Decoder::Float => Value::Real(shortest(double(bytes).ok_or_else(|| unreadable("float"))? as f32)),
            Decoder::Bool => Value::Bool(bytes.iter().any(|byte| *byte != 0)),
            // "These values are recorded as null on the target": dates that only MySQL has, such as 0000-00-00.
            Decoder::Date => date(bytes).map_or(Value::Null, Value::Date),
            Decoder::DateTime => date_time(bytes).map_or(Value::Null, Value::DateTime),
        };
        batch.push(value);
        Ok(())
    }
}

/// Where to cut UTF-8 so that at most `most` bytes are left and no character is split.
pub(super) fn cut_text(bytes: &[u8], most: usize) -> usize {
    let mut at = most.min(bytes.len());
    // A character has at most three continuation bytes.
    while at > 0 && at < bytes.len() && most - at < 3 && bytes[at] & 0xC0 == 0x80 {
        at -= 1;
    }
    at
}

fn unreadable(what: &str) -> Error {
    Error::table(format!("the server sent a value that is not {what}"))
}

#[inline]
fn uint(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    let mut value = 0_u64;
    for byte in bytes {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(digit.into())?;
    }
    Some(value)
}

#[inline]
fn int(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [b'-', digits @ ..] => 0_i64.checked_sub_unsigned(uint(digits)?),
        digits => i64::try_from(uint(digits)?).ok(),
    }
}

fn double(bytes: &[u8]) -> Option<f64> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// The double that prints like the float.
pub(super) fn shortest(float: f32) -> f64 {
    let mut buffer = ryu::Buffer::new();
    buffer.format(float).parse().unwrap_or(float.into())
}

/// Days since 1970-01-01 of `YYYY-MM-DD`, if that day exists.
#[inline]
fn date(bytes: &[u8]) -> Option<i32> {
    let &[a, b, c, d, b'-', e, f, b'-', g, h] = bytes.first_chunk::<10>()? else { return None };
    let year = pair(a, b)? * 100 + pair(c, d)?;
    let (month, day) = (pair(e, f)?, pair(g, h)?);
    (bytes.len() == 10).then(|| days(year, month, day))?
}

/// Microseconds since 1970-01-01 of `YYYY-MM-DD hh:mm:ss[.f…]`, if that moment exists.
#[inline]
fn date_time(bytes: &[u8]) -> Option<i64> {
    let days = date(bytes.get(..10)?)?;
    let &[b' ', a, b, b':', c, d, b':', e, f] = bytes.get(10..)?.first_chunk::<9>()? else { return None };
    let (hour, minute, second) = (pair(a, b)?, pair(c, d)?, pair(e, f)?);
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let micros = match &bytes[19..] {
        [] => 0,
        [b'.', digits @ ..] if digits.len() <= 6 => uint(digits)? as i64 * 10_i64.pow(6 - digits.len() as u32),
        _ => return None,
    };
    let seconds = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    Some((i64::from(days) * 86_400 + seconds) * 1_000_000 + micros)
}

#[inline]
fn pair(tens: u8, ones: u8) -> Option<i32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then_some(i32::from(tens) * 10 + i32::from(ones))
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, counting years from March so that the leap day is last.
#[inline]
pub(super) fn days(year: i32, month: i32, day: i32) -> Option<i32> {
    const LENGTHS: [i32; 12] = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = LENGTHS.get(usize::try_from(month).ok()?.checked_sub(1)?)?;
    if day < 1 || day > length + i32::from(leap && month == 2) {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, year) = (year.div_euclid(400), year.rem_euclid(400));
    let in_era = year * 365 + year / 4 - year / 100 + (153 * month + 2) / 5 + day - 1;
    Some(era * 146_097 + in_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_dates_and_leaves_out_those_that_do_not_exist() {
        let cases = [
            ("1970-01-01", Some(0)),
            ("1969-12-31", Some(-1)),
            ("2000-02-29", Some(11_016)),
            ("9999-12-31", Some(2_932_896)),
            ("0001-01-01", Some(-719_162)),
            ("0000-00-00", None),
            ("2024-00-10", None),
            ("2023-02-29", None),
            ("2024-1-1", None),
        ];
        for (text, expected) in cases {
            assert_eq!(date(text.as_bytes()), expected, "{text}");
        }
        let cases = [
            ("1970-01-01 00:00:01", Some(1_000_000)),
            ("1969-12-31 23:59:59.5", Some(-500_000)),
            ("9999-12-31 23:59:59.999999", Some(253_402_300_799_999_999)),
            ("0000-00-00 00:00:00", None),
            ("2024-01-01 24:00:00", None),
        ];
        for (text, expected) in cases {
            assert_eq!(date_time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn reads_numbers_to_their_ends() {
        assert_eq!(int(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(int(b"9223372036854775808"), None);
        assert_eq!(uint(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(uint(b"00042"), Some(42));
        assert_eq!((uint(b""), int(b"-"), uint(b"1x")), (None, None, None));
        assert_eq!(shortest(0.1), 0.1);
        assert_eq!(double(b"-0").map(f64::to_bits), Some((-0.0_f64).to_bits()));
    }

    proptest! {
        #[test]
        fn counts_days_without_gaps(year in 0i32..9999, month in 1i32..13, day in 1i32..32) {
            if let Some(number) = days(year, month, day) {
                let next = days(year, month, day + 1).or(days(year, month + 1, 1)).or(days(year + 1, 1, 1));
                prop_assert_eq!(next, Some(number + 1));
            }
        }

        #[test]
        fn never_panics_on_any_text(bytes in prop::collection::vec(any::<u8>(), 0..30)) {
            let _ = (date(&bytes), date_time(&bytes), int(&bytes), uint(&bytes), double(&bytes));
        }
    }
}
