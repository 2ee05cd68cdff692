//! `/api/v1/status`: stickyd itself, and how close it is to its limits. `/api/v1/health`: checks by load balancers in
//! front.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use rlimit::Resource;

use super::api::{ConfigView, DescriptorUsage, StatusAnswer, Usage};
use super::workers::process;
use super::{Api, fleet, sessions};
use crate::clock;
use crate::state::Shared;

/// `GET /api/v1/status`: the state of stickyd, its configuration and its limits.
pub(crate) async fn show(State(api): State<Api>) -> Json<StatusAnswer> {
    let (shared, config) = (&api.shared, api.shared.config.now());
    let look = api.look().await;
    let listeners = config.listeners.iter().map(ToString::to_string).collect();
    let config = ConfigView {
        error: config.error,
        file: config.file.map(|file| file.display().to_string()),
        generation: config.generation,
        loaded_at: humantime::format_rfc3339_millis(config.loaded).to_string(),
        needs_restart: config.needs_restart.iter().map(ToString::to_string).collect(),
    };
    let (pins, sockets) = (&shared.sessions.pins, &shared.sessions.sockets);
    Json(StatusAnswer {
        client_connections: shared.clients.load(Relaxed),
        config,
        descriptors: DescriptorUsage { held: look.descriptors, limit: Resource::NOFILE.get_soft().ok() },
        listeners,
        log_lines_dropped: crate::telemetry::dropped(),
        pid: std::process::id(),
        pins: Usage { held: pins.len(), limit: pins.capacity() },
        process: look.own.as_ref().map(process),
        redis: fleet::redis(shared),
        replay_bytes: Usage { held: shared.replay.held(), limit: shared.limits.load().replay_bytes },
        shared_addresses: shared_addresses(shared),
        sockets: Usage { held: sockets.len(), limit: sockets.capacity() },
        stopping: api.stopping.is_cancelled(),
        uptime_s: shared.started.elapsed().as_secs(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Returns the workers whose addresses several processes seem to share.
fn shared_addresses(shared: &Shared) -> Vec<String> {
    let (snapshot, now) = (shared.snapshot.load(), clock::now_ms());
    let workers = snapshot.workers().filter(|worker| worker.shares_address(now));
    workers.map(|worker| format!("{}/{}", worker.upstream, worker.name)).collect()
}

/// `GET /api/v1/health`: 200 while stickyd serves, 503 once it stops, so that a load balancer in front uses another
/// one. With `?upstream=app` it is 200 only if, in addition, that upstream has a worker that takes new sessions. It is
/// the one path that needs no token on any address.
pub(crate) async fn health(State(api): State<Api>, Query(query): Query<HashMap<String, String>>) -> Response {
    if let Err(refusal) = sessions::known(&query, &["upstream"]) {
        return refusal.into_response();
    }
    let upstream = query.get("upstream").map(String::as_str);
    let readiness = api.shared.readiness(api.stopping.is_cancelled(), upstream);
    let status = StatusCode::from_u16(readiness.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], readiness.text()).into_response()
}
