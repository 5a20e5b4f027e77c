//! Applying changes to a MySQL or MariaDB server.
//!
//! INSERTs go as values of one statement or by LOAD DATA. UPDATEs and DELETEs of more than a handful of rows go through a
//! work table (`work`) and a join with it, so that a statement changes all of them; a few go as statements of their own
//! (`direct`). Statements travel together in one packet where they can: an exchange costs as much as dozens of rows.
//!
//! All statements are text. Nothing is prepared, because what costs is not their parsing; `StatementCacheSize` is the
//! number of work tables that a session keeps.

mod direct;
mod rows;
mod session;
mod table;
mod table_change;
mod work;

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;
use uuid::Uuid;

use super::columns::named;
use super::target::Places;
use super::wire::{Client, Done};
use super::{Settings, quote_table, quote_text};
use crate::connector::{Applier, ChangeSet, Conflict, Connection, Key, RowChange, TableChange, Transaction};
use crate::data::{Error, ErrorKind, Format, Op, Result, TableName, TableSchema, Value};
use direct::with_kept;
use rows::{Group, groups, key_fields, new_fields};
use session::Session;
use table::{Table, TargetColumn};
use work::{Use, WorkTables};

/// So few rows are changed by a statement each.
const DIRECT_ROWS_MAX: usize = 4;

/// A table that is thought to have more rows than this is emptied by TRUNCATE if it can be.
const DELETED_ROWS_MAX: u64 = 100_000;

/// The one savepoint.
const SAVEPOINT: &str = "SAVEPOINT dms";

/// How long an earlier session may take to end, and how often that is looked at.
const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(10);
const TAKE_OVER_INTERVAL: Duration = Duration::from_millis(10);

pub(super) struct MySqlApplier {
    session: Session,
    places: Places,
    format: Format,
    /// By their names for the task.
    tables: HashMap<TableName, Table>,
    work: WorkTables,
    savepoint: Savepoint,
    /// Something was changed in the transaction.
    changed: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Savepoint {
    None,
    /// It goes with the next statement.
    Deferred,
    Set,
}

impl MySqlApplier {
    pub(super) async fn open(
        connection: &Connection,
        settings: &Settings,
        places: Places,
        owner: &str,
        format: Format,
        work_tables_max: usize,
    ) -> Result<MySqlApplier> {
        let mut session = Session::open(connection, settings).await?;
        take_over(session.client(), owner).await?;
        Ok(MySqlApplier {
            session,
            places,
            format,
            tables: HashMap::new(),
            work: WorkTables::new(work_tables_max),
            savepoint: Savepoint::None,
            changed: false,
        })
    }

    async fn apply_set(&mut self, set: &ChangeSet<'_>) -> Result<u64> {
        let name = &set.table.name;
        if self.tables.get(name).is_none_or(|table| !table.serves(set.table)) {
            let place = self.places.of(name);
            self.work.forget(&mut self.session, &place);
            let table = Table::find(self.session.client(), place, set.table, self.format).await?;
            self.tables.insert(name.clone(), table);
        }
        let Some(table) = self.tables.get(name) else { return Err(Error::fatal("a table is not there")) };
        self.changed = true;
        if self.savepoint == Savepoint::Deferred {
            self.session.defer(SAVEPOINT.to_owned());
            self.savepoint = Savepoint::Set;
        }
        let mut change = Change { session: &mut self.session, work: &mut self.work, table, set };
        let mut changed = 0;
        for group in groups(set, table) {
            changed += change.group(&group).await?;
        }
        Ok(changed)
    }

    /// Looks a table up again when it is next met.
    fn forget(&mut self, name: &TableName) {
        self.tables.remove(name);
        self.work.forget(&mut self.session, &self.places.of(name));
    }

    /// What a statement that ends transactions leaves.
    fn transaction_ended(&mut self) {
        self.savepoint = Savepoint::None;
        self.changed = false;
    }

    async fn run(&mut self, statement: String) -> Result<Done> {
        self.session.run(&[statement]).await.map(|outcomes| outcomes.last().copied().unwrap_or_default())
    }

