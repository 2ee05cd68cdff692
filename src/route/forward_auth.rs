//! What another service is asked about a handshake or an upgrade, and what its answer means.
//!
//! The question is a plain GET: with the fields of the client that the configuration names, and with `X-Forwarded-*`
//! for what the client asked of stickyd; never with fields of an upgrade, which would make the service take it for one.
//! A status of 2xx lets the request pass. 401 and 403 refuse it, and so does a redirect, which leads people to a login
//! page and clients of WebSockets nowhere. Any other answer, or none, leaves the request without a verdict: it is
//! refused for the moment (fail closed). Left out: sending the question (`proxy::access`).

use std::fmt::Write as _;
use std::sync::Arc;

use http_body_util::Full;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use tokio::sync::Semaphore;

use super::access::{KeptVerdicts, KeyMaker, VerdictKey};
use super::guard::Authority;
use crate::client::Client;
use crate::clock::Millis;
use crate::config::access::ForwardAuth;
use crate::outbound::{OutboundAnswer, OutboundRequest};

/// Number of questions under way at a time, on all threads together.
const AT_ONCE: usize = 256;

/// Maximum size of the copied fields of one answer, in bytes.
const MOST_COPIED: usize = 16 * 1024;

/// One route's guard that asks another service.
pub(crate) struct ForwardGuard {
    config: Arc<ForwardAuth>,
    keys: KeyMaker,
    known: KeptVerdicts<ServiceVerdict>,
    pub(crate) turns: Semaphore,
}

/// What the service says of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServiceVerdict {
    /// The request passes, with these fields for the worker.
    Passes(Vec<(HeaderName, HeaderValue)>),
    /// It is refused with this status, 401 or 403, and for 401 with the challenge of the service.
    Denied(StatusCode, Option<HeaderValue>),
}

/// The request that is asked about.
pub(crate) struct AskedRequest<'a> {
    pub(crate) method: &'a Method,
    /// Path and query that the client wrote.
    pub(crate) target: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) client: Client,
    pub(crate) own: Authority<'a>,
}

impl ForwardGuard {
    pub(crate) fn new(config: Arc<ForwardAuth>) -> Arc<Self> {
        let turns = Semaphore::new(AT_ONCE);
        Arc::new(Self { config, keys: KeyMaker::new(), known: KeptVerdicts::new(), turns })
    }

    pub(crate) fn config(&self) -> &ForwardAuth {
        &self.config
    }

    /// Returns the verdict on an equal request, if it still holds.
    pub(crate) fn known(&self, key: &VerdictKey, now_ms: Millis) -> Option<ServiceVerdict> {
        self.known.get(key, now_ms)
    }

    /// Remembers a verdict on equal requests.
    pub(crate) fn remember(&self, key: VerdictKey, verdict: ServiceVerdict, now_ms: Millis) {
        self.known.put(key, verdict, self.config.cache, now_ms);
    }

    /// Names everything that the service may judge by. Of the target this leaves out `t`, a parameter by which
    /// Engine.IO's clients keep caches from answering.
    pub(crate) fn key(&self, asked: &AskedRequest<'_>) -> VerdictKey {
        let (path, query) = asked.target.split_once('?').unwrap_or((asked.target, ""));
        let address = asked.client.address.to_string();
        let port = asked.own.port.map(|port| port.to_string()).unwrap_or_default();
        let fixed: [&[u8]; 6] = [
            asked.method.as_str().as_bytes(),
            path.as_bytes(),
            asked.own.host.as_bytes(),
            port.as_bytes(),
            address.as_bytes(),
            if asked.client.secure { b"https" } else { b"http" },
        ];
        let pairs = query.split('&').filter(|pair| !pair.starts_with("t=")).map(str::as_bytes);
        let fields = self.config.headers.iter().flat_map(|name| {
            let values = asked.headers.get_all(name).iter().map(HeaderValue::as_bytes);
            values.chain([&b"\0"[..]])
        });
        self.keys.key(fixed.into_iter().chain(pairs).chain([&b"\0"[..]]).chain(fields))
    }

