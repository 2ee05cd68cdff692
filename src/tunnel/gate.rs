//! The gate of a tunnel whose client's packets are judged (`[route.jwt]` with `auth:` in `from`).
//!
//! What passes goes to the worker unchanged; after a refusal nothing does. The relay then tells the client why, and
//! closes the tunnel.

use std::sync::{Arc, Weak};

use crate::config::guards::Refuse;
use crate::engine_io;
use crate::metrics::GuardLabel;
use crate::route::guard::{GuardRefusal, RouteGuard};
use crate::route::jwt::{PacketJudge, PacketRefusal};
use crate::route::live_keys::{self, Refused};
use crate::route::person::{Person, PersonRefusal};
use crate::sockets::Socket;
use crate::state::Shared;
use crate::state::admissions;
use crate::upstream::UpstreamMemory;
use crate::websocket::frames::{CloseCode, text_frame};
use crate::websocket::gate::Gate;

/// The gate of one tunnel.
pub(crate) struct TunnelGate {
    frames: Gate,
    shared: Arc<Shared>,
    watch: Arc<RouteGuard>,
    person: Arc<Person>,
    upstream: Arc<UpstreamMemory>,
    socket: Weak<Socket>,
    refused: Option<PacketRefusal>,
    is_told: bool,
}

impl TunnelGate {
    /// Makes the gate of a tunnel that has just been granted.
    pub(crate) fn new(
        shared: &Arc<Shared>,
        watch: &Arc<RouteGuard>,
        person: Arc<Person>,
        upstream: &Arc<UpstreamMemory>,
        socket: &Arc<Socket>,
    ) -> Box<Self> {
        Box::new(Self {
            frames: Gate::default(),
            shared: shared.clone(),
            watch: watch.clone(),
            person,
            upstream: upstream.clone(),
            socket: Arc::downgrade(socket),
            refused: None,
            is_told: false,
        })
    }

    /// Judges bytes of the client, and returns those that pass to the worker.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut passed = Vec::new();
        let Some(guard) = self.watch.jwt.as_ref().filter(|_| self.refused.is_none()) else { return passed };
        let mut judge = PacketJudge { guard, person: &self.person, now: live_keys::now(), admitted: false };
        let result = self.frames.feed(bytes, &mut judge, &mut passed);
        let admitted = judge.admitted;
        if let Err(refusal) = result {
            if self.person.refusal().is_none() {
                self.upstream.series.turned(GuardRefusal::of_token(refusal.why, Refuse::Http).label());
            }
            let is_told = guard.refuse() == Refuse::Told && !self.person.is_found();
            if let (true, Refused::Fault(fault)) = (is_told, refusal.why) {
                let (message, code, namespace) = (fault.message(), fault.code(), refusal.namespace.clone());
                self.person.refuse(PersonRefusal { message, code, namespace });
            }
            self.refused = Some(refusal);
        }
        if admitted && let Some(socket) = self.socket.upgrade() {
            admissions::settle(&self.shared, &self.watch, Some(&self.person), &socket);
        }
        passed
    }

    /// Whether the tunnel has to end because a packet was refused; true once.
    pub(crate) fn take_refusal(&mut self) -> bool {
        self.refused.is_some() && !std::mem::replace(&mut self.is_told, true)
    }

    /// The code and reason of the Close after a packet was refused.
    pub(crate) fn refusal(&self) -> Option<(CloseCode, &'static str)> {
        let PacketRefusal { why, .. } = self.refused.as_ref()?;
        Some(match why {
            // Another try may help in these two cases, so the client is to come back.
            Refused::NoKeys(_) => (CloseCode::TRY_AGAIN_LATER, GuardLabel::JwtKeys.word()),
            Refused::Fault(_) if self.person.is_found() => (CloseCode::SERVICE_RESTART, ""),
            Refused::Fault(fault) => {
                (CloseCode::POLICY, self.person.refusal().map_or_else(|| fault.code(), |refusal| refusal.code))
            }
        })
    }

    /// The message that tells the client why it is refused, before the Close; empty if there is none.
    pub(crate) fn told(&self) -> Vec<u8> {
        let Some(PersonRefusal { message, code, namespace }) = self.person.refusal() else { return Vec::new() };
        let packets = engine_io::refusal_packets(false, &namespace, message, code);
        packets.iter().flat_map(|one| text_frame(one)).collect()
    }
}
