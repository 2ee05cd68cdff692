//! Attacks on affinity: cookies that are forged, replayed or collected, and sids that are sent to another upstream.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::support::cluster::{SECRET, upstream, upstream_of};
use crate::support::engine_io::{Ask, Session, together};
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::scripted::{Scripted, Then, open, refusal};

/// A worker that makes sessions without end, and refuses those of other workers.
async fn mint(name: &'static str) -> Scripted {
    let number = AtomicU64::new(0);
    Scripted::start(move |heard| match heard.sid() {
        None => Then::Say(open(&format!("{name}-{:016}", number.fetch_add(1, Relaxed)), 25_000)),
        Some(sid) if sid.starts_with(name) => Then::Say("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned()),
        Some(_) => Then::Say(refusal()),
    })
    .await
}

const TRUSTING: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n";

/// A cookie of another fleet, of another upstream, or a forged one is ignored: it does not choose the worker, and the
/// answer sets a new cookie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cookies_that_are_not_ours_choose_nothing() {
    let worker = mint("m").await;
    let config = upstream_of([worker.address.to_string()]);
    let (ours, theirs) = (Proxy::with(&format!("{SECRET}{config}")), Proxy::with(&config));
    let renamed = config.replace("[upstream.app]", "[upstream.other]");
    let other = Proxy::with(&format!("{SECRET}{renamed}"));
    let begin = |proxy: &Proxy| Session::begin(Ask::new(proxy.address));
    let foreign = begin(&theirs).await.1.cookie().unwrap();
    let of_another = begin(&other).await.1.cookie().unwrap().replace("stickyd_other=", "stickyd_app=");
    let own = begin(&ours).await.1.cookie().unwrap();
    let value = own.strip_prefix("stickyd_app=").unwrap();
    let mut all = vec![foreign, of_another, "stickyd_app=".to_owned(), format!("stickyd_app={}", "A".repeat(48))];
    // Every character counts: those of the client's name, of the worker, and of the MAC.
    for place in 0..value.len() {
        let letter = if value.as_bytes()[place] == b'A' { 'B' } else { 'A' };
        all.push(format!("stickyd_app={}{letter}{}", &value[..place], &value[place + 1..]));
    }
    for cookie in all {
        let (_, answer) = Session::begin(Ask::new(ours.address).with("cookie", &*cookie)).await;
        assert!(answer.cookie().is_some_and(|new| new != cookie), "a changed cookie was accepted: {cookie}");
    }
    let by_cookie = "stickyd_affinity_total{source=\"cookie\",upstream=\"app\"}";
    assert_eq!(ours.metric(by_cookie), 0.0);
    assert_eq!(Session::begin(Ask::new(ours.address).with("cookie", own)).await.1.cookie(), None);
    assert_eq!(ours.metric(by_cookie), 1.0);
}

/// One cookie is given to 1,200 clients; then 1,200 clients have their own cookies that name one worker. That worker
/// gets at most half more than its share, and all clients are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_cookies_do_not_bind_everyone_to_one_worker() {
    let workers = [mint("a").await, mint("b").await, mint("c").await, mint("d").await];
    let config = upstream_of(workers.iter().map(|worker| worker.address.to_string()));
    for collected in [false, true] {
        let proxy = Proxy::with(&format!("{SECRET}{TRUSTING}{config}"));
        // The other proxy of the fleet sets the cookies, so that they do not count at this one.
        let source = Proxy::with(&format!("{SECRET}{TRUSTING}{config}"));
        let mut stolen = Vec::new();
        for n in 0..if collected { 60 } else { 1 } {
            let ask = Ask::new(source.address).with("x-forwarded-for", format!("192.0.2.{n}"));
            let (session, answer) = Session::begin(ask).await;
            if !collected || session.sid.starts_with('a') {
                stolen.push(answer.cookie().unwrap());
            }
        }
        assert!(!stolen.is_empty());
        let clients = (0..1_200_usize).map(|n| {
            let cookie = stolen[n % stolen.len()].clone();
            let ask = Ask::new(proxy.address).with("cookie", cookie);
            let ask = ask.with("x-forwarded-for", format!("198.51.{}.{}", n / 200, n % 200));
            async move { Session::begin(ask).await.1.status }
        });
        let clients: Vec<_> = clients.collect();
        let mut served = 0;
        let mut clients = clients.into_iter();
        loop {
            let some: Vec<_> = clients.by_ref().take(40).collect();
            if some.is_empty() {
                break;
            }
            served += together(some).await.len();
        }
        assert_eq!(served, 1_200);
        let loads: Vec<_> = (1..=4).map(|n| proxy.worker(&format!("w{n}")).sessions()).collect();
        println!("{} cookies, 1,200 clients: {loads:?}", stolen.len());
        assert_eq!(loads.iter().sum::<u32>(), 1_200, "{loads:?}");
        // The share is 300; half more is allowed, then fifty, and what was in flight at the same time.
        assert!(loads.iter().all(|load| *load <= 300 * 3 / 2 + 50 + 40), "{loads:?}");
        assert!(loads.iter().all(|load| *load >= 30), "no worker is idle: {loads:?}");
    }
}

