//! Which process that is linked to the bus is a worker's, and what it says about itself.
//!
//! A worker that stickyd started is known by its slot. Of the others, the process that listens at the worker's address
//! is the worker (`processes`); where that is the master of a cluster, it is the one process that says it listens on
//! the worker's port. What processes say is never a label of a series, only its value.

use super::api::BusFactsView;
use crate::bus::BusMember;
use crate::config::Address;
use crate::metrics::BusSample;
use crate::processes::ProcessTable;
use crate::upstream::worker::Worker;

/// The linked Socket.IO servers of one worker; all of one process.
pub(crate) struct LinkedProcess<'a>(Vec<&'a BusMember>);

impl<'a> LinkedProcess<'a> {
    /// Finds the process of a worker among all that are linked.
    pub(crate) fn of(worker: &Worker, look: &ProcessTable, linked: &'a [BusMember]) -> Option<Self> {
        let own: Vec<&BusMember> = linked.iter().filter(|member| member.upstream == *worker.upstream).collect();
        let pid = pid_of(worker, look, &own)?;
        let servers: Vec<&BusMember> = own.into_iter().filter(|member| member.pid == pid).collect();
        (!servers.is_empty()).then_some(Self(servers))
    }

    /// Returns its figures for a scrape.
    pub(crate) fn sample(&self) -> BusSample {
        // Lag and heap are those of the process, which each of its servers reports.
        let facts = self.0.first().map(|member| member.facts).unwrap_or_default();
        BusSample {
            lag_ms: facts.lag_ms,
            lag_p99_ms: facts.lag_p99_ms,
            heap_used: facts.heap_used,
            heap_total: facts.heap_total,
            clients: self.0.iter().map(|member| member.facts.clients).fold(0, u64::saturating_add),
        }
    }

    /// Returns its figures for the API.
    pub(crate) fn view(&self) -> BusFactsView {
        let BusSample { lag_ms, lag_p99_ms, heap_used, heap_total, clients } = self.sample();
        let text = |field: fn(&BusMember) -> &String| self.0.first().map(|member| field(member).clone());
        BusFactsView {
            clients,
            heap_total_bytes: heap_total,
            heap_used_bytes: heap_used,
            lag_ms: round(lag_ms),
            lag_p99_ms: round(lag_p99_ms),
            node: text(|member| &member.node).unwrap_or_default(),
            pid: self.0.first().map_or(0, |member| member.pid),
            socketio: text(|member| &member.socketio).unwrap_or_default(),
            sockets: self.0.iter().map(|member| member.facts.sockets).fold(0, u64::saturating_add),
        }
    }
}

fn round(ms: f64) -> f64 {
    (ms * 10.0).round() / 10.0
}

fn pid_of(worker: &Worker, look: &ProcessTable, own: &[&BusMember]) -> Option<u32> {
    if let Some(member) = own.iter().find(|member| !member.worker.is_empty() && member.worker == worker.name) {
        return Some(member.pid);
    }
    let listens = look.workers.get(&worker.address).map(|process| process.pid);
    if let Some(pid) = listens.filter(|pid| own.iter().any(|member| member.pid == *pid)) {
        return Some(pid);
    }
    let Address::Tcp(address) = &worker.address else { return None };
    let mut claims: Vec<u32> =
        own.iter().filter(|member| member.facts.port == address.port()).map(|member| member.pid).collect();
    claims.dedup();
    match claims.as_slice() {
        [only] => Some(*only),
        _ => None,
    }
}
