//! Tasks that run: from a resource to its runner, and from the runner's reports to statuses and statistics.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::context::Context;
use super::event::{self, Full, Happened};
use super::identifier::resource_id;
use super::status::TaskEvent;
use super::task::{find, mapping_fault, settings_fault, transition};
use super::{endpoint, instance, statistics};
use crate::api::Fault;
use crate::connector::{Capture, StartPoint};
use crate::data::{Error, ErrorKind};
use crate::mapping::Mapping;
use crate::replication::settings::{self, TaskSettings};
use crate::replication::{
    self, BadPosition, Migration, Outcome, Pause, Report, Side, TableProgress, TaskLog, TaskSpec, start_point,
    stop_point,
};
use crate::store::Resource;

/// Most time for taking away what a task has made on its source, when it is deleted.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(30);

/// Where the source was not there for it, how long it is tried again after the deletion, and the pauses between.
const CLEAN_AGAIN_FOR: Duration = Duration::from_secs(3600);
const CLEAN_PAUSE_MIN: Duration = Duration::from_secs(1);
const CLEAN_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Runs a task that is `starting` (or was running when the last process ended) and takes up its reports.
pub async fn launch(context: &Context, arn: &str) -> Result<(), Fault> {
    let task = find(context, arn).await?;
    match task_spec(context, &task).await {
        Ok(spec) => {
            let (handle, reports) = replication::start(spec);
            context.add_runner(arn, handle, ends_by_itself(&task));
            tokio::spawn(take_up(context.clone(), arn.to_owned(), reports));
            Ok(())
        }
        Err(fault) => {
            let message = format!("Last Error  {} Stop Reason FATAL_ERROR Error Level FATAL", fault.message);
            fail(context, arn, message).await
        }
    }
}

fn ends_by_itself(task: &Resource) -> bool {
    task.body["MigrationType"] == "full-load" || task.body["CdcStopPosition"].is_string()
}

async fn side(context: &Context, task: &Resource, parameter: &str) -> Result<Side, Fault> {
    let found = endpoint::find(context, parameter, text(task, parameter)).await?;
    Ok(Side { engine: endpoint::runtime_engine(&found)?, connection: endpoint::connection(&found) })
}

fn text<'a>(task: &'a Resource, member: &str) -> &'a str {
    task.body[member].as_str().unwrap_or_default()
}

async fn task_spec(context: &Context, task: &Resource) -> Result<TaskSpec, Fault> {
    let settings = TaskSettings::from_canonical(text(task, "ReplicationTaskSettings")).map_err(settings_fault)?;
    let instance = instance::find(context, text(task, "ReplicationInstanceArn")).await?;
    let path = log_path(context, &instance, &task.arn);
    let log = TaskLog::open(&path, settings.logging.clone()).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "cannot open task log");
        TaskLog::nowhere()
    });
    let tables = context.store().tables(&task.arn).await?;
    let start = match task.body["CdcStartPosition"].as_str() {
        Some(position) => start_point(position).map_err(bad_position)?,
        None => StartPoint::Now,
    };
    let stop = task.body["CdcStopPosition"].as_str().map(stop_point).transpose().map_err(bad_position)?;
    Ok(TaskSpec {
        resource_id: resource_id(&task.arn).to_owned(),
        migration: Migration::of(text(task, "MigrationType"))
            .ok_or_else(|| Fault::internal("the store holds a task of an unknown migration type"))?,
        source: side(context, task, "SourceEndpointArn").await?,
        target: side(context, task, "TargetEndpointArn").await?,
        mapping: Mapping::parse(text(task, "TableMappings")).map_err(mapping_fault)?,
        settings,
        start,
        stop,
        stops_after_load: task.spec["StopsAfterLoad"] == json!(true),
        tables: tables.iter().filter_map(statistics::progress).collect(),
        checkpoint: statistics::checkpoint(task),
        spool: context.settings().spool_dir.join(format!("{}.swap", resource_id(&task.arn))),
        log: Arc::new(log),
    })
}

pub fn bad_position(error: BadPosition) -> Fault {
    Fault::invalid_parameter_value(error.to_string())
}

