//! The claims of a verified token, as texts.

use std::time::Duration;

use serde_json::{Map, Value};

/// The last second that is told apart: a floating-point number has no more whole ones.
const LAST: f64 = 9e15;

/// Maximum number of bytes of a claim's text that leaves this module.
const MAX_TEXT: usize = 1_024;

/// The claims of a token whose signature was verified.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Claims(pub(super) Map<String, Value>);

impl Claims {
    /// Returns a claim as text: a list becomes its elements with commas between them. `name` may be a path, such as
    /// `realm_access.roles`; a claim whose name contains the dot wins.
    pub fn text(&self, name: &str) -> Option<String> {
        let texts = texts(self.find(name)?);
        let all = texts.join(",");
        (!texts.is_empty() && all.len() <= MAX_TEXT).then_some(all)
    }

    /// Whether a claim has one of these values. A list has the values of its elements, and `scope` those of its words
    /// (RFC 8693 §4.2).
    pub fn has_any(&self, name: &str, wanted: &[String]) -> bool {
        let Some(value) = self.find(name) else { return false };
        let is_wanted = |text: &str| wanted.iter().any(|one| one == text);
        texts(value).iter().any(|text| {
            is_wanted(text) || (matches!(name, "scope" | "scp") && text.split_ascii_whitespace().any(is_wanted))
        })
    }

    /// Returns the second since 1970 at which the token expires.
    pub fn expires_s(&self) -> Option<u64> {
        time(self.0.get("exp")?)
    }

    pub(super) fn find(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let mut parts = name.split('.');
        let first = self.0.get(parts.next()?)?;
        parts.try_fold(first, |value, part| value.get(part))
    }
}

/// Reads a NumericDate (RFC 7519 §2) as whole seconds. Dates before 1970 are 0.
pub(super) fn time(value: &Value) -> Option<u64> {
    if let Some(whole) = value.as_u64() {
        return Some(whole);
    }
    let number = value.as_f64().filter(|number| number.is_finite())?;
    Duration::try_from_secs_f64(number.clamp(0.0, LAST)).ok().map(|time| time.as_secs())
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => vec![text.clone()],
        Value::Number(number) => vec![number.to_string()],
        Value::Bool(flag) => vec![flag.to_string()],
        // Nested lists have no text.
        Value::Array(all) => all.iter().filter(|one| !one.is_array()).flat_map(texts).collect(),
        Value::Null | Value::Object(_) => Vec::new(),
    }
}
