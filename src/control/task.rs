//! Replication tasks: what they are, and starting, stopping and changing them. Running them is `replication`'s work;
//! its reports come back here and become statuses and statistics.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value as Json, json};
use tokio::sync::mpsc;

use super::context::Context;
use super::identifier::{already_in_use, check_arn, identifier, new_arn, resource_id};
use super::listing::{FilterBy, Listing, PageSize, Paging, list};
use super::status::{Before, Task, TaskEvent};
use super::{Answer, connection, endpoint, instance, statistics, tag};
use crate::api::shapes::{
    CreateReplicationTaskMessage, DeleteReplicationTaskMessage, DescribeReplicationTasksMessage,
    ModifyReplicationTaskMessage, StartReplicationTaskMessage, StopReplicationTaskMessage,
};
use crate::api::{Fault, Timestamp};
use crate::mapping::{Mapping, MappingError};
use crate::replication::settings::{self, SettingsError, TaskSettings};
use crate::replication::{self, Outcome, Report, Side, TableProgress, TaskLog, TaskSpec};
use crate::store::{Filter, Kind, Resource};

const IDENTIFIER_MAX: usize = 255;

const LISTING: Listing = Listing {
    kind: Kind::ReplicationTask,
    member: "ReplicationTasks",
    miss: Some("No Tasks found matching provided filters"),
    filters: &[
        ("replication-task-arn", FilterBy::Arn),
        ("replication-task-id", FilterBy::Identifier),
        ("migration-type", FilterBy::Member(&["$.MigrationType"])),
        ("endpoint-arn", FilterBy::Member(&["$.SourceEndpointArn", "$.TargetEndpointArn"])),
        ("replication-instance-arn", FilterBy::Member(&["$.ReplicationInstanceArn"])),
    ],
    page: PageSize::USUAL,
};

pub async fn create(context: &Context, request: CreateReplicationTaskMessage) -> Answer {
    let name = identifier("ReplicationTaskIdentifier", &request.replication_task_identifier, IDENTIFIER_MAX)?;
    let instance = instance::find(context, &request.replication_instance_arn).await?;
    let source = endpoint::find(context, "SourceEndpointArn", &request.source_endpoint_arn).await?;
    let target = endpoint::find(context, "TargetEndpointArn", &request.target_endpoint_arn).await?;
    for (found, end) in [(&source, "SOURCE"), (&target, "TARGET")] {
        if found.body["EndpointType"] != end {
            return Err(Fault::invalid_parameter_value(format!(
                "Endpoint {} with ReplicationEngineType {} must be of type {end}",
                found.arn,
                found.body["EngineName"].as_str().unwrap_or_default(),
            )));
        }
        endpoint::runtime_engine(found)?;
    }
    if instance.status != "available" {
        return Err(Fault::invalid_resource_state(format!(
            "Replication instance {} is not available: {}",
            instance.identifier, instance.status
        )));
    }
    check_migration_type(&request.migration_type)?;
    check_positions(request.cdc_start_time.is_some(), request.cdc_start_position.as_deref())?;
    Mapping::parse(&request.table_mappings).map_err(mapping_fault)?;
    let tags = tag::checked(request.tags.as_deref())?;
    let arn = new_arn(&context.owner, "task", request.resource_identifier.as_deref())?;
    let logs = log_names(&instance, &arn);
    let settings = settings::create(request.replication_task_settings.as_deref(), logs).map_err(settings_fault)?;
    check_supported(&settings)?;
    let mut body = json!({
        "ReplicationTaskIdentifier": name,
        "SourceEndpointArn": source.arn,
        "TargetEndpointArn": target.arn,
        "ReplicationInstanceArn": instance.arn,
        "MigrationType": request.migration_type,
        "TableMappings": request.table_mappings,
        "ReplicationTaskSettings": settings,
        "Status": Task::Creating.as_str(),
        "ReplicationTaskCreationDate": Timestamp::from(SystemTime::now()),
        "ReplicationTaskArn": arn,
    });
    set_optional(&mut body, "TaskData", request.task_data);
    set_optional(&mut body, "CdcStartPosition", start_position(request.cdc_start_time, request.cdc_start_position));
    set_optional(&mut body, "CdcStopPosition", request.cdc_stop_position);
    let resource = Resource {
        arn: arn.clone(),
        owner: context.owner.clone(),
        kind: Kind::ReplicationTask,
        identifier: name,
        status: Task::Creating.as_str().into(),
        spec: json!({ "Runs": 0 }),
        body,
    };
    if !context.store().insert(&resource).await? {
        return Err(already_in_use(context, "ReplicationTask", &resource).await?);
    }
    context.store().set_tags(&arn, &tags).await?;
    transition(context, &arn, TaskEvent::Settle, |_| Ok(())).await?;
    Ok(answer(resource.body))
}