    async fn empty(&mut self, table: &TableSchema) -> Result<Transaction> {
        let place = self.places.of(&table.name);
        let quoted = quote_table(&place);
        if !self.changed && self.is_large(&place).await? {
            // Nothing is lost with the savepoint: no change is before it.
            match self.run(format!("TRUNCATE TABLE {quoted}")).await {
                Ok(_) => {
                    self.transaction_ended();
                    return Ok(Transaction::Ended);
                }
                // Not allowed to, or not this table.
                Err(error) if error.kind != ErrorKind::Recoverable => {}
                Err(error) => return Err(error),
            }
        }
        if self.savepoint == Savepoint::Deferred {
            self.session.defer(SAVEPOINT.to_owned());
            self.savepoint = Savepoint::Set;
        }
        self.changed = true;
        self.run(format!("DELETE FROM {quoted}")).await.map(|_| Transaction::Open)
    }

    async fn is_large(&mut self, place: &TableName) -> Result<bool> {
        let sql = format!("SELECT TABLE_ROWS FROM information_schema.TABLES WHERE {}", named(place));
        let rows = self.session.client().rows(&sql).await?;
        let estimate = rows.first().and_then(|row| row.first()?.as_deref()?.parse::<u64>().ok());
        Ok(estimate.is_some_and(|rows| rows > DELETED_ROWS_MAX))
    }
}

/// Becomes the only session of its owner on this server. One that was there before is of a process or a connection that is
/// lost: what it was sent may still be on its way, and must not land after what this one does. A session gives its lock
/// back after its transaction is over.
async fn take_over(client: &mut Client, owner: &str) -> Result<()> {
    // Names of locks have at most 64 characters.
    let lock = quote_text(&format!("dms-local {}", Uuid::new_v5(&Uuid::NAMESPACE_OID, owner.as_bytes())));
    let given_up = Instant::now() + TAKE_OVER_TIMEOUT;
    loop {
        let taken = client.rows(&format!("SELECT GET_LOCK({lock}, 0)")).await?;
        if taken.into_iter().flatten().flatten().next().as_deref() == Some("1") {
            return Ok(());
        }
        if Instant::now() >= given_up {
            let what = format!("an earlier session of the task does not end in {} s", TAKE_OVER_TIMEOUT.as_secs());
            return Err(Error::recoverable(what));
        }
        let holder = client.rows(&format!("SELECT IS_USED_LOCK({lock})")).await?;
        if let Some(holder) = holder.into_iter().flatten().flatten().next()
            && let Err(error) = client.run(&format!("KILL {holder}")).await
            && client.is_busy()
        {
            // Any other error says that it has just gone, or is not ours to end: then it must end by itself.
            return Err(error);
        }
        // There is nothing to wait on but the lock, and waiting for that would not end sessions that come meanwhile.
        tokio::time::sleep(TAKE_OVER_INTERVAL).await;
    }
}

#[async_trait]
impl Applier for MySqlApplier {
    async fn begin(&mut self) -> Result<()> {
        // The session has autocommit off: its first change begins the transaction.
        self.transaction_ended();
        Ok(())
    }

    async fn apply(&mut self, set: &ChangeSet<'_>) -> Result<u64> {
        if set.rows.is_empty() {
            return Ok(0);
        }
        let applied = self.apply_set(set).await;
        if applied.as_ref().is_err_and(|error| error.kind == ErrorKind::Table) {
            self.forget(&set.table.name);
        }
        applied.map_err(|error| error.while_doing(format!("apply changes to {}", set.table.name)))
    }

    fn statement(&self, set: &ChangeSet<'_>) -> String {
        direct::shown(set, &quote_table(&self.places.of(&set.table.name)))
    }

    /// In MySQL a TRUNCATE ends the transaction. What is before it in the transaction would become durable without the
    /// place in the log that belongs to it, and would be applied twice after a crash; so rows are deleted instead, which
    /// can also be undone. Of a large table that takes long, and one that nothing was changed before in the transaction
    /// is emptied by a true TRUNCATE: applied twice it does what it does once. It cannot be undone.
    async fn truncate(&mut self, table: &TableSchema) -> Result<Transaction> {
        self.empty(table).await.map_err(|error| error.while_doing(format!("truncate {}", table.name)))
    }

    async fn change_table(&mut self, change: &TableChange<'_>) -> Result<Transaction> {
        let names = table_change::names(change);
        names.iter().for_each(|name| self.forget(name));
        // Whether or not the statement itself succeeds.
        self.run("COMMIT".to_owned()).await?;
        self.transaction_ended();
        let changed = table_change::change(self.session.client(), &self.places, change).await;
        let changed = changed.map(|()| Transaction::Ended);
        changed.map_err(|error| error.while_doing(format!("change the definition of {}", names[names.len() - 1])))
    }

