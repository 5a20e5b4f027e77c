//! The captured tables as they are at the place where the log is read, which is not how the catalog has them now.

use std::sync::Arc;

use super::super::source::{Stored, StoredColumn};
use super::definition::{TextDefault, same_type};
use super::statement::{Body, Change, Key, Place};
use crate::data::{Column, ColumnChange, Family, TableKind, TableName, TableSchema, TableVersion};

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: TableName,
    /// In the order of the log.
    pub(super) columns: Vec<StoredColumn>,
    /// Columns that the log may have after these and the catalog does not show.
    pub(super) hash_keys: usize,
    pub(super) text: TextDefault,
    primary_key: Vec<String>,
    unique_key: Vec<String>,
    rows_estimate: u64,
    /// Places among the visible columns of those that tell rows apart.
    identity: Vec<usize>,
    /// What it was last told as; `None` when that has changed.
    pub(super) told: Option<Arc<TableVersion>>,
    /// The number it is told by.
    pub(super) number: Option<u32>,
    /// Its rows cannot be read, which has been said.
    pub(super) given_up: bool,
    /// Counts its changes.
    pub(super) generation: u32,
}

fn same_name(one: &str, other: &str) -> bool {
    one == other || one.to_lowercase() == other.to_lowercase()
}

impl Table {
    /// `described`: as it is at the place where the log begins to be read. The catalog tells of the hidden columns too,
    /// as long as it shows the same table.
    pub(super) fn new(described: &TableSchema, catalog: Option<&Stored>) -> Table {
        let visible = |column: &Column| StoredColumn { column: column.clone(), hidden: false };
        let mut table = Table {
            name: described.name.clone(),
            columns: described.columns.iter().map(visible).collect(),
            hash_keys: 0,
            text: TextDefault::default(),
            primary_key: names(described, &described.primary_key),
            unique_key: names(described, &described.unique_key),
            rows_estimate: described.rows_estimate,
            identity: Vec::new(),
            told: None,
            number: None,
            given_up: false,
            generation: 0,
        };
        if let Some(stored) = catalog {
            table.text = TextDefault::of_collation(&stored.collation);
            if same_columns(&described.columns, &stored.schema.columns) {
                table.columns.clone_from(&stored.columns);
                table.hash_keys = stored.hash_keys;
            }
        }
        table.identity = table.usual_identity();
        table
    }

    pub(super) fn of_catalog(stored: &Stored) -> Table {
        Table::new(&stored.schema, Some(stored))
    }

    /// As a statement creates it. `None`: the catalog must tell.
    pub(super) fn created(name: TableName, body: &Body, default: &TextDefault, mariadb: bool) -> Option<Table> {
        let Body::Columns { columns, keys, text } = body else { return None };
        let text = text.as_ref().unwrap_or(default);
        let stored = |definition: &super::definition::Definition| {
            Some(StoredColumn { column: definition.column(text, mariadb)?, hidden: definition.hidden })
        };
        let columns: Vec<StoredColumn> = columns.iter().map(stored).collect::<Option<_>>()?;
        let mut table = Table::new(&empty_schema(name), None);
        table.columns = columns;
        table.text = text.clone();
        keys.iter().for_each(|key| table.add_key(key));
        table.identity = table.usual_identity();
        (!table.visible().is_empty()).then_some(table)
    }

    /// Another table that is made like this one.
    pub(super) fn like(&self, name: TableName) -> Table {
        Table { name, number: None, told: None, given_up: false, ..self.clone() }
    }

    /// This table, at the place of another.
    pub(super) fn in_place_of(self, other: &Table) -> Table {
        Table { number: other.number, told: None, generation: other.generation + 1, ..self }
    }

    pub(super) fn visible(&self) -> Vec<&Column> {
        self.columns.iter().filter(|column| !column.hidden).map(|column| &column.column).collect()
    }

    /// The row key's places among the visible columns; empty when there is none.
    pub(super) fn row_key(&self) -> Vec<usize> {
        let visible = self.visible();
        let places = |names: &[String]| -> Option<Vec<usize>> {
            names.iter().map(|name| visible.iter().position(|column| same_name(&column.name, name))).collect()
        };
        let key = if self.primary_key.is_empty() { &self.unique_key } else { &self.primary_key };
        places(key).unwrap_or_default()
    }

