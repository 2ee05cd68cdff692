//! The guard `[route.jwt]`: which requests need a token, where it is, and whether it is good.
//!
//! Handshakes and upgrades are judged by their head. With `auth:` in `from`, the token may come later, in the CONNECT
//! packet: such a session is let through to its worker, and every packet of it is judged ([`PacketJudge`]). A request
//! that a worker could read as another session than stickyd does is refused on such a route. Left out: how a client is
//! refused (`proxy::told_refusals`).

use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request};

use super::live_keys::{LiveKeys, Now, Refused};
use super::person::Person;
use crate::affinity::ask::{RequestFacts, RequestKind};
use crate::config::guards::Refuse;
use crate::config::jwt::{Jwt, TokenPlace};
use crate::engine_io::{self, ConnectPacket, EngineQuery, PacketKind, PollFormat};
use crate::header_list::has_token;
use crate::jwt::{Claims, MAX_TOKEN, TokenFault};
use crate::keys::Key;
use crate::upstream::Upstream;
use crate::websocket::gate::Keeper;

/// The live guard of a route with `[route.jwt]`.
pub(crate) struct JwtGuard {
    pub(crate) config: Arc<Jwt>,
    pub(crate) keys: Arc<LiveKeys>,
    /// Names of the claims that labels and limits need.
    wanted: Vec<String>,
}

/// What a request's head shows.
pub(crate) enum HeadVerdict {
    /// The request needs no token.
    NotAsked,
    /// The request has a good token.
    Admitted(Claims),
    /// A session begins whose token is still to come; without one, it has this fault.
    Pending(TokenFault),
    /// The packets of this session are judged.
    Packets(Key),
}

impl JwtGuard {
    /// Makes the guard of a route. The keys of `before` are kept if they come from the same place.
    pub(crate) fn new(config: &Arc<Jwt>, wanted: Vec<String>, before: Option<&Arc<LiveKeys>>) -> Self {
        let keys = before.cloned().unwrap_or_else(|| LiveKeys::new(&config.keys));
        Self { config: config.clone(), keys, wanted }
    }

    /// Names of the claims that are kept of a token.
    pub(crate) fn wanted(&self) -> Vec<&str> {
        self.wanted.iter().map(String::as_str).collect()
    }

    /// Judges the head of a request. `person` finds the client of a session that began through a guard here.
    ///
    /// # Errors
    /// The request is refused.
    pub(crate) fn judge<B>(
        &self,
        upstream: &Upstream,
        request: &Request<B>,
        ask: &RequestFacts,
        person: &dyn Fn(Key) -> Option<Arc<Person>>,
        now: Now,
    ) -> Result<HeadVerdict, Refused> {
        let role = role(upstream, request, ask);
        let reads_packets = self.config.reads_packets();
        match role {
            Role::Preflight => return Ok(HeadVerdict::NotAsked),
            Role::OfSession => {
                if let Some(verdict) = self.of_session(upstream, request, ask, person) {
                    return Ok(verdict);
                }
            }
            Role::Ordinary if !self.config.is_for_all => return Ok(HeadVerdict::NotAsked),
            Role::Opening | Role::Ordinary => {}
        }
        let may_be_pending = || reads_packets && role == Role::Opening && has_packets(request, ask);
        let Some((place, token)) = self.token(request) else {
            return match may_be_pending() {
                true => Ok(HeadVerdict::Pending(TokenFault::Missing)),
                false => Err(Refused::Fault(TokenFault::Missing)),
            };
        };
        let token = token.ok_or(Refused::Fault(TokenFault::Malformed));
        let verified = token.and_then(|token| self.keys.verify(&token, &self.config.terms, now));
        match verified {
            // A token in the CONNECT packet counts before this one.
            Err(Refused::Fault(fault)) if self.config.from.iter().take(place).any(is_auth) && may_be_pending() => {
                Ok(HeadVerdict::Pending(fault))
            }
            verified => verified.map(HeadVerdict::Admitted),
        }
    }

    /// The verdict on a request that names a session; `None` if the request needs a token of its own. Any client can
    /// make an id up, and not every application looks at it: only the id of a session that began through this guard
    /// stands for a token, and only at the path where the session lives.
    fn of_session<B>(
        &self,
        upstream: &Upstream,
        request: &Request<B>,
        ask: &RequestFacts,
        person: &dyn Fn(Key) -> Option<Arc<Person>>,
    ) -> Option<HeadVerdict> {
        let (reads_packets, is_for_all) = (self.config.reads_packets(), self.config.is_for_all);
        match ask.kind {
            // stickyd answers it itself.
            RequestKind::UnknownSid => Some(HeadVerdict::NotAsked),
            RequestKind::Session { key, .. } if ask.is_engine_io(upstream) => {
                let is_known = || person(key).is_some_and(|person| person.has_session_at(request.uri().path()));
                match reads_packets {
                    // Whatever it sends is judged.
                    true if !is_for_all || is_known() => Some(HeadVerdict::Packets(key)),
                    false if is_known() => Some(HeadVerdict::NotAsked),
                    _ => None,
                }
            }
            // The upstream remembers no sids.
            _ => (!reads_packets && !is_for_all && ask.upgrade.is_none()).then_some(HeadVerdict::NotAsked),
        }
    }

