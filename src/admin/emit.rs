//! `POST /api/v1/emit`: sends a Socket.IO event of the backend to the clients of an upstream, on the way that
//! `[upstream.NAME] emit` names.
//!
//! A message is sent at most once, unless it is for users of an `offline_queue` ([`away`](super::away)). If anything in
//! the request is wrong, nothing is sent. In a fleet, frames go to the sockets of all stickyds ([`fleet`]). Left out:
//! what each way sends (`crate::emit`, `bus::emit`, `admin::broadcast`), and the token that allows this and nothing
//! else (`auth`).

mod fleet;
mod refusal;
mod seats;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::api::{BroadcastAnswer, EmitAnswer, EmitOrder};
use super::away::AwayOrder;
use super::broadcast::{Allowed, check_event, describe, send_to};
use super::layers::WholeBody;
use super::orders::Passing;
use super::sockets::close::{read_order, wrong};
use super::sockets::gather;
use super::{Api, ApiRefusal, refuse};
use crate::broadcast::{Broadcast, LONGEST, event};
use crate::bus::{BusEmit, BusEmitted, EmitMatter, EmitMessage};
use crate::clock;
use crate::config::{EmitRedis, EmitWay, RedisPlace};
use crate::metrics::{EmitResult, EmitVia};
use crate::sockets::{Filter, Socket};
use crate::upstream::Upstream;
use refusal::EmitRefusal;
pub(crate) use seats::EmitSeats;

/// Fields that a request body may have, for error messages.
const HELP: &str = "upstream, namespace, rooms, except, event, args; with the bus also ack, timeout, path; \
     with frames also text; with an offline_queue also queue, id";

/// Maximum number of rooms of a message, and of bytes of the name of one.
const MOST_ROOMS: usize = 1_000;
const LONGEST_ROOM: usize = 512;
/// Time in which clients are to answer, if the request does not say it, and the longest that it may say.
const USUAL_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);

/// `POST /api/v1/emit`: sends an event, and waits for the result.
pub(crate) async fn send(
    State(api): State<Api>,
    passing: Passing,
    WholeBody(body): WholeBody,
) -> Result<Json<EmitAnswer>, EmitRefusal> {
    let order: EmitOrder = read_order(&body, HELP)?;
    let upstream = upstream(&api, order.upstream.as_deref())?;
    let message = message(&order)?;
    let way = way(&api, &upstream)?;
    let ack = ack(&order, &way)?;
    let is_passed_on = passing.sender().is_none();
    let away = AwayOrder::read(&api, &order, &upstream, &way, &message, is_passed_on)?;
    let via = match &way {
        EmitWay::Redis(_) => EmitVia::Redis,
        EmitWay::Bus => EmitVia::Bus,
        EmitWay::Frames => EmitVia::Frames,
    };
    // One that another stickyd has passed on was counted there.
    if let Some(sender) = passing.sender() {
        EmitRefusal::unless_admitted(&api, sender, via)?;
    }
    if let (EmitWay::Frames, Some(who)) = (&way, passing.of_backend(&api)) {
        // Nothing is sent anywhere if a room is wrong.
        message.rooms.iter().chain(&message.except).try_for_each(|room| label(room).map(|_| ()))?;
        return Ok(Json(fleet::emit(&api, &upstream, order, who, away).await?));
    }
    let Some(seat) = api.emitting.take().await else {
        return Err(EmitRefusal::full(&api, via));
    };
    let id = away.as_ref().map(|away| away.id().to_owned());
    let emission = Emission { message, ack, path: order.path, text: order.text, id };
    let said = match (way, away) {
        (EmitWay::Redis(to), _) => over_redis(&api, &upstream, &to, &emission.message).await,
        (EmitWay::Bus, None) => over_bus(&api, &upstream, emission).await,
        (EmitWay::Bus, Some(away)) => away.over_bus(&api, &upstream, emission).await,
        (EmitWay::Frames, None) => as_frames(&api, &upstream, &emission, seat).await,
        (EmitWay::Frames, Some(away)) => away.as_frames(&api, &upstream, &emission, seat).await,
    };
    api.shared.metrics.care.emitted(via, if said.is_ok() { EmitResult::Published } else { EmitResult::Failed });
    Ok(Json(said?))
}

