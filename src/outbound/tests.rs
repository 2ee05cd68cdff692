//! The client for stickyd's own requests against real servers: plain, TLS, time-outs, repetitions, bounds.

#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

/// What a server does with each connection, in order; the last one repeats.
type Answers = Arc<Vec<Vec<u8>>>;

/// Starts a server that answers each request with the next of `answers`; an empty one is silence. Returns its address
/// and the count of its requests.
async fn server(answers: Vec<Vec<u8>>, tls: Option<TlsAcceptor>) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, count) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let (answers, seen): (Answers, _) = (Arc::new(answers), count.clone());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (answers, seen, tls) = (answers.clone(), seen.clone(), tls.clone());
            tokio::spawn(async move {
                match tls {
                    Some(tls) => {
                        if let Ok(socket) = tls.accept(socket).await {
                            serve(socket, answers, seen).await;
                        }
                    }
                    None => serve(socket, answers, seen).await,
                }
            });
        }
    });
    (address, count)
}

async fn serve(mut socket: impl AsyncRead + AsyncWrite + Unpin, answers: Answers, seen: Arc<AtomicUsize>) {
    let mut got = Vec::new();
    while !got.windows(4).any(|part| part == b"\r\n\r\n") {
        if socket.read_buf(&mut got).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let turn = seen.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
    if answers[turn].is_empty() {
        std::future::pending::<()>().await;
    }
    let _ = socket.write_all(&answers[turn]).await;
    let _ = socket.shutdown().await;
}

fn answer(status: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{fields}\r\n{body}", body.len()).into_bytes()
}

fn request(method: &str, url: &str) -> OutboundRequest {
    Request::builder().method(method).uri(url).body(Full::default()).unwrap()
}

fn outbound(change: impl FnOnce(&mut OutboundSettings)) -> Outbound {
    let mut settings = OutboundSettings::new(Authorities::default());
    change(&mut settings);
    Outbound::new(&settings, &TaskTracker::new()).unwrap()
}

#[tokio::test]
async fn an_answer_is_read_whole_and_redirects_are_not_followed() {
    let (address, count) = server(vec![answer("302 Found", "location: /elsewhere\r\n", "moved")], None).await;
    let got = outbound(|_| {}).send(request("POST", &format!("http://{address}/hook"))).await.unwrap();
    assert_eq!((got.status.as_u16(), &*got.body), (302, &b"moved"[..]));
    assert_eq!(got.headers["location"], "/elsewhere");
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_large_answer_is_an_error() {
    let (address, _) = server(vec![answer("200 OK", "", &"x".repeat(1001))], None).await;
    let url = format!("http://{address}/");
    let fault = outbound(|settings| settings.largest = 1000).send(request("GET", &url)).await.unwrap_err();
    assert_eq!(fault, OutboundFault::TooLarge);
    let got = outbound(|settings| settings.largest = 1001).send(request("GET", &url)).await.unwrap();
    assert_eq!(got.body.len(), 1001);
}

#[tokio::test]
async fn silence_and_a_body_without_end_run_into_the_timeout() {
    let endless = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab".to_vec();
    let short = Duration::from_millis(300);
    let (address, _) = server(vec![Vec::new()], None).await;
    let url = format!("http://{address}/");
    let fault = outbound(|settings| settings.timeout = short).send(request("GET", &url)).await.unwrap_err();
    assert_eq!(fault, OutboundFault::Timeout(short));
    let (address, _) = server(vec![endless], None).await;
    let fault = outbound(|_| {}).send(request("GET", &format!("http://{address}/"))).await.unwrap_err();
    assert!(matches!(fault, OutboundFault::Broken(_)), "{fault}");
}

#[tokio::test]
async fn faults_have_their_kind_and_never_the_url() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nonsense = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.read_buf(&mut Vec::new()).await;
            let _ = socket.write_all(b"nonsense\r\n\r\n").await;
        }
    });
    let client = outbound(|_| {});
    for (url, kind) in [
        (format!("http://{closed}/hunter2"), "Connect"),
        (format!("https://{nonsense}/hunter2"), "Tls"),
        (format!("http://{nonsense}/hunter2"), "Broken"),
        ("http://no-such-name.invalid/hunter2".to_owned(), "Name"),
    ] {
        let fault = client.send(request("GET", &url)).await.unwrap_err();
        let (shown, said) = (format!("{fault:?}"), fault.to_string());
        assert!(shown.starts_with(kind), "{shown}");
        assert!(!shown.contains("hunter2") && !said.contains("hunter2"), "{shown} {said}");
    }
}

#[tokio::test]
async fn only_safe_requests_are_sent_again_after_an_answer() {
    let turns = || vec![answer("503 Service Unavailable", "", ""), answer("200 OK", "", "")];
    let client = outbound(|settings| settings.attempts = 2);
    let (address, count) = server(turns(), None).await;
    assert_eq!(client.send(request("GET", &format!("http://{address}/"))).await.unwrap().status, 200);
    assert_eq!(count.load(Ordering::Relaxed), 2);
    let (address, count) = server(turns(), None).await;
    assert_eq!(client.send(request("POST", &format!("http://{address}/"))).await.unwrap().status, 503);
    assert_eq!(count.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn certificates_are_verified_by_the_given_authorities() {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let ca = params.self_signed(&ca_key).unwrap();
    let issuer = rcgen::Issuer::new(params, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
        .unwrap();
    let (address, _) = server(vec![answer("200 OK", "", "")], Some(TlsAcceptor::from(Arc::new(config)))).await;
    let url = format!("https://{address}/");
    let fault = outbound(|_| {}).send(request("GET", &url)).await.unwrap_err();
    assert!(matches!(&fault, OutboundFault::Tls(why) if why.contains("UnknownIssuer")), "{fault}");
    let trusts = |settings: &mut OutboundSettings| settings.authorities = Arc::new(vec![ca.der().clone()]);
    assert_eq!(outbound(trusts).send(request("GET", &url)).await.unwrap().status, 200);
    // The certificate is for the address and not for the name.
    let url = format!("https://localhost:{}/", address.port());
    assert!(matches!(outbound(trusts).send(request("GET", &url)).await, Err(OutboundFault::Tls(_))));
}

#[tokio::test]
async fn requests_beyond_the_rate_wait() {
    let (address, _) = server(vec![answer("200 OK", "", "")], None).await;
    let client = outbound(|settings| settings.per_second = 2);
    let began = std::time::Instant::now();
    let send = || async { client.send(request("GET", &format!("http://{address}/"))).await.unwrap() };
    let (_, _, _) = tokio::join!(send(), send(), send());
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
}
