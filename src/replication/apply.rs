//! Applying the changes of a source's log: whole transactions of the source, in the order in which they committed, in
//! transactions of the target that hold one or more of them.
//!
//! What waits for a transaction of the target is folded (`net`) and applied as sets. Where a set fails, or does not meet
//! the rows that it should, all that waits is applied again one change after the other, and the task's error policy
//! decides on each that fails.
//!
//! The place in the log becomes durable on the target in the transaction of the changes before it (`own`), so that
//! whatever happens, nothing is applied twice. Where the target's DDL ends transactions, a statement that defines tables
//! goes alone: what is complete before it becomes durable with its place first.

mod cut;
mod ddl;
mod own;
mod rows;
mod table;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::net::{ApplyFirst, Image, NetChange};
use super::policy::Errors;
use super::progress::{AtCheckpoint, Counts, Standing};
use super::rules::Rules;
use crate::connector::{Applier, ApplyException, Target};
use crate::data::{Changes, Entry, Error, Op, Position, Result, TableName, TableVersion, Value};
use own::OwnTables;
use rows::row;
use table::{Table, Tally};

/// What waits is applied when it takes this much memory, though its transaction be not at its end …
const HELD_BYTES_MAX: usize = 8 << 20;

/// … and this much of a batch, which folds the better the larger it is, where `BatchApplyMemoryLimit` is not less.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// In a backlog so much of a batch goes, too, when no more is there at the moment: the target would stand still.
const BATCH_BYTES_MIN: usize = 1 << 20;

/// What is left of a backlog goes when the log has given nothing for so long.
const BACKLOG_END: Duration = Duration::from_millis(100);

/// What a change that waits takes beside its row, about.
const WAITING_BYTES: usize = 2 * size_of::<(usize, NetChange)>() + 32;

/// How many times `MinTransactionSize` goes into a transaction of the target while more is there.
const TRANSACTION_FACTOR: usize = 10;

/// Where applying begins, and how it ends by itself.
#[derive(Default)]
pub struct Start {
    /// From here the log is read.
    pub from: Option<Position>,
    /// Tables that the target has, with what is known of them.
    pub tables: HashMap<TableName, Known>,
    /// Up to here it is no error that a row is there already or gone already (`FullLoadIgnoreConflicts`).
    pub tolerant_until: Option<Position>,
    /// The source's commit time beyond which nothing is applied, in microseconds since 1970.
    pub stop_after: Option<i64>,
    /// The last transaction to apply ends here.
    pub stop_at: Option<Position>,
}

/// A table as it is at the place where applying begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    pub captured: Counts,
    pub applied: Counts,
    pub suspended: bool,
    /// It was dropped or renamed: what comes under its name is another table.
    pub gone: bool,
    /// Errors of it in this run.
    pub errors: Errors,
}

/// Up to where all is durable on the target.
#[derive(Debug, PartialEq)]
pub struct Durable {
    pub position: Position,
    /// When the source committed the last transaction that is in it, in microseconds since 1970.
    pub time: Option<i64>,
    /// Those that something has happened to since the one before.
    pub tables: Vec<AtCheckpoint>,
    /// Rows that changed since the one before.
    pub rows: u64,
}

/// What has to happen before more is applied.
#[derive(Debug, PartialEq)]
pub enum Halt {
    /// All that was to be applied is.
    End,
    /// What began to be applied is too late for the task's end, and was undone: all ends here.
    EndAt(Position),
}