/// Turns a runner's reports into statuses and statistics until its last one.
async fn take_up(context: Context, arn: String, mut reports: mpsc::Receiver<Report>) {
    let mut all: Vec<TableProgress> = Vec::new();
    while let Some(report) = reports.recv().await {
        let taken = match report {
            Report::Running => transition(&context, &arn, TaskEvent::Run, |_| Ok(())).await.map(drop),
            Report::Progress { tables, checkpoint, kept } => {
                let stored = statistics::store(&context, &arn, &mut all, tables, checkpoint).await;
                if stored.is_ok() {
                    // A runner that has ended waits for nothing.
                    let _ = kept.send(());
                }
                stored
            }
            Report::ReadingPaused(pause) => {
                let full = match pause {
                    Pause::Limit => Full::SwapFiles,
                    Pause::Disk(_) => Full::Disk,
                };
                record(&context, &arn, Happened::ReadingPaused(full)).await;
                Ok(())
            }
            Report::ReadingResumed => {
                record(&context, &arn, Happened::ReadingResumed).await;
                Ok(())
            }
            Report::Finished(outcome) => finished(&context, &arn, outcome).await,
        };
        if let Err(fault) = taken {
            tracing::debug!(arn, code = fault.code, message = fault.message, "a task's report was not taken up");
        }
    }
}

async fn record(context: &Context, arn: &str, happened: Happened) {
    if let Ok(Some(task)) = context.store().get(arn).await {
        event::record(context, &task.identifier, happened).await;
    }
}

async fn finished(context: &Context, arn: &str, outcome: Outcome) -> Result<(), Fault> {
    context.running_was_seen(arn).await;
    context.remove_runner(arn);
    match outcome {
        Outcome::Stopped(reason) => transition(context, arn, TaskEvent::End, |task| {
            task.body["StopReason"] = format!("Stop Reason {}", reason.as_str()).into();
            statistics::ended(&mut task.body["ReplicationTaskStats"]);
            Ok(())
        })
        .await
        .map(drop),
        Outcome::Failed(message) => fail(context, arn, message).await,
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

/// What a task has made on its source.
pub struct Traces {
    task: String,
    source: Side,
    capture: Capture,
}

impl Traces {
    /// None of a task that never captured changes.
    pub async fn of(context: &Context, task: &Resource) -> Option<Traces> {
        if task.spec["Captures"] != json!(true) {
            return None;
        }
        match side(context, task, "SourceEndpointArn").await {
            Ok(source) => {
                let capture = Capture::of(resource_id(&task.arn));
                Some(Traces { task: task.identifier.clone(), source, capture })
            }
            Err(fault) => {
                tracing::warn!(task = task.identifier, error = fault.message, "{LEFT}");
                None
            }
        }
    }

    /// Takes them away. A source that cannot be reached keeps them, and what they are is said in the log.
    pub async fn clean(&self) -> Result<(), Error> {
        let source = (self.source.engine.open_source)(self.source.connection.clone());
        let cleaned = tokio::time::timeout(CLEAN_TIMEOUT, source.end_capture(&self.capture)).await;
        let silent = |_| Err(Error::recoverable(format!("no answer in {} s", CLEAN_TIMEOUT.as_secs())));
        cleaned.unwrap_or_else(silent).inspect_err(|error| tracing::warn!(task = self.task, %error, "{LEFT}"))
    }

    /// Tries again, with longer and longer pauses, for an hour.
    pub async fn clean_later(self) {
        let given_up = Instant::now() + CLEAN_AGAIN_FOR;
        let mut pause = CLEAN_PAUSE_MIN;
        while Instant::now() < given_up {
            tokio::time::sleep(pause).await;
            match self.clean().await {
                Ok(()) => {
                    return tracing::info!(task = self.task, "what the deleted task had made on its source is gone");
                }
                Err(error) if error.kind != ErrorKind::Recoverable => return,
                Err(_) => pause = (2 * pause).min(CLEAN_PAUSE_MAX),
            }
        }
    }
}

const LEFT: &str = "what the task has made on its source could not be taken away";

/// The file of a task's log, named like the log stream that AWS writes.
pub fn log_path(context: &Context, instance: &Resource, task_arn: &str) -> PathBuf {
    let logs = log_names(instance, task_arn);
    let group = context.settings().log_dir.join(format!("dms-tasks-{}", logs.replication_instance_identifier));
    group.join(format!("dms-task-{}.log", logs.task_resource_id))
}

/// Empties the log: a task that runs has it open and goes on writing.
pub async fn delete_log(path: &Path) -> Result<(), Fault> {
    match tokio::fs::OpenOptions::new().write(true).truncate(true).open(path).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::error!(path = %path.display(), %error, "cannot delete task log");
            Err(Fault::internal("the task log cannot be deleted"))
        }
        _ => Ok(()),
    }
}

pub fn log_names<'a>(instance: &'a Resource, task_arn: &'a str) -> settings::Context<'a> {
    settings::Context { replication_instance_identifier: &instance.identifier, task_resource_id: resource_id(task_arn) }
}
