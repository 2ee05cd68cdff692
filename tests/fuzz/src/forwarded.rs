//! What a worker is told of the client's own request: scheme, host and port, from what proxies say.
//!
//! Input: choices for the peer, for Host, and for up to two lines of each `X-Forwarded-*` field, some of them lists.
//! The oracle knows the first value of each line, and the port that follows from them.

use super::bytes::Choices;
use super::head;
use super::strict::{self, Read};

/// A line of a field, and the first value in it.
type Line = (&'static str, Option<&'static str>);

const PROTOS: [Line; 8] = [
    ("https", Some("https")),
    ("wss", Some("https")),
    ("HTTPS ,http", Some("https")),
    (", https", Some("https")),
    ("http, https", Some("http")),
    ("ws", Some("http")),
    ("quic", Some("")),
    ("", None),
];

const HOSTS: [Line; 6] = [
    ("b.example", Some("b.example")),
    ("b.example:8443, a.example", Some("b.example:8443")),
    ("[2001:db8::1]:99", Some("[2001:db8::1]:99")),
    ("[2001:db8::1]", Some("[2001:db8::1]")),
    ("b@c:1", Some("")),
    (" , ", None),
];

const PORTS: [Line; 3] = [("8443", Some("8443")), ("444, 80", Some("444")), ("x", Some("x"))];

const OWN: [&str; 4] = ["a.example", "a.example:81", "[::1]:82", "a.example."];

/// Checks the fields that the worker gets.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let switches = choices.byte() & 0b011;
    let (trusted, secure) = (switches & 1 != 0, switches & 2 != 0);
    let own = choices.of(&OWN);
    let mut text = vec![switches, 0, 0];
    text.extend_from_slice(format!("GET / HTTP/1.1\r\nHost: {own}\r\n").as_bytes());
    let mut told = |name: &str, lines: &[Line]| {
        let (mut first, mut count) = (None, 0);
        for _ in 0..choices.byte() % 3 {
            let (line, value) = choices.of(lines);
            text.extend_from_slice(format!("{name}: {line}\r\n").as_bytes());
            first = first.or(value);
            count += 1;
        }
        (first, count)
    };
    let (proto, protos) = told("X-Forwarded-Proto", &PROTOS);
    let (host, hosts) = told("X-Forwarded-Host", &HOSTS);
    let (_, ports) = told("X-Forwarded-Port", &PORTS);
    text.extend_from_slice(b"\r\n");

    let sent = head::sent(&text);
    let Some(Some(bytes)) = sent.first() else { panic!("not forwarded: {:?}", String::from_utf8_lossy(&text)) };
    let Read::Whole(got) = strict::read(bytes) else { panic!("not one request: {:?}", String::from_utf8_lossy(bytes)) };
    let what = String::from_utf8_lossy(&text);
    assert_eq!(got.one("host"), Some(own.as_bytes()), "{what}");
    let known = proto.filter(|proto| trusted && !proto.is_empty());
    if !trusted || protos == 0 {
        let scheme: &[u8] = if secure { b"https" } else { b"http" };
        assert_eq!(got.one("x-forwarded-proto"), Some(scheme), "{what}");
    }
    if !trusted || hosts == 0 {
        assert_eq!(got.one("x-forwarded-host"), Some(own.as_bytes()), "{what}");
    }
    if trusted && ports > 0 {
        assert_eq!(got.all("x-forwarded-port").count(), ports, "{what}");
        return;
    }
    let client = host.filter(|host| trusted && !host.is_empty()).unwrap_or(own);
    let written = client.rsplit_once(':').map(|(_, port)| port).filter(|port| port.bytes().all(|b| b.is_ascii_digit()));
    let written = written.filter(|_| client.ends_with(|last: char| last.is_ascii_digit()) && !client.ends_with(']'));
    let port = match (trusted, written, known) {
        (true, Some(port), _) => port,
        (true, None, Some("https")) => "443",
        (true, None, Some(_)) => "80",
        _ => "8080",
    };
    assert_eq!(got.one("x-forwarded-port"), Some(port.as_bytes()), "{what}");
}
