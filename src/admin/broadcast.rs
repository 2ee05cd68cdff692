//! `POST /api/v1/broadcast`: a text, or a Socket.IO event, to WebSockets; who got it, and why others did not.
//!
//! Whatever is wrong with what is asked, nothing is sent. Sockets are handed the message a few at a time, so that traffic
//! has its turn in between, and have [`PATIENCE`] to take it. One broadcast at a time. Left out: what a socket makes of it
//! (`crate::broadcast`, `tunnel::insert`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedMutexGuard, oneshot};

use super::sockets::close::{boolean, object, texts, wrong};
use super::sockets::{gather, take_filter};
use super::{Api, Refusal, refuse};
use crate::broadcast::{Broadcast, Counts, Fate, LONGEST, event};
use crate::clock;
use crate::proxy::route::Guarded;
use crate::sockets::Socket;
use crate::state::Shared;
use crate::telemetry::say_full;

/// What a body may say.
const HELP: &str = "a filter (upstream, worker, address, state, transport, protocol, sid, route, min_age, label.NAME) or \
                    \"all\": true; and text, event, args, namespace";

/// Events Socket.IO's clients raise themselves.
const RESERVED: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Sockets that are handed the message in one go: some 200 µs of a data thread, for which other clients wait.
const SLICE: usize = 16;

/// Between two of those: twice as much, or more, is anybody else's.
const PAUSE: Duration = Duration::from_millis(1);

/// Slices at most, or a few more: to more than 16,000 sockets larger slices are handed out, so that the pauses between them
/// come to two seconds however many there are.
const SLICES: usize = 1_000;

/// How long sockets have to take a message, once the last of them was handed it.
const PATIENCE: Duration = Duration::from_secs(5);

/// `POST /api/v1/broadcast`.
pub(super) async fn send(State(api): State<Api>, body: Bytes) -> Result<Json<Value>, Refusal> {
    let mut fields = object(&body)?;
    let all = boolean(&mut fields, "all")?;
    let broadcast = message(&mut fields)?;
    let mut given = texts(&mut fields)?;
    let filter = take_filter(&api, &mut given)?;
    if let Some(unknown) = given.keys().min() {
        return Err(wrong(format!("unknown field `{unknown}`: there is {HELP}")));
    }
    if filter.is_empty() != all {
        let why = if all { "`all` and a filter contradict each other" } else { "to whom? \"all\": true means all" };
        return Err(wrong(format!("{why}: give {HELP}")));
    }
    let Ok(alone) = api.broadcasting.clone().try_lock_owned() else {
        say_full!("a broadcast was refused: another is under way");
        return Err(refuse(StatusCode::CONFLICT, "another broadcast is under way: nothing was sent"));
    };
    let sockets = gather(&api.shared.sockets, &filter, clock::now_s()).await;
    if sockets.is_empty() {
        return Err(refuse(StatusCode::NOT_FOUND, "no live socket fits: nothing was sent"));
    }
    let allowed = Allowed::now(&api.shared);
    if !sockets.iter().any(|socket| allowed.allows(socket)) {
        let why = "no route or upstream of these sockets has `broadcast = true` in the file: nothing was sent";
        return Err(refuse(StatusCode::FORBIDDEN, why));
    }
    let (matched, began) = (sockets.len(), Instant::now());
    tracing::info!(matched, "a broadcast begins");
    // Goes on to its end, also if whoever asked does not wait for it.
    let (done, counts) = oneshot::channel();
    api.spawn(run(api.shared.clone(), alone, broadcast, sockets, allowed, done));
    let Ok(counts) = counts.await else {
        return Err(refuse(StatusCode::SERVICE_UNAVAILABLE, "stickyd is stopping"));
    };
    Ok(Json(describe(matched, &counts, began.elapsed())))
}

/// Which sockets may be told something, as the file says now.
struct Allowed {
    /// By name.
    upstreams: HashSet<String>,
    /// By name: what routes say themselves, and the upstream each leads to.
    routes: HashMap<Arc<str>, (Option<bool>, String)>,
}

impl Allowed {
    fn now(shared: &Shared) -> Self {
        let snapshot = shared.snapshot.load();
        let allowing = snapshot.upstreams.iter().filter(|upstream| upstream.config.tunnels.broadcast);
        let upstreams = allowing.map(|upstream| upstream.config.name.clone()).collect();
        let said = |one: &Guarded| {
            let upstream = snapshot.upstreams.get(one.route.upstream)?.config.name.clone();
            Some((one.name.clone(), (one.route.broadcast, upstream)))
        };
        // Of two of the same name the first: the other is never reached.
        let routes = snapshot.rules.routes.iter().rev().filter_map(said).collect();
        Self { upstreams, routes }
    }

