//! `/api/v1/fleet/orders`: passes a request to the API of every stickyd of the fleet, and says who answered.
//!
//! This stickyd executes the request as well. Members that do not answer are listed, never left out. An admin state is
//! kept in Redis first, so that a stickyd that joins later finds it. Left out: executing the orders of others
//! ([`obey`]), and the way over Redis (`crate::fleet::control`).

pub(super) mod obey;
mod passing;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{Method, Request, StatusCode, header};
use axum::{Extension, Json};
use percent_encoding::percent_decode_str;
use serde_json::Value;
use tower::ServiceExt as _;

use super::api::{FleetOrderBody, FleetOrdersAnswer, FleetReplyView, FleetSilentView, paths};
use super::auth::{AdminOperator, OrderedPath};
use super::layers::WholeBody;
use super::sessions::known;
use super::sockets::close::{read_order, wrong};
use super::{Api, ApiRefusal, bare_router, fleet, refuse, workers};
use crate::fleet::Fleet;
use crate::fleet::control::{FleetOrder, FleetReply, MOST_ANSWER, WHOLE};
use crate::fleet::members::FleetMember;
use crate::fleet::states::{FleetState, time_after};
use crate::locks::lock;
use crate::telemetry::say_full;
pub(super) use passing::{PassedOn, Passing};

/// What the whole fleet can be asked for.
const ALLOWED: [(Method, &str); 9] = [
    (Method::GET, paths::SOCKETS),
    (Method::GET, paths::SOCKETS_CLOSE),
    (Method::GET, paths::SOCKET),
    (Method::GET, paths::STATS),
    (Method::GET, paths::WORKERS),
    (Method::POST, paths::BROADCAST),
    (Method::POST, paths::SOCKETS_CLOSE),
    (Method::POST, paths::SOCKET_CLOSE),
    (Method::POST, paths::WORKER_STATE),
];

/// What the backend's requests are passed on for.
const OF_BACKEND: [(Method, &str); 2] = [(Method::POST, paths::EMIT), (Method::PUT, paths::SOCKET_LABELS)];

/// Maximum number of workers whose last order is remembered.
const MOST_WORKERS: usize = 10_000;

/// Maximum number of questions of operators that are under way: the answers to one may have 64 MB.
pub(super) const UNDER_WAY: usize = 4;

/// Time in which an order has to be done here, as its sender waits for that long.
const PATIENCE: Duration = WHOLE;

/// The order by which the admin state of each worker was last set, by upstream and worker.
#[derive(Default)]
pub(crate) struct AppliedOrders(Mutex<BTreeMap<(String, String), FleetState>>);

impl AppliedOrders {
    /// Notes an order for a worker, and says how it stands to the one before.
    fn note(&self, state: &FleetState) -> Ordering {
        let mut all = lock(&self.0);
        let key = (state.upstream.clone(), state.worker.clone());
        let order = all.get(&key).map_or(Ordering::Greater, |last| state.version().cmp(&last.version()));
        if order != Ordering::Greater {
            return order;
        }
        if all.len() >= MOST_WORKERS
            && !all.contains_key(&key)
            && let Some(oldest) = all.iter().min_by_key(|(_, one)| one.version()).map(|(key, _)| key.clone())
        {
            all.remove(&oldest);
        }
        all.insert(key, state.clone());
        order
    }

    /// Version of the last order for a worker.
    fn last(&self, upstream: &str, worker: &str) -> Option<(i64, u64)> {
        lock(&self.0).get(&(upstream.to_owned(), worker.to_owned())).map(FleetState::version)
    }

    /// The noted orders that Redis has lost, or in whose place it has earlier ones.
    fn missing_in(&self, kept: &[FleetState]) -> Vec<FleetState> {
        let has = |one: &FleetState| {
            let same = |other: &&FleetState| one.upstream == other.upstream && one.worker == other.worker;
            kept.iter().find(same).is_some_and(|other| other.version() >= one.version())
        };
        lock(&self.0).values().filter(|one| !has(one)).cloned().collect()
    }
}

