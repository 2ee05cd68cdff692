//! Workers and clients that break protocols: rules must neither trust nor fail on what they send.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, mpsc};

use crate::support::proxy::Proxy;
use crate::support::raw::{Leg, Message, Raw, RawWorker, ok};

/// A rule whose ids are made by POST /jobs, carried in every place, and refused with 404.
const RULE: &str = "[affinity.jobs]\n\
    learn = [{ from = \"json:job.id\", method = \"POST\", path = \"/jobs\", status = 201 }]\n\
    lookup = [\"query:job\", \"header:x-job-id\", \"path:/jobs/{id}\"]\n\
    refusal = [{ status = 404, body = \"no such job\" }]\n";

fn created(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 201 Created\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn no_such_job() -> Vec<u8> {
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\nno such job\n".to_vec()
}

/// A proxy with `count` workers w1, w2, … that answer with `answer(name, request)`.
struct Town {
    workers: Vec<RawWorker>,
    proxy: Proxy,
}

impl Town {
    fn new(count: usize, answer: impl Fn(&str, &Message) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::scripted(count, move |name, leg| {
            while let Some(request) = leg.request() {
                if !leg.send(answer(name, &request)) {
                    return;
                }
            }
        })
    }

    fn scripted(count: usize, script: impl Fn(&str, &mut Leg) + Send + Sync + 'static) -> Self {
        let script = Arc::new(script);
        let worker = |number: usize| {
            let (name, script) = (format!("w{number}"), script.clone());
            RawWorker::scripted(move |leg| script(&name, leg))
        };
        let workers: Vec<_> = (1..=count).map(worker).collect();
        let named =
            |(i, worker): (usize, &RawWorker)| format!("{{ address = \"{}\", name = \"w{}\" }}", worker.address, i + 1);
        let named: Vec<_> = workers.iter().enumerate().map(named).collect();
        let proxy =
            Proxy::with(&format!("[upstream.app]\nworkers = [{}]\naffinity = [\"jobs\"]\n{RULE}", named.join(", ")));
        Self { workers, proxy }
    }

    /// Workers that know the jobs they made and answer them with their name; `body` makes the body of a new job.
    fn making(count: usize, body: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let owned: Arc<Mutex<HashSet<String>>> = Arc::default();
        Self::new(count, move |name, request| {
            if request.start.starts_with("POST /jobs ") {
                let body = body(name);
                owned.lock().unwrap().insert(name.to_owned());
                return created(&body);
            }
            let made = owned.lock().unwrap().contains(name);
            if made { ok(name).into_bytes() } else { no_such_job() }
        })
    }

    fn ask(&self, request: &str) -> Message {
        Raw::connect(self.proxy.address).ask(request)
    }

    fn get(&self, target: &str) -> Message {
        Raw::connect(self.proxy.address).get(target)
    }

    /// The worker's answer to a new job.
    fn post(&self) -> Message {
        self.ask("POST /jobs HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n")
    }

    /// The number of connections of each worker so far, all of which carried a request.
    fn connections(&self) -> Vec<usize> {
        self.workers.iter().map(RawWorker::connections).collect()
    }
}

/// The id with every byte percent-encoded that may have to be.
fn encoded(id: &str) -> String {
    let one = |byte: u8| {
        if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    id.bytes().map(one).collect()
}

#[test]
fn odd_bytes_in_ids_are_ids() {
    for id in [
        "room/α b+c&d=0.26",
        "100%",
        "%41",
        "a\"b\\c",
        "a;b,c",
        "..",
        "\u{1}\u{7f}\u{0}",
        "\u{1F980}",
        "+",
        "a?b#c",
        &"x".repeat(256),
    ] {
        let text = serde_json::to_string(id).unwrap();
        let town = Town::making(3, move |_| format!("{{\"job\": {{\"id\": {text}, \"n\": 1}}}}"));
        assert_eq!(town.post().status(), 201);
        let owner = town.connections().iter().position(|count| *count > 0).unwrap();
        let owner = format!("w{}", owner + 1);
        for target in [format!("/status?a=b&job={}", encoded(id)), format!("/jobs/{}", encoded(id))] {
            let answer = town.get(&target);
            assert_eq!((answer.status(), answer.text()), (200, owner.as_str()), "{target}");
        }
        let asked = town.connections().iter().filter(|count| **count > 0).count();
        assert_eq!(asked, 1, "{id:?}: a learned id is not looked for");
    }
}

#[test]
fn an_id_of_ten_kilobytes_is_not_learned() {
    let id = "x".repeat(10_000);
    let body = format!("{{\"job\": {{\"id\": \"{id}\"}}}}");
    let town = Town::making(3, move |_| body.clone());
    let made = town.post();
    assert_eq!(made.status(), 201);
    assert!(made.text().contains(&id), "the body is complete");
    assert_eq!(town.proxy.metric("stickyd_pins"), 0.0);
    // Nor is the id discovered: one worker gets the request, and its answer is passed on.
    for request in [
        format!("GET /status?job={id} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /jobs/{id} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET /status HTTP/1.1\r\nHost: a\r\nX-Job-Id: {id}\r\n\r\n"),
    ] {
        let before: usize = town.seen();
        let answer = town.ask(&request);
        assert!([200, 404].contains(&answer.status()), "{answer:?}");
        assert_eq!(town.seen() - before, 1, "one worker got the request");
    }
    assert_eq!(town.proxy.metric("stickyd_pins"), 0.0);
}

impl Town {
    /// The number of requests that reached workers.
    fn seen(&self) -> usize {
        let heads = |worker: &RawWorker| worker.bytes().windows(9).filter(|w| *w == b"HTTP/1.1\r").count();
        self.workers.iter().map(heads).sum()
    }
}

/// Bytes that are not text in places where ids are read: whether they count as an id or not, they do no harm.
#[test]
fn bytes_that_are_not_text_do_no_harm() {
    let town = Town::making(2, |_| "{\"job\": {\"id\": \"a\"}}".to_owned());
    town.post();
    for target in
        ["/jobs/%ff%fe", "/status?job=%ff%00", "/status?job=%", "/status?job=%zz", "/jobs/%2f%2e%2e", "/jobs/"]
    {
        let answer = town.get(target);
        assert!([200, 404].contains(&answer.status()), "{target}: {answer:?}");
    }
    let mut raw = Raw::connect(town.proxy.address);
    raw.send(b"GET /status HTTP/1.1\r\nHost: a\r\nX-Job-Id: \xc3\xa9\r\n\r\n");
    assert!([200, 404].contains(&raw.answer().status()));
    // Two different ids: whichever is chosen, one request gets one answer.
    let twice = town.ask("GET /status HTTP/1.1\r\nHost: a\r\nX-Job-Id: a\r\nX-Job-Id: b\r\n\r\n");
    assert!([200, 404].contains(&twice.status()), "{twice:?}");
    assert_eq!(town.get("/jobs/a").status(), 200, "the session goes on");
}

/// A body from which an id is learned is held up to a bound; at the bound it is passed on, and the rest as it comes.
#[test]
fn a_body_that_never_ends_is_passed_on() {
    let (go, gone) = mpsc::channel::<()>();
    let gone = Mutex::new(gone);
    let town = Town::scripted(1, move |_, leg| {
        leg.request();
        leg.send("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n");
        let piece = "x".repeat(1000);
        leg.send("9\r\n{\"junk\":\"\r\n");
        for _ in 0..100 {
            leg.send(format!("3e8\r\n{piece}\r\n"));
        }
        // What the client has read by then must have been passed on before the rest came.
        gone.lock().unwrap().recv().unwrap();
        leg.send("4\r\nlast\r\n");
        leg.until_closed();
    });
    let mut raw = Raw::connect(town.proxy.address);
    raw.send("POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(raw.head().unwrap().status(), 201);
    let mut came = raw.exactly(100_000);
    assert!(came.windows(9).any(|w| w == b"{\"junk\":\""));
    go.send(()).unwrap();
    while !came.ends_with(b"last\r\n") {
        came.extend(raw.exactly(1));
    }
    assert_eq!(town.proxy.metric("stickyd_pins"), 0.0);
}

/// A body that pauses is held for a while; then what has come is passed on.
#[test]
fn a_body_that_stands_still_is_passed_on() {
    let town = Town::scripted(1, |_, leg| {
        leg.request();
        leg.send("HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"job\":\r\n");
        leg.until_closed();
    });
    let mut raw = Raw::connect(town.proxy.address);
    raw.send("POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(raw.head().unwrap().status(), 201);
    assert_eq!(raw.exactly(12), b"7\r\n{\"job\":\r\n");
}

/// Depth and size of JSON are bounded, and the body passes unchanged in any case.
#[test]
fn json_that_is_deep_huge_or_invalid_passes() {
    let deep = "[".repeat(8_000);
    let hole = format!("{{\"job\":{}", "{\"job\":".repeat(2_000));
    let huge = format!("{{\"filler\":\"{}\",\"job\":{{\"id\":\"late\"}}}}", "y".repeat(10_000_000));
    let many = format!("[{}]", vec!["0"; 7_000].join(","));
    for body in
        [deep, hole, huge, many, String::new(), "null".into(), "\"a\"".into(), "{\"job\":{\"id\":[\"a\"]}}".into()]
    {
        let answer = body.clone();
        let town = Town::making(1, move |_| answer.clone());
        let made = town.post();
        assert_eq!((made.status(), made.body.len()), (201, body.len()));
        assert!(made.body == body.as_bytes(), "the body passes unchanged");
        assert_eq!(town.proxy.metric("stickyd_pins"), 0.0, "{}", &body[..body.len().min(40)]);
    }
}

/// A long body that begins as a refusal is not read to its end, and the last worker's answer passes unchanged.
#[test]
fn a_refusal_of_ten_megabytes_is_not_held() {
    let body: Arc<str> = format!("no such job{}", "z".repeat(10_000_000)).into();
    let sent = body.clone();
    let town = Town::new(3, move |_, _| {
        format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n{sent}", sent.len()).into_bytes()
    });
    let answer = town.get("/jobs/unknown");
    assert_eq!((answer.status(), answer.body.len()), (404, body.len()));
    assert!(answer.body == body.as_bytes(), "the body is complete");
    assert!(town.seen() <= 3, "each worker is asked at most once");

    let town = Town::scripted(3, |_, leg| {
        leg.request();
        leg.send(format!("HTTP/1.1 404 Not Found\r\nContent-Length: 10000000\r\n\r\nno such job{}", "z".repeat(600)));
        leg.until_closed();
    });
    let mut raw = Raw::connect(town.proxy.address);
    raw.send("GET /jobs/unknown HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(raw.head().unwrap().header("content-length"), Some("10000000"));
    assert!(raw.exactly(611).starts_with(b"no such jobz"), "what has come is passed on");
}

/// A refusal without an end: what has come is passed on, and the rest as it comes.
#[test]
fn a_refusal_without_an_end_is_an_answer() {
    let town = Town::scripted(3, |_, leg| {
        leg.request();
        leg.send("HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno \r\n");
        leg.until_closed();
    });
    let mut raw = Raw::connect(town.proxy.address);
    raw.send("GET /jobs/unknown HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(raw.head().unwrap().status(), 404);
    assert_eq!(raw.exactly(8), b"3\r\nno \r\n");
}

/// A worker that names a session of another upstream, or of another worker, does not get its requests.
#[test]
fn a_worker_cannot_take_the_sessions_of_others() {
    let answer = |name: &'static str| {
        move |request: &Message| {
            if request.start.starts_with("POST /jobs ") || request.start.starts_with("POST /b/jobs ") {
                String::from_utf8(created("{\"job\": {\"id\": \"one\"}}")).unwrap()
            } else {
                ok(name)
            }
        }
    };
    let [a1, a2, b1] = ["a1", "a2", "b1"].map(|name| RawWorker::answering(answer(name)));
    let proxy = Proxy::with(&format!(
        "[[route]]\nhost = \"b.example\"\nupstream = \"b\"\n[[route]]\nupstream = \"a\"\n\
         [upstream.a]\naffinity = [\"jobs\"]\nworkers = [{{ address = \"{}\", name = \"a1\" }}, {{ address = \"{}\", name = \"a2\" }}]\n\
         [upstream.b]\naffinity = [\"jobs\"]\nworkers = [{{ address = \"{}\", name = \"b1\" }}]\n{RULE}",
        a1.address, a2.address, b1.address
    ));
    let ask = |method: &str, target: &str, host: &str| {
        let request = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        Raw::connect(proxy.address).ask(&request)
    };
    assert_eq!(ask("POST", "/jobs", "a.example").status(), 201);
    let owner = ask("GET", "/jobs/one", "a.example").text().to_owned();
    assert_eq!(ask("POST", "/jobs", "b.example").status(), 201);
    assert_eq!(ask("GET", "/jobs/one", "b.example").text(), "b1");
    assert_eq!(ask("GET", "/jobs/one", "a.example").text(), owner);
    // Other workers of the same upstream claim the id, too: a pin never moves.
    while a1.connections().min(a2.connections()) == 0 {
        ask("POST", "/jobs", "a.example");
    }
    for _ in 0..3 {
        assert_eq!(ask("GET", "/jobs/one", "a.example").text(), owner);
    }
}

/// An id that no worker knows leaves no pin.
#[test]
fn unknown_everywhere_is_the_last_workers_own_answer() {
    let town = Town::new(3, |_, _| no_such_job());
    let answer = town.get("/jobs/nobodys");
    assert_eq!((answer.status(), answer.text()), (404, "no such job\n"));
    assert_eq!(town.seen(), 3, "each worker was asked once");
    assert_eq!(town.proxy.metric("stickyd_pins"), 0.0);
    // The miss is remembered for a second: another request meanwhile costs one request to a worker at most.
    assert_eq!(town.get("/jobs/nobodys").status(), 404);
    assert!(town.seen() <= 4);
}
