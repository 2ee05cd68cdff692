//! Judges the packets of sessions whose token comes in a CONNECT packet: every POST is read whole, and goes on only if
//! all of its packets may. A refused session is told why by its next answer to a poll, and ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use hyper::{Method, Request, Response, header};

use super::Job;
use super::respond::{self, Problem};
use super::response_body::Reply;
use super::told_refusals;
use crate::body::Outgoing;
use crate::clock;
use crate::config::guards::Refuse;
use crate::engine_io::{self, PacketKind, packet_kind};
use crate::jwt::TokenFault;
use crate::keys::Key;
use crate::route::guard::GuardRefusal;
use crate::route::jwt::{PacketJudge, PacketRefusal};
use crate::route::live_keys::{self, Refused};
use crate::route::person::{Person, PersonRefusal};
use crate::sockets::{EndReason, Transport};
use crate::state::ReplayRoom;
use crate::state::admissions;
use crate::state::told::ToldReason;
use crate::telemetry::say_full;

/// Maximum size of a POST where the upstream sets no `max_body`: what Engine.IO itself accepts (`maxHttpBufferSize`).
const MAX_POST: u64 = 1_000_000;

/// Time limit for a POST to be complete, because it takes room that all requests share.
const POST_WITHIN: Duration = Duration::from_secs(30);

/// Returns the client of a session; a session that is not remembered was found at a worker.
pub(super) fn person(job: &Job, key: Key) -> Arc<Person> {
    let shared = &job.conn.thread.shared;
    shared.admissions.person(key).unwrap_or_else(|| {
        let person = Arc::new(Person::found());
        shared.admissions.remember(shared, key, job.client, person.clone());
        person
    })
}

/// Judges the packets that a request of the session brings. Polls bring none.
///
/// # Errors
/// The answer to a request that may not go on.
pub(super) async fn judge(job: &mut Job, key: Key, request: &mut Request<Outgoing>) -> Result<(), Response<Reply>> {
    let person = person(job, key);
    if job.ask.upgrade.is_some() && person.is_refused() {
        // The client still polls, and is told by the answer to a poll.
        return Err(respond::refused(job));
    }
    if request.body().is_end_stream() && matches!(*request.method(), Method::GET | Method::HEAD | Method::POST) {
        return Ok(());
    }
    let Some(watch) = job.watch.clone() else { return Ok(()) };
    let Some(guard) = &watch.jwt else { return Ok(()) };
    let body = std::mem::replace(request.body_mut(), Outgoing::EMPTY);
    let body = read(job, body).await.map_err(respond::problem)?;
    let mut judge = PacketJudge::new(guard, &person, live_keys::now());
    let is_coded = request.headers().contains_key(header::CONTENT_ENCODING);
    // What does not pass, the judge notes: each namespace is told about.
    match is_coded {
        // Some servers decode bodies.
        true => _ = judge.pass(PacketKind::Unreadable, &[]),
        false => engine_io::packets(&body).for_each(|packet| _ = judge.pass(packet_kind(packet, true), packet)),
    }
    let PacketJudge { admitted, refused, .. } = judge;
    if admitted {
        job.settle(key);
    }
    match refused.first() {
        None => {
            *request.body_mut() = Outgoing::held(body);
            Ok(())
        }
        Some(first) => Err(refuse(job, key, &person, guard.refuse(), first.why, &refused, request)),
    }
}

/// Reads a body whole, within the room that all requests share.
async fn read(job: &mut Job, mut body: Outgoing) -> Result<Bytes, Problem> {
    let limit = job.upstream.config.max_body.unwrap_or(MAX_POST);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let shared = &job.conn.thread.shared;
    let mut room = ReplayRoom::none(shared, shared.sessions.keys.address(job.client.key()));
    let mut held = Vec::new();
    let reads = async {
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| Problem::BadRequest("the request body broke off"))?.into_data() else {
                continue;
            };
            if held.len().saturating_add(data.len()) > limit {
                return Err(Problem::TooLarge);
            }
            if !room.grow(data.len(), limit) {
                say_full!("no room to hold request bodies that are judged ([limits] replay_bytes)");
                return Err(Problem::Full("no room to hold the request body"));
            }
            held.extend_from_slice(&data);
        }
        Ok(())
    };
    tokio::time::timeout(POST_WITHIN, reads).await.map_err(|_| Problem::Slow)??;
    job.room = Some(room);
    Ok(held.into())
}

/// Refuses a body: the session ends, and its client is told why. `first` is why its first packet does not pass that
/// must not, `refused` are all refusals.
fn refuse(
    job: &Job,
    key: Key,
    person: &Person,
    refuse: Refuse,
    first: Refused,
    refused: &[PacketRefusal],
    request: &Request<Outgoing>,
) -> Response<Reply> {
    let shared = &job.conn.thread.shared;
    let turned = GuardRefusal::of_token(first, refuse);
    job.upstream.series().turned(turned.label());
    let fault = match first {
        Refused::NoKeys(_) => return respond::turned_away(turned, false, request.uri().query(), request.headers()),
        Refused::Fault(fault) => fault,
    };
    if person.is_found() && fault == TokenFault::Missing {
        // Another stickyd may have admitted the client: it begins a new session.
        shared.sessions.forget(key, EndReason::Guard);
        return respond::refused(job);
    }
    let mut is_told = refuse == Refuse::Told;
    for PacketRefusal { why, namespace } in refused {
        if !is_told {
            break;
        }
        let Refused::Fault(fault) = why else { continue };
        let (reason, namespace) = (ToldReason::Token(*fault), namespace.clone().unwrap_or_default());
        let client = job.client.key();
        is_told &= shared.admissions.told.say(key, client, reason, namespace.clone(), clock::now_ms());
        if is_told {
            person.refuse(PersonRefusal { message: reason.message(), code: reason.code(), namespace });
        }
    }
    let socket = shared.sessions.socket(key);
    // A client that is just moving to a WebSocket hears nothing there until it has moved; its gate then tells it.
    if let Some(socket) = socket.filter(|socket| !is_told || socket.transport() != Transport::Polling) {
        admissions::close(shared, &socket, 1008, fault.code());
    }
    shared.sessions.end_by_guard(key);
    match is_told {
        true => told_refusals::post_taken(ToldReason::Token(fault), job.ask.origin.as_ref()),
        false => respond::turned_away(
            GuardRefusal::Token(fault, Refuse::Http),
            false,
            request.uri().query(),
            request.headers(),
        ),
    }
}
