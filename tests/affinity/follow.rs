//! Ordinary requests that name a Socket.IO session go to its worker.

use super::{Pool, answer, ask, decision};
use crate::support::proxy::Proxy;
use crate::support::raw::{Leg, Raw};
use crate::support::wait::wait_for;

/// Engine.IO by hand. The first poll of a session connects two sockets. A session that starts on WebSocket connects
/// them in its first frames, the second of which is cut in the middle. All socket ids contain the sid.
fn engine(number: usize, leg: &mut Leg) {
    let grant = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let open =
        |sid: &str| format!("0{{\"sid\":\"{sid}\",\"upgrades\":[],\"pingInterval\":25000,\"pingTimeout\":20000}}");
    while let Some(request) = leg.request() {
        let target = request.target();
        let sent = if target.contains("transport=websocket") {
            let sid = format!("ws-of-w{number}");
            let frame = |text: &str| [&[0x81, u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat();
            leg.send(grant);
            leg.send(frame(&open(&sid)));
            let socket = frame(&format!("40{{\"sid\":\"socket-{sid}\"}}"));
            let (head, tail) = socket.split_at(7);
            leg.send(head);
            leg.send(tail);
            leg.send(frame(&format!("40/chat,{{\"sid\":\"chat-{sid}\"}}")));
            leg.until_closed();
            return;
        } else if let Some(sid) = target.split("sid=").nth(1) {
            let body = format!("40{{\"sid\":\"socket-{sid}\"}}\x1e40/chat,{{\"sid\":\"chat-{sid}\"}}");
            leg.send(answer("200 OK", "Content-Type: text/plain\r\n", &body))
        } else if target.contains("EIO=4") {
            leg.send(answer("200 OK", "", &open(&format!("polling-of-w{number}"))))
        } else {
            leg.send(answer("200 OK", "", &format!("w{number}")))
        };
        if !sent {
            return;
        }
    }
}

pub(super) const FOLLOW: &str = "follow = [\"header:x-socket-id\", \"query:socketId\"]\n";

pub(super) fn pool() -> Pool {
    Pool::scripted(3, |number, _, leg| engine(number, leg))
}

/// Worker and reason of an ordinary request with this id, once in a header and once in the query.
pub(super) fn led(proxy: &Proxy, id: &str) -> [(String, String); 2] {
    let by_header = ask(proxy, "POST", "/upload", &format!("X-Socket-Id: {id}\r\n"), "x");
    let by_query = ask(proxy, "GET", &format!("/page?a=b&socketId={}", id.replace('#', "%23")), "", "");
    [by_header, by_query].map(|answer| {
        let (worker, why, _) = decision(&answer);
        assert_eq!(answer.text(), worker);
        (worker, why)
    })
}

#[test]
fn ids_are_known_from_the_sid_and_from_polls() {
    let pool = pool();
    let proxy = Proxy::with(&format!("{}{FOLLOW}", pool.upstream("[\"socket.io\", \"address\"]")));
    let mut owners = Vec::new();
    for _ in 0..3 {
        let opened = ask(&proxy, "GET", "/socket.io/?EIO=4&transport=polling", "", "");
        let (owner, sid) = (decision(&opened).0, opened.text().split('"').nth(3).unwrap().to_owned());
        let follows = [(owner.clone(), "follow".to_owned()), (owner.clone(), "follow".to_owned())];
        assert_eq!(led(&proxy, &sid), follows, "by the sid of Engine.IO");
        assert_eq!(led(&proxy, &format!("/chat#{sid}")), follows, "as version 2 names it");
        assert!(led(&proxy, &format!("socket-{sid}")).iter().all(|(_, why)| why == "address"), "before its poll");
        let polled = ask(&proxy, "GET", &format!("/socket.io/?EIO=4&transport=polling&sid={sid}"), "", "");
        assert!(polled.text().ends_with("\"}"), "the packet is not changed");
        assert_eq!(led(&proxy, &format!("socket-{sid}")), follows);
        assert_eq!(led(&proxy, &format!("chat-{sid}")), follows);
        owners.push(owner);
    }
    owners.sort();
    assert_eq!(owners, ["w1", "w2", "w3"]);
    assert!(led(&proxy, "unknown").iter().all(|(_, why)| why == "address"));
}

#[test]
fn ids_are_known_from_the_first_frames() {
    let pool = pool();
    let proxy = Proxy::with(&format!("{}{FOLLOW}", pool.upstream("[\"socket.io\", \"address\"]")));
    let upgrade = "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut client = Raw::connect(proxy.address);
    client.send(upgrade);
    let head = client.head().unwrap();
    let owner = decision(&head).0;
    let sid = format!("ws-of-{owner}");
    // As soon as the frames have arrived, their ids are known.
    let last = format!("40/chat,{{\"sid\":\"chat-{sid}\"}}");
    let mut seen = Vec::new();
    while !seen.ends_with(last.as_bytes()) {
        seen.extend(client.exactly(1));
    }
    let follows = [(owner.clone(), "follow".to_owned()), (owner.clone(), "follow".to_owned())];
    for id in [sid.clone(), format!("socket-{sid}"), format!("chat-{sid}")] {
        wait_for("every id leads to the owner", || led(&proxy, &id) == follows);
    }
    assert_eq!(proxy.worker(&owner).sessions(), 1, "one session, pinned and in a tunnel");
    drop(client);
    wait_for("the tunnel is over", || proxy.worker(&owner).tunnels() == 0);
}

#[test]
fn without_follow_no_packet_is_read() {
    let pool = pool();
    let proxy = Proxy::with(&pool.upstream("[\"socket.io\", \"address\"]"));
    let opened = ask(&proxy, "GET", "/socket.io/?EIO=4&transport=polling", "", "");
    let sid = opened.text().split('"').nth(3).unwrap().to_owned();
    ask(&proxy, "GET", &format!("/socket.io/?EIO=4&transport=polling&sid={sid}"), "", "");
    assert!(led(&proxy, &sid).iter().all(|(_, why)| why == "address"));
    assert_eq!(proxy.server().shared().sessions.aliases.len(), 0);
}
