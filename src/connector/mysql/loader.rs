//! Loading batches by `LOAD DATA LOCAL INFILE`, and finding the rows that do not go in.
//!
//! With LOCAL the server turns errors into warnings, bends values until they fit and skips duplicates. So every load is
//! a part of a transaction that counts only if no row is missing and no warning came; otherwise it is undone and tried
//! again in halves, down to single rows, which a strict INSERT takes or refuses with its true error.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinSet;

use super::intake::{Intake, LoadColumn};
use super::load_data::{self, Chunk, Pieces, Unfit};
use super::wire::{self, Client, Done};
use super::{Settings, Side, connect, quote_table};
use crate::connector::{Connection, Rejected, Writer, Written};
use crate::data::{Batch, Error, ErrorKind, Result, TableName};

/// Data in one transaction: commits cost a flush to disk each, long transactions cost undo log.
const COMMIT_BYTES: usize = 32 << 20;

/// Ranges of so many rows are not loaded again but inserted one by one.
const SINGLE_ROWS: usize = 4;

/// Everything about a load but its connections.
#[derive(Debug)]
pub(super) struct LoadPlan {
    table: TableName,
    intake: Intake,
    load: String,
    /// The storage engine can undo a load.
    transactional: bool,
    file_bytes_max: usize,
}

impl LoadPlan {
    pub(super) fn new(
        table: TableName,
        columns: Vec<LoadColumn>,
        transactional: bool,
        settings: &Settings,
    ) -> LoadPlan {
        let intake = Intake::new(&table, columns);
        let load = intake.load();
        LoadPlan { table, intake, load, transactional, file_bytes_max: settings.file_bytes_max }
    }

    fn rejected(&self, error: Error, line: &[u8]) -> Rejected {
        let statement = load_data::shown_insert(&quote_table(&self.table), &self.intake.names(), line);
        let kind = if error.kind == ErrorKind::Table { ErrorKind::Data } else { error.kind };
        Rejected { error: error.into_kind(kind), statement }
    }

    fn unfit(&self, unfit: &Unfit) -> Rejected {
        self.rejected(unfit.error.clone(), &unfit.line)
    }
}

/// A connection that loads, and how far its transaction has come.
struct Lane {
    client: Client,
    plan: Arc<LoadPlan>,
    in_transaction: bool,
    uncommitted: usize,
}

impl Lane {
    async fn open(connection: &Connection, settings: &Settings, plan: &Arc<LoadPlan>) -> Result<Lane> {
        let mut client = connect(connection, settings, Side::Target).await?;
        client.run("SET SESSION autocommit=0").await?;
        Ok(Lane { client, plan: Arc::clone(plan), in_transaction: false, uncommitted: 0 })
    }

    /// Loads all rows of a chunk.
    async fn load_chunk(&mut self, chunk: &Chunk) -> Result<Written> {
        let mut written = Written::default();
        let mut row = 0;
        while row < chunk.rows() {
            let rows = chunk.rows_within(row, self.plan.file_bytes_max);
            row = rows.end;
            self.load_rows(chunk, rows, &mut written).await?;
        }
        Ok(written)
    }

    async fn load_rows(&mut self, chunk: &Chunk, rows: Range<usize>, written: &mut Written) -> Result<()> {
        // The halves still to be loaded, the first on top: rows go in in their order.
        let mut todo = vec![rows];
        let mut suspect = !self.plan.transactional;
        while let Some(rows) = todo.pop() {
            if suspect && (rows.len() <= SINGLE_ROWS || !self.plan.transactional) {
                for row in rows {
                    self.insert_row(chunk, row, written).await?;
                }
                continue;
            }
            match self.try_load(chunk, rows.clone()).await? {
                Loaded::All => written.rows += rows.len() as u64,
                Loaded::Undone => {
                    suspect = true;
                    let middle = rows.start + rows.len().div_ceil(2);
                    if middle < rows.end {
                        todo.push(middle..rows.end);
                    }
                    todo.push(rows.start..middle);
                }
            }
        }
        Ok(())
    }

    async fn try_load(&mut self, chunk: &Chunk, rows: Range<usize>) -> Result<Loaded> {
        if self.in_transaction {
            self.client.run("SAVEPOINT dms_local").await?;
        }
        let text = chunk.text(rows.clone());
        let clean = match self.load_text(text).await {
            Ok(done) => {
                done.affected == rows.len() as u64 && u64::from(done.warnings) == chunk.expected_warnings(rows.clone())
            }
            Err(error) if costs_rows_only(&error) => false,
            Err(error) => return Err(error),
        };
        if clean {
            self.uncommitted += text.len();
            self.in_transaction = true;
            if self.uncommitted >= COMMIT_BYTES {
                self.commit().await?;
            }
            return Ok(Loaded::All);
        }
        let undo = if self.in_transaction { "ROLLBACK TO SAVEPOINT dms_local" } else { "ROLLBACK" };
        self.client.run(undo).await?;
        Ok(Loaded::Undone)
    }

