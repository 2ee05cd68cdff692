//! The manager: one task on the control thread that connects the pools with the spawner, the snapshot and operators.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::link::{Link, LinkEvent};
use super::pool::{Pool, World};
use super::protocol::{Exit, Hello, LinePage, ProcessId, Report, Request, VERSION};
use super::slot::Reason;
use super::spawner::{PATIENCE, ProcessGroup};
use super::{LogPage, OrderOutcome, PoolState, SpawnOrder, SpawnSettings, Target, Wish};
use crate::config;
use crate::control::Control;
use crate::events::tell;
use crate::state::Shared;

/// Interval between two looks at the workers.
const LOOK: Duration = Duration::from_millis(50);

/// Interval between two tries to reach a spawner.
const RETRY: Duration = Duration::from_millis(500);

/// Maximum number of questions for log lines that wait for the spawner.
const QUESTIONS: usize = 64;

/// The three steps of a stop, as in `server::Stop`.
pub(crate) struct SpawnStop {
    /// Everything under way may finish; nothing new is started.
    pub(crate) gently: CancellationToken,
    /// The workers are ended.
    pub(crate) workers: CancellationToken,
    /// Nothing is waited for any more.
    pub(crate) now: CancellationToken,
}

/// Keeps the workers of all upstreams with `spawn`, until they are to end. Returns once all have ended; workers of a
/// spawner that is a service stay.
pub(crate) async fn keep(
    shared: Arc<Shared>,
    settings: SpawnSettings,
    mut orders: mpsc::Receiver<SpawnOrder>,
    stop: SpawnStop,
) {
    let tasks = TaskTracker::new();
    let link = Link::new(settings.spawner.clone(), tasks);
    let mut manager = Manager {
        control: Control::new(shared.clone()),
        shared,
        settings,
        link,
        pools: HashMap::new(),
        named: HashMap::new(),
        folder: PathBuf::new(),
        greeted: false,
        spawner: None,
        lost: None,
        retry_at: None,
        is_told: false,
        questions: HashMap::new(),
        asked: 0,
    };
    let mut changed = manager.shared.changed.subscribe();
    manager.follow();
    loop {
        let pause = if manager.pools.is_empty() { Duration::from_secs(3600) } else { LOOK };
        tokio::select! {
            event = manager.link.next() => manager.hear(event),
            Some(order) = orders.recv() => manager.obey(order),
            Ok(()) = changed.changed() => manager.follow(),
            () = tokio::time::sleep(pause) => {}
            () = stop.gently.cancelled() => break,
        }
        manager.look();
    }
    // While the clients leave, operators still see the workers. Nothing is started any more.
    loop {
        tokio::select! {
            event = manager.link.next() => manager.hear_while_stopping(event),
            Some(order) = orders.recv() => manager.obey_while_stopping(order),
            () = stop.workers.cancelled() => break,
        }
    }
    manager.end(&stop.now).await;
}

/// Everything that the manager knows.
struct Manager {
    shared: Arc<Shared>,
    control: Control,
    settings: SpawnSettings,
    link: Link,
    pools: HashMap<String, Pool>,
    /// The workers that the snapshot names, per upstream.
    named: HashMap<String, Vec<config::Worker>>,
    /// Folder for unix sockets of workers.
    folder: PathBuf,
    /// Whether the present spawner has said which workers live.
    greeted: bool,
    /// Process id of the spawner.
    spawner: Option<u32>,
    /// The groups that a dead spawner has left, and when it was found dead.
    lost: Option<(Instant, Vec<ProcessGroup>)>,
    retry_at: Option<Instant>,
    /// Whether the log has said that there is no spawner.
    is_told: bool,
    questions: HashMap<u64, oneshot::Sender<LogPage>>,
    asked: u64,
}

impl Manager {
    /// Follows a change of the configuration.
    fn follow(&mut self) {
        let snapshot = self.shared.snapshot.load_full();
        let mut present = HashSet::new();
        for upstream in snapshot.named() {
            let Some(spawn) = &upstream.spawn else { continue };
            present.insert(upstream.name.clone());
            match self.pools.get_mut(&upstream.name) {
                Some(pool) if pool.spawn == *spawn => {}
                Some(pool) => pool.configure(upstream, spawn),
                None => drop(
                    self.pools.insert(upstream.name.clone(), Pool::new(upstream, spawn, self.shared.events.clone())),
                ),
            }
        }
        for pool in self.pools.values_mut().filter(|pool| !present.contains(&pool.name)) {
            pool.leave();
        }
    }

