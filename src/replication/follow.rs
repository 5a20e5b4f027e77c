//! Following a source's log: one side reads it into the spool, the other applies what is in there and moves the
//! checkpoint.
//!
//! The order of what becomes durable: the target's transaction, then the checkpoint, then the source is told that it may
//! forget.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep_until};

use super::apply::{Apply, Durable, Halt};
use super::checkpoint::StopPoint;
use super::log::task_log;
use super::progress::Counts;
use super::run::{Orders, Run, is_own};
use super::spool::{FILE_BYTES_MAX, Limits, MEMORY_BYTES_MAX, Pause, Spool};
use super::task::{Report, StopReason};
use crate::connector::{Adoption, ChangeReader};
use crate::data::{Changes, Ddl, Entry, Error, Op, Position, Result, TableName};

/// How following the log ended that did not fail.
pub(super) enum Followed {
    Stopped(StopReason),
    /// The log told of new tables, and lacks their rows.
    New(Vec<TableName>),
    Reload(Vec<TableName>),
}

/// Why applying ends before the log does.
enum End {
    Stop(StopReason),
    Restart { stop_at: Position },
    New(Vec<TableName>),
    Reload(Vec<TableName>),
}

impl Run {
    /// Follows the log from the checkpoint. `first`: nothing was applied before.
    pub async fn follow(self: &Arc<Self>, first: bool, orders: &mut Orders) -> Result<Followed> {
        self.following.store(true, Ordering::SeqCst);
        let followed = self.follow_until_end(first, orders).await;
        self.following.store(false, Ordering::SeqCst);
        followed
    }

    async fn follow_until_end(self: &Arc<Self>, first: bool, orders: &mut Orders) -> Result<Followed> {
        let mut stop_at = None;
        loop {
            let reason = match self.follow_once(first, stop_at.take(), orders).await? {
                End::Stop(reason) => return Ok(Followed::Stopped(reason)),
                End::New(names) => return Ok(Followed::New(names)),
                End::Reload(names) => return Ok(Followed::Reload(names)),
                End::Restart { stop_at } => stop_at,
            };
            stop_at = Some(reason);
        }
    }

    async fn follow_once(self: &Arc<Self>, first: bool, stop_at: Option<Position>, orders: &mut Orders) -> Result<End> {
        let from = self.progress.checkpoint().ok_or_else(|| Error::fatal("the task has no checkpoint"))?;
        let settings = &self.rules.settings;
        let (capture, mut start) = self.tables_in_log(&from);
        let cached_until = self.source.log_end().await?;
        let until_cached =
            self.stops_after_load && settings.full_load.stop_task_cached_changes_applied && self.migration.loads();
        start.from = Some(from.clone());
        if first && self.migration.loads() && settings.error_behavior.full_load_ignore_conflicts {
            start.tolerant_until = Some(cached_until.clone()).filter(|until| *until > from);
        }
        start.stop_after = match self.stop {
            Some(StopPoint::CommitTime(time)) if stop_at.is_none() => Some(time),
            _ => None,
        };
        start.stop_at = stop_at;
        self.count_anew();
        self.target.record_exceptions(&settings.control_tables.control_schema, &[]).await?;
        let reader = self.source.changes(&capture, &from, self.progress.durable()).await?;
        task_log!(self.rules.log, SourceCapture, Info, "The log is read from position {from}");
        let mut apply = Apply::start(&self.rules, self.target.as_ref(), start).await?;
        let spool = Spool::new(&self.spool, self.limits());
        let mut reading = Reading::start(self, reader, &spool);
        let end = self.pass_on(&mut apply, &spool, &mut reading, until_cached.then_some(cached_until), orders).await?;
        if let Some(durable) = apply.finish().await? {
            self.advance(durable, &spool);
        }
        reading.end().await;
        let position = self.progress.checkpoint().unwrap_or(from);
        self.progress.advance_and_wait(position).await;
        Ok(end)
    }

    /// The log is read again from the checkpoint.
    fn count_anew(&self) {
        for (index, table) in self.progress.all().iter().enumerate() {
            if table.captured != table.in_log.captured {
                self.progress.update(index, |table| table.captured = table.in_log.captured);
            }
        }
    }

    fn limits(&self) -> Limits {
        let memory_mb = self.rules.settings.change_processing.memory_limit_total_mb;
        let memory_bytes =
            usize::try_from(memory_mb.saturating_mul(1 << 20)).unwrap_or(usize::MAX).min(MEMORY_BYTES_MAX);
        Limits { memory_bytes, file_bytes: FILE_BYTES_MAX }
    }

