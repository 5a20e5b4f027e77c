//! What becomes of an error, by the task's `ErrorBehavior`.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ErrorHandling.html>

use std::time::Duration;

use super::settings::{ConflictPolicy, ErrorBehavior, ErrorPolicy, EscalationPolicy, TablePolicy};
use crate::data::{ErrorKind, Op};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Go on without the record.
    Ignore,
    /// Go on without the record and write the error to the task log.
    Log,
    /// Put the table into an error state and go on with the others.
    SuspendTable,
    StopTask,
    /// The task as a whole tries again, as [`retry_delay`] says.
    Retry,
}

/// Errors of a table so far, without the one to be decided on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// Records that were ignored or logged (`DataErrorEscalationCount`).
    pub data: u64,
    /// Changes that conflicted with the target (`ApplyErrorEscalationCount`).
    pub apply: u64,
    /// Of the table as a whole (`TableErrorEscalationCount`).
    pub table: u64,
}

/// Decides on one error.
pub fn action(kind: ErrorKind, behavior: &ErrorBehavior, errors: Errors) -> Action {
    match kind {
        // During full load every write is an insert of a new row, so a row that is there already is a data error.
        ErrorKind::Data | ErrorKind::Apply => data_action(behavior.data_error_policy, behavior, errors),
        ErrorKind::Truncation => data_action(behavior.data_truncation_error_policy, behavior, errors),
        ErrorKind::Table | ErrorKind::Redefined if reached(errors.table, behavior.table_error_escalation_count) => {
            behavior.table_error_escalation_policy.into()
        }
        ErrorKind::Table | ErrorKind::Redefined => behavior.table_error_policy.into(),
        ErrorKind::Recoverable => Action::Retry,
        ErrorKind::Fatal => Action::StopTask,
    }
}

/// Decides on one change that could not be applied.
pub fn apply_action(op: Op, kind: ErrorKind, behavior: &ErrorBehavior, errors: Errors) -> Action {
    let policy = match (kind, op) {
        (ErrorKind::Truncation | ErrorKind::Table | ErrorKind::Redefined, _) => return action(kind, behavior, errors),
        (_, Op::Insert) => behavior.apply_error_insert_policy,
        (_, Op::Update) => behavior.apply_error_update_policy,
        (_, Op::Delete) => behavior.apply_error_delete_policy,
    };
    let action = match policy {
        ConflictPolicy::IgnoreRecord => Action::Ignore,
        // The last two have had their way before: the change failed in spite of it.
        ConflictPolicy::LogError | ConflictPolicy::InsertRecord | ConflictPolicy::UpdateRecord => Action::Log,
        ConflictPolicy::SuspendTable => return Action::SuspendTable,
        ConflictPolicy::StopTask => return Action::StopTask,
    };
    match behavior.apply_error_escalation_policy {
        _ if !reached(errors.apply, behavior.apply_error_escalation_count) => action,
        EscalationPolicy::LogError => Action::Log,
        EscalationPolicy::SuspendTable => Action::SuspendTable,
        EscalationPolicy::StopTask => Action::StopTask,
    }
}

/// How long to wait before the given attempt to recover, the first being 1; `None` when there is to be none.
///
/// With `RecoverableErrorThrottling` the wait doubles each time. `RecoverableErrorStopRetryAfterThrottlingMax` ends it
/// when the wait would pass `RecoverableErrorThrottlingMax`: with the defaults after 5 to 1,280 seconds, which are the
/// nine attempts that the guide speaks of. Otherwise the wait stays at the maximum. A wait is never under a second,
/// so that an interval of 0 does not spin.
pub fn retry_delay(attempt: u32, behavior: &ErrorBehavior) -> Option<Duration> {
    // A count of -1 does not fit and stands for no limit.
    if u32::try_from(behavior.recoverable_error_count).is_ok_and(|count| attempt > count) {
        return None;
    }
    let interval_s = behavior.recoverable_error_interval_s.max(1);
    if !behavior.recoverable_error_throttling {
        return Some(Duration::from_secs(interval_s));
    }
    let factor = 1u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
    let wait_s = interval_s.saturating_mul(factor);
    let wait_s_max = behavior.recoverable_error_throttling_max_s.max(1);
    if wait_s > wait_s_max && behavior.recoverable_error_stop_retry_after_throttling_max {
        return None;
    }
    Some(Duration::from_secs(wait_s.min(wait_s_max)))
}

