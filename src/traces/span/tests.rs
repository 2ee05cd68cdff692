//! Spans of a request and its attempts: how they nest, what workers are told, and what is not sent.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prometheus::{IntCounterVec, Opts};

use super::*;
use crate::config::OutboundTarget;

const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn rules(sample: u32) -> Arc<Telemetry> {
    let target = OutboundTarget { url: "http://127.0.0.1:4318/".parse().unwrap(), authorities: Arc::default() };
    let (headers, service, machine) = (Vec::new(), "stickyd".to_owned(), "web-1".to_owned());
    Arc::new(Telemetry { target, headers, service, machine, sample })
}

fn traces() -> Arc<Traces> {
    Traces::new(&IntCounterVec::new(Opts::new("spans", "spans"), &["result"]).unwrap())
}

fn origin() -> RequestOrigin {
    RequestOrigin { client: "192.0.2.1".parse().unwrap(), trusted: false, secure: true, http2: false }
}

fn request(traceparent: &str) -> Request<()> {
    let request = Request::get("/a/b?token=hunter2").header("host", "app.example").header("user-agent", &b"a\xffb"[..]);
    let request = if traceparent.is_empty() { request } else { request.header("traceparent", traceparent) };
    request.header("tracestate", "vendor=1").body(()).unwrap()
}

fn begin(traces: &Arc<Traces>, sample: u32, request: &Request<()>) -> RequestTrace {
    RequestTrace::begin(traces, Some(&rules(sample)), request, origin)
}

fn fact(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|one| one.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{other:?}"),
    }
}

fn sent(traces: &Traces) -> Vec<Span> {
    let mut receiver = traces.take_receiver().unwrap();
    std::iter::from_fn(move || receiver.try_recv().ok()).collect()
}

#[test]
fn attempts_are_within_their_request_and_named_to_workers() {
    let (traces, mut request) = (traces(), request(CALLER));
    let trace = begin(&traces, 100, &request);
    assert_eq!(trace.own_context(), None, "the request has brought it");
    let mut named = Vec::new();
    for (worker, status) in [("w1", None), ("w2", Some(StatusCode::OK))] {
        let address = Address::Tcp("127.0.0.1:3001".parse().unwrap());
        let mut span = trace.attempt(&mut request, worker, &address);
        named.push(TraceContext::of(request.headers()).unwrap());
        match status {
            Some(status) => span.answered(status),
            None => span.failed("connection_refused"),
        }
    }
    trace.decided("app", "new");
    trace.answered(StatusCode::OK, None);
    trace.end(false);
    trace.end(false);
    let spans = sent(&traces);
    let [first, second, server] = spans.as_slice() else { panic!("{spans:#?}") };
    let caller = TraceContext::of(&self::request(CALLER).headers().clone()).unwrap();
    for span in &spans {
        assert_eq!((span.trace_id.as_slice(), span.name.as_str()), (&caller.trace[..], "GET"));
        assert!(span.start_time_unix_nano >= server.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= server.end_time_unix_nano && span.start_time_unix_nano > 1 << 60);
        assert!(!format!("{span:?}").contains("hunter2"));
    }
    assert_eq!((server.parent_span_id.as_slice(), server.kind), (&caller.span[..], SpanKind::Server.into()));
    for (span, context) in [first, second].into_iter().zip(&named) {
        assert_eq!((span.span_id.as_slice(), &span.parent_span_id), (&context.span[..], &server.span_id));
        assert_eq!(span.kind, i32::from(SpanKind::Client));
    }
    assert_eq!(fact(first, "error.type").as_deref(), Some("connection_refused"));
    assert_eq!(fact(second, "http.request.resend_count").as_deref(), Some("1"));
    assert_eq!(fact(second, "stickyd.worker").as_deref(), Some("w2"));
    assert!(second.status.is_none() && first.status.is_some());
    let of_server = |key| fact(server, key).unwrap();
    assert_eq!((of_server("url.path"), of_server("url.scheme")), ("/a/b".to_owned(), "https".to_owned()));
    assert_eq!((of_server("client.address"), of_server("stickyd.why")), ("192.0.2.1".to_owned(), "new".to_owned()));
    assert!(of_server("user_agent.original").starts_with('a'));
    assert_eq!(request.headers().get("tracestate").unwrap(), "vendor=1");
}

#[test]
fn a_request_whose_caller_does_not_record_is_untouched() {
    let (traces, untouched) = (traces(), CALLER.replace("-01", "-00"));
    let mut request = request(&untouched);
    let trace = begin(&traces, 100, &request);
    drop(trace.attempt(&mut request, "w1", &Address::Unix("/run/a".into())));
    trace.end(false);
    assert_eq!(request.headers().get("traceparent").unwrap(), &untouched);
    assert!(sent(&traces).is_empty());
}

