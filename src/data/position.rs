//! Places in a source's log.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A place in a source's log, in the engine's own terms: the native start point of `CdcStartPosition`.
/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Task.CDC.html>
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Position {
    /// A byte of PostgreSQL's write-ahead log: `4AF/B00000D0`.
    Lsn(u64),
    /// A byte of a file of MySQL's binary log: `mysql-bin-changelog.000024:373`.
    Binlog { file: String, offset: u64 },
    /// After these global transactions of MySQL (`3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5`) or MariaDB (`0-1-100`),
    /// separated by commas. DMS has no such start point.
    Gtids(String),
}

/// Places of one log are ordered; those of different engines, or of binary logs of different names, are not.
impl PartialOrd for Position {
    fn partial_cmp(&self, other: &Position) -> Option<Ordering> {
        match (self, other) {
            (Position::Lsn(one), Position::Lsn(other)) => Some(one.cmp(other)),
            (Position::Binlog { file: one, offset }, Position::Binlog { file: other, offset: other_offset }) => {
                let ((base, number), (other_base, other_number)) = (file_number(one)?, file_number(other)?);
                (base == other_base).then(|| number.cmp(&other_number).then(offset.cmp(other_offset)))
            }
            _ => None,
        }
    }
}

/// `mysql-bin.000024` is number 24 of its kind.
fn file_number(file: &str) -> Option<(&str, u64)> {
    let (base, number) = file.rsplit_once('.')?;
    Some((base, number.parse().ok()?))
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Position::Lsn(lsn) => write!(f, "{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff),
            Position::Binlog { file, offset } => write!(f, "{file}:{offset}"),
            Position::Gtids(gtids) => f.write_str(gtids),
        }
    }
}

/// Text that names no place in any engine's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoPosition(String);

impl fmt::Display for NoPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is neither an LSN (4AF/B00000D0) nor a binlog position (mysql-bin.000024:373) nor a set of GTIDs",
            self.0
        )
    }
}

impl std::error::Error for NoPosition {}

impl From<Position> for String {
    fn from(position: Position) -> String {
        position.to_string()
    }
}

impl TryFrom<String> for Position {
    type Error = NoPosition;

    fn try_from(text: String) -> Result<Position, NoPosition> {
        text.parse()
    }
}

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Position, NoPosition> {
        parse(text).ok_or_else(|| NoPosition(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Position> {
    if is_gtids(text) {
        let plain = |gtid: &str| gtid.split_ascii_whitespace().collect::<String>();
        return Some(Position::Gtids(text.split(',').map(plain).collect::<Vec<_>>().join(",")));
    }
    if let Some((file, offset)) = text.rsplit_once(':') {
        let (_, number) = file.rsplit_once('.')?;
        if !is_number(number) || !is_number(offset) {
            return None;
        }
        return Some(Position::Binlog { file: file.to_owned(), offset: offset.parse().ok()? });
    }
    let half = |text: &str| match (1..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => u64::from_str_radix(text, 16).ok(),
        false => None,
    };
    let (high, low) = text.split_once('/')?;
    Some(Position::Lsn(half(high)? << 32 | half(low)?))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// All of MySQL, or all of MariaDB.
fn is_gtids(text: &str) -> bool {
    let all = |is: fn(&str) -> bool| text.split(',').all(|gtid| is(gtid.trim()));
    all(is_mysql_gtids) || all(is_mariadb_gtid)
}

/// `uuid:1-5:9`, also with tags before numbers.
fn is_mysql_gtids(text: &str) -> bool {
    let Some((uuid, rest)) = text.split_once(':') else { return false };
    let is_uuid = uuid.len() == 36
        && uuid.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        });
    let is_interval = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        is_number(from) && is_number(to)
    };
    let is_tag = |part: &str| {
        let starts = part.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        starts && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let mut parts = rest.split(':').map(str::trim);
    is_uuid && parts.all(|part| is_interval(part) || is_tag(part)) && rest.ends_with(|c: char| c.is_ascii_digit())
}

/// `0-1-100`: domain, server and number.
fn is_mariadb_gtid(text: &str) -> bool {
    text.split('-').count() == 3 && text.split('-').all(is_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in ["4AF/B00000D0", "0/0", "FFFFFFFF/FFFFFFFF", "mysql-bin-changelog.000024:373", "a:b.1:4"] {
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
        assert_eq!("000004AF/B00000D0".parse(), Ok(Position::Lsn(0x4AF_B000_00D0)));
    }

    #[test]
    fn reads_global_transaction_numbers() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        for text in ["UUID:1", "UUID:1-5:11-18", "UUID:1-3,UUID:tag_1:4:7", "0-1-100", "0-1-100,1-2-7"] {
            let text = text.replace("UUID", uuid);
            assert_eq!(text.parse(), Ok(Position::Gtids(text.clone())));
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
        assert_eq!(format!("{uuid}:1-5,\n {uuid}:7").parse(), Ok(Position::Gtids(format!("{uuid}:1-5,{uuid}:7"))));
        for text in ["UUID", "UUID:", "UUID:tag", "UUID:1-x", "0-1", "0-1-", "0-1-2,UUID:1", "UUID:1:"] {
            let text = text.replace("UUID", uuid);
            assert_eq!(text.parse::<Position>(), Err(NoPosition(text)));
        }
        assert_eq!("0-1-2".parse::<Position>().unwrap().partial_cmp(&"0-1-3".parse().unwrap()), None);
    }

    #[test]
    fn places_of_one_log_are_ordered() {
        let place = |text: &str| text.parse::<Position>().unwrap();
        for (one, other) in [("0/2", "0/10"), ("1/0", "A/0"), ("b.9:500", "b.10:4"), ("b.000010:9", "b.10:10")] {
            assert!(place(one) < place(other), "{one} {other}");
        }
        for (one, other) in [("0/2", "b.1:2"), ("a.1:1", "b.1:1")] {
            assert_eq!(place(one).partial_cmp(&place(other)), None);
        }
    }

    #[test]
    fn refuses_what_names_no_place() {
        for text in ["", "/", "1/", "123456789/0", "+1/0", "g/1", "1", "mysql-bin:4", "mysql-bin.1:", "mysql-bin.x:4"] {
            assert_eq!(text.parse::<Position>(), Err(NoPosition(text.to_owned())));
        }
    }
}
