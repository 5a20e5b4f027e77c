//! Numbers as the log has them, in the text that the server sends for them.

/// Appends an integer, with zeros in front up to `width` digits (ZEROFILL).
#[inline]
pub(super) fn write_int(value: i64, out: &mut Vec<u8>) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

#[inline]
pub(super) fn write_uint(value: u64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(value).as_bytes();
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(digits.len())));
    out.extend_from_slice(digits);
}

/// Digits after the point from which on a small number is written with an exponent, and before it from which on a large
/// one is that has none after it.
const PLAIN_MAX: i32 = 15;

/// Appends a double as MySQL prints it: the fewest digits that tell it from its neighbours, with an exponent where it is
/// very small or large.
pub(super) fn write_double(value: f64, out: &mut Vec<u8>) {
    // MySQL has zeros of both signs, and no infinity.
    if value == 0.0 || !value.is_finite() {
        out.extend_from_slice(if value == 0.0 && value.is_sign_negative() { b"-0" } else { b"0" });
        return;
    }
    let mut buffer = ryu::Buffer::new();
    let (digits, len, point) = digits(buffer.format_finite(value.abs()).as_bytes());
    let digits = &digits[..len];
    if value < 0.0 {
        out.push(b'-');
    }
    let after = point - len as i32;
    if point < 1 - PLAIN_MAX || (point > PLAIN_MAX && after >= 0) {
        out.push(digits[0]);
        if let rest @ [_, ..] = &digits[1..] {
            out.push(b'.');
            out.extend_from_slice(rest);
        }
        out.push(b'e');
        write_int(i64::from(point) - 1, out);
    } else if point <= 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', point.unsigned_abs() as usize));
        out.extend_from_slice(digits);
    } else if after >= 0 {
        out.extend_from_slice(digits);
        out.extend(std::iter::repeat_n(b'0', after as usize));
    } else {
        let (before, rest) = digits.split_at(point as usize);
        out.extend_from_slice(before);
        out.push(b'.');
        out.extend_from_slice(rest);
    }
}

/// The digits of a number (`1.25e-7`) without zeros around them, how many they are, and how many of them stand before the
/// point.
fn digits(text: &[u8]) -> ([u8; 24], usize, i32) {
    let (mantissa, exponent) = match memchr::memchr(b'e', text) {
        Some(at) => (&text[..at], exponent(&text[at + 1..])),
        None => (text, 0),
    };
    let (mut digits, mut len, mut point) = ([0; 24], 0, None);
    let mut before = 0;
    for byte in mantissa {
        match byte {
            b'.' => point = Some(before),
            b'0' if len == 0 => before -= i32::from(point.is_some()),
            _ => {
                digits[len.min(23)] = *byte;
                len += 1;
                before += 1;
            }
        }
    }
    // Zeros between the point and the first digit have moved it to the left.
    let point = match point {
        Some(0) => before - len as i32,
        Some(point) => point,
        None => before,
    };
    while len > 1 && digits[len - 1] == b'0' {
        len -= 1;
    }
    (digits, len, point + exponent)
}

fn exponent(text: &[u8]) -> i32 {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let value = digits.iter().fold(0, |value, digit| value * 10 + i32::from(digit - b'0'));
    if negative { -value } else { value }
}

/// Bytes that so many digits take, up to nine.
const DIGIT_BYTES: [usize; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];

/// How a DECIMAL is stored: groups of nine digits in four bytes each, outwards from the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) precision: u8,
    pub(super) scale: u8,
}

impl Decimal {
    /// The whole digits may not be less than none, and there are never more than 65.
    pub(super) fn new(precision: u8, scale: u8) -> Option<Decimal> {
        (scale <= precision && precision <= 65).then_some(Decimal { precision, scale })
    }

    pub(super) fn bytes(self) -> usize {
        let part = |digits: u8| usize::from(digits / 9) * 4 + DIGIT_BYTES[usize::from(digits % 9)];
        part(self.precision - self.scale) + part(self.scale)
    }

