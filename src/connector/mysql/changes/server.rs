//! What must be known of a server whose log is read, and what it must be set to.

use std::collections::HashMap;

use super::super::source::stored;
use super::super::wire::Client;
use super::definition::TextDefault;
use super::event::ServerVersion;
use super::temporal::Zone;
use crate::connector::TableEntry;
use crate::connector::mysql::quote_text;
use crate::connector::mysql::source::Stored;
use crate::data::{Error, ErrorKind, Position, Result, TableKind, TableName};

/// Where DMS sends its users.
const GUIDE: &str = "https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.MySQL.html";

/// Tables described by one query of the catalog.
const DESCRIBED_AT_ONCE: usize = 200;

pub(super) struct Server {
    pub(super) version: ServerVersion,
    pub(super) id: u32,
    /// `lower_case_table_names`
    pub(super) fold_names: u8,
    log_bin: bool,
    binlog_format: String,
    row_image: String,
}

/// In DMS's words as they are remembered; no copy of them was found.
fn misconfigured(what: &str) -> Error {
    Error::fatal(format!(
        "Errors in MySQL server binary logging configuration: {what}. Follow all prerequisites for 'MySQL as a source in \
         DMS' from {GUIDE}"
    ))
}

impl Server {
    pub(super) async fn ask(client: &mut Client) -> Result<Server> {
        let rows = client
            .rows(
                "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version','server_id','lower_case_table_names','log_bin',\
                 'binlog_format','binlog_row_image')",
            )
            .await?;
        let value = |name: &str| {
            let row = rows.iter().find(|row| row[0].as_deref().is_some_and(|known| known.eq_ignore_ascii_case(name)));
            row.and_then(|row| row[1].clone()).unwrap_or_default()
        };
        Ok(Server {
            version: ServerVersion::parse(&value("version")),
            id: value("server_id").parse().unwrap_or(0),
            fold_names: value("lower_case_table_names").parse().unwrap_or(0),
            log_bin: matches!(value("log_bin").to_ascii_uppercase().as_str(), "ON" | "1"),
            binlog_format: value("binlog_format").to_ascii_uppercase(),
            row_image: value("binlog_row_image").to_ascii_uppercase(),
        })
    }

    /// Whether the log can be read at all, and holds what is needed.
    pub(super) fn check(&self) -> Result<()> {
        if !self.log_bin {
            return Err(misconfigured("the server writes no binary log (log_bin)"));
        }
        if self.binlog_format != "ROW" {
            return Err(misconfigured(&format!("binlog_format is {}, and must be ROW", self.binlog_format)));
        }
        if self.id == 0 {
            return Err(misconfigured("server_id is 0, and must be 1 or more"));
        }
        if !matches!(self.row_image.as_str(), "FULL" | "FULL_NODUP" | "") {
            tracing::warn!(
                binlog_row_image = self.row_image,
                "the log of the source does not have whole rows (DMS asks for binlog_row_image=FULL): columns that an INSERT \
                 leaves to their defaults are missing in it"
            );
        }
        Ok(())
    }
}

/// Where the log ends.
pub(in crate::connector::mysql) async fn log_end(client: &mut Client) -> Result<Position> {
    let rows = match client.rows("SHOW MASTER STATUS").await {
        // MySQL 8.4 has taken the old name away.
        Err(error) if error.native == Some(1064) => client.rows("SHOW BINARY LOG STATUS").await,
        answer => answer,
    };
    let rows = rows.map_err(|error| match error.native {
        Some(1227 | 1045) => Error {
            message: format!(
                "{}: grant REPLICATION CLIENT (MariaDB 10.5 and later: BINLOG MONITOR) to the user of the endpoint",
                error.message
            ),
            ..error.into_kind(ErrorKind::Fatal)
        },
        _ => error,
    })?;
    let row = rows.into_iter().next().ok_or_else(|| misconfigured("the server writes no binary log (log_bin)"))?;
    match row.as_slice() {
        [Some(file), Some(offset), ..] => {
            let offset =
                offset.parse().map_err(|_| Error::recoverable("the server did not tell where its log ends"))?;
            Ok(Position::Binlog { file: file.clone(), offset })
        }
        _ => Err(Error::recoverable("the server did not tell where its log ends")),
    }
}

/// A file of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LogFile {
    pub(super) name: String,
    pub(super) size: u64,
}

/// The files of the log, oldest first.
pub(super) async fn log_files(client: &mut Client) -> Result<Vec<LogFile>> {
    let rows = client.rows("SHOW BINARY LOGS").await?;
    let file = |row: Vec<Option<String>>| {
        let mut row = row.into_iter().flatten();
        Some(LogFile { name: row.next()?, size: row.next()?.parse().ok()? })
    };
    Ok(rows.into_iter().filter_map(file).collect())
}

