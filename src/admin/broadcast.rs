//! `POST /api/v1/broadcast`: sends a text or a Socket.IO event to WebSockets; reports how many got it, and why others
//! did not.
//!
//! If anything in the request is wrong, nothing is sent. The message is handed to a few sockets at a time, so that
//! traffic is served in between, and sockets have [`DELIVERY_PATIENCE`] to take it. Only one broadcast runs at a time.
//! Left out: how a socket sends it (`crate::broadcast`, `tunnel::insert`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use tokio::sync::oneshot;

use super::api::{BroadcastAnswer, BroadcastOrder, NotReached};
use super::layers::WholeBody;
use super::sockets::close::{read_order, wrong};
use super::sockets::{gather, take_whole_filter};
use super::{Api, ApiRefusal, refuse};
use crate::broadcast::{Broadcast, Fate, FateCounts, LONGEST, event};
use crate::clock;
use crate::config::Upstream;
use crate::route::Guarded;
use crate::sockets::Socket;
use crate::state::Shared;
use crate::telemetry::say_full;

/// Fields that a request body may have, for error messages.
const HELP: &str = "a filter (upstream, worker, address, state, transport, protocol, sid, route, min_age, \
                    label.NAME) or \"all\": true; and text, event, args, namespace";

/// Event names that Socket.IO clients emit themselves, and which a broadcast must not use.
const RESERVED: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];

/// Sockets that are handed the message in one go: some 200 µs of a data thread, during which other clients wait.
const SLICE: usize = 16;

/// Pause between two slices: at least twice the time of a slice is left to all other work.
const PAUSE: Duration = Duration::from_millis(1);

/// Approximate maximum number of slices. For more than 16,000 sockets the slices grow instead, so that the pauses add
/// up to about two seconds at most.
const SLICES: usize = 1_000;

/// Time that sockets have to take a message, once the last of them was handed it.
const DELIVERY_PATIENCE: Duration = Duration::from_secs(5);

/// `POST /api/v1/broadcast`: sends a message to all matching sockets, and waits for the result.
pub(crate) async fn send(
    State(api): State<Api>,
    WholeBody(body): WholeBody,
) -> Result<Json<BroadcastAnswer>, ApiRefusal> {
    let order: BroadcastOrder = read_order(&body, HELP)?;
    let broadcast = message(&order)?;
    let filter = take_whole_filter(&api, order.filter, HELP)?;
    if filter.is_empty() != order.all {
        let why = if order.all { "`all` and a filter cannot be combined" } else { "no recipients given" };
        return Err(wrong(format!("{why}: give {HELP}")));
    }
    let Ok(alone) = api.broadcasting.clone().try_lock_owned() else {
        say_full!("a broadcast was refused: another is under way");
        return Err(refuse(StatusCode::CONFLICT, "another broadcast is under way: nothing was sent"));
    };
    let sockets = gather(&api.shared.sessions.sockets, &filter, clock::now_s()).await;
    if sockets.is_empty() {
        return Err(refuse(StatusCode::NOT_FOUND, "no live socket matches: nothing was sent"));
    }
    let allowed = Allowed::now(&api.shared, None);
    if !sockets.iter().any(|socket| allowed.allows(socket)) {
        let why = "no route or upstream of these sockets has `broadcast = true` in the file: nothing was sent";
        return Err(refuse(StatusCode::FORBIDDEN, why));
    }
    let (matched, began) = (sockets.len(), Instant::now());
    tracing::info!(matched, "broadcast started");
    let counts = send_to(&api, alone, broadcast, sockets, allowed).await?;
    Ok(Json(describe(matched, &counts, began.elapsed())))
}

/// Hands a message to these sockets, and waits for the result; `seat` is held until then.
pub(crate) async fn send_to(
    api: &Api,
    seat: impl Send + 'static,
    broadcast: Arc<Broadcast>,
    sockets: Vec<Arc<Socket>>,
    allowed: Allowed,
) -> Result<FateCounts, ApiRefusal> {
    let counts = hand_to(api, seat, broadcast, sockets, Arc::new(allowed));
    counts.await.map_err(|_| refuse(StatusCode::SERVICE_UNAVAILABLE, "stickyd is stopping"))
}

/// As `send_to`, and returns the way of the result at once.
pub(super) fn hand_to(
    api: &Api,
    seat: impl Send + 'static,
    broadcast: Arc<Broadcast>,
    sockets: Vec<Arc<Socket>>,
    allowed: Arc<Allowed>,
) -> oneshot::Receiver<FateCounts> {
    // Runs to its end even if the client of this request goes away.
    let (done, counts) = oneshot::channel();
    api.spawn(run(api.shared.clone(), seat, broadcast, sockets, allowed, done));
    counts
}

/// Sockets that may receive broadcasts, by the present configuration.
pub(crate) struct Allowed {
    /// Names of the upstreams with `broadcast = true`.
    upstreams: HashSet<String>,
    /// Routes by name: the route's own `broadcast` setting, and the upstream it leads to.
    routes: HashMap<Arc<str>, (Option<bool>, String)>,
}

