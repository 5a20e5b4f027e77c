//! Tables that were loaded as they were at a place in the log that is still to come: what the log has of them before it is
//! in the load already.

use std::collections::HashMap;
use std::sync::Arc;

use crate::connector::Capture;
use crate::data::{Ddl, Entry, Position, TableName, TableVersion};

pub struct Later {
    /// By name, the place of the load.
    loaded_at: HashMap<TableName, u64>,
    /// By their numbers, what tables look like.
    tables: HashMap<u32, Table>,
}

struct Table {
    version: Arc<TableVersion>,
    /// Nobody was told of it.
    is_hidden: bool,
}

impl Later {
    pub fn new(capture: &Capture) -> Later {
        let place = |(name, position): (&TableName, &Position)| match position {
            Position::Lsn(lsn) => Some((name.clone(), *lsn)),
            _ => None,
        };
        Later { loaded_at: capture.loaded_at.iter().filter_map(place).collect(), tables: HashMap::new() }
    }

    /// Whether there is anything to hide, now or in what was hidden before.
    pub fn is_over(&self) -> bool {
        self.loaded_at.is_empty() && self.tables.values().all(|table| !table.is_hidden)
    }

    /// Takes out of the entries from `from` on what a transaction whose commit is at `commit` has of tables that were loaded
    /// after it.
    pub fn hide(&mut self, entries: &mut Vec<Entry>, from: usize, commit: u64) {
        self.loaded_at.retain(|_, place| commit < *place);
        for entry in entries.split_off(from) {
            let Some(number) = number(&entry) else {
                entries.push(entry);
                continue;
            };
            let before = self.tables.get(&number).map(|table| table.version.clone());
            if let Some(version) = version(&entry) {
                let is_hidden = self.tables.get(&number).is_some_and(|table| table.is_hidden);
                self.tables.insert(number, Table { version: version.clone(), is_hidden });
            }
            let Some(table) = self.tables.get_mut(&number) else { continue };
            if self.loaded_at.contains_key(&table.version.schema.name) {
                let was_hidden = std::mem::replace(&mut table.is_hidden, true);
                if matches!(entry, Entry::Ddl { ddl: Ddl::Rename(_), .. }) && before.is_some() && !was_hidden {
                    // By its new name it is loaded; by the one it had it is there no more.
                    entries.push(Entry::Ddl { table: number, ddl: Ddl::Drop });
                }
                continue;
            }
            if std::mem::take(&mut table.is_hidden)
                && !matches!(entry, Entry::Table { .. })
                && let Some(version) = before
            {
                entries.push(Entry::Table { table: number, version });
            }
            entries.push(entry);
        }
    }
}

fn number(entry: &Entry) -> Option<u32> {
    match entry {
        Entry::Table { table, .. }
        | Entry::Row { table, .. }
        | Entry::Truncate { table }
        | Entry::Ddl { table, .. } => Some(*table),
        Entry::Begin { .. } | Entry::Unreadable { .. } | Entry::Commit { .. } => None,
    }
}

fn version(entry: &Entry) -> Option<&Arc<TableVersion>> {
    match entry {
        Entry::Table { version, .. } => Some(version),
        Entry::Ddl { ddl: Ddl::Create(version) | Ddl::Rename(version) | Ddl::Alter { version, .. }, .. } => {
            Some(version)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Family, Op, TableKind, TableSchema};

    fn version(name: &str, rows_estimate: u64) -> Arc<TableVersion> {
        let schema = TableSchema {
            name: TableName::new("s", name),
            kind: TableKind::Table,
            family: Family::PostgreSql,
            columns: Vec::new(),
            primary_key: Vec::new(),
            unique_key: Vec::new(),
            rows_estimate,
        };
        Arc::new(TableVersion { schema, identity: Vec::new() })
    }

    #[test]
    fn hides_what_a_load_has_and_tells_the_table_before_the_rest() {
        let mut later = Later { loaded_at: HashMap::from([(TableName::new("s", "t"), 100)]), tables: HashMap::new() };
        let row = |table| Entry::Row { table, op: Op::Insert, old: None, new: Some(0) };
        let commit = Entry::Commit { transaction: 1, time: 0, position: Position::Lsn(50) };
        let (old, new) = (version("t", 1), version("t", 2));
        let table = |table, version: &Arc<TableVersion>| Entry::Table { table, version: version.clone() };
        let mut entries = vec![row(9), table(1, &old), row(1), table(2, &version("u", 0)), row(2)];
        let alter = Entry::Ddl { table: 1, ddl: Ddl::Alter { version: new.clone(), columns: Vec::new() } };
        entries.extend([alter, commit.clone()]);
        later.hide(&mut entries, 1, 50);
        assert_eq!(entries, [row(9), table(2, &version("u", 0)), row(2), commit.clone()]);
        assert!(!later.is_over());

        // Another table becomes the one that was loaded.
        let rename = Entry::Ddl { table: 2, ddl: Ddl::Rename(version("t", 3)) };
        let mut entries = vec![row(2), rename, row(2), commit.clone()];
        later.hide(&mut entries, 0, 60);
        assert_eq!(entries, [row(2), Entry::Ddl { table: 2, ddl: Ddl::Drop }, commit.clone()]);

        let mut entries = vec![row(1), row(1), row(2), commit.clone()];
        later.hide(&mut entries, 0, 100);
        assert_eq!(entries, [table(1, &new), row(1), row(1), table(2, &version("t", 3)), row(2), commit]);
        assert!(later.is_over());
    }
}
