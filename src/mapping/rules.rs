//! Reads and checks a table-mapping document.
//!
//! Unknown keys are refused, so that a misspelt rule is not a rule that does nothing. A key that is `null` counts as
//! absent: the AWS console writes many of those.

use std::collections::HashSet;

use serde_json::{Map, Value as Json};

use super::pattern::Pattern;
use super::{Mapping, MappingError};

type Result<T> = std::result::Result<T, MappingError>;

#[derive(Clone, Debug, Default)]
pub(super) struct Rules {
    pub selections: Vec<SelectRule>,
    /// By ascending rule id, which is their order of precedence.
    pub transformations: Vec<TransformRule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SelectAction {
    Include,
    Exclude,
    Explicit,
}

#[derive(Clone, Debug)]
pub(super) struct SelectRule {
    pub action: SelectAction,
    pub schema: Pattern,
    pub table: Pattern,
    pub tables: bool,
    pub views: bool,
    pub load_order: Option<u32>,
}

#[derive(Clone, Debug)]
pub(super) struct TransformRule {
    pub id: u64,
    pub schema: Pattern,
    /// Every table when a rule for a schema names none.
    pub table: Pattern,
    pub change: Change,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Schema(Rename),
    Table(Rename),
    Column(Pattern, Rename),
    IncludeColumn(Pattern),
    RemoveColumn(Pattern),
    BeforeImages(BeforeImages),
}

/// Columns of the target that hold what columns of a row were before its last UPDATE.
#[derive(Clone, Debug)]
pub(super) struct BeforeImages {
    pub column: Pattern,
    pub prefix: String,
    pub suffix: String,
    pub filter: ColumnFilter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ColumnFilter {
    PrimaryKey,
    NonLob,
    All,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rename {
    To(String),
    Lowercase,
    Uppercase,
    AddPrefix(String),
    RemovePrefix(String),
    ReplacePrefix { old: String, new: String },
    AddSuffix(String),
    RemoveSuffix(String),
    ReplaceSuffix { old: String, new: String },
}

/// Rule types other than selection and transformation, with what they are for.
const OTHER_TYPES: [(&str, &str); 3] =
    [("table-settings", "table settings"), ("object-mapping", "object mapping"), ("post-processing", "object tagging")];

/// Rename actions, in the order of the user guide.
const RENAMES: [&str; 9] = [
    "rename",
    "convert-lowercase",
    "convert-uppercase",
    "add-prefix",
    "remove-prefix",
    "replace-prefix",
    "add-suffix",
    "remove-suffix",
    "replace-suffix",
];

/// Actions that have the columns of a table for their target, and no other.
const COLUMN_ACTIONS: [&str; 3] = ["include-column", "remove-column", "add-before-image-columns"];

const OTHER_ACTIONS: [&str; 6] = [
    "add-column",
    "define-primary-key",
    "change-data-type",
    "data-masking-digits-mask",
    "data-masking-digits-randomize",
    "data-masking-hash-mask",
];

const TARGETS: [&str; 3] = ["schema", "table", "column"];
const OTHER_TARGETS: [&str; 2] = ["table-tablespace", "index-tablespace"];

/// Keys any rule may have. AWS ignores those that do not concern the rule's action.
const RULE_KEYS: [&str; 10] = [
    "rule-type",
    "rule-id",
    "rule-name",
    "rule-action",
    "rule-target",
    "object-locator",
    "load-order",
    "value",
    "old-value",
    "before-image-def",
];

/// Keys that ask for something not built yet, wherever they hold more than nothing. `isAutoSegmentationChecked` is the
/// AWS console's and belongs to `parallel-load`.
const OTHER_KEYS: [&str; 9] = [
    "filters",
    "expression",
    "data-type",
    "primary-key-def",
    "parallel-load",
    "isAutoSegmentationChecked",
    "lob-settings",
    "tag-set",
    "mapping-parameters",
];

const LOAD_ORDER_MAX: u64 = i32::MAX as u64;

pub(super) fn parse(document: &str) -> Result<Rules> {
    if document.len() > Mapping::DOCUMENT_BYTES_MAX {
        let max = Mapping::DOCUMENT_BYTES_MAX;
        return Err(MappingError::json(format!(
            "the document has {} bytes; at most {max} are allowed",
            document.len()
        )));
    }
    let document: Json = serde_json::from_str(document).map_err(|error| MappingError::json(error.to_string()))?;
    let rules = match document.get("rules") {
        Some(Json::Array(rules)) => rules,
        Some(other) => return Err(MappingError::absent("rules", format!("must be an array, not {}", name_of(other)))),
        None => return Err(MappingError::absent("", "the document must be an object with an array `rules`")),
    };
    Object::new(String::new(), &document)?.only(&["rules"], &[])?;

    let mut reader = Reader::default();
    for (index, rule) in rules.iter().enumerate() {
        reader.read(&Object::new(format!("rules[{index}]"), rule)?)?;
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    rules: Rules,
    ids: HashSet<u64>,
    /// Told only when all else is well: a mistake comes before a feature that is missing.
    unsupported: Option<MappingError>,
}

impl Reader {
    fn read(&mut self, rule: &Object<'_>) -> Result<()> {
        let rule_type = rule.required_text("rule-type")?;
        let id = rule.id()?;
        if !self.ids.insert(id) {
            return Err(MappingError::rules(rule.at("rule-id"), format!("Duplicate ruleid {id}")));
        }
        // AWS asks for unique names in the user guide but takes equal ones; only ids have to differ.
        rule.required_text_or_number("rule-name")?;
        match rule_type {
            "selection" => self.read_selection(rule, id),
            "transformation" => self.read_transformation(rule, id),
            _ => match OTHER_TYPES.iter().find(|(name, _)| *name == rule_type) {
                Some((_, what)) => {
                    self.not_yet(rule.at("rule-type"), format!("{what} (rule-type {rule_type})"));
                    Ok(())
                }
                None => {
                    let known = ["selection", "transformation"].into_iter().chain(OTHER_TYPES.map(|(name, _)| name));
                    Err(rule.not_one_of("rule-type", known))
                }
            },
        }
    }

    fn read_selection(&mut self, rule: &Object<'_>, id: u64) -> Result<()> {
        rule.only(&RULE_KEYS, &OTHER_KEYS)?;
        let action = match rule.required_text("rule-action")? {
            "include" => SelectAction::Include,
            "exclude" => SelectAction::Exclude,
            "explicit" => SelectAction::Explicit,
            _ => return Err(rule.not_one_of("rule-action", ["include", "exclude", "explicit"])),
        };
        let locator = rule.locator(id)?;
        locator.only(&["schema-name", "table-name", "table-type"], &[])?;
        let name = |key| {
            let name = locator.locator_text(id, key)?;
            if action != SelectAction::Explicit {
                return Ok(Pattern::with_wildcards(name));
            }
            // `_` and brackets are legal in names and stand for themselves here.
            if name.contains('%') {
                let what = "rule-action explicit takes one exact name; the wildcard % is not allowed";
                return Err(MappingError::rule(id, locator.at(key), what));
            }
            Ok(Pattern::exact(name))
        };
        let (schema, table) = (name("schema-name")?, name("table-name")?);
        let (tables, views) = match locator.text("table-type")? {
            None | Some("table") => (true, false),
            Some("view") => (false, true),
            Some("all") => (true, true),
            Some(_) => return Err(locator.not_one_of("table-type", ["table", "view", "all"])),
        };
        let load_order = rule.load_order()?;
        self.note_other_keys(rule);
        self.rules.selections.push(SelectRule { action, schema, table, tables, views, load_order });
        Ok(())
    }

    fn read_transformation(&mut self, rule: &Object<'_>, id: u64) -> Result<()> {
        rule.only(&RULE_KEYS, &OTHER_KEYS)?;
        let action = rule.required_text("rule-action")?;
        let target = rule.required_text("rule-target")?;
        let column_action = COLUMN_ACTIONS.contains(&action);
        if !column_action && !RENAMES.contains(&action) && !OTHER_ACTIONS.contains(&action) {
            return Err(rule.not_one_of("rule-action", RENAMES.into_iter().chain(COLUMN_ACTIONS).chain(OTHER_ACTIONS)));
        }
        if !TARGETS.contains(&target) && !OTHER_TARGETS.contains(&target) {
            return Err(rule.not_one_of("rule-target", TARGETS.into_iter().chain(OTHER_TARGETS)));
        }
        let locator = rule.locator(id)?;
        let other_locators = ["data-type", "table-tablespace-name", "index-tablespace-name"];
        locator.only(&["schema-name", "table-name", "column-name"], &other_locators)?;
        if OTHER_ACTIONS.contains(&action) {
            self.not_yet(rule.at("rule-action"), format!("rule-action {action}"));
            return Ok(());
        }
        if OTHER_TARGETS.contains(&target) {
            self.not_yet(rule.at("rule-target"), format!("rule-target {target}"));
            return Ok(());
        }
        if column_action && target != "column" {
            let what = format!("rule-action {action} needs rule-target column, not {target}");
            return Err(MappingError::rule(id, rule.at("rule-target"), what));
        }
        for key in other_locators.iter().filter(|key| locator.holds(key)) {
            self.not_yet(locator.at(key), format!("{key} in the object-locator of a transformation rule"));
        }
        self.note_other_keys(rule);

        let schema = Pattern::with_wildcards(locator.locator_text(id, "schema-name")?);
        let table = match target {
            // A guess where the guide is silent: a table name narrows a rule for schemas to those tables.
            "schema" => Pattern::with_wildcards(locator.text("table-name")?.unwrap_or("%")),
            _ => Pattern::with_wildcards(locator.locator_text(id, "table-name")?),
        };
        let change = if action == "add-before-image-columns" {
            // The user guide's example names no column.
            let column = Pattern::with_wildcards(locator.text("column-name")?.unwrap_or("%"));
            Change::BeforeImages(rule.before_images(id, column)?)
        } else if target == "column" {
            let column = Pattern::with_wildcards(locator.locator_text(id, "column-name")?);
            match action {
                "include-column" => Change::IncludeColumn(column),
                "remove-column" => Change::RemoveColumn(column),
                _ => Change::Column(column, rule.rename(id, action)?),
            }
        } else {
            if locator.text("column-name")?.is_some_and(|column| column != "%") {
                let what = format!("rule-target {target} has no column-name");
                return Err(MappingError::rule(id, locator.at("column-name"), what));
            }
            let rename = rule.rename(id, action)?;
            if target == "schema" { Change::Schema(rename) } else { Change::Table(rename) }
        };
        self.rules.transformations.push(TransformRule { id, schema, table, change });
        Ok(())
    }

    fn note_other_keys(&mut self, rule: &Object<'_>) {
        for key in OTHER_KEYS.iter().filter(|key| rule.holds(key)) {
            self.not_yet(rule.at(key), *key);
        }
    }

    fn not_yet(&mut self, path: String, what: impl Into<String>) {
        self.unsupported.get_or_insert_with(|| MappingError::not_yet(path, what));
    }

    fn finish(mut self) -> Result<Rules> {
        if !self.rules.selections.iter().any(|rule| rule.action != SelectAction::Exclude) {
            let what = "At least one selection rule is required. Its rule-action must be include or explicit";
            return Err(MappingError::rules("rules", what));
        }
        if let Some(unsupported) = self.unsupported {
            return Err(unsupported);
        }
        self.rules.transformations.sort_by_key(|rule| rule.id);
        Ok(self.rules)
    }
}

/// A JSON object that knows where in the document it is.
struct Object<'a> {
    path: String,
    members: &'a Map<String, Json>,
}

impl<'a> Object<'a> {
    fn new(path: String, value: &'a Json) -> Result<Object<'a>> {
        match value {
            Json::Object(members) => Ok(Object { path, members }),
            other => Err(MappingError::document(path, format!("must be an object, not {}", name_of(other)))),
        }
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn get(&self, key: &str) -> Option<&'a Json> {
        self.members.get(key).filter(|value| !value.is_null())
    }

    /// Whether the member is there and asks for anything.
    fn holds(&self, key: &str) -> bool {
        self.get(key).is_some_and(|value| match value {
            Json::Bool(value) => *value,
            Json::String(text) => !text.is_empty(),
            Json::Array(items) => !items.is_empty(),
            Json::Object(members) => !members.is_empty(),
            _ => true,
        })
    }

    fn only(&self, keys: &[&str], more: &[&str]) -> Result<()> {
        match self.members.keys().find(|key| !keys.contains(&key.as_str()) && !more.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let known: Vec<_> = keys.iter().chain(more).copied().collect();
                let what = format!("is not a known key; known here: {}", known.join(", "));
                Err(MappingError::document(self.at(key), what))
            }
        }
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Json::String(text)) => Ok(Some(text)),
            Some(other) => {
                Err(MappingError::document(self.at(key), format!("must be a string, not {}", name_of(other))))
            }
        }
    }

