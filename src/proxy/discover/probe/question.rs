//! The question that a probe asks, one for each protocol, and what the answers mean.

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::response::Parts;
use hyper::{Method, Request, StatusCode, Uri};

use super::path;
use crate::affinity::discoveries::search::ProbeVerdict;
use crate::body::Outgoing;
use crate::config::rules::Protocol;
use crate::engine_io;
use crate::keys::Key;
use crate::proxy::Job;
use crate::proxy::hop_fields;

/// A probe, the same for every worker.
pub(super) struct Probe {
    pub(super) question: ProbeQuestion,
    /// Host, and the fields that say who the client is.
    headers: HeaderMap,
}

pub(super) enum ProbeQuestion {
    EngineIo {
        path: String,
        /// Key of the path among those at which sessions live.
        place: Key,
        /// Value of `EIO` as the client spelled it, not decoded.
        eio: String,
        sid: String,
    },
    /// Path of the session's `xhr_send`.
    SockJs(String),
    /// Path of the tus upload.
    Tus(String),
    /// Target of the long poll, and a heartbeat in the format of its serializer.
    Phoenix(String, &'static str),
}

impl Probe {
    /// The probe for the session of `request`; `None` if there is none for its protocol.
    pub(super) fn of(job: &Job, request: &Request<Outgoing>) -> Option<Self> {
        let path = request.uri().path();
        let protocol = job.ask.rule(&job.upstream).map_or(Protocol::SocketIo, |live| live.rule.protocol);
        let question = match protocol {
            Protocol::SocketIo => {
                let (eio, sid) = engine_io::raw_eio_and_sid(request.uri().query()?)?;
                let (path, eio, sid) = (path.to_owned(), eio.to_owned(), sid.to_owned());
                ProbeQuestion::EngineIo { place: path::session_path(job, request.uri()), path, eio, sid }
            }
            Protocol::SockJs => ProbeQuestion::SockJs(format!("{}/xhr_send", path.rsplit_once('/')?.0)),
            Protocol::Tus => ProbeQuestion::Tus(path.to_owned()),
            Protocol::Phoenix => {
                let query = request.uri().query().filter(|_| request.method() == Method::GET)?;
                ProbeQuestion::Phoenix(format!("{path}?{query}"), heartbeat(query)?)
            }
            Protocol::SignalR | Protocol::Mcp | Protocol::CometD | Protocol::Custom => return None,
        };
        Some(Self { question, headers: told(request.headers()) })
    }

