//! All integration tests in one binary, because linking one is faster than linking twenty.
//!
//! A file is named after the operator's word: `limits/max_connections.rs`, `reload/watch.rs`, `tls/rotation.rs`.
//! Sessions of real Socket.IO are in `socket_io`, real servers and clients of other protocols in `protocols`, rules
//! against workers made by hand in `affinity`, and raw bytes in `http`, `http2`, `tunnels` and `strict`. Helpers that
//! several files use are in `support`, and only there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends by panicking; clippy.toml allows it in #[test] functions only, not in their helpers"
)]

mod access_log;
mod admin;
mod affinity;
mod broadcast;
mod bus;
mod clients_selftest;
mod commands;
mod config;
mod corpus;
mod dependencies;
mod dns;
mod docs;
mod drain;
mod eject;
mod fleet;
mod guards;
mod health;
mod http;
mod http2;
mod layers;
mod limits;
mod logs;
mod messages;
mod notify;
mod packaging;
mod page;
mod profile;
mod protocols;
mod queue;
mod references;
mod reload;
mod retries;
mod shape;
mod socket_io;
mod sockets;
mod spawn;
mod start_and_stop;
mod strict;
#[allow(dead_code, reason = "some helpers are used in one configuration only")]
mod support;
mod systemd;
mod tls;
mod tokens;
mod traces;
mod tunnels;
mod words;
