//! Rules that users write: every place from which an id is learned, and every place in which a request carries it.

use std::time::{Duration, Instant};

use super::{Known, Pool, answer, ask, decision};
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{Message, Raw};

/// An application with jobs in memory: `POST /new/KIND` makes a job and puts its id into the place that KIND names. A
/// later request with the id gets the name of its owner, or a 404.
fn jobs(number: usize, known: &Known, request: &Message) -> String {
    let (path, query) = request.target().split_once('?').unwrap_or_else(|| (request.target(), ""));
    if let Some(kind) = path.strip_prefix("/new/") {
        let id = format!("job {number}.{}", known.lock().unwrap().len());
        known.lock().unwrap().push(id.clone());
        let escaped = id.replace(' ', "%20");
        return match kind {
            "header" => answer("201 Created", &format!("X-Job-Id: {id}\r\n"), ""),
            "cookie" => answer("200 OK", &format!("Set-Cookie: job={escaped}; Path=/\r\n"), "x"),
            "json" => answer("200 OK", "", &format!(r#"{{"a":[0,{{"id":"{id}"}}],"ttl":3000}}"#)),
            "prefix" => answer("200 OK", "", &format!("job: {escaped}\nmore")),
            "location" => answer("201 Created", &format!("Location: http://a/jobs/{escaped}?x=/y\r\n"), ""),
            _ => answer("400 Bad Request", "", ""),
        };
    }
    let named = [
        request.header("x-job-id").map(str::to_owned),
        query.split('&').find_map(|pair| pair.strip_prefix("job=")).map(|id| id.replace('+', " ")),
        request.header("cookie").and_then(|value| value.strip_prefix("job=")).map(|id| id.replace("%20", " ")),
        path.strip_prefix("/jobs/").map(|rest| rest.split('/').next().unwrap().replace("%20", " ")),
    ];
    let id = named.into_iter().flatten().next().unwrap_or_default();
    let mut known = known.lock().unwrap();
    match known.iter().position(|one| *one == id) {
        Some(at) if request.start.starts_with("DELETE") => {
            known.remove(at);
            answer("200 OK", "", "over")
        }
        Some(_) => answer("200 OK", "", &format!("w{number}")),
        None => answer("404 Not Found", "", "no such job"),
    }
}

const RULE: &str = r#"
[affinity.jobs]
learn = [{ from = "header:x-job-id" }, { from = "set-cookie:job" }, { from = "json:a.1.id" }, { from = "prefix:job: {id}" }, { from = "location" }]
lookup = ["header:x-job-id", "query:job", "cookie:job", "path:/jobs/{id}"]
refusal = [{ status = 404, body = "no such job" }]
ends = [{ method = "DELETE" }]
ttl_from = "json:ttl"
"#;

fn config(pool: &Pool) -> String {
    format!("{}{RULE}", pool.upstream("[\"jobs\"]"))
}

/// Makes a new job whose id is in this place; its id and its owner.
fn new(proxy: &Proxy, kind: &str) -> (String, String) {
    let made = ask(proxy, "POST", &format!("/new/{kind}"), "", "");
    assert!(made.status() < 300, "{made:?}");
    let worker = decision(&made).0;
    let text = made.text();
    let id = match kind {
        "header" => made.header("x-job-id").unwrap().to_owned(),
        "cookie" => made.cookie("job").unwrap()["job=".len()..].replace("%20", " "),
        "json" => text.split("\"id\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned(),
        "prefix" => text[5..].lines().next().unwrap().replace("%20", " "),
        _ => made.header("location").unwrap()["http://a/jobs/".len()..].split('?').next().unwrap().replace("%20", " "),
    };
    (id, worker)
}

/// Requests with the id in each of the four places that a rule can look at.
fn ways(proxy: &Proxy, id: &str) -> [Message; 4] {
    let escaped = id.replace(' ', "%20");
    [
        ask(proxy, "GET", "/any", &format!("X-Job-Id: {id}\r\n"), ""),
        ask(proxy, "GET", &format!("/any?a=1&job={}", id.replace(' ', "+")), "", ""),
        ask(proxy, "GET", "/any", &format!("Cookie: job={escaped}\r\n"), ""),
        ask(proxy, "POST", &format!("/jobs/{escaped}/log"), "", "body"),
    ]
}

#[test]
fn ids_are_learned_from_every_place_and_found_in_every_place() {
    let pool = Pool::of(3, jobs);
    let proxy = Proxy::with(&config(&pool));
    let mut owners = Vec::new();
    for kind in ["header", "cookie", "json", "prefix", "location"] {
        for _ in 0..3 {
            let (id, owner) = new(&proxy, kind);
            for found in ways(&proxy, &id) {
                assert_eq!((found.status(), found.text()), (200, owner.as_str()), "{kind} {id}");
                assert_eq!(decision(&found), (owner.clone(), "sid".to_owned(), "jobs".to_owned()), "{kind}");
            }
            owners.push(owner);
        }
    }
    for owner in ["w1", "w2", "w3"] {
        assert_eq!(
            owners.iter().filter(|one| *one == owner).count(),
            5,
            "jobs are spread over the workers: {owners:?}"
        );
    }
    let learned = "stickyd_rule_total{event=\"learned\",rule=\"jobs\",upstream=\"app\"}";
    assert_eq!(proxy.metric(learned), 15.0);
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 0.0);
}

#[test]
fn an_answer_says_how_long_its_session_lives() {
    let pool = Pool::of(2, jobs);
    let proxy = Proxy::with(&config(&pool));
    let shared = proxy.server().shared();
    for (kind, seconds) in [("json", 3_000), ("header", 600)] {
        let (id, _) = new(&proxy, kind);
        let key = shared.sessions.keys.of_rule("app", "jobs", id.as_bytes());
        let (view, ()) = shared.sessions.pins.inspect(key, Instant::now(), |_| ()).unwrap();
        let rounded = Duration::from_millis(200);
        assert!(
            (Duration::from_secs(seconds)..=Duration::from_secs(seconds) + rounded).contains(&view.ttl),
            "{view:?}"
        );
    }
}

#[test]
fn another_stickyd_finds_the_owner_by_refusals() {
    let pool = Pool::of(3, jobs);
    let [here, there] = pool.behind_two(&config(&pool));
    for kind in ["header", "json", "location", "cookie"] {
        let (id, owner) = new(&here, kind);
        let [first, rest @ ..] = ways(&there, &id);
        assert_eq!((first.status(), first.text(), decision(&first).1.as_str()), (200, owner.as_str(), "discovered"));
        for found in rest {
            assert_eq!(
                (found.text(), decision(&found).1.as_str()),
                (owner.as_str(), "sid"),
                "the session is pinned after one discovery"
            );
        }
    }
    // A POST is discovered together with its body.
    let (id, owner) = new(&here, "header");
    let found = ask(&there, "POST", "/any", &format!("X-Job-Id: {id}\r\n"), "a body");
    assert_eq!((found.status(), found.text()), (200, owner.as_str()));
}

#[test]
fn an_unknown_id_gets_the_last_refusal_of_the_workers() {
    let pool = Pool::of(3, jobs);
    let proxy = Proxy::with(&config(&pool));
    let none = ask(&proxy, "GET", "/any?job=made-up", "", "");
    assert_eq!((none.status(), none.text()), (404, "no such job"));
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"unknown\",upstream=\"app\"}"), 1.0);
    assert_eq!(proxy.metric("stickyd_discovery_attempts_total{kind=\"request\",upstream=\"app\"}"), 3.0);
}

