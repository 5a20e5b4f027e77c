//! Endpoints: where a database is and how to log in.
//!
//! A relational endpoint may be described by top-level members, by the members of its engine's settings object, or by
//! both; they are kept as one, and both places show the same. Secrets are kept in the spec and never shown.

use serde_json::{Map, Value as Json, json};

use super::catalog::{self, EndpointType};
use super::context::Context;
use super::identifier::{already_in_use, check_arn, default_kms_key, identifier, new_arn};
use super::listing::{FilterBy, Listing, PageSize, Paging, list};
use super::{Answer, connection, tag, task};
use crate::api::shapes::{
    CreateEndpointMessage, DeleteEndpointMessage, DescribeEndpointsMessage, ModifyEndpointMessage,
};
use crate::api::{Fault, model};
use crate::connector::{self, Connection, Secret, SslMode};
use crate::store::{Filter, Kind, Resource};

const IDENTIFIER_MAX: usize = 255;

const LISTING: Listing = Listing {
    kind: Kind::Endpoint,
    member: "Endpoints",
    miss: Some("No Endpoints found matching provided filters"),
    filters: &[
        ("endpoint-arn", FilterBy::Arn),
        ("endpoint-type", FilterBy::UpperCaseMember(&["$.EndpointType"])),
        ("endpoint-id", FilterBy::Identifier),
        ("engine-name", FilterBy::Member(&["$.EngineName"])),
    ],
    page: PageSize::USUAL,
};

/// Members that say where a relational database is, at the top level and in every settings object.
const LOGIN: [&str; 5] = ["ServerName", "Port", "Username", "Password", "DatabaseName"];

pub async fn create(context: &Context, request: CreateEndpointMessage) -> Answer {
    let name = identifier("EndpointIdentifier", &request.endpoint_identifier, IDENTIFIER_MAX)?;
    let engine = checked_engine(&request.engine_name)?;
    exact("EndpointType", &request.endpoint_type, &["source", "target"])?;
    check_ssl_mode(request.ssl_mode.as_deref())?;
    let spec = Spec::create(engine, &request.endpoint_type, as_map(&request))?;
    let tags = tag::checked(request.tags.as_deref())?;
    let arn = new_arn(&context.owner, "endpoint", request.resource_identifier.as_deref())?;
    let mut body = spec.body(engine);
    body.insert("EndpointIdentifier".into(), name.clone().into());
    body.insert("EndpointArn".into(), arn.clone().into());
    body.insert("Status".into(), "active".into());
    if spec.is_login() {
        let key = request.kms_key_id.clone().map_or_else(|| default_kms_key(&context.owner), Json::from);
        body.insert("KmsKeyId".into(), key);
    }
    let resource = Resource {
        arn: arn.clone(),
        owner: context.owner.clone(),
        kind: Kind::Endpoint,
        identifier: name,
        status: "active".into(),
        spec: Json::Object(spec.0),
        body: Json::Object(body),
    };
    if !context.store().insert(&resource).await? {
        return Err(already_in_use(context, "ReplicationEndpoint", &resource).await?);
    }
    context.store().set_tags(&arn, &tags).await?;
    Ok(answer(resource.body))
}

pub async fn describe(context: &Context, request: DescribeEndpointsMessage) -> Answer {
    let paging = Paging { max_records: request.max_records, marker: request.marker };
    let page = list(context, &LISTING, request.filters.as_deref(), &paging).await?;
    Ok(page.answer(LISTING.member, |item| item.body))
}

