//! Tables as the lines of test_decoding show them, and the rows of one on their way into a batch.

use std::collections::HashMap;

use super::super::catalog::{Described, Types};
use super::super::sql;
use super::super::type_map::NativeType;
use super::log::{Log, Owner, malformed};
use super::question::{Facts, Question, Request, Step, Taken};
use super::tables::{LogColumn, Shown, identity, plain};
use super::test_decoding::{self, Change, Item, Line, Written, name};
use super::value::Field;
use crate::data::{Changes, Column, DataType, Entry, Op, Result, TableName, TableVersion, Value};

/// What test_decoding has sent, read.
#[derive(Default)]
pub struct TestDecoding {
    /// Tables by their names as they are written.
    tables: HashMap<Vec<u8>, Known>,
    /// By their text, which has no modifier.
    types: HashMap<String, Types>,
    /// How names of columns are written: which of them get quotation marks only the server knows.
    written: HashMap<String, Vec<u8>>,
}

enum Known {
    NotCaptured,
    Audit,
    Captured(Captured),
}

struct Captured {
    /// As it is called in entries.
    table: u32,
    /// The log has whole old rows, without what is null in them.
    has_old_rows: bool,
    /// Rows cannot be told apart.
    is_anonymous: bool,
    columns: Vec<ColumnOf>,
    /// For each column of the table its place among `columns`.
    order: Vec<Option<usize>>,
}

/// A column as lines have it.
struct ColumnOf {
    name: Vec<u8>,
    /// `None` before a line has shown it.
    type_name: Option<Vec<u8>>,
    /// One of those that old rows are told by.
    key: bool,
    field: Field,
}

impl TestDecoding {
    /// The types of the tables that a task begins with are known from the beginning.
    pub fn new(described: &HashMap<TableName, Described>) -> TestDecoding {
        let mut reader = TestDecoding::default();
        for column in described.values().flat_map(|table| &table.schema.columns) {
            let native = NativeType::parse(&column.native);
            let text = if native.array { format!("{}[]", native.name) } else { native.name };
            reader.types.insert(text.clone(), (text, column.data_type));
        }
        reader
    }

    /// `end` is where the log goes on after a commit.
    pub fn take(&mut self, line: &[u8], end: u64, log: &mut Log, changes: &mut Changes) -> Result<Taken> {
        match test_decoding::parse(line).ok_or_else(|| malformed("a line of test_decoding"))? {
            Line::Begin { xid } => log.begin(xid, 0, None, changes),
            Line::Commit { time } => log.commit(end, Some(time), changes)?,
            Line::Truncate(tables) => {
                for table in tables {
                    let name = name(table).ok_or_else(|| malformed("a table's name"))?;
                    // One that no row has shown and no statement has made has none to lose.
                    if let Some(at) = log.tables.find(&name) {
                        let table = log.tables.tell(at, &mut changes.entries);
                        changes.entries.push(Entry::Truncate { table });
                    }
                }
            }
            Line::Change(change) => match self.tables.get(change.table) {
                Some(Known::NotCaptured) => {}
                Some(Known::Audit) if change.op == Op::Insert => return log.recorded(record(&change)),
                Some(Known::Audit) => {}
                Some(Known::Captured(known)) if known.fits(&change) => known.row(&change, log, changes)?,
                _ => {
                    let table = name(change.table).ok_or_else(|| malformed("a table's name"))?;
                    if log.is_audit(&table) {
                        self.tables.insert(change.table.to_vec(), Known::Audit);
                        return log.recorded(record(&change));
                    }
                    return Ok(Taken::Ask(Question::Line(line.to_vec())));
                }
            },
            Line::Other => {}
        }
        Ok(Taken::Whole)
    }

