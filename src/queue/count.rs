//! The numbers of waiting messages in the fleet's Redis, and how they mend themselves.
//!
//! One hash per upstream has the number of all messages and that of each user. Both change together with a user's list,
//! so that the first is always the sum of the others, also after Redis has evicted the hash. Redis may evict a list, or
//! lose the list of users: a walk compares some users at a time with their lists, and puts right what differs. Changes
//! are relative, so that stickyds that do it at the same time do no harm that the next walk does not mend.

use redis::{Cmd, Value};

use super::list::{MailList, command, members, number, signed, texts};
use crate::fleet::{Fleet, StoreFault};
use crate::sockets::MailUser;

/// Users that are compared together: each costs Redis less than a microsecond.
const PAGE: usize = 512;

/// Pages that are compared one after the other as long as something was wrong in each.
const MOST_PAGES: usize = 32;

/// Field of the number of all messages; those of users have 16 bytes.
const ALL: &[u8] = b"n";

/// Names of the keys that count the messages of an upstream.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamKeys {
    numbers: String,
    pub(super) users: String,
}

impl UpstreamKeys {
    pub(crate) fn of(fleet: &Fleet, upstream: &str) -> Self {
        let hash = fleet.hidden(&format!("queue upstream\0{upstream}"));
        Self { numbers: fleet.stored_name("qh", &hash), users: fleet.stored_name("qu", &hash) }
    }

    /// Adds to the number of a user, or to that of all messages.
    pub(super) fn more(&self, user: Option<MailUser>, messages: i64) -> Cmd {
        let field = user.as_ref().map_or(ALL, |user| user.0.as_slice());
        command("HINCRBY").arg(&self.numbers).arg(field).arg(messages).take()
    }

    /// Adds messages of a user to both numbers, or takes them from both if negative.
    pub(super) fn both(&self, user: MailUser, messages: i64) -> [Cmd; 2] {
        [None, Some(user)].map(|of| self.more(of, messages))
    }

    /// Reads the number of a user.
    pub(super) fn number_of(&self, user: MailUser) -> Cmd {
        command("HGET").arg(&self.numbers).arg(user.0.as_slice()).take()
    }

    /// Forgets the number of a user.
    pub(super) fn forget(&self, user: MailUser) -> Cmd {
        command("HDEL").arg(&self.numbers).arg(user.0.as_slice()).take()
    }
}

impl MailList<'_> {
    /// Makes the numbers those of the list; returns how many messages too many they had, or too few if negative.
    pub(super) async fn mend(&self) -> Result<i64, StoreFault> {
        let length = command("LLEN").arg(&self.name).take();
        let replies = self.fleet.stored_at_once(vec![length, self.keys.number_of(self.user)]).await?;
        let there = replies.first().and_then(signed).unwrap_or(0);
        let counted = replies.get(1).and_then(signed).unwrap_or(0);
        let too_many = counted.saturating_sub(there);
        if too_many != 0 {
            self.fleet.stored_at_once(self.keys.both(self.user, -too_many).into()).await?;
        }
        if there == 0 {
            self.order_anew().await?;
        }
        Ok(too_many)
    }
}

/// Numbers of messages and of users of an upstream.
pub(crate) async fn stored(fleet: &Fleet, keys: &UpstreamKeys) -> Result<(u64, u64), StoreFault> {
    let [messages, users, _] = sizes(fleet, keys).await?;
    Ok((u64::try_from(messages).unwrap_or(0), u64::try_from(users).unwrap_or(0)))
}

/// The number of all messages, of users in their list, and of users with a number.
async fn sizes(fleet: &Fleet, keys: &UpstreamKeys) -> Result<[i64; 3], StoreFault> {
    let all = command("HGET").arg(&keys.numbers).arg(ALL).take();
    let listed = command("ZCARD").arg(&keys.users).take();
    let counted = command("HLEN").arg(&keys.numbers).take();
    let replies = fleet.stored_at_once(vec![all, listed, counted]).await?;
    let all = replies.first().and_then(signed);
    let [listed, counted] = [1, 2].map(|at| replies.get(at).and_then(signed).unwrap_or(0));
    Ok([all.unwrap_or(0), listed, counted - i64::from(all.is_some())])
}

