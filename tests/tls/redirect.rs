//! The redirect to https, and HSTS, which keeps a browser there.

use super::{get, proxy};
use crate::support::raw::{Raw, RawWorker};
use crate::support::tls::Certificates;

#[test]
fn every_request_is_sent_to_the_same_place_over_https() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let proxy = proxy(&files, &worker, "redirect = \"https\"", "");
    let mut client = Raw::connect(proxy.address);
    // The last request has two hosts, so that its answer is the connection's last.
    for (start, host, location) in [
        ("GET /", "a.example", "https://a.example/"),
        ("GET /x/y?a=b&c=%0d%0aX:%201", "A.example:8080", "https://A.example/x/y?a=b&c=%0d%0aX:%201"),
        ("GET //evil.example/..", "a.example", "https://a.example//evil.example/.."),
        ("HEAD /\\@evil.example", "a.example", "https://a.example/\\@evil.example"),
        ("OPTIONS *", "a.example", "https://a.example/"),
        ("GET /", "[::1]:80", "https://[::1]/"),
        ("GET http://b.example:81/x", "a.example", "https://b.example/x"),
    ] {
        let answer = client.ask(&format!("{start} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!((answer.status(), answer.header("location")), (308, Some(location)), "{start} {host}");
        assert_eq!((answer.header("strict-transport-security"), answer.header("set-cookie")), (None, None));
    }
    let body = "POST /form HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
    client.closed();
    let answer = Raw::connect(proxy.address).ask(body);
    assert_eq!(answer.header("location"), Some("https://a.example/form"));
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a@evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example/evil\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\nHost: evil.example\r\n\r\n",
    ] {
        let answer = String::from_utf8(Raw::connect(proxy.address).send(bad).rest()).unwrap();
        assert!(answer.contains("400 Bad Request") && !answer.to_lowercase().contains("location"), "{bad}: {answer}");
    }
    assert_eq!(worker.connections(), 0);
}

#[test]
fn port_and_status_of_the_redirect_can_be_set() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    let proxy = proxy(&files, &worker, "redirect = { port = 8443, status = 301 }", "");
    let answer = Raw::connect(proxy.address).ask(&get("[2001:db8::1]:8080", "/x?y"));
    assert_eq!((answer.status(), answer.header("location")), (301, Some("https://[2001:db8::1]:8443/x?y")));
}

#[test]
fn hsts_is_on_every_answer_exactly_once() {
    let worker = RawWorker::answering(|_| {
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nStrict-Transport-Security: max-age=0\r\n\r\n".to_owned()
    });
    let files = Certificates::new();
    files.issue("site", &["a.example"]);
    let tls = "tls = { certificate = \"site.pem\", key = \"site.key\", hsts = { max_age = \"365d\", include_subdomains = true } }";
    let proxy = proxy(&files, &worker, tls, "[[route]]\nhost = \"a.example\"\nupstream = \"app\"\n");
    let mut client = files.client().connect(proxy.address, "a.example").raw;
    for (request, status) in [
        (get("a.example", "/"), 200),
        (get("b.example", "/"), 404),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned(), 400),
    ] {
        let answer = client.ask(&request);
        assert_eq!(answer.status(), status);
        assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000; includeSubDomains"));
    }
}

#[test]
fn alt_svc_is_never_sent() {
    let worker = RawWorker::answering(|_| {
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nAlt-Svc: h3=\":443\"\r\nAlt-Svc: h2=\"x:1\"\r\nX-Own: 1\r\n\r\n"
            .to_owned()
    });
    let files = Certificates::new();
    let proxy = proxy(&files, &worker, "", "");
    let answer = Raw::connect(proxy.address).get("/");
    assert_eq!((answer.header("alt-svc"), answer.header("x-own")), (None, Some("1")));
}
