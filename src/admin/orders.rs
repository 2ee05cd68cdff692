//! `/api/v1/fleet/orders`: passes a request to the API of every stickyd of the fleet, and says who answered.
//!
//! This stickyd executes the request as well. Members that do not answer are listed, never left out. An admin state is
//! kept in Redis first, so that a stickyd that joins later finds it. Left out: executing the orders of others
//! ([`obey`]), and the way over Redis (`crate::fleet::control`).

pub(super) mod obey;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

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
use crate::fleet::control::{FleetOrder, FleetReply, MOST_ANSWER};
use crate::fleet::members::FleetMember;
use crate::fleet::states::FleetState;
use crate::locks::lock;

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

/// Maximum number of workers whose last order is remembered.
const MOST_WORKERS: usize = 10_000;

/// The order by which the admin state of a worker was last set, by upstream and worker: its time and its number.
#[derive(Default)]
pub(crate) struct AppliedOrders(Mutex<BTreeMap<(String, String), (i64, u64)>>);

impl AppliedOrders {
    /// Notes an order for a worker; `false` if it is not later than the one before.
    fn note(&self, upstream: &str, worker: &str, order: (i64, u64)) -> bool {
        let mut all = lock(&self.0);
        let key = (upstream.to_owned(), worker.to_owned());
        if all.get(&key).is_some_and(|last| *last >= order) {
            return false;
        }
        if all.len() >= MOST_WORKERS && !all.contains_key(&key) {
            all.clear();
        }
        all.insert(key, order);
        true
    }
}

