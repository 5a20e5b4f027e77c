//! Replication instances. Each is a name for capacity that is always there: tasks run in this process.

use std::collections::BTreeMap;
use std::time::SystemTime;

use rand::Rng;
use serde_json::{Map, Value as Json, json};

use super::context::Context;
use super::event::{self, Happened};
use super::identifier::{already_in_use, check_arn, default_kms_key, identifier, new_arn};
use super::listing::{FilterBy, Listing, PageSize, Paging, list};
use super::status::{Instance, InstanceEvent};
use super::{Answer, catalog, subnet_group, tag};
use crate::api::shapes::{
    CreateReplicationInstanceMessage, DeleteReplicationInstanceMessage, DescribeReplicationInstancesMessage,
    ModifyReplicationInstanceMessage, RebootReplicationInstanceMessage,
};
use crate::api::{Fault, Timestamp};
use crate::store::{Filter, Kind, Owner, Resource};

const IDENTIFIER_MAX: usize = 63;

const LISTING: Listing = Listing {
    kind: Kind::ReplicationInstance,
    member: "ReplicationInstances",
    miss: Some("No Replication Instances found matching provided filters"),
    filters: &[
        ("replication-instance-arn", FilterBy::Arn),
        ("replication-instance-id", FilterBy::Identifier),
        ("replication-instance-class", FilterBy::Member(&["$.ReplicationInstanceClass"])),
        ("engine-version", FilterBy::Member(&["$.EngineVersion"])),
    ],
    page: PageSize::USUAL,
};

pub async fn create(context: &Context, request: CreateReplicationInstanceMessage) -> Answer {
    let name = identifier("ReplicationInstanceIdentifier", &request.replication_instance_identifier, IDENTIFIER_MAX)?;
    let class = checked_class(&request.replication_instance_class)?;
    let storage = match request.allocated_storage {
        Some(storage) => checked_storage(storage)?,
        None => class.default_storage_gib,
    };
    let version = match request.engine_version.as_deref().filter(|version| !version.is_empty()) {
        Some(version) => auto_upgraded(request.auto_minor_version_upgrade, catalog::engine_version(version)?),
        None => catalog::default_engine_version(),
    };
    let multi_az = request.multi_az.unwrap_or(false);
    if multi_az && request.availability_zone.is_some() {
        return Err(Fault::invalid_parameter_combination(
            "The parameter AvailabilityZone cannot be used when MultiAZ is true.",
        ));
    }
    let window = match &request.preferred_maintenance_window {
        Some(window) => checked_window(window)?,
        None => random_window(),
    };
    let subnet_group =
        subnet_group::of_instance(context, request.replication_subnet_group_identifier.as_deref()).await?;
    let network_type = checked_network_type(request.network_type.as_deref(), &subnet_group)?;
    let tags = tag::checked(request.tags.as_deref())?;
    let arn = new_arn(&context.owner, "rep", request.resource_identifier.as_deref())?;
    let mut body = json!({
        "ReplicationInstanceIdentifier": name,
        "ReplicationInstanceClass": class.name,
        "ReplicationInstanceStatus": Instance::Creating.as_str(),
        "AllocatedStorage": storage,
        "VpcSecurityGroups": security_groups(&context.owner, request.vpc_security_group_ids.as_deref()),
        "ReplicationSubnetGroup": subnet_group,
        "PreferredMaintenanceWindow": window,
        "PendingModifiedValues": {},
        "MultiAZ": multi_az,
        "EngineVersion": version,
        "AutoMinorVersionUpgrade": request.auto_minor_version_upgrade.unwrap_or(true),
        "KmsKeyId": request.kms_key_id.clone().map_or_else(|| default_kms_key(&context.owner), Json::from),
        "ReplicationInstanceArn": arn,
        "PubliclyAccessible": request.publicly_accessible.unwrap_or(true),
        "NetworkType": network_type,
    });
    if let Some(servers) = &request.dns_name_servers {
        body["DnsNameServers"] = servers.clone().into();
    }
    if let Some(kerberos) = &request.kerberos_authentication_settings {
        body["KerberosAuthenticationSettings"] = serde_json::to_value(kerberos).unwrap_or_default();
    }
    let resource = Resource {
        arn: arn.clone(),
        owner: context.owner.clone(),
        kind: Kind::ReplicationInstance,
        identifier: name,
        status: Instance::Creating.as_str().into(),
        spec: json!({ "AvailabilityZone": request.availability_zone }),
        body,
    };
    if !context.store().insert(&resource).await? {
        return Err(already_in_use(context, "ReplicationInstance", &resource).await?);
    }
    context.store().set_tags(&arn, &tags).await?;
    settle(context, &arn).await?;
    event::record(context, &resource.identifier, Happened::InstanceCreated).await;
    Ok(answer(resource.body))
}

