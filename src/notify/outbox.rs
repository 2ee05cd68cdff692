//! Messages on their way: one lane per receiver, in order, with attempts that are further and further apart.
//!
//! Pure: time is an argument. A lane has one message under way at a time. A receiver that is away, or asks for patience
//! (`Retry-After`), gets its messages later, for up to an hour after they were written. All lanes together hold at most
//! [`QUEUE`] messages; beyond the hourly limit of a receiver messages are counted and summed up in one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::incidents::{Moment, Note};
use super::message::Message;
use crate::config::NotifyRules;
use crate::config::notify::{Receiver, Topic};

/// Maximum number of messages that wait, over all lanes.
const QUEUE: usize = 256;

/// First wait between two attempts; it doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// Time after which a message that could not be delivered is given up.
const PATIENCE: Duration = Duration::from_secs(3600);

const HOUR: Duration = Duration::from_secs(3600);

/// What became of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Sent,
    /// It may succeed later; the receiver may have said when.
    Later(String, Option<Duration>),
    /// It will never succeed.
    Refused(String),
}

/// What became of a message, as counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LetterResult {
    Sent,
    /// An attempt failed and will be repeated.
    Retried,
    /// The receiver refused it.
    Refused,
    /// It was not delivered within an hour.
    Expired,
    /// The queue was full.
    Dropped,
    /// The hourly limit was reached.
    Limited,
}

impl LetterResult {
    /// All results, in the order of their words.
    pub(crate) const ALL: [Self; 6] =
        [Self::Sent, Self::Retried, Self::Refused, Self::Expired, Self::Dropped, Self::Limited];

    /// Returns the word for this result in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Retried => "retried",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Dropped => "dropped",
            Self::Limited => "limited",
        }
    }
}

/// A message on its way to one receiver.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) message: Arc<Message>,
    queued: Moment,
    attempts: u32,
}

/// The last outcome of a lane, for operators.
#[derive(Debug, Clone)]
pub(crate) struct LastOutcome {
    pub(crate) at: Moment,
    pub(crate) result: LetterResult,
    /// Why, if it failed.
    pub(crate) why: String,
}

/// The messages of one receiver.
#[derive(Debug)]
pub(crate) struct ReceiverLane {
    pub(crate) name: String,
    topics: Vec<Topic>,
    queue: VecDeque<Letter>,
    /// Whether the first message is under way.
    busy: bool,
    /// Earliest moment of the next attempt.
    next: Moment,
    /// Moments of the messages of the last hour.
    recent: VecDeque<Moment>,
    /// Number of messages left out since the limit was reached.
    held: u64,
    pub(crate) last: Option<LastOutcome>,
}

/// The lanes of all receivers.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) lanes: Vec<ReceiverLane>,
    per_hour: u32,
}

/// What happened to a message, to be counted: name of the receiver, and the result.
pub(crate) type Counted = Vec<(String, LetterResult)>;

impl Outbox {
    /// Follows the configuration: lanes of receivers that stay keep their messages.
    pub(crate) fn follow(&mut self, rules: &NotifyRules) {
        self.per_hour = rules.per_hour;
        let mut old = std::mem::take(&mut self.lanes);
        let lane = |receiver: &Receiver| {
            let at = old.iter().position(|lane| lane.name == receiver.name);
            let mut lane = at.map_or_else(|| ReceiverLane::new(&receiver.name), |at| old.swap_remove(at));
            lane.topics.clone_from(&receiver.topics);
            lane
        };
        self.lanes = rules.to.iter().map(lane).collect();
    }

    /// Puts a message with these notes into the lane of every receiver that is told about them; `write` writes it.
    pub(crate) fn post(
        &mut self,
        now: Moment,
        notes: &[Note],
        write: &mut dyn FnMut(&[Note]) -> Option<Message>,
    ) -> Counted {
        let (mut counted, per_hour) = (Vec::new(), self.per_hour);
        for place in 0..self.lanes.len() {
            let full = self.waiting() >= QUEUE;
            let Some(lane) = self.lanes.get_mut(place) else { continue };
            let wanted: Vec<_> =
                notes.iter().filter(|note| lane.topics.contains(&note.problem.key.topic)).cloned().collect();
            if wanted.is_empty() {
                continue;
            }
            let Some(mut message) = write(&wanted) else { continue };
            let room = lane.room(now, per_hour);
            if room == 0 || full {
                lane.held += u64::from(room == 0);
                let result = if room == 0 { LetterResult::Limited } else { LetterResult::Dropped };
                counted.push((lane.name.clone(), result));
                continue;
            }
            if room == 1 {
                message.closing(format!(
                    "This is message {per_hour} of this hour, and more are not sent (per_hour). One message will sum \
                     up the others."
                ));
            }
            lane.push(now, message);
        }
        counted
    }

