//! `[[route]] status`: what an application's own page asks when its socket is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::support::proxy::{Proxy, free_address};
use crate::support::raw::{Message, Raw, RawWorker, ok};
use crate::support::wait::wait_for;

fn ask(proxy: &Proxy, method: &str, path: &str, fields: &str) -> Message {
    Raw::connect(proxy.address).ask(&format!("{method} {path} HTTP/1.1\r\nHost: chat.example\r\n{fields}\r\n"))
}

/// A worker whose health check passes while the switch is on.
fn switched(on: &Arc<AtomicBool>) -> RawWorker {
    let on = on.clone();
    RawWorker::answering(move |_| match on.load(SeqCst) {
        true => ok("fine"),
        false => "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n".to_owned(),
    })
}

/// A proxy of these workers whose route has the status and further keys.
fn proxy(workers: &[String], route: &str) -> Proxy {
    Proxy::with(&format!(
        "[upstream.app]\nworkers = {workers:?}\nhealth = {{ path = \"/health\", interval = \"100ms\", timeout = \"50ms\", fall = 1 }}\n\
         [[route]]\nupstream = \"app\"\n{route}"
    ))
}

#[test]
fn a_page_learns_ok_degraded_or_down_and_nothing_else() {
    let switches = [(); 2].map(|()| Arc::new(AtomicBool::new(true)));
    let (one, two) = (switched(&switches[0]), switched(&switches[1]));
    let workers = [one.address.to_string(), two.address.to_string()];
    let proxy = proxy(&workers, "status = \"/status.json\"");
    let says = |word: &str, status: u16| {
        wait_for(&format!("the status is {word}"), || {
            let answer = ask(&proxy, "GET", "/status.json?t=1", "");
            let seen = (answer.text().to_owned(), answer.status());
            if seen == (format!("{{\"status\":\"{word}\"}}"), status) { Ok(answer) } else { Err(seen) }
        })
    };
    let answer = says("ok", 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!((answer.header("cache-control"), answer.header("vary")), (Some("no-store"), None));
    assert_eq!(answer.header("access-control-allow-origin"), None, "without `origins` only its own pages may read it");
    // What an operator has set aside is not missed.
    let admin = stickyd::testing::upstream::AdminChange::Say(stickyd::testing::config::AdminState::Maint, None);
    let shared = proxy.server().shared().snapshot.load();
    let upstream = shared.upstream("app").unwrap();
    proxy.worker(&workers[1]).change(admin, &upstream.config);
    says("ok", 200);
    let admin = stickyd::testing::upstream::AdminChange::Say(stickyd::testing::config::AdminState::Ready, None);
    proxy.worker(&workers[1]).change(admin, &upstream.config);
    switches[1].store(false, SeqCst);
    says("degraded", 200);
    switches[0].store(false, SeqCst);
    says("down", 503);
    switches.iter().for_each(|switch| switch.store(true, SeqCst));
    says("ok", 200);
}

#[test]
fn other_pages_may_read_the_status_by_origins() {
    let worker = RawWorker::named("one");
    let route = "status = \"/status.json\"\norigins = [\"https://app.example\"]\ndeny = [\"127.0.0.9\"]";
    let proxy = proxy(&[worker.address.to_string()], route);
    let from = |method: &str, origin: &str| ask(&proxy, method, "/status.json", &format!("Origin: {origin}\r\n"));
    let allowed = from("GET", "https://app.example");
    assert_eq!((allowed.status(), allowed.header("vary")), (200, Some("Origin")));
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(allowed.header("access-control-allow-credentials"), None);
    let foreign = from("GET", "https://evil.example");
    assert_eq!((foreign.status(), foreign.header("access-control-allow-origin")), (200, None));
    assert_eq!(foreign.header("vary"), Some("Origin"), "caches must keep them apart");
    let head = from("HEAD", "https://app.example");
    assert_eq!((head.status(), head.text(), head.header("content-length")), (200, "", Some("15")));
    let preflight = from("OPTIONS", "https://app.example");
    assert_eq!((preflight.status(), preflight.text()), (204, ""));
    assert_eq!(preflight.header("access-control-allow-methods"), Some("GET, HEAD, OPTIONS"));
    assert_eq!(from("OPTIONS", "https://evil.example").header("access-control-allow-methods"), None);
    let posted = ask(&proxy, "POST", "/status.json", "Content-Length: 0\r\n");
    assert_eq!((posted.status(), posted.header("allow")), (405, Some("GET, HEAD, OPTIONS")));
    // Networks that the route denies get nothing, here as everywhere.
    let denied = Raw::connect_from("127.0.0.9".parse().unwrap(), proxy.address).get("/status.json");
    assert_eq!(denied.status(), 403);
    assert_eq!(ask(&proxy, "GET", "/status.json/x", "").text(), "one", "only this path is stickyd's");
}

#[test]
fn the_status_is_off_unless_a_route_has_it() {
    let worker = RawWorker::named("one");
    let text = format!(
        "[upstream.app]\nworkers = [\"{}\"]\n[upstream.dead]\nworkers = [\"{}\"]\n[[route]]\npath = \"/dead\"\n\
         upstream = \"dead\"\nstatus = \"/dead/status.json\"\n[[route]]\nupstream = \"app\"",
        worker.address,
        free_address()
    );
    let proxy = Proxy::with(&text);
    assert_eq!(ask(&proxy, "GET", "/status.json", "").text(), "one");
    wait_for("the other upstream is down", || ask(&proxy, "GET", "/dead/status.json", "").status() == 503);
    let dead = proxy.server().shared().clone();
    assert!(dead.snapshot.load().upstream("dead").is_some());
}
