//! The four kinds of health check. Each sends a request, evaluates the response, and leaves no session open: a session
//! that it opened is closed as a client would close it, a WebSocket with a close frame.
//!
//! Opening and closing have separate time-outs, so that the session of a slow worker is closed as well.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::client::{CheckClient, CheckResponse, Fault, MAX_BODY, connect};
use super::explanation::WrongAnswer;
use crate::config::{CheckTarget, Expected, Health, HealthKind};
use crate::engine_io::{MAX_HANDSHAKE, OpenPacket, open_packet};
use crate::net::worker_io::WorkerIo;
use crate::random;
use crate::rules::contains;
use crate::upstream::worker::Worker;
use crate::websocket::upgrade;

/// Time that the worker has to send its own close frame on a WebSocket.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the checks of one worker remember from one to the next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// The Engine.IO version that the worker speaks.
    eio: u8,
    /// Whether the last check timed out. The worker may then answer the next request after the check has given up and
    /// can no longer close the session.
    silent: bool,
}

impl Memory {
    /// Starts with the newest Engine.IO version.
    pub(crate) fn new() -> Self {
        Self { eio: 4, silent: false }
    }
}

/// Checks a worker once; takes at most two time-outs.
pub(crate) async fn check(worker: &Arc<Worker>, health: &Health, memory: &mut Memory) -> Result<(), Fault> {
    let checked = match &health.kind {
        HealthKind::Tcp => within(health.timeout, connect(worker)).await.map(|_| ()),
        HealthKind::Http(target, expected) => within(health.timeout, http(worker, target, expected)).await,
        HealthKind::SocketIo(target) => socket_io(worker, target, health.timeout, memory).await,
        HealthKind::WebSocket(target) => websocket(worker, target, health.timeout).await,
    };
    memory.silent = checked == Err(Fault::TimedOut);
    checked
}

async fn within<T>(time: Duration, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(time, work).await.unwrap_or(Err(Fault::TimedOut))
}

async fn http(worker: &Arc<Worker>, target: &CheckTarget, expected: &Expected) -> Result<(), Fault> {
    let mut client = CheckClient::new(worker, target.host.as_deref());
    let mut request = client.request(Method::GET, &target.path, "")?;
    close_after(&mut request);
    let holds = |body: &[u8]| expected.body.as_deref().is_none_or(|text| contains(body, text.as_bytes()));
    let answer = client.ask(request, holds).await?;
    if !expected.status.iter().any(|range| range.contains(&answer.code())) {
        return Err(answer.wrong(WrongAnswer::Status(answer.code())));
    }
    if holds(&answer.body) { Ok(()) } else { Err(answer.wrong(WrongAnswer::Body)) }
}

