//! What is recorded about a request when it is over: its metrics, its line in the access log, and the guards that are
//! released with it.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::request_timeout::Overdue;
use super::respond;
use super::response_body::Reply;
use crate::affinity::SessionHold;
use crate::affinity::ask::{RequestFacts, RequestKind};
use crate::client::Client;
use crate::listener::conn::Conn;
use crate::metrics::SourceLabel;
use crate::min_rate::Transfer;
use crate::upstream::Upstream;
use crate::upstream::worker::{Count, Worker};
use hyper::{Method, Request, Response, StatusCode, Uri};

/// Follows a request until the last byte of its response.
pub struct Record {
    conn: Rc<Conn>,
    started: Instant,
    upstream: Option<Arc<Upstream>>,
    poll: bool,
    status: StatusCode,
    cut: bool,
    tunnel: bool,
    /// Body bytes sent to the client.
    pub bytes_down: u64,
    /// The request body, whose bytes are counted as they arrive; `None` for a request without a body.
    pub(crate) upload: Option<Rc<Transfer>>,
    in_flight: Option<Count>,
    hold: Option<SessionHold>,
    line: Option<Box<AccessLine>>,
    /// The deadline of the response, if the upstream sets `request_timeout`.
    pub overdue: Option<Box<Overdue>>,
    /// The last routing decision; kept only if the upstream adds it to responses (`debug_header`).
    decision: Option<(Arc<Worker>, SourceLabel)>,
    /// Index of the affinity rule that recognised the session; `None` for `socket.io`.
    rule: Option<u8>,
}

/// Values that are needed only for the access log.
struct AccessLine {
    client: IpAddr,
    method: Method,
    uri: Uri,
    worker: Option<Arc<Worker>>,
    why: Option<SourceLabel>,
}

impl Record {
    /// Starts the record when the head of a request has arrived.
    pub fn begin<B>(conn: &Rc<Conn>, request: &Request<B>) -> Box<Self> {
        conn.begin_request();
        let line = conn.thread.shared.snapshot.load().rules.access_log.then(|| {
            Box::new(AccessLine {
                client: conn.peer_ip,
                method: request.method().clone(),
                uri: request.uri().clone(),
                worker: None,
                why: None,
            })
        });
        Box::new(Self {
            conn: conn.clone(),
            started: Instant::now(),
            upstream: None,
            poll: false,
            status: StatusCode::OK,
            cut: false,
            tunnel: false,
            bytes_down: 0,
            upload: None,
            in_flight: None,
            hold: None,
            line,
            overdue: None,
            decision: None,
            rule: None,
        })
    }

    /// Notes the upstream, the session and the client of the request.
    pub fn concerns(&mut self, upstream: &Arc<Upstream>, ask: &RequestFacts, client: Client) {
        if let Some(line) = &mut self.line {
            line.client = client.address;
        }
        self.upstream = Some(upstream.clone());
        self.poll = matches!(ask.kind, RequestKind::Session { poll: true, .. });
        self.rule = match ask.kind {
            RequestKind::Session { rule, .. } if !ask.is_engine_io(upstream) => Some(rule),
            _ => None,
        };
        if ask.upgrade.is_some() {
            upstream.series().upgrades_asked.inc();
        }
    }

    /// Notes the client of a request that is not forwarded.
    pub fn comes_from(&mut self, client: Client) {
        if let Some(line) = &mut self.line {
            line.client = client.address;
        }
    }

    /// Notes which worker was chosen, and why.
    pub fn decided(&mut self, worker: &Arc<Worker>, why: SourceLabel) {
        if let Some(upstream) = &self.upstream {
            upstream.series().decided(why);
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
    }

    /// Notes that the request became a tunnel, which keeps its own counts.
    pub fn became_tunnel(&mut self) {
        self.tunnel = true;
    }

    /// Notes that the worker's response broke off.
    pub fn cut_off(&mut self) {
        self.cut = true;
    }

    /// Attaches the record to the response, with which it ends.
    pub fn finish(mut self: Box<Self>, response: Response<Reply>) -> Response<Reply> {
        self.status = response.status();
        let mut response = response;
        if self.upstream.as_ref().is_some_and(|upstream| upstream.config.debug_header) {
            let decision = self.decision.as_ref().map(|(worker, why)| (worker.name.as_str(), why.word(), self.rule()));
            respond::explain(decision, &mut response);
        }
        response.map(|body| body.recorded(self))
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
        tracing::info!(target: "access",
            client = %line.client,
            http = if self.conn.http2 { 2 } else { 1 },
            method = %line.method,
            // Without the query, because sids and tokens travel in it (docs/reference/routing.md §1).
            path = %line.uri.path(),
            status = self.status.as_u16(),
            bytes = self.bytes_down,
            ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            upstream = self.upstream.as_ref().map_or("-", |u| &u.config.name),
            worker = line.worker.as_ref().map_or("-", |w| &w.name),
            why = line.why.map_or("-", SourceLabel::word),
            cut = self.cut,
        );
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let (Some(upstream), false) = (&self.upstream, self.tunnel) {
            let series = upstream.series();
            let seconds = if self.poll { &series.poll_seconds } else { &series.request_seconds };
            let (now, bytes_up) = (Instant::now(), self.upload.as_ref().map_or(0, |upload| upload.total()));
            seconds.observe(now.duration_since(self.started).as_secs_f64());
            if let Some(hold) = &mut self.hold {
                hold.moved(bytes_up, self.bytes_down, now);
            }
            series.bytes_up.inc_by(bytes_up);
            series.bytes_down.inc_by(self.bytes_down);
        }
        self.conn.finish_request();
        self.write_line();
    }
}
