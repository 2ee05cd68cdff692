//! Only a checked 101 opens a tunnel, and no later bytes of a client are ever sent raw.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::proxy::Proxy;
use crate::support::tunnels::{ASK, GRANT, TunnelWorker, head_of, read, read_all};
use crate::support::wait::within;

/// A second request, as smugglers put it after an upgrade that fails.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: app\r\n\r\n";

/// Sends `request` and raw bytes after it, and has the worker answer `answer`: the head of the client's answer, the
/// head at the worker, and what the worker's connection carried after that head until its end.
async fn exchange(request: &str, answer: &str) -> (String, String, Vec<u8>) {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let (mut far, asked) = worker.accept().await;
    far.write_all(answer.as_bytes()).await.unwrap();
    let head = head_of(&mut client).await.unwrap();
    client.write_all(b"\x81\x80\0\0\0\0 raw bytes of a client that takes itself for upgraded").await.unwrap();
    // The connection is never used again: it ends without another byte.
    let mut behind = Vec::new();
    let _ = within(far.read_to_end(&mut behind)).await;
    assert_eq!(proxy.metric("stickyd_upgrades_total{step=\"granted\",upstream=\"app\"}"), 0.0);
    assert_eq!(
        proxy.metric(
            "stickyd_tunnels{upstream=\"app\",worker=\"W\"}".replace('W', &worker.address.to_string()).as_str()
        ),
        0.0
    );
    (head, asked, behind)
}

#[tokio::test]
async fn a_101_that_fails_the_check_is_a_bad_gateway() {
    let without = |field: &str| {
        let lines: Vec<_> = GRANT.split_inclusive("\r\n").filter(|line| !line.starts_with(field)).collect();
        lines.concat()
    };
    for answer in [
        without("Sec-WebSocket-Accept"),
        without("Upgrade"),
        without("Connection"),
        GRANT.replace("s3pP", "S3pP"),
        GRANT.replace("xOo=", "xOo"),
        GRANT.replace("Upgrade: websocket", "Upgrade: h2c"),
    ] {
        let (head, _, behind) = exchange(ASK, &answer).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{answer}: {head}");
        assert_eq!(behind, b"", "{answer}");
    }
}

#[tokio::test]
async fn an_incomplete_upgrade_is_an_ordinary_request() {
    let plain = "GET / HTTP/1.1\r\nHost: app\r\n\r\n";
    for (request, body) in [
        (plain.to_owned(), ""),
        (ASK.replace("GET", "POST"), ""),
        (ASK.replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nhello"), "hello"),
        (ASK.replace("HTTP/1.1", "HTTP/1.0"), ""),
        (ASK.replace("Upgrade: websocket", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__"), ""),
        (ASK.replace("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", ""), ""),
        (ASK.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), ""),
        (ASK.replace("Connection: Upgrade", "Connection: keep-alive"), ""),
    ] {
        let (head, asked, behind) = exchange(&request, GRANT).await;
        assert!(head.contains(" 502 "), "{request}: {head}");
        assert!(!asked.to_ascii_lowercase().contains("upgrade:"), "{request}: {asked}");
        assert_eq!(behind, body.as_bytes(), "{request}");
    }
}

#[tokio::test]
async fn an_ordinary_answer_to_an_upgrade_keeps_the_connection() {
    for status in ["200 OK", "404 Not Found", "426 Upgrade Required", "400 Bad Request", "503 Service Unavailable"] {
        let worker = TunnelWorker::start().await;
        let proxy = Proxy::before(&[worker.address]);
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(ASK.as_bytes()).await.unwrap();
        let (mut far, asked) = worker.accept().await;
        assert!(asked.to_ascii_lowercase().contains("upgrade: websocket"), "{asked}");
        far.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno").as_bytes()).await.unwrap();
        let head = head_of(&mut client).await.unwrap();
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{head}");
        assert_eq!(read(&mut client, 2).await, b"no");

        // What follows is an ordinary request: parsed, given an identity, and never passed on raw.
        client.write_all(SMUGGLED.as_bytes()).await.unwrap();
        let again = head_of(&mut far).await.unwrap();
        assert!(again.contains("x-forwarded-for: 127.0.0.1"), "{again}");
        far.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes").await.unwrap();
        assert!(head_of(&mut client).await.unwrap().starts_with("HTTP/1.1 200 "));
        assert_eq!(read(&mut client, 3).await, b"yes");
        assert_eq!(proxy.metric("stickyd_upgrades_total{step=\"asked\",upstream=\"app\"}"), 1.0);
        assert_eq!(proxy.metric("stickyd_upgrades_total{step=\"granted\",upstream=\"app\"}"), 0.0);
    }
}

#[tokio::test]
async fn a_refusal_that_ends_its_connection_reaches_the_client() {
    // Node's refusal of an upgrade of an unknown session (docs/reference/protocols.md §1.4).
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let mut client = TcpStream::connect(proxy.address).await.unwrap();
    client.write_all(ASK.as_bytes()).await.unwrap();
    let (mut far, _) = worker.accept().await;
    let refusal = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-type: text/html\r\n\
        Content-Length: 17\r\n\r\nTransport unknown";
    far.write_all(refusal.as_bytes()).await.unwrap();
    drop(far);
    assert!(head_of(&mut client).await.unwrap().starts_with("HTTP/1.1 400 "));
    assert_eq!(read(&mut client, 17).await, b"Transport unknown");
    client.shutdown().await.unwrap();
    assert_eq!(read_all(&mut client).await, b"");
}