    /// Makes the question. `None`: a value cannot be written into a field.
    pub(crate) fn question(&self, asked: &AskedRequest<'_>) -> Option<OutboundRequest> {
        let mut host = asked.own.host.to_owned();
        if let Some(port) = asked.own.port {
            let _ = write!(host, ":{port}");
        }
        let mut question = hyper::Request::get(self.config.target.url.clone()).body(Full::default()).ok()?;
        let headers = question.headers_mut();
        for name in &self.config.headers {
            headers.extend(asked.headers.get_all(name).iter().map(|value| (name.clone(), value.clone())));
        }
        for (name, value) in [
            ("x-forwarded-for", asked.client.address.to_string()),
            ("x-forwarded-host", host),
            ("x-forwarded-method", asked.method.to_string()),
            ("x-forwarded-proto", if asked.client.secure { "https" } else { "http" }.to_owned()),
            ("x-forwarded-uri", asked.target.to_owned()),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::try_from(value).ok()?);
        }
        Some(question)
    }

    /// Reads the verdict in an answer; `None`: it is none.
    pub(crate) fn verdict(&self, answer: &OutboundAnswer) -> Option<ServiceVerdict> {
        match answer.status {
            status if status.is_success() => {
                let copied =
                    self.config.copy.iter().flat_map(|name| {
                        answer.headers.get_all(name).iter().map(|value| (name.clone(), value.clone()))
                    });
                let copied: Vec<_> = copied.collect();
                let size: usize = copied.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
                (size <= MOST_COPIED).then_some(ServiceVerdict::Passes(copied))
            }
            StatusCode::FORBIDDEN => Some(ServiceVerdict::Denied(StatusCode::FORBIDDEN, None)),
            status if status == StatusCode::UNAUTHORIZED || status.is_redirection() => {
                let challenge = answer.headers.get(header::WWW_AUTHENTICATE).cloned();
                Some(ServiceVerdict::Denied(StatusCode::UNAUTHORIZED, challenge))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::config::OutboundTarget;

    fn guard(headers: &[&'static str], copy: &[&'static str]) -> Arc<ForwardGuard> {
        let names = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect();
        let second = std::time::Duration::from_secs(1);
        ForwardGuard::new(Arc::new(ForwardAuth {
            target: OutboundTarget {
                url: "http://auth.example/check?x=1".parse().unwrap(),
                authorities: Arc::default(),
            },
            headers: names(headers),
            copy: names(copy),
            timeout: second,
            cache: second,
        }))
    }

    fn asked<'a>(method: &'a Method, target: &'a str, headers: &'a HeaderMap) -> AskedRequest<'a> {
        let client = Client { address: [192, 0, 2, 7].into(), known: true, secure: true };
        AskedRequest { method, target, headers, client, own: Authority { host: "a.example", port: None } }
    }

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn the_question_is_a_plain_get_with_the_configured_fields() {
        let guard = guard(&["cookie", "authorization"], &[]);
        let headers = fields(&[
            ("cookie", "a=b"),
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-key", "x"),
            ("x-forwarded-uri", "/forged"),
            ("x-other", "1"),
        ]);
        let question = guard.question(&asked(&Method::POST, "/socket.io/?EIO=4", &headers)).unwrap();
        assert_eq!(
            (question.method(), question.uri().to_string()),
            (&Method::GET, "http://auth.example/check?x=1".into())
        );
        let expected = fields(&[
            ("cookie", "a=b"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-method", "POST"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-uri", "/socket.io/?EIO=4"),
        ]);
        assert_eq!(*question.headers(), expected);
    }

    #[test]
    fn a_key_names_all_that_the_service_may_judge_by() {
        let guard = guard(&["cookie"], &[]);
        let (one, other, twice) = (
            fields(&[("cookie", "a=1")]),
            fields(&[("cookie", "a=2")]),
            fields(&[("cookie", "a=1"), ("x-other", "y")]),
        );
        let key = |target, headers| guard.key(&asked(&Method::GET, target, headers));
        let first = key("/s?EIO=4&token=x&t=abc", &one);
        assert_eq!(first, key("/s?EIO=4&token=x&t=xyz", &one), "t only keeps caches away");
        assert_eq!(first, key("/s?EIO=4&token=x&t=abc", &twice), "the service does not get this field");
        for (target, headers) in
            [("/s?EIO=4&token=y&t=abc", &one), ("/S?EIO=4&token=x", &one), ("/s?EIO=4&token=x", &other)]
        {
            assert_ne!(first, key(target, headers), "{target}");
        }
        let http = AskedRequest {
            client: Client { secure: false, ..asked(&Method::GET, "/", &one).client },
            ..asked(&Method::GET, "/", &one)
        };
        assert_ne!(guard.key(&http), key("/", &one));
    }

    #[test]
    fn only_2xx_passes_and_what_is_no_verdict_is_none() {
        let guard = guard(&[], &["x-user"]);
        let answer = |status: u16, headers: &[(&'static str, &'static str)]| {
            let (status, headers) = (StatusCode::from_u16(status).unwrap(), fields(headers));
            guard.verdict(&OutboundAnswer { status, headers, body: Bytes::new() })
        };
        let user = (HeaderName::from_static("x-user"), HeaderValue::from_static("ann"));
        assert_eq!(answer(204, &[("x-user", "ann"), ("x-more", "1")]), Some(ServiceVerdict::Passes(vec![user])));
        let denied = |status, challenge: Option<&'static str>| {
            Some(ServiceVerdict::Denied(status, challenge.map(HeaderValue::from_static)))
        };
        assert_eq!(answer(401, &[("www-authenticate", "Bearer")]), denied(StatusCode::UNAUTHORIZED, Some("Bearer")));
        assert_eq!(answer(302, &[("location", "/login")]), denied(StatusCode::UNAUTHORIZED, None));
        assert_eq!(answer(403, &[]), denied(StatusCode::FORBIDDEN, None));
        for status in [400, 404, 429, 500, 503] {
            assert_eq!(answer(status, &[]), None, "{status}");
        }
    }
}
