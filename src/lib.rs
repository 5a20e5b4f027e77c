//! dms-local: a local AWS Database Migration Service, in one process.
//!
//! ```text
//!    main ── config                        the command line
//!      │
//!    server ───────────┐                   HTTP: one POST path, faults, limits
//!      │               ▼
//!   control ────────► api      aws         what each operation does; the wire shapes; SigV4 as a server sees it
//!      │   └────────► store                resources, tags and table statistics, in SQLite
//!      ▼
//!  replication                             tasks at run time: load, changes, recovery, statistics, the task's log
//!      │      │
//!  connector mapping                       one folder per engine family; the table-mapping rules
//!      └► data ◄┘                          values, batches, schemas, errors: no I/O, no async
//! ```
//!
//! A module uses what is below it, never what is above or beside it; the test in `tidy` reads every `use crate::` and
//! holds the code to this picture.
//!
//! - `api` is the model of the API and the types generated from it. Every request is validated against the model before
//!   a handler sees it; in debug builds every answer is, too, so no handler can answer outside it.
//! - `aws` knows what a signed request says about its sender. Nothing is verified yet.
//! - `server` turns HTTP into calls and faults into HTTP. It knows no operation.
//! - `control` carries the operations out, one file per resource family. The table in `control/mod.rs` is the list of
//!   what is built; everything else answers 501. Statuses change only as `control/status.rs` says.
//! - `store` keeps what must survive `kill -9`. It does not know what a resource means.
//! - `replication` runs tasks. It never sees the store: it is given all it needs and reports through one channel of one
//!   closed enum, so that a worker elsewhere can take its place.
//! - `connector` reads from and writes to databases. `ENGINES` is the list; connectors never import each other and never
//!   see a mapping rule.
//! - `mapping` turns a table-mapping document into a plan per table.
//! - `data` is what rows are made of on the way. Memory is bounded by construction: three batches per table that loads,
//!   each of bounded size, however long a row is; of changes, what the spool keeps in memory and one more piece of the log
//!   that is being applied.
//! - `sandbox` starts throw-away database servers, for the demo, the tests and users who have none. It uses nothing else
//!   of this crate.
//!
//! A row's way: `Source → Snapshot → Reader → Batch → Writer → Target`, driven by `replication::pump`, the one data loop.
//! A change's way: `Source → ChangeReader → Changes → Spool → Apply → Applier → Target`. `replication::follow` has one side
//! that reads the log and one that applies; between them the spool holds what the target has not taken yet, in memory, then
//! in a file, then in the source's own log, by not reading on. `replication::apply` keeps the transactions of the source,
//! folds what happens to a row between two commits of the target, and falls back to one change after the other where a set
//! of changes fails.
//!
//! Nothing is lost because of the order in which things become durable: the target's commit, then the checkpoint in the
//! store, then the word to the source that it may forget. After a crash the log is read again from the checkpoint; what the
//! target has already is told by its table `awsdms_txn_state`, which moves in the target's own transactions.
//! `replication::simulation` lets any step fail and any moment be the last, and holds tasks to this.
//!
//! To add an operation: one line in the table of `control/mod.rs` and one function. To add an engine: one folder and one
//! line in `connector::ENGINES`; endpoint checks, connection tests and the task runner all read that list.

pub mod api;
pub mod aws;
pub mod config;
pub mod connector;
pub mod control;
pub mod data;
pub mod mapping;
pub mod replication;
pub mod sandbox;
pub mod server;
pub mod store;

#[cfg(test)]
mod tidy;