/// A message to send, and what only one of the ways can do.
#[derive(Clone)]
pub(super) struct Emission {
    pub(super) message: EmitMessage,
    /// Time in which clients are to answer, if their answers are asked for.
    pub(super) ack: Option<Duration>,
    pub(super) path: Option<String>,
    pub(super) text: Option<String>,
    /// Name of the message, if it is stored for users that are away: all receivers get it, so that they know copies.
    pub(super) id: Option<String>,
}

impl Emission {
    /// The same message to other rooms.
    pub(super) fn to(&self, rooms: Vec<String>) -> Self {
        Self { message: EmitMessage { rooms, ..self.message.clone() }, ..self.clone() }
    }

    /// The arguments that Socket.IO clients get: those of the request, and the name of the message.
    fn named_args(&self) -> Vec<Value> {
        self.message.args.iter().cloned().chain(self.id.clone().map(Value::from)).collect()
    }

    /// The frames of the message, for sockets of both kinds.
    pub(super) fn frames(&self) -> Arc<Broadcast> {
        let EmitMessage { namespace, event: name, args, .. } = &self.message;
        let plain = match (&self.text, &self.id) {
            (Some(text), _) => text.clone(),
            (None, None) => serde_json::json!({ "args": args, "event": name }).to_string(),
            (None, Some(id)) => serde_json::json!({ "args": args, "event": name, "id": id }).to_string(),
        };
        Broadcast::new(Some(&plain), Some(&event(namespace, name, &self.named_args())))
    }
}

/// Returns the upstream that a request names; it may be left out if there is only one.
fn upstream(api: &Api, name: Option<&str>) -> Result<Arc<Upstream>, ApiRefusal> {
    let snapshot = api.shared.snapshot.load();
    let mut all = snapshot.upstreams.iter().filter(|upstream| !upstream.removed);
    let found = match name {
        Some(name) => all.find(|upstream| upstream.config.name == name),
        None => match (all.next(), all.next()) {
            (Some(only), None) => Some(only),
            _ => return Err(wrong("there are several upstreams: give `upstream`")),
        },
    };
    let missing = || refuse(StatusCode::NOT_FOUND, format!("there is no upstream `{}`", name.unwrap_or_default()));
    found.cloned().ok_or_else(missing)
}

/// Returns the way of an upstream's messages: the one of the file, or else the bus where it is on.
fn way(api: &Api, upstream: &Upstream) -> Result<EmitWay, ApiRefusal> {
    match &upstream.config.emit {
        Some(way) => Ok(way.clone()),
        None if upstream.config.bus && api.shared.bus.linked(&upstream.config.name) > 0 => Ok(EmitWay::Bus),
        None => {
            let name = &upstream.config.name;
            let why = format!(
                "no worker of `{name}` is linked to the bus, and [upstream.{name}] has no `emit`: \
                 write emit = {{ via = \"redis-adapter\", redis = … }} or {{ via = \"frames\" }}"
            );
            Err(refuse(StatusCode::FORBIDDEN, why))
        }
    }
}

