//! stickyd: a reverse proxy and load balancer that keeps every session on the worker that owns it.
//!
//! # The path of a request
//!
//! ```text
//! listener::accept ─► listener::conn ─► proxy::handle ─► proxy::forward ─► worker
//!                                         │ route::find          │
//!                                         │ affinity::resolve    └─► tunnel::relay (after 101)
//!                                         │ upstream::place
//!                                         └ respond::* (every answer stickyd writes itself)
//! ```
//!
//! # The map
//!
//! | module | contents |
//! |---|---|
//! | [`config`] | the configuration file: parsed, checked, and its errors explained |
//! | [`state`] | what threads share: the snapshot, the pins, the budgets |
//! | [`listener`] | accept, PROXY header, TLS, one client connection |
//! | [`proxy`] | the handling of one request, and the guards that reject requests before it begins |
//! | [`rate_limit`] | token buckets by key, in a table of bounded size |
//! | [`affinity`] | which worker gets a request: by sid, cookie, address or discovery |
//! | [`upstream`] | workers: health, ejection, limits, and the connections to them, TLS included |
//! | [`tunnel`] | upgraded connections |
//! | [`sockets`] | every live socket (tunnels and polling sessions): listing, filtering, closing |
//! | [`admin`], [`metrics`], [`telemetry`] | what operators see |
//! | [`broadcast`], `vigil` | messages sent to many sockets; detection of sockets that no longer answer |
//! | [`cli`] | the commands operators type |
//! | [`server`], [`drain`], [`reload`], `watch` | start, stop, configuration changes |
//! | [`systemd`] | notifications to systemd, and the sockets systemd passes in |
//!
//! # Invariants
//!
//! `ARCHITECTURE.md` §7 lists them, numbered 1 to 14. Comments cite them by number. The same page has the layers, the
//! words, and where to look.

pub mod admin;
pub mod affinity;
pub mod body;
pub mod broadcast;
pub mod cli;
pub mod client;
pub mod client_limits;
pub mod clock;
pub mod config;
pub mod control;
pub mod cookie;
pub mod descriptors;
pub mod drain;
pub mod engine_io;
pub mod header_list;
pub mod keys;
pub mod listener;
pub mod locks;
pub mod metrics;
pub mod min_rate;
pub mod net;
pub mod proxy;
mod random;
pub mod rate_limit;
pub mod reload;
pub mod route;
pub mod rules;
mod secret;
pub mod server;
pub mod sockets;
pub mod state;
pub mod systemd;
pub mod telemetry;
pub mod thread;
pub mod tunnel;
pub mod upstream;
mod watch;
pub mod websocket;
mod x509;
