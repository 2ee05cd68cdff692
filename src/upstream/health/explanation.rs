//! Texts that explain a check which can never pass: what was expected, what was received, and what to change.

use crate::config::{CheckTarget, Expected, HealthKind};

/// The kind of a wrong response; responses of the same kind count as equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WrongAnswer {
    /// The status is not an expected one.
    Status(u16),
    /// The status is right, but the body does not contain the text.
    Body,
    /// The response is not HTTP, or the connection ended.
    NotHttp,
    /// The status is 200, but the body is not an Engine.IO handshake.
    NoHandshake,
    /// The status is 101, but the upgrade is not the requested one.
    BadUpgrade,
    /// A session was opened, and the request to close it got this status.
    NotClosed(u16),
}

/// Returns what the check expects.
pub(crate) fn expected(kind: &HealthKind) -> String {
    match kind {
        HealthKind::Tcp => "a successful connect".to_owned(),
        HealthKind::Http(target, expected) => format!("{} of GET {}", wanted(expected), target.path),
        HealthKind::SocketIo(target) => format!("an Engine.IO handshake at {}, and a POST that closes it", target.path),
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

/// Returns what was received instead; `said` is the beginning of the body.
pub(crate) fn came(what: WrongAnswer, said: &str) -> String {
    let came = match what {
        WrongAnswer::Status(status) => format!("status {status}"),
        WrongAnswer::Body => "the expected status, but another body".to_owned(),
        WrongAnswer::NotHttp => "no HTTP/1.1 response, but other bytes or the end of the connection".to_owned(),
        WrongAnswer::NoHandshake => "status 200, but no handshake".to_owned(),
        WrongAnswer::BadUpgrade => {
            "status 101, but without the right Upgrade, Connection and Sec-WebSocket-Accept".to_owned()
        }
        WrongAnswer::NotClosed(status) => {
            format!("a handshake, but status {status} for the POST that closes the session")
        }
    };
    if said.is_empty() { came } else { format!("{came} ({said})") }
}

/// Returns advice on what to change.
pub(crate) fn advice(kind: &HealthKind, what: WrongAnswer, said: &str) -> String {
    match (kind, what) {
        (_, WrongAnswer::NotHttp) => {
            "the worker does not speak plain HTTP/1.1 (TLS?); set kind = \"tcp\" if a connect is enough".to_owned()
        }
        (_, WrongAnswer::Status(500..)) => {
            "the application reports an error of its own: see its log, or set another `path`".to_owned()
        }
        (HealthKind::Http(target, _), _) => http_advice(target, what),
        (HealthKind::SocketIo(target), _) => socket_io_advice(target, what, said),
        (HealthKind::WebSocket(target), _) => {
            format!("the application has no WebSocket at {}: set `path` to one that it upgrades", target.path)
        }
        (HealthKind::Tcp, _) => String::new(),
    }
}

fn http_advice(target: &CheckTarget, what: WrongAnswer) -> String {
    match what {
        WrongAnswer::Status(404) => format!("the application has no {}: set `path` to one that it serves", target.path),
        WrongAnswer::Status(401 | 403) => {
            "allow the check without credentials, set another `path`, or add the status to `status`".to_owned()
        }
        WrongAnswer::Status(400 | 421) => {
            "the application may require another Host: set `host`, or set another `path`".to_owned()
        }
        WrongAnswer::Body => "set `body` to a text that the page contains, or set another `path`".to_owned(),
        _ => "set another `path`, or add the status to `status`".to_owned(),
    }
}

fn socket_io_advice(target: &CheckTarget, what: WrongAnswer, said: &str) -> String {
    match what {
        WrongAnswer::Status(400) if said.contains("Transport unknown") => {
            "the application does not allow polling: set \
            kind = \"websocket\" and path = \"/socket.io/?EIO=4&transport=websocket\""
                .to_owned()
        }
        WrongAnswer::Status(400 | 401 | 403) => "the application rejects handshakes (allowRequest, origins or a \
            middleware; perhaps set `host`): allow those of stickyd-health, or set kind = \"http\" and a `path`"
            .to_owned(),
        WrongAnswer::NotClosed(_) => {
            "several processes may share the address, or a middleware rejects the POST; each check \
            leaves a session until its ping times out: set kind = \"http\" and a `path`, or kind = \"tcp\""
                .to_owned()
        }
        _ => {
            format!("there is no Socket.IO at {}: set `path` to the application's, with its last slash", target.path)
        }
    }
}
