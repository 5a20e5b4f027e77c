//! The captured tables as they are at the place in the log that is being read.
//!
//! They begin as the task knows them. Statements that the log has recorded change them; so does what the log shows of
//! them, when no statement has told it. A change is told once, by whichever comes first.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::catalog::Described;
use super::super::type_map::NativeType;
use super::pglogical;
use crate::connector::Capture;
use crate::data::{
    Column, ColumnChange, DataType, Ddl, Entry, Family, TableKind, TableName, TableSchema, TableVersion,
};

/// Tables of DMS's own, which, like those of the extension pglogical, a selection by pattern does not mean.
const DMS_TABLES: &str = "awsdms_";

/// … but for the one that two tasks in opposite directions know each other's changes by.
const LOOPBACK_TABLE: &str = "awsdms_loopback_prevention";

/// What a table is called while it is written anew, which before version 11 is in the log.
const REWRITTEN: &str = "pg_temp_";

/// A column as the log shows it.
#[derive(Clone, Debug)]
pub struct LogColumn {
    pub name: String,
    /// Without a collation.
    pub native: String,
    pub data_type: DataType,
    /// One of those that old rows are told by.
    pub key: bool,
}

/// What the log shows of a table.
pub struct Shown<'a> {
    pub table: &'a TableName,
    pub columns: &'a [LogColumn],
    /// Types are told with their modifiers.
    pub whole_types: bool,
    /// The columns are those of the table in its own order, not those of a partition in another.
    pub in_order: bool,
}

/// What a statement does to a column.
#[derive(Clone, Debug)]
pub enum Edit {
    Add(Column),
    Drop(String),
    Rename { from: String, to: String },
    Retype { column: String, native: String, data_type: DataType },
}

pub struct Tables {
    capture: Capture,
    tables: Vec<Table>,
    by_name: HashMap<TableName, usize>,
    /// The next number to give.
    told: u32,
}

struct Table {
    version: Arc<TableVersion>,
    /// What it is called in entries; none before the first.
    number: Option<u32>,
    /// It was dropped.
    gone: bool,
    /// The numbers of columns in the catalog, which outlive their names, as far as they are known.
    numbers: HashMap<String, i32>,
}

impl Tables {
    /// The tables as the task knows them, with what the catalog tells of them besides.
    pub fn new(capture: &Capture, described: &HashMap<TableName, Described>) -> Tables {
        let mut tables = Tables { capture: capture.clone(), tables: Vec::new(), by_name: HashMap::new(), told: 0 };
        for schema in capture.tables.iter().filter(|table| (capture.selects)(&table.name)) {
            let described = described.get(&schema.name);
            let identity = described.map_or_else(|| sorted(&schema.primary_key), |table| identity(schema, table));
            let version = Arc::new(TableVersion { schema: schema.clone(), identity });
            let numbers = described.map(numbers).unwrap_or_default();
            tables.by_name.insert(schema.name.clone(), tables.tables.len());
            tables.tables.push(Table { version, number: None, gone: false, numbers });
        }
        tables
    }

