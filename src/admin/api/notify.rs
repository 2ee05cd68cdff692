//! Answers about notifications, and the order for test messages.

use serde::{Deserialize, Serialize};

/// Answer to `GET /api/v1/notify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyAnswer {
    pub heartbeat: Option<BeatView>,
    pub problems: Vec<ProblemView>,
    pub receivers: Vec<ReceiverView>,
}

/// The heartbeat as configured, and its last outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeatView {
    pub every_s: u64,
    pub host: String,
    pub last: Option<LastOutcomeView>,
}

/// A problem that there is now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemView {
    pub event: String,
    pub for_s: u64,
    pub told: bool,
    pub what: String,
}

/// A receiver of notifications.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiverView {
    pub events: Vec<String>,
    pub host: String,
    pub kind: String,
    pub last: Option<LastOutcomeView>,
    pub name: String,
    pub next_s: Option<u64>,
    pub waiting: usize,
}

/// The last outcome of a receiver, or of the heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastOutcomeView {
    pub ago_s: u64,
    pub result: String,
    pub why: Option<String>,
}

/// Body of `POST /api/v1/notify/test`; it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyTestOrder {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Answer to `POST /api/v1/notify/test`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyTestAnswer {
    pub results: Vec<TestView>,
}

/// What became of one test message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestView {
    pub error: Option<String>,
    pub ms: u64,
    pub to: String,
}
