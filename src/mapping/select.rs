//! Which tables a task moves, and in which order their loads begin.

use std::cmp::Reverse;

use super::Mapping;
use super::pattern::Pattern;
use super::rules::{SelectAction, SelectRule};
use crate::data::{TableKind, TableName, TableSchema};

/// What the selection rules say about a table that is to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// 1 to 2,147,483,647: the higher, the earlier the load begins. `None` when no rule gives one.
    pub load_order: Option<u32>,
}

impl Mapping {
    /// Whether the table is moved: at least one include or explicit rule matches its name and kind, and no exclude
    /// rule does. Names are compared exactly as the source spells them.
    ///
    /// DMS does not say which `load-order` counts when several rules match; here it is the highest.
    pub fn selects(&self, table: &TableName, kind: TableKind) -> Option<Selection> {
        let mut selection: Option<Selection> = None;
        for rule in self.rules.selections.iter().filter(|rule| rule.matches(table, kind)) {
            if rule.action == SelectAction::Exclude {
                return None;
            }
            let before = selection.and_then(|selection| selection.load_order);
            selection = Some(Selection { load_order: before.max(rule.load_order) });
        }
        selection
    }

    /// The tables that rules with the action `explicit` name, in the order of the rules: the ones to report as
    /// missing when the source does not have them.
    pub fn explicit_tables(&self) -> Vec<TableName> {
        let mut tables = Vec::new();
        for rule in &self.rules.selections {
            if let (SelectAction::Explicit, Pattern::Exact(schema), Pattern::Exact(table)) =
                (rule.action, &rule.schema, &rule.table)
            {
                tables.push(TableName::new(schema, table));
            }
        }
        tables
    }

    /// Sorts tables into the order in which their loads begin: by load order, highest first and tables without one
    /// last. DMS leaves the rest open; here the larger table begins first, so that it does not run alone at the end,
    /// and then names decide.
    pub fn sort_for_load(&self, tables: &mut [TableSchema]) {
        tables.sort_by_cached_key(|table| {
            let load_order = self.selects(&table.name, table.kind).and_then(|selection| selection.load_order);
            (Reverse(load_order), Reverse(table.rows_estimate), table.name.clone())
        });
    }
}

impl SelectRule {
    fn matches(&self, table: &TableName, kind: TableKind) -> bool {
        let kind_fits = match kind {
            TableKind::Table => self.tables,
            TableKind::View => self.views,
        };
        kind_fits && self.schema.matches(&table.schema) && self.table.matches(&table.table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Family;

    /// Rules as `action schema.table[:type][@load-order]`, one per line.
    fn mapping(rules: &str) -> Mapping {
        let rules: Vec<_> =
            rules.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate().map(rule).collect();
        Mapping::parse(&serde_json::json!({ "rules": rules }).to_string()).unwrap()
    }

    fn rule((index, line): (usize, &str)) -> serde_json::Value {
        let (action, name) = line.split_once(' ').unwrap();
        let (name, load_order) = name.split_once('@').map_or((name, None), |(name, order)| (name, Some(order)));
        let (name, table_type) = name.split_once(':').map_or((name, None), |(name, kind)| (name, Some(kind)));
        let (schema, table) = name.split_once('.').unwrap();
        serde_json::json!({
            "rule-type": "selection",
            "rule-id": (index + 1).to_string(),
            "rule-name": "same",
            "object-locator": { "schema-name": schema, "table-name": table, "table-type": table_type },
            "rule-action": action,
            "load-order": load_order,
            "filters": [],
        })
    }

    fn check(rules: &str, tables: &[&str], views: &[&str], not: &[&str]) {
        let mapping = mapping(rules);
        let name = |text: &str| {
            let (schema, table) = text.split_once('.').unwrap();
            TableName::new(schema, table)
        };
        for table in tables {
            assert!(mapping.selects(&name(table), TableKind::Table).is_some(), "table {table} of {rules}");
        }
        for view in views {
            assert!(mapping.selects(&name(view), TableKind::View).is_some(), "view {view} of {rules}");
        }
        for table in not {
            assert!(mapping.selects(&name(table), TableKind::Table).is_none(), "not table {table} of {rules}");
        }
        for other in tables.iter().filter(|table| !views.contains(table)) {
            assert!(mapping.selects(&name(other), TableKind::View).is_none(), "not view {other} of {rules}");
        }
    }

    #[test]
    fn selects_by_rule() {
        check("include Test.%", &["Test.a", "Test.DMS1"], &[], &["test.a", "Other.a"]);
        check("include Test.%\nexclude Test.DMS%", &["Test.a"], &[], &["Test.DMS1"]);
        check("exclude Test.DMS%\ninclude Test.%", &["Test.a"], &[], &["Test.DMS1"]);
        check("explicit New_.order_items", &["New_.order_items"], &[], &["New_.orderXitems", "NewX.order_items"]);
        check("explicit a.t\nexclude a.%", &[], &[], &["a.t"]);
        check("include %.%:view", &[], &["a.v"], &["a.t"]);
        check("include %.%:all\nexclude %.x", &["a.t"], &["a.t", "a.x"], &["a.x"]);
        check("include %.%:all\nexclude %.x:all", &["a.t"], &["a.t"], &["a.x"]);
        check("include a[_]b.t", &["a_b.t"], &[], &["axb.t"]);
    }

    #[test]
    fn lists_explicit_tables_in_order_of_the_rules() {
        let mapping = mapping("explicit s.b\ninclude s.%\nexplicit s.a");
        assert_eq!(mapping.explicit_tables(), [TableName::new("s", "b"), TableName::new("s", "a")]);
    }

    #[test]
    fn begins_loads_in_order() {
        let mapping = mapping("include s.%\ninclude s.second@5\ninclude s.first@5\ninclude s.first@2147483647");
        let table = |name: &str, rows_estimate| TableSchema {
            name: TableName::new("s", name),
            kind: TableKind::Table,
            family: Family::MySql,
            columns: vec![],
            primary_key: vec![],
            unique_key: vec![],
            rows_estimate,
        };
        let mut tables = [
            table("z", 10),
            table("a", 10),
            table("big", 99),
            table("second", 1),
            table("first", 0),
            table("empty", 0),
        ];
        mapping.sort_for_load(&mut tables);
        assert_eq!(tables.map(|table| table.name.table), ["first", "second", "big", "a", "z", "empty"]);
        assert_eq!(
            mapping.selects(&TableName::new("s", "first"), TableKind::Table),
            Some(Selection { load_order: Some(2_147_483_647) })
        );
    }
}
