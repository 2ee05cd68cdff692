//! `GET /metrics`: what mirrors live state is put together when it is scraped, then everything is encoded. The work
//! grows with the number of workers and upstreams, not with that of sockets or sessions. Left out: what the series are
//! (`metrics`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::atomic::Ordering::Relaxed;

use super::linked::LinkedProcess;
use crate::bus::BusMember;
use crate::clock;
use crate::descriptors;
use crate::locks::lock;
use crate::metrics::families::Families;
use crate::metrics::process::{OwnProcess, WorkerProcess};
use crate::metrics::worker::{HEALTHS, WorkerSample};
use crate::metrics::{LimitSeries, Metrics, gauge};
use crate::processes::{self, Process, ProcessTable};
use crate::state::{Shared, Snapshot};
use crate::upstream::Upstream;
use crate::upstream::worker::Worker;

/// The text of `/metrics`, without the processes of workers.
#[cfg(any(test, feature = "testing"))]
pub fn scrape(shared: &Shared) -> Vec<u8> {
    scrape_with(shared, &ProcessTable::default())
}

/// The text of `/metrics`.
pub(crate) fn scrape_with(shared: &Shared, look: &ProcessTable) -> Vec<u8> {
    let (metrics, snapshot, mut live) = (&shared.metrics, shared.snapshot.load(), Families::default());
    for upstream in &snapshot.upstreams {
        show_health(&mut live, upstream);
        live.bus_workers(&upstream.config.name, shared.bus.linked(&upstream.config.name));
    }
    let linked = shared.bus.list();
    for mut sample in samples(&snapshot, look, &linked).into_values() {
        sample.is_spawned = metrics.spawn.has(sample.upstream, sample.worker);
        live.worker(&sample);
    }
    metrics.spawn.show(&mut live);
    show_names(&mut live, shared, &snapshot);
    show_fleet(&mut live, shared);
    shared.queues.stored().iter().for_each(|(upstream, messages)| live.queue_stored(upstream, *messages));
    let (open, limit) = (descriptors::open(), descriptors::limit());
    live.own_process(processes::own().as_ref().map(own), u64::try_from(open).ok(), limit);
    set_gauges(metrics, shared);
    show_limits(&metrics.limits, shared, (open, limit));
    metrics.encode(live)
}

/// Adds how many workers of an upstream are in each state of health.
fn show_health(live: &mut Families, upstream: &Upstream) {
    let (mut counts, mut unused) = ([0; HEALTHS.len()], 0);
    for worker in upstream.members.iter().map(|member| &member.worker) {
        let health = worker.health().word();
        if worker.is_unused() {
            unused += 1;
        } else if let Some((_, count)) = HEALTHS.iter().zip(&mut counts).find(|(word, _)| **word == health) {
            *count += 1;
        }
    }
    live.workers(&upstream.config.name, counts, unused);
}

/// Returns all workers that have series. A worker that was removed and the one that has its name now are shown as one:
/// the state is that of the present worker, which comes first in the snapshot, and their loads are added up.
fn samples<'a>(
    snapshot: &'a Snapshot,
    look: &ProcessTable,
    linked: &[BusMember],
) -> BTreeMap<(&'a str, &'a str), WorkerSample<'a>> {
    let mut all = BTreeMap::new();
    for worker in snapshot.workers().filter(|worker| !worker.is_unused()) {
        let next = sample(worker, look, linked);
        match all.entry((next.upstream, next.worker)) {
            Entry::Vacant(place) => drop(place.insert(next)),
            Entry::Occupied(mut known) => known.get_mut().add_load(&next),
        }
    }
    all
}

fn sample<'a>(worker: &'a Worker, look: &ProcessTable, linked: &[BusMember]) -> WorkerSample<'a> {
    let sessions = worker.sessions().into();
    WorkerSample {
        upstream: &worker.upstream,
        worker: &worker.name,
        series: &worker.series,
        health: worker.health().word(),
        admin: worker.admin.word(),
        ejected: worker.is_ejected(),
        sessions,
        tunnels: worker.tunnels().into(),
        in_flight: worker.in_flight().into(),
        waiting: worker.gate.waiting().into(),
        drain_left: if worker.admin.ending().is_some() { sessions } else { 0 },
        // The figures of a cluster's master are not those of one worker.
        process: look.workers.get(&worker.address).filter(|process| !process.shared).map(of_worker),
        is_spawned: false,
        bus: LinkedProcess::of(worker, look, linked).map(|linked| linked.sample()),
    }
}

