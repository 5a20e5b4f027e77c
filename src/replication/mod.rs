//! Tasks at run time: what is loaded, in which order, and what happens when something fails.

mod apply;
mod checkpoint;
mod control_tables;
mod follow;
mod full_load;
mod log;
mod metrics;
mod net;
mod policy;
mod progress;
mod pump;
mod rules;
mod run;
mod self_report;
pub mod settings;
#[cfg(test)]
mod simulation;
mod spool;
mod task;

pub use checkpoint::{BadPosition, StopPoint, recovery_checkpoint, start_point, stop_point};
pub use log::TaskLog;
pub use metrics::Reading;
pub use progress::{Counts, InLog, TableProgress, TableState};
pub use run::Migration;
pub use spool::Pause;
pub use task::{Outcome, Report, Side, StopReason, TaskHandle, TaskSpec, start};
