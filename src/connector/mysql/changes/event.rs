//! Events of the binary log: their common header, and the bodies of those that hold no rows.
//! <https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>,
//! <https://mariadb.com/kb/en/replication-protocol/>

use std::collections::BTreeMap;

use super::cursor::Cursor;
use crate::data::{Error, Result};

/// Types of events.
pub(super) mod kind {
    pub const QUERY: u8 = 2;
    pub const ROTATE: u8 = 4;
    pub const FORMAT_DESCRIPTION: u8 = 15;
    pub const XID: u8 = 16;
    pub const EXECUTE_LOAD_QUERY: u8 = 18;
    pub const TABLE_MAP: u8 = 19;
    pub const WRITE_ROWS_V1: u8 = 23;
    pub const UPDATE_ROWS_V1: u8 = 24;
    pub const DELETE_ROWS_V1: u8 = 25;
    pub const INCIDENT: u8 = 26;
    pub const HEARTBEAT: u8 = 27;
    pub const WRITE_ROWS: u8 = 30;
    pub const UPDATE_ROWS: u8 = 31;
    pub const DELETE_ROWS: u8 = 32;
    pub const GTID: u8 = 33;
    pub const ANONYMOUS_GTID: u8 = 34;
    pub const PREVIOUS_GTIDS: u8 = 35;
    pub const XA_PREPARE: u8 = 38;
    pub const PARTIAL_UPDATE_ROWS: u8 = 39;
    pub const TRANSACTION_PAYLOAD: u8 = 40;
    pub const HEARTBEAT_V2: u8 = 41;
    pub const GTID_TAGGED: u8 = 42;
    pub const MARIADB_GTID: u8 = 162;
    pub const MARIADB_GTID_LIST: u8 = 163;
    pub const START_ENCRYPTION: u8 = 164;
    pub const QUERY_COMPRESSED: u8 = 165;
    pub const WRITE_ROWS_COMPRESSED_V1: u8 = 166;
    pub const UPDATE_ROWS_COMPRESSED_V1: u8 = 167;
    pub const DELETE_ROWS_COMPRESSED_V1: u8 = 168;
    pub const WRITE_ROWS_COMPRESSED: u8 = 169;
    pub const UPDATE_ROWS_COMPRESSED: u8 = 170;
    pub const DELETE_ROWS_COMPRESSED: u8 = 171;

    /// Events that change nothing for us: ends of files, contexts of statements, texts of statements, groups, checkpoints.
    pub const IGNORED: [u8; 12] = [3, 5, 13, 14, 17, 28, 29, PREVIOUS_GTIDS, 36, 37, 160, 161];
}

pub(super) const HEADER: usize = 19;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Seconds since 1970: when the statement began.
    pub(super) time: u32,
    pub(super) kind: u8,
    /// Of the whole event, with its checksum.
    pub(super) size: u32,
    /// The lower half of where the event ends in its file; 0 for one that is in no file.
    pub(super) end: u32,
    flags: u16,
}

impl Header {
    pub(super) fn parse(bytes: &[u8]) -> Option<Header> {
        let mut cursor = Cursor(bytes);
        let time = cursor.u32()?;
        let kind = cursor.u8()?;
        let _server = cursor.u32()?;
        Some(Header { time, kind, size: cursor.u32()?, end: cursor.u32()?, flags: cursor.u16()? })
    }

    /// Made up by the server for this connection.
    pub(super) fn is_artificial(&self) -> bool {
        self.end == 0 || self.flags & 0x20 != 0
    }

    /// A replica that does not know the event may pass over it.
    pub(super) fn is_ignorable(&self) -> bool {
        self.flags & 0x80 != 0
    }
}

/// An event without its header and checksum.
#[derive(Clone, Copy)]
pub(super) struct Event<'a> {
    pub(super) header: Header,
    pub(super) body: &'a [u8],
}

pub(super) fn malformed(what: &str) -> Error {
    Error::fatal(format!("the server's log has a malformed {what} event"))
}

