//! What one table becomes on the target.

use std::collections::HashSet;

use super::rules::{BeforeImages, Change, ColumnFilter, Rename, TransformRule};
use super::{Mapping, MappingError};
use crate::data::{Column, TableKind, TableName, TableSchema};

/// A table as it is on the source and as it will be on the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablePlan {
    pub source: TableSchema,
    /// With the target's names and only the columns that are moved. A view of the source is a table here. Keys that
    /// lost a column are empty.
    pub target: TableSchema,
    /// For each of the first columns of `target` its index in `source.columns`, ascending.
    pub columns: Vec<usize>,
    /// For each of the other columns of `target` the index in `source.columns` of that whose value before the last
    /// UPDATE of a row it holds, ascending. NULL in rows that were not updated, and where the log lacks the value.
    pub before_images: Vec<usize>,
    /// Whether a rule decided the schema: if so, the task setting `TargetSchema` does not.
    pub schema_mapped: bool,
}

impl TablePlan {
    /// Moves the table into the schema of the task setting `TargetMetadata.TargetSchema`, unless that is empty or a
    /// transformation rule for the schema takes precedence.
    /// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.TargetMetadata.html>
    pub fn with_target_schema(mut self, schema: &str) -> TablePlan {
        if !schema.is_empty() && !self.schema_mapped {
            self.target.name.schema = schema.to_owned();
        }
        self
    }

    /// Leaves some columns out, by their place among the target's columns, ascending.
    pub fn without_columns(mut self, left_out: &[usize]) -> TablePlan {
        let kept: Vec<usize> = (0..self.target.columns.len()).filter(|index| !left_out.contains(index)).collect();
        self.target.primary_key = remap(&self.target.primary_key, &kept);
        self.target.unique_key = remap(&self.target.unique_key, &kept);
        self.target.columns = kept.iter().map(|index| self.target.columns[*index].clone()).collect();
        let (moved, before): (Vec<usize>, Vec<usize>) = kept.iter().partition(|index| **index < self.columns.len());
        self.before_images = before.iter().map(|index| self.before_images[index - self.columns.len()]).collect();
        self.columns = moved.iter().map(|index| self.columns[*index]).collect();
        self
    }

    /// The target's table as a full load fills it: without before images.
    pub fn loaded(&self) -> TableSchema {
        let mut loaded = self.target.clone();
        loaded.columns.truncate(self.columns.len());
        loaded
    }

    /// The target's column for a column of the source, and that for its before image.
    pub fn places_of(&self, column: usize) -> [Option<usize>; 2] {
        let of = |columns: &[usize]| columns.iter().position(|moved| *moved == column);
        [of(&self.columns), of(&self.before_images).map(|place| self.columns.len() + place)]
    }
}

impl Mapping {
    /// Whether any rule asks for what rows were before an UPDATE.
    pub fn wants_before_images(&self) -> bool {
        self.rules.transformations.iter().any(|rule| matches!(rule.change, Change::BeforeImages(_)))
    }

