//! `POST /api/v1/sockets/{id}/close` and `/api/v1/sockets/close`: what is told to end, and how far that is.
//!
//! Whatever is wrong with an order, nothing is done: a code that may not be sent, a reason too long, a filter that fits
//! nothing, and no filter at all where `all` does not say that it is meant.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Api, Refusal, find, gather, refuse, take_filter};
use crate::clock;
use crate::config::{Farewell, LONGEST_GRACE, LONGEST_REASON};
use crate::drain::ordered::{self, Closing};
use crate::sockets::{Order, Transport};
use crate::tunnel::frames::CloseCode;

/// What a body may say besides a filter.
const HELP: &str = "a filter (upstream, worker, address, state, transport, protocol, sid, route, min_age, label.NAME) or \
                    \"all\": true; and code, reason, spread, dry_run";

/// Sockets told in one go before the answer; more, and the order goes on behind it.
const AT_ONCE: usize = 1_000;

/// `POST /api/v1/sockets/{id}/close`.
pub(in crate::admin) async fn one(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    let mut fields = object(&body)?;
    let order = order(&mut fields)?;
    nothing_left(&fields, "code and reason")?;
    let socket = find(&api.shared.sockets, &id)?;
    if !ordered::close(&api.shared, &socket, &order) {
        return Err(refuse(StatusCode::CONFLICT, format!("the socket `{id}` is ending already")));
    }
    tracing::info!(socket = %socket.id(), upstream = %socket.worker().upstream, code = order.code.get(), "told to close");
    Ok(Json(json!({ "id": socket.id().to_string(), "transport": socket.transport().word(), "code": order.code.get() })))
}

/// `POST /api/v1/sockets/close`.
pub(in crate::admin) async fn many(State(api): State<Api>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let mut fields = object(&body)?;
    let order = order(&mut fields)?;
    let spread = spread(&mut fields)?;
    let dry_run = boolean(&mut fields, "dry_run")?;
    let all = boolean(&mut fields, "all")?;
    let mut given = texts(&mut fields)?;
    let filter = take_filter(&api, &mut given)?;
    if let Some(unknown) = given.keys().min() {
        return Err(wrong(format!("unknown field `{unknown}`: there is {HELP}")));
    }
    if filter.is_empty() != all {
        let why =
            if all { "`all` and a filter contradict each other" } else { "which sockets? \"all\": true means all" };
        return Err(wrong(format!("{why}: give {HELP}")));
    }
    let sockets = gather(&api.shared.sockets, &filter, clock::now_s()).await;
    if sockets.is_empty() {
        return Err(refuse(StatusCode::NOT_FOUND, "no live socket fits: nothing was closed"));
    }
    let polling = sockets.iter().filter(|socket| socket.transport() == Transport::Polling).count();
    let said = |closing: Option<&Closing>| {
        Ok(Json(json!({
            "dry_run": dry_run,
            "matched": sockets.len(),
            "polling": polling,
            "tunnels": sockets.len() - polling,
            "code": order.code.get(),
            "spread_s": spread.as_secs_f64(),
            "closing": closing.map(describe),
        })))
    };
    if dry_run {
        return said(None);
    }
    let Some(closing) = api.closings.begin(sockets.len(), spread) else {
        return Err(refuse(
            StatusCode::CONFLICT,
            "too many closings are under way: GET /api/v1/sockets/close shows them",
        ));
    };
    let (matched, code) = (sockets.len(), order.code.get());
    tracing::info!(closing = closing.number, matched, code, spread_s = spread.as_secs(), "sockets are told to close");
    let (shared, kept) = (api.shared.clone(), closing.clone());
    if !spread.is_zero() {
        let ids = sockets.iter().map(|socket| socket.id()).collect();
        api.spawn(ordered::spread(shared, kept, ids, order.clone()));
    } else if matched > AT_ONCE {
        api.spawn(ordered::at_once(shared, kept, sockets.clone(), order.clone()));
    } else {
        ordered::at_once(shared, kept, sockets.clone(), order.clone()).await;
    }
    said(Some(&closing))
}

/// `GET /api/v1/sockets/close`.
pub(in crate::admin) async fn progress(State(api): State<Api>) -> Json<Value> {
    Json(json!({ "closings": api.closings.all().iter().map(|one| describe(one)).collect::<Vec<_>>() }))
}

fn describe(closing: &Closing) -> Value {
    json!({
        "number": closing.number,
        "matched": closing.matched,
        "told": closing.told(),
        "gone": closing.gone(),
        "left": closing.left(),
        "ends_in_s": if closing.left() == 0 { 0 } else { closing.left_ms().div_ceil(1_000) },
    })
}

pub(in crate::admin) fn wrong(why: impl Into<String>) -> Refusal {
    refuse(StatusCode::UNPROCESSABLE_ENTITY, why)
}

pub(in crate::admin) fn object(body: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(wrong(format!("the body is a JSON object: {HELP}"))),
    }
}

/// What the sockets are to say.
fn order(fields: &mut Map<String, Value>) -> Result<Order, Refusal> {
    let mut farewell = Farewell::default();
    if let Some(code) = fields.remove("code") {
        let number = code.as_u64().and_then(|code| u16::try_from(code).ok());
        let number = number.ok_or_else(|| wrong("`code` is a number from 1000 to 4999"))?;
        farewell.code = CloseCode::new(number).map_err(|error| wrong(error.to_string()))?;
    }
    if let Some(reason) = fields.remove("reason") {
        farewell.reason = reason.as_str().ok_or_else(|| wrong("`reason` is a text"))?.to_owned();
    }
    if farewell.reason.len() > LONGEST_REASON {
        let long = farewell.reason.len();
        return Err(wrong(format!("`reason` has {long} bytes, and a close frame room for {LONGEST_REASON}")));
    }
    Ok(Arc::new(farewell))
}

fn spread(fields: &mut Map<String, Value>) -> Result<Duration, Refusal> {
    let Some(given) = fields.remove("spread") else { return Ok(Duration::ZERO) };
    let text = given.as_str().ok_or_else(|| wrong("`spread` is a duration with a unit, such as \"60s\""))?;
    let spread =
        humantime::parse_duration(text.trim()).map_err(|error| wrong(format!("`spread` is no duration: {error}")))?;
    if spread > LONGEST_GRACE {
        return Err(wrong("`spread` must be from 0s to 24h"));
    }
    Ok(spread)
}

pub(in crate::admin) fn boolean(fields: &mut Map<String, Value>, name: &str) -> Result<bool, Refusal> {
    match fields.remove(name) {
        None => Ok(false),
        Some(Value::Bool(is)) => Ok(is),
        Some(_) => Err(wrong(format!("`{name}` is true or false"))),
    }
}

/// What is left are texts; a number stands for itself.
pub(in crate::admin) fn texts(fields: &mut Map<String, Value>) -> Result<HashMap<String, String>, Refusal> {
    let text = |(name, value): (String, Value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Number(number) => Ok((name, number.to_string())),
        _ => Err(wrong(format!("`{name}` is a text"))),
    };
    std::mem::take(fields).into_iter().map(text).collect()
}

fn nothing_left(fields: &Map<String, Value>, help: &str) -> Result<(), Refusal> {
    match fields.keys().next() {
        None => Ok(()),
        Some(unknown) => Err(wrong(format!("unknown field `{unknown}`: there is {help}"))),
    }
}