/// Members that are not sent keep their values; `ExactSettings` replaces the settings object instead of merging it.
pub async fn modify(context: &Context, request: ModifyEndpointMessage) -> Answer {
    let arn = &request.endpoint_arn;
    let current = find(context, "EndpointArn", arn).await?;
    for used_by in task::using_endpoint(context, arn).await? {
        if matches!(used_by.status.as_str(), "starting" | "running" | "stopping") {
            return Err(Fault::invalid_resource_state(format!(
                "Endpoint {} cannot be modified while replication task {} is {}",
                current.identifier, used_by.identifier, used_by.status
            )));
        }
    }
    let name = match &request.endpoint_identifier {
        Some(name) => identifier("EndpointIdentifier", name, IDENTIFIER_MAX)?,
        None => current.identifier.clone(),
    };
    if name != current.identifier {
        let taken = Filter { identifiers: Some(vec![name.clone()]), ..Filter::default() };
        if let Some(other) = context.store().list(&context.owner, Kind::Endpoint, &taken).await?.first() {
            return Err(already_exists(&name, &other.arn));
        }
    }
    check_ssl_mode(request.ssl_mode.as_deref())?;
    let engine_name = request.engine_name.as_deref().or(current.body["EngineName"].as_str());
    let engine = checked_engine(engine_name.unwrap_or_default())?;
    let input = as_map(&request);
    let changed = context.store().update(arn, |resource| {
        let spec = Spec::modify(engine, resource, input, request.exact_settings.unwrap_or(false))?;
        let mut body = spec.body(engine);
        for kept in ["EndpointArn", "Status", "KmsKeyId"] {
            if let Some(value) = resource.body.get(kept) {
                body.insert(kept.into(), value.clone());
            }
        }
        body.insert("EndpointIdentifier".into(), name.clone().into());
        resource.identifier.clone_from(&name);
        resource.spec = Json::Object(spec.0);
        resource.body = Json::Object(body);
        Ok::<_, Fault>(resource.body.clone())
    });
    let body = changed.await?.ok_or_else(|| not_found(arn))??;
    // AWS tests a modified endpoint again by itself, from the instances it was tested from before.
    connection::test_again(context, arn).await?;
    Ok(answer(body))
}

pub async fn delete(context: &Context, request: DeleteEndpointMessage) -> Answer {
    let arn = &request.endpoint_arn;
    let current = find(context, "EndpointArn", arn).await?;
    if let Some(used_by) = task::using_endpoint(context, arn).await?.first() {
        return Err(Fault::invalid_resource_state(format!(
            "Endpoint {} is in use by replication task {} and cannot be deleted.",
            current.identifier, used_by.identifier
        )));
    }
    let of_endpoint = Filter { members: vec![(&["$.EndpointArn"], vec![arn.clone()])], ..Filter::default() };
    for kind in [Kind::Connection, Kind::Schemas] {
        for found in context.store().list(&context.owner, kind, &of_endpoint).await? {
            context.store().delete(&found.arn).await?;
        }
    }
    context.store().delete(arn).await?;
    context.changed();
    let mut body = current.body;
    body["Status"] = "deleting".into();
    Ok(answer(body))
}

/// The endpoint of this ARN, if it is the caller's.
pub async fn find(context: &Context, parameter: &str, arn: &str) -> Result<Resource, Fault> {
    check_arn(parameter, arn)?;
    let found = context.store().get(arn).await?;
    found.filter(|found| found.kind == Kind::Endpoint && found.owner == context.owner).ok_or_else(|| not_found(arn))
}

/// The runtime engine of an endpoint; an engine without a runtime is an honest 501.
pub fn runtime_engine(endpoint: &Resource) -> Result<&'static connector::Engine, Fault> {
    let name = endpoint.spec["EngineName"].as_str().unwrap_or_default();
    connector::engine(name).ok_or_else(|| Fault::not_implemented_part(format!("Moving rows from or to engine {name}")))
}

/// What the data plane needs to connect.
pub fn connection(endpoint: &Resource) -> Connection {
    let spec = &endpoint.spec;
    let text = |member: &str| spec[member].as_str().unwrap_or_default().to_owned();
    let settings_member = catalog::endpoint_type(&text("EngineName")).map(|engine| engine.settings);
    let mut settings = match settings_member.and_then(|member| spec[member].as_object()) {
        Some(settings) => settings.clone(),
        None => Map::new(),
    };
    for (name, value) in extra_attributes(spec["ExtraConnectionAttributes"].as_str().unwrap_or_default()) {
        settings.insert(name, value.into());
    }
    Connection {
        server: text("ServerName"),
        port: spec["Port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or_default(),
        user: text("Username"),
        password: Secret::new(text("Password")),
        database: text("DatabaseName"),
        ssl_mode: match spec["SslMode"].as_str() {
            Some("require") => SslMode::Require,
            Some("verify-ca") => SslMode::VerifyCa,
            Some("verify-full") => SslMode::VerifyFull,
            _ => SslMode::None,
        },
        ca_pem: None,
        settings,
    }
}

/// `name=value;name=value` with names as in the settings object: `maxFileSize` is `MaxFileSize`.
fn extra_attributes(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(';').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| {
            let name = name.trim();
            let mut letters = name.chars();
            let first = letters.next().map(|first| first.to_ascii_uppercase());
            (first.into_iter().chain(letters).collect(), value.trim().to_owned())
        })
        .filter(|(name, _): &(String, String)| !name.is_empty())
        .collect()
}

