//! Sends one message to one receiver, once.
//!
//! A redirect is a refusal: an address is what the configuration says. Left out: when to send and whether to try again
//! (`outbox`).

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::http::{Request, StatusCode, request};
use serde_json::Value;
use tokio_util::task::TaskTracker;

use super::mail;
use super::message::Message;
use super::outbox::Verdict;
use super::render;
use crate::config::notify::{Carrier, Receiver};
use crate::config::{OutboundTarget, Secret};
use crate::outbound::{Outbound, OutboundAnswer, OutboundFault, OutboundRequest, OutboundSettings};
use crate::printable::printable;

/// Longest part of an answer that is shown, in characters.
const SHOWN: usize = 200;

/// Header that names a message, so that a program can see a repetition.
const ID: &str = "x-stickyd-id";
const SIGNATURE: &str = "x-stickyd-signature";

/// The client of one receiver.
#[derive(Clone)]
pub(super) struct Courier {
    receiver: Receiver,
    client: Option<Outbound>,
}

impl Courier {
    /// Prepares deliveries to a receiver; connections are tasks of `tasks`.
    pub(super) fn new(receiver: &Receiver, tasks: &TaskTracker) -> Self {
        let client = match &receiver.by {
            Carrier::Webhook(target, _)
            | Carrier::Discord(target)
            | Carrier::Slack(target)
            | Carrier::Ntfy(target, _) => client(target, tasks),
            Carrier::Mail(_) => None,
        };
        Self { receiver: receiver.clone(), client }
    }

    /// Whether it serves this receiver as configured.
    pub(super) fn serves(&self, receiver: &Receiver) -> bool {
        self.receiver == *receiver
    }

    /// Returns the receiver as configured.
    pub(super) fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Returns the name of the receiver.
    pub(super) fn name(&self) -> &str {
        &self.receiver.name
    }

    /// Sends a message once.
    pub(super) async fn send(&self, message: &Message) -> Verdict {
        let request = match &self.receiver.by {
            Carrier::Mail(settings) => return mail::send(settings, message).await,
            Carrier::Webhook(target, secret) => webhook(target, secret.as_ref(), message),
            Carrier::Discord(target) => json(target, &render::discord(message)),
            Carrier::Slack(target) => json(target, &render::slack(message)),
            Carrier::Ntfy(target, token) => ntfy(target, token.as_ref(), message),
        };
        let (Some(client), Ok(request)) = (&self.client, request) else {
            return Verdict::Refused("the request could not be made".to_owned());
        };
        verdict(client.send(request).await)
    }
}

/// Creates the client of a target; `None` if TLS could not be set up, which was tried when the file was checked.
pub(super) fn client(target: &OutboundTarget, tasks: &TaskTracker) -> Option<Outbound> {
    let client = Outbound::new(&OutboundSettings::new(target.authorities.clone()), tasks);
    client.inspect_err(|error| tracing::error!(%error, "notifications cannot be sent")).ok()
}

type Built = Result<OutboundRequest, hyper::http::Error>;

fn post(target: &OutboundTarget, kind: &'static str) -> request::Builder {
    Request::post(target.url.clone()).header(CONTENT_TYPE, kind)
}

fn json(target: &OutboundTarget, body: &Value) -> Built {
    post(target, "application/json").body(Full::from(body.to_string()))
}

fn webhook(target: &OutboundTarget, secret: Option<&Secret>, message: &Message) -> Built {
    let body = Bytes::from(render::webhook(message).to_string());
    let mut request = post(target, "application/json").header(ID, &message.id);
    if let Some(secret) = secret {
        request = request.header(SIGNATURE, render::signature(secret, &body));
    }
    request.body(Full::new(body))
}

fn ntfy(target: &OutboundTarget, token: Option<&Secret>, message: &Message) -> Built {
    let rendered = render::ntfy(message);
    let mut request = post(target, "text/plain; charset=utf-8")
        .header("title", &rendered.title)
        .header("tags", rendered.tags)
        .header("priority", rendered.priority);
    if let Some(token) = token {
        let mut value = HeaderValue::from_bytes(&[b"Bearer ", &*token.0].concat())?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Full::from(rendered.text))
}