/// Checks the message of a request.
fn message(order: &EmitOrder) -> Result<EmitMessage, ApiRefusal> {
    let Some(name) = order.event.clone() else {
        return Err(wrong(format!("nothing to send: give `event`; {HELP}")));
    };
    let namespace = order.namespace.clone().unwrap_or_else(|| "/".to_owned());
    check_event(&namespace, &name)?;
    // A list that turned out empty must not become a message to all.
    if order.rooms.as_ref().is_some_and(Vec::is_empty) {
        return Err(wrong("`rooms` is empty: nothing was sent; leave it out to reach all clients"));
    }
    let (rooms, except) = (order.rooms.clone().unwrap_or_default(), order.except.clone().unwrap_or_default());
    for (what, rooms) in [("rooms", &rooms), ("except", &except)] {
        if rooms.len() > MOST_ROOMS || rooms.iter().any(|room| room.is_empty() || room.len() > LONGEST_ROOM) {
            let why = format!("`{what}` must have at most {MOST_ROOMS} names of 1 to {LONGEST_ROOM} bytes");
            return Err(wrong(why));
        }
    }
    let args = order.args.clone().unwrap_or_default();
    for (what, text) in [("event", Some(event(&namespace, &name, &args))), ("text", order.text.clone())] {
        if let Some(long) = text.map(|text| text.len()).filter(|length| *length > LONGEST) {
            let why = format!("`{what}` has {long} bytes, but the limit is {LONGEST}: nothing was sent");
            return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
    }
    Ok(EmitMessage { namespace, rooms, except, event: name, args })
}

/// Checks what only one of the ways can do. Returns the time for the answers of clients, if they are asked.
fn ack(order: &EmitOrder, way: &EmitWay) -> Result<Option<Duration>, ApiRefusal> {
    let asks = order.ack.unwrap_or(false);
    if *way != EmitWay::Bus && (asks || order.path.is_some()) {
        return Err(wrong("`ack` and `path` need an upstream with emit = { via = \"bus\" }: nothing was sent"));
    }
    if order.path.as_ref().is_some_and(|path| !path.starts_with('/')) {
        return Err(wrong("`path` must begin with /, such as /socket.io"));
    }
    if *way != EmitWay::Frames && order.text.is_some() {
        return Err(wrong("`text` needs an upstream with emit = { via = \"frames\" }: nothing was sent"));
    }
    if !asks && order.timeout.is_some() {
        return Err(wrong("`timeout` needs \"ack\": true"));
    }
    let time = order.timeout.as_deref().map_or(Ok(USUAL_TIMEOUT), |text| {
        let time = humantime::parse_duration(text.trim()).ok();
        let fits = |time: &Duration| (Duration::from_millis(1)..=LONGEST_TIMEOUT).contains(time);
        time.filter(fits).ok_or_else(|| wrong("`timeout` must be a duration from 1ms to 30s, such as \"5s\""))
    })?;
    Ok(asks.then_some(time))
}

async fn over_redis(
    api: &Api,
    upstream: &Upstream,
    to: &Arc<EmitRedis>,
    message: &EmitMessage,
) -> Result<EmitAnswer, ApiRefusal> {
    let snapshot = api.shared.snapshot.load_full();
    api.emit_links.retain(|name| snapshot.upstreams.iter().any(|upstream| upstream.config.name == name));
    let name = &upstream.config.name;
    match api.emit_links.publish(name, to, message).await {
        Ok(()) => Ok(EmitAnswer { published: true, ..EmitAnswer::default() }),
        Err(error) => {
            let (redis, kind, mut words) = (&to.address, error.kind(), error.words());
            if error.is_of_cluster() && !matches!(redis.place, RedisPlace::Cluster(_)) {
                words.push_str("; it is a cluster: write redis = \"redis+cluster://…\"");
            }
            tracing::warn!(upstream = %name, %redis, kind, error = %words, "cannot publish a message of the backend");
            let why = format!("the Redis of the adapter of `{name}`, {redis}, did not take the message: {words}");
            Err(refuse(StatusCode::BAD_GATEWAY, why))
        }
    }
}

pub(super) async fn over_bus(api: &Api, upstream: &Upstream, emission: Emission) -> Result<EmitAnswer, ApiRefusal> {
    let message = EmitMessage { args: emission.named_args(), ..emission.message };
    let (ack, path) = (emission.ack, emission.path);
    let began = Instant::now();
    let name = upstream.config.name.clone();
    let unlinked = || {
        let why = format!("no worker of `{name}` is linked to the bus: nothing was sent");
        Err(refuse(StatusCode::SERVICE_UNAVAILABLE, why))
    };
    let asked = ask_bus(api, &name, path.clone(), EmitMatter::Event(message, ack)).await;
    let Some(emitted) = asked else { return unlinked() };
    if let (Some(path), 0) = (path, emitted.servers) {
        let why = format!("no worker of `{name}` that is linked to the bus has the path `{path}`: nothing was sent");
        return Err(refuse(StatusCode::NOT_FOUND, why));
    }
    Ok(EmitAnswer {
        acks: ack.is_some().then_some(emitted.answers),
        acks_dropped: Some(emitted.dropped).filter(|dropped| *dropped > 0),
        published: true,
        silent: Some(emitted.silent),
        sockets: Some(emitted.sockets),
        took_ms: u64::try_from(began.elapsed().as_millis()).ok(),
        workers: Some(emitted.workers),
        ..EmitAnswer::default()
    })
}

/// Hands a matter to the workers of an upstream that are linked to the bus, and waits for their answers; `None` if no
/// worker is linked, or stickyd stops.
pub(crate) async fn ask_bus(api: &Api, upstream: &str, path: Option<String>, matter: EmitMatter) -> Option<BusEmitted> {
    let orders = api.shared.bus.emits().filter(|_| api.shared.bus.linked(upstream) > 0)?;
    let (done, emitted) = oneshot::channel();
    orders.send(BusEmit { upstream: upstream.to_owned(), path, matter, done }).await.ok()?;
    emitted.await.ok()
}

async fn as_frames(
    api: &Api,
    upstream: &Upstream,
    emission: &Emission,
    seat: OwnedSemaphorePermit,
) -> Result<EmitAnswer, ApiRefusal> {
    let (began, message) = (Instant::now(), &emission.message);
    let rooms = [&message.rooms, &message.except].map(|rooms| rooms.iter().map(|room| label(room)).collect());
    let [rooms, except]: [Result<Vec<_>, _>; 2] = rooms;
    let sockets = chosen(api, upstream, &rooms?, &except?).await;
    let matched = sockets.len();
    let allowed = Allowed::now(&api.shared, Some(&upstream.config.name));
    let counts = send_to(api, seat, emission.frames(), sockets, allowed).await?;
    Ok(as_answer(describe(matched, &counts, began.elapsed())))
}

/// The answer that says what frames have reached.
pub(super) fn as_answer(described: BroadcastAnswer) -> EmitAnswer {
    EmitAnswer {
        matched: Some(described.matched),
        not_reached: Some(described.not_reached),
        published: true,
        reached: Some(described.reached),
        took_ms: described.took_ms,
        ..EmitAnswer::default()
    }
}

/// Reads a room as the label that it stands for where messages go as frames.
pub(super) fn label(room: &str) -> Result<(String, String), ApiRefusal> {
    let label = room.split_once([':', '=']).filter(|(name, value)| !name.is_empty() && !value.is_empty());
    let wrong =
        || wrong(format!("with via = \"frames\" a room is a label with its value such as user:7, not `{room}`"));
    label.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(wrong)
}

/// The sockets of an upstream that have any of some labels, all if there are none, without those that are excepted.
pub(super) async fn chosen(
    api: &Api,
    upstream: &Upstream,
    labels: &[(String, String)],
    except: &[(String, String)],
) -> Vec<Arc<Socket>> {
    let filter = Filter { upstream: Some(upstream.config.name.clone()), ..Filter::default() };
    let mut sockets = gather(&api.shared.sessions.sockets, &filter, clock::now_s()).await;
    sockets.retain(|socket| {
        socket.with_texts(|_, own| {
            let has = |(name, value): &(String, String)| own.contains(&(name, Some(value)));
            (labels.is_empty() || labels.iter().any(has)) && !except.iter().any(has)
        })
    });
    sockets
}
