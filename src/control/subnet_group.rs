//! Replication subnet groups. There is no network here: groups are kept and checked as AWS does, subnets are believed.

use serde_json::{Value as Json, json};

use super::context::Context;
use super::identifier::arn;
use super::listing::{FilterBy, Listing, PageSize, Paging, list};
use super::{Answer, tag};
use crate::api::Fault;
use crate::api::shapes::{
    CreateReplicationSubnetGroupMessage, DeleteReplicationSubnetGroupMessage, DescribeReplicationSubnetGroupsMessage,
    ModifyReplicationSubnetGroupMessage,
};
use crate::store::{Filter, Kind, Owner, Resource};

const IDENTIFIER_MAX: usize = 255;

/// `SubnetsPerReplicationSubnetGroup` of the account's quotas.
pub const SUBNETS_MAX: usize = 60;

const LISTING: Listing = Listing {
    kind: Kind::ReplicationSubnetGroup,
    member: "ReplicationSubnetGroups",
    // Recorded against AWS, and unlike every other listing with filters.
    miss: None,
    // By the rule of identifiers, unlike the name at create: AWS describes no group with an underscore in it.
    // <https://github.com/aws/aws-cli/issues/8373>
    filters: &[("replication-subnet-group-id", FilterBy::Identifier)],
    page: PageSize::USUAL,
};

pub async fn create(context: &Context, request: CreateReplicationSubnetGroupMessage) -> Answer {
    let identifier = checked_identifier(&request.replication_subnet_group_identifier)?;
    let body = group(
        &context.owner,
        &identifier,
        &request.replication_subnet_group_description,
        &checked_subnets(&request.subnet_ids)?,
    );
    let tags = tag::checked(request.tags.as_deref())?;
    let resource = Resource {
        arn: arn(&context.owner, "subgrp", &identifier),
        owner: context.owner.clone(),
        kind: Kind::ReplicationSubnetGroup,
        identifier,
        status: "Complete".into(),
        spec: json!({ "SubnetIds": request.subnet_ids }),
        body,
    };
    if !context.store().insert(&resource).await? {
        return Err(Fault::resource_already_exists("The Replication Subnet Group already exists", &resource.arn));
    }
    context.store().set_tags(&resource.arn, &tags).await?;
    Ok(json!({ "ReplicationSubnetGroup": resource.body }).to_string())
}

pub async fn describe(context: &Context, request: DescribeReplicationSubnetGroupsMessage) -> Answer {
    let paging = Paging { max_records: request.max_records, marker: request.marker };
    let page = list(context, &LISTING, request.filters.as_deref(), &paging).await?;
    Ok(page.answer(LISTING.member, |item| item.body))
}

pub async fn modify(context: &Context, request: ModifyReplicationSubnetGroupMessage) -> Answer {
    let identifier = request.replication_subnet_group_identifier.to_lowercase();
    let subnets = checked_subnets(&request.subnet_ids)?;
    let arn = arn(&context.owner, "subgrp", &identifier);
    let changed = context.store().update(&arn, |resource| {
        let kept = resource.body["ReplicationSubnetGroupDescription"].as_str().unwrap_or_default();
        let description = request.replication_subnet_group_description.as_deref().unwrap_or(kept);
        resource.body = group(&resource.owner, &identifier, description, &subnets);
        resource.spec = json!({ "SubnetIds": request.subnet_ids });
        Ok::<_, Fault>(resource.body.clone())
    });
    let body = changed.await?.ok_or_else(|| not_found(&identifier))??;
    for instance in in_group(context, &identifier).await? {
        let follows = context.store().update(&instance.arn, |instance| {
            instance.body["ReplicationSubnetGroup"] = body.clone();
            Ok::<_, Fault>(())
        });
        follows.await?.transpose()?;
    }
    Ok(json!({ "ReplicationSubnetGroup": body }).to_string())
}

pub async fn delete(context: &Context, request: DeleteReplicationSubnetGroupMessage) -> Answer {
    let identifier = request.replication_subnet_group_identifier.to_lowercase();
    let arn = arn(&context.owner, "subgrp", &identifier);
    if context.store().get(&arn).await?.is_none() {
        return Err(not_found(&identifier));
    }
    if let Some(user) = in_group(context, &identifier).await?.first() {
        return Err(Fault::invalid_resource_state(format!(
            "Cannot delete the subnet group '{identifier}' because at least one database instance: {} is still using it.",
            user.identifier
        )));
    }
    context.store().delete(&arn).await?;
    Ok("{}".into())
}

