//! A task's capture, told as text.

use std::fmt::Write;
use std::sync::Arc;

use tokio::sync::watch;

use super::*;
use crate::connector::{Beginning, Capture, ChangeReader};
use crate::data::{Changes, ColumnChange, Ddl, Entry, Position, TableVersion, Value};

/// Those of the server itself, as `PluginName` has them. They read partitioned tables and those of `REPLICA IDENTITY
/// FULL`, too.
pub const BUILT_IN: [&str; 2] = ["pgoutput", "test-decoding"];

/// All of them: what is read must not depend on which it is.
pub fn plugins() -> impl Iterator<Item = &'static str> {
    BUILT_IN.into_iter().chain(pglogical_server().map(|_| "pglogical"))
}

/// A task that captures the schema `public` of a source.
pub struct Log {
    pub capture: Capture,
    pub reader: Box<dyn ChangeReader>,
    /// What the reader may tell the server to forget.
    pub durable: watch::Sender<Option<Position>>,
    tables: Vec<Arc<TableVersion>>,
    /// What the last piece that was read says.
    pub resume: Option<Position>,
    /// Values that were cut.
    pub truncated: u64,
}

pub async fn capture(pair: &Pair, format: Format) -> Capture {
    let tables = pair.source.tables().await.unwrap();
    let tables: Vec<TableEntry> = tables.into_iter().filter(|table| table.name.schema == "public").collect();
    Capture {
        tables: pair.source.describe(&tables).await.unwrap(),
        selects: Arc::new(|name| name.schema == "public"),
        format,
        ..Capture::of(format!("TASK{}", pair.source_database.to_uppercase()))
    }
}

impl Log {
    pub async fn begin(pair: &Pair, format: Format) -> (Log, Box<dyn Snapshot>) {
        Log::of(pair, capture(pair, format).await).await
    }

    pub async fn of(pair: &Pair, capture: Capture) -> (Log, Box<dyn Snapshot>) {
        let Beginning { snapshot, position } = pair.source.begin_capture(&capture, 1).await.unwrap();
        (Log::from(pair, capture, &position).await, snapshot)
    }

    /// Captures some tables and those like them alone.
    pub async fn selecting(pair: &Pair, selects: fn(&TableName) -> bool) -> (Log, Box<dyn Snapshot>) {
        let mut capture = capture(pair, Format::Text).await;
        capture.tables.retain(|table| selects(&table.name));
        capture.selects = Arc::new(selects);
        Log::of(pair, capture).await
    }

    pub async fn from(pair: &Pair, capture: Capture, position: &Position) -> Log {
        let durable = watch::Sender::new(None);
        let reader = pair.source.changes(&capture, position, durable.subscribe()).await.unwrap();
        Log { durable, ..Log::reading(capture, reader) }
    }

    pub fn reading(capture: Capture, reader: Box<dyn ChangeReader>) -> Log {
        Log { capture, reader, durable: watch::Sender::new(None), tables: Vec::new(), resume: None, truncated: 0 }
    }

    /// Reads so many transactions and tells them, a line an entry.
    pub async fn transactions(&mut self, count: usize) -> String {
        let (mut told, mut commits, mut changes) = (String::new(), 0, Changes::default());
        while commits < count {
            self.reader.next(&mut changes).await.unwrap();
            commits += self.tell_all(&mut changes, &mut told);
        }
        assert_eq!(commits, count, "{told}");
        told
    }

    /// Reads what is in the log by now.
    pub async fn rest(&mut self, pair: &Pair) -> String {
        let end = pair.source.log_end().await.unwrap();
        let (mut told, mut changes) = (String::new(), Changes::default());
        while self.resume.as_ref().is_none_or(|resume| *resume < end) {
            self.reader.next(&mut changes).await.unwrap();
            self.tell_all(&mut changes, &mut told);
        }
        told
    }

    fn tell_all(&mut self, changes: &mut Changes, told: &mut String) -> usize {
        for entry in &changes.entries {
            self.tell(entry, changes, told);
        }
        self.truncated += changes.rows.truncated();
        self.resume = changes.resume.take().or(self.resume.take());
        changes.entries.iter().filter(|entry| matches!(entry, Entry::Commit { .. })).count()
    }

