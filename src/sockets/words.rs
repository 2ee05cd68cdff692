//! The closed sets of words that tell what a socket is, in answers, filters and metrics alike.

/// How a socket's bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Transport {
    /// One request after the other.
    Polling = 0,
    /// A tunnel over a connection of its own.
    WebSocket = 1,
    /// A tunnel over a stream of HTTP/2 (RFC 8441).
    WebSocketH2 = 2,
}

impl Transport {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Polling, Self::WebSocket, Self::WebSocketH2];

    /// The word for it in answers and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::WebSocket => "websocket",
            Self::WebSocketH2 => "websocket-h2",
        }
    }
}

/// What speaks on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An Engine.IO session.
    EngineIo,
    /// Whatever a WebSocket may carry.
    Plain,
}

impl Kind {
    /// The word for it in answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::EngineIo => "engine.io",
            Self::Plain => "plain",
        }
    }
}

/// What a socket is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It was heard of a moment ago.
    Open,
    /// Nothing either way for `QUIET_S`.
    Quiet,
    /// Its client owes an answer.
    Suspect,
    /// Its worker is drained, in maint or removed.
    Draining,
    /// One side has said Close, or it was told to.
    Closing,
}

/// Seconds of silence after which a socket is quiet: longer than Engine.IO's 25 s between two pings.
pub(super) const QUIET_S: u32 = 30;

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Open, Self::Quiet, Self::Suspect, Self::Draining, Self::Closing];

    /// The word for it in answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Quiet => "quiet",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Closing => "closing",
        }
    }
}

/// Why a socket is no more; the `reason` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum End {
    /// The client said goodbye: a Close frame, or Engine.IO's close packet.
    Client = 1,
    /// The worker said Close.
    Worker = 2,
    /// The client's connection ended without a word.
    ClientGone = 3,
    /// The worker's connection ended without a word, or the worker is gone.
    WorkerGone = 4,
    /// The worker refused its own session.
    Refused = 5,
    /// A polling session nobody asked for any more, or whose pin made room.
    Expired = 6,
    /// It was silent for too long.
    Idle = 7,
    /// Its worker was drained, put to maint or removed.
    Drained = 8,
    /// An operator closed it.
    Operator = 9,
    /// stickyd stopped.
    Stopped = 10,
    /// Its client vanished: its kernel answers no more, or it left a Ping of ours unanswered.
    Dead = 11,
}

impl End {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 11] = [
        Self::Client,
        Self::Worker,
        Self::ClientGone,
        Self::WorkerGone,
        Self::Refused,
        Self::Expired,
        Self::Idle,
        Self::Drained,
        Self::Operator,
        Self::Stopped,
        Self::Dead,
    ];

    /// The word for it in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Worker => "worker",
            Self::ClientGone => "client_gone",
            Self::WorkerGone => "worker_gone",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Drained => "drained",
            Self::Operator => "operator",
            Self::Stopped => "stopped",
            Self::Dead => "dead",
        }
    }
}