    /// Appends the number's text. `fill`: with all its leading zeros.
    pub(super) fn write(self, bytes: &[u8], fill: bool, out: &mut Vec<u8>) -> Option<()> {
        // 65 digits have at most 32 bytes.
        let mut stored = [0; 40];
        let stored = stored.get_mut(..self.bytes())?;
        stored.copy_from_slice(bytes.get(..self.bytes())?);
        let negative = stored.first()? & 0x80 == 0;
        stored[0] ^= 0x80;
        if negative {
            stored.iter_mut().for_each(|byte| *byte = !*byte);
        }
        if negative && stored.iter().any(|byte| *byte != 0) {
            out.push(b'-');
        }
        let whole = self.precision - self.scale;
        let mut cursor = &*stored;
        let mut group = |digits: u8| -> Option<u32> {
            let (taken, rest) = cursor.split_at_checked(DIGIT_BYTES[usize::from(digits)])?;
            cursor = rest;
            Some(taken.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
        };
        let start = out.len();
        write_group(group(whole % 9)?, whole % 9, out);
        for _ in 0..whole / 9 {
            write_group(group(9)?, 9, out);
        }
        let zeros = out[start..].iter().take_while(|digit| **digit == b'0').count();
        if !fill {
            out.drain(start..start + zeros);
        }
        if out.len() == start {
            out.push(b'0');
        }
        if self.scale > 0 {
            out.push(b'.');
        }
        for _ in 0..self.scale / 9 {
            write_group(group(9)?, 9, out);
        }
        write_group(group(self.scale % 9)?, self.scale % 9, out);
        Some(())
    }
}

/// Appends the last `digits` digits of a number.
#[inline]
fn write_group(mut value: u32, digits: u8, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + usize::from(digits), b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn double(value: f64) -> String {
        let mut out = Vec::new();
        write_double(value, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn prints_doubles_as_the_server_does() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-10.0, "-10"),
            (0.1, "0.1"),
            (100.25, "100.25"),
            (1e14, "100000000000000"),
            (123_456_789_012_345.0, "123456789012345"),
            (1e15, "1e15"),
            (1_234_567_890_123_456.7, "1234567890123456.8"),
            (123_456_789_012_345_678.0, "1.2345678901234568e17"),
            (1e-15, "0.000000000000001"),
            (1.5e-14, "0.000000000000015"),
            (1.2345e-16, "1.2345e-16"),
            (5e-324, "5e-324"),
            (-f64::MAX, "-1.7976931348623157e308"),
            (f32::MAX.into(), "3.4028234663852886e38"),
            (f64::INFINITY, "0"),
        ];
        for (value, expected) in cases {
            assert_eq!(double(value), expected);
        }
    }

    fn decimal(precision: u8, scale: u8, bytes: &[u8], fill: bool) -> Option<String> {
        let mut out = Vec::new();
        Decimal::new(precision, scale)?.write(bytes, fill, &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn prints_decimals_as_the_server_does() {
        // 1234567890.1234, the example of MySQL's documentation.
        let bytes = [0x81, 0x0D, 0xFB, 0x38, 0xD2, 0x04, 0xD2];
        assert_eq!(decimal(14, 4, &bytes, false).unwrap(), "1234567890.1234");
        let negative = bytes.map(|byte| !byte);
        assert_eq!(decimal(14, 4, &negative, false).unwrap(), "-1234567890.1234");
        assert_eq!(decimal(10, 2, &[0x80, 0, 0, 0, 0], false).unwrap(), "0.00");
        assert_eq!(decimal(10, 2, &[0x80, 0, 0, 1, 50], true).unwrap(), "00000001.50");
        assert_eq!(decimal(3, 3, &[0x80 | 0x01, 0xF4], false).unwrap(), "0.500");
        assert_eq!(decimal(1, 0, &[0x7F - 5], false).unwrap(), "-5");
        assert_eq!(decimal(5, 0, &[0x80], false), None);
        assert_eq!(decimal(5, 6, &[0x80; 9], false), None);
    }

    proptest! {
        #[test]
        fn what_is_printed_of_a_double_is_the_double(bits in any::<u64>()) {
            let value = f64::from_bits(bits);
            if value.is_finite() {
                prop_assert_eq!(double(value).parse::<f64>().unwrap(), value);
            }
        }

        #[test]
        fn never_panics_on_any_decimal(precision: u8, scale: u8, bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = decimal(precision, scale, &bytes, precision % 2 == 0);
        }
    }
}
