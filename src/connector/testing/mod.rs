//! Real servers for tests: one of each per test process, started on first use, gone with the process.

pub mod mysql;
pub mod postgres;

use super::DurablePlace;

/// For a reader that never hears that its source may forget anything.
pub fn nothing_durable() -> DurablePlace {
    tokio::sync::watch::channel(None).1
}
