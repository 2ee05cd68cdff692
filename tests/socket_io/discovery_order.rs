//! Discovery: which workers are asked, at which paths, how many at once, and on behalf of which client.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::cluster::{upstream, upstream_of};
use crate::support::engine_io::{Ask, Session, together};
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::scripted::{Heard, Scripted, Then, answer, open, refusal};
use crate::support::wait::wait_for_async;

const SID: &str = "AAAAAAAAAAAAAAAAAAAA";

/// Workers that know one session each, `sid0`, `sid1`, …, and answer ordinary requests with their number. Probes do
/// what they do at engine.io (docs/reference/protocols.md §1.5).
async fn engines(count: usize) -> Vec<Scripted> {
    let mut workers = Vec::new();
    for number in 0..count {
        workers.push(Scripted::start(move |heard| engine(number, heard)).await);
    }
    workers
}

fn engine(number: usize, heard: &Heard) -> Then {
    let Some(sid) = heard.sid() else { return Then::Say(answer("200 OK", "", &number.to_string())) };
    let is_mine = sid == format!("sid{number}");
    Then::Say(match heard.line.split(' ').next().unwrap() {
        _ if !is_mine => refusal(),
        "PUT" => answer("500 Internal Server Error", "", ""),
        "POST" => answer("200 OK", "", "ok"),
        _ => answer("200 OK", "", "6"),
    })
}

fn addresses(workers: &[Scripted]) -> String {
    upstream_of(workers.iter().map(|worker| worker.address.to_string()))
}

/// The requests that reached all workers.
fn heard(workers: &[Scripted]) -> Vec<Heard> {
    workers.iter().flat_map(Scripted::heard).collect()
}

/// A page that answers every method, at an upstream with the default affinity: only the client's own request comes to
/// it, whatever its query looks like.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_probe_goes_to_a_path_without_sessions() {
    let mut pages = Vec::new();
    for _ in 0..3 {
        pages.push(Scripted::start(|_| Then::Say(answer("200 OK", "", "done"))).await);
    }
    let proxy = Proxy::with(&addresses(&pages));
    let ask = Ask::new(proxy.address);
    for path in ["/any/path", "/admin/users/1", "/socket.iox/", "/files/socket.io/"] {
        for method in ["GET", "POST"] {
            let before = heard(&pages).len();
            let sid = format!("{method}{}", path.replace('/', "-"));
            let target = format!("{path}?EIO=4&transport=polling&sid={sid}");
            assert_eq!(ask.send(method, &target, "").await.body, "done");
            let all = heard(&pages);
            assert_eq!(all.len(), before + 1, "{path} {method}: {all:?}");
            assert!(all.iter().any(|heard| heard.line == format!("{method} {target}")), "{all:?}");
        }
    }
    // At Engine.IO's default path the question comes first that a HEAD can ask (RFC 9110 §9.2.1: a safe method).
    assert_eq!(ask.send("GET", "/socket.io/?EIO=4&transport=polling&sid=made-up", "").await.body, "done");
    assert!(heard(&pages).iter().all(|heard| !heard.line.starts_with("PUT")), "{:?}", heard(&pages));
    assert_eq!(proxy.metric("stickyd_pins"), 0.0);
}

