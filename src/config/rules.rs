//! Affinity rules as data (docs/reference/routing.md §7): where a worker's answer announces an id, where requests carry
//! it, how a worker refuses an unknown id, which requests create it, how long it lives and what ends it. The presets
//! are such rules, `socket.io` among them.
//!
//! Rules are read and checked here, and can be compared; how they apply to a request is in `affinity::rule`. A reload
//! applies all of them.

mod across;
mod list;
mod presets;
mod read;

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderName;

pub(crate) use across::check as check_across;
pub(crate) use list::Customs;
pub(crate) use read::{customs, follow};

use super::pattern::{JsonPath, PathPattern, Template};

/// Maximum number of affinities of one upstream: a request keeps one bit for each.
pub const MAX_AFFINITIES: usize = 16;

/// Maximum number of `learn` entries of one upstream, and of `ends` of one rule: a request keeps one bit for each.
pub const MAX_BITS: usize = 64;

/// An affinity rule: how the sessions of one protocol are recognized.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Name of the rule in `affinity`: a preset's name, or one chosen by the user.
    pub name: String,
    /// The protocol, for refusals and probes that data cannot describe.
    pub protocol: Protocol,
    /// Places in answers where a new id is announced, tried in order. Empty: ids are not learned from answers.
    pub learn: Vec<Learn>,
    /// Places in requests where the id is looked for; the first that is present decides.
    pub lookup: Vec<LookupRule>,
    /// Answers of a worker that does not know an id. Empty: no worker is asked for a session that is not pinned.
    pub refusal: Vec<RefusalRule>,
    /// Requests that create a session for an unknown id; they are never tried at several workers in turn.
    pub creates: Vec<On>,
    /// Time a session lives without activity; default 10 min.
    pub ttl: Duration,
    /// Place in the answer where the worker announces this time, in seconds; `ttl` applies if it is absent.
    pub ttl_from: Option<AnswerPlace>,
    /// Requests that end a session.
    pub ends: Vec<EndRule>,
    /// Whether clients make the ids: the hash of the id then chooses the worker from the first request on, and nothing
    /// is learned.
    pub client_made: bool,
    /// What a request must show for the rule to apply at all; `None` for rules that the file names.
    pub guard: Option<RuleGuard>,
}

/// What a request must show before a rule of `"auto"` applies to it (`rules::guard`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleGuard {
    /// The header `Mcp-Session-Id`, or the accepted types of a POST.
    Mcp,
    /// A negotiation, or one of the ids that it gives.
    SignalR,
    /// A path of SockJS.
    SockJs,
}

/// The protocol of a rule. It decides how stickyd refuses a session whose worker is gone, and how it probes workers for
/// the owner of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A user's rule: refused with a plain 404.
    Custom,
    /// Engine.IO: refused in its own form, probed with `PUT`, ended by the client's close packet.
    SocketIo,
    /// SockJS: refused with 404, probed with an empty `xhr_send`.
    SockJs,
    /// SignalR: refused with its own 404.
    SignalR,
    /// MCP: refused with a 404 and a JSON-RPC error, after which the client initializes again.
    Mcp,
    /// Phoenix: refused with a 200 that contains the status 410, probed with a heartbeat.
    Phoenix,
    /// Bayeux: a refusal must fit the client's message, so another worker gives it.
    CometD,
    /// tus: refused with 404, probed with `HEAD`.
    Tus,
}

/// A kind of request. Conditions that are left out match every request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct On {
    /// Methods of the request; empty: all.
    pub methods: Vec<Method>,
    /// Path of the request; `None`: all.
    pub path: Option<PathPattern>,
    /// A header that the request must have, and a text that its value must contain (empty: any value).
    pub header: Option<(HeaderName, &'static str)>,
}

/// Where a new id is learned: in which answers, and where in them.
#[derive(Debug, Clone, PartialEq)]
pub struct Learn {
    /// Place of the id in the answer.
    pub from: AnswerPlace,
    /// Requests whose answers announce ids.
    pub on: On,
    /// Status of such answers; `None`: any success.
    pub status: Option<u16>,
    /// A JSON field of the answer and the value it must have if it is present.
    pub only: Option<(JsonPath, &'static str)>,
}

/// A place in an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerPlace {
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie that the answer sets.
    SetCookie(String),
    /// The last segment of the path in `Location`.
    Location,
    /// A field of a JSON body.
    Json(JsonPath),
    /// A place near the beginning of the body, described by a template.
    Prefix(Template),
    /// Engine.IO's open packet, in its four encodings.
    OpenPacket,
}

impl AnswerPlace {
    /// Whether the place is in the answer's body.
    pub fn is_in_body(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Prefix(_) | Self::OpenPacket)
    }
}

/// A place where requests carry an id.
#[derive(Debug, Clone, PartialEq)]
pub struct LookupRule {
    /// Place of the id in the request.
    pub at: Spot,
    /// Requests that carry an id there.
    pub on: On,
    /// Minimum length of an id, in bytes; a shorter value of the same name is something else.
    pub min: usize,
}

/// A place in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// The value of a header.
    Header(HeaderName),
    /// A query parameter, decoded; the last one if there are several.
    Query(String),
    /// The value of a cookie.
    Cookie(String),
    /// A segment of the path.
    Path(PathPattern),
    /// Engine.IO's `sid` query parameter.
    EngineIo,
}

/// The answer of a worker that does not know a session.
#[derive(Debug, Clone, PartialEq)]
pub enum RefusalRule {
    /// An answer with this status and, if `header` is set, this header, else this text in its body.
    Answer {
        /// Status of the answer.
        status: u16,
        /// Text in the first 512 bytes of the body (empty: any body); ignored if `header` is set.
        body: String,
        /// A header of the answer and a text in its value (empty: any value).
        header: Option<(HeaderName, String)>,
    },
    /// Any of Engine.IO's refusals (docs/reference/protocols.md §1.4).
    EngineIo,
}

/// A request that ends a session, if it is answered with the given status.
#[derive(Debug, Clone, PartialEq)]
pub struct EndRule {
    /// Requests that end their session.
    pub on: On,
    /// Status of the answer that confirms it; `None`: any success.
    pub status: Option<u16>,
}

/// A fact of a request that chooses a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Affinity {
    /// The id of a session, found by a rule.
    Rule(Arc<Rule>),
    /// stickyd's own signed cookie.
    Cookie,
    /// The client's address (IPv6 by /64).
    Address,
}

impl Affinity {
    /// The Engine.IO sid, learned from the worker's answer.
    pub fn socket_io() -> Self {
        Self::Rule(Arc::new(presets::socket_io()))
    }

    /// The rules that `"auto"` stands for: those that cannot be confused with anything else.
    pub fn automatic() -> Vec<Self> {
        presets::automatic().into_iter().map(|rule| Self::Rule(Arc::new(rule))).collect()
    }

    /// Whether this is a rule of `"auto"` other than `socket.io`, which a rule that the file names replaces.
    pub(crate) fn is_guarded(&self) -> bool {
        matches!(self, Self::Rule(rule) if rule.guard.is_some())
    }

    /// The affinity's name in the file.
    pub fn word(&self) -> &str {
        match self {
            Self::Rule(rule) => &rule.name,
            Self::Cookie => "cookie",
            Self::Address => "address",
        }
    }
}