/// Records that are ignored count towards `DataErrorEscalationCount`, says the guide; that those that are logged do
/// too is a guess.
fn data_action(policy: ErrorPolicy, behavior: &ErrorBehavior, errors: Errors) -> Action {
    let action = match policy {
        ErrorPolicy::IgnoreRecord => Action::Ignore,
        ErrorPolicy::LogError => Action::Log,
        ErrorPolicy::SuspendTable => return Action::SuspendTable,
        ErrorPolicy::StopTask => return Action::StopTask,
    };
    if reached(errors.data, behavior.data_error_escalation_count) {
        return behavior.data_error_escalation_policy.into();
    }
    action
}

/// Whether one more error reaches the limit. A limit of 0, the default, is none.
fn reached(so_far: u64, limit: u64) -> bool {
    limit > 0 && so_far.saturating_add(1) >= limit
}

impl From<TablePolicy> for Action {
    fn from(policy: TablePolicy) -> Action {
        match policy {
            TablePolicy::SuspendTable => Action::SuspendTable,
            TablePolicy::StopTask => Action::StopTask,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::settings::{Context, TaskSettings, create};
    use super::*;

    fn behavior(settings: serde_json::Value) -> ErrorBehavior {
        let context = Context { replication_instance_identifier: "ri", task_resource_id: "TASK" };
        let document = create(Some(&json!({ "ErrorBehavior": settings }).to_string()), context).unwrap();
        TaskSettings::from_canonical(&document).unwrap().error_behavior
    }

    #[test]
    fn decides_by_kind_and_policy() {
        use Action::*;
        let data = |policy: &str| json!({ "DataErrorPolicy": policy });
        let truncation = |policy: &str| json!({ "DataTruncationErrorPolicy": policy });
        for (kind, settings, expected) in [
            (ErrorKind::Data, json!({}), Log),
            (ErrorKind::Data, data("IGNORE_RECORD"), Ignore),
            (ErrorKind::Data, data("LOG_ERROR"), Log),
            (ErrorKind::Data, data("SUSPEND_TABLE"), SuspendTable),
            (ErrorKind::Data, data("STOP_TASK"), StopTask),
            (ErrorKind::Apply, data("STOP_TASK"), StopTask),
            (ErrorKind::Truncation, json!({}), Log),
            (ErrorKind::Truncation, data("STOP_TASK"), Log),
            (ErrorKind::Truncation, truncation("IGNORE_RECORD"), Ignore),
            (ErrorKind::Truncation, truncation("SUSPEND_TABLE"), SuspendTable),
            (ErrorKind::Truncation, truncation("STOP_TASK"), StopTask),
            (ErrorKind::Table, json!({}), SuspendTable),
            (ErrorKind::Table, json!({ "TableErrorPolicy": "STOP_TASK" }), StopTask),
            (ErrorKind::Fatal, json!({}), StopTask),
            (ErrorKind::Recoverable, json!({}), Retry),
        ] {
            assert_eq!(action(kind, &behavior(settings.clone()), Errors::default()), expected, "{kind:?} {settings}");
        }
    }

    #[test]
    fn decides_on_changes_by_operation_kind_and_policy() {
        use Action::*;
        let all = |word: &str| {
            let policy = |op| (format!("ApplyError{op}Policy"), json!(word));
            serde_json::Value::Object(["Insert", "Update", "Delete"].map(policy).into_iter().collect())
        };
        let and = |mut settings: serde_json::Value, more: serde_json::Value| {
            settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            settings
        };
        let escalated = |word: &str| json!({ "ApplyErrorEscalationCount": 3, "ApplyErrorEscalationPolicy": word });
        let stop_others = json!({ "ApplyErrorInsertPolicy": "STOP_TASK", "DataErrorPolicy": "STOP_TASK" });
        let suspend = json!({ "ApplyErrorUpdatePolicy": "SUSPEND_TABLE" });
        let (apply, table) = ([ErrorKind::Apply, ErrorKind::Data], [ErrorKind::Table, ErrorKind::Redefined]);
        let truncation = [ErrorKind::Truncation];
        let cut = |word: &str| json!({ "DataTruncationErrorPolicy": word });
        let every = [Op::Insert, Op::Update, Op::Delete];
        // What is done about the first to the fourth error of a table.
        let check = |ops: &[Op], kinds: &[ErrorKind], settings: serde_json::Value, expected: [Action; 4]| {
            let behavior = behavior(settings.clone());
            for (op, kind) in ops.iter().flat_map(|op| kinds.iter().map(move |kind| (*op, *kind))) {
                let decided = [0, 1, 2, 3].map(|before| {
                    let errors = match kind {
                        ErrorKind::Table | ErrorKind::Redefined => Errors { table: before, ..Errors::default() },
                        ErrorKind::Truncation => Errors { data: before, ..Errors::default() },
                        _ => Errors { apply: before, ..Errors::default() },
                    };
                    apply_action(op, kind, &behavior, errors)
                });
                assert_eq!(decided, expected, "{op:?} {kind:?} {settings}");
            }
        };
        check(&[Op::Insert, Op::Update], &apply, json!({}), [Log; 4]);
        check(&[Op::Delete], &apply, json!({}), [Ignore; 4]);
        check(&every, &apply, all("IGNORE_RECORD"), [Ignore; 4]);
        check(&every, &apply, all("LOG_ERROR"), [Log; 4]);
        check(&every, &apply, all("SUSPEND_TABLE"), [SuspendTable; 4]);
        check(&every, &apply, all("STOP_TASK"), [StopTask; 4]);
        check(&[Op::Insert], &apply, json!({ "ApplyErrorInsertPolicy": "INSERT_RECORD" }), [Log; 4]);
        check(&[Op::Update], &apply, json!({ "ApplyErrorUpdatePolicy": "UPDATE_RECORD" }), [Log; 4]);
        // Each operation has its own.
        check(&[Op::Insert], &apply, stop_others.clone(), [StopTask; 4]);
        check(&[Op::Update], &apply, stop_others, [Log; 4]);
        check(&[Op::Update], &apply, suspend.clone(), [SuspendTable; 4]);
        check(&[Op::Delete], &apply, suspend, [Ignore; 4]);
        // A count without another policy: errors are logged from there on.
        check(&every, &apply, and(all("IGNORE_RECORD"), escalated("LOG_ERROR")), [Ignore, Ignore, Log, Log]);
        check(&every, &apply, and(all("IGNORE_RECORD"), json!({ "ApplyErrorEscalationCount": 1 })), [Log; 4]);
        check(
            &every,
            &apply,
            and(all("LOG_ERROR"), escalated("SUSPEND_TABLE")),
            [Log, Log, SuspendTable, SuspendTable],
        );
        check(&every, &apply, and(all("IGNORE_RECORD"), escalated("STOP_TASK")), [Ignore, Ignore, StopTask, StopTask]);
        // What is harder than the escalation stays.
        check(&every, &apply, and(all("STOP_TASK"), escalated("LOG_ERROR")), [StopTask; 4]);
        check(&every, &apply, and(all("SUSPEND_TABLE"), escalated("STOP_TASK")), [SuspendTable; 4]);
        // Without a count there is no escalation, and each kind of errors has its own.
        check(&every, &apply, and(all("LOG_ERROR"), json!({ "ApplyErrorEscalationPolicy": "STOP_TASK" })), [Log; 4]);
        check(&every, &apply, and(all("LOG_ERROR"), json!({ "TableErrorEscalationCount": 1 })), [Log; 4]);
        check(&every, &table, all("IGNORE_RECORD"), [SuspendTable; 4]);
        check(&every, &table, json!({ "TableErrorPolicy": "STOP_TASK" }), [StopTask; 4]);
        check(
            &every,
            &table,
            json!({ "TableErrorEscalationCount": 3 }),
            [SuspendTable, SuspendTable, StopTask, StopTask],
        );
        check(&every, &table, json!({ "TableErrorEscalationCount": 1 }), [StopTask; 4]);
        check(&every, &table, escalated("STOP_TASK"), [SuspendTable; 4]);
        check(&every, &truncation, all("STOP_TASK"), [Log; 4]);
        check(&every, &truncation, escalated("STOP_TASK"), [Log; 4]);
        check(&every, &truncation, json!({ "DataErrorPolicy": "STOP_TASK" }), [Log; 4]);
        check(&every, &truncation, cut("LOG_ERROR"), [Log; 4]);
        check(&every, &truncation, cut("IGNORE_RECORD"), [Ignore; 4]);
        check(&every, &truncation, cut("SUSPEND_TABLE"), [SuspendTable; 4]);
        check(&every, &truncation, cut("STOP_TASK"), [StopTask; 4]);
        let three = json!({ "DataErrorEscalationCount": 3 });
        check(&every, &truncation, three.clone(), [Log, Log, SuspendTable, SuspendTable]);
        check(&every, &apply, and(all("LOG_ERROR"), three), [Log; 4]);
        let two = json!({ "DataErrorEscalationCount": 2, "DataErrorEscalationPolicy": "STOP_TASK" });
        check(&every, &truncation, and(cut("IGNORE_RECORD"), two), [Ignore, StopTask, StopTask, StopTask]);
    }

    #[test]
    fn escalates_when_the_count_is_reached() {
        let three = behavior(json!({ "DataErrorEscalationCount": 3, "TableErrorEscalationCount": 2 }));
        let after = |kind, errors| action(kind, &three, Errors { data: errors, table: errors, ..Errors::default() });
        let kinds = [ErrorKind::Data, ErrorKind::Truncation];
        for kind in kinds {
            assert_eq!([0, 1, 2, 3].map(|errors| after(kind, errors)), {
                use Action::*;
                [Log, Log, SuspendTable, SuspendTable]
            });
        }
        assert_eq!([0, 1].map(|errors| after(ErrorKind::Table, errors)), [Action::SuspendTable, Action::StopTask]);

        let never = behavior(json!({}));
        let many = Errors { data: u64::MAX, table: u64::MAX, ..Errors::default() };
        assert_eq!(action(ErrorKind::Data, &never, many), Action::Log);
        assert_eq!(action(ErrorKind::Table, &never, many), Action::SuspendTable);

        let stop = behavior(json!({ "DataErrorEscalationCount": 1, "DataErrorEscalationPolicy": "STOP_TASK" }));
        assert_eq!(action(ErrorKind::Data, &stop, Errors::default()), Action::StopTask);
    }

    /// Seconds before each attempt, `None` where there is none.
    fn waits(settings: serde_json::Value, attempts: impl IntoIterator<Item = u32>) -> Vec<Option<u64>> {
        let behavior = behavior(settings);
        attempts.into_iter().map(|attempt| retry_delay(attempt, &behavior).map(|wait| wait.as_secs())).collect()
    }

    #[test]
    fn waits_longer_each_time_and_stops_after_nine() {
        let expected = [5, 10, 20, 40, 80, 160, 320, 640, 1280].map(Some);
        assert_eq!(waits(json!({}), 1..=9), expected);
        assert_eq!(waits(json!({}), [10, 11, 64, 65, u32::MAX]), [None; 5]);
    }

    #[test]
    fn follows_the_settings_for_retries() {
        let keep_on = json!({ "RecoverableErrorStopRetryAfterThrottlingMax": false });
        assert_eq!(waits(keep_on, [9, 10, 11, u32::MAX]), [1280, 1800, 1800, 1800].map(Some));
        let counted = json!({ "RecoverableErrorCount": 2, "RecoverableErrorThrottling": false });
        assert_eq!(waits(counted, 1..=3), [Some(5), Some(5), None]);
        let at_once = json!({ "RecoverableErrorInterval": 0, "RecoverableErrorThrottling": false });
        assert_eq!(waits(at_once, [1, 1_000_000]), [Some(1), Some(1)]);
        let exactly = json!({ "RecoverableErrorInterval": 10, "RecoverableErrorThrottlingMax": 20 });
        assert_eq!(waits(exactly, 1..=3), [Some(10), Some(20), None]);
        assert_eq!(waits(json!({ "RecoverableErrorCount": 0 }), [1]), [None]);
    }
}
