//! Affinity rules as data (design.md §3): where an id is born, where it comes back, how a worker says that it does not know
//! it, what creates it, how long it lives and what ends it. The presets are such rules, `socket.io` among them.
//!
//! Here they are read, checked and made comparable; what they mean for a request stands in `affinity::rule`.

mod across;
mod presets;
mod read;

use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use hyper::header::HeaderName;

pub(super) use across::check as check_across;
pub(super) use read::{Customs, customs, follow};

use super::pattern::{JsonPath, PathPattern, Template};

/// Affinities of one upstream at most: a request keeps a bit for each.
pub const MAX_AFFINITIES: usize = 16;

/// Places of birth of one upstream at most, and ends of one rule: the same.
pub const MAX_BITS: usize = 64;

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// As `affinity` names it: a preset's word, or the user's.
    pub name: String,
    /// Whose words are spoken where data do not say all.
    pub protocol: Protocol,
    /// Where an id is born; tried in order. Empty: nowhere stickyd sees.
    pub learn: Vec<Learn>,
    /// Where it comes back; the first that is there decides.
    pub lookup: Vec<Lookup>,
    /// What a worker says that does not know it. Empty: nobody is asked for a session that is not pinned.
    pub refusal: Vec<Refusal>,
    /// Requests that make a session of an id nobody knows: never tried at one worker after the other.
    pub creates: Vec<On>,
    /// How long a session lives without activity; default 10 min.
    pub ttl: Duration,
    /// Where the worker says it, in seconds; `ttl` where it does not.
    pub ttl_from: Option<Place>,
    /// What ends a session.
    pub ends: Vec<End>,
    /// The client makes the id: hashed from the first request on, never learned.
    pub client_made: bool,
}

/// Whose words are spoken: our own refusal of a session whose worker is gone, the questions that find an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A user's rule: plain 404.
    Custom,
    /// Engine.IO: its own refusal, its `PUT` probe, its goodbye.
    SocketIo,
    /// SockJS: 404; an empty `xhr_send` asks who knows a session.
    SockJs,
    /// SignalR's 404.
    SignalR,
    /// MCP's 404 with a JSON-RPC error: the client initializes again.
    Mcp,
    /// Phoenix's 200 with status 410 in it.
    Phoenix,
    /// Bayeux: another worker refuses in words that fit the message.
    CometD,
    /// tus: 404; a `HEAD` asks who knows an upload.
    Tus,
}

/// A kind of request. What is not said may be anything.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct On {
    /// Its methods; empty: all.
    pub methods: Vec<Method>,
    /// Its path.
    pub path: Option<PathPattern>,
    /// A field it has, and a text in it (empty: any).
    pub header: Option<(HeaderName, &'static str)>,
}

/// Where an id is born: in which answer, and where in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Learn {
    /// Where in the answer.
    pub from: Place,
    /// To which request.
    pub on: On,
    /// Of which status; `None`: any success.
    pub status: Option<u16>,
    /// A JSON field that has this value, or there is none.
    pub only: Option<(JsonPath, &'static str)>,
}

/// A place in an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Place {
    /// A field of its head.
    Header(HeaderName),
    /// A cookie it sets.
    SetCookie(String),
    /// The last segment of its `Location`.
    Location,
    /// A field of its body, which is JSON.
    Json(JsonPath),
    /// Behind the beginning of its body.
    Prefix(Template),
    /// Engine.IO's open packet, in its four wrappings.
    OpenPacket,
}

impl Place {
    /// Whether it stands in the body.
    pub fn is_in_body(&self) -> bool {
        matches!(self, Self::Json(_) | Self::Prefix(_) | Self::OpenPacket)
    }
}

/// Where an id comes back.
#[derive(Debug, Clone, PartialEq)]
pub struct Lookup {
    /// Where in the request.
    pub at: Spot,
    /// In which.
    pub on: On,
    /// Bytes it has at least: what is shorter is something else of the same name.
    pub min: usize,
}

/// A place in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// A field of its head.
    Header(HeaderName),
    /// A parameter of its query, decoded; the last of several.
    Query(String),
    /// A cookie.
    Cookie(String),
    /// A segment of its path.
    Path(PathPattern),
    /// Engine.IO's `sid`.
    EngineIo,
}

/// What a worker says that does not know a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// This status with this text in its body (empty: any), or this field in its head (with this text in it).
    Answer {
        /// The status.
        status: u16,
        /// A part of the body's first 512 bytes.
        body: String,
        /// A field, and a part of its value.
        header: Option<(HeaderName, String)>,
    },
    /// Engine.IO's list (protocols §1.4).
    EngineIo,
}

/// What ends a session.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    /// A request of this kind,
    pub on: On,
    /// answered so; `None`: with any success.
    pub status: Option<u16>,
}

/// A fact of a request that chooses a worker.
#[derive(Debug, Clone, PartialEq)]
pub enum Affinity {
    /// A session's id, by a rule.
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

    /// Its word in the file.
    pub fn word(&self) -> &str {
        match self {
            Self::Rule(rule) => &rule.name,
            Self::Cookie => "cookie",
            Self::Address => "address",
        }
    }
}
