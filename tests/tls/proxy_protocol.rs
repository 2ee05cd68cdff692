//! The PROXY protocol of balancers below HTTP: which address counts, which headers are trusted, and what is refused.

use super::{get, proxy};
use crate::support::raw::{Raw, RawWorker, patient};
use crate::support::tls::Certificates;
use crate::support::wait::wait_for;

const REQUIRED: &str = "proxy_protocol = \"required\"\ntrusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";

/// A header of version 2 for TCP over IPv4, with this source address and these TLVs.
fn v2(source: [u8; 4], tlvs: &[u8]) -> Vec<u8> {
    let length = u16::try_from(12 + tlvs.len()).unwrap().to_be_bytes();
    let head = [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x21, 0x11], &length].concat();
    [&head, &source[..], &[127, 0, 0, 1, 0x12, 0x34, 0, 80], tlvs].concat()
}

#[test]
fn the_header_names_the_client() {
    let mut worker = RawWorker::named("a");
    let files = Certificates::new();
    let proxy = proxy(&files, &worker, REQUIRED, "");
    for (header, forwarded_for) in [
        (b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n".to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".to_vec(), "2001:db8::7"),
        (v2([192, 0, 2, 9], &[]), "192.0.2.9"),
        (v2([192, 0, 2, 9], &[4, 0, 3, 1, 2, 3, 0xee, 0, 1, 0]), "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
    ] {
        let mut client = Raw::connect(proxy.address);
        // Header and request in one piece, with a field of the client's own, which is not trusted.
        let ask = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n\r\n";
        client.send([&header, ask.as_bytes()].concat());
        assert_eq!(client.answer().text(), "a");
        let (_, request) = worker.request();
        assert_eq!(request.header("x-forwarded-for"), Some(forwarded_for));
        assert_eq!(request.header("x-real-ip"), None);
        // The address holds for the whole connection.
        client.get("/");
        assert_eq!(worker.request().1.header("x-forwarded-for"), Some(forwarded_for));
    }
}

/// The address of a balancer that does not know its client says nothing about that client.
#[test]
fn an_unknown_client_is_in_no_network() {
    let worker = RawWorker::named("a");
    let files = Certificates::new();
    let route = |guard: &str| format!("[[route]]\npath = \"/\"\nupstream = \"app\"\n{guard} = [\"127.0.0.0/8\"]\n");
    for (guard, local, unknown) in [("allow", 200, 403), ("deny", 403, 200)] {
        let proxy = proxy(&files, &worker, REQUIRED, &route(guard));
        let status = |header: &[u8]| {
            let mut client = Raw::connect(proxy.address);
            client.send(header).get("/").status()
        };
        assert_eq!(status(b"PROXY TCP4 127.0.0.1 127.0.0.1 4711 80\r\n"), local, "{guard}");
        assert_eq!(status(b"PROXY UNKNOWN\r\n"), unknown, "{guard}");
    }
}

#[test]
fn a_trusted_client_or_the_balancer_itself_is_trusted() {
    let mut worker = RawWorker::named("a");
    let files = Certificates::new();
    let proxy = proxy(&files, &worker, REQUIRED, "");
    let local = [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[0x20, 0, 0, 0]].concat();
    for (header, forwarded_for) in [(v2([10, 1, 2, 3], &[]), "6.6.6.6, 10.1.2.3"), (local, "6.6.6.6, 127.0.0.1")] {
        let mut client = Raw::connect(proxy.address);
        client.send(header).ask("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n");
        assert_eq!(worker.request().1.header("x-forwarded-for"), Some(forwarded_for));
    }
}

#[test]
fn address_affinity_uses_the_address_in_the_header() {
    let files = Certificates::new();
    let workers: Vec<_> = ["a", "b", "c", "d"].into_iter().map(RawWorker::named).collect();
    let list: Vec<_> = workers.iter().map(|worker| worker.address.to_string()).collect();
    let toml = format!(
        "threads = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n{REQUIRED}\n[upstream.app]\nworkers = {list:?}\n\
         affinity = [\"address\"]\n"
    );
    let proxy = crate::support::proxy::Proxy::with_files(&toml, &files.directory);
    let of = |last: u8| {
        let mut client = Raw::connect(proxy.address);
        client.send(v2([192, 0, 2, last], &[])).get("/").text().to_owned()
    };
    let first: Vec<_> = (0..32).map(of).collect();
    assert_eq!((0..32).map(of).collect::<Vec<_>>(), first);
    assert!(first.iter().any(|name| *name != first[0]), "one address would have one worker");
}

#[test]
fn the_header_comes_before_tls() {
    let mut worker = RawWorker::named("a");
    let files = Certificates::new();
    files.issue("site", &["a.example"]);
    let tls = format!("{REQUIRED}\ntls = {{ certificate = \"site.pem\", key = \"site.key\" }}");
    let proxy = proxy(&files, &worker, &tls, "");
    let mut tcp = patient(std::net::TcpStream::connect(proxy.address).unwrap());
    std::io::Write::write_all(&mut tcp, &v2([192, 0, 2, 9], &[1, 0, 2, b'h', b'2'])).unwrap();
    let mut made = files.client().try_on(tcp, "a.example").unwrap();
    assert_eq!(made.raw.ask(&get("a.example", "/")).text(), "a");
    assert_eq!(worker.request().1.header("x-forwarded-for"), Some("192.0.2.9"));
    assert!(files.client().try_connect(proxy.address, "a.example").is_err(), "without a header");
}

#[test]
fn a_connection_without_a_header_is_closed_and_counted() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let proxy = proxy(&files, &worker, REQUIRED, "[limits]\nhandshake_timeout = \"500ms\"");
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".as_slice(),
        b"PROXY TCP4 192.0.2.7 127.0.0.1 4711\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
        // Half a header, and none: these connections end by their time-out.
        b"PROXY TCP4 192.0.2.7",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c1234",
        b"",
    ] {
        Raw::connect(proxy.address).send(bytes).closed();
    }
    wait_for("each connection is counted", || {
        (proxy.metric("stickyd_client_errors_total{kind=\"proxy\"}") - 6.0).abs() < f64::EPSILON
    });
    assert_eq!(worker.connections(), 0);
}

