//! What was read of the log and waits for the target: in memory as long as it is little, then in a file, and when that
//! has reached its limit, in the source's log.
//!
//! DMS keeps at most 1,000 MiB of swap files per task and pauses reading beyond; reading goes on once the files are worked
//! off.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ChangeProcessingTuning.html>

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::data::{Changes, Entry, Error, Result};

/// Most that waits in memory, whatever `MemoryLimitTotal` says.
pub const MEMORY_BYTES_MAX: usize = 32 << 20;

/// Most that waits in the file.
pub const FILE_BYTES_MAX: u64 = 1000 << 20;

/// Why reading stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The file has reached its limit.
    Limit,
    /// The disk takes no more.
    Disk(String),
}

/// How much waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub memory_rows: u64,
    pub memory_bytes: u64,
    pub disk_rows: u64,
    pub disk_bytes: u64,
}

/// Pieces of a log in their order. One side pushes, the other pops.
pub struct Spool {
    limits: Limits,
    path: PathBuf,
    state: Mutex<State>,
    /// Something was pushed.
    filled: Notify,
    /// Something was popped.
    emptied: Notify,
}

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub memory_bytes: usize,
    pub file_bytes: u64,
}

#[derive(Default)]
struct State {
    /// With the time at which they came.
    memory: VecDeque<(Instant, Changes)>,
    /// Nothing of the file goes before what is in memory, and nothing is pushed to memory while there is any.
    disk: VecDeque<OnDisk>,
    file: Option<Arc<File>>,
    /// Where the next piece goes.
    end: u64,
    /// What was in memory for too long. Its pieces go before those of the other file, and come in the opposite order.
    aside: Option<Arc<File>>,
    aside_end: u64,
    /// A piece is on its way into the file.
    writing: bool,
    usage: Usage,
    pause: Option<Pause>,
}

impl State {
    /// Where in the file there is room for so many bytes. It is used in a ring, so that it stays below the limit though
    /// it may never be empty.
    fn place(&self, bytes: u64, limit: u64) -> Option<u64> {
        match self.disk.iter().find(|piece| !piece.is_aside) {
            None => Some(0),
            Some(first) if self.end <= first.start => (self.end + bytes <= first.start).then_some(self.end),
            Some(_) if self.end + bytes <= limit => Some(self.end),
            Some(first) => (bytes <= first.start).then_some(0),
        }
    }
}

/// A piece in the file.
#[derive(Clone, Copy)]
struct OnDisk {
    start: u64,
    bytes: u64,
    rows: u64,
    is_aside: bool,
}

enum Room {
    Memory,
    Disk(Arc<File>, u64),
    None,
}

