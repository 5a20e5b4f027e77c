//! Replication slots: what makes the server keep its log for a task.
//! <https://www.postgresql.org/docs/current/view-pg-replication-slots.html>

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::wire::{Client, Rows};
use super::{Endpoint, sql};
use crate::connector::Capture;
use crate::data::{Error, ErrorKind, Position, Result};

/// How long a session that holds our slot may take to go by itself, and then when it was told to; and how often that is
/// looked at.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const BUSY_INTERVAL: Duration = Duration::from_millis(20);

const NO_SUCH_SLOT: &str = "42704";
const SLOT_IN_USE: &str = "55006";
const NOT_IN_STATE: &str = "55000";
const NO_PRIVILEGE: &str = "42501";
const NO_SUCH_FILE: &str = "58P01";
const LIMIT_REACHED: &str = "53400";
const TOO_MANY_CONNECTIONS: &str = "53300";

/// Versions since which there is something to ask.
const PID_SINCE: u32 = 90_500;
const CONFIRMED_SINCE: u32 = 90_600;
const TEMPORARY_SINCE: u32 = 100_000;
const STATUS_SINCE: u32 = 130_000;
const REASON_SINCE: u32 = 170_000;

/// What puts the server's log into the form that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    PgOutput,
    Pglogical,
    TestDecoding,
}

impl Plugin {
    const ALL: [Plugin; 3] = [Plugin::PgOutput, Plugin::Pglogical, Plugin::TestDecoding];

    /// As the server knows it.
    pub fn name(self) -> &'static str {
        match self {
            Plugin::PgOutput => "pgoutput",
            Plugin::Pglogical => "pglogical_output",
            Plugin::TestDecoding => "test_decoding",
        }
    }
}

/// The name of a task's own slot, made like DMS's: the beginning of the task's name, eight digits and a UUID. The same for
/// a task at any time, so that no slot is ever left that nobody knows of.
pub fn own_name(task: &str) -> String {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, task.as_bytes());
    let beginning: String = task.to_lowercase().chars().filter(char::is_ascii_alphanumeric).take(16).collect();
    let digits = id.as_u64_pair().1 % 100_000_000;
    format!("{beginning}_{digits:08}_{}", id.hyphenated().to_string().replace('-', "_"))
}

/// The beginning of [`own_name`], without the UUID with which other names would be longer than the server keeps.
pub fn short_name(task: &str) -> String {
    let name = own_name(task);
    name[..name.len().saturating_sub(37)].to_owned()
}

/// The slot that a task reads from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    Own(String),
    /// `SlotName`: made by the user, and never dropped by us.
    Given(String),
}

/// A slot as the server has it.
#[derive(Debug)]
pub struct Found {
    name: String,
    plugin: Option<String>,
    /// It is of the database that is asked.
    here: bool,
    /// The process that reads from it.
    reader: Option<String>,
    /// The server has forgotten what is before this place.
    pub confirmed: Option<Position>,
    /// Why the server does not have the log any more.
    lost: Option<String>,
}

impl Slot {
    pub fn of(endpoint: &Endpoint, task: &str) -> Slot {
        match &endpoint.settings.slot_name {
            Some(name) => Slot::Given(name.clone()),
            None => Slot::Own(own_name(task)),
        }
    }

    pub fn name(&self) -> &str {
        let (Slot::Own(name) | Slot::Given(name)) = self;
        name
    }

    pub async fn find(&self, client: &mut Client) -> Result<Option<Found>> {
        find(client, self.name()).await
    }

    /// The slot, ready to be read from. Waits for a session of ours that has not gone yet, and ends it where it holds a
    /// slot that nobody else knows of.
    pub async fn claim(&self, client: &mut Client) -> Result<(Found, Plugin)> {
        let told_to = Instant::now() + LEAVE_TIMEOUT;
        let given_up = match self {
            Slot::Own(_) => told_to + BUSY_TIMEOUT,
            Slot::Given(_) => told_to,
        };
        loop {
            let Some(found) = self.find(client).await? else { return Err(self.missing()) };
            let plugin = found.plugin()?;
            let Some(reader) = &found.reader else { return Ok((found, plugin)) };
            if Instant::now() >= given_up {
                let what = format!("replication slot {} is in use by another session (process {reader})", found.name);
                return Err(Error::recoverable(what).with_sqlstate(SLOT_IN_USE));
            }
            if let Slot::Own(name) = self
                && Instant::now() >= told_to
            {
                // It is ours, of a process that died or a connection that broke: the server has not noticed yet.
                end_reader(client, name).await?;
            }
            // There is nothing to wait on.
            sleep(BUSY_INTERVAL).await;
        }
    }

    pub fn missing(&self) -> Error {
        let name = self.name();
        Error::fatal(match self {
            Slot::Own(_) => format!(
                "replication slot {name} does not exist any more, and with it the log since the task stopped: \
                 the task has to be started anew"
            ),
            Slot::Given(_) => format!("replication slot {name}, which SlotName names, does not exist"),
        })
    }
}

