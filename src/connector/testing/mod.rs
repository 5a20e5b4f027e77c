//! Real servers for tests: one of each per test process, started on first use, gone with the process.

pub mod mysql;
pub mod postgres;
