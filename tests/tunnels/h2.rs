//! WebSockets over HTTP/2 (RFC 8441): tunnels like any other, many on one connection.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::{HeaderMap, Request};
use stickyd::testing::net::StreamIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::h2::{Client, Secured, ask, connect};
use crate::support::node::WsEcho;
use crate::support::tunnels::{CLOSE_1001, CLOSE_1012, ECHO_1001, Random, TunnelWorker, frame, masked, read, read_all};
use crate::support::wait::{wait_for_async, within};

/// Grants an upgrade as RFC 6455 requires; the worker's end, and the head of the upgrade.
async fn granted(worker: &TunnelWorker, more: &str) -> (TcpStream, String) {
    let (mut far, head) = worker.accept().await;
    let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.trim().as_bytes());
    let grant = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    );
    far.write_all(grant.as_bytes()).await.unwrap();
    (far, head)
}

/// Opens a tunnel: the client's end and the worker's.
pub(super) async fn tunnel(client: &Client, worker: &TunnelWorker) -> (StreamIo<()>, TcpStream) {
    let (opened, (far, _)) = tokio::join!(client.tunnel(connect("websocket", "/chat")), granted(worker, ""));
    (opened.unwrap_or_else(|refused| panic!("{refused:?}")).0, far)
}

#[tokio::test]
async fn an_extended_connect_is_an_upgrade_at_the_worker() {
    let worker = TunnelWorker::start().await;
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    wait_for_async("the extended CONNECT is announced", async || client.send.is_extended_connect_protocol_enabled())
        .await;
    let mut request = connect("websocket", "/chat?x=1");
    for (name, value) in [
        ("sec-websocket-protocol", "chat, other"),
        ("sec-websocket-extensions", "permessage-deflate"),
        ("sec-websocket-key", "not ours"),
        ("origin", "https://localhost"),
    ] {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    let grant = "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\nX-App: 1\r\n";
    let (opened, (mut far, head)) = tokio::join!(client.tunnel(request), granted(&worker, grant));
    let (mut near, headers): (_, HeaderMap) = opened.unwrap();
    assert!(head.starts_with("GET /chat?x=1 HTTP/1.1\r\n"), "{head}");
    for line in [
        "host: localhost",
        "connection: Upgrade",
        "upgrade: websocket",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: chat, other",
        "sec-websocket-extensions: permessage-deflate",
        "origin: https://localhost",
        "x-forwarded-proto: https",
    ] {
        assert!(head.lines().any(|one| one == line), "{line}: {head}");
    }
    assert_eq!(
        (&headers["sec-websocket-protocol"], &headers["x-app"]),
        (&"chat".parse().unwrap(), &"1".parse().unwrap())
    );
    assert_eq!(headers["sec-websocket-extensions"], "permessage-deflate");
    for none in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
        assert!(!headers.contains_key(none), "{none}: {headers:?}");
    }
    near.write_all(&masked(0x81, b"up")).await.unwrap();
    assert_eq!(read(&mut far, 8).await, masked(0x81, b"up"));
    far.write_all(&frame(0x81, b"down")).await.unwrap();
    assert_eq!(read(&mut near, 6).await, frame(0x81, b"down"));
}

#[tokio::test]
async fn only_a_workers_own_101_opens_a_tunnel() {
    let worker = TunnelWorker::start().await;
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let refused = "HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nX-Why: 1\r\n\r\nno, ";
    let two_hundred = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";
    let wrong = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    for (answer, status, text) in [(refused, 403, "no, "), (two_hundred, 502, "502"), (wrong, 502, "502")] {
        let said = async {
            let (mut far, _) = worker.accept().await;
            far.write_all(answer.as_bytes()).await.unwrap();
            far
        };
        let (refused, _far) = tokio::join!(client.tunnel(connect("websocket", "/")), said);
        let Err(refused) = refused else { panic!("opened") };
        assert_eq!(refused.status, status);
        assert!(refused.text().starts_with(text), "{refused:?}");
    }
    for request in [connect("connect-udp", "/"), Request::connect("localhost:443").body(()).unwrap()] {
        let Err(refused) = client.tunnel(request).await else { panic!("opened") };
        assert_eq!(refused.status, 501);
    }
    // The connection still serves other requests.
    let (_near, _far) = tunnel(&client, &worker).await;
}

