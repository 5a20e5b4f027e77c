//! Errors of the data plane, sorted into the kinds that DMS's error-handling settings speak of.

use std::fmt;

pub type Result<T> = std::result::Result<T, Error>;

/// Which policy of the task's `ErrorBehavior` decides what happens next.
/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Tasks.CustomizingTasks.TaskSettings.ErrorHandling.html>
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The environment failed (network, server restart, out of disk on the server): trying again may help.
    Recoverable,
    /// One row cannot be written: a value the target refuses, a constraint.
    Data,
    /// One value does not fit its target column.
    Truncation,
    /// A change cannot be applied: no such row, or the row is there already.
    Apply,
    /// One table cannot be loaded at all: it vanished, no privilege, its definition is not accepted.
    Table,
    /// A snapshot does not show a table, whose definition has changed since: a later one does.
    Redefined,
    /// Nothing can go on: wrong password, unknown database, missing privilege for the whole task.
    Fatal,
}

/// An error with what we were doing, the server's own message and its codes. Never holds a row value, a password or
/// a connection string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: ErrorKind,
    /// What was being done, outermost first: `copy public.orders to target`.
    pub context: Vec<String>,
    pub message: String,
    /// Five-character SQLSTATE, when a server answered.
    pub sqlstate: Option<String>,
    /// The engine's own error number (MySQL: 1045; operating system: errno).
    pub native: Option<i64>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error { kind, context: Vec::new(), message: message.into(), sqlstate: None, native: None }
    }

    pub fn recoverable(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Recoverable, message)
    }

    pub fn table(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Table, message)
    }

    pub fn fatal(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Fatal, message)
    }

    pub fn with_sqlstate(mut self, sqlstate: impl Into<String>) -> Error {
        self.sqlstate = Some(sqlstate.into());
        self
    }

    pub fn with_native(mut self, native: i64) -> Error {
        self.native = Some(native);
        self
    }

    /// The same error, of another kind: only the caller knows whether a failed statement costs a row or a table.
    pub fn into_kind(mut self, kind: ErrorKind) -> Error {
        self.kind = kind;
        self
    }

    /// The server has no connection left for us: fewer at once may do.
    pub fn is_too_many_connections(&self) -> bool {
        // PostgreSQL's SQLSTATE, and MySQL's numbers for the server, the account and its hourly resources.
        self.sqlstate.as_deref() == Some("53300") || matches!(self.native, Some(1040 | 1203 | 1226))
    }

    /// Adds what the caller was doing.
    pub fn while_doing(mut self, what: impl Into<String>) -> Error {
        self.context.insert(0, what.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in &self.context {
            write!(f, "{context}: ")?;
        }
        f.write_str(&self.message)?;
        match (&self.sqlstate, self.native) {
            (Some(state), Some(native)) => write!(f, " [{native}, SQLSTATE {state}]"),
            (Some(state), None) => write!(f, " [SQLSTATE {state}]"),
            (None, Some(native)) => write!(f, " [{native}]"),
            (None, None) => Ok(()),
        }
    }
}

impl std::error::Error for Error {}
