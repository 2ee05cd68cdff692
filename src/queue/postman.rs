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
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::carry::by_tunnel;
use super::list::{self, UpstreamKeys, UserList};
use super::message::{self, MessageContent, QueuedMessage};
use super::{HAS_MESSAGE, OfflineQueues, TOPIC, WANTS_CLAIM};
use crate::broadcast::Fate;
use crate::fleet::{Fleet, FleetMessage, StoreFault};
use crate::metrics::MailResult;
use crate::sockets::{Mailbag, Socket, SocketKind, UserKey};

/// Deliveries over WebSockets at a time, and to clients that poll. Each holds up to [`MOST_BYTES`].
const TUNNELS: usize = 1_024;
const POLLS: usize = 1_024;

/// Users whose messages are asked for at a time.
const LOOKS: usize = 1_024;

/// Messages that are read at a time, and bytes that are sent before they must be confirmed. One message may be larger.
const PAGE: usize = 16;
const MOST_BYTES: usize = 64 * 1024;

/// Pause before the next try, after a socket did not take a message or another stickyd has the claim.
const PAUSE: Duration = Duration::from_secs(1);

/// Pause between two looks at a client that polls.
pub(super) const LOOK: Duration = Duration::from_millis(200);

/// Interval at which expired messages are removed and messages are counted.
const SWEEP: Duration = Duration::from_secs(5);

/// Interval at which all users with sockets are looked after: word from another stickyd may have been lost.
const LOOK_AFTER_ALL: Duration = Duration::from_secs(60);

/// Tries after which a socket that confirms nothing gets no more messages.
const TRIES: u32 = 3;

/// Delivers the messages of all users.
pub(super) struct Postman {
    pub(super) queues: Arc<OfflineQueues>,
    fleet: Arc<Fleet>,
    /// Users being looked after; `true`: they are to be looked after once more.
    pub(super) busy: RefCell<HashMap<UserKey, bool>>,
    /// Users whose claim another stickyd wants.
    pub(super) wanted: RefCell<HashSet<UserKey>>,
    looks: Semaphore,
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
pub(super) enum Outcome {
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
        let Ok(user) = user.try_into().map(UserKey) else { return };
        match *kind {
            HAS_MESSAGE => self.queues.wake(user),
            WANTS_CLAIM if self.busy.borrow().contains_key(&user) => _ = self.wanted.borrow_mut().insert(user),
            _ => {}
        }
    }

