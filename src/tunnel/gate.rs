//! The gate of a tunnel whose client's packets are judged (`[route.jwt]` with `auth:` in `from`).
//!
//! What passes goes to the worker unchanged; after a refusal nothing does. The relay then tells the client why, and
//! closes the tunnel: a little later, because a client that uses several namespaces names each in a packet of its own,
//! and tries again for those that it was not told about.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::Context;
use std::time::Duration;

use crate::config::guards::Refuse;
use crate::engine_io;
use crate::jwt::TokenFault;
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

/// How long further CONNECT packets are awaited after one was refused.
const MORE: Duration = Duration::from_millis(250);

/// The first frame of a worker in a tunnel to which a session moves (docs/reference/protocols.md §1.3).
const PROBED: &[u8] = b"\x81\x063probe";

/// The gate of one tunnel.
pub(crate) struct TunnelGate {
    frames: Gate,
    shared: Arc<Shared>,
    watch: Arc<RouteGuard>,
    person: Arc<Person>,
    upstream: Arc<UpstreamMemory>,
    socket: Weak<Socket>,
    /// Why packets were refused; empty for nearly every tunnel.
    refused: Vec<PacketRefusal>,
    /// Ends the wait for further CONNECT packets.
    more: Option<Pin<Box<tokio::time::Sleep>>>,
    is_told: bool,
    /// How much of [`PROBED`] the worker has sent, where that is what shows that it has such a session; `None` if it
    /// has or need not.
    probed: Option<usize>,
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
        // The sessions of other clients began through this guard.
        let probed = person.is_found().then_some(0);
        Box::new(Self {
            frames: Gate::default(),
            shared: shared.clone(),
            watch: watch.clone(),
            person,
            upstream: upstream.clone(),
            socket: Arc::downgrade(socket),
            refused: Vec::new(),
            more: None,
            is_told: false,
            probed,
        })
    }

    /// Judges bytes of the client, and returns those that pass to the worker.
    pub(crate) fn pass(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut passed = Vec::new();
        let Some(guard) = self.watch.jwt.as_ref() else { return passed };
        let mut judge = PacketJudge::new(guard, &self.person, live_keys::now());
        let known = self.refused.len();
        judge.refused = std::mem::take(&mut self.refused);
        // What it refuses, the judge has noted.
        let _ = self.frames.feed(bytes, &mut judge, &mut passed);
        let (admitted, refuse) = (judge.admitted, guard.refuse());
        self.refused = judge.refused;
        if self.refused.len() > known {
            self.note(known, refuse);
        }
        if admitted && let Some(socket) = self.socket.upgrade() {
            admissions::settle(&self.shared, &self.watch, Some(&self.person), &socket);
        }
        passed
    }

    /// Looks at the worker's next bytes: an application that has no such session speaks another way, and its stream
    /// needs a token.
    pub(crate) fn hear(&mut self, bytes: &[u8]) {
        let Some(seen) = self.probed else { return };
        let rest = PROBED.get(seen..).unwrap_or_default();
        let here = rest.len().min(bytes.len());
        if rest.get(..here) != bytes.get(..here) {
            self.probed = None;
            self.close_unless_admitted();
        } else {
            self.probed = (here < rest.len()).then_some(seen + here);
        }
    }

    /// Ends the tunnel unless the client was admitted: the worker has opened no session, so no CONNECT packet can come.
    pub(crate) fn close_unless_admitted(&mut self) {
        if !self.person.is_admitted() && self.refused.is_empty() {
            self.refused.push(PacketRefusal { why: Refused::Fault(TokenFault::Missing), namespace: None });
            self.frames.shut();
            self.upstream.series.turned(GuardLabel::of_fault(TokenFault::Missing));
        }
    }

    /// Notes the refusals after the first `known` ones for the client.
    fn note(&mut self, known: usize, refuse: Refuse) {
        let is_old = self.person.is_refused();
        if let (0, false, Some(first)) = (known, is_old, self.refused.first()) {
            self.upstream.series.turned(GuardRefusal::of_token(first.why, Refuse::Http).label());
        }
        let is_told = refuse == Refuse::Told && !self.person.is_found();
        for refusal in self.refused.iter().skip(known).filter(|_| is_told) {
            let Refused::Fault(fault) = refusal.why else { continue };
            // A client that was refused before has been told about its namespaces.
            if refusal.namespace.is_some() || !is_old {
                let (message, code) = (fault.message(), fault.code());
                self.person.refuse(PersonRefusal {
                    message,
                    code,
                    namespace: refusal.namespace.clone().unwrap_or_default(),
                });
            }
        }
        if known == 0 && is_told {
            self.more = Some(Box::pin(tokio::time::sleep(MORE)));
        }
    }

    /// Whether the tunnel has to end now because a packet was refused; true once.
    pub(crate) fn take_refusal(&mut self, cx: &mut Context<'_>) -> bool {
        if self.refused.is_empty() || self.is_told {
            return false;
        }
        self.is_told = self.more.as_mut().is_none_or(|more| more.as_mut().poll(cx).is_ready());
        self.is_told
    }

    /// Whether the client has sent its Close after a packet was refused.
    pub(crate) fn has_closed(&self) -> bool {
        self.frames.has_closed()
    }

    /// The code and reason of the Close after a packet was refused.
    pub(crate) fn refusal(&self) -> Option<(CloseCode, &'static str)> {
        Some(match self.refused.first()?.why {
            // Another try may help in these two cases, so the client is to come back.
            Refused::NoKeys(_) => (CloseCode::TRY_AGAIN_LATER, GuardLabel::JwtKeys.word()),
            Refused::Fault(_) if self.person.is_found() => (CloseCode::SERVICE_RESTART, ""),
            Refused::Fault(fault) => {
                let first = self.person.refusals().into_iter().next();
                (CloseCode::POLICY, first.map_or_else(|| fault.code(), |refusal| refusal.code))
            }
        })
    }

    /// The messages that tell the client why it is refused, before the Close; empty if there are none.
    pub(crate) fn told(&self) -> Vec<u8> {
        let packets =
            |PersonRefusal { message, code, namespace }| engine_io::refusal_packets(false, &namespace, message, code);
        self.person.refusals().into_iter().flat_map(packets).flat_map(|one| text_frame(&one)).collect()
    }
}
