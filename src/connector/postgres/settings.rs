//! The settings of an endpoint, as far as they mean something here.

use std::time::Duration;

use serde_json::{Map, Value as Json};

/// `MapLongVarcharAs`: what a VARCHAR(N) with N over 16,387 is to DMS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongVarchar {
    #[default]
    WString,
    Clob,
    NClob,
}

/// `PluginName`: what turns the server's log into text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PluginChoice {
    #[default]
    NoPreference,
    PgOutput,
    TestDecoding,
    Pglogical,
    Other(String),
}

impl PluginChoice {
    fn parse(name: &str) -> PluginChoice {
        match name.to_ascii_lowercase().replace('_', "-").as_str() {
            "no-preference" => PluginChoice::NoPreference,
            "pgoutput" => PluginChoice::PgOutput,
            "test-decoding" => PluginChoice::TestDecoding,
            "pglogical" => PluginChoice::Pglogical,
            _ => PluginChoice::Other(name.to_owned()),
        }
    }
}

/// Where DMS keeps what it makes on a source.
const DEFAULT_SCHEMA: &str = "public";

const HEARTBEAT_MINUTES: u64 = 5;

/// The members of `PostgreSQLSettings` and the extra connection attributes that this release reads.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a statement may take, other than a COPY and the creation of a primary key. Default 60 s.
    pub execute_timeout: Duration,
    /// SQL for every new session.
    pub after_connect_script: Option<String>,
    /// A value cut to the LOB limit ends the task.
    pub fail_tasks_on_lob_truncation: bool,
    pub map_boolean_as_boolean: bool,
    pub map_jsonb_as_clob: bool,
    pub map_unbounded_numeric_as_string: bool,
    pub map_long_varchar_as: LongVarchar,
    /// Values of CHAR columns lose their padding on the way to other engines. Default true.
    pub trim_space_in_char: bool,
    /// What a VARCHAR without a length counts as. Default 8000, at most 10,485,760.
    pub unbounded_varchar_max_size: u32,
    /// Statements that define tables are recorded on the source (`awsdms_ddl_audit`), in `ddl_artifacts_schema`.
    /// Default true, and `public`.
    pub capture_ddls: bool,
    pub ddl_artifacts_schema: String,
    /// A slot that the user has made and that is left as it is.
    pub slot_name: Option<String>,
    pub plugin: PluginChoice,
    /// How often `awsdms_heartbeat` is written. Default never; `HeartbeatEnable` makes it 5 minutes.
    pub heartbeat: Option<Duration>,
    /// Default `public`.
    pub heartbeat_schema: String,
    /// Of changes that were themselves replicated to the source nothing is read: the attribute `origin=none`, which is
    /// dms-local's own. With pgoutput it needs version 16.
    pub local_changes_only: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            execute_timeout: Duration::from_secs(60),
            after_connect_script: None,
            fail_tasks_on_lob_truncation: false,
            map_boolean_as_boolean: false,
            map_jsonb_as_clob: false,
            map_unbounded_numeric_as_string: false,
            map_long_varchar_as: LongVarchar::WString,
            trim_space_in_char: true,
            unbounded_varchar_max_size: 8000,
            capture_ddls: true,
            ddl_artifacts_schema: DEFAULT_SCHEMA.to_owned(),
            slot_name: None,
            plugin: PluginChoice::NoPreference,
            heartbeat: None,
            heartbeat_schema: DEFAULT_SCHEMA.to_owned(),
            local_changes_only: false,
        }
    }
}

