//! What can be seen of a task that follows a log: how far behind it is and what waits where. The names are those of the
//! CloudWatch metrics.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Monitoring.html#CHAP_Monitoring.Metrics.Task>

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::apply::Durable;
use super::spool::Usage;
use crate::data::Position;

/// A reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// How long after its commit the newest transaction was read, in seconds; its age while reading stands still, and 0
    /// when nothing new is there to be read.
    pub latency_source_s: f64,
    /// Age of the oldest change that is not on the target, in seconds; never less than that of the source.
    pub latency_target_s: f64,
    /// Rows that changed on the source and were read, and those that changed on the target, since the task was started.
    pub rows_source: u64,
    pub rows_target: u64,
    /// Bytes of the rows that were read, as they are held here.
    pub bytes_source: u64,
    /// Read and not yet on the target.
    pub waiting: Usage,
    /// When the source committed the newest transaction that was read, and the newest that is on the target.
    pub newest_read: Option<SystemTime>,
    pub newest_applied: Option<SystemTime>,
}

#[derive(Debug, Default)]
pub struct Metrics(Mutex<State>);

/// Times are in microseconds since 1970.
#[derive(Debug, Default)]
struct State {
    rows_source: u64,
    rows_target: u64,
    bytes_source: u64,
    /// When the source committed the newest transaction that was read, where that ends in its log, and how old it was.
    newest_read: i64,
    newest_read_at: Option<Position>,
    lag: i64,
    newest_applied: i64,
    /// The commit of the oldest transaction that was read and waits for the target.
    oldest_waiting: Option<i64>,
    /// Since when the source has been waited for; `None` while what it gave waits for room.
    asked: Option<i64>,
    waiting: Usage,
}

/// A source that has given nothing for so long has nothing to give.
const IDLE: i64 = SECOND;

const SECOND: i64 = 1_000_000;

impl Metrics {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The source is asked for what comes next.
    pub fn asks(&self) {
        self.state().asked.get_or_insert_with(now);
    }

    /// Rows were read up to a transaction that committed then and ends there, if one is complete. To be told before
    /// they are passed on: what was applied must have been read.
    pub fn read(&self, rows: u64, bytes: u64, commit: Option<(i64, &Position)>) {
        self.state().read(rows, bytes, commit, now());
    }

    pub fn holds(&self, waiting: Usage) {
        self.state().waiting = waiting;
    }

    /// All became durable on the target up to a place.
    pub fn applied(&self, durable: &Durable, waiting: Usage) {
        self.state().applied(durable, waiting, now());
    }

    pub fn reading(&self) -> Reading {
        self.state().reading(now())
    }
}

impl State {
    fn read(&mut self, rows: u64, bytes: u64, commit: Option<(i64, &Position)>, now: i64) {
        self.rows_source += rows;
        self.bytes_source += bytes;
        if rows > 0 || commit.is_some() {
            self.asked = None;
        }
        if let Some((time, position)) = commit {
            let committed = committed(time, now);
            self.newest_read = time;
            self.newest_read_at = Some(position.clone());
            self.lag = now - committed;
            self.oldest_waiting.get_or_insert(committed);
        }
    }

    fn applied(&mut self, durable: &Durable, waiting: Usage, now: i64) {
        self.rows_target += durable.rows;
        self.waiting = waiting;
        if self.newest_read_at.as_ref().is_none_or(|newest| durable.position >= *newest) {
            self.oldest_waiting = None;
        } else if let Some(time) = durable.time {
            // What waits was committed later than that.
            self.oldest_waiting = Some(committed(time, now));
        }
        if let Some(time) = durable.time {
            self.newest_applied = time;
        }
    }

    fn reading(&self, now: i64) -> Reading {
        let lag = match self.asked {
            Some(asked) if now - asked >= IDLE => 0,
            Some(_) => self.lag,
            None if self.newest_read == 0 => 0,
            None => now - committed(self.newest_read, now),
        };
        let latency_source_s = seconds(lag);
        let age = |committed: i64| seconds(now - committed);
        Reading {
            latency_source_s,
            latency_target_s: self.oldest_waiting.map_or(0.0, age).max(latency_source_s),
            rows_source: self.rows_source,
            rows_target: self.rows_target,
            bytes_source: self.bytes_source,
            waiting: self.waiting,
            newest_read: system_time(self.newest_read),
            newest_applied: system_time(self.newest_applied),
        }
    }
}

