//! Relations as pgoutput describes them, and the rows of one on their way into a batch.

use std::collections::HashMap;

use super::super::catalog::{Described, Types};
use super::super::ddl::AUDIT_TABLE;
use super::log::{Log, Owner, malformed};
use super::pgoutput::{self, Image, Message, Relation, RelationColumn, Tuple};
use super::question::{Facts, Question, Request, Step, Taken};
use super::tables::{LogColumn, Shown};
use super::value::Field;
use crate::data::{Batch, Changes, DataType, Entry, Op, Result, TableName, Value};

/// What pgoutput has sent, read.
#[derive(Default)]
pub struct PgOutput {
    relations: HashMap<u32, Known>,
    /// By number and modifier.
    types: HashMap<(u32, i32), Types>,
}

/// A relation that the server has described.
enum Known {
    NotCaptured,
    /// The record of statements: where it has their tag, schema and text.
    Audit([usize; 3]),
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
    type_oid: u32,
    type_modifier: i32,
}

/// Stands for one that a partition does not have.
static NO_COLUMN: OwnedColumn = OwnedColumn { name: String::new(), key: true, type_oid: 0, type_modifier: 0 };

impl PgOutput {
    /// The types of the tables that a task begins with are known from the beginning.
    pub fn new(described: &HashMap<TableName, Described>) -> PgOutput {
        let mut types = HashMap::new();
        for table in described.values() {
            for (column, (_, oid, modifier)) in table.schema.columns.iter().zip(&table.columns) {
                let native = super::tables::plain(&column.native).to_owned();
                types.insert((*oid, *modifier), (native, column.data_type));
            }
        }
        PgOutput { relations: HashMap::new(), types }
    }

    pub fn take(&mut self, message: &[u8], log: &mut Log, changes: &mut Changes) -> Result<Taken> {
        match pgoutput::parse(message).ok_or_else(|| malformed("a pgoutput message"))? {
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
            },
            Message::Update { relation, old, new } => {
                let Known::Captured(known) = self.known(relation)? else { return Ok(Taken::Whole) };
                let old = old.map(|(image, tuple)| known.row(tuple, image, changes)).transpose()?.map(|(row, _)| row);
                let new = Some(known.new_row(new, log, changes)?);
                changes.entries.push(Entry::Row { table: known.table, op: Op::Update, old, new });
            }
            Message::Delete { relation, old: (image, tuple) } => {
                let Known::Captured(known) = self.known(relation)? else { return Ok(Taken::Whole) };
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

    /// The server describes a relation before the first of its rows, and again after anything that might have changed
    /// it.
    fn relation(&mut self, relation: &Relation<'_>, log: &Log) -> Taken {
        let relation = OwnedRelation::of(relation);
        if log.is_audit(&relation.name) {
            let place = |name: &str| relation.columns.iter().position(|column| column.name == name);
            let places = ["c_tag", "c_schema", "c_ddlqry"].map(|name| place(name).unwrap_or(usize::MAX));
            debug_assert_eq!(relation.name.table, AUDIT_TABLE);
            self.relations.insert(relation.oid, Known::Audit(places));
            return Taken::Whole;
        }
        match self.relations.get(&relation.oid) {
            Some(Known::Captured(known)) if known.relation == relation => Taken::Whole,
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
        let columns: Vec<LogColumn> = relation.columns.iter().map(|column| self.shown(column, &owner, log)).collect();
        let is_partition = owner != relation.name;
        let shown = Shown { table: &owner, columns: &columns, whole_types: true, in_order: !is_partition };
        let types = relation.columns.iter().map(|column| (column.type_oid, column.type_modifier));
        let types: Vec<(u32, i32)> = types.filter(|of| !self.types.contains_key(of)).collect();
        let is_news = log.tables.is_news(&shown);
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

    fn shown(&self, column: &OwnedColumn, owner: &TableName, log: &Log) -> LogColumn {
        let types = self.types.get(&(column.type_oid, column.type_modifier)).cloned();
        // A type that was dropped since is what it was, or as good as text, in which the log has it.
        let types = types.or_else(|| log.tables.known_type(owner, &column.name));
        let (native, data_type) = types.unwrap_or_else(|| ("text".to_owned(), DataType::NClob));
        LogColumn { name: column.name.clone(), native, data_type, key: column.key }
    }
}

/// Tag, schema and text of a statement in the audit table.
fn record(row: Tuple<'_>, places: [usize; 3]) -> [String; 3] {
    let fields: Vec<pgoutput::Field<'_>> = row.collect();
    places.map(|place| match fields.get(place) {
        Some(pgoutput::Field::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        _ => String::new(),
    })
}

impl Captured {
    fn new(relation: OwnedRelation, table: u32, is_partition: bool, log: &Log, at: usize) -> Captured {
        let columns = &log.tables.version(at).schema.columns;
        let place = |name: &str| relation.columns.iter().position(|column| column.name == name);
        let fields: Vec<(Field, Option<usize>)> =
            columns.iter().map(|column| (log.field(column), place(&column.name))).collect();
        let in_order = fields.len() == relation.columns.len()
            && fields.iter().enumerate().all(|(index, (_, place))| *place == Some(index));
        Captured { relation, table, is_partition, fields, in_order }
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
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
        };
        OwnedRelation {
            oid: relation.oid,
            name: TableName::new(relation.schema, relation.table),
            columns: relation.columns.iter().map(column).collect(),
        }
    }
}
