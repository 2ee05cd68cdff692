//! The spans of requests, as a receiver with OpenTelemetry's own messages (`tests/clients/otlp.py`) decodes them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::admin::{metric, reload};
use crate::support::engines::many_sessions;
use crate::support::process::{Process, clients_dir};
use crate::support::proxy::{Binary, free_address};
use crate::support::raw::{Leg, Raw, RawWorker, ok};
use crate::support::tls::Certificates;
use crate::support::wait::{at_most, patience, wait_for};

pub(super) const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A receiver of traces.
pub(super) struct Collector {
    process: Process,
    port: u64,
}

impl Collector {
    pub(super) async fn start(args: &[String]) -> Self {
        let script = std::iter::once("otlp.py".to_owned()).chain(args.iter().cloned());
        let mut process = Process::start(clients_dir().join(".venv/bin/python"), script);
        let port = process.line().await.expect("the receiver starts")["port"].as_u64().unwrap();
        Self { process, port }
    }

    /// Returns the next request in time.
    pub(super) async fn next(&mut self) -> Value {
        tokio::time::timeout(patience(), self.process.line()).await.expect("spans in time").expect("the receiver lives")
    }

    /// Plans the answers from now on, and forgets the requests before.
    pub(super) async fn plan(&mut self, mut plan: Value) {
        plan["times"] = json!(plan["times"].as_u64().unwrap_or(100));
        self.process.command(&plan.to_string()).await;
        while self.next().await["planned"] != true {}
    }

    /// The next request that gets this answer.
    pub(super) async fn answering(&mut self, status: u16) -> Value {
        loop {
            let request = self.next().await;
            if request["status"] == status {
                return request;
            }
        }
    }

    /// The next spans, until there are `count`.
    pub(super) async fn spans(&mut self, count: usize) -> Vec<Value> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.next().await["spans"].as_array().unwrap().iter().cloned());
        }
        assert_eq!(all.len(), count, "{all:#?}");
        all
    }
}

pub(super) fn config(worker: &RawWorker, telemetry: &str) -> String {
    format!(
        "state_dir = \".\"\nwatch = false\n[upstream.app]\n\
         workers = [{{ address = \"{}\", name = \"w1\" }}]\n{telemetry}\n",
        worker.address
    )
}

pub(super) fn traced(worker: &RawWorker, collector: &Collector, more: &str) -> Binary {
    let telemetry = format!("[telemetry]\notlp = \"http://127.0.0.1:{}\"\n{more}", collector.port);
    Binary::with(&config(worker, &telemetry))
}

pub(super) fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n")
}

/// A worker that answers with the trace context that it was told, and keeps what it was told.
pub(super) fn telling() -> (RawWorker, Arc<Mutex<Vec<Option<String>>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = told.clone();
    let worker = RawWorker::answering(move |request| {
        let context = request.header("traceparent").map(str::to_owned);
        seen.lock().unwrap().push(context.clone());
        ok(&context.unwrap_or_default())
    });
    (worker, told)
}

pub(super) fn of_kind<'s>(spans: &'s [Value], kind: &str) -> Vec<&'s Value> {
    let mut found: Vec<_> = spans.iter().filter(|span| span["kind"] == format!("SPAN_KIND_{kind}")).collect();
    found.sort_by_key(|span| span["start"].as_u64());
    found
}