    /// Whether rows of a table are captured under its own name.
    pub fn captures(&self, name: &TableName) -> bool {
        let is_ours = name.table.starts_with(DMS_TABLES) && name.table != LOOPBACK_TABLE;
        let number = name.table.strip_prefix(REWRITTEN);
        if number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())) {
            return false;
        }
        let is_ours = is_ours || name.schema == pglogical::SCHEMA;
        (self.capture.selects)(name) && (!is_ours || self.capture.tables.iter().any(|table| table.name == *name))
    }

    /// The place of a table that is known to exist.
    pub fn find(&self, name: &TableName) -> Option<usize> {
        self.by_name.get(name).copied().filter(|at| !self.tables[*at].gone)
    }

    /// The type that a column is known to have.
    pub fn known_type(&self, table: &TableName, column: &str) -> Option<(String, DataType)> {
        let columns = &self.version(self.find(table)?).schema.columns;
        let column = columns.iter().find(|known| known.name == column)?;
        Some((plain(&column.native).to_owned(), column.data_type))
    }

    pub fn version(&self, at: usize) -> &Arc<TableVersion> {
        &self.tables[at].version
    }

    /// Says which table the number means that entries have, and gives it.
    pub fn tell(&mut self, at: usize, entries: &mut Vec<Entry>) -> u32 {
        let table = &mut self.tables[at];
        if let Some(number) = table.number {
            return number;
        }
        let number = self.told;
        self.told += 1;
        table.number = Some(number);
        entries.push(Entry::Table { table: number, version: table.version.clone() });
        number
    }

    /// Whether the catalog has to be asked before [`meet`](Tables::meet): something is new.
    pub fn is_news(&self, shown: &Shown<'_>) -> bool {
        let Some(at) = self.find(shown.table) else { return true };
        let version = self.version(at);
        let keys = |column: &usize| version.schema.columns[*column].name.as_str();
        !Difference::new(&version.schema.columns, shown).is_empty()
            || !version.identity.iter().map(keys).eq(key_names(&version.schema.columns, shown.columns))
    }

    /// Takes up what the log shows of a table before rows of it, with what the catalog says of it now where that was
    /// asked. Gives its place.
    pub fn meet(&mut self, shown: &Shown<'_>, catalog: Option<&Described>, entries: &mut Vec<Entry>) -> usize {
        let Some(at) = self.find(shown.table) else {
            return self.create(first_version(shown, catalog), catalog, entries);
        };
        let (version, changes, renames) = self.next_version(at, shown, catalog);
        for (from, to) in &renames {
            self.renumber(at, from, to);
        }
        self.update(at, version, changes, catalog, entries);
        self.tell(at, entries);
        at
    }

    /// A new table.
    pub fn create(&mut self, version: TableVersion, catalog: Option<&Described>, entries: &mut Vec<Entry>) -> usize {
        let version = Arc::new(version);
        let name = version.schema.name.clone();
        let numbers = catalog.map(numbers).unwrap_or_default();
        let at = self.by_name.get(&name).copied().unwrap_or(self.tables.len());
        // One that was dropped before keeps its number.
        let number = self.tables.get(at).and_then(|table| table.number).unwrap_or_else(|| {
            self.told += 1;
            self.told - 1
        });
        entries.push(Entry::Ddl { table: number, ddl: Ddl::Create(version.clone()) });
        let table = Table { version, number: Some(number), gone: false, numbers };
        match self.tables.get_mut(at) {
            Some(slot) => *slot = table,
            None => self.tables.push(table),
        }
        self.by_name.insert(name, at);
        at
    }

    pub fn drop(&mut self, at: usize, entries: &mut Vec<Entry>) {
        let table = self.tell(at, entries);
        self.tables[at].gone = true;
        entries.push(Entry::Ddl { table, ddl: Ddl::Drop });
    }

    pub fn rename(&mut self, at: usize, to: &TableName, entries: &mut Vec<Entry>) {
        if let Some(other) = self.find(to).filter(|other| *other != at) {
            // It would stand in the way, so it must have gone by a statement that was not seen.
            self.drop(other, entries);
        }
        let number = self.tell(at, entries);
        let table = &mut self.tables[at];
        let mut version = TableVersion::clone(&table.version);
        let from = std::mem::replace(&mut version.schema.name, to.clone());
        table.version = Arc::new(version);
        self.by_name.remove(&from);
        self.by_name.insert(to.clone(), at);
        entries.push(Entry::Ddl { table: number, ddl: Ddl::Rename(self.tables[at].version.clone()) });
    }

    /// Does what a statement does to a table's columns. What is so already is left as it is.
    pub fn alter(&mut self, at: usize, edits: Vec<Edit>, catalog: Option<&Described>, entries: &mut Vec<Entry>) {
        let old = self.version(at).clone();
        let mut columns = old.schema.columns.clone();
        let mut names: HashMap<String, String> = HashMap::new();
        let (mut changes, mut retyped, mut added) = (Vec::new(), Vec::new(), Vec::new());
        for edit in edits {
            let place = |columns: &[Column], name: &str| columns.iter().position(|column| column.name == name);
            match edit {
                Edit::Add(column) if place(&columns, &column.name).is_none() => {
                    added.push(column.name.clone());
                    columns.push(column);
                }
                Edit::Drop(name) => {
                    if let Some(place) = place(&columns, &name) {
                        columns.remove(place);
                        changes.push(ColumnChange::Drop { name });
                    }
                }
                Edit::Rename { from, to } => {
                    if let (Some(column), None) = (place(&columns, &from), place(&columns, &to)) {
                        columns[column].name.clone_from(&to);
                        self.renumber(at, &from, &to);
                        changes.push(ColumnChange::Rename { from: from.clone(), column });
                        names.insert(from, to);
                    }
                }
                Edit::Retype { column, native, data_type } => {
                    if let Some(place) = place(&columns, &column)
                        && plain(&columns[place].native) != native
                    {
                        (columns[place].native, columns[place].data_type) = (native, data_type);
                        retyped.push(column);
                    }
                }
                Edit::Add(_) => {}
            }
        }
        let place = |name: &String| columns.iter().position(|column| column.name == *name);
        changes.extend(retyped.iter().filter_map(place).map(|column| ColumnChange::Retype { column }));
        changes.extend(added.iter().filter_map(place).map(|column| ColumnChange::Add { column }));
        let version = carried_over(&old, columns, |name| names.get(name).cloned().unwrap_or_else(|| name.to_owned()));
        let mut version = with_keys(version, catalog);
        if let Some(catalog) = catalog {
            version.identity = identity(&version.schema, catalog);
        }
        self.update(at, version, changes, catalog, entries);
    }

    fn renumber(&mut self, at: usize, from: &str, to: &str) {
        let numbers = &mut self.tables[at].numbers;
        if let Some(number) = numbers.remove(from) {
            numbers.insert(to.to_owned(), number);
        }
    }

    /// Takes up a version, and tells it where its number is known already or a statement has made it.
    fn update(
        &mut self,
        at: usize,
        version: TableVersion,
        changes: Vec<ColumnChange>,
        catalog: Option<&Described>,
        entries: &mut Vec<Entry>,
    ) {
        if *self.tables[at].version == version {
            return;
        }
        if let Some(catalog) = catalog {
            let known = &mut self.tables[at].numbers;
            for (name, number) in numbers(catalog) {
                if version.schema.columns.iter().any(|column| column.name == name) {
                    known.entry(name).or_insert(number);
                }
            }
        }
        let version = Arc::new(version);
        if changes.is_empty() {
            let table = &mut self.tables[at];
            table.version = version.clone();
            entries.extend(table.number.map(|table| Entry::Table { table, version }));
            return;
        }
        let table = self.tell(at, entries);
        self.tables[at].version = version.clone();
        self.tables[at].numbers.retain(|name, _| version.schema.columns.iter().any(|column| column.name == *name));
        entries.push(Entry::Ddl { table, ddl: Ddl::Alter { version, columns: changes } });
    }

    /// The table as the log shows it, how it came to be so from what is known of it, and which columns have other names.
    fn next_version(
        &self,
        at: usize,
        shown: &Shown<'_>,
        catalog: Option<&Described>,
    ) -> (TableVersion, Vec<ColumnChange>, Vec<(String, String)>) {
        let old = &self.tables[at].version;
        let difference = Difference::new(&old.schema.columns, shown);
        let renames = difference.renames(&old.schema.columns, shown, &self.tables[at].numbers, catalog);
        let new_name = |name: &str| {
            let renamed = renames.iter().find(|(from, _)| from == name);
            renamed.map_or_else(|| name.to_owned(), |(_, to)| to.clone())
        };
        let find = |name: &str| shown.columns.iter().find(|column| column.name == name);
        let mut columns = Vec::with_capacity(shown.columns.len());
        let mut retyped = Vec::new();
        for column in &old.schema.columns {
            let name = new_name(&column.name);
            let Some(now) = find(&name) else { continue };
            let mut column = Column { name, ..column.clone() };
            if !same_type(&column.native, now, shown.whole_types) {
                let known = in_catalog(now, shown.whole_types, catalog);
                column.native = known.map_or_else(|| now.native.clone(), |known| known.native.clone());
                column.data_type = known.map_or(now.data_type, |known| known.data_type);
                retyped.push(columns.len());
            }
            columns.push(column);
        }
        let kept = columns.len();
        for column in shown.columns {
            if !columns.iter().any(|known| known.name == column.name) {
                columns.push(new_column(column, shown.whole_types, catalog));
            }
        }
        let dropped = difference.gone.iter().filter(|name| !renames.iter().any(|(from, _)| from == *name));
        let mut changes: Vec<ColumnChange> = dropped.map(|name| ColumnChange::Drop { name: name.clone() }).collect();
        for (from, to) in &renames {
            if let Some(column) = columns.iter().position(|column| column.name == *to) {
                changes.push(ColumnChange::Rename { from: from.clone(), column });
            }
        }
        changes.extend(retyped.into_iter().map(|column| ColumnChange::Retype { column }));
        changes.extend((kept..columns.len()).map(|column| ColumnChange::Add { column }));
        let mut version = with_keys(carried_over(old, columns, new_name), catalog);
        version.identity = keys(&version.schema.columns, shown.columns);
        (version, changes, renames)
    }
}