/// When a transaction has committed that is known now. Some logs tell but the second (MariaDB's): then it is the end of
/// that second, or else all that was just committed would seem to be up to a second old.
fn committed(time: i64, now: i64) -> i64 {
    let latest = if time % SECOND == 0 { time + SECOND - 1 } else { time };
    latest.min(now)
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64
}

fn seconds(micros: i64) -> f64 {
    micros.max(0) as f64 / SECOND as f64
}

/// Of microseconds since 1970; 0 is none.
fn system_time(micros: i64) -> Option<SystemTime> {
    match u64::try_from(micros) {
        Ok(0) | Err(_) => None,
        Ok(micros) => UNIX_EPOCH.checked_add(Duration::from_micros(micros)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000 * SECOND + 500_000;

    fn durable(lsn: u64, time: i64, rows: u64) -> Durable {
        Durable { position: Position::Lsn(lsn), time: Some(time), tables: Vec::new(), rows }
    }

    fn latencies(state: &State, now: i64) -> (f64, f64) {
        let reading = state.reading(now);
        (reading.latency_source_s, reading.latency_target_s)
    }

    #[test]
    fn latency_is_how_late_it_was_read_and_the_age_of_what_waits() {
        let mut state = State::default();
        assert_eq!(state.reading(NOW), Reading::default());
        let (first, second) = (NOW - 4 * SECOND, NOW - 2 * SECOND);
        state.read(5, 50, Some((first, &Position::Lsn(1))), NOW);
        state.read(3, 30, Some((second, &Position::Lsn(2))), NOW);
        state.asked = Some(NOW);
        assert_eq!(latencies(&state, NOW), (2.0, 4.0));
        // The source has no more but a sign of life, and the target stands still.
        state.read(0, 0, None, NOW + 2 * SECOND);
        assert_eq!(latencies(&state, NOW + 3 * SECOND), (0.0, 7.0));
        state.applied(&durable(1, first, 5), Usage::default(), NOW);
        assert_eq!(latencies(&state, NOW + 3 * SECOND), (0.0, 7.0));
        state.applied(&durable(2, second, 3), Usage::default(), NOW);
        assert_eq!(latencies(&state, NOW + 3 * SECOND), (0.0, 0.0));
        let reading = state.reading(NOW);
        assert_eq!((reading.rows_source, reading.rows_target), (8, 8));
    }

    #[test]
    fn the_source_is_late_while_what_it_gave_finds_no_room() {
        let mut state = State::default();
        state.read(5, 50, Some((NOW - SECOND / 10, &Position::Lsn(1))), NOW);
        assert_eq!(latencies(&state, NOW + 9 * SECOND), (9.1, 9.1));
    }

    #[test]
    fn two_transactions_of_one_moment_wait_until_the_second_is_applied() {
        let mut state = State::default();
        let time = NOW - SECOND / 4;
        state.read(1, 10, Some((time, &Position::Lsn(1))), NOW);
        state.read(1, 10, Some((time, &Position::Lsn(2))), NOW);
        state.asked = Some(NOW);
        state.applied(&durable(1, time, 1), Usage::default(), NOW);
        assert_eq!(latencies(&state, NOW + 2 * SECOND), (0.0, 2.25));
    }

    #[test]
    fn a_log_that_tells_but_the_second_makes_nothing_late() {
        let mut state = State::default();
        let whole = NOW / SECOND * SECOND;
        state.read(1, 10, Some((whole, &Position::Lsn(1))), NOW);
        state.asked = Some(NOW);
        assert_eq!(latencies(&state, NOW + SECOND / 10), (0.0, 0.1));
        state.read(1, 10, Some((whole - 7 * SECOND, &Position::Lsn(2))), NOW);
        assert!((6.0..=7.5).contains(&latencies(&state, NOW).0));
    }
}
