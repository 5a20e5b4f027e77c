//! Tags of every kind of resource.
//! <https://docs.aws.amazon.com/dms/latest/APIReference/API_Tag.html>

use serde_json::{Value as Json, json};

use super::Answer;
use super::context::Context;
use super::identifier::check_arn;
use crate::api::Fault;
use crate::api::shapes::{AddTagsToResourceMessage, ListTagsForResourceMessage, RemoveTagsFromResourceMessage, Tag};

const KEY_LENGTH_MAX: usize = 128;
const VALUE_LENGTH_MAX: usize = 256;
/// AWS's limit for any resource.
const TAGS_MAX: usize = 50;

pub async fn add(context: &Context, request: AddTagsToResourceMessage) -> Answer {
    known(context, &request.resource_arn).await?;
    let tags = checked(Some(&request.tags))?;
    let present = context.store().tags(&request.resource_arn).await?;
    let new = tags.iter().filter(|(key, _)| !present.iter().any(|(present, _)| present == key)).count();
    check_count(present.len() + new)?;
    context.store().set_tags(&request.resource_arn, &tags).await?;
    Ok("{}".into())
}

pub async fn remove(context: &Context, request: RemoveTagsFromResourceMessage) -> Answer {
    known(context, &request.resource_arn).await?;
    context.store().remove_tags(&request.resource_arn, &request.tag_keys).await?;
    Ok("{}".into())
}

/// With a list of ARNs every tag says whose it is.
pub async fn list(context: &Context, request: ListTagsForResourceMessage) -> Answer {
    let mut tags: Vec<Json> = Vec::new();
    match (&request.resource_arn, &request.resource_arn_list) {
        (Some(arn), None) => {
            known(context, arn).await?;
            for (key, value) in context.store().tags(arn).await? {
                tags.push(json!({ "Key": key, "Value": value }));
            }
        }
        (None, Some(arns)) => {
            for arn in arns {
                known(context, arn).await?;
                for (key, value) in context.store().tags(arn).await? {
                    tags.push(json!({ "Key": key, "Value": value, "ResourceArn": arn }));
                }
            }
        }
        (None, None) => {
            return Err(Fault::invalid_parameter_value(
                "The parameter ResourceArn or ResourceArnList must be provided and must not be blank.",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(Fault::invalid_parameter_combination(
                "The parameters ResourceArn and ResourceArnList cannot be used together.",
            ));
        }
    }
    Ok(json!({ "TagList": tags }).to_string())
}

/// The tags of a create call, checked, ready to be stored.
pub fn checked(tags: Option<&[Tag]>) -> Result<Vec<(String, String)>, Fault> {
    let mut checked: Vec<(String, String)> = Vec::new();
    for tag in tags.unwrap_or_default() {
        let key = tag.key.as_deref().unwrap_or_default();
        let value = tag.value.as_deref().unwrap_or_default();
        check_text("key", key, 1, KEY_LENGTH_MAX)?;
        check_text("value", value, 0, VALUE_LENGTH_MAX)?;
        if key.starts_with("aws:") || key.starts_with("dms:") {
            return Err(Fault::invalid_parameter_value(format!(
                "Invalid tag key {key}: keys must not begin with aws: or dms:"
            )));
        }
        if checked.iter().any(|(earlier, _)| earlier == key) {
            return Err(Fault::invalid_parameter_value(format!("Duplicate tag key {key}")));
        }
        checked.push((key.to_owned(), value.to_owned()));
    }
    check_count(checked.len())?;
    Ok(checked)
}

fn check_count(tags: usize) -> Result<(), Fault> {
    match tags {
        0..=TAGS_MAX => Ok(()),
        _ => Err(Fault::invalid_parameter_value(format!("A resource can have at most {TAGS_MAX} tags"))),
    }
}

fn check_text(what: &str, text: &str, min: usize, max: usize) -> Result<(), Fault> {
    let length = text.chars().count();
    if !(min..=max).contains(&length) {
        return Err(Fault::invalid_parameter_value(format!(
            "Invalid tag {what}: it has {length} characters, allowed are {min} to {max}"
        )));
    }
    let allowed = |c: char| c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "_.:/=+-".contains(c);
    match text.chars().find(|c| !allowed(*c)) {
        None => Ok(()),
        // `@` is allowed by AWS's other services; DMS's own pattern leaves it out.
        Some(bad) => Err(Fault::invalid_parameter_value(format!(
            "Invalid tag {what} {text:?}: character {bad:?} is not allowed. Allowed are letters, digits, white space \
             and _ . : / = + -"
        ))),
    }
}

async fn known(context: &Context, arn: &str) -> Result<(), Fault> {
    check_arn("ResourceArn", arn)?;
    match context.store().get(arn).await?.is_some_and(|resource| resource.owner == context.owner) {
        true => Ok(()),
        false => Err(Fault::resource_not_found(format!("Resource {arn} not found"))),
    }
}
