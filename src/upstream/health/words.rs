//! A check that can never pass, in words: what was expected, what came, and what to change.

use crate::config::{Expected, HealthKind, Target};

/// A wrong answer, as far as two of them are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Another status than expected.
    Status(u16),
    /// The right status, but the text is not in the body.
    Body,
    /// No HTTP, or the connection's end.
    NotHttp,
    /// 200, but no Engine.IO handshake.
    NoHandshake,
    /// 101, but not the one that was asked for.
    BadUpgrade,
    /// A session was opened, and closing it was answered with this.
    NotClosed(u16),
}

/// What the check wants to see.
pub(super) fn expected(kind: &HealthKind) -> String {
    match kind {
        HealthKind::Tcp => "a connect".to_owned(),
        HealthKind::Http(target, expected) => format!("{} of GET {}", wanted(expected), target.path),
        HealthKind::SocketIo(target) => format!("an Engine.IO handshake at {}, closed again by a POST", target.path),
        HealthKind::WebSocket(target) => format!("an upgrade to WebSocket (101) at {}", target.path),
    }
}

fn wanted(expected: &Expected) -> String {
    let range = |range: &std::ops::RangeInclusive<u16>| match (range.start(), range.end()) {
        (one, other) if one == other => one.to_string(),
        (from, to) => format!("{from}-{to}"),
    };
    let status = expected.status.iter().map(range).collect::<Vec<_>>().join(", ");
    match &expected.body {
        Some(text) => format!("status {status} with {text:?} in the body"),
        None => format!("status {status}"),
    }
}

/// What came instead; `said` is the beginning of the body.
pub(super) fn came(what: What, said: &str) -> String {
    let came = match what {
        What::Status(status) => format!("status {status}"),
        What::Body => "the right status, but another body".to_owned(),
        What::NotHttp => "no HTTP/1.1 answer: other bytes, or the end of the connection".to_owned(),
        What::NoHandshake => "status 200, but no handshake".to_owned(),
        What::BadUpgrade => "status 101, but without the right Upgrade, Connection and Sec-WebSocket-Accept".to_owned(),
        What::NotClosed(status) => format!("a handshake, and status {status} to the POST that closes it"),
    };
    if said.is_empty() { came } else { format!("{came} ({said})") }
}

/// What to change.
pub(super) fn advice(kind: &HealthKind, what: What, said: &str) -> String {
    match (kind, what) {
        (_, What::NotHttp) => {
            "the worker speaks no plain HTTP/1.1 here (TLS?); with kind = \"tcp\" a connect is enough".to_owned()
        }
        (_, What::Status(500..)) => {
            "the application itself says that it is not well: its log should say why; or set another `path`".to_owned()
        }
        (HealthKind::Http(target, _), _) => http_advice(target, what),
        (HealthKind::SocketIo(target), _) => socket_io_advice(target, what, said),
        (HealthKind::WebSocket(target), _) => {
            format!("there is no WebSocket at {}: set `path` to one the application upgrades", target.path)
        }
        (HealthKind::Tcp, _) => String::new(),
    }
}

fn http_advice(target: &Target, what: What) -> String {
    match what {
        What::Status(404) => format!("the application has no {}: set `path` to one it has", target.path),
        What::Status(401 | 403) => {
            "let the check in without credentials, set another `path`, or add the status to `status`".to_owned()
        }
        What::Status(400 | 421) => {
            "the application may want another Host: set `host`; or set another `path`".to_owned()
        }
        What::Body => "set `body` to a text the page has, or set another `path`".to_owned(),
        _ => "set another `path`, or add the status to `status`".to_owned(),
    }
}

fn socket_io_advice(target: &Target, what: What, said: &str) -> String {
    match what {
        What::Status(400) if said.contains("Transport unknown") => "the application allows no polling: set \
            kind = \"websocket\" and path = \"/socket.io/?EIO=4&transport=websocket\""
            .to_owned(),
        What::Status(400 | 401 | 403) => "the application turns handshakes away (allowRequest, origins or a \
            middleware; perhaps set `host`): let those of stickyd-health in, or set kind = \"http\" and a `path`"
            .to_owned(),
        What::NotClosed(_) => "several processes may share the address, or a middleware stops the POST; each check \
            leaves a session until its ping times out: set kind = \"http\" and a `path`, or kind = \"tcp\""
            .to_owned(),
        _ => {
            format!("there is no Socket.IO at {}: set `path` to the application's own, last slash and all", target.path)
        }
    }
}
