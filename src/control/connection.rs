//! Connections: pairs of an instance and an endpoint, and whether the one can reach the other.

use serde_json::{Value as Json, json};

use super::context::Context;
use super::identifier::check_arn;
use super::listing::{FilterBy, Listing, PageSize, Paging, list};
use super::{Answer, endpoint, instance, task};
use crate::api::Fault;
use crate::api::shapes::{DeleteConnectionMessage, DescribeConnectionsMessage, TestConnectionMessage};
use crate::connector::Engine;
use crate::data::{Error, ErrorKind, Family};
use crate::store::{Filter, Kind, Resource};

const LISTING: Listing = Listing {
    kind: Kind::Connection,
    member: "Connections",
    miss: Some("No Connections found matching provided filters"),
    filters: &[
        ("endpoint-arn", FilterBy::Member(&["$.EndpointArn"])),
        ("replication-instance-arn", FilterBy::Member(&["$.ReplicationInstanceArn"])),
    ],
    page: PageSize::USUAL,
};

const TESTING: &str = "testing";
const SUCCESSFUL: &str = "successful";
const FAILED: &str = "failed";

/// Answers at once with `testing`; the test itself runs on.
pub async fn test(context: &Context, request: TestConnectionMessage) -> Answer {
    let instance = instance::find(context, &request.replication_instance_arn).await?;
    let endpoint = endpoint::find(context, "EndpointArn", &request.endpoint_arn).await?;
    endpoint::runtime_engine(&endpoint)?;
    if instance.status != "available" {
        return Err(Fault::invalid_resource_state(format!(
            "Replication instance {} is not available: {}",
            instance.identifier, instance.status
        )));
    }
    let body = begin(context, &instance, &endpoint).await?;
    Ok(answer(body))
}

pub async fn describe(context: &Context, request: DescribeConnectionsMessage) -> Answer {
    let paging = Paging { max_records: request.max_records, marker: request.marker };
    let page = list(context, &LISTING, request.filters.as_deref(), &paging).await?;
    Ok(page.answer(LISTING.member, |item| item.body))
}

pub async fn delete(context: &Context, request: DeleteConnectionMessage) -> Answer {
    check_arn("ReplicationInstanceArn", &request.replication_instance_arn)?;
    check_arn("EndpointArn", &request.endpoint_arn)?;
    let key = key(&request.replication_instance_arn, &request.endpoint_arn);
    let found = context.store().get(&key).await?.filter(|found| found.owner == context.owner);
    // AWS answers an unknown pair with this fault, too, not with ResourceNotFoundFault.
    let found = found.ok_or_else(|| {
        Fault::invalid_resource_state(format!(
            "There is no connection between replication instance {} and endpoint {}",
            request.replication_instance_arn, request.endpoint_arn
        ))
    })?;
    if found.status == TESTING {
        return Err(being_tested(&found));
    }
    for task in task::using_endpoint(context, &request.endpoint_arn).await? {
        let same_instance = task.body["ReplicationInstanceArn"] == request.replication_instance_arn.as_str();
        if same_instance && matches!(task.status.as_str(), "starting" | "running" | "stopping") {
            return Err(Fault::invalid_resource_state(format!(
                "The connection is in use by replication task {}, which is {}",
                task.identifier, task.status
            )));
        }
    }
    context.store().delete(&key).await?;
    context.changed();
    let mut body = found.body;
    body["Status"] = "deleting".into();
    Ok(answer(body))
}

/// Whether the last test of this pair succeeded.
pub async fn is_successful(context: &Context, instance_arn: &str, endpoint_arn: &str) -> Result<bool, Fault> {
    let found = context.store().get(&key(instance_arn, endpoint_arn)).await?;
    Ok(found.is_some_and(|found| found.status == SUCCESSFUL))
}

