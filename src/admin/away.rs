//! Messages of `POST /api/v1/emit` for users of an `offline_queue`: what reaches no socket of a user is stored for the
//! next one.
//!
//! A room such as `user:7`, with the label of the queue, stands for a user. As frames, each user has a result of its
//! own; over the bus, each such room is a message of its own, because only then the number of sockets belongs to one
//! user. A message is stored at once where earlier ones wait, so that it does not overtake them. If Redis is away,
//! users with sockets get their messages all the same. In a fleet, frames are sent by all stickyds, and stored by the
//! one that was asked, for users that none has reached. Left out: storing and delivering (`crate::queue`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

use super::api::{EmitAnswer, EmitOrder};
use super::broadcast::{Allowed, describe, hand_to};
use super::emit::{Emission, as_answer, chosen, label, over_bus};
use super::queue::{bad_user, check_id, read_keep};
use super::sockets::close::wrong;
use super::{Api, ApiRefusal, refuse};
use crate::broadcast::{Fate, FateCounts, event_array};
use crate::bus::EmitMessage;
use crate::config::{EmitWay, OfflineQueue};
use crate::queue::{MessageContent, NewMessage, QueueFault};
use crate::sockets::Socket;
use crate::upstream::Upstream;

/// Time in which rooms of users are sent over the bus one after the other; the messages of later ones are stored.
const BUS_TIME: Duration = Duration::from_secs(10);

/// Rooms that an error names.
const NAMED: usize = 10;

/// How messages for users that are away are stored.
pub(super) struct AwayOrder {
    terms: OfflineQueue,
    /// Name of the message, the same for all users.
    id: String,
    keep: Option<Duration>,
    content: MessageContent,
    /// Whether another stickyd has passed the message on, which stores it where needed.
    is_passed_on: bool,
    /// Users that the message is for: the rooms, and the values of the label in them.
    users: Vec<(String, String)>,
}

impl AwayOrder {
    /// Reads what a request says about users that are away; `None` if nothing is to be stored.
    ///
    /// # Errors
    /// The request asks for something that this upstream cannot do.
    pub(super) fn read(
        api: &Api,
        order: &EmitOrder,
        upstream: &Upstream,
        way: &EmitWay,
        message: &EmitMessage,
        is_passed_on: bool,
    ) -> Result<Option<Self>, ApiRefusal> {
        let wish = order.queue.as_ref().filter(|wish| **wish != Value::Bool(false));
        if order.id.is_some() && order.queue == Some(Value::Bool(false)) {
            return Err(wrong("`id` names a queued message: it needs no \"queue\": false"));
        }
        let is_asked = wish.is_some() || order.id.is_some();
        let Some(terms) = upstream.config.offline_queue.clone() else {
            if is_passed_on && api.shared.sessions.fleet().is_some() {
                // The file of this stickyd differs; it sends the message all the same.
                return Ok(None);
            }
            let name = &upstream.config.name;
            let why = format!("`queue` and `id` need an `offline_queue` in [upstream.{name}]: nothing was sent");
            return if is_asked { Err(wrong(why)) } else { Ok(None) };
        };
        if matches!(way, EmitWay::Redis(_)) {
            let why = "with via = \"redis-adapter\" it is not known who got a message: \
                       for users that may be away use POST /api/v1/queue; nothing was sent";
            return if is_asked { Err(wrong(why)) } else { Ok(None) };
        }
        let keep = wish.map(|wish| read_wish(wish, &terms)).transpose()?.flatten();
        order.id.as_deref().map_or(Ok(()), check_id)?;
        if order.queue == Some(Value::Bool(false)) {
            return Ok(None);
        }
        let users = users(message, &terms);
        if users.is_empty() {
            let why = format!("`queue` and `id` need a room of a user such as {}:7: nothing was sent", terms.label);
            return if is_asked && !is_passed_on { Err(wrong(why)) } else { Ok(None) };
        }
        let id = order.id.clone().unwrap_or_else(|| api.shared.queues.new_id());
        let namespace = in_answers(&message.namespace);
        let array = event_array(&message.event, &message.args);
        let content = match way {
            EmitWay::Frames => MessageContent::Both { namespace, array, text: order.text.clone() },
            EmitWay::Bus | EmitWay::Redis(_) => MessageContent::Event { namespace, array },
        };
        Ok(Some(Self { terms, id, keep, content, is_passed_on, users }))
    }

