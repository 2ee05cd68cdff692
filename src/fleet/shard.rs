//! One Redis of the fleet: its connection, made again whenever it breaks, and the batches that are sent to it.
//!
//! One batch is under way at a time, so that changes of a pin arrive in order. While the circuit is open only a PING is
//! sent each second, and requests do not wait. Left out: what the commands mean (the parent module).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::{Cmd, Value, cmd};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::circuit::Circuit;
use super::connect::{Connector, Link, LinkError, kind_of};
use super::queue::{BATCH, Lookup, PinChange, Question, Queue, Write};
use super::seal::Seals;
use crate::locks::lock;
use crate::metrics::FleetSeries;

/// Pause between two PINGs, and before the next attempt to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// Pause before the next attempt after a rejected password or command.
const AUTH_PAUSE: Duration = Duration::from_secs(30);

/// Pause between two looks at the server's memory.
const INFO: Duration = Duration::from_secs(30);

/// Number of latencies kept for the percentiles.
const LATENCIES: usize = 512;

/// State of one Redis, for operators.
#[derive(Debug, Clone, Default)]
pub(crate) struct ShardHealth {
    /// Word of a closed set: `up`, `slow`, `open`, `connecting`, or the kind of the error.
    pub(crate) state: &'static str,
    /// Last error in words, with what to do.
    pub(crate) error: Option<String>,
    pub(crate) evicted: u64,
    /// Latencies of batches in microseconds, the newest overwriting the oldest.
    latencies: Vec<u32>,
    next: usize,
}

impl ShardHealth {
    fn took(&mut self, time: Duration) {
        let us = u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
        match self.latencies.get_mut(self.next) {
            Some(place) => *place = us,
            None => self.latencies.push(us),
        }
        self.next = (self.next + 1) % LATENCIES;
    }

    /// Latency that this share of the recent batches did not exceed, in milliseconds.
    pub(crate) fn latency_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let place = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
        sorted.get(place).map_or(0.0, |us| f64::from(*us) / 1_000.0)
    }
}

/// One Redis as all threads see it.
pub(crate) struct Shard {
    /// Address, shown without credentials.
    pub(crate) shown: String,
    pub(crate) user: Option<String>,
    pub(crate) queue: Mutex<Queue>,
    pub(crate) health: Mutex<ShardHealth>,
    wake: Notify,
    /// Whether requests may wait for it: there is a connection, and the circuit is closed.
    usable: AtomicBool,
    circuit: Mutex<Circuit>,
}

impl Shard {
    pub(crate) fn new(shown: String, user: Option<String>) -> Self {
        let health = ShardHealth { state: "connecting", ..ShardHealth::default() };
        Self {
            shown,
            user,
            queue: Mutex::default(),
            health: Mutex::new(health),
            wake: Notify::new(),
            usable: AtomicBool::new(false),
            circuit: Mutex::default(),
        }
    }

    pub(crate) fn is_usable(&self) -> bool {
        self.usable.load(Relaxed)
    }

    /// Changes the queue, and wakes the fleet's thread if it may be asleep.
    pub(crate) fn add<R>(&self, change: impl FnOnce(&mut Queue) -> R) -> R {
        let (changed, was_empty) = {
            let mut queue = lock(&self.queue);
            let was_empty = queue.is_empty();
            (change(&mut queue), was_empty)
        };
        // A wake-up costs a system call; of many changes only the first one pays it.
        if was_empty {
            self.wake.notify_one();
        }
        changed
    }

    /// Counts a use of this Redis: whether a request or a batch got its reply in time.
    pub(crate) fn used(&self, failed: bool) {
        if lock(&self.circuit).count(failed, Instant::now()) && self.usable.swap(false, Relaxed) {
            lock(&self.health).state = "open";
            tracing::warn!(redis = %self.shown, "the fleet's Redis does not answer in time: requests go on without it");
            self.wake.notify_one();
        }
    }
}

/// Drives one Redis until `stop`.
pub(crate) struct Driver {
    pub(crate) shard: Arc<Shard>,
    pub(crate) connector: Connector,
    pub(crate) seals: Arc<Seals>,
    pub(crate) series: Arc<FleetSeries>,
    pub(crate) lookup_timeout: Duration,
    /// Errors that were logged less than a minute ago.
    pub(crate) said: BTreeMap<&'static str, Instant>,
    /// What to run after each new connection, such as reading what was missed.
    pub(crate) connected: Arc<Notify>,
}