/// The merged inputs of an endpoint, login members at the top level.
struct Spec(Map<String, Json>);

impl Spec {
    fn create(engine: &EndpointType, end: &str, input: Map<String, Json>) -> Result<Spec, Fault> {
        check_end(engine, end)?;
        let given = |member: &str| input.get(member).is_some_and(|value| !is_blank(value));
        let settings = input.get(engine.settings).and_then(Json::as_object);
        if is_relational(engine) {
            // Where the database is may be said in one place, or in full in both, not half here and half there.
            let members = ["ServerName", "Port", "Username", "Password"];
            let in_settings = settings.is_some_and(|settings| members.iter().any(|m| settings.contains_key(*m)));
            if in_settings && members.into_iter().any(given) && !members.into_iter().all(given) {
                return Err(mixed(engine));
            }
        } else {
            check_settings_only(engine, &input)?;
        }
        let mut spec = Spec(Map::new());
        spec.0.insert("EngineName".into(), engine.engine.into());
        spec.0.insert("EndpointType".into(), end.to_ascii_uppercase().into());
        spec.0.insert("SslMode".into(), "none".into());
        spec.take_over(engine, input, true)?;
        spec.check(engine)?;
        Ok(spec)
    }

    fn modify(engine: &EndpointType, current: &Resource, input: Map<String, Json>, exact: bool) -> Result<Spec, Fault> {
        let mut spec = Spec(current.spec.as_object().cloned().unwrap_or_default());
        let end = input.get("EndpointType").or(spec.0.get("EndpointType")).and_then(Json::as_str).unwrap_or_default();
        let end = end.to_ascii_lowercase();
        check_end(engine, &end)?;
        if spec.0.get("EngineName").and_then(Json::as_str) != Some(engine.engine) {
            spec.0.retain(|member, _| !member.ends_with("Settings"));
        }
        spec.0.insert("EngineName".into(), engine.engine.into());
        spec.0.insert("EndpointType".into(), end.to_ascii_uppercase().into());
        spec.take_over(engine, input, exact)?;
        spec.check(engine)?;
        Ok(spec)
    }

    /// Lays an input over the spec. Settings members are merged one by one, or replaced as a whole.
    fn take_over(&mut self, engine: &EndpointType, input: Map<String, Json>, replace: bool) -> Result<(), Fault> {
        let top_level: Vec<&str> = LOGIN.into_iter().filter(|login| input.contains_key(*login)).collect();
        for (member, value) in input {
            match member.as_str() {
                "EndpointIdentifier" | "EndpointArn" | "EngineName" | "EndpointType" | "Tags" | "KmsKeyId"
                | "ResourceIdentifier" | "ExactSettings" => {}
                settings if settings == engine.settings => {
                    let Json::Object(mut members) = value else { continue };
                    if is_relational(engine) {
                        for login in LOGIN {
                            // The top level wins when both name it, as recorded against AWS.
                            if let Some(value) = members.remove(login)
                                && !top_level.contains(&login)
                            {
                                self.0.insert(login.into(), value);
                            }
                        }
                    }
                    match self.0.get_mut(settings) {
                        Some(Json::Object(present)) if !replace => present.extend(members),
                        _ => {
                            self.0.insert(settings.into(), Json::Object(members));
                        }
                    }
                }
                // Settings of other engines are passed over, as recorded against AWS.
                other if other.ends_with("Settings") => {}
                // An empty list of attributes takes all of them back.
                "ExtraConnectionAttributes" if is_blank(&value) => {
                    self.0.remove(&member);
                }
                _ => {
                    self.0.insert(member, value);
                }
            }
        }
        Ok(())
    }

