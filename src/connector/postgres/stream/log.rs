//! What the reader knows of the place in the log where it is, whatever the plugin: the transaction, the captured tables,
//! and what statements do to them.

use std::collections::HashMap;

use super::super::Settings;
use super::super::catalog::{Catalog, Described, Types};
use super::super::ddl::{AUDIT_TABLE, Action, Alteration, Name, NewColumn, Scripts, Statement};
use super::super::publication::Lacking;
use super::super::slot::Plugin;
use super::super::source::PostgresSource;
use super::family::Families;
use super::question::{Facts, Question, Request, Step, Taken};
use super::tables::{Edit, Tables, identity, plain};
use super::value::Field;
use crate::connector::Capture;
use crate::data::{
    Batch, Changes, Column, DataType, Entry, Error, Family, Position, Result, TableKind, TableName, TableSchema,
    TableVersion,
};

/// A value cut to the LOB limit where the endpoint says that none shall be.
pub const CUT: &str = "a LOB is longer than LobMaxSize, and FailTasksOnLobTruncation is on";

pub struct Log {
    source: PostgresSource,
    capture: Capture,
    plugin: Plugin,
    pub tables: Tables,
    families: Families,
    scripts: Scripts,
    /// A statement was recorded that is not understood: what it did is not known.
    pub is_unclear: bool,
    /// The table of recorded statements.
    audit: Option<TableName>,
    /// Digits behind the point of money.
    money_digits: usize,
    /// The transaction that is being read.
    transaction: Option<Transaction>,
    /// All before this has been read.
    pub read: u64,
}

#[derive(Clone, Copy)]
struct Transaction {
    xid: u32,
    /// When it was committed, in microseconds since 1970.
    time: i64,
    /// Where it was committed, if the beginning tells that.
    commit: Option<u64>,
    /// Some of it has been told.
    told: bool,
}

/// Whose rows those of a relation are.
pub enum Owner {
    /// Of this captured table: the relation itself, or what it is a partition of.
    Table(TableName),
    Nobody,
    /// The catalog has to be asked.
    Unknown,
}

/// A statement that was recorded, and the schema that names without one are of.
#[derive(Debug)]
pub struct Recorded {
    statement: Statement,
    schema: String,
}

impl Log {
    pub async fn new(
        source: &PostgresSource,
        capture: &Capture,
        plugin: Plugin,
        catalog: &mut Catalog,
        described: &HashMap<TableName, Described>,
        read: u64,
    ) -> Result<Log> {
        let settings = &source.endpoint().settings;
        let audit = TableName::new(&settings.ddl_artifacts_schema, AUDIT_TABLE);
        Ok(Log {
            source: source.clone(),
            capture: capture.clone(),
            plugin,
            tables: Tables::new(capture, described),
            families: Families::new(catalog.relations().await?),
            scripts: Scripts::default(),
            is_unclear: false,
            audit: settings.capture_ddls.then_some(audit),
            money_digits: catalog.money_digits().await?,
            transaction: None,
            read,
        })
    }

    fn settings(&self) -> &Settings {
        &self.source.endpoint().settings
    }

    pub fn is_audit(&self, table: &TableName) -> bool {
        self.audit.as_ref() == Some(table)
    }

    pub fn is_between_transactions(&self) -> bool {
        self.transaction.is_none()
    }

    pub fn field(&self, column: &Column) -> Field {
        Field::new(column, &self.capture, self.settings(), self.money_digits)
    }

    pub fn count_cut(&self, values: u64, batch: &mut Batch) -> Result<()> {
        if values > 0 && self.settings().fail_tasks_on_lob_truncation {
            return Err(Error::fatal(CUT));
        }
        batch.add_truncated(values);
        Ok(())
    }

    pub fn begin(&mut self, xid: u32, time: i64, commit: Option<u64>, changes: &mut Changes) {
        // Transactions come in the order of their commits.
        let position = Position::Lsn(commit.unwrap_or(self.read));
        changes.entries.push(Entry::Begin { position });
        self.transaction = Some(Transaction { xid, time, commit, told: false });
    }

    /// Where the transaction that is being read was committed, if that is known; of one that has just ended, where it was.
    pub fn commit_place(&self) -> Option<u64> {
        match &self.transaction {
            Some(transaction) => transaction.commit,
            // The place after the commit is the first that is beyond it.
            None => Some(self.read.saturating_sub(1)),
        }
    }

