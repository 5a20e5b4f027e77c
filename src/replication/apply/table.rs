//! A table of the log on its way to the target.

use std::sync::Arc;

use super::super::net::NetChanges;
use super::super::policy::Errors;
use super::super::progress::Counts;
use super::super::rules::Rules;
use super::Known;
use crate::data::{Result, TableVersion};
use crate::mapping::TablePlan;

pub(super) struct Table {
    pub version: Arc<TableVersion>,
    pub plan: TablePlan,
    /// The columns of the target that tell rows apart, and where the log's rows have them.
    pub key: Vec<usize>,
    pub source_key: Vec<usize>,
    /// For each column of the target where the rows that are applied have it: before images come after the row of the
    /// log.
    pub columns: Vec<usize>,
    /// At most one row has a key.
    pub unique: bool,
    /// Its rows mark transactions that came from the target.
    pub is_echo: bool,
    pub waiting: NetChanges,
    pub tally: Tally,
}

/// What outlives a change of the table's definition.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub captured: Counts,
    pub applied: Counts,
    pub errors: Errors,
    /// Nothing of it is applied any more.
    pub suspended: bool,
    /// It has to be loaded before it is followed.
    pub unloaded: bool,
    /// Something of it changed since the last commit.
    pub touched: bool,
}

impl Tally {
    /// Where a table of this name is met for the first time.
    pub fn of(known: &Known) -> Tally {
        let Known { captured, applied, suspended, gone, errors } = *known;
        Tally { captured, applied, errors, suspended: suspended && !gone, ..Tally::default() }
    }
}

impl Table {
    pub fn new(version: &Arc<TableVersion>, plan: TablePlan, tally: Tally) -> Table {
        let of_target = |columns: &[usize]| -> Option<Vec<usize>> {
            columns.iter().map(|column| plan.columns.iter().position(|moved| moved == column)).collect()
        };
        let known = plan.source.row_key();
        // The log must have the whole key of every row that changes.
        let unique = !known.is_empty() && known.iter().all(|column| version.identity.contains(column));
        let source_key = if unique { known.to_vec() } else { version.identity.clone() };
        let (key, unique) = match of_target(&source_key) {
            Some(key) => (key, unique),
            None => (Vec::new(), false),
        };
        let width = version.schema.columns.len();
        Table {
            version: version.clone(),
            key,
            source_key,
            columns: plan.columns.iter().copied().chain((0..plan.before_images.len()).map(|n| width + n)).collect(),
            unique,
            is_echo: false,
            waiting: NetChanges::default(),
            tally,
            plan,
        }
    }

    pub fn planned(version: &Arc<TableVersion>, rules: &Rules, tally: Tally) -> Result<Table> {
        Ok(Table::new(version, rules.plan(&version.schema)?, tally))
    }
}