impl Spool {
    /// The file of this path comes into being when it is needed, and is gone when the spool is, however that ends.
    pub fn new(path: &Path, limits: Limits) -> Arc<Spool> {
        Arc::new(Spool {
            limits,
            path: path.to_owned(),
            state: Mutex::default(),
            filled: Notify::new(),
            emptied: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn usage(&self) -> Usage {
        self.state().usage
    }

    /// Why nothing is read at the moment.
    pub fn pause(&self) -> Option<Pause> {
        self.state().pause.clone()
    }

    pub fn is_empty(&self) -> bool {
        let state = self.state();
        state.memory.is_empty() && state.disk.is_empty()
    }

    /// Takes a piece; waits while there is no room for it. A call that is given up may have lost the piece.
    pub async fn push(&self, piece: Changes) -> Result<()> {
        let rows = rows(&piece);
        let mut bytes = Vec::new();
        loop {
            let room = self.room(&piece, &mut bytes);
            match room {
                Ok(Room::Memory) => {
                    let mut state = self.state();
                    state.usage.memory_rows += rows;
                    state.usage.memory_bytes += piece.bytes() as u64;
                    state.memory.push_back((Instant::now(), piece));
                    state.pause = None;
                    break;
                }
                Ok(Room::Disk(file, start)) => {
                    let len = bytes.len() as u64;
                    let (written, back) = on_disk(move || (file.write_all_at(&bytes, start), bytes)).await?;
                    bytes = back;
                    self.state().writing = false;
                    if let Err(error) = written {
                        self.wait(Pause::Disk(error.to_string())).await;
                        continue;
                    }
                    let mut state = self.state();
                    state.disk.push_back(OnDisk { start, bytes: len, rows, is_aside: false });
                    state.end = start + len;
                    state.usage.disk_rows += rows;
                    state.usage.disk_bytes += len;
                    state.pause = None;
                    break;
                }
                Ok(Room::None) => self.wait(Pause::Limit).await,
                Err(error) => self.wait(Pause::Disk(error.to_string())).await,
            }
        }
        self.filled.notify_one();
        Ok(())
    }

    fn room(&self, piece: &Changes, bytes: &mut Vec<u8>) -> io::Result<Room> {
        let mut state = self.state();
        let held = state.usage.memory_bytes as usize;
        // One that is larger than all memory goes in when there is nothing else.
        if state.disk.is_empty() && (held + piece.bytes() <= self.limits.memory_bytes || held == 0) {
            return Ok(Room::Memory);
        }
        // What was paused goes on when all is worked off.
        if state.pause == Some(Pause::Limit) && !state.disk.is_empty() {
            return Ok(Room::None);
        }
        if bytes.is_empty() {
            piece.write_to(bytes);
        }
        let limit = self.limits.file_bytes.saturating_sub(state.aside_end);
        let Some(start) = state.place(bytes.len() as u64, limit) else { return Ok(Room::None) };
        let file = match &state.file {
            Some(file) => file.clone(),
            None => {
                let file = Arc::new(open(&self.path)?);
                state.file = Some(file.clone());
                file
            }
        };
        state.writing = true;
        Ok(Room::Disk(file, start))
    }

    /// Puts what is in memory into a file when the oldest of it has been there for so long (`MemoryKeepTime`): what came
    /// after it has to go along. Must not be called beside [`Spool::push`], though that may wait. A disk that takes
    /// nothing leaves it where it is.
    pub async fn put_aside(&self, kept: Duration) -> Result<()> {
        let mut bytes = Vec::new();
        // The last first, so that at any moment all in memory goes before all on disk.
        while let Some((file, place)) = self.put_aside_at(kept, &mut bytes) {
            let (written, back) = on_disk(move || (file.write_all_at(&bytes, place.start), bytes)).await?;
            bytes = back;
            let mut state = self.state();
            state.writing = false;
            // Meanwhile the target may have taken it, as the last that was there.
            let (Ok(()), Some((_, piece))) = (written, state.memory.pop_back()) else { return Ok(()) };
            state.usage.memory_rows -= place.rows;
            state.usage.memory_bytes -= piece.bytes() as u64;
            state.disk.push_front(place);
            state.aside_end = place.start + place.bytes;
            state.usage.disk_rows += place.rows;
            state.usage.disk_bytes += place.bytes;
        }
        Ok(())
    }

    /// Where the last piece in memory goes, if it is to go.
    fn put_aside_at(&self, kept: Duration, bytes: &mut Vec<u8>) -> Option<(Arc<File>, OnDisk)> {
        let mut state = self.state();
        let (since, _) = state.memory.front()?;
        if since.elapsed() < kept || state.writing {
            return None;
        }
        let file = match &state.aside {
            Some(file) => file.clone(),
            None => {
                let file = Arc::new(open(&self.path).ok()?);
                state.aside = Some(file.clone());
                file
            }
        };
        let (_, piece) = state.memory.back()?;
        bytes.clear();
        piece.write_to(bytes);
        let place = OnDisk { start: state.aside_end, bytes: bytes.len() as u64, rows: rows(piece), is_aside: true };
        state.writing = true;
        Some((file, place))
    }

    async fn wait(&self, pause: Pause) {
        let emptied = self.emptied.notified();
        {
            let mut state = self.state();
            // It may have been emptied since there was no room.
            if state.memory.is_empty() && state.disk.is_empty() {
                return;
            }
            state.pause = Some(pause);
        }
        emptied.await;
    }

    /// The next piece; waits until there is one. A call that is given up loses nothing.
    pub async fn pop(&self) -> Result<Changes> {
        loop {
            let filled = self.filled.notified();
            if let Some(piece) = self.try_pop().await? {
                return Ok(piece);
            }
            filled.await;
        }
    }

    async fn try_pop(&self) -> Result<Option<Changes>> {
        let (file, place) = {
            let mut state = self.state();
            if let Some((_, piece)) = state.memory.pop_front() {
                state.usage.memory_rows -= rows(&piece);
                state.usage.memory_bytes -= piece.bytes() as u64;
                drop(state);
                self.emptied.notify_one();
                return Ok(Some(piece));
            }
            let Some(place) = state.disk.front().copied() else { return Ok(None) };
            let file = if place.is_aside { state.aside.clone() } else { state.file.clone() };
            let Some(file) = file else { return Ok(None) };
            (file, place)
        };
        let piece = on_disk(move || {
            let mut bytes = vec![0; place.bytes as usize];
            file.read_exact_at(&mut bytes, place.start)?;
            Changes::read_from(&bytes).ok_or_else(|| io::Error::other("not what was written"))
        });
        let piece = piece.await?.map_err(|error| Error::recoverable(format!("read the spool file: {error}")))?;
        let mut state = self.state();
        state.disk.pop_front();
        state.usage.disk_rows -= place.rows;
        state.usage.disk_bytes -= place.bytes;
        if state.disk.is_empty() && !state.writing {
            // Closing gives the disk its room back.
            state.file = None;
            state.aside = None;
            state.aside_end = 0;
        }
        drop(state);
        self.emptied.notify_one();
        Ok(Some(piece))
    }
}

fn rows(piece: &Changes) -> u64 {
    piece.entries.iter().filter(|entry| matches!(entry, Entry::Row { .. })).count() as u64
}

/// A file that has no name any more.
fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Rows of the user are in it.
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
    std::fs::remove_file(path)?;
    Ok(file)
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::recoverable("the spool file was given up"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Format, Op, Position, Value};

    const ROW: usize = 1000;

    fn piece(number: u64) -> Changes {
        let mut piece = Changes::default();
        piece.clear(Format::Values);
        piece.rows.push(Value::Bytes(&[number as u8; ROW]));
        piece.rows.end_row();
        piece.entries.push(Entry::Row { table: 0, op: Op::Insert, old: None, new: Some(0) });
        piece.resume = Some(Position::Lsn(number));
        piece
    }

    fn number(piece: &Changes) -> u64 {
        let Some(Position::Lsn(number)) = piece.resume else { panic!() };
        assert_eq!(piece.rows.row(0).get(0), Value::Bytes(&[number as u8; ROW]));
        number
    }

    fn spool(folder: &Path, memory_bytes: usize, file_bytes: u64) -> Arc<Spool> {
        Spool::new(&folder.join("spool/task.swap"), Limits { memory_bytes, file_bytes })
    }

    #[tokio::test]
    async fn keeps_the_order_through_memory_and_disk() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), 3000, 1 << 20);
        let (mut pushed, mut popped) = (0, 0);
        for (push, pop) in [(2, 1), (5, 3), (1, 4), (8, 2), (4, 10)] {
            for _ in 0..push {
                spool.push(piece(pushed)).await.unwrap();
                pushed += 1;
            }
            if push == 5 {
                spool.put_aside(Duration::ZERO).await.unwrap();
                assert_eq!(spool.usage().memory_rows, 0);
            }
            for _ in 0..pop {
                assert_eq!(number(&spool.pop().await.unwrap()), popped);
                popped += 1;
            }
            let usage = spool.usage();
            assert_eq!(usage.memory_rows + usage.disk_rows, pushed - popped);
            assert!(usage.memory_bytes <= 3000);
        }
        assert!(spool.is_empty());
        assert_eq!(spool.usage(), Usage::default());
    }

    #[tokio::test]
    async fn what_was_in_memory_for_too_long_goes_to_disk_and_comes_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), 5000, 1 << 20);
        let mut popped = 0;
        for round in 0..3 {
            for number in 0..4 {
                spool.push(piece(round * 10 + number)).await.unwrap();
            }
            spool.put_aside(Duration::from_secs(3600)).await.unwrap();
            assert_eq!((spool.usage().memory_rows, spool.usage().disk_rows), (4, 0));
            assert_eq!(number(&spool.pop().await.unwrap()), round * 10);
            spool.put_aside(Duration::ZERO).await.unwrap();
            let usage = spool.usage();
            assert_eq!((usage.memory_rows, usage.memory_bytes, usage.disk_rows), (0, 0, 3));
            assert!(std::fs::read_dir(folder.path().join("spool")).unwrap().next().is_none(), "the file has a name");
            // What comes now goes behind it.
            for number in 4..10 {
                spool.push(piece(round * 10 + number)).await.unwrap();
            }
            assert_eq!((spool.usage().memory_rows, spool.usage().disk_rows), (0, 9));
            for expected in 1..10 {
                assert_eq!(number(&spool.pop().await.unwrap()), round * 10 + expected);
            }
            popped += 10;
            assert_eq!((spool.usage(), spool.state().aside.is_none()), (Usage::default(), true), "{popped}");
        }
    }

    #[tokio::test]
    async fn what_is_taken_while_it_is_put_aside_comes_once() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), 1 << 20, 1 << 20);
        for round in 0..50 {
            for number in 0..4 {
                spool.push(piece(round * 4 + number)).await.unwrap();
            }
            let taking = async {
                for expected in 0..4 {
                    assert_eq!(number(&spool.pop().await.unwrap()), round * 4 + expected);
                    tokio::task::yield_now().await;
                }
            };
            let (put_aside, ()) = tokio::join!(spool.put_aside(Duration::ZERO), taking);
            put_aside.unwrap();
            assert_eq!((spool.is_empty(), spool.usage()), (true, Usage::default()), "round {round}");
        }
    }

    #[tokio::test]
    async fn stands_still_at_the_limit_until_the_file_is_worked_off() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), 2000, 4000);
        let filling = tokio::spawn({
            let spool = spool.clone();
            async move {
                for number in 0..10 {
                    spool.push(piece(number)).await.unwrap();
                }
            }
        });
        while spool.pause().is_none() {
            tokio::task::yield_now().await;
        }
        assert_eq!(spool.pause(), Some(Pause::Limit));
        let full = spool.usage();
        assert!(full.disk_rows >= 2 && full.disk_bytes <= 4000, "{full:?}");
        assert!(std::fs::read_dir(folder.path().join("spool")).unwrap().next().is_none(), "the file has a name");
        for expected in 0..10 {
            assert_eq!(number(&spool.pop().await.unwrap()), expected);
        }
        filling.await.unwrap();
        assert!(spool.pause().is_none() && spool.is_empty());
    }

    #[tokio::test]
    async fn a_file_that_is_never_empty_does_not_grow_beyond_its_limit() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), 1100, 8000);
        for number in 0..4 {
            spool.push(piece(number)).await.unwrap();
        }
        for pushed in 4..300 {
            assert_eq!(number(&spool.pop().await.unwrap()), pushed - 4);
            spool.push(piece(pushed)).await.unwrap();
            let size = spool.state().file.as_ref().unwrap().metadata().unwrap().len();
            assert!(size <= 8000, "{size}");
        }
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_makes_reading_wait() {
        let folder = tempfile::tempdir().unwrap();
        // A file stands where the folder should be.
        std::fs::write(folder.path().join("spool"), "").unwrap();
        let spool = spool(folder.path(), 1100, 1 << 20);
        let filling = tokio::spawn({
            let spool = spool.clone();
            async move {
                for number in 0..3 {
                    spool.push(piece(number)).await.unwrap();
                }
            }
        });
        while !matches!(spool.pause(), Some(Pause::Disk(_))) {
            tokio::task::yield_now().await;
        }
        spool.put_aside(Duration::ZERO).await.unwrap();
        for expected in 0..3 {
            assert_eq!(number(&spool.pop().await.unwrap()), expected);
        }
        filling.await.unwrap();
        assert!(spool.pause().is_none());
    }

    #[tokio::test]
    async fn a_pop_that_is_given_up_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let spool = spool(folder.path(), 1100, 1 << 20);
        for number in 0..3 {
            spool.push(piece(number)).await.unwrap();
        }
        assert_eq!(number(&spool.pop().await.unwrap()), 0);
        // Unless the disk was quicker than we are.
        if futures_util::poll!(Box::pin(spool.pop())).is_pending() {
            assert_eq!(number(&spool.pop().await.unwrap()), 1);
        }
        assert_eq!(number(&spool.pop().await.unwrap()), 2);
    }
}