pub async fn describe(context: &Context, request: DescribeReplicationInstancesMessage) -> Answer {
    let paging = Paging { max_records: request.max_records, marker: request.marker };
    let page = list(context, &LISTING, request.filters.as_deref(), &paging).await?;
    Ok(page.answer(LISTING.member, |item| item.body))
}

pub async fn modify(context: &Context, request: ModifyReplicationInstanceMessage) -> Answer {
    let arn = &request.replication_instance_arn;
    let current = find(context, arn).await?;
    let immediately = request.apply_immediately.unwrap_or(false);
    let change = Change::of(&request, &current)?;
    let applies_pending = immediately && !pending(&current).is_empty();
    if change.is_empty() && !applies_pending {
        return Err(Fault::invalid_parameter_combination("No modifications were requested"));
    }
    if let Some(name) = &change.identifier {
        let taken = Filter { identifiers: Some(vec![name.clone()]), ..Filter::default() };
        let taken = context.store().resources(&context.owner, Kind::ReplicationInstance, &taken).await?;
        if let Some(other) = taken.first() {
            return Err(already_exists(other));
        }
    }
    let changed = context.store().update(arn, |resource| {
        // What earlier calls left for the maintenance window stays; a value wanted anew as it is takes it back.
        let mut pending = pending(resource);
        pending.extend(change.deferrable.clone());
        pending.retain(|member, value| resource.body.get(member) != Some(value));
        let event = match immediately && pending.contains_key("EngineVersion") {
            true => InstanceEvent::Upgrade,
            false => InstanceEvent::Modify,
        };
        let status = after(resource, event)?;
        if let Some(name) = &change.identifier {
            resource.identifier.clone_from(name);
            resource.body["ReplicationInstanceIdentifier"] = name.clone().into();
        }
        merge(&mut resource.body, &change.at_once);
        // Without `ApplyImmediately` they wait for the maintenance window, which never comes here: a reboot does not
        // apply them either.
        if immediately || change.deferrable.is_empty() {
            set_status(resource, status);
        }
        if immediately {
            // Kept apart until the change is done, as the answer still shows the old values.
            resource.spec["Applying"] = json!(pending);
        }
        resource.body["PendingModifiedValues"] = json!(pending);
        Ok::<_, Fault>(resource.body.clone())
    });
    let body = changed.await?.ok_or_else(|| not_found(arn))??;
    settle(context, arn).await?;
    Ok(answer(body))
}

pub async fn reboot(context: &Context, request: RebootReplicationInstanceMessage) -> Answer {
    let arn = &request.replication_instance_arn;
    let current = find(context, arn).await?;
    let failover = request.force_failover.unwrap_or(false);
    let planned = request.force_planned_failover.unwrap_or(false);
    if failover && planned {
        return Err(Fault::invalid_parameter_combination(
            "The parameters ForceFailover and ForcePlannedFailover cannot both be true.",
        ));
    }
    if (failover || planned) && current.body["MultiAZ"] != json!(true) {
        return Err(Fault::invalid_parameter_combination(format!(
            "Replication instance {} is not in a Multi-AZ configuration: it cannot be rebooted with failover.",
            current.identifier
        )));
    }
    let body = step(context, arn, InstanceEvent::Reboot).await?;
    settle(context, arn).await?;
    Ok(answer(body))
}

pub async fn delete(context: &Context, request: DeleteReplicationInstanceMessage) -> Answer {
    let arn = &request.replication_instance_arn;
    let current = find(context, arn).await?;
    let of_instance = Filter { members: vec![(&["$.ReplicationInstanceArn"], vec![arn.clone()])], ..Filter::default() };
    if !context.store().list(&context.owner, Kind::ReplicationTask, &of_instance).await?.is_empty() {
        return Err(Fault::invalid_resource_state(format!(
            "Replication instance {} has one or more replication tasks.",
            current.identifier
        )));
    }
    let body = step(context, arn, InstanceEvent::Delete).await?;
    for connection in context.store().list(&context.owner, Kind::Connection, &of_instance).await? {
        context.store().delete(&connection.arn).await?;
    }
    context.store().delete(arn).await?;
    context.changed();
    event::record(context, &current.identifier, Happened::InstanceDeleted).await;
    Ok(answer(body))
}

