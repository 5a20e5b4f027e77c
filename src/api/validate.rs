//! Checks messages against the model, so that no handler sees a request of the wrong form and none answers outside the
//! model.
//!
//! DMS is known to be lenient where its model is strict: enum values are taken in any case and with `-` for `_`, and
//! unknown members are ignored. What DMS itself refuses it answers as `InvalidParameterValueException`, whatever the
//! constraint.

use std::fmt;

use serde_json::{Map, Value};

use super::model::{Bounds, Kind, Member, Model, Shape, ShapeId, TimestampFormat, model};
use super::{Blob, Fault, Operation, Timestamp};

/// Values that the service takes and sends although its model does not list them: the shape and the value.
const BEYOND_MODEL: &[(&str, &str)] = &[
    // DescribeEvents lists the events of tasks with this type.
    ("SourceType", "replication-task"),
];

/// At most this many violations are told at once …
const VIOLATIONS_MAX: usize = 20;
/// … and of a value no more than this many characters.
const ECHO_CHARS_MAX: usize = 64;

/// Checks a request's body: types first (`SerializationException`), then required members, lengths, ranges and enums
/// (`InvalidParameterValueException`). The message names every violation.
pub fn validate_input(operation: Operation, body: &Value) -> Result<(), Fault> {
    let mut check = Check::new(Direction::Request);
    match (model().operation(operation).input, body) {
        (Some(input), _) => check.value(input, body, &Path::Root),
        (None, Value::Object(_)) => {}
        (None, _) => check.wrong_type(&Path::Root, body, "a structure"),
    }
    check.outcome()
}

/// Checks a response's body just as strictly, and that it has no member the model does not know. For tests and debug
/// builds; says what is wrong.
pub fn validate_output(operation: Operation, body: &Value) -> Result<(), String> {
    let mut check = Check::new(Direction::Response);
    match model().operation(operation).output {
        Some(output) => check.value(output, body, &Path::Root),
        None if body.as_object().is_some_and(Map::is_empty) => {}
        None => check.wrong_type(&Path::Root, body, "an empty structure"),
    }
    check.outcome().map_err(|fault| format!("{} answers outside the model: {}", operation.name(), fault.message))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Response,
}

struct Check {
    model: &'static Model,
    direction: Direction,
    wrong_types: Violations,
    wrong_values: Violations,
}

impl Check {
    fn new(direction: Direction) -> Check {
        Check { model: model(), direction, wrong_types: Violations::default(), wrong_values: Violations::default() }
    }

    /// The front door reads the whole message before the service looks at its values, so wrong types come first.
    fn outcome(self) -> Result<(), Fault> {
        if let Some(message) = self.wrong_types.into_message("; ") {
            Err(Fault::serialization(message))
        } else if let Some(message) = self.wrong_values.into_message(" ") {
            Err(Fault::invalid_parameter_value(message))
        } else {
            Ok(())
        }
    }

    fn value(&mut self, id: ShapeId, value: &Value, path: &Path) {
        let shape = self.model.shape(id);
        match (&shape.kind, value) {
            (Kind::Structure(members), Value::Object(object)) => self.structure(shape, members, object, path),
            (Kind::Union(members), Value::Object(object)) => {
                self.structure(shape, members, object, path);
                self.union(members, object, path);
            }
            (Kind::List(element), Value::Array(values)) => {
                self.length(shape.length, values.len(), "elements", path);
                for (index, value) in values.iter().enumerate() {
                    // AWS itself lists the public address of a private instance as null.
                    if value.is_null() && self.direction == Direction::Response {
                        continue;
                    }
                    self.value(*element, value, &Path::Element(path, index));
                }
            }
            (Kind::Map { key: _, value }, Value::Object(object)) => {
                self.length(shape.length, object.len(), "elements", path);
                for (name, entry) in object {
                    self.value(*value, entry, &Path::Member(path, name));
                }
            }
            (Kind::Enum(values), Value::String(text)) => self.one_of(shape, values, text, path),
            (Kind::String, Value::String(text)) => {
                if shape.length.is_some() {
                    self.length(shape.length, text.chars().count(), "characters", path);
                }
            }
            (Kind::Integer, Value::Number(number))
                if number.as_i64().is_some_and(|number| i32::try_from(number).is_ok()) =>
            {
                self.range(shape.range, number.as_f64(), path);
            }
            (Kind::Long, Value::Number(number)) if number.is_i64() => self.range(shape.range, number.as_f64(), path),
            (Kind::Double, Value::Number(number)) => self.range(shape.range, number.as_f64(), path),
            (Kind::Boolean, Value::Bool(_)) => {}
            (Kind::Timestamp(format), value) if self.is_timestamp(*format, value) => {}
            (Kind::Blob, Value::String(text)) if Blob::parse(text).is_some() => {}
            _ => self.wrong_type(path, value, expected(&shape.kind)),
        }
    }