    async fn load_text(&mut self, text: &[u8]) -> Result<Done> {
        self.client.begin_load(&self.plan.load).await.map_err(explain)?;
        self.client.send_file(text).await?;
        self.client.end_load().await
    }

    /// Inserts one row as the server's strictest mode takes it.
    async fn insert_row(&mut self, chunk: &Chunk, row: usize, written: &mut Written) -> Result<()> {
        let line = chunk.text(row..row + 1);
        let error = match self.client.run(&self.plan.intake.insert_row("INSERT", line)).await {
            Ok(_) => {
                written.rows += 1;
                self.in_transaction = true;
                self.uncommitted += line.len();
                return Ok(());
            }
            Err(error) => error,
        };
        if !costs_rows_only(&error) {
            return Err(error);
        }
        // ENUM's error value is refused by the strict mode although the source has it: then exactly its warnings may come.
        let expected = chunk.expected_warnings(row..row + 1);
        if expected > 0 && self.plan.transactional {
            self.client.run("SAVEPOINT dms_local").await?;
            let done = self.client.run(&self.plan.intake.insert_row("INSERT IGNORE", line)).await;
            match done {
                Ok(done) if done.affected == 1 && u64::from(done.warnings) == expected => {
                    written.rows += 1;
                    self.in_transaction = true;
                    return Ok(());
                }
                Err(error) if !costs_rows_only(&error) => return Err(error),
                _ => self.client.run("ROLLBACK TO SAVEPOINT dms_local").await?,
            };
            self.in_transaction = true;
        }
        written.rejected.push(self.plan.rejected(error, line));
        Ok(())
    }

    async fn commit(&mut self) -> Result<()> {
        self.client.run("COMMIT").await?;
        self.in_transaction = false;
        self.uncommitted = 0;
        Ok(())
    }

    /// Starts the load of a single row whose text comes in pieces.
    async fn begin_row(&mut self) -> Result<()> {
        // In a transaction of its own, so that it can be undone.
        self.commit().await?;
        self.client.begin_load(&self.plan.load).await.map_err(explain)
    }

    async fn end_row(&mut self, pieces: &Pieces, written: &mut Written) -> Result<()> {
        let error = match self.client.end_load().await {
            Ok(done) if done.affected == 1 && done.warnings == 0 && pieces.unfit.is_none() => {
                written.rows += 1;
                self.in_transaction = true;
                return self.commit().await;
            }
            Ok(_) => first_warning(&mut self.client).await?,
            Err(error) if costs_rows_only(&error) => error,
            Err(error) => return Err(error),
        };
        let error = match pieces.unfit {
            Some(reason) => Error::new(ErrorKind::Data, reason).with_native(1366),
            None => error,
        };
        if self.plan.transactional {
            self.client.run("ROLLBACK").await?;
        } else {
            tracing::warn!(table = %self.plan.table, "the storage engine cannot undo a row that went in with warnings");
        }
        written.rejected.push(self.plan.rejected(error, &pieces.head));
        Ok(())
    }
}

/// What the server warned of in the last statement, as an error.
pub(super) async fn first_warning(client: &mut Client) -> Result<Error> {
    let rows = client.rows("SHOW WARNINGS LIMIT 1").await?;
    let error = match rows.first().map(Vec::as_slice) {
        Some([_, Some(code), Some(message)]) => wire::from_server(code.parse().unwrap_or_default(), "HY000", message),
        _ => Error::new(ErrorKind::Data, "the server did not take the row"),
    };
    Ok(error.into_kind(ErrorKind::Data))
}

enum Loaded {
    All,
    /// Something was off; none of the rows is in.
    Undone,
}

/// Whether an error may be the fault of some rows, and not of the table, the session or the server.
fn costs_rows_only(error: &Error) -> bool {
    match error.kind {
        ErrorKind::Data | ErrorKind::Truncation | ErrorKind::Apply => true,
        // 1118 and 139: a row too long for a page, although the table was accepted.
        ErrorKind::Table => !matches!(error.native, Some(1050..=1117 | 1142 | 1143 | 1146 | 1412)),
        ErrorKind::Recoverable | ErrorKind::Redefined | ErrorKind::Fatal => false,
    }
}

/// Says what to do about servers that take no local files.
pub(super) fn explain(error: Error) -> Error {
    match error.native {
        Some(1148 | 3948 | 4166) => {
            let message =
                format!("{}: set local_infile=1 on the target server to let dms-local load data", error.message);
            Error { message, ..error }
        }
        _ => error,
    }
}

pub(super) struct LoadWriter {
    connection: Connection,
    settings: Settings,
    plan: Arc<LoadPlan>,
    idle: Vec<(Lane, Chunk)>,
    /// Lanes with a chunk under way. Dropping the writer aborts them.
    running: JoinSet<(Lane, Chunk, Result<Written>)>,
    /// The lane that receives a row spread over batches.
    spread: Option<(Lane, Chunk, Pieces)>,
    text: Vec<u8>,
    written: Written,
}

