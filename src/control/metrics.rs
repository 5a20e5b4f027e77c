//! The metrics of running tasks, named as in CloudWatch and written as Prometheus reads them.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Monitoring.html#CHAP_Monitoring.Metrics.Task>

use std::fmt::Write;

use super::context::Shared;
use crate::replication::Reading;

struct Metric {
    name: &'static str,
    help: &'static str,
    kind: &'static str,
    value: fn(&Reading) -> f64,
}

const METRICS: &[Metric] = &[
    Metric {
        name: "CDCLatencySource",
        help: "Seconds from the commit of the newest change until it was read; 0 when there is nothing new.",
        kind: "gauge",
        value: |reading| reading.latency_source_s,
    },
    Metric {
        name: "CDCLatencyTarget",
        help: "Age in seconds of the oldest change that is not on the target.",
        kind: "gauge",
        value: |reading| reading.latency_target_s,
    },
    Metric {
        name: "CDCIncomingChanges",
        help: "Changes that wait to be applied.",
        kind: "gauge",
        value: |reading| (reading.waiting.memory_rows + reading.waiting.disk_rows) as f64,
    },
    Metric {
        name: "CDCChangesMemoryTarget",
        help: "Rows in memory that wait for the target.",
        kind: "gauge",
        value: |reading| reading.waiting.memory_rows as f64,
    },
    Metric {
        name: "CDCChangesDiskTarget",
        help: "Rows on disk that wait for the target.",
        kind: "gauge",
        value: |reading| reading.waiting.disk_rows as f64,
    },
    // The service has rates here; of a counter every reader makes the rate that he wants.
    Metric {
        name: "CDCRowsSource_total",
        help: "Row changes read from the source since the task was started.",
        kind: "counter",
        value: |reading| reading.rows_source as f64,
    },
    Metric {
        name: "CDCRowsTarget_total",
        help: "Row changes applied to the target since the task was started.",
        kind: "counter",
        value: |reading| reading.rows_target as f64,
    },
];

/// All metrics of all tasks that run here, and what the process takes.
pub async fn text(shared: &Shared) -> String {
    let mut tasks = Vec::new();
    for (arn, reading) in shared.readings() {
        let identifier = match shared.store.get(&arn).await {
            Ok(Some(task)) => task.identifier,
            // It is being deleted, or the store has its trouble: the others are told all the same.
            Ok(None) | Err(_) => continue,
        };
        let labels = format!("ReplicationTaskIdentifier=\"{identifier}\",ReplicationTaskArn=\"{arn}\"");
        tasks.push((labels, reading));
    }
    let mut text = String::new();
    for Metric { name, help, kind, value } in METRICS {
        // Writing into a String cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        for (labels, reading) in &tasks {
            let _ = writeln!(text, "{name}{{{labels}}} {}", value(reading));
        }
    }
    if let Some(bytes) = resident_bytes() {
        let name = "process_resident_memory_bytes";
        let _ = write!(text, "# HELP {name} Memory of the process.\n# TYPE {name} gauge\n{name} {bytes}\n");
    }
    text
}

fn resident_bytes() -> Option<u64> {
    let pages: u64 = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
