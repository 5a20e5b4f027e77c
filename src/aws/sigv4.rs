//! Signature Version 4 as a server sees it: whose request it is, and for which region. Signatures are not checked.
//!
//! <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-authentication-methods.html>

/// Whose resources a request is about: resources are kept per account and region.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// 12 digits.
    pub account: String,
    pub region: String,
}

/// The scope of a credential, without its date: `KEY/20260102/us-east-1/dms/aws4_request`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credential<'a> {
    pub access_key_id: &'a str,
    /// `None` for a signature that holds in every region (SigV4A).
    pub region: Option<&'a str>,
    pub service: &'a str,
}

impl Scope {
    /// The scope of a request: the region it was signed for, and the account that the access key id names when it is
    /// 12 digits. Whatever cannot be had from the request comes from `default`: a request without a signature, or with
    /// a garbled one, is as good as any other here.
    ///
    /// `authorization` is the value of the header of that name, `query` that of the URL as it came.
    pub fn of_request(authorization: Option<&str>, query: Option<&str>, default: &Scope) -> Scope {
        let presigned = query.and_then(presigned_credential);
        let credential = authorization.and_then(header_credential).or(presigned.as_deref()).and_then(Credential::parse);
        let Some(credential) = credential else { return default.clone() };
        let account = if is_account(credential.access_key_id) { credential.access_key_id } else { &default.account };
        let region = credential.region.filter(|region| is_region(region)).unwrap_or(&default.region);
        Scope { account: account.to_owned(), region: region.to_owned() }
    }
}

impl<'a> Credential<'a> {
    pub fn parse(text: &'a str) -> Option<Credential<'a>> {
        // From the right: an access key id may hold slashes, the rest may not.
        let rest = text.trim().strip_suffix("/aws4_request")?;
        let (rest, service) = rest.rsplit_once('/')?;
        let (rest, last) = rest.rsplit_once('/')?;
        let (access_key_id, region) = if is_date(last) {
            (rest, None)
        } else {
            let (access_key_id, date) = rest.rsplit_once('/')?;
            is_date(date).then_some((access_key_id, Some(last)))?
        };
        (!access_key_id.is_empty()).then_some(Credential { access_key_id, region, service })
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`
fn header_credential(authorization: &str) -> Option<&str> {
    let (algorithm, fields) = authorization.trim().split_once(' ')?;
    if !algorithm.starts_with("AWS4-") {
        return None;
    }
    fields.split(',').find_map(|field| field.trim().strip_prefix("Credential="))
}

fn presigned_credential(query: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Credential="))?;
    Some(value.replace("%2F", "/").replace("%2f", "/"))
}

pub fn is_account(text: &str) -> bool {
    text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Any name that can be part of an ARN and of a host: new regions come up every year.
pub fn is_region(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.starts_with(|letter: char| letter.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(authorization: Option<&str>, query: Option<&str>) -> (String, String) {
        let default = Scope { account: "123456789012".to_owned(), region: "us-east-1".to_owned() };
        let scope = Scope::of_request(authorization, query, &default);
        (scope.account, scope.region)
    }

    fn pair(account: &str, region: &str) -> (String, String) {
        (account.to_owned(), region.to_owned())
    }

    #[test]
    fn account_and_region_come_from_the_signature() {
        let header = "AWS4-HMAC-SHA256 Credential=000000000042/20260102/eu-west-3/dms/aws4_request, \
                      SignedHeaders=content-type;host;x-amz-date;x-amz-target, Signature=0f";
        assert_eq!(scope(Some(header), None), pair("000000000042", "eu-west-3"));
        let unspaced = header.replace(", ", ",");
        assert_eq!(scope(Some(&unspaced), None), pair("000000000042", "eu-west-3"));
    }

    #[test]
    fn an_ordinary_access_key_belongs_to_the_configured_account() {
        for key in ["AKIAIOSFODNN7EXAMPLE", "test", "1234", "a/b", "1234567890123"] {
            let header = format!("AWS4-HMAC-SHA256 Credential={key}/20260102/ap-south-2/dms/aws4_request, Signature=0");
            assert_eq!(scope(Some(&header), None), pair("123456789012", "ap-south-2"), "{key}");
        }
    }

    #[test]
    fn a_presigned_request_carries_it_in_the_query() {
        let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=000000000042%2F20260102%2fus-west-2%2Fdms%2Faws4_request";
        assert_eq!(scope(None, Some(query)), pair("000000000042", "us-west-2"));
    }

    #[test]
    fn a_signature_for_every_region_leaves_the_region_configured() {
        let header = "AWS4-ECDSA-P256-SHA256 Credential=000000000042/20260102/dms/aws4_request, Signature=0f";
        assert_eq!(scope(Some(header), None), pair("000000000042", "us-east-1"));
    }

    #[test]
    fn whatever_is_garbled_or_absent_is_as_configured() {
        for header in [
            "",
            "Basic dXNlcjpwYXNz",
            "AWS4-HMAC-SHA256",
            "AWS4-HMAC-SHA256 Credential=",
            "AWS4-HMAC-SHA256 Credential=/////",
            "AWS4-HMAC-SHA256 Credential=aws4_request",
            "AWS4-HMAC-SHA256 Credential=/20260102/eu-west-3/dms/aws4_request",
            "AWS4-HMAC-SHA256 Credential=k/2026/eu-west-3/dms/aws4_request",
            "AWS4-HMAC-SHA256 Credential=k/20260102/eu west/dms/aws4_request",
            "AWS4-HMAC-SHA256 Credential=k/20260102/../dms/aws4_request",
            "AWS4-HMAC-SHA256 Credential=k/20260102//dms/aws4_request",
            "AWS4-HMAC-SHA256 Credential=ü/20260102/dms/aws4_request,",
        ] {
            assert_eq!(scope(Some(header), None), pair("123456789012", "us-east-1"), "{header}");
        }
        assert_eq!(scope(None, Some("X-Amz-Credential=%2F%2F")), pair("123456789012", "us-east-1"));
        assert_eq!(scope(None, None), pair("123456789012", "us-east-1"));
    }

    #[test]
    fn a_region_is_what_can_be_part_of_an_arn() {
        for good in ["us-east-1", "us-gov-west-1", "cn-north-1", "local", "x"] {
            assert!(is_region(good), "{good}");
        }
        for bad in ["", "-a", "US-EAST-1", "us_east", "us:east", "1us", &"a".repeat(33)] {
            assert!(!is_region(bad), "{bad}");
        }
    }
}
