//! The one error of the wire: an AWS error code with its HTTP status and message.

use std::fmt;

use serde::Serialize;

use super::Operation;
use super::model::model;

/// What a request is answered with when it is not carried out. Made only by the constructors below, so that every
/// code has its right status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The short code, as SDKs show it: `ResourceNotFoundFault`.
    pub code: &'static str,
    /// HTTP status.
    pub status: u16,
    /// For the caller. Never holds a password or a row value.
    pub message: String,
    /// Of the resource that exists already; only `ResourceAlreadyExistsFault` has it.
    pub resource_arn: Option<String>,
    /// For the log only: what really went wrong in an [`Fault::internal`].
    detail: Option<String>,
}

/// Codes that the service answers although its model does not list them.
/// <https://docs.aws.amazon.com/dms/latest/APIReference/CommonErrors.html>
const UNMODELLED: &[&str] = &[
    "InternalFailure",
    "InvalidParameterCombinationException",
    "InvalidParameterValueException",
    "MalformedHttpRequestException",
    "NotImplementedException",
    "RequestEntityTooLargeException",
    "RequestTimeoutException",
    "SerializationException",
    "ServiceUnavailable",
    "UnknownOperationException",
];

impl Fault {
    fn new(code: &'static str, status: u16, message: impl Into<String>) -> Fault {
        Fault { code, status, message: message.into(), resource_arn: None, detail: None }
    }

    /// JSON as awsJson 1.1 has it: `{"__type":"ResourceNotFoundFault","message":"…"}`.
    pub fn body(&self) -> String {
        #[derive(Serialize)]
        struct Body<'a> {
            #[serde(rename = "__type")]
            code: &'a str,
            message: &'a str,
            #[serde(rename = "resourceArn", skip_serializing_if = "Option::is_none")]
            resource_arn: Option<&'a str>,
        }
        let body = Body { code: self.code, message: &self.message, resource_arn: self.resource_arn.as_deref() };
        serde_json::to_string(&body).expect("strings are always JSON")
    }

    /// For the log, never for the caller.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// Whether the operation may answer this fault: the model lists it there, or it is one of those that every
    /// operation may answer. Says what is wrong otherwise.
    pub fn check(&self, operation: Operation) -> Result<(), String> {
        let listed = || model().operation(operation).faults.iter().any(|fault| model().shape(*fault).name == self.code);
        if UNMODELLED.contains(&self.code) || listed() {
            Ok(())
        } else {
            Err(format!("{} answers {}, which the model does not list there", operation.name(), self.code))
        }
    }
}

/// Faults that every operation may answer.
impl Fault {
    /// A bad value, filter, identifier, ARN or document, or a value that is missing.
    pub fn invalid_parameter_value(message: impl Into<String>) -> Fault {
        Fault::new("InvalidParameterValueException", 400, message)
    }

    /// Parameters that exclude each other, or nothing to modify.
    pub fn invalid_parameter_combination(message: impl Into<String>) -> Fault {
        Fault::new("InvalidParameterCombinationException", 400, message)
    }

    /// The operation is one of DMS's, but not carried out by this version of dms-local.
    pub fn not_implemented(operation: Operation) -> Fault {
        let message = format!("{} is not implemented by dms-local yet.", operation.name());
        Fault::new("NotImplementedException", 501, message)
    }

    /// A part of an operation that is carried out otherwise; `what` begins the sentence: `MigrationType cdc`.
    pub fn not_implemented_part(what: impl fmt::Display) -> Fault {
        Fault::new("NotImplementedException", 501, format!("{what} is not implemented by dms-local yet."))
    }

    /// Something went wrong that is not the caller's doing. `detail` goes to the log, the caller learns nothing of it.
    pub fn internal(detail: impl fmt::Display) -> Fault {
        let message = "The request processing has failed because of an unknown error, exception or failure.";
        Fault { detail: Some(detail.to_string()), ..Fault::new("InternalFailure", 500, message) }
    }

    /// The body is not JSON, or a value has the wrong JSON type.
    pub fn serialization(message: impl Into<String>) -> Fault {
        Fault::new("SerializationException", 400, message)
    }

    /// `X-Amz-Target` names no operation. The list of common errors says HTTP 404, but that list is the same for every
    /// service, and services of this protocol are known to answer 400; not observed for DMS.
    pub fn unknown_operation(message: impl Into<String>) -> Fault {
        Fault::new("UnknownOperationException", 400, message)
    }

    /// No such path.
    pub fn unknown_path() -> Fault {
        Fault::new("UnknownOperationException", 404, "There is nothing at this path.")
    }

    pub fn method_not_allowed(allowed: &str) -> Fault {
        Fault::new("MalformedHttpRequestException", 405, format!("This path only takes {allowed}."))
    }