/// How the columns that the log shows differ from those that are known.
struct Difference {
    gone: Vec<String>,
    new: Vec<String>,
    retyped: bool,
}

impl Difference {
    fn new(known: &[Column], shown: &Shown<'_>) -> Difference {
        let find = |name: &str| shown.columns.iter().find(|column| column.name == name);
        // What the server computes is not in every log.
        let gone = known.iter().filter(|column| !column.generated && find(&column.name).is_none());
        let new = shown.columns.iter().filter(|column| !known.iter().any(|known| known.name == column.name));
        let differs =
            |column: &Column| find(&column.name).is_some_and(|now| !same_type(&column.native, now, shown.whole_types));
        Difference {
            gone: gone.map(|column| column.name.clone()).collect(),
            new: new.map(|column| column.name.clone()).collect(),
            retyped: known.iter().any(differs),
        }
    }

    fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.new.is_empty() && !self.retyped
    }

    /// Which columns have other names now. One that keeps its number in the catalog has; and new columns come last, so a
    /// new name before an old column is that of an older one. The rest is taken to be dropped and added.
    fn renames(
        &self,
        known: &[Column],
        shown: &Shown<'_>,
        numbers: &HashMap<String, i32>,
        catalog: Option<&Described>,
    ) -> Vec<(String, String)> {
        let now = catalog.map(self::numbers).unwrap_or_default();
        let mut renames: Vec<(String, String)> = Vec::new();
        for to in &self.new {
            let number = now.get(to);
            let from = self.gone.iter().find(|from| number.is_some() && numbers.get(*from) == number);
            renames.extend(from.map(|from| (from.clone(), to.clone())));
        }
        if shown.in_order {
            let is_old = |name: &str| !self.new.iter().any(|new| new == name);
            let last = shown.columns.iter().rposition(|column| is_old(&column.name)).unwrap_or(0);
            let mut survivors_before = 0;
            for column in &shown.columns[..last] {
                if is_old(&column.name) {
                    survivors_before += 1;
                } else if !renames.iter().any(|(_, to)| *to == column.name) {
                    let from = self.at_place(known, survivors_before, &renames);
                    renames.extend(from.map(|from| (from, column.name.clone())));
                }
            }
        }
        renames
    }

    /// The first column that is gone, and not known by another name yet, after so many that are not.
    fn at_place(&self, known: &[Column], survivors: usize, renames: &[(String, String)]) -> Option<String> {
        let is_gone = |column: &&Column| self.gone.contains(&column.name);
        let mut passed = 0;
        let before = |column: &&Column| {
            let before = passed < survivors;
            passed += usize::from(!is_gone(column));
            before
        };
        let mut gone = known.iter().filter(|column| !column.generated).skip_while(before).take_while(is_gone);
        gone.find(|column| !renames.iter().any(|(from, _)| *from == column.name)).map(|column| column.name.clone())
    }
}

