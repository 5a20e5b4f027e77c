//! Dates and times in PostgreSQL's ISO text form, read and written without allocation.

use crate::data::Value;

const DAY_US: i64 = 86_400_000_000;

/// Days since 1970-01-01 of `2024-02-29`, `0044-03-15 BC`, `infinity`.
pub fn parse_date(text: &[u8]) -> Option<i32> {
    match text {
        b"infinity" => return Some(Value::DATE_INFINITY),
        b"-infinity" => return Some(Value::DATE_NEG_INFINITY),
        _ => {}
    }
    let (text, before_christ) = strip_era(text);
    i32::try_from(days(text, before_christ)?).ok()
}

/// Microseconds since midnight of `12:34:56.789`; an offset from UTC is left aside.
pub fn parse_time(text: &[u8]) -> Option<i64> {
    let offset = text.iter().rposition(|byte| matches!(byte, b'+' | b'-')).unwrap_or(text.len());
    time(&text[..offset])
}

/// Microseconds since 1970-01-01 of `2024-02-29 12:34:56.789`, with an offset from UTC or an era behind it.
/// `None` also for the last 30 years PostgreSQL has, which do not fit.
pub fn parse_timestamp(text: &[u8]) -> Option<i64> {
    match text {
        b"infinity" => return Some(Value::INFINITY),
        b"-infinity" => return Some(Value::NEG_INFINITY),
        _ => {}
    }
    let (text, before_christ) = strip_era(text);
    let blank = memchr::memchr(b' ', text)?;
    let (date, clock) = (&text[..blank], &text[blank + 1..]);
    let offset = clock.iter().rposition(|byte| matches!(byte, b'+' | b'-')).unwrap_or(clock.len());
    let micros = days(date, before_christ)?.checked_mul(DAY_US)?.checked_add(time(&clock[..offset])?)?;
    let micros = micros.checked_sub(offset_seconds(&clock[offset..])? * 1_000_000)?;
    // The two ends of the range mean infinity.
    (micros != Value::INFINITY && micros != Value::NEG_INFINITY).then_some(micros)
}

fn strip_era(text: &[u8]) -> (&[u8], bool) {
    text.strip_suffix(b" BC").map_or((text, false), |text| (text, true))
}

/// `+02`, `-03:30`, `+05:53:28`, or nothing.
fn offset_seconds(text: &[u8]) -> Option<i64> {
    let Some((sign, mut text)) = text.split_first() else { return Some(0) };
    let mut seconds = 0;
    for unit in [3600, 60, 1] {
        let Some(digits) = text.get(..2) else { break };
        seconds += number(digits)? * unit;
        text = text.get(3..).unwrap_or_default();
    }
    Some(if *sign == b'-' { -seconds } else { seconds })
}

#[inline]
fn number(digits: &[u8]) -> Option<i64> {
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0')))
}

/// Days since 1970-01-01 of `YYYY-MM-DD`, the year of four digits or more.
#[inline]
fn days(text: &[u8], before_christ: bool) -> Option<i64> {
    let split = text.len().checked_sub(6)?;
    let [b'-', m1, m2, b'-', d1, d2] = text[split..] else { return None };
    // PostgreSQL's calendar ends in the year 5874897.
    let year = number(text.get(..split).filter(|year| year.len() <= 7)?)?;
    let year = if before_christ { 1 - year } else { year };
    Some(days_from_civil(year, number(&[m1, m2])?, number(&[d1, d2])?))
}

/// Microseconds of `HH:MM:SS` with up to six digits behind a point.
#[inline]
fn time(text: &[u8]) -> Option<i64> {
    let [h1, h2, b':', m1, m2, b':', s1, s2, ref fraction @ ..] = *text else { return None };
    let seconds = number(&[h1, h2])? * 3600 + number(&[m1, m2])? * 60 + number(&[s1, s2])?;
    let micros = match fraction {
        [] => 0,
        [b'.', digits @ ..] if digits.len() <= 6 => number(digits)? * 10_i64.pow(6 - digits.len() as u32),
        _ => return None,
    };
    Some(seconds * 1_000_000 + micros)
}

/// The proleptic Gregorian calendar, counted in 400-year cycles that begin in March so that the leap day comes last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let cycle = year.div_euclid(400);
    let year_of_cycle = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_cycle = year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
    cycle * 146_097 + day_of_cycle - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let cycle = days.div_euclid(146_097);
    let day = days.rem_euclid(146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (cycle * 400 + year + i64::from(month <= 2), month, day)
}

/// Appends a date as PostgreSQL reads it.
pub fn write_date(days: i32, into: &mut Vec<u8>) {
    match days {
        Value::DATE_INFINITY => into.extend_from_slice(b"infinity"),
        Value::DATE_NEG_INFINITY => into.extend_from_slice(b"-infinity"),
        days => write_days(days.into(), into, |_| {}),
    }
}

/// Appends a time of day; beyond a day or below zero as hours, which PostgreSQL refuses.
pub fn write_time(micros: i64, into: &mut Vec<u8>) {
    if micros < 0 {
        into.push(b'-');
    }
    let micros = micros.unsigned_abs();
    let seconds = micros / 1_000_000;
    match seconds / 3600 {
        hours @ 0..100 => two(hours, into),
        hours => into.extend_from_slice(itoa::Buffer::new().format(hours).as_bytes()),
    }
    into.push(b':');
    two(seconds / 60 % 60, into);
    into.push(b':');
    two(seconds % 60, into);
    let fraction = micros % 1_000_000;
    if fraction != 0 {
        into.push(b'.');
        two(fraction / 10_000, into);
        two(fraction / 100 % 100, into);
        two(fraction % 100, into);
    }
}