/// The start of a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FormatDescription {
    pub(super) server: ServerVersion,
    /// The server started with this file: what it had not finished before is undone.
    pub(super) restarted: bool,
    pub(super) checksum: bool,
}

impl FormatDescription {
    /// `whole`: the body with whatever follows it.
    pub(super) fn parse(whole: &[u8]) -> Result<FormatDescription> {
        Self::read(whole).ok_or_else(|| malformed("format description"))?
    }

    fn read(whole: &[u8]) -> Option<Result<FormatDescription>> {
        let mut cursor = Cursor(whole);
        let version = cursor.u16()?;
        let server = cursor.take(50)?;
        let server = server.split(|byte| *byte == 0).next().unwrap_or_default();
        let created = cursor.u32()?;
        let header = cursor.u8()?;
        if version != 4 || usize::from(header) != HEADER {
            return Some(Err(Error::fatal(format!("the server's log has version {version}, only 4 can be read"))));
        }
        let server = ServerVersion::parse(&String::from_utf8_lossy(server));
        // The algorithm and a checksum, which the event has even if the algorithm is none.
        let algorithm = match server.has_checksums() {
            true => *whole.get(whole.len().checked_sub(5)?)?,
            false => 0,
        };
        if algorithm > 1 {
            return Some(Err(Error::fatal(format!("the server's log has checksums of an unknown kind ({algorithm})"))));
        }
        Some(Ok(FormatDescription { server, restarted: created != 0, checksum: algorithm == 1 }))
    }
}

/// `10.11.19-MariaDB-log` is 101119.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ServerVersion {
    pub(super) number: u32,
    pub(super) mariadb: bool,
}

impl ServerVersion {
    pub(super) fn parse(text: &str) -> ServerVersion {
        // MariaDB once hid behind a version that old replicas understand.
        let shown = text.strip_prefix("5.5.5-").unwrap_or(text);
        let mut parts = shown.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
        let mut part = |most: u32| parts.next().unwrap_or(0).min(most);
        let number = part(999) * 10_000 + part(99) * 100 + part(99);
        ServerVersion { number, mariadb: text.to_ascii_lowercase().contains("mariadb") }
    }

    fn has_checksums(self) -> bool {
        self.number >= if self.mariadb { 50_300 } else { 50_601 }
    }

    /// Whether the server takes a conditional comment (`/*!50701 … */`, or `/*M!100301 … */`) for text.
    pub(super) fn runs(self, comment: u32, for_mariadb: bool) -> bool {
        match (self.mariadb, for_mariadb) {
            (false, true) => false,
            (true, false) if (50_700..=99_999).contains(&comment) => false,
            _ => comment <= self.number || self.number == 0,
        }
    }
}

/// Where the log goes on.
pub(super) fn parse_rotate(body: &[u8]) -> Option<(u64, &str)> {
    let mut cursor = Cursor(body);
    let offset = cursor.u64()?;
    Some((offset, std::str::from_utf8(cursor.0).ok()?))
}

/// A statement as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query<'a> {
    pub(super) schema: &'a [u8],
    pub(super) text: &'a [u8],
    pub(super) sql_mode: u64,
    /// The number of the collation that the text is in; 0 where the event does not tell.
    pub(super) collation: u16,
}

impl Query<'_> {
    pub(super) fn ansi_quotes(&self) -> bool {
        self.sql_mode & 0x4 != 0
    }

    pub(super) fn no_backslash_escapes(&self) -> bool {
        self.sql_mode & 0x10_0000 != 0
    }
}

/// `extra`: bytes that stand between the fixed part of the event and its variables (LOAD DATA).
pub(super) fn parse_query(body: &[u8], extra: usize) -> Option<Query<'_>> {
    let mut cursor = Cursor(body);
    cursor.take(8)?;
    let schema_len = cursor.u8()?;
    cursor.take(2)?;
    let variables_len = cursor.u16()?;
    cursor.take(extra)?;
    let variables = cursor.take(variables_len.into())?;
    let schema = cursor.take(schema_len.into())?;
    cursor.take(1)?;
    let (sql_mode, collation) = parse_variables(variables);
    Some(Query { schema, text: cursor.0, sql_mode, collation })
}