impl Driver {
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let _ = stop.clone().run_until_cancelled_owned(self.keep_connected()).await;
        // The last writes, such as the farewell of this stickyd, get a moment.
        if self.shard.is_usable()
            && let Ok(mut link) = self.connector.open().await
        {
            while self.batch(&mut link).await.unwrap_or(false) {}
        }
    }

    async fn keep_connected(&mut self) {
        loop {
            let error = match self.connector.open().await {
                Ok(link) => self.serve(link).await,
                Err(error) => error,
            };
            self.shard.usable.store(false, Relaxed);
            lock(&self.shard.queue).give_up();
            let kind = error.kind();
            self.failed(kind, &error.words());
            tokio::time::sleep(if kind == "auth" { AUTH_PAUSE } else { PAUSE }).await;
        }
    }

    /// Uses one connection until it fails.
    async fn serve(&mut self, mut link: Link) -> LinkError {
        let mut info = Instant::now();
        loop {
            if !self.shard.is_usable() {
                if let Err(error) = self.ping(&mut link).await {
                    return error;
                }
                if !self.shard.is_usable() {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                info = Instant::now();
                self.look_at_memory(&mut link).await;
            }
            match self.batch(&mut link).await {
                Ok(true) => {}
                Ok(false) => {
                    let idle = tokio::time::timeout(PAUSE, self.shard.wake.notified()).await.is_err();
                    if idle && let Err(error) = self.ping(&mut link).await {
                        return error;
                    }
                    if info.elapsed() >= INFO {
                        info = Instant::now();
                        self.look_at_memory(&mut link).await;
                    }
                }
                Err(error) => return error,
            }
        }
    }

    /// Asks whether Redis answers in time, and closes the circuit if it does.
    async fn ping(&mut self, link: &mut Link) -> Result<(), LinkError> {
        let begun = Instant::now();
        let replies = link.run(vec![cmd("PING")]).await?;
        if let Some(Value::ServerError(error)) = replies.first() {
            let kind = kind_of(error.code(), false);
            self.failed(kind, error.details().unwrap_or_else(|| error.code()));
            self.shard.usable.store(false, Relaxed);
            return Ok(());
        }
        let took = begun.elapsed();
        let mut health = lock(&self.shard.health);
        health.took(took);
        if took > self.lookup_timeout {
            health.state = "slow";
            return Ok(());
        }
        if health.state == "slow" {
            health.state = "up";
        }
        if !self.shard.usable.swap(true, Relaxed) {
            tracing::info!(redis = %self.shard.shown, "the fleet's Redis answers");
            *lock(&self.shard.circuit) = Circuit::default();
            (health.state, health.error) = ("up", None);
            drop(health);
            self.said.clear();
            self.connected.notify_one();
        }
        Ok(())
    }

    /// Sends what waits, at most [`BATCH`] commands of each kind. Returns whether there was anything.
    async fn batch(&mut self, link: &mut Link) -> Result<bool, LinkError> {
        let (lookups, questions, writes) = {
            let mut queue = lock(&self.shard.queue);
            let lookups: Vec<_> = {
                let n = queue.lookups.len().min(BATCH);
                queue.lookups.drain(..n).collect()
            };
            let questions: Vec<_> = {
                let n = queue.questions.len().min(BATCH);
                queue.questions.drain(..n).collect()
            };
            let writes: Vec<_> = std::iter::from_fn(|| queue.take_write()).take(BATCH).collect();
            (lookups, questions, writes)
        };
        if lookups.is_empty() && questions.is_empty() && writes.is_empty() {
            return Ok(false);
        }
        let mut commands: Vec<_> = writes.iter().map(|write| self.command(write)).collect();
        commands.extend(lookups.iter().map(|lookup| get(&lookup.name)));
        commands.extend(questions.iter().flat_map(|question| question.commands.iter().cloned()));
        let begun = Instant::now();
        let sent = link.run(commands).await;
        let replies = match sent {
            Ok(replies) => replies,
            Err(error) => {
                self.series.writes_failed.inc_by(writes.len() as u64);
                self.shard.used(true);
                return Err(error);
            }
        };
        let took = begun.elapsed();
        self.series.seconds.observe(took.as_secs_f64());
        lock(&self.shard.health).took(took);
        let mut replies = replies.into_iter();
        let mut readonly = false;
        let failed_before = self.series.writes_failed.get();
        let has_writes = !writes.is_empty();
        for write in writes {
            readonly |= self.written(write, replies.next().unwrap_or_default());
        }
        for lookup in lookups {
            self.answered(lookup, replies.next().unwrap_or_default());
        }
        for Question { commands, answer } in questions {
            let own: Vec<_> = replies.by_ref().take(commands.len()).collect();
            for reply in &own {
                if let Value::ServerError(error) = reply {
                    self.failed(kind_of(error.code(), false), error.details().unwrap_or_else(|| error.code()));
                }
            }
            let _ = answer.send(own);
        }
        if has_writes && self.series.writes_failed.get() == failed_before {
            let mut health = lock(&self.shard.health);
            if matches!(health.state, "oom" | "misconf" | "auth" | "readonly") {
                (health.state, health.error) = ("up", None);
            }
        }
        if readonly {
            // The master has become a replica: a new connection finds the new master.
            return Err(LinkError::Failed(std::io::Error::other("the server is read-only since a failover").into()));
        }
        Ok(true)
    }

    fn command(&self, write: &Write) -> Cmd {
        match write {
            Write::Set(change) => self.set(change, false),
            Write::Renew(change) => {
                let mut command = cmd("EXPIRE");
                command.arg(&change.name).arg(change.pin.kept_s());
                command
            }
            Write::Forget(name) => {
                let mut command = cmd("DEL");
                command.arg(name);
                command
            }
            Write::Publish(channel, message) => {
                let mut command = cmd("PUBLISH");
                command.arg(channel).arg(message);
                command
            }
        }
    }

    fn set(&self, change: &PinChange, only_new: bool) -> Cmd {
        let sealed = self.seals.seal(&change.name, &change.pin.encode()).unwrap_or_default();
        let mut command = cmd("SET");
        command.arg(&change.name).arg(sealed).arg("EX").arg(change.pin.kept_s());
        if only_new {
            command.arg("NX");
        }
        command
    }

    /// Counts a write; returns whether the server has become a replica.
    fn written(&mut self, write: Write, reply: Value) -> bool {
        if let Value::ServerError(error) = reply {
            self.series.writes_failed.inc();
            let kind = kind_of(error.code(), false);
            self.failed(kind, error.details().unwrap_or_else(|| error.code()));
            return kind == "readonly";
        }
        self.series.writes.inc();
        match (write, reply) {
            (Write::Renew(change), Value::Int(0)) => {
                // Evicted, or the Redis was emptied.
                lock(&self.shard.queue).write(Write::Set(change));
            }
            (Write::Set(change), _) => {
                if let Some(done) = change.done {
                    let _ = done.send(());
                }
            }
            _ => {}
        }
        false
    }

    fn answered(&mut self, lookup: Lookup, reply: Value) {
        match reply {
            Value::BulkString(value) => _ = lookup.answer.send(Some(value)),
            Value::ServerError(error) => {
                self.failed(kind_of(error.code(), false), error.details().unwrap_or_else(|| error.code()));
                self.shard.used(true);
            }
            _ => _ = lookup.answer.send(None),
        }
    }

    /// Looks whether Redis drops pins for want of memory.
    async fn look_at_memory(&self, link: &mut Link) {
        let mut info = cmd("INFO");
        info.arg("stats");
        let Ok(replies) = link.run(vec![info]).await else { return };
        let text = match replies.into_iter().next() {
            Some(Value::BulkString(text)) => String::from_utf8_lossy(&text).into_owned(),
            Some(Value::VerbatimString { text, .. }) => text,
            _ => return,
        };
        let Some(evicted) = text.lines().find_map(|line| line.strip_prefix("evicted_keys:")?.trim().parse().ok())
        else {
            return;
        };
        let mut health = lock(&self.shard.health);
        let before = std::mem::replace(&mut health.evicted, evicted);
        if before > 0 && evicted > before {
            health.error = Some("pins are evicted: give the Redis more memory (maxmemory)".to_owned());
            tracing::warn!(redis = %self.shard.shown, evicted = evicted - before,
                "the fleet's Redis evicts pins: give it more memory (maxmemory)");
        }
    }

    /// Counts an error, shows it to operators, and logs it at most once per minute.
    fn failed(&mut self, kind: &'static str, words: &str) {
        self.series.error(kind);
        let user = self.shard.user.as_deref().unwrap_or("default");
        let help = match kind {
            "auth" => format!("; user `{user}`: check password_file, and the rights that `stickyd fleet --acl` prints"),
            "oom" => "; give the Redis more memory (maxmemory), or let it evict (maxmemory-policy)".to_owned(),
            "misconf" => "; the Redis cannot save to its disk, and refuses writes".to_owned(),
            _ => String::new(),
        };
        let error = format!("{words}{help}");
        let mut health = lock(&self.shard.health);
        health.error = Some(error.clone());
        if !self.shard.is_usable() || matches!(kind, "auth" | "oom" | "misconf" | "readonly") {
            health.state = kind;
        }
        drop(health);
        let now = Instant::now();
        if self.said.get(kind).is_none_or(|said| now.duration_since(*said) >= Duration::from_secs(60)) {
            self.said.insert(kind, now);
            tracing::warn!(redis = %self.shard.shown, kind, %error, "the fleet's Redis has failed");
        }
    }
}

fn get(name: &str) -> Cmd {
    let mut command = cmd("GET");
    command.arg(name);
    command
}
