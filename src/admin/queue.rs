//! `/api/v1/queue`: messages for users whose clients are away: sent, counted, shown and deleted.
//!
//! Names of users stand in bodies, not in paths, which logs would show. What messages say is shown only on request, and
//! only to those that may also write. Left out: how they are stored and delivered (`crate::queue`).

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;

use super::api::{
    EnqueueAnswer, EnqueueOrder, QueueAnswer, QueueDeleteOrder, QueueDeleted, QueueMessageView, QueueMessages,
    QueueShowOrder, QueueUpstream, QueueUser,
};
use super::broadcast::check_event;
use super::layers::WholeBody;
use super::sockets::close::{read_order, wrong};
use super::{Api, ApiRefusal, refuse};
use crate::broadcast::{LONGEST, event_array};
use crate::config::OfflineQueue;
use crate::queue::{MessageContent, NewMessage, QueueFault};
use crate::sockets::SocketKind;

/// Number of users or messages per answer: the default, and the maximum.
const USUAL: usize = 100;
const MOST: usize = 10_000;

/// Fields of the bodies, for error messages.
const SEND: &str = "upstream, label, event (with args and namespace) or text; and id, keep";
const SHOW: &str = "upstream, label; and limit, payload";
const DELETE: &str = "upstream, label; and id";

/// `POST /api/v1/queue`: stores a message for a user, and delivers it at once if the user has a socket here.
pub(super) async fn send(
    State(api): State<Api>,
    WholeBody(body): WholeBody,
) -> Result<Json<EnqueueAnswer>, ApiRefusal> {
    let order: EnqueueOrder = read_order(&body, SEND)?;
    let terms = terms(&api, &order.upstream)?;
    let user = user(&terms, &order.label)?;
    let content = content(&order)?;
    let keep = order.keep.as_deref().map(|text| read_keep("keep", text, &terms)).transpose()?;
    order.id.as_deref().map_or(Ok(()), check_id)?;
    let new = NewMessage { upstream: &order.upstream, terms: &terms, user, id: order.id.clone(), content, keep };
    let done = api.shared.queues.enqueue(new, true).await.map_err(not_stored)?;
    let result = if done.is_delivered { "delivered" } else { "stored" };
    Ok(Json(EnqueueAnswer { id: done.id, result: result.to_owned(), waiting: done.waiting }))
}

/// `GET /api/v1/queue`: numbers of messages, and the users that they wait for.
pub(super) async fn list(
    State(api): State<Api>,
    Query(mut query): Query<HashMap<String, String>>,
) -> Result<Json<QueueAnswer>, ApiRefusal> {
    let limit = query.remove("limit").map(|text| limit(text.parse().ok())).transpose()?.unwrap_or(USUAL);
    let wanted = query.remove("upstream");
    if let Some(unknown) = query.keys().min() {
        return Err(wrong(format!("unknown parameter `{unknown}`: known parameters are upstream and limit")));
    }
    let named: Vec<_> = match wanted {
        Some(name) => vec![(name.clone(), terms(&api, &name)?)],
        None => {
            let snapshot = api.shared.snapshot.load();
            let with = snapshot.named().filter_map(|one| Some((one.name.clone(), one.offline_queue.clone()?)));
            with.collect()
        }
    };
    let mut upstreams = Vec::new();
    for (name, terms) in named {
        let (users, messages, count) = api.shared.queues.users(&name, limit).await.map_err(not_read)?;
        let now_ms = now_ms(&api);
        let view = |user: crate::queue::WaitingUser| QueueUser {
            age_s: seconds(now_ms.saturating_sub(if user.first_ms == 0 { now_ms } else { user.first_ms })),
            expires_s: seconds(user.expires_ms.saturating_sub(now_ms)),
            messages: user.messages,
            user: user.label.map(|(_, value)| value),
        };
        let waiting = users.into_iter().map(view).collect();
        upstreams.push(QueueUpstream { label: terms.label, messages, name, total: terms.total, users: count, waiting });
    }
    Ok(Json(QueueAnswer { upstreams }))
}

/// `POST /api/v1/queue/show`: the messages of one user.
pub(super) async fn show(
    State(api): State<Api>,
    WholeBody(body): WholeBody,
) -> Result<Json<QueueMessages>, ApiRefusal> {
    let order: QueueShowOrder = read_order(&body, SHOW)?;
    let terms = terms(&api, &order.upstream)?;
    let user = user(&terms, &order.label)?;
    let limit = order.limit.map(|number| limit(Some(number))).transpose()?.unwrap_or(USUAL);
    let found = api.shared.queues.messages(&order.upstream, &terms.label, user, limit).await.map_err(not_read)?;
    let now_ms = now_ms(&api);
    let view = |(message, expires_ms): (crate::queue::QueuedMessage, i64)| {
        let (kind, namespace) = match &message.content {
            MessageContent::Text(_) => ("text", None),
            MessageContent::Event { namespace, .. } | MessageContent::Both { namespace, .. }
                if namespace.is_empty() =>
            {
                ("event", Some("/".to_owned()))
            }
            MessageContent::Event { namespace, .. } | MessageContent::Both { namespace, .. } => {
                ("event", Some(namespace.clone()))
            }
        };
        QueueMessageView {
            age_s: seconds(now_ms.saturating_sub(message.stored_ms)),
            bytes: message.content.size(),
            expires_s: seconds(expires_ms.saturating_sub(now_ms)),
            kind: kind.to_owned(),
            namespace,
            payload: order.payload.then(|| message.packet(SocketKind::EngineIo)),
            id: message.id,
        }
    };
    Ok(Json(QueueMessages { messages: found.into_iter().map(view).collect() }))
}