    fn check(&self, engine: &EndpointType) -> Result<(), Fault> {
        if let Some(port) = self.0.get("Port").and_then(Json::as_i64)
            && !(1..=65535).contains(&port)
        {
            return Err(Fault::invalid_parameter_value(format!(
                "Invalid value {port} for Port. Must be between 1 and 65535"
            )));
        }
        if let Some(certificate) = self.0.get("CertificateArn").and_then(Json::as_str) {
            return Err(match certificate.contains(":dms:") && certificate.contains(":cert:") {
                true => Fault::resource_not_found(format!("Certificate {certificate} not found")),
                false => Fault::invalid_parameter_value(format!("Invalid certificate ARN {certificate}")),
            });
        }
        let settings = self.0.get(engine.settings).and_then(Json::as_object);
        let in_settings = |member: &str| settings.is_some_and(|settings| settings.contains_key(member));
        let secret = in_settings("SecretsManagerSecretId");
        if secret != in_settings("SecretsManagerAccessRoleArn") {
            return Err(missing(if secret { "SecretsManagerAccessRoleArn" } else { "SecretsManagerSecretId" }));
        }
        if secret && (self.0.contains_key("Password") || self.0.contains_key("Username")) {
            return Err(Fault::invalid_parameter_combination(
                "SecretsManagerSecretId cannot be used together with a user name or password",
            ));
        }
        let required: &[&str] = match engine.settings {
            _ if secret => &[],
            "MySQLSettings" | "GcpMySQLSettings" => &["Username", "Password", "ServerName", "Port"],
            "PostgreSQLSettings" => &["Username", "Password", "ServerName", "Port", "DatabaseName"],
            // The others have default ports and logins without a password. What else AWS asks of them is not known.
            _ if is_relational(engine) => &["ServerName"],
            _ => &[],
        };
        for member in required {
            if self.0.get(*member).is_none_or(is_blank) {
                return Err(missing(member));
            }
        }
        let required_settings: &[&str] = match engine.engine {
            "kinesis" => &["StreamArn", "ServiceAccessRoleArn", "MessageFormat"],
            "s3" => &["ServiceAccessRoleArn", "BucketName"],
            "dynamodb" => &["ServiceAccessRoleArn"],
            _ => &[],
        };
        for member in required_settings {
            if settings.and_then(|settings| settings.get(*member)).is_none_or(is_blank) {
                return Err(missing(member));
            }
        }
        if engine.engine == "s3" {
            self.check_s3(settings)?;
        }
        Ok(())
    }

