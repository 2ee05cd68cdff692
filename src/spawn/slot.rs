//! One place for a worker, and the processes in it: the present one, its successor, and those that still serve their
//! sessions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::SlotState;
use super::backoff::Backoff;
use super::protocol::ProcessId;
use super::spawner::ProcessGroup;
use crate::clock::{self, Millis};
use crate::config::{self, Address, AdminState};
use crate::upstream::status_text;
use crate::upstream::worker::{Worker, WorkerHealth};

/// Number of looks in a row at which a worker's memory is over its limit, before the worker is replaced.
pub(super) const OVER_LOOKS: u8 = 3;

/// How far a process has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LifeStage {
    /// Its health checks have not passed yet.
    Starting,
    /// It takes new sessions.
    Ready,
    /// It serves its sessions until `until`; `None`: until they end on their own.
    Leaving { since: Instant, until: Option<Instant> },
    /// It was told to end.
    Stopping,
}

/// Why workers are replaced; a label of `stickyd_worker_restarts_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Exit,
    Signal,
    Memory,
    Roll,
}

impl Reason {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Memory => "memory",
            Self::Roll => "roll",
        }
    }
}

/// One process of a worker.
pub(super) struct WorkerLife {
    pub(super) id: ProcessId,
    pub(super) address: Address,
    pub(super) pid: Option<u32>,
    pub(super) started: Instant,
    pub(super) started_ms: Millis,
    pub(super) stage: LifeStage,
    /// What routes requests to it, once the snapshot names it.
    pub(super) worker: Option<Arc<Worker>>,
    pub(super) memory: u64,
    pub(super) over_memory: u8,
    /// Whether the log has said that it takes long to become healthy.
    pub(super) is_told_slow: bool,
}

impl WorkerLife {
    pub(super) fn new(id: ProcessId, address: Address) -> Self {
        Self {
            id,
            address,
            pid: None,
            started: Instant::now(),
            started_ms: clock::now_ms(),
            stage: LifeStage::Starting,
            worker: None,
            memory: 0,
            over_memory: 0,
            is_told_slow: false,
        }
    }

    /// Whether checks of this very process have passed, `rise` in a row.
    pub(super) fn passes(&self) -> bool {
        let Some(worker) = &self.worker else { return false };
        let passed = worker.notes.check().is_some_and(|check| {
            check.outcome == "passed" && check.rows.passed >= check.rise && check.at_ms >= self.started_ms
        });
        self.pid.is_some() && passed && worker.health() == WorkerHealth::Up
    }

    pub(super) fn group(&self) -> Option<ProcessGroup> {
        self.pid.and_then(ProcessGroup::of)
    }

    /// Lets the process leave until then.
    pub(super) fn leaving(self, until: Option<Instant>) -> Self {
        Self { stage: LifeStage::Leaving { since: Instant::now(), until }, ..self }
    }

    /// Whether a session, tunnel or request is left.
    pub(super) fn is_needed(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.is_needed())
    }

    /// Why the process is not healthy.
    pub(super) fn why_unhealthy(&self) -> String {
        let why = self.worker.as_ref().map(|worker| status_text::health(worker));
        let why = why.unwrap_or_else(|| "it was not checked yet".to_owned());
        let Address::Tcp(wanted) = &self.address else { return format!("{}: {why}", self.address) };
        let elsewhere = self.pid.map(super::listening::of_group).unwrap_or_default();
        if elsewhere.is_empty() || elsewhere.iter().any(|at| at.port() == wanted.port()) {
            return format!("{wanted}: {why}");
        }
        let ports: Vec<_> = elsewhere.iter().map(|at| at.port().to_string()).collect();
        let (ports, first) = (ports.join(", "), ports.first().cloned().unwrap_or_default());
        format!(
            "it listens on port {ports} instead of {}, which it was given in PORT; let it listen on PORT, or write \
             port = {first} in `spawn`",
            wanted.port()
        )
    }
}

/// That the worker is to be replaced by one that starts later than `since`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Renewal {
    pub(super) since: Instant,
    pub(super) reason: Reason,
    /// Number of successors that ended before they were healthy.
    pub(super) failures: u8,
}

