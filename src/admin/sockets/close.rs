//! `POST /api/v1/sockets/{id}/close` and `/api/v1/sockets/close`: orders to close sockets, and their progress.
//!
//! If anything in an order is wrong, nothing is closed: a code that must not be sent, a reason that is too long, a
//! filter that matches nothing, or neither a filter nor `all`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::{Api, ApiRefusal, find, gather, refuse, take_filter};
use crate::clock;
use crate::config::{CloseNotice, LONGEST_GRACE, LONGEST_REASON};
use crate::drain::close_requests::{self, Closing};
use crate::sockets::{CloseOrder, Transport};
use crate::websocket::frames::CloseCode;

/// Fields that a request body may have, for error messages.
const HELP: &str = "a filter (upstream, worker, address, state, transport, protocol, sid, route, min_age, \
                    label.NAME) or \"all\": true; and code, reason, spread, dry_run";

/// Maximum number of sockets that are closed before the answer; with more, the closing continues after the answer.
const AT_ONCE: usize = 1_000;

/// `POST /api/v1/sockets/{id}/close`: closes one socket.
pub(crate) async fn one(
    State(api): State<Api>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Value>, ApiRefusal> {
    let mut fields = object(&body)?;
    let order = order(&mut fields)?;
    nothing_left(&fields, "code and reason")?;
    let socket = find(&api.shared.sessions.sockets, &id)?;
    if !close_requests::close(&api.shared, &socket, &order) {
        return Err(refuse(StatusCode::CONFLICT, format!("the socket `{id}` is closing already")));
    }
    tracing::info!(upstream = %socket.worker().upstream, socket = %socket.id(), code = order.code.get(),
        "closing a socket");
    Ok(Json(json!({ "id": socket.id().to_string(), "transport": socket.transport().word(), "code": order.code.get() })))
}

/// `POST /api/v1/sockets/close`: closes all matching sockets, at once or spread over a period.
pub(crate) async fn many(State(api): State<Api>, body: Bytes) -> Result<Json<Value>, ApiRefusal> {
    let mut fields = object(&body)?;
    let order = order(&mut fields)?;
    let spread = spread(&mut fields)?;
    let dry_run = boolean(&mut fields, "dry_run")?;
    let all = boolean(&mut fields, "all")?;
    let mut given = texts(&mut fields)?;
    let filter = take_filter(&api, &mut given)?;
    if let Some(unknown) = given.keys().min() {
        return Err(wrong(format!("unknown field `{unknown}`: give {HELP}")));
    }
    if filter.is_empty() != all {
        let why =
            if all { "`all` and a filter cannot be combined" } else { "no sockets selected, and `all` is not set" };
        return Err(wrong(format!("{why}: give {HELP}")));
    }
    let sockets = gather(&api.shared.sessions.sockets, &filter, clock::now_s()).await;
    if sockets.is_empty() {
        return Err(refuse(StatusCode::NOT_FOUND, "no live socket matches: nothing was closed"));
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
            "too many closings are under way: GET /api/v1/sockets/close lists them",
        ));
    };
    let (matched, code) = (sockets.len(), order.code.get());
    tracing::info!(closing = closing.number, matched, code, spread_s = spread.as_secs(), "closing sockets");
    let (shared, kept) = (api.shared.clone(), closing.clone());
    if !spread.is_zero() {
        let ids = sockets.iter().map(|socket| socket.id()).collect();
        api.spawn(close_requests::spread(shared, kept, ids, order.clone()));
    } else if matched > AT_ONCE {
        api.spawn(close_requests::at_once(shared, kept, sockets.clone(), order.clone()));
    } else {
        close_requests::at_once(shared, kept, sockets.clone(), order.clone()).await;
    }
    said(Some(&closing))
}

/// `GET /api/v1/sockets/close`: the progress of recent closings.
pub(crate) async fn progress(State(api): State<Api>) -> Json<Value> {
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

pub(crate) fn wrong(why: impl Into<String>) -> ApiRefusal {
    refuse(StatusCode::UNPROCESSABLE_ENTITY, why)
}

pub(crate) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiRefusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => Ok(fields),
        _ => Err(wrong(format!("the body must be a JSON object with {HELP}"))),
    }
}

/// Reads the Close code and reason to send.
fn order(fields: &mut Map<String, Value>) -> Result<CloseOrder, ApiRefusal> {
    let mut farewell = CloseNotice::default();
    if let Some(code) = fields.remove("code") {
        let number = code.as_u64().and_then(|code| u16::try_from(code).ok());
        let number = number.ok_or_else(|| wrong("`code` must be a number from 1000 to 4999"))?;
        farewell.code = CloseCode::new(number).map_err(|error| wrong(error.to_string()))?;
    }
    if let Some(reason) = fields.remove("reason") {
        farewell.reason = reason.as_str().ok_or_else(|| wrong("`reason` must be a string"))?.to_owned();
    }
    if farewell.reason.len() > LONGEST_REASON {
        let long = farewell.reason.len();
        return Err(wrong(format!("`reason` has {long} bytes, but the limit is {LONGEST_REASON}")));
    }
    Ok(Arc::new(farewell))
}

fn spread(fields: &mut Map<String, Value>) -> Result<Duration, ApiRefusal> {
    let Some(given) = fields.remove("spread") else { return Ok(Duration::ZERO) };
    let text = given.as_str().ok_or_else(|| wrong("`spread` must be a duration with a unit, such as \"60s\""))?;
    let spread =
        humantime::parse_duration(text.trim()).map_err(|error| wrong(format!("`spread` is invalid: {error}")))?;
    if spread > LONGEST_GRACE {
        return Err(wrong("`spread` must be from 0s to 24h"));
    }
    Ok(spread)
}

pub(crate) fn boolean(fields: &mut Map<String, Value>, name: &str) -> Result<bool, ApiRefusal> {
    match fields.remove(name) {
        None => Ok(false),
        Some(Value::Bool(is)) => Ok(is),
        Some(_) => Err(wrong(format!("`{name}` must be true or false"))),
    }
}

/// Takes all remaining fields as texts; a number is converted.
pub(crate) fn texts(fields: &mut Map<String, Value>) -> Result<HashMap<String, String>, ApiRefusal> {
    let text = |(name, value): (String, Value)| match value {
        Value::String(text) => Ok((name, text)),
        Value::Number(number) => Ok((name, number.to_string())),
        _ => Err(wrong(format!("`{name}` must be a string"))),
    };
    std::mem::take(fields).into_iter().map(text).collect()
}

fn nothing_left(fields: &Map<String, Value>, help: &str) -> Result<(), ApiRefusal> {
    match fields.keys().next() {
        None => Ok(()),
        Some(unknown) => Err(wrong(format!("unknown field `{unknown}`: known fields are {help}"))),
    }
}
