//! Targets that the filter has percent-encoded for h2, as the client wrote them, until h2 accepts their streams.
//!
//! Bounded: past [`MOST_BYTES`] the oldest are forgotten, and the worker then gets the percent-encoded form, which
//! names the same resource.

use std::cell::RefCell;
use std::collections::VecDeque;

use crate::net::written_target::WrittenTarget;

/// Maximum number of bytes that are kept per connection.
const MOST_BYTES: usize = 32 * 1024;

/// The targets of one connection, in the order of their streams.
#[derive(Debug, Default)]
pub(crate) struct WrittenTargets(RefCell<Targets>);

#[derive(Debug, Default)]
struct Targets {
    all: VecDeque<(u32, WrittenTarget)>,
    bytes: usize,
}

impl WrittenTargets {
    /// Keeps the target of a stream.
    pub(super) fn keep(&self, stream: u32, target: WrittenTarget) {
        let mut targets = self.0.borrow_mut();
        targets.bytes += target.as_bytes().len();
        targets.all.push_back((stream, target));
        while targets.bytes > MOST_BYTES && targets.drop_first().is_some() {}
    }

    /// Takes the target of a stream that h2 has accepted.
    pub(super) fn take(&self, stream: impl Fn() -> u32) -> Option<WrittenTarget> {
        let mut targets = self.0.borrow_mut();
        // Nearly always there is none.
        let stream = targets.all.front().map(|_| stream())?;
        // What h2 refused is older than what it accepts.
        while targets.all.front().is_some_and(|(one, _)| *one < stream) {
            targets.drop_first();
        }
        targets.all.front().filter(|(one, _)| *one == stream)?;
        targets.drop_first().map(|(_, target)| target)
    }
}

impl Targets {
    fn drop_first(&mut self) -> Option<(u32, WrittenTarget)> {
        let first = self.all.pop_front()?;
        self.bytes -= first.1.as_bytes().len();
        Some(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::written_target::encode_target;

    fn target(length: usize) -> WrittenTarget {
        encode_target(format!("/{}\"", "x".repeat(length - 2)).as_bytes()).unwrap().written.unwrap()
    }

    #[test]
    fn a_target_is_taken_once_by_its_stream() {
        let targets = WrittenTargets::default();
        for stream in [1, 3, 7] {
            targets.keep(stream, target(stream as usize + 10));
        }
        assert_eq!(targets.take(|| 3), Some(target(13)));
        assert_eq!((targets.take(|| 3), targets.take(|| 5)), (None, None));
        assert_eq!((targets.take(|| 7), targets.0.borrow().bytes), (Some(target(17)), 0));
    }

    #[test]
    fn the_oldest_targets_are_forgotten() {
        let targets = WrittenTargets::default();
        (0..100).for_each(|number| targets.keep(2 * number + 1, target(1_024)));
        assert_eq!((targets.0.borrow().bytes, targets.0.borrow().all.len()), (MOST_BYTES, 32));
        assert!(targets.take(|| 199).is_some() && targets.0.borrow().all.is_empty());
        targets.keep(201, target(MOST_BYTES + 1));
        assert!(targets.take(|| 201).is_none());
    }
}
