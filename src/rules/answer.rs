//! What a response means to a rule: whether it refuses a session, and how long a session lives. All functions are pure.

use std::borrow::Cow;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};

use super::contains;
use crate::config::rules::{RefusalRule, Rule};
use crate::engine_io::{self, MAX_REFUSAL};

/// Whether a response is a refusal, as far as its head tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusalMatch {
    /// The response is not a refusal.
    No,
    /// The response is a refusal.
    Yes,
    /// The body decides whether the response is a refusal.
    Read,
}

/// Judges by its head whether a response is a worker's "I do not know this session".
pub(crate) fn head_refuses(rule: &Rule, status: StatusCode, headers: &HeaderMap) -> RefusalMatch {
    let mut verdict = RefusalMatch::No;
    for refusal in &rule.refusal {
        match refusal {
            RefusalRule::EngineIo if status == StatusCode::BAD_REQUEST => verdict = RefusalMatch::Read,
            RefusalRule::EngineIo => {}
            RefusalRule::Answer { status: wanted, .. } if *wanted != status.as_u16() => {}
            RefusalRule::Answer { header: Some((name, part)), .. } => {
                let mut values = headers.get_all(name).iter();
                if values.any(|value| contains(value.as_bytes(), part.as_bytes())) {
                    return RefusalMatch::Yes;
                }
            }
            RefusalRule::Answer { body, .. } if body.is_empty() => return RefusalMatch::Yes,
            RefusalRule::Answer { .. } if is_readable(status, headers) => verdict = RefusalMatch::Read,
            RefusalRule::Answer { .. } => {}
        }
    }
    verdict
}

/// Whether a body may be read to find a refusal. A success is read only if it is short, because it may be a session's
/// stream.
fn is_readable(status: StatusCode, headers: &HeaderMap) -> bool {
    let short = || {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        length.is_none_or(|length| length <= MAX_REFUSAL)
    };
    is_text(headers) && (!status.is_success() || short())
}

/// Whether a body is neither compressed nor a stream of events.
pub(crate) fn is_text(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::CONTENT_ENCODING) && !is_events(headers)
}

/// Whether a body is a stream of events (text/event-stream), which stays open.
pub(crate) fn is_events(headers: &HeaderMap) -> bool {
    const EVENTS: &[u8] = b"text/event-stream";
    let kind = headers.get(header::CONTENT_TYPE).map(|value| value.as_bytes().get(..EVENTS.len()).unwrap_or_default());
    kind.is_some_and(|kind| kind.eq_ignore_ascii_case(EVENTS))
}

/// Whether a body with this status is a refusal; a body longer than [`MAX_REFUSAL`] is judged by its beginning.
pub(crate) fn body_refuses(rule: &Rule, status: StatusCode, body: &[u8]) -> bool {
    let beginning = body.get(..MAX_REFUSAL).unwrap_or(body);
    rule.refusal.iter().any(|refusal| match refusal {
        RefusalRule::EngineIo => engine_io::is_refusal(status.as_u16(), body),
        RefusalRule::Answer { status: wanted, body: part, header: None } => {
            *wanted == status.as_u16() && contains(beginning, part.as_bytes())
        }
        RefusalRule::Answer { .. } => false,
    })
}

/// Parses a session's time to live in seconds, as its worker sent it; `None` if the text is not a number.
pub(crate) fn seconds(text: &[u8]) -> Option<Duration> {
    let text: Cow<'_, str> = String::from_utf8_lossy(text.trim_ascii());
    let seconds = text.parse::<f64>().ok().filter(|seconds| seconds.is_finite())?;
    // The range that the config allows for `ttl`.
    Some(Duration::from_secs_f64(seconds.clamp(1.0, 2_592_000.0)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use hyper::header::HeaderValue;

    use super::*;
    use crate::config::{self, Affinity};

    fn rule(refusal: &str) -> Rule {
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.a]\nworkers = [\"127.0.0.1:1\"]\naffinity = [\"r\"]\n\
             [affinity.r]\nlookup = [\"query:r\"]\nrefusal = {refusal}\n"
        );
        let config = config::parse(&text, Path::new("s.toml")).unwrap();
        match &config.upstreams[0].affinity[0] {
            Affinity::Rule(rule) => (**rule).clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn refusals_are_found_in_head_and_body() {
        let rule =
            rule("[{ status = 404, body = \"no such\" }, { status = 410 }, { status = 409, header = \"x-e: gone\" }]");
        let mut none = HeaderMap::new();
        let judge =
            |status: u16, headers: &HeaderMap| head_refuses(&rule, StatusCode::from_u16(status).unwrap(), headers);
        assert_eq!(
            [200, 404, 410, 409].map(|status| judge(status, &none)),
            [RefusalMatch::No, RefusalMatch::Read, RefusalMatch::Yes, RefusalMatch::No]
        );
        none.insert("x-e", HeaderValue::from_static("it is gone"));
        assert_eq!(judge(409, &none), RefusalMatch::Yes);
        assert!(body_refuses(&rule, StatusCode::NOT_FOUND, b"there is no such job"));
        assert!(!body_refuses(&rule, StatusCode::NOT_FOUND, b"not found"));
        none.insert("content-encoding", HeaderValue::from_static("gzip"));
        assert_eq!(judge(404, &none), RefusalMatch::No, "a compressed body is not read");
    }

    #[test]
    fn long_and_streaming_successes_are_not_read() {
        let rule = rule("[{ status = 200, body = \"410\" }]");
        let with = |name: &'static str, value: &'static str| {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))]);
            head_refuses(&rule, StatusCode::OK, &headers)
        };
        assert_eq!(with("content-type", "application/json"), RefusalMatch::Read);
        assert_eq!(with("content-length", "512"), RefusalMatch::Read);
        assert_eq!(with("content-length", "513"), RefusalMatch::No);
        assert_eq!(with("content-type", "text/event-stream"), RefusalMatch::No);
    }

    #[test]
    fn times_to_live_are_parsed_and_clamped() {
        assert_eq!(seconds(b" 90 "), Some(Duration::from_secs(90)));
        assert_eq!(seconds(b"0.1"), Some(Duration::from_secs(1)));
        assert_eq!(seconds(b"1e300"), Some(Duration::from_secs(2_592_000)));
        for none in [&b""[..], b"NaN", b"inf", b"1h", b"\xff"] {
            assert_eq!(seconds(none), None);
        }
    }
}
