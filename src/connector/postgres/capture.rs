//! What a task has on its source: a slot, publications or replication sets, and the record of statements that define
//! tables.
//!
//! A replication slot makes the server keep its log and gives the snapshot that the log begins after. What is read
//! through pgoutput is published, too, and what is read through pglogical is in replication sets. All but the record goes
//! when the task is deleted; that is left, as DMS leaves it.
//! <https://www.postgresql.org/docs/current/protocol-replication.html>

use super::ddl::{self, AUDIT_TABLE};
use super::publication::{self, Candidate, Lacking, candidates, publish, publishable};
use super::replication_set;
use super::settings::PluginChoice;
use super::slot::{self, Created, Plugin, Slot};
use super::snapshot::PostgresSnapshot;
use super::source::PostgresSource;
use super::stream::check_origins;
use super::wire::Client;
use super::{Endpoint, check_version, sql};
use crate::connector::{Adoption, Beginning, Capture, StartPoint};
use crate::data::{Error, ErrorKind, Position, Result, TableName};

/// Versions since which there is something to ask.
const FLUSH_SINCE: u32 = 100_000;

pub async fn begin(endpoint: &Endpoint, capture: &Capture, readers: usize) -> Result<Beginning> {
    let doing = |error: Error| error.while_doing("start the capture of changes");
    let Created { session, position, snapshot } = start(endpoint, capture).await.map_err(doing)?;
    let snapshot = PostgresSnapshot::of(endpoint.clone(), snapshot, session, readers).await?;
    Ok(Beginning { snapshot: Box::new(snapshot), position })
}

pub async fn begin_at(endpoint: &Endpoint, capture: &Capture, start: &StartPoint) -> Result<Position> {
    let doing = |error: Error| error.while_doing("start the capture of changes");
    match start {
        StartPoint::Now => self::start(endpoint, capture).await.map(|created| created.position).map_err(doing),
        // The user guide: "a custom start time is not supported".
        StartPoint::Time(_) => Err(doing(Error::fatal(
            "changes of a PostgreSQL source cannot be captured from a time on: \
             CdcStartPosition takes an LSN, with SlotName naming a slot that has it",
        ))),
        StartPoint::At(position) => start_at(endpoint, capture, position).await.map_err(doing),
    }
}

/// Makes all that a task needs. The place is where the task's log begins, also in a slot that is older.
async fn start(endpoint: &Endpoint, capture: &Capture) -> Result<Created> {
    let mut client = endpoint.connect().await?;
    check_version(&client)?;
    let slot = Slot::of(endpoint, &capture.task);
    let chosen = match &slot {
        Slot::Given(_) => Some(slot.claim(&mut client).await?.1),
        Slot::Own(_) => None,
    };
    let plugin = prepare(endpoint, &mut client, capture, chosen).await?;
    match slot {
        Slot::Own(_) => slot::create(endpoint, capture, plugin).await,
        // What was open when the publications came into being does not know them, and has ended when this is made.
        Slot::Given(_) => slot::create_temporary(endpoint, capture, plugin).await,
    }
}

async fn start_at(endpoint: &Endpoint, capture: &Capture, position: &Position) -> Result<Position> {
    let Position::Lsn(_) = position else {
        return Err(Error::fatal(format!("{position} is no position in the log of PostgreSQL")));
    };
    let slot = Slot::of(endpoint, &capture.task);
    if let Slot::Own(_) = slot {
        let what = "SlotName has to name a replication slot that has it";
        return Err(Error::fatal(format!("the log cannot be read from {position}: {what}")));
    }
    let mut client = endpoint.connect().await?;
    check_version(&client)?;
    let (found, plugin) = slot.claim(&mut client).await?;
    found.check_place(position)?;
    if plugin == Plugin::Pglogical {
        replication_set::check(&mut client).await?;
        let candidates = candidates(&mut client, &names(capture)).await?;
        replication_set::check_place(&mut client, &slot, position, &candidates).await?;
    }
    prepare(endpoint, &mut client, capture, Some(plugin)).await?;
    Ok(position.clone())
}