    fn tell(&mut self, entry: &Entry, changes: &Changes, told: &mut String) {
        let name = |log: &Log, table: u32| log.tables[table as usize].schema.name.table.clone();
        let row = |index: &Option<u32>| index.map_or(String::new(), |index| values(changes.rows.row(index as usize)));
        match entry {
            Entry::Begin { .. } => {}
            Entry::Table { table, version } => {
                self.note(*table, version);
                writeln!(told, "{}", definition(version)).unwrap();
            }
            Entry::Row { table, op, old, new } => {
                let name = name(self, *table);
                writeln!(told, "{op:?} {name} {}->{}", row(old), row(new)).unwrap();
            }
            Entry::Ddl { table, ddl } => self.tell_ddl(*table, ddl, told),
            Entry::Unreadable { table, reason } => writeln!(told, "Unreadable {table}: {reason}").unwrap(),
            Entry::Truncate { table } => writeln!(told, "Truncate {}", name(self, *table)).unwrap(),
            Entry::Commit { transaction, time, .. } => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
                let age = now.as_micros() as i64 - time;
                assert!(*transaction > 0 && age.abs() < 600_000_000, "{transaction} {time}");
                told.push_str("Commit\n");
            }
        }
    }

    fn tell_ddl(&mut self, table: u32, ddl: &Ddl, told: &mut String) {
        match ddl {
            Ddl::Create(version) => {
                self.note(table, version);
                writeln!(told, "Create {}", definition(version)).unwrap();
            }
            Ddl::Drop => writeln!(told, "Drop {}", self.tables[table as usize].schema.name.table).unwrap(),
            Ddl::Rename(version) => {
                let from = self.tables[table as usize].schema.name.clone();
                self.note(table, version);
                writeln!(told, "Rename {from} to {}", version.schema.name).unwrap();
            }
            Ddl::Alter { version, columns } => {
                self.note(table, version);
                let column = |index: &usize| &version.schema.columns[*index];
                let change = |change: &ColumnChange| match change {
                    ColumnChange::Add { column: index } => {
                        format!("add {} {}", column(index).name, column(index).native)
                    }
                    ColumnChange::Drop { name } => format!("drop {name}"),
                    ColumnChange::Rename { from, column: index } => format!("rename {from} to {}", column(index).name),
                    ColumnChange::Retype { column: index } => {
                        format!("retype {} to {}", column(index).name, column(index).native)
                    }
                };
                let columns: Vec<String> = columns.iter().map(change).collect();
                writeln!(told, "Alter {}: {}", version.schema.name.table, columns.join(", ")).unwrap();
            }
        }
    }

    fn note(&mut self, table: u32, version: &Arc<TableVersion>) {
        match self.tables.get_mut(table as usize) {
            Some(slot) => *slot = version.clone(),
            None => {
                assert_eq!(self.tables.len(), table as usize, "numbers are given one after the other");
                self.tables.push(version.clone());
            }
        }
    }

    pub fn lsn(&self) -> u64 {
        match &self.resume {
            Some(Position::Lsn(lsn)) => *lsn,
            _ => 0,
        }
    }
}

/// `table: columns by what tells its rows apart`.
fn definition(version: &TableVersion) -> String {
    let columns: Vec<String> =
        version.schema.columns.iter().map(|column| format!("{} {}", column.name, column.native)).collect();
    format!("{}: {} by {:?}", version.schema.name.table, columns.join(", "), version.identity)
}

fn values(row: crate::data::Row<'_>) -> String {
    let value = |value: Value<'_>| match value {
        Value::Absent => "-".to_owned(),
        Value::Null => "NULL".to_owned(),
        Value::String(text) | Value::Numeric(text) => String::from_utf8_lossy(text).into_owned(),
        other => format!("{other:?}"),
    };
    format!("({})", row.map(value).collect::<Vec<_>>().join(","))
}

pub async fn count(pair: &Pair, snapshot: &dyn Snapshot, table: &str) -> usize {
    let table = pair.describe("public", table).await;
    let mut reader = snapshot.read(plan(&table, how(Format::Text))).await.unwrap();
    let (mut batch, mut rows) = (Batch::new(), 0);
    while reader.next(&mut batch).await.unwrap() {
        rows += batch.rows();
    }
    rows
}
