//! Several stickyds with one view: pins, summaries and messages over a Redis or Valkey.
//!
//! Redis makes a fleet fast, never correct: a pin from it is a first guess, which the worker confirms or refuses, and
//! without Redis each stickyd finds sessions by asking workers, as one alone does. Nothing here is used by requests of
//! sessions that are pinned on this stickyd. Redis sees hashed names and sealed values only (`seal`).
//!
//! One thread talks to all Redis servers. Data threads hand changes to bounded queues and go on; only a request of an
//! unknown session waits, for at most `lookup_timeout`, and not at all once Redis has failed a few times (`circuit`).
//! Left out: what a summary contains (`server::fleet`), and what orders do (`admin::orders`).

mod acl;
mod channel;
mod circuit;
pub(crate) mod connect;
pub(crate) mod control;
pub(crate) mod lookups;
pub(crate) mod members;
mod pending;
mod pin;
mod queue;
mod seal;
mod shard;
pub(crate) mod states;
mod store;
pub(crate) mod tickets;
pub(crate) mod users;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_lc_rs::error::Unspecified;
use redis::{Cmd, Value};
use siphasher::sip::SipHasher24;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::keys::Key;
use crate::keys::derive::{derive, first};
use crate::locks::lock;
use crate::metrics::FleetSeries;
pub(crate) use acl::acl;
pub(crate) use channel::FleetMessage;
use channel::{Channels, MessageStamp};
use connect::Connector;
use control::KeptAnswers;
use members::{FleetMember, Summary};
use pin::SharedName;
pub(crate) use pin::SharedPin;
use queue::{PinChange, Question, Write};
use seal::Seals;
use shard::Driver;
pub(crate) use shard::Shard;
use store::MailStore;
pub(crate) use store::StoreFault;
use tickets::TicketKeys;
use users::UserPlaces;

/// Time that an operator's question waits for Redis.
const QUESTION: Duration = Duration::from_secs(2);

/// Interval at which each stickyd shows itself.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Maximum size of a message, in bytes.
const MOST_MESSAGE: usize = 1 << 20;

/// This stickyd's part in the fleet. All threads share it.
pub(crate) struct Fleet {
    settings: config::Fleet,
    /// Number of this process in the fleet, drawn at its start.
    node: u64,
    seals: Arc<Seals>,
    series: Arc<FleetSeries>,
    shards: Vec<(u64, Arc<Shard>)>,
    channels: Channels,
    /// What is stored in the Redis for later.
    store: MailStore,
    users: UserPlaces,
    tickets: Arc<TicketKeys>,
    kept_answers: KeptAnswers,
    /// Stickyds that did not answer, and since when.
    silent: Mutex<BTreeMap<u64, Instant>>,
    /// The stickyds of the fleet as last read.
    members: Mutex<Vec<FleetMember>>,
    /// What has to be added to this machine's clock to get that of the Redis, in milliseconds.
    skew_ms: AtomicI64,
    /// Told when the members have been read.
    seen: Notify,
    /// Cancelled wake-ups of the heartbeat: a Redis was reached again.
    connected: Arc<Notify>,
}

impl Fleet {
    /// The fleet that the configuration describes; nothing is connected yet.
    pub(crate) fn new(settings: &config::Fleet, secret: &[u8], series: Arc<FleetSeries>) -> Result<Self, Unspecified> {
        let names: [u8; 16] = first(&derive(secret, "fleet shards", &[]));
        let shards = settings.redis.iter().map(|address| {
            let mut hasher = SipHasher24::new_with_key(&names);
            hasher.write(address.to_string().as_bytes());
            (hasher.finish(), Arc::new(Shard::new(address.to_string(), address.username.clone())))
        });
        let mut shards: Vec<_> = shards.collect();
        // The order in the file must not matter.
        shards.sort_by_key(|(seed, _)| *seed);
        Ok(Self {
            settings: settings.clone(),
            node: crate::random::u64(),
            seals: Arc::new(Seals::new(secret)?),
            series,
            shards,
            channels: Channels::default(),
            store: MailStore::default(),
            users: UserPlaces::default(),
            tickets: Arc::default(),
            kept_answers: KeptAnswers::default(),
            silent: Mutex::default(),
            members: Mutex::default(),
            skew_ms: AtomicI64::new(0),
            seen: Notify::new(),
            connected: Arc::default(),
        })
    }

    /// Number of this process in the fleet.
    pub(crate) fn node(&self) -> u64 {
        self.node
    }

    /// Name of this stickyd in the fleet.
    pub(crate) fn name(&self) -> &str {
        &self.settings.name
    }