    /// Delivers the messages of a user until there are none, or no socket takes them.
    async fn look_after(self: Rc<Self>, user: UserKey) {
        let mut tries = HashMap::new();
        loop {
            self.busy.borrow_mut().insert(user, false);
            let then = self.look(user, &mut tries).await.unwrap_or(Then::Done);
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
    fn settled(&self, user: UserKey) {
        let sockets = self.queues.sockets(user).map(|(_, sockets)| sockets).unwrap_or_default();
        sockets.iter().filter_map(|socket| socket.mailbag()).for_each(|bag| bag.asks(false));
    }

    /// One look. An error means that Redis is away: the user is looked after again once it is reached.
    async fn look(&self, user: UserKey, tries: &mut HashMap<usize, u32>) -> Result<Then, StoreFault> {
        let Some((upstream, sockets)) = self.queues.sockets(user) else { return Ok(Then::Done) };
        if !sockets.iter().any(|socket| may_take(socket)) {
            let is_coming = sockets.iter().any(|socket| is_on_its_way(socket));
            return Ok(if is_coming { Then::Later(PAUSE) } else { Then::Done });
        }
        let keys = UpstreamKeys::of(&self.fleet, &upstream);
        let list = UserList::new(&self.fleet, &keys, user);
        let waiting = {
            let _place = self.looks.acquire().await;
            list.len().await?
        };
        if waiting == 0 {
            self.queues.checked(user);
            return Ok(Then::Done);
        }
        let token = format!("{:016x}{:016x}", self.fleet.node(), crate::random::u64());
        if !list.take_claim(&token).await? {
            self.fleet.publish(TOPIC, &[&[WANTS_CLAIM], user.0.as_slice()].concat());
            return Ok(Then::Later(PAUSE));
        }
        let delivered = self.to_sockets(&list, &token, sockets, tries).await;
        let then = match delivered {
            Ok(then) => {
                list.order_anew().await?;
                then
            }
            Err(fault) => {
                let _ = list.give_claim_back(&token).await;
                return Err(fault);
            }
        };
        list.give_claim_back(&token).await?;
        if matches!(then, Then::Done) {
            self.queues.checked(user);
        }
        Ok(then)
    }

    async fn to_sockets(
        &self,
        list: &UserList<'_>,
        token: &str,
        mut sockets: Vec<Arc<Socket>>,
        tries: &mut HashMap<usize, u32>,
    ) -> Result<Then, StoreFault> {
        let mut then = Then::Done;
        // A client that polls may take long, and an older socket may be one that its client has left.
        sockets.reverse();
        sockets.sort_by_key(|socket| socket.takes_messages().is_err());
        for socket in sockets {
            let place = Arc::as_ptr(&socket).addr();
            let tried = tries.get(&place).copied().unwrap_or(0);
            if tried >= TRIES || !may_take(&socket) {
                continue;
            }
            match self.to_socket(list, token, &socket).await? {
                Outcome::Confirmed => _ = tries.remove(&place),
                Outcome::NotTaken => then = Then::Later(PAUSE),
                Outcome::GaveWay(then) => return Ok(then),
                Outcome::Unconfirmed => {
                    tries.insert(place, tried + 1);
                    then = Then::Later(PAUSE);
                }
            }
        }
        Ok(then)
    }

    /// Delivers to one socket what it can get, page by page.
    async fn to_socket(&self, list: &UserList<'_>, token: &str, socket: &Arc<Socket>) -> Result<Outcome, StoreFault> {
        let Some(bag) = socket.mailbag() else { return Ok(Outcome::NotTaken) };
        let mut skip = 0;
        loop {
            let page = list.page(skip, PAGE).await?;
            if page.is_empty() {
                return Ok(Outcome::Confirmed);
            }
            list.keep_claim(token).await?;
            let batch = self.sort(list, page, |message| is_for(message, socket, &bag));
            self.queues.count(MailResult::Expired, list.remove(&batch.expired).await?);
            self.queues.count(MailResult::BadSeal, list.remove(&batch.forged).await?);
            skip += batch.others;
            if batch.messages.is_empty() {
                continue;
            }
            match self.send(list, token, socket, &bag, &batch.messages).await? {
                Outcome::Confirmed => {
                    list.remove(&batch.raws).await?;
                    self.queues.delivered(&batch.messages.into_iter().map(|one| one.id).collect::<Vec<_>>());
                }
                other => {
                    let unconfirmed = if matches!(other, Outcome::Unconfirmed) { batch.messages.len() } else { 0 };
                    self.queues.count(MailResult::Unconfirmed, unconfirmed as u64);
                    return Ok(other);
                }
            }
        }
    }

    /// Sorts a page into what can be sent, what is over, and what is for another kind of socket.
    fn sort(&self, list: &UserList<'_>, page: Vec<Vec<u8>>, is_for: impl Fn(&QueuedMessage) -> bool) -> Batch {
        let (now_ms, mut batch, mut bytes) = (self.fleet.now_ms(), Batch::default(), 0);
        for raw in page {
            if message::expires_ms(&raw).is_some_and(|at| at <= now_ms) {
                batch.expired.push(raw);
                continue;
            }
            match message::open(&self.fleet, &list.name, &raw) {
                None => batch.forged.push(raw),
                Some(message) if is_for(&message) => {
                    bytes += message.size();
                    if bytes > MOST_BYTES && !batch.messages.is_empty() {
                        return batch;
                    }
                    batch.messages.push(message);
                    batch.raws.push(raw);
                }
                Some(_) if batch.messages.is_empty() => batch.others += 1,
                // It would be skipped with those that are sent before it.
                Some(_) => return batch,
            }
        }
        batch
    }

    async fn send(
        &self,
        list: &UserList<'_>,
        token: &str,
        socket: &Arc<Socket>,
        bag: &Arc<Mailbag>,
        messages: &[QueuedMessage],
    ) -> Result<Outcome, StoreFault> {
        let packets: Vec<_> = messages.iter().map(QueuedMessage::packet).collect();
        match socket.takes_messages() {
            Ok(_) => {
                let Ok(_place) = self.tunnels.acquire().await else { return Ok(Outcome::NotTaken) };
                Ok(by_tunnel(socket, bag, &packets).await)
            }
            Err(Fate::Polling) => {
                let Ok(_place) = self.polls.acquire().await else { return Ok(Outcome::NotTaken) };
                self.by_poll(list, token, socket, bag, packets).await
            }
            Err(_) => Ok(Outcome::NotTaken),
        }
    }

    /// Removes expired messages and counts the others, for as long as the thread lives.
    async fn sweep(self: Rc<Self>, upstreams: impl Fn() -> Vec<String>) {
        let mut looked = Instant::now();
        loop {
            tokio::time::sleep(SWEEP).await;
            self.queues.tidy();
            if self.fleet.has_store() {
                let looks_after_all = looked.elapsed() >= LOOK_AFTER_ALL;
                if looks_after_all {
                    looked = Instant::now();
                }
                self.queues.wake_all(looks_after_all);
            }
            let mut counts = Vec::new();
            for upstream in upstreams() {
                self.queues.tell_dropped(&upstream, 0);
                let keys = UpstreamKeys::of(&self.fleet, &upstream);
                if self.fleet.has_store()
                    && self.sweep_one(&keys).await.is_ok()
                    && let Ok((messages, _)) = list::stored(&self.fleet, &keys).await
                {
                    counts.push((upstream, messages));
                }
            }
            if !counts.is_empty() {
                *crate::locks::lock(&self.queues.stored) = counts;
            }
        }
    }

    async fn sweep_one(&self, keys: &UpstreamKeys) -> Result<(), StoreFault> {
        loop {
            let now_ms = self.fleet.now_ms();
            let users = list::overdue(&self.fleet, keys, now_ms).await?;
            for user in &users {
                let list = UserList::new(&self.fleet, keys, *user);
                let page = list.page(0, list::USERS).await?;
                let is_over = |raw: &Vec<u8>| message::expires_ms(raw).is_none_or(|at| at <= now_ms);
                let over: Vec<_> = page.into_iter().filter(is_over).collect();
                self.queues.count(MailResult::Expired, list.remove(&over).await?);
                list.order_anew().await?;
            }
            if users.len() < list::USERS {
                return Ok(());
            }
        }
    }
}

/// Some messages of a page, sorted.
#[derive(Default)]
struct Batch {
    messages: Vec<QueuedMessage>,
    /// The same as they are in Redis.
    raws: Vec<Vec<u8>>,
    expired: Vec<Vec<u8>>,
    forged: Vec<Vec<u8>>,
    /// Number of messages before them that are for another socket.
    others: usize,
}

/// Whether a socket can get messages now: over its tunnel, or in answers to its polls.
pub(super) fn may_take(socket: &Socket) -> bool {
    socket.is_live() && matches!(socket.takes_messages(), Ok(_) | Err(Fate::Polling))
}

/// Whether a socket will soon be able to get messages.
fn is_on_its_way(socket: &Socket) -> bool {
    socket.is_live() && matches!(socket.takes_messages(), Err(Fate::NotReady))
}

/// Whether a message is for this kind of socket, and its namespace is connected.
fn is_for(message: &QueuedMessage, socket: &Socket, bag: &Mailbag) -> bool {
    match (&message.content, socket.kind()) {
        (MessageContent::Text(_), SocketKind::Plain) => true,
        (MessageContent::Event { namespace, .. }, SocketKind::EngineIo) => bag.is_connected(namespace),
        _ => false,
    }
}
