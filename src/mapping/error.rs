//! What is wrong with a table-mapping document, in AWS's words where they are known.

use std::fmt;

/// The sentence an error opens with. These were recorded from AWS; which mistake gets which is recorded for malformed
/// JSON, a missing `rules`, unknown rule types and actions, a missing object locator, duplicate ids and documents
/// without selection rules, and carried over to their neighbours.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Absent,
    Document,
    Rules,
    Rule(u64),
    Unsupported,
}

/// Why a table-mapping document is refused, or why a table cannot be mapped. Its text is made to be the message of an
/// `InvalidParameterValueException`, or of a `NotImplementedException` when it is
/// [`unsupported`](MappingError::unsupported).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MappingError {
    kind: Kind,
    path: String,
    what: String,
}

impl MappingError {
    fn new(kind: Kind, path: impl Into<String>, what: impl Into<String>) -> MappingError {
        MappingError { kind, path: path.into(), what: what.into() }
    }

    /// The text is not JSON, or too long.
    pub(super) fn json(what: impl Into<String>) -> MappingError {
        MappingError::new(Kind::Json, "", what)
    }

    /// JSON, but not a document of rules.
    pub(super) fn absent(path: impl Into<String>, what: impl Into<String>) -> MappingError {
        MappingError::new(Kind::Absent, path, what)
    }

    /// A key, type or word that no rule may have.
    pub(super) fn document(path: impl Into<String>, what: impl Into<String>) -> MappingError {
        MappingError::new(Kind::Document, path, what)
    }

    /// Rules that do not go together.
    pub(super) fn rules(path: impl Into<String>, what: impl Into<String>) -> MappingError {
        MappingError::new(Kind::Rules, path, what)
    }

    /// One rule that lacks something or contradicts itself.
    pub(super) fn rule(id: u64, path: impl Into<String>, what: impl Into<String>) -> MappingError {
        MappingError::new(Kind::Rule(id), path, what)
    }

    /// Something DMS documents and dms-local does not do yet.
    pub(super) fn not_yet(path: impl Into<String>, what: impl Into<String>) -> MappingError {
        MappingError::new(Kind::Unsupported, path, what)
    }

    /// Whether AWS would take the document and only dms-local does not do yet what it asks for.
    pub fn unsupported(&self) -> bool {
        self.kind == Kind::Unsupported
    }

    /// Where in the document the offender is (`rules[2].object-locator.schema-name`), or the table that cannot be
    /// mapped; empty for a document that is not JSON.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MappingError { kind, path, what } = self;
        match kind {
            Kind::Json => write!(f, "Invalid Table Mappings document. Invalid json {what}"),
            Kind::Absent if path.is_empty() => write!(f, "Valid Table mappings is required: {what}"),
            Kind::Absent => write!(f, "Valid Table mappings is required: {path} {what}"),
            Kind::Document => write!(f, "Invalid table mappings document. {path} {what}"),
            Kind::Rules => write!(f, "Error in mapping rules. {what} ({path})"),
            Kind::Rule(id) => {
                write!(f, "Error in mapping rules. Rule with ruleId = {id} failed validation. {what} ({path})")
            }
            Kind::Unsupported => write!(f, "Not supported yet in table mappings: {what} ({path})"),
        }
    }
}

impl std::error::Error for MappingError {}
