//! The Smithy model of the API, embedded and parsed once into what validation and code generation look up.

use std::fmt;
use std::marker::PhantomData;
use std::sync::LazyLock;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use super::Operation;

static TEXT: &str = include_str!("../../smithy-models/database-migration-service.json");

static MODEL: LazyLock<Model> = LazyLock::new(|| Model::parse(TEXT));

/// The model of the DMS API. The first call parses it, which takes a few milliseconds.
pub fn model() -> &'static Model {
    &MODEL
}

/// All shapes but the service and its operations, sorted by name; and the operations in the order of [`Operation`].
pub struct Model {
    shapes: Vec<Shape>,
    operations: Vec<OperationShapes>,
}

/// Where a shape is in its model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShapeId(u16);

/// A type of the API.
pub struct Shape {
    pub name: &'static str,
    pub kind: Kind,
    /// Must not be shown: passwords and the like.
    pub sensitive: bool,
    /// Of a string in characters, of a list or map in elements.
    pub length: Option<Bounds<u64>>,
    /// Of a number.
    pub range: Option<Bounds<f64>>,
    /// The HTTP status of a shape that is a fault.
    pub fault_status: Option<u16>,
}

pub enum Kind {
    Structure(Vec<Member>),
    /// A structure with exactly one of its members.
    Union(Vec<Member>),
    List(ShapeId),
    Map {
        key: ShapeId,
        value: ShapeId,
    },
    /// A string with its values in the model's spelling.
    Enum(Vec<&'static str>),
    String,
    Boolean,
    /// 32 bits.
    Integer,
    /// 64 bits.
    Long,
    Double,
    Timestamp(TimestampFormat),
    Blob,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum TimestampFormat {
    /// A JSON number of seconds since 1970 with milliseconds.
    #[default]
    #[serde(rename = "epoch-seconds")]
    EpochSeconds,
    /// A string as in ISO 8601.
    #[serde(rename = "date-time")]
    Iso8601,
}

/// Inclusive bounds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Bounds<T> {
    pub min: Option<T>,
    pub max: Option<T>,
}

pub struct Member {
    pub name: &'static str,
    pub target: ShapeId,
    pub required: bool,
}

pub struct OperationShapes {
    pub name: &'static str,
    /// `None` when the operation has no input at all.
    pub input: Option<ShapeId>,
    pub output: Option<ShapeId>,
    /// The faults that the model lists for the operation.
    pub faults: Vec<ShapeId>,
}

impl Model {
    pub fn operation(&self, operation: Operation) -> &OperationShapes {
        &self.operations[operation as usize]
    }

    pub fn operations(&self) -> &[OperationShapes] {
        &self.operations
    }

    pub fn shape(&self, id: ShapeId) -> &Shape {
        &self.shapes[usize::from(id.0)]
    }

    /// The shape of that name, spelled exactly as in botocore.
    pub fn find(&self, name: &str) -> Option<ShapeId> {
        let index = self.shapes.binary_search_by(|shape| shape.name.cmp(name)).ok()?;
        Some(ShapeId(index as u16))
    }

    pub fn shapes(&self) -> impl Iterator<Item = (ShapeId, &Shape)> {
        self.shapes.iter().enumerate().map(|(index, shape)| (ShapeId(index as u16), shape))
    }

    /// Every panic in here says that the embedded file is not what `generate.py` writes; a test parses it.
    fn parse(text: &'static str) -> Model {
        let document: Document<'static> = serde_json::from_str(text).expect("the embedded model is a Smithy JSON AST");
        let mut raw: Vec<(&'static str, RawShape<'static>)> =
            document.shapes.0.into_iter().map(|(name, shape)| (relative(name), shape)).collect();
        raw.sort_by_key(|(name, _)| *name);
        let (operations, raw): (Vec<_>, Vec<_>) = raw
            .into_iter()
            .filter(|(_, shape)| shape.kind != "service")
            .partition(|(_, shape)| shape.kind == "operation");
        let names: Vec<&'static str> = raw.iter().map(|(name, _)| *name).collect();
        let resolve = |target: &'static str| -> ShapeId {
            let index = names.binary_search(&relative(target)).expect("targets of the model are in the model");
            ShapeId(index as u16)
        };
        let operations = operations.into_iter().map(|(name, shape)| shape.into_operation(name, &resolve)).collect();
        let shapes = raw.into_iter().map(|(name, shape)| shape.into_shape(name, &resolve)).collect();
        Model { shapes, operations }
    }
}