    async fn savepoint(&mut self) -> Result<()> {
        self.savepoint = Savepoint::Deferred;
        Ok(())
    }

    async fn back_to_savepoint(&mut self) -> Result<()> {
        match self.savepoint {
            Savepoint::Set => self.run("ROLLBACK TO SAVEPOINT dms".to_owned()).await.map(drop),
            // Nothing has happened since.
            Savepoint::None | Savepoint::Deferred => Ok(()),
        }
    }

    async fn commit(&mut self) -> Result<()> {
        self.run("COMMIT".to_owned()).await?;
        self.transaction_ended();
        Ok(())
    }

    async fn rollback(&mut self) -> Result<()> {
        self.run("ROLLBACK".to_owned()).await?;
        self.transaction_ended();
        Ok(())
    }
}

/// A set on its way.
struct Change<'a> {
    session: &'a mut Session,
    work: &'a mut WorkTables,
    table: &'a Table,
    set: &'a ChangeSet<'a>,
}

impl Change<'_> {
    async fn group(&mut self, group: &Group<'_>) -> Result<u64> {
        match (self.set.op, self.set.key) {
            (Op::Insert, Key::Unique(key)) if self.set.conflict == Conflict::Replace => self.by_key(group, key).await,
            (Op::Insert, _) => self.insert(group).await,
            (Op::Update | Op::Delete, Key::Unique(key)) => self.by_key(group, key).await,
            (Op::Update | Op::Delete, Key::Any(key)) => self.one_of_many(group, key).await,
        }
    }

    async fn insert(&mut self, group: &Group<'_>) -> Result<u64> {
        let intake = self.table.intake(&group.written);
        let fields = new_fields(self.set, &group.written);
        self.session.put(&intake, &group.rows, &fields, &[]).await?;
        Ok(group.rows.len() as u64)
    }

    /// Changes rows that a key tells apart.
    async fn by_key(&mut self, group: &Group<'_>, key: &[usize]) -> Result<u64> {
        if group.rows.len() <= DIRECT_ROWS_MAX
            && let Some(changed) = self.directly(group, key).await?
        {
            return Ok(changed);
        }
        let mut used = match self.work.take(self.session, self.table, key, key, &group.written).await {
            Ok(used) => used,
            Err(refused) => {
                return self.directly(group, key).await?.ok_or(refused);
            }
        };
        let fields = [key_fields(self.set, key), new_fields(self.set, &group.written)].concat();
        let mut changed = 0;
        let mut rest = &group.rows[..];
        loop {
            let (some, later) = rest.split_at(rest.len().min(used.rows_max));
            rest = later;
            let then = self.joins(&used, group, key);
            let outcomes = self.session.put(&used.intake, some, &fields, &then).await?;
            self.work.give_back(&used);
            changed += match self.set.op {
                Op::Insert => some.len() as u64,
                Op::Update | Op::Delete => outcomes[0].affected,
            };
            if rest.is_empty() {
                return Ok(changed);
            }
            used = self.work.take(self.session, self.table, key, key, &group.written).await?;
        }
    }

    /// A statement for each row, all in one packet; `None` where a key cannot be said in a literal.
    async fn directly(&mut self, group: &Group<'_>, key: &[usize]) -> Result<Option<u64>> {
        let mut statements = Vec::new();
        for row in &group.rows {
            match direct::statements(self.set, self.table, key, &group.written, row)? {
                Some(some) => statements.extend(some),
                None => return Ok(None),
            }
        }
        let bytes = statements.iter().map(|statement| statement.len() + 1).sum();
        if !self.session.takes(bytes) {
            return if self.session.takes_files() { Ok(None) } else { Err(self.session.too_long(bytes)) };
        }
        let outcomes = self.session.run(&statements).await?;
        self.session.refuse_warnings(&outcomes).await?;
        Ok(Some(outcomes.iter().map(|done| done.affected).sum()))
    }

    /// What follows when rows are in a work table. Leaves it empty.
    fn joins(&self, used: &Use, group: &Group<'_>, key: &[usize]) -> Vec<String> {
        let (table, work) = (self.table.quoted(), &used.name);
        let on = |of: &str| {
            let same = |column: &usize| same(*column, &self.table.columns[*column], of);
            key.iter().map(same).collect::<Vec<_>>().join(" AND ")
        };
        let update = || {
            let set = |column: &usize| format!("t.{}=x.c{column}", self.table.columns[*column].name);
            let sets = group.written.iter().map(set).collect();
            let sets = with_kept(self.table, key, &group.written, sets, "t.").join(",");
            format!("UPDATE {work} AS x STRAIGHT_JOIN {table} AS t ON {} SET {sets}", on("t"))
        };
        let mut statements = match self.set.op {
            Op::Update => vec![update()],
            // By its own name: of another the server asks in which database it is.
            Op::Delete => {
                vec![format!("DELETE {table} FROM {work} AS x STRAIGHT_JOIN {table} ON {}", on(&table))]
            }
            Op::Insert => {
                let names: Vec<&str> =
                    group.written.iter().map(|column| self.table.columns[*column].name.as_str()).collect();
                let values: Vec<String> = group.written.iter().map(|column| format!("x.c{column}")).collect();
                let insert = format!(
                    "INSERT INTO {table} ({}) SELECT {} FROM {work} AS x WHERE NOT EXISTS (SELECT 1 FROM {table} AS t WHERE {})",
                    names.join(","),
                    values.join(","),
                    on("t")
                );
                vec![update(), insert]
            }
        };
        statements.push(format!("DELETE FROM {work}"));
        statements
    }

    /// Changes one of the rows that are like the old one, row after row: two changes may mean rows that are alike.
    async fn one_of_many(&mut self, group: &Group<'_>, key: &[usize]) -> Result<u64> {
        let mut changed = 0;
        for row in &group.rows {
            changed += self.one_of_alike(group, row, key).await?;
        }
        Ok(changed)
    }

    async fn one_of_alike(&mut self, group: &Group<'_>, row: &RowChange<'_>, key: &[usize]) -> Result<u64> {
        let is_known =
            |column: &usize| row.found_by().is_some_and(|image| image.get(self.set.columns[*column]) != Value::Absent);
        let known: Vec<usize> = key.iter().copied().filter(is_known).collect();
        if known.is_empty() {
            return Ok(0);
        }
        let one = Group { written: group.written.clone(), rows: vec![row] };
        if let Some(changed) = self.directly(&one, &known).await? {
            return Ok(changed);
        }
        let used = self.work.take(self.session, self.table, key, &known, &[]).await?;
        let (theirs, ours): (Vec<String>, Vec<String>) =
            known.iter().map(|column| exactly(*column, &self.table.columns[*column])).unzip();
        let (table, work) = (self.table.quoted(), &used.name);
        let found = format!("({}) <=> (SELECT {} FROM {work})", theirs.join(","), ours.join(","));
        let (statement, expected) = match self.set.op {
            Op::Delete => (format!("DELETE FROM {table} WHERE {found} LIMIT 1"), 0),
            Op::Insert | Op::Update => direct::update_one(self.set, self.table, &known, &group.written, row, &found)?,
        };
        if !self.session.takes(statement.len()) {
            return Err(self.session.too_long(statement.len()));
        }
        let then = [statement, format!("DELETE FROM {work}")];
        let outcomes = self.session.put(&used.intake, &one.rows, &key_fields(self.set, &known), &then).await?;
        if u64::from(outcomes[0].warnings) != expected {
            return Err(session::bent());
        }
        self.work.give_back(&used);
        Ok(outcomes[0].affected)
    }
}

/// What is compared of a column where all of it must be the same: of the target's table, and of the work table.
fn exactly(column: usize, target: &TargetColumn) -> (String, String) {
    let both = |form: &dyn Fn(&str) -> String| (form(&target.name), form(&format!("k{column}")));
    match &target.found {
        found if found.is_geometry() => both(&|name| format!("HEX({name})")),
        found if found.base == "json" => both(&|name| format!("CAST({name} AS CHAR)")),
        found if found.is_text() => both(&|name| format!("{name},CAST({name} AS BINARY)")),
        _ => both(&|name| name.to_owned()),
    }
}

/// The condition that a column of the target has the value of the work table's.
fn same(column: usize, target: &TargetColumn, of: &str) -> String {
    let name = &target.name;
    match target.blurs {
        true => format!("{of}.{name}=x.k{column} AND CAST({of}.{name} AS BINARY)=CAST(x.k{column} AS BINARY)"),
        false => format!("{of}.{name}=x.k{column}"),
    }
}
