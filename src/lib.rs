//! stickyd: a reverse proxy and load balancer that keeps every session on the worker that owns it.
//!
//! # The way of a request
//!
//! ```text
//! listener::accept ─► listener::conn ─► proxy::handle ─► proxy::forward ─► worker
//!                                         │ route::find          │
//!                                         │ affinity::resolve    └─► tunnel::relay (after 101)
//!                                         │ upstream::place
//!                                         └ respond::* (every answer we write ourselves)
//! ```
//!
//! # The map
//!
//! | where | what |
//! |---|---|
//! | [`config`] | the file, checked, explained when it is wrong |
//! | [`state`] | what threads share: the snapshot, the pins, the budgets |
//! | [`listener`] | accept, PROXY header, TLS, one client connection |
//! | [`proxy`] | the story of one request, and who is turned away before it begins |
//! | [`bucket`] | token buckets by key, bounded |
//! | [`affinity`] | which worker: sid, cookie, address, discovery |
//! | [`upstream`] | workers, their health and ejection, their limits, connections to them, TLS included |
//! | [`tunnel`] | upgraded connections |
//! | [`sockets`] | every live socket: tunnels and polling sessions, to be listed, filtered, closed |
//! | [`admin`], [`metrics`], [`telemetry`] | what an operator sees |
//! | [`broadcast`], `vigil` | what is said to many sockets; who owes an answer, and who is dead |
//! | [`cli`] | what an operator types |
//! | [`server`], [`drain`], [`reload`], `watch` | start, stop, change |
//! | [`systemd`] | what systemd is told, and the sockets it gives |
//!
//! # Invariants
//!
//! 1. Route requests, not connections: nothing about a worker is remembered on a client connection.
//! 2. A pin never moves. Only its worker's death or refusal ends it, its session's own end, or an operator's maint, close or
//!    the deadline of his drain.
//! 3. The pin is stored before the first byte of the handshake's answer leaves.
//! 4. A session is looked for elsewhere only after an explicit refusal. A request that carried a sid and broke midway is never
//!    resent, nor is a POST; what reached nobody, and a safe request whose connection broke unanswered, may be (`proxy::retry`).
//! 5. Bytes pass a tunnel exactly as they were sent; what stickyd says goes in at boundaries the observer knows.
//! 6. Nothing is relayed before a checked 101.
//! 7. Every forwarded head is written anew from parsed parts; nothing of a client's is trusted until `listener::conn` says so.
//! 8. A reload touches only what changed; a bad one changes nothing and says where.
//! 9. A tunnel holds its worker, never the snapshot. An idle tunnel owns no buffer.
//! 10. Every task is counted; shutdown has a deadline and says how it ended.
//! 11. Only `respond` writes our answers to clients; only `metrics` names series; only `config` (and `secret`) reads files, and
//!     `admin::processes` /proc; only
//!     `systemd` knows systemd.
//! 12. Pure parts (affinity's, ring, frames, streaks, ejection, budgets, endings, spread) take time and chance as arguments.
//! 13. No lock across `.await`. No `unsafe`. No panic on anything a peer can send.
//! 14. Every bounded thing says so when it is full: a metric, a log line once a second, and the right status.

pub mod admin;
pub mod affinity;
pub mod broadcast;
pub mod bucket;
pub mod cli;
pub mod clock;
pub mod config;
pub mod descriptors;
pub mod drain;
pub mod listener;
pub mod metrics;
pub mod pace;
pub mod proxy;
mod random;
pub mod reload;
mod secret;
pub mod server;
pub mod sockets;
pub mod state;
pub mod systemd;
pub mod telemetry;
pub mod thread;
pub mod tunnel;
pub mod upstream;
mod vigil;
mod watch;
mod x509;
