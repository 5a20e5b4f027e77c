//! Tasks at run time: what is loaded, in which order, and what happens when something fails.

pub mod apply;
mod checkpoint;
mod full_load;
mod log;
mod net;
mod policy;
mod progress;
mod pump;
pub mod settings;
#[cfg(test)]
mod simulation;
mod spool;
mod task;

pub use log::TaskLog;
pub use progress::{TableProgress, TableState};
pub use task::{Outcome, Report, Side, StopReason, TaskHandle, TaskSpec, start};
