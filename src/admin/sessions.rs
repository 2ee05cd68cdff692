//! `/api/v1/pins` and `/api/v1/explain`: where one session is, and where a request would go. Neither changes anything;
//! in particular, looking at a pin does not extend its life.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;

use super::api::{DecisionView, ExplainAnswer, PinAnswer, WorkerStateView};
use super::{Api, ApiRefusal, refuse};
use crate::affinity::explain::{Decision, ExplainQuestion, SharedSession, default_rule, explain as decide};
use crate::affinity::recognise::sid_in;
use crate::client::Client;
use crate::clock;
use crate::cookie::{Cookie, SeenCookie, WorkerId};
use crate::engine_io::MAX_ID;
use crate::fleet::SharedPin;
use crate::fleet::lookups::{FollowFinding, FollowNames};
use crate::keys::Key;
use crate::rules::LiveRule;
use crate::state::Snapshot;
use crate::upstream::Upstream;
use crate::upstream::worker::Worker;

/// Query parameters by name; if a name is given twice, the last value counts.
type QueryParameters = Query<HashMap<String, String>>;

/// Rejects unknown query parameters, so that a misspelt name does not silently change the meaning of a request.
pub(crate) fn known(query: &HashMap<String, String>, names: &[&str]) -> Result<(), ApiRefusal> {
    match query.keys().find(|name| !names.contains(&name.as_str())) {
        None => Ok(()),
        Some(unknown) => {
            let why = format!("unknown parameter `{unknown}`: known parameters are {}", names.join(", "));
            Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, why))
        }
    }
}

/// Returns the upstream that the query names; the name may be left out if there is only one.
fn upstream<'a>(snapshot: &'a Snapshot, query: &HashMap<String, String>) -> Result<&'a Arc<Upstream>, ApiRefusal> {
    let Some(name) = query.get("upstream") else {
        let mut named = snapshot.upstreams.iter().filter(|upstream| !upstream.removed);
        return match (named.next(), named.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(refuse(StatusCode::UNPROCESSABLE_ENTITY, "there are several upstreams: add upstream=NAME")),
        };
    };
    let known = snapshot.upstreams.iter().find(|upstream| upstream.config.name == *name);
    known.ok_or_else(|| refuse(StatusCode::NOT_FOUND, format!("there is no upstream `{name}`")))
}

/// Returns the rule that the query names; without a name it is `socket.io`, or else the first rule.
fn rule<'a>(upstream: &'a Upstream, query: &HashMap<String, String>) -> Result<Option<&'a LiveRule>, ApiRefusal> {
    let Some(name) = query.get("rule") else { return Ok(default_rule(upstream)) };
    match upstream.rules.iter().find(|live| live.rule.name == *name) {
        Some(live) => Ok(Some(live)),
        None => Err(refuse(StatusCode::NOT_FOUND, format!("the upstream's affinity has no rule `{name}`"))),
    }
}