#[test]
fn an_end_or_a_refusal_removes_the_pin() {
    let pool = Pool::of(2, jobs);
    let proxy = Proxy::with(&config(&pool));
    let (id, owner) = new(&proxy, "header");
    let gone = ask(&proxy, "DELETE", "/any", &format!("X-Job-Id: {id}\r\n"), "");
    assert_eq!((gone.status(), decision(&gone).0), (200, owner));
    assert_eq!(proxy.server().shared().sessions.pins.len(), 0);
    assert_eq!(proxy.metric("stickyd_rule_total{event=\"ended\",rule=\"jobs\",upstream=\"app\"}"), 1.0);
}

#[test]
fn an_id_belongs_to_one_upstream_only() {
    let (one, two) = (Pool::of(2, jobs), Pool::of(2, jobs));
    let second = two.upstream("[\"jobs\"]").replace("upstream.app", "upstream.two");
    let routes = "[[route]]\nhost = \"two\"\nupstream = \"two\"\n[[route]]\nupstream = \"app\"\n";
    let proxy = Proxy::with(&format!("{}{second}{routes}{RULE}", one.upstream("[\"jobs\"]")));
    let (id, _) = new(&proxy, "header");
    let foreign = format!("GET /any HTTP/1.1\r\nHost: two\r\nX-Job-Id: {id}\r\nConnection: close\r\n\r\n");
    let asked = Raw::connect(proxy.address).ask(&foreign);
    assert_eq!(asked.status(), 404, "{asked:?}");
    assert_eq!(proxy.server().shared().sessions.pins.len(), 1);
}

