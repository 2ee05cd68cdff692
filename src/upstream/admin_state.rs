//! The admin state of a worker (docs/reference/routing.md §8): the state in the file, the state that an operator set at
//! run time, whether the file still names the worker, and what follows for its sessions.
//!
//! A state set at run time outlives reloads until the file itself changes the state of this worker. A worker that the
//! file no longer names is *removed*: it drains even if it was set to ready, and is dropped after its last session. A
//! drain in progress keeps its deadline over reloads; a changed grace applies only to drains that begin later. Ending
//! sessions (`crate::drain`) and health are not part of this module.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::session_ends::Ending;
use crate::clock::{self, Millis};
use crate::config::{self, AdminState, RemovedPolicy};

/// Value of `said` while no state is set at run time.
const NOTHING: u8 = u8::MAX;

/// The admin state of one worker: as configured in the file, and as set at run time.
pub struct AdminControl {
    file: AtomicU8,
    said: AtomicU8,
    removed: AtomicBool,
    /// Whether `ending` has a deadline. Requests check this flag before they load `ending`.
    ends: AtomicBool,
    ending: ArcSwapOption<Ending>,
}

/// A change to the admin state of a worker.
#[derive(Debug, Clone, Copy)]
pub enum AdminChange {
    /// The file names the worker with this state. A state that differs from the file's previous one clears the state
    /// set at run time.
    File(AdminState),
    /// An operator sets this state now, optionally with a grace for this drain.
    Say(AdminState, Option<Duration>),
    /// The file no longer names the worker.
    Remove,
}

impl AdminControl {
    /// Creates the admin state of a new worker: ready, with nothing set at run time.
    pub fn new() -> Self {
        Self {
            file: AtomicU8::new(0),
            said: AtomicU8::new(NOTHING),
            removed: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            ending: ArcSwapOption::empty(),
        }
    }

    /// Applies `change` and sets when the worker's `sessions` are to end. Must be called on the control thread only.
    pub fn change(&self, change: AdminChange, config: &config::Upstream, sessions: u32, now_ms: Millis) {
        let before = (self.state(), self.is_removed());
        match change {
            AdminChange::File(state) => self.set_file(state),
            AdminChange::Say(state, _) => self.said.store(number(state), Relaxed),
            AdminChange::Remove => self.removed.store(true, Relaxed),
        }
        let grace = if let AdminChange::Say(_, grace) = change { grace } else { None };
        let after = (self.state(), self.is_removed());
        if before == after && grace.is_none() {
            return;
        }
        let until = |grace: Duration| now_ms.saturating_add(grace);
        let policy = match after {
            (AdminState::Ready, _) => return self.set_ending(None),
            (AdminState::Maint, _) => Some(Duration::ZERO),
            (AdminState::Drain, _) if grace.is_some() => grace,
            (AdminState::Drain, true) if config.removed == RemovedPolicy::Keep => None,
            (AdminState::Drain, true) if config.removed == RemovedPolicy::Close => Some(Duration::ZERO),
            (AdminState::Drain, _) => config.drain.grace,
        };
        let (until, farewell) = (policy.map(until), config.drain.farewell.clone());
        let known = self.ending().filter(|_| grace.is_none() && before.0 == AdminState::Drain);
        let ending = match known {
            // The drain in progress keeps its start; the new deadline applies only if it is earlier.
            Some(known) => match (known.until_ms, until) {
                (Some(old), new) if new.is_none_or(|new| new >= old) => return,
                _ => known.bounded(until, farewell),
            },
            None => Ending::new(now_ms, until, sessions, farewell),
        };
        self.set_ending(Some(ending));
    }

    fn set_ending(&self, ending: Option<Ending>) {
        let ends = ending.as_ref().is_some_and(|ending| ending.until_ms.is_some());
        self.ending.store(ending.map(Arc::new));
        self.ends.store(ends, Relaxed);
    }

    /// Whether the sessions are being ended or have been ended, that is, whether [`AdminControl::ending`] has a
    /// deadline.
    pub fn ends(&self) -> bool {
        self.ends.load(Relaxed)
    }

    /// Returns when and how the worker's sessions end; `None` while the worker is ready.
    pub fn ending(&self) -> Option<Arc<Ending>> {
        self.ending.load_full()
    }

    /// Whether the deadline for the worker's sessions has passed.
    pub fn is_over(&self) -> bool {
        self.ends() && self.ending.load().as_ref().is_some_and(|ending| ending.is_over(clock::now_ms()))
    }

    /// Returns the admin state that is in effect now.
    pub fn state(&self) -> AdminState {
        let state = match self.said.load(Relaxed) {
            NOTHING => self.file.load(Relaxed),
            said => said,
        };
        match state {
            0 if self.removed.load(Relaxed) => AdminState::Drain,
            0 => AdminState::Ready,
            1 => AdminState::Drain,
            _ => AdminState::Maint,
        }
    }

