//! Answers about the fleet: its stickyds, what differs among them, and the Redis between them.

use serde::{Deserialize, Serialize};

use crate::fleet::members::Summary;

/// Answer to `GET /api/v1/fleet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetAnswer {
    pub differences: Vec<String>,
    pub members: Vec<FleetMemberView>,
    pub name: String,
    pub redis: Vec<RedisView>,
}

/// One stickyd of the fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FleetMemberView {
    pub name: String,
    pub node: String,
    pub own: bool,
    /// What it shows of itself; absent if it has another secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
}

/// State of one Redis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RedisView {
    pub address: String,
    pub error: Option<String>,
    pub evicted: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub queue: usize,
    pub state: String,
}