    /// Something of the transaction is among the entries.
    pub fn note_told(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.told = true;
        }
    }

    /// `end` is where the log goes on; `time` is given where the beginning has not told it.
    pub fn commit(&mut self, end: u64, time: Option<i64>, changes: &mut Changes) -> Result<()> {
        let transaction = self.transaction.take().ok_or_else(|| malformed("a commit without a beginning"))?;
        self.read = end;
        let position = Position::Lsn(end);
        changes.resume = Some(position.clone());
        // A transaction that holds nothing for us moves the place all the same.
        if transaction.told {
            let time = time.unwrap_or(transaction.time);
            changes.entries.push(Entry::Commit { transaction: transaction.xid.into(), time, position });
        } else {
            changes.take_back_begin();
        }
        Ok(())
    }

    /// Whose rows those of a relation are.
    pub fn owner(&mut self, name: &TableName, facts: &mut Facts) -> Owner {
        if self.tables.captures(name) {
            return Owner::Table(name.clone());
        }
        if let Some(relations) = facts.relations.take() {
            self.families.learn(relations, name);
        }
        if !self.families.knows(name) {
            return Owner::Unknown;
        }
        self.families.whole(name, |table| self.tables.captures(table)).map_or(Owner::Nobody, Owner::Table)
    }

    /// The captured partitioned tables that are empty when these tables are.
    pub fn emptied(&self, parts: &[&TableName]) -> Vec<usize> {
        let mut wholes: Vec<TableName> = parts.iter().flat_map(|part| self.families.wholes(part)).collect();
        wholes.sort_unstable();
        wholes.dedup();
        let is_emptied = |whole: &&TableName| self.families.leaves(whole).iter().all(|leaf| parts.contains(&leaf));
        wholes.iter().filter(is_emptied).filter_map(|whole| self.tables.find(whole)).collect()
    }

    /// A row of the audit table.
    pub fn recorded(&mut self, [tag, schema, text]: [String; 3]) -> Result<Taken> {
        let transaction = self.transaction.map_or(0, |transaction| transaction.xid);
        let Some(statement) = self.scripts.statement(transaction, &tag, &text) else {
            tracing::debug!(tag, "a statement that defines tables is not understood");
            self.is_unclear = true;
            return Ok(Taken::Whole);
        };
        let schema = if schema.is_empty() { "public".to_owned() } else { schema };
        Ok(Taken::Ask(Question::Statement(Recorded { statement, schema })))
    }

    /// Does to the known tables what a statement did, when all is known that it does not say. Tells whether tables have
    /// changed.
    pub fn define(&mut self, recorded: &Recorded, facts: &Facts, changes: &mut Changes) -> (Step, bool) {
        let Recorded { statement, schema } = recorded;
        let resolve = |name: &Name| TableName::new(name.schema.as_ref().unwrap_or(schema), &name.table);
        if !facts.is_complete
            && let Some(request) = self.request(statement, schema, resolve)
        {
            return (Step::Ask(request), false);
        }
        let told = changes.entries.len();
        let regrouped = match statement {
            Statement::Create { temporary: true, .. } => false,
            Statement::Create { name, columns, primary_key, partition_of, .. } => {
                let name = resolve(name);
                self.families.take_in(&name, partition_of.as_ref().map(resolve));
                if self.is_new(&name)
                    && let Some(version) = created(&name, columns.as_deref(), primary_key, facts)
                {
                    self.tables.create(version, facts.tables.get(&name), &mut changes.entries);
                }
                partition_of.is_some()
            }
            Statement::Drop(names) => {
                let mut was_part = false;
                for name in names.iter().map(resolve) {
                    was_part |= self.families.forget(&name);
                    if let Some(at) = self.tables.find(&name) {
                        self.tables.drop(at, &mut changes.entries);
                    }
                }
                was_part
            }
            Statement::Alter { name, only, change } => {
                let table = resolve(name);
                match change {
                    Alteration::Rename(to) => self.rename(&table, &TableName::new(&table.schema, to), facts, changes),
                    Alteration::SetSchema(to) => self.rename(&table, &TableName::new(to, &table.table), facts, changes),
                    Alteration::Attach(part) => {
                        self.families.attach(&resolve(part), &table);
                        true
                    }
                    Alteration::Detach(part) => self.families.forget(&resolve(part)),
                    Alteration::Columns(_) | Alteration::RenameColumn { .. } | Alteration::Other => {
                        let altered = self.altered(&table, *only);
                        altered.iter().for_each(|at| self.alter(*at, change, facts, changes));
                        self.give_up_all(&facts.lacking, changes);
                        // A key is not always told.
                        !altered.is_empty()
                    }
                }
            }
        };
        let changed = regrouped || changes.entries.len() > told;
        (Step::Done, changed)
    }

    /// Tells that the log does not have all of a table's changes.
    pub fn give_up(&mut self, table: TableName, reason: String, changes: &mut Changes) {
        if let Some(at) = self.tables.find(&table) {
            self.tables.tell(at, &mut changes.entries);
        }
        changes.entries.push(Entry::Unreadable { table, reason });
    }

    pub fn give_up_all(&mut self, lacking: &[Lacking], changes: &mut Changes) {
        lacking.iter().for_each(|(table, reason)| self.give_up(table.clone(), reason.clone(), changes));
    }

    /// For what and how tables are sent that may have to be sent in another way.
    pub fn review(&self) -> Option<(Plugin, Box<Capture>)> {
        let capture = || Capture { selects: self.capture.selects.clone(), ..Capture::of(&self.capture.task) };
        (self.plugin != Plugin::TestDecoding).then(|| (self.plugin, Box::new(capture())))
    }

    /// What has to be known besides a statement; `None` where it says all, or concerns no captured table.
    fn request(&self, statement: &Statement, schema: &str, resolve: impl Fn(&Name) -> TableName) -> Option<Request> {
        let mut review = None;
        let (tables, texts) = match statement {
            Statement::Create { temporary: true, .. } | Statement::Drop(_) => return None,
            Statement::Create { name, columns, .. } => {
                let columns = columns.iter().flatten();
                (vec![resolve(name)], columns.map(|column| column.type_text.clone()).collect())
            }
            Statement::Alter { name, only, change } => {
                let table = resolve(name);
                let renamed = |to: TableName| if self.tables.find(&table).is_none() { vec![to] } else { Vec::new() };
                match change {
                    Alteration::Rename(to) => (renamed(TableName::new(&table.schema, to)), Vec::new()),
                    Alteration::SetSchema(to) => (renamed(TableName::new(to, &table.table)), Vec::new()),
                    Alteration::Attach(_) | Alteration::Detach(_) => return None,
                    Alteration::Columns(_) | Alteration::RenameColumn { .. } | Alteration::Other => {
                        review = self.review();
                        let at = self.altered(&table, *only).into_iter();
                        let names = at.map(|at| self.tables.version(at).schema.name.clone()).collect();
                        (names, type_texts(change))
                    }
                }
            }
        };
        let is_new = matches!(
            statement,
            Statement::Create { .. }
                | Statement::Alter { change: Alteration::Rename(_) | Alteration::SetSchema(_), .. }
        );
        let tables: Vec<TableName> = tables.into_iter().filter(|name| !is_new || self.is_new(name)).collect();
        (!tables.is_empty()).then(|| Request { tables, texts, schema: schema.to_owned(), review, ..Request::default() })
    }

    /// A table that is captured and not known. One that is known was there already, or when the task looked.
    fn is_new(&self, name: &TableName) -> bool {
        self.tables.captures(name) && self.tables.find(name).is_none()
    }

    /// The known tables whose columns a statement changes.
    fn altered(&self, table: &TableName, only: bool) -> Vec<usize> {
        let children = if only { Vec::new() } else { self.families.descendants(table) };
        std::iter::once(table).chain(&children).filter_map(|name| self.tables.find(name)).collect()
    }

    /// The selection goes by name. A table that leaves it is no longer there under a name that is captured, and one that
    /// comes into it was not there before. What DMS does is not documented.
    /// Tells whether the table is a part of another.
    fn rename(&mut self, from: &TableName, to: &TableName, facts: &Facts, changes: &mut Changes) -> bool {
        let is_part = self.families.rename(from, to);
        match self.tables.find(from) {
            Some(at) if self.tables.captures(to) => self.tables.rename(at, to, &mut changes.entries),
            Some(at) => self.tables.drop(at, &mut changes.entries),
            None if self.is_new(to) => {
                if let Some(described) = facts.tables.get(to) {
                    self.source.note_renamed(to);
                    self.tables.create(version(described), Some(described), &mut changes.entries);
                }
            }
            None => {}
        }
        is_part
    }

    fn alter(&mut self, at: usize, change: &Alteration, facts: &Facts, changes: &mut Changes) {
        let catalog = facts.tables.get(&self.tables.version(at).schema.name);
        let edits: Vec<Edit> = match change {
            Alteration::Columns(actions) => {
                actions.iter().filter_map(|action| edit(action, catalog, &facts.texts)).collect()
            }
            Alteration::RenameColumn { from, to } => vec![Edit::Rename { from: from.clone(), to: to.clone() }],
            _ => Vec::new(),
        };
        // Of keys pgoutput and pglogical tell themselves, and exactly.
        let catalog = catalog.filter(|_| !edits.is_empty() || self.plugin == Plugin::TestDecoding);
        self.tables.alter(at, edits, catalog, &mut changes.entries);
    }
}

