//! The presets against workers that speak just enough of each protocol. Real servers and clients are in
//! `tests/protocols/`.

use stickyd::testing::config::AdminState;
use stickyd::testing::upstream::AdminChange;

use super::{Known, Pool, answer, ask, decision};
use crate::support::proxy::Proxy;
use crate::support::raw::Message;

/// Puts a worker into maintenance, which ends its sessions.
fn maint(proxy: &Proxy, worker: &str) {
    let config = proxy.server().shared().snapshot.load().upstreams[0].config.clone();
    proxy.worker(worker).change(AdminChange::Say(AdminState::Maint, None), &config);
}

fn number_of(proxy: &Proxy, event: &str, rule: &str) -> f64 {
    proxy.metric(&format!("stickyd_rule_total{{event=\"{event}\",rule=\"{rule}\",upstream=\"app\"}}"))
}

fn query<'r>(request: &'r Message, name: &str) -> Option<&'r str> {
    let (_, query) = request.target().split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// A new id of this worker, which it remembers.
fn born(number: usize, known: &Known) -> String {
    let mut known = known.lock().unwrap();
    let id = format!("w{number}-{:018}", known.len());
    known.push(id.clone());
    id
}

fn knows(known: &Known, id: &str) -> bool {
    known.lock().unwrap().iter().any(|one| one == id)
}

const JSON_OR_EVENTS: &str = "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n";

fn mcp(number: usize, known: &Known, request: &Message) -> String {
    match request.header("mcp-session-id") {
        None if request.text().contains("initialize") => {
            answer("200 OK", &format!("Mcp-Session-Id: {}\r\n", born(number, known)), "{}")
        }
        None => answer("200 OK", "", &format!("stateless w{number}")),
        Some(id) if knows(known, id) => {
            if request.start.starts_with("DELETE") {
                known.lock().unwrap().retain(|one| one != id);
            }
            answer("200 OK", &format!("Mcp-Session-Id: {id}\r\n"), &format!("w{number}"))
        }
        Some(_) => answer("404 Not Found", "", "not here"),
    }
}

#[test]
fn mcp_by_its_header() {
    let pool = Pool::of(3, mcp);
    let [here, there] = pool.behind_two(&pool.upstream("[\"mcp\"]"));
    let mut owners = Vec::new();
    for _ in 0..6 {
        let made = ask(&here, "POST", "/mcp", JSON_OR_EVENTS, "{\"method\":\"initialize\"}");
        let (id, owner) = (made.header("mcp-session-id").unwrap().to_owned(), decision(&made).0);
        let with = format!("{JSON_OR_EVENTS}Mcp-Session-Id: {id}\r\n");
        for proxy in [&here, &there, &here, &there] {
            let called = ask(proxy, "POST", "/mcp", &with, "{\"method\":\"tools/call\"}");
            assert_eq!((called.status(), called.text()), (200, owner.as_str()));
            assert_eq!(ask(proxy, "GET", "/mcp", &with, "").text(), owner);
        }
        owners.push((id, owner));
    }
    for worker in ["w1", "w2", "w3"] {
        assert_eq!(owners.iter().filter(|(_, owner)| owner == worker).count(), 2, "{owners:?}");
    }
    assert_eq!(ask(&here, "POST", "/mcp", JSON_OR_EVENTS, "{\"method\":\"tools/list\"}").status(), 200);
    assert_eq!(here.server().shared().sessions.pins.len(), 6, "requests without a session are not pinned");
    let (id, _) = owners.pop().unwrap();
    let with = format!("Mcp-Session-Id: {id}\r\n");
    assert_eq!(ask(&here, "DELETE", "/mcp", &with, "").status(), 200);
    assert_eq!((here.server().shared().sessions.pins.len(), number_of(&here, "ended", "mcp")), (5, 1.0));
}