pub async fn describe(context: &Context, request: DescribeReplicationTasksMessage) -> Answer {
    let paging = Paging { max_records: request.max_records, marker: request.marker };
    let page = list(context, &LISTING, request.filters.as_deref(), &paging).await?;
    let without_settings = request.without_settings.unwrap_or(false);
    Ok(page.answer(LISTING.member, |item| match without_settings {
        true => drop_settings(&item.body),
        false => item.body,
    }))
}

fn drop_settings(body: &str) -> String {
    match serde_json::from_str::<Json>(body) {
        Ok(Json::Object(mut members)) => {
            // `shift_remove` keeps the order of the others.
            members.shift_remove("ReplicationTaskSettings");
            Json::Object(members).to_string()
        }
        _ => body.to_owned(),
    }
}

pub async fn start(context: &Context, request: StartReplicationTaskMessage) -> Answer {
    let arn = &request.replication_task_arn;
    let task = find(context, arn).await?;
    check_positions(request.cdc_start_time.is_some(), request.cdc_start_position.as_deref())?;
    if Task::of(&task.status).and_then(|status| status.after(TaskEvent::Start)).is_none() {
        return Err(Fault::invalid_resource_state("Replication Task cannot be started, invalid state"));
    }
    let ran_before = runs(&task) > 0;
    let fresh = match request.start_replication_task_type.as_str() {
        "start-replication" if ran_before => {
            return Err(Fault::invalid_parameter_combination(
                "Start Type : START_REPLICATION, valid only for tasks running for the first time",
            ));
        }
        "start-replication" => true,
        // The words for these two on a first run are guessed from the ones above.
        "resume-processing" if !ran_before => {
            return Err(Fault::invalid_parameter_combination(
                "Start Type : RESUME_PROCESSING, not valid for tasks running for the first time",
            ));
        }
        "reload-target" if !ran_before => {
            return Err(Fault::invalid_parameter_combination(
                "Start Type : RELOAD_TARGET, not valid for tasks running for the first time",
            ));
        }
        "resume-processing" => false,
        "reload-target" => true,
        other => {
            return Err(Fault::invalid_parameter_value(format!("StartReplicationTaskType {other} is invalid")));
        }
    };
    check_connections(context, &task).await?;
    let body = transition(context, arn, TaskEvent::Start, |task| {
        let now = json!(Timestamp::from(SystemTime::now()));
        let fresh_start = match fresh {
            true => now.clone(),
            false => task.body["ReplicationTaskStats"].get("FreshStartDate").cloned().unwrap_or(now.clone()),
        };
        task.spec["Runs"] = json!(runs(task) + 1);
        task.body["ReplicationTaskStartDate"] = now.clone();
        task.body["ReplicationTaskStats"] = json!({
            "FullLoadProgressPercent": 0,
            "ElapsedTimeMillis": 0,
            "TablesLoaded": 0,
            "TablesLoading": 0,
            "TablesQueued": 0,
            "TablesErrored": 0,
            "FreshStartDate": fresh_start,
            "StartDate": now,
        });
        if let Json::Object(members) = &mut task.body {
            members.shift_remove("StopReason");
            members.shift_remove("LastFailureMessage");
        }
        Ok(())
    })
    .await?;
    // Not before this call has won the start: another's statistics are not ours to clear.
    if fresh {
        context.store().clear_tables(arn).await?;
    }
    launch(context, arn).await?;
    Ok(answer(body))
}

