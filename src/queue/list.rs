//! The messages of one user in the fleet's Redis: a list, a claim on its delivery, and the places where all users of an
//! upstream are counted.
//!
//! A list costs 0.7 KB with one message where a stream costs over 4 KB, and keeps the order as well; what a stream
//! would add (ids, consumer groups) the sealed messages and the claim do (docs/offline-queue.md). Messages are removed
//! by their value, which no other message has: whatever happens to the claim, only what was delivered is removed.
//!
//! Keys, all with the hash of a user or an upstream: `q` the list, `qc` the claim, `qh` the numbers of messages of an
//! upstream and of its users (`count`), `qu` its users, ordered by when their first message expires.

use std::time::Duration;

use redis::{Cmd, Value, cmd};

use super::count::UpstreamKeys;
use super::message;
use crate::config::OfflineQueue;
use crate::fleet::{Fleet, StoreFault};
use crate::sockets::MailUser;

/// Time after which the claim of a stickyd that has died is over.
pub(crate) const CLAIM: Duration = Duration::from_secs(15);

/// Seconds that Redis keeps a list after its last message has expired; normally it is empty long before.
const SPARE_S: u64 = 24 * 3_600;

/// Messages of other users that one new message may push out; there is one too many, or `total` was just lowered.
const MOST_EVICTED: u64 = 64;

/// Users that are looked at together.
pub(crate) const USERS: usize = 64;

/// The messages of one user.
pub(crate) struct MailList<'a> {
    pub(super) fleet: &'a Fleet,
    pub(super) keys: &'a UpstreamKeys,
    pub(crate) user: MailUser,
    /// Name of the list, to which its messages are bound.
    pub(crate) name: String,
    claim: String,
}

/// What happened when a message was added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Added {
    /// Number of messages of the user, this one included.
    pub(crate) waiting: u64,
    /// Older messages of the user that were dropped for it.
    pub(crate) dropped_user: u64,
    /// Messages of any user that were dropped for it.
    pub(crate) dropped_total: u64,
}

impl<'a> MailList<'a> {
    pub(crate) fn new(fleet: &'a Fleet, keys: &'a UpstreamKeys, user: MailUser) -> Self {
        Self { fleet, keys, user, name: fleet.stored_name("q", &user.0), claim: fleet.stored_name("qc", &user.0) }
    }

    /// Adds a sealed message, and drops older ones where there are too many.
    pub(crate) async fn add(&self, raw: &[u8], terms: &OfflineQueue) -> Result<Added, StoreFault> {
        let expires = message::expires_ms(raw).unwrap_or(0);
        let replies = self
            .fleet
            .stored_at_once(vec![
                command("RPUSH").arg(&self.name).arg(raw).take(),
                command("EXPIRE").arg(&self.name).arg(terms.keep.as_secs() + SPARE_S).take(),
                self.keys.more(None, 1),
                self.keys.more(Some(self.user), 1),
                self.place("NX", expires),
            ])
            .await?;
        let [Some(waiting), _, Some(total), _, _] = [0, 1, 2, 3, 4].map(|at| replies.get(at).and_then(number)) else {
            return Err(StoreFault::Away);
        };
        let mut added = Added { waiting, ..Added::default() };
        let over = waiting.saturating_sub(terms.per_user);
        if over > 0 {
            added.dropped_user = self.pop(over).await?;
            added.waiting -= added.dropped_user.min(added.waiting);
        }
        let over = total.saturating_sub(added.dropped_user).saturating_sub(terms.total);
        added.dropped_total = evict(self.fleet, self.keys, over).await?;
        Ok(added)
    }

    /// Number of messages of the user.
    pub(crate) async fn len(&self) -> Result<u64, StoreFault> {
        let replies = self.fleet.stored(vec![command("LLEN").arg(&self.name).take()]).await?;
        Ok(replies.first().and_then(number).unwrap_or(0))
    }

