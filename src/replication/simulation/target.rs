//! The target: tables that are loaded, and what its transactions have left in them.

use std::collections::BTreeMap;
use std::mem::take;
use std::sync::Arc;

use async_trait::async_trait;

use super::super::checkpoint::start_point;
use super::apply::Applying;
use super::source::{Database, place_of};
use super::workload::is_alike;
use super::{COLUMNS, End, Row, Session, World, number};
use crate::connector::{
    Applier, ApplyException, CreateKey, PrepareMode, Rejected, StartPoint, Target, Writer, Written,
};
use crate::data::{self, Batch, Error, ErrorKind, Family, Format, Position, Result, TableName, TableSchema};

#[derive(Default)]
pub struct Stored {
    pub committed: State,
    /// Transactions of sessions that were lost at their commit, with the sessions' owners: the server may yet commit them.
    pub in_doubt: Vec<(String, State)>,
    pub exceptions: Vec<ApplyException>,
    /// Some rows are refused for good.
    pub refuses_bad_rows: bool,
    /// This schema may not be made.
    pub forbidden_schema: Option<&'static str>,
    pub loads: BTreeMap<TableName, Load>,
    pub mirror: Mirror,
}

/// What a transaction changes.
#[derive(Clone, Default)]
pub struct State {
    pub tables: BTreeMap<TableName, Arc<Table>>,
    /// `CHECKPOINT` of the task, by the table of it.
    pub checkpoints: BTreeMap<TableName, String>,
}

#[derive(Clone, Default)]
pub struct Table {
    pub key: Vec<usize>,
    /// How often each row is there.
    pub rows: BTreeMap<Row, u64>,
}

impl Table {
    pub fn of(rows: &[Row]) -> Table {
        let mut table = Table::default();
        rows.iter().for_each(|row| table.add(*row));
        table
    }

    pub fn add(&mut self, row: Row) {
        *self.rows.entry(row).or_default() += 1;
    }

    pub fn take(&mut self, row: &Row) {
        let count = self.rows.get_mut(row).expect("a row that is there");
        *count -= 1;
        if *count == 0 {
            self.rows.remove(row);
        }
    }

    /// A row that has the values of another in these columns.
    pub fn find(&self, columns: &[usize], row: &Row) -> Option<Row> {
        self.rows.keys().find(|other| is_alike(columns, other, row)).copied()
    }

    pub fn has_key_of(&self, row: &Row) -> bool {
        !self.key.is_empty() && self.find(&self.key, row).is_some()
    }
}

/// The last load of a table.
pub struct Load {
    /// Of its snapshot in the source's log.
    pub place: u64,
    /// Rows that it has brought.
    pub rows: u64,
    /// All of them are there.
    pub is_done: bool,
    /// Batches that its reader has filled and no writer has taken.
    waiting: usize,
    pub waiting_max: usize,
}

/// The source's tables as they were at the place that the target has reached.
#[derive(Default)]
pub struct Mirror {
    place: u64,
    /// By number.
    tables: Vec<Table>,
}

impl Mirror {
    fn advance(&mut self, source: &Database, until: u64) {
        self.tables.resize_with(source.tables.len(), Table::default);
        for change in source.between(self.place, until).iter().flat_map(|transaction| &transaction.changes) {
            let table = &mut self.tables[change.table];
            if let Some(old) = &change.old {
                table.take(old);
            }
            if let Some(new) = change.new {
                table.add(new);
            }
        }
        self.place = self.place.max(until);
    }
}

/// Rows that the target refuses for good, where it refuses any.
pub fn is_bad(row: &Row) -> bool {
    row[0] % 37 == 5
}

impl Stored {
    /// Up to where the target says that it has all.
    pub fn place(&self) -> Option<u64> {
        self.committed.checkpoints.values().map(|text| place_of(&position(text))).max()
    }