    /// A route's word goes before its upstream's; its yes only where it still leads.
    fn allows(&self, socket: &Socket) -> bool {
        let upstream = &*socket.worker().upstream;
        match socket.route().and_then(|route| self.routes.get(route)) {
            Some((Some(false), _)) => false,
            Some((Some(true), leads)) if leads == upstream => true,
            Some(_) | None => self.upstreams.contains(upstream),
        }
    }
}

async fn run(
    shared: Arc<Shared>,
    _alone: OwnedMutexGuard<()>,
    broadcast: Arc<Broadcast>,
    sockets: Vec<Arc<Socket>>,
    allowed: Allowed,
    done: oneshot::Sender<Counts>,
) {
    for slice in sockets.chunks(SLICE.max(sockets.len() / SLICES)) {
        for socket in slice {
            hand(&broadcast, socket, &allowed);
        }
        tokio::time::sleep(PAUSE).await;
    }
    // Who has not taken it by then was slow.
    let _ = tokio::time::timeout(PATIENCE, broadcast.decided()).await;
    let counts = broadcast.finish();
    shared.metrics.care.broadcast(&counts);
    tracing::info!(matched = sockets.len(), reached = counts.first(), "a broadcast is over");
    let _ = done.send(counts);
}

fn hand(broadcast: &Arc<Broadcast>, socket: &Socket, allowed: &Allowed) {
    if !allowed.allows(socket) {
        return broadcast.count(Fate::Denied);
    }
    match socket.takes_messages() {
        Err(why) => broadcast.count(why),
        Ok(socket_io) => {
            if let Some(posted) = broadcast.post(socket_io) {
                socket.post(posted);
            }
        }
    }
}

fn describe(matched: usize, counts: &Counts, took: Duration) -> Value {
    let mut fates: Map<String, Value> =
        Fate::ALL.iter().zip(counts).map(|(fate, count)| (fate.word().to_owned(), (*count).into())).collect();
    let reached = fates.remove(Fate::Reached.word());
    json!({ "matched": matched, "reached": reached, "not_reached": fates, "took_ms": u64::try_from(took.as_millis()).ok() })
}

/// What is to be sent.
fn message(fields: &mut Map<String, Value>) -> Result<Arc<Broadcast>, Refusal> {
    let text = string(fields, "text")?;
    let name = string(fields, "event")?;
    let namespace = string(fields, "namespace")?;
    let args = match fields.remove("args") {
        None => None,
        Some(Value::Array(args)) => Some(args),
        Some(_) => return Err(wrong("`args` is a list of whatever JSON can say")),
    };
    if text.is_none() && name.is_none() {
        return Err(wrong(format!(
            "nothing to send: give `text` (plain WebSockets), `event` (Socket.IO) or both; {HELP}"
        )));
    }
    if name.is_none() && (args.is_some() || namespace.is_some()) {
        return Err(wrong("`args` and `namespace` belong to an `event`"));
    }
    let namespace = namespace.unwrap_or_else(|| "/".to_owned());
    // Socket.IO ends a namespace at the first comma.
    if !namespace.starts_with('/') || namespace.contains([',', '?']) || namespace.contains(char::is_control) {
        return Err(wrong("`namespace` begins with / and has no comma"));
    }
    if name.as_deref().is_some_and(|name| name.is_empty() || RESERVED.contains(&name)) {
        return Err(wrong(format!(
            "`event` is a name of the application's: not empty, and none of {}",
            RESERVED.join(", ")
        )));
    }
    let event = name.map(|name| event(&namespace, &name, &args.unwrap_or_default()));
    for (what, message) in [("text", &text), ("event", &event)] {
        if let Some(long) = message.as_ref().map(String::len).filter(|length| *length > LONGEST) {
            let why = format!("`{what}` comes to {long} bytes, and {LONGEST} may be sent: nothing was");
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
    }
    Ok(Broadcast::new(text.as_deref(), event.as_deref()))
}

fn string(fields: &mut Map<String, Value>, name: &str) -> Result<Option<String>, Refusal> {
    match fields.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(wrong(format!("`{name}` is a text"))),
    }
}
