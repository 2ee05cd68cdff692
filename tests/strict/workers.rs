//! The table of bad workers: a clear answer or a visible cut, the connection is not used again, and other clients are
//! served.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::client::{JudgedAnswer, answers, exchange, read_all};
use super::table;
use crate::support::proxy::Proxy;
use crate::support::raw::{Leg, Raw, RawWorker, ok, patient};

const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The first bytes of a client, which may be the beginning of a request only.
fn request(kind: &str) -> Vec<u8> {
    match kind {
        "get" => "GET /bad HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "head" => "HEAD /bad HTTP/1.1\r\nHost: a\r\n\r\n".into(),
        "post" => "POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody".into(),
        "upload" => "POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbody".into(),
        "upgrade" => format!("GET /bad HTTP/1.1\r\nHost: a\r\n{UPGRADE}\r\n").into(),
        other => panic!("no such request: {other}"),
    }
}

/// A worker that answers `/good` well and everything else with `bytes`, and then ends as `end` says.
fn worker(kind: &str, end: &str, bytes: Vec<u8>) -> RawWorker {
    let (early, end) = (kind == "upload", end.to_owned());
    RawWorker::scripted(move |leg| {
        loop {
            let Some(mut request) = leg.raw.head() else { return };
            if request.target() == "/good" {
                leg.send(ok("good"));
                continue;
            }
            if !early && !leg.raw.body(&mut request, false) {
                return;
            }
            finish(leg, &end, &bytes);
            if end != "keep" {
                return;
            }
        }
    })
}

fn finish(leg: &mut Leg, end: &str, bytes: &[u8]) {
    match end {
        "reset" => {
            leg.send(bytes);
            // What was sent should arrive first; a reset would overtake it.
            std::thread::park_timeout(Duration::from_millis(50));
            leg.reset();
        }
        "close" => {
            leg.send(bytes);
        }
        "keep" => {
            leg.send(bytes);
        }
        "drip" => drip(leg, bytes.iter().cycle()),
        "trickle" => drip(leg, bytes.iter().chain(bytes.last().into_iter().cycle())),
        "hold" => {
            leg.send(bytes);
            leg.until_closed();
        }
        other => panic!("no such end: {other}"),
    }
}

/// Sends byte by byte, until stickyd closes the connection.
fn drip<'a>(leg: &mut Leg, bytes: impl Iterator<Item = &'a u8>) {
    for byte in bytes {
        if !leg.send([*byte]) {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// Reads the first answer of a client that keeps its connection.
fn first(proxy: SocketAddr, bytes: &[u8], head_only: bool) -> Result<JudgedAnswer, String> {
    let stream = patient(TcpStream::connect(proxy).unwrap());
    let mut writer = stream.try_clone().unwrap();
    writer.write_all(bytes).unwrap();
    // Then the next request: surplus bytes after the answer would be read as its answer.
    let _ = writer.write_all(b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    let all = answers(&read_all(stream), head_only)?;
    let extra = all.get(1).map(|next| next.status == 200 && next.body == b"good");
    if extra == Some(false) {
        return Err(format!("the next answer is {all:?}"));
    }
    all.into_iter().next().ok_or_else(|| "no answer".to_owned())
}

fn check(wants: &str, answer: &JudgedAnswer) -> Result<(), String> {
    let fits = match wants {
        "cut" => answer.status >= 500 || !answer.whole,
        "whole" => answer.whole && answer.status < 500,
        "plain" => answer.whole && answer.body == b"hello",
        status => status.split('/').any(|one| one.parse() == Ok(answer.status)) && answer.whole,
    };
    if answer.body.windows(6).any(|six| six == b"poison") || answer.head.contains("poison") {
        return Err(format!("poisoned: {answer:?}"));
    }
    if fits { Ok(()) } else { Err(format!("not {wants}: {answer:?}")) }
}

#[test]
fn no_bad_worker_harms_a_client() {
    let (mut counts, mut wrong) = (BTreeMap::<String, usize>::new(), Vec::new());
    let (mut slowest, rows) = (Duration::ZERO, table::read::<5>("workers.txt"));
    let total = rows.len();
    for row in rows {
        let [class, name, kind, wants, end] = &row.columns;
        let reused = end == "keep" && name.starts_with("sound");
        let worker = worker(kind, end, row.bytes);
        let proxy = Proxy::with(&format!(
            "threads = 1\n[upstream.app]\nworkers = [\"{}\"]\nresponse_timeout = \"400ms\"",
            worker.address
        ));
        let began = Instant::now();
        let harm = first(proxy.address, &request(kind), kind == "head").and_then(|answer| check(wants, &answer));
        if !wants.contains("504") {
            slowest = slowest.max(began.elapsed());
        }
        let mut next = Raw::connect(proxy.address);
        let good = next.get("/good");
        let legs = worker.connections();
        let harm = harm.and_then(|()| match (good.status(), good.text(), legs) {
            (200, "good", 1) if reused => Ok(()),
            (200, "good", 2..) if !reused => Ok(()),
            other => Err(format!("the next client got {other:?}")),
        });
        if let Err(why) = harm {
            wrong.push(format!("{class} | {name}: {why}"));
        }
        *counts.entry(class.clone()).or_default() += 1;
        // No bytes of a client have reached a worker as raw bytes.
        let seen = String::from_utf8_lossy(&worker.bytes()).into_owned();
        assert!(kind != "upgrade" || !seen.contains("GET /good HTTP/1.1\r\nHost: a\r\nConnection"), "{name}");
    }
    println!("bad workers: {counts:?}, {total} in all; the slowest answer that was not a time-out: {slowest:?}");
    assert!(wrong.is_empty(), "{} of {total}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(total > 50, "{total}");
}

#[test]
fn an_exchange_with_a_good_worker_is_good() {
    let worker = RawWorker::named("good");
    let proxy = Proxy::before(&[worker.address]);
    let got = exchange(proxy.address, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false);
    assert_eq!(answers(&got, false).unwrap()[0].body, b"good");
}
