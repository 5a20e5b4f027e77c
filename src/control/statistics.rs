//! Numbers of a task: per table for DescribeTableStatistics, summed up in `ReplicationTaskStats`.

use std::time::{Duration, SystemTime};

use serde_json::{Value as Json, json};

use super::context::Context;
use super::event::{self, Happened};
use super::listing::{PageSize, Paging, check_values, page_of};
use super::{Answer, task};
use crate::api::shapes::{DescribeTableStatisticsMessage, ReloadTablesMessage};
use crate::api::{Fault, Timestamp};
use crate::data::{Position, TableName};
use crate::replication::{InLog, TableProgress, TableState, recovery_checkpoint};
use crate::store::{Resource, TableRecord};

const PAGE: PageSize = PageSize { default: 100, min: 20, max: 500 };

/// Tables that one ReloadTables call may name.
const RELOAD_MAX: usize = 10;

pub async fn describe(context: &Context, request: DescribeTableStatisticsMessage) -> Answer {
    let task = task::find(context, &request.replication_task_arn).await?;
    let mut tables = context.store().tables(&task.arn).await?;
    for filter in request.filters.as_deref().unwrap_or_default() {
        check_values(&filter.name, &filter.values)?;
        let field: fn(&TableRecord) -> &str = match filter.name.as_str() {
            "schema-name" => |table| &table.schema,
            "table-name" => |table| &table.table,
            "table-state" => |table| &table.state,
            other => {
                return Err(Fault::invalid_parameter_value(format!(
                    "Invalid filter name: {other}. Allowed filters: schema-name, table-name, table-state"
                )));
            }
        };
        tables.retain(|table| filter.values.iter().any(|value| value == field(table)));
    }
    let paging = Paging { max_records: request.max_records, marker: request.marker };
    let (page, marker) = page_of(tables, PAGE, &paging)?;
    let page: Vec<Json> = page.into_iter().map(|table| table.body).collect();
    let mut answer = json!({ "ReplicationTaskArn": task.arn, "TableStatistics": page });
    if let Some(marker) = marker {
        answer["Marker"] = marker.into();
    }
    Ok(answer.to_string())
}

/// <https://docs.aws.amazon.com/dms/latest/APIReference/API_ReloadTables.html>
pub async fn reload(context: &Context, request: ReloadTablesMessage) -> Answer {
    let task = task::find(context, &request.replication_task_arn).await?;
    if request.reload_option.as_deref() == Some("validate-only") {
        return Err(Fault::not_implemented_part("ReloadOption validate-only"));
    }
    if request.tables_to_reload.is_empty() || request.tables_to_reload.len() > RELOAD_MAX {
        return Err(Fault::invalid_parameter_value(format!(
            "TablesToReload must name 1 to {RELOAD_MAX} tables, not {}",
            request.tables_to_reload.len()
        )));
    }
    let not_running =
        || Fault::invalid_resource_state(format!("Replication Task {} is currently not running", task.identifier));
    if task.status != "running" {
        return Err(not_running());
    }
    // "You can't use it with CDC-only tasks", says the guide; the words are a guess.
    if task.body["MigrationType"] == "cdc" {
        return Err(Fault::invalid_resource_state(format!(
            "Replication Task {} is of migration type cdc, whose tables cannot be reloaded",
            task.identifier
        )));
    }
    let known = context.store().tables(&task.arn).await?;
    let mut names = Vec::new();
    for table in &request.tables_to_reload {
        let name = TableName::new(&table.schema_name, &table.table_name);
        if !known.iter().any(|known| known.schema == name.schema && known.table == name.table) {
            return Err(Fault::invalid_parameter_value(format!("Table {name} is not part of the replication task")));
        }
        names.push(name);
    }
    match context.with_runner(&task.arn, |runner| runner.reload(names)).unwrap_or(false) {
        true => {
            event::record(context, &task.identifier, Happened::TablesReloaded).await;
            Ok(json!({ "ReplicationTaskArn": task.arn }).to_string())
        }
        false => Err(not_running()),
    }
}