    /// Posts the messages that sum up what was left out, once the limit allows them. `write` writes one for the number
    /// of messages.
    pub(crate) fn sum_up(&mut self, now: Moment, write: &mut dyn FnMut(&[Topic], u64) -> Message) {
        let (per_hour, full) = (self.per_hour, self.waiting() >= QUEUE);
        for lane in self.lanes.iter_mut().filter(|lane| lane.held > 0 && !full) {
            if lane.room(now, per_hour) > 0 {
                let message = write(&lane.topics, std::mem::take(&mut lane.held));
                lane.push(now, message);
            }
        }
    }

    /// Returns the messages whose time has come; each is under way until [`Self::done`]. With `all`, waits between
    /// attempts are not kept.
    pub(crate) fn due(&mut self, now: Moment, all: bool) -> Vec<(String, Arc<Message>)> {
        let mut due = Vec::new();
        for lane in self.lanes.iter_mut().filter(|lane| !lane.busy && (all || lane.next <= now)) {
            if let Some(letter) = lane.queue.front_mut() {
                letter.attempts = letter.attempts.saturating_add(1);
                lane.busy = true;
                due.push((lane.name.clone(), letter.message.clone()));
            }
        }
        due
    }

    /// Notes what became of the message under way in a lane, and returns what is to be counted.
    pub(crate) fn done(&mut self, now: Moment, name: &str, verdict: &Verdict) -> Option<LetterResult> {
        let lane = self.lanes.iter_mut().find(|lane| lane.name == name && lane.busy)?;
        lane.busy = false;
        let letter = lane.queue.front()?;
        let (result, why) = match verdict {
            Verdict::Sent => (LetterResult::Sent, ""),
            Verdict::Refused(why) => (LetterResult::Refused, why.as_str()),
            Verdict::Later(why, wait) => {
                let doubled = FIRST_WAIT.saturating_mul(1 << letter.attempts.saturating_sub(1).min(10));
                let wait = doubled.min(LONGEST_WAIT).max(wait.unwrap_or_default());
                lane.next = now.saturating_add(wait);
                match lane.next.saturating_sub(letter.queued) > PATIENCE {
                    true => (LetterResult::Expired, why.as_str()),
                    false => (LetterResult::Retried, why.as_str()),
                }
            }
        };
        if result != LetterResult::Retried {
            lane.queue.pop_front();
        }
        if matches!(result, LetterResult::Sent | LetterResult::Refused) {
            lane.next = now;
        }
        lane.last = Some(LastOutcome { at: now, result, why: why.to_owned() });
        Some(result)
    }

    /// Number of messages that wait or are under way.
    pub(crate) fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.queue.len()).sum()
    }
}

impl ReceiverLane {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            topics: Vec::new(),
            queue: VecDeque::new(),
            busy: false,
            next: Moment::ZERO,
            recent: VecDeque::new(),
            held: 0,
            last: None,
        }
    }

    /// Number of messages that wait or are under way.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Time until the next attempt, if a message waits for it.
    pub(crate) fn wait(&self, now: Moment) -> Option<Duration> {
        (!self.queue.is_empty() && !self.busy).then(|| self.next.saturating_sub(now))
    }

    /// Number of messages that the limit still allows in this hour.
    fn room(&mut self, now: Moment, per_hour: u32) -> usize {
        while self.recent.front().is_some_and(|at| now.saturating_sub(*at) >= HOUR) {
            self.recent.pop_front();
        }
        usize::try_from(per_hour).unwrap_or(usize::MAX).saturating_sub(self.recent.len())
    }

    fn push(&mut self, now: Moment, message: Message) {
        self.recent.push_back(now);
        self.queue.push_back(Letter { message: Arc::new(message), queued: now, attempts: 0 });
    }
}

#[cfg(test)]
mod tests;
