//! An unmodified Socket.IO cluster with stickyd in front of it behaves as one server.

mod clients;
mod discovery_bodies;
mod discovery_hung;
mod discovery_order;
mod forged_cookies;
mod http2;
mod made_up_pages;
mod made_up_sids;
mod metrics;
mod no_worker;
mod other_servers;
mod preflights;
pub(crate) mod process_managers;
mod refusals;
mod stickyd_restarts;
mod two_tunnels;
mod worker_failures;
