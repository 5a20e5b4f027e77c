//! What the service offers: instance classes, engine versions, endpoint types, account quotas.
//!
//! Facts of the user guide's pages on instance types, release notes, endpoints and limits, as of 2026.

use data_encoding::BASE32_NOPAD;
use serde_json::{Value as Json, json};

use super::context::Context;
use super::listing::{PageSize, Paging, check_values, page_of};
use super::{Answer, subnet_group};
use crate::api::shapes::{
    DescribeAccountAttributesMessage, DescribeEndpointTypesMessage, DescribeEngineVersionsMessage,
    DescribeOrderableReplicationInstancesMessage,
};
use crate::api::{Fault, Timestamp};
use crate::store::{Filter, Kind};

/// GiB that an instance of any class may have.
pub const STORAGE_GIB_MIN: i32 = 5;
pub const STORAGE_GIB_MAX: i32 = 6144;

pub struct InstanceClass {
    pub name: &'static str,
    /// GiB given when a create call names none.
    pub default_storage_gib: i32,
}

macro_rules! classes {
    ($($family:literal $storage:literal: $($size:literal)+;)+) => {
        &[$($(InstanceClass { name: concat!("dms.", $family, ".", $size), default_storage_gib: $storage }),+),+]
    };
}

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_ReplicationInstance.Types.html>
static CLASSES: &[InstanceClass] = classes! {
    "t2" 50: "micro" "small" "medium" "large";
    "t3" 50: "micro" "small" "medium" "large";
    "c4" 100: "large" "xlarge" "2xlarge" "4xlarge";
    "c5" 100: "large" "xlarge" "2xlarge" "4xlarge" "9xlarge" "12xlarge" "18xlarge" "24xlarge";
    "c6i" 100: "large" "xlarge" "2xlarge" "4xlarge" "8xlarge" "12xlarge" "16xlarge" "24xlarge" "32xlarge";
    "c7i" 100: "large" "xlarge" "2xlarge" "4xlarge" "8xlarge" "12xlarge" "16xlarge" "24xlarge" "48xlarge";
    "r4" 100: "large" "xlarge" "2xlarge" "4xlarge" "8xlarge";
    "r5" 100: "large" "xlarge" "2xlarge" "4xlarge" "8xlarge" "12xlarge" "16xlarge" "24xlarge";
    "r6i" 100: "large" "xlarge" "2xlarge" "4xlarge" "8xlarge" "12xlarge" "16xlarge" "24xlarge" "32xlarge";
    "r7i" 100: "large" "xlarge" "2xlarge" "4xlarge" "8xlarge" "12xlarge" "16xlarge" "24xlarge" "48xlarge";
};

pub fn instance_class(name: &str) -> Option<&'static InstanceClass> {
    CLASSES.iter().find(|class| class.name == name)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Lifecycle {
    Default,
    Active,
    Deprecated,
}

struct Version {
    number: &'static str,
    lifecycle: Lifecycle,
    launched: &'static str,
    /// The day it was deprecated, and the day instances are upgraded by force, where they are known.
    ends: Option<(&'static str, &'static str)>,
}

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_ReleaseNotes.html>, newest first.
static VERSIONS: &[Version] = &[
    Version { number: "3.6.1", lifecycle: Lifecycle::Active, launched: "2025-05-15", ends: None },
    Version {
        number: "3.6.0",
        lifecycle: Lifecycle::Deprecated,
        launched: "2024-12-27",
        ends: Some(("2026-04-27", "2026-07-27")),
    },
    Version {
        number: "3.5.4",
        lifecycle: Lifecycle::Default,
        launched: "2024-11-15",
        ends: Some(("2027-01-31", "2027-03-31")),
    },
    Version {
        number: "3.5.3",
        lifecycle: Lifecycle::Deprecated,
        launched: "2024-05-17",
        ends: Some(("2026-02-28", "2026-06-30")),
    },
    Version { number: "3.5.2", lifecycle: Lifecycle::Deprecated, launched: "2023-10-29", ends: None },
    Version { number: "3.5.1", lifecycle: Lifecycle::Deprecated, launched: "2023-06-30", ends: None },
    Version { number: "3.4.7", lifecycle: Lifecycle::Deprecated, launched: "2022-05-31", ends: None },
    Version { number: "3.4.6", lifecycle: Lifecycle::Deprecated, launched: "2021-11-30", ends: None },
];

