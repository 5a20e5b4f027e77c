//! Events: what has happened to instances and tasks.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_EventBridge.html>

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value as Json, json};

use super::Answer;
use super::context::Context;
use super::listing::{PageSize, Paging, check_values, page_of};
use crate::api::shapes::{DescribeEventCategoriesMessage, DescribeEventsMessage};
use crate::api::{Fault, Timestamp};
use crate::store::{Event, EventFilter};

const INSTANCE: &str = "replication-instance";
const TASK: &str = "replication-task";

/// Recorded, in this order.
const CATEGORIES: [(&str, &[&str]); 2] = [
    (INSTANCE, &["low storage", "configuration change", "maintenance", "deletion", "creation", "failover", "failure"]),
    (TASK, &["configuration change", "state change", "deletion", "creation", "failure"]),
];

/// "By default, DMS returns the events of the last hour"; with a duration, of the last 14 days at most.
const DURATION_DEFAULT_MIN: i32 = 60;
const DURATION_MAX_MIN: i32 = 14 * 24 * 60;

/// What can happen. The messages are the documented ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happened {
    InstanceCreated,
    InstanceDeleted,
    TaskCreated,
    TaskModified,
    TaskStarted {
        start_type: &'static str,
    },
    /// With the stop reason.
    TaskStopped(String),
    /// With the failure message.
    TaskFailed(String),
    TaskDeleted,
    TablesReloaded,
    ReadingPaused(Full),
    ReadingResumed,
}

/// Why a task stopped reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    SwapFiles,
    Disk,
}

impl Happened {
    fn source_type(&self) -> &'static str {
        match self {
            Happened::InstanceCreated | Happened::InstanceDeleted => INSTANCE,
            _ => TASK,
        }
    }

    fn category(&self) -> &'static str {
        match self {
            Happened::InstanceCreated | Happened::TaskCreated => "creation",
            Happened::InstanceDeleted | Happened::TaskDeleted => "deletion",
            Happened::TaskModified => "configuration change",
            Happened::TaskFailed(_) => "failure",
            _ => "state change",
        }
    }

    fn message(&self) -> String {
        match self {
            Happened::InstanceCreated => "A replication instance has been created.".into(),
            Happened::InstanceDeleted => "The replication instance has been deleted.".into(),
            Happened::TaskCreated => "The replication task has been created.".into(),
            // Recorded like this.
            Happened::TaskModified => "Replication task has modified.".into(),
            Happened::TaskStarted { start_type } => format!("Replication task started, with flag = {start_type}"),
            Happened::TaskStopped(reason) => format!("Replication task stopped. {reason}"),
            Happened::TaskFailed(message) => format!("Replication task has failed. Reason: {message}"),
            Happened::TaskDeleted => "The replication task has been deleted.".into(),
            Happened::TablesReloaded => "Reload of table details has been requested.".into(),
            Happened::ReadingPaused(Full::SwapFiles) => "Reading paused, swap files limit reached.".into(),
            Happened::ReadingPaused(Full::Disk) => "Reading paused, disk usage limit reached.".into(),
            Happened::ReadingResumed => "Reading resumed.".into(),
        }
    }
}

/// Writes down what has happened. That it could not be is said in the log: nobody is stopped by it.
pub async fn record(context: &Context, source: &str, happened: Happened) {
    let event = Event {
        source_type: happened.source_type().into(),
        source: source.to_owned(),
        category: happened.category().into(),
        message: happened.message(),
        time_ms: millis(SystemTime::now()),
    };
    if let Err(error) = context.store().add_event(&context.owner, &event).await {
        tracing::warn!(source, %error, "an event was not kept");
    }
}

fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as i64
}

pub async fn describe(context: &Context, request: DescribeEventsMessage) -> Answer {
    let mut filter = EventFilter { to_ms: i64::MAX, ..EventFilter::default() };
    (filter.from_ms, filter.to_ms) = window(&request)?;
    filter.source_types = request.source_type.clone().map(|source_type| vec![source_type]);
    filter.sources = request.source_identifier.clone().map(|source| vec![source.to_lowercase()]);
    filter.categories = request.event_categories.clone();
    for wanted in request.filters.as_deref().unwrap_or_default() {
        check_values(&wanted.name, &wanted.values)?;
        if wanted.name != "replication-instance-id" {
            return Err(Fault::invalid_parameter_value(format!(
                "Invalid filter name: {}. Allowed filters: replication-instance-id",
                wanted.name
            )));
        }
        filter.source_types = Some(vec![INSTANCE.into()]);
        filter.sources = Some(wanted.values.iter().map(|value| value.to_lowercase()).collect());
    }
    let events = context.store().events(&context.owner, &filter).await?;
    let paging = Paging { max_records: request.max_records, marker: request.marker };
    let (page, marker) = page_of(events, PageSize::USUAL, &paging)?;
    let mut answer = json!({ "Events": page.iter().map(shape).collect::<Vec<Json>>() });
    if let Some(marker) = marker {
        answer["Marker"] = marker.into();
    }
    Ok(answer.to_string())
}

fn shape(event: &Event) -> Json {
    let time = UNIX_EPOCH + Duration::from_millis(event.time_ms.max(0) as u64);
    json!({
        "SourceIdentifier": event.source,
        "SourceType": event.source_type,
        "Message": event.message,
        "EventCategories": [event.category],
        "Date": Timestamp::from(time),
    })
}

/// From when until when, in milliseconds since 1970.
fn window(request: &DescribeEventsMessage) -> Result<(i64, i64), Fault> {
    let duration = request.duration.unwrap_or(DURATION_DEFAULT_MIN);
    if !(1..=DURATION_MAX_MIN).contains(&duration) {
        return Err(Fault::invalid_parameter_value(format!(
            "Invalid value {duration} for Duration. Must be between 1 and {DURATION_MAX_MIN}"
        )));
    }
    let span = i64::from(duration) * 60_000;
    let at = |time: &Option<Timestamp>| time.as_ref().map(|time| time.as_millis());
    let (from, to) = match (at(&request.start_time), at(&request.end_time)) {
        (Some(from), Some(to)) => (from, to),
        (Some(from), None) if request.duration.is_some() => (from, from.saturating_add(span)),
        (Some(from), None) => (from, i64::MAX),
        (None, Some(to)) => (to.saturating_sub(span), to),
        (None, None) => (millis(SystemTime::now()) - span, i64::MAX),
    };
    match from > to {
        true => Err(Fault::invalid_parameter_combination("The parameter StartTime must be before EndTime.")),
        false => Ok((from, to)),
    }
}

pub async fn categories(_: &Context, request: DescribeEventCategoriesMessage) -> Answer {
    if let Some(source_type) = &request.source_type
        && !CATEGORIES.iter().any(|(known, _)| known == source_type)
    {
        return Err(Fault::invalid_parameter_value(format!(
            "Invalid value {source_type} for SourceType. Allowed: {INSTANCE}, {TASK}"
        )));
    }
    if let Some(filter) = request.filters.as_deref().unwrap_or_default().first() {
        return Err(Fault::invalid_parameter_value(format!(
            "Invalid filter name: {}. No filter is allowed",
            filter.name
        )));
    }
    let wanted = CATEGORIES.iter().filter(|(known, _)| request.source_type.as_deref().is_none_or(|one| one == *known));
    let groups =
        wanted.map(|(source_type, categories)| json!({ "SourceType": source_type, "EventCategories": categories }));
    Ok(json!({ "EventCategoryGroupList": groups.collect::<Vec<Json>>() }).to_string())
}
