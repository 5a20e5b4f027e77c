//! Dates and times as the log has them: their text, and their value where such a moment exists.

use super::super::decode::days;
use crate::data::Value;

/// A moment as MySQL keeps it: also of months and days that no calendar has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) year: u32,
    pub(super) month: u32,
    pub(super) day: u32,
    pub(super) hour: u32,
    pub(super) minute: u32,
    pub(super) second: u32,
    pub(super) micros: u32,
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Bytes that the digits of a second take.
pub(super) fn fraction_bytes(digits: u8) -> usize {
    usize::from(digits).div_ceil(2)
}

/// Microseconds of the stored digits of a second.
fn fraction(bytes: &[u8]) -> u32 {
    big_endian(bytes) as u32 * [0, 10_000, 100, 1][bytes.len().min(3)]
}

impl Moment {
    /// DATE, three bytes.
    pub(super) fn of_date(bytes: &[u8]) -> Moment {
        let packed = bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        Moment { year: packed >> 9, month: packed >> 5 & 15, day: packed & 31, ..Moment::default() }
    }

    /// DATETIME, five bytes and those of the fraction.
    pub(super) fn of_datetime(bytes: &[u8]) -> Moment {
        let (whole, rest) = bytes.split_at(bytes.len().min(5));
        let packed = big_endian(whole) & 0x7F_FFFF_FFFF;
        Moment { micros: fraction(rest), ..Moment::of_packed(packed) }
    }

    /// From a number of days and seconds: 17 bits of the time of day, 5 of the day, and 13 months a year.
    fn of_packed(packed: u64) -> Moment {
        let (date, time) = ((packed >> 17) as u32, packed as u32 & 0x1_FFFF);
        let months = date >> 5;
        Moment {
            year: months / 13,
            month: months % 13,
            day: date & 31,
            hour: time >> 12,
            minute: time >> 6 & 63,
            second: time & 63,
            micros: 0,
        }
    }

    /// A date and time within JSON: like DATETIME with six digits, in eight bytes.
    pub(super) fn of_json(packed: u64) -> Moment {
        Moment { micros: packed as u32 & 0xFF_FFFF, ..Moment::of_packed(packed >> 24 & 0x7F_FFFF_FFFF) }
    }

    /// DATETIME of before MySQL 5.6: a decimal number of 14 digits.
    pub(super) fn of_old_datetime(packed: u64) -> Moment {
        let (date, time) = ((packed / 1_000_000 % 100_000_000) as u32, (packed % 1_000_000) as u32);
        Moment {
            year: date / 10_000,
            month: date / 100 % 100,
            day: date % 100,
            hour: time / 10_000,
            minute: time / 100 % 100,
            second: time % 100,
            micros: 0,
        }
    }

    /// Seconds since 1970 in a zone's own clock.
    pub(super) fn of_seconds(seconds: i64, micros: u32) -> Moment {
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
        let (year, month, day) = civil(days);
        Moment { year, month, day, hour: rest / 3600, minute: rest / 60 % 60, second: rest % 60, micros }
    }

    #[inline]
    pub(super) fn write_date(&self, out: &mut Vec<u8>) {
        let year = self.year % 10_000;
        let text = [pair(year / 100), pair(year % 100), [b'-', 0], pair(self.month), [b'-', 0], pair(self.day)];
        let [[a, b], [c, d], [e, _], [f, g], [h, _], [i, j]] = text;
        out.extend_from_slice(&[a, b, c, d, e, f, g, h, i, j]);
    }

    /// With so many digits of a second.
    #[inline]
    pub(super) fn write_datetime(&self, digits: u8, out: &mut Vec<u8>) {
        self.write_date(out);
        out.push(b' ');
        write_clock(self.hour, self.minute, self.second, out);
        write_fraction(self.micros, digits, out);
    }

    /// Null for a day that does not exist, as in the full load.
    pub(super) fn date(&self) -> Value<'static> {
        self.days().map_or(Value::Null, Value::Date)
    }

    pub(super) fn datetime(&self) -> Value<'static> {
        let value = || {
            if self.hour > 23 || self.minute > 59 || self.second > 59 || self.micros > 999_999 {
                return None;
            }
            let seconds = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60 + i64::from(self.second);
            Some((i64::from(self.days()?) * 86_400 + seconds) * 1_000_000 + i64::from(self.micros))
        };
        value().map_or(Value::Null, Value::DateTime)
    }

    fn days(&self) -> Option<i32> {
        days(self.year as i32, self.month as i32, self.day as i32).filter(|_| self.year < 10_000)
    }
}

/// A TIME: up to 838 hours, of either sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    negative: bool,
    hours: u32,
    minutes: u32,
    seconds: u32,
    micros: u32,
}

impl Span {
    /// Three bytes and those of the fraction. Negative ones are stored as the complement of the whole number.
    pub(super) fn of_time(bytes: &[u8]) -> Span {
        let (whole, rest) = bytes.split_at(bytes.len().min(3));
        let (mut whole, mut part) = (big_endian(whole) as i64 - 0x80_0000, big_endian(rest) as i64);
        if whole < 0 && part != 0 {
            whole += 1;
            part -= 1 << (8 * rest.len());
        }
        Span::of_packed((whole << 24) + part * [0, 10_000, 100, 1][rest.len().min(3)])
    }

