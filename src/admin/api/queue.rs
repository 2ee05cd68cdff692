//! Bodies and answers about messages for users whose clients are away.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Body of `POST /api/v1/queue`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnqueueOrder {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<String>,
    pub label: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    pub upstream: String,
}

/// Answer to `POST /api/v1/queue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnqueueAnswer {
    pub id: String,
    pub result: String,
    pub waiting: u64,
}

/// Body of `POST /api/v1/queue/show`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueShowOrder {
    pub label: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    #[serde(default)]
    pub payload: bool,
    pub upstream: String,
}

/// Body of `POST /api/v1/queue/delete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueueDeleteOrder {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub label: BTreeMap<String, String>,
    pub upstream: String,
}

/// Answer to `POST /api/v1/queue/delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueDeleted {
    pub deleted: u64,
}

/// Answer to `GET /api/v1/queue`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueAnswer {
    pub upstreams: Vec<QueueUpstream>,
}

/// The queue of one upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueUpstream {
    pub label: String,
    pub messages: u64,
    pub name: String,
    pub total: u64,
    pub users: u64,
    pub waiting: Vec<QueueUser>,
}

/// The messages of one user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueUser {
    pub age_s: u64,
    pub expires_s: u64,
    pub messages: u64,
    /// Value of the label; absent if the first message cannot be opened.
    pub user: Option<String>,
}

/// Answer to `POST /api/v1/queue/show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueMessages {
    pub messages: Vec<QueueMessageView>,
}

/// One message of a user.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QueueMessageView {
    pub age_s: u64,
    pub bytes: usize,
    pub expires_s: u64,
    pub id: String,
    pub kind: String,
    pub namespace: Option<String>,
    /// What the client will get; only if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}