pub fn default_engine_version() -> String {
    let default = VERSIONS.iter().find(|version| version.lifecycle == Lifecycle::Default);
    default.unwrap_or(&VERSIONS[0]).number.to_owned()
}

/// A version that instances can have. Deprecated ones are still taken: scripts name them, and all are one engine here.
pub fn engine_version(number: &str) -> Result<String, Fault> {
    match VERSIONS.iter().any(|version| version.number == number) {
        true => Ok(number.to_owned()),
        false => Err(Fault::invalid_parameter_value(format!("No replication engine found with version: {number}"))),
    }
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').filter_map(|part| part.parse().ok()).collect()
}

pub fn is_older_than_default(version: &str) -> bool {
    numbers(version) < numbers(&default_engine_version())
}

/// A step of the second number needs `AllowMajorVersionUpgrade`; steps back are refused.
pub fn check_upgrade(present: &str, wanted: &str, major_allowed: bool) -> Result<(), Fault> {
    let (present_numbers, wanted_numbers) = (numbers(present), numbers(wanted));
    if wanted_numbers < present_numbers {
        return Err(Fault::invalid_parameter_combination(format!(
            "Cannot downgrade the replication engine from {present} to {wanted}"
        )));
    }
    if wanted_numbers.get(..2) != present_numbers.get(..2) && !major_allowed {
        return Err(Fault::invalid_parameter_combination(format!(
            "The AllowMajorVersionUpgrade parameter must be true to upgrade from {present} to {wanted}"
        )));
    }
    Ok(())
}

fn day(date: &str) -> Json {
    let parsed: Option<Timestamp> = serde_json::from_value(format!("{date}T00:00:00Z").into()).ok();
    json!(parsed)
}

pub async fn engine_versions(_: &Context, request: DescribeEngineVersionsMessage) -> Answer {
    let upgrades = |index: usize| -> Vec<&str> {
        VERSIONS[..index].iter().filter(|newer| newer.lifecycle != Lifecycle::Deprecated).map(|v| v.number).collect()
    };
    let all = VERSIONS.iter().enumerate().map(|(index, version)| {
        let mut row = json!({
            "Version": version.number,
            "Lifecycle": match version.lifecycle {
                Lifecycle::Default => "DEFAULT_VERSION",
                Lifecycle::Active => "ACTIVE",
                Lifecycle::Deprecated => "DEPRECATED",
            },
            "ReleaseStatus": "prod",
            "LaunchDate": day(version.launched),
            "AvailableUpgrades": upgrades(index),
        });
        if let Some((deprecated, forced)) = version.ends {
            row["DeprecationDate"] = day(deprecated);
            row["AutoUpgradeDate"] = day(deprecated);
            row["ForceUpgradeDate"] = day(forced);
        }
        row
    });
    answer("EngineVersions", all.collect(), Paging { max_records: request.max_records, marker: request.marker })
}

pub async fn orderable_instances(context: &Context, request: DescribeOrderableReplicationInstancesMessage) -> Answer {
    let zones: Vec<String> = ["a", "b", "c"].iter().map(|zone| format!("{}{zone}", context.owner.region)).collect();
    let all = VERSIONS.iter().flat_map(|version| {
        CLASSES.iter().map(|class| {
            json!({
                "EngineVersion": version.number,
                "ReplicationInstanceClass": class.name,
                "StorageType": "gp2",
                "MinAllocatedStorage": STORAGE_GIB_MIN,
                "MaxAllocatedStorage": STORAGE_GIB_MAX,
                "DefaultAllocatedStorage": class.default_storage_gib,
                "IncludedAllocatedStorage": class.default_storage_gib,
                "AvailabilityZones": zones,
            })
        })
    });
    let paging = Paging { max_records: request.max_records, marker: request.marker };
    answer("OrderableReplicationInstances", all.collect(), paging)
}

/// One engine as the wire knows it, whether or not dms-local has a runtime for it.
pub struct EndpointType {
    pub engine: &'static str,
    pub display_name: &'static str,
    pub source: bool,
    pub target: bool,
    cdc: bool,
    minimum_version: Option<&'static str>,
    /// The member of CreateEndpoint with this engine's settings.
    pub settings: &'static str,
}