    /// Takes the next steps of all pools.
    fn look(&mut self) {
        let now = Instant::now();
        self.bury(now);
        let is_idle = self.lost.is_some() || self.link.is_up() || self.pools.is_empty();
        if !is_idle && self.retry_at.is_none_or(|at| at <= now) {
            self.connect(now);
        }
        if !self.greeted {
            return;
        }
        let world =
            World { link: &self.link, shared: &self.shared, folder: &self.folder, json: self.settings.json, now };
        for pool in self.pools.values_mut() {
            let workers = pool.look(&world);
            if self.named.get(&pool.name) != Some(&workers) {
                self.control.set_spawned(&pool.name, workers.clone());
                self.named.insert(pool.name.clone(), workers);
            }
            pool.find_workers(&self.shared);
        }
        self.pools.retain(|name, pool| {
            if pool.is_over() {
                self.named.remove(name);
            }
            !pool.is_over()
        });
    }

    fn connect(&mut self, now: Instant) {
        self.greeted = false;
        match self.link.open() {
            Ok(()) => (self.retry_at, self.is_told) = (None, false),
            Err(error) => {
                self.retry_at = Some(now + RETRY);
                if !self.is_told {
                    let socket =
                        self.settings.spawner.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
                    tell!(self.shared.events, Spawn, error,
                        %error, socket, "cannot reach or start the spawner");
                }
                self.is_told = true;
            }
        }
    }

