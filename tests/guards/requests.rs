//! Guards of routes and upstreams, byte by byte: which requests are refused, with which answer, and that no worker sees
//! them.

use crate::support::admin::{metric, post_reload, write};
use crate::support::h2::{Secured, ask as ask_h2, connect};
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{Message, Raw, RawWorker, ok};

const POLL: &str = "/socket.io/?EIO=4&transport=polling";
const OPEN: &str = "0{\"sid\":\"AAAAAAAAAAAAAAAAAAAA\",\"pingInterval\":25000,\"pingTimeout\":20000}";

/// A worker that opens sessions, grants no upgrade, and answers everything else with `a`.
fn worker() -> RawWorker {
    RawWorker::answering(|request| ok(if request.target().contains("EIO=4") { OPEN } else { "a" }))
}

fn route(worker: &RawWorker, keys: &str) -> String {
    format!("[upstream.app]\nworkers = [\"{}\"]\n[[route]]\nupstream = \"app\"\n{keys}\n", worker.address)
}

fn behind(worker: &RawWorker, keys: &str) -> Proxy {
    let trusting = "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    Proxy::with(&format!("{trusting}{}", route(worker, keys)))
}

fn ask(proxy: &Proxy, line: &str, fields: &str) -> Message {
    Raw::connect(proxy.address).ask(&format!("{line} HTTP/1.1\r\nHost: own.example\r\n{fields}\r\n"))
}

fn upgrade(target: &str) -> (String, &'static str) {
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    (format!("GET {target}"), fields)
}

fn guarded(proxy: &Proxy, guard: &str) -> f64 {
    proxy.metric(&format!("stickyd_guarded_total{{guard=\"{guard}\",upstream=\"app\"}}"))
}