/// The changes on their way to a target.
pub struct Apply<'a> {
    rules: &'a Rules,
    target: &'a dyn Target,
    applier: Box<dyn Applier>,
    own: OwnTables,
    /// By the log's numbers.
    tables: Vec<Option<Table>>,
    known: HashMap<TableName, Known>,
    /// What waiting changes refer to.
    pieces: Vec<Changes>,
    /// Where among the pieces rows with before images are, if there are any of the piece that is being taken.
    images: Option<usize>,
    /// What waits, in the order of the log.
    order: Vec<(usize, NetChange)>,
    stage: Stage,
    /// Changes since the target's last commit, and since when there are some.
    changes: usize,
    since: Option<Instant>,
    /// A batch is as large as it gets.
    is_full: bool,
    pause: Pause,
    /// When the log gave something last.
    last_taken: Instant,
    /// When the batch before began to be applied.
    batch_began: Instant,
    /// The place after the last transaction of the source that is complete here, and when that committed.
    complete: Option<Position>,
    complete_time: Option<i64>,
    /// Further on in the log, and nothing for us is in between.
    passed: Option<Position>,
    rows: u64,
    /// The last transaction of the source is only partly here.
    partial: bool,
    /// The transaction came here from this target: nothing of it goes back.
    echo: bool,
    tolerant_until: Option<Position>,
    applied_until: Option<Position>,
    stop_after: Option<i64>,
    stop_at: Option<Position>,
    exceptions: Vec<ApplyException>,
    /// Tables that the log could not tell of, before it told what they look like, and the errors they have had.
    given_up: Vec<(TableName, Errors)>,
    created: Vec<TableName>,
    gone: Vec<TableName>,
    /// The definition of tables of the target has changed since its last commit.
    defined: bool,
    /// Became durable before a statement that defines tables.
    before: Option<Durable>,
}

/// Whether the next batch has to wait for its time (`BatchApplyTimeoutMin`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    /// No batch was before it: it has to, unless so much is there that it is the beginning of a backlog.
    AtFirst,
    /// The batch before was not full.
    Owed,
    None,
}

/// How far the target's transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    None,
    Begun,
    /// Some changes are in it.
    Filled,
}