    /// Applies what is in the spool until something ends it.
    async fn pass_on(
        &self,
        apply: &mut Apply<'_>,
        spool: &Spool,
        reading: &mut Reading,
        until: Option<Position>,
        orders: &mut Orders,
    ) -> Result<End> {
        let server_time = match self.stop {
            Some(StopPoint::ServerTime(time)) => Some(Instant::now() + until_time(time)),
            _ => None,
        };
        let far = Instant::now() + Duration::from_secs(86_400 * 365);
        let mut reloads = Vec::new();
        let mut new = Vec::new();
        loop {
            if !apply.is_partial() {
                if !reloads.is_empty() {
                    return Ok(End::Reload(reloads));
                }
                if !new.is_empty() {
                    return Ok(End::New(new));
                }
            }
            let (mut durable, halt) = tokio::select! {
                biased;
                () = is_set(&mut orders.stopped) => return Ok(End::Stop(StopReason::Normal)),
                () = sleep_until(server_time.unwrap_or(far)) => return Ok(End::Stop(StopReason::AtServerTime)),
                Some(names) = orders.reloads.recv() => {
                    // Whatever comes between now and the load, it is not forgotten.
                    self.mark_for_reload(&names);
                    reloads.extend(names);
                    continue;
                }
                piece = spool.pop() => apply.take(piece?, spool.is_empty()).await?,
                () = sleep_until(apply.due().unwrap_or(far)) => (apply.at_due().await?, None),
                // What was read before the source was lost goes to the target first.
                error = reading.failed(), if spool.is_empty() => return Err(error),
            };
            let created = apply.take_created();
            if !created.is_empty() && self.source.adopt(&self.capture(Vec::new()), &created).await? == Adoption::FromNow
            {
                apply.must_load(&created, &mut durable);
                new.extend(created);
            }
            if let Some(durable) = durable {
                let reached = until.as_ref().is_some_and(|until| durable.position >= *until);
                self.advance(durable, spool);
                if reached {
                    return Ok(End::Stop(StopReason::AfterCachedEvents));
                }
            }
            match halt {
                None => {}
                Some(Halt::End) => return Ok(End::Stop(StopReason::AtCommitTime)),
                Some(Halt::EndAt(stop_at)) => return Ok(End::Restart { stop_at }),
            }
        }
    }

    fn advance(&self, durable: Durable, spool: &Spool) {
        self.metrics.applied(&durable, spool.usage());
        self.progress.advance(durable.position, durable.tables);
    }
}

async fn is_set(flag: &mut watch::Receiver<bool>) {
    let _ = flag.wait_for(|flag| *flag).await.map(drop);
}

fn until_time(micros: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
    Duration::from_micros(micros.saturating_sub(now).max(0) as u64)
}

/// The side that reads. Dropping it ends the session with the source.
struct Reading(JoinHandle<Error>);

impl Reading {
    fn start(run: &Arc<Run>, reader: Box<dyn ChangeReader>, spool: &Arc<Spool>) -> Reading {
        let (run, spool) = (run.clone(), spool.clone());
        Reading(tokio::spawn(async move {
            match read(&run, reader, &spool).await {
                Err(error) => error,
                Ok(never) => match never {},
            }
        }))
    }

    /// Ends it, and returns when it counts nothing any more.
    async fn end(mut self) {
        self.0.abort();
        let _ = (&mut self.0).await;
    }

