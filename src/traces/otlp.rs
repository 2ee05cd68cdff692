//! Messages of OTLP 1.5 over HTTP ("OTLP/HTTP Request"): what is sent, and what an answer says. Pure.

use std::time::Duration;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

use crate::config::Telemetry;
use crate::printable::printable;

/// Media type of the messages.
pub(super) const PROTOBUF: &str = "application/x-protobuf";

/// Longest wait that a receiver may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Longest part of a receiver's words that is logged, in bytes.
const SHOWN: usize = 200;

/// An attribute with a text.
pub(super) fn text(key: &str, value: &str) -> KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

/// An attribute with a number.
pub(super) fn number(key: &str, value: u32) -> KeyValue {
    attribute(key, Value::IntValue(value.into()))
}

/// Bytes that a peer chose, as printable text of at most `most` bytes.
pub(super) fn shown(bytes: &[u8], most: usize) -> String {
    let mut text = printable(&String::from_utf8_lossy(bytes.get(..most).unwrap_or(bytes))).into_owned();
    text.truncate(text.floor_char_boundary(most));
    text
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// The body of a request with these spans.
pub(super) fn body(rules: &Telemetry, spans: Vec<Span>) -> Vec<u8> {
    let version = env!("CARGO_PKG_VERSION");
    let attributes = vec![
        text("service.name", &rules.service),
        text("service.version", version),
        text("host.name", &rules.machine),
        number("process.pid", std::process::id()),
    ];
    let scope = InstrumentationScope {
        name: "stickyd".to_owned(),
        version: version.to_owned(),
        ..InstrumentationScope::default()
    };
    let spans = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
    let all = ResourceSpans {
        resource: Some(Resource { attributes, ..Resource::default() }),
        scope_spans: vec![spans],
        ..ResourceSpans::default()
    };
    ExportTraceServiceRequest { resource_spans: vec![all] }.encode_to_vec()
}

/// What became of a request, by its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Taken {
    /// The receiver has taken the spans except for this number, for this reason.
    Yes(u64, String),
    /// It may take them later, after this time if it says one.
    Later(String, Option<Duration>),
    /// It will not take them.
    No(String),
}

/// Reads an answer. A success whose body is not what the protocol asks for is a success: the spans were taken.
pub(super) fn taken(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Taken {
    let why = || match shown(body, SHOWN) {
        text if text.is_empty() => status.as_u16().to_string(),
        text => format!("{}: {text}", status.as_u16()),
    };
    match status.as_u16() {
        200..=299 => {
            let is_protobuf = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == PROTOBUF);
            let answer = is_protobuf.then(|| ExportTraceServiceResponse::decode(body).ok()).flatten();
            let partial = answer.and_then(|answer| answer.partial_success).unwrap_or_default();
            let rejected = u64::try_from(partial.rejected_spans).unwrap_or_default();
            Taken::Yes(rejected, shown(partial.error_message.as_bytes(), SHOWN))
        }
        429 | 502 | 503 | 504 => {
            let after = headers.get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.trim().parse().ok());
            Taken::Later(why(), after.map(|s| Duration::from_secs(s).min(LONGEST_WAIT)))
        }
        300..=399 => Taken::No(format!("{}: redirects are not followed", status.as_u16())),
        _ => Taken::No(why()),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;
    use proptest::prelude::*;

    use super::*;

    fn answer(status: u16, fields: &[(&'static str, &str)], body: &[u8]) -> Taken {
        let headers = fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        taken(StatusCode::from_u16(status).unwrap(), &headers, body)
    }

    #[test]
    fn an_answer_says_what_became_of_the_spans() {
        let partial = ExportTracePartialSuccess { rejected_spans: 3, error_message: "too old".to_owned() };
        let body = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
        let kind = ("content-type", PROTOBUF);
        assert_eq!(answer(200, &[kind], &body), Taken::Yes(3, "too old".to_owned()));
        for rubbish in [&b"<html>"[..], b"", b"{}", &[255; 9]] {
            assert_eq!(answer(200, &[kind], rubbish), Taken::Yes(0, String::new()), "{rubbish:?}");
        }
        let later = answer(429, &[("retry-after", "7")], b"");
        assert_eq!(later, Taken::Later("429".to_owned(), Some(Duration::from_secs(7))));
        let long = answer(503, &[("retry-after", "86400")], b"busy");
        assert_eq!(long, Taken::Later("503: busy".to_owned(), Some(LONGEST_WAIT)));
        assert_eq!(answer(503, &[("retry-after", "Fri")], b""), Taken::Later("503".to_owned(), None));
        assert_eq!(answer(400, &[], b"bad\n"), Taken::No(format!("400: {}", shown(b"bad\n", SHOWN))));
        assert!(matches!(answer(302, &[], b""), Taken::No(_)) && matches!(answer(500, &[], b""), Taken::No(_)));
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(status in 200..600_u16, body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = answer(status, &[("content-type", PROTOBUF)], &body);
            let text = shown(&body, 20);
            prop_assert!(text.len() <= 20 && !text.chars().any(char::is_control), "{text:?}");
        }
    }
}