/// The first that is known of a table.
fn first_version(shown: &Shown<'_>, catalog: Option<&Described>) -> TableVersion {
    let columns: Vec<Column> =
        shown.columns.iter().map(|column| new_column(column, shown.whole_types, catalog)).collect();
    let identity = keys(&columns, shown.columns);
    let schema = TableSchema {
        name: shown.table.clone(),
        kind: TableKind::Table,
        family: Family::PostgreSql,
        columns,
        primary_key: Vec::new(),
        unique_key: Vec::new(),
        rows_estimate: 0,
    };
    with_keys(TableVersion { schema, identity }, catalog)
}

fn new_column(column: &LogColumn, whole_types: bool, catalog: Option<&Described>) -> Column {
    in_catalog(column, whole_types, catalog).cloned().unwrap_or_else(|| Column {
        name: column.name.clone(),
        data_type: column.data_type,
        native: column.native.clone(),
        nullable: true,
        generated: false,
    })
}

/// A column as the catalog has it, unless that has moved on.
fn in_catalog<'a>(column: &LogColumn, whole_types: bool, catalog: Option<&'a Described>) -> Option<&'a Column> {
    let known = catalog?.schema.columns.iter().find(|known| known.name == column.name)?;
    same_type(&known.native, column, whole_types).then_some(known)
}