    /// Works out the target's side of a table.
    ///
    /// Rules match source names. At most one renaming applies to a schema, a table or a column: that of the matching
    /// rule with the lowest id. Whether a column is moved at all is decided first and apart from its name, again by
    /// the lowest id; in a table that any `include-column` rule matches, columns without such a rule are not moved.
    /// Before images are those of the first rule that asks for some, come after all other columns, and are called after
    /// the column as the target has it (a guess, as is which of two rules counts).
    /// (DMS documents the lowest id and the drop by default; that the two kinds of rule do not shut each other out is
    /// a guess from mappings the AWS console made.)
    ///
    /// Fails when no column is left, when two columns get the same name, and when a name becomes empty.
    /// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TableMapping.SelectionTransformation.Transformations.html>
    pub fn plan(&self, source: &TableSchema) -> Result<TablePlan, MappingError> {
        let TableName { schema, table } = &source.name;
        let rules: Vec<_> = self
            .rules
            .transformations
            .iter()
            .filter(|rule| rule.schema.matches(schema) && rule.table.matches(table))
            .collect();

        let columns: Vec<usize> =
            (0..source.columns.len()).filter(|index| keeps(&rules, &source.columns[*index].name)).collect();
        if columns.is_empty() && !source.columns.is_empty() {
            return Err(MappingError::rules(source.name.to_string(), "no column of the table is left"));
        }
        let schema_rename = rules.iter().find_map(|rule| match &rule.change {
            Change::Schema(rename) => Some(rename),
            _ => None,
        });
        let table_rename = rules.iter().find_map(|rule| match &rule.change {
            Change::Table(rename) => Some(rename),
            _ => None,
        });

        let mut target = TableSchema {
            name: TableName::new(
                renamed(schema_rename, schema, &source.name)?,
                renamed(table_rename, table, &source.name)?,
            ),
            kind: TableKind::Table,
            family: source.family,
            columns: columns.iter().map(|index| source.columns[*index].clone()).collect(),
            primary_key: remap(&source.primary_key, &columns),
            unique_key: remap(&source.unique_key, &columns),
            rows_estimate: source.rows_estimate,
        };
        for column in &mut target.columns {
            let rename = rules.iter().find_map(|rule| match &rule.change {
                Change::Column(pattern, rename) if pattern.matches(&column.name) => Some(rename),
                _ => None,
            });
            column.name = renamed(rename, &column.name, &source.name)?;
        }
        let before_images = rules.iter().find_map(|rule| match &rule.change {
            Change::BeforeImages(before) => Some(before.add_to(&mut target, source, &columns)),
            _ => None,
        });
        let mut names = HashSet::new();
        if let Some(twice) = target.columns.iter().find(|column| !names.insert(column.name.as_str())) {
            let what = format!("two columns would be named {} on the target", twice.name);
            return Err(MappingError::rules(source.name.to_string(), what));
        }
        Ok(TablePlan {
            source: source.clone(),
            target,
            columns,
            before_images: before_images.unwrap_or_default(),
            schema_mapped: schema_rename.is_some(),
        })
    }
}

/// Fails when two source tables would become one target table, which DMS does not support.
pub fn check_targets(plans: &[TablePlan]) -> Result<(), MappingError> {
    let mut names = HashSet::new();
    match plans.iter().find(|plan| !names.insert(&plan.target.name)) {
        None => Ok(()),
        Some(plan) => {
            let what = format!("another table would become {} on the target too", plan.target.name);
            Err(MappingError::rules(plan.source.name.to_string(), what))
        }
    }
}

fn keeps(rules: &[&TransformRule], column: &str) -> bool {
    let decision = rules.iter().find_map(|rule| match &rule.change {
        Change::IncludeColumn(pattern) if pattern.matches(column) => Some(true),
        Change::RemoveColumn(pattern) if pattern.matches(column) => Some(false),
        _ => None,
    });
    decision.unwrap_or_else(|| !rules.iter().any(|rule| matches!(rule.change, Change::IncludeColumn(_))))
}

/// A key in terms of the columns that are moved; empty when it lost one, as it tells rows apart no longer.
fn remap(key: &[usize], columns: &[usize]) -> Vec<usize> {
    key.iter().map(|index| columns.binary_search(index).ok()).collect::<Option<_>>().unwrap_or_default()
}

fn renamed(rename: Option<&Rename>, name: &str, table: &TableName) -> Result<String, MappingError> {
    let Some(rename) = rename else { return Ok(name.to_owned()) };
    let new = rename.apply(name);
    if new.is_empty() {
        return Err(MappingError::rules(table.to_string(), format!("the name {name} would become empty")));
    }
    Ok(new)
}

