//! stickyd's own "I do not know this session", in the format of the session's protocol. It is sent if the session's
//! worker is gone, if an operator has ended the session, or if discovery has just found no owner. In each protocol it
//! makes the client start a new session (docs/reference/protocols.md §1.4, §3).

use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::{SESSION_UNKNOWN, let_read, own, session_unknown};
use crate::affinity::ask::RequestKind;
use crate::config::rules::Protocol;
use crate::proxy::Job;
use crate::proxy::response_body::Reply;
use crate::proxy::told_refusals;

/// The answer to a request of a session that is over. If stickyd has replaced the session's worker, an open poll gets
/// the answer that the worker itself would give: the server closes the session. The client connects again without
/// having seen an error.
pub(crate) fn ended(job: &Job) -> Response<Reply> {
    if let (RequestKind::Session { key, poll: true, .. }, Some(engine)) = (job.ask.kind, job.ask.engine)
        && job.watch.is_some()
        && let Some(named) = job.conn.thread.shared.admissions.told.take(key)
    {
        return told_refusals::refusal(engine.format, &named, job.ask.origin.as_ref());
    }
    let close = match job.ask.kind {
        RequestKind::Session { key, poll: true, .. } if job.upstream.config.spawn.is_some() => {
            let is_engine = job.ask.is_engine_io(&job.upstream);
            let by_us = || job.conn.thread.shared.sessions.is_ended(key);
            job.ask.engine.filter(|_| is_engine && by_us()).and_then(|engine| engine.format.close())
        }
        _ => None,
    };
    let Some(close) = close else {
        job.upstream.series().refusals_own.inc();
        return refused(job);
    };
    let mut response = Response::new(Reply::whole(close));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(origin) = &job.ask.origin {
        let_read(origin, headers);
    }
    response
}

/// The refusal of a session in the protocol of its rule; without a rule, in Engine.IO's.
pub(crate) fn refused(job: &Job) -> Response<Reply> {
    const JSON: &str = "application/json";
    const TEXT: &str = "text/plain; charset=utf-8";
    let protocol = job.ask.rule(&job.upstream).map_or(Protocol::SocketIo, |live| live.rule.protocol);
    let (status, kind, body) = match protocol {
        Protocol::SocketIo => return session_unknown(&job.ask),
        // The error code that the SDKs use. The request's id is in the body, which is not read, so the id is null
        // (JSON-RPC 2.0 §5).
        Protocol::Mcp => {
            let body = r#"{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}"#;
            (StatusCode::NOT_FOUND, JSON, body)
        }
        Protocol::SignalR => (StatusCode::NOT_FOUND, TEXT, "No Connection with that ID"),
        Protocol::Phoenix => (StatusCode::OK, JSON, r#"{"status":410}"#),
        Protocol::CometD => {
            let body = r#"[{"channel":"/meta/connect","successful":false,"error":"402::Unknown client","advice":{"reconnect":"handshake","interval":0}}]"#;
            (StatusCode::OK, JSON, body)
        }
        Protocol::SockJs | Protocol::Tus | Protocol::Custom => {
            (StatusCode::NOT_FOUND, TEXT, "404 Not Found: no such session\n")
        }
    };
    let mut response = own(status, SESSION_UNKNOWN, body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(origin) = &job.ask.origin {
        let_read(origin, headers);
    }
    if job.ask.upgrade.is_some() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
