//! Delivers queued messages on the fleet's thread.
//!
//! A user is looked after when a socket comes, a namespace is connected, a message is stored here or on another
//! stickyd, or Redis is reached again. One stickyd at a time delivers the messages of a user, by a claim in Redis;
//! within it one task does. A message that is not confirmed stays, and is sent again. Left out: how messages get to a
//! socket (`carry`).

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::{PageBatch, suits};
use super::list::MailList;
use super::message::QueuedMessage;
use super::{HAS_MESSAGE, OfflineQueues, TOPIC, WANTS_CLAIM};
use crate::broadcast::Fate;
use crate::fleet::{Fleet, FleetMessage, StoreFault};
use crate::metrics::MailResult;
use crate::sockets::{MailUser, Mailbag, Socket};

/// Deliveries over WebSockets at a time, and to clients that poll. Each holds up to [`MOST_BYTES`].
const TUNNELS: usize = 1_024;
const POLLS: usize = 1_024;

/// Users whose messages are asked for at a time.
const LOOKS: usize = 1_024;

/// Messages that are read at a time, and bytes that are sent before they must be confirmed. One message may be larger.
const PAGE: usize = 128;
const MOST_BYTES: usize = 64 * 1024;

/// Pages that are read at a time; each may be 8 MiB long until what is beyond [`MOST_BYTES`] is dropped.
const READS: usize = 8;

/// Pause before the next try, after a socket did not take a message or another stickyd has the claim.
const PAUSE: Duration = Duration::from_secs(1);

/// Pause between two looks at a client that polls.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// Tries in a row after which a socket that confirms nothing gets no more messages.
const TRIES: u32 = 3;

/// Delivers the messages of all users.
pub(super) struct Postman {
    pub(super) queues: Arc<OfflineQueues>,
    pub(super) fleet: Arc<Fleet>,
    /// Users being looked after; `true`: they are to be looked after once more.
    pub(super) busy: RefCell<HashMap<MailUser, bool>>,
    /// Users whose claim another stickyd wants.
    pub(super) wanted: RefCell<HashSet<MailUser>>,
    looks: Semaphore,
    reads: Semaphore,
    tunnels: Semaphore,
    polls: Semaphore,
}

/// What a look at the messages of a user came to.
pub(super) enum Then {
    /// Nothing more can be delivered now.
    Done,
    /// Another socket has come meanwhile.
    Now,
    /// It is worth another try after a pause.
    Later(Duration),
}

/// What became of messages at a socket.
pub(super) enum DeliveryOutcome {
    Confirmed,
    /// They were not sent, or not all of them.
    NotTaken,
    /// They were not sent, because another socket of this stickyd can get them sooner, or one of another stickyd.
    GaveWay(Then),
    /// They were sent, but not confirmed.
    Unconfirmed,
}

/// Delivers until `stop`, if there is a fleet. `upstreams` are those with a queue.
pub(crate) async fn run(
    queues: Arc<OfflineQueues>,
    stop: CancellationToken,
    upstreams: impl Fn() -> Vec<String> + 'static,
) {
    let Some(fleet) = queues.fleet.clone() else { return };
    let (mut reached, mut messages) = (fleet.store_reached(), fleet.subscribe(TOPIC));
    let postman = Rc::new(Postman {
        queues,
        fleet,
        busy: RefCell::default(),
        wanted: RefCell::default(),
        looks: Semaphore::new(LOOKS),
        reads: Semaphore::new(READS),
        tunnels: Semaphore::new(TUNNELS),
        polls: Semaphore::new(POLLS),
    });
    let tasks = TaskTracker::new();
    let sweeping = postman.clone().sweep(upstreams);
    tasks.spawn_local(stop.clone().run_until_cancelled_owned(sweeping));
    let rounds = async {
        loop {
            tokio::select! {
                () = postman.queues.news.notified() => {}
                changed = reached.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    postman.queues.wake_all(false);
                }
                message = messages.recv() => match message {
                    Some(FleetMessage::Message { payload, .. }) => postman.hears(&payload),
                    Some(FleetMessage::Gap) => postman.queues.wake_all(true),
                    None => return,
                },
            }
            let users: HashSet<_> = std::mem::take(&mut *crate::locks::lock(&postman.queues.pending));
            for user in users {
                let mut busy = postman.busy.borrow_mut();
                if let Some(again) = busy.get_mut(&user) {
                    *again = true;
                } else {
                    busy.insert(user, false);
                    let task = postman.clone().look_after(user);
                    tasks.spawn_local(stop.clone().run_until_cancelled_owned(task));
                }
            }
        }
    };
    let _ = stop.run_until_cancelled(rounds).await;
    tasks.close();
    let _ = tokio::time::timeout(PAUSE, tasks.wait()).await;
}

