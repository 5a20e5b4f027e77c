//! The API on the wire: its Smithy model, the types of its messages, validation against the model, and faults.
//!
//! A leaf: knows JSON and the model, nothing of HTTP, of resources or of how an operation is carried out.
//! `shapes` and `operation` are generated from the model in `smithy-models/` by the test in `codegen`.

#[cfg(test)]
mod codegen;
mod fault;
pub mod model;
mod operation;
#[cfg(test)]
pub(crate) mod probe;
mod scalar;
pub mod shapes;
mod timestamp;
mod validate;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use fault::Fault;
pub use model::model;
pub use operation::Operation;
pub use scalar::{Blob, Sensitive};
pub use timestamp::Timestamp;
pub use validate::{validate_input, validate_output};

impl Operation {
    /// Whether the operation only looks: nothing is changed by it, and clients call it over and over while they wait.
    pub fn is_read_only(self) -> bool {
        ["Describe", "List", "Get"].iter().any(|verb| self.name().starts_with(verb))
    }
}

/// A request of the operation's input type, from a body that [`validate_input`] has passed.
pub fn decode<T: DeserializeOwned>(body: Value) -> Result<T, Fault> {
    // Without serde's own words: they repeat the value, which may be a password.
    serde_json::from_value(body)
        .map_err(|_| Fault::serialization("The request body does not have the form of the operation's input."))
}

/// The body of a response.
pub fn encode<T: Serialize>(response: &T) -> Result<String, Fault> {
    serde_json::to_string(response).map_err(|error| Fault::internal(format_args!("encode the response: {error}")))
}

#[cfg(test)]
mod tests {
    use super::probe::Extent;
    use super::*;

    #[test]
    fn every_message_survives_its_rust_type() {
        for operation in Operation::ALL {
            let shapes = model().operation(operation);
            for message in shapes.input.into_iter().chain(shapes.output) {
                for extent in [Extent::Required, Extent::All] {
                    for sample in probe::samples(message, extent) {
                        let name = model().shape(message).name;
                        let again = shapes::round_trip(name, sample.clone()).unwrap();
                        assert_eq!(again, sample, "{name}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_null_member_is_an_absent_one() {
        let body = serde_json::json!({ "MaxRecords": null, "Filters": [{ "Name": "n", "Values": [] }], "New": 1 });
        let request: shapes::DescribeEndpointsMessage = decode(body).unwrap();
        assert_eq!(request.max_records, None);
        assert_eq!(encode(&request).unwrap(), r#"{"Filters":[{"Name":"n","Values":[]}]}"#);
    }

    #[test]
    fn a_body_of_the_wrong_form_is_refused_without_repeating_it() {
        let body = serde_json::json!({ "Port": "hunter2" });
        let fault = decode::<shapes::CreateEndpointMessage>(body).unwrap_err();
        assert_eq!(fault.code, "SerializationException");
        assert!(!fault.message.contains("hunter2"));
    }

    #[test]
    fn passwords_do_not_show_in_debug_output() {
        let body = serde_json::json!({ "Password": "hunter2", "MySQLSettings": { "Password": "hunter2" } });
        let request: shapes::CreateEndpointMessage = decode(body).unwrap();
        assert!(!format!("{request:?}").contains("hunter2"));
        assert!(encode(&request).unwrap().contains("hunter2"));
    }
}