/// The instance of this ARN, if it is the caller's.
pub async fn find(context: &Context, arn: &str) -> Result<Resource, Fault> {
    check_arn("ReplicationInstanceArn", arn)?;
    let found = context.store().get(arn).await?;
    found
        .filter(|found| found.kind == Kind::ReplicationInstance && found.owner == context.owner)
        .ok_or_else(|| not_found(arn))
}

/// Ends whatever is under way. Nothing here takes time, so it follows every change at once; after a crash it is
/// called again for what was left half done.
pub async fn settle(context: &Context, arn: &str) -> Result<(), Fault> {
    let deleting = context
        .store()
        .update(arn, |resource| {
            if resource.status == Instance::Deleting.as_str() {
                return Ok::<_, Fault>(true);
            }
            let status = after(resource, InstanceEvent::Settle)?;
            if let Some(Json::Object(applied)) = resource.spec.get_mut("Applying").map(Json::take) {
                merge(&mut resource.body, &applied);
                resource.body["PendingModifiedValues"] = json!({});
            }
            complete(resource);
            set_status(resource, status);
            Ok(false)
        })
        .await?;
    // Any other outcome means that it is settled, by this call or before.
    if let Some(Ok(true)) = deleting {
        context.store().delete(arn).await?;
    }
    context.changed();
    Ok(())
}

/// What AWS fills in once an instance exists.
fn complete(resource: &mut Resource) {
    let region = resource.owner.region.clone();
    let wanted = resource.spec["AvailabilityZone"].as_str().map(str::to_owned);
    let multi_az = resource.body["MultiAZ"] == json!(true);
    let public = resource.body["PubliclyAccessible"] == json!(true);
    let Json::Object(body) = &mut resource.body else { return };
    if !body.contains_key("InstanceCreateTime") {
        body.insert("InstanceCreateTime".into(), json!(Timestamp::from(SystemTime::now())));
        body.insert("AvailabilityZone".into(), wanted.unwrap_or_else(|| format!("{region}a")).into());
        // Tasks run in this process: its loopback address is where an instance is.
        let address = "127.0.0.1";
        body.insert("ReplicationInstancePrivateIpAddress".into(), address.into());
        let both = ["127.0.0.1", "127.0.0.2"];
        let addresses = if multi_az { &both[..] } else { &both[..1] };
        body.insert("ReplicationInstancePrivateIpAddresses".into(), json!(addresses));
        if public {
            body.insert("ReplicationInstancePublicIpAddress".into(), address.into());
            body.insert("ReplicationInstancePublicIpAddresses".into(), json!(addresses));
        } else {
            body.insert("ReplicationInstancePublicIpAddresses".into(), json!([null]));
        }
        body.insert("ReplicationInstanceIpv6Addresses".into(), json!([]));
    }
    match multi_az {
        true => body.insert("SecondaryAvailabilityZone".into(), format!("{region}b").into()),
        false => body.remove("SecondaryAvailabilityZone"),
    };
}

async fn step(context: &Context, arn: &str, event: InstanceEvent) -> Result<Json, Fault> {
    let stepped = context.store().update(arn, |resource| {
        let status = after(resource, event)?;
        set_status(resource, status);
        Ok::<_, Fault>(resource.body.clone())
    });
    let body = stepped.await?.ok_or_else(|| not_found(arn))??;
    context.changed();
    Ok(body)
}

fn after(resource: &Resource, event: InstanceEvent) -> Result<Instance, Fault> {
    let status = Instance::of(&resource.status);
    status.and_then(|status| status.after(event)).ok_or_else(|| {
        Fault::invalid_resource_state(format!(
            "Replication instance {} is not in a valid state: {}",
            resource.identifier, resource.status
        ))
    })
}

fn set_status(resource: &mut Resource, status: Instance) {
    resource.status = status.as_str().into();
    resource.body["ReplicationInstanceStatus"] = status.as_str().into();
}

/// What a modification really changes.
#[derive(Default)]
struct Change {
    identifier: Option<String>,
    /// Takes effect whatever `ApplyImmediately` says.
    at_once: Map<String, Json>,
    /// Waits for the maintenance window without `ApplyImmediately`.
    deferrable: Map<String, Json>,
}