/// The SQL mode and the client's collation, from the variables of a statement. Each is of its own length; what follows
/// one that is not known cannot be read.
fn parse_variables(variables: &[u8]) -> (u64, u16) {
    let mut cursor = Cursor(variables);
    let (mut sql_mode, mut collation) = (0, 0);
    let mut read = || -> Option<()> {
        loop {
            match cursor.u8()? {
                1 => sql_mode = cursor.u64()?,
                4 => {
                    collation = cursor.u16()?;
                    cursor.take(4)?;
                }
                0 | 3 | 10 => drop(cursor.take(4)?),
                2 => {
                    let len = cursor.u8()?;
                    cursor.take(usize::from(len) + 1)?;
                }
                5 | 6 => {
                    let len = cursor.u8()?;
                    cursor.take(len.into())?;
                }
                7 | 8 | 18 => drop(cursor.take(2)?),
                9 | 17 | 129 => drop(cursor.take(8)?),
                11 => {
                    for _ in 0..2 {
                        let len = cursor.u8()?;
                        cursor.take(len.into())?;
                    }
                }
                13 | 128 => drop(cursor.take(3)?),
                16 | 19 | 20 => drop(cursor.take(1)?),
                _ => return None,
            }
        }
    };
    read();
    (sql_mode, collation)
}

/// A transaction's global number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Gtid {
    MySql {
        /// `uuid`, or `uuid:tag`.
        source: String,
        number: u64,
    },
    MariaDb {
        domain: u32,
        server: u32,
        number: u64,
    },
    /// The server has none.
    Anonymous,
}

/// The begin of a transaction, or of a statement that is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub(super) gtid: Gtid,
    /// When it was committed, in microseconds since 1970.
    pub(super) time: Option<i64>,
    /// MariaDB has no other begin of a transaction; `None` where there is one.
    pub(super) group: Option<Group>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    Transaction,
    /// A statement of its own.
    Statement,
    /// What follows is only prepared.
    Xa,
    /// The first, or a given up, half of an ALTER that is logged twice.
    NotYet,
}

pub(super) fn parse_gtid(kind: u8, body: &[u8]) -> Option<Begin> {
    match kind {
        kind::MARIADB_GTID => parse_mariadb_gtid(body),
        kind::GTID_TAGGED => parse_tagged_gtid(body),
        _ => parse_mysql_gtid(kind, body),
    }
}

fn parse_mysql_gtid(kind: u8, body: &[u8]) -> Option<Begin> {
    let mut cursor = Cursor(body);
    cursor.u8()?;
    let source = uuid::Uuid::from_slice(cursor.take(16)?).ok()?.to_string();
    let number = cursor.u64()?;
    let gtid = if kind == kind::ANONYMOUS_GTID { Gtid::Anonymous } else { Gtid::MySql { source, number } };
    // Before MySQL 5.7 the event ends here, and before 8.0 without a time.
    const LOGICAL_CLOCK: u8 = 2;
    let mut time = || {
        (cursor.u8()? == LOGICAL_CLOCK).then_some(())?;
        cursor.take(16)?;
        // The highest bit tells that the time on the first server follows.
        Some((cursor.u56()? & ((1 << 55) - 1)) as i64)
    };
    Some(Begin { gtid, time: time(), group: None })
}

/// In the format of MySQL's serialization library: fields of a number and a value each, of variable length.
/// <https://dev.mysql.com/doc/dev/mysql-server/latest/PageLibsMysqlSerialization.html>
fn parse_tagged_gtid(body: &[u8]) -> Option<Begin> {
    let mut cursor = Cursor(body);
    let _version = cursor.varlen()?;
    let _size = cursor.varlen()?;
    let _last_not_ignorable = cursor.varlen()?;
    let (mut uuid, mut tag, mut number, mut time) = ([0; 16], "", 0, None);
    // Fields come in the order of their numbers; what follows the time does not matter.
    while let Some(field) = cursor.varlen() {
        match field {
            0 => drop(cursor.varlen()?),
            1 => {
                for byte in &mut uuid {
                    *byte = u8::try_from(cursor.varlen()?).ok()?;
                }
            }
            // Signed numbers have their sign in the lowest bit.
            2 => number = cursor.varlen()? >> 1,
            3 => {
                let len = cursor.varlen()?;
                tag = std::str::from_utf8(cursor.take(usize::try_from(len).ok()?)?).ok()?;
            }
            4 | 5 => drop(cursor.varlen()?),
            6 => {
                time = i64::try_from(cursor.varlen()?).ok();
                break;
            }
            _ => break,
        }
    }
    let uuid = uuid::Uuid::from_bytes(uuid);
    let source = if tag.is_empty() { uuid.to_string() } else { format!("{uuid}:{tag}") };
    Some(Begin { gtid: Gtid::MySql { source, number }, time, group: None })
}

