//! The counts of tunnels, and that all of them return to zero.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::node::WsEcho;
use crate::support::proxy::Proxy;
use crate::support::tunnels::{ASK, CLOSE_1001, GRANT, TunnelWorker, connect, frame, head_of, masked, read, tunnel};
use crate::support::wait::{at_most, wait_for_async, within};

fn clients(proxy: &Proxy) -> usize {
    proxy.server().shared().clients.load(Relaxed)
}

#[tokio::test]
async fn tunnels_and_websocket_first_sessions_are_counted_while_open() {
    let workers = [WsEcho::start(&[]).await, WsEcho::start(&[]).await];
    let proxy = Proxy::before(&workers.each_ref().map(|w| ([127, 0, 0, 1], w.port).into()));
    let gauge = |series: &str| {
        let of = |w: &crate::support::node::Worker| {
            proxy.metric(&format!("{series}{{upstream=\"app\",worker=\"{}\"}}", w.address()))
        };
        [of(&workers[0]), of(&workers[1])]
    };
    let total = |series: &str| gauge(series).iter().sum::<f64>();
    for round in 1..=2 {
        let mut open = Vec::new();
        for i in 0..100 {
            // Half of the tunnels are Engine.IO, which count as sessions, too.
            let path = if i % 2 == 0 { "/socket.io/?EIO=4&transport=websocket" } else { "/chat" };
            let mut client = connect(proxy.address, path).await;
            client.send(Message::text("0123456789")).await.unwrap();
            assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::text("0123456789"));
            open.push(client);
        }
        assert_eq!(total("stickyd_tunnels"), 100.0);
        assert_eq!(total("stickyd_sessions"), 50.0);
        assert_eq!(total("stickyd_requests_in_flight"), 0.0);
        assert_eq!(clients(&proxy), 100);
        let each = gauge("stickyd_tunnels");
        for (worker, tunnels) in workers.iter().zip(each) {
            assert_eq!(worker.stats().await["open"].as_f64().unwrap(), tunnels);
        }
        for (i, mut client) in open.into_iter().enumerate() {
            if i % 3 != 0 {
                client.close(None).await.unwrap();
                while within(client.next()).await.is_some() {}
            }
        }
        wait_for_async("every count is back at zero", async || {
            total("stickyd_tunnels") + total("stickyd_sessions") == 0.0 && clients(&proxy) == 0
        })
        .await;
        let done = f64::from(round) * 100.0;
        for step in ["asked", "granted"] {
            assert_eq!(proxy.metric(&format!("stickyd_upgrades_total{{step=\"{step}\",upstream=\"app\"}}")), done);
        }
        assert_eq!(
            proxy.metric("stickyd_socket_lifetime_seconds_count{transport=\"websocket\",upstream=\"app\"}"),
            done
        );
        assert_eq!(proxy.metric("stickyd_request_duration_seconds_count{upstream=\"app\"}"), 0.0);
    }
    let began = Instant::now();
    assert_eq!(proxy.stop().cut, 0);
    // A task that was left would hold the stop for five seconds.
    assert!(began.elapsed() < at_most(Duration::from_secs(4)), "no task was left");
}

#[tokio::test]
async fn bytes_are_counted_both_ways_without_stickyds_own() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\ntunnel_idle = \"3s\"", worker.address));
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(&[ASK.as_bytes(), &masked(0x81, b"early")].concat()).await.unwrap();
    let (mut far, _) = worker.accept().await;
    far.write_all(&[GRANT.as_bytes(), &frame(0x81, b"first!")].concat()).await.unwrap();
    head_of(&mut client).await.unwrap();
    let big = frame(0x82, &vec![1; 2_000_000]);
    let (sent, got) = tokio::join!(within(far.write_all(&big)), read(&mut client, 8 + big.len()));
    sent.unwrap();
    assert!(got.ends_with(&big));
    client.write_all(&masked(0x81, b"thanks")).await.unwrap();
    read(&mut far, 23).await;
    let bytes = |way: &str| proxy.metric(&format!("stickyd_bytes_total{{direction=\"{way}\",upstream=\"app\"}}"));
    let all = (23.0, (8 + big.len()) as f64);
    wait_for_async("bytes are counted while the tunnel lives", async || (bytes("up"), bytes("down")) == all).await;
    assert_eq!(clients(&proxy), 1);
    // Ended by stickyd: its own Close does not count as traffic.
    assert_eq!(read(&mut client, 4).await, CLOSE_1001);
    drop((client, far));
    wait_for_async("the tunnel has ended", async || clients(&proxy) == 0).await;
    assert_eq!((bytes("up"), bytes("down")), all);
}