fn of_worker(process: &Process) -> WorkerProcess {
    let Process { cpu_s, memory_bytes, .. } = *process;
    WorkerProcess { cpu_s, memory_bytes, started_s: process.started_s() }
}

fn own(process: &Process) -> OwnProcess {
    let Process { cpu_s, memory_bytes, virtual_bytes, threads, .. } = *process;
    OwnProcess { cpu_s, memory_bytes, virtual_bytes, started_s: process.started_s(), threads }
}

/// Adds the DNS names of upstreams that have any.
fn show_names(live: &mut Families, shared: &Shared, snapshot: &Snapshot) {
    let names = shared.unresolved.names(snapshot.named());
    for upstream in snapshot.named().filter(|upstream| !upstream.hosts().is_empty()) {
        let own = names.iter().filter(|name| name.upstream == upstream.name);
        live.dns_names(&upstream.name, own.map(|name| name.state.word()));
    }
}

/// Adds the state of the fleet's Redis servers, and of up to 64 stickyds.
fn show_fleet(live: &mut Families, shared: &Shared) {
    let Some(fleet) = shared.sessions.fleet() else { return };
    let members = fleet.members();
    live.fleet_members(members.len().max(1));
    if let Some(keys) = fleet.ticket_keys() {
        live.fleet_tickets(keys.count());
    }
    for member in members.iter().take(64).filter_map(|member| member.summary.as_ref()) {
        live.fleet_skew(&member.name, member.skew_ms as f64 / 1e3);
    }
    for shard in fleet.shards() {
        live.fleet_redis(&shard.shown, shard.is_usable(), lock(&shard.queue).writes.len());
    }
}

fn set_gauges(metrics: &Metrics, shared: &Shared) {
    metrics.upstreams.shared_addresses.reset();
    for upstream in &shared.snapshot.load().upstreams {
        let sharing = upstream.members.iter().filter(|member| member.worker.shares_address(clock::now_ms())).count();
        metrics.upstreams.shared_addresses.with_label_values(&[upstream.config.name.as_str()]).set(gauge(sharing));
    }
    metrics.pins.set(gauge(shared.sessions.pins.len()));
    metrics.pins_limit.set(gauge(shared.sessions.pins.capacity()));
    metrics.replay.set(gauge(shared.replay.held()));
    metrics.clients.open.set(gauge(shared.clients.load(Relaxed)));
    metrics.sockets.listed.set(gauge(shared.sessions.sockets.len()));
    metrics.sockets.limit.set(gauge(shared.sessions.sockets.capacity()));
    metrics.history_dropped.set(gauge(shared.history.dropped()));
    metrics.history_bytes.set(gauge(shared.history.bytes()));
    let config = shared.config.now();
    let dropped = crate::telemetry::dropped();
    metrics.log_dropped.inc_by(dropped.saturating_sub(metrics.log_dropped.get()));
    metrics.config_ok.set(i64::from(config.error.is_none()));
    let loaded = config.loaded.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    metrics.config_loaded.set(i64::try_from(loaded.as_secs()).unwrap_or(i64::MAX));
}

fn show_limits(series: &LimitSeries, shared: &Shared, (open, limit): (usize, u64)) {
    series.connections.set(gauge(shared.caps.connections()));
    series.descriptors.set(gauge(open));
    series.descriptors_limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::states::WorkerHealth;

    #[test]
    fn every_health_has_a_series() {
        use WorkerHealth::{Gone, Hung, Leaving, Starting, Up};
        assert_eq!(HEALTHS, [Up, Starting, Hung, Leaving, Gone].map(WorkerHealth::word));
    }
}