    /// Finds the token in a request's head: the first place that has one counts. Returns the place's number in `from`;
    /// the inner `None` stands for something that cannot be a token.
    fn token<B>(&self, request: &Request<B>) -> Option<(usize, Option<Vec<u8>>)> {
        let (number, found) = self.config.from.iter().enumerate().find_map(|(number, place)| {
            let value = match place {
                TokenPlace::Auth(_) => None,
                TokenPlace::Header(name) => field(request.headers(), name),
                TokenPlace::Query(name) => {
                    engine_io::query_value(request.uri().query()?, name.as_bytes(), MAX_TOKEN + 1)
                }
                TokenPlace::Cookie(name) => cookie(request.headers(), name).map(<[u8]>::to_vec),
            };
            Some((number, value.filter(|value| !value.is_empty())?))
        })?;
        Some((number, (found.len() <= MAX_TOKEN).then_some(found)))
    }

    /// The fields that tell workers the claims of a token.
    pub(crate) fn fields(&self, claims: &Claims) -> Vec<(HeaderName, HeaderValue)> {
        let value = |claim| HeaderValue::try_from(claims.text(claim)?).ok();
        self.config.headers.iter().filter_map(|(name, claim)| Some((name.clone(), value(claim)?))).collect()
    }

    /// How a fault is refused.
    pub(crate) fn refuse(&self) -> Refuse {
        self.config.refuse
    }
}

fn is_auth(place: &TokenPlace) -> bool {
    matches!(place, TokenPlace::Auth(_))
}

/// The part that a request plays for a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It opens a session or a WebSocket, or a worker could take it for one that does.
    Opening,
    /// It belongs to an Engine.IO session, which it names clearly.
    OfSession,
    Preflight,
    Ordinary,
}

fn role<B>(upstream: &Upstream, request: &Request<B>, ask: &RequestFacts) -> Role {
    if matches!(ask.kind, RequestKind::Preflight(_)) {
        return Role::Preflight;
    }
    let clear_sid = ask.engine.is_some_and(|engine| engine.has_sid() && !engine.contradicts_itself());
    let is_other = matches!(ask.kind, RequestKind::Session { .. }) && !ask.is_engine_io(upstream);
    if clear_sid && !is_other {
        return Role::OfSession;
    }
    let upgrades = || {
        let values = request.headers().get_all(header::UPGRADE);
        ask.upgrade.is_some() || values.iter().any(|value| has_token(value.as_bytes(), b"websocket"))
    };
    let begins = match ask.kind {
        RequestKind::Handshake | RequestKind::Birth | RequestKind::UnknownSid => true,
        // A client can make an id of another protocol up.
        RequestKind::Session { .. } => ask.facts.as_ref().is_some_and(|facts| facts.creates),
        RequestKind::Ordinary | RequestKind::Preflight(_) => false,
    };
    let opens = begins || upgrades() || engine_io::may_be_engine_io(request.uri().query());
    if opens { Role::Opening } else { Role::Ordinary }
}

/// Whether the session that a request opens will send a CONNECT packet that can be read: protocol 4 and no script.
/// Workers take every other session for one of protocol 3, which they connect without being asked.
fn has_packets<B>(request: &Request<B>, ask: &RequestFacts) -> bool {
    let is_plain = |engine: EngineQuery| engine.format == PollFormat::Plain;
    let query = request.uri().query().unwrap_or_default();
    request.method() == Method::GET
        && ask.kind == RequestKind::Handshake
        && ask.engine.is_some_and(is_plain)
        && engine_io::has_only(query, b"EIO", b"4")
        && !engine_io::has_key(query, b"j")
}

/// The value of a header field; `Authorization` has its scheme before the token (RFC 6750 §2.1).
fn field(headers: &HeaderMap, name: &HeaderName) -> Option<Vec<u8>> {
    let value = headers.get(name)?.as_bytes().trim_ascii();
    let token = match value.split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => token.trim_ascii(),
        _ if *name == header::AUTHORIZATION => return None,
        _ => value,
    };
    Some(token.to_vec())
}

