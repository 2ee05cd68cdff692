//! Events: what has happened to workers, upstreams and stickyd itself, as a log line, in a ring, and as a stream.
//!
//! [`tell!`] is the one way to tell an event: it writes the log line and hands the event to [`Events::tell`], which
//! counts it and puts it into a bounded queue without waiting. The control thread takes it from there, gives it an id,
//! keeps it and passes it to subscribers; so does a read, which therefore always sees what was told before it. Where
//! the queue is full, the event is counted as lost; its log line was written all the same. Events belong to one server
//! and never to the process, so that servers of tests do not mix. Left out: what is seen only by looking at numbers
//! once per second (`watch` in `history`), and the answers of the API (`admin::events`).

mod kind;
mod ring;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, broadcast};

use crate::locks::lock;
use crate::printable::printable;

pub(crate) use kind::{EventKind, Severity};
pub(crate) use ring::ENTRIES;
use ring::EventRing;

/// Maximum number of events that wait for the control thread.
const QUEUE: usize = 1_024;

/// Maximum number of events that a subscriber may be behind.
const BEHIND: usize = 256;

/// Maximum length of a text, and of a name, in bytes.
const LONGEST: usize = 1_024;

/// One event, before it has an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What the event is about.
    pub kind: EventKind,
    /// How serious it is.
    pub severity: Severity,
    /// The upstream it is about, if it is about one.
    pub upstream: Option<String>,
    /// The worker it is about, if it is about one.
    pub worker: Option<String>,
    /// The listener it is about, if it is about one.
    pub listener: Option<String>,
    /// What has happened, as one sentence.
    pub text: String,
}

impl Event {
    /// Creates an event that is about no upstream, worker or listener.
    pub fn new(kind: EventKind, severity: Severity, text: String) -> Self {
        Self { kind, severity, upstream: None, worker: None, listener: None, text }
    }

    /// Sets the upstream that the event is about.
    pub fn upstream(mut self, upstream: &str) -> Self {
        self.upstream = Some(upstream.to_owned());
        self
    }

    /// Sets the upstream and the worker that the event is about.
    pub fn worker(self, upstream: &str, worker: &str) -> Self {
        Self { worker: Some(worker.to_owned()), ..self.upstream(upstream) }
    }

    /// Cuts texts that are too long, and makes those printable that came from outside.
    fn bounded(self) -> Self {
        Self {
            text: bounded(self.text),
            upstream: self.upstream.map(bounded),
            worker: self.worker.map(bounded),
            ..self
        }
    }
}

fn bounded(text: String) -> String {
    let text = if text.len() > LONGEST {
        let cut = text.char_indices().map(|(at, _)| at).take_while(|at| *at <= LONGEST - 4).last().unwrap_or(0);
        format!("{} …", text.get(..cut).unwrap_or_default())
    } else {
        text
    };
    printable(&text).to_string()
}

/// One event as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventEntry {
    /// Number of the event; later events have larger ones, also after a restart.
    pub id: u64,
    /// When it was told.
    pub at: SystemTime,
    /// What the event is about.
    pub kind: EventKind,
    /// How serious it is.
    pub severity: Severity,
    /// The upstream it is about, if it is about one.
    pub upstream: Option<Box<str>>,
    /// The worker it is about, if it is about one.
    pub worker: Option<Box<str>>,
    /// The listener it is about, if it is about one.
    pub listener: Option<Box<str>>,
    /// What has happened, as one sentence.
    pub text: Box<str>,
}

impl EventEntry {
    pub(crate) fn new(id: u64, at: SystemTime, event: Event) -> Self {
        let Event { kind, severity, upstream, worker, listener, text } = event;
        let boxed = |text: Option<String>| text.map(String::into_boxed_str);
        let (upstream, worker, listener) = (boxed(upstream), boxed(worker), boxed(listener));
        Self { id, at, kind, severity, upstream, worker, listener, text: text.into() }
    }

    /// Returns the memory that the event takes, in bytes.
    pub(crate) fn size(&self) -> usize {
        let names = [&self.upstream, &self.worker, &self.listener];
        let names: usize = names.into_iter().flatten().map(|name| name.len()).sum();
        size_of::<Self>() + self.text.len() + names
    }
}

/// Which events are wanted; an empty filter wants all.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only events with a larger id.
    pub after: Option<u64>,
    /// Only events told at this time or later.
    pub since: Option<SystemTime>,
    /// Only events of these kinds, if there are any.
    pub kinds: Vec<EventKind>,
    /// Only events about this upstream.
    pub upstream: Option<String>,
    /// Only events about a worker of this name.
    pub worker: Option<String>,
}

