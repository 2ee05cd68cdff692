//! What is recorded about a request when it is over: its metrics, its line in the access log, and the guards that are
//! released with it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::access_line::{AccessLine, Outcome, UNANSWERED};
#[cfg(feature = "otel")]
use super::headers;
use super::request_timeout::Overdue;
use super::respond::{self, OwnReason};
use super::response_body::Reply;
use crate::affinity::SessionHold;
use crate::affinity::ask::{RequestFacts, RequestKind};
use crate::client::Client;
use crate::listener::conn::Conn;
use crate::metrics::{AnsweredBy, SourceLabel};
use crate::min_rate::Transfer;
use crate::state::GlobalRules;
#[cfg(feature = "otel")]
use crate::traces::RequestOrigin;
use crate::traces::RequestTrace;
use crate::upstream::Upstream;
use crate::upstream::worker::{Count, Worker};
use hyper::header::HeaderMap;
use hyper::{Request, Response, StatusCode};

/// Follows a request until the last byte of its response.
pub struct Record {
    conn: Rc<Conn>,
    started: Instant,
    upstream: Option<Arc<Upstream>>,
    /// Whether the request passed the guards and limits of its upstream.
    served: bool,
    poll: bool,
    /// Status of the answer; `None` while there is none.
    status: Option<StatusCode>,
    /// Whether the answer is a worker's.
    by_worker: bool,
    cut: bool,
    tunnel: bool,
    /// Whether the request asks for a tunnel.
    asks_tunnel: bool,
    /// Body bytes sent to the client.
    pub bytes_down: u64,
    /// The request body, whose bytes are counted as they arrive; `None` for a request without a body.
    pub(crate) upload: Option<Rc<Transfer>>,
    in_flight: Option<Count>,
    hold: Option<SessionHold>,
    line: Option<Box<AccessLine>>,
    /// The trace of the request.
    pub(crate) trace: RequestTrace,
    /// The deadline of the response, if the upstream sets `request_timeout`.
    pub overdue: Option<Box<Overdue>>,
    /// The last routing decision; kept only if the upstream adds it to responses (`debug_header`).
    decision: Option<(Arc<Worker>, SourceLabel)>,
    /// Index of the affinity rule that recognised the session; `None` for `socket.io`.
    rule: Option<u8>,
}

impl Record {
    /// Starts the record when the head of a request has arrived.
    pub fn begin<B>(conn: &Rc<Conn>, request: &Request<B>) -> Box<Self> {
        conn.begin_request();
        let snapshot = conn.thread.shared.snapshot.load();
        let trace = begin_trace(conn, &snapshot.rules, request);
        let sink = snapshot.rules.access_log.clone();
        let line = sink.map(|sink| AccessLine::begin(conn, request, trace.own_context(), sink));
        Box::new(Self {
            conn: conn.clone(),
            started: Instant::now(),
            upstream: None,
            served: false,
            poll: false,
            status: None,
            by_worker: false,
            cut: false,
            tunnel: false,
            asks_tunnel: false,
            bytes_down: 0,
            upload: None,
            in_flight: None,
            hold: None,
            line,
            trace,
            overdue: None,
            decision: None,
            rule: None,
        })
    }

    /// Notes the upstream to which the request is routed, even if a guard or a limit refuses it there.
    pub fn routed(&mut self, upstream: &Arc<Upstream>) {
        self.upstream = Some(upstream.clone());
    }

    /// Notes the session and the client of a request that its upstream serves.
    pub fn concerns(&mut self, upstream: &Arc<Upstream>, ask: &RequestFacts, client: Client) {
        if let Some(line) = &mut self.line {
            line.client = client.address;
        }
        self.trace.comes_from(client.address);
        self.served = true;
        self.poll = matches!(ask.kind, RequestKind::Session { poll: true, .. });
        self.rule = match ask.kind {
            RequestKind::Session { rule, .. } if !ask.is_engine_io(upstream) => Some(rule),
            _ => None,
        };
        self.asks_tunnel = ask.upgrade.is_some();
        if self.asks_tunnel {
            upstream.series().upgrades_asked.inc();
        }
    }

    /// Notes the client of a request that is not forwarded.
    pub fn comes_from(&mut self, client: Client) {
        self.trace.comes_from(client.address);
        if let Some(line) = &mut self.line {
            line.client = client.address;
        }
    }

    /// Notes the head with which the request goes to workers.
    pub fn sends(&mut self, headers: &HeaderMap) {
        if let Some(line) = &mut self.line {
            line.sends(headers);
        }
    }

    /// Counts one attempt to send the request to a worker.
    pub fn tries(&mut self) {
        if let Some(line) = &mut self.line {
            line.attempts = line.attempts.saturating_add(1);
        }
    }

    /// Returns the number of body bytes that the client has sent.
    fn bytes_up(&self) -> u64 {
        self.upload.as_ref().map_or(0, |upload| upload.total())
    }

