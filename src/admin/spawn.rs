//! `/api/v1/spawn`: the workers that stickyd starts itself, and orders for them; `/api/v1/logs`: what they write.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;

use super::api::{LogLineView, LogsAnswer, PoolView, RollView, SpawnAnswer, SpawnOrderBody, SpawnedView};
use super::layers::WholeBody;
use super::{Api, ApiRefusal, refuse};
use crate::spawn::{LogLine, PoolState, RollState, SlotState, Target, Wish};

/// `GET /api/v1/spawn`: every upstream whose workers stickyd starts.
pub(crate) async fn show(State(api): State<Api>) -> Json<SpawnAnswer> {
    Json(SpawnAnswer { upstreams: api.spawned.show().await.into_iter().map(pool).collect() })
}

/// `POST /api/v1/spawn/{upstream}/{word}`: restart, scale, stop, start. The answer does not wait for the end.
pub(crate) async fn wish(
    State(api): State<Api>,
    Path((upstream, word)): Path<(String, String)>,
    WholeBody(body): WholeBody,
) -> Result<Json<PoolView>, ApiRefusal> {
    let invalid = |why: String| refuse(StatusCode::UNPROCESSABLE_ENTITY, why);
    let order: SpawnOrderBody = match body.trim_ascii() {
        [] => SpawnOrderBody::default(),
        body => serde_json::from_slice(body)
            .map_err(|error| invalid(format!("{error}: the body is JSON such as {{\"worker\": \"1\"}}")))?,
    };
    let wish = match (&*word, order.instances) {
        ("scale", Some(instances)) => Wish::Scale(instances),
        ("scale", None) => return Err(invalid("`instances` is needed, such as {\"instances\": 4}".to_owned())),
        ("restart" | "stop" | "start", Some(_)) => {
            return Err(invalid("`instances` is allowed only for scale".to_owned()));
        }
        ("restart", None) => Wish::Restart,
        ("stop", None) => Wish::Stop,
        ("start", None) => Wish::Start,
        _ => {
            let why = format!("`{word}` is not an order: use restart, scale, stop or start");
            return Err(refuse(StatusCode::NOT_FOUND, why));
        }
    };
    let slot = order.worker.as_deref().map(slot).transpose().map_err(invalid)?;
    if slot.is_some() && matches!(wish, Wish::Scale(_)) {
        return Err(invalid("`worker` is not allowed for scale".to_owned()));
    }
    if !api.spawned.show().await.iter().any(|pool| pool.upstream == upstream) {
        let why = format!("stickyd does not start the workers of an upstream `{upstream}`");
        return Err(refuse(StatusCode::NOT_FOUND, why));
    }
    tracing::info!(%upstream, worker = slot, order = %word, "operator changes spawned workers");
    let target = Target { upstream: Some(upstream), slot };
    api.spawned.wish(target, wish).await.map(pool).map(Json).map_err(|why| refuse(StatusCode::CONFLICT, why))
}

/// `GET /api/v1/logs?from=&upstream=&worker=`: lines that workers wrote, from a number on.
pub(crate) async fn logs(
    State(api): State<Api>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<LogsAnswer>, ApiRefusal> {
    let invalid = |why: String| refuse(StatusCode::UNPROCESSABLE_ENTITY, why);
    if let Some(name) = query.keys().find(|name| !matches!(name.as_str(), "from" | "upstream" | "worker")) {
        return Err(invalid(format!("unknown parameter `{name}`: use from, upstream and worker")));
    }
    let from = query.get("from").map_or(Ok(0), |text| text.parse());
    let from = from.map_err(|_| invalid("`from` must be a number".to_owned()))?;
    let slot = query.get("worker").map(|text| slot(text)).transpose().map_err(invalid)?;
    let target = Target { upstream: query.get("upstream").cloned(), slot };
    let page = api.spawned.lines(from, target).await;
    let none = || {
        refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "there is no spawner, because no upstream has `spawn`, or it does not answer",
        )
    };
    let page = page.ok_or_else(none)?;
    Ok(Json(LogsAnswer { lines: page.lines.into_iter().map(line).collect(), next: page.next }))
}

fn slot(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("`{text}` is not a worker that stickyd starts: these are 1, 2 and so on"))
}

fn line(line: LogLine) -> LogLineView {
    let stream = if line.error { "stderr" } else { "stdout" }.to_owned();
    LogLineView { at_ms: line.at_ms, stream, text: line.text, upstream: line.upstream, worker: line.worker }
}

fn pool(pool: PoolState) -> PoolView {
    PoolView {
        instances: pool.instances,
        roll: pool.roll.map(roll),
        upstream: pool.upstream,
        workers: pool.workers.into_iter().map(worker).collect(),
    }
}

fn roll(roll: RollState) -> RollView {
    RollView {
        id: roll.id,
        last_lines: roll.last_lines,
        replaced: roll.replaced,
        state: roll.outcome.word().to_owned(),
        total: roll.total,
        why: roll.why,
    }
}

fn worker(slot: SlotState) -> SpawnedView {
    SpawnedView {
        address: slot.address,
        last_lines: slot.last_lines,
        leaving: slot.leaving,
        memory_bytes: slot.memory_bytes,
        pid: slot.pid,
        restarts: slot.restarts,
        starts_in_ms: slot.starts_in_ms,
        state: slot.state.to_owned(),
        up_s: slot.up_s,
        why: slot.why,
        worker: slot.worker.to_string(),
    }
}
