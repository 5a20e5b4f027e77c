//! The log of one task, as DMS writes it to CloudWatch, in a plain file: `2026-01-31T10:09:29 [TARGET_LOAD     ]I:
//! text  (full_load.rs:93)`.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Monitoring.html>

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::SystemTime;

use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;

use super::settings::{Logging, Severity};

/// Components of the `Logging.LogComponents` setting that dms-local writes as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    TaskManager,
    TablesManager,
    MetadataManager,
    SourceUnload,
    SourceCapture,
    Sorter,
    TargetLoad,
    TargetApply,
    Performance,
}

impl Component {
    pub fn as_str(self) -> &'static str {
        match self {
            Component::TaskManager => "TASK_MANAGER",
            Component::TablesManager => "TABLES_MANAGER",
            Component::MetadataManager => "METADATA_MANAGER",
            Component::SourceUnload => "SOURCE_UNLOAD",
            Component::SourceCapture => "SOURCE_CAPTURE",
            Component::Sorter => "SORTER",
            Component::Performance => "PERFORMANCE",
            Component::TargetLoad => "TARGET_LOAD",
            Component::TargetApply => "TARGET_APPLY",
        }
    }
}

fn letter(severity: Severity) -> char {
    match severity {
        Severity::Error => 'E',
        Severity::Warning => 'W',
        Severity::Info => 'I',
        Severity::Debug => 'D',
        Severity::DetailedDebug => 'T',
    }
}

/// Writes lines at or above each component's level. Cheap to write to from several loads at once.
pub struct TaskLog {
    file: Mutex<Option<File>>,
    levels: RwLock<Logging>,
}

impl TaskLog {
    /// Appends to the file, creating its folder.
    pub fn open(path: &Path, levels: Logging) -> io::Result<TaskLog> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(TaskLog { file: Mutex::new(Some(file)), levels: RwLock::new(levels) })
    }

    /// A log that goes nowhere, for a task whose log file cannot be written.
    pub fn nowhere() -> TaskLog {
        TaskLog { file: Mutex::new(None), levels: RwLock::default() }
    }

    /// The levels may change while the task runs.
    pub fn set_levels(&self, levels: Logging) {
        *self.levels.write().unwrap_or_else(PoisonError::into_inner) = levels;
    }

    /// Use through [`task_log!`], which adds the place in the code.
    pub fn write(&self, component: Component, level: Severity, text: &str, file: &str, line: u32) {
        if level > self.levels.read().unwrap_or_else(PoisonError::into_inner).severity(component.as_str()) {
            return;
        }
        let now = DateTime::from(SystemTime::now()).fmt(Format::DateTime).unwrap_or_default();
        let second = now.split(['.', 'Z']).next().unwrap_or_default();
        let file = file.rsplit('/').next().unwrap_or(file);
        let entry = format!("{second} [{:<16}]{}:  {text}  ({file}:{line})\n", component.as_str(), letter(level));
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = slot.as_mut()
            && let Err(error) = file.write_all(entry.as_bytes())
        {
            // A full disk must not fail the task; said once in the server's log.
            tracing::warn!(%error, "cannot write task log");
            *slot = None;
        }
    }
}

/// `task_log!(log, TargetLoad, Info, "loaded {rows} rows")`.
macro_rules! task_log {
    ($log:expr, $component:ident, $level:ident, $($text:tt)+) => {
        $log.write(
            $crate::replication::log::Component::$component,
            $crate::replication::settings::Severity::$level,
            &format!($($text)+),
            file!(),
            line!(),
        )
    };
}
pub(crate) use task_log;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_lines_in_the_format_of_dms_at_the_level_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/task.log");
        let log = TaskLog::open(&path, Logging::default().with("TARGET_LOAD", Severity::Error)).unwrap();
        task_log!(log, TaskManager, Info, "task {} starts", "one");
        task_log!(log, TaskManager, Debug, "too much");
        task_log!(log, TargetLoad, Info, "too much");
        task_log!(log, TargetLoad, Error, "no room");
        log.set_levels(Logging::default().with("TASK_MANAGER", Severity::Error));
        task_log!(log, TaskManager, Info, "too much from now on");
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        let pattern = regex_lite::Regex::new(
            r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d \[TASK_MANAGER    \]I:  task one starts  \(log\.rs:\d+\)$",
        );
        assert!(pattern.unwrap().is_match(lines[0]), "{}", lines[0]);
        assert!(lines[1].contains(" [TARGET_LOAD     ]E:  no room  (log.rs:"), "{}", lines[1]);
    }
}
