//! Replication sets: which tables' changes pglogical sends.
//!
//! A task has two, named after its slot as DMS names them: `{slot}`, which sends what is updated and deleted, for tables
//! whose rows can be told apart, and `i{slot}`, which sends what is inserted and that a table was emptied, for all. Sets
//! named after a slot of the user are read beside the task's own and never changed. A set belongs to the database's
//! node of pglogical, which is made where there is none.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.PostgreSQL.html>, <https://github.com/2ndQuadrant/pglogical>

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::publication::{Candidate, Lacking, candidates};
use super::slot::{self, Slot};
use super::sql;
use super::wire::Client;
use crate::connector::Capture;
use crate::data::{Error, ErrorKind, Position, Result, TableName};

/// The node that is made. DMS's guide has users make theirs for a slot of their own and does not say what DMS does
/// otherwise: that it makes one is a guess.
const NODE: &str = "dms_local";

/// Sets that every node has.
const PREDEFINED: &str = "'default', 'default_insert_only', 'ddl_sql'";

/// The first major version whose tables are those that are asked here.
const VERSION_MIN: u32 = 2;

/// A table is taken into a set while nobody writes to it, and whoever wants to write meanwhile waits behind us: so we
/// wait this long at once, and let the others pass for as long.
const LOCK_TIMEOUT_MS: u32 = 1000;
const LOCK_INTERVAL: Duration = Duration::from_secs(1);

const LOCK_NOT_AVAILABLE: &str = "55P03";
const NO_PRIVILEGE: &str = "42501";
const NO_SUCH_TABLE: &str = "42P01";

/// The names of two sets.
struct Pair {
    updates: String,
    inserts: String,
}

impl Pair {
    fn of(slot: &str) -> Pair {
        Pair { updates: slot.to_owned(), inserts: format!("i{slot}") }
    }

    fn literals(&self) -> String {
        format!("{}, {}", sql::literal(&self.updates), sql::literal(&self.inserts))
    }
}

/// The sets that a task reads.
struct Sets {
    own: Pair,
    /// Named after a slot of the user.
    given: Option<Pair>,
}

impl Sets {
    fn of(slot: &Slot, task: &str) -> Sets {
        let given = match slot {
            Slot::Own(_) => None,
            Slot::Given(name) => Some(Pair::of(name)),
        };
        Sets { own: Pair::of(&slot::own_name(task)), given }
    }

    fn literals(&self) -> String {
        std::iter::once(&self.own).chain(&self.given).map(Pair::literals).collect::<Vec<_>>().join(", ")
    }
}

/// What the sets send of a table.
#[derive(Clone, Copy, Default)]
struct Sent {
    inserts: bool,
    updates: bool,
    /// The task's own set sends updates.
    own_updates: bool,
}

/// Why pglogical cannot be read here, and what would help.
pub async fn check(client: &mut Client) -> Result<()> {
    let question = "SELECT (SELECT pg_catalog.count(*) FROM pg_catalog.pg_available_extensions WHERE name = 'pglogical'), \
         (SELECT pg_catalog.count(*) FROM pg_catalog.pg_settings WHERE name = 'pglogical.conflict_resolution'), \
         (SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'pglogical'), \
         pg_catalog.current_database()";
    // That the library is loaded shows by a setting of its own: shared_preload_libraries itself not everybody may see.
    let mut row = client.query(question).await?.pop().unwrap_or_default().into_iter();
    let mut next = || row.next().flatten();
    let (available, loaded, version, database) = (next(), next(), next(), next().unwrap_or_default());
    let is_none = |count: Option<String>| count.as_deref() == Some("0");
    let what = if is_none(available) {
        "the server does not have the extension pglogical: install it (Debian: postgresql-NN-pglogical), or PluginName \
         may be test-decoding or pgoutput"
            .to_owned()
    } else if is_none(loaded) {
        "the server has not loaded pglogical: add it to shared_preload_libraries and restart the server; on RDS, in the \
         parameter group"
            .to_owned()
    } else {
        match &version {
            None => format!("the extension is not in database {database}: run CREATE EXTENSION pglogical in it"),
            Some(version) if major(version) < VERSION_MIN => {
                format!(
                    "database {database} has pglogical {version}: version 2 is needed (ALTER EXTENSION pglogical UPDATE)"
                )
            }
            Some(_) => return Ok(()),
        }
    };
    Err(Error::fatal(format!("PluginName pglogical: {what}")))
}

fn major(version: &str) -> u32 {
    version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
}