    fn structure(&mut self, shape: &Shape, members: &[Member], object: &Map<String, Value>, path: &Path) {
        for (name, value) in object {
            match members.iter().find(|member| member.name == name) {
                // A request's null means that the member is not there; a response leaves it out.
                Some(_) if value.is_null() && self.direction == Direction::Request => {}
                Some(member) => self.value(member.target, value, &Path::Member(path, name)),
                None if self.direction == Direction::Request => {}
                None => {
                    self.wrong_types.add(format_args!("{} is no member of {}.", Path::Member(path, name), shape.name))
                }
            }
        }
        for member in members.iter().filter(|member| member.required) {
            if object.get(member.name).is_none_or(is_blank) {
                // Observed as "The parameter serverName must be provided and must not be blank."; that required
                // members are named like that too, and nested ones with their path, is a guess.
                let path = Path::Member(path, member.name);
                self.wrong_values
                    .add(format_args!("The parameter {} must be provided and must not be blank.", path.lower_camel()));
            }
        }
    }

    /// The wording is a guess.
    fn union(&mut self, members: &[Member], object: &Map<String, Value>, path: &Path) {
        let given = members.iter().filter(|member| object.get(member.name).is_some_and(|value| !value.is_null()));
        if given.count() != 1 {
            let names: Vec<&str> = members.iter().map(|member| member.name).collect();
            self.wrong_values.add(format_args!(
                "The parameter {} must have exactly one of the members {}.",
                path.lower_camel(),
                names.join(", ")
            ));
        }
    }

    /// Observed as "StartReplicationTaskType start-replicate is invalid".
    fn one_of(&mut self, shape: &Shape, values: &[&str], text: &str, path: &Path) {
        let beyond = BEYOND_MODEL.iter().filter(|(name, _)| *name == shape.name).map(|(_, value)| value);
        if !values.iter().chain(beyond).any(|value| same_enum_value(value, text)) {
            let echo: String = text.chars().take(ECHO_CHARS_MAX).collect();
            self.wrong_values.add(format_args!("{path} {echo} is invalid"));
        }
    }

    /// The wording is a guess.
    fn length(&mut self, bounds: Option<Bounds<u64>>, length: usize, unit: &str, path: &Path) {
        let Some(bounds) = bounds else { return };
        let length = length as u64;
        if let Some(min) = bounds.min.filter(|min| length < *min) {
            let path = path.lower_camel();
            self.wrong_values.add(format_args!("The parameter {path} must have at least {min} {unit}."));
        }
        if let Some(max) = bounds.max.filter(|max| length > *max) {
            let path = path.lower_camel();
            self.wrong_values.add(format_args!("The parameter {path} must have at most {max} {unit}."));
        }
    }

    /// The wording is a guess, after "Invalid value 3412 for MaxRecords. Must be between 20 and 1000" of RDS.
    fn range(&mut self, bounds: Option<Bounds<f64>>, number: Option<f64>, path: &Path) {
        let (Some(bounds), Some(number)) = (bounds, number) else { return };
        if let Some(min) = bounds.min.filter(|min| number < *min) {
            self.wrong_values.add(format_args!("Invalid value {number} for {path}. Must be at least {min}"));
        }
        if let Some(max) = bounds.max.filter(|max| number > *max) {
            self.wrong_values.add(format_args!("Invalid value {number} for {path}. Must be at most {max}"));
        }
    }

