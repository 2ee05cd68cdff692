//! Notifications: which problems are told, when, and to which receivers.
//!
//! `watch` looks once per second, `incidents` decides what is told, `message` writes it, `outbox` decides when it is
//! sent, `deliver` and `mail` send it, and this task on the control thread ties them together. Receivers come from the
//! configuration only. A receiver that fails is an event and a metric, never a notification. Nothing here touches the
//! data threads.

mod alarms;
mod deliver;
mod handle;
mod heartbeat;
mod incidents;
mod mail;
mod message;
mod outbox;
mod render;
#[cfg(test)]
mod sample;
mod watch;

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::NotifyRules;
use crate::config::notify::Topic;
use crate::events::{Event, EventKind, Severity};
use crate::random;
use crate::spawn::SpawnHandle;
use crate::state::Shared;
use deliver::Courier;
pub(crate) use handle::{NotifyHandle, NotifyOrder, NotifyState, ProblemState, ReceiverState, TestOutcome};
use heartbeat::Beats;
use incidents::{Incidents, Moment, Note, NoteState};
use message::Message;
use outbox::{LetterResult, Outbox, Verdict};
use watch::{Around, Watch, WorkerUsage};

/// Interval between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Interval between two looks at the processes of workers, if an alarm needs them.
const USAGE_EVERY: Duration = Duration::from_secs(5);

/// Time that waiting messages get when stickyd stops.
const LAST: Duration = Duration::from_secs(2);

/// What the notifier needs in addition to the shared state.
pub(crate) struct NotifySettings {
    pub(crate) spawned: SpawnHandle,
    pub(crate) orders: mpsc::Receiver<NotifyOrder>,
}

/// Watches and tells until `stop`, and then sends what waits, for at most [`LAST`].
pub(crate) async fn keep(shared: Arc<Shared>, settings: NotifySettings, stop: CancellationToken) {
    let NotifySettings { spawned, mut orders } = settings;
    let mut notifier = Notifier::new(shared, spawned);
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                if stop.run_until_cancelled(notifier.look()).await.is_none() {
                    break;
                }
            }
            Some(order) = orders.recv() => notifier.order(order),
            Some(delivered) = notifier.deliveries.join_next(), if !notifier.deliveries.is_empty() => {
                // The error is a delivery that panicked; its message stays first in its lane, and is not repeated.
                if let Ok((name, verdict)) = delivered {
                    notifier.delivered(&name, &verdict);
                }
            }
            () = stop.cancelled() => break,
        }
        notifier.send_due(false);
    }
    let _ = tokio::time::timeout(LAST, notifier.finish()).await;
}

/// The state of the task.
struct Notifier {
    shared: Arc<Shared>,
    spawned: SpawnHandle,
    began: Instant,
    rules: Arc<NotifyRules>,
    watch: Watch,
    incidents: Incidents,
    outbox: Outbox,
    couriers: Vec<Courier>,
    deliveries: JoinSet<(String, Verdict)>,
    beats: Beats,
    /// Connections of the clients.
    tasks: TaskTracker,
    last_usage: Option<(Moment, Arc<WorkerUsage>)>,
    /// Makes ids of messages: random per process, then a number.
    ids: Ids,
}

struct Ids {
    process: String,
    next: Cell<u64>,
}

impl Ids {
    fn new() -> Self {
        let process = random::bytes::<6>().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { process, next: Cell::new(1) }
    }

    fn next(&self) -> String {
        let number = self.next.replace(self.next.get() + 1);
        format!("{}-{number}", self.process)
    }
}

impl Notifier {
    fn new(shared: Arc<Shared>, spawned: SpawnHandle) -> Self {
        let mut new = Self {
            rules: Arc::default(),
            shared,
            spawned,
            began: Instant::now(),
            watch: Watch::default(),
            incidents: Incidents::default(),
            outbox: Outbox::default(),
            couriers: Vec::new(),
            deliveries: JoinSet::new(),
            beats: Beats::default(),
            tasks: TaskTracker::new(),
            last_usage: None,
            ids: Ids::new(),
        };
        new.follow();
        new
    }

    fn now(&self) -> Moment {
        self.began.elapsed()
    }

    /// Follows a reloaded configuration.
    fn follow(&mut self) {
        let rules = self.shared.snapshot.load().rules.notify.clone();
        if Arc::ptr_eq(&rules, &self.rules) {
            return;
        }
        self.outbox.follow(&rules);
        let mut old = std::mem::take(&mut self.couriers);
        for receiver in &rules.to {
            let same = old.iter().position(|courier| courier.serves(receiver));
            let courier = same.map_or_else(|| Courier::new(receiver, &self.tasks), |at| old.swap_remove(at));
            self.couriers.push(courier);
            for result in LetterResult::ALL {
                self.shared.metrics.notifications.with_label_values(&[&receiver.name, result.word()]);
            }
        }
        self.beats.follow(rules.heartbeat.as_ref(), &self.tasks);
        self.rules = rules;
    }

