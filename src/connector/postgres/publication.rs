//! Publications: which tables' changes pgoutput sends.
//!
//! A task has some of them, into which its tables are sorted by two questions. Can the table's rows be told
//! apart? Of one whose cannot, only inserts are published: an application could otherwise neither update nor delete in
//! it. And do the rows of a partitioned table come as its own? Where no partition is captured by itself the server says
//! so (`publish_via_partition_root`); elsewhere each comes under its partition's name and the reader sorts them.
//! <https://www.postgresql.org/docs/current/logical-replication-publication.html>

use std::collections::{HashMap, HashSet};

use super::wire::Client;
use super::{slot, sql};
use crate::connector::Capture;
use crate::data::{Error, ErrorKind, Result, TableName};

/// Versions since which there is something to ask or to write.
pub const PGOUTPUT_SINCE: u32 = 100_000;
const TRUNCATE_SINCE: u32 = 110_000;
const GENERATED_SINCE: u32 = 120_000;
const ROOTS_SINCE: u32 = 130_000;
const PUBLISHES_GENERATED_SINCE: u32 = 180_000;

/// Tables that one statement asks for or publishes.
const AT_ONCE: usize = 500;

/// A table as far as publishing it goes.
pub struct Candidate {
    pub name: TableName,
    /// Its changes are in the log at all.
    pub logged: bool,
    pub partitioned: bool,
    /// Rows can be told apart, here and in all partitions that there are or will be.
    pub identified: bool,
    /// … by all their columns (`REPLICA IDENTITY FULL`).
    pub by_whole_rows: bool,
    /// The user may publish it.
    owned: bool,
    /// It has columns that the server computes and stores.
    computed: bool,
    /// Its partitions and theirs.
    descendants: Vec<TableName>,
}

impl Candidate {
    pub fn is_captured_in_parts(&self, capture: &Capture) -> bool {
        !self.descendants.is_empty() && self.descendants.iter().all(|descendant| (capture.selects)(descendant))
    }

    /// Why not all of the table's changes can be had through a publication of this user's.
    fn hindrance(&self, capture: &Capture, version: u32) -> Option<String> {
        let name = &self.name;
        if !self.logged {
            return None;
        }
        if !self.owned {
            return Some(format!("table {name} cannot be published: the user must be its owner"));
        }
        let advice = "PluginName may be test-decoding";
        if self.computed && version < PUBLISHES_GENERATED_SINCE {
            return Some(format!(
                "table {name} has columns that the server computes and stores, which pgoutput does not send before \
                 version 18 of PostgreSQL: {advice}"
            ));
        }
        if self.partitioned && version < ROOTS_SINCE && !self.is_captured_in_parts(capture) {
            return Some(format!(
                "partitioned table {name} cannot be published before version 13 of PostgreSQL: \
                 its partitions can, or {advice}"
            ));
        }
        None
    }
}

/// Looks at tables; those that do not exist are left out.
pub async fn candidates(client: &mut Client, names: &[TableName]) -> Result<Vec<Candidate>> {
    let mut candidates = Vec::with_capacity(names.len());
    for names in names.chunks(AT_ONCE) {
        candidates.extend(look(client, names).await?);
    }
    Ok(candidates)
}