/// Character sets by the numbers of their collations.
pub(super) async fn collations(client: &mut Client) -> Result<HashMap<u16, String>> {
    let read = |rows: Vec<Vec<Option<String>>>| {
        rows.into_iter().filter_map(|row| match row.as_slice() {
            [Some(number), Some(charset)] => Some((number.parse().ok()?, charset.clone())),
            _ => None,
        })
    };
    let sql = "SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATIONS WHERE ID IS NOT NULL";
    let mut collations: HashMap<u16, String> = read(client.rows(sql).await?).collect();
    // MariaDB 10.10 has moved the numbers of those that are for several character sets.
    let sql = "SELECT ID, CHARACTER_SET_NAME FROM information_schema.COLLATION_CHARACTER_SET_APPLICABILITY";
    match client.rows(sql).await {
        Ok(rows) => collations.extend(read(rows)),
        Err(error) if client.is_busy() => return Err(error),
        Err(_) => {}
    }
    Ok(collations)
}

/// What the catalog says of these tables now. One that is not there is left out.
pub(super) async fn describe(client: &mut Client, names: &[TableName]) -> Result<Vec<Stored>> {
    let entries: Vec<TableEntry> =
        names.iter().map(|name| TableEntry { name: name.clone(), kind: TableKind::Table }).collect();
    let mut described = Vec::new();
    for some in entries.chunks(DESCRIBED_AT_ONCE) {
        described.extend(stored(client, some).await.map_err(|error| error.while_doing("describe tables"))?);
    }
    Ok(described)
}

/// The character sets of new tables of these schemas.
pub(super) async fn schema_texts(client: &mut Client, names: &[TableName]) -> Result<HashMap<String, TextDefault>> {
    let mut schemas: Vec<String> = names.iter().map(|name| quote_text(&name.schema)).collect();
    schemas.sort_unstable();
    schemas.dedup();
    let sql = format!(
        "SELECT SCHEMA_NAME, DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA \
         WHERE SCHEMA_NAME IN ({})",
        schemas.join(",")
    );
    let text = |row: Vec<Option<String>>| match <[Option<String>; 3]>::try_from(row) {
        Ok([Some(schema), Some(charset), collation]) => Some((schema, TextDefault { charset, collation })),
        _ => None,
    };
    Ok(client.rows(&sql).await?.into_iter().filter_map(text).collect())
}

/// The clock of the session's time zone, as the server itself counts it.
///
/// The server is asked how far ahead of UTC the clock is in each week, and where it changes, to the second when.
pub(super) async fn zone(client: &mut Client) -> Result<Zone> {
    const WEEK: i64 = 7 * 86_400;
    /// The last second of a TIMESTAMP, of MariaDB 11.5 on 64 bits.
    const END: i64 = u32::MAX as i64;
    let name = client.rows("SELECT @@session.time_zone").await?;
    if name.first().and_then(|row| row[0].as_deref()) == Some("+00:00") {
        return Ok(Zone::default());
    }
    let weeks: Vec<i64> = (1..END).step_by(WEEK as usize).collect();
    let mut seconds: Vec<(i64, i32)> = Vec::new();
    for some in weeks.chunks(ASKED_AT_ONCE) {
        seconds.extend(ahead(client, some).await?);
    }
    // Seconds between which the clock changes, and how it is before and after.
    let mut changes: Vec<[(i64, i32); 2]> =
        seconds.windows(2).filter(|pair| pair[0].1 != pair[1].1).map(|pair| [pair[0], pair[1]]).collect();
    while changes.iter().any(|[before, after]| after.0 - before.0 > 1) {
        for some in changes.chunks_mut(ASKED_AT_ONCE) {
            let middles: Vec<i64> = some.iter().map(|[before, after]| (before.0 + after.0) / 2).collect();
            let found: HashMap<i64, i32> = ahead(client, &middles).await?.into_iter().collect();
            for ([before, after], middle) in some.iter_mut().zip(middles) {
                match found.get(&middle) {
                    Some(seconds) if *seconds == before.1 => *before = (middle, before.1),
                    Some(seconds) => *after = (middle, *seconds),
                    None => return Err(Error::recoverable("the server did not tell its clock")),
                }
            }
        }
    }
    let first = seconds.first().map(|(_, ahead)| (i64::MIN, *ahead));
    Ok(Zone { changes: first.into_iter().chain(changes.into_iter().map(|[_, after]| after)).collect() })
}

const ASKED_AT_ONCE: usize = 1000;

/// How many seconds the clock is ahead of UTC at each of these. Those that the server has no time for are left out.
async fn ahead(client: &mut Client, seconds: &[i64]) -> Result<Vec<(i64, i32)>> {
    let question =
        |second: &i64| format!("TIMESTAMPDIFF(SECOND, '1970-01-01 00:00:00', FROM_UNIXTIME({second})) - {second}");
    let list: Vec<String> = seconds.iter().map(question).collect();
    let row = client.rows(&format!("SELECT {}", list.join(","))).await?.into_iter().next().unwrap_or_default();
    let answers = row.into_iter().map(|ahead| ahead.and_then(|ahead| ahead.parse().ok()));
    Ok(seconds.iter().zip(answers).filter_map(|(second, ahead)| Some((*second, ahead?))).collect())
}
