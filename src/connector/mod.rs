//! What every engine can do for a task, and the list of engines.
//!
//! One folder per engine family, each with the same files: `mod` (settings, prerequisites), `wire` (its protocol),
//! `source` (catalog), `snapshot` (bulk read), `changes` (the log), `target` and its writer (bulk write), `apply`
//! (changes), `type_map`. Connectors never import each other
//! and never look at table mappings: they are told which tables and columns to move.

#[cfg(test)]
mod conformance;
pub mod mysql;
pub mod net;
pub mod noted;
pub mod postgres;
#[cfg(test)]
pub mod testing;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Map, Value as Json};
use tokio::sync::watch;

use crate::data::{
    Batch, Changes, Error, Family, Format, Op, Position, Result, Row, TableKind, TableName, TableSchema,
};

/// One value of `EngineName` that dms-local moves rows for.
pub struct Engine {
    /// As in `CreateEndpoint`.
    pub name: &'static str,
    pub display_name: &'static str,
    pub family: Family,
    pub source: bool,
    pub target: bool,
    /// The member of `CreateEndpoint` that holds this engine's settings.
    pub settings: &'static str,
    pub default_port: u16,
    pub open_source: fn(Connection) -> Box<dyn Source>,
    pub open_target: fn(Connection) -> Box<dyn Target>,
}

/// Every engine there is a runtime for. Endpoint types, TestConnection and the task runner read this list.
pub static ENGINES: &[Engine] =
    &[mysql::AURORA, postgres::AURORA_POSTGRESQL, mysql::MARIADB, mysql::MYSQL, postgres::POSTGRES];

pub fn engine(name: &str) -> Option<&'static Engine> {
    ENGINES.iter().find(|engine| engine.name == name)
}

/// `SslMode` of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SslMode {
    #[default]
    None,
    /// Encrypted; the server's certificate is not checked.
    Require,
    /// The certificate must come from a trusted authority.
    VerifyCa,
    /// … and must name the server.
    VerifyFull,
}

/// A password: can be used, never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where a database is and how to log in: an endpoint as the data plane reads it.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    pub server: String,
    pub port: u16,
    pub user: String,
    pub password: Secret,
    /// Empty when the endpoint names none; MySQL needs none.
    pub database: String,
    pub ssl_mode: SslMode,
    /// PEM of the authority to trust instead of the system's, for [`SslMode::VerifyCa`] and [`SslMode::VerifyFull`].
    pub ca_pem: Option<String>,
    /// The members of the engine's settings object (`PostgreSQLSettings`, …) with the extra connection attributes
    /// merged in, named as in the API.
    pub settings: Map<String, Json>,
}

/// A table or view of a source, before anything else about it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableEntry {
    pub name: TableName,
    pub kind: TableKind,
}

/// The reading side of an engine. Holds no connection between calls.
#[async_trait]
pub trait Source: Send + Sync {
    /// Connects, logs in and checks what DMS checks before it calls a connection successful.
    async fn check(&self) -> Result<()>;

    /// The schemas a user may select from, without the engine's own, sorted: what `DescribeSchemas` lists.
    async fn schemas(&self) -> Result<Vec<String>>;

    /// Every table and view that is not the engine's own or DMS's (`awsdms_…`), sorted by name.
    async fn tables(&self) -> Result<Vec<TableEntry>>;

    /// Columns and keys of the named tables, in the order given; a table that has vanished is left out.
    async fn describe(&self, tables: &[TableEntry]) -> Result<Vec<TableSchema>>;

    /// Opens a view of the whole database at one moment that up to `readers` tables are read from at once. A source
    /// that cannot share one moment among several connections serves fewer readers.
    async fn snapshot(&self, readers: usize) -> Result<Box<dyn Snapshot>>;

    /// Makes the source keep its log for a task from now on, and opens a snapshot of this moment. What an earlier run
    /// of the task has left on the source is taken away first.
    async fn begin_capture(&self, _: &Capture, _readers: usize) -> Result<Beginning> {
        Err(Error::fatal(NO_LOG))
    }

    /// The same without a snapshot, and from any place that the source still has: what a task without a full load
    /// begins with.
    async fn begin_capture_at(&self, _: &Capture, _start: &StartPoint) -> Result<Position> {
        Err(Error::fatal(NO_LOG))
    }

    /// Opens a snapshot for tables that are loaded while a capture goes on: all that is before its position in the log
    /// shows in it, and nothing else.
    async fn snapshot_in_log(&self, _: &Capture, _readers: usize) -> Result<Beginning> {
        Err(Error::fatal(NO_LOG))
    }