impl EventFilter {
    /// Whether an event is wanted.
    pub fn fits(&self, entry: &EventEntry) -> bool {
        let same = |wanted: &Option<String>, is: &Option<Box<str>>| {
            wanted.as_deref().is_none_or(|wanted| is.as_deref() == Some(wanted))
        };
        self.after.is_none_or(|after| entry.id > after)
            && self.since.is_none_or(|since| entry.at >= since)
            && (self.kinds.is_empty() || self.kinds.contains(&entry.kind))
            && same(&self.upstream, &entry.upstream)
            && same(&self.worker, &entry.worker)
    }
}

/// Some of the kept events.
#[derive(Debug)]
pub struct EventPage {
    /// The events, the oldest first.
    pub events: Vec<Arc<EventEntry>>,
    /// The largest id so far: later events have larger ones.
    pub last: u64,
}

/// All events of one server.
#[derive(Debug)]
pub struct Events {
    queue: SyncSender<(SystemTime, Event)>,
    kept: Mutex<Kept>,
    /// Wakes the control thread.
    told: Notify,
    stream: broadcast::Sender<Arc<EventEntry>>,
    counts: Vec<AtomicU64>,
    lost: AtomicU64,
}

#[derive(Debug)]
struct Kept {
    queued: Receiver<(SystemTime, Event)>,
    ring: EventRing,
    last: u64,
}

impl Events {
    /// Creates the events of a server. Ids begin at the time of day in milliseconds: they stay below 2^53, which
    /// JavaScript can hold, and grow over restarts, as long as there are fewer than 1,000 events per second.
    pub fn new() -> Arc<Self> {
        Self::beginning_at(SystemTime::now())
    }

    fn beginning_at(now: SystemTime) -> Arc<Self> {
        let ms = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let (queue, queued) = sync_channel(QUEUE);
        Arc::new(Self {
            queue,
            kept: Mutex::new(Kept { queued, ring: EventRing::default(), last: u64::try_from(ms).unwrap_or(0) }),
            told: Notify::new(),
            stream: broadcast::Sender::new(BEHIND),
            counts: EventKind::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            lost: AtomicU64::new(0),
        })
    }

    /// Tells an event: counts it and queues it. Never waits; if the queue is full, the event is lost, and counted.
    pub fn tell(&self, event: Event) {
        if let Some(count) = self.counts.get(event.kind as usize) {
            count.fetch_add(1, Relaxed);
        }
        match self.queue.try_send((SystemTime::now(), event.bounded())) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => _ = self.lost.fetch_add(1, Relaxed),
        }
        self.told.notify_one();
    }

    /// Keeps what was told and passes it to subscribers, for as long as the control thread lives.
    pub(crate) async fn keep(self: Arc<Self>) {
        loop {
            self.told.notified().await;
            self.collect(&mut lock(&self.kept));
        }
    }

    fn collect(&self, kept: &mut Kept) {
        while let Ok((at, event)) = kept.queued.try_recv() {
            kept.last += 1;
            let entry = Arc::new(EventEntry::new(kept.last, at, event));
            kept.ring.push(entry.clone());
            // An error only means that there is no subscriber.
            let _ = self.stream.send(entry);
        }
    }

    /// Returns the newest `limit` events that fit the filter.
    pub fn page(&self, filter: &EventFilter, limit: usize) -> EventPage {
        self.page_of(&mut lock(&self.kept), filter, limit)
    }

    fn page_of(&self, kept: &mut Kept, filter: &EventFilter, limit: usize) -> EventPage {
        self.collect(kept);
        let newest = kept.ring.iter().rev().filter(|entry| filter.fits(entry)).take(limit);
        let mut events: Vec<_> = newest.cloned().collect();
        events.reverse();
        EventPage { events, last: kept.last }
    }

    /// Returns a stream of the events that are told from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<EventEntry>> {
        self.stream.subscribe()
    }

    /// Returns the newest `limit` events that fit the filter, and a stream of exactly those that follow.
    pub(crate) fn page_and_subscribe(
        &self,
        filter: &EventFilter,
        limit: usize,
    ) -> (EventPage, broadcast::Receiver<Arc<EventEntry>>) {
        let mut kept = lock(&self.kept);
        let page = self.page_of(&mut kept, filter, limit);
        // Under the lock, so that no event is passed on in between.
        (page, self.stream.subscribe())
    }

    /// Returns the number of events of each kind so far.
    pub fn counts(&self) -> impl Iterator<Item = (EventKind, u64)> {
        EventKind::ALL.iter().copied().zip(self.counts.iter().map(|count| count.load(Relaxed)))
    }

    /// Returns the number of events that were not kept, because too many came at once.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