/// `GET /api/v1/pins?upstream=app&sid=…&rule=…`: the pin of one session.
pub(crate) async fn pin(State(api): State<Api>, Query(query): QueryParameters) -> Result<Json<PinAnswer>, ApiRefusal> {
    known(&query, &["upstream", "sid", "rule"])?;
    let snapshot = api.shared.snapshot.load_full();
    let upstream = upstream(&snapshot, &query)?;
    let sid = query.get("sid").filter(|sid| !sid.is_empty());
    let sid = sid.ok_or_else(|| refuse(StatusCode::UNPROCESSABLE_ENTITY, "no session given: add sid=ID"))?;
    let shared = &api.shared;
    let rule = rule(upstream, &query)?;
    let key = match rule {
        Some(live) => live.key(&shared.sessions.keys, &upstream.config.name, sid.as_bytes()),
        None => shared.sessions.keys.key(&upstream.config.name, sid.as_bytes()),
    };
    let seen = shared.sessions.pins.inspect(key, Instant::now(), |pin| {
        (pin.worker().cloned(), pin.age_s(clock::now_s()), pin.has_tunnel(), pin.slot())
    });
    let Some((view, (worker, age_s, has_tunnel, slot))) = seen else {
        return of_redis(&api, upstream, rule, key).await.map(Json);
    };
    let ending = worker.as_ref().and_then(|worker| worker.admin.ending());
    let due = ending.filter(|_| !has_tunnel).and_then(|ending| ending.due_ms(slot, key.jitter()));
    Ok(Json(PinAnswer {
        age_s: Some(age_s),
        drain_ends_in_s: due.map(|due| due.since(clock::now_ms()).div_ceil(1_000)),
        ended: worker.is_none(),
        expires_in_s: view.left.map(|left| left.as_secs()),
        holds: view.holds,
        idle_s: view.left.map(|left| view.ttl.saturating_sub(left).as_secs()),
        rule: rule.map(|live| live.rule.name.clone()),
        source: "here".to_owned(),
        ttl_s: view.ttl.as_secs(),
        tunnel: has_tunnel,
        upstream: upstream.config.name.clone(),
        worker: worker.map(|worker| worker.name.clone()),
    }))
}

/// What the fleet's Redis knows of a session that is not pinned here.
async fn of_redis(api: &Api, upstream: &Upstream, rule: Option<&LiveRule>, key: Key) -> Result<PinAnswer, ApiRefusal> {
    let none = |end: &str| {
        let why = format!("this stickyd has no pin for that session{end} (its worker may still know it)");
        refuse(StatusCode::NOT_FOUND, why)
    };
    let fleet = api.shared.sessions.fleet().filter(|fleet| fleet.settings().pins);
    let fleet = fleet.ok_or_else(|| none(""))?;
    let Some(known) = fleet.inspect(key).await else {
        return Err(none(", and the fleet's Redis does not answer"));
    };
    let pin = known.ok_or_else(|| none(", and the fleet's Redis has none"))?;
    let worker = upstream.worker(WorkerId(pin.worker)).filter(|_| !pin.is_ended);
    Ok(PinAnswer {
        age_s: None,
        drain_ends_in_s: None,
        ended: pin.is_ended,
        expires_in_s: None,
        holds: 0,
        idle_s: None,
        rule: rule.map(|live| live.rule.name.clone()),
        source: "redis".to_owned(),
        ttl_s: pin.ttl_s.into(),
        tunnel: false,
        upstream: upstream.config.name.clone(),
        worker: worker.map(|worker| worker.name.clone()),
    })
}

/// `GET /api/v1/explain?upstream=app&sid=…&cookie=…&address=…&kind=session`: the worker a request would go to, and why.
pub(crate) async fn explain(
    State(api): State<Api>,
    Query(query): QueryParameters,
) -> Result<Json<ExplainAnswer>, ApiRefusal> {
    known(&query, &["upstream", "sid", "rule", "cookie", "address", "kind"])?;
    let wrong = |why: String| refuse(StatusCode::UNPROCESSABLE_ENTITY, why);
    let snapshot = api.shared.snapshot.load_full();
    let upstream = upstream(&snapshot, &query)?;
    let address = query.get("address").map(|text| text.parse::<IpAddr>());
    let address = address.transpose().map_err(|_| wrong("`address` is not an IP address".to_owned()))?;
    let ordinary = match query.get("kind").map(String::as_str) {
        None | Some("session") => false,
        Some("request") => true,
        Some(other) => return Err(wrong(format!("`kind` must be session or request, not `{other}`"))),
    };
    let cookie = query.get("cookie").filter(|text| !text.is_empty()).map(|text| read_cookie(upstream, text));
    let sid = query.get("sid").filter(|sid| !sid.is_empty()).map(String::as_bytes);
    // Without a rule, the id may be one that an ordinary request names.
    let has_rule = query.contains_key("rule");
    let follows = if has_rule { None } else { followed(&api, upstream, sid).await };
    let rule = rule(upstream, &query)?;
    let known = shared_pin(&api, upstream, rule, sid).await;
    let worker = known.and_then(|pin| upstream.worker(WorkerId(pin.worker)));
    let shared = match known {
        Some(pin) if pin.is_ended => Some(SharedSession::Ended),
        _ => worker.map(SharedSession::At),
    };
    let asked = ExplainQuestion {
        rule: rule.filter(|_| has_rule),
        shared,
        follows: follows.as_ref(),
        sid,
        cookie: cookie.flatten(),
        client: address.map(|address| Client { address: address.to_canonical(), known: true, secure: false }),
        ordinary,
    };
    let found = decide(&api.shared.sessions, upstream, asked);
    let cookie = match cookie {
        None => "none",
        Some(None) => "not ours",
        Some(Some(_)) => "valid",
    };
    Ok(Json(ExplainAnswer {
        cookie: cookie.to_owned(),
        if_it_died: found.then.as_ref().map(describe),
        now: describe(&found.now),
        rule: asked.sid.and(rule).map(|live| live.rule.name.clone()),
        upstream: upstream.config.name.clone(),
    }))
}

