//! `/api/v1/sockets`: every live socket, filtered, sorted and in pages; one of them; and orders to close sockets.
//!
//! Sockets to close or to send to are gathered shard by shard, and other work of the control thread gets a turn after
//! each shard; lists are written on another thread ([`list`]). Data threads wait at most for one shard to be copied. A
//! listed socket may have ended by the time the list is read.

pub(crate) mod close;
pub(crate) mod labels;
pub(crate) mod list;
mod order;
mod view;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Api, ApiRefusal, refuse};
use crate::clock::{self, Seconds};
use crate::sockets::{Filter, Id, SHARDS, Socket, Sockets};
use crate::state::Snapshot;
use list::Wanted;
use order::{SORTS, SortOrder};
use view::describe;

/// Number of sockets per answer: the default, and the maximum ([`MOST`]).
const USUAL: usize = 100;
const MOST: usize = 10_000;

/// `GET /api/v1/sockets`: one page of the list of live sockets.
pub(crate) async fn list(
    State(api): State<Api>,
    Query(mut query): Query<HashMap<String, String>>,
) -> Result<Response, ApiRefusal> {
    let wrong = |why: String| refuse(StatusCode::UNPROCESSABLE_ENTITY, why);
    let filter = take_filter(&api, &mut query)?;
    let sort = query.remove("sort");
    let limit = number(&mut query, "limit", 1..=MOST)?.unwrap_or(USUAL);
    let offset = number(&mut query, "offset", 0..=usize::MAX)?.unwrap_or(0);
    if let Some(unknown) = query.keys().min() {
        return Err(wrong(format!("unknown parameter `{unknown}`: known parameters are {}", names().join(", "))));
    }
    let order = SortOrder::parse(sort.as_deref().unwrap_or("connected"))
        .ok_or_else(|| wrong(format!("`sort` must be one of {}, with or without a leading `-`", SORTS.join(", "))))?;
    api.lister.list(Wanted { filter, order, offset, limit }).await
}

/// `GET /api/v1/sockets/{id}`: one live socket.
pub(crate) async fn one(State(api): State<Api>, Path(id): Path<String>) -> Result<Response, ApiRefusal> {
    let socket = find(&api.shared.sessions.sockets, &id)?;
    let json = describe(&socket, clock::now_s());
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// Returns the live socket with the id that an operator gave.
fn find(sockets: &Sockets, id: &str) -> Result<Arc<Socket>, ApiRefusal> {
    let known = id.parse::<Id>().ok().and_then(|id| sockets.get(id));
    known
        .ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("there is no live socket `{id}`: it may have just ended")))
}

fn names() -> Vec<&'static str> {
    Filter::NAMES.into_iter().chain(["label.NAME", "sort", "limit", "offset"]).collect()
}

fn number(
    query: &mut HashMap<String, String>,
    name: &str,
    range: std::ops::RangeInclusive<usize>,
) -> Result<Option<usize>, ApiRefusal> {
    let Some(text) = query.remove(name) else { return Ok(None) };
    let number = text.parse().ok().filter(|number| range.contains(number));
    let why = || match *range.end() {
        usize::MAX => format!("`{name}` must be a number, not `{text}`"),
        end => format!("`{name}` must be a number from {} to {end}, not `{text}`", range.start()),
    };
    number.map(Some).ok_or_else(|| refuse(StatusCode::UNPROCESSABLE_ENTITY, why()))
}

/// Takes the filter out of the given fields; the upstreams, workers and labels it names must exist.
fn take_filter(api: &Api, given: &mut HashMap<String, String>) -> Result<Filter, ApiRefusal> {
    let filter = Filter::take(given).map_err(|why| refuse(StatusCode::UNPROCESSABLE_ENTITY, why))?;
    exists(&filter, &api.shared.snapshot.load(), &api.shared.sessions.sockets)?;
    Ok(filter)
}

/// Takes the filter of a request body, in which every other field is a mistake; `help` says which fields there are.
pub(crate) fn take_whole_filter(api: &Api, given: BTreeMap<String, String>, help: &str) -> Result<Filter, ApiRefusal> {
    let mut given = given.into_iter().collect();
    let filter = take_filter(api, &mut given)?;
    match given.keys().min() {
        Some(unknown) => Err(close::wrong(format!("unknown field `{unknown}`: give {help}"))),
        None => Ok(filter),
    }
}

/// Rejects unknown names in a filter, so that a misspelt name does not look like an empty result.
fn exists(filter: &Filter, snapshot: &Snapshot, sockets: &Sockets) -> Result<(), ApiRefusal> {
    let missing = |why: String| Err(refuse(StatusCode::NOT_FOUND, why));
    let upstreams = || {
        let named = |name: &str| filter.upstream.as_deref().is_none_or(|wanted| wanted == name);
        snapshot.upstreams.iter().filter(move |upstream| named(&upstream.config.name))
    };
    if let (Some(name), None) = (&filter.upstream, upstreams().next()) {
        return missing(format!("there is no upstream `{name}`"));
    }
    if let Some(name) = &filter.worker {
        let mut workers = upstreams().flat_map(|upstream| &upstream.members).map(|member| &member.worker);
        if !workers.any(|worker| worker.name == *name || worker.address.to_string() == *name) {
            return missing(format!("there is no worker `{name}`: see /api/v1/workers"));
        }
    }
    for (name, _) in &filter.labels {
        let is_read = upstreams().any(|upstream| upstream.config.labels.iter().any(|label| label.name == *name));
        if !is_read && !sockets.is_backend_label(name) {
            return missing(format!("no upstream has a label `{name}` ([upstream.NAME] labels)"));
        }
    }
    Ok(())
}

/// Returns all sockets that match the filter.
pub(crate) async fn gather(sockets: &Sockets, filter: &Filter, now_s: Seconds) -> Vec<Arc<Socket>> {
    let mut fitting = Vec::new();
    for shard in 0..SHARDS {
        fitting.extend(sockets.shard(shard).into_iter().filter(|socket| filter.fits(socket, now_s)));
        // Health checks and other admin requests get a turn here.
        tokio::task::yield_now().await;
    }
    fitting
}
