//! Bodies from which ids are learned: how much is held back is bounded, and for no longer than needed.

use super::{Pool, answer, ask, decision};
use crate::support::proxy::Proxy;
use crate::support::raw::Raw;

const RULE: &str = "[affinity.jobs]\nlearn = [{ from = \"json:id\" }]\nlookup = [\"query:job\"]\n";

fn config(pool: &Pool) -> String {
    format!("{}{RULE}", pool.upstream("[\"jobs\"]"))
}

#[test]
fn a_body_that_never_ends_is_not_buffered() {
    // The worker sends JSON without end, and each piece only after the one before was taken.
    let pool = Pool::scripted(1, |_, _, leg| {
        let Some(_) = leg.request() else { return };
        leg.send(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"a\":\r\n",
        );
        let junk = format!("1000\r\n{}\r\n", "[".repeat(0x1000));
        while leg.send(&junk) {}
    });
    let proxy = Proxy::with(&config(&pool));
    let mut client = Raw::connect(proxy.address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    let head = client.head().unwrap();
    assert_eq!(head.status(), 200);
    // Much more than the bound arrives at the client, although the body has not ended.
    assert!(client.exactly(1 << 20).len() == 1 << 20);
    assert_eq!(proxy.server().shared().sessions.pins.len(), 0);
}

#[test]
fn depth_and_size_are_bounded() {
    let pool = Pool::of(1, |_, _, request| match request.target() {
        "/deep" => {
            answer("200 OK", "", &format!("{{\"a\":{}{},\"id\":\"deep\"}}", "[".repeat(6_000), "]".repeat(6_000)))
        }
        "/large" => answer("200 OK", "", &format!("{{\"a\":\"{}\",\"id\":\"large\"}}", "x".repeat(20_000))),
        "/long" => answer("200 OK", "", &format!("{{\"id\":\"{}\"}}", "x".repeat(2_049))),
        "/zip" => answer("200 OK", "Content-Encoding: gzip\r\n", "{\"id\":\"zip\"}"),
        _ => answer("200 OK", "", "{\"id\":\"good\"}"),
    });
    let proxy = Proxy::with(&config(&pool));
    for (target, pins) in [("/deep", 1), ("/large", 1), ("/long", 1), ("/zip", 1), ("/good", 2)] {
        let got = ask(&proxy, "POST", target, "", "");
        assert_eq!((got.status(), proxy.server().shared().sessions.pins.len()), (200, pins), "{target}");
    }
    assert_eq!(decision(&ask(&proxy, "GET", "/?job=good", "", "")).1, "sid");
}

#[test]
fn uncompressed_is_asked_for_only_where_an_id_may_be_learned() {
    let mut pool = Pool::of(1, |_, _, _| answer("200 OK", "", "{\"id\":\"a\"}"));
    let rule = RULE.replace("\"json:id\"", "\"json:id\", method = \"POST\"");
    let proxy = Proxy::with(&format!("{}{rule}", pool.upstream("[\"jobs\"]")));
    ask(&proxy, "POST", "/", "Accept-Encoding: gzip\r\n", "");
    ask(&proxy, "GET", "/?job=a", "Accept-Encoding: gzip\r\n", "");
    let worker = &mut pool.workers[0];
    assert_eq!(worker.request().1.header("accept-encoding"), None);
    assert_eq!(worker.request().1.header("accept-encoding"), Some("gzip"));
}