/// An application that listens at a path of its own: its refusals show where sessions live, and from then on probes
/// find them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_is_learned_from_refusals_and_from_sessions() {
    let workers = engines(4).await;
    let proxy = Proxy::with(&addresses(&workers));
    let ask = Ask::new(proxy.address);
    for number in 0..4 {
        let found = ask.send("GET", &format!("/chat/?EIO=4&transport=polling&sid=sid{number}"), "").await;
        assert_eq!((found.status, found.body.as_str()), (200, "6"), "{number}");
    }
    assert_eq!(proxy.metric("stickyd_pins"), 4.0);
    assert!(heard(&workers).iter().any(|heard| heard.line.starts_with("PUT /chat/?")), "the path is known");

    // Handshakes teach the path once their session comes back.
    let sid = |heard: &Heard| heard.sid().map(str::to_owned);
    let worker = |mine: &'static str| {
        Scripted::start(move |heard| match sid(heard) {
            None => Then::Say(open(mine, 25_000)),
            Some(sid) if sid == mine && heard.line.starts_with("POST") => Then::Say(answer("200 OK", "", "ok")),
            Some(_) => Then::Say(refusal()),
        })
    };
    let workers = [worker("one").await, worker("two").await, worker("three").await];
    let proxy = Proxy::with(&addresses(&workers));
    let ask = Ask::new(proxy.address);
    let made = ask.send("GET", "/rooms/?EIO=4&transport=polling", "").await;
    let mine = ["one", "two", "three"].into_iter().find(|sid| made.body.contains(&format!("\"{sid}\""))).unwrap();
    assert_eq!(ask.send("POST", &format!("/rooms/?EIO=4&transport=polling&sid={mine}"), "40").await.status, 200);
    let refused = ask.send("GET", "/rooms/?EIO=4&transport=polling&sid=nobodys", "").await;
    assert_eq!(refused.status, 400, "{refused:?}");
    assert!(workers.iter().any(|worker| worker.count("PUT /rooms/?") > 0), "the path is known");
}

/// A worker cannot take a probe for a request of its own machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_name_the_client() {
    let workers = engines(3).await;
    let proxy = Proxy::with(&format!("{}forwarded = true\n", addresses(&workers)));
    let ask = Ask::new(proxy.address).from([127, 0, 0, 9]);
    let ask = ask.with("x-forwarded-for", "127.0.0.1").with("x-real-ip", "::1");
    assert_eq!(Session::made_up(ask, SID).get().await.status, 400);
    let all = heard(&workers);
    assert!(all.iter().any(|heard| heard.line.starts_with("PUT")), "{all:?}");
    for heard in all {
        let head = heard.head.to_ascii_lowercase();
        for field in ["x-forwarded-for: 127.0.0.9\r", "x-forwarded-proto: http\r", "x-forwarded-host: app.test\r"] {
            assert!(head.contains(field), "{head}");
        }
        assert!(head.contains("forwarded: for=127.0.0.9") && !head.contains("x-real-ip"), "{head}");
    }
}

/// The ring's guess is right for sessions that the ring has placed: no other worker is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_likely_owner_is_asked_before_all_others() {
    let workers = engines(12).await;
    let proxy = Proxy::with(&addresses(&workers));
    let ask = Ask::new(proxy.address);
    let guess: usize = ask.send("GET", "/", "").await.body.parse().unwrap();
    let found = Session::made_up(ask.clone(), &format!("sid{guess}")).get().await;
    assert_eq!((found.status, found.body.as_str()), (200, "6"));
    for (number, worker) in workers.iter().enumerate().filter(|(number, _)| *number != guess) {
        assert!(worker.heard().is_empty(), "{number}: {:?}", worker.heard());
    }
    assert_eq!(workers[guess].count(&format!("GET /socket.io/?EIO=4&transport=polling&sid=sid{guess}")), 1);
    assert_eq!(proxy.metric("stickyd_pins"), 1.0);
    // A session elsewhere is found through the guess's refusal.
    let other = (guess + 5) % 12;
    assert_eq!(Session::made_up(ask, &format!("sid{other}")).post("40").await.status, 200);
    assert_eq!(workers[other].count("POST"), 1);
}

/// Of many workers, eight are probed at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_workers_are_probed_at_once() {
    const PAUSE: Duration = Duration::from_millis(300);
    let came: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let mut workers = Vec::new();
    for _ in 0..20 {
        let came = came.clone();
        workers.push(
            Scripted::start(move |heard| match heard.line.starts_with("HEAD") {
                true => {
                    came.lock().unwrap().push(Instant::now());
                    Then::Later(PAUSE, refusal())
                }
                false => Then::Say(refusal()),
            })
            .await,
        );
    }
    let proxy = Proxy::with(&addresses(&workers));
    assert_eq!(Session::made_up(Ask::new(proxy.address), SID).get().await.status, 400);
    let came = came.lock().unwrap();
    assert!(came.len() >= 20, "{}", came.len());
    // The first worker that came is the guess, which is asked alone.
    for window in came[1..].windows(9) {
        let apart = window[8].duration_since(window[0]);
        assert!(apart >= PAUSE - Duration::from_millis(20), "nine probes within {apart:?}");
    }
}

