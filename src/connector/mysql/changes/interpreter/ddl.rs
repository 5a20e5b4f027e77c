//! Statements of the log that define tables.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::definition::TextDefault;
use super::super::event::{Group, Query};
use super::super::statement::{Body, Change, Create, Name, Statement};
use super::super::tables::Table;
use super::mapped::Found;
use super::{Interpreter, Outcome, Place, Question};
use crate::data::{Changes, Ddl, Entry, Error, Result, TableName};

impl Interpreter {
    /// A statement that is no bound of a transaction.
    pub(super) fn define(
        &mut self,
        statement: Statement,
        query: &Query<'_>,
        seconds: u32,
        place: &Place<'_>,
        changes: &mut Changes,
    ) -> Result<Outcome> {
        let not_yet = self.begin.as_ref().is_some_and(|(begin, _)| begin.group == Some(Group::NotYet));
        let within = self.open.is_some();
        let defines = !matches!(statement, Statement::Other | Statement::Write(_)) && !not_yet;
        if !defines {
            if let Statement::Write(names) = statement {
                self.refuse_statement(&names, query)?;
            }
            if !within {
                self.commit(0, seconds, place, changes);
            }
            return Ok(Outcome::Taken);
        }
        if let Some(question) = self.questions(&statement, query) {
            return Ok(Outcome::Ask(question));
        }
        if !within {
            self.open_begun(place, false, changes);
        }
        match statement {
            Statement::Create(create) => self.create(create, query, changes),
            Statement::Alter(name, parts) => {
                self.alter(&self.resolve(&name, query), parts.as_deref(), query, changes)?
            }
            Statement::Drop(names) => {
                names.iter().for_each(|name| self.drop_table(&self.resolve(name, query), changes))
            }
            Statement::DropSchema(schema) => self.drop_schema(&schema, changes),
            Statement::Rename(pairs) => {
                let pairs: Vec<(TableName, TableName)> =
                    pairs.iter().map(|(from, to)| (self.resolve(from, query), self.resolve(to, query))).collect();
                self.rename(&pairs, changes);
            }
            Statement::Truncate(name) => self.truncate(&self.resolve(&name, query), changes)?,
            _ => {}
        }
        self.commit(0, seconds, place, changes);
        if within {
            // A table that is filled as it is made: its rows are a transaction of their own here.
            self.open(&Place { start: place.end, ..*place }, None, changes);
        }
        Ok(Outcome::Taken)
    }

    fn resolve(&self, name: &Name, query: &Query<'_>) -> TableName {
        let schema = match &name.schema {
            Some(schema) => schema.clone(),
            None => String::from_utf8_lossy(query.schema).into_owned(),
        };
        let found = match self.setting.fold_names {
            0 => TableName::new(schema, &name.table),
            _ => TableName::new(schema.to_lowercase(), name.table.to_lowercase()),
        };
        if self.setting.fold_names == 2 && !self.by_name.contains_key(&found) {
            // Names are kept as they were given, and compared without regard to case.
            let same = |known: &&TableName| {
                known.schema.to_lowercase() == found.schema && known.table.to_lowercase() == found.table
            };
            return self.by_name.keys().find(same).cloned().unwrap_or(found);
        }
        found
    }

    /// What must be known before a statement is taken.
    fn questions(&self, statement: &Statement, query: &Query<'_>) -> Option<Question> {
        let names: Vec<TableName> = match statement {
            Statement::Create(create) => vec![self.resolve(&create.name, query)],
            Statement::Alter(name, parts) => {
                let renamed = parts.iter().flatten().filter_map(|part| match part {
                    Change::RenameTo(name) => Some(self.resolve(name, query)),
                    _ => None,
                });
                renamed.chain([self.resolve(name, query)]).collect()
            }
            Statement::Rename(pairs) => pairs.iter().map(|(_, to)| self.resolve(to, query)).collect(),
            Statement::Truncate(name) if !self.by_name.contains_key(&self.resolve(name, query)) => {
                vec![self.resolve(name, query)]
            }
            _ => return None,
        };
        let unknown = |name: &TableName| self.captures(name) && !self.facts.tables.contains_key(name);
        let names: Vec<TableName> = names.into_iter().filter(unknown).collect();
        (!names.is_empty()).then_some(Question::Tables(names))
    }