    /// Takes the delivery of the list for a while; `false` if another stickyd has it. A claim that this stickyd could
    /// not give back is its own: `token` begins with `node`, and one task at a time delivers to a user here. A Redis
    /// without memory takes no claim: then what waits is delivered without one, because that is what frees memory. A
    /// client may get a message twice.
    pub(crate) async fn take_claim(&self, token: &str, node: &str) -> Result<bool, StoreFault> {
        let set = command("SET").arg(&self.claim).arg(token).arg("NX").arg("PX").arg(ms(CLAIM)).take();
        let replies = match self.fleet.stored(vec![set, command("GET").arg(&self.claim).take()]).await {
            Ok(replies) => replies,
            Err(StoreFault::Refused(_)) => return Ok(true),
            Err(StoreFault::Away) => return Err(StoreFault::Away),
        };
        match (replies.first(), replies.get(1)) {
            (Some(Value::Okay), _) => Ok(true),
            (_, Some(Value::BulkString(has))) if has.starts_with(node.as_bytes()) => {
                self.keep_claim(token).await.map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// Keeps the claim. If it was lost meanwhile, two stickyds deliver, and a client may get a message twice.
    pub(crate) async fn keep_claim(&self, token: &str) -> Result<(), StoreFault> {
        let set = command("SET").arg(&self.claim).arg(token).arg("PX").arg(ms(CLAIM)).take();
        match self.fleet.stored(vec![set]).await {
            Ok(_) | Err(StoreFault::Refused(_)) => Ok(()),
            Err(StoreFault::Away) => Err(StoreFault::Away),
        }
    }

    /// Gives the claim back, unless another one has it by now.
    pub(crate) async fn give_claim_back(&self, token: &str) -> Result<(), StoreFault> {
        let replies = self.fleet.stored(vec![command("GET").arg(&self.claim).take()]).await?;
        if matches!(replies.first(), Some(Value::BulkString(has)) if has == token.as_bytes()) {
            self.fleet.stored(vec![command("DEL").arg(&self.claim).take()]).await?;
        }
        Ok(())
    }

    /// Some messages, in their order.
    pub(crate) async fn page(&self, skip: usize, count: usize) -> Result<Vec<Vec<u8>>, StoreFault> {
        let range = command("LRANGE").arg(&self.name).arg(skip).arg(skip + count - 1).take();
        let replies = self.fleet.stored(vec![range]).await?;
        Ok(replies.into_iter().next().map(texts).unwrap_or_default())
    }

    /// Some messages after `skip` others, of which `last` is the last; `None` if these are no longer where they were.
    pub(crate) async fn page_after(
        &self,
        skip: usize,
        last: Option<&[u8]>,
        count: usize,
    ) -> Result<Option<Vec<Vec<u8>>>, StoreFault> {
        let Some(last) = last.filter(|_| skip > 0) else { return self.page(skip, count).await.map(Some) };
        let mut page = self.page(skip - 1, count + 1).await?;
        let is_there = page.first().is_some_and(|first| first == last);
        Ok(is_there.then(|| page.split_off(1)))
    }

    /// Removes these messages; returns how many were still there.
    pub(crate) async fn remove(&self, raws: &[Vec<u8>]) -> Result<u64, StoreFault> {
        if raws.is_empty() {
            return Ok(0);
        }
        let commands: Vec<_> = raws.iter().map(|raw| command("LREM").arg(&self.name).arg(1).arg(raw).take()).collect();
        let (replies, is_counted) = self.less(commands, raws.len() as u64).await?;
        let removed = replies.iter().take(raws.len()).filter_map(number).sum();
        self.counts_right(raws.len() as u64, removed, is_counted).await?;
        Ok(removed)
    }

    /// Runs commands that remove messages, and takes these messages from the numbers at once. Also returns whether the
    /// numbers were changed: a Redis without memory removes messages and counts nothing, which is mended later
    /// (`count`).
    async fn less(&self, mut commands: Vec<Cmd>, messages: u64) -> Result<(Vec<Value>, bool), StoreFault> {
        let removing = commands.len();
        commands.extend(self.keys.both(self.user, -signed_of(messages)));
        match self.fleet.stored_at_once(commands.clone()).await {
            Ok(replies) => Ok((replies, true)),
            Err(StoreFault::Refused(_)) => {
                commands.truncate(removing);
                Ok((self.fleet.stored(commands).await?, false))
            }
            Err(StoreFault::Away) => Err(StoreFault::Away),
        }
    }

    /// Puts the numbers right if other messages were removed than they know.
    async fn counts_right(&self, expected: u64, removed: u64, is_counted: bool) -> Result<(), StoreFault> {
        let back = expected.saturating_sub(removed);
        if !is_counted || back == 0 {
            return Ok(());
        }
        self.fleet.stored_at_once(self.keys.both(self.user, signed_of(back)).into()).await.map(drop)
    }

    /// Removes all messages; returns how many there were.
    pub(crate) async fn clear(&self) -> Result<u64, StoreFault> {
        let count = self.len().await?;
        let removed = self.pop(count).await?;
        Ok(removed)
    }

    /// Removes the oldest messages; returns how many there were.
    async fn pop(&self, count: u64) -> Result<u64, StoreFault> {
        if count == 0 {
            return Ok(0);
        }
        let pop = command("LPOP").arg(&self.name).arg(count).take();
        let (replies, is_counted) = self.less(vec![pop], count).await?;
        let popped = replies.into_iter().next().map(texts).unwrap_or_default().len() as u64;
        self.counts_right(count, popped, is_counted).await?;
        if popped > 0 {
            // If it fails, the next sweep does it.
            let _ = self.order_anew().await;
        }
        Ok(popped)
    }

    /// Says in the list of users when the first message of this one expires: `NX` only if the user is not there, `XX`
    /// only if it is.
    fn place(&self, how: &str, expires: i64) -> Cmd {
        command("ZADD").arg(&self.keys.users).arg(how).arg(expires).arg(self.user.0.as_slice()).take()
    }

    /// Says anew when the first message expires, or that there is none.
    pub(crate) async fn order_anew(&self) -> Result<(), StoreFault> {
        let first = || command("LINDEX").arg(&self.name).arg(0).take();
        let replies = self.fleet.stored(vec![first()]).await?;
        if let Some(expires) = replies.first().and_then(expiry) {
            return self.fleet.stored(vec![self.place("XX", expires)]).await.map(drop);
        }
        // A message that comes before the removal is seen after it; a later one adds the user again.
        let remove = command("ZREM").arg(&self.keys.users).arg(self.user.0.as_slice()).take();
        let (number_of, forget) = (self.keys.number_of(self.user), self.keys.forget(self.user));
        let replies = self.fleet.stored_at_once(vec![remove, first(), number_of, forget]).await?;
        let counted = replies.get(2).and_then(signed).unwrap_or(0);
        match replies.get(1).and_then(expiry) {
            Some(expires) => {
                let back = self.keys.more(Some(self.user), counted);
                self.fleet.stored(vec![self.place("NX", expires), back]).await.map(drop)
            }
            // Its messages are gone, and Redis has not counted that.
            None if counted != 0 => self.fleet.stored(vec![self.keys.more(None, -counted)]).await.map(drop),
            None => Ok(()),
        }
    }

    /// Puts the user on the list of users again, if it is not there.
    pub(super) async fn place_again(&self) -> Result<(), StoreFault> {
        let first = command("LINDEX").arg(&self.name).arg(0).take();
        let replies = self.fleet.stored(vec![first]).await?;
        let Some(expires) = replies.first().and_then(expiry) else { return Ok(()) };
        self.fleet.stored(vec![self.place("NX", expires)]).await.map(drop)
    }
}

/// Drops messages whose turn to expire is next, of which there are so many too many; returns how many were dropped.
async fn evict(fleet: &Fleet, keys: &UpstreamKeys, mut over: u64) -> Result<u64, StoreFault> {
    let mut evicted = 0;
    for _ in 0..MOST_EVICTED {
        if over == 0 {
            break;
        }
        let Some(user) = users(fleet, keys, 0, 1).await?.into_iter().next() else { break };
        let list = MailList::new(fleet, keys, user);
        match list.pop(1).await? {
            // The list went away by itself: the user is forgotten, and its messages were not too many.
            0 => over = over.saturating_sub(u64::try_from(list.mend().await?).unwrap_or(0)),
            popped => {
                evicted += popped;
                over = over.saturating_sub(popped);
            }
        }
    }
    Ok(evicted)
}

/// Users with messages, those first whose messages expire next.
pub(crate) async fn users(
    fleet: &Fleet,
    keys: &UpstreamKeys,
    skip: usize,
    count: usize,
) -> Result<Vec<MailUser>, StoreFault> {
    let range = command("ZRANGE").arg(&keys.users).arg(skip).arg(skip + count - 1).take();
    Ok(fleet.stored(vec![range]).await?.into_iter().next().map(members).unwrap_or_default())
}

/// Users whose first message has expired at this time.
pub(crate) async fn overdue(fleet: &Fleet, keys: &UpstreamKeys, now_ms: i64) -> Result<Vec<MailUser>, StoreFault> {
    let mut range = cmd("ZRANGE");
    range.arg(&keys.users).arg("-inf").arg(now_ms).arg("BYSCORE").arg("LIMIT").arg(0).arg(USERS);
    Ok(fleet.stored(vec![range]).await?.into_iter().next().map(members).unwrap_or_default())
}

/// The number of messages and the first message of each of these users.
pub(crate) async fn heads(
    fleet: &Fleet,
    keys: &UpstreamKeys,
    users: &[MailUser],
) -> Result<Vec<(u64, Option<Vec<u8>>)>, StoreFault> {
    let lists: Vec<_> = users.iter().map(|user| MailList::new(fleet, keys, *user)).collect();
    let both =
        |list: &MailList<'_>| [command("LLEN").arg(&list.name).take(), command("LINDEX").arg(&list.name).arg(0).take()];
    let replies = fleet.stored(lists.iter().flat_map(both).collect()).await?;
    let pair = |pair: &[Value]| {
        let head = pair.get(1).and_then(|value| match value {
            Value::BulkString(raw) => Some(raw.clone()),
            _ => None,
        });
        (pair.first().and_then(number).unwrap_or(0), head)
    };
    Ok(replies.chunks(2).map(pair).collect())
}

/// A command that is built in one expression.
pub(super) struct RedisCommand(Cmd);

pub(super) fn command(name: &str) -> RedisCommand {
    RedisCommand(cmd(name))
}

impl RedisCommand {
    pub(super) fn arg(mut self, value: impl redis::ToRedisArgs) -> Self {
        self.0.arg(value);
        self
    }

    pub(super) fn take(self) -> Cmd {
        self.0
    }
}

fn signed_of(messages: u64) -> i64 {
    i64::try_from(messages).unwrap_or(i64::MAX)
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn number(value: &Value) -> Option<u64> {
    signed(value).and_then(|number| u64::try_from(number).ok())
}

pub(super) fn signed(value: &Value) -> Option<i64> {
    match value {
        Value::Int(number) => Some(*number),
        Value::BulkString(text) => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

/// When a message expires; rubbish has expired long ago.
fn expiry(value: &Value) -> Option<i64> {
    match value {
        Value::BulkString(raw) => Some(message::expires_ms(raw).unwrap_or(0)),
        _ => None,
    }
}

pub(super) fn texts(value: Value) -> Vec<Vec<u8>> {
    let Value::Array(all) = value else { return Vec::new() };
    let text = |value| match value {
        Value::BulkString(text) => Some(text),
        _ => None,
    };
    all.into_iter().filter_map(text).collect()
}

pub(super) fn members(value: Value) -> Vec<MailUser> {
    texts(value).into_iter().filter_map(|text| text.try_into().ok().map(MailUser)).collect()
}
