//! The two sides that hold a socket on the list: the owner of its session, and its tunnel.

use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

use super::attention::OwedPing;
use super::lock;
use super::socket::{OWNER, PARTING, Socket, TUNNEL};
use crate::metrics::socket_labels::Transport;

/// A socket's place on the list, and its session's place in its worker's count. Held by the pin, or by the tunnel if
/// there is no pin. It has eight bytes, because the pin table holds a million of them.
pub struct Listed(Arc<Socket>);

impl Listed {
    pub(crate) fn new(socket: Arc<Socket>) -> Self {
        Self(socket)
    }

    /// Returns the listed socket.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.0
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        drop(lock(&self.0.cold).session.take());
        self.0.let_go(OWNER);
    }
}

/// A tunnel's hold on its socket.
pub struct Tunnelled(Arc<Socket>);

impl Tunnelled {
    /// Records that a tunnel has opened. For an Engine.IO session that polls, the tunnel is only tried at first, and
    /// becomes the transport with [`Tunnelled::upgraded`].
    pub fn new(socket: Arc<Socket>) -> Self {
        socket.holders.fetch_or(TUNNEL, AcqRel);
        Self(socket)
    }

    /// As [`Tunnelled::new`], for a socket that may have a tunnel already; `None` if it has. A second tunnel of one
    /// session would end what is said of the first.
    pub fn try_new(socket: Arc<Socket>) -> Option<Self> {
        let before = socket.holders.fetch_or(TUNNEL, AcqRel);
        (before & TUNNEL == 0).then(|| Self(socket))
    }

    /// Returns the socket itself.
    pub fn socket(&self) -> &Arc<Socket> {
        &self.0
    }

    /// Prepares a Ping to the socket's client.
    pub fn asking(&self) -> OwedPing {
        OwedPing::new(&self.0)
    }

    /// Records that the session has moved to the tunnel, and from now on ends with it.
    pub fn upgraded(&self, transport: Transport) {
        self.0.change_transport(transport);
        self.0.worker.series.sockets.upgraded.inc();
    }
}

impl std::ops::Deref for Tunnelled {
    type Target = Socket;

    fn deref(&self) -> &Socket {
        &self.0
    }
}

impl Drop for Tunnelled {
    fn drop(&mut self) {
        let _posted = {
            let mut cold = lock(&self.0.cold);
            cold.waker = None;
            cold.care.as_mut().and_then(|care| care.leave())
        };
        if self.0.transport() == Transport::Polling {
            // The tunnel was only tried; the session goes on polling.
            self.0.flags.fetch_and(!PARTING, Relaxed);
            self.0.let_go(TUNNEL);
        } else {
            self.0.holders.fetch_and(!TUNNEL, AcqRel);
            self.0.finish();
        }
    }
}
