//! Looks once per second for what has happened without anything telling it: an upstream without workers, lost sessions,
//! limits that were reached, certificates that expire.
//!
//! Counters that exist anyway are compared with those of the second before, so that a flood costs the data threads
//! nothing. What goes on is told at once, and then at most once per minute, with a count.

use std::collections::{BTreeMap, HashSet};

use crate::clock::{self, Millis};
use crate::events::{Event, EventKind, Events, Severity};
use crate::history::{WorkerKey, now_s};
use crate::state::{Shared, Snapshot};
use crate::upstream::Upstream;

/// Time in milliseconds between two events about something that goes on.
const EVERY_MS: u64 = 60_000;

/// Days before its expiry at which a certificate is told of.
const EXPIRY_DAYS: [u64; 4] = [14, 7, 3, 1];

const DAY_S: u64 = 86_400;

/// What was seen at the last look.
#[derive(Default)]
pub(crate) struct Lookout {
    upstreams: BTreeMap<String, UpstreamSeen>,
    limits: BTreeMap<&'static str, Burst>,
    /// Certificates that were told of, by listener and name, with the number of days.
    expiring: BTreeMap<(String, String), u64>,
    workers: Option<HashSet<WorkerKey>>,
}

#[derive(Default)]
struct UpstreamSeen {
    /// Since when no worker takes new sessions.
    empty_since: Option<Millis>,
    was_ready: bool,
    lost: Burst,
    queue: Burst,
    unlisted: Burst,
}

/// Something that is counted, and told at most once per [`EVERY_MS`]. The code is pure: time is an argument.
#[derive(Debug, Default)]
struct Burst {
    seen: Option<u64>,
    /// Number that was not told yet.
    untold: u64,
    told: Option<Millis>,
}