    /// Name of the message.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Sends a message as frames to the sockets of this stickyd. The answer says which users it has reached.
    pub(super) async fn as_frames(
        &self,
        api: &Api,
        upstream: &Upstream,
        emission: &Emission,
        seat: OwnedSemaphorePermit,
    ) -> Result<EmitAnswer, ApiRefusal> {
        let began = Instant::now();
        let message = &emission.message;
        let rooms: Vec<_> = message.rooms.iter().map(|room| label(room)).collect::<Result<_, _>>()?;
        let except: Vec<_> = message.except.iter().map(|room| label(room)).collect::<Result<_, _>>()?;
        let mut groups = self.groups(api, upstream, chosen(api, upstream, &rooms, &except).await);
        let frames = emission.frames();
        let (seat, allowed) = (Arc::new(seat), Arc::new(Allowed::now(&api.shared, Some(&upstream.config.name))));
        let hand = |sockets: Vec<Arc<Socket>>| {
            let (matched, once_more) = (sockets.len(), frames.once_more());
            (matched, hand_to(api, seat.clone(), once_more, sockets, allowed.clone()))
        };
        let (mut present, mut under_way) = (Vec::new(), Vec::new());
        for user in &self.users {
            let sockets = groups.remove(&Some(user.1.clone())).unwrap_or_default();
            let is_there = sockets.iter().any(|socket| crate::queue::is_ready_for(&self.content, socket));
            if is_there && !self.has_backlog(api, upstream, user) {
                under_way.push((Some(user), hand(sockets)));
            }
        }
        under_way.extend(groups.remove(&None).map(|sockets| (None, hand(sockets))));
        let (mut all, mut counts) = (0, FateCounts::default());
        for (user, (matched, done)) in under_way {
            let of_user = done.await.map_err(|_| refuse(StatusCode::SERVICE_UNAVAILABLE, "stickyd is stopping"))?;
            all += matched;
            counts.iter_mut().zip(of_user).for_each(|(sum, count)| *sum += count);
            let is_reached = of_user.get(Fate::Reached as usize).is_some_and(|reached| *reached > 0);
            present.extend(user.filter(|_| is_reached).map(|(room, _)| room.clone()));
        }
        let described = describe(all, &counts, began.elapsed());
        Ok(EmitAnswer { present: Some(present), ..as_answer(described) })
    }

    /// Stores the message for users whose rooms are not in `present`, and completes the answer.
    pub(super) async fn store_but_for(
        &self,
        api: &Api,
        upstream: &Upstream,
        present: &HashSet<String>,
        sent: EmitAnswer,
    ) -> Result<EmitAnswer, ApiRefusal> {
        let away = self.users.iter().filter(|(room, _)| !present.contains(room)).collect();
        self.store(api, upstream, away, sent).await
    }

    /// Sends a message over the bus, and stores it for users whose rooms no socket is in.
    pub(super) async fn over_bus(
        self,
        api: &Api,
        upstream: &Upstream,
        emission: Emission,
    ) -> Result<EmitAnswer, ApiRefusal> {
        let began = Instant::now();
        let of_user = |room: &String| {
            self.users.iter().any(|(_, value)| {
                room.split_once([':', '=']).is_some_and(|(name, other)| name == self.terms.label && other == value)
            })
        };
        let others: Vec<_> = emission.message.rooms.iter().filter(|room| !of_user(room)).cloned().collect();
        let mut sent = match others.is_empty() {
            true => EmitAnswer { published: true, ..EmitAnswer::default() },
            false => over_bus(api, upstream, emission.to(others)).await?,
        };
        let mut away = Vec::new();
        for user in &self.users {
            if began.elapsed() >= BUS_TIME || self.has_backlog(api, upstream, user) {
                away.push(user);
                continue;
            }
            match over_bus(api, upstream, emission.to(vec![user.0.clone()])).await {
                Ok(one) => {
                    if one.sockets == Some(0) {
                        away.push(user);
                    }
                    sent = sum(sent, one);
                }
                // No worker has this path, which a later socket will not have either.
                Err(refusal) if refusal.0 == StatusCode::NOT_FOUND => return Err(refusal),
                // No worker is linked at the moment: nothing was sent.
                Err(_) => away.push(user),
            }
        }
        sent.took_ms = u64::try_from(began.elapsed().as_millis()).ok();
        if self.is_passed_on {
            return Ok(sent);
        }
        self.store(api, upstream, away, sent).await
    }

