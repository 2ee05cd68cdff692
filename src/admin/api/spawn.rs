//! Answers about the workers that stickyd starts itself, and orders for them.

use serde::{Deserialize, Serialize};

/// Answer to `GET /api/v1/spawn`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpawnAnswer {
    pub upstreams: Vec<PoolView>,
}

/// The workers of one upstream; also the answer to an order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolView {
    pub instances: u32,
    pub roll: Option<RollView>,
    pub upstream: String,
    pub workers: Vec<SpawnedView>,
}

/// A replacement of workers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollView {
    pub id: u64,
    pub last_lines: Vec<String>,
    pub replaced: u32,
    pub state: String,
    pub total: u32,
    pub why: Option<String>,
}

/// One worker that stickyd starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SpawnedView {
    pub address: Option<String>,
    pub last_lines: Vec<String>,
    pub leaving: Vec<u32>,
    pub memory_bytes: u64,
    pub pid: Option<u32>,
    pub restarts: u64,
    pub starts_in_ms: Option<u64>,
    pub state: String,
    pub up_s: Option<u64>,
    pub why: Option<String>,
    pub worker: String,
}

/// Body of `POST /api/v1/spawn/{upstream}/{word}`; it may be left out, except for scale.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpawnOrderBody {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}

/// Answer to `GET /api/v1/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsAnswer {
    pub lines: Vec<LogLineView>,
    pub next: u64,
}

/// One line that a worker wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLineView {
    pub at_ms: u64,
    pub stream: String,
    pub text: String,
    pub upstream: String,
    pub worker: String,
}
