//! Checks across all addresses of a configuration: no two of stickyd's own take each other's clients, and no worker is
//! stickyd itself.
//!
//! Two sockets cannot both listen on one port of one address, and a wildcard address has every address of its family:
//! what the kernel would refuse at start is an error here, so that `check` and `run` agree. Left out: what only the
//! running system knows (another process on the port, an address that this machine does not have, a port below 1024
//! without permission).

use std::net::{IpAddr, SocketAddr};

use super::admin::ReadAdmin;
use super::check::Context;
use super::error::Span;
use super::upstream::ReadUpstream;
use super::{Address, AdminAddress, AdminListener, Listener};

/// Reports addresses of listeners, the admin listener included, that overlap.
pub(crate) fn differ(context: &Context<'_>, listeners: &[(Listener, Span)], admin: &ReadAdmin) {
    for (i, (listener, at)) in listeners.iter().enumerate() {
        let address = listener.address;
        if let Some((other, first)) = listeners.iter().take(i).find(|(other, _)| overlap(other.address, address)) {
            let line = context.report.line_of(first);
            let message = match same(other.address, address) {
                true => format!("{address} already has a listener, on line {line}"),
                false => format!("{address} overlaps with the listener {} on line {line}", other.address),
            };
            report(context, at, message, same(other.address, address));
        }
        for (taken, _) in &admin.written {
            let AdminAddress::Tcp(taken) = taken else { continue };
            if overlap_of_families(*taken, address) {
                let message = match same(*taken, address) {
                    true => format!("{address} is already the admin listener's address"),
                    false => format!("{address} overlaps with the admin listener's address {taken}"),
                };
                report(context, at, message, same(*taken, address));
            }
        }
    }
    for (i, (address, at)) in admin.written.iter().enumerate() {
        let clash = |(other, _): &&(AdminAddress, Span)| match (other, address) {
            (AdminAddress::Tcp(one), AdminAddress::Tcp(two)) => overlap_of_families(*one, *two),
            (one, two) => one == two,
        };
        if let Some((other, _)) = admin.written.iter().take(i).find(clash) {
            let message = match other == address {
                true => format!("{address} is in the list twice"),
                false => format!("{address} overlaps with {other}"),
            };
            report(context, at, message, other == address);
        }
    }
}

fn report(context: &Context<'_>, at: &Span, message: String, same: bool) {
    match same {
        true => context.report.error(at, message),
        false => {
            let help = "a wildcard address has every address of this machine: keep one of the two, or change a port";
            context.report.error_help(at, message, help);
        }
    }
}

/// Whether both are the same address; IPv4 inside IPv6 is IPv4.
fn same(one: SocketAddr, two: SocketAddr) -> bool {
    one.port() == two.port() && one.ip().to_canonical() == two.ip().to_canonical()
}

/// Whether two listeners would get the same clients. Listeners of the two families do not: where both are configured,
/// the IPv6 socket is for IPv6 alone.
fn overlap(one: SocketAddr, two: SocketAddr) -> bool {
    let (first, second) = (one.ip().to_canonical(), two.ip().to_canonical());
    let wild = first.is_unspecified() || second.is_unspecified();
    one.port() == two.port() && one.port() != 0 && (first == second || (wild && first.is_ipv4() == second.is_ipv4()))
}

/// Like [`overlap`], where a wildcard IPv6 address has IPv4 as well: for the admin listener.
fn overlap_of_families(one: SocketAddr, two: SocketAddr) -> bool {
    let (first, second) = (one.ip().to_canonical(), two.ip().to_canonical());
    let both = |ip: IpAddr| ip.is_ipv6() && ip.is_unspecified();
    let ports = one.port() == two.port() && one.port() != 0;
    overlap(one, two) || (ports && (both(first) || both(second)))
}

/// Reports workers that are one of our own listeners: every request would come back until no descriptor is left.
pub(crate) fn no_loops(context: &Context<'_>, listeners: &[(Listener, Span)], upstreams: &[ReadUpstream]) {
    for read in upstreams {
        let mut said: Option<&Span> = None;
        for (worker, at) in read.upstream.workers.iter().zip(&read.entries) {
            let own = listeners.iter().find(|(listener, _)| is_listener(&worker.address, listener.address));
            if let (Some((listener, _)), true) = (own, said != Some(at)) {
                said = Some(at);
                let message = format!("worker {} is stickyd's own listener {}", worker.address, listener.address);
                context.report.error_help(at, message, "give the application ports of its own");
            }
        }
    }
}

/// Reports workers that are the admin listener: clients would reach it through a route, from an address of this host.
pub(crate) fn no_way_to_admin(context: &Context<'_>, admin: &AdminListener, upstreams: &[ReadUpstream]) {
    for read in upstreams {
        let entries = read.upstream.workers.iter().zip(&read.entries);
        let is_admin = |worker: &Address| admin.addresses().any(|address| is_admin(worker, address));
        for (worker, at) in entries.filter(|(worker, _)| is_admin(&worker.address)) {
            let message = format!("worker {} is stickyd's own admin listener", worker.address);
            let help = "clients would reach it: give the application an address of its own";
            context.report.error_help(at, message, help);
        }
    }
}

fn is_admin(worker: &Address, admin: &AdminAddress) -> bool {
    match (worker, admin) {
        (worker, AdminAddress::Tcp(admin)) => is_listener(worker, *admin),
        (Address::Unix(worker), AdminAddress::Unix(admin)) => worker == admin,
        (_, AdminAddress::Unix(_) | AdminAddress::None) => false,
    }
}

/// Whether requests sent to this worker would arrive at this listener.
pub(crate) fn is_listener(worker: &Address, listener: SocketAddr) -> bool {
    let Address::Tcp(worker) = worker else { return false };
    let (worker_ip, own) = (worker.ip().to_canonical(), listener.ip().to_canonical());
    worker.port() == listener.port() && (worker_ip == own || (own.is_unspecified() && worker_ip.is_loopback()))
}
