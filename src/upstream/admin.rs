//! The admin axis of a worker (design.md §7): what the file says of it, what an operator has said since, whether the file
//! still names it, and what follows from that for its sessions.
//!
//! What an operator says at run time outlives reloads, until the file itself says something new of this worker. A worker
//! the file no longer names is *removed*: it drains, whatever was said, and goes with its last session. A drain under way
//! keeps its clock over reloads; a changed grace is for drains that begin later. Left out: ending sessions (`crate::drain`),
//! and health.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use arc_swap::ArcSwapOption;

use super::ending::Ending;
use crate::clock;
use crate::config::{self, AdminState, Removed};

/// Nothing was said at run time.
const NOTHING: u8 = u8::MAX;

/// What the operator says of one worker, in the file and since.
pub struct Admin {
    file: AtomicU8,
    said: AtomicU8,
    removed: AtomicBool,
    /// `ending` has a time by which all is over: requests look here first.
    ends: AtomicBool,
    ending: ArcSwapOption<Ending>,
}

/// What is said of a worker.
#[derive(Debug, Clone, Copy)]
pub enum Change {
    /// The file names it, and says this. A new word of the file's ends what was said at run time.
    File(AdminState),
    /// An operator says this, now; with a grace of his own for a drain.
    Say(AdminState, Option<Duration>),
    /// The file does not name it any more.
    Remove,
}

impl Admin {
    /// Ready, as far as anybody has said.
    pub fn new() -> Self {
        Self {
            file: AtomicU8::new(0),
            said: AtomicU8::new(NOTHING),
            removed: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            ending: ArcSwapOption::empty(),
        }
    }

    /// Takes note of `change`, and of what follows from it for the `sessions` the worker has. Only on the control thread.
    pub fn change(&self, change: Change, config: &config::Upstream, sessions: u32, now_ms: u64) {
        let before = (self.state(), self.is_removed());
        match change {
            Change::File(state) => self.set_file(state),
            Change::Say(state, _) => self.said.store(number(state), Relaxed),
            Change::Remove => self.removed.store(true, Relaxed),
        }
        let grace = if let Change::Say(_, grace) = change { grace } else { None };
        let after = (self.state(), self.is_removed());
        if before == after && grace.is_none() {
            return;
        }
        let until = |grace: Duration| now_ms.saturating_add(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
        let policy = match after {
            (AdminState::Ready, _) => return self.set_ending(None),
            (AdminState::Maint, _) => Some(Duration::ZERO),
            (AdminState::Drain, _) if grace.is_some() => grace,
            (AdminState::Drain, true) if config.removed == Removed::Keep => None,
            (AdminState::Drain, true) if config.removed == Removed::Close => Some(Duration::ZERO),
            (AdminState::Drain, _) => config.drain.grace,
        };
        let (until, farewell) = (policy.map(until), config.drain.farewell.clone());
        let known = self.ending().filter(|_| grace.is_none() && before.0 == AdminState::Drain);
        let ending = match known {
            // Its clock runs on; what is new can only make it shorter.
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

    /// Whether its sessions are being ended, or have been: [`Admin::ending`] has a time.
    pub fn ends(&self) -> bool {
        self.ends.load(Relaxed)
    }

    /// What an operator's word means for its sessions; `None` while it is ready.
    pub fn ending(&self) -> Option<Arc<Ending>> {
        self.ending.load_full()
    }

    /// Its sessions' time is up.
    pub fn is_over(&self) -> bool {
        self.ends() && self.ending.load().as_ref().is_some_and(|ending| ending.is_over(clock::now_ms()))
    }

    /// What holds now.
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

    /// The word for it in metrics and logs.
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

    /// Whether what holds was said at run time and not by the file.
    pub fn is_said(&self) -> bool {
        self.said.load(Relaxed) != NOTHING
    }

    /// Whether the file has ceased to name it.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Relaxed)
    }
}

impl Default for Admin {
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
    use AdminState::{Drain, Maint, Ready};
    use Change::{File, Remove, Say};

    use super::*;

    fn upstream(grace_s: Option<u64>, removed: Removed) -> config::Upstream {
        let mut upstream = config::Upstream::new("app".to_owned(), Vec::new(), config::Found::new());
        upstream.drain.grace = grace_s.map(Duration::from_secs);
        upstream.removed = removed;
        upstream
    }

    /// When the ending began and is over, after each of these changes, a second apart.
    fn after(config: &config::Upstream, changes: &[Change]) -> (Admin, Option<(u64, Option<u64>)>) {
        let admin = Admin::new();
        for (change, now) in changes.iter().zip((0..).step_by(1_000)) {
            admin.change(*change, config, 7, now);
        }
        let times = admin.ending().map(|ending| (ending.since_ms, ending.until_ms));
        (admin, times)
    }

    #[test]
    fn what_was_said_outlives_a_reload_that_says_nothing_new() {
        let config = upstream(None, Removed::Keep);
        let (admin, _) = after(&config, &[File(Ready), Say(Drain, None), File(Ready)]);
        assert_eq!((admin.state(), admin.is_said()), (Drain, true));
        admin.change(File(Maint), &config, 0, 9);
        assert_eq!((admin.state(), admin.is_said()), (Maint, false));
    }

    #[test]
    fn a_removed_worker_drains_until_it_is_named_again() {
        let config = upstream(None, Removed::Keep);
        let (admin, _) = after(&config, &[Say(Ready, None), Remove]);
        assert_eq!((admin.state(), admin.word()), (Drain, "removed"));
        admin.change(Say(Maint, None), &config, 0, 9);
        assert_eq!((admin.state(), admin.word()), (Maint, "maint"));
        admin.change(Say(Ready, None), &config, 0, 9);
        admin.change(File(Ready), &config, 0, 9);
        assert_eq!((admin.state(), admin.word()), (Ready, "ready"));
        assert!(admin.ending().is_none() && !admin.ends());
    }

    #[test]
    fn an_ending_has_the_grace_of_who_said_it() {
        let (config, none) = (upstream(Some(60), Removed::Keep), upstream(None, Removed::Keep));
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
    fn a_removed_worker_ends_by_policy_and_never_later_than_it_would_have() {
        for (policy, changes, times) in [
            (Removed::Keep, &[File(Ready), Remove][..], Some((1_000, None))),
            (Removed::Drain, &[File(Ready), Remove], Some((1_000, Some(61_000)))),
            (Removed::Close, &[File(Ready), Remove], Some((1_000, Some(1_000)))),
            (Removed::Keep, &[File(Drain), Remove], Some((0, Some(60_000)))),
            (Removed::Drain, &[File(Drain), Remove], Some((0, Some(60_000)))),
            (Removed::Close, &[File(Drain), Remove], Some((0, Some(1_000)))),
            (Removed::Close, &[File(Drain), Remove, File(Ready)], None),
        ] {
            assert_eq!(after(&upstream(Some(60), policy), changes).1, times, "{policy:?} {changes:?}");
        }
    }
}
