//! The admin API as types: one struct per answer and per request body of `/api/v1`, and its paths.
//!
//! The admin listener serializes these structs, the command line deserializes them, and the tests hold them against
//! `conf/openapi.json`, which describes every field. Keys stand in alphabetical order, as in every answer so far;
//! `null` and an absent key are different things, and each struct keeps the one its answer has always had. Left out:
//! rows of the list of sockets, which `admin::sockets` writes without building a [`SocketView`] first.

#![allow(missing_docs, reason = "conf/openapi.json describes every field, and the tests hold each answer against it")]

mod bodies;
mod event;
mod fleet;
pub mod notify;
pub mod paths;
mod queue;
mod session;
mod socket;
mod spawn;
pub mod stats;
mod status;
mod worker;

use serde::{Deserialize, Serialize};

pub use bodies::{BroadcastOrder, CloseManyOrder, CloseOneOrder, EmitOrder, GraceOrder, LabelsOrder, LogOrder};
pub use event::{EventView, EventsAnswer};
#[cfg(any(test, feature = "testing"))]
pub use event::{HistoryAnswer, UpstreamHistory, WorkerHistory};
pub use fleet::{
    FleetAnswer, FleetMemberView, FleetOrderBody, FleetOrdersAnswer, FleetReplyView, FleetSilentView, RedisView,
};
pub use paths::PATHS;
pub use queue::{
    EnqueueAnswer, EnqueueOrder, QueueAnswer, QueueDeleteOrder, QueueDeleted, QueueMessageView, QueueMessages,
    QueueShowOrder, QueueUpstream, QueueUser,
};
pub use session::{DecisionView, ExplainAnswer, PinAnswer, WorkerStateView};
pub use socket::{
    BroadcastAnswer, CloseAnswer, ClosedSocket, ClosingView, ClosingsAnswer, EmitAnswer, EmitOfStickyd, LabelledSocket,
    LegView, NotReached, RoundTripView, SocketView, SocketsAnswer, WayView,
};
pub use spawn::{LogLineView, LogsAnswer, PoolView, RollView, SpawnAnswer, SpawnOrderBody, SpawnedView};
pub use stats::{LabelCount, LabelCounts, LiveCounts, SocketCounts, StatsAnswer, UpstreamStats, WorkerStats};
pub use status::{
    ConfigView, DescriptorUsage, LogAnswer, ProcessView, ReloadAnswer, ReloadFailure, StatusAnswer, Usage,
};
pub use worker::{BusFactsView, CheckView, DrainView, EjectionView, NameView, ReasonsView, WorkerView, WorkersAnswer};

/// Answer to a request that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    pub error: String,
}