impl Shape {
    /// The members of a structure or union; none for other shapes.
    pub fn members(&self) -> &[Member] {
        match &self.kind {
            Kind::Structure(members) | Kind::Union(members) => members,
            _ => &[],
        }
    }

    pub fn member(&self, name: &str) -> Option<&Member> {
        self.members().iter().find(|member| member.name == name)
    }
}

const UNIT: &str = "smithy.api#Unit";

impl RawShape<'static> {
    fn into_operation(self, name: &'static str, resolve: &impl Fn(&'static str) -> ShapeId) -> OperationShapes {
        let message = |target: Option<Target<'static>>| {
            target.filter(|target| target.target != UNIT).map(|target| resolve(target.target))
        };
        OperationShapes {
            name,
            input: message(self.input),
            output: message(self.output),
            faults: self.errors.iter().map(|fault| resolve(fault.target)).collect(),
        }
    }

    fn into_shape(self, name: &'static str, resolve: &impl Fn(&'static str) -> ShapeId) -> Shape {
        let only =
            |target: Option<Target<'static>>| resolve(target.expect("lists and maps of the model say of what").target);
        let kind = match self.kind {
            "structure" => Kind::Structure(self.members.into_members(resolve)),
            "union" => Kind::Union(self.members.into_members(resolve)),
            "list" => Kind::List(only(self.member)),
            "map" => Kind::Map { key: only(self.key), value: only(self.value) },
            "enum" => {
                Kind::Enum(self.members.0.into_iter().filter_map(|(_, member)| member.traits.enum_value).collect())
            }
            "string" => Kind::String,
            "boolean" => Kind::Boolean,
            "integer" => Kind::Integer,
            "long" => Kind::Long,
            "double" => Kind::Double,
            "timestamp" => Kind::Timestamp(self.traits.timestamp_format.unwrap_or_default()),
            "blob" => Kind::Blob,
            other => unreachable!("the model has a shape of type {other}"),
        };
        Shape {
            name,
            kind,
            sensitive: self.traits.sensitive.is_some(),
            length: self.traits.length,
            range: self.traits.range,
            fault_status: self.traits.fault_status,
        }
    }
}

impl Pairs<'static, RawMember<'static>> {
    fn into_members(self, resolve: &impl Fn(&'static str) -> ShapeId) -> Vec<Member> {
        let member = |(name, raw): (&'static str, RawMember<'static>)| Member {
            name,
            target: resolve(raw.target),
            required: raw.traits.required.is_some(),
        };
        self.0.into_iter().map(member).collect()
    }
}

fn relative(id: &'static str) -> &'static str {
    id.rsplit_once('#').map_or(id, |(_, name)| name)
}

#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    shapes: Pairs<'a, RawShape<'a>>,
}

#[derive(Deserialize)]
struct RawShape<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow, default)]
    members: Pairs<'a, RawMember<'a>>,
    #[serde(borrow)]
    member: Option<Target<'a>>,
    #[serde(borrow)]
    key: Option<Target<'a>>,
    #[serde(borrow)]
    value: Option<Target<'a>>,
    #[serde(borrow)]
    input: Option<Target<'a>>,
    #[serde(borrow)]
    output: Option<Target<'a>>,
    #[serde(borrow, default)]
    errors: Vec<Target<'a>>,
    #[serde(borrow, default)]
    traits: RawTraits<'a>,
}

#[derive(Deserialize)]
struct Target<'a> {
    target: &'a str,
}

#[derive(Deserialize)]
struct RawMember<'a> {
    target: &'a str,
    #[serde(borrow, default)]
    traits: RawTraits<'a>,
}

