//! Messages for users whose clients are away: kept in the fleet's Redis, delivered to the next socket of their user.
//!
//! A message is always stored first, and removed once a client has confirmed it: by the Pong to a Ping that follows
//! it, or by its next poll. So it arrives once or more, in order, over the end of any client, stickyd or connection.
//! This is not a broker: a message has one user, and goes to one socket (docs/offline-queue.md).
//!
//! Sockets of users are found by an index of keyed hashes, made of the whole value of a label that clients cannot
//! choose. [`postman`] delivers on the fleet's thread; [`list`] is what Redis keeps, [`count`] how it is
//! counted, [`message`] how it is sealed. Left out: what polls and tunnels tell (`proxy::mail`, `tunnel::connected`).

mod batch;
mod carry;
mod count;
mod index;
mod list;
mod message;
mod postman;
mod sweep;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::config::OfflineQueue;
use crate::events::{Events, tell};
use crate::fleet::{Fleet, StoreFault};
use crate::locks::lock;
use crate::metrics::{MailResult, Metrics};
use crate::sockets::{MailUser, Socket};
use count::UpstreamKeys;
use index::UserSockets;
use list::MailList;
pub(crate) use message::{MessageContent, QueuedMessage};
pub(crate) use postman::run;

/// Topic on which stickyds tell each other of users: one of the kinds below, and the key of the user.
const TOPIC: &str = "queue";

/// The user has a new message; another stickyd wants the claim on the user's messages.
const HAS_MESSAGE: u8 = 0;
const WANTS_CLAIM: u8 = 1;

/// Time that the answer to a message waits for its delivery to a socket on this stickyd.
const DELIVERY: Duration = Duration::from_secs(1);

/// Maximum number of answers that wait for a delivery.
const MOST_WAITERS: usize = 1_024;

/// Bytes of messages after which no more are shown: each may have 64 KiB, and an operator may ask for 10,000.
const MOST_SHOWN: usize = 8 * 1024 * 1024;

/// Maximum length of a user's name in bytes.
const LONGEST_USER: usize = 1_024;

/// Interval at which dropped messages are told as an event.
const TELL: Duration = Duration::from_secs(60);

/// The queues of all upstreams, and the sockets of their users.
pub(crate) struct OfflineQueues {
    fleet: Option<Arc<Fleet>>,
    metrics: Arc<Metrics>,
    /// Whether any upstream has a queue, so that others pay one load.
    is_used: AtomicBool,
    index: Mutex<HashMap<MailUser, UserSockets>>,
    /// Users whose messages are to be looked for.
    pending: Mutex<HashSet<MailUser>>,
    news: Notify,
    /// Told when a message with this id was delivered.
    waiters: Mutex<HashMap<String, oneshot::Sender<()>>>,
    /// Numbers of stored messages by upstream, as last read.
    stored: Mutex<Vec<(String, u64)>>,
    dropped: Mutex<HashMap<String, DropCount>>,
    /// Names of keys by upstream.
    keys: Mutex<HashMap<String, UpstreamKeys>>,
}

/// Dropped messages of an upstream that no event has told yet.
#[derive(Default)]
struct DropCount {
    messages: u64,
    told: Option<Instant>,
}

/// A message to be stored.
pub(crate) struct NewMessage<'a> {
    pub(crate) upstream: &'a str,
    pub(crate) terms: &'a OfflineQueue,
    /// Value of the label that says who the user is.
    pub(crate) user: &'a str,
    /// Name of the message, of characters that JSON does not escape; `None`: one is made.
    pub(crate) id: Option<String>,
    pub(crate) content: MessageContent,
    /// How long it is kept; `None`: as the upstream says, which is also the maximum.
    pub(crate) keep: Option<Duration>,
}

/// What became of a message at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Enqueued {
    pub(crate) id: String,
    /// Whether a client has confirmed it already.
    pub(crate) is_delivered: bool,
    /// Number of messages that wait for this user.
    pub(crate) waiting: u64,
}

/// Why a queue cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum QueueFault {
    /// The user's name is empty or too long.
    BadUser,
    /// Redis is away, or has refused it.
    Store(StoreFault),
}

impl From<StoreFault> for QueueFault {
    fn from(fault: StoreFault) -> Self {
        Self::Store(fault)
    }
}

/// Messages of one user, for a list of users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WaitingUser {
    /// Name and value of the label; `None` if the first message cannot be opened.
    pub(crate) label: Option<(String, String)>,
    pub(crate) messages: u64,
    /// When the first message was stored and when it expires, in milliseconds since 1970.
    pub(crate) first_ms: i64,
    pub(crate) expires_ms: i64,
}