    /// The external table definition of a source is a JSON document, and there is no TLS mode to choose.
    fn check_s3(&self, settings: Option<&Map<String, Json>>) -> Result<(), Fault> {
        if self.0.get("SslMode").and_then(Json::as_str).is_some_and(|mode| mode != "none") {
            return Err(Fault::invalid_parameter_combination("SslMode cannot be used with engine s3"));
        }
        let definition = settings.and_then(|settings| settings.get("ExternalTableDefinition")).and_then(Json::as_str);
        match definition.map(serde_json::from_str::<Json>) {
            Some(Err(_)) => Err(Fault::invalid_parameter_combination(
                "The ExternalTableDefinition of S3Settings must be a JSON document",
            )),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    fn is_login(&self) -> bool {
        self.0.contains_key("Username")
    }

    /// The wire shape: members that inputs and outputs share, without secrets, the login repeated in the settings.
    fn body(&self, engine: &EndpointType) -> Map<String, Json> {
        let mut body: Map<String, Json> = self
            .0
            .iter()
            .filter(|(member, _)| has_member("Endpoint", member))
            .map(|(member, value)| (member.clone(), value.clone()))
            .collect();
        body.insert("EngineDisplayName".into(), engine.display_name.into());
        if is_relational(engine) {
            let settings = body.entry(engine.settings).or_insert_with(|| json!({}));
            for login in LOGIN {
                if let Some(value) = self.0.get(login) {
                    settings[login] = value.clone();
                }
            }
        }
        let sensitive = |shape: &str, members: &mut Map<String, Json>| {
            members.retain(|member, _| !is_sensitive(shape, member));
        };
        sensitive("Endpoint", &mut body);
        if let Some(Json::String(attributes)) = body.get_mut("ExtraConnectionAttributes") {
            *attributes = without_secrets(attributes);
        }
        if let Some(Json::Object(settings)) = body.get_mut(engine.settings) {
            sensitive(engine.settings, settings);
        }
        body
    }
}

fn has_member(shape: &str, member: &str) -> bool {
    model().find(shape).is_some_and(|shape| model().shape(shape).member(member).is_some())
}

fn is_sensitive(shape: &str, member: &str) -> bool {
    let member = model().find(shape).and_then(|shape| model().shape(shape).member(member));
    member.is_some_and(|member| model().shape(member.target).sensitive)
}

fn as_map(request: &impl serde::Serialize) -> Map<String, Json> {
    match serde_json::to_value(request) {
        Ok(Json::Object(map)) => map,
        // A request is a structure: it always serialises to an object.
        _ => Map::new(),
    }
}

fn checked_engine(name: &str) -> Result<&'static EndpointType, Fault> {
    catalog::endpoint_type(name).ok_or_else(|| Fault::invalid_parameter_value(format!("Invalid engine name: {name}")))
}

fn check_end(engine: &EndpointType, end: &str) -> Result<(), Fault> {
    let supported = match end {
        "source" => engine.source,
        _ => engine.target,
    };
    match supported {
        true => Ok(()),
        false => Err(Fault::invalid_parameter_value(format!(
            "Engine {} is not supported as a {end} endpoint",
            engine.engine
        ))),
    }
}

/// Enum members that AWS spells in one way only.
fn exact(parameter: &str, value: &str, allowed: &[&str]) -> Result<(), Fault> {
    match allowed.contains(&value) {
        true => Ok(()),
        false => Err(Fault::invalid_parameter_value(format!(
            "{parameter} {value} is invalid. Allowed values: {}",
            allowed.join(", ")
        ))),
    }
}

fn check_ssl_mode(mode: Option<&str>) -> Result<(), Fault> {
    mode.map_or(Ok(()), |mode| exact("SslMode", mode, &["none", "require", "verify-ca", "verify-full"]))
}

/// Extra attributes as they may be shown: without those that are passwords.
fn without_secrets(attributes: &str) -> String {
    let shown = |pair: &&str| !pair.split('=').next().unwrap_or_default().to_ascii_lowercase().contains("password");
    attributes.split(';').filter(shown).collect::<Vec<_>>().join(";")
}

/// Engines that are not databases with a login take no top-level login members.
fn check_settings_only(engine: &EndpointType, input: &Map<String, Json>) -> Result<(), Fault> {
    if let Some(member) = LOGIN.iter().find(|member| input.contains_key(**member)) {
        return Err(Fault::invalid_parameter_combination(format!(
            "{member} cannot be used with engine {}: use {}",
            engine.engine, engine.settings
        )));
    }
    if engine.engine == "s3" && !input.contains_key(engine.settings) {
        return Err(Fault::invalid_parameter_combination("S3Settings must be provided for engine s3"));
    }
    Ok(())
}

/// Whether the engine is a database server with a host, a port and a login.
fn is_relational(engine: &EndpointType) -> bool {
    matches!(
        engine.settings,
        "MySQLSettings"
            | "GcpMySQLSettings"
            | "PostgreSQLSettings"
            | "OracleSettings"
            | "SybaseSettings"
            | "MicrosoftSQLServerSettings"
            | "IBMDb2Settings"
            | "MongoDbSettings"
            | "DocDbSettings"
            | "RedshiftSettings"
    )
}

fn is_blank(value: &Json) -> bool {
    value.is_null() || value.as_str().is_some_and(|text| text.trim().is_empty())
}

/// AWS names the parameter with a small first letter.
fn missing(member: &str) -> Fault {
    let mut letters = member.chars();
    let first = letters.next().map(|first| first.to_ascii_lowercase());
    let name: String = first.into_iter().chain(letters).collect();
    Fault::invalid_parameter_value(format!("The parameter {name} must be provided and must not be blank."))
}

fn mixed(engine: &EndpointType) -> Fault {
    Fault::invalid_parameter_combination(format!(
        "The connection of engine {} must be given either by top-level parameters or by {}, not partly by both",
        engine.engine, engine.settings
    ))
}

fn already_exists(identifier: &str, arn: &str) -> Fault {
    Fault::resource_already_exists(format!("ReplicationEndpoint \"{identifier}\" already in use"), arn)
}

fn not_found(arn: &str) -> Fault {
    Fault::resource_not_found(format!("Endpoint {arn} not found"))
}

fn answer(body: Json) -> String {
    json!({ "Endpoint": body }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_connection_attributes_become_settings() {
        let pairs = extra_attributes("maxFileSize=512; parallelLoadThreads = 4;initstmt=SET foreign_key_checks=0;;x");
        let expected = [("MaxFileSize", "512"), ("ParallelLoadThreads", "4"), ("Initstmt", "SET foreign_key_checks=0")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    fn spec(engine: &str, input: Json) -> Result<Spec, Fault> {
        Spec::create(checked_engine(engine).unwrap(), "source", input.as_object().cloned().unwrap())
    }

    /// Codes recorded against AWS for the members sent.
    #[test]
    fn create_accepts_and_refuses_the_combinations_that_aws_does() {
        let login = json!({"ServerName": "h", "Port": 3306, "Username": "u", "Password": "p"});
        let with = |mut base: Json, more: Json| {
            base.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
            base
        };
        let cases = [
            ("mysql", json!({"Password": "p"}), Some("InvalidParameterValueException")),
            ("mysql", json!({"Password": "p", "Username": "u"}), Some("InvalidParameterValueException")),
            (
                "mysql",
                json!({"Password": "p", "Username": "u", "ServerName": "h"}),
                Some("InvalidParameterValueException"),
            ),
            ("mysql", json!({"MySQLSettings": {"ServerName": "h"}}), Some("InvalidParameterValueException")),
            ("mysql", json!({"MySQLSettings": login, "Password": "p"}), Some("InvalidParameterCombinationException")),
            ("mysql", json!({"MySQLSettings": login, "DatabaseName": "d"}), None),
            ("mysql", with(login.clone(), json!({"MySQLSettings": login})), None),
            ("mysql", with(login.clone(), json!({"DatabaseName": "d"})), None),
            ("mysql", with(login.clone(), json!({"S3Settings": {}})), None),
            ("postgres", login.clone(), Some("InvalidParameterValueException")),
            ("postgres", with(login.clone(), json!({"DatabaseName": "d"})), None),
            ("oracle", json!({"Port": 1521, "Username": "u"}), Some("InvalidParameterValueException")),
            ("oracle", json!({"ServerName": "h"}), None),
            ("oracle", json!({"OracleSettings": {"ServerName": "h"}}), None),
            (
                "oracle",
                json!({"OracleSettings": {"SecretsManagerSecretId": "s", "SecretsManagerAccessRoleArn": "r"}}),
                None,
            ),
            ("s3", json!({}), Some("InvalidParameterCombinationException")),
            ("s3", json!({"Password": "p"}), Some("InvalidParameterCombinationException")),
            ("s3", json!({"S3Settings": {"ServiceAccessRoleArn": "r", "BucketName": "b"}}), None),
        ];
        for (engine, input, expected) in cases {
            let code = spec(engine, input.clone()).err().map(|fault| fault.code);
            assert_eq!(code, expected, "{engine} {input}");
        }
    }

    #[test]
    fn secrets_are_not_in_the_body_and_logins_are_in_both_places() {
        let engine = checked_engine("postgres").unwrap();
        let input = json!({"ServerName": "h", "Port": 5432, "Username": "u", "Password": "secret", "DatabaseName": "d",
            "PostgreSQLSettings": {"ExecuteTimeout": 5}});
        let spec = spec("postgres", input).unwrap();
        assert_eq!(spec.0["Password"], "secret");
        let body = Json::Object(spec.body(engine));
        assert!(!body.to_string().contains("secret"), "{body}");
        let settings =
            json!({"ExecuteTimeout": 5, "ServerName": "h", "Port": 5432, "Username": "u", "DatabaseName": "d"});
        assert_eq!(body["PostgreSQLSettings"], settings);
        assert_eq!(body["ServerName"], "h");
    }
}