pub async fn stop(context: &Context, request: StopReplicationTaskMessage) -> Answer {
    let arn = &request.replication_task_arn;
    let task = find(context, arn).await?;
    let not_running =
        || Fault::invalid_resource_state(format!("Replication Task {} is currently not running", task.identifier));
    if Task::of(&task.status).and_then(|status| status.after(TaskEvent::Stop)).is_none() {
        return Err(not_running());
    }
    let body = transition(context, arn, TaskEvent::Stop, |_| Ok(())).await.map_err(|_| not_running())?;
    if context.with_runner(arn, |runner| runner.stop()).is_none() {
        // Its last report is being taken up at this moment, or its process died before this one.
        transition(context, arn, TaskEvent::End, |task| {
            task.body["StopReason"] = "Stop Reason NORMAL".into();
            Ok(())
        })
        .await?;
    }
    Ok(answer(body))
}

pub async fn modify(context: &Context, request: ModifyReplicationTaskMessage) -> Answer {
    let arn = &request.replication_task_arn;
    let task = find(context, arn).await?;
    let name = match &request.replication_task_identifier {
        Some(name) => identifier("ReplicationTaskIdentifier", name, IDENTIFIER_MAX)?,
        None => task.identifier.clone(),
    };
    if name != task.identifier {
        let taken = Filter { identifiers: Some(vec![name.clone()]), ..Filter::default() };
        if let Some(other) = context.store().list(&context.owner, Kind::ReplicationTask, &taken).await?.first() {
            return Err(already_exists(&name, &other.arn));
        }
    }
    if let Some(migration_type) = &request.migration_type {
        check_migration_type(migration_type)?;
    }
    check_positions(request.cdc_start_time.is_some(), request.cdc_start_position.as_deref())?;
    if let Some(mappings) = &request.table_mappings {
        Mapping::parse(mappings).map_err(mapping_fault)?;
    }
    let present = task.body["ReplicationTaskSettings"].as_str().unwrap_or_default();
    let merged = match &request.replication_task_settings {
        Some(patch) => {
            let instance = task.body["ReplicationInstanceArn"].as_str().unwrap_or_default();
            let instance = instance::find(context, instance).await?;
            let logs = log_names(&instance, arn);
            let merged = settings::merge(present, patch, logs).map_err(settings_fault)?;
            check_supported(&merged)?;
            if settings::deletes_task_logs(patch) {
                delete_log(&log_path(context, &instance, arn)).await?;
            }
            Some(merged)
        }
        None => None,
    };
    if task.status == Task::Running.as_str() {
        let only_severity = request.replication_task_identifier.is_none()
            && request.migration_type.is_none()
            && request.table_mappings.is_none()
            && merged.as_deref().is_some_and(|merged| settings::only_logging_severity_changed(present, merged));
        if !only_severity {
            return Err(Fault::invalid_resource_state(
                "Replication Task, excluding logging severity task settings, cannot be modified while it is running state",
            ));
        }
        return change_severity(context, arn, merged.unwrap_or_default()).await;
    }
    let back = match Task::of(&task.status) {
        Some(Task::Failed) => Before::Failed,
        Some(Task::Stopped) => Before::Stopped,
        _ => Before::Ready,
    };
    let body = transition(context, arn, TaskEvent::Modify, |task| {
        task.identifier.clone_from(&name);
        task.body["ReplicationTaskIdentifier"] = name.clone().into();
        set_optional(&mut task.body, "MigrationType", request.migration_type);
        set_optional(&mut task.body, "TableMappings", request.table_mappings);
        set_optional(&mut task.body, "ReplicationTaskSettings", merged);
        set_optional(
            &mut task.body,
            "CdcStartPosition",
            start_position(request.cdc_start_time, request.cdc_start_position),
        );
        set_optional(&mut task.body, "CdcStopPosition", request.cdc_stop_position);
        set_optional(&mut task.body, "TaskData", request.task_data);
        Ok(())
    })
    .await?;
    transition(context, arn, TaskEvent::Back(back), |_| Ok(())).await?;
    Ok(answer(body))
}