impl Allowed {
    /// Those of now; `also` is an upstream that allows them for another reason.
    pub(crate) fn now(shared: &Shared, also: Option<&str>) -> Self {
        let snapshot = shared.snapshot.load();
        let allows = |config: &Upstream| config.tunnels.broadcast || also == Some(config.name.as_str());
        let allowing = snapshot.upstreams.iter().filter(|upstream| allows(&upstream.config));
        let upstreams = allowing.map(|upstream| upstream.config.name.clone()).collect();
        let said = |one: &Guarded| {
            let upstream = snapshot.upstreams.get(one.route.upstream)?.config.name.clone();
            Some((one.name.clone(), (one.route.broadcast, upstream)))
        };
        // Of two routes with the same name the first one counts: no request reaches the other.
        let routes = snapshot.rules.routes.iter().rev().filter_map(said).collect();
        Self { upstreams, routes }
    }

    /// Whether a socket may receive broadcasts. A route's setting overrides its upstream's; `true` only while it still
    /// leads there.
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
    _seat: impl Send + 'static,
    broadcast: Arc<Broadcast>,
    sockets: Vec<Arc<Socket>>,
    allowed: Arc<Allowed>,
    done: oneshot::Sender<FateCounts>,
) {
    for slice in sockets.chunks(SLICE.max(sockets.len() / SLICES)) {
        for socket in slice {
            hand(&broadcast, socket, &allowed);
        }
        tokio::time::sleep(PAUSE).await;
    }
    // Sockets that have not taken the message by then count as slow.
    let _ = tokio::time::timeout(DELIVERY_PATIENCE, broadcast.decided()).await;
    let counts = broadcast.finish();
    if counts.get(Fate::Slow as usize).is_some_and(|slow| *slow > 0) {
        // Else the message stays in memory for as long as a client does not read.
        for slice in sockets.chunks(SLICE * SLICE) {
            slice.iter().for_each(|socket| socket.drop_late_posts());
            tokio::task::yield_now().await;
        }
    }
    shared.metrics.care.broadcast(&counts);
    tracing::info!(matched = sockets.len(), reached = counts.first(), "broadcast finished");
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

/// Describes the result of a broadcast.
pub(crate) fn describe(matched: usize, counts: &FateCounts, took: Duration) -> BroadcastAnswer {
    let (mut reached, mut not_reached) = (0, NotReached::default());
    for (fate, count) in Fate::ALL.into_iter().zip(counts) {
        let field = match fate {
            Fate::Reached => &mut reached,
            Fate::Denied => &mut not_reached.denied,
            Fate::Polling => &mut not_reached.polling,
            Fate::NotReady => &mut not_reached.not_ready,
            Fate::OtherKind => &mut not_reached.other_kind,
            Fate::Closing => &mut not_reached.closing,
            Fate::Slow => &mut not_reached.slow,
        };
        *field = *count;
    }
    BroadcastAnswer { matched, not_reached, reached, took_ms: u64::try_from(took.as_millis()).ok() }
}

/// Makes the message to send from the fields of the body.
fn message(order: &BroadcastOrder) -> Result<Arc<Broadcast>, ApiRefusal> {
    let BroadcastOrder { text, event: name, namespace, args, .. } = order;
    if text.is_none() && name.is_none() {
        return Err(wrong(format!(
            "nothing to send: give `text` (plain WebSockets), `event` (Socket.IO) or both; {HELP}"
        )));
    }
    if name.is_none() && (args.is_some() || namespace.is_some()) {
        return Err(wrong("`args` and `namespace` need an `event`"));
    }
    let namespace = namespace.as_deref().unwrap_or("/");
    if let Some(name) = name {
        check_event(namespace, name)?;
    }
    let event = name.as_ref().map(|name| event(namespace, name, args.as_deref().unwrap_or_default()));
    for (what, message) in [("text", text), ("event", &event)] {
        if let Some(long) = message.as_ref().map(String::len).filter(|length| *length > LONGEST) {
            let why = format!("`{what}` has {long} bytes, but the limit is {LONGEST}: nothing was sent");
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
    }
    Ok(Broadcast::new(text.as_deref(), event.as_deref()))
}

/// Checks a namespace, which Socket.IO ends at the first comma.
pub(crate) fn check_namespace(namespace: &str) -> Result<(), ApiRefusal> {
    if !namespace.starts_with('/') || namespace.contains([',', '?']) || namespace.contains(char::is_control) {
        return Err(wrong("`namespace` must begin with / and must not contain a comma"));
    }
    Ok(())
}

/// Checks the namespace and the name of an event.
pub(crate) fn check_event(namespace: &str, name: &str) -> Result<(), ApiRefusal> {
    check_namespace(namespace)?;
    if name.is_empty() || RESERVED.contains(&name) {
        return Err(wrong(format!(
            "`event` must be a name of the application: not empty, and none of {}",
            RESERVED.join(", ")
        )));
    }
    Ok(())
}