    /// Where the log ends at the moment.
    async fn log_end(&self) -> Result<Position> {
        Err(Error::fatal(NO_LOG))
    }

    /// Whether the log tells of statements that define tables.
    fn log_has_definitions(&self) -> bool {
        true
    }

    /// Takes tables that a capture did not begin with into it.
    async fn adopt(&self, _: &Capture, _tables: &[TableName]) -> Result<Adoption> {
        Ok(Adoption::InLog)
    }

    /// Reads the log from a place where a capture began or that was durable.
    async fn changes(&self, _: &Capture, _from: &Position, _: DurablePlace) -> Result<Box<dyn ChangeReader>> {
        Err(Error::fatal(NO_LOG))
    }

    /// Takes away what [`begin_capture`](Source::begin_capture) has made; nothing being there is no error.
    async fn end_capture(&self, _: &Capture) -> Result<()> {
        Ok(())
    }
}

const NO_LOG: &str = "this engine's log cannot be read";

/// What is read of a table: a consequence of the task's mappings and LOB settings.
#[derive(Clone, Debug)]
pub struct ReadPlan {
    pub table: TableSchema,
    /// Indexes into `table.columns`, in the order in which values are pushed.
    pub columns: Vec<usize>,
    /// One of [`Snapshot::formats`].
    pub format: Format,
    /// Values of LOB columns longer than this many bytes are cut (`LimitedSizeLobMode`); `None` reads them whole.
    pub lob_bytes_max: Option<u64>,
    /// A batch ends when it holds this many rows …
    pub batch_rows: usize,
    /// … or this many bytes.
    pub batch_bytes: usize,
}

#[async_trait]
pub trait Snapshot: Send + Sync {
    /// How many tables can be read at once.
    fn readers(&self) -> usize;

    /// The formats these columns of this table can be read in, fastest first; always ends in [`Format::Values`].
    fn formats(&self, table: &TableSchema, columns: &[usize], lob_bytes_max: Option<u64>) -> Vec<Format>;

    /// Starts reading a table; waits while all readers are busy.
    async fn read(&self, plan: ReadPlan) -> Result<Box<dyn Reader>>;
}

#[async_trait]
pub trait Reader: Send {
    /// Fills `batch` (cleared first) with the next rows; `false` when there are no more and the batch is empty.
    /// Dropping a reader between or during calls gives its place in the snapshot back.
    async fn next(&mut self, batch: &mut Batch) -> Result<bool>;
}

/// What a task takes from a source's log.
#[derive(Clone)]
pub struct Capture {
    /// The tail of the task's ARN, after which what the task needs on the source is named.
    pub task: String,
    /// The tables as they are at the place from which the log is read, as far as they are known: what the log shows of
    /// them that is otherwise came by a DDL statement after that place.
    pub tables: Vec<TableSchema>,
    /// Tables of which nothing is wanted that committed before a place: they were loaded as they were there, and are in
    /// `tables` as they are there.
    pub loaded_at: HashMap<TableName, Position>,
    /// Tells tables that are captured, also those that come into being later.
    pub selects: Arc<dyn Fn(&TableName) -> bool + Send + Sync>,
    /// [`Format::Values`] or [`Format::Text`].
    pub format: Format,
    /// Values of LOB columns longer than this many bytes are cut (`LimitedSizeLobMode`); `None` keeps them whole.
    pub lob_bytes_max: Option<u64>,
    /// Rows before an UPDATE are wanted as far as the log has them, also where they tell no more than the key does.
    pub old_rows: bool,
    /// A piece of the log ends when it holds this many bytes, or at the end of a transaction when nothing more is there.
    pub batch_bytes: usize,
    /// How long to wait for transactions that are open on the source where the log cannot begin before they end
    /// (`TransactionConsistencyTimeout`); after that it is an error, which may pass: without their changes the load would
    /// lack rows for good.
    pub transactions_timeout: Duration,
}

impl Capture {
    /// A capture of nothing, by whose name what a task has on its source is found.
    pub fn of(task: impl Into<String>) -> Capture {
        Capture {
            task: task.into(),
            tables: Vec::new(),
            loaded_at: HashMap::new(),
            selects: Arc::new(|_| false),
            format: Format::Values,
            lob_bytes_max: None,
            old_rows: false,
            batch_bytes: 1 << 20,
            transactions_timeout: Duration::from_secs(600),
        }
    }
}