    /// The settings of the file.
    pub(crate) fn settings(&self) -> &config::Fleet {
        &self.settings
    }

    /// The Redis servers, in an order that is the same on all stickyds.
    pub(crate) fn shards(&self) -> impl Iterator<Item = &Arc<Shard>> {
        self.shards.iter().map(|(_, shard)| shard)
    }

    /// Difference of this machine's clock to that of the Redis.
    pub(crate) fn skew_ms(&self) -> i64 {
        self.skew_ms.load(Relaxed)
    }

    // ---- pins ----

    /// Tells the fleet that a session is pinned to a worker. Returns at once; the answer of the handshake may leave
    /// before Redis knows.
    pub(crate) fn learned(&self, key: Key, worker: u64, ttl: Duration) {
        self.change(key, |name| Write::Set(PinChange::new(name, SharedPin::new(worker, ttl))));
    }

    /// As `learned`, and waits until Redis has the pin, at most `lookup_timeout`: for sessions that no stickyd can find
    /// by asking workers.
    pub(crate) async fn learned_surely(&self, key: Key, worker: u64, ttl: Duration) {
        if !self.settings.pins || self.shard_of(key).is_none_or(|shard| !shard.is_usable()) {
            return self.learned(key, worker, ttl);
        }
        let (done, waits) = oneshot::channel();
        let change = |name| PinChange { done: Some(done), ..PinChange::new(name, SharedPin::new(worker, ttl)) };
        self.change(key, |name| Write::Set(change(name)));
        let _ = timeout(self.settings.lookup_timeout, waits).await;
    }

    /// Keeps the pin of a session that is alive.
    pub(crate) fn renew(&self, key: Key, worker: u64, ttl: Duration) {
        self.change(key, |name| Write::Renew(PinChange::new(name, SharedPin::new(worker, ttl))));
    }

    /// Tells the fleet that a session has another name, which requests `follow`.
    pub(crate) fn learned_name(&self, name: Key, session: Key, ttl: Duration) {
        let change = |alias| Write::Set(PinChange::new(alias, SharedName::new(session, ttl)));
        self.change_at(name, self.alias_name(name), change);
    }

    /// Keeps another name of a session that is alive.
    pub(crate) fn renew_name(&self, name: Key, session: Key, ttl: Duration) {
        let change = |alias| Write::Renew(PinChange::new(alias, SharedName::new(session, ttl)));
        self.change_at(name, self.alias_name(name), change);
    }

    /// Forgets the pin of a session that is over, or that its worker refused.
    pub(crate) fn forget(&self, key: Key) {
        self.change(key, Write::Forget);
    }

    /// Remembers that an operator ended a session, so that no other stickyd finds it at its worker again.
    pub(crate) fn ended(&self, key: Key, ttl: Duration) {
        let pin = SharedPin { is_ended: true, ..SharedPin::new(0, ttl) };
        self.change(key, |name| Write::Set(PinChange::new(name, pin)));
    }

    fn change(&self, key: Key, write: impl FnOnce(String) -> Write) {
        self.change_at(key, self.pin_name(key), write);
    }

    fn change_at(&self, key: Key, name: String, write: impl FnOnce(String) -> Write) {
        if let Some(shard) = self.shard_of(key).filter(|_| self.settings.pins)
            && shard.add(|queue| queue.write(write(name)))
        {
            self.series.writes_dropped.inc();
        }
    }

