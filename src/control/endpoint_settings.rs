//! Rows of DescribeEndpointSettings: the members of each engine's settings structure, sorted by name, with what the
//! user guide says of those that dms-local knows more about.

use serde_json::{Value as Json, json};

use super::Answer;
use super::catalog::{EndpointType, answer, endpoint_type};
use super::context::Context;
use super::listing::Paging;
use crate::api::Fault;
use crate::api::model::{Kind, model};
use crate::api::shapes::DescribeEndpointSettingsMessage;

/// What the model does not say of a setting.
struct Note {
    name: &'static str,
    applicability: Option<&'static str>,
    units: Option<&'static str>,
    range: Option<(i64, i64)>,
    default: Option<&'static str>,
}

const SOURCE: Option<&str> = Some("SOURCE_ONLY");
const TARGET: Option<&str> = Some("TARGET_ONLY");

macro_rules! notes {
    ($($name:ident $applicability:expr, $units:expr, $range:expr, $default:expr;)+) => {
        &[$(Note {
            name: stringify!($name),
            applicability: $applicability,
            units: $units,
            range: $range,
            default: $default,
        }),+]
    };
}

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.PostgreSQL.html> and `CHAP_Target.PostgreSQL`.
static POSTGRES: &[Note] = notes! {
    AfterConnectScript TARGET, None, None, None;
    BabelfishDatabaseName TARGET, None, None, None;
    CaptureDdls SOURCE, None, None, Some("true");
    DatabaseMode None, None, None, Some("default");
    DdlArtifactsSchema SOURCE, None, None, Some("public");
    DisableUnicodeSourceFilter SOURCE, None, None, None;
    ExecuteTimeout None, Some("seconds"), None, Some("60");
    FailTasksOnLobTruncation SOURCE, None, None, Some("false");
    HeartbeatEnable SOURCE, None, None, Some("false");
    HeartbeatFrequency SOURCE, Some("minutes"), None, Some("5");
    HeartbeatSchema SOURCE, None, None, Some("public");
    MapBooleanAsBoolean None, None, None, Some("false");
    MapJsonbAsClob SOURCE, None, None, Some("false");
    MapLongVarcharAs SOURCE, None, None, Some("wstring");
    MaxFileSize TARGET, Some("KB"), None, Some("32768");
    PluginName SOURCE, None, None, Some("pglogical");
    Port None, None, Some((1, 65535)), Some("5432");
    SlotName SOURCE, None, None, None;
    TrimSpaceInChar SOURCE, None, None, Some("true");
};

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Source.MySQL.html> and `CHAP_Target.MySQL`.
static MYSQL: &[Note] = notes! {
    AfterConnectScript None, None, None, None;
    CleanSourceMetadataOnMismatch SOURCE, None, None, Some("false");
    EventsPollInterval SOURCE, Some("seconds"), None, Some("5");
    ExecuteTimeout SOURCE, Some("seconds"), None, Some("60");
    MaxFileSize TARGET, Some("KB"), None, None;
    ParallelLoadThreads TARGET, None, None, Some("1");
    Port None, None, Some((1, 65535)), Some("3306");
    ServerTimezone SOURCE, None, None, None;
    TargetDbType TARGET, None, None, Some("multiple-databases");
};

/// The first four lines are AWS's sample:
/// <https://docs.aws.amazon.com/dms/latest/APIReference/API_DescribeEndpointSettings.html>. It is older than some members
/// of the structure, which are listed all the same.
static SQLSERVER: &[Note] = notes! {
    BcpPacketSize TARGET, None, Some((1, 100_000)), None;
    ReadBackupOnly SOURCE, None, None, None;
    SafeguardPolicy SOURCE, None, None, None;
    UseBcpFullLoad TARGET, None, None, None;
    TrimSpaceInChar SOURCE, None, None, Some("true");
};

pub async fn describe(_: &Context, request: DescribeEndpointSettingsMessage) -> Answer {
    let engine = endpoint_type(&request.engine_name)
        .ok_or_else(|| Fault::invalid_parameter_value(format!("Invalid engine name: {}", request.engine_name)))?;
    let paging = Paging { max_records: request.max_records, marker: request.marker };
    answer("EndpointSettings", of(engine), paging)
}

fn of(engine: &EndpointType) -> Vec<Json> {
    let notes = match engine.settings {
        "PostgreSQLSettings" => POSTGRES,
        "MySQLSettings" | "GcpMySQLSettings" => MYSQL,
        "MicrosoftSQLServerSettings" => SQLSERVER,
        _ => &[],
    };
    let Some(settings) = model().find(engine.settings) else { return Vec::new() };
    let mut rows: Vec<(&str, Json)> = Vec::new();
    for member in model().shape(settings).members() {
        let shape = model().shape(member.target);
        let kind = match &shape.kind {
            Kind::Enum(_) => "enum",
            Kind::Boolean => "boolean",
            Kind::Integer | Kind::Long => "integer",
            _ => "string",
        };
        let mut row = json!({ "Name": member.name, "Type": kind, "Sensitive": shape.sensitive });
        if let Kind::Enum(values) = &shape.kind {
            row["EnumValues"] = json!(values);
        }
        if let Some(note) = notes.iter().find(|note| note.name == member.name) {
            if let Some(units) = note.units {
                row["Units"] = units.into();
            }
            if let Some(applicability) = note.applicability {
                row["Applicability"] = applicability.into();
            }
            if let Some((min, max)) = note.range {
                row["IntValueMin"] = min.into();
                row["IntValueMax"] = max.into();
            }
            if let Some(default) = note.default {
                row["DefaultValue"] = default.into();
            }
        }
        rows.push((member.name, row));
    }
    rows.sort_by_key(|(name, _)| *name);
    rows.into_iter().map(|(_, row)| row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_note_is_about_a_setting_of_the_model() {
        for (engine, notes) in [("postgres", POSTGRES), ("mysql", MYSQL), ("sqlserver", SQLSERVER)] {
            let rows = of(endpoint_type(engine).unwrap());
            for note in notes {
                assert!(rows.iter().any(|row| row["Name"] == note.name), "{engine} {}", note.name);
            }
        }
    }

    #[test]
    fn rows_are_sorted_and_passwords_are_sensitive() {
        let rows = of(endpoint_type("sqlserver").unwrap());
        let names: Vec<&str> = rows.iter().filter_map(|row| row["Name"].as_str()).collect();
        assert!(names.is_sorted() && names.len() > 10, "{names:?}");
        let password = rows.iter().find(|row| row["Name"] == "Password").unwrap();
        assert_eq!(password["Sensitive"], true);
    }
}
