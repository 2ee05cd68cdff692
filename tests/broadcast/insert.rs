//! Where a broadcast is inserted into a tunnel, byte by byte, and when it is not.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::{Said, allowing, fates};
use crate::support::proxy::Proxy;
use crate::support::tunnels::{ASK, GRANT, TunnelWorker, frame, frames, head_of, read, tunnel};

const HELLO: &[u8] = b"\x81\x05hello";

fn hello() -> Value {
    json!({"text": "hello", "all": true})
}

/// A proxy that allows broadcasts, with one worker of this process.
async fn one() -> (Proxy, Said, TunnelWorker) {
    let worker = TunnelWorker::start().await;
    let (proxy, said) = allowing(&[worker.address.to_string()]);
    (proxy, said, worker)
}

#[tokio::test]
async fn a_text_goes_between_messages_and_nowhere_else() {
    let (proxy, said, worker) = one().await;
    let (mut idle, _idle_far) = tunnel(&proxy, &worker).await;
    let (mut half, mut half_far) = tunnel(&proxy, &worker).await;
    let (mut open, mut open_far) = tunnel(&proxy, &worker).await;
    // In the middle of a frame; and between two fragments, where only a control frame may go.
    let (whole, first) = (frame(0x81, b"a whole message"), frame(0x01, b"one "));
    half_far.write_all(&whole[..7]).await.unwrap();
    open_far.write_all(&first).await.unwrap();
    assert_eq!(read(&mut half, 7).await, &whole[..7]);
    assert_eq!(read(&mut open, first.len()).await, first);
    let ends = async {
        assert_eq!(read(&mut idle, HELLO.len()).await, HELLO, "an idle client gets the text at once");
        // The end of the message and the next message arrive in one piece.
        let next = frame(0x82, b"next");
        half_far.write_all(&[&whole[7..], &next[..]].concat()).await.unwrap();
        let (ping, last) = (frame(0x89, b"?"), frame(0x80, b"two"));
        open_far.write_all(&[&ping[..], &last, &next].concat()).await.unwrap();
        // A client that gets the broadcast a moment later receives it after the next message.
        let orders = |rest: &[u8]| [[rest, HELLO, &next].concat(), [rest, &next, HELLO].concat()];
        let rest = &whole[7..];
        let came = read(&mut half, rest.len() + next.len() + HELLO.len()).await;
        assert!(orders(rest).contains(&came), "{came:02x?}");
        let rest = [&ping[..], &last].concat();
        let came = read(&mut open, rest.len() + next.len() + HELLO.len()).await;
        assert!(orders(&rest).contains(&came), "{came:02x?}");
    };
    let ((status, answer), ()) = tokio::join!(said.broadcasting(hello()), ends);
    assert_eq!((status, fates(&answer)), (200, json!({"reached": 3})), "{answer}");
    assert_eq!(proxy.metric("stickyd_broadcast_sockets_total{result=\"reached\"}"), 3.0);
}

