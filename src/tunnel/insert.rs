//! What stickyd says on a tunnel while the tunnel goes on: a Ping, or a message to many.
//!
//! One waits at a time. It goes in where the observer of the worker's frames knows a place for it (invariant 5), behind what
//! was read before it and before what comes after; nothing else is held up by it. Left out: the Close, which ends the tunnel
//! (`super::relay`), and who is told what (`crate::broadcast`).

use bytes::Bytes;

use super::frames::{Mark, Signal, ping_frame};
use crate::broadcast::Posted;
use crate::sockets::Asking;

/// What stickyd's Pings carry: whose they are, for whoever looks at the wire.
const PING: [u8; 8] = *b"stickyd?";

/// One thing of ours.
pub(super) struct Insert {
    /// Empty once it has its place.
    frame: Bytes,
    what: What,
}

enum What {
    Ping(Asking),
    Message(Posted),
}

impl Insert {
    /// A Ping.
    pub(super) fn ping(asking: Asking) -> Box<Self> {
        Box::new(Self { frame: Bytes::copy_from_slice(ping_frame(&PING).as_ref()), what: What::Ping(asking) })
    }

    /// A text message.
    pub(super) fn message(posted: Posted) -> Box<Self> {
        Box::new(Self { frame: posted.frame(), what: What::Message(posted) })
    }

    /// It goes between messages, else between frames.
    pub(super) fn is_message(&self) -> bool {
        matches!(self.what, What::Message(_))
    }

    /// It has no place yet.
    pub(super) fn waits(&self) -> bool {
        !self.frame.is_empty()
    }

    /// It has no place yet, and another may take its turn: it would come too late, or comes again.
    pub(super) fn gives_way(&self) -> bool {
        self.waits()
            && match &self.what {
                What::Ping(_) => true,
                What::Message(posted) => posted.is_over(),
            }
    }

    /// It has no place yet, and nobody waits for it any more.
    pub(super) fn is_over(&self) -> bool {
        self.is_message() && self.gives_way()
    }

    pub(super) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.frame)
    }

    /// The client's kernel, or its stream, has taken all of it.
    pub(super) fn arrived(self) {
        match self.what {
            What::Ping(asking) => asking.left(Signal::Ping(Mark::of(&PING))),
            What::Message(posted) => posted.reached(),
        }
    }
}