    /// Columns that tell rows apart as long as the log has them: the key, or all.
    fn usual_identity(&self) -> Vec<usize> {
        let key = self.row_key();
        if key.is_empty() { (0..self.visible().len()).collect() } else { key }
    }

    /// Takes note of what an old row has: `present` tells by place among the visible columns.
    pub(super) fn see_identity(&mut self, present: &dyn Fn(usize) -> bool) {
        let usual = self.usual_identity();
        let identity = match usual.iter().all(|place| present(*place)) {
            true => usual,
            false => (0..self.visible().len()).filter(|place| present(*place)).collect(),
        };
        if identity != self.identity {
            self.identity = identity;
            self.told = None;
        }
    }

    pub(super) fn version(&self) -> TableVersion {
        let columns: Vec<Column> = self.visible().into_iter().cloned().collect();
        let places = |names: &[String]| -> Vec<usize> {
            let place = |name: &String| columns.iter().position(|column| same_name(&column.name, name));
            names.iter().map(place).collect::<Option<_>>().unwrap_or_default()
        };
        let (primary_key, unique_key) = (places(&self.primary_key), places(&self.unique_key));
        let schema = TableSchema {
            columns,
            primary_key,
            unique_key,
            rows_estimate: self.rows_estimate,
            ..empty_schema(self.name.clone())
        };
        TableVersion { schema, identity: self.identity.clone() }
    }

    fn add_key(&mut self, key: &Key) {
        if key.primary {
            self.primary_key.clone_from(&key.columns);
            return;
        }
        let visible = self.visible();
        let not_null = |name: &String| {
            visible.iter().any(|column| same_name(&column.name, name) && !column.nullable)
                || self.primary_key.contains(name)
        };
        let shorter = self.unique_key.is_empty() || key.columns.len() < self.unique_key.len();
        if key.whole && !key.columns.is_empty() && shorter && key.columns.iter().all(not_null) {
            self.unique_key.clone_from(&key.columns);
        }
    }

    /// Takes the catalog's words for the columns where it shows the same ones. Keys may be others by now.
    pub(super) fn refine(&mut self, stored: &Stored) {
        let same = self.columns.len() == stored.columns.len()
            && self.columns.iter().zip(&stored.columns).all(|(one, other)| {
                one.hidden == other.hidden
                    && same_name(&one.column.name, &other.column.name)
                    && same_type(&one.column.native, &other.column.native)
            });
        if same {
            self.columns.clone_from(&stored.columns);
            self.hash_keys = stored.hash_keys;
            self.touch();
        }
    }

    fn become_stored(&mut self, stored: &Stored) {
        let schema = &stored.schema;
        self.columns.clone_from(&stored.columns);
        self.hash_keys = stored.hash_keys;
        self.text = TextDefault::of_collation(&stored.collation);
        self.set_primary_key(names(schema, &schema.primary_key));
        self.unique_key = names(schema, &schema.unique_key);
        self.touch();
    }

    pub(super) fn set_primary_key(&mut self, columns: Vec<String>) {
        self.primary_key = columns;
        self.unique_key.clear();
        self.touch();
    }

    fn touch(&mut self) {
        self.identity = self.usual_identity();
        self.told = None;
        self.given_up = false;
        self.generation += 1;
    }

    /// Changes it as a statement does, in the words of the catalog where that shows the same table. Gives what became of
    /// its columns. `None`: it is not understood, nor does the catalog tell.
    pub(super) fn alter(
        &mut self,
        changes: Option<&[Change]>,
        catalog: Option<&Stored>,
        mariadb: bool,
    ) -> Option<Vec<ColumnChange>> {
        let before: Vec<Working> = self.columns.iter().map(Working::unchanged).collect();
        let mut after = before.clone();
        let understood =
            changes.and_then(|changes| changes.iter().try_for_each(|change| self.change(change, &mut after, mariadb)));
        match (understood, catalog) {
            (Some(()), _) => {
                self.columns = after.iter().map(|column| column.now.clone()).collect();
                changes.into_iter().flatten().for_each(|change| self.change_key(change));
                self.touch();
                if let Some(stored) = catalog {
                    self.refine(stored);
                }
            }
            (None, Some(stored)) => {
                self.become_stored(stored);
                after = stored.columns.iter().map(|now| Working::by_name(now, &before)).collect();
            }
            (None, None) => return None,
        }
        for (column, now) in after.iter_mut().zip(&self.columns) {
            column.now.clone_from(now);
        }
        Some(column_changes(&before, &after))
    }

