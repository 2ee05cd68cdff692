//! Made-up sids and sessions created in bulk: what they cost the workers, stickyd and honest clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::cluster::{upstream, upstream_of};
use crate::support::engine_io::{Ask, Session, together};
use crate::support::load::Load;
use crate::support::node::{NodeServer, Worker};
use crate::support::proxy::{Binary, Proxy, free_address};
use crate::support::scripted::{Scripted, Then, open, refusal};
use crate::support::wait::{at_most, wait_for_async};

fn discoveries(result: &str) -> String {
    format!("stickyd_discoveries_total{{result=\"{result}\",upstream=\"app\"}}")
}

/// The number of requests with a sid that reached the workers.
async fn asked(workers: &[Worker]) -> u64 {
    let mut asked = 0;
    for worker in workers {
        let stats = worker.stats().await;
        asked += stats["with_sid"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum::<u64>();
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_sids_cost_the_workers_no_more_than_the_budget() {
    let workers = NodeServer::start_many(3, &[]).await;
    let limits = "[limits]\ndiscoveries_per_address = 20\ndiscoveries = 200\n";
    let proxy = Proxy::with(&format!("{}{limits}", upstream(&workers)));
    // The first discovery also finds out whether the workers can be probed.
    assert_eq!(Session::made_up(Ask::new(proxy.address), "first").get().await.status, 400);
    let before = asked(&workers).await;
    let began = Instant::now();
    let flood = (0..300).map(|i| Session::made_up(Ask::new(proxy.address), &format!("made-up-{i:012}")));
    let answers = together(flood.map(|session| async move { session.get().await })).await;
    let seconds = began.elapsed().as_secs_f64();

    let (looked_for, over): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 400);
    for answer in &over {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(!answer.body.contains("Session ID unknown"), "over budget, the session is not refused: {answer:?}");
        assert!(answer.took >= Duration::from_millis(4_900), "the request waits before it fails: {answer:?}");
        assert!(answer.took <= at_most(Duration::from_millis(6_500)), "the request does not wait for ever: {answer:?}");
    }
    let asked = asked(&workers).await - before;
    println!(
        "300 made-up sids at once, budget 20/s: {} looked for in {seconds:.1} s, {} over budget, {asked} requests \
        at 3 workers",
        looked_for.len(),
        over.len()
    );
    // Each search pays for three workers, of what was there, of as much on credit, and of what came back meanwhile.
    assert!(looked_for.len() as f64 * 3.0 <= 20.0 + 20.0 + 20.0 * seconds + 3.0, "{} in {seconds} s", looked_for.len());
    assert!(looked_for.len() >= 30, "the budget is used: {}", looked_for.len());
    // One worker's own refusal and two probes, or three probes and a refusal, for each; a probe on a stale idle
    // connection is sent again. Searches that ended over budget had asked one worker.
    assert!(asked <= (looked_for.len() * 4 + over.len() * 2) as u64 + 12, "{asked}");
    assert_eq!(proxy.metric(&discoveries("over_budget")), over.len() as f64);
    assert_eq!(proxy.metric(&discoveries("unknown")), 1.0 + looked_for.len() as f64);
    assert_eq!(proxy.metric("stickyd_pins"), 0.0);

    // Another address has its own budget.
    let session = Session::open(Ask::new(([127, 0, 0, 1], workers[0].port).into())).await.through(proxy.address);
    let other = Session::made_up(Ask::new(proxy.address).from([127, 0, 0, 9]), &session.sid);
    assert!(other.post("42[\"n\",7]").await.took < at_most(Duration::from_secs(1)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_miss_is_remembered_for_a_second() {
    let workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    // On a machine that is too busy for eleven requests per second, the test tries again.
    for round in 0..10 {
        let session = Session::made_up(Ask::new(proxy.address), &format!("made-up-{round:012}"));
        let began = Instant::now();
        let first = session.get().await;
        assert_eq!((first.status, first.body.as_str()), (400, r#"{"code":1,"message":"Session ID unknown"}"#));
        let before = asked(&workers).await;
        let remembered = proxy.metric(&discoveries("remembered"));
        assert!(before > 3, "probes at three workers and one worker's own refusal: {before}");
        for _ in 0..10 {
            let again = session.get().await;
            assert_eq!((again.status, again.body.as_str()), (400, first.body.as_str()));
        }
        if began.elapsed() >= Duration::from_secs(1) {
            continue;
        }
        assert_eq!(asked(&workers).await, before, "no worker was asked again");
        assert_eq!(proxy.metric(&discoveries("remembered")), remembered + 10.0);
        while asked(&workers).await == before {
            assert_eq!(session.get().await.status, 400);
            assert!(began.elapsed() < at_most(Duration::from_secs(5)), "the session is never discovered again");
        }
        assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
        return;
    }
    panic!("this machine is too slow for the test");
}

/// 200 sessions between two polls, a restart, and a flood of made-up sids from their address: all sessions are found.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn honest_clients_at_a_floods_address_are_still_found() {
    let workers = NodeServer::start_many(3, &[]).await;
    let mut stickyd = Binary::with(&upstream(&workers));
    let mut load =
        Load::start(json!({"urls": [stickyd.url("")], "n": 200, "kind": "raw", "messages": 2, "keep": true}));
    load.event("all-echoed").await;
    load.hold().await;
    stickyd.kill();
    stickyd.start_again();
    let (over, number) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let to = stickyd.address;
    let flood = (0..20).map(|_| {
        let (over, number) = (over.clone(), number.clone());
        async move {
            while !over.load(Relaxed) {
                let sid = format!("made-up-{:012}", number.fetch_add(1, Relaxed));
                let answer = Session::made_up(Ask::new(to), &sid).get().await;
                assert!(matches!(answer.status, 400 | 503), "{answer:?}");
            }
        }
    });
    let honest = async {
        wait_for_async("the flood is running", async || number.load(Relaxed) > 300).await;
        load.command("go").await;
        load.echo(3).await;
        over.store(true, Relaxed);
    };
    tokio::join!(together(flood), honest);
    let result = load.stop().await;
    println!("{} made-up sids beside 200 honest clients", number.load(Relaxed));
    assert_eq!((&result["reconnects"], &result["refusals"]["total"]), (&json!(0), &json!(0)), "{result}");
    assert_eq!((&result["connected"], &result["disconnects"]), (&json!(200), &json!({})), "{result}");
    assert_eq!(result["echoes"]["ok"], 1_000, "{result}");
}

/// A worker that makes sessions as fast as requests come: 100,000 for one client with nine addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_new_sessions_keep_memory_bounded() {
    const SESSIONS: u64 = 100_000;
    const PINS: f64 = 5_000.0;
    let minted = AtomicU64::new(0);
    let worker = Scripted::start(move |heard| match heard.sid() {
        None => Then::Say(open(&format!("minted-{:013}", minted.fetch_add(1, Relaxed)), 25_000)),
        Some(_) => Then::Say(refusal()),
    })
    .await;
    let admin = free_address();
    let config = upstream_of([worker.address.to_string()]);
    let stickyd = Binary::with(&format!("{config}{MANY}pins = 5_000\n[admin]\naddress = \"{admin}\"\n"));
    // First the connections and pools that exist in any case, so that only sessions are measured.
    mint(stickyd.address, 10, 500).await;
    let before = resident_kib(stickyd.pid());
    let began = Instant::now();
    let share = SESSIONS / 9 + 1;
    together((1..=9).map(|last| mint(stickyd.address, last, share))).await;
    let grown = resident_kib(stickyd.pid()).saturating_sub(before);
    let pins = series(admin, "stickyd_pins").await;
    let evicted = series(admin, "stickyd_pins_evicted_total").await;
    let refused = series(admin, "stickyd_pins_refused_total").await;
    println!(
        "{SESSIONS} minted in {:?}: {pins} pins, {evicted} evicted, {refused} refused, {grown} KiB grown",
        began.elapsed()
    );
    assert!(pins <= series(admin, "stickyd_pins_limit").await && pins > PINS * 0.9, "{pins}");
    assert!(series(admin, "stickyd_pins_limit").await <= PINS + 64.0);
    assert!(evicted + refused >= 90_000.0, "the full table is reported");
    assert!(stickyd.log().contains("[limits] pins"), "{}", stickyd.log());
    assert!(grown < 20 * 1024, "{grown} KiB");
}

/// 20,000 sids made by one address, none of which is used: the memory they need while they are pinned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_thousand_new_sessions_cost_four_megabytes_at_most() {
    const SESSIONS: u64 = 20_000;
    let minted = AtomicU64::new(0);
    let worker = Scripted::start(move |heard| match heard.sid() {
        None => Then::Say(open(&format!("minted-{:013}", minted.fetch_add(1, Relaxed)), 3_600_000)),
        Some(_) => Then::Say(refusal()),
    })
    .await;
    let admin = free_address();
    let config = upstream_of([worker.address.to_string()]);
    let stickyd = Binary::with(&format!("{config}{MANY}[admin]\naddress = \"{admin}\"\n"));
    mint(stickyd.address, 10, 500).await;
    let before = resident_kib(stickyd.pid());
    mint(stickyd.address, 11, SESSIONS).await;
    let grown = resident_kib(stickyd.pid()).saturating_sub(before);
    let pins = series(admin, "stickyd_pins").await;
    println!("{SESSIONS} minted: {pins} pins, {grown} KiB grown");
    assert_eq!(pins, SESSIONS as f64 + 500.0);
    assert!(grown <= 4_000, "{grown} KiB");
}

/// For [`mint`], because a connection ends after the default number of requests.
const MANY: &str = "[limits]\nrequests_per_connection = 1_000_000\n";

/// Sends `count` handshakes, one after the other, on one connection from 127.0.0.`last`.
async fn mint(to: SocketAddr, last: u8, count: u64) {
    let mut stream = Ask::new(to).from([127, 0, 0, last]).connect().await.unwrap();
    let mut answer = [0; 4096];
    for _ in 0..count {
        stream.write_all(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut length = 0;
        // The answer to a handshake ends with its packet.
        while !answer[..length].ends_with(b"}") {
            let read = stream.read(&mut answer[length..]).await.unwrap();
            assert!(read > 0, "{}", String::from_utf8_lossy(&answer[..length]));
            length += read;
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer[..length]));
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The value of one series of a stickyd that runs as its own process.
async fn series(admin: SocketAddr, name: &str) -> f64 {
    let metrics = Ask::new(admin).with("host", admin.to_string()).send("GET", "/metrics", "").await;
    assert_eq!(metrics.status, 200, "{metrics:?}");
    let value = metrics.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.map_or(0.0, |value| value.parse().unwrap())
}
