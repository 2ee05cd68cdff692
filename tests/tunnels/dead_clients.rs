//! Dead clients: those that leave a Ping unanswered, and those whose machine has vanished; living clients are kept.

use std::process::Command;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::support::h2::Secured;
use crate::support::proxy::Proxy;
use crate::support::tunnels::{TunnelWorker, frame, head_of, join, masked, read, read_all, tunnel};
use crate::support::wait::{at_most, wait_for_async, wait_within, within};

/// A Ping frame as stickyd sends it.
const PING: &[u8] = b"\x89\x08stickyd?";

fn pinging(worker: &TunnelWorker) -> Proxy {
    Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{}\"]\ntunnel_ping = \"2s\"\ntunnel_ping_timeout = \"3s\"",
        worker.address
    ))
}

fn closed(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("stickyd_sockets_closed_total{{reason=\"{reason}\",upstream=\"app\"}}"))
}

#[tokio::test]
async fn a_client_that_answers_no_ping_is_closed_on_both_legs() {
    let worker = TunnelWorker::start().await;
    let proxy = pinging(&worker);
    let (mut dead, mut dead_far) = tunnel(&proxy, &worker).await;
    let (mut living, mut living_far) = tunnel(&proxy, &worker).await;
    let answers = async {
        let pong = masked(0x8a, b"stickyd?");
        for _ in 0..3 {
            assert_eq!(read(&mut living, PING.len()).await, PING);
            living.write_all(&pong).await.unwrap();
            // The client's answer passes to the worker unchanged.
            assert_eq!(read(&mut living_far, pong.len()).await, pong);
        }
    };
    let suspect = async {
        wait_for_async("the socket is suspect", async || {
            proxy.metric("stickyd_sockets_suspect{upstream=\"app\"}") >= 1.0
        })
        .await;
    };
    let ends = async {
        assert_eq!(read_all(&mut dead_far).await, b"", "its worker sees only the end");
        assert_eq!(read_all(&mut dead).await, PING, "the client got one Ping");
    };
    tokio::join!(answers, ends, suspect);
    assert_eq!((closed(&proxy, "dead"), proxy.server().shared().sessions.sockets.len()), (1.0, 1));
    // Any byte is an answer, even of a message that never ends.
    for _ in 0..3 {
        assert_eq!(read(&mut living, PING.len()).await, PING);
        living.write_all(&[0x01, 0x80, 0, 0, 0, 0]).await.unwrap();
        read(&mut living_far, 6).await;
        living.write_all(&[0x80, 0x80, 0, 0, 0, 0]).await.unwrap();
        read(&mut living_far, 6).await;
    }
    assert_eq!(closed(&proxy, "dead"), 1.0);
}

#[tokio::test]
async fn a_ping_goes_between_frames_and_waits_for_their_end() {
    let worker = TunnelWorker::start().await;
    let proxy = pinging(&worker);
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    // Half a frame, and a longer silence than clients are allowed: no Ping fits in, so the client is not dead.
    let whole = frame(0x01, b"fragment");
    far.write_all(&whole[..5]).await.unwrap();
    assert_eq!(read(&mut client, 5).await, &whole[..5]);
    let calm = tokio::time::timeout(Duration::from_secs(6), read(&mut client, 1)).await;
    assert!(calm.is_err(), "nothing goes into a frame: {calm:02x?}");
    far.write_all(&whole[5..]).await.unwrap();
    far.write_all(&frame(0x80, b"end")).await.unwrap();
    // In the middle of the message, where only control frames may go, or after it.
    let rest = [&whole[5..], &frame(0x80, b"end")].concat();
    let came = read(&mut client, rest.len() + PING.len()).await;
    let at = came.windows(PING.len()).position(|window| window == PING).expect("a ping");
    assert!(at == whole.len() - 5 || at == rest.len(), "{came:02x?}");
    assert_eq!([&came[..at], &came[at + PING.len()..]].concat(), rest);
    client.write_all(&masked(0x8a, b"stickyd?")).await.unwrap();
    read(&mut far, 14).await;
}

#[tokio::test]
async fn only_websockets_of_upstreams_with_pings_are_pinged() {
    let worker = TunnelWorker::start().await;
    let (asking, silent) = (pinging(&worker), Proxy::before(&[worker.address]));
    let (mut odd, mut odd_far) = tunnel(&asking, &worker).await;
    odd_far.write_all(b"HTTP/1.1 400").await.unwrap();
    assert_eq!(read(&mut odd, 12).await, b"HTTP/1.1 400");
    let (mut plain, _plain_far) = tunnel(&silent, &worker).await;
    let nothing = async |io: &mut tokio::net::TcpStream| {
        assert!(tokio::time::timeout(Duration::from_secs(7), read(io, 1)).await.is_err());
    };
    tokio::join!(nothing(&mut odd), nothing(&mut plain));
    assert_eq!((closed(&asking, "dead"), closed(&silent, "dead")), (0.0, 0.0));
}