    /// The sockets of each user, and under `None` those of other rooms. A label that was shortened is not the user
    /// whose name it equals.
    fn groups(
        &self,
        api: &Api,
        upstream: &Upstream,
        sockets: Vec<Arc<Socket>>,
    ) -> HashMap<Option<String>, Vec<Arc<Socket>>> {
        let mut groups: HashMap<_, Vec<_>> = HashMap::new();
        let known: HashSet<_> = self.users.iter().map(|(_, value)| value.as_str()).collect();
        for socket in sockets {
            let own = socket.with_texts(|_, labels| {
                let found = labels.iter().find(|(name, _)| *name == self.terms.label);
                found.and_then(|(_, value)| value.map(str::to_owned))
            });
            let own = own.filter(|own| known.contains(own.as_str()));
            let is_other = |own: &String| {
                let (queues, name) = (&api.shared.queues, &upstream.config.name);
                queues.is_of_another(&socket, name, &self.terms.label, own)
            };
            if !own.as_ref().is_some_and(is_other) {
                groups.entry(own).or_default().push(socket);
            }
        }
        groups
    }

    fn has_backlog(&self, api: &Api, upstream: &Upstream, user: &(String, String)) -> bool {
        api.shared.queues.has_backlog(&upstream.config.name, &self.terms.label, &user.1)
    }

    /// Stores the message for these users, and completes the answer.
    async fn store(
        &self,
        api: &Api,
        upstream: &Upstream,
        away: Vec<&(String, String)>,
        sent: EmitAnswer,
    ) -> Result<EmitAnswer, ApiRefusal> {
        for (done, (_, value)) in away.iter().enumerate() {
            let new = NewMessage {
                upstream: &upstream.config.name,
                terms: &self.terms,
                user: value,
                id: Some(self.id.clone()),
                content: self.content.clone(),
                keep: self.keep,
            };
            // One after the other: they share one connection, and the first failure ends it.
            if let Err(fault) = api.shared.queues.enqueue(new, false).await {
                return Err(self.not_stored(&fault, away.get(done..).unwrap_or_default(), done, &sent));
            }
        }
        Ok(EmitAnswer { id: Some(self.id.clone()), queued: Some(away.len()), ..sent })
    }

    fn not_stored(
        &self,
        fault: &QueueFault,
        left: &[&(String, String)],
        stored: usize,
        sent: &EmitAnswer,
    ) -> ApiRefusal {
        let mut rooms: Vec<_> = left.iter().take(NAMED).map(|(room, _)| room.as_str()).collect();
        if left.len() > NAMED {
            rooms.push("…");
        }
        let fault = match fault {
            QueueFault::BadUser => return bad_user(),
            QueueFault::Store(fault) => fault,
        };
        let sockets = sent.reached.map(u64::from).or(sent.sockets).unwrap_or(0);
        let why = format!(
            "{fault}: the message is not stored for certain for {} of {} users ({}); it was sent to {sockets} sockets \
             and stored for {stored} users; send it to those rooms again, with the id {}",
            left.len(),
            self.users.len(),
            rooms.join(", "),
            self.id,
        );
        refuse(StatusCode::SERVICE_UNAVAILABLE, why)
    }
}

/// Reads how long a message is kept, if the request says it.
fn read_wish(wish: &Value, terms: &OfflineQueue) -> Result<Option<Duration>, ApiRefusal> {
    match wish {
        Value::Bool(_) => Ok(None),
        Value::String(text) => read_keep("queue", text, terms).map(Some),
        _ => Err(wrong("`queue` must be true, false or a duration such as \"2h\"")),
    }
}

/// The users that a message is for, once each: their rooms, and the values of the label.
fn users(message: &EmitMessage, terms: &OfflineQueue) -> Vec<(String, String)> {
    let user = |room: &String| {
        let (name, value) = room.split_once([':', '='])?;
        let is_user = name == terms.label && !value.is_empty() && !message.except.contains(room);
        is_user.then(|| (room.clone(), value.to_owned()))
    };
    let mut users: Vec<_> = message.rooms.iter().filter_map(user).collect();
    users.sort_by(|one, other| one.1.cmp(&other.1));
    users.dedup_by(|one, other| one.1 == other.1);
    users
}

/// The namespace as it is written in packets: empty for `/`.
fn in_answers(namespace: &str) -> String {
    if namespace == "/" { String::new() } else { namespace.to_owned() }
}

/// Adds up the results of two messages over the bus. The same workers get both.
fn sum(one: EmitAnswer, other: EmitAnswer) -> EmitAnswer {
    let acks = match (one.acks, other.acks) {
        (Some(mut all), Some(more)) => {
            all.extend(more);
            Some(all)
        }
        (one, other) => one.or(other),
    };
    EmitAnswer {
        acks,
        acks_dropped: one
            .acks_dropped
            .max(other.acks_dropped)
            .map(|_| one.acks_dropped.unwrap_or(0) + other.acks_dropped.unwrap_or(0)),
        published: true,
        silent: one.silent.max(other.silent),
        sockets: Some(one.sockets.unwrap_or(0) + other.sockets.unwrap_or(0)),
        workers: one.workers.max(other.workers),
        ..EmitAnswer::default()
    }
}
