//! Round trips: which leg a ping measures, and what measures none.

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use stickyd::testing::websocket::RoundTrips;

use crate::support::proxy::Proxy;
use crate::support::tunnels::{ASK, GRANT, TunnelWorker, frame, head_of, masked, read};
use crate::support::wait::wait_for_async;

/// The round trips that the only socket has measured.
fn measured(proxy: &Proxy) -> RoundTrips {
    let sockets = &proxy.server().shared().sessions.sockets;
    let mut all = (0..stickyd::testing::sockets::SHARDS).flat_map(|shard| sockets.shard(shard));
    let only = all.next().expect("a socket");
    assert!(all.next().is_none());
    only.round_trips()
}

/// Whether the client's leg and the worker's leg have been measured.
fn legs(proxy: &Proxy) -> (bool, bool) {
    let trips = measured(proxy);
    (trips.client.measured().is_some(), trips.worker.measured().is_some())
}

/// The number of round trips of a leg in the histogram.
fn counted(proxy: &Proxy, leg: &str) -> f64 {
    proxy.metric(&format!("stickyd_round_trip_seconds_count{{leg=\"{leg}\",upstream=\"app\"}}"))
}

/// A tunnel to `target`: the client's end and the worker's.
async fn tunnel_to(proxy: &Proxy, worker: &TunnelWorker, target: &str) -> (TcpStream, TcpStream) {
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(ASK.replace("/chat", target).as_bytes()).await.unwrap();
    let (mut far, _) = worker.accept().await;
    far.write_all(GRANT.as_bytes()).await.unwrap();
    assert!(head_of(&mut client).await.unwrap().starts_with("HTTP/1.1 101 "));
    (client, far)
}

/// A client's frame with a real mask.
fn veiled(first: u8, payload: &[u8]) -> Vec<u8> {
    let key = [0x9a, 0x03, 0xff, 0x41];
    let length = 0x80 | u8::try_from(payload.len()).unwrap();
    let hidden = payload.iter().zip(key.iter().cycle()).map(|(octet, mask)| octet ^ mask);
    [first, length].into_iter().chain(key).chain(hidden).collect()
}

const ENGINE: &str = "/socket.io/?EIO=4&transport=websocket";

#[tokio::test]
async fn a_ping_measures_its_leg_and_its_bytes_pass_unchanged() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let (mut client, mut far) = tunnel_to(&proxy, &worker, "/chat").await;
    assert_eq!(legs(&proxy), (false, false));
    // The worker's ping, in pieces, between the fragments of a message.
    let ping = [frame(0x01, b"begin"), frame(0x89, b"who?")].concat();
    for piece in ping.chunks(3) {
        far.write_all(piece).await.unwrap();
    }
    assert_eq!(read(&mut client, ping.len()).await, ping);
    for (answer, measures) in [(veiled(0x8a, b"me!!"), false), (veiled(0x8a, b"who?"), true)] {
        for piece in answer.chunks(4) {
            client.write_all(piece).await.unwrap();
        }
        assert_eq!(read(&mut far, answer.len()).await, answer);
        assert_eq!(legs(&proxy), (measures, false), "only its own payload answers a ping");
    }
    // The client's ping.
    let (ping, pong) = (veiled(0x89, b""), frame(0x8a, b""));
    client.write_all(&ping).await.unwrap();
    assert_eq!(read(&mut far, ping.len()).await, ping);
    far.write_all(&pong).await.unwrap();
    assert_eq!(read(&mut client, pong.len()).await, pong);
    wait_for_async("both legs are measured", async || legs(&proxy) == (true, true)).await;
    assert_eq!((counted(&proxy, "client"), counted(&proxy, "worker")), (1.0, 1.0));
    let [excellent, poor] = ["excellent", "poor"]
        .map(|quality| format!("stickyd_sockets_quality{{quality=\"{quality}\",upstream=\"app\"}}"));
    wait_for_async("the quality of the socket is known", async || {
        proxy.metric(&excellent) + proxy.metric(&poor) >= 1.0
    })
    .await;
}

#[tokio::test]
async fn engine_io_4_measures_the_client_and_engine_io_3_the_worker() {
    let worker = TunnelWorker::start().await;
    for (from_worker, legs_then) in [(true, (true, false)), (false, (false, true))] {
        let proxy = Proxy::before(&[worker.address]);
        let (mut client, mut far) = tunnel_to(&proxy, &worker, ENGINE).await;
        let (ping, pong) =
            if from_worker { (frame(0x81, b"2"), veiled(0x81, b"3")) } else { (frame(0x81, b"3"), veiled(0x81, b"2")) };
        let (asks, answers) = if from_worker { (&ping, &pong) } else { (&pong, &ping) };
        let (asker, answerer) = if from_worker { (&mut far, &mut client) } else { (&mut client, &mut far) };
        for _ in 0..2 {
            asker.write_all(asks).await.unwrap();
            assert_eq!(&read(answerer, asks.len()).await, asks);
            answerer.write_all(answers).await.unwrap();
            assert_eq!(&read(asker, answers.len()).await, answers);
        }
        wait_for_async("the leg is measured", async || legs(&proxy) == legs_then).await;
        assert_eq!(counted(&proxy, if from_worker { "client" } else { "worker" }), 2.0);
    }
}

#[tokio::test]
async fn what_only_looks_like_a_ping_measures_nothing() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    // Compressed, binary, in two fragments, two bytes long; and on a WebSocket that is not Engine.IO.
    let pairs: [(&str, Vec<u8>, Vec<u8>); 5] = [
        (ENGINE, frame(0xc1, b"2"), veiled(0xc1, b"3")),
        (ENGINE, frame(0x82, b"2"), veiled(0x82, b"3")),
        (ENGINE, [frame(0x01, b"2"), frame(0x80, b"")].concat(), [veiled(0x01, b"3"), veiled(0x80, b"")].concat()),
        (ENGINE, frame(0x81, b"21"), veiled(0x81, b"31")),
        ("/chat", frame(0x81, b"2"), veiled(0x81, b"3")),
    ];
    for (target, ping, pong) in pairs {
        let (mut client, mut far) = tunnel_to(&proxy, &worker, target).await;
        far.write_all(&ping).await.unwrap();
        assert_eq!(read(&mut client, ping.len()).await, ping);
        client.write_all(&pong).await.unwrap();
        assert_eq!(read(&mut far, pong.len()).await, pong);
        // Whatever is measured is measured before the next bytes pass.
        client.write_all(&masked(0x81, b"end")).await.unwrap();
        read(&mut far, 9).await;
        assert_eq!(legs(&proxy), (false, false), "{target} {ping:02x?}");
        drop((client, far));
        wait_for_async("the socket is gone", async || proxy.server().shared().sessions.sockets.is_empty()).await;
    }
    assert_eq!((counted(&proxy, "client"), counted(&proxy, "worker")), (0.0, 0.0));
}