/// Writes changed tables to the store, and the sums of all and the checkpoint to the task. `all` is what this run has
/// reported so far.
pub async fn store(
    context: &Context,
    task_arn: &str,
    all: &mut Vec<TableProgress>,
    changed: Vec<(usize, TableProgress)>,
    checkpoint: Option<Position>,
) -> Result<(), Fault> {
    let records: Vec<TableRecord> = changed.iter().map(|(index, table)| record(*index, table)).collect();
    for (index, table) in changed {
        match all.get_mut(index) {
            Some(slot) => *slot = table,
            // The first report of a run holds all tables, in order.
            None => all.push(table),
        }
    }
    let change = |task: &mut Resource| {
        sum_up(&mut task.body["ReplicationTaskStats"], all);
        if let Some(checkpoint) = checkpoint {
            task.body["RecoveryCheckpoint"] = recovery_checkpoint(&checkpoint).into();
            task.spec["Checkpoint"] = json!(checkpoint);
        }
    };
    context.store().put_progress(task_arn, &records, change).await?;
    Ok(())
}

/// Where an earlier run of a task left the source's log.
pub fn checkpoint(task: &Resource) -> Option<Position> {
    serde_json::from_value(task.spec["Checkpoint"].clone()).ok()
}

/// The stop date and the elapsed time of a run that is over.
pub fn ended(stats: &mut Json) {
    stats["StopDate"] = json!(Timestamp::from(SystemTime::now()));
    set_elapsed(stats);
}

fn set_elapsed(stats: &mut Json) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as f64;
    let started = stats["StartDate"].as_f64().unwrap_or(now / 1000.0) * 1000.0;
    stats["ElapsedTimeMillis"] = ((now - started).max(0.0) as i64).into();
}

fn sum_up(stats: &mut Json, tables: &[TableProgress]) {
    let count = |states: &[TableState]| tables.iter().filter(|table| states.contains(&table.state)).count();
    stats["TablesLoaded"] = count(&[TableState::Completed]).into();
    stats["TablesLoading"] = count(&[TableState::FullLoad, TableState::BeingReloaded]).into();
    stats["TablesQueued"] = count(&[TableState::BeforeLoad]).into();
    stats["TablesErrored"] = count(&[TableState::Error]).into();
    stats["FullLoadProgressPercent"] = percent(tables).into();
    if let Some(first) = tables.iter().filter_map(|table| table.started).min() {
        stats["FullLoadStartDate"] = json!(Timestamp::from(first));
    }
    if count(&[TableState::BeforeLoad, TableState::FullLoad, TableState::BeingReloaded]) == 0
        && let Some(last) = tables.iter().filter_map(|table| table.ended).max()
    {
        stats["FullLoadFinishDate"] = json!(Timestamp::from(last));
    }
    set_elapsed(stats);
}

/// Rows moved of rows expected, each table at least one row; 100 only when every table has ended, well or not.
fn percent(tables: &[TableProgress]) -> u64 {
    let mut done = 0;
    let mut expected = 0;
    let mut all_ended = true;
    for table in tables {
        let weight = table.rows_estimate.max(1);
        expected += weight;
        match table.state {
            TableState::Completed | TableState::Error | TableState::DoesNotExist => done += weight,
            _ => {
                all_ended = false;
                done += table.rows.min(weight);
            }
        }
    }
    match (all_ended, expected) {
        (true, 0) => 0,
        (true, _) => 100,
        (false, _) => (done * 100 / expected).min(99),
    }
}