impl Found {
    /// What the slot is read with.
    pub fn plugin(&self) -> Result<Plugin> {
        let name = &self.name;
        let Some(plugin) = &self.plugin else {
            return Err(Error::fatal(format!("replication slot {name} is a physical one: a logical one is needed")));
        };
        if !self.here {
            return Err(Error::fatal(format!("replication slot {name} belongs to another database")));
        }
        if let Some(reason) = &self.lost {
            return Err(Error::fatal(format!(
                "replication slot {name} has lost the log that it was to keep ({reason}): \
                 the task has to be started anew; a larger max_slot_wal_keep_size keeps more"
            )));
        }
        Plugin::ALL.into_iter().find(|known| known.name() == plugin).ok_or_else(|| {
            let what = format!("replication slot {name} was made for the plugin {plugin}");
            Error::fatal(format!("{what}: pgoutput, pglogical_output and test_decoding can be read"))
        })
    }

    /// Whether the log can be read from a place: the server passes over what was confirmed, without a word.
    pub fn check_place(&self, from: &Position) -> Result<()> {
        match &self.confirmed {
            Some(confirmed) if from < confirmed => Err(Error::fatal(format!(
                "the log cannot be read from {from}: replication slot {} has it only from {confirmed} on",
                self.name
            ))),
            _ => Ok(()),
        }
    }
}

async fn find(client: &mut Client, name: &str) -> Result<Option<Found>> {
    let since = |version: u32, column: &'static str| if client.version() >= version { column } else { "NULL" };
    let statement = format!(
        "SELECT plugin, datoid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()), \
         CASE WHEN active THEN coalesce({}::text, '?') END, {}, {}, {} \
         FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        since(PID_SINCE, "active_pid"),
        since(CONFIRMED_SINCE, "confirmed_flush_lsn"),
        since(STATUS_SINCE, "wal_status"),
        since(REASON_SINCE, "invalidation_reason"),
        sql::literal(name)
    );
    let Some(row) = client.query(&statement).await?.pop() else { return Ok(None) };
    let mut row = row.into_iter();
    let mut next = || row.next().flatten();
    let (plugin, here, reader) = (next(), next().as_deref() == Some("t"), next());
    let confirmed = next().and_then(|lsn| lsn.parse().ok());
    let lost = next().filter(|status| status == "lost").map(|_| "max_slot_wal_keep_size was exceeded".to_owned());
    let reason = next().map(|reason| match reason.as_str() {
        "wal_removed" => "max_slot_wal_keep_size was exceeded".to_owned(),
        _ => reason,
    });
    Ok(Some(Found { name: name.to_owned(), plugin, here, reader, confirmed, lost: reason.or(lost) }))
}

/// A slot that was just made.
pub struct Created {
    /// Its session; a temporary slot and the snapshot go with it.
    pub session: Client,
    /// The log begins here.
    pub position: Position,
    /// What shows the database as it is at that place.
    pub snapshot: String,
}

/// Makes the task's own slot.
pub async fn create(endpoint: &Endpoint, capture: &Capture, plugin: Plugin) -> Result<Created> {
    let session = log_in(endpoint).await?;
    create_in(session, &own_name(&capture.task), "", plugin, capture.transactions_timeout).await
}

/// Makes a slot that goes with its session: a place in the log and what the database looks like there.
pub async fn create_temporary(endpoint: &Endpoint, capture: &Capture, plugin: Plugin) -> Result<Created> {
    let session = log_in(endpoint).await?;
    if session.version() < TEMPORARY_SINCE {
        return Err(Error::fatal("tables cannot be loaded while changes are captured before version 10 of PostgreSQL"));
    }
    let name = format!("dms_{}", Uuid::new_v4().simple());
    create_in(session, &name, " TEMPORARY", plugin, capture.transactions_timeout).await
}

async fn log_in(endpoint: &Endpoint) -> Result<Client> {
    connect(endpoint).await.map_err(|error| match error.sqlstate.as_deref() {
        Some(TOO_MANY_CONNECTIONS) if error.message.contains("max_wal_senders") => error.into_kind(ErrorKind::Fatal),
        _ => error,
    })
}

/// A session of the replication protocol.
pub async fn connect(endpoint: &Endpoint) -> Result<Client> {
    let refused = |error: Error| match error.sqlstate.as_deref() {
        Some(NO_PRIVILEGE) => {
            advised(error, "the user needs the attribute REPLICATION; on RDS, the role rds_replication")
        }
        Some(TOO_MANY_CONNECTIONS) => advised(error, "a higher max_wal_senders may be needed"),
        _ => error,
    };
    endpoint.connect_for_replication().await.map_err(refused)
}