/// Which stickyds an order is for, and which answers are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OrderScope {
    /// An order of an operator: all stickyds, as Redis lists them now.
    Operator,
    /// A message of the backend: all stickyds, as last read, since messages are frequent.
    Message,
    /// The one stickyd that has what is asked for; this one has not.
    Search,
}

/// `GET /api/v1/fleet/orders?path=…`: what every stickyd answers to a read.
pub(super) async fn ask(
    State(api): State<Api>,
    Query(mut query): Query<HashMap<String, String>>,
) -> Result<Json<FleetOrdersAnswer>, ApiRefusal> {
    known(&query, &["path", "at"])?;
    let path = query.remove("path").ok_or_else(|| wrong("no path given: add path=/api/v1/…"))?;
    let body = FleetOrderBody { at: query.remove("at"), body: None, path };
    everywhere(&api, Method::GET, body, String::new(), OrderScope::Operator).await.map(Json)
}

/// `POST /api/v1/fleet/orders`: a write that every stickyd executes, or one of them.
pub(super) async fn order(
    State(api): State<Api>,
    Extension(AdminOperator(who)): Extension<AdminOperator>,
    WholeBody(body): WholeBody,
) -> Result<(Extension<OrderedPath>, Json<FleetOrdersAnswer>), ApiRefusal> {
    let order: FleetOrderBody = read_order(&body, "path, body and at")?;
    let ordered = OrderedPath { path: order.path.clone(), at: order.at.clone() };
    let answer = everywhere(&api, Method::POST, order, who, OrderScope::Operator).await?;
    Ok((Extension(ordered), Json(answer)))
}

/// Passes a request on to the other stickyds, executes it here, and gathers the answers.
pub(super) async fn everywhere(
    api: &Api,
    method: Method,
    FleetOrderBody { at, body, path }: FleetOrderBody,
    who: String,
    scope: OrderScope,
) -> Result<FleetOrdersAnswer, ApiRefusal> {
    let fleet = fleet::of(api)?;
    if !is_allowed(&method, &path, scope) {
        return Err(wrong(format!("the whole fleet cannot be asked for {method} {path}")));
    }
    // Messages of the backend have a bound of their own, and short answers.
    let seat = (scope == OrderScope::Operator).then(|| api.asking.try_acquire());
    if let Some(Err(_)) = seat {
        say_full!(limit = UNDER_WAY, "a question to the fleet was refused: too many are under way");
        let why = "too many questions to the fleet are under way: try again in a second";
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, why));
    }
    let has_shown = scope != OrderScope::Operator || fleet.show(&fleet::summary(&api.shared)).await;
    let away = || {
        let why = "the fleet's Redis does not answer: no stickyd was asked; try without the fleet";
        refuse(StatusCode::SERVICE_UNAVAILABLE, why)
    };
    let at_us = fleet.redis_us().await.filter(|_| has_shown).ok_or_else(away)?;
    let mut members = fleet.members();
    if let Some(name) = &at {
        members.retain(|member| member.name == *name || format!("{:016x}", member.node) == *name);
    }
    let to = match (&at, members.as_slice()) {
        (None, _) => None,
        (Some(_), [only]) => Some(only.node),
        (Some(name), []) => {
            let why = format!("no stickyd of the fleet is named `{name}`: see `stickyd fleet`");
            return Err(refuse(StatusCode::NOT_FOUND, why));
        }
        (Some(name), _) => {
            let why = format!(
                "several stickyds are named `{name}`: if it was restarted, try again in 15 s; else give each a name of \
                 its own in [fleet]"
            );
            return Err(refuse(StatusCode::CONFLICT, why));
        }
    };
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let method = method.to_string();
    let (question, stickyd) = (crate::random::u64(), fleet.name().to_owned());
    let mut order = FleetOrder { at_us, body, given_us: Some(at_us), method, path, question, stickyd, to, who };
    let mut state = kept_state(api, &order).filter(|_| to.is_none());
    if let Some(state) = &mut state {
        // The clock may have been set back since the last order for this worker, here or at another stickyd.
        let kept = fleet.state_of(&state.upstream, &state.worker).await.ok_or_else(away)?;
        let last = kept.map(|kept| kept.version()).max(api.orders.last(&state.upstream, &state.worker));
        order.at_us = time_after(at_us, last);
        state.at_us = order.at_us;
    }
    let is_known = state.as_ref().is_some_and(|state| state.file.is_some());
    if let Some(state) = state.as_ref().filter(|_| is_known) {
        keep(&fleet, state).await?;
    }
    let answer = go_round(api, &fleet, &order, &members, scope).await;
    if let Some(state) = state.filter(|_| !is_known && answer.answers.iter().any(|one| one.status < 300)) {
        keep(&fleet, &state).await?;
    }
    Ok(answer)
}