fn record(index: usize, table: &TableProgress) -> TableRecord {
    let mut body = json!({
        "SchemaName": table.name.schema,
        "TableName": table.name.table,
        "Inserts": table.captured.inserts,
        "Deletes": table.captured.deletes,
        "Updates": table.captured.updates,
        "Ddls": table.captured.ddls,
        "AppliedInserts": table.in_log.applied.inserts,
        "AppliedDeletes": table.in_log.applied.deletes,
        "AppliedUpdates": table.in_log.applied.updates,
        "AppliedDdls": table.in_log.applied.ddls,
        "FullLoadRows": table.rows,
        "FullLoadCondtnlChkFailedRows": 0,
        // AWS fills this for DynamoDB targets only; a refused row shows in awsdms_apply_exceptions.
        "FullLoadErrorRows": 0,
        "FullLoadReloaded": table.reloaded,
        "LastUpdateTime": Timestamp::from(table.updated),
        "TableState": table.state.as_str(),
        "ValidationPendingRecords": 0,
        "ValidationFailedRecords": 0,
        "ValidationSuspendedRecords": 0,
        "ValidationState": "Not enabled",
    });
    if let Some(started) = table.started {
        body["FullLoadStartTime"] = json!(Timestamp::from(started));
    }
    if let Some(ended) = table.ended {
        body["FullLoadEndTime"] = json!(Timestamp::from(ended));
    }
    TableRecord {
        position: index as i64,
        schema: table.name.schema.clone(),
        table: table.name.table.clone(),
        state: table.state.as_str().into(),
        body,
        target_was_empty: table.target_was_empty,
        in_log: match table.in_log == InLog::default() {
            true => String::new(),
            false => serde_json::to_string(&table.in_log).unwrap_or_default(),
        },
    }
}

/// What a resumed task needs to know of a stored table.
pub fn progress(record: &TableRecord) -> Option<TableProgress> {
    let time = |member: &str| {
        let seconds = record.body.get(member)?.as_f64()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::try_from_secs_f64(seconds).ok()?)
    };
    let in_log: InLog = serde_json::from_str(&record.in_log).unwrap_or_default();
    Some(TableProgress {
        captured: in_log.captured,
        in_log,
        state: TableState::of(&record.state)?,
        rows: record.body["FullLoadRows"].as_u64().unwrap_or_default(),
        started: time("FullLoadStartTime"),
        ended: time("FullLoadEndTime"),
        reloaded: record.body["FullLoadReloaded"] == json!(true),
        target_was_empty: record.target_was_empty,
        ..TableProgress::new(TableName::new(&record.schema, &record.table))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(state: TableState, rows: u64, rows_estimate: u64) -> TableProgress {
        TableProgress { state, rows, rows_estimate, ..TableProgress::new(TableName::new("s", "t")) }
    }

    #[test]
    fn percent_moves_with_the_rows_and_is_100_only_at_the_end() {
        let cases = [
            (vec![], 0),
            (vec![table(TableState::BeforeLoad, 0, 100)], 0),
            (vec![table(TableState::FullLoad, 50, 100)], 50),
            (vec![table(TableState::FullLoad, 500, 100)], 99),
            (vec![table(TableState::Completed, 100, 100), table(TableState::BeforeLoad, 0, 300)], 25),
            (vec![table(TableState::Completed, 100, 0), table(TableState::Error, 3, 300)], 100),
            (vec![table(TableState::Completed, 100, 0), table(TableState::DoesNotExist, 0, 0)], 100),
        ];
        for (tables, expected) in cases {
            assert_eq!(percent(&tables), expected, "{tables:?}");
        }
    }

    #[test]
    fn a_stored_table_reads_back() {
        let mut before = table(TableState::Completed, 7, 0);
        before.started = Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_250));
        before.reloaded = true;
        before.target_was_empty = true;
        before.in_log.captured.inserts = 3;
        before.in_log.loaded_at = Some(Position::Lsn(7));
        let after = progress(&record(3, &before)).unwrap();
        assert_eq!((after.state, after.rows, after.reloaded), (TableState::Completed, 7, true));
        assert_eq!((after.started, after.target_was_empty), (before.started, true));
        assert_eq!((after.captured.inserts, after.in_log), (3, before.in_log));
    }
}
