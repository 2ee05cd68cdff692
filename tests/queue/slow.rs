//! Clients that take nothing: one that does not read, and one that polls with scripts. What waits for their user stays,
//! and goes to the next socket.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::json;

use super::{Mail, counts, is_empty, order, send, start};
use crate::support::node::{NodeServer, WsEcho};
use crate::support::process::PATIENCE;
use crate::support::raw::Raw;
use crate::support::redis::Redis;
use crate::support::tokens::token;
use crate::support::wait::wait_for;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_loses_nothing() {
    let (redis, workers) = (Redis::start(), [WsEcho::start(&[]).await]);
    let binary = start(&workers, &redis, "");
    let sent: u64 = 60;
    for number in 0..sent {
        let text = format!("{number:>08}{}", " ".repeat(40_000));
        send(&binary, "alice", &json!({"text": text, "id": format!("n{number}")}));
    }
    // It reads the head of the answer, and no more.
    let mut slow = TcpStream::connect(binary.address).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "GET /ws?token={} HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        token(json!({"sub": "alice"}))
    );
    slow.write_all(head.as_bytes()).unwrap();
    let mut got = Vec::new();
    let mut byte = [0];
    while !got.ends_with(b"\r\n\r\n") {
        slow.read_exact(&mut byte).unwrap();
        got.push(byte[0]);
    }
    assert!(got.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&got));
    wait_for("messages are on their way to it", || slow.peek(&mut byte).is_ok_and(|count| count == 1));
    assert_eq!(counts(&binary), (sent, 1));
    // Once the user has a client that reads, it gets all of them.
    let mut alice = Mail::of(&binary, "alice", json!({"kind": "ws"}));
    alice.has(60).await;
    let numbers = |mail: &Mail| -> Vec<u64> {
        mail.got.iter().map(|one| one["text"].as_str().unwrap().trim().parse().unwrap()).collect()
    };
    assert_eq!(numbers(&alice), (0..sent).collect::<Vec<_>>());
    is_empty(&binary).await;
    // What was on the way to the slow one is bounded: it is not sent all that waits.
    slow.set_nonblocking(true).unwrap();
    let (mut all, mut buffer) = (0, vec![0; 65_536]);
    while let Ok(count @ 1..) = slow.read(&mut buffer) {
        all += count;
    }
    assert!((40_000..=2 * 65_536).contains(&all), "{all} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_poll_with_scripts_take_no_messages() {
    let (redis, workers) = (Redis::start(), NodeServer::start_many(1, &["--version", "2"]).await);
    let binary = start(&workers, &redis, "");
    let says = "\"</script>\u{2028}'\\";
    send(&binary, "alice", &json!({"event": "order", "args": [1, says]}));
    let token = token(json!({"sub": "alice"}));
    let path = |more: &str| format!("/socket.io/?EIO=3&transport=polling&token={token}{more}");
    let script = |more: &str| {
        let answer = Raw::connect(binary.address).get(&path(more));
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let text = answer.text().to_owned();
        assert!(text.starts_with("___eio[") && !text.contains("order"), "{text}");
        text
    };
    let opened = script("&j=0");
    let sid = opened.split("sid\\\":\\\"").nth(1).unwrap().split('\\').next().unwrap().to_owned();
    // The worker answers an event, so that a poll ends.
    for number in 1..4 {
        let body = "d=15%3A420%5B%22echo%22%2C%22x%22%5D";
        let post = format!(
            "POST {} HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Content-Length: {}\r\n\r\n{body}",
            path(&format!("&j={number}&sid={sid}")),
            body.len()
        );
        assert_eq!(Raw::connect(binary.address).ask(&post).status(), 200);
        let answer = script(&format!("&j={number}&sid={sid}"));
        assert!(answer.contains("430") || answer.contains("40"), "{answer}");
        assert_eq!(order(&binary, "alice", number + 1)["result"], "stored");
    }
    assert_eq!(counts(&binary), (4, 1));
    // Another client of the user gets all, although the script still polls.
    let mut alice = Mail::of(&binary, "alice", json!({"version": 2, "transports": ["polling"], "pings": 50}));
    alice.has(4).await;
    assert_eq!((alice.numbers(), &alice.got[0]["args"][1]), (vec![1, 2, 3, 4], &json!(says)));
    is_empty(&binary).await;
}
