//! Spans of requests whose clients are not trusted, or break off.

use serde_json::json;

use super::spans::{CALLER, Collector, get, of_kind, spans_counted, telling, traced};
use crate::support::raw::{Leg, Raw, RawWorker};
use crate::support::wait::wait_for;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_cannot_have_more_recorded_than_the_sample() {
    let mut collector = Collector::start(&[]).await;
    let (worker, told) = telling();
    let binary = traced(&worker, &collector, "sample = \"20%\"\n");
    let mut client = Raw::connect(binary.address);
    for _ in 0..100 {
        let fields = format!("traceparent: {CALLER}\r\ntracestate: a=b\r\n");
        assert_eq!(client.ask(&get("/", &fields)).status(), 200);
    }
    let told: Vec<_> = told.lock().unwrap().iter().flatten().cloned().collect();
    assert!(told.iter().all(|context| context[..36] == CALLER[..36]), "the trace goes on: {told:?}");
    let recorded = told.iter().filter(|context| context.ends_with("-01")).count();
    assert_eq!(told.iter().filter(|context| context.ends_with("-00")).count(), 100 - recorded);
    // Outside of this range once in 10^9 runs.
    assert!((1..60).contains(&recorded), "{recorded}");
    let spans = collector.spans(2 * recorded).await;
    assert!(spans.iter().all(|span| span["trace"] == CALLER[3..35]), "{spans:#?}");
    assert!(of_kind(&spans, "SERVER").iter().all(|span| span["parent"] == CALLER[36..52]));
    wait_for("no other is sent", || spans_counted(&binary, "sent") == (2 * recorded) as f64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_upload_is_the_clients_failure() {
    let mut collector = Collector::start(&[]).await;
    // It reads what comes and never answers.
    let worker = RawWorker::scripted(|leg: &mut Leg| while leg.raw.fill() {});
    let binary = traced(&worker, &collector, "");
    let mut client = Raw::connect(binary.address);
    client.send("POST /up HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno\r\n");
    assert_eq!(client.head().unwrap().status(), 400);
    let spans = collector.spans(2).await;
    assert_eq!(of_kind(&spans, "CLIENT")[0]["facts"]["error.type"], "client_body");
    assert_eq!(of_kind(&spans, "SERVER")[0]["facts"]["http.response.status_code"], json!(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_methods_are_as_the_conventions_say() {
    let mut collector = Collector::start(&[]).await;
    let (worker, _) = telling();
    let binary = traced(&worker, &collector, "");
    for (host, address, port) in [
        ("a.example", "a.example", json!(null)),
        ("a.example:8443", "a.example", json!(8443)),
        ("[2001:db8::1]:80", "2001:db8::1", json!(80)),
    ] {
        let request = format!("PROPFIND / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(Raw::connect(binary.address).ask(&request).status(), 200);
        let spans = collector.spans(2).await;
        let facts = &of_kind(&spans, "SERVER")[0]["facts"];
        assert_eq!((&facts["server.address"], &facts["server.port"]), (&json!(address), &port));
        for span in &spans {
            let facts = &span["facts"];
            assert_eq!(facts["http.request.method"], "_OTHER");
            assert_eq!(facts["http.request.method_original"], "PROPFIND");
        }
    }
}
