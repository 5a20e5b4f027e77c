//! Sample messages made from the model, for tests that probe every operation.

use serde_json::{Map, Value, json};

use super::model::{Kind, Member, ShapeId, TimestampFormat, model};

/// Which members a sample has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Only those that are required, all the way down.
    Required,
    All,
}

/// Valid values of a shape: one, or several where a union needs one for each of its members.
pub(crate) fn samples(id: ShapeId, extent: Extent) -> Vec<Value> {
    (0..).map_while(|variant| sample(id, extent, variant)).collect()
}

/// Every union takes its member number `variant`; there are no more samples when none has so many.
fn sample(id: ShapeId, extent: Extent, variant: usize) -> Option<Value> {
    let mut unions_had_it = variant == 0;
    let value = build(id, extent, variant, &mut unions_had_it);
    unions_had_it.then_some(value)
}

fn build(id: ShapeId, extent: Extent, variant: usize, unions_had_it: &mut bool) -> Value {
    let shape = model().shape(id);
    match &shape.kind {
        Kind::Structure(members) => {
            let taken = members.iter().filter(|member| extent == Extent::All || member.required);
            let entry =
                |member: &Member| (member.name.to_owned(), build(member.target, extent, variant, unions_had_it));
            Value::Object(taken.map(entry).collect())
        }
        Kind::Union(members) => {
            *unions_had_it |= variant < members.len();
            let member = &members[variant.min(members.len() - 1)];
            Value::Object(Map::from_iter([(
                member.name.to_owned(),
                build(member.target, extent, variant, unions_had_it),
            )]))
        }
        Kind::List(element) => Value::Array(vec![build(*element, extent, variant, unions_had_it)]),
        Kind::Map { value, .. } => json!({ "key": build(*value, extent, variant, unions_had_it) }),
        Kind::Enum(values) => json!(values[0]),
        Kind::String => json!("x"),
        Kind::Boolean => json!(true),
        Kind::Integer => json!(i32::MAX),
        Kind::Long => json!(i64::MIN),
        Kind::Double => json!(0.5),
        Kind::Timestamp(TimestampFormat::EpochSeconds) => json!(1590524772.505),
        Kind::Timestamp(TimestampFormat::Iso8601) => json!("2020-05-26T20:26:12.505Z"),
        Kind::Blob => json!("AP8="),
    }
}

/// Every member that a value of the shape has, at every depth, with its JSON pointer.
pub(crate) fn members(id: ShapeId, value: &Value) -> Vec<(String, &'static Member)> {
    let mut found = Vec::new();
    collect_members(id, value, String::new(), &mut found);
    found
}

fn collect_members(id: ShapeId, value: &Value, pointer: String, found: &mut Vec<(String, &'static Member)>) {
    let shape = model().shape(id);
    for member in shape.members() {
        if let Some(value) = value.get(member.name) {
            let pointer = format!("{pointer}/{}", member.name);
            found.push((pointer.clone(), member));
            collect_members(member.target, value, pointer, found);
        }
    }
    if let (Kind::List(element), Some(first)) = (&shape.kind, value.get(0)) {
        collect_members(*element, first, format!("{pointer}/0"), found);
    }
}

/// Sets what a pointer points to, or removes it.
pub(crate) fn put(message: &mut Value, pointer: &str, value: Option<Value>) {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    let parent = message.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    match value {
        Some(value) => parent.insert(name.to_owned(), value),
        None => parent.remove(name),
    };
}

pub(crate) fn is_string(id: ShapeId) -> bool {
    matches!(model().shape(id).kind, Kind::String | Kind::Enum(_))
}

/// A value of a type that the shape is not of.
pub(crate) fn of_wrong_type(id: ShapeId) -> Value {
    match model().shape(id).kind {
        Kind::Structure(_) | Kind::Union(_) | Kind::Map { .. } => json!([]),
        Kind::List(_) => json!({}),
        Kind::Enum(_) | Kind::String => json!(1),
        Kind::Boolean | Kind::Integer | Kind::Long | Kind::Double => json!("true"),
        Kind::Timestamp(_) | Kind::Blob => json!(true),
    }
}