    /// Looks at everything, and posts a message if it is time for one.
    async fn look(&mut self) {
        self.follow();
        let around = Around { usage: self.usage().await, pools: self.spawned.show().await };
        let now = self.now();
        let problems = self.watch.look(now, &self.shared, &around).await;
        let shared = self.shared.clone();
        let rules = self.rules.clone();
        let notes = self.incidents.observe(now, &rules, problems, &|problem| watch::ending(&shared, problem));
        self.incidents.take_news().iter().for_each(|note| tell(&shared, note));
        self.post(now, &notes);
        self.sum_up(now);
        self.beats.look(now);
    }

    /// Returns the usage of workers, read anew every few seconds if an alarm needs it.
    async fn usage(&mut self) -> Arc<WorkerUsage> {
        let snapshot = self.shared.snapshot.load_full();
        let needs = |alarm: &crate::config::alarm::Alarm| alarm.cpu.is_some() || alarm.memory.is_some();
        if !snapshot.named().any(|one| one.alarm.as_ref().is_some_and(|alarm| needs(alarm))) {
            self.last_usage = None;
            return Arc::default();
        }
        let now = self.now();
        if let Some((at, usage)) = &self.last_usage
            && now.saturating_sub(*at) < USAGE_EVERY
        {
            return usage.clone();
        }
        let addresses = snapshot.workers().map(|worker| worker.address.clone()).collect();
        let usage = Arc::new(watch::usage_of(&*self.shared.processes.look(addresses).await));
        self.last_usage = Some((now, usage.clone()));
        usage
    }

    fn post(&mut self, now: Moment, notes: &[Note]) {
        let (ids, host) = (&self.ids, &self.rules.name);
        let write = &mut |notes: &[Note]| Message::of(ids.next(), host, SystemTime::now(), now, notes);
        for (name, result) in self.outbox.post(now, notes, write) {
            count(&self.shared, &name, result, "");
        }
    }

    /// Posts the messages that sum up what the hourly limit left out.
    fn sum_up(&mut self, now: Moment) {
        let (ids, host, incidents) = (&self.ids, &self.rules.name, &self.incidents);
        let mut write = |topics: &[Topic], count: u64| {
            let lasting = incidents.lasting(now);
            let wanted: Vec<_> = lasting.into_iter().filter(|note| topics.contains(&note.problem.key.topic)).collect();
            let (id, at) = (ids.next(), SystemTime::now());
            let message = Message::of(id.clone(), host, at, now, &wanted);
            let mut message = message.unwrap_or_else(|| Message::all_well(id, host, at));
            message.closing(format!("{count} messages were not sent, because of the limit per hour (per_hour)."));
            message
        };
        self.outbox.sum_up(now, &mut write);
    }

    /// Begins the deliveries whose time has come.
    fn send_due(&mut self, all: bool) {
        let now = self.now();
        for (name, message) in self.outbox.due(now, all) {
            match self.couriers.iter().find(|courier| courier.name() == name).cloned() {
                Some(courier) => {
                    self.deliveries.spawn_local(async move { (name, courier.send(&message).await) });
                }
                // Lanes and couriers follow the same rules.
                None => self.delivered(&name, &Verdict::Refused("there is no such receiver".to_owned())),
            }
        }
    }

    fn delivered(&mut self, name: &str, verdict: &Verdict) {
        if let Some(result) = self.outbox.done(self.now(), name, verdict) {
            let why = match verdict {
                Verdict::Sent => "",
                Verdict::Later(why, _) | Verdict::Refused(why) => why,
            };
            count(&self.shared, name, result, why);
        }
    }

    /// Sends what waits, without keeping the waits between attempts. Each message gets one more attempt.
    async fn finish(&mut self) {
        let now = self.now();
        let notes = self.incidents.flush(now, &self.rules.clone());
        self.post(now, &notes);
        let mut left = self.outbox.waiting();
        while left > 0 {
            self.send_due(true);
            let Some(delivered) = self.deliveries.join_next().await else { return };
            if let Ok((name, verdict)) = delivered {
                self.delivered(&name, &verdict);
            }
            left -= 1;
        }
    }

    fn order(&mut self, order: NotifyOrder) {
        match order {
            NotifyOrder::Show(answer) => _ = answer.send(self.state()),
            NotifyOrder::Test(name, answer) => self.test(name.as_deref(), answer),
        }
    }