/// A search pays for each worker that it asks, so that a large pool is not asked more often than a small one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_sids_pay_for_every_worker_asked() {
    let workers = engines(10).await;
    let limits = "[limits]\ndiscoveries_per_address = 20\ndiscoveries = 200\n";
    let proxy = Proxy::with(&format!("{}{limits}", addresses(&workers)));
    assert_eq!(Session::made_up(Ask::new(proxy.address), "first").get().await.status, 400);
    let before = heard(&workers).len();
    let began = Instant::now();
    let flood = (0..60).map(|i| Session::made_up(Ask::new(proxy.address), &format!("made-up-{i:012}")));
    let answers = together(flood.map(|session| async move { session.get().await.status })).await;
    let seconds = began.elapsed().as_secs_f64();
    let asked = heard(&workers).len() - before;
    let found_out = answers.iter().filter(|status| **status == 400).count();
    println!("60 made-up sids, budget 20/s, 10 workers: {found_out} looked for, {asked} requests in {seconds:.1} s");
    assert!(answers.iter().all(|status| matches!(status, 400 | 503)), "{answers:?}");
    // The bucket, as much on credit, what comes back meanwhile, and the last search.
    assert!(asked as f64 <= 20.0 + 20.0 + 20.0 * seconds + 30.0, "{asked} in {seconds} s");
    assert!(found_out >= 5, "the budget is used: {found_out}");
}

/// A probe takes a place among the worker's connections, and never one more than there are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_keep_to_the_limit_of_connections() {
    let busy = Arc::new(AtomicUsize::new(usize::MAX));
    let mut workers = Vec::new();
    for number in 0..3 {
        let busy = busy.clone();
        workers.push(
            Scripted::start(move |heard| match heard.line.starts_with("GET /slow") {
                true => {
                    busy.store(number, SeqCst);
                    Then::Silence
                }
                false => engine(number, heard),
            })
            .await,
        );
    }
    let limits = "max_connections = 1\nqueue = 10\nqueue_timeout = \"300ms\"\n";
    let proxy = Proxy::with(&format!("{}{limits}", addresses(&workers)));
    let slow = Ask::new(proxy.address);
    let _slow = tokio::task::JoinSet::from_iter([async move { slow.try_send("GET", "/slow", "").await }]);
    wait_for_async("one worker is busy", async || busy.load(SeqCst) < 3).await;
    let busy = busy.load(SeqCst);
    // Sessions of the other workers are found, and the busy one, which is full, is left alone.
    for number in (0..3).filter(|number| *number != busy) {
        let ask = Ask::new(proxy.address).from([127, 0, 0, 40 + u8::try_from(number).unwrap()]);
        assert_eq!(Session::made_up(ask, &format!("sid{number}")).get().await.status, 200, "{number}");
    }
    let heard = workers[busy].heard();
    assert!(heard.iter().all(|heard| heard.line.starts_with("GET /slow")), "{heard:?}");
}

/// After a restart of stickyd the sessions of an application at its own path are found, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_real_workers_are_found_without_probing_pages() {
    let workers = NodeServer::start_many(3, &[]).await;
    let first = Proxy::with(&upstream(&workers));
    let sessions = Session::open_many(12, &Ask::new(first.address)).await;
    let second = Proxy::with(&upstream(&workers));
    for session in sessions {
        let name = session.echo().await;
        assert_eq!(session.through(second.address).echo().await, name);
    }
    assert_eq!(second.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 12.0);
    assert_eq!(second.metric("stickyd_pins"), 12.0);
}