/// Executes a request of the backend on this stickyd alone.
pub(super) async fn perform_here(
    api: &Api,
    method: Method,
    FleetOrderBody { body, path, .. }: FleetOrderBody,
) -> Result<FleetReplyView, ApiRefusal> {
    let fleet = fleet::of(api)?;
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let (status, answer) = execute(api, method.as_str(), &path, &body).await;
    let (name, node) = (fleet.name().to_owned(), format!("{:016x}", fleet.node()));
    Ok(FleetReplyView { answer: read(&answer), name, node, own: true, status })
}

/// The reason in the answer to a request that failed.
pub(super) fn reason_of(answer: &Value) -> String {
    answer["error"].as_str().or(answer.as_str()).map_or_else(|| answer.to_string(), str::to_owned)
}

/// Sends an order to these members, and executes it here if it is for this stickyd, too.
async fn go_round(
    api: &Api,
    fleet: &Arc<Fleet>,
    order: &FleetOrder,
    members: &[FleetMember],
    scope: OrderScope,
) -> FleetOrdersAnswer {
    let (asked, mut silent) = split(fleet, members, scope);
    let own = async {
        let is_meant = scope != OrderScope::Search && order.to.is_none_or(|node| node == fleet.node());
        if is_meant { Some(obey::perform(api, order).await) } else { None }
    };
    let is_enough = |status: u16| scope == OrderScope::Search && status < 300;
    let (own, replies) = tokio::join!(own, fleet.order(order, &asked, is_enough));
    let view = |name: &str, node: u64, status: u16, body: &[u8]| FleetReplyView {
        answer: read(body),
        name: name.to_owned(),
        node: format!("{node:016x}"),
        own: node == fleet.node(),
        status,
    };
    let own = own.map(|(status, body)| view(fleet.name(), fleet.node(), status, &body));
    let mut answers: Vec<_> = own.into_iter().collect();
    for (node, reply) in replies {
        let name = members.iter().find(|one| one.node == node).map_or("", |one| &one.name);
        match reply {
            FleetReply::Answer(status, body) => answers.push(view(name, node, status, &body)),
            FleetReply::Missing(why) => silent.push(missing(name, node, &why)),
        }
    }
    answers.sort_by(|one, other| (&one.name, &one.node).cmp(&(&other.name, &other.node)));
    silent.sort_by(|one, other| (&one.name, &one.node).cmp(&(&other.name, &other.node)));
    FleetOrdersAnswer { asked: answers.len() + silent.len(), answers, silent }
}

/// Keeps an admin state for stickyds that join later.
async fn keep(fleet: &Fleet, state: &FleetState) -> Result<(), ApiRefusal> {
    match fleet.store_state(state).await {
        true => Ok(()),
        false => {
            let why = "the fleet's Redis does not keep the state: see `stickyd fleet`; try without the fleet";
            Err(refuse(StatusCode::SERVICE_UNAVAILABLE, why))
        }
    }
}

/// Divides the members into those that are asked, and those of which it is known that they will not answer. This
/// stickyd is in neither part.
fn split(fleet: &Fleet, members: &[FleetMember], scope: OrderScope) -> (Vec<FleetMember>, Vec<FleetSilentView>) {
    let (mut asked, mut silent) = (Vec::new(), Vec::new());
    for member in members.iter().filter(|member| member.node != fleet.node()) {
        match &member.summary {
            None => silent.push(missing(&member.name, member.node, "has another secret")),
            Some(summary) if !summary.control => {
                silent.push(missing(&member.name, member.node, "takes no orders (control = false)"));
            }
            // It gets the message, but no message of the backend waits for it again.
            Some(_) if scope != OrderScope::Operator && fleet.was_silent(member.node) => {
                silent.push(missing(&member.name, member.node, "was silent a moment ago"));
            }
            Some(_) => asked.push(member.clone()),
        }
    }
    (asked, silent)
}

