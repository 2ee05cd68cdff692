//! Discovery: refusals in the forms that networks and frameworks send, and refusals that other workers make up.

use std::sync::{Arc, Mutex};

use crate::support::proxy::Proxy;
use crate::support::raw::{Leg, Message, Raw, RawWorker, ok};

const RULE: &str = "[affinity.jobs]\nlearn = [{ from = \"header:x-job-id\", method = \"POST\" }]\nlookup = [\"query:job\"]\n\
    refusal = [{ status = 404, body = \"no such job\" }]\n";

/// Three workers that know only their own job, `w1`, `w2` or `w3`; `refuse` answers all other requests.
struct Town {
    workers: Vec<RawWorker>,
    limits: &'static str,
}

impl Town {
    fn new(refuse: impl Fn(&mut Leg, &Message) + Send + Sync + 'static) -> Self {
        let refuse = Arc::new(refuse);
        let worker = |number: usize| {
            let (refuse, name) = (refuse.clone(), format!("w{number}"));
            RawWorker::scripted(move |leg| {
                while let Some(request) = leg.request() {
                    if request.target().contains(&format!("job={name}")) {
                        leg.send(ok(&format!("{name}:{}", request.body.len())));
                    } else {
                        refuse(leg, &request);
                    }
                }
            })
        };
        Self { workers: (1..=3).map(worker).collect(), limits: "" }
    }

    /// A stickyd without pins.
    fn proxy(&self) -> Proxy {
        let named =
            |(i, worker): (usize, &RawWorker)| format!("{{ address = \"{}\", name = \"w{}\" }}", worker.address, i + 1);
        let workers: Vec<_> = self.workers.iter().enumerate().map(named).collect();
        let workers = workers.join(", ");
        Proxy::with(&format!("[upstream.app]\nworkers = [{workers}]\naffinity = [\"jobs\"]\n{RULE}{}", self.limits))
    }

    /// Checks that each of the three sessions is found with these fields and this body.
    fn all_are_found(&self, fields: &str, body: &str) -> Vec<Message> {
        let proxy = self.proxy();
        let ask = |name: &str| {
            let length = body.len();
            let request =
                format!("POST /?job={name} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {length}\r\n\r\n{body}");
            let answer = Raw::connect(proxy.address).ask(&request);
            assert_eq!((answer.status(), answer.text()), (200, format!("{name}:{length}").as_str()), "{answer:?}");
            answer
        };
        ["w1", "w2", "w3"].map(ask).into()
    }
}

const REFUSAL: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 11\r\n\r\nno such job";

#[test]
fn a_refusal_may_come_byte_by_byte() {
    let town = Town::new(|leg, _| {
        for byte in REFUSAL.bytes() {
            leg.send([byte]);
            std::thread::yield_now();
        }
    });
    town.all_are_found("", "body");
}

#[test]
fn a_refusal_may_be_chunked_with_trailers() {
    let town = Town::new(|leg, _| {
        leg.send("HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno \r\n8;x=y\r\nsuch job\r\n0\r\nX-T: 1\r\n\r\n");
    });
    town.all_are_found("", "body");
}

/// A framework that compresses where it may: discovery does not allow it, because the answer has to be read.
#[test]
fn discovery_works_for_clients_that_accept_compression() {
    let town = Town::new(|leg, request| {
        if request.header("accept-encoding").is_some() {
            leg.send("HTTP/1.1 404 Not Found\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x08\x02\x03");
        } else {
            leg.send(REFUSAL);
        }
    });
    town.all_are_found("Accept-Encoding: gzip, br\r\n", "body");
}

/// Nothing of a refusal reaches the client, especially no cookie.
#[test]
fn fields_of_refusals_are_dropped() {
    let town = Town::new(|leg, _| {
        leg.send("HTTP/1.1 404 Not Found\r\nSet-Cookie: stranger=1\r\nX-Stranger: 1\r\nContent-Length: 11\r\n\r\nno such job");
    });
    for answer in town.all_are_found("", "body") {
        assert_eq!((answer.header("set-cookie"), answer.header("x-stranger")), (None, None), "{answer:?}");
    }
}

/// Bodies are held so that they can be sent again. A body that is too large goes to one worker only, and its client is
/// not refused with "unknown session" because of that.
#[test]
fn bodies_are_sent_again_to_the_next_worker() {
    let town = Town::new(|leg, _| {
        leg.send(REFUSAL);
    });
    town.all_are_found("", &"x".repeat(900_000));
    let proxy = town.proxy();
    let mut found = 0;
    for name in ["w1", "w2", "w3"] {
        let body = "x".repeat(3_000_000);
        let request = format!("POST /?job={name} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let answer = Raw::connect(proxy.address).ask(&request);
        match answer.status() {
            200 => assert_eq!(answer.text(), format!("{name}:3000000")),
            status => assert_eq!((status, answer.header("retry-after")), (503, Some("1")), "{answer:?}"),
        }
        found += usize::from(answer.status() == 200);
    }
    println!("3 MB bodies of unpinned sessions: {found} of 3 went right at once");
}

/// Made-up ids use up the budget of their address only; a client with a real id is found at once, from any address.
#[test]
fn a_flood_of_made_up_ids_delays_no_real_session() {
    let mut town = Town::new(|leg, _| {
        leg.send(REFUSAL);
    });
    town.limits = "[limits]\ndiscoveries_per_address = 10\ndiscoveries = 1000\n";
    let proxy = town.proxy();
    let statuses = Arc::new(Mutex::new(Vec::new()));
    let flood: Vec<_> = (0..8)
        .map(|thread| {
            let (statuses, address) = (statuses.clone(), proxy.address);
            std::thread::spawn(move || {
                let mut raw = Raw::connect(address);
                for number in 0..20 {
                    let status = raw.get(&format!("/?job=unknown-{thread}-{number}")).status();
                    statuses.lock().unwrap().push(status);
                }
            })
        })
        .collect();
    // A real id from another address in the middle of the flood is found, with the budget of that address.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.3.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&proxy.address.into()).unwrap();
    let mut raw = Raw::on(crate::support::raw::patient(socket.into()));
    for name in ["w1", "w2", "w3"] {
        assert_eq!(raw.get(&format!("/?job={name}")).text(), format!("{name}:0"));
    }
    for thread in flood {
        thread.join().unwrap();
    }
    let statuses = statuses.lock().unwrap();
    let count = |status: u16| statuses.iter().filter(|one| **one == status).count();
    println!("160 made-up ids: {} times 404, {} times 503", count(404), count(503));
    assert_eq!(count(404) + count(503), 160);
    let over = proxy.metric("stickyd_discoveries_total{result=\"over_budget\",upstream=\"app\"}");
    assert!(over > 0.0 || count(503) == 0);
}
