//! The API on the wire: its Smithy model, the types of its messages, validation against the model, and faults.
//!
//! A leaf: knows JSON and the model, nothing of HTTP, of resources or of how an operation is carried out.
//! `shapes` and `operation` are generated from the model in `smithy-models/` by the test in `codegen`.

#[cfg(test)]
mod codegen;
mod fault;
pub mod model;
mod operation;
mod scalar;
pub mod shapes;
mod timestamp;

pub use fault::Fault;
pub use model::model;
pub use operation::Operation;
pub use scalar::{Blob, Sensitive};
pub use timestamp::Timestamp;