/// Runs in a network namespace of its own, where an address can vanish: no FIN, no reset, no acknowledgement.
#[test]
#[ignore = "waits for more than 30 seconds: run by tests/long"]
fn clients_of_a_vanished_machine_are_closed_within_30_seconds() {
    let this = std::env::current_exe().unwrap();
    let inside = "tunnels::dead_clients::inside_a_network_of_its_own";
    let said = Command::new("unshare")
        .args(["--map-root-user", "--net"])
        .arg(this)
        .args(["--exact", inside, "--ignored", "--nocapture"])
        .output()
        .expect("unshare, of util-linux");
    let text = format!("{}{}", String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(said.status.success() && text.contains("1 passed"), "{text}");
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).status().expect("ip, of iproute2");
    assert!(done.success(), "ip {arguments}");
}

#[tokio::test]
#[ignore = "run by the test above, in a network of its own"]
async fn inside_a_network_of_its_own() {
    use std::time::Instant;

    ip("link set lo up");
    ip("addr add 10.99.0.2/32 dev lo");
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let to = async |proxy: &Proxy, address: [u8; 4]| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        socket.connect(proxy.address).await.unwrap()
    };
    let from = async |address| to(&proxy, address).await;
    let gone_at = [10, 99, 0, 2];
    // Silent tunnels at both addresses; one with bytes in flight; an open poll; and an idle connection.
    let (mut silent, mut living, mut busy) = (from(gone_at).await, from([127, 0, 0, 1]).await, from(gone_at).await);
    let mut silent_far = join(&mut silent, &worker).await;
    let mut living_far = join(&mut living, &worker).await;
    let mut busy_far = join(&mut busy, &worker).await;
    let (mut polling, mut resting) = (from(gone_at).await, from(gone_at).await);
    polling.write_all(b"GET /events HTTP/1.1\r\nHost: app\r\n\r\n").await.unwrap();
    let (mut poll_far, _) = worker.accept().await;
    resting.write_all(b"GET /once HTTP/1.1\r\nHost: app\r\n\r\n").await.unwrap();
    let (mut once_far, _) = worker.accept().await;
    once_far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    head_of(&mut resting).await.unwrap();
    // And an HTTP/2 connection with a tunnel.
    let secured = Secured::before(&[worker.address], "");
    let http2 = to(secured.proxy(), gone_at).await;
    let http2 = secured.client_on(http2, &h2::client::Builder::new()).await;
    let (_stream, mut stream_far) = super::h2::tunnel(&http2, &worker).await;
    wait_for_async("all connections are counted", async || proxy.metric("stickyd_client_connections") == 5.0).await;

    // From here on no packet reaches the address, and none comes from it.
    ip("route del local 10.99.0.2 table local");
    ip("route add blackhole 10.99.0.2/32 table local");
    let began = Instant::now();
    busy_far.write_all(&frame(0x81, &[b'x'; 100])).await.unwrap();
    let patience = Duration::from_secs(60);
    let end = async |name: &str, io: &mut tokio::net::TcpStream| {
        let mut nothing = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(io, &mut nothing);
        // Closed or reset: the worker sees an end in either case.
        let _ = tokio::time::timeout(patience, read).await.unwrap_or_else(|_| panic!("{name} never ends"));
        let took = began.elapsed();
        println!("{name}: {took:?}");
        assert!(nothing.is_empty());
        took
    };
    let took = tokio::join!(
        end("silent", &mut silent_far),
        end("busy", &mut busy_far),
        end("poll", &mut poll_far),
        end("stream", &mut stream_far)
    );
    wait_within(patience, "only the resting client is left", async || {
        proxy.metric("stickyd_client_connections") == 1.0
    })
    .await;
    println!("resting: {:?}", began.elapsed());
    for took in [took.0, took.1, took.2, took.3] {
        assert!(took < at_most(Duration::from_secs(32)), "{took:?}");
        assert!(took > Duration::from_secs(20), "{took:?}: too soon for a client in a tunnel");
    }
    assert_eq!((closed(&proxy, "dead"), closed(&proxy, "client_gone")), (2.0, 0.0));
    // The silent client of the living machine is still connected.
    within(living.write_all(&masked(0x81, b"here"))).await.unwrap();
    assert_eq!(read(&mut living_far, 10).await, masked(0x81, b"here"));
}
