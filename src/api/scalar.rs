//! Values of the API that are more than a Rust string or number.

use std::fmt;

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A value that the model marks as sensitive, such as a password: travels and is stored as it is, never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sensitive<T>(T);

impl<T> Sensitive<T> {
    pub fn new(value: T) -> Sensitive<T> {
        Sensitive(value)
    }

    pub fn expose(&self) -> &T {
        &self.0
    }

    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl From<&str> for Sensitive<String> {
    fn from(value: &str) -> Sensitive<String> {
        Sensitive(value.to_owned())
    }
}

impl<T> fmt::Debug for Sensitive<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sensitive(…)")
    }
}

/// Bytes, which travel as a base64 string. They are only ever certificates and wallets, so they are not printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Blob, D::Error> {
        let text = String::deserialize(deserializer)?;
        Blob::parse(&text).ok_or_else(|| serde::de::Error::custom("not base64"))
    }
}

impl Blob {
    pub(super) fn parse(text: &str) -> Option<Blob> {
        BASE64.decode(text.as_bytes()).ok().map(Blob)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sensitive_value_travels_but_is_not_printed() {
        let password: Sensitive<String> = serde_json::from_str("\"hunter2\"").unwrap();
        assert_eq!(password.expose(), "hunter2");
        assert_eq!(serde_json::to_string(&password).unwrap(), "\"hunter2\"");
        assert_eq!(format!("{:?}", Some(password)), "Some(Sensitive(…))");
    }

    #[test]
    fn a_blob_travels_as_base64() {
        let blob: Blob = serde_json::from_str("\"AP8=\"").unwrap();
        assert_eq!(blob.0, [0, 255]);
        assert_eq!(serde_json::to_string(&blob).unwrap(), "\"AP8=\"");
        assert_eq!(format!("{blob:?}"), "Blob(2 bytes)");
        assert!(serde_json::from_str::<Blob>("\"A\"").is_err());
    }
}