impl BeforeImages {
    /// Adds their columns to the target's table, and gives the columns of the source that they are of.
    fn add_to(&self, target: &mut TableSchema, source: &TableSchema, moved: &[usize]) -> Vec<usize> {
        let mut of = Vec::new();
        for (place, index) in moved.iter().enumerate() {
            let column = &source.columns[*index];
            let wanted = match self.filter {
                ColumnFilter::PrimaryKey => source.primary_key.contains(index),
                ColumnFilter::NonLob => !column.data_type.is_lob(),
                ColumnFilter::All => true,
            };
            if wanted && self.column.matches(&column.name) {
                let name = format!("{}{}{}", self.prefix, target.columns[place].name, self.suffix);
                target.columns.push(Column { name, nullable: true, generated: false, ..column.clone() });
                of.push(*index);
            }
        }
        of
    }
}

impl Rename {
    /// A prefix or suffix that the name does not have is left alone. Case conversion is Unicode's.
    fn apply(&self, name: &str) -> String {
        let replaced = match self {
            Rename::To(new) => Some(new.clone()),
            Rename::Lowercase => Some(name.to_lowercase()),
            Rename::Uppercase => Some(name.to_uppercase()),
            Rename::AddPrefix(prefix) => Some(format!("{prefix}{name}")),
            Rename::AddSuffix(suffix) => Some(format!("{name}{suffix}")),
            Rename::RemovePrefix(prefix) => name.strip_prefix(prefix.as_str()).map(str::to_owned),
            Rename::RemoveSuffix(suffix) => name.strip_suffix(suffix.as_str()).map(str::to_owned),
            Rename::ReplacePrefix { old, new } => name.strip_prefix(old.as_str()).map(|rest| format!("{new}{rest}")),
            Rename::ReplaceSuffix { old, new } => name.strip_suffix(old.as_str()).map(|rest| format!("{rest}{new}")),
        };
        replaced.unwrap_or_else(|| name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Column, DataType, Family};

    /// `schema.table(*key, column, …)`; a star marks the columns of the primary key.
    fn table(text: &str) -> TableSchema {
        let (name, columns) = text.strip_suffix(')').unwrap().split_once('(').unwrap();
        let (schema, table) = name.split_once('.').unwrap();
        let columns: Vec<&str> = columns.split(", ").collect();
        TableSchema {
            name: TableName::new(schema, table),
            kind: TableKind::View,
            family: Family::PostgreSql,
            primary_key: (0..columns.len()).filter(|index| columns[*index].starts_with('*')).collect(),
            unique_key: vec![],
            rows_estimate: 3,
            columns: columns
                .iter()
                .map(|name| Column {
                    name: name.trim_start_matches('*').to_owned(),
                    data_type: DataType::Int4,
                    native: "integer".to_owned(),
                    nullable: false,
                    generated: false,
                })
                .collect(),
        }
    }

    fn text(table: &TableSchema) -> String {
        let star = |index| if table.primary_key.contains(&index) { "*" } else { "" };
        let columns: Vec<_> =
            table.columns.iter().enumerate().map(|(index, column)| format!("{}{}", star(index), column.name)).collect();
        format!("{}({})", table.name, columns.join(", "))
    }

    /// Rules as `target schema[.table[.column]] action [value [old-value]]`, one per line, ids ascending; of before
    /// images the values are the filter, the prefix and the suffix.
    fn mapping(rules: &str) -> Mapping {
        let mut all = vec![serde_json::json!({
            "rule-type": "selection", "rule-id": "0", "rule-name": "0", "rule-action": "include",
            "object-locator": { "schema-name": "%", "table-name": "%" }
        })];
        for line in rules.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let names: Vec<&str> = words[1].split('.').collect();
            let mut rule = serde_json::json!({
                "rule-type": "transformation", "rule-id": all.len(), "rule-name": line,
                "rule-target": words[0], "rule-action": words[2],
                "object-locator": {
                    "schema-name": names[0], "table-name": names.get(1), "column-name": names.get(2)
                },
            });
            if words[2] == "add-before-image-columns" {
                rule["before-image-def"] = serde_json::json!({
                    "column-filter": words[3], "column-prefix": words.get(4), "column-suffix": words.get(5),
                });
            } else {
                rule["value"] = serde_json::json!(words.get(3));
                rule["old-value"] = serde_json::json!(words.get(4));
            }
            all.push(rule);
        }
        Mapping::parse(&serde_json::json!({ "rules": all }).to_string()).unwrap()
    }