/// A slot comes into being when all transactions have ended that are open now; `wait` is how long that may take.
async fn create_in(
    mut session: Client,
    name: &str,
    temporary: &str,
    plugin: Plugin,
    wait: Duration,
) -> Result<Created> {
    // Older servers export a snapshot without being asked.
    let export = if session.version() < TEMPORARY_SINCE { "" } else { " EXPORT_SNAPSHOT" };
    // A name may begin with a digit.
    let name = sql::identifier(name);
    let command = format!("CREATE_REPLICATION_SLOT {name}{temporary} LOGICAL {}{export}", plugin.name());
    let answer = match timeout(wait, session.query_untimed(&command)).await {
        Ok(answer) => answer.map_err(|error| refused(error, plugin))?,
        Err(_) => {
            let what = format!(
                "transactions that were open on the source did not end within {} s (TransactionConsistencyTimeout)",
                wait.as_secs()
            );
            return Err(Error::recoverable(what));
        }
    };
    let mut row = answer.into_iter().next().unwrap_or_default().into_iter().skip(1).flatten();
    let (Some(lsn), Some(snapshot)) = (row.next(), row.next()) else {
        return Err(Error::fatal("the server told no snapshot of the new replication slot"));
    };
    let position = lsn.parse().map_err(|error| Error::fatal(format!("{error}")))?;
    Ok(Created { session, position, snapshot })
}

/// Why a slot was not made, and what would help.
fn refused(error: Error, plugin: Plugin) -> Error {
    let advice = match error.sqlstate.as_deref() {
        Some(NOT_IN_STATE) if error.message.contains("wal_level") => {
            "set wal_level = logical and restart the server; on RDS, rds.logical_replication = 1"
        }
        Some(LIMIT_REACHED) => "set a higher max_replication_slots or drop slots that nobody uses",
        Some(NO_PRIVILEGE) => "the user needs the attribute REPLICATION; on RDS, the role rds_replication",
        Some(NO_SUCH_FILE) => {
            let advice = format!("the server does not have the output plugin {}", plugin.name());
            return advised(error, &advice).into_kind(ErrorKind::Fatal);
        }
        _ => return error,
    };
    advised(error, advice).into_kind(ErrorKind::Fatal)
}

fn advised(mut error: Error, advice: &str) -> Error {
    error.message = format!("{} ({advice})", error.message);
    error
}

/// Drops the task's own slot; none being there is no error.
pub async fn drop(client: &mut Client, task: &str) -> Result<()> {
    let name = own_name(task);
    let drop = format!(
        "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        sql::literal(&name)
    );
    let given_up = Instant::now() + BUSY_TIMEOUT;
    loop {
        // A session that streams from it is ours, of a process that died: the server may not have noticed yet.
        end_reader(client, &name).await?;
        match client.query(&drop).await {
            Ok(_) => return Ok(()),
            Err(error) if error.sqlstate.as_deref() == Some(NO_SUCH_SLOT) => return Ok(()),
            // The session that was told to go has not gone yet, and there is nothing to wait on.
            Err(error) if error.sqlstate.as_deref() == Some(SLOT_IN_USE) && Instant::now() < given_up => {
                sleep(BUSY_INTERVAL).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn end_reader(client: &mut Client, name: &str) -> Result<Rows> {
    if client.version() < PID_SINCE {
        return Ok(Rows::new());
    }
    let stop = format!(
        "SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots \
         WHERE slot_name = {} AND active",
        sql::literal(name)
    );
    client.query(&stop).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_a_slot_like_dms_and_always_the_same() {
        let name = own_name("Y2R2KWWLCFENFE4LABCDEFGHIJ");
        let pattern = regex_lite::Regex::new("^y2r2kwwlcfenfe4l_[0-9]{8}_[0-9a-f]{8}(_[0-9a-f]{4}){3}_[0-9a-f]{12}$");
        assert!(pattern.unwrap().is_match(&name), "{name}");
        assert_eq!(name, own_name("Y2R2KWWLCFENFE4LABCDEFGHIJ"));
        assert_ne!(name, own_name("Y2R2KWWLCFENFE4LABCDEFGHIK"));
        assert!(name.starts_with(&short_name("Y2R2KWWLCFENFE4LABCDEFGHIJ")));
        assert_eq!(short_name("Y2R2KWWLCFENFE4LABCDEFGHIJ").len(), 25);
    }

    #[test]
    fn a_place_that_was_confirmed_is_refused() {
        let found = Found {
            name: "s".into(),
            plugin: Some("wal2json".into()),
            here: true,
            reader: None,
            confirmed: Some(Position::Lsn(0x10)),
            lost: None,
        };
        assert!(found.check_place(&Position::Lsn(0x10)).is_ok());
        let error = found.check_place(&Position::Lsn(0xf)).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Fatal);
        assert_eq!(error.message, "the log cannot be read from 0/F: replication slot s has it only from 0/10 on");
        assert!(found.plugin().unwrap_err().message.contains("wal2json"));
    }
}
