//! Work tables: temporary tables that a set's rows go into first, with columns of the target's own types, so that what
//! becomes of a value there is what becomes of it in the target, and one statement changes all the rows of a set. DMS
//! has such tables too (`awsdms_changes…`).

use std::collections::HashMap;

use super::super::intake::{Intake, LoadColumn};
use super::super::quote_table;
use super::session::Session;
use super::table::{Table, TargetColumn};
use crate::data::{Error, Result, TableName};

/// The columns of a target's table that a work table of it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Those that a table in memory can have, and few enough for it.
    Memory,
    /// All.
    Disk,
}

/// Most bytes of a row of a table in memory.
const MEMORY_ROW_BYTES: usize = 16 << 10;

/// What every row of a table in memory takes besides its values.
const MEMORY_ROW_EXTRA: usize = 32;

/// Engines for tables that do not go into memory: the first of them without transactions, which nobody needs here.
const DISK_ENGINE: &str = "MyISAM /*M!100100 ENGINE=Aria TRANSACTIONAL=0 */";

pub(super) struct WorkTables {
    tables: HashMap<(TableName, Kind), Work>,
    /// There are at most so many.
    tables_max: usize,
    made: u64,
    used: u64,
    /// Why the server makes none.
    refused: Option<Error>,
}

/// A work table that is there.
struct Work {
    name: TableName,
    key: Vec<usize>,
    /// Rows that it has room for.
    rows_max: usize,
    last_used: u64,
    /// Rows may have been left in it.
    dirty: bool,
}

/// A work table as one group of changes uses it.
pub(super) struct Use {
    slot: (TableName, Kind),
    pub(super) rows_max: usize,
    /// Of the key, then of the columns that are written.
    pub(super) intake: Intake,
    /// Quoted.
    pub(super) name: String,
}

impl WorkTables {
    pub(super) fn new(tables_max: usize) -> WorkTables {
        WorkTables { tables: HashMap::new(), tables_max: tables_max.max(2), made: 0, used: 0, refused: None }
    }

    /// The work table for a target's table, made if need be; it is empty when the next statement runs. Rows are sent with
    /// these columns of the key, as far as they are known, and the columns that are written.
    pub(super) async fn take(
        &mut self,
        session: &mut Session,
        table: &Table,
        key: &[usize],
        found_by: &[usize],
        written: &[usize],
    ) -> Result<Use> {
        let kind = kind(table, key, written);
        let slot = (table.name.clone(), kind);
        if self.tables.get(&slot).is_some_and(|work| work.key != key) {
            self.drop_table(session, &slot);
        }
        if !self.tables.contains_key(&slot) {
            self.make(session, table, key, &slot).await?;
        }
        self.used += 1;
        let Some(work) = self.tables.get_mut(&slot) else { return Err(Error::fatal("a work table is not there")) };
        work.last_used = self.used;
        let name = quote_table(&work.name);
        if std::mem::replace(&mut work.dirty, true) {
            session.defer(format!("DELETE FROM {name}"));
        }
        let column = |prefix: char| {
            move |column: &usize| LoadColumn {
                name: format!("{prefix}{column}"),
                ..table.columns[*column].load.clone()
            }
        };
        let columns = found_by.iter().map(column('k')).chain(written.iter().map(column('c'))).collect();
        Ok(Use { slot, rows_max: work.rows_max, intake: Intake::new(&work.name, columns), name })
    }

    /// Gives a work table back; nothing is in it.
    pub(super) fn give_back(&mut self, used: &Use) {
        if let Some(work) = self.tables.get_mut(&used.slot) {
            work.dirty = false;
        }
    }

    /// Forgets the work tables of a table that has changed.
    pub(super) fn forget(&mut self, session: &mut Session, name: &TableName) {
        for kind in [Kind::Memory, Kind::Disk] {
            self.drop_table(session, &(name.clone(), kind));
        }
    }

    fn drop_table(&mut self, session: &mut Session, slot: &(TableName, Kind)) {
        if let Some(work) = self.tables.remove(slot) {
            session.defer(format!("DROP TEMPORARY TABLE IF EXISTS {}", quote_table(&work.name)));
        }
    }

    async fn make(
        &mut self,
        session: &mut Session,
        table: &Table,
        key: &[usize],
        slot: &(TableName, Kind),
    ) -> Result<()> {
        if let Some(refused) = &self.refused {
            return Err(refused.clone());
        }
        if self.tables.len() >= self.tables_max
            && let Some(oldest) =
                self.tables.iter().min_by_key(|(_, work)| work.last_used).map(|(slot, _)| slot.clone())
        {
            self.drop_table(session, &oldest);
        }
        self.made += 1;
        let name = TableName::new(&table.name.schema, format!("awsdms_changes{:09}", self.made));
        let all: Vec<usize> = (0..table.columns.len()).collect();
        let fits = |column: &&usize| slot.1 == Kind::Disk || table.columns[**column].found.memory_bytes().is_some();
        let in_key = key.iter().map(|column| declared(&table.columns[*column], 'k', *column));
        let others = all.iter().filter(fits).map(|column| declared(&table.columns[*column], 'c', *column));
        let columns: Vec<String> = in_key.chain(others).collect();
        let engine = if slot.1 == Kind::Memory { "MEMORY" } else { DISK_ENGINE };
        let statement = format!(
            "CREATE TEMPORARY TABLE {} ({}) ENGINE={engine} DEFAULT CHARSET=utf8mb4",
            quote_table(&name),
            columns.join(",")
        );
        if let Err(error) = session.run(&[statement]).await {
            return Err(self.explain(error));
        }
        let rows_max = match slot.1 {
            Kind::Memory => (session.heap_bytes_max() * 3 / 4 / row_bytes(table, key)).max(1),
            Kind::Disk => usize::MAX,
        };
        let work = Work { name, key: key.to_vec(), rows_max, last_used: self.used, dirty: false };
        self.tables.insert(slot.clone(), work);
        Ok(())
    }

    /// Remembers a server's refusal to make temporary tables, and says what to do about it.
    fn explain(&mut self, error: Error) -> Error {
        let help = match error.native {
            Some(1044 | 1142 | 1227) => "grant CREATE TEMPORARY TABLES on the target database",
            // MySQL before 8.0.13 with enforce_gtid_consistency.
            Some(1787) => "the server makes no temporary tables inside transactions",
            _ => return error.while_doing("make a temporary table for changes"),
        };
        let message = format!("{}: {help}", error.message);
        let error = Error { message, ..error }.into_kind(crate::data::ErrorKind::Table);
        let error = error.while_doing("make a temporary table for changes");
        self.refused = Some(error.clone());
        error
    }
}

fn declared(column: &TargetColumn, prefix: char, index: usize) -> String {
    format!("{prefix}{index} {} NULL", column.found.native())
}

/// A work table in memory serves if no column in use is too large for it and all together are not either.
fn kind(table: &Table, key: &[usize], written: &[usize]) -> Kind {
    let small = |column: &usize| table.columns[*column].found.memory_bytes().is_some();
    match key.iter().chain(written).all(small) && row_bytes(table, key) <= MEMORY_ROW_BYTES {
        true => Kind::Memory,
        false => Kind::Disk,
    }
}

/// Bytes of a row of a work table in memory: they are all as long as the longest.
fn row_bytes(table: &Table, key: &[usize]) -> usize {
    let bytes = |column: &TargetColumn| column.found.memory_bytes().unwrap_or_default();
    let in_key: usize = key.iter().map(|column| bytes(&table.columns[*column])).sum();
    in_key + table.columns.iter().map(bytes).sum::<usize>() + MEMORY_ROW_EXTRA
}