/// `POST /api/v1/queue/delete`: deletes the messages of one user, or one of them.
pub(super) async fn delete(
    State(api): State<Api>,
    WholeBody(body): WholeBody,
) -> Result<Json<QueueDeleted>, ApiRefusal> {
    let order: QueueDeleteOrder = read_order(&body, DELETE)?;
    let terms = terms(&api, &order.upstream)?;
    let user = user(&terms, &order.label)?;
    let id = order.id.as_deref();
    let deleted = api.shared.queues.delete(&order.upstream, &terms.label, user, id).await.map_err(not_read)?;
    if deleted == 0 {
        return Err(refuse(StatusCode::NOT_FOUND, "no message of this user waits, or none with this id"));
    }
    tracing::info!(upstream = %order.upstream, deleted, "deleted queued messages");
    Ok(Json(QueueDeleted { deleted }))
}

/// The queue of an upstream.
fn terms(api: &Api, upstream: &str) -> Result<OfflineQueue, ApiRefusal> {
    let snapshot = api.shared.snapshot.load();
    let found = snapshot.upstream(upstream);
    let missing = |why: String| refuse(StatusCode::NOT_FOUND, why);
    let found = found.ok_or_else(|| missing(format!("there is no upstream `{upstream}`")))?;
    let none = || missing(format!("the upstream `{upstream}` has no `offline_queue` in the file"));
    found.config.offline_queue.clone().ok_or_else(none)
}

/// The value of the label that says who a user is.
fn user<'l>(terms: &OfflineQueue, label: &'l BTreeMap<String, String>) -> Result<&'l str, ApiRefusal> {
    match (label.get(&terms.label), label.len()) {
        (Some(value), 1) => Ok(value),
        _ => Err(wrong(format!(
            "`label` must have exactly the label of `offline_queue`: write \"label\": {{\"{}\": \"…\"}}",
            terms.label
        ))),
    }
}

/// Checks the name of a message.
pub(super) fn check_id(id: &str) -> Result<(), ApiRefusal> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if id.is_empty() || id.len() > 64 || !id.chars().all(fits) {
        return Err(wrong("`id` must have 1 to 64 letters, digits, `-`, `_`, `.` or `:`"));
    }
    Ok(())
}

fn content(order: &EnqueueOrder) -> Result<MessageContent, ApiRefusal> {
    let (what, content) = match (&order.event, &order.text) {
        (Some(_), Some(_)) => return Err(wrong("give `event` (Socket.IO) or `text` (plain WebSockets), not both")),
        (None, None) => {
            return Err(wrong(format!(
                "nothing to send: give `event` (Socket.IO) or `text` (plain WebSockets); {SEND}"
            )));
        }
        (None, Some(_)) if order.args.is_some() || order.namespace.is_some() => {
            return Err(wrong("`args` and `namespace` need an `event`"));
        }
        (None, Some(text)) => ("text", MessageContent::Text(text.clone())),
        (Some(name), None) => {
            let namespace = order.namespace.as_deref().unwrap_or("/");
            check_event(namespace, name)?;
            let namespace = if namespace == "/" { String::new() } else { namespace.to_owned() };
            let array = event_array(name, order.args.as_deref().unwrap_or_default());
            ("event", MessageContent::Event { namespace, array })
        }
    };
    if let Some(long) = Some(content.size()).filter(|size| *size > LONGEST) {
        let why = format!("`{what}` has {long} bytes, but the limit is {LONGEST}: nothing was stored");
        return Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    Ok(content)
}

/// Reads how long a message is kept, from the field with this name.
pub(super) fn read_keep(field: &str, text: &str, terms: &OfflineQueue) -> Result<Duration, ApiRefusal> {
    let most = humantime::format_duration(terms.keep);
    let keep =
        humantime::parse_duration(text).ok().filter(|keep| *keep >= Duration::from_secs(1) && *keep <= terms.keep);
    keep.ok_or_else(|| {
        wrong(format!("`{field}` must be a duration from 1s to {most}, which the file allows, not `{text}`"))
    })
}

fn limit(number: Option<usize>) -> Result<usize, ApiRefusal> {
    let fits = number.filter(|number| (1..=MOST).contains(number));
    fits.ok_or_else(|| wrong(format!("`limit` must be a number from 1 to {MOST}")))
}

fn not_stored(fault: QueueFault) -> ApiRefusal {
    match fault {
        QueueFault::BadUser => bad_user(),
        QueueFault::Store(fault) => {
            let why = format!("{fault}: the message is not stored for certain; send it again, with the same `id`");
            refuse(StatusCode::SERVICE_UNAVAILABLE, why)
        }
    }
}

fn not_read(fault: QueueFault) -> ApiRefusal {
    match fault {
        QueueFault::BadUser => bad_user(),
        QueueFault::Store(fault) => refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{fault}: try again later")),
    }
}

pub(super) fn bad_user() -> ApiRefusal {
    wrong("the value of `label` must have 1 to 1,024 bytes")
}

fn now_ms(api: &Api) -> i64 {
    api.shared.sessions.fleet().map_or(0, |fleet| fleet.fleet_ms())
}

fn seconds(ms: i64) -> u64 {
    u64::try_from(ms / 1_000).unwrap_or(0)
}
