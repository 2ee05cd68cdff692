//! Request bodies of the admin API. A body with an unknown field, or a field of another type, is an error that names
//! the field.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Body of `POST /api/v1/workers/{upstream}/{worker}/{word}`; it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraceOrder {
    #[serde(default, deserialize_with = "grace", skip_serializing_if = "Option::is_none")]
    pub grace: Option<String>,
}

/// Body of `PUT /api/v1/log`; `null` follows the file, an absent level is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogOrder {
    // With a function of its own, serde does not take an absent field for `null`.
    #[serde(deserialize_with = "Option::deserialize")]
    pub level: Option<String>,
}

/// Body of `POST /api/v1/sockets/{id}/close`; it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CloseOneOrder {
    #[serde(default, deserialize_with = "code", skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    #[serde(default, deserialize_with = "reason", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Body of `POST /api/v1/sockets/close`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloseManyOrder {
    #[serde(default, deserialize_with = "all", skip_serializing_if = "is_false")]
    pub all: bool,
    #[serde(default, deserialize_with = "code", skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    #[serde(default, deserialize_with = "dry_run", skip_serializing_if = "is_false")]
    pub dry_run: bool,
    #[serde(default, deserialize_with = "reason", skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, deserialize_with = "spread", skip_serializing_if = "Option::is_none")]
    pub spread: Option<String>,
    /// Every other field: a condition of the filter, or a mistake, which the reader of the filter reports.
    #[serde(flatten, deserialize_with = "texts")]
    pub filter: BTreeMap<String, String>,
}

/// Body of `POST /api/v1/broadcast`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BroadcastOrder {
    #[serde(default, deserialize_with = "all", skip_serializing_if = "is_false")]
    pub all: bool,
    #[serde(default, deserialize_with = "args", skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<Value>>,
    #[serde(default, deserialize_with = "event", skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    #[serde(default, deserialize_with = "namespace", skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Every other field: a condition of the filter, or a mistake, which the reader of the filter reports.
    #[serde(flatten, deserialize_with = "texts")]
    pub filter: BTreeMap<String, String>,
}

/// Body of `PUT /api/v1/sockets/by-sid/{sid}`; a label with `null` is removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelsOrder {
    #[serde(deserialize_with = "label_values")]
    pub labels: BTreeMap<String, Option<String>>,
    #[serde(default, deserialize_with = "namespace", skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, deserialize_with = "upstream", skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

/// Body of `POST /api/v1/emit`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmitOrder {
    #[serde(default, deserialize_with = "ack", skip_serializing_if = "Option::is_none")]
    pub ack: Option<bool>,
    #[serde(default, deserialize_with = "args", skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<Value>>,
    #[serde(default, deserialize_with = "event", skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    #[serde(default, deserialize_with = "except", skip_serializing_if = "Option::is_none")]
    pub except: Option<Vec<String>>,
    #[serde(default, deserialize_with = "id", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, deserialize_with = "namespace", skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, deserialize_with = "path", skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `true`, `false`, or how long the message is kept for users that are away.
    #[serde(default, deserialize_with = "queue", skip_serializing_if = "Option::is_none")]
    pub queue: Option<Value>,
    #[serde(default, deserialize_with = "rooms", skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<String>>,
    #[serde(default, deserialize_with = "text", skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(default, deserialize_with = "timeout", skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    #[serde(default, deserialize_with = "upstream", skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// Reads a field that must not be null; any other type is an error with this message.
fn typed<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D, message: &str) -> Result<T, D::Error> {
    T::deserialize(from).map_err(|_| D::Error::custom(message))
}

/// Defines functions for `deserialize_with`, each with the message for values of another type.
macro_rules! fields {
    ($($name:ident: $type:ty = $message:literal)*) => {$(
        fn $name<'de, D: Deserializer<'de>>(from: D) -> Result<Option<$type>, D::Error> {
            typed(from, $message).map(Some)
        }
    )*};
}

fields! {
    grace: String = "`grace` needs a unit"
    code: u16 = "`code` must be a number from 1000 to 4999"
    reason: String = "`reason` must be a string"
    spread: String = "`spread` must be a duration with a unit, such as \"60s\""
    args: Vec<Value> = "`args` must be a list of JSON values"
    event: String = "`event` must be a string"
    namespace: String = "`namespace` must be a string"
    text: String = "`text` must be a string"
    ack: bool = "`ack` must be true or false"
    rooms: Vec<String> = "`rooms` must be a list of strings"
    except: Vec<String> = "`except` must be a list of strings"
    id: String = "`id` must be a string"
    queue: Value = "`queue` must be true, false or a duration such as \"2h\""
    path: String = "`path` must be a string"
    timeout: String = "`timeout` must be a duration with a unit, such as \"5s\""
    upstream: String = "`upstream` must be a string"
}

fn all<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    typed(from, "`all` must be true or false")
}

fn dry_run<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
    typed(from, "`dry_run` must be true or false")
}

/// Reads the values of labels; a number is converted, and `null` stays.
fn label_values<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Option<String>>, D::Error> {
    let text = |(name, value): (String, Value)| match value {
        Value::Null => Ok((name, None)),
        Value::String(text) => Ok((name, Some(text))),
        Value::Number(number) => Ok((name, Some(number.to_string()))),
        _ => Err(D::Error::custom(format!("the label `{name}` must be a string, a number or null"))),
    };
    let all: BTreeMap<String, Value> = typed(from, "`labels` must be an object such as {\"user\": \"7\"}")?;
    all.into_iter().map(text).collect()
}

/// Reads the remaining fields as texts; a number is converted.
fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    let text = |(name, value): (String, Value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Number(number) => Ok((name, number.to_string())),
        _ => Err(D::Error::custom(format!("`{name}` must be a string"))),
    };
    BTreeMap::<String, Value>::deserialize(from)?.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error<T: for<'de> Deserialize<'de> + std::fmt::Debug>(body: Value) -> String {
        T::deserialize(body).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_field() {
        assert_eq!(error::<GraceOrder>(json!({"grace": 60})), "`grace` needs a unit");
        assert_eq!(error::<GraceOrder>(json!({"grase": "1s"})), "unknown field `grase`, expected `grace`");
        assert_eq!(error::<CloseOneOrder>(json!({"x": 1})), "unknown field `x`, expected `code` or `reason`");
        for code in [json!(70_000), json!("1000"), json!(null), json!(1.5)] {
            let why = "`code` must be a number from 1000 to 4999";
            assert_eq!(error::<CloseManyOrder>(json!({"code": code, "worker": "w"})), why);
        }
        assert_eq!(error::<CloseManyOrder>(json!({"worker": true})), "`worker` must be a string");
        assert_eq!(error::<CloseManyOrder>(json!({"all": 1})), "`all` must be true or false");
        assert_eq!(error::<BroadcastOrder>(json!({"args": {}})), "`args` must be a list of JSON values");
        assert!(LogOrder::deserialize(json!({})).is_err() && LogOrder::deserialize(json!({"level": null})).is_ok());
    }

    #[test]
    fn other_fields_are_conditions_of_the_filter() {
        let read = CloseManyOrder::deserialize(json!({"label.store": 7, "spread": "5m", "sid": "x"})).unwrap();
        let filter = [("label.store", "7"), ("sid", "x")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let written = CloseManyOrder { spread: Some("5m".to_owned()), filter: filter.into(), ..Default::default() };
        assert_eq!(read, written);
        assert_eq!(
            serde_json::to_value(&written).unwrap(),
            json!({"label.store": "7", "sid": "x", "spread": "5m"}),
            "fields that are not given are left out"
        );
    }
}
