//! `POST /api/v1/sockets/{id}/close` and `/api/v1/sockets/close`: orders to close sockets, and their progress.
//!
//! If anything in an order is wrong, nothing is closed: a code that must not be sent, a reason that is too long, a
//! filter that matches nothing, or neither a filter nor `all`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::api::{CloseAnswer, CloseManyOrder, CloseOneOrder, ClosedSocket, ClosingView, ClosingsAnswer};
use super::super::layers::WholeBody;
use super::{Api, ApiRefusal, find, gather, refuse, take_whole_filter};
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
    WholeBody(body): WholeBody,
) -> Result<Json<ClosedSocket>, ApiRefusal> {
    let CloseOneOrder { code, reason } = read_order(&body, "code and reason")?;
    let order = close_order(code, reason)?;
    let socket = find(&api.shared.sessions.sockets, &id)?;
    if !close_requests::close(&api.shared, &socket, &order) {
        return Err(refuse(StatusCode::CONFLICT, format!("the socket `{id}` is closing already")));
    }
    tracing::info!(upstream = %socket.worker().upstream, socket = %socket.id(), code = order.code.get(),
        "closing a socket");
    let (id, transport) = (socket.id().to_string(), socket.transport().word().to_owned());
    Ok(Json(ClosedSocket { code: order.code.get(), id, transport }))
}

/// `POST /api/v1/sockets/close`: closes all matching sockets, at once or spread over a period.
pub(crate) async fn many(State(api): State<Api>, WholeBody(body): WholeBody) -> Result<Json<CloseAnswer>, ApiRefusal> {
    let CloseManyOrder { all, code, dry_run, reason, spread, filter } = read_order(&body, HELP)?;
    let order = close_order(code, reason)?;
    let spread = spread.map_or(Ok(Duration::ZERO), |text| read_spread(&text))?;
    let filter = take_whole_filter(&api, filter, HELP)?;
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
        Ok(Json(CloseAnswer {
            closing: closing.map(describe),
            code: order.code.get(),
            dry_run,
            matched: sockets.len(),
            polling,
            spread_s: spread.as_secs_f64(),
            tunnels: sockets.len() - polling,
        }))
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
pub(crate) async fn progress(State(api): State<Api>) -> Json<ClosingsAnswer> {
    Json(ClosingsAnswer { closings: api.closings.all().iter().map(|one| describe(one)).collect() })
}

fn describe(closing: &Closing) -> ClosingView {
    let left = closing.left();
    ClosingView {
        ends_in_s: if left == 0 { 0 } else { closing.left_ms().div_ceil(1_000) },
        gone: closing.gone(),
        left,
        matched: closing.matched,
        number: closing.number,
        told: closing.told(),
    }
}

pub(crate) fn wrong(why: impl Into<String>) -> ApiRefusal {
    refuse(StatusCode::UNPROCESSABLE_ENTITY, why)
}

/// Reads a request body; an empty one has no fields. `help` lists the fields that it may have.
pub(crate) fn read_order<T: DeserializeOwned>(body: &[u8], help: &str) -> Result<T, ApiRefusal> {
    let fields = match body.iter().all(u8::is_ascii_whitespace) {
        true => Map::new(),
        false => {
            serde_json::from_slice(body).map_err(|_| wrong(format!("the body must be a JSON object with {help}")))?
        }
    };
    // By way of a tree, so that an error has no position in the body and the last of two equal fields counts.
    T::deserialize(Value::Object(fields)).map_err(|error| wrong(error.to_string()))
}

/// Checks the Close code and reason to send.
fn close_order(code: Option<u16>, reason: Option<String>) -> Result<CloseOrder, ApiRefusal> {
    let mut farewell = CloseNotice::default();
    if let Some(code) = code {
        farewell.code = CloseCode::new(code).map_err(|error| wrong(error.to_string()))?;
    }
    if let Some(reason) = reason {
        farewell.reason = reason;
    }
    if farewell.reason.len() > LONGEST_REASON {
        let long = farewell.reason.len();
        return Err(wrong(format!("`reason` has {long} bytes, but the limit is {LONGEST_REASON}")));
    }
    Ok(Arc::new(farewell))
}

fn read_spread(text: &str) -> Result<Duration, ApiRefusal> {
    let spread =
        humantime::parse_duration(text.trim()).map_err(|error| wrong(format!("`spread` is invalid: {error}")))?;
    if spread > LONGEST_GRACE {
        return Err(wrong("`spread` must be from 0s to 24h"));
    }
    Ok(spread)
}
