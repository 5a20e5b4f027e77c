//! dms-local: a local AWS Database Migration Service.

pub mod connector;
pub mod data;
pub mod sandbox;