fn parse_mariadb_gtid(body: &[u8]) -> Option<Begin> {
    const STANDALONE: u8 = 1;
    const GROUP_COMMIT_ID: u8 = 2;
    const PREPARED_XA: u8 = 64;
    const COMPLETED_XA: u8 = 128;
    const START_ALTER: u8 = 2;
    const ROLLBACK_ALTER: u8 = 8;
    let mut cursor = Cursor(body);
    let (number, domain, flags) = (cursor.u64()?, cursor.u32()?, cursor.u8()?);
    if flags & GROUP_COMMIT_ID != 0 {
        cursor.take(8)?;
    }
    if flags & (PREPARED_XA | COMPLETED_XA) != 0 {
        cursor.take(4)?;
        let len = usize::from(cursor.u8()?) + usize::from(cursor.u8()?);
        cursor.take(len)?;
    }
    // Short events are filled up with zeros.
    let extra = cursor.u8().unwrap_or(0);
    let group = match flags {
        _ if extra & (START_ALTER | ROLLBACK_ALTER) != 0 => Group::NotYet,
        _ if flags & PREPARED_XA != 0 => Group::Xa,
        _ if flags & STANDALONE != 0 => Group::Statement,
        _ => Group::Transaction,
    };
    // The event does not tell the server: that is in its header.
    Some(Begin { gtid: Gtid::MariaDb { domain, server: 0, number }, time: None, group: Some(group) })
}

/// The name of a two-phase transaction, as servers write it in statements: `X'78',X'',1`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Xid(pub(super) String);

impl Xid {
    pub(super) fn of(format: u32, global: &[u8], branch: &[u8]) -> Xid {
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        Xid(format!("X'{}',X'{}',{format}", hex(global), hex(branch)))
    }
}

/// The end of a two-phase transaction's first phase, and whether it is the only one.
pub(super) fn parse_xa_prepare(body: &[u8]) -> Option<(Xid, bool)> {
    let mut cursor = Cursor(body);
    let one_phase = cursor.u8()? != 0;
    let (format, global, branch) = (cursor.u32()?, cursor.u32()?, cursor.u32()?);
    let global = cursor.take(usize::try_from(global).ok()?)?;
    let branch = cursor.take(usize::try_from(branch).ok()?)?;
    Some((Xid::of(format, global, branch), one_phase))
}

/// The server's words on why its log is not complete.
pub(super) fn parse_incident(body: &[u8]) -> String {
    let mut cursor = Cursor(body);
    let message = (|| {
        cursor.u16()?;
        let len = cursor.u8()?;
        cursor.take(len.into())
    })();
    String::from_utf8_lossy(message.unwrap_or_default()).into_owned()
}

/// What the log files before this one hold, of each domain of MariaDB: the last number.
pub(super) fn parse_gtid_list(body: &[u8]) -> Option<BTreeMap<u32, u64>> {
    let mut cursor = Cursor(body);
    // The highest bits are flags.
    let count = cursor.u32()? & 0x0FFF_FFFF;
    let mut last = BTreeMap::new();
    for _ in 0..count {
        let (domain, _server, number) = (cursor.u32()?, cursor.u32()?, cursor.u64()?);
        let known: &mut u64 = last.entry(domain).or_default();
        *known = number.max(*known);
    }
    Some(last)
}