    fn hear(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Told(Report::Hello(hello)) => self.greet(&hello),
            LinkEvent::Told(Report::Started { id, pid }) => {
                self.pools.values_mut().for_each(|pool| pool.started(id, pid));
            }
            LinkEvent::Told(Report::NotStarted { id, why }) => {
                self.ended(&Exit { id, code: None, signal: None, last: vec![why] });
            }
            LinkEvent::Told(Report::Exited(exit)) => self.ended(&exit),
            LinkEvent::Told(Report::Memory { bytes }) => {
                for (id, bytes) in bytes {
                    self.pools.values_mut().for_each(|pool| pool.note_memory(id, bytes, &self.shared));
                }
            }
            LinkEvent::Told(Report::Dropped { lines }) => {
                for (id, lines) in lines {
                    self.pools.values().for_each(|pool| pool.note_dropped(id, lines, &self.shared));
                }
            }
            LinkEvent::Told(Report::Lines(page)) => self.answer(page),
            LinkEvent::Lost => self.lose(),
        }
    }

    fn world(&self) -> World<'_> {
        let (link, shared, folder) = (&self.link, &*self.shared, &*self.folder);
        World { link, shared, folder, json: self.settings.json, now: Instant::now() }
    }

    fn ended(&mut self, exit: &Exit) {
        let mut pools = std::mem::take(&mut self.pools);
        let world = self.world();
        let _ = pools.values_mut().any(|pool| pool.ended(exit, &world));
        self.pools = pools;
    }

    /// Compares what the spawner has with what is known: takes over, ends or mourns.
    fn greet(&mut self, hello: &Hello) {
        if hello.version != VERSION {
            tell!(
                self.shared.events,
                Spawn,
                error,
                spawner = hello.version,
                stickyd = VERSION,
                "the spawner has another version; restart its service (this ends its workers)"
            );
            self.link.close();
            self.retry_at = Some(Instant::now() + 20 * RETRY);
            return;
        }
        self.folder.clone_from(&hello.folder);
        self.spawner = Some(hello.pid);
        let living: HashSet<ProcessId> = hello.living.iter().map(|living| living.tag.id).collect();
        let known: HashSet<ProcessId> = self.pools.values().flat_map(Pool::lives).map(|life| life.id).collect();
        for gone in known.difference(&living) {
            self.ended(&Exit { id: *gone, code: None, signal: None, last: Vec::new() });
        }
        for one in hello.living.iter().filter(|living| !known.contains(&living.tag.id)) {
            let adopted = self.pools.get_mut(&one.tag.upstream).is_some_and(|pool| pool.adopt(one));
            if !adopted {
                tell!(self.shared.events, Spawn, warn,
                    upstream = %one.tag.upstream, worker = one.tag.slot, pid = one.pid,
                    "the spawner has a process that is not needed; it is ended");
                self.link.send(&Request::Stop { id: one.tag.id, after_ms: 5_000 });
            }
        }
        self.greeted = true;
    }

    /// Handles the end of the connection. If the spawner's process is dead, its workers are ended, because they have no
    /// parent that could stop them later.
    fn lose(&mut self) {
        self.link.close();
        self.greeted = false;
        self.questions.clear();
        let is_dead = !self.link.is_service() || self.spawner.is_some_and(is_dead);
        if !is_dead {
            tell!(self.shared.events, Spawn, error, "the connection to the spawner has ended; its workers serve on");
            return;
        }
        self.link.reap();
        let groups: Vec<_> = self.pools.values().flat_map(Pool::lives).filter_map(|life| life.group()).collect();
        tell!(
            self.shared.events,
            Spawn,
            error,
            workers = groups.len(),
            "the spawner has died: its workers are ended and started again"
        );
        groups.iter().for_each(|group| group.terminate());
        self.lost = Some((Instant::now(), groups));
    }

    /// Ends what a dead spawner has left.
    fn bury(&mut self, now: Instant) {
        let Some((since, groups)) = &self.lost else { return };
        let is_late = now.duration_since(*since) >= PATIENCE;
        if !is_late && groups.iter().any(|group| group.lives()) {
            return;
        }
        groups.iter().for_each(|group| group.kill());
        self.lost = None;
        let known: Vec<_> = self.pools.values().flat_map(Pool::lives).map(|life| life.id).collect();
        for id in known {
            self.ended(&Exit { id, code: None, signal: Some(15), last: vec!["the spawner has died".to_owned()] });
        }
    }

    fn obey(&mut self, order: SpawnOrder) {
        match order {
            SpawnOrder::Wish(target, wish, answer) => {
                // The operator may have gone away.
                let _ = answer.send(self.wish(&target, wish));
            }
            SpawnOrder::RestartAll => {
                for pool in self.pools.values_mut() {
                    let all = pool.numbers();
                    pool.renew(&all, Reason::Roll);
                }
            }
            SpawnOrder::Show(answer) => _ = answer.send(self.states()),
            SpawnOrder::Lines { from, target, answer } => self.ask(from, target, answer),
        }
    }

    fn wish(&mut self, target: &Target, wish: Wish) -> OrderOutcome {
        let name = target.upstream.as_deref().unwrap_or_default();
        let pool = self.pools.get_mut(name);
        let pool = pool.ok_or_else(|| format!("stickyd does not start the workers of an upstream `{name}`"))?;
        pool.wish(target.slot, wish)?;
        self.look();
        let pool = self.pools.get(name).ok_or("the upstream is no longer configured")?;
        Ok(pool.state(Instant::now()))
    }

    fn states(&self) -> Vec<PoolState> {
        let now = Instant::now();
        let mut states: Vec<_> = self.pools.values().map(|pool| pool.state(now)).collect();
        states.sort_by(|a, b| a.upstream.cmp(&b.upstream));
        states
    }

    fn ask(&mut self, from: u64, target: Target, answer: oneshot::Sender<LogPage>) {
        self.questions.retain(|_, answer| !answer.is_closed());
        if self.questions.len() >= QUESTIONS {
            return;
        }
        self.asked += 1;
        let worker = target.slot.map(|slot| slot.to_string());
        if self.link.send(&Request::Lines { ask: self.asked, from, upstream: target.upstream, worker }) {
            self.questions.insert(self.asked, answer);
        }
    }

    fn answer(&mut self, page: LinePage) {
        let LinePage { ask, lines, next } = page;
        if let Some(answer) = self.questions.remove(&ask) {
            let _ = answer.send(LogPage { lines, next });
        }
    }

    fn hear_while_stopping(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Told(Report::Lines(page)) => self.answer(page),
            LinkEvent::Lost => self.lose(),
            LinkEvent::Told(_) => {}
        }
    }

    fn obey_while_stopping(&mut self, order: SpawnOrder) {
        match order {
            SpawnOrder::Wish(_, _, answer) => _ = answer.send(Err("stickyd is stopping".to_owned())),
            SpawnOrder::RestartAll => {}
            SpawnOrder::Show(answer) => _ = answer.send(self.states()),
            SpawnOrder::Lines { from, target, answer } => self.ask(from, target, answer),
        }
    }

    /// Ends all workers, each within its `stop`, or at once when `now` is cancelled.
    async fn end(mut self, now: &CancellationToken) {
        if let Some((_, groups)) = self.lost.take() {
            tokio::time::sleep(PATIENCE).await;
            groups.iter().for_each(|group| group.kill());
        }
        if self.link.is_service() || !self.link.is_up() {
            return;
        }
        self.link.send(&Request::End { now: now.is_cancelled() });
        let longest = self.pools.values().map(|pool| pool.spawn.stop).max().unwrap_or_default();
        let deadline = tokio::time::sleep(longest + 4 * PATIENCE);
        tokio::pin!(deadline);
        let mut told = now.is_cancelled();
        loop {
            tokio::select! {
                event = self.link.next() => if let LinkEvent::Lost = event { break },
                () = now.cancelled(), if !told => {
                    told = true;
                    self.link.send(&Request::End { now: true });
                    deadline.as_mut().reset(tokio::time::Instant::now() + 4 * PATIENCE);
                }
                () = &mut deadline => break,
            }
        }
        // A spawner that has ended its workers ends; one that hangs has left them to us.
        let groups: Vec<_> = self.pools.values().flat_map(Pool::lives).filter_map(|life| life.group()).collect();
        groups.iter().for_each(|group| group.kill());
        self.link.reap();
    }
}

/// Whether there is no process with this id.
fn is_dead(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}
