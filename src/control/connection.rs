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
    if secret(endpoint, engine).is_some() {
        return Err(Error::fatal("secrets are not supported yet"));
    }
    let connection = endpoint::connection(endpoint);
    match endpoint.body["EndpointType"].as_str() {
        Some("SOURCE") => (engine.open_source)(connection).check().await,
        _ => (engine.open_target)(connection).check().await,
    }
}

/// The secret that stands for the endpoint's login.
fn secret<'a>(endpoint: &'a Resource, engine: &Engine) -> Option<&'a str> {
    endpoint.body[engine.settings]["SecretsManagerSecretId"].as_str()
}

/// DMS's texts, with the true cause: what users search the web for.
fn failure_message(endpoint: &Resource, error: &Error) -> String {
    let engine = endpoint::runtime_engine(endpoint).ok();
    let (application, detail, more) = match engine.and_then(|engine| secret(endpoint, engine)) {
        Some(secret) => secret_failure(error, secret),
        None if engine.is_some_and(|engine| engine.family == Family::MySql) => mysql_failure(error),
        None => postgres_failure(error),
    };
    format!(
        "Test Endpoint failed: Application-Status: 1020912, Application-Message: {application}, \
         Application-Detailed-Message: {detail}\n\nAdditional info:\n{more}"
    )
}