impl OfflineQueues {
    /// The queues over this fleet; without one, nothing can be stored.
    pub(crate) fn new(fleet: Option<Arc<Fleet>>, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            fleet,
            metrics,
            is_used: AtomicBool::new(false),
            index: Mutex::default(),
            pending: Mutex::default(),
            news: Notify::new(),
            waiters: Mutex::default(),
            stored: Mutex::default(),
            dropped: Mutex::default(),
            keys: Mutex::default(),
        })
    }

    /// Opens the connection to Redis if an upstream has a queue; called for each new configuration.
    pub(crate) fn follow<'u>(&self, mut upstreams: impl Iterator<Item = &'u crate::config::Upstream>) {
        if let Some(fleet) = self.fleet.as_ref().filter(|_| upstreams.any(|one| one.offline_queue.is_some())) {
            fleet.want_store();
            self.is_used.store(true, Relaxed);
        }
    }

    /// Whether any upstream has a queue.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Relaxed)
    }

    // ---- messages ----

    /// Stores a message, and waits a moment for its delivery if `waits` and its user has a socket here.
    ///
    /// # Errors
    /// It was not stored, except perhaps if Redis did not answer in time.
    pub(crate) async fn enqueue(&self, new: NewMessage<'_>, waits: bool) -> Result<Enqueued, QueueFault> {
        let result = self.store(new, waits).await;
        if result.is_err() {
            self.count(MailResult::Failed, 1);
        }
        result
    }

    async fn store(&self, new: NewMessage<'_>, waits: bool) -> Result<Enqueued, QueueFault> {
        let fleet = self.fleet()?;
        let user = user(fleet, new.upstream, &new.terms.label, new.user)?;
        let keys = self.keys(fleet, new.upstream);
        let list = MailList::new(fleet, &keys, user);
        let now_ms = fleet.fleet_ms();
        let id = new.id.unwrap_or_else(|| self.new_id());
        let keep = new.keep.unwrap_or(new.terms.keep).min(new.terms.keep);
        let expires_ms = now_ms.saturating_add(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
        let label = (new.terms.label.clone(), new.user.to_owned());
        let message = QueuedMessage { id: id.clone(), label, stored_ms: now_ms, content: new.content };
        let raw = message::seal(fleet, &list.name, &message, expires_ms).ok_or(StoreFault::Away)?;
        let waiter = (waits && self.has_ready_socket(user)).then(|| self.wait_for(&id)).flatten();
        let added = list.add(&raw, new.terms).await;
        if added.is_err() {
            lock(&self.waiters).remove(&id);
        }
        let added = added?;
        self.count(MailResult::Stored, 1);
        self.count(MailResult::DroppedUser, added.dropped_user);
        self.count(MailResult::DroppedTotal, added.dropped_total);
        self.tell_dropped(new.upstream, added.dropped_user + added.dropped_total);
        self.wake(user);
        fleet.publish(TOPIC, &[&[HAS_MESSAGE], user.0.as_slice()].concat());
        let is_delivered = match waiter {
            Some(waiter) => matches!(tokio::time::timeout(DELIVERY, waiter).await, Ok(Ok(()))),
            None => false,
        };
        lock(&self.waiters).remove(&id);
        let waiting = added.waiting.saturating_sub(u64::from(is_delivered));
        Ok(Enqueued { id, is_delivered, waiting })
    }

    fn wait_for(&self, id: &str) -> Option<oneshot::Receiver<()>> {
        let mut waiters = lock(&self.waiters);
        if waiters.len() >= MOST_WAITERS {
            return None;
        }
        let (told, waits) = oneshot::channel();
        waiters.insert(id.to_owned(), told);
        Some(waits)
    }

    /// Users with messages, those first whose messages expire next; at most `most` of them, and the numbers of all
    /// messages and users.
    pub(crate) async fn users(&self, upstream: &str, most: usize) -> Result<(Vec<WaitingUser>, u64, u64), QueueFault> {
        let fleet = self.fleet()?;
        let keys = self.keys(fleet, upstream);
        let (messages, users) = count::stored(fleet, &keys).await?;
        let mut all = Vec::new();
        while all.len() < most {
            let some = list::users(fleet, &keys, all.len(), list::USERS.min(most - all.len())).await?;
            if some.is_empty() {
                break;
            }
            let heads = list::heads(fleet, &keys, &some).await?;
            all.extend(some.iter().zip(heads).map(|(user, (messages, head))| {
                let name = MailList::new(fleet, &keys, *user).name;
                let opened = head.as_ref().and_then(|raw| message::open(fleet, &name, raw));
                WaitingUser {
                    first_ms: opened.as_ref().map_or(0, |message| message.stored_ms),
                    label: opened.map(|message| message.label),
                    messages,
                    expires_ms: head.as_ref().and_then(|raw| message::expires_ms(raw)).unwrap_or(0),
                }
            }));
        }
        all.retain(|user| user.messages > 0);
        Ok((all, messages, users))
    }

    /// The first messages of a user, each with the time at which it expires: at most `most`, and not many more than
    /// [`MOST_SHOWN`] bytes.
    pub(crate) async fn messages(
        &self,
        upstream: &str,
        label: &str,
        name: &str,
        most: usize,
    ) -> Result<Vec<(QueuedMessage, i64)>, QueueFault> {
        let fleet = self.fleet()?;
        let keys = self.keys(fleet, upstream);
        let list = MailList::new(fleet, &keys, user(fleet, upstream, label, name)?);
        let (mut all, mut read, mut bytes) = (Vec::new(), 0, 0);
        while read < most && bytes < MOST_SHOWN {
            let page = list.page(read, list::USERS.min(most - read)).await?;
            if page.is_empty() {
                break;
            }
            read += page.len();
            bytes += page.iter().map(Vec::len).sum::<usize>();
            let open = |raw: &Vec<u8>| Some((message::open(fleet, &list.name, raw)?, message::expires_ms(raw)?));
            all.extend(page.iter().filter_map(open));
        }
        Ok(all)
    }

    /// Deletes the messages of a user, or only the one with this id; returns how many there were.
    pub(crate) async fn delete(
        &self,
        upstream: &str,
        label: &str,
        name: &str,
        id: Option<&str>,
    ) -> Result<u64, QueueFault> {
        let fleet = self.fleet()?;
        let keys = self.keys(fleet, upstream);
        let list = MailList::new(fleet, &keys, user(fleet, upstream, label, name)?);
        let deleted = match id {
            None => list.clear().await?,
            Some(id) => {
                let (mut deleted, mut skip) = (0, 0);
                loop {
                    let page = list.page(skip, list::USERS).await?;
                    if page.is_empty() {
                        break;
                    }
                    skip += page.len();
                    let has_id = |raw: &Vec<u8>| message::open(fleet, &list.name, raw).is_some_and(|one| one.id == id);
                    let found: Vec<_> = page.into_iter().filter(has_id).collect();
                    let removed = list.remove(&found).await?;
                    skip -= usize::try_from(removed).unwrap_or(0).min(skip);
                    deleted += removed;
                }
                list.order_anew().await?;
                deleted
            }
        };
        self.count(MailResult::Deleted, deleted);
        Ok(deleted)
    }

    /// Numbers of stored messages by upstream, as last read.
    pub(crate) fn stored(&self) -> Vec<(String, u64)> {
        lock(&self.stored).clone()
    }

    // ---- counts ----

    /// A name for a message: the time and chance.
    pub(crate) fn new_id(&self) -> String {
        let now_ms = self.fleet.as_ref().map_or(0, |fleet| fleet.fleet_ms());
        format!("{now_ms:011x}{:016x}", crate::random::u64())
    }

    /// Names of the keys of an upstream; there are as many as upstreams with a queue.
    fn keys(&self, fleet: &Fleet, upstream: &str) -> UpstreamKeys {
        let mut all = lock(&self.keys);
        all.entry(upstream.to_owned()).or_insert_with(|| UpstreamKeys::of(fleet, upstream)).clone()
    }

    fn fleet(&self) -> Result<&Arc<Fleet>, StoreFault> {
        self.fleet.as_ref().ok_or(StoreFault::Away)
    }

    fn count(&self, result: MailResult, messages: u64) {
        self.metrics.queue.count(result, messages);
    }

    fn delivered(&self, ids: &[String]) {
        self.count(MailResult::Delivered, ids.len() as u64);
        let mut waiters = lock(&self.waiters);
        for waiter in ids.iter().filter_map(|id| waiters.remove(id)) {
            let _ = waiter.send(());
        }
    }

    /// Tells of dropped messages, at most once per minute and upstream.
    fn tell_dropped(&self, upstream: &str, messages: u64) {
        if messages == 0 && lock(&self.dropped).get(upstream).is_none_or(|count| count.messages == 0) {
            return;
        }
        let mut all = lock(&self.dropped);
        let count = all.entry(upstream.to_owned()).or_default();
        count.messages += messages;
        if count.told.is_some_and(|told| told.elapsed() < TELL) {
            return;
        }
        count.told = Some(Instant::now());
        let dropped = std::mem::take(&mut count.messages);
        drop(all);
        let events: &Events = &self.metrics.events;
        tell!(events, QueueDropped, warn, upstream = %upstream, dropped,
            "messages for users whose clients are away were dropped: a bound of `offline_queue` is reached");
    }
}

/// Whether a socket can be sent a message at once. Sockets that are older than the queue have no bag: they are taken as
/// connected.
pub(crate) fn is_ready_for(content: &MessageContent, socket: &Socket) -> bool {
    let suits = match socket.mailbag() {
        Some(bag) => batch::is_for(content, socket, &bag),
        None => content.needs(socket.kind()).is_some(),
    };
    suits && socket.takes_messages().is_ok()
}

/// Key of a user, from the whole value of the label.
fn user(fleet: &Fleet, upstream: &str, label: &str, value: &str) -> Result<MailUser, QueueFault> {
    if value.is_empty() || value.len() > LONGEST_USER {
        return Err(QueueFault::BadUser);
    }
    // Names of upstreams and labels have no zero byte.
    Ok(MailUser(fleet.hidden(&format!("queue user\0{upstream}\0{label}\0{value}"))))
}
