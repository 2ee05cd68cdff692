//! The spans of one request: its own, and one per attempt at a worker.
//!
//! Times are those of a monotonic clock, added to one reading of the wall clock, so that the spans of a request nest
//! also if the wall clock is set meanwhile. Attributes have the names of OpenTelemetry's conventions for HTTP; no
//! value of a query is among them, because sids and tokens travel there.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hyper::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode, Version};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode as SpanStatus;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};

use super::context::{SpanId, TraceContext};
use super::otlp::{self, number, text};
use super::queue::Traces;
use crate::config::{Address, Telemetry};
use crate::random;

/// Longest text of an attribute, in bytes.
const LONGEST: usize = 512;

/// Flags of a trace that begins here: it is sampled, or not.
const FLAGS: [u8; 2] = [0, 1];

/// The trace of one request; nothing if the request is not traced. Clones are the same trace.
#[derive(Clone)]
pub(crate) struct RequestTrace(Option<Rc<OpenTrace>>);

/// What is known of a request that is traced.
struct OpenTrace {
    traces: Arc<Traces>,
    /// The trace, this request's own span, and the flags.
    own: TraceContext,
    /// The caller's span; `None` if the trace begins here.
    parent: Option<SpanId>,
    started: Instant,
    started_ns: u64,
    method: Method,
    /// Facts of the head; empty if the trace is not sampled.
    head: RefCell<Vec<KeyValue>>,
    client: Cell<IpAddr>,
    decided: RefCell<Option<(String, &'static str)>>,
    answer: Cell<Option<(StatusCode, Option<&'static str>)>>,
    attempts: Cell<u32>,
    ended: Cell<bool>,
}

/// What a request's connection tells about it.
pub(crate) struct RequestOrigin {
    pub(crate) client: IpAddr,
    /// Whether the peer is a trusted proxy.
    pub(crate) trusted: bool,
    pub(crate) secure: bool,
    pub(crate) http2: bool,
}

impl RequestTrace {
    /// Begins the span of a request, if there are traces and the request is in one.
    #[inline]
    pub(crate) fn begin<B>(
        traces: &Arc<Traces>,
        rules: Option<&Arc<Telemetry>>,
        request: &Request<B>,
        origin: impl FnOnce() -> RequestOrigin,
    ) -> Self {
        match rules {
            None => Self(None),
            Some(rules) => Self(OpenTrace::begin(traces, rules, request, &origin()).map(Rc::new)),
        }
    }

    /// Returns the context of a trace that began here, which the request did not bring.
    pub(crate) fn own_context(&self) -> Option<HeaderValue> {
        let open = self.0.as_ref().filter(|open| open.parent.is_none())?;
        HeaderValue::try_from(open.own.text()).ok()
    }

    /// Notes the client, once it is known behind proxies.
    pub(crate) fn comes_from(&self, client: IpAddr) {
        if let Some(open) = &self.0 {
            open.client.set(client);
        }
    }

    /// Notes the upstream, and why its worker was chosen.
    pub(crate) fn decided(&self, upstream: &str, why: &'static str) {
        if let Some(open) = &self.0 {
            *open.decided.borrow_mut() = Some((upstream.to_owned(), why));
        }
    }

    /// Notes the answer, and why stickyd itself gave it if it did.
    pub(crate) fn answered(&self, status: StatusCode, reason: Option<&'static str>) {
        if let Some(open) = &self.0 {
            open.answer.set(Some((status, reason)));
        }
    }

    /// Ends the span of the request. Further calls change nothing.
    pub(crate) fn end(&self, is_cut: bool) {
        if let Some(open) = &self.0
            && !open.ended.replace(true)
            && open.own.is_sampled()
        {
            open.traces.put(open.span(is_cut));
        }
    }

    /// Begins the span of an attempt at a worker, and names it in the request as the worker's parent.
    pub(crate) fn attempt<B>(&self, request: &mut Request<B>, worker: &str, address: &Address) -> AttemptSpan {
        let Some(trace) = &self.0 else { return AttemptSpan(None) };
        let context = TraceContext { span: span_id(), ..trace.own };
        context.write(trace.parent.is_none(), request.headers_mut());
        let resends = trace.attempts.replace(trace.attempts.get().saturating_add(1));
        let is_sampled = trace.own.is_sampled();
        AttemptSpan(is_sampled.then(|| {
            let mut facts = vec![text("stickyd.worker", worker)];
            add_method(&mut facts, &trace.method);
            match address {
                Address::Tcp(address) => {
                    facts.push(text("server.address", &address.ip().to_string()));
                    facts.push(number("server.port", address.port().into()));
                }
                Address::Unix(path) => facts.push(text("server.address", &path.display().to_string())),
            }
            if resends > 0 {
                facts.push(number("http.request.resend_count", resends));
            }
            Box::new(OpenAttempt { trace: trace.clone(), span: context.span, started: Instant::now(), facts })
        }))
    }
}

/// The span of one attempt at a worker, from its begin on. If it is dropped before it has ended, the client has left.
pub(crate) struct AttemptSpan(Option<Box<OpenAttempt>>);

struct OpenAttempt {
    trace: Rc<OpenTrace>,
    span: SpanId,
    started: Instant,
    facts: Vec<KeyValue>,
}

impl AttemptSpan {
    /// Ends the span with the head of the worker's answer.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        if let Some(open) = self.0.take() {
            let wrong = status.is_client_error() || status.is_server_error();
            open.end(Some(status), wrong.then(|| status.as_str().to_owned()));
        }
    }

