//! Relations as pgoutput and pglogical describe them, and the rows of one on their way into a batch.
//!
//! Of the types of columns pglogical tells nothing. They are those that are known, which recorded statements change; where
//! none are recorded, or not all are understood, the catalog has to do, whenever a relation is described again.

use std::collections::HashMap;

use super::super::catalog::{Described, Types};
use super::super::ddl::AUDIT_TABLE;
use super::log::{Log, Owner, malformed};
use super::pglogical;
use super::pgoutput::{self, Image, Message, Relation, RelationColumn, Tuple};
use super::question::{Facts, Question, Request, Step, Taken};
use super::tables::{LogColumn, Shown};
use super::value::Field;
use crate::data::{Batch, Changes, DataType, Entry, Op, Result, TableName, Value};

/// Which plugin sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    PgOutput,
    Pglogical {
        /// Statements that define tables are told.
        statements: bool,
    },
}

/// What pgoutput or pglogical has sent, read.
pub struct Relations {
    sender: Sender,
    relations: HashMap<u32, Known>,
    /// By number and modifier.
    types: HashMap<(u32, i32), Types>,
}

/// A relation that the server has described.
enum Known {
    NotCaptured,
    /// The record of statements: where it has their tag, schema and text.
    Audit([usize; 3]),
    /// pglogical's messages: where it has their kind and what they say.
    Queue([usize; 2]),
    Captured(Captured),
}

struct Captured {
    relation: OwnedRelation,
    /// As it is called in entries.
    table: u32,
    /// A partition of the table that its rows are told of.
    is_partition: bool,
    /// For each column of the table how its values are read, and where the relation has them.
    fields: Vec<(Field, Option<usize>)>,
    in_order: bool,
    /// Rows cannot be told apart.
    is_anonymous: bool,
}

/// A relation that outlives the message it came in.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedRelation {
    oid: u32,
    name: TableName,
    columns: Vec<OwnedColumn>,
}

#[derive(Clone, Debug, PartialEq)]
struct OwnedColumn {
    name: String,
    key: bool,
    /// Number and modifier of the type, where they are told.
    type_of: Option<(u32, i32)>,
}

/// Stands for one that a partition does not have.
static NO_COLUMN: OwnedColumn = OwnedColumn { name: String::new(), key: true, type_of: None };

impl Relations {
    /// The types of the tables that a task begins with are known from the beginning.
    pub fn new(sender: Sender, described: &HashMap<TableName, Described>) -> Relations {
        let mut types = HashMap::new();
        for table in described.values() {
            for (column, (_, oid, modifier)) in table.schema.columns.iter().zip(&table.columns) {
                let native = super::tables::plain(&column.native).to_owned();
                types.insert((*oid, *modifier), (native, column.data_type));
            }
        }
        Relations { sender, relations: HashMap::new(), types }
    }

    pub fn take(&mut self, message: &[u8], log: &mut Log, changes: &mut Changes) -> Result<Taken> {
        let parsed = match self.sender {
            Sender::PgOutput => pgoutput::parse(message).ok_or_else(|| malformed("a pgoutput message"))?,
            Sender::Pglogical { .. } => pglogical::parse(message).ok_or_else(|| malformed("a pglogical message"))?,
        };
        match parsed {
            Message::Begin { commit, time, xid } => log.begin(xid, time, Some(commit), changes),
            Message::Commit { end } => log.commit(end, None, changes)?,
            Message::Relation(relation) => return Ok(self.relation(&relation, log)),
            Message::Insert { relation, new } => match self.known(relation)? {
                Known::NotCaptured => {}
                Known::Captured(known) => {
                    let new = Some(known.new_row(new, log, changes)?);
                    changes.entries.push(Entry::Row { table: known.table, op: Op::Insert, old: None, new });
                }
                Known::Audit(places) => return log.recorded(record(new, *places)),
                Known::Queue(places) => {
                    let [kind, message] = texts(new, *places);
                    let at = pglogical::emptied(kind, message).and_then(|table| log.tables.find(&table));
                    let table = at.map(|at| log.tables.tell(at, &mut changes.entries));
                    let entry = table.map(|table| Entry::Truncate { table });
                    // Where a table has foreign keys, the extension tells as often as the table is in sets.
                    if changes.entries.last() != entry.as_ref() {
                        changes.entries.extend(entry);
                    }
                }
            },
            Message::Update { relation, old, new } => {
                let Some(known) = self.identified(relation)? else { return Ok(Taken::Whole) };
                let old = old.map(|(image, tuple)| known.row(tuple, image, changes)).transpose()?.map(|(row, _)| row);
                let new = Some(known.new_row(new, log, changes)?);
                changes.entries.push(Entry::Row { table: known.table, op: Op::Update, old, new });
            }
            Message::Delete { relation, old: (image, tuple) } => {
                let Some(known) = self.identified(relation)? else { return Ok(Taken::Whole) };
                let (old, _) = known.row(tuple, image, changes)?;
                changes.entries.push(Entry::Row { table: known.table, op: Op::Delete, old: Some(old), new: None });
            }
            Message::Truncate { relations } => {
                let mut emptied = Vec::new();
                for relation in relations {
                    let Known::Captured(known) = self.known(relation)? else { continue };
                    emptied.push(&known.relation.name);
                    // A part of a table may be emptied, which does not empty the table.
                    if !known.is_partition {
                        changes.entries.push(Entry::Truncate { table: known.table });
                    }
                }
                for at in log.emptied(&emptied) {
                    let table = log.tables.tell(at, &mut changes.entries);
                    changes.entries.push(Entry::Truncate { table });
                }
            }
            Message::Origin { .. } | Message::Other => {}
        }
        Ok(Taken::Whole)
    }