fn close_after(request: &mut Request<Full<Bytes>>) {
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// A session that was opened, and how to close it.
struct CheckSession {
    path: String,
    goodbye: &'static str,
}

async fn socket_io(
    worker: &Arc<Worker>,
    target: &CheckTarget,
    time: Duration,
    memory: &mut Memory,
) -> Result<(), Fault> {
    let mut client = CheckClient::new(worker, target.host.as_deref());
    let session = within(time, open_session(&mut client, target, memory)).await?;
    within(time, async {
        let mut request = client.request(Method::POST, &session.path, session.goodbye)?;
        let text = HeaderValue::from_static("text/plain;charset=UTF-8");
        request.headers_mut().insert(header::CONTENT_TYPE, text);
        close_after(&mut request);
        let answer = client.ask(request, |_| false).await?;
        if answer.status.is_success() { Ok(()) } else { Err(answer.wrong(WrongAnswer::NotClosed(answer.code()))) }
    })
    .await
}

/// Makes the polling handshake, in the Engine.IO version that the worker speaks.
async fn open_session(
    client: &mut CheckClient<'_>,
    target: &CheckTarget,
    memory: &mut Memory,
) -> Result<CheckSession, Fault> {
    if memory.silent {
        // A stopped worker answers all waiting requests once it continues. A request with an unknown sid creates no
        // session.
        let sid = format!("{:016x}", random::u64());
        let request = client.request(Method::GET, &engine_path(&target.path, memory.eio, Some(&sid)), "")?;
        client.ask(request, |_| false).await?;
    }
    let mut answer = handshake(client, target, memory.eio).await?;
    if unsupported_version(&answer) {
        // The worker was updated, or it is of an older version. The version that works is remembered, because every
        // refusal is a line in the worker's log.
        memory.eio = if memory.eio == 4 { 3 } else { 4 };
        answer = handshake(client, target, memory.eio).await?;
    }
    if answer.status != StatusCode::OK {
        return Err(answer.wrong(WrongAnswer::Status(answer.code())));
    }
    match open_packet(&answer.body) {
        OpenPacket::Open(open) => Ok(CheckSession {
            path: engine_path(&target.path, memory.eio, Some(&open.sid)),
            // Old workers take EIO=4 for their own version, so the form of the body tells the version. A bare packet is
            // EIO4's.
            goodbye: if answer.body.starts_with(b"0") { "1" } else { "1:1" },
        }),
        OpenPacket::NeedMore | OpenPacket::NotOne => Err(answer.wrong(WrongAnswer::NoHandshake)),
    }
}

async fn handshake(client: &mut CheckClient<'_>, target: &CheckTarget, eio: u8) -> Result<CheckResponse, Fault> {
    let request = client.request(Method::GET, &engine_path(&target.path, eio, None), "")?;
    client.ask(request, |body| body.len() >= MAX_HANDSHAKE).await
}

/// Returns the polling URL. Without `b64=1` the oldest versions would answer in binary.
pub(crate) fn engine_path(path: &str, eio: u8, sid: Option<&str>) -> String {
    let joint = if path.contains('?') { '&' } else { '?' };
    let mut whole = format!("{path}{joint}EIO={eio}&transport=polling&b64=1");
    if let Some(sid) = sid {
        whole.push_str("&sid=");
        for byte in sid.bytes() {
            let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
            // Writing into a string cannot fail.
            let _ = if plain { write!(whole, "{}", char::from(byte)) } else { write!(whole, "%{byte:02X}") };
        }
    }
    whole
}

/// Whether the worker does not support the Engine.IO version. Node: `{"code":5,"message":"Unsupported protocol
/// version"}`; Python: `"The client is using an unsupported version of …"`.
fn unsupported_version(answer: &CheckResponse) -> bool {
    let body = answer.body.to_ascii_lowercase();
    answer.status == StatusCode::BAD_REQUEST && contains(&body, b"unsupported") && contains(&body, b"version")
}

async fn websocket(worker: &Arc<Worker>, target: &CheckTarget, time: Duration) -> Result<(), Fault> {
    let mut client = CheckClient::new(worker, target.host.as_deref());
    within(time, upgrade(&mut client, target)).await?;
    let farewell = async {
        if let Some(socket) = client.into_socket().await {
            say_goodbye(socket).await;
        }
    };
    // The check has passed already; how long the close takes does not matter.
    let _ = timeout(time.min(FAREWELL), farewell).await;
    Ok(())
}

async fn upgrade(client: &mut CheckClient<'_>, target: &CheckTarget) -> Result<(), Fault> {
    let key = upgrade::key(&random::bytes());
    let mut request = client.request(Method::GET, &target.path, "")?;
    let fields: [(HeaderName, HeaderValue); 4] = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
        (header::SEC_WEBSOCKET_KEY, HeaderValue::from_bytes(&key).map_err(|_| Fault::Unreachable)?),
    ];
    request.headers_mut().extend(fields);
    let upgraded = |status| status == StatusCode::SWITCHING_PROTOCOLS;
    let answer = client.ask(request, |_| true).await?;
    match upgrade::accept_for(&key) {
        Some(accept) if upgraded(answer.status) && upgrade::grants(&answer.headers, &accept) => Ok(()),
        _ if upgraded(answer.status) => Err(answer.wrong(WrongAnswer::BadUpgrade)),
        _ => Err(answer.wrong(WrongAnswer::Status(answer.code()))),
    }
}

/// Sends a close frame with code 1000, masked as a client's must be, and then reads until the worker closes as well.
async fn say_goodbye(mut socket: WorkerIo) {
    if socket.write_all(&close_frame(random::bytes())).await.is_err() {
        return;
    }
    let (mut left, mut piece) = (MAX_BODY, [0; 1024]);
    while let Ok(count @ 1..) = socket.read(&mut piece).await {
        left = left.saturating_sub(count);
        if left == 0 {
            return;
        }
    }
}

/// Returns a close frame (RFC 6455 §5.3): FIN and opcode, mask bit and length 2, the mask, and 1000 masked with it.
fn close_frame(mask: [u8; 4]) -> [u8; 8] {
    let [a, b, c, d] = mask;
    let [high, low] = 1000u16.to_be_bytes();
    [0x88, 0x82, a, b, c, d, high ^ a, low ^ b]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sid_is_escaped_in_the_polling_url() {
        assert_eq!(engine_path("/socket.io/", 4, None), "/socket.io/?EIO=4&transport=polling&b64=1");
        let strange = engine_path("/x?token=1", 3, Some("room/α b+c"));
        assert_eq!(strange, "/x?token=1&EIO=3&transport=polling&b64=1&sid=room%2F%CE%B1%20b%2Bc");
    }

    #[test]
    fn a_text_is_found_anywhere_in_a_body() {
        assert!(contains(b"status: ok", b"ok") && contains(b"", b"") && !contains(b"o", b"ok"));
    }

    #[test]
    fn close_frames_are_masked() {
        assert_eq!(close_frame([0; 4]), [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
        assert_eq!(close_frame([0xff, 0x0f, 1, 2])[6..], [0x03 ^ 0xff, 0xe8 ^ 0x0f]);
    }
}
