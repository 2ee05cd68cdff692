//! The manager and its spawner: the connection, what the spawner reports, and the end of a spawner.
//!
//! A spawner that is greeted again says which workers live; what differs is put right. Workers of a dead spawner are
//! ended, because they have no parent that could stop them later.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

use super::Manager;
use crate::events::tell;
use crate::spawn::link::LinkEvent;
use crate::spawn::pool::Pool;
use crate::spawn::protocol::{Exit, Hello, ProcessId, Request, SpawnerReport, VERSION};
use crate::spawn::spawner::PATIENCE;

/// Interval between two tries to reach a spawner.
const RETRY: Duration = Duration::from_millis(500);

impl Manager {
    pub(super) fn connect(&mut self, now: Instant) {
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

    pub(super) fn hear(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Told(SpawnerReport::Hello(hello)) => self.greet(&hello),
            LinkEvent::Told(SpawnerReport::Started { id, pid }) => {
                self.pools.values_mut().for_each(|pool| pool.started(id, pid));
            }
            LinkEvent::Told(SpawnerReport::NotStarted { id, why }) => {
                self.ended(&Exit { id, code: None, signal: None, last: vec![why] });
            }
            LinkEvent::Told(SpawnerReport::Exited(exit)) => self.ended(&exit),
            LinkEvent::Told(SpawnerReport::Memory { bytes }) => {
                for (id, bytes) in bytes {
                    self.pools.values_mut().for_each(|pool| pool.note_memory(id, bytes, &self.shared));
                }
            }
            LinkEvent::Told(SpawnerReport::Dropped { lines }) => {
                for (id, lines) in lines {
                    self.pools.values().for_each(|pool| pool.note_dropped(id, lines, &self.shared));
                }
            }
            LinkEvent::Told(SpawnerReport::Lines(page)) => self.answer(page),
            LinkEvent::Lost => self.lose(),
        }
    }

    pub(super) fn ended(&mut self, exit: &Exit) {
        let mut pools = std::mem::take(&mut self.pools);
        let world = self.world();
        let _ = pools.values_mut().any(|pool| pool.ended(exit, &world));
        self.pools = pools;
    }

    /// Compares what the spawner has with what is known: takes over, ends or mourns.
    pub(super) fn greet(&mut self, hello: &Hello) {
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
    pub(super) fn lose(&mut self) {
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
    pub(super) fn bury(&mut self, now: Instant) {
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
}

/// Whether there is no process with this id.
fn is_dead(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}
