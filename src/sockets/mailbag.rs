//! What a socket's tunnel and polls tell the delivery of queued messages, and the other way round: whose socket it is,
//! which Socket.IO namespaces are connected, packets for the next answer to a poll, and what the client has confirmed.
//!
//! A socket has one once its upstream has an `offline_queue`. Left out: the messages themselves (`crate::queue`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Socket, lock};
use crate::websocket::frames::Mark;

/// Maximum number of connected namespaces that are remembered per socket.
const NAMESPACES: usize = 64;

/// A user of an upstream, as a keyed hash of the label's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct MailUser(pub(crate) [u8; 16]);

/// The socket's part in the delivery of queued messages.
#[derive(Default)]
pub(crate) struct Mailbag {
    state: Mutex<BagState>,
    news: Notify,
}

#[derive(Default)]
struct BagState {
    user: Option<MailUser>,
    /// Connected namespaces; empty text for `/`.
    namespaces: Vec<Box<str>>,
    /// Whether the queue is being asked for messages.
    is_asking: bool,
    offer: Offer,
    confirmed: Option<Mark>,
    /// Whether the answers to its polls cannot take packets.
    is_deaf: bool,
    /// How often in a row the client has not confirmed what was sent.
    tries: u32,
}

/// Packets for a client that polls.
#[derive(Default)]
enum Offer {
    #[default]
    None,
    /// They wait for the next answer to a poll.
    Waits(Vec<String>),
    /// They are in an answer to a poll.
    Sent,
    /// The client has polled again, which it does only after it has read the answer.
    Arrived,
}

impl Offer {
    fn progress(&self) -> Option<OfferProgress> {
        match self {
            Self::None => None,
            Self::Waits(_) => Some(OfferProgress::Waits),
            Self::Sent => Some(OfferProgress::Sent),
            Self::Arrived => Some(OfferProgress::Arrived),
        }
    }
}

/// Progress of an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OfferProgress {
    /// It still waits for an answer to a poll.
    Waits,
    /// It is in an answer to a poll.
    Sent,
    /// The client has read it.
    Arrived,
}

impl Mailbag {
    /// Says which user the socket belongs to, `None` for no user; returns whether that is new. Packets that wait for
    /// the user before are withdrawn.
    pub(crate) fn belongs_to(&self, user: Option<MailUser>) -> bool {
        let mut state = lock(&self.state);
        let is_new = std::mem::replace(&mut state.user, user) != user;
        if is_new {
            (state.offer, state.tries) = (Offer::None, 0);
            self.news.notify_waiters();
        }
        is_new
    }

    /// The user that the socket belongs to.
    pub(crate) fn user(&self) -> Option<MailUser> {
        lock(&self.state).user
    }

    /// Remembers that a namespace is connected; returns whether that is new.
    pub(crate) fn connected(&self, namespace: &str) -> bool {
        let mut state = lock(&self.state);
        let is_new = state.namespaces.len() < NAMESPACES && !state.namespaces.iter().any(|known| **known == *namespace);
        if is_new {
            state.namespaces.push(namespace.into());
        }
        is_new
    }

    /// Forgets a namespace that the worker has disconnected.
    pub(crate) fn disconnected(&self, namespace: &str) {
        lock(&self.state).namespaces.retain(|known| **known != *namespace);
    }

    /// Whether events of a namespace (empty for `/`) reach the client.
    pub(crate) fn is_connected(&self, namespace: &str) -> bool {
        lock(&self.state).namespaces.iter().any(|known| **known == *namespace)
    }

    /// The connected namespaces; empty text for `/`.
    pub(crate) fn namespaces(&self) -> HashSet<Box<str>> {
        lock(&self.state).namespaces.iter().cloned().collect()
    }

    /// Says whether the queue is being asked for messages.
    pub(crate) fn asks(&self, is_asking: bool) {
        lock(&self.state).is_asking = is_asking;
        if !is_asking {
            self.news.notify_waiters();
        }
    }

