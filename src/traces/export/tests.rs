//! Batches on their way to a receiver that counts them.

#![allow(clippy::disallowed_methods, reason = "tasks of a test end with its runtime")]

use std::net::SocketAddr;
use std::time::Instant;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prometheus::{IntCounterVec, Opts};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::*;
use crate::config::OutboundTarget;

fn traces() -> Arc<Traces> {
    Traces::new(&IntCounterVec::new(Opts::new("spans", "spans"), &["result"]).unwrap())
}

fn rules(address: SocketAddr) -> Arc<Telemetry> {
    let target =
        OutboundTarget { url: format!("http://{address}/v1/traces").parse().unwrap(), authorities: Arc::default() };
    let (headers, service, machine) = (Vec::new(), "stickyd".to_owned(), "web-1".to_owned());
    Arc::new(Telemetry { target, headers, service, machine, sample: 100 })
}

/// Starts a receiver that takes everything; it tells the number of spans that it has taken.
async fn receiver() -> (SocketAddr, watch::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, (count, taken)) = (listener.local_addr().unwrap(), watch::channel(0));
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move { take(socket, &count).await });
        }
    });
    (address, taken)
}

/// Takes the requests of one connection.
async fn take(mut socket: TcpStream, count: &watch::Sender<usize>) {
    let mut got = Vec::new();
    while let Some(body) = next_body(&mut socket, &mut got).await {
        let all = ExportTraceServiceRequest::decode(&*body).unwrap().resource_spans;
        let spans: usize = all.iter().flat_map(|one| &one.scope_spans).map(|scope| scope.spans.len()).sum();
        count.send_modify(|count| *count += spans);
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    }
}

async fn next_body(socket: &mut TcpStream, got: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Some(head) = got.windows(4).position(|part| part == b"\r\n\r\n") {
            let text = String::from_utf8_lossy(&got[..head]).to_ascii_lowercase();
            let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let (begin, length) = (head + 4, length.parse::<usize>().unwrap());
            if got.len() >= begin + length {
                let body = got[begin..begin + length].to_vec();
                got.drain(..begin + length);
                return Some(body);
            }
        }
        if socket.read_buf(got).await.ok()? == 0 {
            return None;
        }
    }
}

/// A small span, so that the speed of a machine with other work is not the limit.
fn span() -> Span {
    let attributes = vec![otlp::text("url.path", "/")];
    Span { trace_id: vec![7; 16], span_id: vec![7; 8], attributes, ..Span::default() }
}

/// 24,576 spans, as many as the queue holds at a time. With 10 requests per second, they took more than 4 s.
#[tokio::test]
async fn more_than_six_thousand_spans_leave_per_second() {
    const BATCHES: usize = 48;
    const WAVE: usize = 8 * BATCH;
    let (address, mut taken) = receiver().await;
    // What the machine needs for the same requests without any limit.
    let (rules, client) = (rules(address), unlimited());
    let began = Instant::now();
    for _ in 0..BATCHES {
        let body = Bytes::from(otlp::body(&rules, (0..BATCH).map(|_| span()).collect()));
        assert!(matches!(post(&rules, &client, body).await, Taken::Yes(0, _)));
    }
    let bound = Duration::from_secs(3).max(4 * began.elapsed());
    let (traces, stop, before) = (traces(), CancellationToken::new(), *taken.borrow());
    assert_eq!(before, BATCHES * BATCH);
    let sends = keep(traces.clone(), || Some(rules.clone()), stop.clone());
    let feeds = async {
        let began = Instant::now();
        for wave in 1..=BATCHES * BATCH / WAVE {
            (0..WAVE).for_each(|_| traces.put(span()));
            taken.wait_for(|taken| *taken == before + wave * WAVE).await.unwrap();
        }
        stop.cancel();
        began.elapsed()
    };
    let ((), took) = tokio::join!(sends, feeds);
    assert_eq!((traces.sent.get(), traces.dropped.get()), (24_576, 0));
    assert!(took < bound, "{took:?}, bound {bound:?}");
}

fn unlimited() -> Outbound {
    let settings = OutboundSettings { per_second: u64::MAX, idle: 1, ..OutboundSettings::new(Arc::default()) };
    Outbound::new(&settings, &TaskTracker::new()).unwrap()
}

#[test]
fn a_receiver_that_refuses_now_and_then_does_not_fill_the_log() {
    let mut sender = SpanSender::new(traces());
    sender.pending = 3;
    sender.refused("500");
    assert!(sender.is_failing, "the log says so");
    sender.taken(0, "");
    assert!(!sender.is_failing, "the log says that it is over");
    sender.pending = 4;
    sender.refused("500");
    assert!(!sender.is_failing, "nothing more is said within a minute");
    assert_eq!(sender.traces.failed.get(), 7);
}