#[test]
fn a_trace_that_begins_here_replaces_what_is_not_valid() {
    let traces = traces();
    for traceparent in ["", "00-rubbish"] {
        let mut request = request(traceparent);
        let trace = begin(&traces, 100, &request);
        drop(trace.attempt(&mut request, "w1", &Address::Unix("/run/a".into())));
        trace.end(false);
        let told = TraceContext::of(request.headers()).unwrap();
        assert!(told.is_sampled() && !request.headers().contains_key("tracestate"));
        let own = trace.own_context().unwrap();
        assert_eq!(own.as_bytes()[..35], told.text().as_bytes()[..35], "the trace is the same, the span is another");
    }
    let spans = sent(&traces);
    assert_eq!(spans.len(), 4);
    assert_eq!(fact(&spans[0], "error.type").as_deref(), Some("cancelled"));
    assert_eq!(fact(&spans[1], "error.type").as_deref(), Some("client_left"), "there was no answer");
    assert!(spans[1].parent_span_id.is_empty());
}

#[test]
fn a_sample_tells_workers_what_is_not_recorded() {
    let traces = traces();
    let mut recorded = 0;
    for _ in 0..400 {
        let mut request = request("");
        let trace = begin(&traces, 50, &request);
        drop(trace.attempt(&mut request, "w1", &Address::Unix("/run/a".into())));
        trace.end(false);
        recorded += usize::from(TraceContext::of(request.headers()).unwrap().is_sampled());
    }
    // Outside of this range once in 10^23 runs.
    assert!((100..300).contains(&recorded), "{recorded}");
    assert_eq!(sent(&traces).len(), 2 * recorded);
}

#[test]
fn what_the_queue_has_no_room_for_is_counted() {
    let traces = traces();
    for _ in 0..5_000 {
        begin(&traces, 100, &request(CALLER)).end(false);
    }
    assert_eq!((traces.dropped.get(), sent(&traces).len()), (5_000 - 4_096, 4_096));
}

#[test]
fn an_unknown_method_is_no_name() {
    let (traces, long) = (traces(), "B".repeat(6_000));
    for method in ["BREW", &long] {
        let mut request = request("");
        *request.method_mut() = Method::from_bytes(method.as_bytes()).unwrap();
        let trace = begin(&traces, 100, &request);
        drop(trace.attempt(&mut request, "w1", &Address::Unix("/run/a".into())));
        trace.end(false);
    }
    let spans = sent(&traces);
    assert_eq!(spans.len(), 4);
    for (span, original) in spans.iter().zip(["BREW", "BREW", &long[..512], &long[..512]]) {
        let method = |key| fact(span, key).unwrap();
        assert_eq!((span.name.as_str(), method("http.request.method").as_str()), ("HTTP", "_OTHER"));
        assert_eq!(method("http.request.method_original"), original);
    }
}

/// Bytes that a span takes: what is in it, and what it points to.
fn size(span: &Span) -> usize {
    let of_text = |value: &Value| if let Value::StringValue(text) = value { text.capacity() } else { 0 };
    let of_fact = |fact: &KeyValue| {
        let value = fact.value.as_ref().and_then(|value| value.value.as_ref()).map_or(0, of_text);
        fact.key.capacity() + value
    };
    let facts = span.attributes.capacity() * size_of::<KeyValue>() + span.attributes.iter().map(of_fact).sum::<usize>();
    let ids = span.trace_id.capacity() + span.span_id.capacity() + span.parent_span_id.capacity();
    size_of::<Span>() + facts + ids + span.name.capacity() + span.trace_state.capacity()
}

#[test]
fn a_full_queue_of_long_texts_takes_less_than_16_mb() {
    let traces = traces();
    let head = Request::builder().method(&*"B".repeat(9_000)).uri(format!("/{}", "%".repeat(9_000)));
    let text = HeaderValue::from_bytes(&[0xff; 9_000]).unwrap();
    let mut request = head.header("host", &text).header("user-agent", &text).body(()).unwrap();
    let trace = begin(&traces, 100, &request);
    drop(trace.attempt(&mut request, "w1", &Address::Unix(format!("/{}", "a".repeat(107)).into())));
    trace.decided("app", "new");
    trace.answered(StatusCode::SERVICE_UNAVAILABLE, Some("no_worker"));
    trace.end(false);
    let sizes: Vec<_> = sent(&traces).iter().map(size).collect();
    // The server's own span is the larger one.
    assert!((2_048..4_000).contains(&sizes[1]) && sizes[0] < sizes[1], "{sizes:?}");
}
