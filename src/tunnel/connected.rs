//! Learns from the worker's frames which Socket.IO namespaces of a tunnel are connected, for the delivery of queued
//! messages (`crate::queue`). Only for upstreams with an `offline_queue`.
//!
//! Every frame is passed over by its length; of text frames of up to 2 KiB the beginning is read. The bytes pass
//! unchanged. A namespace that the client itself leaves is not noticed: its messages are dropped by the client.

use std::sync::{Arc, Weak};

use super::socket_names::{FrameAtBoundary, take};
use crate::engine_io;
use crate::sockets::{Mailbag, Socket};
use crate::state::Shared;

/// Reads the frames of one tunnel.
pub(crate) struct Connected {
    shared: Arc<Shared>,
    /// The tunnel's own socket keeps it.
    bag: Weak<Mailbag>,
    /// The beginning of a frame that is not complete yet.
    begun: Vec<u8>,
    /// Bytes still to come of a frame that is passed over.
    skip: u64,
    /// Whether something came that is not a worker's frame.
    is_lost: bool,
}

impl Connected {
    /// Reads the frames of this socket's tunnel.
    pub(crate) fn new(shared: &Arc<Shared>, socket: &Socket) -> Box<Self> {
        let bag = Arc::downgrade(&socket.mailbag_or_new());
        Box::new(Self { shared: shared.clone(), bag, begun: Vec::new(), skip: 0, is_lost: false })
    }

    /// Looks at bytes of the worker, which are on their way to the client.
    pub(crate) fn look(&mut self, bytes: &[u8]) {
        let joined;
        let mut rest = bytes;
        if !self.begun.is_empty() {
            joined = [std::mem::take(&mut self.begun).as_slice(), bytes].concat();
            rest = &joined;
        }
        while !self.is_lost {
            let passed = usize::try_from(self.skip).unwrap_or(usize::MAX).min(rest.len());
            rest = rest.get(passed..).unwrap_or_default();
            self.skip -= passed as u64;
            if rest.is_empty() {
                return;
            }
            match take(rest) {
                FrameAtBoundary::NeedMore => {
                    self.begun = rest.to_vec();
                    return;
                }
                FrameAtBoundary::Skip(length) => self.skip = length,
                FrameAtBoundary::Text { start, end } => {
                    self.hear(rest.get(start..end).unwrap_or_default());
                    self.skip = end as u64;
                }
                FrameAtBoundary::No => self.is_lost = true,
            }
        }
    }

    fn hear(&self, packet: &[u8]) {
        if !packet.starts_with(b"4") {
            return;
        }
        let Some(bag) = self.bag.upgrade() else { return };
        if let Some(namespace) = engine_io::connected_namespace(packet) {
            self.shared.queues.connected(&bag, &namespace);
        } else if let Some(namespace) = engine_io::disconnected_namespace(packet) {
            bag.disconnected(&namespace);
        }
    }
}
