//! Orders among the stickyds: one of them asks, the others do it and answer.
//!
//! An order is a sealed message like all others (`channel`). Answers come back through a list in Redis, one list per
//! question, in pages; the next page is sent only once the asker has read the one before, so that a long answer fills
//! neither Redis nor a connection. A stickyd says at once that it has begun, so that slow work is told from silence.
//! Left out: what an order does (`admin::orders`).

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::members::FleetMember;
use super::queue::{bytes, on};
use super::{Fleet, FleetMessage, MOST_MESSAGE};
use crate::locks::lock;
use crate::telemetry::say_full;

/// Topic that orders are sent on.
const TOPIC: &str = "control";

/// Time in which a stickyd has to show that it has begun, or to send the next page.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);

/// Time in which an order has to be done.
pub(crate) const WHOLE: Duration = Duration::from_secs(30);

/// Time for which messages of the backend do not wait for a stickyd that was silent: until it is off the list.
const QUIET: Duration = Duration::from_secs(15);

/// Seconds that Redis keeps an answer that is not read.
const KEPT_S: u64 = 30;

/// Size of a page, in bytes: with its head and seal less than 256 KiB.
const PAGE: usize = 255 * 1024;

/// Maximum size of one answer, and of all answers to one question.
pub(crate) const MOST_ANSWER: usize = 16 << 20;
const MOST_ANSWERS: usize = 64 << 20;

/// Maximum number of answers that wait for the question for their next page.
const MOST_KEPT: usize = 8;

/// Pages that are taken from a list at once. Lookups of pins use the same connection.
const AT_ONCE: usize = 2;

/// Pauses between two looks at an empty list.
const PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_millis(2)..=Duration::from_millis(50);

/// A request to the API of every stickyd of the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FleetOrder {
    /// When it was given, by the clock of the Redis, in microseconds.
    pub(crate) given_us: Option<i64>,
    /// The same, or later if an order before it says so; of two orders for one worker the later one holds.
    pub(crate) at_us: i64,
    /// Body of the request as JSON, or empty.
    pub(crate) body: String,
    pub(crate) method: String,
    /// Path of the API, with its query.
    pub(crate) path: String,
    /// Number of the question, which its answers carry.
    pub(crate) question: u64,
    /// Name of the stickyd that was asked by an operator.
    pub(crate) stickyd: String,
    /// The only stickyd that is to execute it, if it is not for all.
    #[serde(default)]
    pub(crate) to: Option<u64>,
    /// The operator, as far as that stickyd knows.
    pub(crate) who: String,
}

/// What is sent on the topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ControlMessage {
    Order(FleetOrder),
    /// Asks one stickyd for the next page of its answer.
    Page {
        node: u64,
        page: u32,
        question: u64,
    },
}

/// What one stickyd has made of an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FleetReply {
    /// Status and body, as of a request to its API.
    Answer(u16, Vec<u8>),
    /// Nothing, or no whole answer; in words that follow the name of the stickyd.
    Missing(String),
}

/// Head of a page. Status 0: the order has arrived, and the answer follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PageHead {
    node: u64,
    status: u16,
    page: u32,
    pages: u32,
}

impl PageHead {
    fn encode(self, content: &[u8]) -> Vec<u8> {
        let Self { node, status, page, pages } = self;
        [&node.to_be_bytes()[..], &status.to_be_bytes(), &page.to_be_bytes(), &pages.to_be_bytes(), content].concat()
    }

    fn decode(plain: &[u8]) -> Option<(Self, &[u8])> {
        let (node, rest) = plain.split_first_chunk()?;
        let (status, rest) = rest.split_first_chunk()?;
        let (page, rest) = rest.split_first_chunk()?;
        let (pages, content) = rest.split_first_chunk()?;
        let (page, pages) = (u32::from_be_bytes(*page), u32::from_be_bytes(*pages));
        Some((Self { node: u64::from_be_bytes(*node), status: u16::from_be_bytes(*status), page, pages }, content))
    }
}

/// An answer of this stickyd whose last page has not been asked for.
struct KeptAnswer {
    question: u64,
    since: Instant,
    status: u16,
    body: Vec<u8>,
}

impl KeptAnswer {
    fn pages(&self) -> u32 {
        u32::try_from(self.body.len().div_ceil(PAGE).max(1)).unwrap_or(u32::MAX)
    }

    fn page(&self, page: u32) -> &[u8] {
        let start = usize::try_from(page).unwrap_or(usize::MAX).saturating_mul(PAGE).min(self.body.len());
        let end = start.saturating_add(PAGE).min(self.body.len());
        self.body.get(start..end).unwrap_or_default()
    }
}

/// The answers of this stickyd that wait for a question for their next page.
#[derive(Default)]
pub(super) struct KeptAnswers(Mutex<VecDeque<KeptAnswer>>);

