//! The sid of a session that starts on WebSocket, however the first message of its worker arrives.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::Watched;
use crate::support::tunnels::{ASK, GRANT, TunnelWorker, frame, head_of, read};
use crate::support::wait::wait_for_async;

/// A Socket.IO tunnel that began without polling: the client's side, and the worker's.
async fn first(watched: &Watched, worker: &TunnelWorker, grant: &[u8]) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(watched.proxy.address).await.unwrap();
    let ask = ASK.replace("/chat", "/socket.io/?EIO=4&transport=websocket");
    client.write_all(ask.as_bytes()).await.unwrap();
    let (mut far, _) = worker.accept().await;
    far.write_all(grant).await.unwrap();
    head_of(&mut client).await.unwrap();
    (client, far)
}

fn sids(watched: &Watched) -> Vec<Value> {
    watched.sockets("").iter().map(|one| one["sid"].clone()).collect()
}

/// Waits until the session is listed, because its tunnel may read a byte a moment after the client.
async fn has(watched: &Watched, sid: &str) {
    wait_for_async("the session is the only one listed", async || {
        let listed = sids(watched);
        if listed == [json!(sid)] { Ok(()) } else { Err(listed) }
    })
    .await;
}

fn open(sid: &str) -> String {
    format!(r#"0{{"sid":"{sid}","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}}"#)
}

/// Sends every byte alone: the client has each before the next is sent.
async fn drip(client: &mut TcpStream, far: &mut TcpStream, bytes: &[u8]) {
    far.set_nodelay(true).unwrap();
    for byte in bytes {
        far.write_all(&[*byte]).await.unwrap();
        assert_eq!(read(client, 1).await, [*byte]);
    }
}

#[tokio::test]
async fn a_sid_that_comes_byte_by_byte() {
    let worker = TunnelWorker::start().await;
    let watched = Watched::with(&format!("[upstream.app]\nworkers = [\"{}\"]", worker.address));
    let (mut client, mut far) = first(&watched, &worker, GRANT.as_bytes()).await;
    let packet = frame(0x81, open("byte-by-byte").as_bytes());
    let (before, last) = packet.split_at(packet.len() - 1);
    drip(&mut client, &mut far, before).await;
    assert_eq!(sids(&watched), [Value::Null]);
    drip(&mut client, &mut far, last).await;
    has(&watched, "byte-by-byte").await;
    // Later packets do not change the sid, in pieces or not.
    drip(&mut client, &mut far, &frame(0x81, open("another").as_bytes())).await;
    assert_eq!(sids(&watched), [json!("byte-by-byte")]);
}

/// The message begins right after the 101 and goes on in fragments with a ping between them; all bytes pass unchanged.
#[tokio::test]
async fn a_sid_in_fragments_that_begin_with_the_101() {
    let worker = TunnelWorker::start().await;
    let watched = Watched::with(&format!("[upstream.app]\nworkers = [\"{}\"]", worker.address));
    let packet = open("fragments");
    let (one, rest) = packet.as_bytes().split_at(7);
    let (two, three) = rest.split_at(30);
    let frames = [frame(0x01, one), frame(0x89, b"?"), frame(0x00, two), frame(0x80, three)].concat();
    let (begun, rest) = frames.split_at(5);
    let (mut client, mut far) = first(&watched, &worker, &[GRANT.as_bytes(), begun].concat()).await;
    assert_eq!(read(&mut client, begun.len()).await, begun);
    assert_eq!(sids(&watched), [Value::Null]);
    drip(&mut client, &mut far, rest).await;
    has(&watched, "fragments").await;
}

/// A message without a sid in the bytes that are looked at: the session has no name, and the bytes pass unchanged.
#[tokio::test]
async fn a_message_too_long_for_a_sid_only_passes() {
    let worker = TunnelWorker::start().await;
    let watched = Watched::with(&format!("[upstream.app]\nworkers = [\"{}\"]", worker.address));
    let (mut client, mut far) = first(&watched, &worker, GRANT.as_bytes()).await;
    let long = frame(0x01, open(&"x".repeat(100)).as_bytes());
    let pings = frame(0x89, &[b'?'; 125]).repeat(9);
    drip(&mut client, &mut far, &[&long[..], &pings].concat()).await;
    // After the second of these messages, the first has been read.
    drip(&mut client, &mut far, &[frame(0x80, b""), frame(0x81, b"2")].concat()).await;
    assert_eq!(sids(&watched), [Value::Null]);
}

/// An upgrade is in discovery while the delayed answer to the handshake names its session: the tunnel and the polls of
/// that session are one entry.
#[tokio::test]
async fn a_session_learned_during_its_discovery_is_one_entry() {
    let worker = TunnelWorker::start().await;
    let watched = Watched::with(&format!("[upstream.app]\nworkers = [\"{}\"]", worker.address));
    let get = |query: &str| format!("GET /socket.io/?EIO=4&transport=polling{query} HTTP/1.1\r\nHost: app\r\n\r\n");
    let mut polling = TcpStream::connect(watched.proxy.address).await.unwrap();
    polling.write_all(get("").as_bytes()).await.unwrap();
    let (mut handshake, _) = worker.accept().await;
    let mut upgrading = TcpStream::connect(watched.proxy.address).await.unwrap();
    let ask = ASK.replace("/chat", "/socket.io/?EIO=4&transport=websocket&sid=known-twice");
    upgrading.write_all(ask.as_bytes()).await.unwrap();
    let (mut tunnel, asked) = worker.accept().await;
    assert!(asked.contains("sid=known-twice"), "{asked}");

    let packet = open("known-twice");
    let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{packet}", packet.len());
    handshake.write_all(answer.as_bytes()).await.unwrap();
    head_of(&mut polling).await.unwrap();
    assert_eq!(read(&mut polling, packet.len()).await, packet.as_bytes());
    tunnel.write_all(GRANT.as_bytes()).await.unwrap();
    head_of(&mut upgrading).await.unwrap();
    assert_eq!(sids(&watched), [json!("known-twice")], "the upgrade is listed");
    polling.write_all(get("&sid=known-twice").as_bytes()).await.unwrap();
    let (_poll, asked) = worker.accept().await;
    assert!(asked.contains("sid=known-twice"), "{asked}");
    assert_eq!(sids(&watched), [json!("known-twice")], "the poll is the same entry");
    // The session upgrades like any other.
    for packet in [b"2probe".as_slice(), b"5"] {
        let masked = [&[0x81, 0x80 | u8::try_from(packet.len()).unwrap(), 0, 0, 0, 0][..], packet].concat();
        upgrading.write_all(&masked).await.unwrap();
        assert_eq!(read(&mut tunnel, masked.len()).await, masked);
    }
    wait_for_async("the session is listed with its WebSocket", async || {
        if watched.count("transport=websocket") > 0 { Ok(()) } else { Err(watched.sockets("")) }
    })
    .await;
    assert_eq!(sids(&watched), [json!("known-twice")]);
}