    /// The Redis that keeps a pin: the one with the highest mix of its seed and the key, so that a changed list moves
    /// few pins.
    fn shard_of(&self, key: Key) -> Option<&Arc<Shard>> {
        let score = |seed: u64| (seed ^ key.0).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31) ^ key.1;
        let mix = |seed: u64| score(seed).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        self.shards.iter().max_by_key(|(seed, _)| mix(*seed)).map(|(_, shard)| shard)
    }

    // ---- questions and members ----

    /// Name of a key that is not a pin. All of them carry one hash tag: a cluster keeps them on one server.
    fn control_name(&self, what: &str) -> String {
        format!("{}:{{ctl}}:{what}", self.settings.prefix)
    }

    /// The Redis that keeps everything but pins.
    fn control_shard(&self) -> Option<&Arc<Shard>> {
        self.shards.first().map(|(_, shard)| shard)
    }

    /// Runs commands on the Redis that keeps everything but pins; `None` if it does not answer in time.
    pub(crate) async fn ask(&self, commands: Vec<Cmd>) -> Option<Vec<Value>> {
        let shard = self.control_shard().filter(|shard| shard.is_usable())?;
        let (answer, reply) = oneshot::channel();
        shard.add(|queue| queue.questions.push_back(Question { commands, answer }));
        timeout(QUESTION, reply).await.ok()?.ok()
    }

    /// The stickyds of the fleet, as last read.
    pub(crate) fn members(&self) -> Vec<FleetMember> {
        lock(&self.members).clone()
    }

    /// Shows this stickyd to the others, and reads what they show. Returns whether Redis answered.
    pub(crate) async fn show(&self, summary: &Summary) -> bool {
        let read = members::exchange(self, summary).await;
        let answered = read.is_some();
        *lock(&self.members) = read.unwrap_or_else(|| vec![FleetMember::own(self.node, summary.clone())]);
        self.seen.notify_one();
        answered
    }

    /// Waits until the members have been read anew.
    pub(crate) async fn members_seen(&self) {
        self.seen.notified().await;
    }

    /// Time of the Redis in microseconds, asked now; `None` if it does not answer.
    pub(crate) async fn redis_us(&self) -> Option<i64> {
        members::redis_us(self).await
    }

    // ---- messages ----

    /// Sends a message to all stickyds that have subscribed to the topic. Returns at once, with `false` if the message
    /// was dropped: it is too long, or Redis is away.
    pub(crate) fn publish(&self, topic: &str, payload: &[u8]) -> bool {
        let channel = self.channel_name(topic);
        let sent = (payload.len() <= MOST_MESSAGE)
            .then(|| self.control_shard())
            .flatten()
            .filter(|shard| shard.is_usable())
            .is_some_and(|shard| {
                // Locked until the message is queued, so that numbers rise in the order of sending.
                let mut number = self.channels.next_number();
                *number += 1;
                let plain = MessageStamp { node: self.node, number: *number, sent_ms: self.fleet_ms() }.encode(payload);
                let Some(sealed) = self.seals.seal(&channel, &plain) else { return false };
                !shard.add(|queue| queue.write(Write::Publish(channel.clone(), sealed)))
            });
        self.series.message(if sent { "sent" } else { "dropped" });
        sent
    }

    /// Messages of the other stickyds on a topic, from now on.
    pub(crate) fn subscribe(&self, topic: &str) -> mpsc::Receiver<FleetMessage> {
        self.channels.subscribe(self.channel_name(topic))
    }

    fn channel_name(&self, topic: &str) -> String {
        self.control_name(&format!("c:{}", self.seals.name(topic)))
    }

    /// Time by the clock of the Redis, in milliseconds since 1970.
    pub(crate) fn fleet_ms(&self) -> i64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(now.as_millis()).unwrap_or(i64::MAX).saturating_add(self.skew_ms())
    }

    // ---- the thread ----

    /// Talks to all Redis servers until `stop`, on the thread of the fleet. `summary` describes this stickyd.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken, summary: impl Fn() -> Summary + 'static) {
        let tasks = TaskTracker::new();
        for address in &self.settings.redis {
            let shown = address.to_string();
            let Some(shard) = self.shards().find(|shard| shard.shown == shown).cloned() else { continue };
            let connector = Connector { address: address.clone(), tls: self.settings.tls.clone() };
            let driver = Driver {
                shard,
                connector,
                seals: self.seals.clone(),
                series: self.series.clone(),
                lookup_timeout: self.settings.lookup_timeout,
                said: BTreeMap::new(),
                connected: self.connected.clone(),
                read_refused: None,
                failed_read: None,
                is_replica: false,
            };
            tasks.spawn_local(driver.run(stop.clone()));
        }
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(store::drive(self.clone(), stop.clone())));
        let fleet = self.clone();
        let beat = async move {
            loop {
                fleet.forget_old_tickets();
                if fleet.show(&summary()).await {
                    fleet.users.shown();
                    fleet.share_tickets().await;
                }
                if timeout(HEARTBEAT, fleet.connected.notified()).await.is_ok() {
                    fleet.users.rejoin();
                }
            }
        };
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(beat));
        tasks.spawn_local(stop.clone().run_until_cancelled_owned(users::upkeep::keep(self.clone())));
        let control = self
            .settings
            .redis
            .iter()
            .find(|address| self.control_shard().is_some_and(|shard| shard.shown == address.to_string()));
        if let Some(address) = control {
            let connector = Connector { address: address.clone(), tls: self.settings.tls.clone() };
            let listening = channel::listen(self.clone(), connector);
            tasks.spawn_local(stop.clone().run_until_cancelled_owned(listening));
        }
        stop.cancelled().await;
        tasks.close();
        let _ = timeout(Duration::from_secs(1), tasks.wait()).await;
    }
}