#[tokio::test]
async fn a_tunnel_holds_its_pin_and_leaves_it_for_a_few_seconds() {
    const OPEN: &str =
        r#"0{"sid":"QYbOx2IHXVqQ69rTAAAB","upgrades":["websocket"],"pingInterval":300,"pingTimeout":300}"#;
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let mut poll = TcpStream::connect(proxy.address).await.unwrap();
    poll.write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: app\r\n\r\n").await.unwrap();
    let (mut far, _) = worker.accept().await;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{OPEN}", OPEN.len());
    far.write_all(answer.as_bytes()).await.unwrap();
    head_of(&mut poll).await.unwrap();
    read(&mut poll, OPEN.len()).await;

    let shared = proxy.server().shared();
    let key = shared.sessions.keys.key("app", b"QYbOx2IHXVqQ69rTAAAB");
    let pinned_in = |seconds: f32| {
        shared.sessions.pins.peek(key, Instant::now() + Duration::from_secs_f32(seconds), |_| ()).is_some()
    };
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    let ask = ASK.replace("/chat", "/socket.io/?EIO=4&transport=websocket&sid=QYbOx2IHXVqQ69rTAAAB");
    client.write_all(ask.as_bytes()).await.unwrap();
    let (mut far, _) = worker.accept().await;
    far.write_all(GRANT.as_bytes()).await.unwrap();
    head_of(&mut client).await.unwrap();
    assert!(pinned_in(3_600.0), "an open tunnel holds its pin at any time");
    assert_eq!(proxy.metric("stickyd_pins"), 1.0);

    drop((client, far));
    wait_for_async("the tunnel has ended", async || proxy.worker(&worker.address.to_string()).tunnels() == 0).await;
    assert!(pinned_in(3.0), "a client whose upgrade failed can go on polling");
    assert!(!pinned_in(6.0), "the session ended with its tunnel");
    assert_eq!(proxy.worker(&worker.address.to_string()).sessions(), 0);
}

/// Opens tunnels, many at a time. Returns all ends of clients and of the worker, in no order.
async fn some_tunnels(proxy: &Proxy, worker: &TunnelWorker, count: usize) -> Vec<TcpStream> {
    let mut open = Vec::new();
    while open.len() < 2 * count {
        let now = (count - open.len() / 2).min(50);
        let mut clients = Vec::new();
        for _ in 0..now {
            let mut client = TcpStream::connect(proxy.address).await.unwrap();
            client.write_all(ASK.as_bytes()).await.unwrap();
            clients.push(client);
        }
        for _ in 0..now {
            let (mut far, _) = worker.accept().await;
            far.write_all(GRANT.as_bytes()).await.unwrap();
            open.push(far);
        }
        for mut client in clients {
            assert!(head_of(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
            open.push(client);
        }
    }
    open
}

#[tokio::test]
async fn two_thousand_idle_tunnels_come_and_go() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let live = proxy.worker(&worker.address.to_string());
    let mut open = some_tunnels(&proxy, &worker, 999).await;
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    open.extend(some_tunnels(&proxy, &worker, 1_000).await);
    assert_eq!((live.tunnels(), clients(&proxy)), (2_000, 2_000));
    // No tunnel blocks another one.
    client.write_all(&masked(0x81, b"hello")).await.unwrap();
    let mut got = [0; 11];
    within(far.read_exact(&mut got)).await.unwrap();
    drop((open, client, far));
    wait_for_async("all tunnels have ended", async || live.tunnels() == 0 && clients(&proxy) == 0).await;
    let began = Instant::now();
    assert_eq!(proxy.stop().cut, 0);
    // A task that was left would hold the stop for five seconds.
    assert!(began.elapsed() < at_most(Duration::from_secs(4)), "no task was left");
}
