//! How a tunnel ends when one side leaves without a Close: what the other side gets, and what still passes.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::node::WsEcho;
use crate::support::proxy::Proxy;
use crate::support::tunnels::{
    CLOSE_1012, Random, Tls, TunnelWorker, closed, connect, dial, frame, join, masked, read, read_all, tunnel,
};
use crate::support::wait::{at_most, wait_for_async, within};

/// Closes with a reset, whatever is unread or unsent.
fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

#[tokio::test]
async fn clients_of_a_killed_worker_get_1012_and_others_go_on() {
    let (mut one, two) = (WsEcho::start(&[]).await, WsEcho::start(&[]).await);
    let proxy = Proxy::with(&format!(
        "[upstream.one]\nworkers = [\"{}\"]\n[upstream.two]\nworkers = [\"{}\"]\n\
         [[route]]\npath = \"/one\"\nupstream = \"one\"\n[[route]]\nupstream = \"two\"",
        one.address(),
        two.address()
    ));
    let mut dying = Vec::new();
    for _ in 0..10 {
        dying.push(connect(proxy.address, "/one").await);
    }
    let mut living = connect(proxy.address, "/two").await;
    one.kill().await;
    for client in &mut dying {
        assert_eq!(closed(client).await, Some((1012, String::new())));
    }
    living.send(Message::text("still here")).await.unwrap();
    assert_eq!(within(living.next()).await.unwrap().unwrap(), Message::text("still here"));
    let tunnels = |upstream: &str, worker: &WsEchoWorker| {
        proxy.metric(&format!("stickyd_tunnels{{upstream=\"{upstream}\",worker=\"{}\"}}", worker.address()))
    };
    wait_for_async("the dead worker's tunnels have ended", async || tunnels("one", &one) == 0.0).await;
    assert_eq!(tunnels("two", &two), 1.0);
}

type WsEchoWorker = crate::support::node::Worker;

#[tokio::test]
async fn a_worker_that_ends_between_frames_closes_with_1012() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let tls = Tls::before(&[worker.address], "ends");
    // A complete message, and the first half of another: a control frame may go between fragments.
    for before in [frame(0x81, b"last words"), frame(0x01, b"half a message"), Vec::new()] {
        for broken in [false, true] {
            for encrypted in [false, true] {
                let mut client = dial(&proxy, encrypted.then_some(&tls)).await;
                let mut far = join(&mut client, &worker).await;
                far.write_all(&before).await.unwrap();
                assert_eq!(read(&mut client, before.len()).await, before);
                if broken {
                    reset(far);
                } else {
                    drop(far);
                }
                assert_eq!(read(&mut client, 4).await, CLOSE_1012);
                // The client can still send: the Close was not followed by a reset.
                client.write_all(&masked(0x81, b"too late")).await.unwrap();
                client.write_all(&masked(0x88, &[0x03, 0xf4])).await.unwrap();
                client.flush().await.unwrap();
                assert_eq!(read_all(&mut client).await, b"");
            }
        }
    }
}

#[tokio::test]
async fn an_end_in_the_middle_of_a_frame_sends_no_close() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    for broken in [false, true] {
        let (mut client, mut far) = tunnel(&proxy, &worker).await;
        let cut = &frame(0x82, &[7; 1000])[..500];
        far.write_all(cut).await.unwrap();
        assert_eq!(read(&mut client, 500).await, cut);
        if broken {
            reset(far);
        } else {
            drop(far);
        }
        assert_eq!(read_all(&mut client).await, b"");
    }
}

#[tokio::test]
async fn no_close_is_sent_after_another_or_into_other_protocols() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    // The bytes of the worker are not WebSocket.
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    far.write_all(b"HTTP/1.1 400 Bad Request").await.unwrap();
    drop(far);
    assert_eq!(read_all(&mut client).await, b"HTTP/1.1 400 Bad Request");
    // The bytes of the client are not WebSocket, and the worker has sent nothing.
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    client.write_all(b"\xffanother protocol").await.unwrap();
    read(&mut far, 17).await;
    drop(far);
    assert_eq!(read_all(&mut client).await, b"");
    // The worker has sent a Close, with a code and without one.
    for close in [frame(0x88, b"\x11\x34no such room"), frame(0x88, b"")] {
        let (mut client, mut far) = tunnel(&proxy, &worker).await;
        far.write_all(&close).await.unwrap();
        reset_after(&mut client, far, close.len()).await;
        assert_eq!(read_all(&mut client).await, b"");
    }
}

async fn reset_after(client: &mut TcpStream, far: TcpStream, bytes: usize) {
    read(client, bytes).await;
    reset(far);
}