impl Settings {
    /// Reads what is there; a member of a wrong type counts as absent, because the API has checked them.
    pub fn read(members: &Map<String, Json>) -> Settings {
        let member =
            |name: &str| members.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        // Extra connection attributes are text whatever they mean.
        let flag = |name, default| match member(name) {
            Some(Json::Bool(flag)) => *flag,
            Some(Json::String(text)) if text.is_empty() => default,
            Some(Json::String(text)) => ["true", "y", "yes", "1"].contains(&text.to_ascii_lowercase().as_str()),
            _ => default,
        };
        let number = |name| match member(name) {
            Some(Json::Number(number)) => number.as_u64(),
            Some(Json::String(text)) => text.trim().parse().ok(),
            _ => None,
        };
        let text = |name| member(name).and_then(Json::as_str).map(str::trim).filter(|text| !text.is_empty());
        let schema = |name| text(name).unwrap_or(DEFAULT_SCHEMA).to_owned();
        let minutes = number("HeartbeatFrequency").unwrap_or(HEARTBEAT_MINUTES).clamp(1, u32::MAX.into());
        let default = Settings::default();
        Settings {
            execute_timeout: number("ExecuteTimeout")
                .filter(|seconds| *seconds > 0)
                .map_or(default.execute_timeout, |seconds| Duration::from_secs(seconds.min(u32::MAX.into()))),
            after_connect_script: text("AfterConnectScript").map(str::to_owned),
            fail_tasks_on_lob_truncation: flag("FailTasksOnLobTruncation", default.fail_tasks_on_lob_truncation),
            map_boolean_as_boolean: flag("MapBooleanAsBoolean", default.map_boolean_as_boolean),
            map_jsonb_as_clob: flag("MapJsonbAsClob", default.map_jsonb_as_clob),
            map_unbounded_numeric_as_string: flag("MapUnboundedNumericAsString", false),
            map_long_varchar_as: match text("MapLongVarcharAs").map(str::to_ascii_lowercase).as_deref() {
                Some("clob") => LongVarchar::Clob,
                Some("nclob") => LongVarchar::NClob,
                _ => LongVarchar::WString,
            },
            trim_space_in_char: flag("TrimSpaceInChar", default.trim_space_in_char),
            unbounded_varchar_max_size: number("unboundedVarcharMaxSize")
                .map_or(default.unbounded_varchar_max_size, |size| size.clamp(1, 10_485_760) as u32),
            capture_ddls: flag("CaptureDdls", default.capture_ddls),
            ddl_artifacts_schema: schema("DdlArtifactsSchema"),
            slot_name: text("SlotName").map(str::to_owned),
            plugin: text("PluginName").map_or(default.plugin, PluginChoice::parse),
            heartbeat: flag("HeartbeatEnable", false).then(|| Duration::from_secs(minutes * 60)),
            heartbeat_schema: schema("HeartbeatSchema"),
            local_changes_only: text("origin").is_some_and(|origin| origin.eq_ignore_ascii_case("none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_settings_as_members_and_as_attributes() {
        let json = json!({
            "ExecuteTimeout": 100, "FailTasksOnLobTruncation": true, "MapLongVarcharAs": "nclob",
            "mapUnboundedNumericAsString": "true", "TrimSpaceInChar": "false", "unboundedVarcharMaxSize": "99999999",
            "AfterConnectScript": "SET session_replication_role = replica"
        });
        let settings = Settings::read(json.as_object().unwrap());
        assert_eq!(settings.execute_timeout, Duration::from_secs(100));
        assert!(settings.fail_tasks_on_lob_truncation && settings.map_unbounded_numeric_as_string);
        assert!(!settings.trim_space_in_char && !settings.map_jsonb_as_clob);
        assert_eq!(settings.map_long_varchar_as, LongVarchar::NClob);
        assert_eq!(settings.unbounded_varchar_max_size, 10_485_760);
        assert_eq!(settings.after_connect_script.as_deref(), Some("SET session_replication_role = replica"));
        assert!(settings.capture_ddls && settings.heartbeat.is_none() && settings.slot_name.is_none());
    }

    #[test]
    fn reads_how_changes_are_captured() {
        let json = json!({
            "CaptureDdls": "N", "DdlArtifactsSchema": "audit", "SlotName": "mine", "pluginName": "TEST_DECODING",
            "HeartbeatEnable": "Y", "HeartbeatFrequency": 2, "HeartbeatSchema": "beats", "origin": "none"
        });
        let settings = Settings::read(json.as_object().unwrap());
        assert!(!settings.capture_ddls && settings.local_changes_only);
        assert_eq!((settings.ddl_artifacts_schema.as_str(), settings.heartbeat_schema.as_str()), ("audit", "beats"));
        assert_eq!((settings.slot_name.as_deref(), settings.plugin), (Some("mine"), PluginChoice::TestDecoding));
        assert_eq!(settings.heartbeat, Some(Duration::from_secs(120)));
        for (name, expected) in [
            ("no-preference", PluginChoice::NoPreference),
            ("test-decoding", PluginChoice::TestDecoding),
            ("PGLOGICAL", PluginChoice::Pglogical),
            ("pgoutput", PluginChoice::PgOutput),
            ("wal2json", PluginChoice::Other("wal2json".into())),
        ] {
            assert_eq!(PluginChoice::parse(name), expected);
        }
        let json = json!({ "HeartbeatEnable": true });
        assert_eq!(Settings::read(json.as_object().unwrap()).heartbeat, Some(Duration::from_secs(300)));
    }
}