    pub fn malformed_request(message: impl Into<String>) -> Fault {
        Fault::new("MalformedHttpRequestException", 400, message)
    }

    pub fn request_too_large(bytes_max: usize) -> Fault {
        let message = format!("The request body is larger than {bytes_max} bytes.");
        Fault::new("RequestEntityTooLargeException", 413, message)
    }

    pub fn request_timeout() -> Fault {
        Fault::new("RequestTimeoutException", 408, "The request body did not arrive in time.")
    }

    /// Too much at once, or stopping: the caller may try again, as every SDK does.
    pub fn service_unavailable(message: impl Into<String>) -> Fault {
        Fault::new("ServiceUnavailable", 503, message)
    }
}

/// Faults of the model, which lists for every operation those it may answer.
impl Fault {
    /// A role or permission is missing.
    pub fn access_denied(message: impl Into<String>) -> Fault {
        Fault::new("AccessDeniedFault", 400, message)
    }

    /// There is no such Fleet Advisor collector.
    pub fn collector_not_found(message: impl Into<String>) -> Fault {
        Fault::new("CollectorNotFoundFault", 400, message)
    }

    /// Something the resource depends on could not be made or is missing.
    pub fn failed_dependency(message: impl Into<String>) -> Fault {
        Fault::new("FailedDependencyFault", 400, message)
    }

    /// There is no room for what was asked for.
    pub fn insufficient_resource_capacity(message: impl Into<String>) -> Fault {
        Fault::new("InsufficientResourceCapacityFault", 400, message)
    }

    /// The certificate cannot be read.
    pub fn invalid_certificate(message: impl Into<String>) -> Fault {
        Fault::new("InvalidCertificateFault", 400, message)
    }

    /// The action is not possible.
    pub fn invalid_operation(message: impl Into<String>) -> Fault {
        Fault::new("InvalidOperationFault", 400, message)
    }

    /// The resource's status does not allow this.
    pub fn invalid_resource_state(message: impl Into<String>) -> Fault {
        Fault::new("InvalidResourceStateFault", 400, message)
    }

    /// The subnet cannot be used.
    pub fn invalid_subnet(message: impl Into<String>) -> Fault {
        Fault::new("InvalidSubnet", 400, message)
    }

    /// The role may not use the key.
    pub fn kms_access_denied(message: impl Into<String>) -> Fault {
        Fault::new("KMSAccessDeniedFault", 400, message)
    }

    /// The key is disabled.
    pub fn kms_disabled(message: impl Into<String>) -> Fault {
        Fault::new("KMSDisabledFault", 400, message)
    }

    /// The key cannot be used.
    pub fn kms(message: impl Into<String>) -> Fault {
        Fault::new("KMSFault", 400, message)
    }

    /// The key's state does not allow its use.
    pub fn kms_invalid_state(message: impl Into<String>) -> Fault {
        Fault::new("KMSInvalidStateFault", 400, message)
    }

    /// The key cannot be reached.
    pub fn kms_key_not_accessible(message: impl Into<String>) -> Fault {
        Fault::new("KMSKeyNotAccessibleFault", 400, message)
    }

    /// There is no such key.
    pub fn kms_not_found(message: impl Into<String>) -> Fault {
        Fault::new("KMSNotFoundFault", 400, message)
    }

    /// The key service asks to slow down.
    pub fn kms_throttling(message: impl Into<String>) -> Fault {
        Fault::new("KMSThrottlingFault", 400, message)
    }

    /// The subnets lie in fewer than two availability zones.
    pub fn subnet_group_does_not_cover_enough_azs(message: impl Into<String>) -> Fault {
        Fault::new("ReplicationSubnetGroupDoesNotCoverEnoughAZs", 400, message)
    }

    /// There is a resource of that identifier; `arn` is its own.
    pub fn resource_already_exists(message: impl Into<String>, arn: impl Into<String>) -> Fault {
        Fault { resource_arn: Some(arn.into()), ..Fault::new("ResourceAlreadyExistsFault", 400, message) }
    }

    /// There is no such resource, or no resource that matches.
    pub fn resource_not_found(message: impl Into<String>) -> Fault {
        Fault::new("ResourceNotFoundFault", 400, message)
    }

    /// The account has as many of these as it may have.
    pub fn resource_quota_exceeded(message: impl Into<String>) -> Fault {
        Fault::new("ResourceQuotaExceededFault", 400, message)
    }

    /// The bucket may not be used.
    pub fn s3_access_denied(message: impl Into<String>) -> Fault {
        Fault::new("S3AccessDeniedFault", 400, message)
    }

    /// There is no such bucket or object.
    pub fn s3_resource_not_found(message: impl Into<String>) -> Fault {
        Fault::new("S3ResourceNotFoundFault", 400, message)
    }

