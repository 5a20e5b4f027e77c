//! Puts settings that were sent over a document, by the table in `schema`.

use serde_json::{Map, Value as Json};

use super::SettingsError;
use super::schema::{DOCUMENT, Kind, LOG_COMPONENTS, MORE_LOG_COMPONENTS, SEVERITIES, SEVERITY_DEFAULT, Setting};

type Result<T> = std::result::Result<T, SettingsError>;

/// The full document: what was sent, else what there was, else the default. Only what was sent is checked; of what
/// there was, settings that no longer exist are left out.
pub(super) fn document(existing: &Map<String, Json>, sent: &Map<String, Json>) -> Result<Map<String, Json>> {
    section("", DOCUMENT, Some(existing), sent)
}

fn section(
    path: &str,
    settings: &[Setting],
    existing: Option<&Map<String, Json>>,
    sent: &Map<String, Json>,
) -> Result<Map<String, Json>> {
    if let Some(key) = sent.keys().find(|key| settings.iter().all(|setting| setting.key != key.as_str())) {
        return Err(SettingsError::new(join(path, key), unknown(key, settings)));
    }
    let mut merged = Map::new();
    for setting in settings {
        let existing = existing.and_then(|existing| existing.get(setting.key));
        if let Some(value) = value(&join(path, setting.key), &setting.kind, existing, sent.get(setting.key))? {
            merged.insert(setting.key.to_owned(), value);
        }
    }
    Ok(merged)
}

/// One setting of the new document; `None` leaves it out.
fn value(path: &str, kind: &Kind, existing: Option<&Json>, sent: Option<&Json>) -> Result<Option<Json>> {
    // A null asks for the default: nothing that there was counts then, and nothing that was sent.
    let (existing, sent) = match sent {
        Some(Json::Null) => (None, None),
        sent => (existing.filter(|existing| !existing.is_null()), sent),
    };
    let settings = match kind {
        Kind::Nullable(_) if existing.is_none() && sent.is_none() => return Ok(Some(Json::Null)),
        Kind::Optional(_) if existing.is_none() && sent.is_none() => return Ok(None),
        Kind::Nullable(kind) | Kind::Optional(kind) => return value(path, kind, existing, sent),
        Kind::LogComponents => return log_components(path, existing, sent).map(Some),
        Kind::Command => {
            sent.map(|sent| checked(path, kind, sent)).transpose()?;
            return Ok(None);
        }
        Kind::Section(settings) => settings,
        leaf => {
            return match (sent, existing) {
                (Some(sent), _) => checked(path, leaf, sent).map(Some),
                (None, Some(existing)) => Ok(Some(existing.clone())),
                (None, None) => Ok(Some(default(leaf))),
            };
        }
    };
    let nothing = Map::new();
    let sent = match sent {
        None => &nothing,
        Some(Json::Object(sent)) => sent,
        Some(other) => return Err(wrong_type(path, "an object", other)),
    };
    section(path, settings, existing.and_then(Json::as_object), sent).map(|members| Some(Json::Object(members)))
}

fn default(leaf: &Kind) -> Json {
    match leaf {
        Kind::Bool(default) => Json::from(*default),
        Kind::Int { default, .. } => Json::from(*default),
        Kind::Word { default, .. } | Kind::Text(default) => Json::from(*default),
        Kind::Words(words) => Json::from(words[0]),
        Kind::CodePoint => Json::from(0),
        _ => Json::Null,
    }
}

fn checked(path: &str, leaf: &Kind, sent: &Json) -> Result<Json> {
    match (leaf, sent) {
        (Kind::Bool(_) | Kind::Command, Json::Bool(_)) => {}
        (Kind::Bool(_) | Kind::Command, other) => return Err(wrong_type(path, "true or false", other)),
        (Kind::Int { min, max, .. }, Json::Number(number)) => match number.as_i64() {
            Some(number) if (*min..=*max).contains(&number) => {}
            _ => return Err(SettingsError::new(path, format!("is {number}; it must be {}", range(*min, *max)))),
        },
        (Kind::Int { min, max, .. }, other) => return Err(wrong_type(path, &range(*min, *max), other)),
        (Kind::Word { words, .. }, Json::String(word)) if words.contains(&word.as_str()) => {}
        (Kind::Word { words, .. }, other) => return Err(not_one_of(path, other, words)),
        (Kind::Words(words), Json::String(sent)) if sent.split(',').all(|word| words.contains(&word.trim())) => {}
        (Kind::Words(words), other) => return Err(not_one_of(path, other, words)),
        (Kind::CodePoint, sent) => return code_point(path, sent),
        (Kind::List(settings), Json::Array(items)) => {
            let item = |(index, item): (usize, &Json)| match item {
                Json::Object(item) => section(&format!("{path}[{index}]"), settings, None, item).map(Json::Object),
                other => Err(wrong_type(&format!("{path}[{index}]"), "an object", other)),
            };
            return items.iter().enumerate().map(item).collect::<Result<_>>().map(Json::Array);
        }
        (Kind::List(_), other) => return Err(wrong_type(path, "an array", other)),
        (Kind::Text(_) | Kind::LogName, Json::String(_)) => {}
        (Kind::Text(_) | Kind::LogName, other) => return Err(wrong_type(path, "a string", other)),
        _ => {}
    }
    Ok(sent.clone())
}