fn same_type(native: &str, shown: &LogColumn, whole_types: bool) -> bool {
    if plain(native) == shown.native {
        return true;
    }
    let (known, shown) = (NativeType::parse(native), NativeType::parse(&shown.native));
    !whole_types && (known.name, known.array) == (shown.name, shown.array)
}

/// A type without its collation, which the log never shows.
pub fn plain(native: &str) -> &str {
    let collation = NativeType::parse(native).collation;
    &native[..native.len() - collation.len()]
}

/// The columns that old rows are told by.
fn keys(columns: &[Column], shown: &[LogColumn]) -> Vec<usize> {
    let is_key = |column: &Column| shown.iter().any(|shown| shown.key && shown.name == column.name);
    (0..columns.len()).filter(|index| is_key(&columns[*index])).collect()
}

fn key_names<'a>(columns: &'a [Column], shown: &'a [LogColumn]) -> impl Iterator<Item = &'a str> {
    keys(columns, shown).into_iter().map(|index| columns[index].name.as_str())
}

/// Keys and identity of a version whose columns have changed.
fn carried_over(old: &TableVersion, columns: Vec<Column>, new_name: impl Fn(&str) -> String) -> TableVersion {
    let place = |index: &usize| {
        let name = new_name(&old.schema.columns[*index].name);
        columns.iter().position(|column| column.name == name)
    };
    let key = |key: &[usize]| key.iter().map(place).collect::<Option<Vec<_>>>().unwrap_or_default();
    let whole = old.identity.len() == old.schema.columns.len() && old.identity != sorted(&old.schema.primary_key);
    let identity = match whole {
        true => (0..columns.len()).collect(),
        false => old.identity.iter().filter_map(place).collect(),
    };
    let (primary_key, unique_key) = (key(&old.schema.primary_key), key(&old.schema.unique_key));
    TableVersion { schema: TableSchema { columns, primary_key, unique_key, ..old.schema.clone() }, identity }
}

/// A version with the keys that the catalog knows, where it has their columns.
fn with_keys(mut version: TableVersion, catalog: Option<&Described>) -> TableVersion {
    let Some(catalog) = catalog.map(|catalog| &catalog.schema) else { return version };
    let place = |index: &usize| {
        let name = &catalog.columns[*index].name;
        version.schema.columns.iter().position(|column| column.name == *name)
    };
    let key = |key: &[usize]| key.iter().map(place).collect::<Option<Vec<_>>>();
    let (primary_key, unique_key) = (key(&catalog.primary_key), key(&catalog.unique_key));
    version.schema.primary_key = primary_key.unwrap_or(version.schema.primary_key);
    version.schema.unique_key = unique_key.unwrap_or(version.schema.unique_key);
    version
}

/// What tells rows apart in the log, among the columns that a task knows.
pub fn identity(schema: &TableSchema, described: &Described) -> Vec<usize> {
    if described.has_old_rows() {
        return (0..schema.columns.len()).collect();
    }
    let place = |index: &usize| {
        let name = &described.schema.columns[*index].name;
        schema.columns.iter().position(|column| column.name == *name)
    };
    sorted(
        &described.identity.iter().map(place).collect::<Option<Vec<_>>>().unwrap_or_else(|| schema.primary_key.clone()),
    )
}

fn sorted(indexes: &[usize]) -> Vec<usize> {
    let mut indexes = indexes.to_vec();
    indexes.sort_unstable();
    indexes
}

fn numbers(described: &Described) -> HashMap<String, i32> {
    let names = described.schema.columns.iter().map(|column| column.name.clone());
    names.zip(described.columns.iter().map(|(number, ..)| *number)).collect()
}
