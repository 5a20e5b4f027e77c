use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::schema::{DOCUMENT, Kind, NOT_SUPPORTED_YET, Setting};
use super::*;
use crate::connector::{CreateKey, PrepareMode};

const CONTEXT: Context<'static> =
    Context { replication_instance_identifier: "my-instance", task_resource_id: "ABCDEF0123456789" };

/// What AWS answered in July 2026, engine 3.5.4, for a task created without settings.
const RECORDED_DEFAULT: &str = include_str!("default.json");

fn created(sent: Json) -> Json {
    serde_json::from_str(&create(Some(&sent.to_string()), CONTEXT).unwrap()).unwrap()
}

fn merged(existing: &Json, patch: Json) -> Json {
    serde_json::from_str(&merge(&existing.to_string(), &patch.to_string(), CONTEXT).unwrap()).unwrap()
}

fn defaults() -> Json {
    created(json!({}))
}

#[test]
fn default_document_is_aws_own_byte_for_byte() {
    assert_eq!(create(None, CONTEXT).unwrap(), RECORDED_DEFAULT.trim_end());
    assert_eq!(create(Some("{}"), CONTEXT).unwrap(), RECORDED_DEFAULT.trim_end());
    assert_eq!(create(Some(RECORDED_DEFAULT), CONTEXT).unwrap(), RECORDED_DEFAULT.trim_end());
}

#[test]
fn nulls_stand_for_defaults() {
    let nulls: Map<String, Json> = DOCUMENT.iter().map(|section| (section.key.to_owned(), Json::Null)).collect();
    assert_eq!(created(Json::Object(nulls)), defaults());
    assert_eq!(created(json!({ "TargetMetadata": { "LobMaxSize": null } })), defaults());
    let changed = created(json!({ "TargetMetadata": { "LobMaxSize": 7 }, "BeforeImageSettings": {} }));
    assert_ne!(changed, defaults());
    let reset = json!({ "TargetMetadata": { "LobMaxSize": null }, "BeforeImageSettings": null });
    assert_eq!(merged(&changed, reset), defaults());
}

#[test]
fn keeps_what_is_not_sent() {
    let first = created(json!({ "FullLoadSettings": { "CommitRate": 7 } }));
    let second = merged(&first, json!({ "FullLoadSettings": { "TargetTablePrepMode": "DO_NOTHING" } }));
    let mut expected = defaults();
    expected["FullLoadSettings"]["CommitRate"] = json!(7);
    expected["FullLoadSettings"]["TargetTablePrepMode"] = json!("DO_NOTHING");
    assert_eq!(second.to_string(), expected.to_string());
}

