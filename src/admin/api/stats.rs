//! Answer to `GET /api/v1/stats`: counters, rates and live numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Numbers of an upstream's counters, by name.
pub type CounterTotals = BTreeMap<String, u64>;

/// CounterRates of the counters, by name with `_per_s`; `None` without an earlier sample.
pub type CounterRates = BTreeMap<String, Option<f64>>;

/// Answer to `GET /api/v1/stats`: all workers together, each upstream, each worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatsAnswer {
    pub live: LiveCounts,
    pub rates: CounterRates,
    pub rates_over_s: u64,
    pub sockets: SocketCounts,
    pub totals: CounterTotals,
    pub upstreams: Vec<UpstreamStats>,
    pub workers: Vec<WorkerStats>,
}

/// Counters and live numbers of one upstream.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpstreamStats {
    pub labels: BTreeMap<String, LabelCounts>,
    pub live: LiveCounts,
    pub rates: CounterRates,
    pub sockets: SocketCounts,
    pub totals: CounterTotals,
    pub upstream: String,
}

/// Counters and live numbers of one worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerStats {
    pub failures: u64,
    pub live: LiveCounts,
    pub requests: u64,
    pub requests_per_s: Option<f64>,
    pub sockets: SocketCounts,
    pub upstream: String,
    pub worker: String,
}

/// Numbers of what is live at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveCounts {
    pub average_age_s: Option<u64>,
    pub in_flight: u64,
    pub sessions: u64,
    pub tunnels: u64,
}

/// Numbers of live sockets, by transport.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketCounts {
    pub average_age_s: Option<u64>,
    pub live: u64,
    pub polling: u64,
    pub websocket: u64,
    #[serde(rename = "websocket-h2")]
    pub websocket_h2: u64,
}

/// Values of one label, those with the most sockets first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCounts {
    pub others: u64,
    pub values: Vec<LabelCount>,
}

/// Number of sockets with one value of a label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabelCount {
    pub sockets: u64,
    pub value: String,
}