    fn check(rules: &str, source: &str, target: &str, columns: &[usize]) {
        let plan = mapping(rules).plan(&table(source)).unwrap();
        assert_eq!(text(&plan.target), target, "{rules}");
        assert_eq!(plan.columns, columns, "{rules}");
        assert_eq!(text(&plan.source), source);
        assert_eq!(plan.target.kind, TableKind::Table);
    }

    #[test]
    fn leaves_a_table_without_rules_as_it_is() {
        check("", "s.t(*a, b)", "s.t(*a, b)", &[0, 1]);
        check("table S.t rename x\ncolumn s.T.a rename x", "s.t(*a, b)", "s.t(*a, b)", &[0, 1]);
    }

    #[test]
    fn renames() {
        check("schema s rename n", "s.t(a)", "n.t(a)", &[0]);
        check("schema % convert-uppercase", "sß.t(a)", "SSS.t(a)", &[0]);
        check("schema s.u% rename n", "s.t(a)", "s.t(a)", &[0]);
        check("schema s.t% rename n", "s.t(a)", "n.t(a)", &[0]);
        check("table s.t rename T2", "s.t(a)", "s.T2(a)", &[0]);
        check("table s.% add-prefix DMS_", "s.t(a)", "s.DMS_t(a)", &[0]);
        check("table s.% remove-suffix _DMS", "s.t_DMS(a)", "s.t(a)", &[0]);
        check("table s.% replace-suffix _new _old", "s.t_old(a)", "s.t_new(a)", &[0]);
        check("column %.%.% convert-uppercase", "s.t(*ä, b)", "s.t(*Ä, B)", &[0, 1]);
        check("column %.%.% convert-lowercase", "s.T(*ID, Name)", "s.T(*id, name)", &[0, 1]);
        check("column %.%.% replace-prefix NewPre_ Pre_", "s.t(Pre_a, b)", "s.t(NewPre_a, b)", &[0, 1]);
        check("column %.%.% remove-prefix Pre_", "s.t(Pre_a, pre_b)", "s.t(a, pre_b)", &[0, 1]);
        check("column s.t.b add-suffix _x", "s.t(a, b)", "s.t(a, b_x)", &[0, 1]);
        check("schema s rename n\ntable s.t rename u\ncolumn s.t.a rename b2", "s.t(*a, b)", "n.u(*b2, b)", &[0, 1]);
    }

    #[test]
    fn applies_the_rule_with_the_lowest_id() {
        check("table s.t rename first\ntable s.% add-prefix p_", "s.t(a)", "s.first(a)", &[0]);
        check("column %.%.% convert-uppercase\ncolumn s.t.a rename x", "s.t(a, b)", "s.t(A, B)", &[0, 1]);
    }

    #[test]
    fn chooses_columns() {
        check("column s.t.col% remove-column", "s.t(*id, col1, x, col2)", "s.t(*id, x)", &[0, 2]);
        check("column s.t.b include-column\ncolumn s.t.d include-column", "s.t(a, *b, c, *d)", "s.t(*b, *d)", &[1, 3]);
        check("column s.t.% include-column\ncolumn s.t.b remove-column", "s.t(a, b)", "s.t(a, b)", &[0, 1]);
        check("column s.t.b remove-column\ncolumn s.t.% include-column", "s.t(a, b)", "s.t(a)", &[0]);
        check("column s.u.a include-column", "s.t(a, b)", "s.t(a, b)", &[0, 1]);
        check("column s.t.a include-column\ncolumn %.%.% convert-uppercase", "s.t(a, b)", "s.t(A)", &[0]);
    }