impl Burst {
    /// Notes the present count; returns how many are to be told now. The count at the first look is where it begins.
    fn note(&mut self, count: u64, now: Millis) -> Option<u64> {
        let before = self.seen.replace(count).unwrap_or(count);
        self.untold += count.saturating_sub(before);
        let is_due = self.told.is_none_or(|told| now.since(told) >= EVERY_MS);
        if self.untold == 0 || !is_due {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

impl Lookout {
    /// Looks at everything, and tells what has happened.
    pub(crate) fn look(&mut self, shared: &Shared, snapshot: &Snapshot) {
        let (now, events) = (clock::now_ms(), &*shared.events);
        for upstream in &snapshot.upstreams {
            self.upstreams.entry(upstream.config.name.clone()).or_default().look(upstream, events, now);
        }
        self.upstreams.retain(|name, _| snapshot.upstreams.iter().any(|one| one.config.name == *name));
        let pins = shared.metrics.pins_refused.get() + shared.metrics.pins_evicted.get();
        for (limit, count) in shared.metrics.limits.counts().chain([("pins", pins)]) {
            if let Some(times) = self.limits.entry(limit).or_default().note(count, now) {
                let text = format!("the limit `{limit}` was reached{}", times_of(times));
                events.tell(Event::new(EventKind::LimitReached, Severity::Warning, text));
            }
        }
        for (listener, name, until) in shared.metrics.certificates() {
            self.certificate(&listener, &name, until, events);
        }
        self.compare_workers(snapshot, events);
    }

    /// Tells which workers have come and gone, by reload, DNS or a spawner. Ports of a range count once a process has
    /// listened there.
    fn compare_workers(&mut self, snapshot: &Snapshot, events: &Events) {
        let live = snapshot.workers().filter(|worker| !worker.is_unused());
        let names: HashSet<WorkerKey> = live.map(|one| (one.upstream.to_string(), one.name.clone())).collect();
        let Some(before) = self.workers.replace(names) else { return };
        let Some(now) = &self.workers else { return };
        for (upstream, name) in now.difference(&before) {
            let text = "a worker has joined the upstream".to_owned();
            events.tell(Event::new(EventKind::WorkerAdded, Severity::Info, text).worker(upstream, name));
        }
        for (upstream, name) in before.difference(now) {
            let text = "a worker has left the upstream".to_owned();
            events.tell(Event::new(EventKind::WorkerRemoved, Severity::Info, text).worker(upstream, name));
        }
    }

    fn certificate(&mut self, listener: &str, name: &str, until: u64, events: &Events) {
        let key = (listener.to_owned(), name.to_owned());
        let Some(days) = due(until, now_s()) else {
            self.expiring.remove(&key);
            return;
        };
        if self.expiring.insert(key, days).is_some_and(|told| told <= days) {
            return;
        }
        let (severity, text) = match until.saturating_sub(now_s()) {
            0 => (Severity::Error, format!("the certificate for {name} has expired")),
            left => {
                let days = left / DAY_S;
                let unit = if days == 1 { "day" } else { "days" };
                (Severity::Warning, format!("the certificate for {name} expires in {days} {unit}"))
            }
        };
        let mut event = Event::new(EventKind::CertificateExpiring, severity, text);
        event.listener = Some(listener.to_owned());
        events.tell(event);
    }
}

/// Returns the smallest number of days of [`EXPIRY_DAYS`] within which a certificate expires; 0 once it has.
fn due(until: u64, now: u64) -> Option<u64> {
    let left = until.saturating_sub(now);
    if left == 0 {
        return Some(0);
    }
    EXPIRY_DAYS.into_iter().filter(|days| left < days * DAY_S).min()
}

impl UpstreamSeen {
    fn look(&mut self, upstream: &Upstream, events: &Events, now: Millis) {
        let name = &upstream.config.name;
        let takes = upstream.members.iter().any(|member| member.worker.takes_new_at_worst());
        let is_named = !upstream.removed;
        match (takes, self.empty_since) {
            // Before the first worker was up there is nothing to lose.
            (false, None) if self.was_ready && is_named => {
                self.empty_since = Some(now);
                let text = "no worker takes new sessions: new clients get an error".to_owned();
                events.tell(Event::new(EventKind::UpstreamEmpty, Severity::Error, text).upstream(name));
            }
            (true, Some(since)) => {
                self.empty_since = None;
                let text = format!("a worker takes new sessions again (after {} s)", now.since(since).div_ceil(1_000));
                events.tell(Event::new(EventKind::UpstreamBack, Severity::Info, text).upstream(name));
            }
            _ => {}
        }
        self.was_ready |= takes;
        let series = upstream.series();
        let lost = series.refusals_forwarded.get() + series.refusals_own.get();
        if let Some(times) = self.lost.note(lost, now) {
            let text = format!("clients were told that their session is unknown{}", times_of(times));
            events.tell(Event::new(EventKind::SessionsLost, Severity::Warning, text).upstream(name));
        }
        let full = upstream.members.iter().map(|member| member.worker.series.queue_full.get()).sum();
        let sockets = upstream.members.first().map(|member| &member.worker.series.sockets);
        let unlisted = sockets.map_or(0, |sockets| sockets.unlisted.get());
        let bounds = [("queue", full, &mut self.queue), ("sockets", unlisted, &mut self.unlisted)];
        for (limit, count, burst) in bounds {
            if let Some(times) = burst.note(count, now) {
                let text = format!("the limit `{limit}` was reached{}", times_of(times));
                events.tell(Event::new(EventKind::LimitReached, Severity::Warning, text).upstream(name));
            }
        }
    }
}

fn times_of(times: u64) -> String {
    if times == 1 { String::new() } else { format!(" ({times} times)") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_told_once_per_minute() {
        let (mut burst, at) = (Burst::default(), |s: u64| Millis::new(s * 1_000));
        assert_eq!(burst.note(7, at(0)), None, "what was counted before the first look");
        assert_eq!(burst.note(8, at(1)), Some(1));
        assert_eq!(burst.note(20, at(2)), None);
        assert_eq!(burst.note(25, at(60)), None);
        assert_eq!(burst.note(25, at(61)), Some(17));
        assert_eq!(burst.note(25, at(200)), None);
        assert_eq!(burst.note(26, at(300)), Some(1));
    }

    #[test]
    fn certificates_are_told_of_at_fixed_numbers_of_days() {
        let at = |days: u64| due(100 * DAY_S, 100 * DAY_S - days * DAY_S + 1);
        assert_eq!([15, 14, 8, 7, 3, 1].map(at), [None, Some(14), Some(14), Some(7), Some(3), Some(1)]);
        assert_eq!(due(100, 100), Some(0));
    }
}