async fn in_group(context: &Context, identifier: &str) -> Result<Vec<Resource>, Fault> {
    let path: &[&str] = &["$.ReplicationSubnetGroup.ReplicationSubnetGroupIdentifier"];
    let filter = Filter { members: vec![(path, vec![identifier.to_owned()])], ..Filter::default() };
    Ok(context.store().resources(&context.owner, Kind::ReplicationInstance, &filter).await?)
}

/// The group an instance is put into: the one it names, or the account's default one.
pub async fn of_instance(context: &Context, identifier: Option<&str>) -> Result<Json, Fault> {
    let Some(identifier) = identifier.map(str::to_lowercase).filter(|identifier| identifier != "default") else {
        let subnets: Vec<String> = (0..3).map(|index| format!("subnet-{:017x}", 0xd0_0000 + index)).collect();
        return Ok(group(&context.owner, "default", "default", &subnets));
    };
    let arn = arn(&context.owner, "subgrp", &identifier);
    let found = context.store().get(&arn).await?.ok_or_else(|| not_found(&identifier))?;
    Ok(found.body)
}

fn not_found(identifier: &str) -> Fault {
    Fault::resource_not_found(format!("Replication Subnet Group {identifier} not found"))
}

fn checked_identifier(identifier: &str) -> Result<String, Fault> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | ' ');
    let trimmed = identifier.trim();
    if trimmed.is_empty() || identifier.len() > IDENTIFIER_MAX || !identifier.chars().all(allowed) {
        return Err(Fault::invalid_parameter_value(format!(
            "The parameter ReplicationSubnetGroupIdentifier is not a valid identifier. It must have 1 to {IDENTIFIER_MAX} \
             letters, digits, periods, underscores, spaces or hyphens."
        )));
    }
    match identifier.to_lowercase() {
        default if default == "default" => {
            Err(Fault::invalid_parameter_value("The parameter ReplicationSubnetGroupIdentifier must not be 'default'."))
        }
        identifier => Ok(identifier),
    }
}

/// Two subnets at least: AWS wants two availability zones, and here every subnet has a zone of its own.
fn checked_subnets(subnets: &[String]) -> Result<Vec<String>, Fault> {
    let mut distinct: Vec<String> = subnets.to_vec();
    distinct.sort();
    distinct.dedup();
    if let Some(bad) = distinct.iter().find(|id| !id.starts_with("subnet-") || id.len() == "subnet-".len()) {
        return Err(Fault::invalid_subnet(format!("The subnet ID '{bad}' is not valid: it must begin with subnet-")));
    }
    if distinct.len() > SUBNETS_MAX {
        return Err(Fault::resource_quota_exceeded(format!(
            "A replication subnet group holds at most {SUBNETS_MAX} subnets"
        )));
    }
    if distinct.len() < 2 {
        let zone = if distinct.is_empty() { "none" } else { "one" };
        // The words of the sibling service; those of DMS are not known.
        return Err(Fault::subnet_group_does_not_cover_enough_azs(format!(
            "The replication subnet group doesn't meet Availability Zone (AZ) coverage requirement. Current AZ \
             coverage: {zone}. Add subnets to cover at least 2 AZs."
        )));
    }
    Ok(distinct)
}

/// The wire shape. Zones go round by the subnets' sorted order, so that they stay when a group is modified.
fn group(owner: &Owner, identifier: &str, description: &str, subnets: &[String]) -> Json {
    let zones = ["a", "b", "c"];
    let subnets: Vec<Json> = subnets
        .iter()
        .enumerate()
        .map(|(index, subnet)| {
            json!({
                "SubnetIdentifier": subnet,
                "SubnetAvailabilityZone": { "Name": format!("{}{}", owner.region, zones[index % zones.len()]) },
                "SubnetStatus": "Active",
            })
        })
        .collect();
    json!({
        "ReplicationSubnetGroupIdentifier": identifier,
        "ReplicationSubnetGroupDescription": description,
        "VpcId": default_vpc(owner),
        "SubnetGroupStatus": "Complete",
        "Subnets": subnets,
        "SupportedNetworkTypes": ["IPV4"],
    })
}

/// One VPC per account and region, always of the same name.
fn default_vpc(owner: &Owner) -> String {
    let account: u64 = owner.account.parse().unwrap_or_default();
    format!("vpc-{account:017x}")
}
