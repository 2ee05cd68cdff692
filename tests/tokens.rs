//! Tokens and users (`[route.jwt]`, `users`, `refuse`): with real Socket.IO clients, and byte by byte.

mod browser;
mod bypasses;
mod fields;
mod keys;
mod packets;
mod refused;
mod session_ids;
mod users;

use crate::support::cluster::upstream;
use crate::support::node::Worker;
use crate::support::proxy::Proxy;
use crate::support::tokens::SECRET;

/// A proxy whose only route has `[route.jwt]` with these keys; `route` are keys of the route itself.
fn guarded(workers: &[Worker], route: &str, jwt: &str) -> Proxy {
    Proxy::with(&format!("{}{}", upstream(workers), routed(route, jwt)))
}

fn routed(route: &str, jwt: &str) -> String {
    format!("\n[[route]]\nupstream = \"app\"\n{route}\n[route.jwt]\nsecret = \"{SECRET}\"\n{jwt}\n")
}

fn turned(proxy: &Proxy, guard: &str) -> f64 {
    proxy.metric(&format!("stickyd_guarded_total{{guard=\"{guard}\",upstream=\"app\"}}"))
}