/// Why not all of a table's changes can be had through pglogical.
fn hindrance(candidate: &Candidate, capture: &Capture) -> Option<String> {
    let name = &candidate.name;
    if !candidate.logged {
        return None;
    }
    if candidate.partitioned && !candidate.is_captured_in_parts(capture) {
        return Some(format!(
            "partitioned table {name} cannot be captured with pglogical: its partitions can, or PluginName may be \
             test-decoding or pgoutput"
        ));
    }
    // Else it would be captured without its updates and deletes, for which somebody has made it so.
    (candidate.by_whole_rows && !candidate.partitioned).then(|| {
        format!(
            "table {name} has REPLICA IDENTITY FULL, which pglogical does not support: let it be DEFAULT or USING INDEX, or \
             PluginName may be test-decoding or pgoutput"
        )
    })
}

/// Those that can be taken into sets, and the others.
pub fn suiting(capture: &Capture, candidates: Vec<Candidate>) -> (Vec<Candidate>, Vec<Lacking>) {
    let (mut suiting, mut lacking) = (Vec::new(), Vec::new());
    for candidate in candidates {
        match hindrance(&candidate, capture) {
            None => suiting.push(candidate),
            Some(reason) => lacking.push((candidate.name, reason)),
        }
    }
    (suiting, lacking)
}

/// Makes the task's own sets, and the node, where they are missing, and takes tables into those that they belong to.
/// `audit` is the table of statements that define tables; what is in a set already stays.
pub async fn add(
    client: &mut Client,
    slot: &Slot,
    capture: &Capture,
    candidates: &[Candidate],
    audit: Option<&TableName>,
) -> Result<()> {
    if let Some(reason) = candidates.iter().find_map(|candidate| hindrance(candidate, capture)) {
        return Err(Error::fatal(reason));
    }
    let sets = Sets::of(slot, &capture.task);
    create(client, &sets.own).await.map_err(advised)?;
    let sent = sent(client, &sets).await.map_err(advised)?;
    let is_in_log = |candidate: &&Candidate| candidate.logged && !candidate.partitioned;
    let tables = candidates.iter().filter(is_in_log).map(|candidate| (&candidate.name, candidate.identified));
    for (table, identified) in tables.chain(audit.map(|audit| (audit, false))) {
        let statements = membership(&sets.own, table, identified, sent.get(table).copied().unwrap_or_default());
        if !statements.is_empty() {
            take_in(client, table, &format!("SELECT {}", statements.join(", ")), capture.transactions_timeout).await?;
        }
    }
    Ok(())
}

/// The calls after which a table is in the sets that it belongs to.
fn membership(own: &Pair, table: &TableName, identified: bool, sent: Sent) -> Vec<String> {
    let call = |function: &str, set: &str| {
        let table = sql::literal(&sql::table(table));
        format!("pglogical.replication_set_{function}_table({}, {table}::pg_catalog.regclass)", sql::literal(set))
    };
    let mut calls = Vec::new();
    if !sent.inserts {
        calls.push(call("add", &own.inserts));
    }
    match identified {
        true if !sent.updates => calls.push(call("add", &own.updates)),
        false if sent.own_updates => calls.push(call("remove", &own.updates)),
        _ => {}
    }
    calls
}

/// Runs a call that needs the table without writers.
async fn take_in(client: &mut Client, table: &TableName, call: &str, wait: Duration) -> Result<()> {
    let statements = format!("SELECT pg_catalog.set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', true); {call}");
    let given_up = Instant::now() + wait;
    loop {
        match client.query(&statements).await {
            Ok(_) => return Ok(()),
            Err(error) if error.sqlstate.as_deref() == Some(LOCK_NOT_AVAILABLE) => {
                if Instant::now() >= given_up {
                    return Err(Error::recoverable(format!(
                        "transactions that write to table {table} did not end within {} s (TransactionConsistencyTimeout)",
                        wait.as_secs()
                    )));
                }
                sleep(LOCK_INTERVAL).await;
            }
            // It went since it was looked for: then the tables have to be looked for again.
            Err(error) if error.sqlstate.as_deref() == Some(NO_SUCH_TABLE) => {
                return Err(error.into_kind(ErrorKind::Recoverable));
            }
            Err(error) => return Err(advised(error)),
        }
    }
}

/// In one transaction, and none of ours at the same time: the last task's end takes the node away.
async fn create(client: &mut Client, own: &Pair) -> Result<()> {
    let statements = format!(
        "SELECT pg_catalog.pg_advisory_xact_lock({}, 0); \
         SELECT pglogical.create_node('{NODE}', 'dbname=''' || pg_catalog.replace(pg_catalog.replace(\
         pg_catalog.current_database()::pg_catalog.text, '\\', '\\\\'), '''', '\\''') || '''') \
         WHERE NOT EXISTS (SELECT FROM pglogical.local_node); \
         SELECT pglogical.create_replication_set(w.name, w.inserts, NOT w.inserts, NOT w.inserts, w.inserts) \
         FROM (VALUES ({}::pg_catalog.name, false), ({}::pg_catalog.name, true)) AS w (name, inserts) WHERE NOT EXISTS \
         (SELECT FROM pglogical.replication_set s JOIN pglogical.local_node l ON l.node_id = s.set_nodeid \
         WHERE s.set_name = w.name)",
        sql::DMS_LOCAL,
        sql::literal(&own.updates),
        sql::literal(&own.inserts),
    );
    client.query(&statements).await.map(drop)
}

