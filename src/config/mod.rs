//! The checked configuration: every value validated, every default filled in, every named file read.
//!
//! `stickyd.toml ─► file (as written) ─► check (all errors at once) ─► Config (here)`. A [`Config`] holds no socket,
//! task or atomic; the live view built from it is `state::Snapshot`. Only this module reads files
//! (ARCHITECTURE.md, invariant 11). The docs of each item, or of the type around it, state whether a reload applies it.

pub(crate) mod access;
mod addresses;
mod admin;
pub(crate) mod alarm;
mod asked;
mod check;
mod drain;
mod eject;
mod emit;
mod error;
mod file;
mod files;
mod fleet;
pub mod guards;
mod health;
mod history;
pub(crate) mod jwt;
pub mod labels;
mod limits;
mod listener;
mod load;
mod log;
pub(crate) mod notify;
mod offline_queue;
mod outbound;
pub(crate) mod pattern;
mod quick_spawn;
mod resolve;
mod routes;
pub mod rules;
mod secret;
mod sources;
pub(crate) mod spawn;
mod state_dir;
pub(crate) mod survey;
mod telemetry;
mod tls;
mod tunnels;
mod upstream;
mod values;
mod variables;
mod worker;
mod worker_tls;
mod workers;

use labels::LabelRules;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use addresses::is_listener;
pub use admin::AdminAddress;
pub(crate) use admin::{AdminGroup, AdminListener};
pub use check::for_command_line;
#[cfg(any(test, feature = "testing"))]
pub use check::{parse, parse_with};
pub(crate) use drain::CloseNotice;
pub use drain::{Drain, RemovedPolicy};
pub(crate) use drain::{LONGEST_GRACE, LONGEST_REASON};
pub use eject::Eject;
pub(crate) use emit::{EmitAdapter, EmitRedis, EmitWay};
#[cfg(any(test, feature = "testing"))]
pub use error::Errors;
pub use error::{Diagnostic, Severity};
pub(crate) use files::token;
pub(crate) use fleet::{Fleet, RedisAddress, RedisPlace, RedisTls};
pub use health::{CheckTarget, Expected, Health, HealthKind};
pub use history::HistoryConfig;
pub use limits::Limits;
pub(crate) use listener::parse_network;
pub use listener::{Listener, Redirect};
#[cfg(any(test, feature = "testing"))]
pub use load::load;
pub use load::load_with_warnings;
pub(crate) use load::{Loaded, load_admin, load_noting, load_with};
pub(crate) use log::AccessFormat;
pub use log::{Log, LogFormat, check_level};
pub(crate) use notify::NotifyRules;
pub(crate) use offline_queue::OfflineQueue;
pub(crate) use outbound::{Authorities, OutboundTarget};
pub(crate) use quick_spawn::for_spawn;
pub(crate) use resolve::look_up;
pub(crate) use routes::Route;
pub use rules::Affinity;
pub(crate) use secret::Secret;
pub(crate) use sources::{Sources, SourcesState, StandIn};
pub(crate) use telemetry::Telemetry;
pub(crate) use tls::Certificate;
pub use tls::{Buffers, ClientAuth, Tls};
pub use tunnels::Tunnels;
pub use upstream::SameSite;
pub(crate) use values::{digits, quoted};
pub use worker::AdminState;
pub(crate) use worker::{Address, Worker};
pub(crate) use worker_tls::WorkerTls;
pub(crate) use workers::{Group, GroupPlace, MAX_RANGE, ResolvedNames, tidy};

