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
use super::{Fleet, FleetMessage};
use crate::locks::lock;

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
    /// Time by the clock of the Redis, in microseconds; of two orders for one worker the later one holds.
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
    missing: Option<String>,
}

impl AskedMember {
    fn new(node: u64, now: Instant) -> Self {
        Self { node, heard: now, has_begun: false, status: 0, got: 0, pages: 0, body: Vec::new(), missing: None }
    }

    fn is_waiting(&self) -> bool {
        self.missing.is_none() && (self.pages == 0 || self.got < self.pages)
    }

    /// Gives up on a stickyd that is silent.
    fn look(&mut self, began: Instant, now: Instant) {
        if !self.is_waiting() {
            return;
        }
        let whole = now.duration_since(began);
        if (!self.has_begun || self.pages > 0) && now.duration_since(self.heard) >= SILENCE {
            self.missing = Some(format!("was silent for {} s", SILENCE.as_secs()));
        } else if whole >= WHOLE {
            self.missing = Some(format!("has begun, but was not done within {} s", WHOLE.as_secs()));
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
            self.missing = Some("answered more than can be shown: use a filter or a lower --limit".to_owned());
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
            match one.missing {
                Some(_) => _ = silent.insert(one.node, Instant::now()),
                None if !one.is_waiting() => _ = silent.remove(&one.node),
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
        if !self.publish_control(&ControlMessage::Order(order.clone())) {
            let words = || FleetReply::Missing("was not asked: the fleet's Redis does not take the order".to_owned());
            return waiting.iter().map(|one| (one.node, words())).collect();
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
            Some(words) => (one.node, FleetReply::Missing(words)),
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
        let Some(one) = waiting.iter_mut().find(|one| one.node == head.node) else { return };
        if all + content.len() > MOST_ANSWERS {
            one.missing = Some("answered more than can be shown: use a filter or a lower --limit".to_owned());
        } else if one.take(head, content, Instant::now()) {
            self.publish_control(&ControlMessage::Page { node: one.node, page: one.got, question });
        }
    }

    fn publish_control(&self, message: &ControlMessage) -> bool {
        serde_json::to_vec(message).is_ok_and(|payload| self.publish(TOPIC, &payload))
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
        {
            let mut kept = lock(&self.kept_answers.0);
            let now = Instant::now();
            kept.retain(|one| now.duration_since(one.since) < WHOLE);
            if kept.len() >= MOST_KEPT {
                kept.pop_front();
            }
            kept.push_back(KeptAnswer { question, since: now, status, body });
        }
        self.send_page(question, 0).await;
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
mod tests {
    use super::*;

    fn kept(size: usize) -> KeptAnswer {
        let body = (0..size).map(|i| u8::try_from(i % 251).unwrap_or_default()).collect();
        KeptAnswer { question: 1, since: Instant::now(), status: 200, body }
    }

    #[test]
    fn an_answer_comes_back_whole_page_by_page() {
        for size in [0, 1, PAGE, PAGE + 1, 3 * PAGE] {
            let (answer, now) = (kept(size), Instant::now());
            let mut asked = AskedMember::new(7, now);
            asked.take(PageHead { node: 7, status: 0, page: 0, pages: 0 }, &[], now);
            assert!(asked.is_waiting() && asked.has_begun);
            for page in 0..answer.pages() {
                let head = PageHead { node: 7, status: 200, page, pages: answer.pages() };
                let plain = head.encode(answer.page(page));
                assert!(plain.len() <= 256 * 1024 - 28, "a sealed page");
                let (head, content) = PageHead::decode(&plain).unwrap();
                assert_eq!(asked.take(head, content, now), page + 1 < answer.pages(), "{size} {page}");
                assert!(!asked.take(head, content, now), "a page that comes twice");
            }
            assert!(!asked.is_waiting() && asked.body == answer.body, "{size}");
        }
        assert_eq!(PageHead::decode(&[0; 17]), None, "a head has 18 bytes");
    }

    #[test]
    fn silence_is_told_from_slow_work() {
        let began = Instant::now();
        let after = |seconds| began + Duration::from_secs(seconds);
        let (mut silent, mut slow) = (AskedMember::new(1, began), AskedMember::new(2, began));
        slow.take(PageHead { node: 2, status: 0, page: 0, pages: 0 }, &[], after(1));
        for one in [&mut silent, &mut slow] {
            one.look(began, after(4));
            assert!(one.is_waiting());
        }
        silent.look(began, after(5));
        slow.look(began, after(29));
        assert_eq!((silent.missing.as_deref(), slow.is_waiting()), (Some("was silent for 5 s"), true));
        slow.look(began, after(30));
        assert_eq!(slow.missing.as_deref(), Some("has begun, but was not done within 30 s"));
        let mut stuck = AskedMember::new(3, began);
        stuck.take(PageHead { node: 3, status: 200, page: 0, pages: 2 }, b"x", after(1));
        stuck.look(began, after(6));
        assert_eq!(stuck.missing.as_deref(), Some("was silent for 5 s"), "in the middle of an answer");
    }
}
