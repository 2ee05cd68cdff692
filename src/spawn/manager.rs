//! The manager: one task on the control thread that connects the pools with the spawner, the snapshot and operators.

mod spawner_link;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::link::{LinkEvent, SpawnerLink};
use super::pool::{Pool, World};
use super::protocol::{LinePage, Request, SpawnerReport};
use super::slot::Reason;
use super::spawner::{PATIENCE, ProcessGroup};
use super::{LogPage, OrderOutcome, PoolState, SpawnOrder, SpawnSettings, Target, Wish};
use crate::config;
use crate::control::Control;
use crate::state::Shared;

/// Interval between two looks at the workers.
const LOOK: Duration = Duration::from_millis(50);

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
    let link = SpawnerLink::new(settings.spawner.clone(), tasks);
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
    link: SpawnerLink,
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

    fn world(&self) -> World<'_> {
        let (link, shared, folder) = (&self.link, &*self.shared, &*self.folder);
        World { link, shared, folder, json: self.settings.json, now: Instant::now() }
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
            LinkEvent::Told(SpawnerReport::Lines(page)) => self.answer(page),
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
