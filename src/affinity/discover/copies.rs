//! A request that may have to be sent again: its head, and its body once that is held.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Body as _;
use hyper::http::request;

use crate::proxy::Job;
use crate::proxy::body::Outgoing;
use crate::proxy::respond::Problem;
use crate::state::Room;
use crate::telemetry::say_full;

/// A body that is held for replay must be whole within this: it takes room that all share.
const HOLD: Duration = Duration::from_secs(30);

/// A request that may be sent more than once, once its body is held; only once when that is not held, or too large.
pub(super) struct Copies {
    pub(super) head: Request<Outgoing>,
    body: Body,
    room: Room,
}

enum Body {
    Held(Bytes),
    /// Streams to the first worker asked; gone after that.
    Once(Option<Outgoing>),
    /// The same, because it is too large to be held.
    TooLarge(Option<Outgoing>),
}

impl Copies {
    pub(super) fn of(job: &Job, request: Request<Outgoing>) -> Self {
        let (parts, body) = request.into_parts();
        let body = if body.is_end_stream() { Body::Held(Bytes::new()) } else { Body::Once(Some(body)) };
        let room = Room::none(&job.conn.thread.shared);
        Self { head: Request::from_parts(parts, Outgoing::EMPTY), body, room }
    }

    /// Holds the body, up to the upstream's largest payload and within the room of all, unless it is on its way already.
    pub(super) async fn hold(&mut self, job: &Job) -> Result<(), Problem> {
        let Body::Once(once) = &mut self.body else { return Ok(()) };
        let Some(body) = once.take() else { return Ok(()) };
        let held = Self::read(body, &mut self.room, job.upstream.max_replay());
        self.body = tokio::time::timeout(HOLD, held).await.map_err(|_| Problem::Slow)??;
        Ok(())
    }

    async fn read(mut body: Outgoing, room: &mut Room, limit: usize) -> Result<Body, Problem> {
        let mut held = Vec::new();
        while !body.is_end_stream() {
            let too_large = body.size_hint().lower().saturating_add(held.len() as u64) > limit as u64;
            if too_large || held.len() > limit {
                return Ok(Body::TooLarge(Some(body.after(held.into()))));
            }
            let Some(frame) = body.frame().await else { break };
            let frame = frame.map_err(|_| Problem::BadRequest("the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if !room.grow(data.len()) {
                say_full!("no room to hold request bodies for replay ([limits] replay_bytes)");
                return Err(Problem::Full("too many request bodies are held"));
            }
            held.extend_from_slice(&data);
        }
        Ok(Body::Held(held.into()))
    }

    /// A request that was not sent.
    pub(super) fn take_back(&mut self, request: Request<Outgoing>) {
        if let Body::Once(stream) | Body::TooLarge(stream) = &mut self.body {
            *stream = Some(request.into_body());
        }
    }

    pub(super) fn next(&mut self) -> Option<Request<Outgoing>> {
        let body = match &mut self.body {
            Body::Held(bytes) => Outgoing::held(bytes.clone()),
            Body::Once(stream) | Body::TooLarge(stream) => stream.take()?,
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
