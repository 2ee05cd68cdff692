//! Whether a client that connects is accepted: room for one more in total, of its address, and a free descriptor. Idle
//! clients are closed to make room. Left out: the counts themselves (`client_limits`).

use std::net::IpAddr;
use std::sync::atomic::Ordering::Relaxed;

use super::ThreadListener;
use crate::metrics::LimitLabel;
use crate::telemetry::say_full;
use crate::thread::Registered;

/// Returns whether a connection just accepted may stay. `live` already counts towards the total, until it is dropped.
pub(crate) fn admits(live: &Registered, listener: &ThreadListener, descriptor: i32, peer: IpAddr) -> bool {
    let shared = &live.thread().shared;
    if !shared.caps.descriptors().admits_client(descriptor) {
        shared.metrics.limits.reached(LimitLabel::Descriptors);
        say_full!("client connection rejected: the remaining descriptors are reserved (reserved_descriptors)");
        return false;
    }
    // A new client is more likely to send a request than the one that has been silent for longest. That one is closed,
    // as nginx does with its reusable connections.
    if shared.clients.load(Relaxed) > shared.caps.connections() && !made_room(live) {
        shared.metrics.limits.reached(LimitLabel::Connections);
        say_full!(limit = shared.caps.connections(), "client connection rejected: the limit is reached (connections)");
        return false;
    }
    listener.trusts(peer) || admits_address(live, peer)
}

fn made_room(live: &Registered) -> bool {
    let made = live.thread().make_room();
    if made {
        live.thread().shared.metrics.limits.reached(LimitLabel::IdleConnections);
        say_full!(
            limit = live.thread().shared.caps.connections(),
            "idle client connection closed to make room for a new one: the limit is reached (connections)"
        );
    }
    made
}

/// Returns whether a connection may stay as one of this address, which is the peer's or the one named by a PROXY
/// header.
pub(crate) fn admits_address(live: &Registered, ip: IpAddr) -> bool {
    let shared = &live.thread().shared;
    let address = shared.caps.hash(ip);
    let admitted = shared.caps.try_enter_connection(address);
    if admitted {
        live.counted_for(address);
    } else {
        shared.metrics.limits.reached(LimitLabel::ConnectionsPerAddress);
        say_full!(peer = %ip, "client connection rejected: the limit per address is reached (connections_per_address)");
    }
    admitted
}
