//! Moments in time, as the API sends and takes them.

use std::fmt;
use std::time::SystemTime;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment in milliseconds, between the years 1 and 9999. Sent as a JSON number of seconds since 1970
/// (`1590524772.505`) unless the member says otherwise; taken as such a number or as an ISO 8601 string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(DateTime);

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

impl Timestamp {
    /// A moment beyond the years 1 to 9999 is brought to the nearest one within.
    pub fn from_millis(millis: i64) -> Timestamp {
        Timestamp(DateTime::from_millis(millis.clamp(SECONDS.start() * 1000, SECONDS.end() * 1000 + 999)))
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn as_millis(self) -> i64 {
        self.0.secs() * 1000 + i64::from(self.0.subsec_nanos() / 1_000_000)
    }

    pub fn date_time(self) -> DateTime {
        self.0
    }

    pub(super) fn from_seconds(seconds: f64) -> Option<Timestamp> {
        let in_range = *SECONDS.start() as f64 <= seconds && seconds < *SECONDS.end() as f64 + 1.0;
        in_range.then(|| Timestamp::from_millis((seconds * 1000.0).round() as i64))
    }

    /// ISO 8601 with an offset or `Z`.
    pub(super) fn from_iso8601(text: &str) -> Option<Timestamp> {
        let parsed = DateTime::from_str(text, Format::DateTimeWithOffset).ok()?;
        SECONDS.contains(&parsed.secs()).then(|| Timestamp::from_millis(Timestamp(parsed).as_millis()))
    }

    pub fn to_iso8601(self) -> String {
        self.0.fmt(Format::DateTime).expect("the years 1 to 9999 have an ISO 8601 form")
    }

    /// UTC without saying so, and nothing below the second: `2018-03-08T12:12:12`.
    pub fn to_second(self) -> String {
        let mut text = self.to_iso8601();
        text.truncate("2018-03-08T12:12:12".len());
        text
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        Timestamp::from_millis(Timestamp(DateTime::from(time)).as_millis())
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_iso8601())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.as_millis() as f64 / 1000.0)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        deserializer.deserialize_any(TimestampVisitor)
    }
}

struct TimestampVisitor;

impl Visitor<'_> for TimestampVisitor {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("seconds since 1970 or an ISO 8601 string")
    }

    fn visit_f64<E: Error>(self, seconds: f64) -> Result<Timestamp, E> {
        Timestamp::from_seconds(seconds).ok_or_else(|| E::invalid_value(Unexpected::Float(seconds), &self))
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Timestamp, E> {
        self.visit_f64(seconds as f64)
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Timestamp, E> {
        self.visit_f64(seconds as f64)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Timestamp, E> {
        Timestamp::from_iso8601(text).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// `#[serde(with = …)]` of optional members that are sent as ISO 8601 strings.
pub(super) mod iso8601 {
    use super::*;

    pub fn serialize<S: Serializer>(timestamp: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
        match timestamp {
            Some(timestamp) => serializer.serialize_str(&timestamp.to_iso8601()),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
        Option::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<i64> {
        serde_json::from_str::<Timestamp>(json).ok().map(Timestamp::as_millis)
    }

    #[test]
    fn is_sent_as_seconds_with_milliseconds() {
        let sent = |millis| serde_json::to_string(&Timestamp::from_millis(millis)).unwrap();
        assert_eq!(sent(1_590_524_772_505), "1590524772.505");
        assert_eq!(sent(1_590_790_230_000), "1590790230.0");
        assert_eq!(sent(-1), "-0.001");
        assert_eq!(sent(i64::MAX), "253402300799.999");
    }

    #[test]
    fn is_taken_as_a_number_or_a_string() {
        assert_eq!(read("1590524772.505"), Some(1_590_524_772_505));
        assert_eq!(read("1590524772"), Some(1_590_524_772_000));
        assert_eq!(read("-1.5"), Some(-1500));
        assert_eq!(read("\"2020-05-26T20:26:12.505Z\""), Some(1_590_524_772_505));
        assert_eq!(read("\"2020-05-26T22:26:12+02:00\""), Some(1_590_524_772_000));
        for wrong in ["1e300", "-1e300", "9223372036854775807", "\"yesterday\"", "true", "{}"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_moment_it_takes_survives_a_round_trip() {
        for json in ["-62135596800", "253402300799.999", "0", "0.001", "1.7976"] {
            let taken: Timestamp = serde_json::from_str(json).unwrap();
            let sent = serde_json::to_string(&taken).unwrap();
            assert_eq!(serde_json::from_str::<Timestamp>(&sent).unwrap(), taken, "{json}");
            assert_eq!(Timestamp::from_iso8601(&taken.to_iso8601()), Some(taken), "{json}");
        }
    }
}