    /// 24 bits of microseconds, six each of seconds and minutes, and hours.
    pub(super) fn of_packed(packed: i64) -> Span {
        let magnitude = packed.unsigned_abs();
        let (clock, micros) = ((magnitude >> 24) as u32, magnitude as u32 & 0xFF_FFFF);
        Span { negative: packed < 0, hours: clock >> 12 & 0x3FF, minutes: clock >> 6 & 63, seconds: clock & 63, micros }
    }

    /// TIME of before MySQL 5.6: a decimal number of six or seven digits.
    pub(super) fn of_old_time(bytes: &[u8]) -> Span {
        let packed = bytes.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
        let signed = (packed << 8).cast_signed() >> 8;
        let clock = signed.unsigned_abs();
        Span {
            negative: signed < 0,
            hours: clock / 10_000,
            minutes: clock / 100 % 100,
            seconds: clock % 100,
            micros: 0,
        }
    }

    pub(super) fn write(&self, digits: u8, out: &mut Vec<u8>) {
        if self.negative {
            out.push(b'-');
        }
        if self.hours > 99 {
            out.push(b'0' + (self.hours / 100 % 10) as u8);
        }
        write_clock(self.hours % 100, self.minutes, self.seconds, out);
        write_fraction(self.micros, digits, out);
    }
}

#[inline]
fn pair(value: u32) -> [u8; 2] {
    let value = value % 100;
    [b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]
}

#[inline]
fn write_clock(hour: u32, minute: u32, second: u32, out: &mut Vec<u8>) {
    let ([a, b], [c, d], [e, f]) = (pair(hour), pair(minute), pair(second));
    out.extend_from_slice(&[a, b, b':', c, d, b':', e, f]);
}

fn write_fraction(micros: u32, digits: u8, out: &mut Vec<u8>) {
    if digits == 0 {
        return;
    }
    let ([a, b], [c, d], [e, f]) = (pair(micros / 10_000), pair(micros / 100), pair(micros));
    out.push(b'.');
    out.extend_from_slice(&[a, b, c, d, e, f][..usize::from(digits.min(6))]);
}

/// Year, month and day of a number of days since 1970, counting years from March so that the leap day is last.
fn civil(days: i64) -> (u32, u32, u32) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    ((year + era * 400 + i64::from(month <= 2)) as u32, month as u32, day as u32)
}

/// The clock that TIMESTAMP values are read in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Zone {
    /// Seconds that the clock is ahead of UTC from a second since 1970 on, in the order of time. None: UTC.
    pub(super) changes: Vec<(i64, i32)>,
}

impl Zone {
    /// Zero stands for `0000-00-00 00:00:00`.
    #[inline]
    pub(super) fn moment(&self, seconds: u32, micros: u32) -> Moment {
        if seconds == 0 && micros == 0 {
            return Moment::default();
        }
        let seconds = i64::from(seconds);
        let after = self.changes.partition_point(|(since, _)| *since <= seconds);
        let ahead = self.changes.get(after.saturating_sub(1)).map_or(0, |(_, ahead)| *ahead);
        Moment::of_seconds(seconds + i64::from(ahead), micros)
    }
}

/// Seconds and microseconds of a TIMESTAMP: four bytes and those of the fraction.
pub(super) fn timestamp(bytes: &[u8]) -> (u32, u32) {
    let (whole, rest) = bytes.split_at(bytes.len().min(4));
    (big_endian(whole) as u32, fraction(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_of_either_sign_have_their_fraction() {
        let time = |bytes: &[u8], digits| text(|out| Span::of_time(bytes).write(digits, out));
        assert_eq!(time(&[0x80, 0, 0], 0), "00:00:00");
        assert_eq!(time(&[0xB4, 0x6E, 0xFB], 0), "838:59:59");
        // The documentation's examples: one hundredth before and after midnight.
        assert_eq!(time(&[0x7F, 0xFF, 0xFF, 0xFF], 2), "-00:00:00.01");
        assert_eq!(time(&[0x80, 0, 0, 1], 2), "00:00:00.01");
        assert_eq!(time(&[0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], 6), "-00:00:00.000001");
        assert_eq!(text(|out| Span::of_old_time(&[0x87, 0xD6, 0x12]).write(0, out)), "123:45:67");
        assert_eq!(text(|out| Span::of_old_time(&[0xFF, 0xFF, 0xFF]).write(0, out)), "-00:00:01");
    }

    #[test]
    fn every_day_of_the_calendar_comes_back() {
        for number in (-719_162..2_932_897).step_by(97) {
            let (year, month, day) = civil(number);
            assert_eq!(days(year as i32, month as i32, day as i32), Some(number as i32));
        }
    }

    #[test]
    fn a_zone_changes_its_clock() {
        let zone = Zone { changes: vec![(i64::MIN, 3600), (1000, 7200), (2000, 3600)] };
        let at = |seconds| text(|out| zone.moment(seconds, 0).write_datetime(0, out));
        assert_eq!(at(0), "0000-00-00 00:00:00");
        assert_eq!(at(999), "1970-01-01 01:16:39");
        assert_eq!(at(1000), "1970-01-01 02:16:40");
        assert_eq!(at(u32::MAX), "2106-02-07 07:28:15");
        assert_eq!(Zone::default().moment(1, 5).datetime(), Value::DateTime(1_000_005));
    }
}
