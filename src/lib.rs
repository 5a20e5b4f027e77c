//! dms-local: a local AWS Database Migration Service.

pub mod api;
pub mod aws;
pub mod connector;
pub mod data;
pub mod server;
