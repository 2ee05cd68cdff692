//! `/api/v1/fleet`: the stickyds of the fleet, what differs among them, and the Redis between them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;

use super::api::{FleetAnswer, FleetMemberView, RedisView};
use super::{Api, ApiRefusal, refuse};
use crate::config;
use crate::fleet::Fleet;
use crate::fleet::members::{SeenWorker, Summary, differences};
use crate::keys::plain_hash;
use crate::locks::lock;
use crate::state::Shared;
use crate::upstream::worker::Worker;

/// `GET /api/v1/fleet`: every stickyd of the fleet, as it shows itself now.
pub(super) async fn show(State(api): State<Api>) -> Result<Json<FleetAnswer>, ApiRefusal> {
    let fleet = of(&api)?;
    if !fleet.show(&summary(&api.shared)).await {
        tracing::debug!("the fleet's Redis does not answer: only this stickyd is shown");
    }
    let members = fleet.members();
    let view = |member: &crate::fleet::members::FleetMember| FleetMemberView {
        name: member.name.clone(),
        node: format!("{:016x}", member.node),
        own: member.node == fleet.node(),
        summary: member.summary.clone(),
    };
    Ok(Json(FleetAnswer {
        differences: differences(&members),
        members: members.iter().map(view).collect(),
        name: fleet.name().to_owned(),
        redis: redis(&api.shared),
    }))
}

/// The fleet that this stickyd belongs to.
pub(super) fn of(api: &Api) -> Result<Arc<Fleet>, ApiRefusal> {
    let none = || refuse(StatusCode::NOT_FOUND, "this stickyd belongs to no fleet: its file has no [fleet]");
    api.shared.sessions.fleet().cloned().ok_or_else(none)
}

/// State of each Redis of the fleet; empty without a fleet.
pub(crate) fn redis(shared: &Shared) -> Vec<RedisView> {
    let shards = shared.sessions.fleet().into_iter().flat_map(|fleet| fleet.shards());
    let view = |shard: &Arc<crate::fleet::Shard>| {
        let health = lock(&shard.health).clone();
        RedisView {
            address: shard.shown.clone(),
            error: health.error.clone(),
            evicted: health.evicted.unwrap_or(0),
            p50_ms: health.latency_ms(50),
            p99_ms: health.latency_ms(99),
            queue: lock(&shard.queue).writes.len(),
            state: health.state.to_owned(),
        }
    };
    shards.map(view).collect()
}

/// What this stickyd shows to the others.
pub(crate) fn summary(shared: &Shared) -> Summary {
    let snapshot = shared.snapshot.load();
    let workers = snapshot.workers().filter(|worker| !worker.is_unused() && !worker.admin.is_removed());
    let seen = |worker: &Arc<Worker>| SeenWorker {
        admin: worker.admin().word().to_owned(),
        health: worker.health().word().to_owned(),
        name: worker.name.clone(),
        sessions: worker.sessions().into(),
        upstream: worker.upstream.to_string(),
    };
    let workers: Vec<_> = workers.map(seen).collect();
    let affinity = snapshot.named().map(|upstream| (upstream.name.clone(), fingerprint(upstream)));
    let (fleet, series) = (shared.sessions.fleet(), &shared.metrics.fleet);
    let health = fleet.and_then(|fleet| fleet.shards().next()).map(|shard| lock(&shard.health).clone());
    let latency = |percent| health.as_ref().map_or(0.0, |health| health.latency_ms(percent));
    Summary {
        affinity: affinity.collect(),
        control: fleet.is_none_or(|fleet| fleet.settings().control),
        found: series.lookups("hit"),
        looked_up: series.all_lookups(),
        name: fleet.map_or_else(String::new, |fleet| fleet.name().to_owned()),
        redis_p50_ms: latency(50),
        redis_p99_ms: latency(99),
        sessions: workers.iter().map(|worker| worker.sessions).sum(),
        skew_ms: fleet.map_or(0, |fleet| fleet.skew_ms()),
        sockets: shared.sessions.sockets.len() as u64,
        uptime_s: shared.started.elapsed().as_secs(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        workers,
        written: series.writes.get(),
    }
}

/// Tells different affinity rules apart.
fn fingerprint(upstream: &config::Upstream) -> String {
    let hash = plain_hash(format!("{:?} {:?}", upstream.affinity, upstream.follow).as_bytes());
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