impl Change {
    fn of(request: &ModifyReplicationInstanceMessage, current: &Resource) -> Result<Change, Fault> {
        let mut wanted: BTreeMap<&str, Json> = BTreeMap::new();
        let mut change = Change::default();
        if let Some(name) = &request.replication_instance_identifier {
            let name = identifier("ReplicationInstanceIdentifier", name, IDENTIFIER_MAX)?;
            change.identifier = (name != current.identifier).then_some(name);
        }
        if let Some(class) = &request.replication_instance_class {
            wanted.insert("ReplicationInstanceClass", checked_class(class)?.name.into());
        }
        if let Some(storage) = request.allocated_storage {
            let storage = checked_storage(storage)?;
            let present = current.body["AllocatedStorage"].as_i64().unwrap_or_default();
            if i64::from(storage) < present {
                return Err(Fault::invalid_parameter_value(format!(
                    "Invalid value {storage} for AllocatedStorage: storage cannot be decreased from {present}"
                )));
            }
            wanted.insert("AllocatedStorage", storage.into());
        }
        if let Some(version) = &request.engine_version {
            let automatic = request.auto_minor_version_upgrade.or(current.body["AutoMinorVersionUpgrade"].as_bool());
            let version = auto_upgraded(automatic, catalog::engine_version(version)?);
            let present = current.body["EngineVersion"].as_str().unwrap_or_default();
            catalog::check_upgrade(present, &version, request.allow_major_version_upgrade.unwrap_or(false))?;
            wanted.insert("EngineVersion", version.into());
        }
        if let Some(multi_az) = request.multi_az {
            wanted.insert("MultiAZ", multi_az.into());
        }
        if request.network_type.is_some() {
            let subnet_group = &current.body["ReplicationSubnetGroup"];
            let network_type = checked_network_type(request.network_type.as_deref(), subnet_group)?;
            wanted.insert("NetworkType", network_type.into());
        }
        let differs = |member: &str, value: &Json| current.body.get(member) != Some(value);
        let pending = pending(current);
        change.deferrable = wanted
            .into_iter()
            .filter(|(member, value)| differs(member, value) || pending.contains_key(*member))
            .map(|(member, value)| (member.to_owned(), value))
            .collect();
        let mut at_once = Map::new();
        if let Some(window) = &request.preferred_maintenance_window {
            at_once.insert("PreferredMaintenanceWindow".into(), checked_window(window)?.into());
        }
        if let Some(upgrade) = request.auto_minor_version_upgrade {
            at_once.insert("AutoMinorVersionUpgrade".into(), upgrade.into());
        }
        if let Some(groups) = &request.vpc_security_group_ids {
            at_once.insert("VpcSecurityGroups".into(), security_groups(&current.owner, Some(groups)));
        }
        if let Some(kerberos) = &request.kerberos_authentication_settings {
            let kerberos = serde_json::to_value(kerberos).unwrap_or_default();
            at_once.insert("KerberosAuthenticationSettings".into(), kerberos);
        }
        change.at_once = at_once.into_iter().filter(|(member, value)| differs(member, value)).collect();
        Ok(change)
    }

    fn is_empty(&self) -> bool {
        self.identifier.is_none() && self.at_once.is_empty() && self.deferrable.is_empty()
    }
}

/// What waits for the maintenance window.
fn pending(resource: &Resource) -> Map<String, Json> {
    resource.body["PendingModifiedValues"].as_object().cloned().unwrap_or_default()
}

fn merge(body: &mut Json, changes: &Map<String, Json>) {
    for (member, value) in changes {
        body[member] = value.clone();
    }
}

/// With `AutoMinorVersionUpgrade` AWS passes over an older version and takes the default one.
fn auto_upgraded(automatic: Option<bool>, version: String) -> String {
    match automatic.unwrap_or(true) && catalog::is_older_than_default(&version) {
        true => catalog::default_engine_version(),
        false => version,
    }
}

fn checked_class(class: &str) -> Result<&'static catalog::InstanceClass, Fault> {
    catalog::instance_class(class)
        .ok_or_else(|| Fault::invalid_parameter_value(format!("Invalid ReplicationInstance class: {class}")))
}