/// How far the users of an upstream were compared with their lists.
#[derive(Debug, Default)]
pub(super) struct CountWalk {
    /// Where Redis goes on in the hash of the numbers.
    cursor: u64,
    /// Number of users that were passed in their list.
    skip: usize,
}

impl CountWalk {
    /// Compares the next users with their lists, and goes on at once as long as something was wrong.
    pub(super) async fn go_on(&mut self, fleet: &Fleet, keys: &UpstreamKeys) -> Result<(), StoreFault> {
        for _ in 0..MOST_PAGES {
            let [all, listed, counted] = sizes(fleet, keys).await?;
            if counted == 0 && listed == 0 {
                if all != 0 {
                    // Users went while Redis was away, between two steps.
                    fleet.stored(vec![keys.more(None, -all)]).await?;
                }
                return Ok(());
            }
            let mended = self.counted(fleet, keys, listed < counted).await?;
            let found = if counted < listed { self.listed(fleet, keys).await? } else { 0 };
            if mended + found == 0 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Compares the next users that have a number; returns how many were put right.
    async fn counted(&mut self, fleet: &Fleet, keys: &UpstreamKeys, lacks_users: bool) -> Result<usize, StoreFault> {
        let scan = command("HSCAN").arg(&keys.numbers).arg(self.cursor).arg("COUNT").arg(PAGE).take();
        let Some(Value::Array(reply)) = fleet.stored(vec![scan]).await?.pop() else { return Ok(0) };
        let mut reply = reply.into_iter();
        self.cursor = reply.next().as_ref().and_then(number).unwrap_or(0);
        let fields = texts(reply.next().unwrap_or(Value::Nil));
        let pair = |pair: &[Vec<u8>]| {
            let [field, count] = pair else { return None };
            let user = MailUser(field.as_slice().try_into().ok()?);
            Some((user, std::str::from_utf8(count).ok()?.parse::<i64>().ok()?))
        };
        let users: Vec<_> = fields.chunks(2).filter_map(pair).collect();
        let lists: Vec<_> = users.iter().map(|(user, _)| MailList::new(fleet, keys, *user)).collect();
        if lists.is_empty() {
            return Ok(0);
        }
        let lengths = lists.iter().map(|list| command("LLEN").arg(&list.name).take()).collect();
        let lengths = fleet.stored(lengths).await?;
        let mut mended = 0;
        for ((list, (_, count)), length) in lists.iter().zip(&users).zip(&lengths) {
            let length = signed(length).unwrap_or(0);
            if length != *count || length == 0 {
                // They are read together now: a message may have come in between.
                mended += usize::from(list.mend().await? != 0);
            } else if lacks_users {
                list.place_again().await?;
                mended += 1;
            }
        }
        Ok(mended)
    }

    /// Counts the next users of the list that have no number; returns how many there were.
    async fn listed(&mut self, fleet: &Fleet, keys: &UpstreamKeys) -> Result<usize, StoreFault> {
        let range = command("ZRANGE").arg(&keys.users).arg(self.skip).arg(self.skip + PAGE - 1).take();
        let users = fleet.stored(vec![range]).await?.into_iter().next().map(members).unwrap_or_default();
        self.skip = if users.len() < PAGE { 0 } else { self.skip + PAGE };
        if users.is_empty() {
            return Ok(0);
        }
        let numbers = fleet.stored(users.iter().map(|user| keys.number_of(*user)).collect()).await?;
        let mut mended = 0;
        for (user, number) in users.iter().zip(numbers) {
            if matches!(number, Value::Nil) {
                mended += usize::from(MailList::new(fleet, keys, *user).mend().await? != 0);
            }
        }
        Ok(mended)
    }
}