fn type_texts(change: &Alteration) -> Vec<String> {
    let Alteration::Columns(actions) = change else { return Vec::new() };
    let text = |action: &Action| match action {
        Action::Add(NewColumn { type_text, .. }) | Action::Retype { type_text, .. } => Some(type_text.clone()),
        Action::Drop(_) => None,
    };
    actions.iter().filter_map(text).collect()
}

/// What an action does to a column, whose type is that of the statement. The catalog tells the rest where it has not
/// moved on.
fn edit(action: &Action, catalog: Option<&Described>, types: &HashMap<String, Types>) -> Option<Edit> {
    let known = |name: &str| catalog?.schema.columns.iter().find(|column| column.name == name);
    Some(match action {
        Action::Add(column) => Edit::Add(new_column(column, known(&column.name), types)),
        Action::Drop(name) => Edit::Drop(name.clone()),
        Action::Retype { column, type_text } => {
            let of_catalog = known(column).map(|known| (plain(&known.native).to_owned(), known.data_type));
            let (native, data_type) = types.get(type_text).cloned().or(of_catalog)?;
            Edit::Retype { column: column.clone(), native, data_type }
        }
    })
}

/// A column as a statement has made it.
fn new_column(column: &NewColumn, known: Option<&Column>, types: &HashMap<String, Types>) -> Column {
    let of_text = types.get(&column.type_text);
    match (known, of_text) {
        (Some(known), None) => known.clone(),
        (Some(known), Some((native, _))) if plain(&known.native) == native => known.clone(),
        (_, of_text) => {
            // A type that was dropped since is as good as text, in which the log has it.
            let (native, data_type) = of_text.cloned().unwrap_or_else(|| ("text".to_owned(), DataType::NClob));
            Column { name: column.name.clone(), data_type, native, nullable: column.nullable, generated: false }
        }
    }
}

