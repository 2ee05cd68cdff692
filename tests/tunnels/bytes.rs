//! Bytes pass a tunnel exactly as they were sent, whatever they are and however they are split.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::connect_async_with_config;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};

use crate::support::node::WsEcho;
use crate::support::proxy::Proxy;
use crate::support::tunnels::{
    ASK, GRANT, Io, Random, Tls, TunnelWorker, closed, connect, dial, head_of, join, masked, read, read_all,
};
use crate::support::wait::within;

/// Writes in random pieces, some with a pause for the other side, and then ends the stream.
async fn write_in_pieces(to: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8], seed: u64) {
    let mut random = Random(seed);
    let mut rest = bytes;
    while !rest.is_empty() {
        let most = [3, 300, 30_000, 300_000][random.below(4)];
        let (now, later) = rest.split_at((1 + random.below(most)).min(rest.len()));
        to.write_all(now).await.unwrap();
        if random.below(4) == 0 {
            to.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        rest = later;
    }
    to.shutdown().await.unwrap();
}

/// Sends 3 MB in each direction at once, the first bytes right after both heads, and ends each direction separately.
async fn random_bytes_pass(mut client: impl Io, worker: &TunnelWorker, first: usize) {
    // This is not the first byte of any frame.
    let up = [&[0xff][..], &Random(11).bytes(3_000_000)].concat();
    let down = [&[0xff][..], &Random(12).bytes(3_000_000)].concat();
    client.write_all(&[ASK.as_bytes(), &up[..first]].concat()).await.unwrap();
    client.flush().await.unwrap();
    let (mut far, _) = worker.accept().await;
    far.write_all(&[GRANT.as_bytes(), &down[..first]].concat()).await.unwrap();
    assert!(head_of(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
    let (mut near_read, mut near_write) = tokio::io::split(client);
    let (mut far_read, mut far_write) = far.split();
    let ((), (), at_far, at_near) = tokio::join!(
        write_in_pieces(&mut near_write, &up[first..], 13),
        write_in_pieces(&mut far_write, &down[first..], 14),
        read_all(&mut far_read),
        read_all(&mut near_read),
    );
    assert!(at_far == up, "{} of {} bytes up, or others", at_far.len(), up.len());
    assert!(at_near == down, "{} of {} bytes down, or others", at_near.len(), down.len());
}

#[tokio::test]
async fn random_bytes_pass_both_ways() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    for first in [0, 1, 7_000, 20_000] {
        random_bytes_pass(TcpStream::connect(proxy.address).await.unwrap(), &worker, first).await;
    }
}

#[tokio::test]
async fn random_bytes_pass_both_ways_over_tls() {
    let worker = TunnelWorker::start().await;
    let tls = Tls::before(&[worker.address], "bytes");
    for first in [0, 1, 7_000] {
        random_bytes_pass(tls.connect().await, &worker, first).await;
    }
}

#[tokio::test]
async fn each_side_may_end_first_and_still_receive() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let tls = Tls::before(&[worker.address], "half");
    for encrypted in [false, true] {
        let tls = encrypted.then_some(&tls);
        let mut client = dial(&proxy, tls).await;
        let mut far = join(&mut client, &worker).await;
        client.write_all(b"\xffquestion").await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(read_all(&mut far).await, b"\xffquestion");
        far.write_all(&vec![b'a'; 2_000_000]).await.unwrap();
        far.write_all(b"answer").await.unwrap();
        drop(far);
        assert!(read_all(&mut client).await.ends_with(b"aaaanswer"));

        let mut client = dial(&proxy, tls).await;
        let mut far = join(&mut client, &worker).await;
        far.write_all(b"\xffgreeting").await.unwrap();
        far.shutdown().await.unwrap();
        assert_eq!(read_all(&mut client).await, b"\xffgreeting");
        client.write_all(&vec![b'a'; 2_000_000]).await.unwrap();
        client.write_all(b"thanks").await.unwrap();
        client.shutdown().await.unwrap();
        assert!(read_all(&mut far).await.ends_with(b"aathanks"));
    }
}

#[tokio::test]
async fn what_is_not_websocket_passes_unchanged() {
    // Engine.IO 4 to a WebSocket-first client of version 3 (docs/reference/protocols.md §1.3).
    const WORDS: &str = "HTTP/1.1 400 Bad Request: Unsupported protocol version";
    let worker = WsEcho::start(&["--not-websocket", WORDS]).await;
    let proxy = Proxy::before(&[([127, 0, 0, 1], worker.port).into()]);
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(ASK.as_bytes()).await.unwrap();
    assert!(head_of(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
    assert_eq!(read_all(&mut client).await, WORDS.as_bytes());
}

#[tokio::test]
async fn frames_sent_with_the_heads_are_not_lost() {
    let worker = WsEcho::start(&["--first", "hello"]).await;
    let proxy = Proxy::before(&[([127, 0, 0, 1], worker.port).into()]);
    let tls = Tls::before(&[([127, 0, 0, 1], worker.port).into()], "early");
    let clients = [dial(&proxy, None).await, dial(&proxy, Some(&tls)).await];
    for mut client in clients {
        client.write_all(&[ASK.as_bytes(), &masked(0x81, b"early"), &masked(0x82, b"")].concat()).await.unwrap();
        client.flush().await.unwrap();
        assert!(head_of(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
        assert_eq!(read(&mut client, 16).await, b"\x81\x05hello\x81\x05early\x82\x00");
    }
}

#[tokio::test]
async fn messages_of_every_size_and_shape_pass() {
    let worker = WsEcho::start(&[]).await;
    let proxy = Proxy::before(&[([127, 0, 0, 1], worker.port).into()]);
    let unlimited = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
    let url = format!("ws://{}/", proxy.address);
    let (mut client, _) = within(connect_async_with_config(url, Some(unlimited), false)).await.unwrap();
    for size in [0, 1, 125, 126, 65_535, 65_536, 1 << 20, 16 << 20, 63 << 20] {
        let message = Message::binary(vec![u8::try_from(size % 251).unwrap(); size]);
        // Write and read at once: no buffer holds 64 MB for a client that only writes.
        let (mut write, mut read) = (&mut client).split();
        let (sent, got) = tokio::join!(within(write.send(message.clone())), within(read.next()));
        sent.unwrap();
        assert!(got.unwrap().unwrap() == message, "{size} bytes");
    }
    let part = |text: &str, code, last| Message::Frame(Frame::message(text.to_owned(), OpCode::Data(code), last));
    for message in [
        part("one ", Data::Text, false),
        Message::Ping("between".into()),
        part("and ", Data::Continue, false),
        part("two", Data::Continue, true),
    ] {
        client.send(message).await.unwrap();
    }
    let mut pongs = 0;
    loop {
        match within(client.next()).await.unwrap().unwrap() {
            Message::Pong(payload) => pongs += usize::from(payload == "between".as_bytes()),
            message => {
                assert_eq!(message, Message::text("one and two"));
                break;
            }
        }
    }
    assert_eq!(pongs, 1);
}

#[tokio::test]
async fn compressed_messages_pass() {
    let worker = WsEcho::start(&["--permessage-deflate"]).await;
    let proxy = Proxy::before(&[([127, 0, 0, 1], worker.port).into()]);
    let offer = ASK.replace("\r\n\r\n", "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n");
    let mut answers = Vec::new();
    for address in [([127, 0, 0, 1], worker.port).into(), proxy.address] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(offer.as_bytes()).await.unwrap();
        let head = head_of(&mut client).await.unwrap().to_ascii_lowercase();
        assert!(head.contains("sec-websocket-extensions: permessage-deflate"), "{head}");
        client.write_all(&masked(0x81, b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")).await.unwrap();
        answers.push(read(&mut client, 8).await);
    }
    // RSV1, and shorter than the message: compressed by the worker, and the same with and without stickyd.
    assert!(matches!(answers[0][..], [0xc1, 6, ..]), "{answers:?}");
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn close_codes_pass_unchanged() {
    let mut worker = WsEcho::start(&[]).await;
    let proxy = Proxy::before(&[([127, 0, 0, 1], worker.port).into()]);
    for (code, reason) in [(4404, "no such room"), (1012, "deploy"), (1000, "")] {
        let mut client = connect(proxy.address, "/").await;
        worker.command(&format!("close-all {code} {reason}")).await;
        assert_eq!(closed(&mut client).await, Some((code, reason.to_owned())));
    }
    for (code, reason) in [(4001, "bye"), (1000, "done")] {
        let mut client = connect(proxy.address, "/").await;
        client.close(Some(CloseFrame { code: code.into(), reason: reason.into() })).await.unwrap();
        assert_eq!(closed(&mut client).await, Some((code, reason.to_owned())));
    }
    let stats = worker.stats_when(|stats| stats["open"] == 0).await;
    assert_eq!(stats["closes"], serde_json::json!({"4404": 1, "1012": 1, "1000": 2, "4001": 1}));
}

#[tokio::test]
async fn a_slow_reader_stops_the_worker() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let tls = Tls::before(&[worker.address], "slow");
    let clients = [dial(&proxy, None).await, dial(&proxy, Some(&tls)).await];
    for mut client in clients {
        let mut far = join(&mut client, &worker).await;
        let piece = vec![0xff; 65_536];
        let mut sent = 0;
        // Until nothing is taken for a while: the kernels' buffers are full, and so is the tunnel.
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(700), far.write(&piece)).await {
            sent += written.unwrap();
            assert!(sent < 64 << 20, "stickyd holds everything in memory");
        }
        far.shutdown().await.unwrap();
        let mut got = 0;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match within(client.read(&mut buffer)).await.unwrap() {
                0 => break,
                count => got += count,
            }
        }
        assert_eq!(got, sent);
    }
}