/// Takes away what an earlier run has left and makes all but the slot, for the plugin of the slot or a new one. The
/// publications and sets that go with a slot of the user stay: its log may be read again from where they were there
/// already.
async fn prepare(
    endpoint: &Endpoint,
    client: &mut Client,
    capture: &Capture,
    chosen: Option<Plugin>,
) -> Result<Plugin> {
    let is_pglogical = match chosen {
        Some(plugin) => plugin == Plugin::Pglogical,
        None => endpoint.settings.plugin == PluginChoice::Pglogical,
    };
    if is_pglogical {
        replication_set::check(client).await?;
        check_encoding(client, Plugin::Pglogical).await?;
    }
    // `SlotName` may name the slot that the task has made for itself before.
    if endpoint.settings.slot_name.as_ref() != Some(&slot::own_name(&capture.task)) {
        slot::drop(client, &capture.task).await?;
    }
    if chosen.is_none() {
        publication::drop_all(client, &capture.task).await?;
        replication_set::drop_all(client, &capture.task).await?;
    }
    let recorded = endpoint.settings.capture_ddls && ddl::record(endpoint).await?;
    let candidates = candidates(client, &names(capture)).await?;
    let plugin = match chosen {
        Some(plugin) => plugin,
        None => match &endpoint.settings.plugin {
            PluginChoice::TestDecoding => Plugin::TestDecoding,
            PluginChoice::PgOutput => Plugin::PgOutput,
            PluginChoice::NoPreference
                if check_origins(endpoint, Plugin::PgOutput, client.version()).is_ok()
                    && publication::suits(client, capture, &candidates).await? =>
            {
                Plugin::PgOutput
            }
            PluginChoice::NoPreference => Plugin::TestDecoding,
            PluginChoice::Pglogical => Plugin::Pglogical,
            PluginChoice::Other(name) => {
                let what = format!("PluginName {name} is not supported");
                return Err(Error::fatal(format!("{what}: pglogical, pgoutput and test-decoding are")));
            }
        },
    };
    check_origins(endpoint, plugin, client.version())?;
    match plugin {
        Plugin::PgOutput => {
            let audit = if recorded { audit_table(endpoint, client).await? } else { None };
            publish(client, capture, &candidates, audit.as_ref()).await.map_err(|error| refused(error, "publish"))?;
        }
        Plugin::Pglogical => {
            let slot = Slot::of(endpoint, &capture.task);
            let audit = recorded.then(|| TableName::new(&endpoint.settings.ddl_artifacts_schema, AUDIT_TABLE));
            let added = replication_set::add(client, &slot, capture, &candidates, audit.as_ref()).await;
            added.map_err(|error| refused(error, "take into replication sets"))?;
        }
        Plugin::TestDecoding => check_encoding(client, plugin).await?,
    }
    Ok(plugin)
}

fn refused(error: Error, what: &str) -> Error {
    match error.kind {
        ErrorKind::Recoverable => error,
        _ => error.into_kind(ErrorKind::Fatal).while_doing(format!("{what} the tables")),
    }
}

/// The table of recorded statements, if the user may publish it.
async fn audit_table(endpoint: &Endpoint, client: &mut Client) -> Result<Option<TableName>> {
    let table = TableName::new(&endpoint.settings.ddl_artifacts_schema, AUDIT_TABLE);
    let owned = format!(
        "SELECT pg_catalog.pg_has_role(c.relowner, 'USAGE') FROM pg_catalog.pg_class c \
         WHERE c.oid = {}::pg_catalog.regclass",
        sql::literal(&sql::table(&table))
    );
    if client.query(&owned).await?.pop().and_then(|mut row| row.pop()).flatten().as_deref() == Some("t") {
        return Ok(Some(table));
    }
    tracing::warn!(%table, "statements that define tables are recorded in a table that is another user's: they are not seen");
    Ok(None)
}

/// What test_decoding and pglogical write comes as it is stored.
async fn check_encoding(client: &mut Client, plugin: Plugin) -> Result<()> {
    let encoding = client.query("SELECT pg_catalog.getdatabaseencoding()").await?.pop().and_then(|mut row| row.pop());
    match encoding.flatten().as_deref() {
        Some("UTF8") => Ok(()),
        Some("SQL_ASCII") if plugin == Plugin::TestDecoding => Ok(()),
        other => Err(Error::fatal(format!(
            "{} sends text as it is stored, which can be read from databases of the encoding UTF8: this one is of {}",
            plugin.name(),
            other.unwrap_or_default()
        ))),
    }
}

/// A snapshot of a place in the log that is read already. The tables of `capture` are to be loaded from it, and are
/// published as they are now before: all that changes in them from there on is in the log.
pub async fn snapshot_in_log(endpoint: &Endpoint, capture: &Capture, readers: usize) -> Result<Beginning> {
    let doing = |error: Error| error.while_doing("open a snapshot at a place in the log");
    let mut client = endpoint.connect().await?;
    let slot = Slot::of(endpoint, &capture.task);
    let found = slot.find(&mut client).await.map_err(doing)?.ok_or_else(|| doing(slot.missing()))?;
    let plugin = found.plugin().map_err(doing)?;
    if plugin != Plugin::TestDecoding && !capture.tables.is_empty() {
        let found = candidates(&mut client, &names(capture)).await.map_err(doing)?;
        let (suiting, _) = suiting(&client, plugin, capture, found);
        match plugin {
            Plugin::Pglogical => {
                replication_set::add(&mut client, &slot, capture, &suiting, None).await.map_err(doing)?
            }
            _ => publish(&mut client, capture, &suiting, None).await.map_err(doing)?,
        }
    }
    let created = slot::create_temporary(endpoint, capture, plugin).await.map_err(doing)?;
    let Created { session, position, snapshot } = created;
    let snapshot = PostgresSnapshot::of(endpoint.clone(), snapshot, session, readers).await?;
    Ok(Beginning { snapshot: Box::new(snapshot), position })
}