    fn is_timestamp(&self, format: TimestampFormat, value: &Value) -> bool {
        let sent = match (self.direction, format) {
            (Direction::Request, _) => true,
            (Direction::Response, TimestampFormat::EpochSeconds) => value.is_number(),
            (Direction::Response, TimestampFormat::Iso8601) => value.is_string(),
        };
        let parsed = match value {
            Value::Number(number) => number.as_f64().and_then(Timestamp::from_seconds),
            Value::String(text) => Timestamp::from_iso8601(text),
            _ => None,
        };
        sent && parsed.is_some()
    }

    /// Worded after what services of this protocol are known to answer; not observed for DMS. Without the value: it
    /// may be a password.
    fn wrong_type(&mut self, path: &Path, value: &Value, expected: &str) {
        let found = match value {
            Value::Null => "NULL_VALUE",
            Value::Bool(_) => "BOOLEAN_VALUE",
            Value::Number(_) => "NUMBER_VALUE",
            Value::String(_) => "STRING_VALUE",
            Value::Array(_) => "LIST_VALUE",
            Value::Object(_) => "STRUCTURE_VALUE",
        };
        self.wrong_types.add(format_args!("{found} can not be converted to {expected} at {path}"));
    }
}

fn expected(kind: &Kind) -> &'static str {
    match kind {
        Kind::Structure(_) | Kind::Union(_) => "a structure",
        Kind::List(_) => "a list",
        Kind::Map { .. } => "a map",
        Kind::Enum(_) | Kind::String => "a String",
        Kind::Boolean => "a Boolean",
        Kind::Integer => "an Integer",
        Kind::Long => "a Long",
        Kind::Double => "a Double",
        Kind::Timestamp(_) => "a Timestamp",
        Kind::Blob => "a Blob (base64)",
    }
}

fn is_blank(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.trim().is_empty(),
        _ => false,
    }
}

/// `SSE_S3` is observed to be taken for `sse-s3`, `SOURCE` for `source`.
fn same_enum_value(one: &str, other: &str) -> bool {
    let plain = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(one, other)| plain(one) == plain(other))
}

/// Sentences, of which the first few are kept.
#[derive(Default)]
struct Violations {
    sentences: Vec<String>,
    count: usize,
}

impl Violations {
    fn add(&mut self, sentence: fmt::Arguments<'_>) {
        self.count += 1;
        if self.sentences.len() < VIOLATIONS_MAX {
            self.sentences.push(sentence.to_string());
        }
    }

    fn into_message(mut self, separator: &str) -> Option<String> {
        let untold = self.count - self.sentences.len();
        if untold > 0 {
            self.sentences.push(format!("({untold} more)"));
        }
        (self.count > 0).then(|| self.sentences.join(separator))
    }
}

/// Where in a message we are; written out only when something is wrong there.
enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Element(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// `mySQLSettings.serverName`, as DMS names parameters in its messages.
    fn lower_camel(&self) -> String {
        let mut out = String::new();
        let mut starts_name = true;
        for letter in self.to_string().chars() {
            out.push(if starts_name { letter.to_ascii_lowercase() } else { letter });
            starts_name = letter == '.';
        }
        out
    }
}

