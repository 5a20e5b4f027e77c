//! What dms-local knows of AWS itself. A leaf.

pub mod sigv4;
