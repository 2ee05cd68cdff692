//! The admin listener: access to it, its API, `/status`, `/metrics` and the state directory.

mod access;
mod access_log;
mod api;
mod emits;
mod events;
mod history;
mod layers;
mod live;
mod metrics;
mod roles;
mod status_and_metrics;
mod traffic_health;
