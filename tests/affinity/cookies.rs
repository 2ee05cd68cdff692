//! Which worker, over HTTP: by cookie, address, route and weight, and by the admin states of workers.

use std::collections::{HashMap, HashSet};

use crate::support::proxy::Proxy;
use crate::support::raw::{Message, Raw, RawWorker, ok};

/// Workers that answer with their own number.
fn workers(count: usize) -> Vec<RawWorker> {
    (0..count).map(|number| RawWorker::named(&number.to_string())).collect()
}

fn list(workers: &[RawWorker]) -> String {
    format!("{:?}", workers.iter().map(|worker| worker.address.to_string()).collect::<Vec<_>>())
}

fn with_cookie(proxy: &Proxy, cookie: &str) -> Message {
    Raw::connect(proxy.address).ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {cookie}\r\n\r\n"))
}

/// Requests of `count` clients, each with its own address, which a trusted proxy names.
fn many(proxy: &Proxy, count: usize) -> Vec<Message> {
    let mut client = Raw::connect(proxy.address);
    (0..count)
        .map(|n| {
            client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.{}.{}\r\n\r\n", n / 250, n % 250))
        })
        .collect()
}

const TRUSTING: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n";

#[test]
fn the_first_ordinary_answer_sets_a_cookie_that_then_decides() {
    let workers = workers(3);
    let proxy = Proxy::with(&format!("{TRUSTING}[upstream.app]\nworkers = {}", list(&workers)));
    let mut seen = HashSet::new();
    for answer in many(&proxy, 30) {
        let cookie = answer.header("set-cookie").unwrap().to_owned();
        assert!(cookie.starts_with("stickyd_app=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
        let pair = answer.cookie("stickyd_app").unwrap();
        assert_eq!(pair.len(), "stickyd_app=".len() + 48, "the cookie has no address in it");
        // The same cookie from another address, among other cookies.
        let again = with_cookie(&proxy, &format!("x=1; {pair}; y=2"));
        assert_eq!(again.text(), answer.text());
        assert_eq!(again.header("set-cookie"), None, "set once");
        assert!(seen.insert(pair), "each client has its own");
    }
    assert!(many(&proxy, 30).iter().map(Message::text).collect::<HashSet<_>>().len() > 1);
}

#[test]
fn forged_and_foreign_cookies_are_ignored() {
    let workers = workers(3);
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = {0}\n[upstream.other]\nworkers = {0}\n\
         [[route]]\npath = \"/other\"\nupstream = \"other\"\n[[route]]\nupstream = \"app\"",
        list(&workers)
    ));
    let pair = Raw::connect(proxy.address).get("/").cookie("stickyd_app").unwrap();
    let value = pair.strip_prefix("stickyd_app=").unwrap();
    // One valid cookie in 64 begins with an A already.
    let other_letter = if value.starts_with('A') { 'B' } else { 'A' };
    let foreign = Raw::connect(proxy.address).get("/other").cookie("stickyd_other").unwrap();
    for cookie in [
        format!("stickyd_app={}", value.to_ascii_uppercase()),
        format!("stickyd_app={other_letter}{}", &value[1..]),
        format!("stickyd_app={value}A"),
        format!("stickyd_app={}", &value[..47]),
        "stickyd_app=".to_owned(),
        format!("stickyd_app={}", "A".repeat(48)),
        foreign.replace("stickyd_other", "stickyd_app"),
        format!("Stickyd_app={value}"),
    ] {
        let answer = with_cookie(&proxy, &cookie);
        assert!(answer.cookie("stickyd_app").is_some(), "a forged cookie was accepted: {cookie}");
    }
    assert_eq!(
        with_cookie(&proxy, &format!("stickyd_app=zzz; {pair}")).header("set-cookie"),
        None,
        "the valid cookie counts"
    );
}

#[test]
fn answers_that_a_shared_cache_may_store_set_no_cookie() {
    let worker = RawWorker::answering(|request| {
        let field = request.header("x-say").unwrap_or("X: 1").to_owned();
        format!("HTTP/1.1 200 OK\r\n{}\r\nContent-Length: 0\r\n\r\n", field.replace('|', "\r\n"))
    });
    let proxy = Proxy::before(&[worker.address]);
    let mut client = Raw::connect(proxy.address);
    let mut sets = |say: &str| {
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Say: {say}\r\n\r\n"));
        answer.cookie("stickyd_app").is_some()
    };
    for say in [
        "Cache-Control: public",
        "Cache-Control: max-age=60",
        "Cache-Control: s-maxage=1",
        "Cache-Control: no-transform, Public",
        "Expires: Thu, 01 Dec 2044 16:00:00 GMT",
        "Cache-Control: private|Cache-Control: s-maxage=9",
    ] {
        assert!(!sets(say), "{say}");
    }
    for say in [
        "Cache-Control: no-store",
        "Cache-Control: max-age=0",
        "Cache-Control: private, max-age=60",
        "Set-Cookie: theirs=1",
    ] {
        assert!(sets(say), "{say}");
    }
}

