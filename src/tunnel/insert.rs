//! Frames that stickyd inserts while a tunnel goes on: a Ping, or a broadcast message.
//!
//! One of them waits for its place at a time; further messages wait at the socket (`sockets::posts`). It is inserted
//! where the observer of the worker's frames finds a place for it (ARCHITECTURE.md, invariant 5), in sequence with the
//! worker's bytes; nothing else is delayed by it. Out of scope: the Close, which ends the tunnel (`super::relay`), and
//! the choice of recipients (`crate::broadcast`).

use bytes::Bytes;

use crate::broadcast::Posted;
use crate::sockets::OwedPing;
use crate::websocket::frames::{Mark, Signal, ping_frame};

/// Payload of stickyd's Pings; it identifies their origin in a packet capture.
const PING: [u8; 8] = *b"stickyd?";

/// A Ping or a message that stickyd inserts.
pub(crate) struct Insert {
    /// The frame to insert; empty once it was handed over for writing.
    frame: Bytes,
    what: Insertion,
}

enum Insertion {
    Ping(OwedPing),
    Message(Posted),
}

impl Insert {
    /// Creates a Ping for the client.
    pub(crate) fn ping(asking: OwedPing) -> Box<Self> {
        Box::new(Self { frame: Bytes::copy_from_slice(ping_frame(&PING).as_ref()), what: Insertion::Ping(asking) })
    }

    /// Creates a broadcast message for the client.
    pub(crate) fn message(posted: Posted) -> Box<Self> {
        Box::new(Self { frame: posted.frame(), what: Insertion::Message(posted) })
    }

    /// Whether it goes between messages; a Ping may go between any two frames.
    pub(crate) fn is_message(&self) -> bool {
        matches!(self.what, Insertion::Message(_))
    }

    /// Whether it still waits for its place.
    pub(crate) fn waits(&self) -> bool {
        !self.frame.is_empty()
    }

    /// Whether it still waits for its place and may be replaced: a message whose broadcast is over, or a Ping, which
    /// will be requested again.
    pub(crate) fn gives_way(&self) -> bool {
        self.waits()
            && match &self.what {
                Insertion::Ping(_) => true,
                Insertion::Message(posted) => posted.is_over(),
            }
    }

    /// Whether it is a message that still waits for its place although its broadcast is over.
    pub(crate) fn is_over(&self) -> bool {
        self.is_message() && self.gives_way()
    }

    pub(crate) fn take(&mut self) -> Bytes {
        std::mem::take(&mut self.frame)
    }

    /// Reports that the client's kernel, or its HTTP/2 stream, has taken the whole frame.
    pub(crate) fn arrived(self) {
        match self.what {
            Insertion::Ping(asking) => asking.left(Signal::Ping(Mark::of(&PING))),
            Insertion::Message(posted) => posted.reached(),
        }
    }
}
