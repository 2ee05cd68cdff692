//! The sockets of users, found by keyed hashes of their names. Left out: messages (`list`).

use std::sync::{Arc, Weak};

use super::{OfflineQueues, user};
use crate::locks::lock;
use crate::sockets::{Mailbag, Socket, UserKey};

/// The sockets of one user.
pub(super) struct UserSockets {
    upstream: Arc<str>,
    sockets: Vec<Weak<Socket>>,
    /// Whether Redis has not been asked since the last socket came, or did not answer.
    is_unchecked: bool,
}

impl OfflineQueues {
    /// Says that a socket belongs to a user, which is certain: the value comes from a verified token, or from the
    /// backend. Its messages are looked for at once.
    pub(crate) fn enroll(&self, socket: &Arc<Socket>, upstream: &str, label: &str, value: &str) {
        let Ok(fleet) = self.fleet() else { return };
        let Ok(user) = user(fleet, upstream, label, value) else { return };
        let bag = socket.mailbag_or_new();
        if !bag.belongs_to(user) {
            return;
        }
        bag.asks(true);
        {
            let mut index = lock(&self.index);
            let new = || UserSockets { upstream: upstream.into(), sockets: Vec::new(), is_unchecked: true };
            let known = index.entry(user).or_insert_with(new);
            known.is_unchecked = true;
            known.sockets.push(Arc::downgrade(socket));
        }
        self.wake(user);
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
    pub(super) fn wake(&self, user: UserKey) {
        let is_here = match lock(&self.index).get_mut(&user) {
            Some(known) => {
                known.is_unchecked = true;
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
    pub(super) fn sockets(&self, user: UserKey) -> Option<(Arc<str>, Vec<Arc<Socket>>)> {
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

    pub(super) fn has_ready_socket(&self, user: UserKey) -> bool {
        self.sockets(user).is_some_and(|(_, sockets)| sockets.iter().any(|socket| socket.takes_messages().is_ok()))
    }

    /// Forgets sockets that are over.
    pub(super) fn tidy(&self) {
        lock(&self.index).retain(|_, known| {
            known.sockets.retain(|socket| socket.strong_count() > 0);
            !known.sockets.is_empty()
        });
    }

    pub(super) fn checked(&self, user: UserKey) {
        if let Some(known) = lock(&self.index).get_mut(&user) {
            known.is_unchecked = false;
        }
    }

    /// Looks for the messages of all users with sockets here, or only of those for whom Redis has not answered.
    pub(super) fn wake_all(&self, even_checked: bool) {
        let index = lock(&self.index);
        let users = index.iter().filter(|(_, known)| even_checked || known.is_unchecked);
        lock(&self.pending).extend(users.map(|(user, _)| *user));
        drop(index);
        self.news.notify_one();
    }
}