/// A whole configuration, checked.
#[derive(Debug, PartialEq)]
pub struct Config {
    /// Signs cookies and keys the ring; must be the same on all proxies of a fleet. `None`: read from `state_dir`, or
    /// generated there; without a `state_dir`, generated in memory with a warning. A change needs a restart.
    pub secret: Option<Secret>,
    /// Directory in which stickyd keeps its secret and its admin socket. A change needs a restart.
    pub state_dir: Option<PathBuf>,
    /// Socket of a spawner that runs apart from stickyd (`stickyd spawn`), for upstreams with `spawn`. `None`: stickyd
    /// starts a spawner of its own. A change needs a restart.
    pub spawner: Option<PathBuf>,
    /// Reload automatically when the file, or a file it names, changes; default on. A reload applies it.
    pub watch: bool,
    /// Whether a worker of each upstream is asked once whether it speaks Socket.IO, to log it: only without a file.
    pub introduces: bool,
    /// Number of data threads, 1..=256; default: one per core. A change needs a restart.
    pub threads: usize,
    /// Addresses to accept clients on; at least one. A reload applies them.
    pub listeners: Vec<Listener>,
    /// Pools of workers; at least one, with unique names. A reload applies them.
    pub upstreams: Vec<Upstream>,
    /// Routes, tried in order: the first that matches wins. May be empty if there is only one upstream, which then
    /// gets every request. A reload applies them.
    pub routes: Vec<Route>,
    /// The admin listener. A change needs a restart.
    pub admin: AdminListener,
    /// The other stickyds and the Redis between them; `None`: this stickyd is alone. A change needs a restart.
    pub fleet: Option<Fleet>,
    /// Bounds of the whole process. A reload applies them, except those whose docs state that they need a restart.
    pub limits: Limits,
    /// Memory for the numbers of the last day. A change needs a restart.
    pub history: HistoryConfig,
    /// Logging. A reload applies all of it except the format.
    pub log: Log,
    /// Notifications. A reload applies them.
    pub notify: Arc<NotifyRules>,
    /// Traces; `None`: there are none. A reload applies it.
    pub(crate) telemetry: Option<Arc<Telemetry>>,
}

impl Config {
    /// Keys that differ in `new` and take effect only after a restart, as they are written in the file.
    pub fn needs_restart(&self, new: &Self) -> Vec<&'static str> {
        let changed = [
            ("secret", self.secret != new.secret),
            ("state_dir", self.state_dir != new.state_dir),
            ("spawner", self.spawner != new.spawner),
            ("threads", self.threads != new.threads),
            ("[admin]", self.admin != new.admin),
            ("[fleet]", self.fleet != new.fleet),
            ("[limits] pins", self.limits.pins != new.limits.pins),
            ("[limits] sockets", self.limits.sockets != new.limits.sockets),
            ("[limits] handshakes", self.limits.handshakes != new.limits.handshakes),
            ("[limits] reserved_descriptors", self.limits.reserved_descriptors != new.limits.reserved_descriptors),
            ("[history] memory", self.history != new.history),
            ("[log] format", self.log.format != new.log.format),
        ];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(what, _)| what).collect()
    }
}

