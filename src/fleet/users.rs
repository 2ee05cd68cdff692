//! The sockets of each user on all stickyds, for `users` of a route: a list in Redis per user, with one sealed entry
//! per socket, in the order in which they came.
//!
//! The order of the list decides, so that two stickyds that add the last socket at once agree which of them came first,
//! whatever their clocks say. The sockets of one session, which several stickyds may carry, count once. An entry names
//! its stickyd and counts while that stickyd shows itself (`members`): the entries of a dead one vanish about 20 s
//! later, and no entry has to be renewed for its own sake. The names of users are hashed. Without Redis, and where it
//! does not answer in time, the count of each stickyd holds (`route::users`). Left out: what happens to a socket that
//! has to give way (`state::admissions`).

mod check;
pub(super) mod upkeep;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redis::{Cmd, Value, cmd};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::queue::{LostEntry, PlaceEntry, Question, Write};
use super::seal::base64url;
use super::{Fleet, QUESTION, Shard};
use crate::keys::Key;
use crate::locks::lock;

/// How long Redis keeps a list without a change, in seconds: longer than any pause between two renewals (`upkeep`).
pub(super) const LIST_S: u64 = 3_600;

/// Maximum number of new sockets that wait for their check; of others, the next socket of their user is checked.
const MOST_WAITING: usize = 16_384;

/// How long a full user counts as full while the list is as long: each further attempt of a client costs one short
/// question. Long lists are read rarely.
const FULL_FOR: Duration = Duration::from_secs(1);
const LONG_FULL_FOR: Duration = Duration::from_secs(10);

/// Maximum number of users that are remembered as full, or as read.
const MOST_FULL: usize = 4_096;

/// Length from which on a list is long: it is read on the thread of the fleet only, one at a time.
const LONG: usize = 512;

/// Time between two readings of a long list.
const LONG_READ: Duration = Duration::from_secs(1);

/// Number of writes up to which a question sees all of them: they are sent before it, in the same batch.
const SEEN: usize = 64;

/// Topic of messages about the entries of other stickyds.
const TOPIC: &str = "users";

/// A user of a route, as the fleet names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct UserKey([u8; 16]);

/// The limit of a user's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UserTerms {
    /// Number of sockets that a user may have.
    pub(crate) most: usize,
    /// Whether the newest socket has to go, and not the oldest.
    pub(crate) refuses: bool,
}

/// What holds a place: a socket.
pub(crate) trait PlaceHolder: Send + Sync {
    /// Ends, because the user has one socket too many. `is_new`: it came last.
    fn give_way(&self, is_new: bool);
}

/// A place among the sockets of a user, which ends when this is dropped.
pub(crate) struct UserPlace {
    fleet: Arc<Fleet>,
    number: u64,
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        self.fleet.leave(self.number);
    }
}

/// The places of the sockets of this stickyd.
pub(super) struct UserPlaces {
    held: Mutex<BTreeMap<u64, HeldPlace>>,
    next: AtomicU64,
    waiting: mpsc::Sender<NewPlace>,
    waits: Mutex<Option<mpsc::Receiver<NewPlace>>>,
    /// Users that were found to be full.
    full: Mutex<HashMap<UserKey, Instant>>,
    /// Users with a long list, by when it was read.
    long: Mutex<HashMap<UserKey, Instant>>,
    /// Held while a long list is read.
    long_turn: tokio::sync::Mutex<()>,
    /// When this stickyd has last shown itself to the others.
    shown: Mutex<Option<Instant>>,
    /// Tells that Redis may have lost entries.
    rejoin: Notify,
}

#[derive(Clone)]
struct HeldPlace {
    user: UserKey,
    member: Vec<u8>,
    terms: UserTerms,
    holder: Arc<dyn PlaceHolder>,
}

/// A socket that is to be checked once Redis says how long the list is.
struct NewPlace {
    number: u64,
    length: oneshot::Receiver<usize>,
}

