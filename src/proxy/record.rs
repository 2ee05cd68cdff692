//! What is known of one request when it is over: its metrics, its access log line, and the guards that end with it.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use hyper::body::Body;
use hyper::{Method, Request, Response, StatusCode, Uri};

use super::ask::{Ask, Kind};
use super::body::Reply;
use super::headers::Client;
use super::overdue::Overdue;
use super::respond;
use crate::affinity::Hold;
use crate::listener::conn::Conn;
use crate::metrics::Source;
use crate::upstream::Upstream;
use crate::upstream::worker::{Count, Worker};

/// Follows a request to the last byte of its answer.
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
    /// Body bytes the client announced; streams of unknown length are not in it.
    bytes_up: u64,
    in_flight: Option<Count>,
    hold: Option<Hold>,
    line: Option<Box<Line>>,
    /// Until when its answer may go on, where there is a limit.
    pub overdue: Option<Box<Overdue>>,
    /// The last decision, where answers are to tell it.
    decision: Option<(Arc<Worker>, Source)>,
    /// The place of the rule that named the session, where that is not `socket.io`'s.
    rule: Option<u8>,
}

/// What only the access log wants.
struct Line {
    client: IpAddr,
    method: Method,
    uri: Uri,
    worker: Option<Arc<Worker>>,
    why: Option<Source>,
}

impl Record {
    /// A request's head has arrived.
    pub fn begin<B: Body>(conn: &Rc<Conn>, request: &Request<B>) -> Box<Self> {
        conn.busy();
        let line = conn.thread.shared.snapshot.load().rules.access_log.then(|| {
            Box::new(Line {
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
            bytes_up: request.body().size_hint().exact().unwrap_or(0),
            in_flight: None,
            hold: None,
            line,
            overdue: None,
            decision: None,
            rule: None,
        })
    }

    /// It goes to this upstream.
    pub fn concerns(&mut self, upstream: &Arc<Upstream>, ask: &Ask, client: Client) {
        if let Some(line) = &mut self.line {
            line.client = client.address;
        }
        self.upstream = Some(upstream.clone());
        self.poll = matches!(ask.kind, Kind::Session { poll: true, .. });
        self.rule = match ask.kind {
            Kind::Session { rule, .. } if !ask.is_engine_io(upstream) => Some(rule),
            _ => None,
        };
        if ask.upgrade.is_some() {
            upstream.series().upgrades_asked.inc();
        }
    }

    /// This client sent it; it goes nowhere.
    pub fn comes_from(&mut self, client: Client) {
        if let Some(line) = &mut self.line {
            line.client = client.address;
        }
    }

    /// It was decided.
    pub fn decided(&mut self, worker: &Arc<Worker>, why: Source) {
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

    /// A worker answered; these end with the answer's last byte.
    pub fn answered(&mut self, worker: &Worker, status: StatusCode, in_flight: Count, hold: Option<Hold>) {
        worker.series.answered(status.as_u16());
        self.in_flight = Some(in_flight);
        self.hold = hold;
    }

    /// It became a tunnel, which counts for itself.
    pub fn became_tunnel(&mut self) {
        self.tunnel = true;
    }

    /// The worker's answer broke off.
    pub fn cut_off(&mut self) {
        self.cut = true;
    }

    /// Attaches itself to the answer.
    pub fn finish(mut self: Box<Self>, response: Response<Reply>) -> Response<Reply> {
        self.status = response.status();
        let mut response = response;
        if self.upstream.as_ref().is_some_and(|upstream| upstream.config.debug_header) {
            let decision = self.decision.as_ref().map(|(worker, why)| (worker.name.as_str(), why.word(), self.rule()));
            respond::explain(decision, &mut response);
        }
        response.map(|body| body.recorded(self))
    }

    /// Its client has not taken what of the answer was written already.
    pub fn is_blocked(&self) -> bool {
        self.conn.is_blocked()
    }

    /// The rule that named the session, by its name.
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
            // Without its query: that is where sids and tokens travel (design.md §3).
            path = %line.uri.path(),
            status = self.status.as_u16(),
            bytes = self.bytes_down,
            ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            upstream = self.upstream.as_ref().map_or("-", |u| &u.config.name),
            worker = line.worker.as_ref().map_or("-", |w| &w.name),
            why = line.why.map_or("-", Source::word),
            cut = self.cut,
        );
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if let (Some(upstream), false) = (&self.upstream, self.tunnel) {
            let series = upstream.series();
            let seconds = if self.poll { &series.poll_seconds } else { &series.request_seconds };
            let now = Instant::now();
            seconds.observe(now.duration_since(self.started).as_secs_f64());
            if let Some(hold) = &mut self.hold {
                hold.moved(self.bytes_up, self.bytes_down, now);
            }
            series.bytes_up.inc_by(self.bytes_up);
            series.bytes_down.inc_by(self.bytes_down);
        }
        self.conn.idle();
        self.write_line();
    }
}