/// Appends a timestamp as PostgreSQL reads it.
pub fn write_timestamp(micros: i64, into: &mut Vec<u8>) {
    match micros {
        Value::INFINITY => into.extend_from_slice(b"infinity"),
        Value::NEG_INFINITY => into.extend_from_slice(b"-infinity"),
        micros => write_days(micros.div_euclid(DAY_US), into, |into| {
            into.push(b' ');
            write_time(micros.rem_euclid(DAY_US), into);
        }),
    }
}

/// The date, then what `clock` appends, then the era where it is not ours.
#[inline]
fn write_days(days: i64, into: &mut Vec<u8>, clock: impl FnOnce(&mut Vec<u8>)) {
    let (year, month, day) = civil_from_days(days);
    let shown = if year > 0 { year } else { 1 - year } as u64;
    if shown >= 10_000 {
        into.extend_from_slice(itoa::Buffer::new().format(shown / 10_000).as_bytes());
    }
    let [y1, y2, y3, y4] = [shown / 1000, shown / 100, shown / 10, shown].map(digit);
    let (month, day) = (month as u64, day as u64);
    let [m1, m2, d1, d2] = [month / 10, month, day / 10, day].map(digit);
    into.extend_from_slice(&[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2]);
    clock(into);
    if year <= 0 {
        into.extend_from_slice(b" BC");
    }
}

#[inline]
fn two(number: u64, into: &mut Vec<u8>) {
    into.extend_from_slice(&[digit(number / 10), digit(number)]);
}

#[inline]
fn digit(number: u64) -> u8 {
    b'0' + (number % 10) as u8
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The days that PostgreSQL's `date` can hold: 4714-11-24 BC to 5874897-12-31.
    const DATE_RANGE: std::ops::RangeInclusive<i32> = -2_440_588..=2_145_042_905;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut text = Vec::new();
        write(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn reads_and_writes_dates() {
        for (text, days) in [
            ("1970-01-01", 0),
            ("1969-12-31", -1),
            ("2000-02-29", 11_016),
            ("9999-12-31", 2_932_896),
            ("0001-01-01", -719_162),
            ("0001-12-31 BC", -719_163),
            ("4714-11-24 BC", -2_440_588),
            ("5874897-12-31", 2_145_042_905),
            ("infinity", Value::DATE_INFINITY),
            ("-infinity", Value::DATE_NEG_INFINITY),
        ] {
            assert_eq!(parse_date(text.as_bytes()), Some(days), "{text}");
            assert_eq!(written(|into| write_date(days, into)), text);
        }
        for text in ["", "2024-1-1", "2024-01-01x", "today", "-2024-01-01"] {
            assert_eq!(parse_date(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn reads_and_writes_times() {
        for (text, micros) in
            [("00:00:00", 0), ("24:00:00", DAY_US), ("23:59:59.999999", DAY_US - 1), ("00:00:00.000001", 1)]
        {
            assert_eq!(parse_time(text.as_bytes()), Some(micros), "{text}");
            assert_eq!(written(|into| write_time(micros, into)), text);
        }
        assert_eq!(parse_time(b"12:00:00.5+02"), Some(43_200_500_000));
        assert_eq!(parse_time(b"12:00:00-03:30"), Some(43_200_000_000));
        assert_eq!(written(|into| write_time(-3_020_399_000_000, into)), "-838:59:59");
    }

    #[test]
    fn reads_and_writes_timestamps() {
        for (text, micros) in [
            ("1970-01-01 00:00:00", 0),
            ("1969-12-31 23:59:59.999999", -1),
            ("2024-02-29 12:34:56.7", 1_709_210_096_700_000),
            ("infinity", Value::INFINITY),
            ("-infinity", Value::NEG_INFINITY),
        ] {
            assert_eq!(parse_timestamp(text.as_bytes()), Some(micros), "{text}");
        }
        assert_eq!(parse_timestamp(b"1970-01-01 02:00:00+02"), Some(0));
        assert_eq!(parse_timestamp(b"1969-12-31 20:30:00-03:30"), Some(0));
        assert_eq!(parse_timestamp(b"1970-01-01 05:53:28+05:53:28"), Some(0));
        let oldest = parse_timestamp(b"4714-11-24 00:00:00+00 BC").unwrap();
        assert_eq!(written(|into| write_timestamp(oldest, into)), "4714-11-24 00:00:00 BC");
        // PostgreSQL counts from 2000, so its last years do not fit.
        assert_eq!(parse_timestamp(b"294276-12-31 23:59:59.999999"), None);
        assert!(parse_timestamp(b"294246-12-31 23:59:59.999999").is_some());
    }

    proptest! {
        #[test]
        fn every_date_comes_back(days in DATE_RANGE) {
            let text = written(|into| write_date(days, into));
            prop_assert_eq!(parse_date(text.as_bytes()), Some(days), "{}", text);
        }

        #[test]
        fn every_timestamp_comes_back(micros in -210_866_803_200_000_000..i64::MAX) {
            let text = written(|into| write_timestamp(micros, into));
            prop_assert_eq!(parse_timestamp(text.as_bytes()), Some(micros), "{}", text);
        }

        #[test]
        fn no_text_panics(text in "\\PC*", digits in "[0-9:. +-]{0,40}") {
            for text in [text, digits] {
                parse_date(text.as_bytes());
                parse_time(text.as_bytes());
                parse_timestamp(text.as_bytes());
            }
        }
    }
}