impl Default for UserPlaces {
    fn default() -> Self {
        let (waiting, waits) = mpsc::channel(MOST_WAITING);
        Self {
            held: Mutex::default(),
            next: AtomicU64::new(1),
            waiting,
            waits: Mutex::new(Some(waits)),
            full: Mutex::default(),
            long: Mutex::default(),
            long_turn: tokio::sync::Mutex::default(),
            shown: Mutex::default(),
            rejoin: Notify::new(),
        }
    }
}

impl UserPlaces {
    /// Enters all places again, because Redis was away.
    pub(super) fn rejoin(&self) {
        self.rejoin.notify_one();
    }

    /// Notes that this stickyd has shown itself. After a pause in which the others may have taken it for dead, all
    /// places are entered again.
    pub(super) fn shown(&self) {
        let now = Instant::now();
        let before = lock(&self.shown).replace(now);
        if before.is_some_and(|before| now.duration_since(before) > Duration::from_secs(12)) {
            self.rejoin();
        }
    }

    /// Whether the user, whose list is this long, was found full a moment ago.
    fn was_full_just_now(&self, user: UserKey, length: usize) -> bool {
        let full_for = if length > LONG { LONG_FULL_FOR } else { FULL_FOR };
        is_within(&self.full, user, full_for)
    }

    fn found_full(&self, user: UserKey) {
        note(&self.full, user);
    }

    /// Whether the long list of a user may be read now; from then on it may not, for a while.
    fn try_read_long(&self, user: UserKey) -> bool {
        let may = !is_within(&self.long, user, LONG_READ);
        if may {
            note(&self.long, user);
        }
        may
    }

    fn get(&self, number: u64) -> Option<HeldPlace> {
        lock(&self.held).get(&number).cloned()
    }
}

impl Fleet {
    /// Names a user of a route; `scope` is the same for this route on all stickyds.
    pub(crate) fn user_key(&self, scope: &str, user: &str) -> UserKey {
        // The length keeps the two parts apart, whatever is in them.
        UserKey(self.seals.hash(&format!("user {} {scope} {user}", scope.len())))
    }

    /// Enters a socket among those of its user; sockets of one session count once, on whatever stickyds. Returns at
    /// once; if the user has too many, the holder of a place is told a moment later. `None` only if the library fails.
    pub(crate) fn enter(
        self: &Arc<Self>,
        user: UserKey,
        terms: UserTerms,
        session: Option<Key>,
        holder: Arc<dyn PlaceHolder>,
    ) -> Option<UserPlace> {
        let number = self.users.next.fetch_add(1, Relaxed);
        let entry = check::UserEntry { node: self.node, number, session: session.map_or(0, |key| key.0) };
        let member = self.seals.seal(&self.list_name(user), &entry.encode())?;
        // While Redis is away the own count holds: what it says later refuses no socket that was let in.
        let is_checked = self.shard_of(user.key()).is_some_and(|shard| shard.is_usable());
        let (done, length) = oneshot::channel();
        {
            // Under the lock, so that the entry is in the queue before its removal.
            let mut held = lock(&self.users.held);
            held.insert(number, HeldPlace { user, member: member.clone(), terms, holder });
            self.add_entry(user, member, is_checked.then_some(done));
        }
        if !is_checked || self.users.waiting.try_send(NewPlace { number, length }).is_err() {
            self.series.user_checked("unknown");
        }
        Some(UserPlace { fleet: self.clone(), number })
    }

    fn leave(&self, number: u64) {
        let mut held = lock(&self.users.held);
        if let Some(place) = held.remove(&number) {
            self.remove_entry(place.user, place.member);
        }
    }

