//! `GET /metrics`: gauges that mirror live state are set when they are scraped, then everything is encoded. Left out:
//! what the series are (`metrics`).

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use crate::descriptors;
use crate::metrics::socket_labels::Transport;
use crate::metrics::{LimitSeries, Metrics, SocketsSeries, gauge};
use crate::sockets::{SHARDS, Socket, Sockets, Traffic};
use crate::state::Shared;
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::Worker;

/// The text of `/metrics`.
pub fn scrape(shared: &Shared) -> Vec<u8> {
    let metrics = &shared.metrics;
    metrics.generations.reset();
    metrics.dns_names.reset();
    for name in shared.unresolved.names(shared.snapshot.load().named()) {
        metrics.dns_names.with_label_values(&[name.upstream.as_str(), name.state.word()]).inc();
    }
    for gauge in [
        &metrics.ejected,
        &metrics.waiting,
        &metrics.sessions,
        &metrics.tunnels,
        &metrics.in_flight,
        &metrics.states,
        &metrics.admin_states,
        &metrics.drain_left,
    ] {
        gauge.reset();
    }
    for worker in shared.snapshot.load().workers() {
        show_worker(metrics, worker);
    }
    metrics.pins.set(gauge(shared.sessions.pins.len()));
    metrics.pins_limit.set(gauge(shared.sessions.pins.capacity()));
    metrics.replay.set(gauge(shared.replay.held()));
    metrics.clients.set(gauge(shared.clients.load(Relaxed)));
    show_limits(&metrics.limits, shared);
    show_sockets(&metrics.sockets, &shared.sessions.sockets);
    let config = shared.config.now();
    let dropped = crate::telemetry::dropped();
    metrics.log_dropped.inc_by(dropped.saturating_sub(metrics.log_dropped.get()));
    metrics.config_ok.set(i64::from(config.error.is_none()));
    let loaded = config.loaded.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    metrics.config_loaded.set(i64::try_from(loaded.as_secs()).unwrap_or(i64::MAX));
    metrics.encode()
}

fn show_worker(metrics: &Metrics, worker: &Worker) {
    let labels = &[&*worker.upstream, worker.name.as_str()];
    // A worker that was replaced has its successor's name until its last session is over, so loads are added up.
    metrics.generations.with_label_values(labels).set(i64::from(worker.generation()));
    metrics.sessions.with_label_values(labels).add(i64::from(worker.sessions()));
    metrics.tunnels.with_label_values(labels).add(i64::from(worker.tunnels()));
    metrics.in_flight.with_label_values(labels).add(i64::from(worker.in_flight()));
    metrics.ejected.with_label_values(labels).set(i64::from(worker.is_ejected()));
    metrics.waiting.with_label_values(labels).add(i64::from(worker.gate.waiting()));
    if worker.admin.ending().is_some() {
        metrics.drain_left.with_label_values(labels).add(i64::from(worker.sessions()));
    }
    let health = worker.health().word();
    metrics.states.with_label_values(&[&*worker.upstream, &worker.name, health]).set(1);
    metrics.admin_states.with_label_values(&[&*worker.upstream, &worker.name, worker.admin.word()]).set(1);
}

fn show_limits(series: &LimitSeries, shared: &Shared) {
    series.connections.set(gauge(shared.caps.connections()));
    series.descriptors.set(gauge(descriptors::open()));
    series.descriptors_limit.set(i64::try_from(descriptors::limit()).unwrap_or(i64::MAX));
}

/// Sets the gauges and totals from the sockets that are live now.
fn show_sockets(all: &SocketsSeries, sockets: &Sockets) {
    all.live.reset();
    all.listed.set(gauge(sockets.len()));
    all.limit.set(gauge(sockets.capacity()));
    let known = all.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
    // Keyed by the worker's serial, so that names are looked up once per worker, not once per socket.
    let mut counts: HashMap<(WorkerSerial, Transport), (Arc<Socket>, i64)> = HashMap::new();
    let mut carried: HashMap<&str, [(u64, u64); 2]> =
        known.keys().map(|name| (name.as_str(), Default::default())).collect();
    for socket in (0..SHARDS).flat_map(|shard| sockets.shard(shard)) {
        if let Some([up, down]) = carried.get_mut(&*socket.worker().upstream) {
            let add = |sum: &mut (u64, u64), way: &Traffic| *sum = (sum.0 + way.messages(), sum.1 + way.bytes());
            add(up, &socket.up);
            add(down, &socket.down);
        }
        counts.entry((socket.worker().serial, socket.transport())).or_insert_with(|| (socket, 0)).1 += 1;
    }
    for ((_, transport), (socket, count)) in counts {
        let worker = socket.worker();
        all.live.with_label_values(&[&*worker.upstream, &worker.name, transport.word()]).add(count);
    }
    for (name, series) in &*known {
        series.show(carried.get(name.as_str()).copied().unwrap_or_default());
    }
}
