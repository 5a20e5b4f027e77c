//! Schemas of an endpoint's database, as last read by RefreshSchemas.

use std::time::SystemTime;

use serde_json::{Value as Json, json};

use super::context::Context;
use super::listing::{PageSize, Paging, page_of};
use super::{Answer, endpoint, instance};
use crate::api::shapes::{DescribeRefreshSchemasStatusMessage, DescribeSchemasMessage, RefreshSchemasMessage};
use crate::api::{Fault, Timestamp};
use crate::store::{Kind, Resource};

const REFRESHING: &str = "refreshing";

/// Answers at once with `refreshing`; the schemas are read meanwhile.
pub async fn refresh(context: &Context, request: RefreshSchemasMessage) -> Answer {
    let endpoint = endpoint::find(context, "EndpointArn", &request.endpoint_arn).await?;
    let instance = instance::find(context, &request.replication_instance_arn).await?;
    endpoint::runtime_engine(&endpoint)?;
    let key = key(&endpoint.arn);
    let previous = context.store().get(&key).await?;
    let mut body = json!({
        "EndpointArn": endpoint.arn,
        "ReplicationInstanceArn": instance.arn,
        "Status": REFRESHING,
    });
    if let Some(date) = previous.as_ref().and_then(|previous| previous.body.get("LastRefreshDate")) {
        body["LastRefreshDate"] = date.clone();
    }
    let resource = Resource {
        arn: key.clone(),
        owner: context.owner.clone(),
        kind: Kind::Schemas,
        identifier: key.clone(),
        status: REFRESHING.into(),
        spec: json!({ "Schemas": [] }),
        body: body.clone(),
    };
    if !context.store().insert(&resource).await? {
        let again = context.store().update(&key, |present| {
            if present.status == REFRESHING {
                return Err(Fault::invalid_resource_state(format!(
                    "The schemas of endpoint {} are being refreshed already",
                    endpoint.identifier
                )));
            }
            present.status = REFRESHING.into();
            present.body = body.clone();
            Ok(())
        });
        again.await?.transpose()?;
    }
    resume(context, key, endpoint);
    Ok(json!({ "RefreshSchemasStatus": body }).to_string())
}

/// Reads the schemas of an endpoint that is marked as refreshing.
pub fn resume(context: &Context, key: String, endpoint: Resource) {
    let context = context.clone();
    tokio::spawn(async move {
        let outcome = match endpoint::runtime_engine(&endpoint) {
            Ok(engine) => (engine.open_source)(endpoint::connection(&endpoint)).schemas().await,
            Err(fault) => Err(crate::data::Error::fatal(fault.message)),
        };
        let stored = context.store().update(&key, |resource| {
            let status = match &outcome {
                Ok(schemas) => {
                    resource.spec["Schemas"] = json!(schemas);
                    resource.body["LastRefreshDate"] = json!(Timestamp::from(SystemTime::now()));
                    "successful"
                }
                Err(error) => {
                    resource.body["LastFailureMessage"] = error.to_string().into();
                    "failed"
                }
            };
            resource.status = status.into();
            resource.body["Status"] = status.into();
            Ok::<_, Fault>(())
        });
        if let Err(error) = stored.await {
            tracing::error!(%error, "cannot store the schemas of an endpoint");
        }
        context.changed();
    });
}

pub async fn status(context: &Context, request: DescribeRefreshSchemasStatusMessage) -> Answer {
    let found = settled(context, &request.endpoint_arn).await?;
    Ok(json!({ "RefreshSchemasStatus": found.body }).to_string())
}

pub async fn describe(context: &Context, request: DescribeSchemasMessage) -> Answer {
    let found = settled(context, &request.endpoint_arn).await?;
    let schemas = found.spec["Schemas"].as_array().cloned().unwrap_or_default();
    let paging = Paging { max_records: request.max_records, marker: request.marker };
    let (page, marker): (Vec<Json>, _) = page_of(schemas, PageSize::USUAL, &paging)?;
    let mut answer = json!({ "Schemas": page });
    if let Some(marker) = marker {
        answer["Marker"] = marker.into();
    }
    Ok(answer.to_string())
}

/// The last refresh, after a short wait when one is under way.
async fn settled(context: &Context, endpoint_arn: &str) -> Result<Resource, Fault> {
    let endpoint = endpoint::find(context, "EndpointArn", endpoint_arn).await?;
    let deadline = context.settle_deadline();
    let mut changes = context.watch_changes();
    loop {
        // AWS answers one of two faults here; which one is not known.
        let found = context.store().get(&key(&endpoint.arn)).await?.ok_or_else(|| {
            Fault::resource_not_found(format!("The schemas of endpoint {} were never refreshed", endpoint.identifier))
        })?;
        if found.status != REFRESHING || !context.wait_for_change(&mut changes, deadline).await {
            return Ok(found);
        }
    }
}

fn key(endpoint_arn: &str) -> String {
    format!("schemas|{endpoint_arn}")
}
