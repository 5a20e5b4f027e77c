//! Which tables are partitions of others, or inherit from them.

use std::collections::{HashMap, HashSet};

use super::super::catalog::Parent;
use crate::data::TableName;

/// More steps than any hierarchy has.
const DEPTH_MAX: usize = 64;

/// As the catalog had it when it was asked, and as statements have changed it since.
#[derive(Default)]
pub struct Families {
    parents: HashMap<TableName, Vec<Parent>>,
    /// Tables that were there when the catalog was asked, or whose making was seen.
    known: HashSet<TableName>,
}

impl Families {
    pub fn new(relations: Vec<(TableName, Option<Parent>)>) -> Families {
        let mut families = Families::default();
        families.add(relations);
        families
    }

    /// Takes up the tables that are not known yet.
    fn add(&mut self, mut relations: Vec<(TableName, Option<Parent>)>) {
        relations.retain(|(table, _)| !self.known.contains(table));
        for (table, parent) in relations {
            if let Some(parent) = parent {
                self.parents.entry(table.clone()).or_default().push(parent);
            }
            self.known.insert(table);
        }
    }

    pub fn knows(&self, table: &TableName) -> bool {
        self.known.contains(table)
    }

    /// Takes up what was asked for because of one table. If that has gone since, it is taken to be nobody's.
    pub fn learn(&mut self, relations: Vec<(TableName, Option<Parent>)>, table: &TableName) {
        self.add(relations);
        self.known.insert(table.clone());
    }

    /// The nearest table of some that this one is a partition of, over any number of steps.
    pub fn whole(&self, part: &TableName, is_meant: impl Fn(&TableName) -> bool) -> Option<TableName> {
        let mut part = part;
        for _ in 0..DEPTH_MAX {
            part = &self.parents.get(part)?.iter().find(|parent| parent.is_partition)?.name;
            if is_meant(part) {
                return Some(part.clone());
            }
        }
        None
    }

    /// All that inherits from a table.
    pub fn descendants(&self, table: &TableName) -> Vec<TableName> {
        let mut found: Vec<TableName> = Vec::new();
        let mut level = vec![table.clone()];
        for _ in 0..DEPTH_MAX {
            let of_level =
                |(_, parents): &(&TableName, &Vec<Parent>)| parents.iter().any(|parent| level.contains(&parent.name));
            let next: Vec<TableName> = self.parents.iter().filter(of_level).map(|(child, _)| child.clone()).collect();
            if next.is_empty() {
                break;
            }
            found.extend(next.iter().filter(|child| !found.contains(child)).cloned().collect::<Vec<_>>());
            level = next;
        }
        found
    }

    /// The partitions of a table that have none themselves.
    pub fn leaves(&self, table: &TableName) -> Vec<TableName> {
        let mut leaves = self.descendants(table);
        let is_parent = |table: &TableName| self.parents.values().flatten().any(|parent| parent.name == *table);
        leaves.retain(|leaf| !is_parent(leaf));
        leaves
    }

    /// The tables that a table is a partition of, over any number of steps.
    pub fn wholes(&self, part: &TableName) -> Vec<TableName> {
        let mut wholes: Vec<TableName> = Vec::new();
        while let Some(whole) = self.whole(wholes.last().unwrap_or(part), |_| true)
            && wholes.len() < DEPTH_MAX
        {
            wholes.push(whole);
        }
        wholes
    }

    /// A table was made, maybe as a partition.
    pub fn take_in(&mut self, table: &TableName, whole: Option<TableName>) {
        if self.known.insert(table.clone()) {
            self.parents.remove(table);
            if let Some(whole) = whole {
                self.attach(table, &whole);
            }
        }
    }

    pub fn attach(&mut self, part: &TableName, whole: &TableName) {
        self.known.insert(part.clone());
        let parents = self.parents.entry(part.clone()).or_default();
        if !parents.iter().any(|parent| parent.name == *whole) {
            parents.push(Parent { name: whole.clone(), is_partition: true });
        }
    }

    /// A table was dropped or taken out of another. Tells whether it was a part of one.
    pub fn forget(&mut self, table: &TableName) -> bool {
        self.known.remove(table);
        self.parents.remove(table).is_some()
    }

    /// Tells whether the table is a part of another.
    pub fn rename(&mut self, from: &TableName, to: &TableName) -> bool {
        if self.known.remove(from) {
            self.known.insert(to.clone());
        }
        let parents = self.parents.remove(from);
        let is_part = parents.is_some();
        if let Some(parents) = parents {
            self.parents.insert(to.clone(), parents);
        }
        for parent in self.parents.values_mut().flatten().filter(|parent| parent.name == *from) {
            parent.name = to.clone();
        }
        is_part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_belong_to_the_nearest_table_that_is_meant() {
        let name = |table: &str| TableName::new("s", table);
        let mut families = Families::default();
        families.attach(&name("leaf"), &name("middle"));
        families.attach(&name("middle"), &name("root"));
        families.parents.insert(name("child"), vec![Parent { name: name("root"), is_partition: false }]);
        let whole = |families: &Families, part: &str, meant: &[&str]| {
            families.whole(&name(part), |table| meant.contains(&table.table.as_str())).map(|whole| whole.table)
        };
        assert_eq!(whole(&families, "leaf", &["root"]).as_deref(), Some("root"));
        assert_eq!(whole(&families, "leaf", &["root", "middle"]).as_deref(), Some("middle"));
        assert_eq!((whole(&families, "child", &["root"]), whole(&families, "leaf", &[])), (None, None));
        assert_eq!(families.wholes(&name("leaf")), ["middle", "root"].map(name));
        let mut leaves = families.leaves(&name("root"));
        leaves.sort();
        assert_eq!(leaves, ["child", "leaf"].map(name));
        let mut descendants = families.descendants(&name("root"));
        descendants.sort();
        assert_eq!(descendants, ["child", "leaf", "middle"].map(name));
        families.rename(&name("middle"), &name("between"));
        assert_eq!(whole(&families, "leaf", &["between"]).as_deref(), Some("between"));
        families.forget(&name("leaf"));
        assert_eq!(whole(&families, "leaf", &["root"]), None);
        assert!(!families.knows(&name("leaf")));
    }
}