/// What is sent of the tables that are in the sets of a task.
async fn sent(client: &mut Client, sets: &Sets) -> Result<HashMap<TableName, Sent>> {
    let statement = format!(
        "SELECT n.nspname, c.relname, pg_catalog.bool_or(s.replicate_insert) AND pg_catalog.bool_or(s.replicate_truncate), \
         pg_catalog.bool_or(s.replicate_update) AND pg_catalog.bool_or(s.replicate_delete), \
         pg_catalog.bool_or(s.set_name = {}) FROM pglogical.replication_set s \
         JOIN pglogical.local_node l ON l.node_id = s.set_nodeid JOIN pglogical.replication_set_table t ON t.set_id = s.set_id \
         JOIN pg_catalog.pg_class c ON c.oid = t.set_reloid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE s.set_name IN ({}) GROUP BY n.nspname, c.relname",
        sql::literal(&sets.own.updates),
        sets.literals()
    );
    let mut found = HashMap::new();
    for row in client.query(&statement).await? {
        let [Some(schema), Some(table), inserts, updates, own_updates] = &row[..] else { continue };
        let is = |flag: &Option<String>| flag.as_deref() == Some("t");
        let sent = Sent { inserts: is(inserts), updates: is(updates), own_updates: is(own_updates) };
        found.insert(TableName::new(schema, table), sent);
    }
    Ok(found)
}

/// Refuses tables that the user's own sets do not send: what happened to them before they are taken into the task's is
/// nowhere in what is sent, and pglogical does not tell.
pub async fn check_place(client: &mut Client, slot: &Slot, from: &Position, candidates: &[Candidate]) -> Result<()> {
    let given = Sets { own: Pair::of(slot.name()), given: None };
    let sent = sent(client, &given).await.map_err(advised)?;
    for candidate in candidates.iter().filter(|candidate| candidate.logged && !candidate.partitioned) {
        let name = &candidate.name;
        let sent = sent.get(name).copied().unwrap_or_default();
        if !sent.inserts || (candidate.identified && !sent.updates) {
            let Pair { updates, inserts } = &given.own;
            let sets = if candidate.identified { format!("{updates} and {inserts}") } else { inserts.clone() };
            return Err(Error::fatal(format!(
                "the log cannot be read from {from}: pglogical sends what happened to table {name} only from where it is \
                 in the replication sets {sets}; take it in (pglogical.replication_set_add_table) and start at a later place"
            )));
        }
    }
    Ok(())
}

/// Looks at tables again that may be others since they were taken into sets, as
/// [`publication::review`](super::publication::review) does.
pub async fn review(client: &mut Client, slot: &Slot, capture: &Capture, names: &[TableName]) -> Result<Vec<Lacking>> {
    let sets = Sets::of(slot, &capture.task);
    let there = sent(client, &sets).await?;
    let mut lacking = Vec::new();
    for candidate in candidates(client, names).await? {
        let name = candidate.name.clone();
        if let Some(reason) = hindrance(&candidate, capture) {
            lacking.push((name, reason));
            continue;
        }
        let Some(sent) = there.get(&name) else { continue };
        if candidate.identified && !sent.updates {
            let why = "has got a key: its updates and deletes are captured when it is loaded again";
            lacking.push((name.clone(), format!("table {name} {why}")));
        } else if !candidate.identified && sent.own_updates {
            let calls = membership(&sets.own, &name, false, *sent);
            take_in(client, &name, &format!("SELECT {}", calls.join(", ")), capture.transactions_timeout).await?;
        }
    }
    Ok(lacking)
}

/// The sets that a task reads, as `pglogical.replication_set_names` takes them, and whether statements that define tables
/// come with them.
pub async fn names(client: &mut Client, slot: &Slot, task: &str, audit: &TableName) -> Result<(String, bool)> {
    let sets = Sets::of(slot, task);
    let statement = format!(
        "SELECT s.set_name FROM pglogical.replication_set s JOIN pglogical.local_node l ON l.node_id = s.set_nodeid \
         WHERE s.set_name IN ({})",
        sets.literals()
    );
    let found: Vec<String> = client
        .query(&statement)
        .await
        .map_err(advised)?
        .into_iter()
        .filter_map(|mut row| row.pop().flatten())
        .collect();
    if let Some(missing) = [&sets.own.updates, &sets.own.inserts].into_iter().find(|name| !found.contains(name)) {
        return Err(Error::fatal(format!(
            "replication set {missing} does not exist any more: the task has to be started anew"
        )));
    }
    let names = found.iter().map(|name| sql::identifier(name)).collect::<Vec<_>>().join(",");
    let is_told = sent(client, &sets).await?.get(audit).is_some_and(|sent| sent.inserts);
    Ok((names, is_told))
}