/// The value of a client's cookie, without the quotes that it may have.
fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let value =
        pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// Why a packet does not pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PacketRefusal {
    pub(crate) why: Refused,
    /// The namespace that the packet names, empty for `/`; `None` if it names none.
    pub(crate) namespace: Option<String>,
}

/// Judges the packets of one session.
pub(crate) struct PacketJudge<'a> {
    pub(crate) guard: &'a JwtGuard,
    pub(crate) person: &'a Person,
    pub(crate) now: Now,
    /// Whether a CONNECT packet was admitted.
    pub(crate) admitted: bool,
    /// Why packets do not pass: the first refusal, and those of the CONNECT packets after it, of which each names
    /// another namespace.
    pub(crate) refused: Vec<PacketRefusal>,
}

impl<'a> PacketJudge<'a> {
    pub(crate) fn new(guard: &'a JwtGuard, person: &'a Person, now: Now) -> Self {
        Self { guard, person, now, admitted: false, refused: Vec::new() }
    }

    /// Judges a packet, and notes why it does not pass. After a refusal, no packet passes.
    ///
    /// # Errors
    /// The packet does not pass.
    pub(crate) fn pass(&mut self, kind: PacketKind, packet: &[u8]) -> Result<(), ()> {
        let judged = match self.refused.is_empty() {
            true => self.first(kind, packet),
            false if kind == PacketKind::Connect && self.refused.len() < MOST_REFUSED => self.connect(packet).map(drop),
            false => return Err(()),
        };
        let result = if judged.is_ok() && self.refused.is_empty() { Ok(()) } else { Err(()) };
        self.refused.extend(judged.err());
        result
    }

    fn first(&mut self, kind: PacketKind, packet: &[u8]) -> Result<(), PacketRefusal> {
        match kind {
            // The client of a refused session has moved to this WebSocket, and now listens to it.
            PacketKind::Harmless if packet.starts_with(b"5") && self.person.is_refused() => Err(self.missing()),
            PacketKind::Harmless | PacketKind::NeedMore => Ok(()),
            PacketKind::Connect => {
                if let Some(claims) = self.connect(packet)? {
                    self.person.admit(&claims, &self.guard.wanted());
                    self.admitted = true;
                }
                Ok(())
            }
            PacketKind::Message if self.person.is_admitted() => Ok(()),
            // A packet of a binary parser has no text.
            PacketKind::Message if packet.is_empty() => self.unreadable(None).map_err(|_| self.missing()),
            PacketKind::Message => Err(self.missing()),
            PacketKind::Unreadable => self.unreadable(None),
        }
    }

    /// Verifies the token of a CONNECT packet; `None` if it needs none.
    fn connect(&self, packet: &[u8]) -> Result<Option<Claims>, PacketRefusal> {
        let Some(connect) = ConnectPacket::read(packet) else {
            return self.unreadable(engine_io::connected_namespace(packet)).map(|()| None);
        };
        let refuse = |why| PacketRefusal { why, namespace: Some(connect.namespace.clone()) };
        let field = self.guard.config.auth_field().unwrap_or_default();
        let Some(token) = connect.text(field) else {
            if self.person.is_admitted_by_handshake() {
                return Ok(None);
            }
            let fault = if connect.payload.contains_key(field) { TokenFault::Malformed } else { self.person.fault() };
            return Err(refuse(Refused::Fault(fault)));
        };
        let token = token.strip_prefix("Bearer ").unwrap_or(token);
        let verified = self.guard.keys.verify(token.as_bytes(), &self.guard.config.terms, self.now);
        verified.map(Some).map_err(refuse)
    }

    /// The refusal of a packet before any token.
    fn missing(&self) -> PacketRefusal {
        PacketRefusal { why: Refused::Fault(self.person.fault()), namespace: None }
    }

    /// A packet that cannot be read hides nothing where the handshake itself had a good token: clients of protocol 3
    /// write their packets in another way.
    fn unreadable(&self, namespace: Option<String>) -> Result<(), PacketRefusal> {
        if self.guard.config.passes_unreadable || self.person.is_admitted_by_handshake() {
            return Ok(());
        }
        Err(PacketRefusal { why: Refused::Fault(TokenFault::Malformed), namespace })
    }
}

/// Maximum number of refusals that are noted of one body or one WebSocket.
const MOST_REFUSED: usize = 16;

impl Keeper for PacketJudge<'_> {
    type Refusal = ();

    fn judge(&mut self, kind: PacketKind, packet: &[u8]) -> Result<(), ()> {
        self.pass(kind, packet)
    }
}
