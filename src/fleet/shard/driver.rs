//! Drives one Redis of the fleet: keeps a connection to it, sends what waits for it, and reports its errors.
//!
//! One batch is under way at a time, so that changes of a pin arrive in order. While the circuit is open only a PING is
//! sent each second. Left out: what the commands mean (`crate::fleet`).

mod said;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use redis::{Cmd, Value, cmd};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Shard;
use crate::fleet::circuit::Circuit;
use crate::fleet::connect::{Connector, LinkError, RedisLink, kind_of};
use crate::fleet::pending::{OWED_S, OWES};
use crate::fleet::queue::{Batch, Lookup, LostEntry, PinChange, PlaceEntry, Question, Write};
use crate::fleet::seal::Seals;
use crate::fleet::users::LIST_S;
use crate::locks::lock;
use crate::metrics::FleetSeries;

/// Pause between two PINGs, and before the next attempt to connect.
const PAUSE: Duration = Duration::from_secs(1);

/// Pause before the next attempt after a rejected password or command.
const AUTH_PAUSE: Duration = Duration::from_secs(30);

/// Pause between two looks at the server's memory.
const INFO: Duration = Duration::from_secs(30);

/// A connection that is being opened in place of one to a server that has become a replica.
type Successor = Pin<Box<dyn Future<Output = Result<RedisLink, LinkError>>>>;

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
    /// When the server last refused a read for want of rights; it is asked again after [`AUTH_PAUSE`].
    pub(crate) read_refused: Option<Instant>,
    /// Name of a key that could not be read, for want of rights or because its slot of a cluster has no server.
    pub(crate) failed_read: Option<String>,
    /// Whether the server has become a replica, so that a new connection is to find the new master.
    pub(crate) is_replica: bool,
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
    async fn serve(&mut self, mut link: RedisLink) -> LinkError {
        let (mut info, mut successor): (_, Option<Successor>) = (Instant::now(), None);
        let mut replaced: Option<Instant> = None;
        loop {
            if !self.shard.is_usable() {
                if self.read_refused.is_some_and(|since| since.elapsed() < AUTH_PAUSE) {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
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
            // A replica still answers lookups, so it is used until the new master is found.
            if std::mem::take(&mut self.is_replica)
                && successor.is_none()
                && replaced.is_none_or(|at| at.elapsed() >= PAUSE)
            {
                let connector = self.connector.clone();
                successor = Some(Box::pin(async move { connector.open().await }));
            }
            match self.batch(&mut link).await {
                // Between two batches, the new connection gets on as well.
                Ok(true) => replace(&mut link, &mut successor, &mut replaced, Duration::ZERO).await,
                Ok(false) => {
                    let idle = tokio::select! {
                        woken = tokio::time::timeout(PAUSE, self.shard.wake.notified()) => woken.is_err(),
                        () = replace(&mut link, &mut successor, &mut replaced, Duration::MAX) => false,
                    };
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
    async fn ping(&mut self, link: &mut RedisLink) -> Result<(), LinkError> {
        let begun = Instant::now();
        // A PING tells nothing of the rights to read, nor of slots that no server of a cluster has.
        let commands = std::iter::once(cmd("PING")).chain(self.failed_read.as_deref().map(get));
        let replies = link.run(commands.collect()).await?;
        let refused = replies.iter().find_map(|reply| match reply {
            Value::ServerError(error) => Some(error),
            _ => None,
        });
        if let Some(error) = refused {
            let kind = kind_of(error.code(), false);
            self.failed(kind, error.details().unwrap_or_else(|| error.code()));
            if kind == "auth" {
                self.read_refused = Some(Instant::now());
            }
            self.shard.usable.store(false, Relaxed);
            return Ok(());
        }
        let took = begun.elapsed();
        let mut health = lock(&self.shard.health);
        health.took(took);
        if took > self.lookup_timeout {
            health.state = "slow";
            drop(health);
            self.say_slow(took);
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
            self.failed_read = None;
            self.said.clear();
            self.connected.notify_one();
        }
        Ok(())
    }

    /// Sends what waits, up to a full batch. Returns whether there was anything.
    async fn batch(&mut self, link: &mut RedisLink) -> Result<bool, LinkError> {
        let batch = lock(&self.shard.queue).take_batch();
        if batch.is_empty() {
            return Ok(false);
        }
        let Batch { lookups, questions, writes } = batch;
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
        self.hand_out(Batch { lookups, questions, writes }, replies);
        Ok(true)
    }

    /// Gives each part of a batch its replies.
    fn hand_out(&mut self, batch: Batch, replies: Vec<Value>) {
        let Batch { lookups, questions, writes } = batch;
        let mut replies = replies.into_iter();
        let failed_before = self.series.writes_failed.get();
        let has_writes = !writes.is_empty();
        for write in writes {
            self.written(write, replies.next().unwrap_or_default());
        }
        for lookup in lookups {
            self.answered(lookup, replies.next().unwrap_or_default());
        }
        for Question { commands, answer } in questions {
            let own: Vec<_> = replies.by_ref().take(commands.len()).collect();
            for reply in &own {
                if let Value::ServerError(error) = reply {
                    let kind = kind_of(error.code(), false);
                    self.failed(kind, error.details().unwrap_or_else(|| error.code()));
                    self.is_replica |= kind == "readonly";
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
    }

    fn command(&self, write: &Write) -> Cmd {
        match write {
            Write::Set(change) => self.set(change, false),
            Write::Renew(change) => {
                let mut command = cmd("EXPIRE");
                command.arg(&change.name).arg(change.value.kept_s());
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
            Write::Enter(PlaceEntry { name, member, .. }) => {
                let mut command = cmd("RPUSH");
                command.arg(name).arg(member);
                command
            }
            Write::Leave(LostEntry { name, member }) => {
                let mut command = cmd("LREM");
                // From its head, where the oldest socket is.
                command.arg(name).arg(1).arg(member);
                command
            }
            Write::Owes(name) => {
                let mut command = cmd("SET");
                command.arg(name).arg(self.seals.seal(name, OWES).unwrap_or_default()).arg("EX").arg(OWED_S);
                command
            }
            Write::Keep(name) => {
                let mut command = cmd("EXPIRE");
                command.arg(name).arg(LIST_S);
                command
            }
        }
    }

    fn set(&self, change: &PinChange, only_new: bool) -> Cmd {
        let sealed = self.seals.seal(&change.name, &change.value.encode()).unwrap_or_default();
        let mut command = cmd("SET");
        command.arg(&change.name).arg(sealed).arg("EX").arg(change.value.kept_s());
        if only_new {
            command.arg("NX");
        }
        command
    }

    /// Counts a write, and notes whether the server has become a replica.
    fn written(&mut self, write: Write, reply: Value) {
        if let Value::ServerError(error) = reply {
            self.series.writes_failed.inc();
            let kind = kind_of(error.code(), false);
            self.failed(kind, error.details().unwrap_or_else(|| error.code()));
            self.is_replica |= kind == "readonly";
            return;
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
            (Write::Enter(PlaceEntry { done: Some(done), .. }), Value::Int(length)) => {
                let _ = done.send(usize::try_from(length).unwrap_or(0));
            }
            _ => {}
        }
    }

    fn answered(&mut self, lookup: Lookup, reply: Value) {
        match reply {
            Value::BulkString(value) => _ = lookup.answer.send(Some(value)),
            // Another program has put something else under this name: as bad as any value that is not sealed.
            Value::ServerError(error) if error.code() == "WRONGTYPE" => _ = lookup.answer.send(Some(Vec::new())),
            Value::ServerError(error) => {
                let kind = kind_of(error.code(), false);
                self.failed(kind, error.details().unwrap_or_else(|| error.code()));
                if kind == "auth" {
                    self.read_refused = Some(Instant::now());
                }
                if matches!(kind, "auth" | "clusterdown") {
                    self.failed_read = Some(lookup.name);
                }
                self.shard.used(true);
            }
            _ => _ = lookup.answer.send(None),
        }
    }
}

/// Waits until the connection that is being opened is there or has failed, at most for this time, and uses it.
async fn replace(
    link: &mut RedisLink,
    successor: &mut Option<Successor>,
    replaced: &mut Option<Instant>,
    most: Duration,
) {
    let Some(opening) = successor else {
        if most.is_zero() {
            return;
        }
        return std::future::pending().await;
    };
    let Ok(opened) = tokio::time::timeout(most, opening).await else { return };
    (*successor, *replaced) = (None, Some(Instant::now()));
    if let Ok(opened) = opened {
        *link = opened;
    }
}

fn get(name: &str) -> Cmd {
    let mut command = cmd("GET");
    command.arg(name);
    command
}
