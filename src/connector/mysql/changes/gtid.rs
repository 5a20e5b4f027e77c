//! Sets of global transaction numbers, of MySQL and of MariaDB.
//! <https://dev.mysql.com/doc/refman/8.4/en/replication-gtids-concepts.html>, <https://mariadb.com/kb/en/gtid/>

use std::collections::BTreeMap;

use super::cursor::Cursor;
use super::event::{Gtid, parse_gtid_list};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GtidSet {
    /// By `uuid` or `uuid:tag`: from one number up to another, both in it.
    MySql(BTreeMap<String, Vec<(u64, u64)>>),
    /// By domain: all up to a number.
    MariaDb(BTreeMap<u32, u64>),
}

impl GtidSet {
    /// `uuid:1-5:7,uuid:tag:9`, or `0-1-100,1-1-7`.
    pub(super) fn parse(text: &str) -> Option<GtidSet> {
        if !text.contains(':') {
            let mut last = BTreeMap::new();
            for gtid in text.split(',') {
                let mut parts = gtid.trim().splitn(3, '-');
                let (domain, _server, number) = (parts.next()?, parts.next()?, parts.next()?);
                let (domain, number): (u32, u64) = (domain.parse().ok()?, number.parse().ok()?);
                let known: &mut u64 = last.entry(domain).or_default();
                *known = number.max(*known);
            }
            return Some(GtidSet::MariaDb(last));
        }
        let mut sources: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for source in text.split(',') {
            let mut parts = source.trim().split(':').map(str::trim);
            let uuid = uuid::Uuid::parse_str(parts.next()?).ok()?.to_string();
            let mut name = uuid.clone();
            for part in parts {
                if part.starts_with(|c: char| c.is_ascii_digit()) {
                    let (from, to) = part.split_once('-').unwrap_or((part, part));
                    sources.entry(name.clone()).or_default().push((from.parse().ok()?, to.parse().ok()?));
                } else {
                    name = format!("{uuid}:{}", part.to_ascii_lowercase());
                }
            }
        }
        sources.values_mut().for_each(merge);
        Some(GtidSet::MySql(sources))
    }

    /// What the log files of MySQL before one hold.
    pub(super) fn of_previous(body: &[u8]) -> Option<GtidSet> {
        const TAGGED: u64 = 1;
        let mut cursor = Cursor(body);
        let head = cursor.u64()?;
        let tagged = head >> 56 == TAGGED;
        let count = if tagged { head << 8 >> 16 } else { head };
        let mut sources: BTreeMap<String, Vec<(u64, u64)>> = BTreeMap::new();
        for _ in 0..count {
            let mut name = uuid::Uuid::from_slice(cursor.take(16)?).ok()?.to_string();
            if tagged {
                let len = cursor.varlen()?;
                let tag = std::str::from_utf8(cursor.take(usize::try_from(len).ok()?)?).ok()?;
                if !tag.is_empty() {
                    name = format!("{name}:{tag}");
                }
            }
            let intervals = sources.entry(name).or_default();
            for _ in 0..cursor.u64()? {
                // The end is the first number that is not in it.
                intervals.push((cursor.u64()?, cursor.u64()?.checked_sub(1)?));
            }
        }
        sources.values_mut().for_each(merge);
        Some(GtidSet::MySql(sources))
    }

    pub(super) fn of_list(body: &[u8]) -> Option<GtidSet> {
        parse_gtid_list(body).map(GtidSet::MariaDb)
    }

    pub(super) fn has(&self, gtid: &Gtid) -> bool {
        match (self, gtid) {
            (GtidSet::MySql(sources), Gtid::MySql { source, number }) => {
                sources.get(source).is_some_and(|intervals| covers(intervals, (*number, *number)))
            }
            (GtidSet::MariaDb(last), Gtid::MariaDb { domain, number, .. }) => {
                last.get(domain).is_some_and(|last| number <= last)
            }
            _ => false,
        }
    }

    pub(super) fn has_all(&self, other: &GtidSet) -> bool {
        match (self, other) {
            (GtidSet::MySql(sources), GtidSet::MySql(others)) => others.iter().all(|(source, intervals)| {
                let own = sources.get(source).map(Vec::as_slice).unwrap_or_default();
                intervals.iter().all(|interval| covers(own, *interval))
            }),
            (GtidSet::MariaDb(last), GtidSet::MariaDb(others)) => {
                others.iter().all(|(domain, number)| last.get(domain).is_some_and(|last| number <= last))
            }
            _ => false,
        }
    }
}

fn covers(intervals: &[(u64, u64)], (from, to): (u64, u64)) -> bool {
    intervals.iter().any(|(start, end)| *start <= from && to <= *end)
}

fn merge(intervals: &mut Vec<(u64, u64)>) {
    intervals.sort_unstable();
    intervals.dedup_by(|next, before| {
        let joins = next.0 <= before.1.saturating_add(1);
        if joins {
            before.1 = before.1.max(next.1);
        }
        joins
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(text: &str) -> GtidSet {
        GtidSet::parse(&text.replace("UUID", UUID)).unwrap()
    }

    #[test]
    fn sets_of_mysql_hold_intervals_by_source_and_tag() {
        let gtid = |source: &str, number| Gtid::MySql { source: source.replace("UUID", UUID), number };
        let all = set("UUID:1-5:11-18:6, UUID:tag:7");
        for (source, number, expected) in
            [("UUID", 1, true), ("UUID", 6, true), ("UUID", 7, false), ("UUID:tag", 7, true), ("UUID:tag", 1, false)]
        {
            assert_eq!(all.has(&gtid(source, number)), expected, "{source}:{number}");
        }
        assert!(all.has_all(&set("UUID:2-6,UUID:12")) && !all.has_all(&set("UUID:6-11")));
        assert!(GtidSet::parse("x:1").is_none() && GtidSet::parse("x").is_none());
    }

    #[test]
    fn sets_of_mariadb_hold_all_up_to_a_number() {
        let all = set("0-1-100,7-3-5");
        let gtid = |domain, number| Gtid::MariaDb { domain, server: 9, number };
        assert!(all.has(&gtid(0, 100)) && !all.has(&gtid(0, 101)) && !all.has(&gtid(1, 1)) && all.has(&gtid(7, 5)));
        assert!(all.has_all(&set("0-2-50")) && !all.has_all(&set("1-1-1")));
        let list = [1, 0, 0, 0x10, 5, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(GtidSet::of_list(&list), Some(set("5-1-9")));
    }

    #[test]
    fn reads_what_the_files_before_hold() {
        let uuid = uuid::Uuid::parse_str(UUID).unwrap();
        let mut plain = 1_u64.to_le_bytes().to_vec();
        plain.extend(uuid.as_bytes());
        for number in [2_u64, 1, 6, 11, 19] {
            plain.extend(number.to_le_bytes());
        }
        assert_eq!(GtidSet::of_previous(&plain), Some(set("UUID:1-5:11-18")));
        let mut tagged = (1_u64 << 56 | 1 << 8 | 1).to_le_bytes().to_vec();
        tagged.extend(uuid.as_bytes());
        tagged.extend(b"\x06tag");
        for number in [1_u64, 7, 8] {
            tagged.extend(number.to_le_bytes());
        }
        assert_eq!(GtidSet::of_previous(&tagged), Some(set("UUID:tag:7")));
    }
}