    fn required_text(&self, key: &str) -> Result<&'a str> {
        match self.text(key)? {
            Some("") => Err(MappingError::document(self.at(key), "must not be empty")),
            Some(text) => Ok(text),
            None => Err(MappingError::document(self.at(key), "is required")),
        }
    }

    fn required_text_or_number(&self, key: &str) -> Result<()> {
        match self.get(key) {
            Some(Json::Number(_)) => Ok(()),
            _ => self.required_text(key).map(drop),
        }
    }

    fn whole_number(&self, key: &str) -> Option<u64> {
        match self.get(key)? {
            Json::Number(number) => number.as_u64(),
            Json::String(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
            _ => None,
        }
    }

    fn id(&self) -> Result<u64> {
        if self.get("rule-id").is_none() {
            return Err(MappingError::document(self.at("rule-id"), "is required"));
        }
        self.whole_number("rule-id").ok_or_else(|| {
            let what = format!("must be a whole number from 0 to {}, as a string or a number", u64::MAX);
            MappingError::document(self.at("rule-id"), what)
        })
    }

    fn load_order(&self) -> Result<Option<u32>> {
        if !self.holds("load-order") {
            return Ok(None);
        }
        match self.whole_number("load-order") {
            Some(order @ 1..=LOAD_ORDER_MAX) => Ok(Some(order as u32)),
            _ => {
                let what = format!("must be a whole number from 1 to {LOAD_ORDER_MAX}");
                Err(MappingError::document(self.at("load-order"), what))
            }
        }
    }

    fn locator(&self, id: u64) -> Result<Object<'a>> {
        match self.get("object-locator") {
            Some(locator) => Object::new(self.at("object-locator"), locator),
            None => Err(MappingError::rule(id, self.at("object-locator"), "object locator cannot be null")),
        }
    }

