//! Session ids that stand for no token: those that a client makes up, those of another stickyd or of another route, and
//! those that an application uses again.

use serde_json::json;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::bypasses::{OPEN, SID, UPGRADE, behind, close, frame, post, reached, send_at_once, worker};
use super::routed;
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::tokens::token;

#[test]
fn a_session_found_on_another_stickyd_is_admitted_there_anew() {
    let worker = worker();
    let (one, two) = (behind(&worker, "from = [\"auth:token\"]"), behind(&worker, "from = [\"auth:token\"]"));
    assert!(Raw::connect(one.address).get(OPEN).text().contains(SID));
    let session = format!("{OPEN}&sid={SID}");
    let good = format!("40{{\"token\":\"{}\"}}", token(json!({"sub": "u"})));
    assert_eq!(post(&one, &session, "", &good).text(), "ok");
    assert_eq!(post(&one, &session, "", "42[\"first\"]").text(), "ok");
    assert!(reached(&worker, "first"));
    // The other stickyd does not know whether the client was admitted: the client has to begin again.
    let answer = post(&two, &session, "", "42[\"SECRET\"]");
    assert!(answer.status() == 400 && answer.text().contains("Session ID unknown"), "{answer:?}");
    assert!(!reached(&worker, "SECRET"));
    assert_eq!(post(&two, &session, "", &good).text(), "ok");
    assert_eq!(post(&two, &session, "", "42[\"second\"]").text(), "ok");
    assert!(reached(&worker, "second"));
}

#[test]
fn a_websocket_of_a_session_of_another_stickyd_is_judged_anew() {
    let worker = worker();
    let (one, two) = (behind(&worker, "from = [\"auth:token\"]"), behind(&worker, "from = [\"auth:token\"]"));
    assert!(Raw::connect(one.address).get(OPEN).text().contains(SID));
    let good = format!("40{{\"token\":\"{}\"}}", token(json!({"sub": "u"})));
    assert_eq!(post(&one, &format!("{OPEN}&sid={SID}"), "", &good).text(), "ok");
    let target = format!("/socket.io/?EIO=4&transport=websocket&sid={SID}");
    let closed = |frames: &[Vec<u8>]| send_at_once(two.address, &target, &[frames.concat(), close()].concat());
    let events = [frame(0x81, b"5"), frame(0x81, b"42[\"SECRET\"]")];
    // The client is to begin again: another stickyd may have admitted it.
    assert!(closed(&events).ends_with(&1012_u16.to_be_bytes()));
    assert!(closed(&[frame(0x81, b"40/SECRET,")]).ends_with(&1012_u16.to_be_bytes()));
    assert!(closed(&[frame(0x82, b"SECRET")]).ends_with(&1012_u16.to_be_bytes()));
    assert!(!reached(&worker, "SECRET"));
}

/// A session that one route has let in without a token, because it asks for none, is judged on the route that does.
#[test]
fn a_session_of_an_open_route_is_judged_on_the_guarded_one() {
    let worker = worker();
    let open = "[[route]]\npath = \"/open\"\nupstream = \"app\"\n";
    let toml = format!("[upstream.app]\nworkers = [\"{}\"]\n{open}", worker.address);
    let proxy = Proxy::with(&format!("{toml}{}", routed("", "from = [\"auth:token\"]")));
    let at = |path: &str| OPEN.replace("/socket.io/", path);
    assert!(Raw::connect(proxy.address).get(&at("/open/")).text().contains(SID));
    let answer = post(&proxy, &format!("{OPEN}&sid={SID}"), "", "42[\"SECRET\"]");
    assert_eq!(answer.status(), 400, "{answer:?}");
    // Spellings of a path that a worker could read as the guarded one.
    for path in ["/open/../socket.io/", "/open/%2e%2e/socket.io/", "//socket.io/", "/open/..%2fsocket.io/"] {
        let answer = post(&proxy, &format!("{}&sid={SID}", at(path)), "", "42[\"SECRET\"]");
        assert_ne!(answer.text(), "ok", "{path}: {answer:?}");
        assert!(!reached(&worker, "SECRET"), "{path}");
    }
}