impl<'a> Apply<'a> {
    /// With a recovery table, what it says the target has for certain is counted and nothing else.
    pub async fn start(rules: &'a Rules, target: &'a dyn Target, start: Start) -> Result<Apply<'a>> {
        let statements_max = rules.settings.change_processing.statement_cache_size;
        let own = OwnTables::create(rules, target).await?;
        let applier = target.applier(&rules.task, rules.format, statements_max).await?;
        // Not before an earlier session is gone, which could still move it.
        let applied_until = own.place(target, rules).await?;
        Ok(Apply {
            rules,
            target,
            applier,
            own,
            tables: Vec::new(),
            known: start.tables,
            pieces: Vec::new(),
            images: None,
            order: Vec::new(),
            stage: Stage::None,
            changes: 0,
            since: None,
            is_full: false,
            pause: Pause::AtFirst,
            last_taken: Instant::now(),
            batch_began: Instant::now(),
            complete: None,
            complete_time: None,
            passed: None,
            rows: 0,
            partial: false,
            echo: false,
            tolerant_until: start.tolerant_until,
            applied_until: applied_until.filter(|applied| start.from.as_ref().is_none_or(|from| applied > from)),
            stop_after: start.stop_after,
            stop_at: start.stop_at,
            exceptions: Vec::new(),
            given_up: Vec::new(),
            created: Vec::new(),
            gone: Vec::new(),
            defined: false,
            before: None,
        })
    }

    /// A log is followed anew from this place: what the target may know of an earlier one does not count.
    pub async fn begin_at(rules: &Rules, target: &dyn Target, place: &Position) -> Result<()> {
        let own = OwnTables::create(rules, target).await?;
        let mut applier = target.applier(&rules.task, rules.format, 1).await?;
        applier.begin().await?;
        own.keep_place(applier.as_mut(), rules, place).await?;
        applier.commit().await
    }

    /// Tables that came into being in the log since the last call.
    pub fn take_created(&mut self) -> Vec<TableName> {
        std::mem::take(&mut self.created)
    }

    /// These tables came into being, and the log lacks rows of them: they have to be loaded. What it did tell of them is
    /// in the load, whether the target had the rows for it or not.
    pub fn must_load(&mut self, names: &[TableName], durable: &mut Option<Durable>) {
        for table in self.tables.iter_mut().flatten().filter(|table| names.contains(&table.version.schema.name)) {
            table.tally.unloaded = true;
            table.tally.applied = table.tally.captured;
            self.exceptions.retain(|exception| exception.table != table.plan.target.name);
        }
        let told = durable.iter_mut().flat_map(|durable| &mut durable.tables);
        for at in told.filter(|at| names.contains(&at.name)) {
            at.standing = Standing::Unloaded;
            at.applied = at.captured;
        }
    }

    /// In the middle of a transaction of the source.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// When what waits is due, though nothing more should come. In the middle of a transaction of the source nothing is.
    pub fn due(&self) -> Option<Instant> {
        let since = self.since.filter(|_| !self.partial)?;
        let tuning = &self.rules.settings.change_processing;
        match self.is_batch() {
            true => {
                // A batch goes as soon as it may, and the most time is the last word on that.
                let pause = tuning.batch_timeout_min_s.min(tuning.batch_timeout_max_s);
                let soonest = self.batch_began + Duration::from_secs(pause);
                Some(match self.pause {
                    Pause::AtFirst | Pause::Owed => soonest.max(since),
                    Pause::None => soonest.min(self.last_taken + BACKLOG_END),
                })
            }
            false => Some(since + Duration::from_secs(tuning.commit_timeout_s)),
        }
    }

    fn is_batch(&self) -> bool {
        self.rules.settings.target_metadata.batch_apply_enabled
    }

    fn is_tolerant(&self) -> bool {
        self.tolerant_until.is_some()
    }

    /// Takes a piece of the log. `idle` tells that nothing more is there at the moment. Gives the place up to which all
    /// is durable on the target, where that has moved.
    pub async fn take(&mut self, piece: Changes, idle: bool) -> Result<(Option<Durable>, Option<Halt>)> {
        let at = self.pieces.len() as u32;
        let entries = piece.entries.len();
        if entries > 0 {
            self.last_taken = Instant::now();
        }
        let resume = piece.resume.clone();
        self.pieces.push(piece);
        self.images = None;
        let mut durable = None;
        for index in 0..entries {
            let entry = self.pieces[at as usize].entries[index].clone();
            match entry {
                Entry::Begin { position } => self.reach(&position),
                Entry::Table { table, version } => self.meet(table as usize, &version).await?,
                Entry::Row { table, op, old, new } => {
                    self.partial = true;
                    let image = |row: Option<u32>| row.map(|row| Image { piece: at, row });
                    self.change(table as usize, NetChange { op, old: image(old), new: image(new) }).await?;
                }
                Entry::Truncate { table } => {
                    self.partial = true;
                    self.truncate(table as usize).await?;
                }
                Entry::Unreadable { table, reason } => self.give_up(table, reason)?,
                Entry::Ddl { table, ddl } => {
                    let alone = !std::mem::replace(&mut self.partial, true);
                    self.ddl(table as usize, &ddl, alone).await?;
                    durable = merge(durable, self.before.take());
                }
                Entry::Commit { position, time, .. } => {
                    if self.stop_after.is_some_and(|stop| time > stop) {
                        let halt = self.undo().await?;
                        return Ok((durable, Some(halt)));
                    }
                    self.end_transaction(position, time);
                    let end = self.stop_at.as_ref().is_some_and(|stop| self.complete.as_ref() >= Some(stop));
                    if end || self.defined || self.is_enough(idle) {
                        durable = merge(durable, self.commit().await?);
                    }
                    if end {
                        return Ok((durable, Some(Halt::End)));
                    }
                }
            }
        }
        let is_over = self.held() > self.held_max();
        let is_backlog = idle && self.pause != Pause::Owed && self.held() >= BATCH_BYTES_MIN;
        self.is_full |= self.is_batch() && (is_over || is_backlog);
        if !self.partial {
            if self.is_due(idle) {
                durable = merge(durable, self.commit().await?);
            }
            // The log may hold nothing for us further on.
            if self.complete.is_some() {
                self.passed = resume.or(self.passed.take());
            } else if self.stage == Stage::None {
                durable = self.beyond(durable, resume);
            }
        }
        if self.order.is_empty() {
            self.pieces.clear();
        } else if is_over {
            self.flush().await?;
            self.pieces.clear();
        }
        Ok((durable, None))
    }

    /// The memory that what waits takes, about.
    fn held(&self) -> usize {
        self.pieces.iter().map(Changes::bytes).sum::<usize>() + self.order.len() * WAITING_BYTES
    }

    fn held_max(&self) -> usize {
        if !self.is_batch() {
            return HELD_BYTES_MAX;
        }
        let limit_mb = self.rules.settings.change_processing.batch_memory_limit_mb;
        usize::try_from(limit_mb.saturating_mul(1 << 20)).unwrap_or(usize::MAX).min(BATCH_BYTES_MAX)
    }

    /// Makes what waits durable when it is due; must be called at [`Apply::due`].
    pub async fn at_due(&mut self) -> Result<Option<Durable>> {
        let durable = self.commit().await?;
        self.pieces.clear();
        Ok(durable)
    }

    /// Makes durable what is complete, and undoes the rest.
    pub async fn finish(&mut self) -> Result<Option<Durable>> {
        match self.partial {
            true => {
                self.roll_back().await?;
                Ok(None)
            }
            false => self.commit().await,
        }
    }

    /// Takes back what is not durable, of a transaction that is not to be applied.
    async fn undo(&mut self) -> Result<Halt> {
        self.order.clear();
        self.tables.iter_mut().flatten().for_each(|table| table.waiting.clear());
        let halt = match self.complete.take() {
            Some(end) => Halt::EndAt(end),
            None => Halt::End,
        };
        self.roll_back().await?;
        Ok(halt)
    }

    async fn roll_back(&mut self) -> Result<()> {
        if self.stage != Stage::None {
            self.applier.rollback().await?;
            self.stage = Stage::None;
        }
        self.defined = false;
        Ok(())
    }

    fn end_transaction(&mut self, position: Position, time: i64) {
        self.partial = false;
        self.echo = false;
        self.applied_until.take_if(|until| position >= *until);
        self.complete = Some(position);
        self.complete_time = Some(time);
        self.passed = None;
    }

    /// Whether what waits makes a transaction of the target by its size. `MinTransactionSize` is the least: where more is
    /// there already, larger sets go faster.
    fn is_enough(&self, idle: bool) -> bool {
        let tuning = &self.rules.settings.change_processing;
        if self.is_batch() {
            return self.is_full || (tuning.batch_split_size > 0 && self.changes >= tuning.batch_split_size);
        }
        let enough = if idle { 1 } else { TRANSACTION_FACTOR } * tuning.min_transaction_size;
        self.changes >= enough || self.due().is_some_and(|due| due <= Instant::now())
    }

    fn is_due(&self, idle: bool) -> bool {
        let nothing_waits = self.changes == 0;
        nothing_waits
            || (idle && !self.is_batch())
            || self.is_full
            || self.due().is_some_and(|due| due <= Instant::now())
    }

    /// All that ended up to this place is behind us, whether the log told of it or not.
    fn reach(&mut self, position: &Position) {
        for until in [&mut self.tolerant_until, &mut self.applied_until] {
            until.take_if(|until| position >= until);
        }
    }

    /// The place further on in the log where nothing for us is before it.
    fn beyond(&mut self, durable: Option<Durable>, resume: Option<Position>) -> Option<Durable> {
        let Some(position) = resume else { return durable };
        self.reach(&position);
        // With the tables that the log could not tell of.
        let further = self.durable(position);
        merge(durable, Some(further))
    }

    fn is_known(&self, name: &TableName) -> bool {
        self.known.get(name).is_some_and(|known| !known.gone)
    }

    fn slot(&mut self, index: usize) -> &mut Option<Table> {
        if self.tables.len() <= index {
            self.tables.resize_with(index + 1, || None);
        }
        &mut self.tables[index]
    }

    /// A table as the log has it from here on.
    async fn meet(&mut self, index: usize, version: &Arc<TableVersion>) -> Result<()> {
        // Told once more, of a table that may go on here with other columns than there, by policy.
        if self.slot(index).as_ref().is_some_and(|table| table.version == *version) {
            return Ok(());
        }
        // What waits is in the columns of before.
        self.flush().await?;
        let rules = self.rules;
        let name = &version.schema.name;
        if let Some(table) = self.slot(index).as_mut().filter(|table| table.version.schema.name == *name) {
            *table = Table { is_echo: table.is_echo, ..Table::planned(version, rules, table.tally)? };
            return Ok(());
        }
        let loopback = self.own.is_echo(name);
        let tally = self.known.get(name).map(Tally::of).unwrap_or_default();
        let is_new = !loopback && !self.is_known(name);
        let mut table = Table { is_echo: loopback, ..Table::planned(version, self.rules, tally)? };
        if !is_new && !loopback && !self.rules.settings.ddl_handling.handle_source_table_altered {
            // The target's table has stayed behind.
            let columns = self.target.columns(&table.plan.target.name).await?;
            table = Table::new(version, ddl::within(table.plan, &columns), tally);
        }
        *self.slot(index) = Some(table);
        if is_new {
            // It came into being without a statement that the log tells.
            self.created.push(name.clone());
            self.define(index, vec![ddl::Step::Create]).await?;
        }
        Ok(())
    }

    async fn change(&mut self, index: usize, change: NetChange) -> Result<()> {
        let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
        self.echo |= table.is_echo;
        if self.echo {
            return Ok(());
        }
        table.tally.captured.add(change.op, 1);
        table.tally.touched = true;
        // The target has it, or the load that is to come.
        if self.applied_until.is_some() || table.tally.unloaded {
            table.tally.applied.add(change.op, 1);
            return Ok(());
        }
        if table.tally.suspended {
            return Ok(());
        }
        if !self.settle_cut(index, &change).await? {
            return Ok(());
        }
        let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
        let change = match table.plan.before_images.is_empty() {
            true => change,
            false => self.with_before_images(index, change)?,
        };
        let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
        self.changes += 1;
        self.since.get_or_insert_with(Instant::now);
        let moves_key = match (change.old, change.new) {
            (Some(old), Some(new)) => {
                let (old, new) = (row(&self.pieces, old), row(&self.pieces, new));
                table.source_key.iter().any(|column| old.get(*column) != new.get(*column))
            }
            _ => false,
        };
        if change.op == Op::Insert && !table.unique {
            table.waiting.add_insert(change.new.unwrap_or(Image { piece: 0, row: 0 }));
            self.order.push((index, change));
            return Ok(());
        }
        if !table.unique || moves_key {
            // It goes alone, after all before it and before all after it.
            self.flush().await?;
            self.begin().await?;
            self.order.push((index, change));
            return self.one_by_one().await;
        }
        for attempt in 0..2 {
            let Some(Some(table)) = self.tables.get_mut(index) else { return Err(unknown()) };
            let whole = change.new.is_none_or(|new| {
                let new = row(&self.pieces, new);
                table.plan.columns.iter().all(|column| new.get(*column) != Value::Absent)
            });
            match table.waiting.add(change, |image| row(&self.pieces, image), &table.source_key, whole) {
                Ok(()) => break,
                Err(ApplyFirst) if attempt == 0 => self.flush().await?,
                Err(ApplyFirst) => return Err(Error::fatal("a change does not go with none before it")),
            }
        }
        self.order.push((index, change));
        Ok(())
    }

    /// The change with a new row that has what its columns were before, as far as the log tells; a row that is new was
    /// nothing before.
    fn with_before_images(&mut self, index: usize, change: NetChange) -> Result<NetChange> {
        let Some(Some(table)) = self.tables.get(index) else { return Err(unknown()) };
        let Some(new) = change.new else { return Ok(change) };
        let place = *self.images.get_or_insert_with(|| {
            let mut images = Changes::default();
            images.rows.clear(self.rules.format);
            self.pieces.push(images);
            self.pieces.len() - 1
        });
        let mut images = std::mem::take(&mut self.pieces[place]);
        let (old, new) = (change.old.map(|old| row(&self.pieces, old)), row(&self.pieces, new));
        for column in 0..table.version.schema.columns.len() {
            images.rows.push(new.get(column));
        }
        for column in &table.plan.before_images {
            let before = match (change.op, &old) {
                (Op::Insert | Op::Delete, _) => Value::Null,
                (Op::Update, Some(old)) => old.get(*column),
                // Without an old row the key is as it was.
                (Op::Update, None) if table.source_key.contains(column) => new.get(*column),
                (Op::Update, None) => Value::Null,
            };
            images.rows.push(if before == Value::Absent { Value::Null } else { before });
        }
        images.rows.end_row();
        let image = Image { piece: place as u32, row: images.next_row() - 1 };
        self.pieces[place] = images;
        Ok(NetChange { new: Some(image), ..change })
    }

    async fn begin(&mut self) -> Result<()> {
        if self.stage == Stage::None {
            self.applier.begin().await?;
            self.stage = Stage::Begun;
            if self.own.mark(self.applier.as_mut(), self.rules).await? {
                self.stage = Stage::Filled;
            }
        }
        Ok(())
    }

    /// Makes all that is complete durable and gives its place. Must not be called inside a transaction of the source.
    async fn commit(&mut self) -> Result<Option<Durable>> {
        if self.changes > 0 {
            self.batch_began = Instant::now();
            self.pause = if std::mem::take(&mut self.is_full) { Pause::None } else { Pause::Owed };
        }
        self.flush().await?;
        if !self.exceptions.is_empty() {
            // Before the commit: rather told twice than lost.
            let schema = &self.rules.settings.control_tables.control_schema;
            self.target.record_exceptions(schema, &std::mem::take(&mut self.exceptions)).await?;
        }
        if std::mem::take(&mut self.defined) {
            // The statement may have ended its transaction, and its place is not kept yet.
            self.begin().await?;
        }
        if self.stage != Stage::None {
            if let Some(position) = &self.complete {
                self.own.keep_place(self.applier.as_mut(), self.rules, position).await?;
            }
            self.applier.commit().await?;
            self.stage = Stage::None;
        }
        self.changes = 0;
        self.since = None;
        let Some(position) = self.complete.take() else { return Ok(None) };
        let position = self.passed.take().unwrap_or(position);
        self.reach(&position);
        Ok(Some(self.durable(position)))
    }

    fn durable(&mut self, position: Position) -> Durable {
        let at = |table: &mut Table| {
            std::mem::take(&mut table.tally.touched).then(|| AtCheckpoint {
                name: table.plan.source.name.clone(),
                captured: table.tally.captured,
                applied: table.tally.applied,
                standing: match table.tally {
                    Tally { suspended: true, .. } => Standing::Suspended,
                    Tally { unloaded: true, .. } => Standing::Unloaded,
                    _ => Standing::Followed,
                },
                errors: table.tally.errors,
                schema: Some(table.version.schema.clone()),
            })
        };
        let mut tables: Vec<AtCheckpoint> = self.tables.iter_mut().flatten().filter_map(at).collect();
        for (name, errors) in std::mem::take(&mut self.given_up) {
            let Known { captured, applied, .. } = self.known.get(&name).copied().unwrap_or_default();
            let standing = Standing::Suspended;
            tables.push(AtCheckpoint { name, captured, applied, standing, errors, schema: None });
        }
        for name in std::mem::take(&mut self.gone) {
            let Known { captured, applied, .. } = self.known.get(&name).copied().unwrap_or_default();
            // A table that has its name by now is told of already.
            if !tables.iter().any(|at| at.name == name) {
                let (standing, errors) = (Standing::Followed, Errors::default());
                tables.push(AtCheckpoint { name, captured, applied, standing, errors, schema: None });
            }
        }
        Durable { position, time: self.complete_time.take(), tables, rows: std::mem::take(&mut self.rows) }
    }
}

/// The later of two places, with all that happened up to it.
fn merge(earlier: Option<Durable>, later: Option<Durable>) -> Option<Durable> {
    match (earlier, later) {
        (Some(earlier), Some(mut later)) => {
            let mut tables = earlier.tables;
            for table in later.tables {
                match tables.iter_mut().find(|known| known.name == table.name) {
                    Some(known) => *known = table,
                    None => tables.push(table),
                }
            }
            later.tables = tables;
            later.rows += earlier.rows;
            later.time = later.time.or(earlier.time);
            Some(later)
        }
        (earlier, later) => later.or(earlier),
    }
}

fn unknown() -> Error {
    Error::fatal("the log speaks of a table that it did not describe")
}

#[cfg(test)]
mod tests;