    fn refuse_statement(&self, names: &[Name], query: &Query<'_>) -> Result<()> {
        let captured = names.iter().map(|name| self.resolve(name, query)).find(|name| self.captures(name));
        match captured {
            None => Ok(()),
            Some(_) => Err(Error::fatal(
                "the log of the source has a statement instead of the rows that it changed: a session of the source writes \
                 with a binlog_format other than ROW. Set binlog_format to ROW, end the sessions that were there before, \
                 and load the tables again",
            )),
        }
    }

    fn catalog(&self, name: &TableName) -> Option<&super::super::super::source::Stored> {
        self.facts.tables.get(name).and_then(Option::as_ref)
    }

    fn create(&mut self, create: Create, query: &Query<'_>, changes: &mut Changes) {
        let name = self.resolve(&create.name, query);
        let known = self.by_name.get(&name).copied();
        if !self.captures(&name) || (create.if_not_exists && known.is_some()) {
            return;
        }
        let default = self
            .facts
            .texts
            .get(&name.schema)
            .cloned()
            .unwrap_or(TextDefault { charset: "utf8mb4".to_owned(), collation: None });
        let like = match &create.body {
            Body::Like(other) => {
                self.by_name.get(&self.resolve(other, query)).map(|index| self.tables[*index].like(name.clone()))
            }
            _ => None,
        };
        let parsed = like.or_else(|| Table::created(name.clone(), &create.body, &default, self.setting.server.mariadb));
        let stored = self.catalog(&name).filter(|stored| stored.kind == "BASE TABLE");
        let table = match (parsed, stored) {
            (Some(mut table), Some(stored)) => {
                table.refine(stored);
                table
            }
            (None, Some(stored)) => Table::of_catalog(stored),
            // Of a kind that is not moved.
            (_, None) if self.catalog(&name).is_some() => return,
            (Some(table), None) => table,
            (None, None) => {
                tracing::warn!(table = %name, "a table was created in a way that is not understood, and is there no more");
                return;
            }
        };
        if create.replace {
            self.drop_table(&name, changes);
        }
        let index = self.add_table(table);
        let number = self.tell(index, changes);
        let version = Arc::new(self.tables[index].version());
        self.push(Entry::Ddl { table: number, ddl: Ddl::Create(version) }, changes);
    }

    fn push(&mut self, entry: Entry, changes: &mut Changes) {
        self.changes += 1;
        changes.entries.push(entry);
    }

    fn alter(
        &mut self,
        name: &TableName,
        parts: Option<&[Change]>,
        query: &Query<'_>,
        changes: &mut Changes,
    ) -> Result<()> {
        if self.later.contains_key(name) {
            return Ok(());
        }
        if !self.captures(name) && !self.by_name.contains_key(name) {
            return self.rename_by_alter(name, parts, query, changes);
        }
        self.left_out.remove(name);
        let Some(index) = self.by_name.get(name).copied() else {
            return self.rename_by_alter(name, parts, query, changes);
        };
        if parts.is_some_and(|parts| parts.contains(&Change::RowsGo)) {
            tracing::warn!(table = %name, "rows of partitions were taken away from the source, which its log does not show");
        }
        let renamed = parts.into_iter().flatten().find_map(|part| match part {
            Change::RenameTo(to) => Some(self.resolve(to, query)),
            _ => None,
        });
        let mut table = self.tables[index].clone();
        // A table that is called otherwise now is not the one that the catalog has by this name.
        let stored = self.catalog(renamed.as_ref().unwrap_or(name)).cloned();
        let Some(columns) = table.alter(parts, stored.as_ref(), self.setting.server.mariadb) else {
            self.tables[index].given_up = true;
            self.given_up = Some(name.clone());
            return Err(Error::table(format!(
                "{name} was altered in a way that is not understood, and is there no more: its rows cannot be read from \
                 the log"
            )));
        };
        let version = table.version();
        if columns.is_empty() {
            table.told = self.tables[index].told.clone().filter(|told| **told == version);
            self.tables[index] = table;
        } else {
            let number = self.tell(index, changes);
            table.number = self.tables[index].number;
            self.tables[index] = table;
            let ddl = Ddl::Alter { version: Arc::new(version), columns };
            self.push(Entry::Ddl { table: number, ddl }, changes);
        }
        self.rename_by_alter(name, parts, query, changes)
    }

