//! Messages of the backend that are sent at the same moment to the same client: all arrive, each once and in order.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;

use super::Said;
use super::routes::client;
use crate::support::node::WsEcho;
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::Raw;
use crate::support::tunnels::{TunnelWorker, frame, frames, read, tunnel};
use crate::support::wait::within;

/// A request that sends this text to every client.
fn order(text: &str) -> String {
    let body = json!({"event": "news", "text": text}).to_string();
    let length = body.len();
    format!("POST /api/v1/emit HTTP/1.1\r\nHost: localhost\r\nX-Stickyd: 1\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The status of an answer, and how many sockets were reached and were too slow.
fn result(connection: &mut Raw) -> (u16, Value) {
    let answer = connection.answer();
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    (answer.status(), json!([said["reached"], said["not_reached"]["slow"]]))
}

/// Sends one text on each of many connections, all before any answer is read.
fn send_at_once(admin: &Path, texts: &[String]) -> Vec<Raw> {
    let mut all: Vec<_> = texts.iter().map(|_| Raw::connect_unix(admin)).collect();
    for (connection, text) in all.iter_mut().zip(texts) {
        connection.send(order(text));
    }
    // A request that comes after them is answered: they are under way.
    assert_eq!(Raw::connect_unix(admin).get("/api/v1/log").status(), 200);
    all
}

fn texts(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("number {n}")).collect()
}

/// A proxy that sends messages of the backend as frames, with one worker of this process.
async fn one() -> (Proxy, Said, TunnelWorker) {
    let worker = TunnelWorker::start().await;
    let (said, admin) = Said::new();
    let upstream = format!("[upstream.app]\nworkers = [\"{}\"]\nemit = {{ via = \"frames\" }}{admin}", worker.address);
    (Proxy::with(&upstream), said, worker)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_wait_for_the_same_boundary_all_follow() {
    let (proxy, said, worker) = one().await;
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    let whole = frame(0x82, b"a whole message");
    far.write_all(&whole[..5]).await.unwrap();
    assert_eq!(read(&mut client, 5).await, &whole[..5]);
    let texts = texts(16);
    let mut all = tokio::task::block_in_place(|| send_at_once(&said.0, &texts));
    let next = frame(0x82, b"next");
    far.write_all(&[&whole[5..], &next[..]].concat()).await.unwrap();
    let length: usize = texts.iter().map(|text| frame(0x81, text.as_bytes()).len()).sum();
    let came = read(&mut client, whole.len() - 5 + next.len() + length).await;
    assert_eq!(came[..whole.len() - 5], whole[5..]);
    let (came, _) = frames(&came[whole.len() - 5..]);
    let mut heard: Vec<_> = came.iter().filter(|(first, _)| *first == 0x81).map(|(_, text)| text.to_vec()).collect();
    heard.sort();
    let mut sent: Vec<_> = texts.iter().map(|text| text.clone().into_bytes()).collect();
    sent.sort();
    assert_eq!((heard, came.len()), (sent, texts.len() + 1), "all came once, and the worker's message, too");
    for connection in &mut all {
        assert_eq!(tokio::task::block_in_place(|| result(connection)), (200, json!([1, 0])));
    }
}

/// One message that a backend sent: when it began, when it was answered, and its text.
type Emitted = (Instant, Instant, String);

fn send_in_turn(admin: &Path, backend: usize, start: &Barrier) -> Vec<Emitted> {
    let mut connection = Raw::connect_unix(admin);
    start.wait();
    let one = |n: usize| {
        let (began, text) = (Instant::now(), format!("{n} of {backend}"));
        connection.send(order(&text));
        assert_eq!(result(&mut connection), (200, json!([1, 0])), "{text}");
        (began, Instant::now(), text)
    };
    (0..5).map(one).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_backends_at_once_reach_a_client_in_order() {
    let worker = WsEcho::start(&[]).await;
    let workers = [worker.address()];
    let toml = format!("state_dir = \".\"\n[upstream.app]\nworkers = {workers:?}\nemit = {{ via = \"frames\" }}\n");
    let binary = tokio::task::block_in_place(|| Binary::with(&toml));
    let mut client = client(&binary, "/").await;
    let (admin, start) = (binary.admin(), Arc::new(Barrier::new(20)));
    let backends: Vec<_> = (0..20)
        .map(|backend| {
            let (admin, start) = (admin.clone(), start.clone());
            std::thread::spawn(move || send_in_turn(&admin, backend, &start))
        })
        .collect();
    let ended = tokio::task::spawn_blocking(|| {
        backends.into_iter().flat_map(|backend| backend.join().unwrap()).collect::<Vec<Emitted>>()
    });
    let mut places = BTreeMap::new();
    for place in 0..100 {
        let text = within(client.next()).await.unwrap().unwrap().into_text().unwrap().to_string();
        assert_eq!(places.insert(text.clone(), place), None, "{text} came twice");
    }
    let all = ended.await.unwrap();
    for (_, answered, earlier) in &all {
        for (began, _, later) in all.iter().filter(|(began, ..)| began > answered) {
            assert!(places[earlier] < places[later], "{later} was sent {:?} after {earlier}", *began - *answered);
        }
    }
    client.send(Message::text("last")).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::text("last"), "nothing came twice");
}

/// A client that reads nothing costs each message its time, and no memory afterwards; it gets none of them late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_gets_no_late_messages() {
    let (proxy, said, worker) = one().await;
    let (mut stuck, mut far) = tunnel(&proxy, &worker).await;
    // The worker sends until its kernel's buffer and all buffers after it are full.
    let piece = frame(0x82, &vec![b'x'; 60_000]);
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_secs(2), far.write(&piece[sent % piece.len()..])).await
    {
        sent += written.unwrap();
    }
    let texts = texts(16);
    tokio::task::block_in_place(|| {
        let mut all = send_at_once(&said.0, &texts);
        for connection in &mut all {
            assert_eq!(result(connection), (200, json!([0, 1])));
        }
    });
    // At last the client reads, and the worker ends its message.
    let rest = piece[sent % piece.len()..].to_vec();
    let (came, ()) = tokio::join!(read(&mut stuck, sent + rest.len()), async {
        far.write_all(&rest).await.unwrap();
    });
    let (came, rest) = frames(&came);
    assert!(came.iter().all(|(first, _)| *first == 0x82) && rest.is_empty(), "a late message");
    let asked = tokio::task::spawn_blocking(move || {
        let mut connection = Raw::connect_unix(&said.0);
        connection.send(order("timely"));
        result(&mut connection)
    });
    let timely = frame(0x81, b"timely");
    assert_eq!(read(&mut stuck, timely.len()).await, timely);
    assert_eq!(asked.await.unwrap(), (200, json!([1, 0])));
}
