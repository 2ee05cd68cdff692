//! One line of the access log. Values that clients or workers chose are made printable and cut, and no value of a query
//! is ever written: sids and tokens travel there (docs/reference/routing.md §1).

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Uri, Version};

use super::access_format::{self, AccessFields};
use super::headers::{self, REQUEST_ID};
use crate::listener::conn::Conn;
use crate::metrics::SourceLabel;
use crate::random;
use crate::sockets::socket_id::printable;
use crate::telemetry::access_file::AccessSink;
use crate::upstream::worker::Worker;

/// Longest text of a field that a client sent, in bytes.
const LONGEST: usize = 512;

/// Longest path in the log, in bytes: the default of `target_bytes`. A refused target may be longer than is allowed.
const LONGEST_PATH: usize = 16 * 1024;

/// Stands for a value that there is not.
const NOTHING: &str = "-";

/// Status of a request that got no answer, because its client left or stickyd stopped; nginx uses the same number.
pub(super) const UNANSWERED: u16 = 499;

/// Values that are needed only for the access log.
pub(super) struct AccessLine {
    pub(super) client: IpAddr,
    method: Method,
    uri: Uri,
    version: Version,
    secure: bool,
    host: Option<HeaderValue>,
    agent: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    trace: Option<HeaderValue>,
    request_id: Option<HeaderValue>,
    pub(super) worker: Option<Arc<Worker>>,
    pub(super) why: Option<SourceLabel>,
    /// Number of times that the request was sent to a worker, or that this was tried.
    pub(super) attempts: u32,
    /// Time until the answer's head was handed over; `None` while there is no answer.
    pub(super) first_byte: Option<Duration>,
    /// Reason that stickyd itself answered, if it did.
    pub(super) reason: Option<&'static str>,
    sink: Arc<AccessSink>,
}

/// What is known about a request once it is over.
pub(super) struct Outcome<'a> {
    pub(super) upstream: Option<&'a str>,
    pub(super) status: u16,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    pub(super) took: Duration,
    /// Whether the worker's answer broke off.
    pub(super) cut: bool,
    /// Whether the request is a poll of a session.
    pub(super) poll: bool,
}

impl AccessLine {
    /// Notes what the head of a request says; its line goes to `sink`. `trace` is the context of a trace that begins
    /// with this request.
    pub(super) fn begin<B>(
        conn: &Conn,
        request: &Request<B>,
        trace: Option<HeaderValue>,
        sink: Arc<AccessSink>,
    ) -> Box<Self> {
        let field = |name: HeaderName| request.headers().get(name).cloned();
        let authority = request.uri().authority().map(|host| HeaderValue::from_str(host.as_str()));
        Box::new(Self {
            client: headers::client(conn, request.headers()).address,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: if conn.http2 { Version::HTTP_2 } else { request.version() },
            secure: conn.tls.is_some(),
            host: authority.and_then(Result::ok).or_else(|| field(header::HOST)),
            agent: field(header::USER_AGENT),
            referer: field(header::REFERER),
            trace: trace.or_else(|| field(HeaderName::from_static("traceparent"))),
            request_id: None,
            worker: None,
            why: None,
            attempts: 0,
            first_byte: None,
            reason: None,
            sink,
        })
    }

    /// Notes the id with which the request goes to workers.
    pub(super) fn sends(&mut self, headers: &HeaderMap) {
        self.request_id = headers.get(REQUEST_ID).cloned();
    }

    /// Writes the line, unless it is left out.
    pub(super) fn write(&self, over: &Outcome<'_>) {
        if self.is_left_out(over) {
            return;
        }
        match self.sink.is_of_log() {
            true => self.log(over),
            false => self.sink.write(access_format::line(self.sink.format, &self.fields(over)).as_bytes()),
        }
    }

    /// Whether the line is left out: a poll, or one that the sample does not have. Failures never are.
    fn is_left_out(&self, over: &Outcome<'_>) -> bool {
        let sink = &self.sink;
        let sampled = || sink.sample >= 100 || u32::from(u16::from_le_bytes(random::bytes())) % 100 < sink.sample;
        over.status < 400 && ((over.poll && sink.skips_polls) || !sampled())
    }