#[test]
fn an_id_made_by_the_client_is_hashed_alike_and_pinned() {
    let pool = Pool::of(3, |number, _, _| answer("200 OK", "", &format!("w{number}")));
    let rule = "[affinity.room]\nclient_made = true\nlookup = [\"query:room\"]\n";
    let [here, there] = pool.behind_two(&format!("{}{rule}", pool.upstream("[\"room\"]")));
    let mut seen = Vec::new();
    for room in 0..30 {
        let target = format!("/?room=r{room}");
        let (first, other) = (ask(&here, "GET", &target, "", ""), ask(&there, "GET", &target, "", ""));
        assert_eq!(first.text(), other.text(), "the same hash");
        let again = ask(&here, "GET", &target, "", "");
        assert_eq!((again.text(), decision(&again).1.as_str()), (first.text(), "sid"));
        seen.push(first.text().to_owned());
    }
    for worker in ["w1", "w2", "w3"] {
        assert!(seen.iter().any(|one| one == worker), "{seen:?}");
    }
    assert_eq!(here.server().shared().sessions.pins.len(), 30);
}

#[test]
fn creating_requests_of_a_gone_worker_are_not_discovered() {
    let pool = Pool::of(2, jobs);
    let creates = "creates = [{ method = \"PUT\" }]\n";
    let proxy = Proxy::with(&format!("{}{creates}", config(&pool)));
    let put = ask(&proxy, "PUT", "/any", "X-Job-Id: unknown\r\n", "x");
    assert_eq!(put.status(), 404);
    assert_eq!(proxy.metric("stickyd_discovery_attempts_total{kind=\"request\",upstream=\"app\"}"), 0.0);
}

#[test]
fn discovery_asks_for_uncompressed_answers() {
    let zipped = |_: usize, _: &Known, request: &Message| {
        let encoding = request.header("accept-encoding").map_or("", |_| "Content-Encoding: gzip\r\n");
        answer("404 Not Found", encoding, "no such job")
    };
    let pool = Pool::of(3, zipped);
    let proxy = Proxy::with(&config(&pool));
    let none = ask(&proxy, "GET", "/any?job=made-up", "Accept-Encoding: gzip\r\n", "");
    assert_eq!((none.status(), none.header("content-encoding")), (404, None));
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"unknown\",upstream=\"app\"}"), 1.0);
}

#[test]
fn pins_and_explain_show_the_rule() {
    let pool = Pool::of(2, jobs);
    let binary = Binary::with(&format!("state_dir = \".\"\n{}", config(&pool)));
    let made = Raw::connect(binary.address).ask("POST /new/header HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    let (id, owner) = (made.header("x-job-id").unwrap().replace(' ', "%20"), decision(&made).0);
    let asked = |path: &str| -> serde_json::Value {
        let answer = Raw::connect_unix(&binary.admin()).get(path);
        serde_json::from_slice(&answer.body).unwrap()
    };
    for rule in ["", "&rule=jobs"] {
        let pin = asked(&format!("/api/v1/pins?sid={id}{rule}"));
        assert_eq!((&pin["rule"], &pin["worker"]), (&"jobs".into(), &owner.as_str().into()), "{pin}");
        let explained = asked(&format!("/api/v1/explain?sid={id}{rule}"));
        assert_eq!((&explained["rule"], &explained["now"]["why"]), (&"jobs".into(), &"pinned".into()), "{explained}");
    }
    assert!(asked(&format!("/api/v1/pins?sid={id}&rule=mcp"))["error"].as_str().unwrap().contains("`mcp`"));
}