    fn change(&mut self, change: &Change, columns: &mut Vec<Working>, mariadb: bool) -> Option<()> {
        let find = |columns: &[Working], name: &str| {
            columns.iter().position(|column| same_name(&column.now.column.name, name))
        };
        match change {
            Change::Add(definition, place) => {
                let now = StoredColumn { column: definition.column(&self.text, mariadb)?, hidden: definition.hidden };
                match find(columns, &definition.name) {
                    // It is known already: the table was described after the statement.
                    Some(at) => columns[at].now = now,
                    None => {
                        columns.push(Working { now, was: None });
                        let last = columns.len() - 1;
                        put(columns, last, place)?;
                    }
                }
            }
            Change::Drop(name) => {
                if let Some(at) = find(columns, name) {
                    columns.remove(at);
                    [&mut self.primary_key, &mut self.unique_key]
                        .into_iter()
                        .for_each(|key| key.retain(|column| !same_name(column, name)));
                }
            }
            Change::Redefine(from, definition, place) => {
                let at = find(columns, from).or_else(|| find(columns, &definition.name))?;
                let hidden = definition.hidden;
                columns[at].now = StoredColumn { column: definition.column(&self.text, mariadb)?, hidden };
                self.rename_in_keys(from, &definition.name);
                put(columns, at, place)?;
            }
            Change::RenameColumn(from, to) => {
                let at = find(columns, from).or_else(|| find(columns, to))?;
                columns[at].now.column.name.clone_from(to);
                self.rename_in_keys(from, to);
            }
            Change::Hide(name) | Change::Show(name) => {
                let at = find(columns, name)?;
                columns[at].now.hidden = matches!(change, Change::Hide(_));
            }
            Change::Convert(text) => {
                self.text = text.clone();
                // TEXT may become a longer type: the catalog knows.
                for column in columns.iter_mut() {
                    convert(&mut column.now.column, text);
                }
            }
            Change::TextDefault(text) => self.text = text.clone(),
            Change::RenameTo(_) | Change::RowsGo => {}
            Change::AddKey(_) | Change::DropPrimaryKey | Change::DropKey => {}
        }
        Some(())
    }

    /// Keys are of the columns as they are after the statement.
    fn change_key(&mut self, change: &Change) {
        match change {
            Change::AddKey(key) => self.add_key(key),
            Change::DropPrimaryKey => self.primary_key.clear(),
            // It may have been this one.
            Change::DropKey => self.unique_key.clear(),
            _ => {}
        }
    }

    fn rename_in_keys(&mut self, from: &str, to: &str) {
        for column in self.primary_key.iter_mut().chain(&mut self.unique_key) {
            if same_name(column, from) {
                to.clone_into(column);
            }
        }
    }
}

fn empty_schema(name: TableName) -> TableSchema {
    TableSchema {
        name,
        kind: TableKind::Table,
        family: Family::MySql,
        columns: Vec::new(),
        primary_key: Vec::new(),
        unique_key: Vec::new(),
        rows_estimate: 0,
    }
}

fn names(schema: &TableSchema, places: &[usize]) -> Vec<String> {
    places.iter().filter_map(|place| schema.columns.get(*place)).map(|column| column.name.clone()).collect()
}

fn same_columns(one: &[Column], other: &[Column]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|(one, other)| one.name == other.name && same_type(&one.native, &other.native))
}

/// Gives a text column another character set.
fn convert(column: &mut Column, text: &TextDefault) {
    if let Some(at) = column.native.find(" CHARACTER SET ") {
        column.native.truncate(at);
        column.native.push_str(" CHARACTER SET ");
        column.native.push_str(&text.charset);
        if let Some(collation) = &text.collation {
            column.native.push_str(" COLLATE ");
            column.native.push_str(collation);
        }
    }
}