fn code_point(path: &str, sent: &Json) -> Result<Json> {
    let digits = match sent {
        Json::Number(number) => number.to_string(),
        Json::String(digits) => digits.clone(),
        _ => String::new(),
    };
    match u32::from_str_radix(&digits, 16) {
        Ok(0..=0x10_FFFF) => Ok(sent.clone()),
        _ => {
            let what = format!("is {sent}; it must be a Unicode code point in hexadecimal, from 0 to 10FFFF");
            Err(SettingsError::new(path, what))
        }
    }
}

fn log_components(path: &str, existing: Option<&Json>, sent: Option<&Json>) -> Result<Json> {
    let mut severities: Vec<(&str, &str)> = LOG_COMPONENTS.map(|id| (id, SEVERITY_DEFAULT)).to_vec();
    let mut set = |id: &str, severity: &str| {
        let known = |names: &[&'static str], name: &str| names.iter().find(|known| **known == name).copied();
        let id = known(&LOG_COMPONENTS, id).or_else(|| known(&MORE_LOG_COMPONENTS, id))?;
        let severity = known(SEVERITIES, severity)?;
        match severities.iter_mut().find(|(known, _)| *known == id) {
            Some((_, old)) => *old = severity,
            None => severities.push((id, severity)),
        }
        Some(())
    };
    for component in existing.and_then(Json::as_array).into_iter().flatten() {
        if let (Some(id), Some(severity)) = (component["Id"].as_str(), component["Severity"].as_str()) {
            set(id, severity);
        }
    }
    let sent = match sent {
        None => &[][..],
        Some(Json::Array(sent)) => sent,
        Some(other) => return Err(wrong_type(path, "an array", other)),
    };
    for (index, component) in sent.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let Json::Object(members) = component else { return Err(wrong_type(&path, "an object", component)) };
        if let Some(key) = members.keys().find(|key| !["Id", "Severity"].contains(&key.as_str())) {
            return Err(SettingsError::new(join(&path, key), "is not a known setting; known here: Id, Severity"));
        }
        let severity = checked(
            &join(&path, "Severity"),
            &Kind::Word { default: SEVERITY_DEFAULT, words: SEVERITIES },
            members.get("Severity").unwrap_or(&Json::Null),
        )?;
        let id = members.get("Id").unwrap_or(&Json::Null);
        let applied = id.as_str().zip(severity.as_str()).and_then(|(id, severity)| set(id, severity));
        if applied.is_none() {
            let known: Vec<_> = LOG_COMPONENTS.into_iter().chain(MORE_LOG_COMPONENTS).collect();
            return Err(not_one_of(&join(&path, "Id"), id, &known));
        }
    }
    let component = |(id, severity)| serde_json::json!({ "Severity": severity, "Id": id });
    Ok(severities.into_iter().map(component).collect())
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// Says which settings there are, and where one by that name really is.
fn unknown(key: &str, settings: &[Setting]) -> String {
    let home = DOCUMENT.iter().find(|section| members(&section.kind).iter().any(|setting| setting.key == key));
    if let Some(home) = home {
        return format!("is not a known setting here; it belongs to {}", home.key);
    }
    let known: Vec<_> = settings.iter().map(|setting| setting.key).collect();
    format!("is not a known setting; known here: {}", known.join(", "))
}

fn members(kind: &Kind) -> &'static [Setting] {
    match kind {
        Kind::Section(settings) => settings,
        Kind::Nullable(kind) | Kind::Optional(kind) => members(kind),
        _ => &[],
    }
}

fn range(min: i64, max: i64) -> String {
    format!("a whole number from {min} to {max}")
}

fn wrong_type(path: &str, expected: &str, sent: &Json) -> SettingsError {
    let kind = match sent {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    };
    SettingsError::new(path, format!("is {kind}; it must be {expected}"))
}

fn not_one_of(path: &str, sent: &Json, words: &[&str]) -> SettingsError {
    if sent.is_string() {
        SettingsError::new(path, format!("is {sent}; it must be one of {}", words.join(", ")))
    } else {
        wrong_type(path, &format!("one of {}", words.join(", ")), sent)
    }
}