/// The three parts of a message: summary, the driver's words, and what DMS adds to them.
type Failure = (&'static str, String, String);

/// Recorded, but for the cause.
fn secret_failure(error: &Error, secret: &str) -> Failure {
    let cause = &error.message;
    let detail = format!(
        "Failed to retrieve secret. Unable to find AWS Secrets Manager secret Arn '{secret}' The secrets_manager get \
         secret value failed: {cause}"
    );
    ("Failed to build connection string Unable to find Secrets Manager secret", detail, cause.clone())
}

/// Recorded for a server that cannot be reached; the rest is a guess.
fn mysql_failure(error: &Error) -> Failure {
    let native = error.native.unwrap_or(match error.kind {
        ErrorKind::Recoverable => 2003,
        _ => 2000,
    });
    // Numbers of the client, not of the server: cannot connect, unknown host, connection lost.
    let network = matches!(native, 2002 | 2003 | 2005 | 2006 | 2013);
    let application = match network {
        true => "Cannot connect to ODBC provider Network error has occurred",
        false => "Cannot connect to ODBC provider ODBC general error.",
    };
    let detail = format!(
        "RetCode: SQL_ERROR  SqlState: HY000 NativeError: {native} Message: [unixODBC][MySQL][ODBC 8.0(w) Driver]{}",
        error.message
    );
    let more = match network {
        true => additional("DMS-00002", error, None),
        false => additional("DMS-00100", error, Some(&native.to_string())),
    };
    (application, detail, more)
}

/// Recorded for a refused login, and without what DMS adds for a server that cannot be reached. That failures of the
/// network have the code they have with MySQL, and all others the one of a refused login, is a guess.
fn postgres_failure(error: &Error) -> Failure {
    // Only what a server says has a SQLSTATE. Against a login it is of severity FATAL; what follows a login names what
    // was being done, but for the target's being read-only, which is our own finding.
    let state = error.sqlstate.as_deref();
    let severity = match state {
        Some(state) if error.context.is_empty() && state != "25006" => "FATAL:  ",
        _ => "",
    };
    let detail =
        format!("RetCode: SQL_ERROR  SqlState: 08001 NativeError: 101 Message: [unixODBC]{severity}{}", error.message);
    let network = state.is_none() && error.kind == ErrorKind::Recoverable;
    let code = if network { "DMS-00002" } else { "DMS-00100" };
    ("Failed to connect  Network error has occurred", detail, additional(code, error, state))
}

fn additional(code: &str, error: &Error, native: Option<&str>) -> String {
    let native = native.map(|native| format!(", NativeErrorCode: [{native}]")).unwrap_or_default();
    format!("Code: [{code}], Message: [{}]{native}", error.message)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Owner;

    fn endpoint(engine: &str) -> Resource {
        Resource {
            arn: String::new(),
            owner: Owner { account: "123456789012".into(), region: "us-east-1".into() },
            kind: Kind::Endpoint,
            identifier: "e".into(),
            status: "active".into(),
            spec: json!({ "EngineName": engine }),
            body: json!({}),
        }
    }

    const PG: &str = "Application-Message: Failed to connect  Network error has occurred, \
        Application-Detailed-Message: RetCode: SQL_ERROR  SqlState: 08001 NativeError: 101 Message: [unixODBC]";
    const MYSQL: &str = "[unixODBC][MySQL][ODBC 8.0(w) Driver]";

    fn check(engine: &str, error: &Error, application: &str, additional: &str) {
        let text = failure_message(&endpoint(engine), error);
        let (start, end) = text.split_once("\n\nAdditional info:\n").unwrap();
        assert!(
            start.starts_with("Test Endpoint failed: Application-Status: 1020912, Application-Message: "),
            "{text}"
        );
        assert!(start.ends_with(application), "{text}");
        assert_eq!(end, additional);
    }

    #[test]
    fn a_refused_login_of_postgresql_reads_as_recorded() {
        let message =
            "no pg_hba.conf entry for host \"172.31.1.64\", user \"postgres\", database \"postgres\", no encryption";
        let error = Error::fatal(message).with_sqlstate("28000");
        let additional = format!("Code: [DMS-00100], Message: [{message}], NativeErrorCode: [28000]");
        check("postgres", &error, &format!("{PG}FATAL:  {message}"), &additional);
    }

    #[test]
    fn only_what_a_server_says_against_a_login_is_fatal() {
        let refused = "connection to h port 1 failed: Connection refused";
        let network = Error::recoverable(refused).with_native(111);
        check("postgres", &network, &format!("{PG}{refused}"), &format!("Code: [DMS-00002], Message: [{refused}]"));
        let tls = "the server does not support SSL connections";
        check("postgres", &Error::fatal(tls), &format!("{PG}{tls}"), &format!("Code: [DMS-00100], Message: [{tls}]"));
        let script = Error::table("syntax error").with_sqlstate("42601").while_doing("AfterConnectScript");
        let additional = "Code: [DMS-00100], Message: [syntax error], NativeErrorCode: [42601]";
        check("postgres", &script, &format!("{PG}syntax error"), additional);
        let read_only = Error::fatal("read-only").with_sqlstate("25006");
        let additional = "Code: [DMS-00100], Message: [read-only], NativeErrorCode: [25006]";
        check("postgres", &read_only, &format!("{PG}read-only"), additional);
    }

    #[test]
    fn a_mysql_server_out_of_reach_has_a_code_and_a_message_only() {
        let message = "Can't connect to MySQL server on '10.0.1.163:3306' (110): no answer";
        let error = Error::recoverable(message).with_native(2003).with_sqlstate("HY000");
        let detail = format!(
            "Network error has occurred, Application-Detailed-Message: RetCode: SQL_ERROR  SqlState: HY000 NativeError: \
             2003 Message: {MYSQL}{message}"
        );
        check("mysql", &error, &detail, &format!("Code: [DMS-00002], Message: [{message}]"));
        let denied = Error::fatal("Access denied").with_native(1045).with_sqlstate("28000");
        let additional = "Code: [DMS-00100], Message: [Access denied], NativeErrorCode: [1045]";
        check("aurora", &denied, &format!("NativeError: 1045 Message: {MYSQL}Access denied"), additional);
    }

    #[tokio::test]
    async fn a_secret_reads_as_recorded() {
        let mut endpoint = endpoint("postgres");
        endpoint.body = json!({ "PostgreSQLSettings": { "SecretsManagerSecretId": "arn:aws:secretsmanager:…" } });
        let error = attempt(&endpoint).await.unwrap_err();
        assert_eq!(
            failure_message(&endpoint, &error),
            "Test Endpoint failed: Application-Status: 1020912, Application-Message: Failed to build connection string \
             Unable to find Secrets Manager secret, Application-Detailed-Message: Failed to retrieve secret. Unable to \
             find AWS Secrets Manager secret Arn 'arn:aws:secretsmanager:…' The secrets_manager get secret value \
             failed: secrets are not supported yet\n\nAdditional info:\nsecrets are not supported yet"
        );
    }
}