/// Tells an event: writes its log line, with the syntax of `tracing`, and hands it to the [`Events`]. The fields
/// `upstream`, `worker` and `listener` become its subject, all others a part of its text.
macro_rules! tell {
    ($events:expr, $kind:ident, $level:ident, $($line:tt)+) => {{
        tracing::$level!($($line)+);
        #[allow(unused_mut, reason = "an event without fields changes neither")]
        let (mut event, mut details) = (
            $crate::events::Event::new(
                $crate::events::EventKind::$kind,
                $crate::events::tell!(@severity $level),
                String::new(),
            ),
            String::new(),
        );
        $crate::events::tell!(@line event, details, $($line)+);
        $events.tell(event);
    }};
    (@severity info) => { $crate::events::Severity::Info };
    (@severity warn) => { $crate::events::Severity::Warning };
    (@severity error) => { $crate::events::Severity::Error };
    (@line $event:ident, $details:ident, $text:literal) => {
        $event.text = $crate::events::sentence(format!($text), &$details);
    };
    (@line $event:ident, $details:ident, upstream = %$value:expr, $($rest:tt)+) => {
        $event.upstream = Some($value.to_string());
        $crate::events::tell!(@line $event, $details, $($rest)+);
    };
    (@line $event:ident, $details:ident, worker = %$value:expr, $($rest:tt)+) => {
        $event.worker = Some($value.to_string());
        $crate::events::tell!(@line $event, $details, $($rest)+);
    };
    (@line $event:ident, $details:ident, worker = $value:expr, $($rest:tt)+) => {
        $event.worker = Some($value.to_string());
        $crate::events::tell!(@line $event, $details, $($rest)+);
    };
    (@line $event:ident, $details:ident, listener = %$value:expr, $($rest:tt)+) => {
        $event.listener = Some($value.to_string());
        $crate::events::tell!(@line $event, $details, $($rest)+);
    };
    (@line $event:ident, $details:ident, $key:ident = %$value:expr, $($rest:tt)+) => {
        $crate::events::detail(&mut $details, stringify!($key), Some(format!(" {}", $value)));
        $crate::events::tell!(@line $event, $details, $($rest)+);
    };
    (@line $event:ident, $details:ident, $key:ident = ?$value:expr, $($rest:tt)+) => {
        $crate::events::detail(&mut $details, stringify!($key), Some(format!(" {:?}", $value)));
        $crate::events::tell!(@line $event, $details, $($rest)+);
    };
    (@line $event:ident, $details:ident, $key:ident = $value:expr, $($rest:tt)+) => {
        $crate::events::detail(&mut $details, stringify!($key), $crate::events::EventDetail::told(&$value));
        $crate::events::tell!(@line $event, $details, $($rest)+);
    };
    (@line $event:ident, $details:ident, %$value:ident, $($rest:tt)+) => {
        $crate::events::detail(&mut $details, stringify!($value), Some(format!(" {}", $value)));
        $crate::events::tell!(@line $event, $details, $($rest)+);
    };
    (@line $event:ident, $details:ident, $value:ident, $($rest:tt)+) => {
        $crate::events::detail(&mut $details, stringify!($value), $crate::events::EventDetail::told(&$value));
        $crate::events::tell!(@line $event, $details, $($rest)+);
    };
}

pub(crate) use tell;

/// A value of a log line's field, as it is told in the text of an event.
pub(crate) trait EventDetail {
    /// What follows the name of the field; `None` if the field is not told.
    fn told(&self) -> Option<String>;
}

impl EventDetail for bool {
    /// A field that is true is told by its name alone.
    fn told(&self) -> Option<String> {
        self.then(String::new)
    }
}

impl<T: EventDetail + ?Sized> EventDetail for &T {
    fn told(&self) -> Option<String> {
        (**self).told()
    }
}

macro_rules! told_as_text {
    ($($kind:ty),+) => {
        $(impl EventDetail for $kind {
            fn told(&self) -> Option<String> {
                Some(format!(" {self}"))
            }
        })+
    };
}

told_as_text!(u16, u32, u64, usize, i32, i64, f64, str, String);

/// Adds a field of a log line to the details of an event's text. `told` is what follows its name.
pub(crate) fn detail(details: &mut String, name: &str, told: Option<String>) {
    let Some(value) = told else { return };
    let separator = if details.is_empty() { "" } else { ", " };
    // The unit stands at the end of a name, and after a value.
    let (name, unit) = match name.rsplit_once('_') {
        Some((name, unit @ ("s" | "ms"))) => (name, unit),
        _ => (name, ""),
    };
    let (name, unit) = (name.replace('_', " "), if unit.is_empty() { "" } else { &format!(" {unit}") });
    details.push_str(&format!("{separator}{name}{value}{unit}"));
}

/// Returns the text of an event: its phrase, and the details in brackets.
pub(crate) fn sentence(phrase: String, details: &str) -> String {
    if details.is_empty() { phrase } else { format!("{phrase} ({details})") }
}

#[cfg(test)]
mod tests;