    /// Takes up the table that a line is of as the line shows it, when all is known that has to be asked for, and then
    /// the line.
    pub fn meet(&mut self, line: &[u8], facts: &mut Facts, log: &mut Log, changes: &mut Changes) -> Result<Step> {
        let Some(Line::Change(change)) = test_decoding::parse(line) else { return Ok(Step::Done) };
        let table = name(change.table).ok_or_else(|| malformed("a table's name"))?;
        let owner = match log.owner(&table, facts) {
            Owner::Unknown => return Ok(Step::Ask(Request { relations: true, ..Request::default() })),
            Owner::Nobody => {
                self.tables.insert(change.table.to_vec(), Known::NotCaptured);
                return Ok(Step::Done);
            }
            Owner::Table(owner) => owner,
        };
        for item in change.old.iter().chain(&change.new).flatten() {
            let name = test_decoding::identifier(item.name).ok_or_else(|| malformed("a column's name"))?;
            self.written.insert(name, item.name.to_vec());
        }
        self.types.extend(facts.texts.drain());
        let keys = log.tables.find(&owner).map(|at| key_names(log.tables.version(at))).unwrap_or_default();
        let keys = if facts.is_complete { keys_now(&change, facts.tables.get(&owner), keys) } else { keys };
        let columns = self.shown(&change, &keys, &owner, facts, log)?;
        let shown = Shown { table: &owner, columns: &columns, whole_types: false, in_order: owner == table };
        let texts = change.new.iter().flatten().map(|item| String::from_utf8_lossy(item.type_name).into_owned());
        let texts: Vec<String> = texts.filter(|text| !self.types.contains_key(text)).collect();
        let is_news = log.tables.is_news(&shown) || !told(&change).all(|name| keys.contains(&name));
        if !facts.is_complete && (is_news || !texts.is_empty()) {
            let (tables, schema) = (vec![owner], "pg_catalog".to_owned());
            return Ok(Step::Ask(Request { tables, texts, schema, ..Request::default() }));
        }
        let at = log.tables.meet(&shown, facts.tables.get(&owner), &mut changes.entries);
        let number = log.tables.tell(at, &mut changes.entries);
        let captured = self.layout(&change, &columns, number, log, at);
        captured.row(&change, log, changes)?;
        self.tables.insert(change.table.to_vec(), Known::Captured(captured));
        Ok(Step::Done)
    }

    /// The columns that a line shows; of one without a new row those that are known, or that the catalog has.
    fn shown(
        &self,
        change: &Change<'_>,
        keys: &[String],
        owner: &TableName,
        facts: &Facts,
        log: &Log,
    ) -> Result<Vec<LogColumn>> {
        let Some(items) = &change.new else {
            let schema = match (log.tables.find(owner), facts.tables.get(owner)) {
                (Some(at), _) => &log.tables.version(at).schema,
                (None, Some(described)) => &described.schema,
                (None, None) => return Ok(Vec::new()),
            };
            let column = |column: &Column| LogColumn {
                name: column.name.clone(),
                native: plain(&column.native).to_owned(),
                data_type: column.data_type,
                key: keys.contains(&column.name),
            };
            return Ok(schema.columns.iter().map(column).collect());
        };
        let column = |item: &Item<'_>| {
            let name = test_decoding::identifier(item.name).ok_or_else(|| malformed("a column's name"))?;
            let text = String::from_utf8_lossy(item.type_name);
            let types = self.types.get(text.as_ref()).map(|(native, data_type)| (without_modifier(native), *data_type));
            // A type that was dropped since is what it was, or as good as text, in which the log has it.
            let types = types.or_else(|| log.tables.known_type(owner, &name));
            let (native, data_type) = types.unwrap_or_else(|| ("text".to_owned(), DataType::NClob));
            Ok(LogColumn { key: keys.contains(&name), name, native, data_type })
        };
        items.iter().map(column).collect()
    }

    fn layout(&self, change: &Change<'_>, shown: &[LogColumn], table: u32, log: &Log, at: usize) -> Captured {
        let version = log.tables.version(at);
        let column = |(index, column): (usize, &LogColumn)| {
            let place = version.schema.columns.iter().position(|known| known.name == column.name)?;
            let item = change.new.as_ref().and_then(|items| items.get(index));
            let written = self.written.get(&column.name).cloned();
            Some(ColumnOf {
                name: written.unwrap_or_else(|| self::written(&column.name)),
                type_name: item.map(|item| item.type_name.to_vec()),
                key: version.identity.contains(&place),
                field: log.field(&version.schema.columns[place]),
            })
        };
        let columns: Vec<ColumnOf> = shown.iter().enumerate().filter_map(column).collect();
        let place = |name: &str| shown.iter().position(|column| column.name == name);
        let identity = &version.identity;
        let whole = identity.len() == version.schema.columns.len();
        Captured {
            table,
            has_old_rows: whole && !version.schema.primary_key.iter().eq(identity),
            is_anonymous: identity.is_empty(),
            order: version.schema.columns.iter().map(|column| place(&column.name)).collect(),
            columns,
        }
    }

    /// Tables have changed: their lines are looked at anew.
    pub fn forget(&mut self) {
        self.tables.clear();
    }
}

/// A length that nobody has given is none.
fn without_modifier(native: &str) -> String {
    native.replace("character(1)", "bpchar").replace("bit(1)", "bit varying")
}

fn key_names(version: &TableVersion) -> Vec<String> {
    version.identity.iter().map(|column| version.schema.columns[*column].name.clone()).collect()
}

/// The columns that a line tells an old row by.
fn told(change: &Change<'_>) -> impl Iterator<Item = String> {
    change.old.iter().flatten().filter_map(|item| test_decoding::identifier(item.name))
}