#[tokio::test]
async fn a_worker_that_closes_properly_ends_the_tunnel_at_once() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    far.write_all(&frame(0x88, &[0x03, 0xe8])).await.unwrap();
    far.shutdown().await.unwrap();
    read(&mut client, 4).await;
    client.write_all(&masked(0x88, &[0x03, 0xe8])).await.unwrap();
    assert_eq!(read_all(&mut far).await, masked(0x88, &[0x03, 0xe8]));
    assert_eq!(read_all(&mut client).await, b"");
    // The client's socket is still open: after both Closes it is not waited for.
    wait_for_async("the tunnel has ended", async || {
        proxy.server().shared().clients.load(std::sync::atomic::Ordering::Relaxed) == 0
    })
    .await;
}

#[tokio::test]
async fn a_vanished_client_closes_the_workers_leg() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    // By a close and by a reset; idle, and with bytes in flight: the worker gets all of them and then the end.
    for (broken, words) in [(false, 0), (false, 3_000_000), (true, 0), (true, 3_000_000)] {
        let (mut client, mut far) = tunnel(&proxy, &worker).await;
        let said = frame(0x82, &vec![7; words]);
        let mut got = vec![0; said.len()];
        let (sent, read) = tokio::join!(within(client.write_all(&said)), within(far.read_exact(&mut got)));
        sent.unwrap();
        read.unwrap();
        assert!(got == said);
        if broken {
            reset(client);
        } else {
            drop(client);
        }
        assert_eq!(read_all(&mut far).await, b"");
    }
    // The end reaches the worker after the last bytes, even if it is slow to read them.
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    let said = frame(0x82, &vec![7; 3_000_000]);
    let say = async {
        client.write_all(&said).await.unwrap();
        drop(client);
    };
    let ((), got) = tokio::join!(within(say), read_all(&mut far));
    assert!(got == said);
    // A worker that keeps sending soon finds the connection closed.
    let speaks = async {
        while far.write_all(&frame(0x89, b"anyone?")).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    within(speaks).await;
    wait_for_async("all tunnels have ended", async || {
        proxy.server().shared().clients.load(std::sync::atomic::Ordering::Relaxed) == 0
    })
    .await;
    let real = WsEcho::start(&[]).await;
    let proxy = Proxy::before(&[([127, 0, 0, 1], real.port).into()]);
    let client = connect(proxy.address, "/").await;
    drop(client);
    let stats = real.stats_when(|stats| stats["open"] == 0).await;
    assert_eq!(stats["closes"], serde_json::json!({"1006": 1}));
}

/// One side that acts at random: messages, half messages, garbage, a Close, silence; then some kind of end, or a pause.
async fn whims(mut side: TcpStream, from_client: bool, seed: u64) -> Option<TcpStream> {
    let mut random = Random(seed | 1);
    let close = if from_client { masked(0x88, &[0x03, 0xe8]) } else { frame(0x88, &[0x03, 0xe8]) };
    for _ in 0..random.below(6) {
        let words = match random.below(8) {
            0 => close.clone(),
            1 => random.bytes(50),
            2 => frame(0x82, &vec![1; 100_000])[..50_000].to_vec(),
            3 | 4 => Vec::new(),
            _ if from_client => masked(0x82, b"words"),
            _ => frame(0x82, &vec![1; random.below(400_000)]),
        };
        let mut unread = vec![0; random.below(200_000)];
        let _ = side.try_read(&mut unread);
        // The other side may not be reading.
        let _ = tokio::time::timeout(Duration::from_millis(20), side.write_all(&words)).await;
        tokio::task::yield_now().await;
    }
    match random.below(4) {
        0 => drop(side),
        1 => reset(side),
        2 => {
            let _ = side.shutdown().await;
            return Some(side);
        }
        _ => return Some(side),
    }
    None
}

#[tokio::test]
async fn no_kind_of_end_leaves_anything_behind() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let live = proxy.worker(&worker.address.to_string());
    for round in 0..5 {
        let mut sides = Vec::new();
        for i in 0..60 {
            let (client, far) = tunnel(&proxy, &worker).await;
            let seed = 7_919 * (round * 100 + i) + 13;
            sides.push(async move { tokio::join!(whims(client, true, seed), whims(far, false, seed * 31)) });
        }
        let left_open = within(futures_util::future::join_all(sides)).await;
        drop(left_open);
        wait_for_async("all tunnels have ended", async || {
            live.tunnels() == 0 && proxy.metric("stickyd_client_connections") == 0.0
        })
        .await;
    }
    let began = Instant::now();
    let ended = proxy.stop();
    assert_eq!((ended.cut, ended.panicked), (0, false));
    // A task that was left would hold the stop for five seconds.
    assert!(began.elapsed() < at_most(Duration::from_secs(4)), "no task was left");
}