    /// Returns the name of the state in metrics and logs.
    pub fn word(&self) -> &'static str {
        match self.state() {
            AdminState::Drain if self.is_removed() => "removed",
            state => state.word(),
        }
    }

    fn set_file(&self, state: AdminState) {
        self.removed.store(false, Relaxed);
        if self.file.swap(number(state), Relaxed) != number(state) {
            self.said.store(NOTHING, Relaxed);
        }
    }

    /// Whether the state was set at run time instead of in the file.
    pub fn is_said(&self) -> bool {
        self.said.load(Relaxed) != NOTHING
    }

    /// Returns the name of the state in the file.
    pub fn file_word(&self) -> &'static str {
        match self.file.load(Relaxed) {
            0 => AdminState::Ready.word(),
            1 => AdminState::Drain.word(),
            _ => AdminState::Maint.word(),
        }
    }

    /// Whether the file no longer names the worker.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }
}

impl Default for AdminControl {
    fn default() -> Self {
        Self::new()
    }
}

fn number(state: AdminState) -> u8 {
    match state {
        AdminState::Ready => 0,
        AdminState::Drain => 1,
        AdminState::Maint => 2,
    }
}

#[cfg(test)]
mod tests {
    use AdminChange::{File, Remove, Say};
    use AdminState::{Drain, Maint, Ready};

    use super::*;

    fn upstream(grace_s: Option<u64>, removed: RemovedPolicy) -> config::Upstream {
        let mut upstream = config::Upstream::new("app".to_owned(), Vec::new(), config::ResolvedNames::new());
        upstream.drain.grace = grace_s.map(Duration::from_secs);
        upstream.removed = removed;
        upstream
    }

    /// Applies the changes one second apart; returns the admin state and when its ending began and is over.
    fn after(config: &config::Upstream, changes: &[AdminChange]) -> (AdminControl, Option<(u64, Option<u64>)>) {
        let admin = AdminControl::new();
        for (change, now) in changes.iter().zip((0..).step_by(1_000)) {
            admin.change(*change, config, 7, Millis::new(now));
        }
        let times = admin.ending().map(|ending| (ending.since_ms.get(), ending.until_ms.map(Millis::get)));
        (admin, times)
    }

    #[test]
    fn a_run_time_state_lasts_until_the_file_changes() {
        let config = upstream(None, RemovedPolicy::Keep);
        let (admin, _) = after(&config, &[File(Ready), Say(Drain, None), File(Ready)]);
        assert_eq!((admin.state(), admin.is_said()), (Drain, true));
        admin.change(File(Maint), &config, 0, Millis::new(9));
        assert_eq!((admin.state(), admin.is_said()), (Maint, false));
    }

    #[test]
    fn a_removed_worker_drains_until_it_is_named_again() {
        let config = upstream(None, RemovedPolicy::Keep);
        let (admin, _) = after(&config, &[Say(Ready, None), Remove]);
        assert_eq!((admin.state(), admin.word()), (Drain, "removed"));
        admin.change(Say(Maint, None), &config, 0, Millis::new(9));
        assert_eq!((admin.state(), admin.word()), (Maint, "maint"));
        admin.change(Say(Ready, None), &config, 0, Millis::new(9));
        admin.change(File(Ready), &config, 0, Millis::new(9));
        assert_eq!((admin.state(), admin.word()), (Ready, "ready"));
        assert!(admin.ending().is_none() && !admin.ends());
    }

    #[test]
    fn a_drain_uses_the_operators_grace_or_the_configured_one() {
        let (config, none) = (upstream(Some(60), RemovedPolicy::Keep), upstream(None, RemovedPolicy::Keep));
        let ten = Some(Duration::from_secs(10));
        for (config, changes, times) in [
            (&config, &[File(Drain)][..], Some((0, Some(60_000)))),
            (&none, &[File(Drain)], Some((0, None))),
            (&config, &[File(Ready), Say(Drain, ten)], Some((1_000, Some(11_000)))),
            (&none, &[File(Drain), Say(Drain, ten)], Some((1_000, Some(11_000)))),
            (&config, &[File(Drain), Say(Drain, None), File(Drain)], Some((0, Some(60_000)))),
            (&config, &[File(Drain), File(Maint)], Some((0, Some(1_000)))),
            (&config, &[File(Drain), Say(Ready, None)], None),
            (&config, &[File(Maint), Say(Ready, None), Say(Drain, None)], Some((2_000, Some(62_000)))),
        ] {
            assert_eq!(after(config, changes).1, times, "{changes:?}");
        }
    }

    #[test]
    fn removal_follows_the_policy_and_never_delays_an_ending() {
        for (policy, changes, times) in [
            (RemovedPolicy::Keep, &[File(Ready), Remove][..], Some((1_000, None))),
            (RemovedPolicy::Drain, &[File(Ready), Remove], Some((1_000, Some(61_000)))),
            (RemovedPolicy::Close, &[File(Ready), Remove], Some((1_000, Some(1_000)))),
            (RemovedPolicy::Keep, &[File(Drain), Remove], Some((0, Some(60_000)))),
            (RemovedPolicy::Drain, &[File(Drain), Remove], Some((0, Some(60_000)))),
            (RemovedPolicy::Close, &[File(Drain), Remove], Some((0, Some(1_000)))),
            (RemovedPolicy::Close, &[File(Drain), Remove, File(Ready)], None),
        ] {
            assert_eq!(after(&upstream(Some(60), policy), changes).1, times, "{policy:?} {changes:?}");
        }
    }
}
