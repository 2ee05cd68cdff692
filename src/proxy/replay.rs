//! A request that may have to be sent again: its head, and its body once the body is held.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Body as _;
use hyper::http::request;

use super::Job;
use super::respond::Problem;
use crate::body::Outgoing;
use crate::state::ReplayRoom;
use crate::telemetry::say_full;

/// Time limit for a body that is held for replay to be complete, because it takes room that all requests share.
const HOLD: Duration = Duration::from_secs(30);

/// A request that may be sent several times once its body is held, and only once if the body is not held or is too
/// large.
pub(crate) struct Copies {
    pub(crate) head: Request<Outgoing>,
    body: Body,
    room: ReplayRoom,
}

enum Body {
    Held(Bytes),
    /// The body streams to the first worker asked; `None` after that.
    Once(Option<Outgoing>),
    /// The body cannot be held and streams to the first worker asked; `None` after that.
    Unheld(Option<Outgoing>, Unheld),
}

/// Why a body cannot be held.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unheld {
    TooLarge,
    NoRoom,
}

impl Copies {
    pub(crate) fn of(job: &Job, request: Request<Outgoing>) -> Self {
        let (parts, body) = request.into_parts();
        let body = if body.is_end_stream() { Body::Held(Bytes::new()) } else { Body::Once(Some(body)) };
        let shared = &job.conn.thread.shared;
        let room = ReplayRoom::none(shared, shared.sessions.keys.address(job.client.key()));
        Self { head: Request::from_parts(parts, Outgoing::EMPTY), body, room }
    }

    /// Holds the body, unless it is being sent already. It is limited by the upstream's largest payload and the room
    /// that all requests share.
    pub(crate) async fn hold(&mut self, job: &Job) -> Result<(), Problem> {
        let Body::Once(once) = &mut self.body else { return Ok(()) };
        let Some(body) = once.take() else { return Ok(()) };
        let held = Self::read(body, &mut self.room, job.upstream.max_replay());
        self.body = tokio::time::timeout(HOLD, held).await.map_err(|_| Problem::Slow)??;
        Ok(())
    }

    async fn read(mut body: Outgoing, room: &mut ReplayRoom, limit: usize) -> Result<Body, Problem> {
        let mut held = Vec::new();
        while !body.is_end_stream() {
            let too_large = body.size_hint().lower().saturating_add(held.len() as u64) > limit as u64;
            if too_large || held.len() > limit {
                return Ok(Body::Unheld(Some(body.after(held.into())), Unheld::TooLarge));
            }
            let Some(frame) = body.frame().await else { break };
            let frame = frame.map_err(|_| Problem::BadRequest("the request body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if !room.grow(data.len(), limit) {
                say_full!(
                    "no room to hold request bodies for replay: all of it, or an address's share of an eighth, \
                    is in use ([limits] replay_bytes)"
                );
                held.extend_from_slice(&data);
                return Ok(Body::Unheld(Some(body.after(held.into())), Unheld::NoRoom));
            }
            held.extend_from_slice(&data);
        }
        Ok(Body::Held(held.into()))
    }

    /// Whether the request can be sent only once, because its body is not held.
    pub(crate) fn is_for_one(&self) -> bool {
        matches!(self.body, Body::Unheld(..))
    }

    /// Whether the body is not held because there was no room for it.
    pub(crate) fn has_no_room(&self) -> bool {
        matches!(self.body, Body::Unheld(_, Unheld::NoRoom))
    }

    /// Takes back a request that was not sent.
    pub(crate) fn take_back(&mut self, request: Request<Outgoing>) {
        if let Body::Once(stream) | Body::Unheld(stream, _) = &mut self.body {
            *stream = Some(request.into_body());
        }
    }

    pub(crate) fn next(&mut self) -> Option<Request<Outgoing>> {
        let body = match &mut self.body {
            Body::Held(bytes) => Outgoing::held(bytes.clone()),
            Body::Once(stream) | Body::Unheld(stream, _) => stream.take()?,
        };
        Some(Request::from_parts(copy_head(&self.head), body))
    }
}

fn copy_head(request: &Request<Outgoing>) -> request::Parts {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy.into_parts().0
}
