//! How long a tunnel may be silent, by configuration and by the session's own numbers.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::tunnels::{ASK, CLOSE_1001, GRANT, TunnelWorker, frame, head_of, masked, read, read_all, tunnel};
use crate::support::wait::at_most;

#[tokio::test]
async fn silence_ends_at_the_configured_limit_and_any_byte_counts() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\ntunnel_idle = \"1s\"", worker.address));
    let (mut silent, mut silent_far) = tunnel(&proxy, &worker).await;
    let began = Instant::now();
    let (mut up, mut up_far) = tunnel(&proxy, &worker).await;
    let (mut down, mut down_far) = tunnel(&proxy, &worker).await;
    let ends = async {
        assert_eq!(read(&mut silent, 4).await, CLOSE_1001);
        let took = began.elapsed();
        assert!(took > Duration::from_secs(1) && took < at_most(Duration::from_secs(4)), "{took:?}");
        // The client's answer still reaches the worker, and ends the tunnel for both.
        silent.write_all(&masked(0x88, &[0x03, 0xe9])).await.unwrap();
        assert_eq!(read_all(&mut silent_far).await, masked(0x88, &[0x03, 0xe9]));
        assert_eq!(read_all(&mut silent).await, b"");
    };
    // One byte of a frame at a time, from one side only, always within nine tenths of the limit.
    let goes_on = async {
        let (words, answer) = (masked(0x81, b""), frame(0x81, b"four"));
        for place in 0..6 {
            tokio::time::sleep(Duration::from_millis(900)).await;
            up.write_all(&words[place..=place]).await.unwrap();
            down_far.write_all(&answer[place..=place]).await.unwrap();
        }
        assert_eq!(read(&mut up_far, 6).await, words);
        assert_eq!(read(&mut down, 6).await, answer);
    };
    tokio::join!(ends, goes_on);
}

#[tokio::test]
async fn a_sessions_own_ping_numbers_are_the_limit() {
    let worker = NodeServer::start(&["--ping-interval", "300", "--ping-timeout", "300"]).await;
    let proxy = Proxy::before(&[([127, 0, 0, 1], worker.port).into()]);
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client
        .write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = String::from_utf8(read_all(&mut client).await).unwrap();
    let sid = answer.split_once("\"sid\":\"").unwrap().1.split('"').next().unwrap();
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let ask = ASK.replace("/chat", &format!("/socket.io/?EIO=4&transport=websocket&sid={sid}"));
    client.write_all(ask.as_bytes()).await.unwrap();
    assert!(head_of(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
    // The client's kernel holds the connection, and neither side sends.
    worker.stop().await;
    let began = Instant::now();
    assert_eq!(read(&mut client, 4).await, CLOSE_1001);
    let took = began.elapsed();
    assert!(took > Duration::from_millis(5_500) && took < at_most(Duration::from_millis(8_500)), "{took:?}");
    worker.cont().await;
}

#[tokio::test]
async fn a_websocket_first_session_sets_its_limit_in_its_first_frame() {
    const OPEN: &[u8] = br#"0{"sid":"QYbOx2IHXVqQ69rTAAAB","upgrades":[],"pingInterval":300,"pingTimeout":300}"#;
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let ask = ASK.replace("/chat", "/socket.io/?EIO=4&transport=websocket");
    let mut told = Vec::new();
    // Right after the head in one write, or later together with the next frame; or never, for an hour.
    for way in 0..3 {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(ask.as_bytes()).await.unwrap();
        let (mut far, _) = worker.accept().await;
        let (open, more) = (frame(0x81, OPEN), frame(0x81, b"40"));
        let first = if way == 0 { [GRANT.as_bytes(), &open].concat() } else { GRANT.as_bytes().to_vec() };
        far.write_all(&first).await.unwrap();
        assert!(head_of(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
        if way == 1 {
            far.write_all(&open).await.unwrap();
        }
        far.write_all(&more).await.unwrap();
        let length = if way == 2 { more.len() } else { open.len() + more.len() };
        assert!(read(&mut client, length).await.ends_with(&more));
        told.push((client, far));
    }
    let (mut unknown, _far) = told.pop().unwrap();
    let began = Instant::now();
    for (client, _far) in &mut told {
        assert_eq!(read(client, 4).await, CLOSE_1001);
        let took = began.elapsed();
        assert!(took > Duration::from_millis(5_400) && took < at_most(Duration::from_millis(8_500)), "{took:?}");
    }
    // The third tunnel is open: it can send, and nothing was sent to it.
    unknown.write_all(b"\x81").await.unwrap();
    let mut nothing = [0];
    assert_eq!(unknown.try_read(&mut nothing).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}
