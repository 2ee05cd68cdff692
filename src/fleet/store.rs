//! What is stored in the fleet's Redis for later, such as messages: over a connection of its own, so that long replies
//! delay no lookup of a pin.
//!
//! The connection is opened once something wants to store. All keys carry the hash tag of the control keys: in a list
//! of servers or a cluster one server has all of them, and a transaction can span them. Left out: what is stored
//! (`crate::queue`).

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::{Cmd, Value, cmd};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::connect::Connector;
use super::queue::Question;
use super::seal::base64url;
use super::shard::{Driver, Shard};
use super::{Fleet, QUESTION};
use crate::config::RedisPlace;
use crate::telemetry::say_full;

/// Maximum number of questions that wait for the connection.
const WAITING: usize = 4_096;

/// The connection for what is stored.
#[derive(Default)]
pub(super) struct MailStore {
    shard: OnceLock<Arc<Shard>>,
    wanted: Notify,
    connected: Arc<Notify>,
    /// Number of times that the Redis was reached.
    times: watch::Sender<u64>,
}

/// Why something could not be stored or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StoreFault {
    /// The Redis does not answer; what was asked may have been done all the same.
    Away,
    /// The Redis has refused a command, with these words.
    Refused(String),
}

impl std::fmt::Display for StoreFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Away => f.write_str("the fleet's Redis does not answer"),
            Self::Refused(words) => write!(f, "the fleet's Redis refuses it: {words}"),
        }
    }
}

impl Fleet {
    /// Opens the connection for what is stored, and keeps it open from now on.
    pub(crate) fn want_store(&self) {
        if self.store.shard.get().is_none()
            && let Some(shard) = self.control_shard()
        {
            let _ = self.store.shard.set(Arc::new(Shard::new(shard.shown.clone(), shard.user.clone())));
            self.store.wanted.notify_one();
        }
    }

    /// Whether the Redis can be asked for what is stored.
    pub(crate) fn has_store(&self) -> bool {
        self.store.shard.get().is_some_and(|shard| shard.is_usable())
    }

    /// Changes each time the Redis was reached again, over the connection for what is stored.
    pub(crate) fn store_reached(&self) -> watch::Receiver<u64> {
        self.store.times.subscribe()
    }

    /// Name of a stored key; `parts` are words or hashes.
    pub(crate) fn stored_name(&self, what: &str, hash: &[u8; 16]) -> String {
        self.control_name(&format!("{what}:{}", base64url(hash)))
    }

    /// Hash of a text under the secret of the fleet: the Redis cannot tell the text from it.
    pub(crate) fn hidden(&self, text: &str) -> [u8; 16] {
        self.seals.hash(text)
    }

    /// Seals a value that belongs to a name.
    pub(crate) fn seal(&self, name: &str, value: &[u8]) -> Option<Vec<u8>> {
        self.seals.seal(name, value)
    }

    /// Opens a sealed value that was found under a name.
    pub(crate) fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        self.seals.open(name, sealed)
    }

    /// Runs commands, and returns their replies.
    ///
    /// # Errors
    /// The Redis does not answer, or refuses one of the commands.
    pub(crate) async fn stored(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, StoreFault> {
        let shard = self.store.shard.get().filter(|shard| shard.is_usable()).ok_or(StoreFault::Away)?;
        let (answer, reply) = oneshot::channel();
        let question = Question { commands, answer };
        let has_room = shard.add(|queue| {
            let has_room = queue.questions.len() < WAITING;
            if has_room {
                queue.questions.push_back(question);
            }
            has_room
        });
        if !has_room {
            say_full!(
                limit = WAITING,
                "messages for users that are away cannot be stored or read: too many questions wait for the fleet's Redis"
            );
            return Err(StoreFault::Away);
        }
        let replies = timeout(QUESTION, reply).await.ok().and_then(Result::ok).ok_or(StoreFault::Away)?;
        replies.into_iter().map(checked).collect()
    }

    /// As `stored`, and all commands take effect at once or none does. In a cluster, which has no transactions over
    /// this connection, they run one after the other.
    pub(crate) async fn stored_at_once(&self, commands: Vec<Cmd>) -> Result<Vec<Value>, StoreFault> {
        if self.settings.redis.iter().any(|address| matches!(address.place, RedisPlace::Cluster(_))) {
            return self.stored(commands).await;
        }
        let all = std::iter::once(cmd("MULTI")).chain(commands).chain([cmd("EXEC")]).collect();
        match self.stored(all).await?.pop() {
            Some(Value::Array(replies)) => replies.into_iter().map(checked).collect(),
            _ => Err(StoreFault::Away),
        }
    }
}

fn checked(reply: Value) -> Result<Value, StoreFault> {
    match reply {
        Value::ServerError(error) => {
            let words = error
                .details()
                .map_or_else(|| error.code().to_owned(), |details| format!("{} {details}", error.code()));
            Err(StoreFault::Refused(words))
        }
        reply => Ok(reply),
    }
}

/// Keeps the connection, once it is wanted.
pub(super) async fn drive(fleet: Arc<Fleet>, stop: CancellationToken) {
    fleet.store.wanted.notified().await;
    let Some(shard) = fleet.store.shard.get().cloned() else { return };
    let Some(address) = fleet.settings.redis.iter().find(|address| address.to_string() == shard.shown) else { return };
    let driver = Driver {
        shard,
        connector: Connector { address: address.clone(), tls: fleet.settings.tls.clone() },
        seals: fleet.seals.clone(),
        series: fleet.series.clone(),
        // Long replies take longer than those to lookups.
        lookup_timeout: fleet.settings.lookup_timeout.max(Duration::from_millis(100)),
        said: BTreeMap::new(),
        connected: fleet.store.connected.clone(),
        read_refused: None,
        failed_read: None,
        is_replica: false,
    };
    let tell = async {
        loop {
            fleet.store.connected.notified().await;
            fleet.store.times.send_modify(|times| *times += 1);
        }
    };
    tokio::join!(driver.run(stop), tell);
}