    fn locator_text(&self, id: u64, key: &str) -> Result<&'a str> {
        match self.text(key)? {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(MappingError::rule(id, self.at(key), format!("{key} is required and must not be empty"))),
        }
    }

    fn rename(&self, id: u64, action: &str) -> Result<Rename> {
        let needed = |key: &str, empty_allowed: bool| match self.text(key)? {
            Some(text) if empty_allowed || !text.is_empty() => Ok(text.to_owned()),
            Some(_) => {
                Err(MappingError::rule(id, self.at(key), format!("rule-action {action} needs a non-empty {key}")))
            }
            None => Err(MappingError::rule(id, self.at(key), format!("rule-action {action} needs {key}"))),
        };
        Ok(match action {
            "convert-lowercase" => Rename::Lowercase,
            "convert-uppercase" => Rename::Uppercase,
            "add-prefix" => Rename::AddPrefix(needed("value", false)?),
            "remove-prefix" => Rename::RemovePrefix(needed("value", false)?),
            "replace-prefix" => Rename::ReplacePrefix { old: needed("old-value", false)?, new: needed("value", true)? },
            "add-suffix" => Rename::AddSuffix(needed("value", false)?),
            "remove-suffix" => Rename::RemoveSuffix(needed("value", false)?),
            "replace-suffix" => Rename::ReplaceSuffix { old: needed("old-value", false)?, new: needed("value", true)? },
            _ => Rename::To(needed("value", false)?),
        })
    }

    fn before_images(&self, id: u64, column: Pattern) -> Result<BeforeImages> {
        let Some(definition) = self.get("before-image-def") else {
            let what = "rule-action add-before-image-columns needs before-image-def";
            return Err(MappingError::rule(id, self.at("before-image-def"), what));
        };
        let definition = Object::new(self.at("before-image-def"), definition)?;
        definition.only(&["column-prefix", "column-suffix", "column-filter"], &[])?;
        let prefix = definition.text("column-prefix")?.unwrap_or("BI_").to_owned();
        let suffix = definition.text("column-suffix")?.unwrap_or_default().to_owned();
        if prefix.is_empty() && suffix.is_empty() {
            let what = "column-prefix and column-suffix must not both be empty";
            return Err(MappingError::rule(id, definition.at("column-prefix"), what));
        }
        let filter = match definition.required_text("column-filter")? {
            "pk-only" => ColumnFilter::PrimaryKey,
            "non-lob" => ColumnFilter::NonLob,
            "all" => ColumnFilter::All,
            _ => return Err(definition.not_one_of("column-filter", ["pk-only", "non-lob", "all"])),
        };
        Ok(BeforeImages { column, prefix, suffix, filter })
    }

    fn not_one_of<'b>(&self, key: &str, words: impl IntoIterator<Item = &'b str>) -> MappingError {
        let words: Vec<_> = words.into_iter().collect();
        let is = self.get(key).map(ToString::to_string).unwrap_or_default();
        MappingError::document(self.at(key), format!("is {is}; it must be one of {}", words.join(", ")))
    }
}