#[derive(Default, Deserialize)]
struct RawTraits<'a> {
    #[serde(rename = "smithy.api#required")]
    required: Option<IgnoredAny>,
    #[serde(rename = "smithy.api#sensitive")]
    sensitive: Option<IgnoredAny>,
    #[serde(rename = "smithy.api#length")]
    length: Option<Bounds<u64>>,
    #[serde(rename = "smithy.api#range")]
    range: Option<Bounds<f64>>,
    #[serde(rename = "smithy.api#enumValue")]
    enum_value: Option<&'a str>,
    #[serde(rename = "smithy.api#timestampFormat")]
    timestamp_format: Option<TimestampFormat>,
    #[serde(rename = "smithy.api#httpError")]
    fault_status: Option<u16>,
}

/// A JSON object in the order of its text.
struct Pairs<'a, T>(Vec<(&'a str, T)>);

impl<T> Default for Pairs<'_, T> {
    fn default() -> Self {
        Pairs(Vec::new())
    }
}

impl<'de: 'a, 'a, T: Deserialize<'de>> Deserialize<'de> for Pairs<'a, T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<'a, T>(PhantomData<Pairs<'a, T>>);

impl<'de: 'a, 'a, T: Deserialize<'de>> Visitor<'de> for PairsVisitor<'a, T> {
    type Value = Pairs<'a, T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Pairs(pairs))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    #[test]
    fn has_every_operation_and_shape_of_the_service() {
        assert_eq!(model().operations().len(), 119);
        assert_eq!(model().shapes().count(), 506);
        for (index, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, index);
            assert_eq!(model().operation(*operation).name, operation.name());
        }
    }

    #[test]
    fn knows_what_it_is_asked_about_a_shape() {
        let endpoint = model().shape(model().find("CreateEndpointMessage").unwrap());
        let member = endpoint.member("EndpointIdentifier").unwrap();
        assert!(member.required);
        assert!(matches!(model().shape(member.target).kind, Kind::String));
        let password = model().shape(endpoint.member("Password").unwrap().target);
        assert!(password.sensitive);
        let kind = &model().shape(endpoint.member("EndpointType").unwrap().target).kind;
        assert!(matches!(kind, Kind::Enum(values) if values == &["source", "target"]));
        let class = model().shape(model().find("ReplicationInstanceClass").unwrap());
        assert_eq!(class.length, Some(Bounds { min: None, max: Some(30) }));
        assert_eq!(model().shape(model().find("ResourceNotFoundFault").unwrap()).fault_status, Some(400));
        let created = model().shape(model().find("Iso8601DateTime").unwrap());
        assert!(matches!(created.kind, Kind::Timestamp(TimestampFormat::Iso8601)));
        assert_eq!(model().find("NoSuchShape"), None);
    }

    /// A trait that a newer model brings must be enforced or be put on this list knowingly.
    #[test]
    fn has_no_trait_that_nobody_looks_at() {
        let known = BTreeSet::from([
            "aws.api#service",
            "aws.auth#sigv4",
            "aws.protocols#awsJson1_1",
            // What a missing member of an answer means to a client; in requests it changes nothing.
            "smithy.api#default",
            "smithy.api#deprecated",
            "smithy.api#enumValue",
            "smithy.api#error",
            "smithy.api#httpError",
            "smithy.api#length",
            "smithy.api#paginated",
            "smithy.api#range",
            "smithy.api#required",
            "smithy.api#sensitive",
            "smithy.api#timestampFormat",
            "smithy.api#title",
            "smithy.waiters#waitable",
        ]);
        let mut found = BTreeSet::new();
        collect_traits(&serde_json::from_str(TEXT).unwrap(), &mut found);
        let unknown: Vec<&String> = found.iter().filter(|name| !known.contains(name.as_str())).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
    }

    fn collect_traits(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    if key == "traits" {
                        found.extend(value.as_object().unwrap().keys().cloned());
                    }
                    collect_traits(value, found);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| collect_traits(value, found)),
            _ => {}
        }
    }
}
