//! What can be seen of a task that follows a log: how far behind it is and what waits where. The names are those of the
//! CloudWatch metrics.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Monitoring.html#CHAP_Monitoring.Metrics.Task>

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::spool::Usage;

/// A reading.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Age of the newest change that was read, in seconds; 0 when nothing new is there to be read.
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

#[derive(Debug, Default)]
struct State {
    rows_source: u64,
    rows_target: u64,
    bytes_source: u64,
    /// Commit times on the source, in microseconds since 1970.
    newest_read: i64,
    newest_applied: i64,
    /// The commit of the oldest transaction that was read and waits for the target.
    oldest_waiting: Option<i64>,
    /// The source has nothing more to read.
    caught_up: bool,
    waiting: Usage,
}

impl Metrics {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows were read up to a transaction that committed then, if one is complete. To be told before they are applied.
    pub fn read(&self, rows: u64, bytes: u64, time: Option<i64>) {
        let mut state = self.state();
        state.rows_source += rows;
        state.bytes_source += bytes;
        state.caught_up &= rows == 0;
        if let Some(time) = time {
            state.newest_read = time;
            state.oldest_waiting.get_or_insert(time);
        }
    }

    pub fn waiting(&self, waiting: Usage) {
        self.state().waiting = waiting;
    }

    pub fn caught_up(&self) {
        self.state().caught_up = true;
    }

    /// Rows became durable on the target, up to a transaction that committed on the source then.
    pub fn applied(&self, rows: u64, time: Option<i64>, waiting: Usage) {
        let mut state = self.state();
        state.rows_target += rows;
        state.waiting = waiting;
        if let Some(time) = time {
            state.newest_applied = time;
            state.oldest_waiting = (time < state.newest_read).then_some(time);
        }
    }

    pub fn reading(&self) -> Reading {
        let state = self.state();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as i64;
        let age = |time: i64| (now - time).max(0) as f64 / 1e6;
        let latency_source_s = match state.caught_up || state.newest_read == 0 {
            true => 0.0,
            false => age(state.newest_read),
        };
        Reading {
            latency_source_s,
            latency_target_s: state.oldest_waiting.map_or(0.0, age).max(latency_source_s),
            rows_source: state.rows_source,
            rows_target: state.rows_target,
            bytes_source: state.bytes_source,
            waiting: state.waiting,
            newest_read: system_time(state.newest_read),
            newest_applied: system_time(state.newest_applied),
        }
    }
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

    #[test]
    fn latency_is_the_age_of_what_waits() {
        let metrics = Metrics::default();
        assert_eq!(metrics.reading(), Reading::default());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as i64;
        metrics.read(5, 50, Some(now - 4_000_000));
        metrics.read(3, 30, Some(now - 2_000_000));
        let reading = metrics.reading();
        assert!((2.0..3.9).contains(&reading.latency_source_s), "{reading:?}");
        assert!((4.0..5.9).contains(&reading.latency_target_s), "{reading:?}");
        metrics.caught_up();
        metrics.applied(8, Some(now - 2_000_000), Usage::default());
        let reading = metrics.reading();
        assert_eq!((reading.latency_source_s, reading.latency_target_s), (0.0, 0.0));
        assert_eq!((reading.rows_source, reading.rows_target), (8, 8));
    }
}