    #[test]
    fn adds_before_images() {
        let check = |rules: &str, source: &str, target: &str, before_images: &[usize]| {
            let plan = mapping(rules).plan(&table(source)).unwrap();
            assert_eq!(text(&plan.target), target, "{rules}");
            assert_eq!(plan.before_images, before_images, "{rules}");
            assert_eq!(plan.loaded().columns.len(), plan.columns.len());
            assert!(plan.target.columns[plan.columns.len()..].iter().all(|column| column.nullable));
            plan
        };
        let one = "column s.t add-before-image-columns";
        check(&format!("{one} pk-only"), "s.t(a, *b)", "s.t(a, *b, BI_b)", &[1]);
        check(&format!("{one} non-lob"), "s.t(*a, b)", "s.t(*a, b, BI_a, BI_b)", &[0, 1]);
        check("column s.t.b add-before-image-columns all", "s.t(*a, b)", "s.t(*a, b, BI_b)", &[1]);
        check("column s.u add-before-image-columns all", "s.t(a)", "s.t(a)", &[]);
        let renamed = format!("column s.t.b rename c\ncolumn s.t.a remove-column\n{one} all x_ _y\n{one} pk-only");
        check(&renamed, "s.t(a, b)", "s.t(c, x_c_y)", &[1]);
        let error = mapping(&format!("{one} all b")).plan(&table("s.t(a, ba)")).unwrap_err();
        assert!(error.to_string().contains("two columns would be named ba"), "{error}");

        let plan = check(&format!("{one} all"), "s.t(*a, b, c)", "s.t(*a, b, c, BI_a, BI_b, BI_c)", &[0, 1, 2]);
        assert_eq!(plan.places_of(1), [Some(1), Some(4)]);
        let plan = plan.without_columns(&[1, 3]);
        assert_eq!((text(&plan.target).as_str(), &plan.columns[..]), ("s.t(*a, c, BI_b, BI_c)", &[0, 2][..]));
        assert_eq!(plan.places_of(1), [None, Some(2)]);
        let mut source = table("s.t(a, b)");
        source.columns[0].data_type = DataType::Clob;
        assert_eq!(mapping(&format!("{one} non-lob")).plan(&source).unwrap().before_images, [1]);
    }

    #[test]
    fn drops_a_key_that_lost_a_column() {
        check("column s.t.b remove-column", "s.t(*a, *b, c)", "s.t(a, c)", &[0, 2]);
        let mut source = table("s.t(a, b, c)");
        source.primary_key = vec![2, 1];
        source.unique_key = vec![0, 1];
        let plan = mapping("column s.t.a remove-column").plan(&source).unwrap();
        assert_eq!((plan.target.primary_key, plan.target.unique_key), (vec![1, 0], vec![]));
    }

    #[test]
    fn refuses_names_that_clash_or_vanish() {
        for (rules, part) in [
            ("column s.t.a rename b", "two columns would be named b"),
            ("column s.t.% remove-column", "no column"),
            ("table s.% remove-prefix t", "the name t would become empty"),
        ] {
            let error = mapping(rules).plan(&table("s.t(a, b)")).expect_err(part);
            assert!(error.to_string().contains(part) && error.path() == "s.t", "{error}");
        }
        let mapping = mapping("table s.% rename same");
        let plans = ["s.a(x)", "r.b(x)", "s.c(x)"].map(|source| mapping.plan(&table(source)).unwrap());
        check_targets(&plans[..2]).unwrap();
        assert_eq!(check_targets(&plans).unwrap_err().path(), "s.c");
    }

    #[test]
    fn puts_a_rule_for_the_schema_before_the_task_setting() {
        let plan = |rules: &str, schema: &str| {
            mapping(rules).plan(&table("s.t(a)")).unwrap().with_target_schema(schema).target.name.schema
        };
        assert_eq!(plan("", "setting"), "setting");
        assert_eq!(plan("", ""), "s");
        assert_eq!(plan("schema s rename rule", "setting"), "rule");
    }
}
