//! Sessions that a worker has through the other stickyds of a fleet, as they show them every 5 s: new sessions are
//! placed by the sum.
//!
//! Between two views each stickyd assumes that the others do as it does itself: their counts have changed by as much as
//! its own. Otherwise all of them would fill the same emptiest worker until the next view. Without a fresh view only
//! the own count is known. Pure; left out: where the numbers come from (`server::fleet`).

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What the other stickyds show of one worker. The numbers are read one by one: a placement in between errs by a view.
#[derive(Debug, Default)]
pub(crate) struct Elsewhere {
    /// Sessions through other stickyds.
    sessions: AtomicU32,
    /// Number of stickyds that these go through.
    stickyds: AtomicU32,
    /// Own sessions at the time of the view.
    own_then: AtomicU32,
}

impl Elsewhere {
    /// Sets what `stickyds` others show, while this stickyd has `own` sessions there. Returns whether that changes the
    /// load.
    pub(crate) fn set(&self, sessions: u64, stickyds: u32, own: u32) -> bool {
        let before = self.load(own);
        self.sessions.store(u32::try_from(sessions).unwrap_or(u32::MAX), Relaxed);
        self.own_then.store(own, Relaxed);
        self.stickyds.store(stickyds, Relaxed);
        self.load(own) != before
    }

    /// Sessions through all stickyds, if this one has `own` now.
    pub(crate) fn load(&self, own: u32) -> u32 {
        let stickyds = self.stickyds.load(Relaxed);
        if stickyds == 0 {
            return own;
        }
        let grown = i64::from(own) - i64::from(self.own_then.load(Relaxed));
        let others = i64::from(self.sessions.load(Relaxed)).saturating_add(grown.saturating_mul(i64::from(stickyds)));
        u32::try_from(others.max(0).saturating_add(i64::from(own))).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_others_are_assumed_to_grow_alike_until_the_next_view() {
        let elsewhere = Elsewhere::default();
        assert_eq!(elsewhere.load(7), 7, "nothing is known");
        assert!(elsewhere.set(20, 2, 10));
        assert_eq!([10, 13, 8, 0].map(|own| elsewhere.load(own)), [30, 39, 24, 0]);
        assert!(!elsewhere.set(26, 2, 13), "as it was assumed");
        assert!(elsewhere.set(0, 0, 13), "the view is gone");
        assert_eq!(elsewhere.load(13), 13);
        let _ = elsewhere.set(u64::MAX, u32::MAX, 0);
        assert_eq!(elsewhere.load(u32::MAX), u32::MAX);
    }
}