#[test]
fn only_a_trusted_proxy_may_send_a_header() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let listener = "proxy_protocol = \"required\"\ntrusted_proxies = [\"10.0.0.0/8\"]";
    let proxy = proxy(&files, &worker, listener, "");
    let mut client = Raw::connect(proxy.address);
    let _ = client.try_send([&v2([10, 1, 2, 3], &[])[..], get("a", "/").as_bytes()].concat());
    client.closed();
    wait_for("the refused header is counted", || proxy.metric("stickyd_client_errors_total{kind=\"proxy\"}") > 0.0);
    assert_eq!(worker.connections(), 0);
}

#[test]
fn without_the_key_a_header_is_a_bad_request() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    files.issue("site", &["a.example"]);
    let trusted = "trusted_proxies = [\"127.0.0.1\"]";
    let plain = proxy(&files, &worker, &format!("proxy_protocol = \"off\"\n{trusted}"), "");
    for header in [b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n".to_vec(), v2([192, 0, 2, 7], &[])] {
        let mut client = Raw::connect(plain.address);
        let _ = client.try_send([&header[..], get("a", "/").as_bytes()].concat());
        let answer = String::from_utf8(client.rest()).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let tls = format!("{trusted}\ntls = {{ certificate = \"site.pem\", key = \"site.key\" }}");
    let secured = proxy(&files, &worker, &tls, "");
    let mut tcp = patient(std::net::TcpStream::connect(secured.address).unwrap());
    std::io::Write::write_all(&mut tcp, b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n").unwrap();
    assert!(files.client().try_on(tcp, "a.example").is_err());
    assert_eq!(worker.connections(), 0);
}

#[test]
fn connections_that_send_nothing_are_not_errors() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    files.issue("site", &["a.example"]);
    let tls = "tls = { certificate = \"site.pem\", key = \"site.key\" }";
    for (listener, kind) in [(REQUIRED, "proxy"), (tls, "tls")] {
        let proxy = proxy(&files, &worker, listener, "");
        for _ in 0..5 {
            // A balancer's check whether the port is open.
            drop(std::net::TcpStream::connect(proxy.address).unwrap());
        }
        wait_for("the connections are gone", || proxy.metric("stickyd_client_connections") < 0.5);
        let counted = format!("stickyd_client_errors_total{{kind=\"{kind}\"}}");
        assert!(proxy.metric(&counted) < 0.5, "{kind}");
        // A connection that sent something is an error.
        Raw::connect(proxy.address).send("\x16GET / HTTP/1.1\r\n\r\n").rest();
        wait_for("the error is counted", || (proxy.metric(&counted) - 1.0).abs() < f64::EPSILON);
    }
}