#[test]
fn a_workers_own_cookies_pass_with_ours() {
    let worker = RawWorker::answering(|_| {
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n".to_owned()
    });
    let proxy = Proxy::before(&[worker.address]);
    let answer = Raw::connect(proxy.address).get("/");
    let all: Vec<_> = answer.all("set-cookie").collect();
    assert_eq!((all.len(), all[0], all[1]), (3, "a=1; Path=/", "b=2"));
}

#[test]
fn a_preflight_gets_no_cookie() {
    let workers = workers(2);
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = {}", list(&workers)));
    let preflight = "OPTIONS /x HTTP/1.1\r\nHost: a\r\nOrigin: http://o\r\nAccess-Control-Request-Method: POST\r\n\r\n";
    assert_eq!(Raw::connect(proxy.address).ask(preflight).header("set-cookie"), None);
}

#[test]
fn a_drain_and_a_new_session_rewrite_the_cookie() {
    let workers: Vec<_> = (0..2)
        .map(|number| {
            RawWorker::answering(move |request| {
                if request.target().contains("EIO=4") {
                    return ok(&format!(
                        "0{{\"sid\":\"s{number}-{}\",\"pingInterval\":25000,\"pingTimeout\":20000}}",
                        request.target().len()
                    ));
                }
                ok(&number.to_string())
            })
        })
        .collect();
    let config = |states: [&str; 2]| {
        let entries = workers.iter().zip(states);
        let list: Vec<_> =
            entries.map(|(w, state)| format!("{{ address = \"{}\", admin = \"{state}\" }}", w.address)).collect();
        format!("secret = \"0123456789abcdef0123456789abcdef\"\n[upstream.app]\nworkers = [{}]", list.join(", "))
    };
    let proxy = Proxy::with(&config(["ready", "ready"]));
    let first = Raw::connect(proxy.address).get("/");
    let (pair, owner) = (first.cookie("stickyd_app").unwrap(), first.text().parse::<usize>().unwrap());
    let mut states = ["ready"; 2];
    states[owner] = "drain";
    // The fleet shares the secret: another proxy, on which the worker drains, reads the same cookie.
    let draining = Proxy::with(&config(states));
    let ordinary = with_cookie(&draining, &pair);
    assert_eq!(ordinary.text(), owner.to_string(), "ordinary requests of the cookie stay");
    assert_eq!(ordinary.header("set-cookie"), None);
    let handshake = Raw::connect(draining.address)
        .ask(&format!("GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n"));
    assert!(handshake.text().contains(&format!("\"s{}-", 1 - owner)), "{}", handshake.text());
    let rewritten = handshake.cookie("stickyd_app").expect("a rewritten cookie");
    assert_ne!(rewritten, pair);
    let after = with_cookie(&draining, &rewritten);
    assert_eq!(after.text(), (1 - owner).to_string());
    // A worker in maintenance serves no request, with or without its cookie.
    states[owner] = "maint";
    let without = Proxy::with(&config(states));
    let moved = with_cookie(&without, &pair);
    assert_eq!(moved.text(), (1 - owner).to_string());
    assert!(moved.cookie("stickyd_app").is_some());
}

#[test]
fn affinity_by_address_alone() {
    let workers = workers(3);
    let proxy =
        Proxy::with(&format!("{TRUSTING}[upstream.app]\nworkers = {}\naffinity = [\"address\"]", list(&workers)));
    let (first, second) = (many(&proxy, 60), many(&proxy, 60));
    for (one, other) in first.iter().zip(&second) {
        assert_eq!(one.text(), other.text());
        assert_eq!(one.header("set-cookie"), None);
    }
    assert_eq!(first.iter().map(Message::text).collect::<HashSet<_>>().len(), 3);
    // IPv6 addresses count by their /64, because a household has one.
    let mut client = Raw::connect(proxy.address);
    let mut at = |address: &str| {
        client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {address}\r\n\r\n")).text().to_owned()
    };
    let home: HashSet<_> = (1..20).map(|n| at(&format!("2001:db8:0:1::{n:x}"))).collect();
    assert_eq!(home.len(), 1);
    let homes: HashSet<_> = (1..40).map(|n| at(&format!("2001:db8:0:{n:x}::1"))).collect();
    assert_eq!(homes.len(), 3);
}

#[test]
fn affinity_by_cookie_alone() {
    let workers = workers(3);
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = {}\naffinity = [\"cookie\"]", list(&workers)));
    let mut client = Raw::connect(proxy.address);
    let answers: Vec<_> = (0..60).map(|_| client.get("/")).collect();
    assert_eq!(
        answers.iter().map(Message::text).collect::<HashSet<_>>().len(),
        3,
        "the address alone does not choose the worker"
    );
    for answer in &answers {
        let again = with_cookie(&proxy, &answer.cookie("stickyd_app").unwrap());
        assert_eq!((again.text(), again.header("set-cookie")), (answer.text(), None));
    }
}