/// A named pool of workers. A reload applies every field: to requests, connections, health checks and DNS lookups that
/// begin after it. Fields that affect something else state when a change takes effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// Name of the upstream, `[a-z0-9_-]{1,32}`; part of the cookie's name and of every metric.
    pub name: String,
    /// The entries of `workers`; at least one, unless the file sets `allow_empty`.
    pub groups: Vec<Group>,
    /// The addresses of the DNS names in `groups`.
    pub found: ResolvedNames,
    /// The workers that `groups` expand to with the addresses in `found`; addresses and names are unique inside the
    /// upstream. Empty while there are only DNS names and none has resolved. A reload keeps the sessions, counters and
    /// connections of workers that stay.
    pub workers: Vec<Worker>,
    /// Interval between lookups of the DNS names among the workers; default 10 s.
    pub dns_interval: Duration,
    /// Facts of a request that choose its worker, in order; never empty.
    pub affinity: Vec<Affinity>,
    /// Headers and query parameters in which ordinary requests name a Socket.IO session; such requests go to the
    /// session's worker.
    pub follow: Vec<rules::Spot>,
    /// Whether workers may share their messages over the bus; default true. Whether the bus runs needs a restart, the
    /// environment of workers changes when they start.
    pub bus: bool,
    /// The way of messages from the backend; `None`: over the bus where it is on.
    pub emit: Option<EmitWay>,
    /// How workers are checked.
    pub health: Health,
    /// `SameSite` attribute of the affinity cookie.
    pub cookie_same_site: SameSite,
    /// Time limit for connecting to a worker; default 5 s.
    pub connect_timeout: Duration,
    /// Time limit for a worker to begin its answer; default 60 s. Polls of a learned session get at least the session's
    /// pingInterval + pingTimeout (docs/reference/protocols.md §1.8).
    pub response_timeout: Duration,
    /// Time limit from a request's head to the last byte of its answer; does not apply to long polls, event streams and
    /// tunnels. `None`: no limit.
    pub request_timeout: Option<Duration>,
    /// A tunnel that is silent in both directions for this long is closed. `None`: the session's own pingInterval +
    /// pingTimeout + 5 s, or one hour if its ping numbers are not known. Applies to tunnels opened after a reload.
    pub tunnel_idle: Option<Duration>,
    /// Pings on the tunnels of its clients, and broadcasts to them. Applies to tunnels opened after a reload;
    /// `broadcast` applies at once.
    pub tunnels: Tunnels,
    /// When live failures eject a worker. An ejection in progress keeps its end.
    pub eject: Eject,
    /// Time over which a worker that comes back (from an ejection, from not being up, from a restart) is eased in;
    /// default 10 s. A reload also applies it to workers that are being eased in.
    pub slow_start: Duration,
    /// Percent of the requests of `eject.window` that may be sent a second time, in addition to three per second;
    /// default 20. 0 disables retries completely.
    pub retry_budget: u32,
    /// Time after which an unanswered handshake on a new connection asks another worker; default 5 s. Zero: never.
    pub retry_after: Duration,
    /// Maximum number of connections in use to one worker: one for each request in flight (open polls included) and
    /// for each tunnel. `None`: no limit. A reload applies it at once.
    pub max_connections: Option<u32>,
    /// Maximum number of requests waiting for a connection, per worker; default 100.
    pub queue: u32,
    /// Maximum time a request waits for a connection; default 5 s.
    pub queue_timeout: Duration,
    /// Maximum number of tunnels to one worker; `None`: no limit except `max_connections`. Open tunnels stay.
    pub max_tunnels: Option<u32>,
    /// Maximum size of a request's body, in bytes; `None`: no limit.
    pub max_body: Option<u64>,
    /// How the sessions of a drained worker end. Applies to drains that begin after a reload.
    pub drain: Drain,
    /// How the sessions of a worker end that a reload removes. Applies to the reload that brings the change.
    pub removed: RemovedPolicy,
    /// Sends `Forwarded` (RFC 7239) to the workers, in addition to `X-Forwarded-*`.
    pub forwarded: bool,
    /// Adds a header to answers that names the chosen worker, and why it was chosen.
    pub debug_header: bool,
    /// Rate limits for all clients together. A reload keeps the counts if the rates are unchanged.
    pub rate: guards::Rates,
    /// Labels attached to each socket of this upstream: at most 8, with unique names. Applies to sockets that begin
    /// after a reload.
    pub labels: Arc<LabelRules>,
    /// TLS settings for connections to the workers; `None`: no TLS.
    pub tls: Option<Arc<WorkerTls>>,
    /// The workers that stickyd starts; `None`: others start the workers in `groups`.
    pub spawn: Option<Arc<spawn::Spawn>>,
    /// Name of this stickyd, which tells the workers that it starts from those of the other stickyds of a fleet.
    pub machine: Option<Arc<str>>,
    /// Values that count as a problem; `None`: none do.
    pub alarm: Option<Arc<alarm::Alarm>>,
    /// Messages for users whose clients are away; `None`: none are kept.
    pub offline_queue: Option<OfflineQueue>,
}

impl Upstream {
    /// An upstream with the default for every setting.
    pub fn new(name: String, groups: Vec<Group>, found: ResolvedNames) -> Self {
        let workers = workers::expand(&groups, &found, &[]).workers.into_iter().map(|(worker, _)| worker).collect();
        Self {
            name,
            groups,
            found,
            workers,
            dns_interval: Duration::from_secs(10),
            affinity: [Affinity::automatic(), vec![Affinity::Cookie, Affinity::Address]].concat(),
            follow: Vec::new(),
            health: Health::default(),
            cookie_same_site: SameSite::default(),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            request_timeout: None,
            tunnel_idle: None,
            tunnels: Tunnels::default(),
            eject: Eject::default(),
            slow_start: Duration::from_secs(10),
            retry_budget: 20,
            retry_after: Duration::from_secs(5),
            max_connections: None,
            queue: 100,
            queue_timeout: Duration::from_secs(5),
            max_tunnels: None,
            max_body: None,
            drain: Drain::default(),
            removed: RemovedPolicy::default(),
            forwarded: false,
            debug_header: false,
            bus: true,
            emit: None,
            rate: guards::Rates::default(),
            labels: Arc::default(),
            tls: None,
            spawn: None,
            machine: None,
            alarm: None,
            offline_queue: None,
        }
    }
}