/// Where a capture without a full load begins.
/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Task.CDC.html>
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartPoint {
    /// With the next transaction.
    Now,
    /// With the first transaction that committed at this time or later, in microseconds since 1970.
    Time(i64),
    At(Position),
}

/// How tables get into a capture that they were not in from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adoption {
    /// The log has all of their rows' changes since they were made.
    InLog,
    /// The log has them only from now on: they must be loaded from a [`Source::snapshot_in_log`] taken after this.
    FromNow,
}

/// Where a capture begins: the state of the database that the snapshot shows is that of the log at `position`.
pub struct Beginning {
    pub snapshot: Box<dyn Snapshot>,
    pub position: Position,
}

/// All before this place is durable on the target, and the place itself is kept: the source may forget it. A reader looks
/// at it at any time, because a source may wait for the word while nothing is read.
pub type DurablePlace = watch::Receiver<Option<Position>>;

/// Reads a source's log.
#[async_trait]
pub trait ChangeReader: Send {
    /// Fills `changes` (cleared first) with what comes next, and waits for the first of it. A call that is given up
    /// loses nothing but what it has put into `changes`.
    async fn next(&mut self, changes: &mut Changes) -> Result<()>;

    /// Keeps the connection while nobody reads. Ends only with an error.
    async fn keep_alive(&mut self) -> Error;
}

/// `TargetTablePrepMode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrepareMode {
    DoNothing,
    TruncateBeforeLoad,
    DropAndCreate,
}

/// When the primary key of a table that is created comes into being (`CreatePkAfterFullLoad`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateKey {
    WithTable,
    AfterLoad,
}

/// One row that the target did not take.
#[derive(Clone, Debug)]
pub struct Rejected {
    pub error: Error,
    /// The statement with the row's values, for the control table on the target only; never logged.
    pub statement: String,
}

/// A line of `awsdms_apply_exceptions`.
/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ControlTable.html>
#[derive(Clone, Debug)]
pub struct ApplyException {
    pub task: String,
    pub table: TableName,
    pub statement: String,
    pub error: String,
}

/// What became of the rows handed to a writer since the last answer.
#[derive(Debug, Default)]
pub struct Written {
    /// Rows that are in the target's table.
    pub rows: u64,
    /// Rows that are not, each with its reason.
    pub rejected: Vec<Rejected>,
}

/// Rows of one table of a target that change in one way. No two of them have the same key, so their order is nobody's
/// business.
#[derive(Clone, Copy)]
pub struct ChangeSet<'a> {
    /// As the task sees it on the target.
    pub table: &'a TableSchema,
    /// For each column of `table` where its values are in the images of [`ChangeSet::rows`].
    pub columns: &'a [usize],
    /// How rows are found.
    pub key: Key<'a>,
    pub op: Op,
    pub rows: &'a [RowChange<'a>],
    pub conflict: Conflict,
}

/// Indexes into a table's columns by which a row is found.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// At most one row has these values, none of which is null.
    Unique(&'a [usize]),
    /// Any of the rows that have these values is as good as another.
    Any(&'a [usize]),
}

/// One row's images, in the columns of the source's log.
#[derive(Clone)]
pub struct RowChange<'a> {
    /// Of an UPDATE only where the key changes, or the log has all of the old row.
    pub old: Option<Row<'a>>,
    pub new: Option<Row<'a>>,
}

impl<'a> RowChange<'a> {
    /// The image that holds the row's key as the target has it.
    pub fn found_by(&self) -> Option<&Row<'a>> {
        self.old.as_ref().or(self.new.as_ref())
    }
}

/// What becomes of an INSERT whose key is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The whole set fails.
    Refuse,
    /// The row takes the place of the other: the change may have been applied before.
    Replace,
}

/// A change of a table's definition, in the names and columns of the target.
#[derive(Clone, Copy, Debug)]
pub enum TableChange<'a> {
    /// As [`Target::prepare`] makes it; one that is there already is left as it is.
    Create(&'a TableSchema),
    Drop(&'a TableName),
    Rename {
        from: &'a TableName,
        to: &'a TableName,
    },
    /// At the end of the table. `table` is the table as it is afterwards.
    AddColumn {
        table: &'a TableSchema,
        column: usize,
    },
    DropColumn {
        table: &'a TableName,
        column: &'a str,
    },
    RenameColumn {
        table: &'a TableName,
        from: &'a str,
        to: &'a str,
    },
    /// The column keeps its values as far as the new type takes them. `table` is the table as it is afterwards.
    RetypeColumn {
        table: &'a TableSchema,
        column: usize,
    },
}

/// What a statement leaves of the transaction that it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    Open,
    /// All before the statement and itself are durable, and what comes needs [`Applier::begin`].
    Ended,
}