macro_rules! endpoint_types {
    ($($engine:literal $name:literal $ends:ident $cdc:ident $version:expr, $settings:literal;)+) => {
        &[$(EndpointType {
            engine: $engine,
            display_name: $name,
            source: matches!(stringify!($ends).as_bytes()[0], b's'),
            target: matches!(stringify!($ends).as_bytes(), b"t" | b"st"),
            cdc: matches!(stringify!($cdc).as_bytes(), b"cdc"),
            minimum_version: $version,
            settings: $settings,
        }),+]
    };
}

/// Engines of DescribeEndpointTypes, in its order; the last ones are accepted by CreateEndpoint but were not seen
/// listed: their display names are guesses.
pub static ENDPOINT_TYPES: &[EndpointType] = endpoint_types! {
    "aurora" "Amazon Aurora MySQL" st cdc None, "MySQLSettings";
    "aurora-serverless" "Amazon Aurora MySQL Serverless" t cdc None, "MySQLSettings";
    "aurora-postgresql" "Amazon Aurora PostgreSQL" st cdc None, "PostgreSQLSettings";
    "aurora-postgresql-serverless" "Amazon Aurora PostgreSQL Serverless" t cdc None, "PostgreSQLSettings";
    "docdb" "Amazon DocumentDB (with MongoDB compatibility)" st cdc Some("3.1.1"), "DocDbSettings";
    "dynamodb" "Amazon DynamoDB" t cdc None, "DynamoDbSettings";
    "kinesis" "Amazon Kinesis" t cdc Some("3.1.3"), "KinesisSettings";
    "neptune" "Amazon Neptune" t no Some("3.3.2"), "NeptuneSettings";
    "opensearch" "Amazon OpenSearch Service (successor to Amazon Elasticsearch Service)" t cdc None, "ElasticsearchSettings";
    "redshift" "Amazon Redshift" t cdc None, "RedshiftSettings";
    "s3" "Amazon S3" st cdc None, "S3Settings";
    "dms-transfer" "AWS DMS Transfer" s cdc None, "DmsTransferSettings";
    "elasticsearch" "Elasticsearch Service" t cdc Some("3.1.1"), "ElasticsearchSettings";
    "db2" "IBM Db2 LUW" s cdc None, "IBMDb2Settings";
    "kafka" "Kafka" t cdc Some("3.3.1"), "KafkaSettings";
    "mariadb" "MariaDB" st cdc None, "MySQLSettings";
    "azuredb" "Microsoft Azure SQL Database" s no None, "MicrosoftSQLServerSettings";
    "sqlserver" "Microsoft SQL Server" st cdc None, "MicrosoftSQLServerSettings";
    "mongodb" "MongoDB" s cdc None, "MongoDbSettings";
    "mysql" "MySQL" st cdc None, "MySQLSettings";
    "oracle" "Oracle" st cdc None, "OracleSettings";
    "postgres" "PostgreSQL" st cdc None, "PostgreSQLSettings";
    "redis" "Redis" t cdc Some("3.4.4"), "RedisSettings";
    "sybase" "SAP Sybase ASE" st cdc None, "SybaseSettings";
    "azure-sql-managed-instance" "Microsoft Azure SQL Managed Instance" s cdc None, "MicrosoftSQLServerSettings";
    "babelfish" "Babelfish for Aurora PostgreSQL" t cdc None, "MicrosoftSQLServerSettings";
    "db2-zos" "IBM Db2 for z/OS" s no None, "IBMDb2Settings";
    "gcp-mysql" "Google Cloud for MySQL" s cdc None, "GcpMySQLSettings";
    "redshift-serverless" "Amazon Redshift Serverless" t cdc None, "RedshiftSettings";
};

pub fn endpoint_type(engine: &str) -> Option<&'static EndpointType> {
    ENDPOINT_TYPES.iter().find(|known| known.engine == engine)
}

