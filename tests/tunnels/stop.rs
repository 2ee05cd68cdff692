//! A stop of stickyd: every client gets a Close with 1001 between two frames, its answer reaches the worker, and
//! clients

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::support::node::WsEcho;
use crate::support::proxy::{Binary, Proxy};
use crate::support::tunnels::{
    ASK, CLOSE_1001, ECHO_1001, GRANT, Io, Random, Tls, TunnelWorker, closed, connect, frame, frames, head_of,
};
use crate::support::tunnels::{join, masked, read, read_all, tunnel};
use crate::support::wait::{at_most, within};

/// Stops the proxy while the test does something else.
fn stopping(proxy: Proxy) -> tokio::task::JoinHandle<(stickyd::testing::server::StopOutcome, Duration)> {
    tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        (proxy.stop(), began.elapsed())
    })
}

#[tokio::test]
async fn real_clients_and_workers_part_in_order_at_a_stop() {
    let worker = WsEcho::start(&[]).await;
    let mut stickyd = Binary::with(&format!("[upstream.app]\nworkers = [\"{}\"]", worker.address()));
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(connect(stickyd.address, "/").await);
    }
    let stopped = tokio::task::spawn_blocking(move || stickyd.terminate());
    for client in &mut clients {
        assert_eq!(closed(client).await, Some((1001, String::new())));
    }
    let (code, took) = stopped.await.unwrap();
    assert_eq!(code, Some(0));
    assert!(took < at_most(Duration::from_secs(2)), "{took:?}: no client had to be waited for");
    let stats = worker.stats_when(|stats| stats["open"] == 0).await;
    assert_eq!(stats["closes"], serde_json::json!({"1001": 20}));
}

/// A worker that never stops sending: fragmented messages with pings between them, some frames of hundreds of
/// kilobytes.
async fn stream(far: &mut (impl tokio::io::AsyncWrite + Unpin), seed: u64) {
    let mut random = Random(seed);
    // Made once, because generating between two writes would keep this thread's clients from reading.
    let noise = random.bytes(400_000);
    loop {
        let parts = 1 + random.below(4);
        for part in 0..parts {
            let size = [0, 100, 5_000, 70_000, 400_000][random.below(5)];
            let first = (u8::from(part == 0) * 2) | (u8::from(part + 1 == parts) << 7);
            if far.write_all(&frame(first, &noise[..size])).await.is_err()
                || far.write_all(&frame(0x89, b"ping")).await.is_err()
            {
                return;
            }
        }
    }
}

/// Reads frames up to a Close, answers it, and reads to the end; everything must be valid WebSocket.
async fn read_by_the_book(mut client: impl Io) {
    let mut bytes = Vec::new();
    while !bytes.ends_with(CLOSE_1001)
        || !matches!(frames(&bytes), (all, []) if all.last() == Some(&(0x88, &[3, 0xe9])))
    {
        // In pieces after which a Close may come.
        let mut piece = vec![0; 100_000];
        let count = within(tokio::io::AsyncReadExt::read(&mut client, &mut piece)).await.unwrap();
        assert!(count > 0, "no Close at a boundary before the end");
        bytes.extend(&piece[..count]);
    }
    client.write_all(ECHO_1001).await.unwrap();
    client.flush().await.unwrap();
    assert_eq!(read_all(&mut client).await, b"");
    let (all, rest) = frames(&bytes);
    assert_eq!(rest, b"");
    let mut open = false;
    for (first, _) in &all[..all.len() - 1] {
        match first & 0x0f {
            0 => assert!(open),
            2 => assert!(!open),
            9 => continue,
            other => panic!("opcode {other}"),
        }
        open = first & 0x80 == 0;
    }
}

#[tokio::test]
async fn a_close_goes_between_the_frames_of_workers_that_keep_sending() {
    for encrypted in [false, true] {
        let worker = TunnelWorker::start().await;
        let mut tls = None;
        let proxy = if encrypted { None } else { Some(Proxy::before(&[worker.address])) };
        if encrypted {
            tls = Some(Tls::before(&[worker.address], "stop"));
        }
        let mut pairs = Vec::new();
        for _ in 0..4 {
            let mut client: Box<dyn Io> = match (&tls, &proxy) {
                (Some(tls), _) => Box::new(tls.connect().await),
                (_, Some(proxy)) => Box::new(TcpStream::connect(proxy.address).await.unwrap()),
                _ => unreachable!(),
            };
            let far = join(&mut client, &worker).await;
            pairs.push((client, far));
        }
        let stop = match (&tls, &proxy) {
            (Some(tls), _) => tls.proxy.server().stop(),
            (_, Some(proxy)) => proxy.server().stop(),
            _ => unreachable!(),
        };
        let after_a_while = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            stop.gently.cancel();
        };
        let conversations = pairs.into_iter().enumerate().map(|(seed, (client, mut far))| async move {
            let (mut far_read, mut far_write) = far.split();
            // The client's answer, then the end, while the worker is still sending.
            let answered = async { assert_eq!(read_all(&mut far_read).await, ECHO_1001) };
            let talks = async {
                tokio::select! { () = stream(&mut far_write, 41 + seed as u64) => {}, () = answered => {} }
            };
            tokio::join!(talks, read_by_the_book(client));
        });
        tokio::join!(after_a_while, futures_util::future::join_all(conversations));
        let began = Instant::now();
        if let Some(proxy) = proxy {
            assert_eq!(proxy.stop().cut, 0);
        }
        drop(tls);
        assert!(began.elapsed() < at_most(Duration::from_secs(2)));
    }
}

