//! The access log: which worker, why, what it cost, and why stickyd itself answered. No value of a query is in it.

use serde_json::Value;

use crate::support::proxy::{Binary, free_address};
use crate::support::raw::{Raw, RawWorker, ok};

#[test]
fn the_access_log_has_the_worker_and_the_reason() {
    let worker = RawWorker::answering(|request| {
        if request.target() == "/missing" {
            return "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone".to_owned();
        }
        ok("hello")
    });
    let binary = Binary::with(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [upstream.app]\nworkers = [{{ address = \"{}\", name = \"w7\" }}]\n\
         [[route]]\npath = \"/no-such\"\nupstream = \"app\"\n[[route]]\nhost = \"a\"\nupstream = \"app\"\n[log]\naccess = true",
        worker.address
    ));
    let mut client = Raw::connect(binary.address);
    let pair = client
        .ask("GET /first?q=1 HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\n\r\n")
        .cookie("stickyd_app")
        .unwrap();
    client.ask(&format!("POST /missing HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nCookie: {pair}\r\n\r\n"));
    client.ask("GET /elsewhere HTTP/1.1\r\nHost: b\r\n\r\n");
    binary.says(&[
        "client=192.0.2.9",
        "method=GET",
        "path=/first",
        "status=200",
        "bytes=5",
        "upstream=\"app\"",
        "worker=\"w7\"",
        "why=\"address\"",
    ]);
    binary.says(&[
        "client=127.0.0.1",
        "method=POST",
        "path=/missing",
        "status=404",
        "bytes=4",
        "worker=\"w7\"",
        "why=\"cookie\"",
    ]);
    binary.says(&["path=/elsewhere", "status=404", "worker=\"-\"", "why=\"-\""]);
}

/// A stickyd that logs requests as JSON, in front of `worker` and of an address that refuses connections.
fn logging(worker: &RawWorker, more: &str) -> Binary {
    Binary::with(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [upstream.app]\nworkers = [{{ address = \"{}\", name = \"w\" }}]\n\
         [upstream.down]\nworkers = [\"{}\"]\n\
         [[route]]\npath = \"/down\"\nupstream = \"down\"\n\
         [[route]]\npath = \"/closed\"\nupstream = \"app\"\ndeny = [\"0.0.0.0/0\"]\n\
         [[route]]\nhost = \"a\"\nupstream = \"app\"\n{more}\n[log]\naccess = true\nformat = \"json\"",
        worker.address,
        free_address()
    ))
}

fn line(binary: &Binary, path: &str) -> Value {
    serde_json::from_str(&binary.says(&["\"target\":\"access\"", &format!("\"path\":\"{path}\"")])).unwrap()
}

#[test]
fn a_request_can_be_followed_to_its_worker() {
    let mut worker = RawWorker::named("hello");
    let binary = logging(&worker, "");
    let mut client = Raw::connect(binary.address);
    client.ask(
        "POST /first?token=secret1 HTTP/1.1\r\nHost: a\r\nUser-Agent: Test/1 (x; y)\r\nContent-Length: 3\r\n\
         Referer: https://a.example/page?token=secret2#part\r\n\
         traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n\r\nabc",
    );
    let sent = worker.request().1;
    let said = line(&binary, "/first");
    assert_eq!(said["request_id"], sent.header("x-request-id").unwrap());
    assert_eq!((&said["host"], &said["user_agent"]), (&"a".into(), &"Test/1 (x; y)".into()));
    assert_eq!((&said["protocol"], &said["http"], &said["tls"]), (&"HTTP/1.1".into(), &1.into(), &false.into()));
    assert_eq!((&said["bytes_up"], &said["bytes_down"], &said["bytes"]), (&3.into(), &5.into(), &5.into()));
    assert_eq!((&said["attempts"], &said["reason"], &said["cut"]), (&1.into(), &"-".into(), &false.into()));
    assert_eq!(said["referer"], "https://a.example/page");
    assert_eq!(said["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(said["ttfb_ms"].as_u64().unwrap() <= said["ms"].as_u64().unwrap());
    // A trusted proxy's id goes to the worker, and is logged as it went.
    client.ask("GET /second HTTP/1.0\r\nHost: a\r\nX-Request-Id: from-the-edge\r\n\r\n");
    let said = line(&binary, "/second");
    assert_eq!((&said["request_id"], &said["protocol"]), (&"from-the-edge".into(), &"HTTP/1.0".into()));
    assert_eq!((&said["user_agent"], &said["referer"], &said["trace_id"]), (&"-".into(), &"-".into(), &"-".into()));
    assert!(!binary.log().contains("secret"), "{}", binary.log());
}

#[test]
fn stickyds_own_answers_have_a_reason() {
    let worker = RawWorker::named("a");
    let binary = logging(&worker, "");
    let ask = |request: &str| Raw::connect(binary.address).ask(&format!("{request}\r\n\r\n")).status();
    let of = |path: &str| {
        let said = line(&binary, path);
        let text = |key: &str| said[key].as_str().unwrap().to_owned();
        (said["status"].as_u64().unwrap(), text("upstream"), text("reason"), text("client"))
    };
    let is = |status: u64, upstream: &str, reason: &str, client: &str| {
        (status, upstream.to_owned(), reason.to_owned(), client.to_owned())
    };
    let from = "X-Forwarded-For: 192.0.2.9";
    assert_eq!(ask(&format!("GET /none HTTP/1.1\r\nHost: b\r\n{from}")), 404);
    assert_eq!(of("/none"), is(404, "-", "no route for this host and path", "192.0.2.9"));
    assert_eq!(ask("GET /hosts HTTP/1.1\r\nHost: a\r\nHost: a"), 400);
    assert_eq!(of("/hosts"), is(400, "-", "there is more than one Host header", "127.0.0.1"));
    assert_eq!(ask(&format!("GET /closed HTTP/1.1\r\nHost: a\r\n{from}")), 403);
    assert_eq!(of("/closed"), is(403, "app", "the client's network is not allowed", "192.0.2.9"));
    assert_eq!(ask("GET /down HTTP/1.1\r\nHost: a"), 503);
    let (status, upstream, reason, _) = of("/down");
    assert_eq!((status, upstream.as_str(), reason.as_str()), (503, "down", "no worker can take this request"));
    assert_eq!(ask("GET /fine HTTP/1.1\r\nHost: a"), 200);
    assert_eq!(of("/fine"), is(200, "app", "-", "127.0.0.1"));
}

#[test]
fn every_attempt_is_counted() {
    let ill = RawWorker::scripted(|leg| drop(leg.request()));
    let binary = Binary::with(&format!(
        "threads = 1\n[upstream.app]\nworkers = [\"{}\"]\neject = false\n\
         health = {{ kind = \"tcp\", interval = \"1h\" }}\n[log]\naccess = true\nformat = \"json\"",
        ill.address
    ));
    // A POST is sent once; a GET is lost once, and there is no other worker.
    for (method, path) in [("POST", "/post"), ("GET", "/get")] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(Raw::connect(binary.address).ask(&request).status(), 502);
        let said = line(&binary, path);
        assert_eq!((&said["attempts"], &said["status"]), (&1.into(), &502.into()), "{path}");
        assert_eq!(said["reason"], "the worker gave no valid response");
    }
    // A kept connection that has ended: the same worker gets the request a second time.
    let stale = RawWorker::scripted(|leg| {
        let mut answered = 0;
        while leg.request().is_some() && (leg.number > 0 || answered == 0) {
            leg.send(ok("fine"));
            answered += 1;
        }
    });
    let binary = logging(&stale, "");
    let mut client = Raw::connect(binary.address);
    for path in ["/one", "/two"] {
        assert_eq!(client.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).text(), "fine");
    }
    assert_eq!((&line(&binary, "/one")["attempts"], &line(&binary, "/two")["attempts"]), (&1.into(), &2.into()));
}

#[test]
fn a_client_that_leaves_before_the_answer_is_logged_as_499() {
    let mut worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    let binary = logging(&worker, "");
    let mut client = Raw::connect(binary.address);
    client.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    worker.request();
    drop(client);
    let said = line(&binary, "/slow");
    assert_eq!((&said["status"], &said["ttfb_ms"], &said["worker"]), (&499.into(), &Value::Null, &"w".into()));
    assert_eq!(said["attempts"], 1);
}

#[test]
fn what_a_peer_sent_is_printable_and_adds_no_field() {
    let worker = RawWorker::named("a");
    let text = format!("[upstream.app]\nworkers = [\"{}\"]\n[log]\naccess = true", worker.address);
    let binary = Binary::with(&text);
    let mut client = Raw::connect(binary.address);
    let agent = [b"x\" status=200 \xe2\x80\xaeright\xc2\x9b31m\t", "y".repeat(2_000).as_bytes()].concat();
    client.send([b"GET /odd HTTP/1.1\r\nHost: a\r\nUser-Agent: ", &agent[..], b"\r\n\r\n"].concat());
    client.answer();
    let said = binary.says(&["path=/odd"]);
    assert!(!said.chars().any(|c| c.is_control() || c == '\u{202e}'), "{said:?}");
    assert!(said.contains("user_agent=\"x\\\" status=200 ?right?31m?y") && said.len() < 1_500, "{said}");
    // Fields that people parse already stay where they are; new ones follow.
    let keys: Vec<_> =
        said.split(" access: ").nth(1).unwrap().split(' ').filter_map(|word| word.split_once('=')).collect();
    let keys: Vec<_> = keys.into_iter().map(|(key, _)| key).take(12).collect();
    assert_eq!(
        keys,
        ["client", "http", "method", "path", "status", "bytes", "ms", "upstream", "worker", "why", "cut", "request_id"]
    );
}
