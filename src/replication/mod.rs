//! Tasks at run time: what a task was told to do, and what becomes of its errors.

pub mod policy;
pub mod settings;