#[tokio::test]
async fn without_the_key_it_is_neither_announced_nor_served() {
    let worker = TunnelWorker::start().await;
    let stickyd = Secured::before(&[worker.address], "websocket_over_http2 = false");
    let client = stickyd.client().await;
    // Once there is an answer, the SETTINGS have come, too.
    assert_eq!(client.exchange(ask("TRACE", "/")).await.unwrap().status, 501);
    assert!(!client.send.is_extended_connect_protocol_enabled());
    let mut ready = client.send.clone().ready().await.unwrap();
    let asked = ready.send_request(connect("websocket", "/"), false);
    let refused = match asked {
        Err(_) => true,
        Ok((answer, _send)) => within(answer).await.is_err(),
    };
    assert!(refused);
    assert_eq!(
        client.exchange(ask("TRACE", "/")).await.unwrap().status,
        501,
        "other requests of the connection are served"
    );
}

#[tokio::test]
async fn random_bytes_pass_both_ways() {
    let worker = TunnelWorker::start().await;
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let (near, mut far) = tunnel(&client, &worker).await;
    let up = [&[0xff][..], &Random(21).bytes(3_000_000)].concat();
    let down = [&[0xff][..], &Random(22).bytes(3_000_000)].concat();
    let (mut near_read, mut near_write) = tokio::io::split(near);
    let (mut far_read, mut far_write) = far.split();
    let write_up = async {
        near_write.write_all(&up).await.unwrap();
        near_write.shutdown().await.unwrap();
    };
    let write_down = async {
        far_write.write_all(&down).await.unwrap();
        far_write.shutdown().await.unwrap();
    };
    let ((), (), at_far, at_near) =
        tokio::join!(write_up, write_down, read_all(&mut far_read), read_all(&mut near_read));
    assert!(at_far == up, "{} of {} bytes up, or others", at_far.len(), up.len());
    assert!(at_near == down, "{} of {} bytes down, or others", at_near.len(), down.len());
}

#[tokio::test]
async fn fifty_real_sockets_share_a_connection_and_are_counted() {
    let worker = WsEcho::start(&[]).await;
    let stickyd = Secured::before(&[worker.address().parse().unwrap()], "");
    let client = stickyd.client().await;
    let mut sockets = Vec::new();
    for _ in 0..50 {
        let Ok((io, _)) = client.tunnel(connect("websocket", "/")).await else { panic!("refused") };
        sockets.push(WebSocketStream::from_raw_socket(io, Role::Client, None).await);
    }
    let name = worker.address();
    let tunnels = format!("stickyd_tunnels{{upstream=\"app\",worker=\"{name}\"}}");
    let proxy = stickyd.proxy();
    assert_eq!((proxy.metric(&tunnels), proxy.metric("stickyd_http2_streams")), (50.0, 50.0));
    for (n, socket) in sockets.iter_mut().enumerate() {
        socket.send(Message::text(format!("hello {n}"))).await.unwrap();
        let echo = within(socket.next()).await.unwrap().unwrap();
        assert_eq!(echo.to_text().unwrap(), format!("hello {n}"));
    }
    // Half of the sockets close in order, half break.
    for (n, mut socket) in sockets.into_iter().enumerate() {
        if n % 2 == 0 {
            socket.close(None).await.unwrap();
            while within(socket.next()).await.is_some() {}
        }
    }
    wait_for_async("every tunnel has ended", async || {
        proxy.metric(&tunnels) == 0.0 && proxy.metric("stickyd_http2_streams") == 0.0
    })
    .await;
    worker.stats_when(|stats| stats["open"] == 0).await;
    assert_eq!(proxy.metric("stickyd_upgrades_total{step=\"granted\",upstream=\"app\"}"), 50.0);
}