impl KeptAnswers {
    /// Keeps an answer; returns whether the oldest one had to go for it.
    fn keep(&self, answer: KeptAnswer) -> bool {
        let mut kept = lock(&self.0);
        let has_gone = kept.len() >= MOST_KEPT && kept.pop_front().is_some();
        kept.push_back(answer);
        has_gone
    }

    /// Forgets the answers whose next page nothing has asked for in time.
    fn forget_old(&self, now: Instant) {
        lock(&self.0).retain(|one| now.duration_since(one.since) < WHOLE);
    }
}

/// A stickyd that was asked.
struct AskedMember {
    node: u64,
    heard: Instant,
    has_begun: bool,
    status: u16,
    /// Pages that have arrived, and all of them; 0 until the first one has.
    got: u32,
    pages: u32,
    body: Vec<u8>,
    missing: Option<MissingAnswer>,
}

/// Why there is no answer, or no whole one.
#[derive(Debug, PartialEq, Eq)]
enum MissingAnswer {
    /// Nothing came in time.
    Silent,
    /// The work was begun and not done in time.
    Slow,
    /// The answer is larger than can be shown.
    TooLarge,
}

impl MissingAnswer {
    /// The words that follow the name of the stickyd.
    fn words(&self) -> String {
        match self {
            Self::Silent => format!("was silent for {} s", SILENCE.as_secs()),
            Self::Slow => format!("has begun, but was not done within {} s", WHOLE.as_secs()),
            Self::TooLarge => "answered more than can be shown: use a filter or a lower --limit".to_owned(),
        }
    }
}

impl AskedMember {
    fn new(node: u64, now: Instant) -> Self {
        Self { node, heard: now, has_begun: false, status: 0, got: 0, pages: 0, body: Vec::new(), missing: None }
    }

    fn is_waiting(&self) -> bool {
        self.missing.is_none() && (self.pages == 0 || self.got < self.pages)
    }

    /// Whether it was silent; `None` if that is not known yet.
    fn is_silent(&self) -> Option<bool> {
        match self.missing {
            Some(MissingAnswer::Silent | MissingAnswer::Slow) => Some(true),
            Some(MissingAnswer::TooLarge) => Some(false),
            None => (!self.is_waiting()).then_some(false),
        }
    }

    /// Gives up on a stickyd that is silent.
    fn look(&mut self, began: Instant, now: Instant) {
        if !self.is_waiting() {
            return;
        }
        let whole = now.duration_since(began);
        if (!self.has_begun || self.pages > 0) && now.duration_since(self.heard) >= SILENCE {
            self.missing = Some(MissingAnswer::Silent);
        } else if whole >= WHOLE {
            self.missing = Some(MissingAnswer::Slow);
        }
    }

    /// Takes a page; returns whether the next one is to be asked for.
    fn take(&mut self, head: PageHead, content: &[u8], now: Instant) -> bool {
        self.heard = now;
        self.has_begun = true;
        // A page that comes twice changes nothing.
        if head.status == 0 || !self.is_waiting() || head.page != self.got || head.pages == 0 {
            return false;
        }
        if self.body.len() + content.len() > MOST_ANSWER {
            self.missing = Some(MissingAnswer::TooLarge);
            return false;
        }
        (self.status, self.pages) = (head.status, head.pages);
        self.body.extend_from_slice(content);
        self.got += 1;
        self.got < self.pages
    }
}

impl Fleet {
    /// Orders and questions for pages of the other stickyds, from now on.
    pub(crate) fn orders(&self) -> mpsc::Receiver<FleetMessage> {
        self.subscribe(TOPIC)
    }

    /// Reads a message of the topic.
    pub(crate) fn read_control(&self, payload: &[u8]) -> Option<ControlMessage> {
        serde_json::from_slice(payload).ok()
    }

    /// Counts an order that was dropped: it is older than this stickyd, or is overtaken by a later one.
    pub(crate) fn counts_dropped(&self) {
        self.series.message("dropped");
    }

    /// Whether a stickyd was silent when it was asked last, and may be so still.
    pub(crate) fn was_silent(&self, node: u64) -> bool {
        lock(&self.silent).get(&node).is_some_and(|since| since.elapsed() < QUIET)
    }

    /// Remembers which stickyds did not answer.
    fn note_silence(&self, asked: &[AskedMember]) {
        let mut silent = lock(&self.silent);
        silent.retain(|_, since| since.elapsed() < QUIET);
        for one in asked {
            match one.is_silent() {
                Some(true) => _ = silent.insert(one.node, Instant::now()),
                Some(false) => _ = silent.remove(&one.node),
                None => {}
            }
        }
    }