async fn look(client: &mut Client, names: &[TableName]) -> Result<Vec<Candidate>> {
    let computed = match client.version() >= GENERATED_SINCE {
        true => {
            "EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated = 's' \
             AND NOT a.attisdropped)"
        }
        false => "false",
    };
    // By a key that is checked later the server tells no rows apart.
    let identified = |table: &str| {
        format!(
            "({table}.relreplident = 'f' OR EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = {table}.oid \
             AND i.indimmediate AND (i.indisreplident OR ({table}.relreplident = 'd' AND i.indisprimary))))"
        )
    };
    // Partitions take over a primary key of their parent, and no other way of telling rows apart.
    let statement = format!(
        "WITH RECURSIVE wanted AS (SELECT w.place, c.oid, c.relkind, c.relpersistence, c.relreplident, c.relowner \
         FROM (VALUES {}) AS w (place, nspname, relname) JOIN pg_catalog.pg_namespace n ON n.nspname = w.nspname \
         JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.relname AND c.relkind IN ('r', 'p')), \
         tree (place, member) AS (SELECT place, oid FROM wanted WHERE relkind = 'p' \
         UNION SELECT tree.place, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.member) \
         SELECT c.place, c.relpersistence = 'p', c.relkind = 'p', \
         CASE WHEN c.relkind = 'r' THEN {} ELSE c.relreplident = 'd' \
         AND EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate) \
         AND NOT EXISTS (SELECT FROM tree JOIN pg_catalog.pg_class leaf ON leaf.oid = tree.member \
         AND leaf.relkind = 'r' WHERE tree.place = c.place AND NOT {}) END, \
         c.relreplident = 'f', pg_catalog.pg_has_role(c.relowner, 'USAGE'), {computed}, NULL, NULL FROM wanted c \
         UNION ALL SELECT tree.place, NULL, NULL, NULL, NULL, NULL, NULL, n.nspname, c.relname \
         FROM tree JOIN wanted w ON w.place = tree.place AND w.oid <> tree.member \
         JOIN pg_catalog.pg_class c ON c.oid = tree.member JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace",
        sql::numbered(names),
        identified("c"),
        identified("leaf"),
    );
    let mut found: HashMap<usize, Candidate> = HashMap::new();
    let mut descendants: Vec<(usize, TableName)> = Vec::new();
    for row in client.query(&statement).await? {
        let [place, logged, partitioned, identified, whole, owned, computed, schema, table] = &row[..] else {
            continue;
        };
        let Some(place) = place.as_ref().and_then(|place| place.parse::<usize>().ok()) else { continue };
        if let (Some(schema), Some(table)) = (schema, table) {
            descendants.push((place, TableName::new(schema, table)));
            continue;
        }
        let Some(name) = names.get(place).cloned() else { continue };
        let is = |flag: &Option<String>| flag.as_deref() == Some("t");
        let candidate = Candidate {
            name,
            logged: is(logged),
            partitioned: is(partitioned),
            identified: is(identified),
            by_whole_rows: is(whole),
            owned: is(owned),
            computed: is(computed),
            descendants: Vec::new(),
        };
        found.insert(place, candidate);
    }
    for (place, descendant) in descendants {
        if let Some(candidate) = found.get_mut(&place) {
            candidate.descendants.push(descendant);
        }
    }
    Ok((0..names.len()).filter_map(|place| found.remove(&place)).collect())
}

/// Whether all changes of these tables can be had through publications of this user's.
pub async fn suits(client: &mut Client, capture: &Capture, candidates: &[Candidate]) -> Result<bool> {
    let version = client.version();
    if version < PGOUTPUT_SINCE {
        return Ok(false);
    }
    let may = "SELECT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')";
    if client.query(may).await?.pop().and_then(|mut row| row.pop()).flatten().as_deref() != Some("t") {
        return Ok(false);
    }
    Ok(candidates.iter().all(|table| table.hindrance(capture, version).is_none()))
}

/// One of a task's publications.
struct Publication {
    name: String,
    /// Of tables whose rows can be told apart.
    identified: bool,
    /// Changes of partitions come as those of the tables in it.
    roots: bool,
}

fn publications(task: &str, version: u32) -> Vec<Publication> {
    let short = slot::short_name(task);
    let publication = |suffix: &str, identified, roots| Publication {
        name: format!("dms_{short}{suffix}"),
        identified,
        roots: roots && version >= ROOTS_SINCE,
    };
    let mut all = vec![publication("", true, false), publication("_inserts", false, false)];
    if version >= ROOTS_SINCE {
        all.extend([publication("_roots", true, true), publication("_roots_inserts", false, true)]);
    }
    all
}