    fn known(&self, relation: u32) -> Result<&Known> {
        self.relations.get(&relation).ok_or_else(|| malformed("a row of a relation that was not described"))
    }

    /// A captured relation whose rows can be told apart. Of others it is nobody's knowledge which row was changed; the
    /// server sends such changes until the table is published or in a replication set as one without a key.
    fn identified(&self, relation: u32) -> Result<Option<&Captured>> {
        Ok(match self.known(relation)? {
            Known::Captured(known) if !known.is_anonymous => Some(known),
            _ => None,
        })
    }

    /// The server describes a relation before the first of its rows, and again after anything that might have changed
    /// it.
    fn relation(&mut self, relation: &Relation<'_>, log: &Log) -> Taken {
        let relation = OwnedRelation::of(relation);
        let place = |name: &str| relation.columns.iter().position(|column| column.name == name).unwrap_or(usize::MAX);
        if log.is_audit(&relation.name) {
            let places = ["c_tag", "c_schema", "c_ddlqry"].map(place);
            debug_assert_eq!(relation.name.table, AUDIT_TABLE);
            self.relations.insert(relation.oid, Known::Audit(places));
            return Taken::Whole;
        }
        if self.sender != Sender::PgOutput && relation.name == TableName::new(pglogical::SCHEMA, pglogical::QUEUE_TABLE)
        {
            let places = ["message_type", "message"].map(place);
            self.relations.insert(relation.oid, Known::Queue(places));
            return Taken::Whole;
        }
        match self.relations.get(&relation.oid) {
            // Where types are not told, what is equal need not be the same.
            Some(Known::Captured(known)) if self.sender == Sender::PgOutput && known.relation == relation => {
                Taken::Whole
            }
            _ => Taken::Ask(Question::Relation(relation)),
        }
    }

    /// Takes up a relation, when all is known that has to be asked for.
    pub fn meet(
        &mut self,
        relation: &OwnedRelation,
        facts: &mut Facts,
        log: &mut Log,
        changes: &mut Changes,
    ) -> Result<Step> {
        let owner = match log.owner(&relation.name, facts) {
            Owner::Unknown => return Ok(Step::Ask(Request { relations: true, ..Request::default() })),
            Owner::Nobody => {
                self.relations.insert(relation.oid, Known::NotCaptured);
                return Ok(Step::Done);
            }
            Owner::Table(owner) => owner,
        };
        self.types.extend(facts.types.drain());
        let shown = |column: &OwnedColumn| self.shown(column, &owner, facts.tables.get(&owner), log);
        let columns: Vec<LogColumn> = relation.columns.iter().map(shown).collect();
        let is_partition = owner != relation.name;
        let shown = Shown { table: &owner, columns: &columns, whole_types: true, in_order: !is_partition };
        let types = relation.columns.iter().filter_map(|column| column.type_of);
        let types: Vec<(u32, i32)> = types.filter(|of| !self.types.contains_key(of)).collect();
        let is_news = log.tables.is_news(&shown) || self.goes_by_catalog(log);
        if !facts.is_complete && (is_news || !types.is_empty()) {
            let tables = vec![owner];
            let review = log.review().filter(|_| is_news);
            return Ok(Step::Ask(Request { tables, types, review, ..Request::default() }));
        }
        let at = log.tables.meet(&shown, facts.tables.get(&owner), &mut changes.entries);
        let table = log.tables.tell(at, &mut changes.entries);
        log.give_up_all(&facts.lacking, changes);
        let captured = Captured::new(relation.clone(), table, is_partition, log, at);
        self.relations.insert(relation.oid, Known::Captured(captured));
        Ok(Step::Done)
    }