/// Drops the sets of a task, and the node if we have made it and nobody else uses it; none being there is no error. The
/// triggers by which pglogical notices TRUNCATE stay on the tables: without a set they do nothing.
pub async fn drop_all(client: &mut Client, task: &str) -> Result<()> {
    // Whoever may not look has made nothing.
    let may_look = "SELECT 1 FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = 'replication_set' \
         WHERE e.extname = 'pglogical' AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
         AND pg_catalog.has_table_privilege(c.oid, 'SELECT')";
    if client.query(may_look).await?.is_empty() {
        return Ok(());
    }
    let own = Pair::of(&slot::own_name(task)).literals();
    let there = format!("SELECT 1 FROM pglogical.replication_set WHERE set_name IN ({own})");
    if client.query(&there).await?.is_empty() {
        return Ok(());
    }
    // With a node pglogical drops all its sets, and the slots of subscriptions to it.
    let statements = format!(
        "SELECT pg_catalog.pg_advisory_xact_lock({}, 0); \
         SELECT pglogical.drop_replication_set(s.set_name) FROM pglogical.replication_set s \
         JOIN pglogical.local_node l ON l.node_id = s.set_nodeid WHERE s.set_name IN ({own}); \
         SELECT pglogical.drop_node(n.node_name) FROM pglogical.local_node l JOIN pglogical.node n ON n.node_id = l.node_id \
         WHERE n.node_name = '{NODE}' AND NOT EXISTS (SELECT FROM pglogical.replication_set s \
         WHERE s.set_nodeid = n.node_id AND (s.set_name NOT IN ({PREDEFINED}) \
         OR EXISTS (SELECT FROM pglogical.replication_set_table t WHERE t.set_id = s.set_id) \
         OR EXISTS (SELECT FROM pglogical.replication_set_seq q WHERE q.set_id = s.set_id))) \
         AND NOT EXISTS (SELECT FROM pglogical.subscription) AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots r \
         WHERE r.database = pg_catalog.current_database() AND r.slot_name ~ 'pgl_' \
         AND r.plugin IN ('pglogical_output', 'pglogical'))",
        sql::DMS_LOCAL
    );
    client.query(&statements).await.map(drop)
}

fn advised(mut error: Error) -> Error {
    if error.sqlstate.as_deref() != Some(NO_PRIVILEGE) {
        return error;
    }
    let advice = "the user needs USAGE on the schema pglogical and SELECT on its tables";
    error.message = format!("{} ({advice})", error.message);
    error.into_kind(ErrorKind::Fatal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_dms_and_fit_what_the_server_keeps() {
        let name = slot::own_name(&"x".repeat(40));
        let own = Sets::of(&Slot::Own(name.clone()), &"x".repeat(40));
        assert_eq!((&own.own.updates, &own.own.inserts), (&name, &format!("i{name}")));
        assert!(own.given.is_none() && own.own.inserts.len() <= 63);
        let given = Sets::of(&Slot::Given("mine".into()), "task").given.unwrap();
        assert_eq!(given.literals(), "'mine', 'imine'");
    }

    #[test]
    fn a_table_is_taken_into_what_does_not_send_it_yet() {
        let (own, table) = (Pair::of("s"), TableName::new("a", "b'c"));
        let calls = |identified, sent| membership(&own, &table, identified, sent).join(" ");
        let call = |what: &str| format!("pglogical.replication_set_{what}, '\"a\".\"b''c\"'::pg_catalog.regclass)");
        let (inserts, updates) = (call("add_table('is'"), call("add_table('s'"));
        assert_eq!(calls(true, Sent::default()), format!("{inserts} {updates}"));
        assert_eq!(calls(false, Sent::default()), inserts);
        let sent = Sent { inserts: true, updates: true, own_updates: true };
        assert_eq!(calls(true, sent), "");
        assert_eq!(calls(false, sent), call("remove_table('s'"));
        assert_eq!(calls(false, Sent { own_updates: false, ..sent }), "");
    }

    #[test]
    fn versions_are_told_apart_by_their_first_number() {
        assert_eq!([major("1.2.2"), major("2.4.2"), major("3"), major("")], [1, 2, 3, 0]);
    }
}
