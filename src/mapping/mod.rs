//! Table mappings: which tables a task moves and what they are called on the target.
//!
//! [`Mapping::parse`] reads the JSON document of a task's `TableMappings` and checks all of it; the rest asks the
//! result questions and cannot fail on the document any more. Knows `data` and nothing else: no engine, no task.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TableMapping.SelectionTransformation.html>
//!
//! Supported: selection rules (include, exclude, explicit) and transformation rules that rename schemas, tables and
//! columns, choose columns or add before images. Everything else that DMS documents is recognised and refused by name, see
//! [`MappingError::unsupported`].

mod error;
mod pattern;
mod plan;
mod rules;
mod select;

pub use error::MappingError;
pub use plan::{TablePlan, check_targets};
pub use select::Selection;

use rules::Rules;

/// A table-mapping document that has been checked.
#[derive(Clone, Debug)]
pub struct Mapping {
    rules: Rules,
}

impl Mapping {
    /// The largest document that is read, in bytes: DMS's own limit of 2 MB. It bounds the number of rules too.
    pub const DOCUMENT_BYTES_MAX: usize = 2 * 1024 * 1024;

    /// Reads and checks a whole document. The first thing that is wrong is reported; a document in which nothing is
    /// wrong but which needs something that is not built yet gives an error that is
    /// [`unsupported`](MappingError::unsupported).
    pub fn parse(document: &str) -> Result<Mapping, MappingError> {
        Ok(Mapping { rules: rules::parse(document)? })
    }
}
