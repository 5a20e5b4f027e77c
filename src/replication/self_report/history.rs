//! What a task did in each slot of time, for `awsdms_history`.

use std::time::{Duration, SystemTime};

/// What a task has done since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Done {
    pub loaded: u64,
    /// Rows that changed on the target.
    pub changed: u64,
    /// Bytes of the changes that were read.
    pub bytes: u64,
}

/// Kinds of work, as the table calls them.
pub const FULL_LOAD: &str = "FULL LOAD";
pub const CHANGE_PROCESSING: &str = "CHANGE PROCESSING";

/// A row of the table.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub kind: &'static str,
    /// The end of the slot.
    pub until: SystemTime,
    pub records: u64,
    pub bytes: u64,
}

/// The slots that are not told in full: the running one, and those before it that the target has not taken yet. What was
/// done since the last look counts in the slot of this one.
#[derive(Debug)]
pub struct History {
    slot_s: u64,
    seen: Done,
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    done: Done,
    /// What is or was running in it, though it has done nothing so far.
    kinds: [bool; 2],
}

impl History {
    pub fn new(slot_minutes: u64, seen: Done) -> History {
        History { slot_s: slot_minutes.clamp(1, u64::from(u32::MAX)) * 60, seen, slots: Vec::new() }
    }

    /// Takes a look, while work of this kind is running.
    pub fn look(&mut self, now: SystemTime, done: Done, running: Option<&str>) {
        let since_1970 = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let number = since_1970.as_secs() / self.slot_s;
        if self.slots.last().is_none_or(|slot| slot.number != number) {
            self.slots.push(Slot { number, done: Done::default(), kinds: [false; 2] });
        }
        if let Some(slot) = self.slots.last_mut() {
            // A table that is loaded again begins with no rows.
            slot.done.loaded += done.loaded.saturating_sub(self.seen.loaded);
            slot.done.changed += done.changed.saturating_sub(self.seen.changed);
            slot.done.bytes += done.bytes.saturating_sub(self.seen.bytes);
            for (is_there, kind) in slot.kinds.iter_mut().zip([FULL_LOAD, CHANGE_PROCESSING]) {
                *is_there |= running == Some(kind);
            }
            slot.kinds[0] |= slot.done.loaded > 0;
            slot.kinds[1] |= slot.done.changed > 0;
        }
        self.seen = done;
    }

    pub fn records(&self) -> Vec<Record> {
        let of_slot = |slot: &Slot| {
            let until = SystemTime::UNIX_EPOCH + Duration::from_secs((slot.number + 1) * self.slot_s);
            let Done { loaded, changed, bytes } = slot.done;
            let records = [(FULL_LOAD, loaded, 0), (CHANGE_PROCESSING, changed, bytes)];
            let there = records.into_iter().zip(slot.kinds).filter(|(_, is_there)| *is_there);
            there.map(|((kind, records, bytes), _)| Record { kind, until, records, bytes }).collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(of_slot).collect()
    }

    /// The target has all of them.
    pub fn told(&mut self) {
        self.slots.drain(..self.slots.len().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn done(loaded: u64, changed: u64) -> Done {
        Done { loaded, changed, bytes: 10 * changed }
    }

    fn record(kind: &'static str, until: u64, records: u64) -> Record {
        Record { kind, until: at(until), records, bytes: if kind == FULL_LOAD { 0 } else { 10 * records } }
    }

    #[test]
    fn all_that_was_done_is_in_some_slot() {
        let mut history = History::new(1, done(5, 0));
        history.look(at(0), done(5, 0), Some(FULL_LOAD));
        assert_eq!(history.records(), [record(FULL_LOAD, 60, 0)]);
        history.look(at(59), done(12, 3), Some(CHANGE_PROCESSING));
        assert_eq!(history.records(), [record(FULL_LOAD, 60, 7), record(CHANGE_PROCESSING, 60, 3)]);
        // Not taken by the target: told again, with the next slot.
        history.look(at(61), done(12, 4), Some(CHANGE_PROCESSING));
        let both = [record(FULL_LOAD, 60, 7), record(CHANGE_PROCESSING, 60, 3), record(CHANGE_PROCESSING, 120, 1)];
        assert_eq!(history.records(), both);
        history.told();
        assert_eq!(history.records(), both[2..]);
        // At the end nothing is running.
        history.look(at(125), done(12, 6), None);
        history.told();
        assert_eq!(history.records(), [record(CHANGE_PROCESSING, 180, 2)]);
    }

    #[test]
    fn a_load_between_two_looks_is_told_and_one_that_begins_anew_counts_once_more() {
        let mut history = History::new(5, done(0, 0));
        history.look(at(1), done(0, 0), Some(CHANGE_PROCESSING));
        history.look(at(2), done(100, 0), Some(CHANGE_PROCESSING));
        assert_eq!(history.records(), [record(FULL_LOAD, 300, 100), record(CHANGE_PROCESSING, 300, 0)]);
        history.look(at(3), done(40, 0), Some(FULL_LOAD));
        history.look(at(4), done(100, 0), Some(FULL_LOAD));
        assert_eq!(history.records()[0].records, 160);
        // A task that has ended without having done anything tells nothing.
        let mut history = History::new(0, done(7, 0));
        history.look(at(1), done(7, 0), None);
        assert_eq!(history.records(), []);
    }
}
