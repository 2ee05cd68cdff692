//! Answers about stickyd itself: its state, reloads and the log level.

use serde::{Deserialize, Serialize};

use super::RedisView;

/// Answer to `GET /api/v1/status`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusAnswer {
    pub client_connections: usize,
    pub config: ConfigView,
    pub descriptors: DescriptorUsage,
    pub listeners: Vec<String>,
    pub log_lines_dropped: u64,
    pub pid: u32,
    pub pins: Usage,
    pub process: Option<ProcessView>,
    /// The Redis servers of the fleet.
    #[serde(default)]
    pub redis: Vec<RedisView>,
    pub replay_bytes: Usage,
    /// Workers, as UPSTREAM/WORKER, whose addresses several processes seem to share.
    #[serde(default)]
    pub shared_addresses: Vec<String>,
    pub sockets: Usage,
    pub stopping: bool,
    pub uptime_s: u64,
    pub version: String,
}

/// State of the configuration and of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigView {
    pub error: Option<String>,
    pub file: Option<String>,
    pub generation: u64,
    pub loaded_at: String,
    pub needs_restart: Vec<String>,
}

/// How much of a limit is in use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub held: usize,
    pub limit: usize,
}

/// How many file descriptors are in use, where the system says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorUsage {
    pub held: Option<u64>,
    pub limit: Option<u64>,
}

/// One process: a worker's, or stickyd's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProcessView {
    pub command: String,
    pub cpu_percent: Option<f64>,
    pub cpu_s: f64,
    pub memory_bytes: u64,
    pub pid: u32,
    /// Whether the process holds the sockets of several workers or is a process manager: then its figures are not those
    /// of one worker.
    #[serde(default)]
    pub shared: bool,
    pub threads: u32,
}

/// Answer to `POST /api/v1/reload` after a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    pub needs_restart: Vec<String>,
    pub reloaded: bool,
    pub warnings: Vec<String>,
}

/// Answer to `POST /api/v1/reload` if nothing was reloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadFailure {
    pub error: String,
    pub reloaded: bool,
}

/// Answer to `GET` and `PUT /api/v1/log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogAnswer {
    pub file: String,
    pub from: String,
    pub level: String,
}