fn name_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn selection() -> Json {
        json!({
            "rule-type": "selection", "rule-id": "1", "rule-name": "1",
            "object-locator": { "schema-name": "Test", "table-name": "%" }, "rule-action": "include"
        })
    }

    fn rename() -> Json {
        json!({
            "rule-type": "transformation", "rule-id": "2", "rule-name": "2", "rule-action": "rename",
            "rule-target": "table", "object-locator": { "schema-name": "Test", "table-name": "Actor" }, "value": "Actor1"
        })
    }

    /// The rule with members replaced; a dot in a key goes into the object locator.
    fn with(mut rule: Json, members: &[(&str, Json)]) -> Json {
        for (key, value) in members {
            match key.strip_prefix("object-locator.") {
                Some(key) => rule["object-locator"][key] = value.clone(),
                None => rule[key] = value.clone(),
            }
        }
        rule
    }

    fn without(mut rule: Json, key: &str) -> Json {
        match key.strip_prefix("object-locator.") {
            Some(key) => rule["object-locator"].as_object_mut().unwrap().remove(key),
            None => rule.as_object_mut().unwrap().remove(key),
        };
        rule
    }

    fn parse_rules(rules: &[Json]) -> Result<Rules> {
        parse(&json!({ "rules": rules }).to_string())
    }

    fn refuses(rules: &[Json], path: &str, message: &str) {
        let error = parse_rules(rules).expect_err(message);
        assert_eq!(error.to_string(), message);
        assert_eq!(error.path(), path);
        assert!(!error.unsupported(), "{error}");
    }

    #[test]
    fn takes_what_the_console_and_people_write() {
        parse_rules(&[selection(), rename()]).unwrap();
        let console = json!({
            "rule-type": "selection", "rule-id": "447422326", "rule-name": "447422326",
            "object-locator": { "schema-name": "dbo", "table-name": "Cursos" },
            "rule-action": "include", "filters": [], "parallel-load": null, "isAutoSegmentationChecked": false
        });
        parse_rules(&[console]).unwrap();
        let nulls = json!({
            "rule-type": "transformation", "rule-id": 7, "rule-name": "Lowercase Column Name Rule",
            "rule-target": "column", "value": null, "old-value": null, "load-order": null, "before-image-def": null,
            "object-locator": { "schema-name": "%", "table-name": "%", "column-name": "%" },
            "rule-action": "convert-lowercase", "tag-set": null
        });
        parse_rules(&[nulls, with(selection(), &[("rule-id", json!(1)), ("load-order", json!(2))])]).unwrap();
        let equal_names = with(rename(), &[("rule-name", json!("1"))]);
        parse_rules(&[selection(), equal_names]).unwrap();
        parse_rules(&[selection(), with(rename(), &[("object-locator.column-name", json!("%"))])]).unwrap();
    }

    #[test]
    fn keeps_transformations_in_order_of_their_ids() {
        let rules = parse_rules(&[
            with(rename(), &[("rule-id", json!("10"))]),
            selection(),
            with(rename(), &[("rule-id", json!("9"))]),
        ]);
        assert_eq!(rules.unwrap().transformations.iter().map(|rule| rule.id).collect::<Vec<_>>(), [9, 10]);
    }

    #[test]
    fn answers_as_aws_does() {
        let text = |document: &str| parse(document).unwrap_err().to_string();
        assert!(text("{\"rules\": }").starts_with("Invalid Table Mappings document. Invalid json "));
        assert!(text("{\"hello\": \"world\"}").starts_with("Valid Table mappings is required"));
        assert!(text("[]").starts_with("Valid Table mappings is required"));
        assert_eq!(text("{\"rules\": {}}"), "Valid Table mappings is required: rules must be an array, not an object");
        refuses(
            &[with(selection(), &[("rule-type", json!("select"))])],
            "rules[0].rule-type",
            "Invalid table mappings document. rules[0].rule-type is \"select\"; it must be one of selection, \
             transformation, table-settings, object-mapping, post-processing",
        );
        refuses(
            &[with(selection(), &[("rule-action", json!("including"))])],
            "rules[0].rule-action",
            "Invalid table mappings document. rules[0].rule-action is \"including\"; it must be one of include, \
             exclude, explicit",
        );
        refuses(
            &[without(selection(), "object-locator")],
            "rules[0].object-locator",
            "Error in mapping rules. Rule with ruleId = 1 failed validation. object locator cannot be null \
             (rules[0].object-locator)",
        );
        refuses(
            &[selection(), with(selection(), &[("rule-id", json!(1))])],
            "rules[1].rule-id",
            "Error in mapping rules. Duplicate ruleid 1 (rules[1].rule-id)",
        );
        refuses(
            &[with(selection(), &[("rule-action", json!("exclude"))]), rename()],
            "rules",
            "Error in mapping rules. At least one selection rule is required. Its rule-action must be include or \
             explicit (rules)",
        );
    }

    /// Each mistake by the end of its path and a part of its message.
    #[test]
    fn names_the_offender() {
        let column = |action: &str| {
            with(
                rename(),
                &[
                    ("rule-action", json!(action)),
                    ("rule-target", json!("column")),
                    ("object-locator.column-name", json!("c")),
                ],
            )
        };
        let before = |definition| with(column("add-before-image-columns"), &[("before-image-def", definition)]);
        for (rule, path, part) in [
            (without(selection(), "rule-type"), "rule-type", "is required"),
            (without(selection(), "rule-id"), "rule-id", "is required"),
            (without(selection(), "rule-name"), "rule-name", "is required"),
            (without(selection(), "rule-action"), "rule-action", "is required"),
            (without(selection(), "object-locator.table-name"), "object-locator.table-name", "is required"),
            (with(selection(), &[("object-locator.schema-name", json!(""))]), "object-locator.schema-name", "empty"),
            (with(selection(), &[("object-locator.schema-name", json!(5))]), "object-locator.schema-name", "string"),
            (
                with(selection(), &[("object-locator.table", json!("x"))]),
                "object-locator.table",
                "known here: schema-n",
            ),
            (
                with(selection(), &[("object-locator.table-type", json!("View"))]),
                "object-locator.table-type",
                "view, all",
            ),
            (with(selection(), &[("object-locator", json!("x"))]), "object-locator", "must be an object, not a string"),
            (with(selection(), &[("rule-id", json!("x"))]), "rule-id", "whole number"),
            (with(selection(), &[("rule-id", json!(1.5))]), "rule-id", "whole number"),
            (with(selection(), &[("rule-id", json!("-1"))]), "rule-id", "whole number"),
            (with(selection(), &[("rule-name", json!([]))]), "rule-name", "must be a string"),
            (with(selection(), &[("rule-typo", json!(1))]), "rule-typo", "is not a known key"),
            (with(selection(), &[("load-order", json!(0))]), "load-order", "from 1 to 2147483647"),
            (with(selection(), &[("load-order", json!("2147483648"))]), "load-order", "from 1 to 2147483647"),
            (with(selection(), &[("rule-action", json!("explicit"))]), "object-locator.table-name", "exact name"),
            (without(rename(), "rule-target"), "rule-target", "is required"),
            (without(rename(), "value"), "value", "rule-action rename needs value"),
            (without(rename(), "object-locator.table-name"), "object-locator.table-name", "is required"),
            (with(rename(), &[("value", json!(""))]), "value", "non-empty"),
            (with(rename(), &[("rule-action", json!("replace-prefix"))]), "old-value", "needs old-value"),
            (with(rename(), &[("rule-action", json!("Rename"))]), "rule-action", "convert-lowercase"),
            (with(rename(), &[("rule-target", json!("database"))]), "rule-target", "schema, table, column"),
            (with(rename(), &[("rule-target", json!("column"))]), "object-locator.column-name", "is required"),
            (with(rename(), &[("object-locator.column-name", json!("c"))]), "object-locator.column-name", "no column-"),
            (with(rename(), &[("object-locator.table-type", json!("all"))]), "object-locator.table-type", "known key"),
            (
                with(column("remove-column"), &[("rule-target", json!("table"))]),
                "rule-target",
                "needs rule-target column",
            ),
            (column("add-before-image-columns"), "before-image-def", "needs before-image-def"),
            (before(json!({})), "before-image-def.column-filter", "is required"),
            (before(json!({ "column-filter": "pk" })), "before-image-def.column-filter", "pk-only, non-lob, all"),
            (before(json!({ "prefix": "x" })), "before-image-def.prefix", "known here: column-prefix"),
            (
                before(json!({ "column-filter": "all", "column-prefix": "" })),
                "before-image-def.column-prefix",
                "must not both be empty",
            ),
        ] {
            let rules = [with(selection(), &[("rule-id", json!(99))]), rule];
            let error = parse_rules(&rules).expect_err(path);
            assert_eq!(error.path(), format!("rules[1].{path}"), "{error}");
            assert!(error.to_string().contains(part) && error.to_string().contains(error.path()), "{error}");
            assert!(!error.unsupported());
        }
        let error = parse(&json!({ "rules": [selection()], "rule": [] }).to_string()).unwrap_err();
        assert_eq!(error.path(), "rule");
    }

    #[test]
    fn says_what_is_not_built_yet() {
        let filter = json!([{ "filter-type": "source", "column-name": "id", "filter-conditions": [] }]);
        for (rule, path) in [
            (with(selection(), &[("filters", filter)]), "filters"),
            (with(selection(), &[("rule-type", json!("table-settings"))]), "rule-type"),
            (with(selection(), &[("parallel-load", json!({ "type": "partitions-auto" }))]), "parallel-load"),
            (with(rename(), &[("rule-action", json!("add-column"))]), "rule-action"),
            (with(rename(), &[("rule-action", json!("data-masking-hash-mask"))]), "rule-action"),
            (with(rename(), &[("rule-target", json!("table-tablespace"))]), "rule-target"),
            (with(rename(), &[("expression", json!("$SCHEMA_NAME_VAR"))]), "expression"),
            (with(rename(), &[("object-locator.data-type", json!("int4"))]), "object-locator.data-type"),
        ] {
            let rules = [with(selection(), &[("rule-id", json!(99))]), rule.clone()];
            let error = parse_rules(&rules).expect_err(path);
            assert!(error.unsupported(), "{error}");
            assert_eq!(error.path(), format!("rules[1].{path}"));
            assert!(error.to_string().starts_with("Not supported yet in table mappings: "), "{error}");

            let wrong = with(selection(), &[("rule-id", json!(99)), ("rule-action", json!("x"))]);
            assert!(!parse_rules(&[rule, wrong]).unwrap_err().unsupported(), "a mistake comes first");
        }
    }

    #[test]
    fn reads_no_document_over_the_limit() {
        let fill = " ".repeat(Mapping::DOCUMENT_BYTES_MAX);
        let error = parse(&format!("{{\"rules\":[{}]}}{fill}", selection())).unwrap_err();
        assert!(error.to_string().contains("at most 2097152 are allowed"), "{error}");
    }
}