    /// Sends an order to the other stickyds, and waits for the answers of those that were `asked`, or until there is an
    /// answer with a status that `is_enough`. Only in that case an answer may be absent.
    pub(crate) async fn order(
        &self,
        order: &FleetOrder,
        asked: &[FleetMember],
        is_enough: impl Fn(u16) -> bool,
    ) -> Vec<(u64, FleetReply)> {
        let began = Instant::now();
        let mut waiting: Vec<_> = asked.iter().map(|member| AskedMember::new(member.node, began)).collect();
        let payload = serde_json::to_vec(&ControlMessage::Order(order.clone())).unwrap_or_default();
        if !self.publish(TOPIC, &payload) {
            let why = match payload.len() > MOST_MESSAGE {
                true => "was not asked: the order is longer than 1 MiB",
                false => "was not asked: the fleet's Redis does not take the order",
            };
            return waiting.iter().map(|one| (one.node, FleetReply::Missing(why.to_owned()))).collect();
        }
        let list = self.reply_list(order.question);
        let mut pause = *PAUSES.start();
        let is_done = |one: &AskedMember| !one.is_waiting() && one.missing.is_none() && is_enough(one.status);
        while waiting.iter().any(AskedMember::is_waiting) && !waiting.iter().any(is_done) {
            let taken = self.ask((0..AT_ONCE).map(|_| on("LPOP", &list)).collect()).await.unwrap_or_default();
            let pages: Vec<_> = taken.into_iter().filter_map(bytes).collect();
            for page in &pages {
                self.take_page(order.question, &list, page, &mut waiting);
            }
            let now = Instant::now();
            waiting.iter_mut().for_each(|one| one.look(began, now));
            if pages.is_empty() {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(*PAUSES.end());
            } else {
                pause = *PAUSES.start();
            }
        }
        self.note_silence(&waiting);
        let reply = |one: AskedMember| match one.missing {
            Some(why) => (one.node, FleetReply::Missing(why.words())),
            None => (one.node, FleetReply::Answer(one.status, one.body)),
        };
        waiting.into_iter().filter(|one| !one.is_waiting()).map(reply).collect()
    }

    fn take_page(&self, question: u64, list: &str, sealed: &[u8], waiting: &mut [AskedMember]) {
        let plain = self.seals.open(list, sealed);
        let Some((head, content)) = plain.as_deref().and_then(PageHead::decode) else {
            return self.series.message("bad_seal");
        };
        let all: usize = waiting.iter().map(|one| one.body.len()).sum();
        // A page that comes again after the last one changes nothing.
        let is_it = |one: &&mut AskedMember| one.node == head.node && one.is_waiting();
        let Some(one) = waiting.iter_mut().find(is_it) else { return };
        if all + content.len() > MOST_ANSWERS {
            one.missing = Some(MissingAnswer::TooLarge);
        } else if one.take(head, content, Instant::now()) {
            let next = ControlMessage::Page { node: one.node, page: one.got, question };
            // Without it the answer is missing, which is noticed by the silence.
            _ = serde_json::to_vec(&next).is_ok_and(|payload| self.publish(TOPIC, &payload));
        }
    }

    fn reply_list(&self, question: u64) -> String {
        self.control_name(&format!("r:{question:016x}"))
    }

    /// Says that an order has arrived.
    pub(crate) async fn begin_reply(&self, question: u64) {
        let head = PageHead { node: self.node, status: 0, page: 0, pages: 0 };
        self.push_page(question, head.encode(&[])).await;
    }

    /// Answers an order: sends the first page, and keeps the others until they are asked for.
    pub(crate) async fn reply(&self, question: u64, status: u16, body: Vec<u8>) {
        let answer = KeptAnswer { question, since: Instant::now(), status, body };
        if answer.pages() == 1 {
            // It takes the place of no answer that is kept.
            let head = PageHead { node: self.node, status, page: 0, pages: 1 };
            return self.push_page(question, head.encode(&answer.body)).await;
        }
        self.forget_old_answers();
        if self.kept_answers.keep(answer) {
            say_full!(limit = MOST_KEPT, "an answer to the fleet was given up: others of several pages are waiting");
        }
        self.send_page(question, 0).await;
    }

    /// Forgets the answers that a stickyd has stopped to read.
    pub(crate) fn forget_old_answers(&self) {
        self.kept_answers.forget_old(Instant::now());
    }

    /// Sends a page of a kept answer, and forgets the answer after its last page.
    pub(crate) async fn send_page(&self, question: u64, page: u32) {
        let plain = {
            let mut kept = lock(&self.kept_answers.0);
            let Some(place) = kept.iter().position(|one| one.question == question) else { return };
            let Some(answer) = kept.get(place) else { return };
            let (status, pages) = (answer.status, answer.pages());
            let plain = PageHead { node: self.node, status, page, pages }.encode(answer.page(page));
            if page + 1 >= pages {
                kept.remove(place);
            }
            plain
        };
        self.push_page(question, plain).await;
    }

    async fn push_page(&self, question: u64, plain: Vec<u8>) {
        let list = self.reply_list(question);
        let Some(sealed) = self.seals.seal(&list, &plain) else { return };
        let (mut push, mut expire) = (on("RPUSH", &list), on("EXPIRE", &list));
        push.arg(sealed);
        expire.arg(KEPT_S);
        if self.ask(vec![push, expire]).await.is_none() {
            tracing::debug!("the fleet's Redis did not take an answer");
        }
    }
}

#[cfg(test)]
mod tests;
