//! Tables that the readers of a source have found something out of, which the source goes by.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::data::TableName;

#[derive(Clone, Debug, Default)]
pub struct NotedTables(Arc<Mutex<HashSet<TableName>>>);

impl NotedTables {
    pub fn note(&self, table: TableName) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(table);
    }

    pub fn has(&self, table: &TableName) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(table)
    }

    pub fn all(&self) -> Vec<TableName> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}