    /// Sends a test message to one receiver or to all, at once and past the queue, and answers with the outcomes.
    fn test(&mut self, name: Option<&str>, answer: handle::TestAnswer) {
        self.follow();
        if let Some(Err(why)) = name.map(|name| crate::config::notify::find(&self.rules, name).map(|_| ())) {
            // The requester may have gone away.
            let _ = answer.send(Err(why));
            return;
        }
        let wanted = |courier: &&Courier| name.is_none_or(|name| courier.name() == name);
        let couriers: Vec<_> = self.couriers.iter().filter(wanted).cloned().collect();
        let message = Message::test(self.ids.next(), &self.rules.name, SystemTime::now());
        let shared = self.shared.clone();
        self.tasks.spawn_local(async move {
            let mut sends = JoinSet::new();
            for courier in couriers {
                let message = message.clone();
                sends.spawn_local(async move {
                    let began = Instant::now();
                    (courier.name().to_owned(), courier.send(&message).await, began.elapsed())
                });
            }
            let mut outcomes = Vec::new();
            while let Some(Ok((name, verdict, took))) = sends.join_next().await {
                let (result, error) = match verdict {
                    Verdict::Sent => (LetterResult::Sent, None),
                    Verdict::Later(why, _) | Verdict::Refused(why) => (LetterResult::Refused, Some(why)),
                };
                count(&shared, &name, result, error.as_deref().unwrap_or_default());
                outcomes.push(TestOutcome { name, error, took });
            }
            outcomes.sort_by(|one, other| one.name.cmp(&other.name));
            // The requester may have gone away.
            let _ = answer.send(Ok(outcomes));
        });
    }

    fn state(&self) -> NotifyState {
        let now = self.now();
        let receiver = |(courier, lane): (&Courier, &outbox::ReceiverLane)| ReceiverState {
            name: lane.name.clone(),
            kind: courier.receiver().by.word(),
            host: courier.receiver().by.host().to_owned(),
            topics: courier.receiver().topics.iter().map(|topic| topic.word()).collect(),
            waiting: lane.waiting(),
            next: lane.wait(now),
            last: lane.last.as_ref().map(|last| (now.saturating_sub(last.at), last.result.word(), last.why.clone())),
        };
        let problem = |(problem, since, told): (&incidents::Problem, Moment, bool)| ProblemState {
            event: problem.key.event,
            what: problem.what.clone(),
            lasted: now.saturating_sub(since),
            told,
        };
        NotifyState {
            receivers: self.couriers.iter().zip(&self.outbox.lanes).map(receiver).collect(),
            problems: self.incidents.present().map(problem).collect(),
            heartbeat: self.beats.state(),
        }
    }
}

/// Counts and logs what became of a message; a failure is an event.
fn count(shared: &Shared, name: &str, result: LetterResult, why: &str) {
    shared.metrics.notifications.with_label_values(&[name, result.word()]).inc();
    match result {
        LetterResult::Sent => tracing::info!(to = name, "notification sent"),
        LetterResult::Retried => tracing::warn!(to = name, why, "notification could not be sent; it is tried again"),
        LetterResult::Refused | LetterResult::Expired | LetterResult::Dropped | LetterResult::Limited => {
            let result = result.word();
            tracing::warn!(to = name, result, why, "notification was not sent");
            let reason = if why.is_empty() { String::new() } else { format!(": {why}") };
            let text = format!("notification to {name} was not sent ({result}){reason}");
            shared.events.tell(Event::new(EventKind::Notify, Severity::Warning, text));
        }
    }
}

/// Logs what alarms have found, as events; the other problems have events of their own.
fn tell(shared: &Shared, note: &Note) {
    let problem = &note.problem;
    let (upstream, subject) = (&problem.key.upstream, &problem.key.subject);
    let kind = match problem.key.event {
        "sockets_low" => EventKind::SocketsLow,
        "sockets_dropped" => EventKind::SocketsDropped,
        "worker_cpu" => EventKind::WorkerCpu,
        "worker_memory" => EventKind::WorkerMemory,
        "worker_restarts" | "sessions_lost" => EventKind::Alarm,
        _ => return,
    };
    let (severity, text) = match &note.state {
        NoteState::Begun => {
            tracing::warn!(%upstream, %subject, alarm = problem.key.event, why = %problem.why, "alarm began");
            (Severity::Warning, format!("{}: {}", problem.what, problem.why))
        }
        NoteState::Over(_) => {
            tracing::info!(%upstream, %subject, alarm = problem.key.event, "alarm ended");
            (Severity::Info, format!("over: {}", problem.what))
        }
        NoteState::Lasts => return,
    };
    let event = Event::new(kind, severity, text);
    let is_of_worker = problem.key.topic == Topic::Worker;
    let event = if is_of_worker { event.worker(upstream, subject) } else { event.upstream(upstream) };
    shared.events.tell(event);
}

#[cfg(test)]
mod tests;
