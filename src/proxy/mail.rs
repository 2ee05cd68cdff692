//! The polls of a session in the delivery of queued messages (`crate::queue`): an answer says which namespaces are
//! connected, and takes the packets that wait for it; the next poll shows that the client has read them.
//!
//! Only for upstreams with an `offline_queue`. An answer is read whole if it is short, which answers to polls are; a
//! long one passes as it comes, and takes nothing. Scripts (JSONP) and compressed answers take nothing either.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body as _, Frame};
use hyper::header::{self, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Request, StatusCode};

use super::Job;
use super::learn;
use super::respond::Problem;
use super::response_body::WorkerBody;
use crate::affinity::ask::RequestKind;
use crate::body::Outgoing;
use crate::engine_io::{self, PollFormat};
use crate::sockets::{Mailbag, SocketKind};

/// Maximum length of an answer that is read whole.
const LONGEST: usize = 64 * 1024;

/// Time that an answer waits while Redis is asked for the first messages of its session.
const ASKED: Duration = Duration::from_millis(50);

/// Whether the request is a poll in whose answer messages may go.
pub(super) fn concerns(job: &Job) -> bool {
    job.upstream.config.offline_queue.is_some() && job.ask.is_poll()
}

/// Notes that the client polls, and asks for an answer that packets can be added to.
pub(super) fn polls(job: &Job, request: &mut Request<Outgoing>) {
    if let Some(bag) = bag(job) {
        bag.polls();
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
}

fn bag(job: &Job) -> Option<Arc<Mailbag>> {
    let RequestKind::Session { key, .. } = job.ask.kind else { return None };
    let socket = job.conn.thread.shared.sessions.socket(key)?;
    if socket.kind() != SocketKind::EngineIo {
        return None;
    }
    let bag = socket.mailbag_or_new();
    if job.ask.engine.is_some_and(|engine| engine.format == PollFormat::Counted) {
        // In protocol 3 the handshake connects `/`.
        job.conn.thread.shared.queues.connected(&bag, "");
    }
    Some(bag)
}

/// Looks at an answer to a poll, and adds the packets that wait.
///
/// # Errors
/// The answer broke off.
pub(super) async fn add(
    job: &Job,
    parts: &mut Parts,
    held: &mut VecDeque<Frame<Bytes>>,
    answer: &mut WorkerBody,
) -> Result<(), Problem> {
    let Some(format) = job.ask.engine.map(|engine| engine.format) else { return Ok(()) };
    if format == PollFormat::Other {
        if let Some(bag) = bag(job) {
            bag.cannot_hear();
        }
        return Ok(());
    }
    let length = answer.size_hint().lower().saturating_add(held_bytes(held));
    if parts.status != StatusCode::OK
        || parts.headers.contains_key(header::CONTENT_ENCODING)
        || length > LONGEST as u64
        || !is_text(parts)
    {
        return Ok(());
    }
    let Some(bag) = bag(job) else { return Ok(()) };
    let body = learn::beginning(answer, held, LONGEST).await?;
    let packets = engine_io::posted_packets(format, &body);
    for packet in &packets {
        if let Some(namespace) = engine_io::connected_namespace(packet) {
            job.conn.thread.shared.queues.connected(&bag, &namespace);
        } else if let Some(namespace) = engine_io::disconnected_namespace(packet) {
            bag.disconnected(&namespace);
        }
    }
    let ends = packets.contains(&&b"1"[..]);
    if !answer.is_end_stream() || ends || body.is_empty() {
        return Ok(());
    }
    bag.asked(ASKED).await;
    let Some(added) = bag.take_offer() else { return Ok(()) };
    let Some(whole) = format.with_more(&body, &added) else { return Ok(()) };
    if parts.headers.contains_key(header::CONTENT_LENGTH) {
        parts.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(whole.len()));
    }
    held.clear();
    held.push_back(Frame::data(whole.into()));
    Ok(())
}

fn held_bytes(held: &VecDeque<Frame<Bytes>>) -> u64 {
    held.iter().filter_map(|frame| frame.data_ref()).map(|data| data.len() as u64).sum()
}

/// Binary payloads of protocol 3 have another form.
fn is_text(parts: &Parts) -> bool {
    let kind = parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.and_then(|kind| kind.get(..5)).is_some_and(|kind| kind.eq_ignore_ascii_case(b"text/"))
}
