//! The layers around the admin API: overload, headers of answers, the audit line, bounds on bodies, unknown paths.

use crate::support::engines::{config_of_named, many_sessions};
use crate::support::proxy::Binary;
use crate::support::raw::{Message, Raw};
use crate::support::wait::wait_for;

fn started() -> Binary {
    Binary::with(&config_of_named(&[("one", &many_sessions("one"))], ""))
}

fn ask(binary: &Binary, method: &str, path: &str, body: &str) -> Message {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    Raw::connect_unix(&binary.admin()).ask(&request)
}

#[test]
fn too_many_admin_requests_are_answered_at_once() {
    let binary = started();
    // Each of them waits for its body.
    let unfinished = "PUT /api/v1/log HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: 9\r\n\r\n";
    let mut waiting: Vec<Raw> = (0..32).map(|_| Raw::connect_unix(&binary.admin())).collect();
    for one in &mut waiting {
        one.send(unfinished);
    }
    let mut refused = None;
    wait_for("the limit is reached", || {
        let answer = ask(&binary, "GET", "/api/v1/status", "");
        let is_refused = answer.status() == 503;
        refused = is_refused.then_some(answer);
        is_refused
    });
    let refused = refused.unwrap();
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(refused.header("cache-control"), Some("no-store"));
    assert_eq!(refused.text(), "too many admin requests are under way: try again in a second\n");
    // Requests are accepted again once the others have ended.
    drop(waiting);
    wait_for("there is room again", || ask(&binary, "GET", "/api/v1/status", "").status() == 200);
    assert!(binary.log().contains("the admin listener has reached its limit of requests under way"));
}

#[test]
fn every_admin_answer_has_headers_for_browsers() {
    let binary = started();
    for path in ["/api/v1/status", "/api/v1/sockets", "/metrics", "/api/v1/pins?x=1", "/nothing"] {
        let answer = ask(&binary, "GET", path, "");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        assert!(answer.header("content-security-policy").unwrap().starts_with("default-src 'none';"), "{path}");
    }
    assert_eq!(ask(&binary, "GET", "/nothing", "").status(), 404);
    assert_eq!(ask(&binary, "DELETE", "/api/v1/status", "").status(), 405);
}

#[test]
fn every_admin_write_is_logged_with_its_outcome() {
    let binary = started();
    let line = |words: &[&str]| binary.says(words);
    assert_eq!(ask(&binary, "POST", "/api/v1/workers/app/one/drain?x=secret", "").status(), 200);
    line(&[
        "INFO",
        "admin write",
        "method=POST",
        "path=\"/api/v1/workers/app/one/drain\"",
        "status=200",
        "peer=\"unix\"",
    ]);
    assert_eq!(ask(&binary, "PUT", "/api/v1/log", "{}").status(), 422);
    line(&["INFO", "admin write", "method=PUT", "path=\"/api/v1/log\"", "status=422"]);
    assert_eq!(ask(&binary, "GET", "/api/v1/status", "").status(), 200);
    assert!(!binary.log().contains("admin read") && !binary.log().contains("secret"), "{}", binary.log());
    assert_eq!(ask(&binary, "PUT", "/api/v1/log", "{\"level\": \"debug\"}").status(), 200);
    assert_eq!(ask(&binary, "GET", "/api/v1/status", "").status(), 200);
    line(&["DEBUG", "admin read", "method=GET", "path=\"/api/v1/status\"", "status=200"]);
}

#[test]
fn bodies_of_admin_requests_are_bounded() {
    let binary = started();
    let long = " ".repeat(512 * 1024 + 1);
    let announced =
        "POST /api/v1/broadcast HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: 1000000000\r\n\r\n";
    assert_eq!(Raw::connect_unix(&binary.admin()).ask(announced).status(), 413);
    let chunked =
        "POST /api/v1/broadcast HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = Raw::connect_unix(&binary.admin()).ask(&format!("{chunked}{:x}\r\n{long}\r\n", long.len()));
    assert_eq!((answer.status(), answer.text()), (413, "the body is too large\n"));
    let most = ask(&binary, "POST", "/api/v1/broadcast", &long[1..]);
    assert_eq!(most.status(), 422, "{}", most.text());
}