/// A column while its table changes.
#[derive(Clone, Debug)]
struct Working {
    now: StoredColumn,
    /// As it was before the statement.
    was: Option<StoredColumn>,
}

impl Working {
    fn unchanged(column: &StoredColumn) -> Working {
        Working { now: column.clone(), was: Some(column.clone()) }
    }

    fn by_name(now: &StoredColumn, before: &[Working]) -> Working {
        let was = before.iter().find(|column| same_name(&column.now.column.name, &now.column.name));
        Working { now: now.clone(), was: was.map(|column| column.now.clone()) }
    }
}

/// Puts a column where a statement wants it.
fn put(columns: &mut Vec<Working>, from: usize, place: &Place) -> Option<()> {
    let to = match place {
        Place::Usual => return Some(()),
        Place::First => 0,
        Place::After(name) => {
            let after = columns.iter().position(|column| same_name(&column.now.column.name, name))?;
            if after < from { after + 1 } else { after }
        }
    };
    let column = columns.remove(from);
    columns.insert(to.min(columns.len()), column);
    Some(())
}

/// What a target has to do, in an order in which it can be done.
fn column_changes(before: &[Working], after: &[Working]) -> Vec<ColumnChange> {
    let visible: Vec<&Working> = after.iter().filter(|column| !column.now.hidden).collect();
    let mut changes = Vec::new();
    for old in before.iter().filter(|column| !column.now.hidden) {
        let lives = |column: &Working| column.was.as_ref().is_some_and(|was| *was == old.now);
        if !after.iter().any(lives) {
            changes.push(ColumnChange::Drop { name: old.now.column.name.clone() });
        }
    }
    let seen_before = |column: &Working| column.was.clone().filter(|was| !was.hidden);
    for (index, column) in visible.iter().enumerate() {
        if let Some(was) = seen_before(column)
            && was.column.name != column.now.column.name
        {
            changes.push(ColumnChange::Rename { from: was.column.name, column: index });
        }
    }
    for (index, column) in visible.iter().enumerate() {
        match seen_before(column) {
            None => changes.push(ColumnChange::Add { column: index }),
            Some(was) if !same_type(&was.column.native, &column.now.column.native) => {
                changes.push(ColumnChange::Retype { column: index });
            }
            Some(_) => {}
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::super::event::ServerVersion;
    use super::super::lexer::Dialect;
    use super::super::statement::{Statement, parse};
    use super::*;

    fn dialect() -> Dialect {
        Dialect { server: ServerVersion { number: 80_030, mariadb: false }, ..Dialect::default() }
    }

    fn create(text: &str) -> Table {
        let Statement::Create(create) = parse(text, dialect()) else { panic!("{text}") };
        let default = TextDefault { charset: "latin1".to_owned(), collation: None };
        Table::created(TableName::new("d", create.name.table), &create.body, &default, false).unwrap()
    }

    fn alter(table: &mut Table, text: &str, catalog: Option<&Stored>) -> Option<Vec<ColumnChange>> {
        let Statement::Alter(_, changes) = parse(text, dialect()) else { panic!("{text}") };
        table.alter(changes.as_deref(), catalog, false)
    }

    fn show(table: &Table) -> String {
        let column = |column: &StoredColumn| {
            format!("{}{} {}", if column.hidden { "~" } else { "" }, column.column.name, column.column.native)
        };
        let columns: Vec<String> = table.columns.iter().map(column).collect();
        format!("{} by {:?}", columns.join(", "), table.identity)
    }

    fn stored(table: &Table) -> Stored {
        Stored {
            schema: table.version().schema,
            columns: table.columns.clone(),
            kind: "BASE TABLE".to_owned(),
            collation: "latin1_swedish_ci".to_owned(),
            hash_keys: 0,
        }
    }

    #[test]
    fn follows_statements() {
        let mut table = create("CREATE TABLE t (a int PRIMARY KEY, b text, h int INVISIBLE)");
        assert_eq!(show(&table), "a int, b text CHARACTER SET latin1, ~h int by [0]");
        let changes =
            alter(&mut table, "ALTER TABLE t ADD c int FIRST, CHANGE b bb varchar(3), ADD d date AFTER A", None);
        assert_eq!(show(&table), "c int, a int, d date, bb varchar(3) CHARACTER SET latin1, ~h int by [1]");
        assert_eq!(
            changes.unwrap(),
            [
                ColumnChange::Rename { from: "b".to_owned(), column: 3 },
                ColumnChange::Add { column: 0 },
                ColumnChange::Add { column: 2 },
                ColumnChange::Retype { column: 3 },
            ]
        );
        let changes =
            alter(&mut table, "ALTER TABLE t DROP a, MODIFY d date FIRST, ALTER h SET VISIBLE", None).unwrap();
        assert_eq!(show(&table), "d date, c int, bb varchar(3) CHARACTER SET latin1, h int by [0, 1, 2, 3]");
        assert_eq!(changes, [ColumnChange::Drop { name: "a".to_owned() }, ColumnChange::Add { column: 3 }]);
        // What does not change columns is no change.
        assert_eq!(alter(&mut table, "ALTER TABLE t ADD INDEX (c), ENGINE=InnoDB", None), Some(vec![]));
        assert_eq!(alter(&mut table, "ALTER TABLE t ADD PRIMARY KEY (bb)", None), Some(vec![]));
        assert!(show(&table).ends_with("by [2]"));
        alter(&mut table, "ALTER TABLE t CONVERT TO CHARACTER SET utf8mb4", None).unwrap();
        assert!(show(&table).contains("bb varchar(3) CHARACTER SET utf8mb4,"));
    }

    #[test]
    fn a_statement_that_was_known_before_changes_nothing() {
        let mut table = create("CREATE TABLE t (a int, b int)");
        for text in [
            "ALTER TABLE t ADD b int",
            "ALTER TABLE t DROP c",
            "ALTER TABLE t CHANGE z b int",
            "ALTER TABLE t RENAME COLUMN y TO a",
        ] {
            assert_eq!(alter(&mut table, text, None), Some(vec![]), "{text}");
        }
        assert_eq!(show(&table), "a int, b int by [0, 1]");
    }

    #[test]
    fn the_catalog_has_the_better_words_as_long_as_it_shows_the_same() {
        let mut same = create("CREATE TABLE t (a int(11), b int(11) unsigned)");
        same.columns[1].column.native = "int(10) unsigned".to_owned();
        let mut table = create("CREATE TABLE t (a int(11))");
        alter(&mut table, "ALTER TABLE t ADD b int unsigned", Some(&stored(&same))).unwrap();
        assert_eq!(show(&table), "a int(11), b int(10) unsigned by [0, 1]");
        let ahead = create("CREATE TABLE t (a int, b int, c int)");
        alter(&mut table, "ALTER TABLE t MODIFY b bigint", Some(&stored(&ahead))).unwrap();
        assert_eq!(show(&table), "a int(11), b bigint by [0, 1]");
        // Not understood: the catalog is all there is.
        let changes = alter(&mut table, "ALTER TABLE t ADD x xmltype", Some(&stored(&ahead))).unwrap();
        assert_eq!(
            changes,
            [ColumnChange::Add { column: 2 }, ColumnChange::Retype { column: 1 }]
                .map(|change| change)
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
        );
        assert_eq!(alter(&mut table, "ALTER TABLE t ADD x xmltype", None), None);
    }

    #[test]
    fn unique_keys_tell_rows_apart_while_they_are_there() {
        let mut table =
            create("CREATE TABLE t (a int, b int NOT NULL, c int NOT NULL, UNIQUE (a), UNIQUE (b, c), UNIQUE (c))");
        assert_eq!((table.row_key(), table.version().identity), (vec![2], vec![2]));
        table.see_identity(&|place| place != 2);
        assert_eq!(table.version().identity, [0, 1]);
        alter(&mut table, "DROP INDEX x ON t", None).unwrap();
        assert_eq!((table.row_key(), table.version().identity), (vec![], vec![0, 1, 2]));
    }
}
