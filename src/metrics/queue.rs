//! Series of the queue for users whose clients are away.

use prometheus::register_int_counter_vec_with_registry as counters;
use prometheus::{IntCounter, IntCounterVec};

use super::catalogue::Registrar;
use super::families::{Families, Family, value};

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MailResult {
    /// It was stored in Redis.
    Stored,
    /// A client has confirmed it, and it was removed.
    Delivered,
    /// It was sent, and no client has confirmed it: it stays, and is sent again.
    Unconfirmed,
    /// A newer message of its user took its place.
    DroppedUser,
    /// A newer message of any user took its place.
    DroppedTotal,
    /// No client came for it in time.
    Expired,
    /// An operator has deleted it.
    Deleted,
    /// It could not be stored.
    Failed,
    /// It was not sealed with the secret of this fleet, and was removed.
    BadSeal,
}

impl MailResult {
    const ALL: [Self; 9] = [
        Self::Stored,
        Self::Delivered,
        Self::Unconfirmed,
        Self::DroppedUser,
        Self::DroppedTotal,
        Self::Expired,
        Self::Deleted,
        Self::Failed,
        Self::BadSeal,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Delivered => "delivered",
            Self::Unconfirmed => "unconfirmed",
            Self::DroppedUser => "dropped_user",
            Self::DroppedTotal => "dropped_total",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
            Self::Failed => "failed",
            Self::BadSeal => "bad_seal",
        }
    }
}

/// Counters of the queue.
pub(crate) struct QueueSeries {
    messages: IntCounterVec,
}

impl QueueSeries {
    #[rustfmt::skip]
    pub(crate) fn new(r: &Registrar) -> prometheus::Result<Self> {
        let messages = counters!("stickyd_queue_messages_total",
            "Messages for users whose clients are away, by result: stored, delivered (a client has confirmed it), \
             unconfirmed (sent, but kept because no client has confirmed it), dropped_user and dropped_total (a newer \
             message took its place), expired, deleted (by an operator), failed (could not be stored), bad_seal.",
            &["result"], r)?;
        MailResult::ALL.iter().for_each(|result| messages.with_label_values(&[result.word()]).inc_by(0));
        Ok(Self { messages })
    }

    /// Counts messages by what became of them.
    pub(crate) fn count(&self, result: MailResult, messages: u64) {
        if messages > 0 {
            self.of(result).inc_by(messages);
        }
    }

    fn of(&self, result: MailResult) -> IntCounter {
        self.messages.with_label_values(&[result.word()])
    }
}

const STORED: Family = Family {
    name: "stickyd_queue_stored",
    help: "Messages in the fleet's Redis for users whose clients are away, as last read.",
};

impl Families {
    /// Adds how many messages of an upstream are stored.
    pub(crate) fn queue_stored(&mut self, upstream: &str, messages: u64) {
        self.gauge(&STORED, &[("upstream", upstream)], value(messages));
    }
}
