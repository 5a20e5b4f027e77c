//! Every task setting, once: its place, type, allowed values and default. The parser, the defaults and the checker
//! all read this table, in which sections and settings stand in the order in which DMS answers with them.
//!
//! Ranges are documented ones where there are any; [`ANY_COUNT`] stands for "a whole number that is not negative".

use Kind::*;

pub(super) struct Setting {
    pub key: &'static str,
    pub kind: Kind,
}

pub(super) enum Kind {
    Bool(bool),
    Int {
        default: i64,
        min: i64,
        max: i64,
    },
    Word {
        default: &'static str,
        words: &'static [&'static str],
    },
    /// Several of these words, with commas between them.
    Words(&'static [&'static str]),
    Text(&'static str),
    /// A Unicode code point in hexadecimal: a number made of decimal digits, or a string.
    CodePoint,
    /// An object that always has all its members.
    Section(&'static [Setting]),
    /// Objects of one kind, kept as a whole.
    List(&'static [Setting]),
    /// `null` until it is sent, then completed.
    Nullable(&'static Kind),
    /// Not in the document until it is sent, then completed.
    Optional(&'static Kind),
    /// The array of log components with their severities, merged by `Id`.
    LogComponents,
    /// Filled in by the service.
    LogName,
    /// Something to do once, checked and not kept.
    Command,
    /// Of a shape that AWS does not document; kept as it is.
    Undocumented,
}

const fn s(key: &'static str, kind: Kind) -> Setting {
    Setting { key, kind }
}

const fn int(default: i64, (min, max): (i64, i64)) -> Kind {
    Int { default, min, max }
}

const fn word(default: &'static str, words: &'static [&'static str]) -> Kind {
    Word { default, words }
}

const COUNT_MAX: i64 = i32::MAX as i64;
const ANY_COUNT: (i64, i64) = (0, COUNT_MAX);

pub(super) const DOCUMENT: &[Setting] = &[
    s("Logging", Section(LOGGING)),
    s("StreamBufferSettings", Section(STREAM_BUFFER)),
    s("ErrorBehavior", Section(ERROR_BEHAVIOR)),
    s("ValidationSettings", Optional(&Section(VALIDATION))),
    s("ResyncSettings", Optional(&Section(RESYNC))),
    s("TTSettings", Nullable(&Section(TIME_TRAVEL))),
    s("FullLoadSettings", Section(FULL_LOAD)),
    s("TargetMetadata", Section(TARGET_METADATA)),
    s("BeforeImageSettings", Nullable(&Section(BEFORE_IMAGE))),
    s("ControlTablesSettings", Section(CONTROL_TABLES)),
    s("LoopbackPreventionSettings", Nullable(&Section(LOOPBACK_PREVENTION))),
    s("CharacterSetSettings", Nullable(&Section(CHARACTER_SET))),
    s("FailTaskWhenCleanTaskResourceFailed", Bool(false)),
    s("ChangeProcessingTuning", Section(CHANGE_PROCESSING)),
    s("ChangeProcessingDdlHandlingPolicy", Section(DDL_HANDLING)),
    s("PostProcessingRules", Nullable(&Undocumented)),
];

/// Settings the runtime does not follow yet, when they are true or hold anything.
pub(super) const NOT_SUPPORTED_YET: &[&str] = &[
    "ValidationSettings.EnableValidation",
    "ResyncSettings.EnableResync",
    "TTSettings.EnableTT",
    "CharacterSetSettings",
    "PostProcessingRules",
    "ControlTablesSettings.CommitPositionTableEnabled",
    "ControlTablesSettings.FullLoadExceptionTableEnabled",
];

/// Settings that may be sent and that the runtime does not read.
pub struct WithoutEffect {
    /// Empty for what is in none.
    pub section: &'static str,
    /// None stands for the whole section.
    pub settings: &'static [&'static str],
    pub why: &'static str,
}

/// In the README, too.
pub const WITHOUT_EFFECT: &[WithoutEffect] = &[
    WithoutEffect {
        section: "Logging",
        settings: &["EnableLogging", "EnableLogContext", "LogConfiguration"],
        why: "The log of a task is a file that is always written.",
    },
    WithoutEffect {
        section: "StreamBufferSettings",
        settings: &[],
        why: "Memory between source and target is bounded otherwise: three batches of 1 MiB for each table that loads.",
    },
    WithoutEffect {
        section: "ErrorBehavior",
        settings: &["EventErrorPolicy"],
        why: "Events are kept in the file that has the status of tasks: where one cannot be kept, no stop could be. The server's log tells of it.",
    },
    WithoutEffect {
        section: "ErrorBehavior",
        settings: &["FailOnTransactionConsistencyBreached"],
        why: "For Oracle sources. No open transaction is dropped here.",
    },
    WithoutEffect {
        section: "ErrorBehavior",
        settings: &["DataMaskingErrorPolicy"],
        why: "Mapping rules that mask data answer 501.",
    },
    WithoutEffect {
        section: "ValidationSettings",
        settings: &[],
        why: "Without `EnableValidation`, which answers 501.",
    },
    WithoutEffect { section: "ResyncSettings", settings: &[], why: "Without `EnableResync`, which answers 501." },
    WithoutEffect { section: "TTSettings", settings: &[], why: "Without `EnableTT`, which answers 501." },
    WithoutEffect {
        section: "TargetMetadata",
        settings: &["LobChunkSize", "InlineLobMaxSize"],
        why: "LOBs come with their rows, in full LOB mode, too: none is looked up.",
    },
    WithoutEffect {
        section: "TargetMetadata",
        settings: &["ParallelLoadThreads", "ParallelLoadBufferSize", "ParallelLoadQueuesPerThread"],
        why: "For other targets. For MySQL it is a setting of the endpoint, which works.",
    },
    WithoutEffect {
        section: "TargetMetadata",
        settings: &["ParallelApplyThreads", "ParallelApplyBufferSize", "ParallelApplyQueuesPerThread"],
        why: "For targets that are no PostgreSQL or MySQL.",
    },
    WithoutEffect { section: "TargetMetadata", settings: &["LoadMaxFileSize"], why: "Rows are loaded without files." },
    WithoutEffect {
        section: "BeforeImageSettings",
        settings: &[],
        why: "For targets that are streams; databases have `add-before-image-columns`.",
    },
    WithoutEffect {
        section: "",
        settings: &["FailTaskWhenCleanTaskResourceFailed"],
        why: "Not documented. The server's log tells what could not be taken away.",
    },
    WithoutEffect {
        section: "ChangeProcessingTuning",
        settings: &["BatchApplyPreserveTransaction"],
        why: "For Oracle targets. A batch always holds whole transactions here.",
    },
    WithoutEffect {
        section: "ChangeProcessingTuning",
        settings: &["RecoveryTimeout"],
        why: "The log is opened at the checkpoint, not searched for it: one that has lost it fails the task at once.",
    },
];

const LOGGING: &[Setting] = &[
    s("EnableLogging", Bool(false)),
    s("EnableLogContext", Bool(false)),
    s("LogComponents", LogComponents),
    s("LogConfiguration", Optional(&Section(LOG_CONFIGURATION))),
    s("CloudWatchLogGroup", LogName),
    s("CloudWatchLogStream", LogName),
    s("DeleteTaskLogs", Command),
];

/// Seen in answers of some engine versions, not documented.
const LOG_CONFIGURATION: &[Setting] = &[s("TraceOnErrorMb", int(10, ANY_COUNT)), s("EnableTraceOnError", Bool(false))];

/// The components of every document.
pub(super) const LOG_COMPONENTS: [&str; 19] = [
    "DATA_STRUCTURE",
    "COMMUNICATION",
    "IO",
    "COMMON",
    "FILE_FACTORY",
    "FILE_TRANSFER",
    "REST_SERVER",
    "ADDONS",
    "TARGET_LOAD",
    "TARGET_APPLY",
    "SOURCE_UNLOAD",
    "SOURCE_CAPTURE",
    "TRANSFORMATION",
    "SORTER",
    "TASK_MANAGER",
    "TABLES_MANAGER",
    "METADATA_MANAGER",
    "PERFORMANCE",
    "VALIDATOR_EXT",
];

/// Components that a document has only when they are sent; they come last then.
pub(super) const MORE_LOG_COMPONENTS: [&str; 5] =
    ["VALIDATOR", "VALIDATOR_TARGET", "DATA_RESYNC", "RESYNC_UNLOAD", "RESYNC_APPLY"];

pub(super) const SEVERITY_DEFAULT: &str = "LOGGER_SEVERITY_DEFAULT";

/// From the least to the most that is logged, as the guide lists them.
pub(super) const SEVERITIES: &[&str] = &[
    "LOGGER_SEVERITY_ERROR",
    "LOGGER_SEVERITY_WARNING",
    "LOGGER_SEVERITY_INFO",
    SEVERITY_DEFAULT,
    "LOGGER_SEVERITY_DEBUG",
    "LOGGER_SEVERITY_DETAILED_DEBUG",
];

const STREAM_BUFFER: &[Setting] = &[
    s("StreamBufferCount", int(3, (1, COUNT_MAX))),
    s("CtrlStreamBufferSizeInMB", int(5, (1, 8))),
    s("StreamBufferSizeInMB", int(8, (1, COUNT_MAX))),
];

const RECORD: &[&str] = &["IGNORE_RECORD", "LOG_ERROR", "SUSPEND_TABLE", "STOP_TASK"];
const RECORD_OR_INSERT: &[&str] = &["IGNORE_RECORD", "LOG_ERROR", "SUSPEND_TABLE", "STOP_TASK", "INSERT_RECORD"];
const RECORD_OR_UPDATE: &[&str] = &["IGNORE_RECORD", "LOG_ERROR", "SUSPEND_TABLE", "STOP_TASK", "UPDATE_RECORD"];
const TABLE: &[&str] = &["SUSPEND_TABLE", "STOP_TASK"];

const ERROR_BEHAVIOR: &[Setting] = &[
    s("FailOnNoTablesCaptured", Bool(true)),
    s("ApplyErrorUpdatePolicy", word("LOG_ERROR", RECORD_OR_UPDATE)),
    s("FailOnTransactionConsistencyBreached", Bool(false)),
    s("RecoverableErrorThrottlingMax", int(1800, ANY_COUNT)),
    s("DataErrorEscalationPolicy", word("SUSPEND_TABLE", TABLE)),
    s("ApplyErrorEscalationCount", int(0, ANY_COUNT)),
    s("RecoverableErrorStopRetryAfterThrottlingMax", Bool(true)),
    s("RecoverableErrorThrottling", Bool(true)),
    s("ApplyErrorFailOnTruncationDdl", Bool(false)),
    s("DataMaskingErrorPolicy", word("STOP_TASK", RECORD)),
    s("DataTruncationErrorPolicy", word("LOG_ERROR", RECORD)),
    s("ApplyErrorInsertPolicy", word("LOG_ERROR", RECORD_OR_INSERT)),
    s("EventErrorPolicy", word("IGNORE", &["IGNORE", "STOP_TASK"])),
    s("ApplyErrorEscalationPolicy", word("LOG_ERROR", &["LOG_ERROR", "SUSPEND_TABLE", "STOP_TASK"])),
    s("RecoverableErrorCount", int(-1, (-1, COUNT_MAX))),
    s("DataErrorEscalationCount", int(0, ANY_COUNT)),
    s("TableErrorEscalationPolicy", word("STOP_TASK", &["STOP_TASK"])),
    s("RecoverableErrorInterval", int(5, ANY_COUNT)),
    s("ApplyErrorDeletePolicy", word("IGNORE_RECORD", RECORD)),
    s("TableErrorEscalationCount", int(0, ANY_COUNT)),
    s("FullLoadIgnoreConflicts", Bool(true)),
    s("DataErrorPolicy", word("LOG_ERROR", RECORD)),
    s("TableErrorPolicy", word("SUSPEND_TABLE", TABLE)),
];

const VALIDATION: &[Setting] = &[
    s("ValidationPartialLobSize", int(0, ANY_COUNT)),
    s("PartitionSize", int(10_000, (1, COUNT_MAX))),
    s("RecordFailureDelayLimitInMinutes", int(0, ANY_COUNT)),
    s("SkipLobColumns", Bool(false)),
    s("FailureMaxCount", int(10_000, ANY_COUNT)),
    s("HandleCollationDiff", Bool(false)),
    s("ValidationQueryCdcDelaySeconds", int(0, ANY_COUNT)),
    s("ValidationMode", word("ROW_LEVEL", &["ROW_LEVEL", "GROUP_LEVEL"])),
    s("TableFailureMaxCount", int(1_000, ANY_COUNT)),
    s("RecordFailureDelayInMinutes", int(5, ANY_COUNT)),
    s("MaxKeyColumnSize", int(8096, ANY_COUNT)),
    s("EnableValidation", Bool(false)),
    s("ThreadCount", int(5, (1, COUNT_MAX))),
    s("RecordSuspendDelayInMinutes", int(30, ANY_COUNT)),
    s("ValidationOnly", Bool(false)),
];

const RESYNC: &[Setting] = &[
    s("EnableResync", Bool(false)),
    s("ResyncSchedule", Optional(&Text(""))),
    s("MaxResyncTime", Optional(&Int { default: 14_400, min: 5, max: 14_400 })),
    s("ValidationTaskId", Optional(&Text(""))),
];

const TIME_TRAVEL: &[Setting] = &[
    s("TTS3Settings", Nullable(&Section(TIME_TRAVEL_S3))),
    s("TTRecordSettings", Nullable(&Section(TIME_TRAVEL_RECORD))),
    s("FailTaskOnTTFailure", Bool(false)),
    s("EnableTT", Bool(false)),
];

const TIME_TRAVEL_S3: &[Setting] = &[
    s("EncryptionMode", word("SSE_S3", &["SSE_S3", "SSE_KMS"])),
    s("ServerSideEncryptionKmsKeyId", Optional(&Text(""))),
    s("ServiceAccessRoleArn", Optional(&Text(""))),
    s("BucketName", Optional(&Text(""))),
    s("BucketFolder", Optional(&Text(""))),
    s("EnableDeletingFromS3OnTaskDelete", Bool(false)),
];

const TIME_TRAVEL_RECORD: &[Setting] = &[
    s("EnableRawData", Bool(false)),
    s("RawDataFormat", Optional(&Word { default: "TEXT", words: &["TEXT", "HEX"] })),
    s("OperationsToLog", Words(&["ALL", "INSERT", "UPDATE", "DELETE", "COMMIT", "ROLLBACK"])),
    s("MaxRecordSize", int(64, (1, COUNT_MAX))),
];

const FULL_LOAD: &[Setting] = &[
    s("CommitRate", int(10_000, (1, 50_000))),
    s("StopTaskCachedChangesApplied", Bool(false)),
    s("StopTaskCachedChangesNotApplied", Bool(false)),
    s("MaxFullLoadSubTasks", int(8, (1, 49))),
    s("TransactionConsistencyTimeout", int(600, ANY_COUNT)),
    s("CreatePkAfterFullLoad", Bool(false)),
    s("TargetTablePrepMode", word("DROP_AND_CREATE", &["DO_NOTHING", "DROP_AND_CREATE", "TRUNCATE_BEFORE_LOAD"])),
];

/// Sizes in kilobytes. The guide gives 102,400 as the largest LOB of the limited and the inline mode. `LobChunkSize`
/// was 0 in the documents of older engines, which people still send.
const TARGET_METADATA: &[Setting] = &[
    s("ParallelApplyBufferSize", int(0, (0, 1_000))),
    s("ParallelApplyQueuesPerThread", int(0, ANY_COUNT)),
    s("ParallelApplyThreads", int(0, ANY_COUNT)),
    s("TargetSchema", Text("")),
    s("InlineLobMaxSize", int(0, (0, 102_400))),
    s("ParallelLoadQueuesPerThread", int(0, ANY_COUNT)),
    s("SupportLobs", Bool(true)),
    s("LobChunkSize", int(64, ANY_COUNT)),
    s("TaskRecoveryTableEnabled", Bool(false)),
    s("ParallelLoadThreads", int(0, (0, 200))),
    s("LobMaxSize", int(32, (0, 102_400))),
    s("BatchApplyEnabled", Bool(false)),
    s("FullLobMode", Bool(false)),
    s("LimitedSizeLobMode", Bool(true)),
    s("LoadMaxFileSize", int(0, (0, 100_000))),
    s("ParallelLoadBufferSize", int(0, (0, 1_000))),
];

const BEFORE_IMAGE: &[Setting] = &[
    s("EnableBeforeImage", Bool(false)),
    s("FieldName", Text("")),
    s("ColumnFilter", word("pk-only", &["pk-only", "non-lob", "all"])),
];

const CONTROL_TABLES: &[Setting] = &[
    s("historyTimeslotInMinutes", int(5, (1, COUNT_MAX))),
    // Seen in documents of some engine versions, not documented.
    s("CommitPositionTableEnabled", Optional(&Bool(false))),
    s("HistoryTimeslotInMinutes", int(5, (1, COUNT_MAX))),
    s("StatusTableEnabled", Bool(false)),
    s("SuspendedTablesTableEnabled", Bool(false)),
    s("HistoryTableEnabled", Bool(false)),
    s("ControlSchema", Text("")),
    s("FullLoadExceptionTableEnabled", Bool(false)),
];

const LOOPBACK_PREVENTION: &[Setting] =
    &[s("EnableLoopbackPrevention", Bool(false)), s("SourceSchema", Text("")), s("TargetSchema", Text(""))];

const CHARACTER_SET: &[Setting] = &[
    s("CharacterReplacements", Nullable(&List(CHARACTER_REPLACEMENT))),
    s("CharacterSetSupport", Nullable(&Section(CHARACTER_SET_SUPPORT))),
];

const CHARACTER_REPLACEMENT: &[Setting] =
    &[s("SourceCharacterCodePoint", CodePoint), s("TargetCharacterCodePoint", CodePoint)];

const CHARACTER_SET_SUPPORT: &[Setting] =
    &[s("CharacterSet", Optional(&Text(""))), s("ReplaceWithCharacterCodePoint", CodePoint)];

const CHANGE_PROCESSING: &[Setting] = &[
    s("StatementCacheSize", int(50, (0, 200))),
    s("CommitTimeout", int(1, ANY_COUNT)),
    s("RecoveryTimeout", int(-1, (-1, COUNT_MAX))),
    s("BatchApplyPreserveTransaction", Bool(true)),
    s("BatchApplyTimeoutMin", int(1, ANY_COUNT)),
    s("BatchSplitSize", int(0, ANY_COUNT)),
    s("BatchApplyTimeoutMax", int(30, ANY_COUNT)),
    s("MinTransactionSize", int(1_000, ANY_COUNT)),
    s("MemoryKeepTime", int(60, ANY_COUNT)),
    s("BatchApplyMemoryLimit", int(500, ANY_COUNT)),
    s("MemoryLimitTotal", int(1024, ANY_COUNT)),
];

const DDL_HANDLING: &[Setting] = &[
    s("HandleSourceTableDropped", Bool(true)),
    s("HandleSourceTableTruncated", Bool(true)),
    s("HandleSourceTableAltered", Bool(true)),
];
