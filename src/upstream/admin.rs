//! The admin axis of a worker (design.md §7): what the file says of it, what an operator has said since, and whether the
//! file still names it.
//!
//! What an operator says at run time outlives reloads, until the file itself says something new of this worker. A worker
//! the file no longer names is *removed*: it drains, whatever was said, and goes with its last session. Left out: when the
//! sessions of a drain are ended (`crate::drain`), and health.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use crate::config::AdminState;

/// Nothing was said at run time.
const NOTHING: u8 = u8::MAX;

/// What the operator says of one worker, in the file and since.
pub struct Admin {
    file: AtomicU8,
    said: AtomicU8,
    removed: AtomicBool,
}

impl Admin {
    /// Ready, as far as anybody has said.
    pub fn new() -> Self {
        Self { file: AtomicU8::new(0), said: AtomicU8::new(NOTHING), removed: AtomicBool::new(false) }
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

    /// The file names it, and says this. A new word of the file's ends what was said at run time.
    pub fn set_file(&self, state: AdminState) {
        self.removed.store(false, Relaxed);
        if self.file.swap(number(state), Relaxed) != number(state) {
            self.said.store(NOTHING, Relaxed);
        }
    }

    /// An operator says this, now.
    pub fn say(&self, state: AdminState) {
        self.said.store(number(state), Relaxed);
    }

    /// Whether what holds was said at run time and not by the file.
    pub fn is_said(&self) -> bool {
        self.said.load(Relaxed) != NOTHING
    }

    /// The file does not name it any more.
    pub fn remove(&self) {
        self.removed.store(true, Relaxed);
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

    use super::*;

    #[test]
    fn what_was_said_outlives_a_reload_that_says_nothing_new() {
        let admin = Admin::new();
        admin.set_file(Ready);
        admin.say(Drain);
        admin.set_file(Ready);
        assert_eq!((admin.state(), admin.is_said()), (Drain, true));
        admin.set_file(Maint);
        assert_eq!((admin.state(), admin.is_said()), (Maint, false));
    }

    #[test]
    fn a_removed_worker_drains_until_it_is_named_again() {
        let admin = Admin::new();
        admin.say(Ready);
        admin.remove();
        assert_eq!((admin.state(), admin.word()), (Drain, "removed"));
        admin.say(Maint);
        assert_eq!((admin.state(), admin.word()), (Maint, "maint"));
        admin.say(Ready);
        admin.set_file(Ready);
        assert_eq!((admin.state(), admin.word()), (Ready, "ready"));
    }
}