    /// Why nothing more is read.
    async fn failed(&mut self) -> Error {
        match (&mut self.0).await {
            Ok(error) => error,
            Err(_) => Error::fatal("the reader of the log ended unexpectedly"),
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read(run: &Run, mut reader: Box<dyn ChangeReader>, spool: &Spool) -> Result<std::convert::Infallible> {
    let mut seen = Seen::default();
    let kept = Duration::from_secs(run.rules.settings.change_processing.memory_keep_time_s);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Whoever read before may have ended while it stood still.
    tell_resumed(run).await;
    loop {
        let mut piece = Changes::default();
        run.metrics.asks();
        {
            let next = reader.next(&mut piece);
            tokio::pin!(next);
            loop {
                tokio::select! {
                    read = &mut next => break read?,
                    _ = look.tick() => put_aside(run, spool, kept).await?,
                }
            }
        }
        let (rows, commit) = seen.count(run, &piece);
        run.metrics.read(rows, piece.bytes() as u64, commit);
        let pushing = spool.push(piece);
        tokio::pin!(pushing);
        loop {
            tokio::select! {
                pushed = &mut pushing => break pushed?,
                error = reader.keep_alive() => return Err(error),
                _ = look.tick() => {
                    tell_pause(run, spool).await;
                    put_aside(run, spool, kept).await?;
                }
            }
        }
        tell_resumed(run).await;
        run.metrics.holds(spool.usage());
    }
}

/// How often it is looked whether reading stands still, and what has been in memory for too long.
const LOOK: Duration = Duration::from_secs(1);

async fn put_aside(run: &Run, spool: &Spool, kept: Duration) -> Result<()> {
    spool.put_aside(kept).await?;
    run.metrics.holds(spool.usage());
    Ok(())
}

/// Says once that reading stands still.
async fn tell_pause(run: &Run, spool: &Spool) {
    let Some(pause) = spool.pause() else { return };
    if run.told_pause.load(Ordering::Relaxed) {
        return;
    }
    match &pause {
        Pause::Limit => task_log!(
            run.rules.log,
            Sorter,
            Warning,
            "Reading from source is paused. Total storage used by swap files exceeded the limit {FILE_BYTES_MAX} bytes"
        ),
        Pause::Disk(error) => {
            task_log!(run.rules.log, Sorter, Warning, "Reading from source is paused. The disk takes no more: {error}");
        }
    }
    let _ = run.reports.send(Report::ReadingPaused(pause)).await;
    run.told_pause.store(true, Ordering::Relaxed);
}

async fn tell_resumed(run: &Run) {
    if run.told_pause.load(Ordering::Relaxed) {
        task_log!(run.rules.log, Sorter, Info, "Reading from source is resumed");
        let _ = run.reports.send(Report::ReadingResumed).await;
        run.told_pause.store(false, Ordering::Relaxed);
    }
}

/// Counts what is read, by table, transaction after transaction.
#[derive(Default)]
struct Seen {
    tables: Vec<Option<(TableName, Counts)>>,
    /// Of names that tables have left since it was told last.
    left: Vec<(TableName, Counts)>,
    /// The transaction came from this task's target.
    echo: bool,
}

impl Seen {
    /// Gives the rows of a piece, and when its last complete transaction committed and where that ends.
    fn count<'a>(&mut self, run: &Run, piece: &'a Changes) -> (u64, Option<(i64, &'a Position)>) {
        let (mut rows, mut commit) = (0, None);
        for entry in &piece.entries {
            match entry {
                Entry::Table { table, version } => self.name(*table, &version.schema.name),
                Entry::Ddl { table, ddl } => {
                    if let Ddl::Create(version) | Ddl::Rename(version) = ddl {
                        self.name(*table, &version.schema.name);
                    }
                    self.add(*table, |counts| counts.ddls += 1);
                }
                Entry::Begin { .. } | Entry::Unreadable { .. } => {}
                Entry::Truncate { table } => self.add(*table, |counts| counts.ddls += 1),
                Entry::Row { table, op, .. } => {
                    rows += 1;
                    self.row(*table, *op);
                }
                Entry::Commit { time, position, .. } => {
                    self.echo = false;
                    commit = Some((*time, position));
                }
            }
        }
        if commit.is_some() {
            self.tell(run);
        }
        (rows, commit)
    }

    fn name(&mut self, table: u32, name: &TableName) {
        let place = table as usize;
        if self.tables.len() <= place {
            self.tables.resize_with(place + 1, || None);
        }
        match &mut self.tables[place] {
            Some((known, _)) if known == name => {}
            slot => self.left.extend(slot.replace((name.clone(), Counts::default()))),
        }
    }

    fn row(&mut self, table: u32, op: Op) {
        if let Some(Some((name, counts))) = self.tables.get_mut(table as usize) {
            self.echo |= is_own(name);
            if !self.echo {
                counts.add(op, 1);
            }
        }
    }

    fn add(&mut self, table: u32, add: impl FnOnce(&mut Counts)) {
        if let Some(Some((name, counts))) = self.tables.get_mut(table as usize)
            && !is_own(name)
        {
            add(counts);
        }
    }

    fn tell(&mut self, run: &Run) {
        let now = self.tables.iter_mut().flatten().map(|(name, counts)| (name.clone(), std::mem::take(counts)));
        for (name, counts) in self.left.drain(..).chain(now).filter(|(_, counts)| *counts != Counts::default()) {
            let place = run.progress.place_of(&name);
            run.progress.update(place, |table| table.captured.add_all(counts));
        }
    }
}
