//! Throw-away database servers for tests.

pub mod postgres;