async fn change_severity(context: &Context, arn: &str, merged: String) -> Answer {
    let settings = TaskSettings::from_canonical(&merged).map_err(settings_fault)?;
    context.with_runner(arn, |runner| runner.set_log_levels(settings.logging));
    let changed = context.store().update(arn, |task| {
        task.body["ReplicationTaskSettings"] = merged.into();
        Ok::<_, Fault>(task.body.clone())
    });
    Ok(answer(changed.await?.ok_or_else(|| not_found(arn))??))
}

pub async fn delete(context: &Context, request: DeleteReplicationTaskMessage) -> Answer {
    let arn = &request.replication_task_arn;
    find(context, arn).await?;
    let body = transition(context, arn, TaskEvent::Delete, |_| Ok(())).await?;
    context.store().delete(arn).await?;
    context.changed();
    Ok(answer(body))
}

/// The task of this ARN, if it is the caller's.
pub async fn find(context: &Context, arn: &str) -> Result<Resource, Fault> {
    check_arn("ReplicationTaskArn", arn)?;
    let found = context.store().get(arn).await?;
    found
        .filter(|found| found.kind == Kind::ReplicationTask && found.owner == context.owner)
        .ok_or_else(|| not_found(arn))
}

pub async fn using_endpoint(context: &Context, endpoint_arn: &str) -> Result<Vec<Resource>, Fault> {
    let filter = Filter {
        members: vec![(&["$.SourceEndpointArn", "$.TargetEndpointArn"], vec![endpoint_arn.into()])],
        ..Filter::default()
    };
    Ok(context.store().resources(&context.owner, Kind::ReplicationTask, &filter).await?)
}

/// Takes up again what the end of the last process interrupted.
pub async fn recover(context: &Context, task: &Resource) -> Result<(), Fault> {
    let arn = &task.arn;
    match Task::of(&task.status) {
        Some(Task::Creating) => transition(context, arn, TaskEvent::Settle, |_| Ok(())).await.map(drop),
        Some(Task::Modifying) => {
            let before = if runs(task) > 0 { Before::Stopped } else { Before::Ready };
            transition(context, arn, TaskEvent::Back(before), |_| Ok(())).await.map(drop)
        }
        Some(Task::Starting | Task::Running) => {
            tracing::info!(task = task.identifier, "resuming the task that was running");
            launch(context, arn).await
        }
        Some(Task::Stopping) => transition(context, arn, TaskEvent::End, |task| {
            task.body["StopReason"] = "Stop Reason NORMAL".into();
            Ok(())
        })
        .await
        .map(drop),
        Some(Task::Deleting) => Ok(context.store().delete(arn).await.map(drop)?),
        Some(Task::Ready | Task::Stopped | Task::Failed) | None => Ok(()),
    }
}

/// Statuses that a restart has to look after.
pub const INTERRUPTED: [&str; 6] = ["creating", "modifying", "starting", "running", "stopping", "deleting"];

/// Runs a task that is `starting` (or was running when the last process ended) and takes up its reports.
async fn launch(context: &Context, arn: &str) -> Result<(), Fault> {
    let task = find(context, arn).await?;
    match task_spec(context, &task).await {
        Ok(spec) => {
            let (handle, reports) = replication::start(spec);
            context.add_runner(arn, handle);
            tokio::spawn(take_up(context.clone(), arn.to_owned(), reports));
            Ok(())
        }
        Err(fault) => {
            let message = format!("Last Error  {} Stop Reason FATAL_ERROR Error Level FATAL", fault.message);
            fail(context, arn, message).await
        }
    }
}