#[test]
fn affinity_by_socket_io_alone() {
    let workers = workers(3);
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = {}\naffinity = [\"socket.io\"]", list(&workers)));
    let mut client = Raw::connect(proxy.address);
    let answers: Vec<_> = (0..60).map(|_| client.get("/")).collect();
    assert!(answers.iter().all(|answer| answer.header("set-cookie").is_none()));
    assert_eq!(answers.iter().map(Message::text).collect::<HashSet<_>>().len(), 3);
}

#[test]
fn routes_lead_to_upstreams_with_a_cookie_each() {
    let (chat, shop, rest) = (RawWorker::named("chat"), RawWorker::named("shop"), RawWorker::named("rest"));
    let proxy = Proxy::with(&format!(
        "[upstream.chat]\nworkers = [\"{}\"]\n[upstream.shop]\nworkers = [\"{}\"]\n[upstream.rest]\nworkers = [\"{}\"]\n\
         [[route]]\nhost = \"*.chat.example\"\nupstream = \"chat\"\n\
         [[route]]\nhost = \"shop.example\"\npath = \"/cart\"\nupstream = \"shop\"\n\
         [[route]]\npath = \"/rest/\"\nupstream = \"rest\"",
        chat.address, shop.address, rest.address
    ));
    let mut client = Raw::connect(proxy.address);
    for (host, path, expected) in [
        ("a.chat.example", "/", "chat"),
        ("A.CHAT.Example:8080", "/cart", "chat"),
        ("shop.example", "/cart", "shop"),
        ("shop.example:80", "/cart/1?x=/rest", "shop"),
        ("shop.example", "/rest", "rest"),
        ("other.example", "/rest/a", "rest"),
    ] {
        let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.text(), expected, "{host}{path}");
        assert!(answer.cookie(&format!("stickyd_{expected}")).is_some());
    }
    for (host, path) in [("chat.example", "/"), ("shop.example", "/carts"), ("shop.example", "/restful")] {
        let answer = client.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(answer.status(), 404, "{host}{path}");
    }
    assert!((proxy.metric("stickyd_unrouted_total") - 3.0).abs() < f64::EPSILON);
    assert_eq!(client.ask("GET http://x.chat.example/ HTTP/1.1\r\nHost: shop.example\r\n\r\n").text(), "chat");
}

#[test]
fn weights_share_new_clients() {
    let workers = workers(2);
    let proxy = Proxy::with(&format!(
        "{TRUSTING}[upstream.app]\nworkers = [{{ address = \"{}\", weight = 9 }}, \"{}\"]",
        workers[0].address, workers[1].address
    ));
    let mut counts = HashMap::new();
    for answer in many(&proxy, 1_000) {
        *counts.entry(answer.text().to_owned()).or_insert(0) += 1;
    }
    assert!((800..=980).contains(&counts["0"]), "{counts:?}");
    assert!(counts["1"] >= 20, "{counts:?}");
}

#[test]
fn a_drained_worker_gets_no_new_clients_and_maint_none_at_all() {
    let workers = workers(3);
    let proxy = Proxy::with(&format!(
        "{TRUSTING}[upstream.app]\nworkers = [\"{}\", {{ address = \"{}\", admin = \"drain\" }}, {{ address = \"{}\", admin = \"maint\" }}]",
        workers[0].address, workers[1].address, workers[2].address
    ));
    assert!(many(&proxy, 50).iter().all(|answer| answer.text() == "0"));
    let all_out = Proxy::with(&format!(
        "[upstream.app]\nworkers = [{{ address = \"{}\", admin = \"maint\" }}]",
        workers[0].address
    ));
    let answer = Raw::connect(all_out.address).get("/");
    assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")));
}

#[test]
fn cookie_attributes_depend_on_tls_and_the_config() {
    let worker = RawWorker::named("a");
    let proxy = Proxy::with(&format!("{TRUSTING}[upstream.app]\nworkers = [\"{}\"]", worker.address));
    let mut client = Raw::connect(proxy.address);
    let mut ends = |proto: &str, with: &str| {
        let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: {proto}\r\n\r\n"));
        let cookie = answer.header("set-cookie").unwrap().to_owned();
        assert!(cookie.ends_with(with), "{cookie}");
    };
    ends("https", "; SameSite=Lax; Secure");
    ends("http", "; SameSite=Lax");
    for (word, with) in [("strict", "; SameSite=Strict"), ("none", "; SameSite=None; Secure; Partitioned")] {
        let proxy = Proxy::with(&format!(
            "[upstream.app]\nworkers = [\"{}\"]\ncookie = {{ same_site = \"{word}\" }}",
            worker.address
        ));
        let answer = Raw::connect(proxy.address).get("/");
        assert!(answer.header("set-cookie").unwrap().ends_with(with), "{answer:?}");
    }
}