#[tokio::test]
async fn what_cannot_be_reached_is_counted_by_reason() {
    let (proxy, said, worker) = one().await;
    let (mut reached, _reached_far) = tunnel(&proxy, &worker).await;
    // One worker has sent a Close; the bytes of another are not WebSocket.
    let (mut closing, mut closing_far) = tunnel(&proxy, &worker).await;
    closing_far.write_all(&frame(0x88, &[3, 0xe8])).await.unwrap();
    read(&mut closing, 4).await;
    let (mut odd, mut odd_far) = tunnel(&proxy, &worker).await;
    odd_far.write_all(b"HTTP/1.1 400").await.unwrap();
    read(&mut odd, 12).await;
    // An Engine.IO session without a Socket.IO connection, and one with it; the broadcast has no event for them.
    let mut engines = Vec::new();
    for first in [None, Some(r#"0{"sid":"abc","pingInterval":25000,"pingTimeout":20000}"#)] {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        let ask = ASK.replace("/chat", "/socket.io/?EIO=4&transport=websocket");
        client.write_all(ask.as_bytes()).await.unwrap();
        let (mut far, _) = worker.accept().await;
        far.write_all(GRANT.as_bytes()).await.unwrap();
        head_of(&mut client).await.unwrap();
        if let Some(first) = first {
            far.write_all(&frame(0x81, first.as_bytes())).await.unwrap();
            read(&mut client, first.len() + 2).await;
        }
        engines.push((client, far));
    }
    let (status, answer) = said.broadcasting(hello()).await;
    let known = json!({"reached": 1, "closing": 2, "not_ready": 1, "other_kind": 1});
    assert_eq!((status, fates(&answer), &answer["matched"]), (200, known, &json!(5)), "{answer}");
    assert_eq!(read(&mut reached, HELLO.len()).await, HELLO);
    // With an event, only the Socket.IO session is reached.
    let (status, answer) =
        said.broadcasting(json!({"event": "news", "args": [1, {"a": null}], "protocol": "engine.io"})).await;
    assert_eq!((status, fates(&answer)), (200, json!({"reached": 1, "not_ready": 1})), "{answer}");
    let event = frame(0x81, br#"42["news",1,{"a":null}]"#);
    assert_eq!(read(&mut engines[1].0, event.len()).await, event);
}

#[tokio::test]
async fn only_upstreams_that_allow_it_and_only_sockets_that_fit() {
    let (worker, other) = (TunnelWorker::start().await, TunnelWorker::start().await);
    let (said, admin) = Said::new();
    let toml = |broadcast: bool| {
        format!(
            "[upstream.app]\nworkers = [\"{}\"]\nbroadcast = {broadcast}\n[upstream.quiet]\nworkers = [\"{}\"]\n\
             [[route]]\npath = \"/quiet\"\nupstream = \"quiet\"\n[[route]]\nupstream = \"app\"{admin}",
            worker.address, other.address
        )
    };
    let proxy = Proxy::with(&toml(true));
    let (mut client, _far) = tunnel(&proxy, &worker).await;
    let mut quiet = TcpStream::connect(proxy.address).await.unwrap();
    quiet.write_all(ASK.replace("/chat", "/quiet").as_bytes()).await.unwrap();
    let (mut quiet_far, _) = other.accept().await;
    quiet_far.write_all(GRANT.as_bytes()).await.unwrap();
    head_of(&mut quiet).await.unwrap();
    let (status, answer) = said.broadcasting(json!({"text": "hello", "upstream": "quiet"})).await;
    assert_eq!(status, 403, "{answer}");
    let (status, answer) = said.broadcasting(hello()).await;
    assert_eq!((status, fates(&answer)), (200, json!({"reached": 1, "denied": 1})), "{answer}");
    let (status, _) = said.broadcasting(json!({"text": "again", "address": "10.0.0.0/8"})).await;
    assert_eq!(status, 404);
    assert_eq!(read(&mut client, HELLO.len()).await, HELLO);
    // The other socket got nothing, and none got the text twice: the next message is its worker's.
    quiet_far.write_all(&frame(0x81, b"worker")).await.unwrap();
    assert_eq!(read(&mut quiet, 8).await, frame(0x81, b"worker"));
}

/// A client that never reads is counted as slow. It delays only the answer, and never gets the missed broadcast later.
#[tokio::test]
async fn a_client_that_does_not_read_delays_no_other() {
    let (proxy, said, worker) = one().await;
    let (mut stuck, mut stuck_far) = tunnel(&proxy, &worker).await;
    let (mut well, _well_far) = tunnel(&proxy, &worker).await;
    // The worker sends until its kernel's buffer and all buffers after it are full.
    let piece = frame(0x82, &vec![b'x'; 60_000]);
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(2), stuck_far.write_all(&piece)).await {
        written.unwrap();
        sent += 1;
    }
    let heard = async {
        assert_eq!(read(&mut well, HELLO.len()).await, HELLO);
    };
    let ((status, answer), ()) = tokio::join!(said.broadcasting(hello()), heard);
    assert_eq!((status, fates(&answer)), (200, json!({"reached": 1, "slow": 1})), "{answer}");
    // A second broadcast: one at most waits.
    let (_, answer) = said.broadcasting(json!({"text": "later", "all": true})).await;
    assert_eq!(fates(&answer), json!({"reached": 1, "slow": 1}), "{answer}");
    // The client reads at last: all messages of its worker are whole, and no late broadcast is among them.
    let mut came = Vec::new();
    for _ in 0..sent {
        came.extend(read(&mut stuck, piece.len()).await);
    }
    let (whole, _) = frames(&came);
    assert!(whole.iter().all(|(first, payload)| *first == 0x82 && payload.len() == 60_000), "a late broadcast");
    assert_eq!(proxy.metric("stickyd_broadcast_sockets_total{result=\"slow\"}"), 2.0);
}

#[tokio::test]
async fn one_broadcast_at_a_time() {
    let (proxy, said, worker) = one().await;
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    // In the middle of a frame the first broadcast has to wait until its time is over.
    far.write_all(&[0x81]).await.unwrap();
    read(&mut client, 1).await;
    let both = tokio::join!(said.broadcasting(hello()), said.broadcasting(hello()));
    let (first, second) = if both.0.0 == 200 { both } else { (both.1, both.0) };
    assert_eq!((first.0, fates(&first.1)), (200, json!({"reached": 0, "slow": 1})));
    assert_eq!(second.0, 409, "{}", second.1);
    assert!(second.1["error"].as_str().unwrap().contains("another broadcast"));
    // The frame ends too late, and the broadcast does not follow.
    far.write_all(&[0x02, b'o', b'k', 0x89, 0x00]).await.unwrap();
    assert_eq!(read(&mut client, 5).await, [0x02, b'o', b'k', 0x89, 0x00]);
}

/// A text is not an Engine.IO packet and would end a session, so it is never sent, even without Socket.IO affinity.
#[tokio::test]
async fn a_text_never_goes_to_engine_io() {
    let worker = TunnelWorker::start().await;
    let (said, admin) = Said::new();
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\"]\naffinity = [\"address\"]\nbroadcast = true{admin}",
        worker.address
    ));
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let ask = ASK.replace("/chat", "/socket.io/?EIO=4&transport=websocket");
    client.write_all(ask.as_bytes()).await.unwrap();
    let (mut far, _) = worker.accept().await;
    far.write_all(GRANT.as_bytes()).await.unwrap();
    head_of(&mut client).await.unwrap();
    let (status, answer) = said.broadcasting(hello()).await;
    assert_eq!((status, fates(&answer)), (200, json!({"reached": 0, "not_ready": 1})), "{answer}");
    far.write_all(&frame(0x81, b"2")).await.unwrap();
    assert_eq!(read(&mut client, 3).await, frame(0x81, b"2"));
}