    /// The load that the table's rows come from.
    pub fn load(&self, name: &TableName) -> Option<&Load> {
        self.loads.get(name).filter(|load| load.is_done)
    }

    pub fn loaded_at(&self, name: &TableName) -> Option<u64> {
        self.load(name).map(|load| load.place)
    }

    pub fn begin_load(&mut self, name: &TableName, place: u64) {
        let load = Load { place, rows: 0, is_done: false, waiting: 0, waiting_max: 0 };
        self.loads.insert(name.clone(), load);
    }

    pub fn expect_batch(&mut self, name: &TableName) {
        let load = self.loading(name);
        load.waiting += 1;
        load.waiting_max = load.waiting_max.max(load.waiting);
    }

    fn loading(&mut self, name: &TableName) -> &mut Load {
        self.loads.get_mut(name).expect("a table that is read")
    }

    fn table(&mut self, name: &TableName) -> &mut Table {
        Arc::make_mut(self.committed.tables.get_mut(name).expect("a table that was prepared"))
    }

    pub fn rows(&self, name: &TableName) -> BTreeMap<Row, u64> {
        self.committed.tables.get(name).map(|table| table.rows.clone()).unwrap_or_default()
    }
}

fn position(checkpoint: &str) -> Position {
    match start_point(checkpoint) {
        Ok(StartPoint::At(position)) => position,
        other => panic!("{checkpoint} is no checkpoint: {other:?}"),
    }
}

impl World {
    /// The user brings the target to where the source is, and gets the place.
    pub fn fill_target(&self) -> u64 {
        self.settle(|_| true);
        let (source, mut target) = (self.source.lock(), self.target.lock());
        for from in &source.tables {
            let table = Table { key: from.version.schema.row_key().to_vec(), ..Table::of(&from.rows) };
            target.committed.tables.insert(from.name().clone(), Arc::new(table));
            target.begin_load(from.name(), source.end);
            target.loading(from.name()).is_done = true;
        }
        source.end
    }

    /// A transaction of the target becomes durable. Whoever looks at the target sees the source as it was at one place.
    pub fn commit(&self, state: State) {
        let (source, mut target) = (self.source.lock(), self.target.lock());
        let target = &mut *target;
        target.committed = state;
        let Some(place) = target.place() else { return };
        target.mirror.advance(&source, place);
        for (table, expected) in source.tables.iter().zip(&target.mirror.tables) {
            let name = table.name();
            if target.loaded_at(name).is_some_and(|loaded_at| loaded_at <= place) {
                assert_eq!(target.rows(name), expected.rows, "{}: {name} at {place}", self.name);
            }
        }
    }

    /// Sessions of an owner that were lost have ended, one way or the other.
    pub fn settle(&self, is_owner: impl Fn(&str) -> bool) {
        let ended: Vec<(String, State)> =
            self.target.lock().in_doubt.extract_if(.., |(owner, _)| is_owner(owner)).collect();
        for (_, state) in ended {
            if self.target.chance(2) {
                self.commit(state);
            }
        }
    }
}

#[async_trait]
impl Target for End {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    fn family(&self) -> Family {
        Family::PostgreSql
    }

    async fn places(&self, names: &[TableName]) -> Result<Vec<TableName>> {
        Ok(names.to_vec())
    }

    async fn prepare(&self, table: &TableSchema, mode: PrepareMode, _: CreateKey) -> Result<()> {
        self.0.target.step(30).await?;
        if mode != PrepareMode::DoNothing {
            // It waits for whoever holds rows of the table.
            self.0.settle(|_| true);
        }
        {
            let mut target = self.0.target.lock();
            if target.forbidden_schema == Some(&table.name.schema) {
                return Err(Error::table("no privilege to make a schema"));
            }
            let key = table.row_key().to_vec();
            let made = target
                .committed
                .tables
                .entry(table.name.clone())
                .or_insert_with(|| Arc::new(Table { key, ..Table::default() }));
            if mode != PrepareMode::DoNothing {
                Arc::make_mut(made).rows.clear();
            }
        }
        self.0.target.step(30).await
    }