/// A session that changes rows in transactions. After an error there is only [`Applier::back_to_savepoint`] or
/// [`Applier::rollback`].
#[async_trait]
pub trait Applier: Send {
    async fn begin(&mut self) -> Result<()>;

    /// Changes all the rows of a set or none. Gives how many rows of the target that were.
    async fn apply(&mut self, set: &ChangeSet<'_>) -> Result<u64>;

    /// What [`apply`](Applier::apply) does with the first row of a set, as one statement with its values: for the
    /// control table on the target only, never logged.
    fn statement(&self, set: &ChangeSet<'_>) -> String;

    async fn truncate(&mut self, table: &TableSchema) -> Result<Transaction>;

    /// Changes a table's definition. An engine whose DDL ends transactions commits what is before it.
    async fn change_table(&mut self, change: &TableChange<'_>) -> Result<Transaction>;

    /// Marks the place to come back to; there is one, the last.
    async fn savepoint(&mut self) -> Result<()>;

    async fn back_to_savepoint(&mut self) -> Result<()>;

    /// Returns when the transaction is durable.
    async fn commit(&mut self) -> Result<()>;

    async fn rollback(&mut self) -> Result<()>;
}

/// The writing side of an engine. Holds no connection between calls.
#[async_trait]
pub trait Target: Send + Sync {
    /// Connects, logs in and checks what DMS checks before it calls a connection successful.
    async fn check(&self) -> Result<()>;

    fn family(&self) -> Family;

    /// Where tables of these names really end up, in the same order: an engine may cut names, fold their case or put
    /// all tables into one schema. Tables that meet there must not be loaded together.
    async fn places(&self, names: &[TableName]) -> Result<Vec<TableName>>;

    /// Makes the table ready to be loaded, creating its schema and itself where they are missing, as DMS does:
    /// columns, nullability and primary key, nothing else. `table` has target names; its native types are used when
    /// its family is this target's.
    async fn prepare(&self, table: &TableSchema, mode: PrepareMode, key: CreateKey) -> Result<()>;

    /// Whether this prepared table has no rows.
    async fn is_empty(&self, table: &TableSchema) -> Result<bool>;

    /// The formats a writer for this prepared table takes, fastest first; always ends in [`Format::Values`].
    async fn formats(&self, table: &TableSchema) -> Result<Vec<Format>>;

    /// A writer for rows whose values are in the order of `table.columns`. Rows become durable with
    /// [`Writer::finish`]; before that, at the engine's own pace.
    /// At most `commit_rows` rows (`CommitRate`) go to the server together; batches must not hold more.
    async fn writer(&self, table: &TableSchema, format: Format, commit_rows: usize) -> Result<Box<dyn Writer>>;

    /// Ends a load: creates the primary key when it was left for later.
    async fn finish(&self, table: &TableSchema, key: CreateKey) -> Result<()>;

    /// A session that applies changes whose values are in this format, and keeps at most so many prepared statements
    /// (`StatementCacheSize`). An owner has one at a time: a session that it has lost, and that the server may still
    /// believe in, is ended before this one begins, so that nothing of it lands later.
    async fn applier(&self, _owner: &str, _: Format, _statements_max: usize) -> Result<Box<dyn Applier>> {
        Err(Error::fatal("changes cannot be applied to this engine"))
    }

    /// The names of a table's columns; none when it is not there.
    async fn columns(&self, _table: &TableName) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// `CHECKPOINT` of a task in `awsdms_txn_state` of the control schema (empty: the engine's default); `None` when it
    /// has none.
    async fn recovery_checkpoint(&self, _control_schema: &str, _task: &str) -> Result<Option<String>> {
        Ok(None)
    }

    /// Writes lines into `awsdms_apply_exceptions` of the control schema (empty: the engine's default), creating the
    /// table when it is missing, also for no lines.
    async fn record_exceptions(&self, control_schema: &str, exceptions: &[ApplyException]) -> Result<()>;
}

#[async_trait]
pub trait Writer: Send {
    /// Writes the rows of a batch. A row that the target refuses does not take the others along: the rest of the
    /// batch is written and the row is among the rejected. An error means that the batch did not go in as a whole
    /// and the writer is unusable.
    async fn write(&mut self, batch: &Batch) -> Result<Written>;

    /// Makes everything written durable.
    async fn finish(&mut self) -> Result<Written>;
}