/// The columns that old rows are told by. The catalog is of now; the line is right.
fn keys_now(change: &Change<'_>, described: Option<&Described>, known: Vec<String>) -> Vec<String> {
    let now = described.map(|described| {
        let name = |column: usize| described.schema.columns[column].name.clone();
        identity(&described.schema, described).into_iter().map(name).collect()
    });
    let known: Vec<String> = now.unwrap_or(known);
    let told: Vec<String> = told(change).collect();
    if told.iter().all(|name| known.contains(name)) { known } else { told }
}

/// Tag, schema and text of a statement in the audit table.
fn record(change: &Change<'_>) -> [String; 3] {
    let value = |name: &str| {
        let item = change.new.iter().flatten().find(|item| item.name == name.as_bytes());
        match item.map(|item| item.value) {
            Some(Written::Quoted(text)) => String::from_utf8_lossy(text).replace("''", "'"),
            _ => String::new(),
        }
    };
    ["c_tag", "c_schema", "c_ddlqry"].map(value)
}

impl Captured {
    /// Whether a line has the columns that are expected, so that nothing has to be asked.
    fn fits(&self, change: &Change<'_>) -> bool {
        let same = |(item, column): (&Item<'_>, &ColumnOf)| {
            item.name == column.name && column.type_name.as_deref() == Some(item.type_name)
        };
        let new = change.new.as_ref();
        new.is_none_or(|new| new.len() == self.columns.len() && new.iter().zip(&self.columns).all(same))
            && change
                .old
                .iter()
                .flatten()
                .all(|item| self.columns.iter().any(|column| column.key && column.name == item.name))
    }

    fn row(&self, change: &Change<'_>, log: &Log, changes: &mut Changes) -> Result<()> {
        // As with pgoutput, and as DMS has it: nobody could tell which row it was.
        if change.op != Op::Insert && self.is_anonymous {
            return Ok(());
        }
        let old = change.old.as_ref().map(|items| self.old_image(items, changes));
        let new = match &change.new {
            Some(items) => Some(self.new_image(items, log, changes)?),
            None => None,
        };
        if old.is_some() || new.is_some() {
            changes.entries.push(Entry::Row { table: self.table, op: change.op, old, new });
        }
        Ok(())
    }

    fn new_image(&self, items: &[Item<'_>], log: &Log, changes: &mut Changes) -> Result<u32> {
        let number = changes.next_row();
        let mut cut = 0;
        for place in &self.order {
            let item = place.and_then(|place| Some((items.get(place)?, self.columns.get(place)?)));
            match item {
                Some((item, column)) => cut += u64::from(push(item.value, &column.field, changes)),
                None => changes.rows.push(Value::Absent),
            }
        }
        changes.rows.end_row();
        log.count_cut(cut, &mut changes.rows)?;
        Ok(number)
    }

    fn old_image(&self, items: &[Item<'_>], changes: &mut Changes) -> u32 {
        let number = changes.next_row();
        for place in &self.order {
            let column = place.and_then(|place| self.columns.get(place));
            let item = column.and_then(|column| items.iter().find(|item| item.name == column.name).zip(Some(column)));
            match item {
                Some((item, column)) => {
                    push(item.value, &column.field, changes);
                }
                None if self.has_old_rows => changes.rows.push(Value::Null),
                None => changes.rows.push(Value::Absent),
            }
        }
        changes.rows.end_row();
        number
    }
}

/// Appends a value, and tells whether it was cut.
fn push(value: Written<'_>, field: &Field, changes: &mut Changes) -> bool {
    let batch = &mut changes.rows;
    match value {
        Written::Null => batch.push(Value::Null),
        Written::Unchanged => batch.push(Value::Absent),
        Written::True => return field.push(b"t", batch),
        Written::False => return field.push(b"f", batch),
        Written::Plain(text) => return field.push(text, batch),
        Written::Quoted(text) if memchr::memchr(b'\'', text).is_none() => return field.push(text, batch),
        Written::Quoted(text) => {
            let mut plain = Vec::with_capacity(text.len());
            let mut rest = text;
            while let Some(at) = memchr::memchr(b'\'', rest) {
                plain.extend_from_slice(&rest[..=at]);
                rest = rest.get(at + 2..).unwrap_or_default();
            }
            plain.extend_from_slice(rest);
            return field.push(&plain, batch);
        }
    }
    false
}

/// A name as the plugin writes it, where no line has shown that.
fn written(name: &str) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
    let is_plain = name.as_bytes().iter().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit());
    if is_plain { name.as_bytes().to_vec() } else { sql::identifier(name).into_bytes() }
}
