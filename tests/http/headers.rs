//! Rewritten heads: hop-by-hop fields end here, and only trusted proxies may set the identity of a client.

use crate::support::proxy::Proxy;
use crate::support::raw::{Message, Raw, RawWorker, ok};

fn trusting(worker: &RawWorker, proxies: &str) -> Proxy {
    Proxy::with(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [{proxies}]\n[upstream.app]\nworkers = [\"{}\"]",
        worker.address
    ))
}

/// The request that the worker gets for a GET with these fields.
fn arrives(proxy: &Proxy, worker: &mut RawWorker, fields: &str) -> Message {
    let answer = Raw::connect(proxy.address).ask(&format!("GET / HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n"));
    assert_eq!(answer.status(), 200);
    worker.request().1
}

#[test]
fn hop_by_hop_fields_stop_here() {
    let mut worker = RawWorker::answering(|_| {
        "HTTP/1.1 200 OK\r\nConnection: keep-alive, X-Hop\r\nConnection: x-other\r\nX-Hop: 1\r\nX-Other: 1\r\n\
         X-End: 1\r\n\
         Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authenticate: Basic\r\nUpgrade: h2c\r\n\
         Content-Length: 0\r\n\r\n"
            .to_owned()
    });
    let proxy = Proxy::before(&[worker.address]);
    let answer = Raw::connect(proxy.address).ask(
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: X-Hop, keep-alive\r\nConnection: x-other , te\r\nX-Hop: 1\r\n\
         X-Other: 1\r\nX-End: 1\r\nKeep-Alive: 300\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\n\
         Upgrade: h2c\r\nHTTP2-Settings: x\r\nTE: gzip, trailers;q=0.5\r\n\r\n",
    );
    let (_, request) = worker.request();
    for message in [&answer, &request] {
        for name in ["connection", "x-hop", "x-other", "keep-alive", "proxy-connection", "upgrade", "te"] {
            assert_eq!(message.header(name), None, "{name} in {message:?}");
        }
        assert_eq!(message.header("x-end"), Some("1"));
    }
    assert_eq!(answer.header("proxy-authenticate"), None);
    assert_eq!(request.header("proxy-authorization"), None);
}

#[test]
fn connection_cannot_remove_stickyds_own_fields() {
    let mut worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let request = arrives(
        &proxy,
        &mut worker,
        "Connection: x-forwarded-for, x-forwarded-proto, x-request-id, host, x-forwarded-host, x-forwarded-port\r\n",
    );
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("x-forwarded-proto"), Some("http"));
    assert_eq!(request.header("x-forwarded-host"), Some("a.example"));
    assert_eq!(request.header("x-forwarded-port"), Some(proxy.address.port().to_string().as_str()));
    assert_eq!(request.header("x-request-id").map(str::len), Some(16));
    assert_eq!(request.header("host"), Some("a.example"));
}

#[test]
fn identity_fields_of_strangers_are_dropped() {
    let mut worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let names = [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Server",
        "X-Forwarded-Prefix",
        "X-Request-Id",
        "X-Real-IP",
        "Forwarded",
        "True-Client-IP",
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "CF-Connecting-IP",
        "X-Original-URL",
        "X-Rewrite-URL",
        "X_Forwarded_For",
        "X-Forwarded_For",
        "X_REAL_IP",
        "True_Client-IP",
    ];
    let spoofed: String = names.iter().map(|name| format!("{name}: spoofed\r\n{name}: twice\r\n")).collect();
    let request = arrives(&proxy, &mut worker, &format!("{spoofed}X_Mine: mine\r\n"));
    for (name, value) in &request.headers {
        assert!(!value.contains("spoofed") && !value.contains("twice"), "{name}: {value}");
    }
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("x_mine"), Some("mine"), "a field with an underscore passes");
}

#[test]
fn identity_fields_of_a_trusted_proxy_are_kept_and_extended() {
    let mut worker = RawWorker::named("a");
    let proxy = trusting(&worker, "\"127.0.0.0/8\"");
    let request = arrives(
        &proxy,
        &mut worker,
        "X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\nX-Forwarded-For: 127.0.0.9\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: shop.example\r\nX-Forwarded-Port: 443\r\nX-Request-Id: abc\r\nX-Real-IP: 192.0.2.7\r\n\
         Forwarded: for=192.0.2.7\r\n",
    );
    assert_eq!(request.header("x-forwarded-for"), Some("6.6.6.6, 192.0.2.7, 127.0.0.9, 127.0.0.1"));
    for (name, value) in [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "shop.example"),
        ("x-forwarded-port", "443"),
        ("x-request-id", "abc"),
        ("x-real-ip", "192.0.2.7"),
        ("forwarded", "for=192.0.2.7"),
    ] {
        assert_eq!(request.header(name), Some(value));
    }
}