impl Postman {
    /// Takes note of what another stickyd says.
    fn hears(&self, payload: &[u8]) {
        let Some((kind, user)) = payload.split_first() else { return };
        let Ok(user) = user.try_into().map(MailUser) else { return };
        match *kind {
            HAS_MESSAGE => self.queues.wake(user),
            WANTS_CLAIM if self.busy.borrow().contains_key(&user) => _ = self.wanted.borrow_mut().insert(user),
            _ => {}
        }
    }

    /// Delivers the messages of a user until there are none, or no socket takes them.
    async fn look_after(self: Rc<Self>, user: MailUser) {
        loop {
            self.busy.borrow_mut().insert(user, false);
            let then = match self.look(user).await {
                Ok(then) => then,
                // One answer was late.
                Err(StoreFault::Away) if self.fleet.has_store() => Then::Later(PAUSE),
                Err(_) => Then::Done,
            };
            self.settled(user);
            self.wanted.borrow_mut().remove(&user);
            match then {
                Then::Now => {}
                Then::Later(pause) => tokio::time::sleep(pause).await,
                Then::Done => {
                    let mut busy = self.busy.borrow_mut();
                    if busy.get(&user) != Some(&true) {
                        busy.remove(&user);
                        return;
                    }
                }
            }
        }
    }

    /// Lets polls go on that wait for the messages of a user.
    fn settled(&self, user: MailUser) {
        let sockets = self.queues.sockets(user).map(|(_, sockets)| sockets).unwrap_or_default();
        sockets.iter().filter_map(|socket| socket.mailbag()).for_each(|bag| bag.asks(false));
    }

    /// One look. An error means that Redis is away: the user is looked after again once it is reached.
    async fn look(&self, user: MailUser) -> Result<Then, StoreFault> {
        let asked = self.queues.asked(user);
        let Some((upstream, sockets)) = self.queues.sockets(user) else { return Ok(Then::Done) };
        if !sockets.iter().any(|socket| may_take(socket)) {
            let is_coming = sockets.iter().any(|socket| is_on_its_way(socket));
            return Ok(if is_coming { Then::Later(PAUSE) } else { Then::Done });
        }
        let keys = self.queues.keys(&self.fleet, &upstream);
        let list = MailList::new(&self.fleet, &keys, user);
        let waiting = {
            let _place = self.looks.acquire().await;
            list.len().await?
        };
        if waiting == 0 {
            self.queues.checked(user, asked);
            return Ok(Then::Done);
        }
        let node = format!("{:016x}", self.fleet.node());
        let token = format!("{node}{:016x}", crate::random::u64());
        if !list.take_claim(&token, &node).await? {
            self.fleet.publish(TOPIC, &[&[WANTS_CLAIM], user.0.as_slice()].concat());
            return Ok(Then::Later(PAUSE));
        }
        let delivered = self.to_sockets(&list, &token, sockets).await;
        if delivered.is_ok() {
            // If it fails, the next sweep does it.
            let _ = list.order_anew().await;
        }
        let _ = list.give_claim_back(&token).await;
        let then = delivered?;
        if matches!(then, Then::Done) {
            self.queues.checked(user, asked);
        }
        Ok(then)
    }

    async fn to_sockets(
        &self,
        list: &MailList<'_>,
        token: &str,
        mut sockets: Vec<Arc<Socket>>,
    ) -> Result<Then, StoreFault> {
        let mut then = Then::Done;
        // A client that polls may take long, and an older socket may be one that its client has left.
        sockets.reverse();
        sockets.sort_by_key(|socket| socket.takes_messages().is_err());
        for socket in sockets {
            let Some(bag) = socket.mailbag().filter(|bag| bag.tries() < TRIES) else { continue };
            if !may_take(&socket) {
                if is_on_its_way(&socket) {
                    // It has just begun to move to a WebSocket.
                    then = Then::Later(PAUSE);
                }
                continue;
            }
            match self.to_socket(list, token, &socket, &bag).await? {
                DeliveryOutcome::Confirmed => {}
                DeliveryOutcome::NotTaken => then = Then::Later(PAUSE),
                DeliveryOutcome::GaveWay(then) => return Ok(then),
                DeliveryOutcome::Unconfirmed => then = Then::Later(PAUSE),
            }
        }
        Ok(then)
    }

