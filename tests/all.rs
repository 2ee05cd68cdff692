//! Every integration test, as one binary: one link instead of twenty.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test ends by panicking; clippy.toml allows it in #[test] functions only, not in their helpers"
)]

mod broadcast;
mod clients_selftest;
mod config;
mod corpus;
mod dependencies;
mod docs;
mod front;
mod health;
mod http;
mod layers;
mod learn;
mod messages;
mod profile;
mod references;
mod rules;
mod sessions;
mod sockets;
mod strict;
#[allow(dead_code, reason = "a kit: not every test uses every part")]
mod support;
mod systemd;
mod tunnels;
mod words;