/// Requests without a cookie cannot choose a worker by repetition: the client's address decides, and a cookie names its
/// worker in a way that no other fleet, upstream or spelling can be made to produce.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_cannot_choose_its_worker_by_asking_again() {
    let workers = [mint("a").await, mint("b").await, mint("c").await];
    let config = upstream_of(workers.iter().map(|worker| worker.address.to_string()));
    let proxy = Proxy::with(&format!("{SECRET}{config}"));
    let (mut named, mut used) = (HashSet::new(), HashSet::new());
    for _ in 0..30 {
        let answer = Ask::new(proxy.address).send("GET", "/page", "").await;
        let cookie = answer.cookie().unwrap();
        // Ordinary requests: each gets a cookie with a name of its own, all for the worker of the address.
        assert!(named.insert(cookie));
        // The sids of a worker begin with its name.
        used.insert(answer.body.split_once("\"sid\":\"").unwrap().1.chars().next());
    }
    assert_eq!(used.len(), 1, "{used:?}");
}

/// The sid of a session, sent to another upstream's route: no worker there gets it, nothing is learned, and it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sid_is_worth_nothing_at_another_upstream() {
    let (chat, shop) = (NodeServer::start_many(2, &[]).await, NodeServer::start_many(2, &[]).await);
    let list = |workers: &[crate::support::node::Worker]| {
        format!("{:?}", workers.iter().map(crate::support::node::Worker::address).collect::<Vec<_>>())
    };
    let proxy = Proxy::with(&format!(
        "[upstream.chat]\nworkers = {}\n[upstream.shop]\nworkers = {}\n\
         [[route]]\nhost = \"shop.test\"\nupstream = \"shop\"\n[[route]]\nupstream = \"chat\"\n",
        list(&chat),
        list(&shop)
    ));
    let victim = Session::open(Ask::new(proxy.address)).await;
    let pins = proxy.metric("stickyd_pins");
    let before: Vec<_> = together(chat.iter().map(|worker| worker.port).map(requests_with_sid)).await;
    let thief = Session::made_up(Ask::new(proxy.address).with("host", "shop.test"), &victim.sid);
    for _ in 0..3 {
        let (got, posted) = (thief.get().await, thief.post("42[\"n\",7]").await);
        assert_eq!((got.status, posted.status), (400, 400), "{got:?} {posted:?}");
        assert!(got.body.contains("Session ID unknown"), "{got:?}");
        assert_eq!(thief.upgrade().await.unwrap_err().status, 400);
    }
    let after: Vec<_> = together(chat.iter().map(|worker| worker.port).map(requests_with_sid)).await;
    assert_eq!(
        before.iter().sum::<u64>(),
        after.iter().sum::<u64>(),
        "the workers of the other upstream got no request"
    );
    assert_eq!(proxy.metric("stickyd_pins"), pins, "nothing was learned");
    assert!(victim.echo().await.starts_with('w'), "the session goes on");
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"shop\"}"), 0.0);
}

async fn requests_with_sid(port: u16) -> u64 {
    let stats = Ask::new(([127, 0, 0, 1], port).into()).send("GET", "/stats", "").await;
    let stats: serde_json::Value = serde_json::from_str(&stats.body).unwrap();
    stats["with_sid"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
}

/// A cookie does not lead to a worker that has more than its share; below the share it does, in any order.
/// that it does, whatever the order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_cookie_holds_on_an_evenly_used_upstream() {
    let workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    for client in 1..=20 {
        let (first, answer) = Session::begin(Ask::new(proxy.address).from([127, 0, 3, client])).await;
        let cookie = answer.cookie().unwrap();
        let (second, again) =
            Session::begin(Ask::new(proxy.address).from([127, 0, 4, client]).with("cookie", cookie)).await;
        assert_eq!(again.cookie(), None, "the cookie stays as it is");
        assert_ne!(first.sid, second.sid);
    }
    assert_eq!(proxy.metric("stickyd_affinity_total{source=\"cookie\",upstream=\"app\"}"), 20.0);
}
