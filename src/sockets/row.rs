//! Copies of the data behind a socket's lock, so that a list of many sockets is written without holding any lock.
//!
//! A tunnel's thread takes that lock when a ping passes and when the tunnel ends. The thread that writes a list may be
//! stopped by the scheduler at any point, so it holds the lock only to copy the data, into memory that it reuses for
//! the next socket.

use std::net::IpAddr;
use std::sync::Arc;

use super::backend_labels::{BackendLabels, merged};
use super::socket::Socket;
use super::{lock, socket_id};
use crate::websocket::round_trip::{Quality, RoundTrips};

/// Copied data of one socket; reused for the next socket.
#[derive(Debug, Default)]
pub struct SocketRow {
    texts: Vec<u8>,
    /// Labels that the backend has set.
    backend: Option<Arc<BackendLabels>>,
    /// Round trips that were measured so far.
    pub round_trips: RoundTrips,
    /// Quality of the client's connection, if it was measured.
    pub quality: Option<Quality>,
}

impl SocketRow {
    /// Address of the socket's client.
    pub fn address(&self) -> IpAddr {
        socket_id::address(&self.texts)
    }

    /// Session id; empty if there is none or it is not known yet.
    pub fn sid(&self) -> &[u8] {
        socket_id::parts(&self.texts).sid
    }

    /// Labels that the request had, with the names of their rules, and those of the backend. `socket`
    /// must be the socket that was copied.
    pub fn labels<'a>(&'a self, socket: &'a Socket) -> impl Iterator<Item = (&'a str, &'a str)> {
        let names = socket.labels().iter().map(|rule| rule.name.as_str());
        let read = names.zip(socket_id::labels(&self.texts));
        merged(read, self.backend.as_ref()).filter_map(|(name, value)| Some((name, value?)))
    }
}

impl Socket {
    /// Copies the data behind the socket's lock into `told`.
    pub fn tell(&self, told: &mut SocketRow) {
        let cold = lock(&self.cold);
        told.texts.clear();
        told.texts.extend_from_slice(cold.texts());
        told.backend = cold.backend_labels().cloned();
        let (round_trips, quality) = cold.measured();
        told.round_trips = round_trips;
        told.quality = quality;
    }
}