/// The names of a task's publications, as `publication_names` takes them.
pub fn names(task: &str, version: u32) -> String {
    let names = publications(task, version).into_iter().map(|publication| sql::identifier(&publication.name));
    names.collect::<Vec<_>>().join(",")
}

impl Publication {
    fn has(&self, candidate: &Candidate, capture: &Capture, version: u32) -> bool {
        // One without partitions may get some that are captured by themselves.
        let root = version >= ROOTS_SINCE
            && candidate.partitioned
            && !candidate.descendants.is_empty()
            && !candidate.descendants.iter().any(|descendant| (capture.selects)(descendant));
        candidate.logged
            && (!candidate.partitioned || version >= ROOTS_SINCE)
            && self.identified == candidate.identified
            && self.roots == root
    }

    fn options(&self, version: u32) -> String {
        let mut options = Vec::new();
        match (self.identified, version >= TRUNCATE_SINCE) {
            (true, _) => {}
            (false, true) => options.push("publish = 'insert, truncate'"),
            (false, false) => options.push("publish = 'insert'"),
        }
        if self.roots {
            options.push("publish_via_partition_root = true");
        }
        if version >= PUBLISHES_GENERATED_SINCE {
            options.push("publish_generated_columns = stored");
        }
        if options.is_empty() { String::new() } else { format!(" WITH ({})", options.join(", ")) }
    }
}

/// A table of which the log lacks changes, and why.
pub type Lacking = (TableName, String);

/// Those that can be published, and the others.
pub fn publishable(client: &Client, capture: &Capture, candidates: Vec<Candidate>) -> (Vec<Candidate>, Vec<Lacking>) {
    let (mut suiting, mut lacking) = (Vec::new(), Vec::new());
    for candidate in candidates {
        match candidate.hindrance(capture, client.version()) {
            None => suiting.push(candidate),
            Some(reason) => lacking.push((candidate.name, reason)),
        }
    }
    (suiting, lacking)
}

/// Looks at tables again that may be others since they were published.
///
/// One that has lost its key goes at once to where only its inserts are published, because nobody could update it where it
/// is. One that has got a key stays: what is updated in it between then and its being published anew is nowhere in the
/// log, so it has to be loaded, and is published before that ([`publish`]). As long as it stays it is told again, so that
/// nothing depends on who has heard of it.
pub async fn review(client: &mut Client, capture: &Capture, names: &[TableName]) -> Result<Vec<Lacking>> {
    let version = client.version();
    let all = publications(&capture.task, version);
    let there = published(client, &all).await?;
    let (mut lacking, mut keyless) = (Vec::new(), Vec::new());
    for candidate in candidates(client, names).await? {
        let is_in = |publication: &&Publication| {
            there.get(&publication.name).is_some_and(|members| members.contains(&candidate.name))
        };
        let found = all.iter().find(is_in);
        let wanted = all.iter().find(|publication| publication.has(&candidate, capture, version));
        let needs_load = |why: &str| (candidate.name.clone(), format!("table {} {why}", candidate.name));
        match (candidate.hindrance(capture, version), found, wanted) {
            // Whoever owns it now, it is published.
            (Some(_), Some(found), Some(wanted)) if !candidate.owned && found.name == wanted.name => {}
            (Some(reason), ..) => lacking.push((candidate.name, reason)),
            // It is not in the log, or its partitions are by themselves.
            (None, _, None) => {}
            // The catalog is ahead of the log: what has a name now may be another table than what the log has under it,
            // and the log will tell how that came.
            (None, None, Some(_)) => {}
            (None, Some(found), Some(wanted)) => match (found.identified, wanted.identified) {
                (true, false) => keyless.push(candidate),
                (false, true) => lacking
                    .push(needs_load("has got a key: its updates and deletes are captured when it is loaded again")),
                _ => {}
            },
        }
    }
    if !keyless.is_empty() {
        publish(client, capture, &keyless, None).await?;
    }
    Ok(lacking)
}

