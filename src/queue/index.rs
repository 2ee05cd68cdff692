//! The sockets of users, found by keyed hashes of their names. Left out: messages (`list`).

use std::sync::{Arc, Weak};

use super::{OfflineQueues, user};
use crate::locks::lock;
use crate::sockets::{MailUser, Mailbag, Socket};

/// The sockets of one user.
pub(super) struct UserSockets {
    upstream: Arc<str>,
    sockets: Vec<Weak<Socket>>,
    /// Number of reasons to ask Redis for messages so far, and how many of them were there when Redis had none left.
    asked: u64,
    checked: u64,
}

impl UserSockets {
    fn is_unchecked(&self) -> bool {
        self.asked != self.checked
    }
}

impl OfflineQueues {
    /// Says that a socket belongs to a user, which is certain: the value comes from a verified token, or from the
    /// backend. Its messages are looked for at once.
    pub(crate) fn enroll(&self, socket: &Arc<Socket>, upstream: &str, label: &str, value: &str) {
        let Ok(fleet) = self.fleet() else { return };
        let bag = socket.mailbag_or_new();
        let Ok(user) = user(fleet, upstream, label, value) else {
            bag.belongs_to(None);
            return;
        };
        let before = bag.user();
        if !bag.belongs_to(Some(user)) {
            return;
        }
        self.leave(before, socket);
        bag.asks(true);
        {
            let mut index = lock(&self.index);
            let new = || UserSockets { upstream: upstream.into(), sockets: Vec::new(), asked: 0, checked: 0 };
            let known = index.entry(user).or_insert_with(new);
            known.asked += 1;
            known.sockets.push(Arc::downgrade(socket));
        }
        self.wake(user);
    }

    /// Says that a socket belongs to no user any more.
    pub(crate) fn part(&self, socket: &Socket) {
        if let Some(bag) = socket.mailbag() {
            let before = bag.user();
            bag.belongs_to(None);
            self.leave(before, socket);
        }
    }

    /// Takes a socket from the sockets of a user, so that it is there once however often it comes and goes.
    fn leave(&self, user: Option<MailUser>, socket: &Socket) {
        let mut index = lock(&self.index);
        if let Some(known) = user.and_then(|user| index.get_mut(&user)) {
            known.sockets.retain(|other| !std::ptr::eq(other.as_ptr(), socket));
        }
    }

    /// Whether messages of a user wait, as far as this stickyd knows, and can be asked for: a later message must not
    /// overtake them.
    pub(crate) fn has_backlog(&self, upstream: &str, label: &str, value: &str) -> bool {
        let Ok(fleet) = self.fleet() else { return false };
        let Ok(user) = user(fleet, upstream, label, value) else { return false };
        fleet.has_store() && lock(&self.index).get(&user).is_some_and(UserSockets::is_unchecked)
    }

    /// Whether it is certain that a socket belongs to another user than this one.
    pub(crate) fn is_of_another(&self, socket: &Socket, upstream: &str, label: &str, value: &str) -> bool {
        let own = socket.mailbag().and_then(|bag| bag.user());
        let asked = self.fleet().ok().and_then(|fleet| user(fleet, upstream, label, value).ok());
        own.is_some_and(|own| asked != Some(own))
    }

    /// Says that a Socket.IO namespace (empty for `/`) of a socket is connected.
    pub(crate) fn connected(&self, bag: &Mailbag, namespace: &str) {
        if bag.connected(namespace)
            && let Some(user) = bag.user()
        {
            bag.asks(true);
            self.wake(user);
        }
    }

    /// Looks for the messages of a user, if the user has a socket here.
    pub(super) fn wake(&self, user: MailUser) {
        let is_here = match lock(&self.index).get_mut(&user) {
            Some(known) => {
                known.asked += 1;
                true
            }
            None => false,
        };
        // As many users wait as have sockets here.
        if is_here {
            lock(&self.pending).insert(user);
            self.news.notify_one();
        }
    }

    /// The live sockets of a user, those first that came first.
    pub(super) fn sockets(&self, user: MailUser) -> Option<(Arc<str>, Vec<Arc<Socket>>)> {
        // The last reference to a socket must not be dropped under the lock.
        let (upstream, weak) = {
            let index = lock(&self.index);
            let known = index.get(&user)?;
            (known.upstream.clone(), known.sockets.clone())
        };
        let belongs = |socket: &Arc<Socket>| {
            let is_whose = socket.mailbag().is_some_and(|bag| bag.user() == Some(user));
            is_whose && !socket.is_ordered() && !socket.has_parted()
        };
        Some((upstream, weak.iter().filter_map(Weak::upgrade).filter(belongs).collect()))
    }

    pub(super) fn has_ready_socket(&self, user: MailUser) -> bool {
        self.sockets(user).is_some_and(|(_, sockets)| sockets.iter().any(|socket| socket.takes_messages().is_ok()))
    }

    /// Forgets sockets that are over.
    pub(super) fn tidy(&self) {
        lock(&self.index).retain(|_, known| {
            known.sockets.retain(|socket| socket.strong_count() > 0);
            !known.sockets.is_empty()
        });
    }

    /// Number of reasons to ask Redis for the messages of a user so far.
    pub(super) fn asked(&self, user: MailUser) -> u64 {
        lock(&self.index).get(&user).map_or(0, |known| known.asked)
    }

    /// Records that no message of a user could be delivered any more when there were so many reasons to ask.
    pub(super) fn checked(&self, user: MailUser, asked: u64) {
        if let Some(known) = lock(&self.index).get_mut(&user) {
            known.checked = asked;
        }
    }

    /// Looks for the messages of all users with sockets here, or only of those whose messages Redis has not told.
    pub(super) fn wake_all(&self, even_checked: bool) {
        let index = lock(&self.index);
        let users = index.iter().filter(|(_, known)| even_checked || known.is_unchecked());
        lock(&self.pending).extend(users.map(|(user, _)| *user));
        drop(index);
        self.news.notify_one();
    }
}