/// Tests a modified endpoint from every instance it was tested from before.
pub async fn test_again(context: &Context, endpoint_arn: &str) -> Result<(), Fault> {
    let endpoint = endpoint::find(context, "EndpointArn", endpoint_arn).await?;
    if endpoint::runtime_engine(&endpoint).is_err() {
        return Ok(());
    }
    let of_endpoint = Filter { members: vec![(&["$.EndpointArn"], vec![endpoint_arn.into()])], ..Filter::default() };
    for connection in context.store().resources(&context.owner, Kind::Connection, &of_endpoint).await? {
        let instance = connection.body["ReplicationInstanceArn"].as_str().unwrap_or_default();
        let instance = instance::find(context, instance).await?;
        match begin(context, &instance, &endpoint).await {
            Ok(_) => {}
            // The test under way began before the change, or with it: its outcome is near enough.
            Err(fault) if fault.code == "InvalidResourceStateFault" => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Marks the pair as being tested and starts the test.
async fn begin(context: &Context, instance: &Resource, endpoint: &Resource) -> Result<Json, Fault> {
    let key = key(&instance.arn, &endpoint.arn);
    let body = json!({
        "ReplicationInstanceArn": instance.arn,
        "EndpointArn": endpoint.arn,
        "Status": TESTING,
        "EndpointIdentifier": endpoint.identifier,
        "ReplicationInstanceIdentifier": instance.identifier,
    });
    let resource = Resource {
        arn: key.clone(),
        owner: context.owner.clone(),
        kind: Kind::Connection,
        identifier: key.clone(),
        status: TESTING.into(),
        spec: json!({}),
        body: body.clone(),
    };
    if !context.store().insert(&resource).await? {
        let again = context.store().update(&key, |present| {
            if present.status == TESTING {
                return Err(being_tested(present));
            }
            present.status = TESTING.into();
            present.body = body.clone();
            Ok(())
        });
        again.await?.transpose()?;
    }
    context.changed();
    resume(context, key, endpoint.clone());
    Ok(body)
}

/// Runs the test of a pair that is marked as being tested.
pub fn resume(context: &Context, key: String, endpoint: Resource) {
    let context = context.clone();
    tokio::spawn(async move {
        let outcome = attempt(&endpoint).await;
        if let Err(error) = &outcome {
            tracing::info!(endpoint = endpoint.identifier, %error, "connection test failed");
        }
        let stored = context.store().update(&key, |connection| {
            let (status, message) = match &outcome {
                Ok(()) => (SUCCESSFUL, None),
                Err(error) => (FAILED, Some(failure_message(&endpoint, error))),
            };
            connection.status = status.into();
            connection.body["Status"] = status.into();
            if let Some(message) = message {
                connection.body["LastFailureMessage"] = message.into();
            }
            Ok::<_, Fault>(())
        });
        if let Err(error) = stored.await {
            tracing::error!(%error, "cannot store the outcome of a connection test");
        }
        context.changed();
    });
}

async fn attempt(endpoint: &Resource) -> Result<(), Error> {
    let engine = endpoint::runtime_engine(endpoint).map_err(|fault| Error::fatal(fault.message))?;
    let secret = endpoint.body[engine.settings]["SecretsManagerSecretId"].as_str();
    if let Some(secret) = secret {
        return Err(Error::fatal(format!(
            "Unable to find Secrets Manager secret '{secret}': secrets are not supported yet"
        )));
    }
    let connection = endpoint::connection(endpoint);
    match endpoint.body["EndpointType"].as_str() {
        Some("SOURCE") => (engine.open_source)(connection).check().await,
        _ => (engine.open_target)(connection).check().await,
    }
}

/// DMS's shape, with the true cause: what users search the web for.
fn failure_message(endpoint: &Resource, error: &Error) -> String {
    let family = endpoint::runtime_engine(endpoint).map(|engine: &Engine| engine.family);
    let network = error.kind == ErrorKind::Recoverable && error.sqlstate.is_none();
    let (application, driver, state, native) = match family {
        Ok(Family::MySql) => (
            if network {
                "Cannot connect to ODBC provider Network error has occurred"
            } else {
                "Cannot connect to ODBC provider ODBC general error."
            },
            "[unixODBC][MySQL][ODBC 8.0(w) Driver]",
            "HY000",
            error.native.unwrap_or(2003),
        ),
        _ => ("Failed to connect  Network error has occurred", "[unixODBC]", "08001", 101),
    };
    let mut text = format!(
        "Test Endpoint failed: Application-Status: 1020912, Application-Message: {application}, \
         Application-Detailed-Message: RetCode: SQL_ERROR  SqlState: {state} NativeError: {native} Message: \
         {driver}{}",
        error.message
    );
    if let Some(state) = &error.sqlstate {
        text.push_str(&format!("\n\nAdditional info:\nMessage: [{}], NativeErrorCode: [{state}]", error.message));
    }
    text
}

fn being_tested(connection: &Resource) -> Fault {
    Fault::invalid_resource_state(format!(
        "The connection between endpoint {} and replication instance {} is already being tested",
        connection.body["EndpointIdentifier"].as_str().unwrap_or_default(),
        connection.body["ReplicationInstanceIdentifier"].as_str().unwrap_or_default(),
    ))
}

/// Connections have no ARN of their own.
fn key(instance_arn: &str, endpoint_arn: &str) -> String {
    format!("connection|{instance_arn}|{endpoint_arn}")
}

fn answer(body: Json) -> String {
    json!({ "Connection": body }).to_string()
}