/// An id that any client can make up stands for no token, whatever the application does with it.
#[test]
fn a_made_up_session_id_is_no_token() {
    let worker = worker();
    let page = "/page?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA&x=SECRET";
    for (jwt, plain) in [
        ("from = [\"header:authorization\"]", 401),
        ("from = [\"header:authorization\"]\non = \"all\"", 401),
        ("from = [\"auth:token\", \"header:authorization\"]\non = \"all\"", 401),
    ] {
        let proxy = behind(&worker, &format!("{jwt}\nrefuse = \"http\""));
        for method in ["GET", "POST", "DELETE"] {
            let head = format!("{method} {page} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
            let answer = Raw::connect(proxy.address).ask(&head);
            assert_eq!(answer.status(), plain, "{method} {jwt}: {answer:?}");
        }
        let upgrade = page.replace("polling", "websocket");
        let head = format!("GET {upgrade} HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n");
        assert_eq!(Raw::connect(proxy.address).ask(&head).status(), 401, "{jwt}");
        let good = format!("Authorization: Bearer {}\r\n", token(json!({"sub": "u"})));
        let own = Raw::connect(proxy.address).ask(&format!("GET {OPEN} HTTP/1.1\r\nHost: a\r\n{good}\r\n"));
        assert!(own.text().contains(SID), "{own:?}");
        // The id of a session that began here is one, at its own path only.
        assert_eq!(Raw::connect(proxy.address).get(&format!("{OPEN}&sid={SID}")).text(), "6", "{jwt}");
        let elsewhere = page.replace("AAAAAAAAAAAAAAAAAAAA", SID);
        assert_eq!(Raw::connect(proxy.address).get(&elsewhere).status(), 401, "{jwt}");
        // With a token, each of them passes.
        let answer = Raw::connect(proxy.address).ask(&format!(
            "GET /page?EIO=4&transport=polling&sid=BBBBBBBBBBBBBBBBBBBB HTTP/1.1\r\nHost: a\r\n{good}\r\n"
        ));
        assert_eq!(answer.status(), 200, "{jwt} {answer:?}");
    }
    assert!(!reached(&worker, "SECRET"));
}

/// The query of a handshake opens no page that needs a token, and no WebSocket that is not Socket.IO's.
#[test]
fn what_is_no_session_needs_a_token_before() {
    let worker = RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            if let Some(key) = request.header("sec-websocket-key") {
                let accept = derive_accept_key(key.as_bytes());
                leg.send(format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: {accept}\r\n\r\n"
                ));
                leg.send([&[0x81, 7][..], b"welcome"].concat());
                leg.until_closed();
                return;
            }
            let page = match request.target().contains("moved") {
                true => "HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\nthe page".to_owned(),
                false => ok("the page"),
            };
            if !leg.send(page) {
                return;
            }
        }
    });
    let proxy = behind(&worker, "from = [\"auth:token\", \"header:authorization\"]\non = \"all\"");
    for path in ["/page", "/moved"] {
        let answer = Raw::connect(proxy.address).get(&OPEN.replace("/socket.io/", path));
        assert_eq!(answer.status(), 401, "{path} {answer:?}");
        assert!(answer.text().contains("token_missing") && !answer.text().contains("the page"), "{answer:?}");
    }
    let frames = [frame(0x81, b"2probe"), close()].concat();
    let told = send_at_once(proxy.address, "/chat?EIO=4&transport=websocket", &frames);
    assert!(told.windows(2).any(|code| code == 1008_u16.to_be_bytes()), "{told:?}");
    // A made-up id of a session that is to move to a WebSocket.
    let packets = behind(&worker, "from = [\"auth:token\"]");
    let moves = format!("/chat?EIO=4&transport=websocket&sid={SID}");
    let told = send_at_once(packets.address, &moves, &frames);
    assert!(told.ends_with(&1012_u16.to_be_bytes()), "{told:?}");
    let good = format!("Authorization: Bearer {}\r\n", token(json!({"sub": "u"})));
    let ask = |path: &str| Raw::connect(proxy.address).ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n{good}\r\n"));
    assert_eq!(ask(&OPEN.replace("/socket.io/", "/page")).text(), "the page");
}

/// An application may make its own session ids, and use one again: the new session is another client's.
#[test]
fn a_session_id_that_is_used_again_is_admitted_anew() {
    let worker = worker();
    let proxy = behind(&worker, "from = [\"auth:token\"]");
    let session = format!("{OPEN}&sid={SID}");
    assert!(Raw::connect(proxy.address).get(OPEN).text().contains(SID));
    let good = format!("40{{\"token\":\"{}\"}}", token(json!({"sub": "u"})));
    assert_eq!(post(&proxy, &session, "", &good).text(), "ok");
    assert_eq!(post(&proxy, &session, "", "42[\"first\"]").text(), "ok");
    assert!(reached(&worker, "first"));
    assert!(Raw::connect(proxy.address).get(OPEN).text().contains(SID));
    let _ = post(&proxy, &session, "", "42[\"SECRET\"]");
    assert!(!reached(&worker, "SECRET"));
}