/// Makes the task's publications where they are missing, and puts tables into those that they belong to. `audit` is the
/// table of statements that define tables; what is in a publication already stays.
pub async fn publish(
    client: &mut Client,
    capture: &Capture,
    candidates: &[Candidate],
    audit: Option<&TableName>,
) -> Result<()> {
    let version = client.version();
    // Whose a table must be the server says itself.
    let hindrance = |candidate: &Candidate| candidate.hindrance(capture, version).filter(|_| candidate.owned);
    if let Some(reason) = candidates.iter().find_map(hindrance) {
        return Err(Error::fatal(reason));
    }
    let publications = publications(&capture.task, version);
    let there = published(client, &publications).await?;
    let mut statements = Vec::new();
    for publication in &publications {
        let name = sql::identifier(&publication.name);
        let members = there.get(&publication.name);
        if members.is_none() {
            statements.push(format!("CREATE PUBLICATION {name}{}", publication.options(version)));
        }
        let own = candidates.iter().filter(|candidate| publication.has(candidate, capture, version));
        let audit = audit.filter(|_| !publication.identified && !publication.roots);
        let tables = own.map(|candidate| &candidate.name).chain(audit);
        let new: Vec<&TableName> =
            tables.filter(|table| members.is_none_or(|members| !members.contains(table))).collect();
        for (other, table) in there.iter().flat_map(|(other, members)| members.iter().map(move |table| (other, table)))
        {
            if new.contains(&table) {
                let (other, table) = (sql::identifier(other), sql::table(table));
                statements.push(format!("ALTER PUBLICATION {other} DROP TABLE ONLY {table}"));
            }
        }
        for tables in new.chunks(AT_ONCE) {
            let list = tables.iter().map(|table| sql::table(table)).collect::<Vec<_>>().join(", ONLY ");
            statements.push(format!("ALTER PUBLICATION {name} ADD TABLE ONLY {list}"));
        }
    }
    if statements.is_empty() {
        return Ok(());
    }
    // In one transaction, so that a table is never in none of them in between.
    match client.query(&statements.join("; ")).await {
        // One of them went since it was looked for: then the tables have to be looked for again.
        Err(error) if error.sqlstate.as_deref() == Some("42P01") => Err(error.into_kind(ErrorKind::Recoverable)),
        published => published.map(drop),
    }
}

/// The tables of those publications that exist.
async fn published(client: &mut Client, all: &[Publication]) -> Result<HashMap<String, HashSet<TableName>>> {
    let names: Vec<String> = all.iter().map(|publication| sql::literal(&publication.name)).collect();
    let statement = format!(
        "SELECT p.pubname, n.nspname, c.relname FROM pg_catalog.pg_publication p \
         LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid LEFT JOIN pg_catalog.pg_class c ON c.oid = r.prrelid \
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE p.pubname IN ({})",
        names.join(", ")
    );
    let mut found: HashMap<String, HashSet<TableName>> = HashMap::new();
    for row in client.query(&statement).await? {
        let [Some(name), schema, table] = &row[..] else { continue };
        let tables = found.entry(name.clone()).or_default();
        if let (Some(schema), Some(table)) = (schema, table) {
            tables.insert(TableName::new(schema, table));
        }
    }
    Ok(found)
}

/// Drops the publications of a task; none being there is no error.
pub async fn drop_all(client: &mut Client, task: &str) -> Result<()> {
    if client.version() < PGOUTPUT_SINCE {
        return Ok(());
    }
    for publication in publications(task, u32::MAX) {
        client.query(&format!("DROP PUBLICATION IF EXISTS {}", sql::identifier(&publication.name))).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_what_the_server_keeps() {
        let task = "x".repeat(40);
        let all = publications(&task, u32::MAX);
        assert!(all.iter().all(|publication| publication.name.len() <= 63));
        assert_eq!(all.iter().map(|publication| &publication.name).collect::<HashSet<_>>().len(), 4);
        assert_eq!(names(&task, 120_000).matches(',').count(), 1);
    }
}