impl LoadWriter {
    /// A writer with one lane open: its errors show at once.
    pub(super) async fn open(connection: &Connection, settings: &Settings, plan: LoadPlan) -> Result<LoadWriter> {
        let plan = Arc::new(plan);
        let lane = Lane::open(connection, settings, &plan).await?;
        Ok(LoadWriter {
            connection: connection.clone(),
            settings: settings.clone(),
            plan,
            idle: vec![(lane, Chunk::default())],
            running: JoinSet::new(),
            spread: None,
            text: Vec::new(),
            written: Written::default(),
        })
    }

    /// An idle lane: there already, opened if the settings allow one more, or the first that gets ready.
    async fn lane(&mut self) -> Result<(Lane, Chunk)> {
        while let Some(done) = self.running.try_join_next() {
            self.collect(done)?;
        }
        if let Some(lane) = self.idle.pop() {
            return Ok(lane);
        }
        if self.running.len() < self.settings.load_threads {
            let lane = Lane::open(&self.connection, &self.settings, &self.plan).await?;
            return Ok((lane, Chunk::default()));
        }
        self.join().await?;
        self.idle.pop().ok_or_else(|| Error::recoverable("there is no connection to load with"))
    }

    async fn join(&mut self) -> Result<bool> {
        match self.running.join_next().await {
            Some(done) => self.collect(done).map(|()| true),
            None => Ok(false),
        }
    }

    fn collect(
        &mut self,
        done: std::result::Result<(Lane, Chunk, Result<Written>), tokio::task::JoinError>,
    ) -> Result<()> {
        let (lane, chunk, written) =
            done.map_err(|error| Error::recoverable(format!("a load ended early: {error}")))?;
        let mut written = written?;
        self.written.rows += written.rows;
        self.written.rejected.append(&mut written.rejected);
        self.idle.push((lane, chunk));
        Ok(())
    }

    async fn write_batch(&mut self, batch: &Batch) -> Result<()> {
        let mut from = 0;
        if batch.continues() {
            if batch.rows() == 0 {
                return self.spread_on(batch.open_row()).await;
            }
            self.spread_on(batch.row(0)).await?;
            self.spread_end().await?;
            from = 1;
        }
        if batch.rows() > from {
            let (mut lane, mut chunk) = self.lane().await?;
            chunk.clear();
            let mut unfit = Vec::new();
            load_data::encode(batch, from, self.plan.intake.rules(), &mut chunk, &mut unfit);
            self.written.rejected.extend(unfit.iter().map(|unfit| self.plan.unfit(unfit)));
            if chunk.is_empty() {
                self.idle.push((lane, chunk));
            } else {
                self.running.spawn(async move {
                    let written = lane.load_chunk(&chunk).await;
                    (lane, chunk, written)
                });
            }
        }
        if batch.is_open() {
            let (mut lane, chunk) = self.lane().await?;
            lane.begin_row().await?;
            self.spread = Some((lane, chunk, Pieces::default()));
            self.spread_on(batch.open_row()).await?;
        }
        Ok(())
    }

    async fn spread_on(&mut self, row: crate::data::Row<'_>) -> Result<()> {
        let Some((lane, _, pieces)) = self.spread.as_mut() else { return Err(no_open_row()) };
        self.text.clear();
        pieces.push(row, self.plan.intake.rules(), &mut self.text);
        lane.client.send_file(&self.text).await
    }

    async fn spread_end(&mut self) -> Result<()> {
        let Some((mut lane, chunk, pieces)) = self.spread.take() else { return Err(no_open_row()) };
        self.text.clear();
        let pieces = pieces.end(&mut self.text);
        lane.client.send_file(&self.text).await?;
        lane.end_row(&pieces, &mut self.written).await?;
        self.text = Vec::new();
        self.idle.push((lane, chunk));
        Ok(())
    }
}

fn no_open_row() -> Error {
    Error::fatal("a batch carries on a row that no batch began")
}

#[async_trait]
impl Writer for LoadWriter {
    async fn write(&mut self, batch: &Batch) -> Result<Written> {
        let table = self.plan.table.clone();
        self.write_batch(batch).await.map_err(|error| error.while_doing(format!("load {table}")))?;
        Ok(std::mem::take(&mut self.written))
    }

    async fn finish(&mut self) -> Result<Written> {
        let table = self.plan.table.clone();
        let work = async {
            if self.spread.is_some() {
                return Err(Error::fatal("the load ends in the middle of a row"));
            }
            while self.join().await? {}
            for (lane, _) in &mut self.idle {
                lane.commit().await?;
            }
            Ok(())
        };
        work.await.map_err(|error: Error| error.while_doing(format!("load {table}")))?;
        for (lane, _) in self.idle.drain(..) {
            lane.client.close().await;
        }
        Ok(std::mem::take(&mut self.written))
    }
}
