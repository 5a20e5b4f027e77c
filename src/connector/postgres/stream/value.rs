//! The values of the log's rows on their way into a batch.

use super::super::Settings;
use super::super::copy::{Decode, decode_unescaped};
use super::super::snapshot::decode_as;
use super::super::type_map::NativeType;
use crate::connector::Capture;
use crate::data::{Batch, Column, DataType, Format, Value};

/// How the values of a column are read.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    decode: Decode,
    /// Money, with so many digits behind the point where the database is. The log has it in the C locale.
    money: Option<usize>,
    /// Longer values are cut: bytes of what is stored, which in text form are two digits each where `is_bytes`.
    limit: Option<usize>,
    is_bytes: bool,
}

impl Field {
    pub fn new(column: &Column, capture: &Capture, settings: &Settings, money_digits: usize) -> Field {
        let native = NativeType::parse(&column.native);
        let values = capture.format == Format::Values && !native.array;
        let decode = match decode_as(column, capture.format, settings) {
            // A snapshot has long ones trimmed by the server.
            Decode::Text
                if values
                    && settings.trim_space_in_char
                    && native.name == "character"
                    && matches!(column.data_type, DataType::WString { .. }) =>
            {
                Decode::TrimmedText
            }
            decode => decode,
        };
        Field {
            decode,
            money: (values && native.name == "money").then_some(money_digits),
            limit: capture
                .lob_bytes_max
                .and_then(|limit| usize::try_from(limit).ok())
                .filter(|_| column.data_type.is_lob()),
            is_bytes: native.name == "bytea" && !native.array,
        }
    }

    /// Appends a value, and tells whether it was cut.
    #[inline]
    pub fn push(&self, text: &[u8], batch: &mut Batch) -> bool {
        let kept = match self.limit {
            None => text,
            Some(limit) => cut(text, limit, self.is_bytes),
        };
        match self.money {
            None => decode_unescaped(kept, self.decode, batch),
            Some(digits) => batch.push(Value::Numeric(money(text, digits).as_bytes())),
        }
        let is_cut = kept.len() < text.len();
        if is_cut {
            batch.mark_cut();
        }
        is_cut
    }
}

/// At most so many bytes of a value, text without the character that goes beyond.
fn cut(text: &[u8], limit: usize, is_bytes: bool) -> &[u8] {
    let limit = if is_bytes { limit.saturating_mul(2).saturating_add(2) } else { limit };
    if text.len() <= limit {
        return text;
    }
    let carries_on = |at: usize| text[at] & 0xc0 == 0x80;
    // A character has at most three bytes that carry it on.
    let end = (limit.saturating_sub(3)..=limit).rev().find(|at| !carries_on(*at));
    &text[..end.unwrap_or(limit)]
}

/// `-$1,234.56` of a currency without cents is -123456.
fn money(text: &[u8], digits_behind: usize) -> String {
    let mut digits: String = text.iter().filter(|byte| byte.is_ascii_digit()).map(|byte| char::from(*byte)).collect();
    while digits.len() <= digits_behind {
        digits.insert(0, '0');
    }
    if digits_behind > 0 {
        digits.insert(digits.len() - digits_behind, '.');
    }
    let whole = digits.trim_start_matches('0');
    let zero = if whole.is_empty() || whole.starts_with('.') { "0" } else { "" };
    let sign = if text.contains(&b'-') { "-" } else { "" };
    format!("{sign}{zero}{whole}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters_and_bytes_by_their_digits() {
        for (limit, expected) in
            [(0, ""), (1, "a"), (2, "a"), (3, "aé"), (4, "aé"), (6, "aé"), (7, "aé🦀"), (9, "aé🦀b")]
        {
            assert_eq!(cut("aé🦀b".as_bytes(), limit, false), expected.as_bytes(), "{limit}");
        }
        assert_eq!(cut(b"\\x0102ff", 2, true), b"\\x0102");
        assert_eq!(cut(b"\\x0102ff", 3, true), b"\\x0102ff");
    }

    #[test]
    fn money_is_a_number() {
        for (text, digits, expected) in [
            ("$1,234.56", 2, "1234.56"),
            ("-$0.05", 2, "-0.05"),
            ("$12.34", 0, "1234"),
            ("$0.00", 0, "0"),
            ("$0.07", 3, "0.007"),
        ] {
            assert_eq!(money(text.as_bytes(), digits), expected);
        }
    }
}
