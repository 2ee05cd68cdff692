//! Messages of stickyd that wait for a socket's tunnel: in order, and bounded.
//!
//! The queue is made with the first message and goes with the last, so that sockets without messages pay nothing for
//! it. A message that finds no room is refused, and those before it keep their place. Left out: when the tunnel takes
//! them (`tunnel::relay`).

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use super::socket::{POSTED, Socket};
use crate::broadcast::{Fate, Posted};

/// Messages that may wait for one tunnel: more than can be under way at once.
const MOST_POSTS: usize = 128;
/// Bytes of these messages, which other sockets may share. A message on its own may be larger.
const MOST_POST_BYTES: usize = 1024 * 1024;

/// Messages that wait for one tunnel, in the order in which it is to send them.
#[derive(Default)]
pub(crate) struct PostQueue {
    posts: VecDeque<Posted>,
    bytes: usize,
}

impl PostQueue {
    /// Adds a message at the end.
    ///
    /// # Errors
    /// Returns the message if there is no room for it.
    fn push(&mut self, posted: Posted) -> Result<(), Posted> {
        let bytes = self.bytes + posted.size();
        if !self.posts.is_empty() && (self.posts.len() >= MOST_POSTS || bytes > MOST_POST_BYTES) {
            return Err(posted);
        }
        self.bytes = bytes;
        self.posts.push_back(posted);
        Ok(())
    }

    /// Takes the message that has waited longest.
    fn take(&mut self) -> Option<Posted> {
        let posted = self.posts.pop_front()?;
        self.bytes = self.bytes.saturating_sub(posted.size());
        Some(posted)
    }

    /// Takes the messages whose broadcast is over.
    fn take_over(&mut self) -> Vec<Posted> {
        let (over, left): (VecDeque<_>, VecDeque<_>) = self.posts.drain(..).partition(Posted::is_over);
        self.bytes = left.iter().map(Posted::size).sum();
        self.posts = left;
        over.into()
    }
}

impl Socket {
    /// Hands a message to the tunnel, after those that wait there; without room for it, it is counted as too slow.
    pub fn post(&self, posted: Posted) {
        if let Err(posted) = self.try_post(posted) {
            posted.missed(Fate::Slow);
        }
    }

    /// Hands a message to the tunnel, after those that wait there.
    ///
    /// # Errors
    /// Returns the message if there is no room for it.
    pub(crate) fn try_post(&self, posted: Posted) -> Result<(), Posted> {
        let (_over, pushed) = self.with_care(|care| {
            let queue = care.posts.get_or_insert_default();
            // They give way, and are counted and freed only after the lock is released.
            let over = if queue.posts.is_empty() { Vec::new() } else { queue.take_over() };
            let pushed = queue.push(posted);
            self.flags.fetch_or(POSTED, Relaxed);
            (over, pushed)
        });
        if pushed.is_ok() {
            self.wake();
        }
        pushed
    }

    /// Takes the message that has waited longest for the tunnel. Without one, this is a single load.
    pub fn posted(&self) -> Option<Posted> {
        if !self.has_posts() {
            return None;
        }
        self.with_care(|care| {
            let posted = care.posts.as_mut().and_then(|queue| queue.take());
            self.tidy(&mut care.posts);
            posted
        })
    }

    /// Drops the messages that wait for the tunnel although their broadcast is over.
    pub(crate) fn drop_late_posts(&self) {
        if !self.has_posts() {
            return;
        }
        let _over = self.with_care(|care| {
            let over = care.posts.as_mut().map(|queue| queue.take_over());
            self.tidy(&mut care.posts);
            over
        });
    }

    /// Whether messages wait for the tunnel.
    fn has_posts(&self) -> bool {
        self.flags.load(Relaxed) & POSTED != 0
    }

    /// Forgets a queue without messages. The flag changes only under the lock of the queue.
    fn tidy(&self, posts: &mut Option<Box<PostQueue>>) {
        if posts.as_ref().is_none_or(|queue| queue.posts.is_empty()) {
            *posts = None;
            self.flags.fetch_and(!POSTED, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::broadcast::Broadcast;

    fn queue(frames: &[&Arc<Broadcast>]) -> PostQueue {
        let mut queue = PostQueue::default();
        for frame in frames {
            assert!(queue.push(frame.post(false).unwrap()).is_ok());
        }
        queue
    }

    #[test]
    fn messages_are_taken_in_the_order_of_their_posts() {
        let texts: Vec<_> = (0..MOST_POSTS).map(|n| Broadcast::new(Some(&n.to_string()), None)).collect();
        let mut queue = queue(&texts.iter().collect::<Vec<_>>());
        let one_more = Broadcast::new(Some("no room"), None);
        assert!(queue.push(one_more.post(false).unwrap()).is_err());
        for text in &texts {
            assert_eq!(queue.take().unwrap().frame(), text.post(false).unwrap().frame());
        }
        assert!(queue.take().is_none() && queue.bytes == 0);
    }

    #[test]
    fn bytes_are_bounded_except_for_a_single_message() {
        let large = Broadcast::new(Some(&"x".repeat(MOST_POST_BYTES * 2)), None);
        let small = Broadcast::new(Some("small"), None);
        let mut alone = queue(&[&large]);
        assert!(alone.push(small.post(false).unwrap()).is_err());
        drop(alone.take());
        assert!(alone.push(small.post(false).unwrap()).is_ok());
        assert!(alone.push(large.post(false).unwrap()).is_err());
        assert_eq!(alone.bytes, small.post(false).unwrap().size());
    }

    #[test]
    fn messages_that_are_over_give_way() {
        let (late, timely) = (Broadcast::new(Some("late"), None), Broadcast::new(Some("timely"), None));
        let mut queue = queue(&[&late, &timely, &late]);
        late.finish();
        assert_eq!(queue.take_over().len(), 2);
        assert_eq!((queue.posts.len(), queue.bytes), (1, timely.post(false).unwrap().size()));
    }
}