#[test]
fn a_foreign_page_reaches_no_worker() {
    let worker = worker();
    let proxy = behind(&worker, "origins = [\"same\", \"https://*.friend.example\", \"http://localhost:3000\"]");
    let get = format!("GET {POLL}");
    let post = format!("POST {POLL}&sid=AAAAAAAAAAAAAAAAAAAA");
    let options = format!("OPTIONS {POLL}");
    let preflight = "Access-Control-Request-Method: POST\r\n";
    let empty = "Content-Length: 0\r\n";
    let (socket, fields) = upgrade("/chat");
    let (second, _) = upgrade("/socket.io/?EIO=4&transport=websocket&sid=AAAAAAAAAAAAAAAAAAAA");
    let evil = [
        "Origin: https://evil.example\r\n",
        "Origin: https://friend.example\r\n",
        "Origin: https://own.example.evil.example\r\n",
        "Origin: http://localhost:3001\r\n",
        "Origin: null\r\n",
        "Origin: \r\n",
        "Origin: http://own.example\r\nOrigin: https://evil.example\r\n",
        "Origin: https://own.example\r\nX-Forwarded-Host: evil.example\r\n",
    ];
    let mut refused = 0.0;
    for origin in evil {
        for (line, more, body) in [
            (&*get, "", r#"{"code":4,"message":"Forbidden"}"#),
            (&*post, empty, r#"{"code":4,"message":"Forbidden"}"#),
            (&*options, preflight, r#"{"code":4,"message":"Forbidden"}"#),
            // Servers that allow version 3 do not need `EIO` in the query.
            ("GET /socket.io/?transport=polling", "", r#"{"code":4,"message":"Forbidden"}"#),
            ("GET /socket.io/?trans%70ort=polling", "", r#"{"code":4,"message":"Forbidden"}"#),
            (&*socket, fields, "Forbidden"),
            (&*second, fields, r"Forbidden"),
            // Malformed upgrades cannot become tunnels, and are refused for that page as well.
            ("GET /chat", "Connection: Upgrade\r\nUpgrade: WebSocket\r\n", "403 Forbidden\n"),
        ] {
            let answer = ask(&proxy, line, &format!("{more}{origin}"));
            assert_eq!((answer.status(), answer.text()), (403, body), "{line} {origin}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            refused += 1.0;
        }
    }
    assert_eq!(guarded(&proxy, "origin"), refused);
    // A script element of a page (JSONP) sends no Origin.
    let jsonp = format!("{get}&j=0");
    assert_eq!(ask(&proxy, &jsonp, "Sec-Fetch-Site: cross-site\r\nReferer: https://evil.example/\r\n").status(), 403);
    assert_eq!(ask(&proxy, &jsonp, "Sec-Fetch-Site: cross-site\r\n").status(), 403);
    assert_eq!(worker.connections(), 0, "no worker has seen any of it");
    assert_eq!(proxy.metric("stickyd_pins"), 0.0);

    for origin in [
        "",
        "Origin: http://own.example\r\n",
        "Origin: https://own.example\r\nX-Forwarded-Proto: https\r\n",
        "Origin: https://deep.sub.friend.example:443\r\n",
        "Origin: http://LOCALHOST:3000\r\n",
        "Sec-Fetch-Site: same-origin\r\n",
        "Sec-Fetch-Site: cross-site\r\nReferer: https://www.friend.example/page\r\n",
    ] {
        assert_eq!(ask(&proxy, &get, origin).status(), 200, "{origin}");
        let (line, fields) = upgrade("/chat");
        // The refusal of the worker itself.
        assert_eq!(ask(&proxy, &line, &format!("{fields}{origin}")).text(), "a", "{origin}");
    }
    // Ordinary requests are left to the application and the browser (CORS).
    assert_eq!(ask(&proxy, "GET /page", "Origin: https://evil.example\r\n").text(), "a");
}

#[test]
fn without_origins_everything_is_as_before() {
    let worker = worker();
    let proxy = behind(&worker, "");
    assert_eq!(ask(&proxy, &format!("GET {POLL}"), "Origin: https://evil.example\r\n").status(), 200);
    let none = behind(&worker, "origins = []");
    assert_eq!(ask(&none, &format!("GET {POLL}"), "Origin: http://own.example\r\n").status(), 403);
    assert_eq!(ask(&none, &format!("GET {POLL}"), "").status(), 200);
}

#[test]
fn networks_are_allowed_and_denied() {
    let worker = worker();
    let proxy = behind(&worker, "allow = [\"192.0.2.0/24\", \"2001:db8::/32\"]\ndeny = [\"192.0.2.66\"]");
    let from = |address: &str| ask(&proxy, "GET /", &format!("X-Forwarded-For: {address}\r\n"));
    for address in ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8:7::1", "192.0.2.66, 192.0.2.2"] {
        assert_eq!(from(address).status(), 200, "{address}");
    }
    for address in ["192.0.2.66", "198.51.100.1", "2001:db9::1", "192.0.2.2, 192.0.2.66"] {
        let answer = from(address);
        assert_eq!((answer.status(), answer.text()), (403, "403 Forbidden\n"), "{address}");
    }
    // A client that is not a trusted proxy counts with its own address.
    assert_eq!(ask(&proxy, "GET /", "").status(), 403);
    assert_eq!(guarded(&proxy, "network"), 5.0);
    assert_eq!(worker.bytes().windows(4).filter(|four| four == b"GET ").count(), 4);
}

#[test]
fn requests_of_one_address_are_limited() {
    let worker = worker();
    // The rate is so low that nothing is refilled while this test runs.
    let proxy = behind(&worker, "rate = { requests = \"10/h\", requests_burst = 3 }");
    let from =
        |address: &str, line: &str, fields: &str| ask(&proxy, line, &format!("X-Forwarded-For: {address}\r\n{fields}"));
    for _ in 0..3 {
        assert_eq!(from("192.0.2.1", "GET /", "").status(), 200);
    }
    let plain = from("192.0.2.1", "GET /", "");
    assert_eq!((plain.status(), plain.text()), (429, "429 Too Many Requests\n"));
    let wait: u64 = plain.header("retry-after").unwrap().parse().unwrap();
    assert!((300..=360).contains(&wait), "ten per hour: {wait}");
    let poll = from("192.0.2.1", &format!("GET {POLL}"), "Origin: https://a.example\r\n");
    assert_eq!((poll.status(), poll.text()), (429, r#"{"code":4,"message":"Too many requests"}"#));
    assert_eq!(poll.header("content-type"), Some("application/json"));
    assert_eq!(poll.header("access-control-allow-origin"), Some("https://a.example"), "its page may read it");
    assert_eq!(poll.header("cache-control"), Some("no-store"));
    let (line, fields) = upgrade("/socket.io/?EIO=4&transport=websocket");
    let socket = from("192.0.2.1", &line, fields);
    assert_eq!((socket.status(), socket.text()), (429, "Too many requests"));
    assert!(socket.header("retry-after").is_some() && socket.header("connection") == Some("close"));
    // Another address has another bucket; for IPv6, another /64.
    assert_eq!(from("192.0.2.2", "GET /", "").status(), 200);
    let home = |n: u8| from(&format!("2001:db8::{n}"), "GET /", "").status();
    assert_eq!([home(1), home(2), home(3), home(4)], [200, 200, 200, 429]);
    assert_eq!(from("2001:db8:0:1::1", "GET /", "").status(), 200);
    assert_eq!(guarded(&proxy, "rate_requests"), 4.0);
}

#[test]
fn handshakes_of_one_address_are_limited() {
    let worker = worker();
    let proxy = behind(&worker, "rate = { handshakes = \"2/h\" }");
    let get = format!("GET {POLL}");
    assert_eq!([ask(&proxy, &get, "").status(), ask(&proxy, &get, "").status()], [200, 200]);
    assert_eq!(ask(&proxy, &get, "").status(), 429);
    let (socket, fields) = upgrade("/chat");
    assert_eq!(ask(&proxy, &socket, fields).status(), 429, "a WebSocket handshake counts, too");
    assert_eq!(guarded(&proxy, "rate_handshakes"), 2.0);
    // Existing sessions and other requests go on.
    for _ in 0..5 {
        assert_eq!(ask(&proxy, &format!("{get}&sid=AAAAAAAAAAAAAAAAAAAA"), "").status(), 200);
        assert_eq!(ask(&proxy, "GET /", "").text(), "a");
    }
    // The limit also holds without Socket.IO affinity.
    let text =
        route(&worker, "rate = { handshakes = \"2/h\" }").replace("[[route]]", "affinity = [\"address\"]\n[[route]]");
    let proxy = Proxy::with(&text);
    let all: Vec<_> = (0..3).map(|_| ask(&proxy, &get, "").status()).collect();
    assert_eq!(all, [200, 200, 429]);
    assert_eq!(ask(&proxy, &format!("{get}&sid=AAAAAAAAAAAAAAAAAAAA"), "").status(), 200);
}

/// A worker that takes the first of several sids finds an empty one, and opens a session.
#[test]
fn sids_that_differ_count_as_a_handshake() {
    let worker = worker();
    let proxy = behind(&worker, "rate = { handshakes = \"2/h\" }");
    for query in ["sid=&sid=x", "%73id=&sid=x", "sid=a&s%69d=b", "s%69d=&s%69d=b"] {
        // Each address has a rate of its own.
        let from = format!("X-Forwarded-For: 192.0.2.{}\r\n", query.len());
        let get = format!("GET {POLL}&{query}");
        let statuses = [(); 3].map(|()| ask(&proxy, &get, &from).status());
        assert_eq!((statuses[2], statuses.contains(&200)), (429, true), "{query}: {statuses:?}");
    }
    let same = format!("GET {POLL}&sid=AAAAAAAAAAAAAAAAAAAA&sid=AAAAAAAAAAAAAAAAAAAA");
    assert_eq!([(); 3].map(|()| ask(&proxy, &same, "").status()), [200; 3]);
}

/// Every spelling of an Engine.IO query is one for the guards: encoded, in any order, with `;` for `&`.
#[test]
fn spellings_of_a_query_do_not_hide_a_session() {
    let worker = worker();
    let proxy = behind(&worker, "origins = [\"same\"]");
    for query in [
        "EIO=4&transport=polling",
        "%45IO=4&transport=polling",
        "E%49%4f=4&tr%61nsport=poll%69ng",
        "EIO=4&transport=%70olling&%73id=a",
        "x=1;EIO=4;transport=polling",
        "x;transport=polling",
        "x&s%69d=a",
        "transport=polling",
    ] {
        for path in ["/socket.io/", "//socket.io//", "/%73ocket.io/", "/any"] {
            let answer = ask(&proxy, &format!("GET {path}?{query}"), "Origin: https://evil.example\r\n");
            assert_eq!(answer.status(), 403, "{path}?{query}");
        }
    }
    assert_eq!(worker.connections(), 0);
}

#[test]
fn an_upstreams_total_is_limited_without_any_route() {
    let worker = worker();
    let trusting = "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let rate = "rate = { requests = \"8/h\", handshakes = \"3/h\" }";
    let proxy = Proxy::with(&format!("{trusting}[upstream.app]\nworkers = [\"{}\"]\n{rate}", worker.address));
    let from = |n: usize, line: &str| ask(&proxy, line, &format!("X-Forwarded-For: 192.0.2.{n}\r\n")).status();
    let opened: Vec<_> = (0..5).map(|n| from(n, &format!("GET {POLL}"))).collect();
    assert_eq!(opened, [200, 200, 200, 429, 429]);
    let ordinary: Vec<_> = (0..7).map(|n| from(n, "GET /")).collect();
    assert_eq!(ordinary, [200, 200, 200, 200, 200, 429, 429]);
    assert_eq!((guarded(&proxy, "upstream_handshakes"), guarded(&proxy, "upstream_requests")), (2.0, 2.0));
}

#[test]
fn an_address_over_its_own_limit_takes_nothing_from_others() {
    let worker = worker();
    let text = route(&worker, "rate = { requests = \"2/h\" }")
        .replace("[[route]]", "rate = { requests = \"6/h\" }\n[[route]]");
    let proxy =
        Proxy::with(&format!("[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n{text}"));
    let from = |n: usize| ask(&proxy, "GET /", &format!("X-Forwarded-For: 192.0.2.{n}\r\n")).status();
    let greedy: Vec<_> = (0..20).map(|_| from(1)).filter(|status| *status == 200).collect();
    assert_eq!(greedy.len(), 2);
    assert_eq!([from(2), from(2), from(3), from(3), from(4)], [200, 200, 200, 200, 429]);
}

#[test]
fn a_reload_changes_guards_and_keeps_their_counts() {
    let worker = worker();
    let text = |keys: &str| format!("state_dir = \".\"\nwatch = false\n{}", route(&worker, keys));
    let binary = Binary::with(&text(""));
    let get = |fields: &str| {
        Raw::connect(binary.address).ask(&format!("GET {POLL} HTTP/1.1\r\nHost: own\r\n{fields}\r\n")).status()
    };
    let reloads = |keys: &str| {
        write(&binary, &text(keys));
        let (status, said) = post_reload(&binary);
        assert_eq!((status, &said["needs_restart"]), (200, &serde_json::json!([])), "{said}");
    };
    assert_eq!(get("Origin: https://evil.example\r\n"), 200);
    reloads("origins = [\"same\"]");
    assert_eq!((get("Origin: https://evil.example\r\n"), get("")), (403, 200));
    reloads("rate = { requests = \"2/h\" }");
    assert_eq!([get("Origin: https://evil.example\r\n"), get(""), get("")], [200, 200, 429]);
    reloads("rate = { requests = \"2/h\" }\n[log]\naccess = true");
    assert_eq!(get(""), 429, "the count is carried over");
    reloads("rate = { requests = \"2/h\" }\norigins = [\"same\"]\n[log]\naccess = true");
    assert_eq!(
        (get(""), get("Origin: https://evil.example\r\n")),
        (429, 403),
        "another guard does not reset the count"
    );
    binary.says(&["path=/socket.io/", "status=429", "client=127.0.0.1"]);
    reloads("deny = [\"127.0.0.0/8\"]");
    assert_eq!(get(""), 403);
    reloads("");
    assert_eq!(get(""), 200);
    assert!((metric(&binary, "stickyd_guarded_total{guard=\"network\",upstream=\"app\"}") - 1.0).abs() < 0.1);
    binary.says(&["rate limit reached", "limit=\"rate_requests\""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http_2_as_well() {
    let worker = worker();
    let stickyd = Secured::with("", &route(&worker, "origins = [\"same\"]\nrate = { handshakes = \"2/h\" }"));
    let client = stickyd.client().await;
    let from = |mut request: hyper::Request<()>, origin: &'static str| {
        request.headers_mut().insert("origin", hyper::header::HeaderValue::from_static(origin));
        request
    };
    let evil = from(connect("websocket", "/chat"), "https://evil.example");
    let Err(answer) = client.tunnel(evil).await else { panic!("opened") };
    assert_eq!((answer.status, answer.text()), (403, "Forbidden"));
    let poll = |origin| client.exchange(from(ask_h2("GET", POLL), origin));
    let answer = poll("https://evil.example").await.unwrap();
    assert_eq!((answer.status, answer.text()), (403, r#"{"code":4,"message":"Forbidden"}"#));
    assert_eq!(worker.connections(), 0);
    for status in [200, 200, 429] {
        assert_eq!(poll("https://localhost").await.unwrap().status, status);
    }
    let Err(answer) = client.tunnel(connect("websocket", "/chat")).await else { panic!("opened") };
    assert_eq!((answer.status, answer.text()), (429, "Too many requests"));
    assert!(answer.headers.contains_key("retry-after") && !answer.headers.contains_key("connection"));
}