pub(super) fn spans_counted(binary: &Binary, result: &str) -> f64 {
    metric(binary, &format!("stickyd_spans_total{{result=\"{result}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_a_span_with_one_per_attempt_in_it() {
    let mut collector = Collector::start(&[]).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let (seen, connections) = (told.clone(), AtomicU32::new(0));
    // Its first connection breaks at the second request, which is sent again over another one.
    let worker = RawWorker::scripted(move |leg: &mut Leg| {
        let mut answers = 0;
        let mut is_first = None;
        while let Some(request) = leg.request() {
            let is_first = *is_first.get_or_insert_with(|| connections.fetch_add(1, Ordering::SeqCst) == 0);
            seen.lock().unwrap().push(request.header("traceparent").unwrap().to_owned());
            answers += 1;
            if (is_first && answers == 2) || !leg.send(ok("x")) {
                return;
            }
        }
    });
    let files = crate::support::temp::TempDirectory::new("traces-headers");
    files.write_mode("headers", "# of the test\nAuthorization: Bearer hunter2\nX-Tenant: one\n", 0o600);
    let more = format!("service = \"front\"\nheaders_file = \"{}\"\n", files.path("headers").display());
    let binary = traced(&worker, &collector, &more);
    // One connection, whose thread of stickyd keeps the connection to the worker.
    let mut client = Raw::connect(binary.address);
    assert_eq!(client.ask(&get("/first", "")).status(), 200);
    let fields = format!("traceparent: {CALLER}\r\ntracestate: a=b\r\nUser-Agent: test/1\r\n");
    assert_eq!(client.ask(&get("/second?token=hunter2", &fields)).status(), 200);
    let (mut spans, mut resource) = (Vec::new(), Value::Null);
    while spans.len() < 5 {
        let request = collector.next().await;
        assert_eq!(request["path"], "/v1/traces");
        let headers = &request["headers"];
        assert_eq!((&headers["authorization"], &headers["x-tenant"]), (&json!("Bearer hunter2"), &json!("one")));
        assert_eq!(headers["content-type"], "application/x-protobuf");
        resource = request["resource"].clone();
        spans.extend(request["spans"].as_array().unwrap().iter().cloned());
    }
    assert_eq!((&resource["service.name"], &resource["process.pid"]), (&json!("front"), &json!(binary.pid())));
    assert!(!format!("{spans:?}").contains("hunter2"));
    let second: Vec<_> = spans.iter().filter(|span| span["trace"] == CALLER[3..35]).cloned().collect();
    let (servers, clients) = (of_kind(&second, "SERVER"), of_kind(&second, "CLIENT"));
    let (&[server], &[broken, good]) = (&servers[..], &clients[..]) else { panic!("{spans:#?}") };
    assert_eq!(server["parent"], CALLER[36..52]);
    for span in [broken, good] {
        assert_eq!(span["parent"], server["id"]);
        assert!(span["start"].as_u64() >= server["start"].as_u64() && span["end"].as_u64() <= server["end"].as_u64());
    }
    assert!(broken["end"].as_u64() <= good["start"].as_u64());
    assert_eq!((&broken["facts"]["error.type"], &broken["error"]), (&json!("connection_broken"), &json!(true)));
    assert_eq!((&good["facts"]["http.request.resend_count"], &good["error"]), (&json!(1), &json!(false)));
    assert_eq!(good["facts"]["stickyd.worker"], "w1");
    let facts = &server["facts"];
    for (key, value) in [
        ("http.request.method", json!("GET")),
        ("http.response.status_code", json!(200)),
        ("url.path", json!("/second")),
        ("server.address", json!("a.example")),
        ("user_agent.original", json!("test/1")),
        ("client.address", json!("127.0.0.1")),
        ("stickyd.upstream", json!("app")),
        ("network.protocol.version", json!("1.1")),
    ] {
        assert_eq!(facts[key], value, "{key}");
    }
    // Each time, the worker was told the span of the attempt.
    let told = told.lock().unwrap().clone();
    let named: Vec<_> = told[1..].iter().map(|context| &context[..]).collect();
    let expected = [broken, good].map(|span| format!("{}{}-01", &CALLER[..36], span["id"].as_str().unwrap()));
    assert_eq!(named, expected);
    let first = of_kind(&spans, "SERVER").into_iter().find(|span| span["trace"] != CALLER[3..35]).unwrap();
    assert_eq!((&first["parent"], first["trace"].as_str()), (&json!(""), Some(&told[0][3..35])), "a new trace");
    wait_for("the spans are counted", || spans_counted(&binary, "sent") == 5.0);
    assert!(!binary.log().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_the_span_of_its_upgrade() {
    let mut collector = Collector::start(&[]).await;
    let worker = many_sessions("one");
    let binary = traced(&worker, &collector, "");
    let mut socket = Raw::connect(binary.address);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(socket.send(get("/ws", upgrade)).head().unwrap().status(), 101);
    // The spans come while the tunnel is open.
    let spans = collector.spans(2).await;
    for kind in ["SERVER", "CLIENT"] {
        let span = of_kind(&spans, kind)[0];
        assert_eq!((&span["facts"]["http.response.status_code"], &span["error"]), (&json!(101), &json!(false)));
    }
    assert_eq!(metric(&binary, "stickyd_tunnels{upstream=\"app\",worker=\"w1\"}"), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_and_a_caller_that_does_not_record_are_heeded() {
    let mut collector = Collector::start(&[]).await;
    let (worker, told) = telling();
    let trusting = "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let binary = traced(&worker, &collector, &format!("sample = \"20%\"\n{trusting}"));
    let untouched = CALLER.replace("-01", "-00");
    let fields = format!("traceparent: {untouched}\r\n");
    assert_eq!(Raw::connect(binary.address).ask(&get("/", &fields)).text(), untouched);
    let mut client = Raw::connect(binary.address);
    (0..100).for_each(|_| _ = client.get("/"));
    // What follows a trusted caller that records is always sent, so it shows that all before it was.
    let last = client.ask(&get("/last", &format!("traceparent: {CALLER}\r\n"))).text().to_owned();
    let told: Vec<_> = told.lock().unwrap().iter().flatten().cloned().collect();
    assert_eq!((told.len(), &told[0], &told[101]), (102, &untouched, &last));
    let recorded = told[1..101].iter().filter(|context| context.ends_with("-01")).count();
    assert!(told[1..101].iter().all(|context| context.ends_with("-01") || context.ends_with("-00")));
    // Outside of this range once in 10^9 runs.
    assert!((1..60).contains(&recorded), "{recorded}");
    let spans = collector.spans(2 * recorded + 2).await;
    assert_eq!(of_kind(&spans, "SERVER").len(), recorded + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_begins_a_new_trace_that_the_log_names() {
    let mut collector = Collector::start(&[]).await;
    let (worker, _) = telling();
    let telemetry = format!("[telemetry]\notlp = \"http://127.0.0.1:{}\"\n[log]\naccess = true\n", collector.port);
    let binary = Binary::with(&config(&worker, &telemetry));
    for rubbish in [
        format!("traceparent: {CALLER}\r\ntraceparent: {CALLER}\r\n"),
        format!("traceparent: {}\r\n", CALLER.to_ascii_uppercase()),
        format!("traceparent: {CALLER}-more\r\n"),
        "traceparent: +0-1-2-3\r\n".to_owned(),
        format!("traceparent: {}\r\n", "0".repeat(4_000)),
    ] {
        let told = Raw::connect(binary.address).ask(&get("/", &rubbish)).text().to_owned();
        assert!(told.len() == CALLER.len() && told.ends_with("-01"), "{told}");
        let spans = collector.spans(2).await;
        assert!(spans.iter().all(|span| span["trace"] == told[3..35] && span["trace"] != CALLER[3..35]), "{spans:#?}");
        assert_eq!(of_kind(&spans, "CLIENT")[0]["id"], told[36..52]);
        binary.says(&["access", &told[3..35]]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_stickyd_itself_are_spans_without_attempts() {
    let mut collector = Collector::start(&[]).await;
    let (worker, _) = telling();
    let telemetry = format!("[telemetry]\notlp = \"http://127.0.0.1:{}\"\n", collector.port);
    let routes = "[[route]]\npath = \"/closed\"\nupstream = \"app\"\ndeny = [\"127.0.0.1\"]\n\
                  [[route]]\nupstream = \"app\"\n";
    let binary = Binary::with(&config(&worker, &(telemetry + routes)));
    assert_eq!(Raw::connect(binary.address).get("/closed/x").status(), 403);
    let span = &collector.spans(1).await[0];
    assert_eq!((&span["kind"], &span["facts"]["http.response.status_code"]), (&json!("SPAN_KIND_SERVER"), &json!(403)));
    assert_eq!(span["error"], false, "an answer 4xx is not the server's error");
    assert!(span["facts"]["stickyd.reason"].is_string(), "{span:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_or_broken_receiver_costs_no_request() {
    let mut collector = Collector::start(&[]).await;
    let (worker, _) = telling();
    let binary = traced(&worker, &collector, "");
    let ask = || {
        let began = Instant::now();
        assert_eq!(Raw::connect(binary.address).get("/").status(), 200);
        began.elapsed()
    };
    // Busy: the same spans come again.
    collector.plan(json!({"answer": 503, "after": 1, "times": 1})).await;
    ask();
    let (first, second) = (collector.next().await, collector.next().await);
    assert_eq!((&first["status"], &second["status"]), (&json!(503), &json!(200)));
    assert_eq!(first["spans"], second["spans"]);
    wait_for("both are counted", || spans_counted(&binary, "sent") == 2.0);
    // Broken, and then rubbish as its answer: what was taken is counted as sent.
    collector.plan(json!({"answer": 500, "body": "no\u{1}disk"})).await;
    ask();
    collector.answering(500).await;
    wait_for("the lost ones are counted", || spans_counted(&binary, "failed") == 2.0);
    binary.says(&["traces are not sent", "500: no"]);
    collector.plan(json!({"answer": 200, "body": "<html>\u{ff}"})).await;
    ask();
    collector.answering(200).await;
    wait_for("they are counted", || spans_counted(&binary, "sent") == 4.0);
    binary.says(&["traces are sent again"]);
    // Silent: requests go on.
    collector.plan(json!({"answer": 0})).await;
    ask();
    collector.answering(0).await;
    let slowest = (0..50).map(|_| ask()).max().unwrap();
    assert!(slowest < Duration::from_secs(8), "a receiver has 10 s to answer: {slowest:?}");
    assert_eq!(spans_counted(&binary, "dropped"), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_costs_no_request_and_is_counted() {
    let (worker, _) = telling();
    let telemetry = format!("[telemetry]\notlp = \"http://{}\"\n", free_address());
    let binary = Binary::with(&config(&worker, &telemetry));
    assert_eq!(Raw::connect(binary.address).get("/").status(), 200);
    // After four attempts within 7 s.
    wait_for("the lost spans are counted", || spans_counted(&binary, "failed") == 2.0);
    binary.says(&["traces are not sent", "cannot connect"]);
    assert_eq!(Raw::connect(binary.address).get("/").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_spans_are_sent_when_stickyd_stops() {
    let mut collector = Collector::start(&[]).await;
    let (worker, _) = telling();
    let mut binary = traced(&worker, &collector, "");
    assert_eq!(Raw::connect(binary.address).get("/").status(), 200);
    assert_eq!(binary.terminate().0, Some(0));
    assert_eq!(collector.spans(2).await.len(), 2);
    // A receiver that never answers holds the stop up for 2 s at most.
    let mut binary = traced(&worker, &collector, "");
    collector.plan(json!({"answer": 0})).await;
    assert_eq!(Raw::connect(binary.address).get("/").status(), 200);
    collector.answering(0).await;
    let (code, took) = binary.terminate();
    assert_eq!(code, Some(0));
    // Two more seconds for the rest of the stop.
    assert!(took < at_most(Duration::from_secs(4)), "{took:?}");
    binary.says(&["spans of traces were not sent: stickyd stops", "count=2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_begins_moves_and_ends_traces() {
    let (mut one, mut two) = (Collector::start(&[]).await, Collector::start(&[]).await);
    let (worker, told) = telling();
    let binary = Binary::with(&config(&worker, ""));
    let ask = || assert_eq!(Raw::connect(binary.address).get("/").status(), 200);
    let to =
        |port: u64, path: &str| config(&worker, &format!("[telemetry]\notlp = \"http://127.0.0.1:{port}{path}\"\n"));
    ask();
    assert_eq!(told.lock().unwrap().last(), Some(&None), "without the table, nothing is added");
    reload(&binary, &to(one.port, ""));
    ask();
    one.spans(2).await;
    reload(&binary, &to(two.port, "/other/path"));
    ask();
    assert_eq!(two.next().await["path"], "/other/path");
    wait_for("all are sent", || spans_counted(&binary, "sent") == 4.0);
    reload(&binary, &config(&worker, ""));
    ask();
    assert_eq!(told.lock().unwrap().last(), Some(&None));
    assert_eq!(spans_counted(&binary, "sent"), 4.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_with_tls_is_verified() {
    let certificates = Certificates::new();
    certificates.issue("otel", &["localhost"]);
    let file = |name: &str| certificates.directory.join(name).display().to_string();
    let mut collector = Collector::start(&[file("otel.pem"), file("otel.key")]).await;
    let (worker, _) = telling();
    let to = |ca: &str| {
        let otlp = format!("otlp = \"https://localhost:{}\"", collector.port);
        config(&worker, &format!("[telemetry]\n{otlp}\nca = \"{ca}\"\n"))
    };
    let other = Certificates::new();
    let binary = Binary::with(&to(&other.directory.join("ca.pem").display().to_string()));
    let right = to(&file("ca.pem"));
    assert_eq!(Raw::connect(binary.address).get("/").status(), 200);
    binary.says(&["traces are not sent", "invalid peer certificate"]);
    reload(&binary, &right);
    assert_eq!(Raw::connect(binary.address).get("/").status(), 200);
    collector.spans(2).await;
}