#[test]
fn a_trusted_proxy_without_identity_fields_is_the_client() {
    let mut worker = RawWorker::named("a");
    let proxy = trusting(&worker, "\"127.0.0.1\"");
    let request = arrives(&proxy, &mut worker, "");
    assert_eq!(request.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(request.header("x-forwarded-proto"), Some("http"));
    assert_eq!(request.header("x-forwarded-host"), Some("a.example"));
}

/// The workers, of eight, to which each of these `X-Forwarded-For` values leads, by address alone.
fn workers_of(forwarded_for: &[String]) -> Vec<String> {
    let workers: Vec<_> = (0..8).map(|n| RawWorker::named(&n.to_string())).collect();
    let addresses: Vec<_> = workers.iter().map(|worker| worker.address.to_string()).collect();
    let proxy = Proxy::with(&format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]\n\
         [upstream.app]\nworkers = {addresses:?}\naffinity = [\"address\"]"
    ));
    let mut client = Raw::connect(proxy.address);
    let one = |value: &String| {
        client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {value}\r\n\r\n")).text().to_owned()
    };
    forwarded_for.iter().map(one).collect()
}

#[test]
fn the_right_most_untrusted_hop_decides() {
    let last: Vec<String> = (0..32).map(|n| format!("192.0.2.{n}")).collect();
    let plain = workers_of(&last);
    assert!(plain.iter().any(|worker| *worker != plain[0]), "different addresses lead to different workers");
    // Hops left of the first untrusted one do not count, because clients can make them up; nor do trusted hops.
    for form in
        ["6.6.6.6, {}", "{}, 10.1.2.3", "6.6.6.6, {}, 10.0.0.1, 127.0.0.5", "{}:4711", "::ffff:{}", "nonsense, {}"]
    {
        let dressed: Vec<String> = last.iter().map(|address| form.replace("{}", address)).collect();
        // Each proxy has its own secret for the ring, so both forms are sent to the same one.
        let both = workers_of(&[last.clone(), dressed].concat());
        assert_eq!(both[..last.len()], both[last.len()..], "{form}");
    }
}

#[test]
fn an_ipv4_client_of_an_ipv6_listener_is_an_ipv4_client() {
    let mut worker = RawWorker::named("a");
    let proxy = Proxy::with(&format!(
        "[[listener]]\naddress = \"[::]:0\"\ntrusted_proxies = [\"127.0.0.2\"]\n[upstream.app]\nworkers = [\"{}\"]",
        worker.address
    ));
    let four = (std::net::Ipv4Addr::LOCALHOST, proxy.address.port()).into();
    let answer = Raw::connect(four).ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n");
    assert_eq!(answer.status(), 200);
    assert_eq!(worker.request().1.header("x-forwarded-for"), Some("127.0.0.1"));
    // A trusted IPv4 network covers this client, too.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&four.into()).unwrap();
    let mut client = Raw::on(crate::support::raw::patient(socket.into()));
    client.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n");
    assert_eq!(worker.request().1.header("x-forwarded-for"), Some("6.6.6.6, 127.0.0.2"));
}

#[test]
fn an_absolute_target_replaces_the_host() {
    let mut worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    for (target, arrives) in [
        ("http://b.example/p?q=1", "/p?q=1"),
        ("HTTP://b.example/%41", "/%41"),
        ("http://b.example", "/"),
        ("https://b.example?x", "/?x"),
    ] {
        let mut client = Raw::connect(proxy.address);
        let answer = client.ask(&format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        assert_eq!(answer.status(), 200, "{target}");
        let (_, request) = worker.request();
        assert_eq!(request.start, format!("GET {arrives} HTTP/1.1"));
        assert_eq!(request.header("host"), Some("b.example"));
        assert_eq!(request.header("x-forwarded-host"), Some("b.example"));
    }
}

#[test]
fn a_request_needs_exactly_one_valid_host() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let refused = [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a,b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: http://a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a?b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:99999\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [a]\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: ::1\r\n\r\n",
        "GET http://u@b.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://b.example/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET http://b.example/ HTTP/1.1\r\n\r\n",
    ];
    for request in refused {
        let mut client = Raw::connect(proxy.address);
        assert_eq!(client.ask(request).status(), 400, "{request}");
        client.closed();
    }
    assert_eq!(worker.connections(), 0);
    for host in
        ["a", "a.example", "A.Example:80", "a.example.", "127.0.0.1:1", "[::1]", "[::1]:8080", "a_b", "xn--a", "a:"]
    {
        let answer = Raw::connect(proxy.address).ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status(), 200, "{host}");
    }
}

#[test]
fn request_ids_differ_and_an_answer_carries_the_workers_own() {
    let mut worker = RawWorker::answering(|_| ok(""));
    let proxy = Proxy::before(&[worker.address]);
    let id = |request: Message| request.header("x-request-id").unwrap().to_owned();
    let first = id(arrives(&proxy, &mut worker, ""));
    assert_ne!(first, id(arrives(&proxy, &mut worker, "")));
    assert!(first.bytes().all(|b| b.is_ascii_hexdigit()));
}

#[test]
fn an_upgrade_passes_one_hop_only() {
    let mut worker = RawWorker::named("no");
    let proxy = Proxy::before(&[worker.address]);
    let answer = Raw::connect(proxy.address).ask(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade, X-Hop\r\nX-Hop: 1\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
    );
    assert_eq!(answer.text(), "no");
    let (_, request) = worker.request();
    assert_eq!((request.header("connection"), request.header("upgrade")), (Some("Upgrade"), Some("websocket")));
    assert_eq!((request.header("x-hop"), request.header("x-forwarded-for")), (None, Some("127.0.0.1")));
}
