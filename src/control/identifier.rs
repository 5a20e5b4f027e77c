//! Identifiers users choose and ARNs the service makes.

use data_encoding::BASE32_NOPAD;
use rand::Rng;
use serde_json::Value as Json;

use super::context::Context;
use crate::api::Fault;
use crate::store::{Filter, Owner, Resource};

/// Bytes behind a random resource id: 26 characters of base32, as most accounts see them.
const RESOURCE_ID_BYTES: usize = 16;

/// `ResourceIdentifier` may have this many characters.
const RESOURCE_IDENTIFIER_MAX: usize = 31;

/// Checks an identifier by the rule that instances, endpoints and tasks share, and gives it as it is stored:
/// lower-case. `what` names the parameter.
pub fn identifier(what: &str, value: &str, length_max: usize) -> Result<String, Fault> {
    if !is_identifier(value) {
        return Err(invalid_identifier(what));
    }
    if value.len() > length_max {
        return Err(Fault::invalid_parameter_value(format!(
            "The parameter {what} must not be longer than {length_max} characters."
        )));
    }
    Ok(value.to_ascii_lowercase())
}

fn is_identifier(value: &str) -> bool {
    value.starts_with(|first: char| first.is_ascii_alphabetic())
        && value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !value.ends_with('-')
        && !value.contains("--")
}

/// The text AWS answers with; recorded there for a filter.
pub fn invalid_identifier(what: &str) -> Fault {
    Fault::invalid_parameter_value(format!(
        "The parameter {what} is not a valid identifier. Identifiers must begin with a letter; must contain only ASCII \
         letters, digits, and hyphens; and must not end with a hyphen or contain two consecutive hyphens."
    ))
}

/// The value of a filter on an identifier.
pub fn filter_identifier(filter: &str, value: &str) -> Result<String, Fault> {
    if is_identifier(value) {
        Ok(value.to_ascii_lowercase())
    } else {
        Err(invalid_identifier(&format!("Filter: {filter}")))
    }
}

/// `arn:aws:dms:{region}:{account}:{type}:{id}` with a random id, or the one the caller asks for.
pub fn new_arn(owner: &Owner, resource_type: &str, resource_identifier: Option<&str>) -> Result<String, Fault> {
    let id = match resource_identifier {
        Some(id) => {
            identifier("ResourceIdentifier", id, RESOURCE_IDENTIFIER_MAX)?;
            // Unlike other identifiers this one keeps its case.
            id.to_owned()
        }
        None => BASE32_NOPAD.encode(&rand::rng().random::<[u8; RESOURCE_ID_BYTES]>()),
    };
    Ok(arn(owner, resource_type, &id))
}

/// Why a new resource was not stored: its ARN, which ends in a chosen `ResourceIdentifier`, or else its identifier is
/// another's. `noun` is AWS's word for its kind; the text is recorded for the identifiers of endpoints.
pub async fn already_in_use(context: &Context, noun: &str, resource: &Resource) -> Result<Fault, Fault> {
    let (taken, by) = match context.store().get(&resource.arn).await? {
        Some(other) => (resource_id(&resource.arn), Some(other.arn)),
        None => {
            let same = Filter { identifiers: Some(vec![resource.identifier.clone()]), ..Filter::default() };
            let others = context.store().list(&context.owner, resource.kind, &same).await?;
            (resource.identifier.as_str(), others.into_iter().next().map(|other| other.arn))
        }
    };
    let by = by.unwrap_or_else(|| resource.arn.clone());
    Ok(Fault::resource_already_exists(format!("{noun} \"{taken}\" already in use"), by))
}

pub fn arn(owner: &Owner, resource_type: &str, id: &str) -> String {
    format!("arn:{}:dms:{}:{}:{resource_type}:{id}", partition(&owner.region), owner.region, owner.account)
}

pub fn partition(region: &str) -> &'static str {
    match region.split_once('-') {
        Some(("cn", _)) => "aws-cn",
        Some(("us", rest)) if rest.starts_with("gov-") => "aws-us-gov",
        _ => "aws",
    }
}

/// Refuses what is not an ARN of this service; `parameter` names the member it came in.
pub fn check_arn(parameter: &str, value: &str) -> Result<(), Fault> {
    let mut parts = value.splitn(7, ':');
    let well_formed = parts.next() == Some("arn")
        && parts.next().is_some_and(|partition| partition.starts_with("aws"))
        && parts.next() == Some("dms")
        && parts.next().is_some_and(|region| !region.is_empty())
        && parts.next().is_some_and(|account| account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()))
        && parts.next().is_some_and(|kind| !kind.is_empty())
        && parts.next().is_some_and(|id| !id.is_empty());
    match well_formed {
        true => Ok(()),
        false => Err(Fault::invalid_parameter_value(format!("Invalid value {value} for {parameter}"))),
    }
}

/// The last part of an ARN: how DMS names a task in its logs and messages.
pub fn resource_id(arn: &str) -> &str {
    arn.rsplit(':').next().unwrap_or(arn)
}

/// The KMS key that AWS uses when none is given: always the same for an owner.
pub fn default_kms_key(owner: &Owner) -> Json {
    // Any UUID will do, as long as an account keeps its own.
    let mut hash: u128 = 0xcbf2_9ce4_8422_2325;
    for byte in owner.account.bytes().chain(owner.region.bytes()) {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    let uuid = uuid::Builder::from_random_bytes(hash.to_be_bytes()).into_uuid();
    format!("arn:{}:kms:{}:{}:key/{uuid}", partition(&owner.region), owner.region, owner.account).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner() -> Owner {
        Owner { account: "123456789012".into(), region: "us-east-1".into() }
    }

    #[test]
    fn identifiers_follow_the_rule_and_are_stored_lower_case() {
        assert_eq!(identifier("EndpointIdentifier", "My-EP-1", 255).unwrap(), "my-ep-1");
        for bad in ["", "1a", "-a", "a-", "a--b", "a_b", "a b", "é"] {
            let fault = identifier("EndpointIdentifier", bad, 255).unwrap_err();
            assert!(fault.message.starts_with("The parameter EndpointIdentifier is not a valid identifier."), "{bad}");
        }
        assert!(identifier("ReplicationInstanceIdentifier", &"a".repeat(64), 63).is_err());
    }

    #[test]
    fn arns_carry_a_random_or_a_chosen_id() {
        let random = new_arn(&owner(), "rep", None).unwrap();
        let id = resource_id(&random);
        assert_eq!(id.len(), 26);
        assert!(id.bytes().all(|byte| byte.is_ascii_uppercase() || (b'2'..=b'7').contains(&byte)));
        let chosen = new_arn(&owner(), "endpoint", Some("My-Id")).unwrap();
        assert_eq!(chosen, "arn:aws:dms:us-east-1:123456789012:endpoint:My-Id");
        assert!(new_arn(&owner(), "endpoint", Some(&"a".repeat(32))).is_err());
        assert!(check_arn("EndpointArn", &chosen).is_ok());
        let fault = check_arn("ReplicationTaskArn", "TBD").unwrap_err();
        assert_eq!(fault.message, "Invalid value TBD for ReplicationTaskArn");
    }
}
