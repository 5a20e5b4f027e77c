//! Replication tasks: what they are, and starting, stopping and changing them. Running them is `replication`'s work;
//! its reports come back here and become statuses and statistics.

use std::time::SystemTime;

use serde_json::{Value as Json, json};

use super::context::Context;
use super::event::{self, Happened};
use super::identifier::{already_in_use, check_arn, identifier, new_arn};
use super::listing::{FilterBy, Listing, PageSize, Paging, list};
use super::running::{Traces, bad_position, delete_log, launch, log_names, log_path};
use super::status::{Before, Task, TaskEvent};
use super::{Answer, connection, endpoint, instance, tag};
use crate::api::shapes::{
    CreateReplicationTaskMessage, DeleteReplicationTaskMessage, DescribeReplicationTasksMessage,
    ModifyReplicationTaskMessage, StartReplicationTaskMessage, StopReplicationTaskMessage,
};
use crate::api::{Fault, Timestamp};
use crate::data::ErrorKind;
use crate::mapping::{Mapping, MappingError};
use crate::replication::settings::{self, SettingsError, TaskSettings};
use crate::replication::{Migration, start_point, stop_point};
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
    let positions = Positions::of(request.cdc_start_time, request.cdc_start_position, request.cdc_stop_position)?;
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
    positions.write_to(&mut body);
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
    let positions = Positions::of(request.cdc_start_time, request.cdc_start_position, request.cdc_stop_position)?;
    if Task::of(&task.status).and_then(|status| status.after(TaskEvent::Start)).is_none() {
        return Err(Fault::invalid_resource_state("Replication Task cannot be started, invalid state"));
    }
    let fresh = is_fresh(&request.start_replication_task_type, &task, &positions)?;
    check_connections(context, &task).await?;
    let body = transition(context, arn, TaskEvent::Start, |task| {
        let now = json!(Timestamp::from(SystemTime::now()));
        let fresh_start = match fresh {
            true => now.clone(),
            false => task.body["ReplicationTaskStats"].get("FreshStartDate").cloned().unwrap_or(now.clone()),
        };
        let before = task.body["StopReason"].as_str().unwrap_or_default();
        let went_on = ["Stop Reason STOPPED_AFTER_FULL_LOAD", "Stop Reason STOPPED_AFTER_CACHED_EVENTS"];
        task.spec["StopsAfterLoad"] = json!(fresh || !went_on.contains(&before));
        task.spec["Fresh"] = json!(fresh);
        task.spec["Runs"] = json!(runs(task) + 1);
        if task.body["MigrationType"] != "full-load" {
            // Whatever becomes of it later: there is something on the source to take away.
            task.spec["Captures"] = json!(true);
        }
        positions.write_to(&mut task.body);
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
        if fresh {
            forget_place(task);
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

/// Of the log of an earlier run.
fn forget_place(task: &mut Resource) {
    if let Json::Object(members) = &mut task.body {
        members.shift_remove("RecoveryCheckpoint");
    }
    if let Json::Object(spec) = &mut task.spec {
        spec.remove("Checkpoint");
        spec.remove("Repositioned");
    }
}

/// Whether a start begins from nothing, as its type says.
fn is_fresh(start_type: &str, task: &Resource, positions: &Positions) -> Result<bool, Fault> {
    let ran_before = runs(task) > 0;
    let is_cdc = task.body["MigrationType"] == "cdc";
    // With this request, or by a modification since the last start from a position.
    let has_position = positions.start.is_some() || task.spec["Repositioned"] == json!(true);
    let refused = |what: &str| Err(Fault::invalid_parameter_combination(format!("Start Type : {what}")));
    match start_type {
        // "For a CDC-only task, start-replication can be used again to start at a position", says the API reference.
        "start-replication" if ran_before && !(is_cdc && has_position) => {
            refused("START_REPLICATION, valid only for tasks running for the first time")
        }
        "start-replication" => Ok(true),
        // The words for these on a first run, and for reload-target without a load, are guessed from the ones above.
        "resume-processing" if !ran_before => {
            refused("RESUME_PROCESSING, not valid for tasks running for the first time")
        }
        "reload-target" if !ran_before => refused("RELOAD_TARGET, not valid for tasks running for the first time"),
        "reload-target" if is_cdc => refused("RELOAD_TARGET, not valid for tasks of migration type cdc"),
        "resume-processing" => Ok(false),
        "reload-target" => Ok(true),
        other => Err(Fault::invalid_parameter_value(format!("StartReplicationTaskType {other} is invalid"))),
    }
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
    let positions = Positions::of(request.cdc_start_time, request.cdc_start_position, request.cdc_stop_position)?;
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
        positions.write_to(&mut task.body);
        if positions.start.is_some() {
            task.spec["Repositioned"] = json!(true);
        }
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
    let task = find(context, arn).await?;
    let body = transition(context, arn, TaskEvent::Delete, |_| Ok(())).await?;
    tokio::spawn(finish_deletion(context.clone(), task));
    Ok(answer(body))
}

/// The source is cleared before the task is gone: whoever sees it gone finds nothing of it there. A source that cannot be
/// reached is cleared later.
async fn finish_deletion(context: Context, task: Resource) {
    let mut traces = Traces::of(&context, &task).await;
    if let Some(found) = &traces
        && !matches!(found.clean().await, Err(error) if error.kind == ErrorKind::Recoverable)
    {
        traces = None;
    }
    if let Err(error) = context.store().delete(&task.arn).await {
        tracing::error!(task = task.identifier, %error, "cannot delete the task");
        return;
    }
    event::record(&context, &task.identifier, Happened::TaskDeleted).await;
    context.changed();
    if let Some(traces) = traces {
        context.do_later(traces.clean_later());
    }
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
        Some(Task::Starting) if task.spec["Fresh"] == json!(true) => {
            // The start may have been interrupted before it had cleared everything.
            context.store().clear_tables(arn).await?;
            let cleared = context.store().update(arn, |task| {
                forget_place(task);
                Ok::<_, Fault>(())
            });
            cleared.await?.transpose()?;
            tracing::info!(task = task.identifier, "starting the task whose start was interrupted");
            launch(context, arn).await
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
        Some(Task::Deleting) => {
            tokio::spawn(finish_deletion(context.clone(), task.clone()));
            Ok(())
        }
        Some(Task::Ready | Task::Stopped | Task::Failed) | None => Ok(()),
    }
}

/// Statuses that a restart has to look after.
pub const INTERRUPTED: [&str; 6] = ["creating", "modifying", "starting", "running", "stopping", "deleting"];

/// Moves a task to the status that follows the event and lets `change` alter it, in one transaction.
pub async fn transition(
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
        Ok::<_, Fault>((task.body.clone(), task.identifier.clone(), happened(event, task)))
    });
    let (body, identifier, happened) = moved.await?.ok_or_else(|| not_found(arn))??;
    context.changed();
    if let Some(happened) = happened {
        event::record(context, &identifier, happened).await;
    }
    Ok(body)
}

/// What of a task's life is an event to the user.
fn happened(event: TaskEvent, task: &Resource) -> Option<Happened> {
    let text = |member: &str| task.body[member].as_str().unwrap_or_default().to_owned();
    Some(match event {
        TaskEvent::Settle => Happened::TaskCreated,
        TaskEvent::Back(_) => Happened::TaskModified,
        TaskEvent::Run if task.spec["Fresh"] == json!(true) => Happened::TaskStarted { start_type: "fresh start" },
        // The service's word for this one is not recorded.
        TaskEvent::Run => Happened::TaskStarted { start_type: "resume" },
        TaskEvent::End => Happened::TaskStopped(text("StopReason")),
        TaskEvent::Fail => Happened::TaskFailed(text("LastFailureMessage")),
        TaskEvent::Start | TaskEvent::Stop | TaskEvent::Modify | TaskEvent::Delete => return None,
    })
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
    match Migration::of(migration_type) {
        Some(_) => Ok(()),
        None => Err(Fault::invalid_parameter_value(format!("MigrationType {migration_type} is invalid"))),
    }
}

/// Where a request wants changes to begin and to end.
struct Positions {
    start: Option<String>,
    stop: Option<String>,
}

impl Positions {
    fn of(time: Option<Timestamp>, position: Option<String>, stop: Option<String>) -> Result<Positions, Fault> {
        if time.is_some() && position.is_some() {
            return Err(Fault::invalid_parameter_combination(
                "The parameters CdcStartTime and CdcStartPosition cannot be used together.",
            ));
        }
        // An empty text counts as not sent, as it does for markers.
        let [position, stop] = [position, stop].map(|text| text.filter(|text| !text.is_empty()));
        if let Some(position) = &position {
            start_point(position).map_err(bad_position)?;
        }
        if let Some(stop) = &stop {
            stop_point(stop).map_err(bad_position)?;
        }
        // A start time comes back as a position: in UTC, to the second, without a zone.
        Ok(Positions { start: position.or_else(|| time.map(|time| time.to_second())), stop })
    }

    fn write_to(&self, body: &mut Json) {
        set_optional(body, "CdcStartPosition", self.start.clone());
        set_optional(body, "CdcStopPosition", self.stop.clone());
    }
}

pub fn mapping_fault(error: MappingError) -> Fault {
    match error.unsupported() {
        true => Fault::not_implemented_part(error),
        false => Fault::invalid_parameter_value(error.to_string()),
    }
}

/// A task must not run as if a setting were not there.
fn check_supported(settings: &str) -> Result<(), Fault> {
    match settings::not_supported_yet(settings).first() {
        None => Ok(()),
        Some(path) => Err(Fault::not_implemented_part(format!("Task setting {path}"))),
    }
}

pub fn settings_fault(error: SettingsError) -> Fault {
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
