//! Requests and answers are passed on unchanged.

use crate::support::proxy::Proxy;
use crate::support::raw::{Message, Raw, RawWorker, ok};
use crate::support::wait::{at_most, wait_for};

#[test]
fn targets_pass_byte_for_byte() {
    let mut worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    for target in [
        "/",
        "/a/../b/./c",
        "//double//slash",
        "/%2e%2E/%2f%00%zz",
        "/?",
        "/p?q=1&q=2&empty=&%20=+",
        "/p;params=1/x?a[]=1&b={}|^`",
        "/\"quoted\"?'x'",
        "/?url=http://other/%23",
    ] {
        assert_eq!(client.get(target).status(), 200, "{target}");
        assert_eq!(worker.request().1.start, format!("GET {target} HTTP/1.1"));
    }
}

#[test]
fn methods_pass() {
    let mut worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND", "M-SEARCH", "x.y!"] {
        let answer = client.ask(&format!("{method} /m HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(answer.status(), 200, "{method}");
        assert_eq!(worker.request().1.start, format!("{method} /m HTTP/1.1"));
    }
    assert_eq!(client.ask("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    assert_eq!(worker.request().1.start, "OPTIONS * HTTP/1.1");
}

#[test]
fn end_to_end_fields_pass_both_ways() {
    let mut worker = RawWorker::answering(|_| {
        "HTTP/1.1 299 Fine By Me\r\nX-One: 1\r\nX-Many: a\r\nX-Many: b\r\nServer: w\r\nDate: then\r\n\
         X-Latin: \u{e9}\r\n\
         Content-Length: 2\r\n\r\nhi"
            .to_owned()
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    let answer = client.ask(
        "GET / HTTP/1.1\r\nHost: a.example:81\r\nUser-Agent: me\r\nAccept: x\r\nX-Many: 1\r\nX-Many: 2\r\nX-Empty:\r\n\
         Cookie: a=b; c=d\r\nAuthorization: Basic x\r\n\r\n",
    );
    assert_eq!(answer.start, "HTTP/1.1 299 Fine By Me", "the reason phrase passes, too");
    assert_eq!(answer.header("x-one"), Some("1"));
    assert_eq!(answer.all("x-many").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((answer.header("server"), answer.header("date")), (Some("w"), Some("then")));
    assert_eq!(answer.header("x-latin"), Some("\u{e9}"));
    let (_, request) = worker.request();
    assert_eq!(request.header("host"), Some("a.example:81"));
    assert_eq!(request.all("x-many").collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(request.header("x-empty"), Some(""));
    assert_eq!(request.header("cookie"), Some("a=b; c=d"));
    assert_eq!(request.header("authorization"), Some("Basic x"));
}

#[test]
fn head_keeps_the_length_and_has_no_body() {
    let worker = RawWorker::answering(|request| {
        if request.target() == "/chunked" {
            return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
        }
        "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\nETag: e\r\n\r\n".to_owned()
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    let answer = client.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((answer.header("content-length"), answer.header("etag")), (Some("1234"), Some("e")));
    let answer = client.ask("HEAD /chunked HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.header("content-length"), None, "the worker sent no length");
    // A body would be read as the head of the next answer.
    assert_eq!(client.ask("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").status(), 200);
    assert_eq!(worker.connections(), 1);
}

#[test]
fn answers_without_body_stay_without() {
    let worker = RawWorker::answering(|request| match request.target() {
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
        "/304" => "HTTP/1.1 304 Not Modified\r\nETag: e\r\nContent-Length: 77\r\n\r\n".to_owned(),
        _ => ok(""),
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    for target in ["/204", "/304", "/0", "/204", "/304"] {
        let answer = client.get(target);
        assert!(answer.body.is_empty());
        assert!(answer.status() == 304 || answer.all("content-length").all(|length| length == "0"), "{answer:?}");
        assert_eq!(answer.header("transfer-encoding"), None);
    }
    assert_eq!(worker.connections(), 1, "the connection is used again");
}

/// RFC 9110 §15.2: a proxy forwards informational responses, at once, but none to a client of HTTP/1.0. stickyd itself
/// answers Expect, so that a 100 ends here. RFC 9110 §7.6.1: fields of a connection stay on it.
#[test]
fn informational_responses_pass_before_the_final_one() {
    let (seen, told) = std::sync::mpsc::channel();
    let told = std::sync::Mutex::new(told);
    let worker = RawWorker::scripted(move |leg| {
        while let Some(request) = leg.request() {
            leg.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hop\r\n");
            leg.send("X-Hop: 1\r\nContent-Length: 9\r\nKeep-Alive: timeout=5\r\n\r\nHTTP/1.1 199 Odd\r\n\r\n");
            if request.target() == "/wait" {
                told.lock().unwrap().recv_timeout(crate::support::wait::patience()).unwrap();
            }
            leg.send(ok("final"));
        }
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    for _ in 0..2 {
        client.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
        let hints = client.answer();
        assert_eq!((hints.status(), hints.header("link")), (103, Some("</a>")));
        for hop in ["connection", "x-hop", "content-length", "keep-alive"] {
            assert_eq!(hints.header(hop), None, "{hop}");
        }
        assert_eq!(client.answer().status(), 199);
        seen.send(()).unwrap();
        let answer = client.answer();
        assert_eq!((answer.status(), answer.text(), answer.header("link")), (200, "final", None));
    }
    let old = client.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!((old.status(), old.text()), (200, "final"));
}

#[test]
fn informational_responses_without_end_are_bounded() {
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(500));
        leg.send(ok("final"));
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answers: Vec<u16> = std::iter::repeat_with(|| client.answer().status()).take(9).collect();
    assert_eq!(answers, [103, 103, 103, 103, 103, 103, 103, 103, 200]);
}

#[test]
fn a_client_that_expects_100_gets_it_and_its_body_arrives() {
    let mut worker = RawWorker::named("done");
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    client.send("POST /up HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(client.answer().status(), 100);
    assert_eq!(client.send("hello").answer().text(), "done");
    assert_eq!(worker.request().1.text(), "hello");
}

#[test]
fn http_1_0_clients_are_served() {
    let mut worker = RawWorker::answering(|request| {
        if request.target() == "/chunked" {
            return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned();
        }
        ok("sized")
    });
    let proxy = Proxy::before(&[worker.address]);

    let mut plain = Raw::connect(proxy.address);
    let answer = plain.ask("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!((answer.start.as_str(), answer.text()), ("HTTP/1.0 200 OK", "sized"));
    plain.closed();
    assert_eq!(worker.request().1.start, "GET / HTTP/1.1", "workers get HTTP/1.1");

    let mut kept = Raw::connect(proxy.address);
    for _ in 0..3 {
        let answer = kept.ask("GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((answer.text(), answer.header("connection")), ("sized", Some("keep-alive")));
    }
    // HTTP/1.0 has no chunks, so the end of the connection is the end of the body.
    let answer = kept.ask("GET /chunked HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((answer.header("transfer-encoding"), answer.text()), (None, "abc"));
}

#[test]
fn an_http_1_0_client_without_host_still_gets_an_answer() {
    let mut worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let answer = Raw::connect(proxy.address).ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!(answer.status(), 200);
    // A request of HTTP/1.1 without Host is malformed (RFC 9112 §3.2); Node answers 400.
    assert_eq!(worker.request().1.header("host"), Some(""));
}

#[test]
fn an_http_1_0_worker_works_as_any_other() {
    let worker = RawWorker::scripted(|leg| {
        leg.request();
        leg.send("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nto the end");
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    for _ in 0..2 {
        let answer = client.get("/");
        assert_eq!((answer.start.as_str(), answer.text()), ("HTTP/1.1 200 OK", "to the end"));
    }
    assert_eq!(worker.connections(), 2, "the worker's close ends the body; the client's connection goes on");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let mut worker = RawWorker::answering(|request: &Message| ok(&format!("{} {}", request.target(), request.text())));
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    client.send(
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
         POST /3 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\nGET /4 HTTP/1.1\r\n\
         Host: a\r\n\r\n",
    );
    for expected in ["/1 ", "/2 abc", "/3 xyz", "/4 "] {
        assert_eq!(client.answer().text(), expected);
    }
    for target in ["/1", "/2", "/3", "/4"] {
        assert_eq!(worker.request().1.target(), target);
    }
}

/// A body is given to hyper with its head if all of its bytes are the body's; the request after it must never be.
#[test]
fn a_body_in_one_piece_with_its_head_ends_where_its_length_says() {
    let worker = RawWorker::answering(|request: &Message| ok(&format!("{} {}", request.target(), request.text())));
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    for length in ["Content-Length: ", "content-length: ", "Content-Length:", "Content-Length: 0"] {
        let head = format!("POST /1 HTTP/1.1\r\nHost: a\r\n{length}3\r\n\r\n");
        client.send(format!("{head}abc"));
        assert_eq!(client.answer().text(), "/1 abc", "{length}");
        client.send(format!("{head}ab"));
        wait_for("the first part arrives", || worker.bytes().ends_with(b"ab"));
        client.send("cGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((client.answer().text(), client.answer().text()), ("/1 abc", "/2 "), "{length}");
        client.send(format!("{head}abcGET /2 HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((client.answer().text(), client.answer().text()), ("/1 abc", "/2 "), "{length}");
    }
}

/// Each answer must follow the one before it, and not a timer: fifty waits of a second or more would be noticed.
#[test]
fn a_pipelined_request_does_not_wait_for_a_timer() {
    let worker = RawWorker::answering(|request: &Message| ok(request.target()));
    let proxy = Proxy::before(&[worker.address]);
    let begun = std::time::Instant::now();
    let mut client = Raw::connect(proxy.address);
    let requests: String = (0..50).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests);
    for i in 0..50 {
        assert_eq!(client.answer().text(), format!("/{i}"));
    }
    assert!(begun.elapsed() < at_most(std::time::Duration::from_secs(25)), "{:?}", begun.elapsed());
}

#[test]
fn a_client_that_half_closes_never_hangs() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::before(&[worker.address]);
    let stream = std::net::TcpStream::connect(proxy.address).unwrap();
    let mut client = Raw::on(crate::support::raw::patient(stream.try_clone().unwrap()));
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    client.rest();
}

#[test]
fn workers_on_a_unix_socket_and_on_ipv6() {
    let directory = std::env::temp_dir().join(format!("stickyd-unix-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("w.sock");
    let answering = |leg: &mut crate::support::raw::Leg| {
        while leg.request().is_some() {
            leg.send(ok("here"));
        }
    };
    let mut unix = RawWorker::scripted_unix(&path, answering);
    let six = RawWorker::scripted_at("[::1]:0".parse().unwrap(), answering);
    let config =
        |worker: &str| format!("[[listener]]\naddress = \"[::1]:0\"\n[upstream.app]\nworkers = [\"{worker}\"]\n");
    let proxy = Proxy::with(&config(&format!("unix:{}", path.display())));
    assert!(proxy.address.is_ipv6());
    let mut client = Raw::connect(proxy.address);
    for _ in 0..3 {
        assert_eq!(client.get("/").text(), "here");
    }
    assert_eq!(unix.connections(), 1);
    let (_, request) = unix.request();
    assert_eq!((request.header("host"), request.header("x-forwarded-for")), (Some("a.example"), Some("::1")));
    let proxy = Proxy::with(&config(&six.address.to_string()));
    assert_eq!(Raw::connect(proxy.address).get("/").text(), "here");
    std::fs::remove_dir_all(&directory).unwrap();
}