    /// A question about `sid`, which only Engine.IO's probe needs.
    pub(super) fn request(&self, method: Option<Method>, sid: &str) -> Option<Request<Outgoing>> {
        let (usual, uri, body, named) = match &self.question {
            ProbeQuestion::EngineIo { path, eio, .. } => {
                (Method::PUT, format!("{path}?EIO={eio}&transport=polling&sid={sid}"), "", None)
            }
            ProbeQuestion::SockJs(path) => {
                let plain = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
                (Method::POST, path.clone(), "[]", Some(plain))
            }
            ProbeQuestion::Phoenix(target, heartbeat) => {
                let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                (Method::POST, target.clone(), *heartbeat, Some(json))
            }
            ProbeQuestion::Tus(path) => {
                let version = (HeaderName::from_static("tus-resumable"), HeaderValue::from_static("1.0.0"));
                (Method::HEAD, path.clone(), "", Some(version))
            }
        };
        let method = method.unwrap_or(usual);
        let mut request = Request::new(Outgoing::held(Bytes::from_static(body.as_bytes())));
        let has_length = method != Method::HEAD;
        *request.method_mut() = method;
        *request.uri_mut() = uri.parse::<Uri>().ok()?;
        let headers = request.headers_mut();
        *headers = self.headers.clone();
        if has_length {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        headers.extend(named);
        Some(request)
    }

    /// Interprets an answer; an unexpected one only shows that the worker is alive.
    pub(super) fn judge(&self, parts: &Parts, body: &[u8]) -> ProbeVerdict {
        let status = parts.status;
        let (owns, refuses) = match &self.question {
            ProbeQuestion::EngineIo { .. } => (
                status == StatusCode::INTERNAL_SERVER_ERROR || is_code_3(status, body),
                engine_io::is_refusal(status.as_u16(), body),
            ),
            ProbeQuestion::SockJs(_) => (status == StatusCode::NO_CONTENT, status == StatusCode::NOT_FOUND),
            ProbeQuestion::Phoenix(..) => {
                let says = |text: &[u8]| status == StatusCode::OK && body.windows(text.len()).any(|part| part == text);
                (says(br#""status":200"#), says(br#""status":410"#))
            }
            ProbeQuestion::Tus(_) => (
                status.is_success() && parts.headers.contains_key("upload-offset"),
                matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE),
            ),
        };
        match (refuses, owns) {
            (true, _) => ProbeVerdict::Refuses,
            (false, true) => ProbeVerdict::Owns,
            (false, false) => ProbeVerdict::Alive,
        }
    }
}

/// The fields of a client's request that every request to a worker has: without them, a worker would take a probe for a
/// request of the machine itself, which may do what the client may not.
fn told(headers: &HeaderMap) -> HeaderMap {
    let is_told = |name: &HeaderName| *name == header::HOST || hop_fields::is_identity(name.as_str());
    let mut told: HeaderMap =
        headers.iter().filter(|(name, _)| is_told(name)).map(|(name, value)| (name.clone(), value.clone())).collect();
    told.entry(header::HOST).or_insert(HeaderValue::from_static("localhost"));
    told
}

/// Whether the answer is code 3: the worker owns the session, but the session is upgraded already
/// (docs/reference/protocols.md §1.5).
fn is_code_3(status: StatusCode, body: &[u8]) -> bool {
    status == StatusCode::BAD_REQUEST && body.starts_with(br#"{"code":3,"#)
}

/// Heartbeat for one of Phoenix' own two serializers, by the version `vsn`; `None` for any other serializer.
fn heartbeat(query: &str) -> Option<&'static str> {
    match engine_io::parameter(query, "vsn")?.first()? {
        b'2' => Some(r#"[null,"stickyd","phoenix","heartbeat",{}]"#),
        b'1' => Some(r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"stickyd"}"#),
        _ => None,
    }
}

/// Makes a sid of the same shape that no worker knows. The shape matters because socketioxide answers code 1 to any sid
/// it cannot parse, which means nothing for sids that it can parse.
pub(super) fn random_like(sid: &str) -> String {
    let mut escaped = 0_u8;
    let random = |class: &[u8]| {
        let index = crate::random::u64() % class.len().max(1) as u64;
        usize::try_from(index).ok().and_then(|index| class.get(index)).map_or('0', |&byte| char::from(byte))
    };
    let other = |letter: char| {
        if letter == '%' {
            escaped = 2;
            return letter;
        }
        if escaped > 0 {
            escaped -= 1;
            return letter;
        }
        match letter {
            '0'..='9' | 'a'..='f' => random(b"0123456789abcdef"),
            'g'..='z' => random(b"ghijklmnopqrstuvwxyz"),
            'A'..='Z' => random(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
            _ => letter,
        }
    };
    sid.chars().map(other).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_sid_keeps_the_shape() {
        for sid in ["rLiAov3TzDQLlepbAAAA", "3f2c9a40-7d1e-4b53-9c0f-2a6d8e51b7c4", "room%2F%CE%B1+b%2Bc%26d%3D17af"] {
            let other = random_like(sid);
            assert_ne!(other, sid);
            assert_eq!(other.len(), sid.len());
            let kept = sid.bytes().zip(other.bytes()).filter(|(a, _)| !a.is_ascii_alphanumeric());
            assert!(kept.clone().all(|(a, b)| a == b), "{other}");
        }
        assert!(random_like("room%2F%CE%B1").contains("%2F%CE%B1"), "escaped characters are kept");
    }
}