    /// The topic cannot be used.
    pub fn sns_invalid_topic(message: impl Into<String>) -> Fault {
        Fault::new("SNSInvalidTopicFault", 400, message)
    }

    /// The topic may not be published to.
    pub fn sns_no_authorization(message: impl Into<String>) -> Fault {
        Fault::new("SNSNoAuthorizationFault", 400, message)
    }

    /// The account has as much storage as it may have.
    pub fn storage_quota_exceeded(message: impl Into<String>) -> Fault {
        Fault::new("StorageQuotaExceededFault", 400, message)
    }

    /// The subnet belongs to another group already.
    pub fn subnet_already_in_use(message: impl Into<String>) -> Fault {
        Fault::new("SubnetAlreadyInUse", 400, message)
    }

    /// An upgrade depends on something that is missing.
    pub fn upgrade_dependency_failure(message: impl Into<String>) -> Fault {
        Fault::new("UpgradeDependencyFailureFault", 400, message)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl std::error::Error for Fault {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn modelled() -> Vec<Fault> {
        vec![
            Fault::access_denied("m"),
            Fault::collector_not_found("m"),
            Fault::failed_dependency("m"),
            Fault::insufficient_resource_capacity("m"),
            Fault::invalid_certificate("m"),
            Fault::invalid_operation("m"),
            Fault::invalid_resource_state("m"),
            Fault::invalid_subnet("m"),
            Fault::kms_access_denied("m"),
            Fault::kms_disabled("m"),
            Fault::kms("m"),
            Fault::kms_invalid_state("m"),
            Fault::kms_key_not_accessible("m"),
            Fault::kms_not_found("m"),
            Fault::kms_throttling("m"),
            Fault::subnet_group_does_not_cover_enough_azs("m"),
            Fault::resource_already_exists("m", "arn"),
            Fault::resource_not_found("m"),
            Fault::resource_quota_exceeded("m"),
            Fault::s3_access_denied("m"),
            Fault::s3_resource_not_found("m"),
            Fault::sns_invalid_topic("m"),
            Fault::sns_no_authorization("m"),
            Fault::storage_quota_exceeded("m"),
            Fault::subnet_already_in_use("m"),
            Fault::upgrade_dependency_failure("m"),
        ]
    }

    #[test]
    fn there_is_a_constructor_for_every_fault_of_the_model_and_no_other() {
        let made: BTreeSet<(&str, u16)> = modelled().iter().map(|fault| (fault.code, fault.status)).collect();
        let in_model: BTreeSet<(&str, u16)> =
            model().shapes().filter_map(|(_, shape)| Some((shape.name, shape.fault_status?))).collect();
        assert_eq!(made, in_model);
        assert!(UNMODELLED.iter().all(|code| model().find(code).is_none()));
    }

    #[test]
    fn has_only_members_of_the_model_in_its_body() {
        for fault in modelled() {
            let shape = model().shape(model().find(fault.code).unwrap());
            let body: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&fault.body()).unwrap();
            assert_eq!(body["__type"], fault.code);
            for name in body.keys().filter(|name| *name != "__type") {
                assert!(shape.member(name).is_some(), "{} has no {name}", fault.code);
            }
        }
    }

    #[test]
    fn body_has_short_code_and_message_in_lower_case() {
        let fault = Fault::resource_not_found("No \"Endpoints\" found");
        assert_eq!(fault.body(), r#"{"__type":"ResourceNotFoundFault","message":"No \"Endpoints\" found"}"#);
        let fault = Fault::resource_already_exists("m", "arn:aws:dms:…");
        assert_eq!(
            fault.body(),
            r#"{"__type":"ResourceAlreadyExistsFault","message":"m","resourceArn":"arn:aws:dms:…"}"#
        );
    }

    #[test]
    fn an_internal_failure_keeps_its_detail_from_the_caller() {
        let fault = Fault::internal("disk full at /var/lib");
        assert_eq!(fault.detail(), Some("disk full at /var/lib"));
        assert!(!fault.body().contains("disk") && !fault.to_string().contains("disk"));
        assert_eq!(fault.status, 500);
    }

    #[test]
    fn knows_which_operation_may_answer_it() {
        assert!(Fault::resource_not_found("").check(Operation::DescribeEndpoints).is_ok());
        assert!(Fault::invalid_parameter_value("").check(Operation::DescribeEndpoints).is_ok());
        assert!(Fault::s3_access_denied("").check(Operation::DescribeEndpoints).is_err());
    }

    #[test]
    fn names_the_operation_that_is_not_implemented() {
        let fault = Fault::not_implemented(Operation::CreateDataMigration);
        assert_eq!((fault.code, fault.status), ("NotImplementedException", 501));
        assert!(fault.message.contains("CreateDataMigration"));
    }
}