#[tokio::test]
async fn clients_that_do_not_answer_are_cut_and_counted() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let (mut deaf, _far) = tunnel(&proxy, &worker).await;
    let (mut raw, mut raw_far) = tunnel(&proxy, &worker).await;
    raw.write_all(b"\xff").await.unwrap();
    read(&mut raw_far, 1).await;
    let (mut stuck, mut stuck_far) = tunnel(&proxy, &worker).await;
    stuck_far.write_all(&frame(0x82, &[7; 1000])[..500]).await.unwrap();
    read(&mut stuck, 500).await;
    let (mut well, mut well_far) = tunnel(&proxy, &worker).await;
    let stopped = stopping(proxy);
    assert_eq!(read(&mut well, 4).await, CLOSE_1001);
    well.write_all(ECHO_1001).await.unwrap();
    assert_eq!(read_all(&mut well_far).await, ECHO_1001);
    drop(well_far);
    assert_eq!(read(&mut deaf, 4).await, CLOSE_1001);
    // Bytes that are not WebSocket just end, for both sides.
    assert_eq!(read_all(&mut raw).await, b"");
    assert_eq!(read_all(&mut raw_far).await, b"");
    let (ended, took) = stopped.await.unwrap();
    assert_eq!((ended.cut, ended.panicked), (3, false));
    assert!(took > Duration::from_millis(4_900) && took < at_most(Duration::from_secs(7)), "{took:?}");
}

#[tokio::test]
async fn an_upgrade_during_a_stop_is_granted_and_closed() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(&[ASK.as_bytes(), &masked(0x81, b"early")].concat()).await.unwrap();
    let (mut far, _) = worker.accept().await;
    let address = proxy.address;
    let stopped = stopping(proxy);
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await
        }
    };
    within(refused).await;
    far.write_all(&[GRANT.as_bytes(), &frame(0x81, b"hello")].concat()).await.unwrap();
    let head = head_of(&mut client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 ") && !head.to_ascii_lowercase().contains("connection: close"), "{head}");
    assert_eq!(read(&mut client, 11).await, [&frame(0x81, b"hello"), CLOSE_1001].concat());
    client.write_all(ECHO_1001).await.unwrap();
    assert_eq!(read_all(&mut far).await, [&masked(0x81, b"early"), ECHO_1001].concat());
    drop(far);
    assert_eq!(stopped.await.unwrap().0.cut, 0);
}

#[tokio::test]
async fn a_close_is_not_sent_twice_nor_after_the_workers() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    // Half of the worker's Close has passed when the stop comes, up to a byte where it may still become another frame.
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    far.write_all(&[0x88]).await.unwrap();
    assert_eq!(read(&mut client, 1).await, [0x88]);
    let (mut other, _far) = tunnel(&proxy, &worker).await;
    let stopped = stopping(proxy);
    assert_eq!(read(&mut other, 4).await, CLOSE_1001);
    far.write_all(&[2, 0x11, 0x34]).await.unwrap();
    assert_eq!(read(&mut client, 3).await, [2, 0x11, 0x34]);
    client.write_all(&masked(0x88, &[0x11, 0x34])).await.unwrap();
    assert_eq!(read(&mut far, 8).await, masked(0x88, &[0x11, 0x34]));
    drop(far);
    assert_eq!(read_all(&mut client).await, b"");
    assert_eq!(stopped.await.unwrap().0.cut, 1, "the other tunnel is cut");
}

#[tokio::test]
async fn a_tls_handshake_that_never_ends_does_not_hold_the_stop() {
    let worker = TunnelWorker::start().await;
    let tls = Tls::before(&[worker.address], "handshake");
    let mut silent = TcpStream::connect(tls.proxy.address).await.unwrap();
    let mut open = tls.connect().await;
    let mut far = join(&mut open, &worker).await;
    let stop = tls.proxy.server().stop();
    let began = Instant::now();
    stop.gently.cancel();
    assert_eq!(read(&mut open, 4).await, CLOSE_1001);
    open.write_all(ECHO_1001).await.unwrap();
    assert_eq!(read_all(&mut far).await, ECHO_1001);
    drop(far);
    read_all(&mut silent).await;
    assert!(began.elapsed() < at_most(Duration::from_secs(4)), "{:?}", began.elapsed());
}