    /// Whether types may have changed without a word.
    fn goes_by_catalog(&self, log: &Log) -> bool {
        match self.sender {
            Sender::PgOutput => false,
            Sender::Pglogical { statements } => !statements || log.is_unclear,
        }
    }

    fn shown(&self, column: &OwnedColumn, owner: &TableName, now: Option<&Described>, log: &Log) -> LogColumn {
        let known = || log.tables.known_type(owner, &column.name);
        let of_catalog = || {
            let column = now?.schema.columns.iter().find(|now| now.name == column.name)?;
            Some((super::tables::plain(&column.native).to_owned(), column.data_type))
        };
        let types = match column.type_of {
            // A type that was dropped since is what it was, or as good as text, in which the log has it.
            Some(of) => self.types.get(&of).cloned().or_else(known),
            None if self.goes_by_catalog(log) => of_catalog().or_else(known),
            None => known().or_else(of_catalog),
        };
        let (native, data_type) = types.unwrap_or_else(|| ("text".to_owned(), DataType::NClob));
        LogColumn { name: column.name.clone(), native, data_type, key: column.key }
    }
}

/// Tag, schema and text of a statement in the audit table.
fn record(row: Tuple<'_>, places: [usize; 3]) -> [String; 3] {
    texts(row, places).map(|text| String::from_utf8_lossy(text).into_owned())
}

/// Values of a row that are texts; others are empty.
fn texts<const N: usize>(row: Tuple<'_>, places: [usize; N]) -> [&[u8]; N] {
    let fields: Vec<pgoutput::Field<'_>> = row.collect();
    places.map(|place| match fields.get(place) {
        Some(pgoutput::Field::Text(text)) => *text,
        _ => &[],
    })
}

impl Captured {
    fn new(relation: OwnedRelation, table: u32, is_partition: bool, log: &Log, at: usize) -> Captured {
        let version = log.tables.version(at);
        let (columns, is_anonymous) = (&version.schema.columns, version.identity.is_empty());
        let place = |name: &str| relation.columns.iter().position(|column| column.name == name);
        let fields: Vec<(Field, Option<usize>)> =
            columns.iter().map(|column| (log.field(column), place(&column.name))).collect();
        let in_order = fields.len() == relation.columns.len()
            && fields.iter().enumerate().all(|(index, (_, place))| *place == Some(index));
        Captured { relation, table, is_partition, fields, in_order, is_anonymous }
    }

    fn new_row(&self, tuple: Tuple<'_>, log: &Log, changes: &mut Changes) -> Result<u32> {
        let (row, cut) = self.row(tuple, Image::Whole, changes)?;
        log.count_cut(cut, &mut changes.rows)?;
        Ok(row)
    }

    /// Appends a row. Gives its number and how many values were cut.
    fn row(&self, tuple: Tuple<'_>, image: Image, changes: &mut Changes) -> Result<(u32, u64)> {
        if tuple.len() != self.relation.columns.len() {
            return Err(malformed("a row with other columns than its relation"));
        }
        let number = changes.next_row();
        let batch: &mut Batch = &mut changes.rows;
        let mut cut = 0;
        let mut push = |value: pgoutput::Field<'_>, field: &Field, column: &OwnedColumn| match value {
            _ if image == Image::Key && !column.key => batch.push(Value::Absent),
            pgoutput::Field::Null => batch.push(Value::Null),
            pgoutput::Field::Unchanged => batch.push(Value::Absent),
            pgoutput::Field::Text(text) => cut += u64::from(field.push(text, batch)),
        };
        if self.in_order {
            for ((value, (field, _)), column) in tuple.zip(&self.fields).zip(&self.relation.columns) {
                push(value, field, column);
            }
        } else {
            let values: Vec<pgoutput::Field<'_>> = tuple.collect();
            for (field, place) in &self.fields {
                let value = place.and_then(|place| Some((*values.get(place)?, &self.relation.columns[place])));
                // What the log does not have reads as unchanged.
                let (value, column) = value.unwrap_or((pgoutput::Field::Unchanged, &NO_COLUMN));
                push(value, field, column);
            }
        }
        batch.end_row();
        Ok((number, cut))
    }
}

impl OwnedRelation {
    fn of(relation: &Relation<'_>) -> OwnedRelation {
        let column = |column: &RelationColumn<'_>| OwnedColumn {
            name: column.name.to_owned(),
            key: column.key,
            type_of: column.type_of,
        };
        OwnedRelation {
            oid: relation.oid,
            name: TableName::new(relation.schema, relation.table),
            columns: relation.columns.iter().map(column).collect(),
        }
    }
}