    async fn is_empty(&self, table: &TableSchema) -> Result<bool> {
        self.0.target.step(30).await?;
        Ok(self.0.target.lock().rows(&table.name).is_empty())
    }

    async fn formats(&self, _: &TableSchema) -> Result<Vec<Format>> {
        Ok(vec![Format::Values])
    }

    async fn writer(&self, table: &TableSchema, _: Format, _: usize) -> Result<Box<dyn Writer>> {
        self.0.target.step(30).await?;
        Ok(Box::new(Into { session: Session::open(&self.0), table: table.name.clone(), flying: Vec::new() }))
    }

    async fn finish(&self, _: &TableSchema, _: CreateKey) -> Result<()> {
        self.0.target.step(30).await
    }

    async fn applier(&self, owner: &str, _: Format, _: usize) -> Result<Box<dyn Applier>> {
        self.0.target.step(30).await?;
        self.0.settle(|other| other == owner);
        Ok(Box::new(Applying::new(&self.0, owner)))
    }

    async fn columns(&self, table: &TableName) -> Result<Vec<String>> {
        self.0.target.step(30).await?;
        let is_there = self.0.target.lock().committed.tables.contains_key(table);
        Ok(if is_there { COLUMNS.map(String::from).to_vec() } else { Vec::new() })
    }

    async fn recovery_checkpoint(&self, control_schema: &str, _: &str) -> Result<Option<String>> {
        self.0.target.step(30).await?;
        let target = self.0.target.lock();
        let mut checkpoints = target.committed.checkpoints.iter();
        Ok(checkpoints.find(|(table, _)| table.schema == control_schema).map(|(_, text)| text.clone()))
    }

    async fn record_exceptions(&self, _: &str, exceptions: &[ApplyException]) -> Result<()> {
        self.0.target.step(30).await?;
        self.0.target.lock().exceptions.extend_from_slice(exceptions);
        Ok(())
    }
}

/// Writes one batch late, as a server does that is sent the next while it works on the one before.
struct Into {
    session: Session,
    table: TableName,
    flying: Vec<Row>,
}

impl Into {
    /// The server commits what it was sent before.
    fn land(&mut self) -> Written {
        let mut target = self.session.0.target.lock();
        let mut written = Written::default();
        for row in take(&mut self.flying) {
            let refuses = target.refuses_bad_rows && is_bad(&row);
            if refuses || target.table(&self.table).has_key_of(&row) {
                written.rejected.push(Rejected {
                    error: Error::new(ErrorKind::Data, "not this one"),
                    statement: format!("INSERT INTO t VALUES ({row:?})"),
                });
            } else {
                target.table(&self.table).add(row);
                target.loading(&self.table).rows += 1;
                written.rows += 1;
            }
        }
        written
    }
}

#[async_trait]
impl Writer for Into {
    async fn write(&mut self, batch: &Batch) -> Result<Written> {
        let world = self.session.0.clone();
        world.target.lock().loading(&self.table).waiting -= 1;
        world.target.step(60).await?;
        let written = self.land();
        self.flying = (0..batch.rows()).map(|index| whole(batch.row(index))).collect();
        world.target.step(60).await?;
        Ok(written)
    }

    async fn finish(&mut self) -> Result<Written> {
        let world = self.session.0.clone();
        world.target.step(60).await?;
        let written = self.land();
        world.target.lock().loading(&self.table).is_done = true;
        world.target.step(60).await?;
        Ok(written)
    }
}

fn whole(row: data::Row<'_>) -> Row {
    std::array::from_fn(|column| number(row.get(column)).expect("a load has all of a row"))
}

impl Drop for Into {
    /// Of a connection that breaks, the server may still have got the last batch.
    fn drop(&mut self) {
        if self.session.0.target.chance(2) {
            self.land();
        }
    }
}