pub async fn endpoint_types(_: &Context, request: DescribeEndpointTypesMessage) -> Answer {
    let mut rows: Vec<Json> = Vec::new();
    for known in ENDPOINT_TYPES {
        for (supported, end) in [(known.source, "source"), (known.target, "target")] {
            if !supported {
                continue;
            }
            let mut row = json!({
                "EngineName": known.engine,
                "SupportsCDC": known.cdc,
                "EndpointType": end,
                "EngineDisplayName": known.display_name,
            });
            if let Some(version) = known.minimum_version {
                row["ReplicationInstanceEngineMinimumVersion"] = version.into();
            }
            rows.push(row);
        }
    }
    for filter in request.filters.as_deref().unwrap_or_default() {
        let member = match filter.name.as_str() {
            "engine-name" => "EngineName",
            "endpoint-type" => "EndpointType",
            other => {
                return Err(Fault::invalid_parameter_value(format!(
                    "Invalid filter name: {other}. Allowed filters: engine-name, endpoint-type"
                )));
            }
        };
        check_values(&filter.name, &filter.values)?;
        rows.retain(|row| filter.values.iter().any(|value| row[member] == value.to_lowercase().as_str()));
    }
    answer("SupportedEndpointTypes", rows, Paging { max_records: request.max_records, marker: request.marker })
}

/// GiB over all instances of an account.
const ALLOCATED_STORAGE_GIB_MAX: i64 = 30_000;
pub const INSTANCES_MAX: i64 = 60;
pub const SUBNET_GROUPS_MAX: i64 = 60;
pub const ENDPOINTS_MAX: i64 = 1000;
const ENDPOINTS_PER_INSTANCE_MAX: i64 = 100;
pub const TASKS_MAX: i64 = 600;

/// <https://docs.aws.amazon.com/dms/latest/userguide/CHAP_Limits.html>. Counts are real; limits are not enforced.
pub async fn account_attributes(context: &Context, _: DescribeAccountAttributesMessage) -> Answer {
    let (store, owner, all) = (context.store(), &context.owner, Filter::default());
    let instances = store.list(owner, Kind::ReplicationInstance, &all).await?;
    let mut storage = 0;
    for instance in &instances {
        let body: Json = serde_json::from_str(&instance.body).unwrap_or_default();
        storage += body["AllocatedStorage"].as_i64().unwrap_or_default();
    }
    let groups = store.list(owner, Kind::ReplicationSubnetGroup, &all).await?;
    let subnets = groups.iter().map(|group| {
        let body: Json = serde_json::from_str(&group.body).unwrap_or_default();
        body["Subnets"].as_array().map_or(0, Vec::len)
    });
    let subnets = subnets.max().unwrap_or_default() as i64;
    let endpoints = store.list(owner, Kind::Endpoint, &all).await?.len() as i64;
    let tasks = store.list(owner, Kind::ReplicationTask, &all).await?.len() as i64;
    let connections = store.list(owner, Kind::Connection, &all).await?;
    let of_instance = |arn: &str| connections.iter().filter(|connection| connection.body.contains(arn)).count() as i64;
    let per_instance = instances.iter().map(|instance| of_instance(&instance.arn)).max().unwrap_or_default();
    let quota = |name: &str, used: i64, max: i64| json!({ "AccountQuotaName": name, "Used": used, "Max": max });
    let quotas = [
        quota("ReplicationInstances", instances.len() as i64, INSTANCES_MAX),
        quota("AllocatedStorage", storage, ALLOCATED_STORAGE_GIB_MAX),
        quota("ReplicationSubnetGroups", groups.len() as i64, SUBNET_GROUPS_MAX),
        quota("SubnetsPerReplicationSubnetGroup", subnets, subnet_group::SUBNETS_MAX as i64),
        quota("Endpoints", endpoints, ENDPOINTS_MAX),
        quota("ReplicationTasks", tasks, TASKS_MAX),
        quota("EndpointsPerInstance", per_instance, ENDPOINTS_PER_INSTANCE_MAX),
    ];
    let unique = unique_account_identifier(&owner.account);
    Ok(json!({ "AccountQuotas": quotas, "UniqueAccountIdentifier": unique }).to_string())
}

/// Twelve letters and digits, the first a letter; always the same for an account.
fn unique_account_identifier(account: &str) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in account.bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    format!("c{}", &BASE32_NOPAD.encode(&hash.to_be_bytes()).to_lowercase()[..11])
}

pub fn answer(member: &str, rows: Vec<Json>, paging: Paging) -> Answer {
    let (page, marker) = page_of(rows, PageSize::USUAL, &paging)?;
    let mut answer = json!({ member: page });
    if let Some(marker) = marker {
        answer["Marker"] = marker.into();
    }
    Ok(answer.to_string())
}