    fn fields<'a>(&'a self, over: &'a Outcome<'_>) -> AccessFields<'a> {
        AccessFields {
            at: SystemTime::now(),
            client: self.client.to_string(),
            http: if self.version == Version::HTTP_2 { 2 } else { 1 },
            method: self.method.as_str(),
            path: path_shown(self.uri.path()),
            status: over.status,
            bytes_up: over.bytes_up,
            bytes_down: over.bytes_down,
            ms: milliseconds(over.took),
            us: u64::try_from(over.took.as_micros()).unwrap_or(u64::MAX),
            ttfb_ms: self.first_byte.map(milliseconds),
            upstream: over.upstream.unwrap_or(NOTHING),
            worker: self.worker.as_ref().map_or(NOTHING, |worker| &worker.name),
            why: self.why.map_or(NOTHING, SourceLabel::word),
            cut: over.cut,
            request_id: field(self.request_id.as_ref()),
            host: field(self.host.as_ref()),
            protocol: protocol(self.version),
            tls: self.secure,
            user_agent: field(self.agent.as_ref()),
            referer: self.referer(),
            attempts: self.attempts,
            reason: self.reason.unwrap_or(NOTHING),
            trace_id: self.trace.as_ref().and_then(|trace| trace_id(trace.as_bytes())).unwrap_or(NOTHING),
        }
    }

    /// Writes the line as one of the log. Fields are only added at its end, because people parse it.
    fn log(&self, over: &Outcome<'_>) {
        tracing::info!(target: "access",
            client = %self.client,
            http = if self.version == Version::HTTP_2 { 2 } else { 1 },
            method = %self.method,
            path = %path_shown(self.uri.path()),
            status = over.status,
            bytes = over.bytes_down,
            ms = milliseconds(over.took),
            upstream = over.upstream.unwrap_or(NOTHING),
            worker = self.worker.as_ref().map_or(NOTHING, |worker| &worker.name),
            why = self.why.map_or(NOTHING, SourceLabel::word),
            cut = over.cut,
            request_id = &*field(self.request_id.as_ref()),
            host = &*field(self.host.as_ref()),
            protocol = protocol(self.version),
            tls = self.secure,
            user_agent = &*field(self.agent.as_ref()),
            referer = &*self.referer(),
            bytes_up = over.bytes_up,
            bytes_down = over.bytes_down,
            ttfb_ms = self.first_byte.map(milliseconds),
            attempts = self.attempts,
            reason = self.reason.unwrap_or(NOTHING),
            trace_id = self.trace.as_ref().and_then(|trace| trace_id(trace.as_bytes())).unwrap_or(NOTHING),
        );
    }

    fn referer(&self) -> Cow<'_, str> {
        self.referer.as_ref().map_or(Cow::Borrowed(NOTHING), |value| page(value.as_bytes()))
    }
}

/// Returns the referring page without what may be secret: its query, its fragment, and a user's name and password (RFC
/// 9110 §10.1.3), which a client ought to leave out itself. A reference without a page (`data:`, `javascript:`) is
/// content, so only its scheme is shown.
fn page(value: &[u8]) -> Cow<'_, str> {
    let page = value.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let colon = page.iter().position(|byte| matches!(byte, b':' | b'/')).filter(|at| page.get(*at) == Some(&b':'));
    let (scheme, rest) = page.split_at_checked(colon.map_or(0, |colon| colon + 1)).unwrap_or((b"", page));
    let Some(rest) = rest.strip_prefix(b"//") else { return non_empty(if scheme.is_empty() { page } else { scheme }) };
    let authority = rest.split(|byte| *byte == b'/').next().unwrap_or_default();
    let user = authority.iter().rposition(|byte| *byte == b'@');
    match user.and_then(|at| rest.get(at + 1..)) {
        Some(rest) => shown(&[scheme, b"//", rest].concat(), LONGEST).into_owned().into(),
        None => non_empty(page),
    }
}

