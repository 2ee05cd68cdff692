//! stickyd: a reverse proxy and load balancer that keeps every session on the worker that owns it.
//!
//! `ARCHITECTURE.md` has the layers of the modules below, the path of a request, the invariants that comments cite by
//! number, the words, and where to look. This crate is the program's own: its interface is [`program`], which the
//! binary calls, and nothing else is promised.

#![cfg_attr(not(feature = "testing"), allow(unreachable_pub, reason = "what is public is so for `testing`"))]

mod admin;
mod affinity;
mod body;
mod broadcast;
mod bus;
mod cli;
mod client;
mod client_limits;
mod clock;
mod config;
mod control;
mod cookie;
mod descriptors;
mod drain;
mod emit;
mod engine_io;
mod events;
mod fleet;
mod header_list;
mod history;
mod hpack;
mod jwt;
mod keys;
mod listener;
mod locks;
mod metrics;
mod min_rate;
mod net;
mod networks;
mod notify;
mod outbound;
mod printable;
mod processes;
mod proxy;
mod queue;
mod random;
mod rate_limit;
mod readings;
mod reload;
mod route;
mod rules;
mod secret;
mod server;
mod sockets;
mod spawn;
mod state;
mod systemd;
mod telemetry;
mod thread;
mod traces;
mod tunnel;
mod upstream;
mod watch;
mod websocket;
mod x509;

#[cfg(feature = "testing")]
pub mod testing;

/// The parts that the binary calls, in the order of its `main`.
pub mod program {
    pub use crate::cli::{Cli, Command, RunCommand};
    pub use crate::descriptors::raise_limit;
    pub use crate::reload::{ReloadOutcome, ReloadSender};
    pub use crate::server::{Server, Stop, StopOutcome};
    pub use crate::spawn::SpawnHandle;
    pub use crate::systemd::Parent;
    pub use crate::telemetry::{flush as flush_log, start as start_log};
}