    /// Ends the span without an answer.
    pub(crate) fn failed(&mut self, why: &'static str) {
        if let Some(open) = self.0.take() {
            open.end(None, Some(why.to_owned()));
        }
    }
}

impl Drop for AttemptSpan {
    fn drop(&mut self) {
        self.failed("cancelled");
    }
}

impl OpenAttempt {
    fn end(mut self, status: Option<StatusCode>, error: Option<String>) {
        let trace = self.trace.clone();
        self.facts.extend(status.map(|status| number("http.response.status_code", status.as_u16().into())));
        let parent = Some(trace.own.span);
        let times = (trace.at(self.started), trace.at(Instant::now()));
        let named = trace.named(SpanKind::Client, self.span, parent, times);
        trace.traces.put(finished(named, self.facts, error));
    }
}

impl OpenTrace {
    /// Begins the span of a request. `None` if its caller does not record the trace: the request then stays untouched.
    /// A client may ask for every request to be recorded. Only a trusted proxy gets that without the `sample`.
    fn begin<B>(traces: &Arc<Traces>, rules: &Telemetry, request: &Request<B>, origin: &RequestOrigin) -> Option<Self> {
        let caller = TraceContext::of(request.headers());
        if caller.is_some_and(|caller| !caller.is_sampled()) {
            return None;
        }
        let own = match caller {
            Some(caller) if origin.trusted || is_in_sample(rules.sample) => TraceContext { span: span_id(), ..caller },
            Some(caller) => TraceContext { span: span_id(), ..caller.unsampled() },
            None => {
                let [unsampled, sampled] = FLAGS;
                let flags = if is_in_sample(rules.sample) { sampled } else { unsampled };
                TraceContext { trace: non_zero(random::bytes()), span: span_id(), flags }
            }
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let head = if own.is_sampled() { head(request, origin) } else { Vec::new() };
        Some(Self {
            traces: traces.clone(),
            own,
            parent: caller.map(|caller| caller.span),
            started: Instant::now(),
            started_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            method: request.method().clone(),
            head: RefCell::new(head),
            client: Cell::new(origin.client),
            decided: RefCell::new(None),
            answer: Cell::new(None),
            attempts: Cell::new(0),
            ended: Cell::new(false),
        })
    }

    /// A moment in nanoseconds since 1970.
    fn at(&self, moment: Instant) -> u64 {
        let since = moment.saturating_duration_since(self.started).as_nanos();
        self.started_ns.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }

    fn span(&self, is_cut: bool) -> Span {
        let mut facts = self.head.take();
        facts.push(text("client.address", &self.client.get().to_string()));
        if let Some((upstream, why)) = self.decided.take() {
            facts.push(text("stickyd.upstream", &upstream));
            facts.push(text("stickyd.why", why));
        }
        let error = match self.answer.get() {
            None => Some("client_left".to_owned()),
            Some((status, reason)) => {
                facts.push(number("http.response.status_code", status.as_u16().into()));
                facts.extend(reason.map(|reason| text("stickyd.reason", reason)));
                let failed = || status.is_server_error().then(|| status.as_str().to_owned());
                if is_cut { Some("answer_broke_off".to_owned()) } else { failed() }
            }
        };
        let times = (self.started_ns, self.at(Instant::now()));
        finished(self.named(SpanKind::Server, self.own.span, self.parent, times), facts, error)
    }

    /// A span of this trace without its attributes. Names have few values: the method, if it is a known one.
    fn named(&self, kind: SpanKind, id: SpanId, parent: Option<SpanId>, (begin, end): (u64, u64)) -> Span {
        Span {
            trace_id: self.own.trace.to_vec(),
            span_id: id.to_vec(),
            parent_span_id: parent.map(Vec::from).unwrap_or_default(),
            flags: self.own.flags.into(),
            name: method_shown(&self.method).unwrap_or("HTTP").to_owned(),
            kind: kind.into(),
            start_time_unix_nano: begin,
            end_time_unix_nano: end,
            ..Span::default()
        }
    }
}

fn finished(mut span: Span, mut facts: Vec<KeyValue>, error: Option<String>) -> Span {
    if let Some(error) = error {
        facts.push(text("error.type", &error));
        span.status = Some(Status { message: String::new(), code: SpanStatus::Error.into() });
    }
    span.attributes = facts;
    span
}

/// The facts of a request's head.
fn head<B>(request: &Request<B>, origin: &RequestOrigin) -> Vec<KeyValue> {
    let mut facts = Vec::with_capacity(14);
    add_method(&mut facts, request.method());
    facts.push(text("url.scheme", if origin.secure { "https" } else { "http" }));
    facts.push(text("url.path", &shown(request.uri().path().as_bytes())));
    let field = |name: HeaderName| request.headers().get(name).map(HeaderValue::as_bytes);
    if let Some(host) = request.uri().authority().map(|host| host.as_str().as_bytes()).or_else(|| field(HOST)) {
        add_host(&mut facts, host);
    }
    facts.extend(field(USER_AGENT).map(|agent| text("user_agent.original", &shown(agent))));
    let version = match (origin.http2, request.version()) {
        (true, _) => "2",
        (false, Version::HTTP_10) => "1.0",
        (false, _) => "1.1",
    };
    facts.push(text("network.protocol.version", version));
    facts
}

/// Adds the method. A client may send any word as its method, which is cut and has an attribute of its own.
fn add_method(facts: &mut Vec<KeyValue>, method: &Method) {
    facts.push(text("http.request.method", method_shown(method).unwrap_or("_OTHER")));
    if method_shown(method).is_none() {
        facts.push(text("http.request.method_original", &shown(method.as_str().as_bytes())));
    }
}

/// Adds the host that the client named, and its port if it named one.
fn add_host(facts: &mut Vec<KeyValue>, named: &[u8]) {
    let Ok(host) = Authority::try_from(named) else {
        return facts.push(text("server.address", &shown(named)));
    };
    let name = host.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    facts.push(text("server.address", &shown(address.as_bytes())));
    facts.extend(host.port_u16().map(|port| number("server.port", port.into())));
}

/// The method, if it is one of RFC 9110 or PATCH.
fn method_shown(method: &Method) -> Option<&str> {
    let known = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::HEAD,
        Method::OPTIONS,
        Method::PATCH,
        Method::CONNECT,
        Method::TRACE,
    ];
    known.contains(method).then(|| method.as_str())
}

fn shown(bytes: &[u8]) -> String {
    otlp::shown(bytes, LONGEST)
}

fn is_in_sample(percent: u32) -> bool {
    // The remainder is even enough: 2^64 is far larger than 100.
    random::u64() % 100 < u64::from(percent)
}

fn span_id() -> SpanId {
    non_zero(random::bytes())
}

/// Ids of zeros are not valid.
fn non_zero<const N: usize>(mut id: [u8; N]) -> [u8; N] {
    if id.iter().all(|byte| *byte == 0) {
        id.fill(1);
    }
    id
}

#[cfg(test)]
mod tests;