#[test]
fn an_mcp_client_initializes_again_when_its_worker_is_gone() {
    let pool = Pool::of(2, mcp);
    let proxy = Proxy::with(&pool.upstream("[\"mcp\"]"));
    let made = ask(&proxy, "POST", "/mcp", JSON_OR_EVENTS, "{\"method\":\"initialize\"}");
    let with = format!("{JSON_OR_EVENTS}Mcp-Session-Id: {}\r\n", made.header("mcp-session-id").unwrap());
    maint(&proxy, &decision(&made).0);
    let refused = ask(&proxy, "POST", "/mcp", &format!("{with}Origin: https://a.test\r\n"), "{}");
    assert_eq!((refused.status(), refused.header("content-type")), (404, Some("application/json")));
    assert!(refused.text().contains(r#""error":{"code":-32001,"message":"Session not found"}"#), "{refused:?}");
    assert_eq!(refused.header("access-control-allow-origin"), Some("https://a.test"));
    assert_eq!(ask(&proxy, "POST", "/mcp", JSON_OR_EVENTS, "{\"method\":\"initialize\"}").status(), 200);
}

fn signalr(number: usize, known: &Known, request: &Message) -> String {
    if request.target().starts_with("/hub/negotiate") {
        let token = born(number, known);
        let body = match query(request, "v") {
            Some("0") => format!(r#"{{"connectionId":"{token}","availableTransports":[]}}"#),
            Some("r") => r#"{"url":"https://elsewhere.test/hub","accessToken":"x","negotiateVersion":1}"#.to_owned(),
            _ => format!(r#"{{"connectionId":"public-{token}","connectionToken":"{token}","negotiateVersion":1}}"#),
        };
        return answer("200 OK", "Content-Type: application/json\r\n", &body);
    }
    match query(request, "id") {
        Some(id) if knows(known, id) => answer("200 OK", "", &format!("w{number}")),
        Some(id) if id.len() > 16 => answer("404 Not Found", "", "No Connection with that ID"),
        _ => answer("200 OK", "", "a page"),
    }
}

#[test]
fn signalr_by_its_token() {
    let pool = Pool::of(3, signalr);
    let [here, there] = pool.behind_two(&pool.upstream("[\"signalr\", \"address\"]"));
    for version in ["0", "1"] {
        let made = ask(&here, "POST", &format!("/hub/negotiate?v={version}"), "", "");
        let owner = decision(&made).0;
        let token = made.text().split('"').find(|part| part.starts_with('w') && part.len() == 21).unwrap().to_owned();
        for proxy in [&here, &there] {
            for method in ["GET", "POST"] {
                let found = ask(proxy, method, &format!("/hub?id={token}"), "", "");
                assert_eq!((found.status(), found.text()), (200, owner.as_str()), "{version} {method}");
            }
        }
        let public = ask(&here, "GET", &format!("/hub?id=public-{token}"), "", "");
        assert_eq!(public.status(), 404, "a connectionId is public");
    }
    assert_eq!(number_of(&here, "learned", "signalr"), 2.0);
    ask(&here, "POST", "/hub/negotiate?v=r", "", "");
    assert_eq!(number_of(&here, "learned", "signalr"), 2.0, "a redirect is not learned");
    // An id of another application in the same place is too short for this preset.
    assert_eq!(decision(&ask(&here, "GET", "/users?id=5", "", "")).1, "address");
}

#[test]
fn sockjs_by_its_path() {
    /// A SockJS server: requests that receive create a session of any id, requests that send do not.
    fn sockjs(number: usize, known: &Known, request: &Message) -> String {
        let parts: Vec<_> = request.target().split('/').collect();
        let [_, "echo", _, id, transport] = parts[..] else { return answer("404 Not Found", "", "") };
        let mine = knows(known, id);
        match transport {
            "xhr_send" if mine => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            "xhr" if mine => answer("200 OK", "", &format!("a[\"w{number}\"]\n")),
            "xhr" => {
                known.lock().unwrap().push(id.to_owned());
                answer("200 OK", "", "o\n")
            }
            _ => answer("404 Not Found", "", ""),
        }
    }
    let pool = Pool::of(4, sockjs);
    let all = format!("secret = \"0123456789abcdef0123456789abcdef\"\n{}", pool.upstream("[\"sockjs\"]"));
    let last = format!(", {{ address = \"{}\", name = \"w4\" }}", pool.workers[3].address);
    let before = Proxy::with(&all.replace(&last, ""));
    let mut owners = Vec::new();
    for session in 0..24 {
        let made = ask(&before, "POST", &format!("/echo/000/s{session}/xhr"), "", "");
        assert_eq!(made.text(), "o\n");
        owners.push(decision(&made).0);
        assert_eq!(ask(&before, "POST", &format!("/echo/000/s{session}/xhr_send"), "", "[\"x\"]").status(), 204);
    }
    for worker in ["w1", "w2", "w3"] {
        assert!(owners.iter().any(|owner| owner == worker), "{owners:?}");
    }
    // Another stickyd without pins, and one more worker, so that the ring differs.
    let after = Proxy::with(&all);
    for (session, owner) in owners.iter().enumerate() {
        let target = format!("/echo/123/s{session}/{}", if session % 2 == 0 { "xhr" } else { "xhr_send" });
        let found = ask(&after, "POST", &target, "", "[\"x\"]");
        assert_eq!((decision(&found).0.as_str(), found.status() < 300), (owner.as_str(), true), "{session}: {found:?}");
        assert_eq!(
            ask(&after, "POST", &format!("/echo/123/s{session}/xhr"), "", "").text(),
            format!("a[\"{owner}\"]\n")
        );
    }
    assert_eq!(ask(&after, "POST", "/echo/1/unknown/xhr_send", "", "[]").status(), 404);
}

#[test]
fn phoenix_by_its_token() {
    fn phoenix(number: usize, known: &Known, request: &Message) -> String {
        let ours = query(request, "token").is_some_and(|token| knows(known, token));
        let body = match (ours, request.start.starts_with("GET")) {
            (true, true) => format!(r#"{{"messages":["w{number}"],"status":200,"token":"x"}}"#),
            (true, false) => r#"{"status":200}"#.to_owned(),
            (false, true) => format!(r#"{{"messages":[],"status":410,"token":"{}"}}"#, born(number, known)),
            (false, false) => r#"{"status":410}"#.to_owned(),
        };
        answer("200 OK", "Content-Type: application/json\r\n", &body)
    }
    let pool = Pool::of(3, phoenix);
    let [here, there] = pool.behind_two(&pool.upstream("[\"phoenix\"]"));
    for session in 0..6 {
        let made = ask(&here, "GET", "/socket/longpoll?vsn=2.0.0", "", "");
        let owner = decision(&made).0;
        let token = made.text().split("\"token\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        let target = format!("/socket/longpoll?vsn=2.0.0&token={token}");
        let polled = ask(&here, "GET", &target, "", "");
        assert!(polled.text().contains(&owner), "{polled:?}");
        // A POST is discovered. A GET would create a session on any worker, so the workers are asked first.
        if session % 2 == 0 {
            let sent = ask(&there, "POST", &target, "", "[]");
            assert_eq!((sent.text(), decision(&sent).0), (r#"{"status":200}"#, owner.clone()));
        }
        assert!(ask(&there, "GET", &target, "", "").text().contains(&owner));
        assert_eq!(decision(&ask(&there, "GET", &target, "", "")).1, "sid");
    }
    assert_eq!(number_of(&here, "learned", "phoenix"), 6.0, "no session was made by looking for one");
    // The owner has lost the session, and its refusal also makes a new one.
    let lost = ask(&here, "GET", "/socket/longpoll?token=gone", "", "");
    assert!(lost.text().contains("410"), "{lost:?}");
    assert_eq!(number_of(&here, "learned", "phoenix"), 7.0);
}

#[test]
fn cometd_by_its_cookie() {
    fn cometd(number: usize, known: &Known, request: &Message) -> String {
        let cookie =
            request.header("cookie").and_then(|value| value.strip_prefix("BAYEUX_BROWSER=")).unwrap_or_default();
        if request.text().contains("handshake") {
            if cookie.is_empty() {
                let set = format!("Set-Cookie: BAYEUX_BROWSER={}; HttpOnly\r\n", born(number, known));
                return answer("200 OK", &set, &format!(r#"[{{"successful":true,"w":{number}}}]"#));
            }
            known.lock().unwrap().push(cookie.to_owned());
            return answer("200 OK", "", &format!(r#"[{{"successful":true,"w":{number}}}]"#));
        }
        let known = knows(known, cookie);
        let body = if known {
            format!(r#"[{{"successful":true,"w":{number}}}]"#)
        } else {
            r#"[{"successful":false,"error":"402::Unknown client"}]"#.to_owned()
        };
        answer("200 OK", "", &body)
    }
    let pool = Pool::of(3, cometd);
    let [here, there] = pool.behind_two(&pool.upstream("[\"cometd\"]"));
    for _ in 0..6 {
        let made = ask(&here, "POST", "/cometd", "", "/meta/handshake");
        let (owner, cookie) = (decision(&made).0, made.cookie("BAYEUX_BROWSER").unwrap());
        for proxy in [&here, &there, &here] {
            let connected = ask(proxy, "POST", "/cometd", &format!("Cookie: {cookie}\r\n"), "/meta/connect");
            assert!(connected.text().contains("true"), "{connected:?}");
            assert_eq!(decision(&connected).0, owner);
        }
    }
    let made = ask(&here, "POST", "/cometd", "", "/meta/handshake");
    let (owner, cookie) = (decision(&made).0, format!("Cookie: {}\r\n", made.cookie("BAYEUX_BROWSER").unwrap()));
    maint(&here, &owner);
    // Another worker refuses with the words of the protocol, and accepts the next handshake of the same browser.
    assert!(ask(&here, "POST", "/cometd", &cookie, "/meta/connect").text().contains("402::"));
    let again = ask(&here, "POST", "/cometd", &cookie, "/meta/handshake");
    assert!(again.text().contains("true") && decision(&again).0 != owner, "{again:?}");
    let connected = ask(&here, "POST", "/cometd", &cookie, "/meta/connect");
    assert_eq!(decision(&connected).0, decision(&again).0);
}

#[test]
fn tus_by_its_location() {
    fn tus(number: usize, known: &Known, request: &Message) -> String {
        if request.start.starts_with("POST") {
            return answer("201 Created", &format!("Location: /files/{}\r\n", born(number, known)), "");
        }
        let id = request.target().rsplit('/').next().unwrap();
        match (knows(known, id), request.start.starts_with("HEAD")) {
            (true, true) => "HTTP/1.1 200 OK\r\nUpload-Offset: 3\r\n\r\n".to_owned(),
            (true, false) => format!("HTTP/1.1 204 No Content\r\nUpload-Offset: {number}\r\n\r\n"),
            (false, _) => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
        }
    }
    let pool = Pool::of(3, tus);
    let [here, there] = pool.behind_two(&pool.upstream("[\"tus\", \"address\"]"));
    let with = "Tus-Resumable: 1.0.0\r\n";
    for _ in 0..6 {
        let made = ask(&here, "POST", "/files", &format!("{with}Upload-Length: 9\r\n"), "");
        let (owner, target) = (decision(&made).0, made.header("location").unwrap().to_owned());
        for proxy in [&here, &there] {
            let sent = ask(proxy, "PATCH", &target, with, "abc");
            assert_eq!((sent.status(), decision(&sent).0), (204, owner.clone()));
        }
    }
    assert_eq!(decision(&ask(&here, "GET", "/files/anything", "", "")).1, "address", "a page is not an upload");
    assert_eq!(here.server().shared().sessions.pins.len(), 6);
}

#[test]
fn rules_apply_in_order_and_a_pinned_id_comes_first() {
    let pool = Pool::of(3, |number, known, request| match request.target() {
        "/a" => answer("200 OK", &format!("X-A: {}\r\n", born(number, known)), ""),
        "/b" => answer("200 OK", &format!("X-B: {}\r\n", born(number, known)), ""),
        _ => answer("200 OK", "", &format!("w{number}")),
    });
    let rules = "[affinity.a]\nlearn = [{ from = \"header:x-a\" }]\nlookup = [\"header:x-a\"]\n\
        [affinity.b]\nlearn = [{ from = \"header:x-b\" }]\nlookup = [\"header:x-b\"]\n";
    let proxy = Proxy::with(&format!("{}{rules}", pool.upstream("[\"a\", \"b\"]")));
    let (a, b) = (ask(&proxy, "GET", "/a", "", ""), ask(&proxy, "GET", "/b", "", ""));
    let (of_a, of_b) = (decision(&a).0, decision(&b).0);
    assert_ne!(of_a, of_b, "bounded load gives them different workers");
    let (a, b) = (a.header("x-a").unwrap(), b.header("x-b").unwrap());
    let both = ask(&proxy, "GET", "/", &format!("X-B: {b}\r\nX-A: {a}\r\n"), "");
    assert_eq!(decision(&both), (of_a, "sid".to_owned(), "a".to_owned()));
    let stale = ask(&proxy, "GET", "/", &format!("X-A: stale\r\nX-B: {b}\r\n"), "");
    assert_eq!(decision(&stale), (of_b, "sid".to_owned(), "b".to_owned()));
}
