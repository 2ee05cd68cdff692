//! Names for a socket's transport, protocol, state and end, the same in API answers, filters and metrics.

/// Transport that carries a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Transport {
    /// HTTP requests, one after the other.
    Polling = 0,
    /// A tunnel over a connection of its own.
    WebSocket = 1,
    /// A tunnel over a stream of HTTP/2 (RFC 8441).
    WebSocketH2 = 2,
}

impl Transport {
    /// All transports, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Polling, Self::WebSocket, Self::WebSocketH2];

    /// Name of the transport in API answers and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Polling => "polling",
            Self::WebSocket => "websocket",
            Self::WebSocketH2 => "websocket-h2",
        }
    }
}

/// Protocol that a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// The socket is an Engine.IO session.
    EngineIo,
    /// The socket speaks any other protocol.
    Plain,
}

impl SocketKind {
    /// Name of the protocol in API answers.
    pub fn word(self) -> &'static str {
        match self {
            Self::EngineIo => "engine.io",
            Self::Plain => "plain",
        }
    }
}

/// State of a socket, as operators see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketState {
    /// Traffic passed within the last `QUIET_S` seconds.
    Open,
    /// No traffic passed in either direction for `QUIET_S` seconds.
    Quiet,
    /// The client owes an answer.
    Suspect,
    /// The worker is being drained, in maint or removed.
    Draining,
    /// One side has sent Close, or an operator has ordered it.
    Closing,
}

/// Seconds of silence after which a socket is quiet: longer than Engine.IO's 25 s between two pings.
pub(crate) const QUIET_S: u32 = 30;

impl SocketState {
    /// All states of a socket.
    pub const ALL: [Self; 5] = [Self::Open, Self::Quiet, Self::Suspect, Self::Draining, Self::Closing];

    /// Name of the state in API answers.
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

/// Reason why a socket ended; the `reason` label of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EndReason {
    /// The client ended the socket, by a Close frame or by Engine.IO's close packet.
    Client = 1,
    /// The worker sent a Close frame.
    Worker = 2,
    /// The client's connection ended without a Close frame.
    ClientGone = 3,
    /// The worker's connection ended without a Close frame, or the worker is gone.
    WorkerGone = 4,
    /// The worker refused its own session.
    Refused = 5,
    /// A polling session had no more requests, or its pin was evicted.
    Expired = 6,
    /// The socket was silent for too long.
    Idle = 7,
    /// The worker was drained, put into maint or removed.
    Drained = 8,
    /// An operator closed the socket.
    Operator = 9,
    /// stickyd itself was stopped.
    Stopped = 10,
    /// The client vanished: its kernel no longer answers, or a Ping from stickyd stayed unanswered.
    Dead = 11,
    /// A guard ended it: the token has expired or never came, or the user has too many sockets.
    Guard = 12,
}

impl EndReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Self; 12] = [
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
        Self::Guard,
    ];

    /// Name of the reason in metrics.
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
            Self::Guard => "guard",
        }
    }
}
