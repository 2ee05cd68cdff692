//! The answer to a head that is not valid HTTP/1: a status, the reason in plain text, and a line in the access log.
//!
//! hyper decides what is not valid. Its own answer says nothing and has no line in the log, so it is dropped
//! (`http1_io`), and the reason is found by a second look at what came.

use std::rc::Rc;
use std::time::{Duration, SystemTime};

use http_body_util::BodyExt;
use hyper::{Method, Response, Uri, header};
use tokio::io::AsyncWriteExt;

use super::conn::Conn;
use super::linger;
use crate::metrics::LimitLabel;
use crate::net::client_io::ClientIo;
use crate::proxy;
use crate::proxy::respond::Problem;
use crate::proxy::response_body::Reply;
use crate::thread::Registered;

/// Time limit for sending the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The first two bytes of a TLS client: the type of a handshake record, and the major version.
const TLS: &[u8] = &[0x16, 3];

/// A head that was refused.
pub(crate) struct Refused {
    problem: Problem,
    limit: Option<LimitLabel>,
    /// What its first line says, for the access log.
    line: Option<(Method, Uri)>,
}

impl Refused {
    /// Describes a head that hyper has rejected; `came` is what of it hyper has not dropped.
    pub(crate) fn new(conn: &Conn, error: &hyper::Error, came: &[u8]) -> Self {
        let (problem, limit) = match error.is_parse_too_large() {
            false => (Problem::BadRequest(reason(error, came)), None),
            true if error.to_string().starts_with("URI") => (Problem::TooLong, Some(LimitLabel::TargetBytes)),
            true if came.len() < conn.thread.limits().head_bytes => {
                (Problem::TooManyFields, Some(LimitLabel::HeadFields))
            }
            true => (Problem::HeadTooLarge, Some(LimitLabel::HeadBytes)),
        };
        Self { problem, limit, line: first_line(came) }
    }

    /// Describes a request that came without TLS to a listener with TLS.
    pub(crate) fn without_tls(came: &[u8]) -> Self {
        let problem = Problem::BadRequest("a plain HTTP request was sent to a port with TLS");
        Self { problem, limit: None, line: first_line(came) }
    }
}

/// Answers a head that was refused, and ends the connection.
pub(crate) async fn answer(conn: Rc<Conn>, mut io: ClientIo, live: Registered, refused: Refused) {
    if let Some(limit) = refused.limit {
        conn.thread.shared.metrics.limits.reached(limit);
    }
    let to_head = refused.line.as_ref().is_some_and(|(method, _)| *method == Method::HEAD);
    let text = written(proxy::refuse(&conn, refused.line, refused.problem), to_head).await;
    // A client that does not take it gets no more time than others.
    let _ = tokio::time::timeout(PATIENCE, io.write_all(&text)).await;
    linger::linger(io, &live, u64::MAX).await;
}

/// Writes a response of stickyd's own as HTTP/1.1.
async fn written(response: Response<Reply>, to_head: bool) -> Vec<u8> {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, date) = (parts.status, httpdate::fmt_http_date(SystemTime::now()));
    let first = format!("HTTP/1.1 {status}\r\ndate: {date}\r\n{}: {}\r\n", header::CONTENT_LENGTH, body.len());
    let mut text = first.into_bytes();
    for (name, value) in &parts.headers {
        text.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    text.extend_from_slice(b"\r\n");
    if !to_head {
        text.extend_from_slice(&body);
    }
    text
}

/// Why a head is not valid, for its client.
fn reason(error: &hyper::Error, came: &[u8]) -> &'static str {
    if came.starts_with(TLS) {
        return "a TLS handshake was sent to a port without TLS";
    }
    if came.starts_with(b"PRI * HTTP/2") {
        return "HTTP/2 is served only over TLS";
    }
    let lines = came.iter().filter(|byte| **byte == b'\n').count();
    let mut room = vec![httparse::EMPTY_HEADER; lines];
    let mut request = httparse::Request::new(&mut room);
    match request.parse(came) {
        Err(httparse::Error::HeaderName) => "a header field has an invalid name, or no colon",
        Err(httparse::Error::HeaderValue) => "a header field has an invalid value",
        Err(httparse::Error::NewLine) => "invalid line end",
        Err(httparse::Error::Version) => "unsupported HTTP version",
        Err(_) if request.method.is_none() => "invalid method",
        Err(_) => "invalid request target",
        // hyper has dropped the head.
        Ok(_) => of_hyper(&error.to_string()),
    }
}

/// The reason by the text of hyper's error, which has no other form.
fn of_hyper(text: &str) -> &'static str {
    const TEXTS: [(&str, &str); 3] = [
        ("URI", "invalid request target"),
        ("content-length", "invalid Content-Length"),
        ("transfer-encoding", "the only supported Transfer-Encoding is chunked, with HTTP/1.1"),
    ];
    TEXTS.iter().find(|(word, _)| text.contains(word)).map_or("the request is not valid HTTP/1", |(_, reason)| reason)
}

/// Method and target of a head, if it has them.
fn first_line(came: &[u8]) -> Option<(Method, Uri)> {
    let mut words = came.trim_ascii_start().split(|byte| *byte == b' ');
    let method = Method::from_bytes(words.next()?).ok()?;
    Some((method, Uri::try_from(words.next()?).ok()?))
}