/// The pin of a session in the fleet's Redis, if this stickyd would look it up.
async fn shared_pin(api: &Api, upstream: &Upstream, rule: Option<&LiveRule>, sid: Option<&[u8]>) -> Option<SharedPin> {
    let (fleet, live, sid) = (api.shared.sessions.fleet()?, rule?, sid?);
    // Such ids are too long for a look-up, too.
    if sid.len() > MAX_ID || live.rule.client_made {
        return None;
    }
    let key = live.key(&api.shared.sessions.keys, &upstream.config.name, sid);
    if api.shared.sessions.pins.inspect(key, Instant::now(), |_| ()).is_some() {
        return None;
    }
    fleet.inspect(key).await?
}

/// The worker of the session that an ordinary request with this id names (`follow`): one that is pinned here, or one
/// that the fleet's Redis knows.
async fn followed(api: &Api, upstream: &Upstream, id: Option<&[u8]>) -> Option<Arc<Worker>> {
    let id = id.filter(|id| !upstream.config.follow.is_empty() && id.len() <= MAX_ID)?;
    let sessions = &api.shared.sessions;
    let name = &upstream.config.name;
    let names = |id| sessions.follow_names(name, sessions.keys.key(name, id), id);
    let both = || std::iter::once(id).chain(sid_in(id)).map(names);
    if let Some(here) = both().find_map(|names| sessions.followed_here(names)) {
        return Some(here);
    }
    let fleet = sessions.fleet().filter(|fleet| fleet.settings().pins)?;
    for names in both() {
        let found = match fleet.inspect_followed(names, |session| sessions.leads(session)).await {
            FollowFinding::Here(session) => sessions.followed_here(FollowNames { sid: session, ..names }),
            FollowFinding::Pin(pin) if !pin.is_ended => upstream.worker(WorkerId(pin.worker)).cloned(),
            FollowFinding::Pin(_) | FollowFinding::Nothing => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Reads a cookie, given as its value alone or as `name=value`.
fn read_cookie(upstream: &Upstream, text: &str) -> Option<Cookie> {
    let jar = upstream.jar.as_ref()?;
    let named = format!("{}={}", jar.name(), text.trim());
    jar.read([text.as_bytes(), named.as_bytes()].into_iter(), &SeenCookie::default())
}

fn describe((worker, why): &Decision) -> DecisionView {
    DecisionView {
        state: worker.as_deref().map(state),
        why: why.word().to_owned(),
        words: why.words(worker.is_some()).to_owned(),
        worker: worker.as_ref().map(|worker| worker.name.clone()),
    }
}

fn state(worker: &Worker) -> WorkerStateView {
    WorkerStateView {
        health: worker.health().word().to_owned(),
        admin: worker.admin.word().to_owned(),
        ejected: worker.is_ejected(),
        takes_new: worker.takes_new(),
        serves: worker.serves(),
    }
}