/// A table as a statement has made it; `None` where neither its text nor the catalog tells the columns.
fn created(
    name: &TableName,
    columns: Option<&[NewColumn]>,
    primary_key: &[String],
    facts: &Facts,
) -> Option<TableVersion> {
    let described = facts.tables.get(name);
    let known = |name: &str| described?.schema.columns.iter().find(|column| column.name == name);
    let of_text = |column: &NewColumn| new_column(column, known(&column.name), &facts.texts);
    let columns: Option<Vec<Column>> = columns.map(|columns| columns.iter().map(of_text).collect());
    match (columns, described) {
        (Some(columns), Some(described)) if described.schema.columns == columns => Some(version(described)),
        (None, described) => described.map(version),
        (Some(columns), _) => {
            let place = |name: &String| columns.iter().position(|column| column.name == *name);
            let primary_key: Vec<usize> = primary_key.iter().map(place).collect::<Option<_>>().unwrap_or_default();
            let mut identity = primary_key.clone();
            identity.sort_unstable();
            let schema = TableSchema {
                name: name.clone(),
                kind: TableKind::Table,
                family: Family::PostgreSql,
                columns,
                primary_key,
                unique_key: Vec::new(),
                rows_estimate: 0,
            };
            Some(TableVersion { schema, identity })
        }
    }
}

/// A table as the catalog has it.
fn version(described: &Described) -> TableVersion {
    TableVersion { schema: described.schema.clone(), identity: identity(&described.schema, described) }
}

pub fn malformed(what: &str) -> Error {
    Error::fatal(format!("the server does not speak the logical replication protocol: it sent {what}"))
}