    /// Waits until the queue was asked, at most `limit`.
    pub(crate) async fn asked(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.until(|state| !state.is_asking)).await;
    }

    /// Waits for any change, at most `limit`.
    pub(crate) async fn changed(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.news.notified()).await;
    }

    /// Offers packets to the next answer to a poll, unless the socket belongs to another user by now; returns whether
    /// it does not.
    pub(crate) fn offer(&self, user: MailUser, packets: Vec<String>) -> bool {
        let mut state = lock(&self.state);
        let is_theirs = state.user == Some(user);
        if is_theirs {
            state.offer = Offer::Waits(packets);
        }
        is_theirs
    }

    /// Records that the answers to the polls of the client cannot take packets: they are scripts.
    pub(crate) fn cannot_hear(&self) {
        let mut state = lock(&self.state);
        state.is_deaf = true;
        if matches!(state.offer, Offer::Waits(_)) {
            state.offer = Offer::None;
        }
    }

    /// Whether the answers to the polls of the client cannot take packets.
    pub(crate) fn is_deaf(&self) -> bool {
        lock(&self.state).is_deaf
    }

    /// Takes the packets for an answer to a poll that is about to leave.
    pub(crate) fn take_offer(&self) -> Option<Vec<String>> {
        let mut state = lock(&self.state);
        let Offer::Waits(packets) = &mut state.offer else { return None };
        let packets = std::mem::take(packets);
        state.offer = Offer::Sent;
        Some(packets)
    }

    /// Records that the client polls again.
    pub(crate) fn polls(&self) {
        let mut state = lock(&self.state);
        if matches!(state.offer, Offer::Sent) {
            state.offer = Offer::Arrived;
            self.news.notify_waiters();
        }
    }

    /// How far the offer is; `None` if there is none.
    pub(crate) fn progress(&self) -> Option<OfferProgress> {
        lock(&self.state).offer.progress()
    }

    /// Withdraws an offer that still waits for an answer to a poll; returns whether it did.
    pub(crate) fn withdraw(&self) -> bool {
        let mut state = lock(&self.state);
        let waits = matches!(state.offer, Offer::Waits(_));
        if waits {
            state.offer = Offer::None;
        }
        waits
    }

    /// Ends what was offered, and returns how far it was.
    pub(crate) fn take_back(&self) -> Option<OfferProgress> {
        let mut state = lock(&self.state);
        let progress = state.offer.progress();
        state.offer = Offer::None;
        progress
    }

    /// Records whether the client has confirmed what was sent.
    pub(crate) fn tried(&self, is_confirmed: bool) {
        let mut state = lock(&self.state);
        state.tries = if is_confirmed { 0 } else { state.tries.saturating_add(1) };
    }

    /// How often in a row the client has not confirmed what was sent.
    pub(crate) fn tries(&self) -> u32 {
        lock(&self.state).tries
    }

    /// Records the payload of a Pong of the client.
    pub(crate) fn pong(&self, mark: Mark) {
        lock(&self.state).confirmed = Some(mark);
        self.news.notify_waiters();
    }

    /// Waits for the Pong with this payload, at most `limit`; returns whether it came.
    pub(crate) async fn confirmed(&self, mark: Mark, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.until(|state| state.confirmed == Some(mark))).await.is_ok()
    }

    /// Waits until the socket no longer belongs to this user.
    pub(crate) async fn left_by(&self, user: MailUser) {
        self.until(|state| state.user != Some(user)).await;
    }

    async fn until(&self, is_so: impl Fn(&BagState) -> bool) {
        loop {
            let mut news = std::pin::pin!(self.news.notified());
            // Before the look, so that a change between both is not missed.
            news.as_mut().enable();
            if is_so(&lock(&self.state)) {
                return;
            }
            news.await;
        }
    }
}

impl Socket {
    /// The socket's part in the delivery of queued messages, if it has one.
    pub(crate) fn mailbag(&self) -> Option<Arc<Mailbag>> {
        lock(&self.cold).care.as_ref().and_then(|care| care.mailbag().cloned())
    }

    /// As `mailbag`, and makes one if there is none.
    pub(crate) fn mailbag_or_new(&self) -> Arc<Mailbag> {
        lock(&self.cold).care.get_or_insert_default().mailbag_or_new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_taken_once_and_arrives_with_the_next_poll() {
        let (bag, user) = (Mailbag::default(), MailUser([1; 16]));
        assert!(!bag.offer(user, vec!["42[1]".to_owned()]), "the socket belongs to no user yet");
        bag.belongs_to(Some(user));
        assert_eq!((bag.take_offer(), bag.progress()), (None, None));
        bag.polls();
        assert!(bag.offer(user, vec!["42[1]".to_owned()]));
        bag.polls();
        assert_eq!(bag.progress(), Some(OfferProgress::Waits), "an earlier poll says nothing about it");
        assert_eq!(bag.take_offer(), Some(vec!["42[1]".to_owned()]));
        assert_eq!((bag.take_offer(), bag.progress()), (None, Some(OfferProgress::Sent)));
        bag.polls();
        assert_eq!((bag.take_back(), bag.progress()), (Some(OfferProgress::Arrived), None));
    }

    #[test]
    fn packets_of_a_user_are_withdrawn_when_the_socket_changes_hands() {
        let (bag, one, other) = (Mailbag::default(), MailUser([1; 16]), MailUser([2; 16]));
        bag.belongs_to(Some(one));
        assert!(bag.offer(one, vec!["42[1]".to_owned()]));
        assert!(bag.belongs_to(Some(other)) && !bag.belongs_to(Some(other)));
        assert_eq!((bag.take_offer(), bag.progress()), (None, None));
        assert!(!bag.offer(one, vec!["42[1]".to_owned()]));
        assert!(bag.belongs_to(None) && bag.user().is_none());
    }

    #[test]
    fn connected_namespaces_are_remembered() {
        let bag = Mailbag::default();
        assert!(bag.connected("") && !bag.connected("") && bag.connected("/chat"));
        bag.disconnected("");
        assert!(!bag.is_connected("") && bag.is_connected("/chat"));
        for number in 0..NAMESPACES * 2 {
            bag.connected(&number.to_string());
        }
        assert_eq!(lock(&bag.state).namespaces.len(), NAMESPACES);
    }
}