/// Returns the path as the log names it; the target of CONNECT has none.
fn path_shown(path: &str) -> Cow<'_, str> {
    if path.is_empty() { NOTHING.into() } else { shown(path.as_bytes(), LONGEST_PATH.min(path.len())) }
}

fn non_empty(bytes: &[u8]) -> Cow<'_, str> {
    if bytes.is_empty() { NOTHING.into() } else { shown(bytes, LONGEST) }
}

fn field(value: Option<&HeaderValue>) -> Cow<'_, str> {
    value.map_or(Cow::Borrowed(NOTHING), |value| shown(value.as_bytes(), LONGEST))
}

/// Returns bytes that a peer chose as printable text of at most `most` bytes; nearly all are printable as they are.
fn shown(bytes: &[u8], most: usize) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.len() <= most && bytes.iter().all(|byte| matches!(byte, b' '..=b'~')) => text.into(),
        _ => printable(bytes, most).into(),
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        _ => "HTTP/1.1",
    }
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the trace id in a `traceparent` field (W3C Trace Context §3.2.2: version, 32 lower-case hex digits that are
/// not all 0, and more).
fn trace_id(value: &[u8]) -> Option<&str> {
    let is_hex = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let (version, rest) = std::str::from_utf8(value).ok()?.split_once('-')?;
    let (id, _) = rest.split_once('-')?;
    let fits = version.len() == 2 && is_hex(version) && version != "ff" && id.len() == 32 && is_hex(id);
    (fits && id.bytes().any(|byte| byte != b'0')).then_some(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_trace_id_is_read_from_a_valid_traceparent_only() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |text: String| trace_id(text.as_bytes()).map(str::to_owned);
        assert_eq!(of(format!("00-{id}-00f067aa0ba902b7-01")).as_deref(), Some(id));
        assert_eq!(of(format!("cc-{id}-00f067aa0ba902b7-01-later")).as_deref(), Some(id));
        for wrong in [
            String::new(),
            format!("ff-{id}-00f067aa0ba902b7-01"),
            format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)),
            format!("00-{}-00f067aa0ba902b7-01", id.to_ascii_uppercase()),
            format!("00-{}-00f067aa0ba902b7-01", &id[1..]),
            id.to_owned(),
        ] {
            assert_eq!(of(wrong.clone()), None, "{wrong}");
        }
    }

    #[test]
    fn a_referring_page_is_named_without_secrets() {
        for (value, page_shown) in [
            ("https://app.example/login?token=1", "https://app.example/login"),
            ("https://app.example#token=1", "https://app.example"),
            ("https://user:password@app.example:1/x@y?z", "https://app.example:1/x@y"),
            ("https://a@b:c@app.example", "https://app.example"),
            ("//user@app.example/", "//app.example/"),
            ("/x:y", "/x:y"),
            ("?token=1", "-"),
            ("", "-"),
            ("data:text/html,//token", "data:"),
            ("javascript:token", "javascript:"),
            ("about:blank", "about:"),
            ("android-app://com.example/", "android-app://com.example/"),
        ] {
            assert_eq!(page(value.as_bytes()), page_shown, "{value}");
        }
    }

    #[test]
    fn a_path_is_never_empty_and_has_a_longest_length() {
        assert_eq!((path_shown(""), path_shown("*"), path_shown("/a")), ("-".into(), "*".into(), "/a".into()));
        assert_eq!(path_shown(&"/".repeat(70_000)).len(), LONGEST_PATH);
    }

    proptest! {
        #[test]
        fn what_a_peer_sent_is_short_and_has_no_control_characters(
            bytes in prop::collection::vec(any::<u8>(), 0..200), most in 0..100usize,
        ) {
            let text = shown(&bytes, most);
            prop_assert!(text.len() <= most && !text.chars().any(char::is_control), "{text:?}");
        }
    }
}
