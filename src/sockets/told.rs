//! What stands behind a socket's lock, copied out: who shows many of them writes without holding any.
//!
//! A tunnel's thread takes that lock where a ping passes and where the tunnel ends. Whoever lists may be stopped by the
//! scheduler at any place, so it holds the lock for a copy and no longer, into memory it uses again for the next socket.

use std::net::IpAddr;

use super::socket::Socket;
use super::{lock, text};
use crate::tunnel::round_trip::{Quality, RoundTrips};

/// Of one socket; used again for the next.
#[derive(Debug, Default)]
pub struct Told {
    texts: Vec<u8>,
    /// What was measured so far.
    pub round_trips: RoundTrips,
    /// How good its client's connection is, if that was measured.
    pub quality: Option<Quality>,
}

impl Told {
    /// Its client's address.
    pub fn address(&self) -> IpAddr {
        text::address(&self.texts)
    }

    /// The session's name; empty: none, or not known yet.
    pub fn sid(&self) -> &[u8] {
        text::parts(&self.texts).sid
    }

    /// The labels its request had, each with the name of its rule in `socket`, whose texts these are.
    pub fn labels<'a>(&'a self, socket: &'a Socket) -> impl Iterator<Item = (&'a str, &'a str)> {
        let names = socket.labels().iter().map(|rule| rule.name.as_str());
        names.zip(text::labels(&self.texts)).filter_map(|(name, value)| Some((name, value?)))
    }
}

impl Socket {
    /// Copies into `told` what is behind the lock.
    pub fn tell(&self, told: &mut Told) {
        let cold = lock(&self.cold);
        told.texts.clear();
        told.texts.extend_from_slice(cold.texts());
        let (round_trips, quality) = cold.measured();
        told.round_trips = round_trips;
        told.quality = quality;
    }
}
