//! New sessions are placed by the sum of the sessions on all stickyds.

use std::collections::BTreeMap;

use crate::support::cluster::SECRET;
use crate::support::engines::{begin_session, many_sessions};
use crate::support::proxy::Proxy;
use crate::support::raw::RawWorker;
use crate::support::redis::Redis;
use crate::support::wait::wait_for;

fn start(name: &str, workers: &[(&str, &RawWorker)], redis: &Redis) -> Proxy {
    let named =
        |(name, worker): &(&str, &RawWorker)| format!("{{ address = \"{}\", name = {name:?} }}", worker.address);
    let workers: Vec<_> = workers.iter().map(named).collect();
    let list = workers.join(", ");
    let upstream = format!("[upstream.app]\nworkers = [{list}]\nslow_start = \"0s\"\n");
    Proxy::with(&format!("{SECRET}{upstream}[fleet]\nredis = {:?}\nname = {name:?}\n", redis.url()))
}

/// Sessions of each worker through one stickyd.
fn sessions(proxy: &Proxy, names: &[&str]) -> BTreeMap<String, u32> {
    names.iter().map(|name| ((*name).to_owned(), proxy.worker(name).sessions())).collect()
}

/// Waits until a stickyd has seen that the others have this many sessions in all.
fn wait_until_seen(proxy: &Proxy, name: &str, load: u32) {
    wait_for("the sessions of the others are seen", || {
        let seen = proxy.worker(name).load();
        if seen == load { Ok(()) } else { Err(seen) }
    });
}

#[test]
fn the_emptiest_worker_is_that_of_the_whole_fleet() {
    let (mut redis, one, two) = (Redis::start(), many_sessions("one"), many_sessions("two"));
    let a = start("a", &[("one", &one)], &redis);
    let b = start("b", &[("one", &one), ("two", &two)], &redis);
    for _ in 0..20 {
        begin_session(a.address, "");
    }
    assert_eq!(sessions(&a, &["one"])["one"], 20);
    wait_until_seen(&b, "one", 20);
    for _ in 0..20 {
        begin_session(b.address, "");
    }
    let of_b = sessions(&b, &["one", "two"]);
    assert!(of_b["two"] >= 15, "the sum decides: {of_b:?}");
    // Without Redis the own count decides, which has `one` far behind.
    redis.stop();
    wait_until_seen(&b, "one", of_b["one"]);
    for _ in 0..20 {
        begin_session(b.address, "");
    }
    let now = sessions(&b, &["one", "two"]);
    assert!(now["one"] >= of_b["one"] + 10, "the own count decides: {of_b:?}, then {now:?}");
}

#[test]
fn three_stickyds_fill_an_empty_worker_together() {
    let (redis, one, two) = (Redis::start(), many_sessions("one"), many_sessions("two"));
    let old = start("old", &[("one", &one)], &redis);
    for _ in 0..60 {
        begin_session(old.address, "");
    }
    let all: Vec<_> = ["a", "b", "c"].map(|name| start(name, &[("one", &one), ("two", &two)], &redis)).into();
    for proxy in &all {
        wait_until_seen(proxy, "one", 60);
    }
    // Within one view: each places by what it assumes of the others.
    for _ in 0..30 {
        all.iter().for_each(|proxy| _ = begin_session(proxy.address, ""));
    }
    let two: u32 = all.iter().map(|proxy| proxy.worker("two").sessions()).sum();
    // 150 sessions in all: 75 each would be even. By own counts alone `two` would get 45, and without what is assumed
    // of the others nearly all 90.
    assert!((60..=85).contains(&two), "{two} of 90");
}