async fn task_spec(context: &Context, task: &Resource) -> Result<TaskSpec, Fault> {
    let text = |member: &str| task.body[member].as_str().unwrap_or_default();
    let side = async |parameter: &str| -> Result<Side, Fault> {
        let found = endpoint::find(context, parameter, text(parameter)).await?;
        Ok(Side { engine: endpoint::runtime_engine(&found)?, connection: endpoint::connection(&found) })
    };
    let settings = TaskSettings::from_canonical(text("ReplicationTaskSettings")).map_err(settings_fault)?;
    let instance = instance::find(context, text("ReplicationInstanceArn")).await?;
    let path = log_path(context, &instance, &task.arn);
    let log = TaskLog::open(&path, settings.logging.clone()).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "cannot open task log");
        TaskLog::nowhere()
    });
    let tables = context.store().tables(&task.arn).await?;
    Ok(TaskSpec {
        resource_id: resource_id(&task.arn).to_owned(),
        identifier: task.identifier.clone(),
        source: side("SourceEndpointArn").await?,
        target: side("TargetEndpointArn").await?,
        mapping: Mapping::parse(text("TableMappings")).map_err(mapping_fault)?,
        settings,
        tables: tables.iter().filter_map(statistics::progress).collect(),
        log: Arc::new(log),
    })
}

/// Turns a runner's reports into statuses and statistics until its last one.
async fn take_up(context: Context, arn: String, mut reports: mpsc::Receiver<Report>) {
    let mut tables: Vec<TableProgress> = Vec::new();
    while let Some(report) = reports.recv().await {
        let taken = match report {
            Report::Running => transition(&context, &arn, TaskEvent::Run, |_| Ok(())).await.map(drop),
            Report::Tables(changed) => statistics::store(&context, &arn, &mut tables, changed).await,
            Report::Finished(outcome) => finished(&context, &arn, outcome).await,
        };
        if let Err(fault) = taken {
            tracing::debug!(arn, code = fault.code, message = fault.message, "a task's report was not taken up");
        }
    }
}

async fn finished(context: &Context, arn: &str, outcome: Outcome) -> Result<(), Fault> {
    match outcome {
        Outcome::Stopped(reason) => {
            context.running_was_seen(arn).await;
            context.remove_runner(arn);
            transition(context, arn, TaskEvent::End, |task| {
                task.body["StopReason"] = format!("Stop Reason {}", reason.as_str()).into();
                statistics::ended(&mut task.body["ReplicationTaskStats"]);
                Ok(())
            })
            .await
            .map(drop)
        }
        Outcome::Failed(message) => {
            context.running_was_seen(arn).await;
            context.remove_runner(arn);
            fail(context, arn, message).await
        }
    }
}

/// A failed task shows the same text twice, as AWS does.
async fn fail(context: &Context, arn: &str, message: String) -> Result<(), Fault> {
    transition(context, arn, TaskEvent::Fail, |task| {
        task.body["StopReason"] = message.clone().into();
        task.body["LastFailureMessage"] = message.into();
        statistics::ended(&mut task.body["ReplicationTaskStats"]);
        Ok(())
    })
    .await
    .map(drop)
}

/// Moves a task to the status that follows the event and lets `change` alter it, in one transaction.
async fn transition(
    context: &Context,
    arn: &str,
    event: TaskEvent,
    change: impl FnOnce(&mut Resource) -> Result<(), Fault>,
) -> Result<Json, Fault> {
    let moved = context.store().update(arn, |task| {
        let next = Task::of(&task.status).and_then(|status| status.after(event)).ok_or_else(|| {
            Fault::invalid_resource_state(format!(
                "Replication Task {} is not in a valid state: {}",
                task.identifier, task.status
            ))
        })?;
        change(task)?;
        task.status = next.as_str().into();
        task.body["Status"] = next.as_str().into();
        Ok::<_, Fault>(task.body.clone())
    });
    let body = moved.await?.ok_or_else(|| not_found(arn))??;
    context.changed();
    Ok(body)
}