/// Where the log ends that the server sends: what has committed by now lies before it.
pub async fn log_end(endpoint: &Endpoint) -> Result<Position> {
    let doing = |error: Error| error.while_doing("find the end of the log");
    let mut client = endpoint.connect().await.map_err(doing)?;
    let place = match client.version() >= FLUSH_SINCE {
        true => {
            "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
             ELSE pg_catalog.pg_current_wal_flush_lsn() END, \
             CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_insert_lsn() END"
        }
        false => "SELECT pg_catalog.pg_current_xlog_location(), NULL",
    };
    let (flushed, written) = places(&mut client, place).await.map_err(doing)?;
    if written.is_none_or(|written| written <= flushed) {
        return Ok(flushed);
    }
    // A commit may be visible before it is flushed (`synchronous_commit = off`), and it is sent only then.
    let flush = "BEGIN; SET LOCAL synchronous_commit = local; \
                 SELECT pg_catalog.pg_logical_emit_message(true, 'dms-local', ''); COMMIT";
    client.query(flush).await.map_err(doing)?;
    Ok(places(&mut client, place).await.map_err(doing)?.0)
}

async fn places(client: &mut Client, question: &str) -> Result<(Position, Option<Position>)> {
    let row = client.query(question).await?.pop().unwrap_or_default();
    let mut places = row.into_iter().map(|lsn| lsn.and_then(|lsn| lsn.parse::<Position>().ok()));
    let first = places.next().flatten().ok_or_else(|| Error::fatal("the server told no place in its log"))?;
    Ok((first, places.next().flatten()))
}

/// Takes tables into what is read.
pub async fn adopt(source: &PostgresSource, capture: &Capture, tables: &[TableName]) -> Result<Adoption> {
    let doing = |error: Error| error.while_doing("take tables into the capture of changes");
    let mut client = source.endpoint().connect().await.map_err(doing)?;
    let slot = Slot::of(source.endpoint(), &capture.task);
    let found = slot.find(&mut client).await.map_err(doing)?.ok_or_else(|| doing(slot.missing()))?;
    let plugin = found.plugin().map_err(doing)?;
    match plugin {
        Plugin::PgOutput | Plugin::Pglogical => {
            // Of those that the reader is not told of it tells that they are lacking.
            let found = candidates(&mut client, tables).await.map_err(doing)?;
            let (mut all, lacking) = suiting(&client, plugin, capture, found);
            lacking.into_iter().for_each(|(table, _)| source.note_lacking(table));
            if plugin == Plugin::Pglogical {
                replication_set::add(&mut client, &slot, capture, &all, None).await.map_err(doing)?;
                return Ok(Adoption::FromNow);
            }
            // A partition that is captured by itself changes how its parent is published; nothing else has changed.
            let known: Vec<TableName> = names(capture).into_iter().filter(|name| !tables.contains(name)).collect();
            let lacking = publication::review(&mut client, capture, &known).await.map_err(doing)?;
            let mut known = candidates(&mut client, &known).await.map_err(doing)?;
            known.retain(|known| !lacking.iter().any(|(table, _)| *table == known.name));
            known.append(&mut all);
            publish(&mut client, capture, &known, None).await.map_err(doing)?;
            Ok(Adoption::FromNow)
        }
        // Rows that a table had under a name that is not captured are nowhere in what was read.
        Plugin::TestDecoding if tables.iter().any(|table| source.was_renamed(table)) => Ok(Adoption::FromNow),
        Plugin::TestDecoding => Ok(Adoption::InLog),
    }
}

/// Those of which all changes can be had, and the others.
fn suiting(
    client: &Client,
    plugin: Plugin,
    capture: &Capture,
    candidates: Vec<Candidate>,
) -> (Vec<Candidate>, Vec<Lacking>) {
    match plugin {
        Plugin::PgOutput => publishable(client, capture, candidates),
        Plugin::Pglogical => replication_set::suiting(capture, candidates),
        Plugin::TestDecoding => (candidates, Vec::new()),
    }
}

/// Looks at tables again that may be others since they were taken into what is read.
pub async fn review(
    endpoint: &Endpoint,
    client: &mut Client,
    plugin: Plugin,
    capture: &Capture,
    names: &[TableName],
) -> Result<Vec<Lacking>> {
    match plugin {
        Plugin::PgOutput => publication::review(client, capture, names).await,
        Plugin::Pglogical => replication_set::review(client, &Slot::of(endpoint, &capture.task), capture, names).await,
        Plugin::TestDecoding => Ok(Vec::new()),
    }
}

pub fn names(capture: &Capture) -> Vec<TableName> {
    capture.tables.iter().map(|table| table.name.clone()).collect()
}

/// Drops the slot, the publications and the replication sets of a task. An error names what may be left.
pub async fn end(endpoint: &Endpoint, task: &str) -> Result<()> {
    let (slot, short) = (slot::own_name(task), slot::short_name(task));
    let what = format!("drop replication slot {slot}, its replication sets and the publications dms_{short}…");
    let doing = |error: Error| error.while_doing(&what);
    let mut client = endpoint.connect().await.map_err(doing)?;
    slot::drop(&mut client, task).await.map_err(doing)?;
    publication::drop_all(&mut client, task).await.map_err(doing)?;
    replication_set::drop_all(&mut client, task).await.map_err(doing)
}
