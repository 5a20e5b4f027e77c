//! The state machines of the resources, in DMS's words: one enum of statuses, one of events, one pure function.
//! <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Monitoring.html>

/// Declares a status enum with the spelling of the wire.
macro_rules! statuses {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($variant),+ }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant),+];

            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            /// Reads a status that this program has written.
            pub fn of(text: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|status| status.as_str() == text)
            }
        }
    };
}

statuses! {
    /// `ReplicationInstanceStatus`.
    Instance {
        Creating = "creating",
        Available = "available",
        Modifying = "modifying",
        Upgrading = "upgrading",
        Rebooting = "rebooting",
        Deleting = "deleting",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceEvent {
    Modify,
    Upgrade,
    Reboot,
    Delete,
    /// What was under way is done.
    Settle,
}

impl Instance {
    pub fn after(self, event: InstanceEvent) -> Option<Instance> {
        use Instance::*;
        Some(match (self, event) {
            (Available, InstanceEvent::Modify) => Modifying,
            (Available, InstanceEvent::Upgrade) => Upgrading,
            (Available, InstanceEvent::Reboot) => Rebooting,
            (Available, InstanceEvent::Delete) => Deleting,
            (Creating | Modifying | Upgrading | Rebooting, InstanceEvent::Settle) => Available,
            _ => return None,
        })
    }
}

statuses! {
    /// `ReplicationTask.Status`.
    Task {
        Creating = "creating",
        Ready = "ready",
        Starting = "starting",
        Running = "running",
        Stopping = "stopping",
        Stopped = "stopped",
        Failed = "failed",
        Modifying = "modifying",
        Deleting = "deleting",
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// Creation is done.
    Settle,
    Start,
    Run,
    Stop,
    /// The runner has ended well: stopped by the user or finished.
    End,
    /// The runner has given up.
    Fail,
    Modify,
    /// Modification is done, of a task that never ran, that ran, or that failed.
    Back(Before),
    Delete,
}

/// What a task was before it was modified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Ready,
    Stopped,
    Failed,
}

impl Task {
    pub fn after(self, event: TaskEvent) -> Option<Task> {
        use Task::*;
        Some(match (self, event) {
            (Creating, TaskEvent::Settle) => Ready,
            (Ready | Stopped | Failed, TaskEvent::Start) => Starting,
            (Starting, TaskEvent::Run) => Running,
            (Running, TaskEvent::Stop) => Stopping,
            (Starting | Running | Stopping, TaskEvent::End) => Stopped,
            (Starting | Running | Stopping, TaskEvent::Fail) => Failed,
            (Ready | Stopped | Failed, TaskEvent::Modify) => Modifying,
            (Modifying, TaskEvent::Back(Before::Ready)) => Ready,
            (Modifying, TaskEvent::Back(Before::Stopped)) => Stopped,
            (Modifying, TaskEvent::Back(Before::Failed)) => Failed,
            (Ready | Stopped | Failed, TaskEvent::Delete) => Deleting,
            _ => return None,
        })
    }
}

/// Statuses that pass by themselves: a describe that names one resource waits a moment for the next.
pub fn is_transient(status: &str) -> bool {
    matches!(
        status,
        "creating"
            | "modifying"
            | "upgrading"
            | "rebooting"
            | "deleting"
            | "starting"
            | "stopping"
            | "testing"
            | "refreshing"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_reads_back() {
        Task::ALL.iter().for_each(|status| assert_eq!(Task::of(status.as_str()), Some(*status)));
        Instance::ALL.iter().for_each(|status| assert_eq!(Instance::of(status.as_str()), Some(*status)));
        assert_eq!(Task::of("moving"), None);
    }

    #[test]
    fn a_task_lives_as_dms_says() {
        let walk = |events: &[TaskEvent]| {
            events.iter().try_fold(Task::Creating, |status, event| status.after(*event)).map(Task::as_str)
        };
        use TaskEvent::*;
        let cases: &[(&[TaskEvent], Option<&str>)] = &[
            (&[Settle], Some("ready")),
            (&[Settle, Start, Run, End], Some("stopped")),
            (&[Settle, Start, Run, Stop, End, Start], Some("starting")),
            (&[Settle, Start, Fail, Start], Some("starting")),
            (&[Settle, Modify, Back(Before::Ready), Start], Some("starting")),
            (&[Settle, Start, Run, Delete], None),
            (&[Settle, Start, Run, Start], None),
            (&[Settle, Start, Stop], None),
            (&[Settle, Stop], None),
            (&[Settle, Delete, Start], None),
        ];
        for (events, expected) in cases {
            assert_eq!(walk(events), *expected, "{events:?}");
        }
    }

    #[test]
    fn an_instance_is_left_alone_while_it_changes() {
        for status in [Instance::Creating, Instance::Modifying, Instance::Rebooting, Instance::Deleting] {
            for event in [InstanceEvent::Modify, InstanceEvent::Reboot, InstanceEvent::Delete] {
                assert_eq!(status.after(event), None, "{status:?} {event:?}");
            }
        }
    }
}