/// `GET /api/v1/fleet/orders?path=…`: what every stickyd answers to a read.
pub(super) async fn ask(
    State(api): State<Api>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<FleetOrdersAnswer>, ApiRefusal> {
    known(&query, &["path"])?;
    let path = query.get("path").cloned().ok_or_else(|| wrong("no path given: add path=/api/v1/…"))?;
    everywhere(&api, Method::GET, FleetOrderBody { body: None, path }, String::new()).await.map(Json)
}

/// `POST /api/v1/fleet/orders`: a write that every stickyd executes.
pub(super) async fn order(
    State(api): State<Api>,
    Extension(AdminOperator(who)): Extension<AdminOperator>,
    WholeBody(body): WholeBody,
) -> Result<(Extension<OrderedPath>, Json<FleetOrdersAnswer>), ApiRefusal> {
    let order: FleetOrderBody = read_order(&body, "path and body")?;
    let ordered = OrderedPath(order.path.clone());
    let answer = everywhere(&api, Method::POST, order, who).await?;
    Ok((Extension(ordered), Json(answer)))
}

async fn everywhere(
    api: &Api,
    method: Method,
    FleetOrderBody { body, path }: FleetOrderBody,
    who: String,
) -> Result<FleetOrdersAnswer, ApiRefusal> {
    let fleet = fleet::of(api)?;
    if !is_allowed(&method, &path) {
        return Err(wrong(format!("the whole fleet cannot be asked for {method} {path}")));
    }
    let has_shown = fleet.show(&fleet::summary(&api.shared)).await;
    let Some(at_us) = fleet.redis_us().await.filter(|_| has_shown) else {
        let why = "the fleet's Redis does not answer: no stickyd was asked; try without the fleet";
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let body = body.map(|body| body.to_string()).unwrap_or_default();
    let method = method.to_string();
    let (question, stickyd) = (crate::random::u64(), fleet.name().to_owned());
    let order = FleetOrder { at_us, body, method, path, question, stickyd, who };
    let members = fleet.members();
    let state = kept_state(api, &order);
    let is_known = state.as_ref().is_some_and(|state| state.file.is_some());
    if let Some(state) = state.as_ref().filter(|_| is_known) {
        keep(&fleet, state).await?;
    }
    let (asked, mut silent) = split(&fleet, &members);
    let ((status, own), replies) = tokio::join!(obey::perform(api, &order), fleet.order(&order, &asked));
    let view = |name: &str, node: u64, status: u16, body: &[u8]| FleetReplyView {
        answer: read(body),
        name: name.to_owned(),
        node: format!("{node:016x}"),
        own: node == fleet.node(),
        status,
    };
    let mut answers = vec![view(fleet.name(), fleet.node(), status, &own)];
    for (node, reply) in replies {
        let name = members.iter().find(|one| one.node == node).map_or("", |one| &one.name);
        match reply {
            FleetReply::Answer(status, body) => answers.push(view(name, node, status, &body)),
            FleetReply::Missing(why) => silent.push(missing(name, node, &why)),
        }
    }
    answers.sort_by(|one, other| (&one.name, &one.node).cmp(&(&other.name, &other.node)));
    silent.sort_by(|one, other| (&one.name, &one.node).cmp(&(&other.name, &other.node)));
    if let Some(state) = state.filter(|_| !is_known && answers.iter().any(|one| one.status < 300)) {
        keep(&fleet, &state).await?;
    }
    Ok(FleetOrdersAnswer { asked: answers.len() + silent.len(), answers, silent })
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
fn split(fleet: &Fleet, members: &[FleetMember]) -> (Vec<FleetMember>, Vec<FleetSilentView>) {
    let (mut asked, mut silent) = (Vec::new(), Vec::new());
    for member in members.iter().filter(|member| member.node != fleet.node()) {
        match &member.summary {
            None => silent.push(missing(&member.name, member.node, "has another secret")),
            Some(summary) if !summary.control => {
                silent.push(missing(&member.name, member.node, "takes no orders (control = false)"));
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

/// Whether the fleet can be asked for this path.
fn is_allowed(method: &Method, path: &str) -> bool {
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
    ALLOWED.iter().any(|(allowed, template)| allowed == method && fits(template))
}

/// Upstream, worker and word of an order that sets an admin state.
fn state_parts(order: &FleetOrder) -> Option<[String; 3]> {
    let rest = order.path.strip_prefix(paths::WORKERS)?.strip_prefix('/')?;
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
    let Ok(request) = request.body(Body::from(body.to_owned())) else {
        return failed(StatusCode::BAD_REQUEST, "this is not a valid path");
    };
    // Its error is `Infallible`.
    let Ok(response) = bare_router().with_state::<()>(api.clone()).oneshot(request).await;
    let status = response.status().as_u16();
    match axum::body::to_bytes(response.into_body(), MOST_ANSWER).await {
        Ok(body) => (status, body.to_vec()),
        Err(_) => failed(StatusCode::PAYLOAD_TOO_LARGE, "the answer is too long: use a filter or a lower limit"),
    }
}

fn failed(status: StatusCode, why: &str) -> (u16, Vec<u8>) {
    (status.as_u16(), serde_json::json!({ "error": why }).to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_list_names_is_allowed() {
        for (method, path) in [
            (Method::GET, "/api/v1/sockets?limit=5"),
            (Method::GET, "/api/v1/sockets/abc"),
            (Method::POST, "/api/v1/workers/app/unix%3A%2Frun%2Fa/drain"),
            (Method::POST, "/api/v1/sockets/abc/close"),
        ] {
            assert!(is_allowed(&method, path), "{method} {path}");
        }
        for (method, path) in [
            (Method::POST, "/api/v1/reload"),
            (Method::GET, "/api/v1/fleet/orders?path=/api/v1/stats"),
            (Method::POST, "/api/v1/stats"),
            (Method::GET, "/api/v1/sockets/"),
            (Method::POST, "/api/v1/workers/app/w1"),
            (Method::GET, "/metrics"),
        ] {
            assert!(!is_allowed(&method, path), "{method} {path}");
        }
    }

    #[test]
    fn an_earlier_order_does_not_undo_a_later_one() {
        let applied = AppliedOrders::default();
        assert!(applied.note("app", "w1", (5, 1)));
        assert!(!applied.note("app", "w1", (5, 1)), "the same order");
        assert!(!applied.note("app", "w1", (4, 9)));
        assert!(applied.note("app", "w2", (4, 9)), "another worker");
        assert!(applied.note("app", "w1", (5, 2)));
    }
}