async fn check_connections(context: &Context, task: &Resource) -> Result<(), Fault> {
    let text = |member: &str| task.body[member].as_str().unwrap_or_default();
    let instance = instance::find(context, text("ReplicationInstanceArn")).await?;
    for parameter in ["SourceEndpointArn", "TargetEndpointArn"] {
        let endpoint = endpoint::find(context, parameter, text(parameter)).await?;
        if !connection::is_successful(context, &instance.arn, &endpoint.arn).await? {
            return Err(Fault::invalid_resource_state(format!(
                "Test connection for replication instance {} and endpoint {} should be successful for starting the \
                 replication task",
                instance.identifier, endpoint.identifier
            )));
        }
    }
    Ok(())
}

fn check_migration_type(migration_type: &str) -> Result<(), Fault> {
    match migration_type {
        "full-load" => Ok(()),
        "cdc" | "full-load-and-cdc" => Err(Fault::not_implemented_part(format!("MigrationType {migration_type}"))),
        other => Err(Fault::invalid_parameter_value(format!("MigrationType {other} is invalid"))),
    }
}

fn check_positions(time_given: bool, position: Option<&str>) -> Result<(), Fault> {
    match time_given && position.is_some() {
        true => Err(Fault::invalid_parameter_combination(
            "The parameters CdcStartTime and CdcStartPosition cannot be used together.",
        )),
        false => Ok(()),
    }
}

/// A start time comes back as a position: in UTC, to the second, without a zone.
fn start_position(time: Option<Timestamp>, position: Option<String>) -> Option<String> {
    position.or_else(|| time.map(|time| time.to_second()))
}

fn mapping_fault(error: MappingError) -> Fault {
    match error.unsupported() {
        true => Fault::not_implemented_part(error),
        false => Fault::invalid_parameter_value(error.to_string()),
    }
}

/// The file of a task's log, named like the log stream that AWS writes.
fn log_path(context: &Context, instance: &Resource, task_arn: &str) -> PathBuf {
    let logs = log_names(instance, task_arn);
    let group = context.settings().log_dir.join(format!("dms-tasks-{}", logs.replication_instance_identifier));
    group.join(format!("dms-task-{}.log", logs.task_resource_id))
}

/// Empties the log: a task that runs has it open and goes on writing.
async fn delete_log(path: &Path) -> Result<(), Fault> {
    match tokio::fs::OpenOptions::new().write(true).truncate(true).open(path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::error!(path = %path.display(), %error, "cannot delete task log");
            Err(Fault::internal("the task log cannot be deleted"))
        }
        _ => Ok(()),
    }
}

fn log_names<'a>(instance: &'a Resource, task_arn: &'a str) -> settings::Context<'a> {
    settings::Context { replication_instance_identifier: &instance.identifier, task_resource_id: resource_id(task_arn) }
}

/// A task must not run as if a setting were not there.
fn check_supported(settings: &str) -> Result<(), Fault> {
    match settings::not_supported_yet(settings).first() {
        None => Ok(()),
        Some(path) => Err(Fault::not_implemented_part(format!("Task setting {path}"))),
    }
}

fn settings_fault(error: SettingsError) -> Fault {
    Fault::invalid_parameter_value(error.to_string())
}

fn set_optional(body: &mut Json, member: &str, value: Option<String>) {
    if let Some(value) = value {
        body[member] = value.into();
    }
}

fn runs(task: &Resource) -> u64 {
    task.spec["Runs"].as_u64().unwrap_or_default()
}

fn already_exists(identifier: &str, arn: &str) -> Fault {
    // By analogy with the recorded text for endpoints.
    Fault::resource_already_exists(format!("ReplicationTask \"{identifier}\" already in use"), arn)
}

fn not_found(arn: &str) -> Fault {
    Fault::resource_not_found(format!("Replication task {arn} not found"))
}

fn answer(body: Json) -> String {
    json!({ "ReplicationTask": body }).to_string()
}