/// One place for a worker.
pub(super) struct Slot {
    pub(super) number: u32,
    pub(super) current: Option<WorkerLife>,
    pub(super) successor: Option<WorkerLife>,
    pub(super) leaving: Vec<WorkerLife>,
    /// Address at which the snapshot names the worker; kept while its process is dead.
    pub(super) named: Option<Address>,
    pub(super) backoff: Backoff,
    pub(super) next_start: Option<Instant>,
    /// Whether an operator has stopped it.
    pub(super) is_off: bool,
    pub(super) renewal: Option<Renewal>,
    pub(super) restarts: u64,
    /// Why it could not be started, or how it ended.
    pub(super) why: Option<String>,
    pub(super) last_lines: Vec<String>,
}

impl Slot {
    /// A place whose worker is to be started now.
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            current: None,
            successor: None,
            leaving: Vec::new(),
            named: None,
            backoff: Backoff::default(),
            next_start: None,
            is_off: false,
            renewal: None,
            restarts: 0,
            why: None,
            last_lines: Vec::new(),
        }
    }

    pub(super) fn lives(&self) -> impl Iterator<Item = &WorkerLife> {
        self.current.iter().chain(&self.successor).chain(&self.leaving)
    }

    pub(super) fn lives_mut(&mut self) -> impl Iterator<Item = &mut WorkerLife> {
        self.current.iter_mut().chain(&mut self.successor).chain(&mut self.leaving)
    }

    /// Whether the present process is older than the renewal asks for.
    pub(super) fn is_outdated(&self) -> bool {
        let since = self.renewal.map(|renewal| renewal.since);
        self.current.as_ref().zip(since).is_some_and(|(life, since)| life.started < since)
    }

    /// What the snapshot is to name: the worker, and its successor without a share.
    pub(super) fn workers(&self) -> Vec<config::Worker> {
        let worker = |address: &Address, weight| config::Worker {
            address: address.clone(),
            // An application that listens on `localhost` may listen on ::1 only.
            or_ipv6: matches!(address, Address::Tcp(at) if at.ip() == std::net::Ipv4Addr::LOCALHOST),
            host: None,
            of_range: false,
            name: self.number.to_string(),
            weight,
            admin: AdminState::Ready,
        };
        let mut all = Vec::new();
        match (&self.current, &self.named) {
            (Some(life), named) => {
                let known = life.stage == LifeStage::Ready || named.as_ref() == Some(&life.address);
                all.push(worker(&life.address, u32::from(known)));
            }
            (None, Some(named)) => all.push(worker(named, 1)),
            (None, None) => {}
        }
        all.extend(self.successor.iter().map(|life| worker(&life.address, 0)));
        all
    }

    pub(super) fn state(&self, now: Instant) -> SlotState {
        let life = self.current.as_ref().or_else(|| self.leaving.first());
        let starts_in = self.next_start.filter(|_| self.current.is_none()).map(|at| at.saturating_duration_since(now));
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let state = match (&self.current, &self.successor) {
            (Some(_), Some(_)) => "replacing",
            (Some(WorkerLife { stage: LifeStage::Ready, .. }), None) => "ready",
            (Some(_), None) if self.backoff.is_crash_loop() => "crash loop",
            (Some(_), None) => "starting",
            (None, _) if !self.leaving.is_empty() => "stopping",
            (None, _) if self.is_off => "stopped",
            (None, _) if self.backoff.is_crash_loop() => "crash loop",
            (None, _) => "waiting",
        };
        let is_ready = state == "ready";
        let unhealthy = || life.filter(|life| life.stage == LifeStage::Starting).map(WorkerLife::why_unhealthy);
        SlotState {
            worker: self.number,
            state,
            address: life.map(|life| life.address.to_string()),
            pid: life.and_then(|life| life.pid),
            memory_bytes: life.map_or(0, |life| life.memory),
            up_s: life.map(|life| now.duration_since(life.started).as_secs()),
            restarts: self.restarts,
            starts_in_ms: starts_in.map(ms),
            leaving: self.leaving.iter().filter_map(|life| life.pid).collect(),
            why: if is_ready { None } else { self.why.clone().or_else(unhealthy) },
            last_lines: if is_ready { Vec::new() } else { self.last_lines.clone() },
        }
    }
}
