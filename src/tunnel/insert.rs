//! What stickyd says on a tunnel while the tunnel goes on: a Ping, or a message to many.
//!
//! One waits at a time. It goes in where the observer of the worker's frames knows a place for it (invariant 5), behind what
//! was read before it and before what comes after; nothing else is held up by it. Left out: the Close, which ends the tunnel
//! (`super::relay`), and who is told what (`crate::broadcast`).

use bytes::Bytes;

use crate::broadcast::Posted;

/// One thing of ours.
pub(super) struct Insert {
    /// Empty once it has its place.
    frame: Bytes,
    /// Who wants to know whether it was sent; only messages are anybody's.
    post: Option<Posted>,
}

impl Insert {
    /// A control frame; not empty.
    pub(super) fn control(frame: Bytes) -> Box<Self> {
        Box::new(Self { frame, post: None })
    }

    /// A text frame; not empty.
    pub(super) fn message(post: Posted) -> Box<Self> {
        Box::new(Self { frame: post.frame(), post: Some(post) })
    }

    /// It goes between messages, else between frames.
    pub(super) fn is_message(&self) -> bool {
        self.post.is_some()
    }

    /// It has no place yet.
    pub(super) fn waits(&self) -> bool {
        !self.frame.is_empty()
    }

    /// Nobody waits for it any more: it would come too late.
    pub(super) fn is_over(&self) -> bool {
        self.waits() && self.post.as_ref().is_some_and(Posted::is_over)
    }

    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.frame)
    }

    /// The client's kernel, or its stream, has taken all of it.
    pub(super) fn arrived(self) {
        if let Some(post) = self.post {
            post.reached();
        }
    }
}