#[test]
fn completes_sections_that_are_sent() {
    let document = create(Some(r#"{"ValidationSettings":{"EnableValidation":true}}"#), CONTEXT).unwrap();
    let completed = r#""ValidationSettings":{"ValidationPartialLobSize":0,"PartitionSize":10000,"RecordFailureDelayLimitInMinutes":0,"SkipLobColumns":false,"FailureMaxCount":10000,"HandleCollationDiff":false,"ValidationQueryCdcDelaySeconds":0,"ValidationMode":"ROW_LEVEL","TableFailureMaxCount":1000,"RecordFailureDelayInMinutes":5,"MaxKeyColumnSize":8096,"EnableValidation":true,"ThreadCount":5,"RecordSuspendDelayInMinutes":30,"ValidationOnly":false},"TTSettings":null"#;
    assert!(document.contains(completed), "{document}");
    assert!(created(json!({ "ValidationSettings": {} }))["ValidationSettings"]["ThreadCount"] == 5);
    assert_eq!(
        created(json!({ "TTSettings": { "EnableTT": false } }))["TTSettings"],
        json!({ "TTS3Settings": null, "TTRecordSettings": null, "FailTaskOnTTFailure": false, "EnableTT": false })
    );
    let sets = json!({
        "CharacterReplacements": [{ "SourceCharacterCodePoint": 62, "TargetCharacterCodePoint": "2FB6" }],
        "CharacterSetSupport": { "CharacterSet": "UTF16_PlatformEndian", "ReplaceWithCharacterCodePoint": 0 }
    });
    assert_eq!(created(json!({ "CharacterSetSettings": sets }))["CharacterSetSettings"], sets);
    let resync = json!({ "EnableResync": true, "ResyncSchedule": "0 0 * * 6", "MaxResyncTime": 360 });
    assert_eq!(created(json!({ "ResyncSettings": resync }))["ResyncSettings"], resync);
}

#[test]
fn sets_single_log_components() {
    let sent = json!([
        { "Id": "SORTER", "Severity": "LOGGER_SEVERITY_DEBUG" },
        { "Id": "VALIDATOR", "Severity": "LOGGER_SEVERITY_ERROR" },
    ]);
    let document = created(json!({ "Logging": { "LogComponents": sent } }));
    let components = document["Logging"]["LogComponents"].as_array().unwrap();
    assert_eq!(components.len(), 20);
    assert_eq!(components[13], json!({ "Severity": "LOGGER_SEVERITY_DEBUG", "Id": "SORTER" }));
    assert_eq!(components[19], json!({ "Severity": "LOGGER_SEVERITY_ERROR", "Id": "VALIDATOR" }));
    let later = merged(&document, json!({ "Logging": { "LogComponents": [] } }));
    assert_eq!(later, document);
}

#[test]
fn names_the_log_while_logging_is_on() {
    let on = created(json!({ "Logging": { "EnableLogging": true, "EnableLogContext": true } }));
    assert_eq!(on["Logging"]["CloudWatchLogGroup"], "dms-tasks-my-instance");
    assert_eq!(on["Logging"]["CloudWatchLogStream"], "dms-task-ABCDEF0123456789");
    assert_eq!(merged(&on, on.clone()), on, "a document that was read can be sent back");
    let off = merged(&on, json!({ "Logging": { "EnableLogging": false, "EnableLogContext": false } }));
    assert_eq!(off, defaults());

    let error = create(Some(r#"{"Logging":{"EnableLogging":true,"CloudWatchLogGroup":"mine"}}"#), CONTEXT).unwrap_err();
    assert_eq!(error.to_string(), "Task Settings CloudWatchLogGroup or CloudWatchLogStream cannot be set on create.");
    let error = merge(&on.to_string(), r#"{"Logging":{"CloudWatchLogStream":"mine"}}"#, CONTEXT).unwrap_err();
    assert_eq!(error.path(), "Logging.CloudWatchLogStream");
    create(Some(r#"{"Logging":{"CloudWatchLogGroup":null,"CloudWatchLogStream":null}}"#), CONTEXT).unwrap();
}

#[test]
fn refuses_log_context_without_logging() {
    let message =
        "The parameter Logging.EnableLogContext is not allowed when Logging.EnableLogging is not set to true.";
    let error = create(Some(r#"{"Logging":{"EnableLogContext":true}}"#), CONTEXT).unwrap_err();
    assert_eq!((error.path(), error.to_string().as_str()), ("Logging.EnableLogContext", message));
    let on = created(json!({ "Logging": { "EnableLogging": true, "EnableLogContext": true } }));
    let error = merge(&on.to_string(), r#"{"Logging":{"EnableLogging":false}}"#, CONTEXT).unwrap_err();
    assert_eq!(error.to_string(), message);
    create(Some(r#"{"Logging":{"EnableLogContext":false}}"#), CONTEXT).unwrap();
}

#[test]
fn keeps_both_spellings_of_the_time_slot_alike() {
    for key in ["HistoryTimeslotInMinutes", "historyTimeslotInMinutes"] {
        let section = created(json!({ "ControlTablesSettings": { key: 9 } }))["ControlTablesSettings"].clone();
        assert_eq!(
            (&section["HistoryTimeslotInMinutes"], &section["historyTimeslotInMinutes"]),
            (&json!(9), &json!(9))
        );
    }
}

/// Each mistake by its path and a part of the message.
#[test]
fn names_the_offender() {
    for (sent, path, part) in [
        (json!({ "Typo": 1 }), "Typo", "is not a known setting; known here: Logging, StreamBufferSettings"),
        (json!({ "logging": {} }), "logging", "is not a known setting"),
        (json!({ "CommitRate": 1 }), "CommitRate", "it belongs to FullLoadSettings"),
        (json!({ "TargetMetadata": { "CommitRate": 1 } }), "TargetMetadata.CommitRate", "belongs to FullLoadSettings"),
        (json!({ "FullLoadSettings": 1 }), "FullLoadSettings", "is a number; it must be an object"),
        (json!({ "FullLoadSettings": { "CommitRate": 0 } }), "FullLoadSettings.CommitRate", "from 1 to 50000"),
        (json!({ "FullLoadSettings": { "CommitRate": 50001 } }), "FullLoadSettings.CommitRate", "is 50001; it must be"),
        (json!({ "FullLoadSettings": { "CommitRate": "5" } }), "FullLoadSettings.CommitRate", "is a string; it must"),
        (json!({ "FullLoadSettings": { "CommitRate": 1.5 } }), "FullLoadSettings.CommitRate", "a whole number"),
        (json!({ "FullLoadSettings": { "CommitRate": u64::MAX } }), "FullLoadSettings.CommitRate", "a whole number"),
        (json!({ "FullLoadSettings": { "MaxFullLoadSubTasks": 50 } }), "FullLoadSettings.MaxFullLoadSubTasks", "to 49"),
        (
            json!({ "FullLoadSettings": { "TargetTablePrepMode": "do_nothing" } }),
            "FullLoadSettings.TargetTablePrepMode",
            "is \"do_nothing\"; it must be one of DO_NOTHING, DROP_AND_CREATE, TRUNCATE_BEFORE_LOAD",
        ),
        (json!({ "TargetMetadata": { "SupportLobs": 1 } }), "TargetMetadata.SupportLobs", "must be true or false"),
        (json!({ "TargetMetadata": { "LobMaxSize": 102401 } }), "TargetMetadata.LobMaxSize", "from 0 to 102400"),
        (json!({ "TargetMetadata": { "TargetSchema": 5 } }), "TargetMetadata.TargetSchema", "must be a string"),
        (
            json!({ "TargetMetadata": { "LimitedSizeLobMode": false } }),
            "TargetMetadata.SupportLobs",
            "FullLobMode or LimitedSizeLobMode must be true",
        ),
        (json!({ "ErrorBehavior": { "DataErrorPolicy": "IGNORE" } }), "ErrorBehavior.DataErrorPolicy", "IGNORE_RECORD"),
        (json!({ "ErrorBehavior": { "RecoverableErrorCount": -2 } }), "ErrorBehavior.RecoverableErrorCount", "from -1"),
        (
            json!({ "StreamBufferSettings": { "CtrlStreamBufferSizeInMB": 9 } }),
            "StreamBufferSettings.CtrlStreamBufferSizeInMB",
            "1 to 8",
        ),
        (json!({ "Logging": { "LogComponents": {} } }), "Logging.LogComponents", "must be an array"),
        (
            json!({ "Logging": { "LogComponents": [{ "Id": "X", "Severity": "LOGGER_SEVERITY_INFO" }] } }),
            "Logging.LogComponents[0].Id",
            "DATA_STRUCTURE",
        ),
        (
            json!({ "Logging": { "LogComponents": [{ "Id": "IO", "Severity": "INFO" }] } }),
            "Logging.LogComponents[0].Severity",
            "LOGGER_SEVERITY_DETAILED_DEBUG",
        ),
        (json!({ "Logging": { "LogComponents": [{ "Id": "IO" }] } }), "Logging.LogComponents[0].Severity", "is null"),
        (json!({ "Logging": { "DeleteTaskLogs": "yes" } }), "Logging.DeleteTaskLogs", "true or false"),
        (
            json!({ "CharacterSetSettings": { "CharacterReplacements": [{ "SourceCharacterCodePoint": "110000" }] } }),
            "CharacterSetSettings.CharacterReplacements[0].SourceCharacterCodePoint",
            "10FFFF",
        ),
        (
            json!({ "TTSettings": { "TTRecordSettings": { "OperationsToLog": "DELETE,UPSERT" } } }),
            "TTSettings.TTRecordSettings.OperationsToLog",
            "ROLLBACK",
        ),
        (
            json!({ "BeforeImageSettings": { "EnableBeforeImage": true } }),
            "BeforeImageSettings.FieldName",
            "must not be empty",
        ),
        (json!({ "ResyncSettings": { "MaxResyncTime": 4 } }), "ResyncSettings.MaxResyncTime", "from 5 to 14400"),
    ] {
        for error in [
            create(Some(&sent.to_string()), CONTEXT).expect_err(path),
            merge(RECORDED_DEFAULT, &sent.to_string(), CONTEXT).expect_err(path),
        ] {
            assert_eq!(error.path(), path, "{error}");
            assert!(error.to_string().starts_with(&format!("Invalid task settings JSON: {path} ")), "{error}");
            assert!(error.to_string().contains(part), "{error} should say {part}");
        }
    }
    for (document, part) in [("[]", "must be an object"), ("{", "EOF")] {
        let error = create(Some(document), CONTEXT).unwrap_err();
        assert!(error.to_string().starts_with("Invalid task settings JSON: ") && error.path().is_empty());
        assert!(error.to_string().contains(part), "{error}");
    }
    let long = format!("{{}}{}", " ".repeat(DOCUMENT_BYTES_MAX));
    assert!(create(Some(&long), CONTEXT).unwrap_err().to_string().contains("at most 262144"));
}

#[test]
fn takes_the_example_of_the_user_guide() {
    let document = created(json!({
        "TTSettings": {
            "EnableTT": true,
            "TTS3Settings": {
                "EncryptionMode": "SSE_KMS", "ServerSideEncryptionKmsKeyId": "arn:aws:kms:…", "BucketName": "b",
                "ServiceAccessRoleArn": "arn:aws:iam::112233445566:role/r", "EnableDeletingFromS3OnTaskDelete": false
            },
            "TTRecordSettings": { "EnableRawData": true, "OperationsToLog": "DELETE,UPDATE", "MaxRecordSize": 64 }
        },
        "LoopbackPreventionSettings": {
            "EnableLoopbackPrevention": true, "SourceSchema": "LOOP-DATA", "TargetSchema": "loop-data"
        },
        "BeforeImageSettings": { "EnableBeforeImage": false, "FieldName": "", "ColumnFilter": "pk-only" },
        "ErrorBehavior": { "DataErrorEscalationCount": 50, "RecoverableErrorCount": 0 }
    }));
    assert_eq!(document["ErrorBehavior"]["DataErrorEscalationCount"], 50);
    let not_yet = ["TTSettings.EnableTT"];
    assert_eq!(not_supported_yet(&document.to_string()), not_yet);
    assert!(not_supported_yet(RECORDED_DEFAULT).is_empty());
}

#[test]
fn tells_a_change_of_severity_from_others() {
    let severity = json!({ "Logging": { "LogComponents": [{ "Id": "IO", "Severity": "LOGGER_SEVERITY_DEBUG" }] } });
    let changed =
        |patch: Json| only_logging_severity_changed(RECORDED_DEFAULT, &merged(&defaults(), patch).to_string());
    assert!(changed(severity.clone()));
    assert!(changed(json!({})));
    assert!(!changed(json!({ "Logging": { "EnableLogging": true } })));
    assert!(!changed(json!({ "Logging": severity["Logging"], "FullLoadSettings": { "CommitRate": 1 } })));
    assert!(!only_logging_severity_changed("", ""));
}

#[test]
fn deletes_logs_once() {
    let sent = r#"{"Logging":{"DeleteTaskLogs":true}}"#;
    assert!(deletes_task_logs(sent) && !deletes_task_logs("{}") && !deletes_task_logs("x"));
    assert_eq!(create(Some(sent), CONTEXT).unwrap(), RECORDED_DEFAULT.trim_end());
}

#[test]
fn reads_settings_for_the_runtime() {
    let typed = |sent: Json| TaskSettings::from_canonical(&created(sent).to_string()).unwrap();
    let settings = typed(json!({}));
    assert_eq!(settings.full_load.prepare_mode, PrepareMode::DropAndCreate);
    assert_eq!(settings.full_load.create_key, CreateKey::WithTable);
    assert_eq!((settings.full_load.commit_rate, settings.full_load.max_full_load_sub_tasks), (10_000, 8));
    assert_eq!(settings.target_metadata.lob_mode(), LobMode::Limited { bytes_max: 32 * 1024 });
    assert_eq!(settings.error_behavior.data_error_policy, ErrorPolicy::LogError);
    assert_eq!(settings.error_behavior.recoverable_error_count, -1);
    assert_eq!(settings.control_tables.history_timeslot_minutes, 5);
    assert_eq!(settings.logging.severity("SOURCE_UNLOAD"), Severity::Info);
    assert_eq!(TaskSettings::from_canonical("{}").unwrap(), settings, "an old document is completed");

    let settings = typed(json!({
        "FullLoadSettings": { "TargetTablePrepMode": "TRUNCATE_BEFORE_LOAD", "CreatePkAfterFullLoad": true },
        "TargetMetadata": { "FullLobMode": true, "LobChunkSize": 0, "InlineLobMaxSize": 16, "TargetSchema": "t" },
        "Logging": { "LogComponents": [{ "Id": "TARGET_LOAD", "Severity": "LOGGER_SEVERITY_DETAILED_DEBUG" }] }
    }));
    assert_eq!(settings.full_load.prepare_mode, PrepareMode::TruncateBeforeLoad);
    assert_eq!(settings.full_load.create_key, CreateKey::AfterLoad);
    assert_eq!(settings.target_metadata.target_schema, "t");
    assert_eq!(settings.target_metadata.lob_mode(), LobMode::Full);
    assert!(settings.logging.severity("TARGET_LOAD") > Severity::Debug);
    let off = typed(json!({ "TargetMetadata": { "SupportLobs": false } }));
    assert_eq!(off.target_metadata.lob_mode(), LobMode::Off);
}

/// A document with one setting at one legal value, and so on for every setting and a few of its values.
fn every_setting(prefix: &[&'static str], settings: &'static [Setting], found: &mut Vec<(Vec<&'static str>, Json)>) {
    for setting in settings {
        let path = [prefix, &[setting.key]].concat();
        let mut kind = &setting.kind;
        while let Kind::Nullable(inner) | Kind::Optional(inner) = kind {
            kind = inner;
        }
        let values = match kind {
            Kind::Section(settings) => {
                every_setting(&path, settings, found);
                vec![json!({})]
            }
            Kind::Bool(_) => vec![json!(true), json!(false)],
            Kind::Int { default, min, max } => vec![json!(default), json!(min), json!(max)],
            Kind::Word { words, .. } | Kind::Words(words) => words.iter().map(|word| json!(word)).collect(),
            Kind::Text(_) => vec![json!(""), json!("naïve \"name\"")],
            Kind::CodePoint => vec![json!(41), json!("2FB6")],
            Kind::List(_) => vec![json!([]), json!([{}])],
            Kind::LogComponents => vec![json!([{ "Id": "IO", "Severity": "LOGGER_SEVERITY_ERROR" }])],
            Kind::LogName | Kind::Nullable(_) | Kind::Optional(_) => vec![],
            Kind::Command => vec![json!(true)],
            Kind::Undocumented => vec![json!({ "a": [1] })],
        };
        found.extend(values.into_iter().map(|value| (path.clone(), value)));
    }
}

fn set(document: &mut Json, path: &[&str], value: Json) {
    match path {
        [] => *document = value,
        [key, rest @ ..] => set(&mut document[*key], rest, value),
    }
}

#[test]
fn every_legal_value_can_be_read_by_the_runtime() {
    let mut all = Vec::new();
    every_setting(&[], DOCUMENT, &mut all);
    assert!(all.len() > 250, "{}", all.len());
    for (path, value) in all {
        let mut sent = json!({ "Logging": { "EnableLogging": true } });
        set(&mut sent, &path, value);
        match create(Some(&sent.to_string()), CONTEXT) {
            Ok(document) => drop(TaskSettings::from_canonical(&document).unwrap()),
            // The three rules that bind one setting to another.
            Err(error) => assert!(
                ["Logging.EnableLogContext", "TargetMetadata.SupportLobs", "BeforeImageSettings.FieldName"]
                    .contains(&error.path()),
                "{sent}: {error}"
            ),
        }
    }
}

/// A setting is read by the runtime, or answers 501 when it asks for something, or is listed as one that changes nothing.
#[test]
fn what_the_runtime_does_not_read_is_listed() {
    let is_in =
        |path: &str, whole: &str| path == whole || path.strip_prefix(whole).is_some_and(|it| it.starts_with('.'));
    let all = WITHOUT_EFFECT.iter().flat_map(|entry| match (entry.section, entry.settings) {
        (section, []) => vec![section.to_owned()],
        ("", settings) => settings.iter().map(|setting| (*setting).to_owned()).collect(),
        (section, settings) => settings.iter().map(|setting| format!("{section}.{setting}")).collect(),
    });
    let mut listed: BTreeMap<String, bool> = all.map(|path| (path, false)).collect();
    let base = json!({ "Logging": { "EnableLogging": true } });
    let made = |sent: &Json| create(Some(&sent.to_string()), CONTEXT);
    let read = |document: &str| TaskSettings::from_canonical(document).unwrap();
    let plain = made(&base).unwrap();
    let mut found = Vec::new();
    every_setting(&[], DOCUMENT, &mut found);
    let mut is_read: BTreeMap<String, bool> = BTreeMap::new();
    for (path, value) in found.iter().filter(|(_, value)| *value != json!({})) {
        let mut sent = base.clone();
        set(&mut sent, path, value.clone());
        match made(&sent) {
            Ok(document) if document != plain => {
                *is_read.entry(path.join(".")).or_default() |= read(&document) != read(&plain);
            }
            // The default, or a setting that goes together with another.
            _ => {}
        }
    }
    for (path, is_read) in is_read {
        let entry = listed.iter_mut().find(|(whole, _)| is_in(&path, whole));
        let is_listed = entry.map(|(_, found)| *found = true).is_some();
        let answers_501 = NOT_SUPPORTED_YET.iter().any(|whole| is_in(&path, whole));
        assert!(is_read != (is_listed || answers_501), "{path}: read {is_read}, listed {is_listed}");
    }
    let unknown: Vec<_> = listed.iter().filter(|(_, found)| !**found).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn completing_twice_changes_nothing(picks in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let mut all = Vec::new();
        every_setting(&[], DOCUMENT, &mut all);
        let mut sent = json!({});
        for pick in picks {
            let (path, value) = pick.get(&all);
            // Later picks may go into what an earlier one set whole; then there is nothing to index.
            if value.is_object() {
                continue;
            }
            set(&mut sent, path, value.clone());
        }
        if let Ok(once) = create(Some(&sent.to_string()), CONTEXT) {
            prop_assert_eq!(merge(&once, "{}", CONTEXT).unwrap(), once.clone());
            prop_assert_eq!(merge(&once, &once, CONTEXT).unwrap(), once.clone());
            prop_assert_eq!(merge(RECORDED_DEFAULT, &once, CONTEXT).unwrap(), once.clone());
            if sent["Logging"]["EnableLogging"] != true {
                prop_assert_eq!(create(Some(&once), CONTEXT).unwrap(), once);
            }
        }
    }

    #[test]
    fn never_panics(text in ".{0,40}", key in "[A-Za-z.]{0,12}", value in prop_oneof![
        Just(json!(null)), Just(json!(-1)), Just(json!([[]])), Just(json!({ "Id": {} })), Just(json!("LOG_ERROR"))
    ]) {
        let _ = create(Some(&text), CONTEXT);
        let _ = merge(&text, "{}", CONTEXT);
        for section in DOCUMENT {
            let sent = json!({ section.key: { key.as_str(): value.clone() } });
            let _ = create(Some(&sent.to_string()), CONTEXT);
            let sent = json!({ section.key: value.clone() });
            let _ = merge(&sent.to_string(), &sent.to_string(), CONTEXT);
        }
    }
}