    /// Notes which worker was chosen, and why.
    pub fn decided(&mut self, worker: &Arc<Worker>, why: SourceLabel) {
        if let Some(upstream) = &self.upstream {
            upstream.series().decided(why);
            self.trace.decided(&upstream.config.name, why.word());
            if upstream.config.debug_header {
                self.decision = Some((worker.clone(), why));
            }
        }
        if let Some(line) = &mut self.line {
            line.worker = Some(worker.clone());
            line.why = Some(why);
        }
    }

    /// Notes that a worker responded. `in_flight` and `hold` are released with the last byte of the response.
    pub fn answered(&mut self, worker: &Worker, status: StatusCode, in_flight: Count, hold: Option<SessionHold>) {
        worker.series.answered(status.as_u16());
        self.in_flight = Some(in_flight);
        self.hold = hold;
        self.passes_on();
    }

    /// Notes that the client gets a worker's answer.
    pub fn passes_on(&mut self) {
        self.by_worker = true;
    }

    /// Notes that the request became a tunnel, which keeps its own counts.
    pub fn became_tunnel(&mut self) {
        self.tunnel = true;
        self.passes_on();
    }

    /// Notes that the worker's response broke off.
    pub fn cut_off(&mut self) {
        self.cut = true;
    }

    /// Attaches the record to the response, with which it ends.
    pub fn finish(mut self: Box<Self>, response: &mut Response<Reply>) {
        self.answers(response);
        if self.served && self.upstream.as_ref().is_some_and(|upstream| upstream.config.debug_header) {
            let decision = self.decision.as_ref().map(|(worker, why)| (worker.name.as_str(), why.word(), self.rule()));
            respond::explain(decision, response);
        }
        response.body_mut().attach(self);
    }

    /// Notes and counts the answer.
    fn answers(&mut self, response: &mut Response<Reply>) {
        let own = response.extensions_mut().remove::<OwnReason>();
        let by = if self.by_worker && own.is_none() { AnsweredBy::Worker } else { AnsweredBy::Stickyd };
        self.status = Some(response.status());
        self.trace.answered(response.status(), own.as_ref().map(|OwnReason(reason)| *reason));
        if self.tunnel {
            self.trace.end(false);
        }
        if let Some(line) = &mut self.line {
            line.first_byte = Some(self.started.elapsed());
            line.reason = own.map(|OwnReason(reason)| reason);
        }
        // Over HTTP/2 such an answer would open a tunnel. `listener::h2` replaces it by another one, which is counted.
        let is_replaced =
            self.conn.http2 && self.asks_tunnel && response.status().is_success() && !response.body().is_tunnel();
        if !is_replaced {
            let unrouted = &self.conn.thread.shared.metrics.responses.unrouted;
            let series = self.upstream.as_ref().map_or(unrouted, |upstream| &upstream.series().responses);
            series.count(by, response.status().as_u16());
        }
    }

    /// Whether the client has not yet taken the part of the response that was already written.
    pub fn is_blocked(&self) -> bool {
        self.conn.is_blocked()
    }

    /// The name of the affinity rule that recognised the session.
    fn rule(&self) -> Option<&str> {
        let live = self.upstream.as_ref()?.rules.get(usize::from(self.rule?))?;
        Some(&live.rule.name)
    }

    fn write_line(&self) {
        let Some(line) = &self.line else { return };
        line.write(&Outcome {
            upstream: self.upstream.as_ref().map(|upstream| upstream.config.name.as_str()),
            status: self.status.map_or(UNANSWERED, |status| status.as_u16()),
            bytes_up: self.bytes_up(),
            bytes_down: self.bytes_down,
            took: self.started.elapsed(),
            cut: self.cut,
            poll: self.poll,
        });
    }
}

#[cfg(feature = "otel")]
fn begin_trace<B>(conn: &Conn, rules: &GlobalRules, request: &Request<B>) -> RequestTrace {
    let origin = || {
        let client = headers::client(conn, request.headers());
        RequestOrigin { client: client.address, trusted: conn.trusted, secure: client.secure, http2: conn.http2 }
    };
    RequestTrace::begin(&conn.thread.shared.traces, rules.telemetry.as_ref(), request, origin)
}

#[cfg(not(feature = "otel"))]
fn begin_trace<B>(_: &Conn, _: &GlobalRules, _: &Request<B>) -> RequestTrace {
    RequestTrace
}

impl Drop for Record {
    fn drop(&mut self) {
        if let (Some(upstream), true, false) = (&self.upstream, self.served, self.tunnel) {
            let series = upstream.series();
            let seconds = if self.poll { &series.poll_seconds } else { &series.request_seconds };
            let (now, bytes_up) = (Instant::now(), self.bytes_up());
            seconds.observe(now.duration_since(self.started).as_secs_f64());
            if let Some(hold) = &mut self.hold {
                hold.moved(bytes_up, self.bytes_down, now);
            }
            series.bytes_up.inc_by(bytes_up);
            series.bytes_down.inc_by(self.bytes_down);
        }
        self.conn.finish_request();
        self.trace.end(self.cut);
        self.write_line();
    }
}