#[tokio::test]
async fn a_stop_closes_each_with_1001_and_ends_in_time() {
    let worker = TunnelWorker::start().await;
    let mut stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let (mut one, mut far_one) = tunnel(&client, &worker).await;
    let (mut two, mut far_two) = tunnel(&client, &worker).await;
    let proxy = stickyd.proxy.take().unwrap();
    let stopped = tokio::task::spawn_blocking(move || proxy.stop());
    for (near, far) in [(&mut one, &mut far_one), (&mut two, &mut far_two)] {
        assert_eq!(read(near, 4).await, CLOSE_1001);
        // Longer than requests may take after a stop.
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        near.write_all(ECHO_1001).await.unwrap();
        assert_eq!(read(far, 8).await, ECHO_1001);
        far.shutdown().await.unwrap();
        assert_eq!(read_all(near).await, b"");
    }
    assert_eq!(stopped.await.unwrap(), stickyd::testing::server::StopOutcome::default());
    within(client.connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_vanished_worker_closes_with_1012_and_a_reset_ends_it() {
    let worker = TunnelWorker::start().await;
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let (mut near, far) = tunnel(&client, &worker).await;
    drop(far);
    assert_eq!(read(&mut near, 4).await, CLOSE_1012);
    let (near, mut far) = tunnel(&client, &worker).await;
    drop(near);
    let mut rest = Vec::new();
    let _ = within(far.read_to_end(&mut rest)).await;
    assert_eq!(rest, b"");
    drop(far);
    wait_for_async("no stream is left", async || stickyd.proxy().metric("stickyd_http2_streams") == 0.0).await;
}

/// When the connection ends, each of its tunnels ends at its worker.
#[tokio::test]
async fn the_end_of_a_connection_ends_its_tunnels() {
    let worker = TunnelWorker::start().await;
    let stickyd = Secured::before(&[worker.address], "");
    let client = stickyd.client().await;
    let (_one, mut far_one) = tunnel(&client, &worker).await;
    let (_two, mut far_two) = tunnel(&client, &worker).await;
    client.connection.abort();
    for far in [&mut far_one, &mut far_two] {
        let mut rest = Vec::new();
        let _ = within(far.read_to_end(&mut rest)).await;
        assert_eq!(rest, b"");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_only_its_worker_back() {
    let worker = TunnelWorker::start().await;
    let stickyd = Secured::before(&[worker.address], "");
    // The window of the connection is larger than that of a stream, as in browsers.
    let client = stickyd.client_with(h2::client::Builder::new().initial_connection_window_size(1 << 20)).await;
    let (_near, mut far) = tunnel(&client, &worker).await;
    let noise = frame(0x82, &[7; 60_000]);
    let mut taken = 0;
    while tokio::time::timeout(Duration::from_secs(1), far.write_all(&noise)).await.is_ok() {
        taken += noise.len();
        assert!(taken < 32_000_000, "{taken} bytes for a client that reads none");
    }
    let (mut other, mut far) = tunnel(&client, &worker).await;
    far.write_all(&frame(0x81, b"through")).await.unwrap();
    assert_eq!(read(&mut other, 9).await, frame(0x81, b"through"));
}

#[tokio::test]
async fn tunnels_count_among_those_of_their_address() {
    let worker = TunnelWorker::start().await;
    let tables = format!("[upstream.app]\nworkers = [\"{}\"]\n[limits]\ntunnels_per_address = 1", worker.address);
    let stickyd = Secured::with("", &tables);
    let client = stickyd.client().await;
    let (near, far) = tunnel(&client, &worker).await;
    let Err(refused) = client.tunnel(connect("websocket", "/chat")).await else { panic!("one tunnel too many") };
    assert_eq!(refused.status, 503);
    drop((near, far));
    let gauge = format!("stickyd_tunnels{{upstream=\"app\",worker=\"{}\"}}", worker.address);
    wait_for_async("the tunnel has ended", async || stickyd.proxy().metric(&gauge) < 0.5).await;
    tunnel(&client, &worker).await;
}

/// A tunnel may be as slow as its client, even where requests have a minimum rate.
#[tokio::test]
async fn a_tunnel_whose_client_opens_no_window_is_waited_for() {
    let worker = TunnelWorker::start().await;
    let limits = "min_rate = 1_000_000\nmin_rate_grace = \"1s\"";
    let stickyd = Secured::with("", &format!("[upstream.app]\nworkers = [\"{}\"]\n[limits]\n{limits}", worker.address));
    let client = stickyd.client().await;
    let (mut near, mut far) = tunnel(&client, &worker).await;
    let message = frame(0x82, &vec![7; 60_000]);
    let all = message.repeat(5);
    let (sent, ()) = tokio::join!(far.write_all(&all), tokio::time::sleep(Duration::from_secs(5)));
    sent.unwrap();
    assert_eq!(read(&mut near, all.len()).await, all);
    assert_eq!(stickyd.proxy().metric("stickyd_limited_total{limit=\"min_rate_answer\"}"), 0.0);
}
