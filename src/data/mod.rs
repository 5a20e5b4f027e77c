//! What the data plane is made of: values, batches of rows, table schemas and errors. No I/O and no async here;
//! every other layer of the data plane speaks in these types.

mod batch;
mod changes;
mod error;
mod position;
mod schema;
mod value;

pub use batch::{Batch, Format, Row};
pub use changes::{Changes, ColumnChange, Ddl, Entry, Op, TableVersion};
pub use error::{Error, ErrorKind, Result};
pub use position::{NoPosition, Position};
pub use schema::{Column, DataType, Family, TableKind, TableName, TableSchema};
pub use value::Value;
