//! dms-local: a local AWS Database Migration Service.

pub mod api;
pub mod aws;
pub mod connector;
pub mod data;
pub mod mapping;
pub mod replication;
pub mod sandbox;
pub mod server;
pub mod store;