    /// Delivers to one socket what it can get, page by page.
    async fn to_socket(
        &self,
        list: &MailList<'_>,
        token: &str,
        socket: &Arc<Socket>,
        bag: &Arc<Mailbag>,
    ) -> Result<DeliveryOutcome, StoreFault> {
        // A namespace that is connected meanwhile waits for the next look, and one that was left, too: messages of
        // theirs that were passed over come before those that follow.
        let mut open = bag.namespaces();
        let (mut skip, mut skipped) = (0, None);
        loop {
            if bag.user() != Some(list.user) {
                return Ok(DeliveryOutcome::NotTaken);
            }
            open.retain(|namespace| bag.is_connected(namespace));
            let batch = {
                let _place = self.reads.acquire().await;
                let Some(page) = list.page_after(skip, skipped.as_deref(), PAGE).await? else {
                    // Messages that were passed over have been dropped or deleted.
                    (skip, skipped) = (0, None);
                    continue;
                };
                if page.is_empty() {
                    return Ok(DeliveryOutcome::Confirmed);
                }
                // A client that was too slow gets less at a time.
                let most = MOST_BYTES >> (2 * bag.tries());
                PageBatch::of(&self.fleet, &list.name, page, most, |message| {
                    suits(&message.content, socket.kind(), |needed| open.contains(needed))
                })
            };
            list.keep_claim(token).await?;
            self.queues.count(MailResult::Expired, list.remove(&batch.expired).await?);
            self.queues.count(MailResult::BadSeal, list.remove(&batch.forged).await?);
            skip += batch.others;
            skipped = batch.last_other.or(skipped);
            if batch.messages.is_empty() {
                continue;
            }
            match self.send(list, token, socket, bag, &batch.messages).await? {
                DeliveryOutcome::Confirmed => {
                    bag.tried(true);
                    list.remove(&batch.raws).await?;
                    self.queues.delivered(&batch.messages.into_iter().map(|one| one.id).collect::<Vec<_>>());
                }
                other => {
                    if matches!(other, DeliveryOutcome::Unconfirmed) {
                        bag.tried(false);
                        self.queues.count(MailResult::Unconfirmed, batch.messages.len() as u64);
                    }
                    return Ok(other);
                }
            }
        }
    }

    async fn send(
        &self,
        list: &MailList<'_>,
        token: &str,
        socket: &Arc<Socket>,
        bag: &Arc<Mailbag>,
        messages: &[QueuedMessage],
    ) -> Result<DeliveryOutcome, StoreFault> {
        let packets: Vec<_> = messages.iter().map(|message| message.packet(socket.kind())).collect();
        match socket.takes_messages() {
            Ok(_) => {
                let Ok(_place) = self.tunnels.acquire().await else { return Ok(DeliveryOutcome::NotTaken) };
                self.by_tunnel(list, token, socket, bag, &packets).await
            }
            Err(Fate::Polling) => {
                let Ok(_place) = self.polls.acquire().await else { return Ok(DeliveryOutcome::NotTaken) };
                self.by_poll(list, token, socket, bag, packets).await
            }
            Err(_) => Ok(DeliveryOutcome::NotTaken),
        }
    }
}

/// Whether a socket can get messages now: over its tunnel, or in answers to its polls.
pub(super) fn may_take(socket: &Socket) -> bool {
    let polls = || !socket.mailbag().is_some_and(|bag| bag.is_deaf());
    socket.is_live()
        && match socket.takes_messages() {
            Ok(_) => true,
            Err(why) => why == Fate::Polling && polls(),
        }
}

/// Whether a socket will soon be able to get messages.
fn is_on_its_way(socket: &Socket) -> bool {
    socket.is_live() && matches!(socket.takes_messages(), Err(Fate::NotReady))
}