impl fmt::Display for Path<'_> {
    /// `Filters[0].Name`, as in the API.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => f.write_str("the request body"),
            Path::Member(Path::Root, name) => f.write_str(name),
            Path::Member(parent, name) => write!(f, "{parent}.{name}"),
            Path::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::probe::{self, Extent};
    use super::*;

    /// Every operation with its input, for those that have one.
    fn inputs() -> impl Iterator<Item = (Operation, ShapeId)> {
        Operation::ALL.into_iter().filter_map(|operation| Some((operation, model().operation(operation).input?)))
    }

    #[test]
    fn minimal_and_full_messages_of_every_operation_pass() {
        for (operation, input) in inputs() {
            for extent in [Extent::Required, Extent::All] {
                for sample in probe::samples(input, extent) {
                    assert_eq!(validate_input(operation, &sample), Ok(()), "{operation:?} {sample}");
                }
            }
        }
        for operation in Operation::ALL {
            for sample in model().operation(operation).output.map_or(vec![], |out| probe::samples(out, Extent::All)) {
                assert_eq!(validate_output(operation, &sample), Ok(()), "{sample}");
            }
        }
    }

    #[test]
    fn every_required_member_that_is_missing_is_named() {
        let mut probed = 0;
        for (operation, input) in inputs() {
            for sample in probe::samples(input, Extent::All) {
                for (pointer, member) in probe::members(input, &sample) {
                    if !member.required {
                        continue;
                    }
                    for blank in [None, Some(Value::Null), Some(json!(" "))] {
                        if blank == Some(json!(" ")) && !probe::is_string(member.target) {
                            continue;
                        }
                        let mut broken = sample.clone();
                        probe::put(&mut broken, &pointer, blank);
                        let fault = validate_input(operation, &broken).unwrap_err();
                        assert_eq!(fault.code, "InvalidParameterValueException", "{operation:?} {pointer}: {fault}");
                        let name = member.name[..1].to_lowercase() + &member.name[1..];
                        let end = format!("{name} must be provided and must not be blank.");
                        assert!(fault.message.ends_with(&end), "{operation:?} {pointer}: {fault}");
                        probed += 1;
                    }
                }
            }
        }
        assert!(probed > 400, "only {probed} probes");
    }

    #[test]
    fn every_member_of_the_wrong_type_is_named() {
        let mut probed = 0;
        for (operation, input) in inputs() {
            for sample in probe::samples(input, Extent::All) {
                for (pointer, member) in probe::members(input, &sample) {
                    let wrong = probe::of_wrong_type(member.target);
                    let mut broken = sample.clone();
                    probe::put(&mut broken, &pointer, Some(wrong));
                    let fault = validate_input(operation, &broken).unwrap_err();
                    assert_eq!(fault.code, "SerializationException", "{operation:?} {pointer}: {fault}");
                    assert!(fault.message.ends_with(member.name), "{operation:?} {pointer}: {fault}");
                    probed += 1;
                }
            }
        }
        assert!(probed > 1000, "only {probed} probes");
    }

    #[test]
    fn a_response_with_a_member_outside_the_model_is_refused() {
        let refused = |body: Value| validate_output(Operation::DescribeEndpoints, &body).is_err();
        assert!(!refused(json!({})));
        assert!(!refused(json!({ "Endpoints": [{ "EndpointType": "SOURCE", "Port": 5432 }] })));
        assert!(refused(json!({ "Endpoints": [{ "EndpointTyp": "SOURCE" }] })));
        assert!(refused(json!({ "Endpoints": [{ "Port": "5432" }] })));
        assert!(refused(json!({ "Endpoints": [{ "EndpointType": "sauce" }] })));
        assert!(refused(json!({ "Marker": null })));
        assert!(validate_output(Operation::StartRecommendations, &json!({})).is_ok());
        assert!(validate_output(Operation::StartRecommendations, &json!({ "A": 1 })).is_err());
    }

    #[test]
    fn a_response_has_each_timestamp_in_its_own_format() {
        let task = |date: Value| json!({ "ReplicationTask": { "ReplicationTaskCreationDate": date } });
        assert!(validate_output(Operation::CreateReplicationTask, &task(json!(1590524772.505))).is_ok());
        assert!(validate_output(Operation::CreateReplicationTask, &task(json!("2020-05-26T20:26:12Z"))).is_err());
        let provider = |date: Value| json!({ "DataProvider": { "DataProviderCreationTime": date } });
        assert!(validate_output(Operation::CreateDataProvider, &provider(json!("2020-05-26T20:26:12.5Z"))).is_ok());
        assert!(validate_output(Operation::CreateDataProvider, &provider(json!(1590524772.505))).is_err());
    }

    fn endpoint(changes: Value) -> Result<(), Fault> {
        let mut body = json!({ "EndpointIdentifier": "e", "EndpointType": "source", "EngineName": "mysql" });
        body.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        validate_input(Operation::CreateEndpoint, &body)
    }

    #[test]
    fn all_violations_are_told_at_once_and_types_come_first() {
        let fault = validate_input(Operation::CreateEndpoint, &json!({ "EndpointIdentifier": "" })).unwrap_err();
        assert_eq!(
            fault.message,
            "The parameter endpointIdentifier must be provided and must not be blank. \
             The parameter endpointType must be provided and must not be blank. \
             The parameter engineName must be provided and must not be blank."
        );
        let body = json!({ "Port": "3306", "MySQLSettings": { "Port": true }, "Tags": [{ "Key": 1 }] });
        let fault = validate_input(Operation::CreateEndpoint, &body).unwrap_err();
        assert_eq!(fault.code, "SerializationException");
        assert_eq!(
            fault.message,
            "STRING_VALUE can not be converted to an Integer at Port; \
             BOOLEAN_VALUE can not be converted to an Integer at MySQLSettings.Port; \
             NUMBER_VALUE can not be converted to a String at Tags[0].Key"
        );
    }

    #[test]
    fn a_flood_of_violations_gives_a_short_message() {
        let fault = endpoint(json!({ "Tags": vec![1; 100_000] })).unwrap_err();
        assert!(fault.message.len() < 2_000 && fault.message.ends_with("(99980 more)"), "{fault}");
        let fault = endpoint(json!({ "SslMode": "x".repeat(100_000) })).unwrap_err();
        assert!(fault.message.len() < 100, "{fault}");
    }

    #[test]
    fn enum_values_are_taken_in_any_case_and_spelling() {
        for (name, values) in
            [("EndpointType", &["source", "SOURCE", "Target"][..]), ("SslMode", &["none", "verify-ca", "VERIFY_FULL"])]
        {
            for value in values {
                assert_eq!(endpoint(json!({ name: value })), Ok(()), "{name} {value}");
            }
        }
        assert_eq!(endpoint(json!({ "S3Settings": { "EncryptionMode": "SSE_S3" } })), Ok(()));
        let fault = endpoint(json!({ "EndpointType": "both" })).unwrap_err();
        assert_eq!(fault, Fault::invalid_parameter_value("EndpointType both is invalid"));
        let events = |kind: &str| validate_input(Operation::DescribeEvents, &json!({ "SourceType": kind }));
        assert_eq!(events("replication-task"), Ok(()));
        assert!(events("replication").is_err());
    }

    #[test]
    fn numbers_must_fit_their_type() {
        assert_eq!(endpoint(json!({ "Port": 2147483647 })), Ok(()));
        for wrong in [json!(2147483648_i64), json!(1.5), json!(1e3), json!(u64::MAX)] {
            assert_eq!(endpoint(json!({ "Port": wrong })).unwrap_err().code, "SerializationException", "{wrong}");
        }
    }

    #[test]
    fn lengths_are_checked() {
        let create = |class: String| {
            let body = json!({ "ReplicationInstanceIdentifier": "i", "ReplicationInstanceClass": class });
            validate_input(Operation::CreateReplicationInstance, &body)
        };
        assert_eq!(create("ü".repeat(30)), Ok(()));
        assert_eq!(
            create("ü".repeat(31)).unwrap_err().message,
            "The parameter replicationInstanceClass must have at most 30 characters."
        );
    }

    #[test]
    fn nulls_and_unknown_members_of_a_request_are_ignored() {
        assert_eq!(endpoint(json!({ "Username": null, "NoSuchMember": 1, "MySQLSettings": { "Port": null } })), Ok(()));
        assert!(endpoint(json!({ "Tags": [null] })).is_err());
    }

    #[test]
    fn a_body_that_is_no_object_is_refused() {
        for operation in [Operation::DescribeEndpoints, Operation::RunFleetAdvisorLsaAnalysis] {
            for body in [json!([]), json!(null), json!("x"), json!(1)] {
                let fault = validate_input(operation, &body).unwrap_err();
                assert_eq!(fault.code, "SerializationException");
                assert!(fault.message.ends_with("at the request body"), "{fault}");
            }
            assert_eq!(validate_input(operation, &json!({})), Ok(()));
        }
    }

    #[test]
    fn no_value_is_ever_repeated_but_an_enum_s() {
        let fault = endpoint(json!({ "Password": ["hunter2"], "Port": "hunter2" })).unwrap_err();
        assert!(!fault.message.contains("hunter2"), "{fault}");
    }
}