fn checked_storage(storage: i32) -> Result<i32, Fault> {
    match storage {
        catalog::STORAGE_GIB_MIN..=catalog::STORAGE_GIB_MAX => Ok(storage),
        _ => Err(Fault::invalid_parameter_value(format!(
            "Invalid value {storage} for AllocatedStorage. Must be between {} and {}",
            catalog::STORAGE_GIB_MIN,
            catalog::STORAGE_GIB_MAX
        ))),
    }
}

/// Subnets here have IPv4 addresses only.
fn checked_network_type(network_type: Option<&str>, subnet_group: &Json) -> Result<String, Fault> {
    match network_type.map(str::to_ascii_uppercase).as_deref() {
        None | Some("IPV4") => Ok("IPV4".into()),
        Some("DUAL") => Err(Fault::invalid_parameter_combination(format!(
            "The specified network type 'DUAL' is not supported by replication subnet group '{}'.",
            subnet_group["ReplicationSubnetGroupIdentifier"].as_str().unwrap_or_default()
        ))),
        Some(other) => {
            Err(Fault::invalid_parameter_value(format!("Invalid value {other} for NetworkType. Must be IPV4 or DUAL")))
        }
    }
}

fn security_groups(owner: &Owner, groups: Option<&[String]>) -> Json {
    let account: u64 = owner.account.parse().unwrap_or_default();
    let default = [format!("sg-{account:017x}")];
    let groups = groups.filter(|groups| !groups.is_empty()).unwrap_or(&default);
    groups.iter().map(|group| json!({ "VpcSecurityGroupId": group, "Status": "active" })).collect()
}

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Half an hour somewhere in the week, as AWS picks it.
fn random_window() -> String {
    const WEEK_MINUTES: u32 = 7 * 24 * 60;
    let start = rand::rng().random_range(0..WEEK_MINUTES);
    let moment = |minute: u32| {
        let minute = minute % WEEK_MINUTES;
        format!("{}:{:02}:{:02}", DAYS[(minute / 1440) as usize], minute / 60 % 24, minute % 60)
    };
    format!("{}-{}", moment(start), moment(start + 30))
}

/// `ddd:hh24:mi-ddd:hh24:mi`, at least 30 minutes long; returned in lower case.
fn checked_window(window: &str) -> Result<String, Fault> {
    let lower = window.to_ascii_lowercase();
    let moment = |text: &str| -> Option<u32> {
        let mut parts = text.split(':');
        let day = DAYS.iter().position(|day| parts.clone().next() == Some(day))? as u32;
        parts.next();
        let two_digits = |part: Option<&str>, below: u32| -> Option<u32> {
            let part = part.filter(|part| part.len() == 2)?;
            part.parse().ok().filter(|number| *number < below)
        };
        let hour = two_digits(parts.next(), 24)?;
        let minute = two_digits(parts.next(), 60)?;
        parts.next().is_none().then_some(day * 1440 + hour * 60 + minute)
    };
    let bounds = lower.split_once('-').and_then(|(from, to)| Some((moment(from)?, moment(to)?)));
    let long_enough = bounds.is_some_and(|(from, to)| (to + 7 * 1440 - from) % (7 * 1440) >= 30);
    match long_enough {
        true => Ok(lower),
        false => Err(Fault::invalid_parameter_value(format!(
            "Invalid value {window} for PreferredMaintenanceWindow. Must be ddd:hh24:mi-ddd:hh24:mi, at least 30 minutes"
        ))),
    }
}

fn already_exists(resource: &Resource) -> Fault {
    // By analogy with the recorded text for endpoints.
    Fault::resource_already_exists(
        format!("ReplicationInstance \"{}\" already in use", resource.identifier),
        &resource.arn,
    )
}

fn not_found(arn: &str) -> Fault {
    Fault::resource_not_found(format!("Replication instance {arn} not found"))
}

fn answer(body: Json) -> String {
    json!({ "ReplicationInstance": body }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maintenance_windows_are_checked() {
        for good in ["sun:23:45-mon:00:15", "Mon:01:00-mon:01:30", "wed:10:00-fri:10:00"] {
            assert_eq!(checked_window(good).unwrap(), good.to_ascii_lowercase());
        }
        for bad in
            ["", "mon:1:00-mon:02:00", "mon:01:00", "mon:01:00-mon:01:29", "xyz:01:00-mon:02:00", "mon:24:00-tue:01:00"]
        {
            assert!(checked_window(bad).is_err(), "{bad}");
        }
        for _ in 0..100 {
            let window = random_window();
            assert_eq!(checked_window(&window).unwrap(), window);
        }
    }
}
