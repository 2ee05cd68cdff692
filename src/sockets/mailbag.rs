//! What a socket's tunnel and polls tell the delivery of queued messages, and the other way round: whose socket it is,
//! which Socket.IO namespaces are connected, packets for the next answer to a poll, and what the client has confirmed.
//!
//! A socket has one once its upstream has an `offline_queue`. Left out: the messages themselves (`crate::queue`).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::{Socket, lock};
use crate::websocket::frames::Mark;

/// Maximum number of connected namespaces that are remembered per socket.
const NAMESPACES: usize = 64;

/// A user of an upstream, as a keyed hash of the label's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct UserKey(pub(crate) [u8; 16]);

/// The socket's part in the delivery of queued messages.
#[derive(Default)]
pub(crate) struct Mailbag {
    state: Mutex<BagState>,
    news: Notify,
}

#[derive(Default)]
struct BagState {
    user: Option<UserKey>,
    /// Connected namespaces; empty text for `/`.
    namespaces: Vec<Box<str>>,
    /// Whether the queue is being asked for messages.
    is_asking: bool,
    offer: Offer,
    confirmed: Option<Mark>,
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
    /// Says which user the socket belongs to; returns whether that is new.
    pub(crate) fn belongs_to(&self, user: UserKey) -> bool {
        lock(&self.state).user.replace(user) != Some(user)
    }

    /// The user that the socket belongs to.
    pub(crate) fn user(&self) -> Option<UserKey> {
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

    /// Says whether the queue is being asked for messages.
    pub(crate) fn asks(&self, is_asking: bool) {
        lock(&self.state).is_asking = is_asking;
        if !is_asking {
            self.news.notify_waiters();
        }
    }

    /// Waits until the queue was asked, at most `limit`.
    pub(crate) async fn asked(&self, limit: Duration) {
        let asked = async {
            loop {
                let mut news = std::pin::pin!(self.news.notified());
                // Before the look, so that a change between both is not missed.
                news.as_mut().enable();
                if !lock(&self.state).is_asking {
                    return;
                }
                news.await;
            }
        };
        let _ = tokio::time::timeout(limit, asked).await;
    }

    /// Waits for any change, at most `limit`.
    pub(crate) async fn changed(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.news.notified()).await;
    }

    /// Offers packets to the next answer to a poll.
    pub(crate) fn offer(&self, packets: Vec<String>) {
        lock(&self.state).offer = Offer::Waits(packets);
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
        match lock(&self.state).offer {
            Offer::None => None,
            Offer::Waits(_) => Some(OfferProgress::Waits),
            Offer::Sent => Some(OfferProgress::Sent),
            Offer::Arrived => Some(OfferProgress::Arrived),
        }
    }

    /// Withdraws what was offered, and returns how far it was.
    pub(crate) fn take_back(&self) -> Option<OfferProgress> {
        let progress = self.progress();
        lock(&self.state).offer = Offer::None;
        progress
    }

    /// Records the payload of a Pong of the client.
    pub(crate) fn pong(&self, mark: Mark) {
        lock(&self.state).confirmed = Some(mark);
        self.news.notify_waiters();
    }

    /// Waits for the Pong with this payload, at most `limit`; returns whether it came.
    pub(crate) async fn confirmed(&self, mark: Mark, limit: Duration) -> bool {
        let confirmed = async {
            loop {
                let mut news = std::pin::pin!(self.news.notified());
                news.as_mut().enable();
                if lock(&self.state).confirmed == Some(mark) {
                    return;
                }
                news.await;
            }
        };
        tokio::time::timeout(limit, confirmed).await.is_ok()
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
        let bag = Mailbag::default();
        assert_eq!((bag.take_offer(), bag.progress()), (None, None));
        bag.polls();
        bag.offer(vec!["42[1]".to_owned()]);
        bag.polls();
        assert_eq!(bag.progress(), Some(OfferProgress::Waits), "an earlier poll says nothing about it");
        assert_eq!(bag.take_offer(), Some(vec!["42[1]".to_owned()]));
        assert_eq!((bag.take_offer(), bag.progress()), (None, Some(OfferProgress::Sent)));
        bag.polls();
        assert_eq!((bag.take_back(), bag.progress()), (Some(OfferProgress::Arrived), None));
    }

    #[test]
    fn namespaces_and_users_are_remembered() {
        let (bag, user) = (Mailbag::default(), UserKey([1; 16]));
        assert!(bag.belongs_to(user) && !bag.belongs_to(user) && bag.belongs_to(UserKey([2; 16])));
        assert!(bag.connected("") && !bag.connected("") && bag.connected("/chat"));
        bag.disconnected("");
        assert!(!bag.is_connected("") && bag.is_connected("/chat"));
        for number in 0..NAMESPACES * 2 {
            bag.connected(&number.to_string());
        }
        assert_eq!(lock(&bag.state).namespaces.len(), NAMESPACES);
    }
}