    /// Whether a user has as many sockets as allowed on all stickyds together, as far as Redis says in time.
    pub(crate) async fn check_user_full(&self, user: UserKey, most: usize) -> bool {
        let shard = self.shard_of(user.key()).filter(|shard| shard.is_usable());
        let Some(shard) = shard else {
            self.series.user_checked("unknown");
            return false;
        };
        let asked = timeout(self.settings.lookup_timeout, self.ask_whether_full(user, most)).await;
        match asked {
            Ok(Some(is_full)) => {
                shard.used(false);
                self.series.user_checked(if is_full { "over" } else { "within" });
                is_full
            }
            unanswered => {
                // What was given up at once does not count against the Redis.
                if unanswered.is_err() {
                    shard.used(true);
                }
                self.series.user_checked("unknown");
                false
            }
        }
    }

    async fn ask_whether_full(&self, user: UserKey, most: usize) -> Option<bool> {
        let replies = self.ask_list(user, vec![list_command("LLEN", &self.list_name(user))]).await?;
        let Some(Value::Int(length)) = replies.first() else { return None };
        let length = usize::try_from(*length).ok()?;
        if length < most {
            return Some(false);
        }
        if self.users.was_full_just_now(user, length) {
            return Some(true);
        }
        if length > LONG {
            // The thread of the fleet reads it once the socket is there.
            return None;
        }
        let list = self.read_list(user, length).await?;
        let is_full = list.count() >= most;
        if is_full {
            self.users.found_full(user);
            self.ask_owners(user, &list.live, false);
        }
        Some(is_full)
    }

    /// Runs commands at the Redis that keeps a user's list.
    async fn ask_list(&self, user: UserKey, commands: Vec<Cmd>) -> Option<Vec<Value>> {
        let shard = self.shard_of(user.key())?.clone();
        self.ask_shard(&shard, commands).await
    }

    async fn ask_shard(&self, shard: &Shard, commands: Vec<Cmd>) -> Option<Vec<Value>> {
        let (answer, reply) = oneshot::channel();
        let question = Question { commands, answer };
        if !shard.is_usable() || !shard.add(|queue| queue.ask(question)) {
            return None;
        }
        timeout(QUESTION, reply).await.ok()?.ok()
    }

    fn add_entry(&self, user: UserKey, member: Vec<u8>, done: Option<oneshot::Sender<usize>>) {
        let name = self.list_name(user);
        self.change_list(user, Write::Enter(PlaceEntry { name: name.clone(), member, done }));
        self.change_list(user, Write::Keep(name));
    }

    fn remove_entry(&self, user: UserKey, member: Vec<u8>) {
        self.change_list(user, Write::Leave(LostEntry { name: self.list_name(user), member }));
    }

    /// Whether a question that is asked now sees all changes of a user's list that this stickyd has made.
    fn sees_all(&self, user: UserKey) -> bool {
        self.shard_of(user.key()).is_some_and(|shard| lock(&shard.queue).writes.len() <= SEEN)
    }

    fn change_list(&self, user: UserKey, write: Write) {
        if let Some(shard) = self.shard_of(user.key())
            && shard.add(|queue| queue.write(write))
        {
            self.series.writes_dropped.inc();
        }
    }

    /// Name of a user's list in Redis.
    fn list_name(&self, user: UserKey) -> String {
        format!("{}:u:{}", self.settings.prefix, base64url(&user.0))
    }
}

impl UserKey {
    /// The name as bytes, for messages.
    pub(crate) fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The name as a key of hashed tables.
    pub(crate) fn key(self) -> Key {
        Key::from_bytes(self.0)
    }
}

/// Whether a user was noted less than this time ago.
fn is_within(noted: &Mutex<HashMap<UserKey, Instant>>, user: UserKey, time: Duration) -> bool {
    let now = Instant::now();
    lock(noted).get(&user).is_some_and(|since| now.duration_since(*since) < time)
}

fn note(noted: &Mutex<HashMap<UserKey, Instant>>, user: UserKey) {
    let mut noted = lock(noted);
    if noted.len() >= MOST_FULL {
        noted.clear();
    }
    noted.insert(user, Instant::now());
}

fn list_command(word: &str, name: &str) -> Cmd {
    let mut command = cmd(word);
    command.arg(name);
    command
}
