//! The source: tables, the log of what became of them, and snapshots of any moment.

use std::sync::Arc;

use async_trait::async_trait;

use super::stream::Stream;
use super::{End, Row, Session, World};
use crate::connector::{
    Beginning, Capture, ChangeReader, DurablePlace, ReadPlan, Reader, Snapshot, Source, StartPoint, TableEntry,
};
use crate::data::{Batch, Error, Format, Op, Position, Result, TableKind, TableName, TableSchema, TableVersion, Value};

#[derive(Default)]
pub struct Database {
    /// The log numbers them by their place here.
    pub tables: Vec<Table>,
    /// By their ends.
    pub log: Vec<Transaction>,
    /// Where the log ends, which may be after transactions that are nothing to a task.
    pub end: u64,
    /// Up to here it was told that it may forget its log.
    pub confirmed: u64,
}

pub struct Table {
    pub version: Arc<TableVersion>,
    pub rows: Vec<Row>,
}

impl Table {
    pub fn new(schema: TableSchema, identity: &[usize]) -> Table {
        Table { version: Arc::new(TableVersion { schema, identity: identity.to_vec() }), rows: Vec::new() }
    }

    pub fn name(&self) -> &TableName {
        &self.version.schema.name
    }
}

pub struct Transaction {
    pub end: u64,
    /// In microseconds since 1970.
    pub time: i64,
    /// Its values are so long that few rows fill a piece of the log.
    pub is_wide: bool,
    pub changes: Vec<Change>,
}

#[derive(Clone)]
pub struct Change {
    /// The table's number.
    pub table: usize,
    pub op: Op,
    pub old: Option<Row>,
    pub new: Option<Row>,
}

impl Database {
    /// What committed after one place and not after another.
    pub fn between(&self, after: u64, until: u64) -> &[Transaction] {
        let place = |end: u64| self.log.partition_point(|transaction| transaction.end <= end);
        let from = place(after);
        &self.log[from..place(until).max(from)]
    }

    pub fn number(&self, name: &TableName) -> usize {
        self.tables.iter().position(|table| table.name() == name).expect("a table of the source")
    }
}

pub fn place_of(position: &Position) -> u64 {
    match position {
        Position::Lsn(place) => *place,
        other => panic!("{other} is no place in this log"),
    }
}

impl World {
    /// The source may forget its log up to a place: all before it must be on the target, by a load or by changes.
    pub fn confirm(&self, place: u64) {
        let (mut source, target) = (self.source.lock(), self.target.lock());
        for transaction in source.between(source.confirmed, place) {
            for change in &transaction.changes {
                let name = source.tables[change.table].name();
                let durable = target.place().max(target.loaded_at(name));
                assert!(
                    durable >= Some(transaction.end),
                    "{}: {place} is confirmed, and {name} lacks a change of {}",
                    self.name,
                    transaction.end
                );
            }
        }
        source.confirmed = source.confirmed.max(place);
    }

    fn view(self: &Arc<World>, readers: usize) -> View {
        let source = self.source.lock();
        let tables = source.tables.iter().map(|table| (table.name().clone(), table.rows.clone()));
        View { world: self.clone(), readers, place: source.end, tables: tables.collect() }
    }
}

#[async_trait]
impl Source for End {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn schemas(&self) -> Result<Vec<String>> {
        Ok(vec![super::SCHEMA.into()])
    }

    async fn tables(&self) -> Result<Vec<TableEntry>> {
        self.0.source.step(30).await?;
        let entry = |table: &Table| TableEntry { name: table.name().clone(), kind: TableKind::Table };
        Ok(self.0.source.lock().tables.iter().map(entry).collect())
    }

    async fn describe(&self, tables: &[TableEntry]) -> Result<Vec<TableSchema>> {
        self.0.source.step(30).await?;
        let source = self.0.source.lock();
        Ok(tables.iter().map(|entry| source.tables[source.number(&entry.name)].version.schema.clone()).collect())
    }

    async fn snapshot(&self, readers: usize) -> Result<Box<dyn Snapshot>> {
        self.0.source.step(30).await?;
        // Now and then the server has fewer connections than are asked for.
        if readers > 2 && self.0.source.fails(10) {
            return Err(Error::recoverable("too many connections").with_sqlstate("53300"));
        }
        Ok(Box::new(self.0.view(readers)))
    }

    async fn begin_capture(&self, _: &Capture, readers: usize) -> Result<Beginning> {
        self.0.source.step(30).await?;
        let view = self.0.view(readers);
        self.0.source.lock().confirmed = view.place;
        let position = Position::Lsn(view.place);
        self.0.source.step(30).await?;
        Ok(Beginning { snapshot: Box::new(view), position })
    }

    async fn begin_capture_at(&self, _: &Capture, start: &StartPoint) -> Result<Position> {
        self.0.source.step(30).await?;
        let position = match start {
            StartPoint::Now => Position::Lsn(self.0.fill_target()),
            StartPoint::At(position) => position.clone(),
            StartPoint::Time(_) => panic!("no task here begins at a time"),
        };
        self.0.source.lock().confirmed = place_of(&position);
        self.0.source.step(30).await?;
        Ok(position)
    }

    async fn snapshot_in_log(&self, _: &Capture, readers: usize) -> Result<Beginning> {
        self.0.source.step(30).await?;
        let view = self.0.view(readers);
        let position = Position::Lsn(view.place);
        Ok(Beginning { snapshot: Box::new(view), position })
    }

    async fn log_end(&self) -> Result<Position> {
        self.0.source.step(30).await?;
        Ok(Position::Lsn(self.0.source.lock().end))
    }

    async fn changes(
        &self,
        capture: &Capture,
        from: &Position,
        durable: DurablePlace,
    ) -> Result<Box<dyn ChangeReader>> {
        self.0.source.step(30).await?;
        let confirmed = self.0.source.lock().confirmed;
        assert!(place_of(from) >= confirmed, "{}: {from} is read, {confirmed} was confirmed", self.0.name);
        Ok(Box::new(Stream::new(&self.0, capture, place_of(from), durable)))
    }
}

/// All tables at one moment.
struct View {
    world: Arc<World>,
    readers: usize,
    place: u64,
    tables: Vec<(TableName, Vec<Row>)>,
}

#[async_trait]
impl Snapshot for View {
    fn readers(&self) -> usize {
        self.readers
    }

    fn formats(&self, _: &TableSchema, _: &[usize], _: Option<u64>) -> Vec<Format> {
        vec![Format::Values]
    }

    async fn read(&self, plan: ReadPlan) -> Result<Box<dyn Reader>> {
        self.world.source.step(30).await?;
        let name = plan.table.name;
        let (_, rows) = self.tables.iter().find(|(table, _)| *table == name).expect("a table of the source");
        self.world.target.lock().begin_load(&name, self.place);
        let session = Session::open(&self.world);
        Ok(Box::new(Rows { session, rows: rows.clone().into_iter(), name }))
    }
}

struct Rows {
    session: Session,
    name: TableName,
    rows: std::vec::IntoIter<Row>,
}

#[async_trait]
impl Reader for Rows {
    async fn next(&mut self, batch: &mut Batch) -> Result<bool> {
        let world = &self.session.0;
        world.source.step(60).await?;
        batch.clear(Format::Values);
        for row in self.rows.by_ref().take(1 + world.source.below(40) as usize) {
            row.iter().for_each(|value| batch.push(Value::Int(*value)));
            batch.end_row();
        }
        if batch.is_empty() {
            return Ok(false);
        }
        world.target.lock().expect_batch(&self.name);
        Ok(true)
    }
}