/// What an answer means for the message.
fn verdict(answer: Result<OutboundAnswer, OutboundFault>) -> Verdict {
    let answer = match answer {
        Ok(answer) => answer,
        Err(OutboundFault::TooLarge) => return Verdict::Refused(OutboundFault::TooLarge.to_string()),
        Err(fault) => return Verdict::Later(fault.to_string(), None),
    };
    let why = || said(&answer);
    match answer.status {
        status if status.is_success() => Verdict::Sent,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY => {
            Verdict::Later(why(), patience(&answer))
        }
        status if status.is_server_error() => Verdict::Later(why(), patience(&answer)),
        status if status.is_redirection() => {
            Verdict::Refused(format!("{}: redirects are not followed; write the new address", status.as_u16()))
        }
        _ => Verdict::Refused(why()),
    }
}

/// The status with the beginning of the answer.
fn said(answer: &OutboundAnswer) -> String {
    let text = String::from_utf8_lossy(&answer.body);
    let text: String = text.trim().chars().take(SHOWN).collect();
    let status = answer.status.as_u16();
    if text.is_empty() { format!("{status}") } else { format!("{status}: {}", printable(&text)) }
}

/// How long the receiver asks to wait: `Retry-After` (RFC 9110 §10.2.3), or Discord's `retry_after` in seconds, which
/// is more exact.
fn patience(answer: &OutboundAnswer) -> Option<Duration> {
    let body: Option<Value> = serde_json::from_slice(&answer.body).ok();
    let discord = body.as_ref().and_then(|body| body.get("retry_after")).and_then(Value::as_f64);
    let discord = discord.filter(|seconds| seconds.is_finite() && (0.0..=86_400.0).contains(seconds));
    discord.map(Duration::from_secs_f64).or_else(|| retry_after(&answer.headers, SystemTime::now()))
}

fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u64>() {
        Ok(seconds) => Some(Duration::from_secs(seconds.min(86_400))),
        Err(_) => httpdate::parse_http_date(text).ok()?.duration_since(now).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, retry: Option<&str>, body: &str) -> OutboundAnswer {
        let mut headers = HeaderMap::new();
        if let Some(retry) = retry {
            headers.insert(RETRY_AFTER, HeaderValue::from_str(retry).unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        OutboundAnswer { status, headers, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    #[test]
    fn an_answer_decides_whether_a_message_is_sent_again() {
        let seconds = |s| Some(Duration::from_secs_f64(s));
        for (got, wanted) in [
            (answer(204, None, ""), Verdict::Sent),
            (answer(200, None, "ok"), Verdict::Sent),
            (answer(500, None, ""), Verdict::Later("500".to_owned(), None)),
            (answer(503, Some("7"), "busy"), Verdict::Later("503: busy".to_owned(), seconds(7.0))),
            (answer(429, Some("65"), "x"), Verdict::Later("429: x".to_owned(), seconds(65.0))),
            (answer(429, Some("garbage"), "x"), Verdict::Later("429: x".to_owned(), None)),
            (answer(404, None, "Unknown\nWebhook"), Verdict::Refused("404: Unknown\\u{a}Webhook".to_owned())),
        ] {
            assert_eq!(verdict(Ok(got)), wanted);
        }
        let discord = answer(429, Some("1"), "{\"message\": \"slow\", \"retry_after\": 0.75, \"global\": false}");
        assert!(matches!(verdict(Ok(discord)), Verdict::Later(_, wait) if wait == seconds(0.75)));
        let moved = verdict(Ok(answer(302, None, "")));
        assert!(
            matches!(&moved, Verdict::Refused(why) if why.contains("302") && why.contains("redirects")),
            "{moved:?}"
        );
        let endless = answer(429, None, "{\"retry_after\": 1e300}");
        assert!(matches!(verdict(Ok(endless)), Verdict::Later(_, None)));
    }

    #[test]
    fn a_date_to_retry_after_is_read() {
        let now = httpdate::parse_http_date("Sat, 28 Nov 2026 20:00:00 GMT").unwrap();
        let of = |text| retry_after(&answer(503, Some(text), "").headers, now);
        assert_eq!(of("Sat, 28 Nov 2026 20:01:30 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(of("Sat, 28 Nov 2026 19:00:00 GMT"), None);
    }
}