fn missing(name: &str, node: u64, why: &str) -> FleetSilentView {
    FleetSilentView { name: name.to_owned(), node: format!("{node:016x}"), why: why.to_owned() }
}

fn read(body: &[u8]) -> Value {
    serde_json::from_slice(body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(body).trim()))
}

/// Whether the fleet can be asked for this path. The paths of the backend are not for operators: they are passed on by
/// themselves.
fn is_allowed(method: &Method, path: &str, scope: OrderScope) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let fits = |template: &str| {
        let (mut parts, mut wanted) = (path.split('/'), template.split('/'));
        loop {
            match (parts.next(), wanted.next()) {
                (None, None) => return true,
                (Some(part), Some(want)) if part == want || (want.starts_with('{') && !part.is_empty()) => {}
                _ => return false,
            }
        }
    };
    let allowed = if scope == OrderScope::Operator { &ALLOWED[..] } else { &OF_BACKEND[..] };
    allowed.iter().any(|(allowed, template)| allowed == method && fits(template))
}

/// Upstream, worker and word of an order that sets an admin state.
fn state_parts(order: &FleetOrder) -> Option<[String; 3]> {
    // What follows changes nothing about what the handler does.
    let path = order.path.split(['?', '#']).next()?;
    let rest = path.strip_prefix(paths::WORKERS)?.strip_prefix('/')?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8().ok().map(std::borrow::Cow::into_owned);
    let mut parts = rest.split('/').map(decoded);
    let all = [parts.next()??, parts.next()??, parts.next()??];
    (order.method == "POST" && parts.next().is_none()).then_some(all)
}

/// What is kept of an order that sets an admin state. `file` is set if this stickyd knows the worker.
fn kept_state(api: &Api, order: &FleetOrder) -> Option<FleetState> {
    let [upstream, worker, state] = state_parts(order)?;
    let known = workers::state_of(&state)?;
    let grace = workers::grace(order.body.as_bytes(), known).ok()?;
    let snapshot = api.shared.snapshot.load_full();
    let found = workers::find(&snapshot, &upstream, &worker).ok().map(|(_, member)| member.worker.clone());
    Some(FleetState {
        at_us: order.at_us,
        file: found.as_ref().map(|worker| worker.admin.file_word().to_owned()),
        given_us: order.given_us,
        grace_ms: grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX)),
        question: order.question,
        state,
        stickyd: order.stickyd.clone(),
        upstream,
        who: order.who.clone(),
        worker: found.map_or(worker, |found| found.name.clone()),
    })
}

/// Executes a request to the API of this stickyd: its status and its answer.
async fn execute(api: &Api, method: &str, path: &str, body: &str) -> (u16, Vec<u8>) {
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, "application/json");
    let request = request.extension(PassedOn);
    let Ok(request) = request.body(Body::from(body.to_owned())) else {
        return failed(StatusCode::BAD_REQUEST, "this is not a valid path");
    };
    let answered = async {
        // Its error is `Infallible`.
        let Ok(response) = bare_router().with_state::<()>(api.clone()).oneshot(request).await;
        let status = response.status().as_u16();
        match axum::body::to_bytes(response.into_body(), MOST_ANSWER).await {
            Ok(body) => (status, body.to_vec()),
            Err(_) => failed(StatusCode::PAYLOAD_TOO_LARGE, "the answer is too long: use a filter or a lower limit"),
        }
    };
    tokio::time::timeout(PATIENCE, answered)
        .await
        .unwrap_or_else(|_| failed(StatusCode::GATEWAY_TIMEOUT, "this was not done within 30 s"))
}

fn failed(status: StatusCode, why: &str) -> (u16, Vec<u8>) {
    (status.as_u16(), serde_json::json!({ "error": why }).to_string().into_bytes())
}

#[cfg(test)]
mod tests;
