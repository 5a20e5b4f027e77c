//! Where a task goes on in its source's log, in the texts of the API: `RecoveryCheckpoint`, `CdcStartPosition` and
//! `CdcStopPosition`.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Task.CDC.html>

use std::fmt;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use crate::connector::StartPoint;
use crate::data::Position;

/// The text of `RecoveryCheckpoint`. The numbers around the place are of the service's own machinery and mean nothing
/// here; of a binary log's place the text has the same one wherever the service has those of a transaction's parts.
pub fn recovery_checkpoint(position: &Position) -> String {
    let stream = match position {
        Position::Lsn(lsn) => format!("{:08X}/{:08X}", lsn >> 32, lsn & 0xffff_ffff),
        Position::Binlog { file, offset } => {
            let number: u64 = file.rsplit_once('.').and_then(|(_, number)| number.parse().ok()).unwrap_or_default();
            let id = (number << 32).wrapping_add(*offset);
            format!("{file}:{offset}:-1:{offset}:{id}:{file}:{offset}")
        }
        // A task begins with these and goes on from places in files.
        Position::Gtids(gtids) => gtids.clone(),
    };
    format!("checkpoint:V1#1#{stream}#0#0#*#0#0")
}

fn of_recovery_checkpoint(text: &str) -> Option<Position> {
    let stream = text.strip_prefix("checkpoint:V1#")?.split('#').nth(1)?;
    if let position @ Ok(Position::Lsn(_)) = stream.parse() {
        return position.ok();
    }
    // The commit's file, beginning, -1 and end, an id, and file and offset of the transaction's first row.
    let parts: Vec<&str> = stream.split(':').collect();
    let &[file, _, "-1", end, _, _, _] = parts.as_slice() else { return None };
    format!("{file}:{end}").parse().ok()
}

/// Why a position is refused: the message of an `InvalidParameterValueException`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPosition {
    parameter: &'static str,
    text: String,
    allowed: &'static str,
}

impl fmt::Display for BadPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Invalid value {} for {}. Allowed: {}", self.text, self.parameter, self.allowed)
    }
}

/// Reads `CdcStartPosition`: a date, a checkpoint, or a place in the engine's own terms.
pub fn start_point(text: &str) -> Result<StartPoint, BadPosition> {
    let bad = || BadPosition {
        parameter: "CdcStartPosition",
        text: text.to_owned(),
        allowed: "a date in UTC (2018-03-08T12:12:12), a checkpoint (checkpoint:V1#…), a native position (4AF/B00000D0, \
                  mysql-bin-changelog.000024:373)",
    };
    if text.starts_with("checkpoint:") {
        return of_recovery_checkpoint(text).map(StartPoint::At).ok_or_else(bad);
    }
    if let Some(time) = micros(text) {
        return Ok(StartPoint::Time(time));
    }
    text.parse().map(StartPoint::At).map_err(|_| bad())
}

/// When a task ends by itself, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopPoint {
    /// By the clock here.
    ServerTime(i64),
    /// Before the first transaction that the source committed after this time.
    CommitTime(i64),
}

/// Reads `CdcStopPosition`.
pub fn stop_point(text: &str) -> Result<StopPoint, BadPosition> {
    let point = match text.split_once(':') {
        Some(("server_time", time)) => micros(time).map(StopPoint::ServerTime),
        Some(("commit_time", time)) => micros(time).map(StopPoint::CommitTime),
        _ => None,
    };
    point.ok_or_else(|| BadPosition {
        parameter: "CdcStopPosition",
        text: text.to_owned(),
        allowed: "server_time:2018-02-09T12:12:12, commit_time:2018-02-09T12:12:12 (UTC)",
    })
}

/// A date in UTC, with or without its zone and a fraction.
fn micros(text: &str) -> Option<i64> {
    let text = text.trim();
    let zoned = if text.ends_with('Z') { text.to_owned() } else { format!("{text}Z") };
    let nanos = DateTime::from_str(&zoned, Format::DateTime).ok()?.as_nanos();
    i64::try_from(nanos / 1000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_kind_of_start() {
        let at = |text: &str| StartPoint::At(text.parse().unwrap());
        for (text, expected) in [
            ("2018-03-08T12:12:12", StartPoint::Time(1_520_511_132_000_000)),
            ("2018-03-08T12:12:12.5Z", StartPoint::Time(1_520_511_132_500_000)),
            ("4AF/B00000D0", at("4AF/B00000D0")),
            ("mysql-bin-changelog.000024:373", at("mysql-bin-changelog.000024:373")),
            ("checkpoint:V1#1#000004AF/B00000D0#0#0#*#0#0", at("4AF/B00000D0")),
            ("checkpoint:V1#34#00000132/0F000E48#0#0#*#0#121", at("132/F000E48")),
            (
                "checkpoint:V1#27#mysql-bin-changelog.157832:1975:-1:2002:677883278264080:mysql-bin-changelog.157832:1876#0#0#*#0#93",
                at("mysql-bin-changelog.157832:2002"),
            ),
        ] {
            assert_eq!(start_point(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn reads_its_own_checkpoints() {
        for text in ["4AF/B00000D0", "0/1", "mysql-bin-changelog.000024:373"] {
            let position: Position = text.parse().unwrap();
            assert_eq!(start_point(&recovery_checkpoint(&position)), Ok(StartPoint::At(position)));
        }
        let lsn = recovery_checkpoint(&"4AF/B00000D0".parse().unwrap());
        assert_eq!(lsn, "checkpoint:V1#1#000004AF/B00000D0#0#0#*#0#0");
    }

    #[test]
    fn refuses_what_is_no_place_and_says_what_is() {
        for text in ["", "now", "checkpoint:", "checkpoint:V1#1#x#0", "checkpoint:V2#1#0/1#0", "2018-13-01T00:00:00"] {
            let error = start_point(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("Invalid value {text} for CdcStartPosition. Allowed: a date")),
                "{error}"
            );
        }
        for text in ["", "2018-02-09T12:12:12", "server_time:", "commit_time:yesterday", "other:2018-02-09T12:12:12"] {
            assert!(stop_point(text).unwrap_err().to_string().contains("for CdcStopPosition"));
        }
    }

    #[test]
    fn reads_both_kinds_of_stop() {
        let time = 1_518_178_332_000_000;
        assert_eq!(stop_point("server_time:2018-02-09T12:12:12"), Ok(StopPoint::ServerTime(time)));
        assert_eq!(stop_point("commit_time:2018-02-09T12:12:12"), Ok(StopPoint::CommitTime(time)));
        // With a blank, as some examples in the API reference have it.
        assert_eq!(stop_point("commit_time: 2018-02-09T12:12:12"), Ok(StopPoint::CommitTime(time)));
    }
}
