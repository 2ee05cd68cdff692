//! Answers about sockets: lists, one of them, closings and broadcasts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Answer to `GET /api/v1/sockets`: one page of the list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SocketsAnswer {
    pub live: usize,
    pub next_offset: Option<usize>,
    pub offset: usize,
    pub sockets: Vec<SocketView>,
    pub total: usize,
}

/// One live socket, in the list and alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SocketView {
    pub address: String,
    pub age_s: u32,
    pub connected_at: String,
    pub down: WayView,
    pub generation: u32,
    pub id: String,
    pub labels: BTreeMap<String, String>,
    pub protocol: String,
    pub quality: Option<String>,
    pub round_trip: RoundTripView,
    pub route: Option<String>,
    pub sid: Option<String>,
    pub state: String,
    pub tls: bool,
    pub transport: String,
    pub up: WayView,
    pub upstream: String,
    pub user_agent: Option<String>,
    pub worker: String,
}

/// Traffic of a socket in one direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayView {
    pub bytes: u64,
    pub close_code: Option<u16>,
    pub idle_s: Option<u32>,
    pub messages: u64,
}

/// Round-trip times of a socket, by leg.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundTripView {
    pub client: Option<LegView>,
    pub worker: Option<LegView>,
}

/// Round-trip times of one leg, in milliseconds, measured by pings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LegView {
    pub last_ms: f64,
    pub longest_ms: f64,
    pub smoothed_ms: f64,
}

/// Answer to `POST /api/v1/sockets/{id}/close`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosedSocket {
    pub code: u16,
    pub id: String,
    pub transport: String,
}

/// Answer to `POST /api/v1/sockets/close`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloseAnswer {
    pub closing: Option<ClosingView>,
    pub code: u16,
    pub dry_run: bool,
    pub matched: usize,
    pub polling: usize,
    pub spread_s: f64,
    pub tunnels: usize,
}

/// Answer to `GET /api/v1/sockets/close`: the recent closings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingsAnswer {
    pub closings: Vec<ClosingView>,
}

/// Progress of one closing of many sockets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClosingView {
    pub ends_in_s: u64,
    pub gone: usize,
    pub left: usize,
    pub matched: usize,
    pub number: u64,
    pub told: usize,
}

/// Answer to `POST /api/v1/broadcast`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BroadcastAnswer {
    pub matched: usize,
    pub not_reached: NotReached,
    pub reached: u32,
    pub took_ms: Option<u64>,
}

/// Answer to `PUT /api/v1/sockets/by-sid/{sid}`: the socket and all its labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelledSocket {
    pub id: String,
    pub labels: BTreeMap<String, String>,
    pub transport: String,
    pub upstream: String,
}

/// Answer to `POST /api/v1/emit`. Fields that the way of the upstream cannot know are left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EmitAnswer {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acks: Option<Vec<Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acks_dropped: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched: Option<usize>,
    /// Sentences about stickyds of the fleet that did not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_reached: Option<NotReached>,
    /// Rooms of users that the message has reached. Only a stickyd of the fleet that passes a message on gets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub present: Option<Vec<String>>,
    pub published: bool,
    /// Number of users that the message was stored for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reached: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub silent: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stickyds: Option<Vec<EmitOfStickyd>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workers: Option<usize>,
}

/// What one stickyd of the fleet has reached with a message as frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmitOfStickyd {
    pub matched: usize,
    pub name: String,
    pub not_reached: NotReached,
    pub reached: u32,
}

impl NotReached {
    /// Adds the numbers of another stickyd.
    pub fn add(&mut self, other: &Self) {
        self.closing += other.closing;
        self.denied += other.denied;
        self.not_ready += other.not_ready;
        self.other_kind += other.other_kind;
        self.polling += other.polling;
        self.slow += other.slow;
    }
}

/// Numbers of sockets that a broadcast did not reach, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotReached {
    pub closing: u32,
    pub denied: u32,
    pub not_ready: u32,
    pub other_kind: u32,
    pub polling: u32,
    pub slow: u32,
}
