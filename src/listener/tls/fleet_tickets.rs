//! Tickets that a client can resume its session with at any stickyd of the fleet.
//!
//! The keys come from the fleet (`fleet::tickets`). While there are none, and for tickets of none of them, the keys of
//! the policy itself are used, as without a fleet: a fleet whose Redis never answers loses nothing.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::server::ProducesTickets;

use crate::config::{self, ClientAuth};
use crate::fleet::tickets::{TicketKeys, TicketReading};

/// Makes and reads the tickets of one policy.
#[derive(Debug)]
pub(super) struct FleetTicketer {
    keys: Arc<TicketKeys>,
    /// What the tickets are bound to.
    terms: [u8; digest::SHA256_OUTPUT_LEN],
    own: Arc<dyn ProducesTickets>,
}

impl FleetTicketer {
    /// Tickets for the names of this policy. `own` has the policy's own keys.
    pub(super) fn new(
        keys: Arc<TicketKeys>,
        tls: &config::Tls,
        auth: &ClientAuth,
        own: Arc<dyn ProducesTickets>,
    ) -> Self {
        Self { keys, terms: terms(tls, auth), own }
    }
}

impl ProducesTickets for FleetTicketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.keys.lifetime_s().unwrap_or_else(|| self.own.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.keys.seal(&self.terms, plain).or_else(|| self.own.encrypt(plain))
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        match self.keys.open(&self.terms, ticket) {
            TicketReading::Plain(plain) => Some(plain),
            TicketReading::OtherKey => self.own.decrypt(ticket),
            TicketReading::Refused => None,
        }
    }
}

/// What a ticket is bound to: whether and by which authorities clients are verified, so that no session resumes where
/// its client would have been asked for another certificate; and the names that are served, so that a connection which
/// an attacker has led to a listener for other sites does not resume there. The order in the file does not matter.
fn terms(tls: &config::Tls, auth: &ClientAuth) -> [u8; digest::SHA256_OUTPUT_LEN] {
    let (mode, authorities): (&[u8], &[_]) = match auth {
        ClientAuth::Off => (b"off", &[]),
        ClientAuth::Optional(authorities) => (b"optional", authorities),
        ClientAuth::Required(authorities) => (b"required", authorities),
    };
    let certificates = tls.certificates.iter().filter(|certificate| certificate.client_auth == *auth);
    let mut names: Vec<_> = certificates.flat_map(|one| &one.hosts).map(|name| name.as_bytes()).collect();
    let mut authorities: Vec<&[u8]> = authorities.iter().map(|one| one.as_ref()).collect();
    let mut context = digest::Context::new(&digest::SHA256);
    for list in [&mut vec![mode], &mut authorities, &mut names] {
        list.sort_unstable();
        list.dedup();
        // Lengths keep the parts apart, whatever is in them.
        context.update(&(list.len() as u64).to_be_bytes());
        for part in list {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
    }
    crate::keys::derive::first(context.finish().as_ref())
}
