//! Answers about workers: every worker in its present state, and the DNS names among them.

use serde::{Deserialize, Serialize};

use super::ProcessView;

/// Answer to `GET /api/v1/workers`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkersAnswer {
    pub names: Vec<NameView>,
    pub workers: Vec<WorkerView>,
}

/// One DNS name among the workers of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameView {
    pub addresses: Vec<String>,
    pub error: Option<String>,
    pub name: String,
    pub state: String,
    pub upstream: String,
}

/// One worker in its present state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerView {
    pub address: String,
    pub admin: String,
    /// What the worker's process says about itself, if it is linked to the bus.
    #[serde(default)]
    pub bus: Option<BusFactsView>,
    pub check: Option<CheckView>,
    pub drain: Option<DrainView>,
    pub ejected: bool,
    pub ejected_for_ms: Option<u64>,
    pub generation: u32,
    pub health: String,
    pub in_flight: u32,
    pub last_ejection: Option<EjectionView>,
    pub process: Option<ProcessView>,
    pub restarts: u32,
    pub said_at_run_time: bool,
    pub seen_for_s: u64,
    pub serves: bool,
    pub sessions: u32,
    /// Whether several processes seem to share the address.
    #[serde(default)]
    pub shares_address: bool,
    pub takes_new: bool,
    pub tunnels: u32,
    pub upstream: String,
    pub waiting: u32,
    pub weight: u32,
    pub why: ReasonsView,
    pub worker: String,
}

/// What the process of a worker says about itself over the bus.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BusFactsView {
    pub clients: u64,
    pub heap_total_bytes: u64,
    pub heap_used_bytes: u64,
    pub lag_ms: f64,
    pub lag_p99_ms: f64,
    pub node: String,
    pub pid: u32,
    pub socketio: String,
    pub sockets: u64,
}

/// Reasons for a worker's state on each axis, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonsView {
    pub admin: String,
    pub ejection: String,
    pub health: String,
}

/// Result of a worker's last health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckView {
    pub ago_ms: u64,
    pub detail: Option<String>,
    pub failed_in_a_row: u32,
    pub outcome: String,
    pub passed_in_a_row: u32,
}

/// A worker's last ejection, over or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EjectionView {
    pub ago_s: u64,
    pub for_s: u64,
    pub reason: String,
}

/// Progress of a drain, of maint, or of the removal of a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    pub ends_in_s: Option<u64>,
    pub grace_s: Option<u64>,
    pub sessions_at_start: u32,
    pub sessions_left: u32,
    pub since_s: u64,
    pub tunnels_left: u32,
}