    fn rename_by_alter(
        &mut self,
        name: &TableName,
        parts: Option<&[Change]>,
        query: &Query<'_>,
        changes: &mut Changes,
    ) -> Result<()> {
        for part in parts.into_iter().flatten() {
            if let Change::RenameTo(to) = part {
                let to = self.resolve(to, query);
                self.rename(&[(name.clone(), to)], changes);
            }
        }
        Ok(())
    }

    fn drop_table(&mut self, name: &TableName, changes: &mut Changes) {
        if self.later.contains_key(name) {
            return;
        }
        self.left_out.remove(name);
        if let Some(index) = self.by_name.get(name).copied() {
            let number = self.tell(index, changes);
            self.push(Entry::Ddl { table: number, ddl: Ddl::Drop }, changes);
            self.forget(name);
        }
    }

    fn forget(&mut self, name: &TableName) {
        if let Some(index) = self.by_name.remove(name) {
            // What refers to it finds it changed.
            self.tables[index].generation += 1;
            self.free.push(index);
        }
    }

    fn drop_schema(&mut self, schema: &str, changes: &mut Changes) {
        let is_of = |name: &&TableName| match self.setting.fold_names {
            0 => name.schema == schema,
            _ => name.schema.to_lowercase() == schema.to_lowercase(),
        };
        let mut names: Vec<TableName> = self.by_name.keys().filter(is_of).cloned().collect();
        names.sort_unstable();
        names.iter().for_each(|name| self.drop_table(name, changes));
    }

    /// Renames tables one after the other. A table that takes the place of one that went in the same statement is that
    /// one, changed: so do tools that copy a table to alter it.
    fn rename(&mut self, pairs: &[(TableName, TableName)], changes: &mut Changes) {
        let mut gone: HashMap<TableName, Table> = HashMap::new();
        for (from, to) in pairs {
            if self.later.contains_key(from) {
                continue;
            }
            if self.later.contains_key(to) {
                // By its new name it is loaded; by the one it had it is there no more.
                self.drop_table(from, changes);
                continue;
            }
            let known = self.by_name.get(from).copied();
            match (known, self.captures(to)) {
                (Some(index), true) => {
                    let number = self.tell(index, changes);
                    self.by_name.remove(from);
                    self.forget(to);
                    self.numbers.remove(from);
                    self.numbers.insert(to.clone(), number);
                    let table = &mut self.tables[index];
                    table.name.clone_from(to);
                    table.told = None;
                    table.generation += 1;
                    let version = Arc::new(table.version());
                    self.by_name.insert(to.clone(), index);
                    self.push(Entry::Ddl { table: number, ddl: Ddl::Rename(version) }, changes);
                }
                (Some(index), false) => {
                    self.forget(from);
                    gone.insert(from.clone(), self.tables[index].clone());
                }
                (None, true) => self.come_in(to, gone.remove(to), changes),
                (None, false) => {}
            }
        }
        for name in gone.keys() {
            tracing::warn!(table = %name, "the table was given a name that the task does not select: it is captured no more");
        }
    }

    /// A table gets a name by which it is captured.
    fn come_in(&mut self, name: &TableName, before: Option<Table>, changes: &mut Changes) {
        self.left_out.remove(name);
        let Some(stored) = self.catalog(name).filter(|stored| stored.kind == "BASE TABLE").cloned() else { return };
        let Some(mut table) = before else {
            self.setting.renamed.note(name.clone());
            let index = self.add_table(Table::of_catalog(&stored));
            let number = self.tell(index, changes);
            let version = Arc::new(self.tables[index].version());
            return self.push(Entry::Ddl { table: number, ddl: Ddl::Create(version) }, changes);
        };
        let old = table.clone();
        let columns = table.alter(None, Some(&stored), self.setting.server.mariadb).unwrap_or_default();
        let index = self.add_table(old);
        let number = self.tell(index, changes);
        let version = table.version();
        self.tables[index] = table.in_place_of(&self.tables[index]);
        if !columns.is_empty() {
            let ddl = Ddl::Alter { version: Arc::new(version), columns };
            self.push(Entry::Ddl { table: number, ddl }, changes);
        }
    }

    fn truncate(&mut self, name: &TableName, changes: &mut Changes) -> Result<()> {
        if self.later.contains_key(name) {
            return Ok(());
        }
        if let Some(index) = self.by_name.get(name).copied() {
            let number = self.tell(index, changes);
            self.push(Entry::Truncate { table: number }, changes);
        } else if matches!(self.find(name)?, Found::Table(_)) {
            return self.truncate(name, changes);
        }
        Ok(())
    }
}
