//! Workers that authenticate connections (NTLM, Negotiate; RFC 4559 §6): the next client is not taken for another.

use crate::support::h2::{Secured, ask};
use crate::support::proxy::Proxy;
use crate::support::raw::{Leg, Message, Raw, RawWorker, ok};
use crate::support::wait::wait_for;

/// Health checks send no requests, and requests without a cookie are spread by chance.
const CHANCE: &str = "affinity = [\"socket.io\", \"cookie\"]\nhealth = { kind = \"tcp\", interval = \"1h\" }\n";

/// A worker that authenticates its connections: three requests make the user of a connection `alice`, as do credentials
/// `Negotiate whole` alone. It answers with the user and the number of the connection.
fn worker(challenge: &'static str) -> RawWorker {
    RawWorker::scripted(move |leg| {
        let (mut user, mut asked) = ("nobody", false);
        while let Some(request) = leg.request() {
            let credentials = request.header("authorization").unwrap_or_default().to_owned();
            if credentials == "Negotiate whole" || (credentials.ends_with(" answer") && asked) {
                user = "alice";
            }
            asked = credentials.ends_with(" hello");
            if !reply(leg, &request, user, challenge, asked) {
                return;
            }
        }
    })
}

fn reply(leg: &mut Leg, request: &Message, user: &str, challenge: &str, asked: bool) -> bool {
    let body = format!("{user}@{}", leg.number);
    if user == "alice" || request.target() == "/open" {
        return leg.send(ok(&body));
    }
    let challenge = if asked { "WWW-Authenticate: NTLM question\r\n" } else { challenge };
    leg.send(format!("HTTP/1.1 401 Who\r\n{challenge}Content-Length: {}\r\n\r\n{body}", body.len()))
}

fn proxy(workers: &[&RawWorker], listener: &str, keys: &str) -> Proxy {
    let workers: Vec<_> = workers.iter().map(|worker| worker.address.to_string()).collect();
    Proxy::with(&format!(
        "threads = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n{listener}\n\
         [upstream.app]\nworkers = {workers:?}\n{CHANCE}{keys}\n"
    ))
}

fn get(client: &mut Raw, fields: &str) -> Message {
    client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

/// The three requests of the handshake; returns the last answer.
fn log_in(client: &mut Raw, fields: &str) -> Message {
    assert_eq!(get(client, fields).status(), 401);
    let question = get(client, &format!("{fields}Authorization: NTLM hello\r\n"));
    assert_eq!((question.status(), question.header("www-authenticate")), (401, Some("NTLM question")));
    get(client, &format!("{fields}Authorization: NTLM answer\r\n"))
}

#[test]
fn an_authenticated_connection_is_its_clients_own() {
    for challenge in [
        "WWW-Authenticate: NTLM\r\n",
        "WWW-Authenticate: Negotiate\r\nWWW-Authenticate: NTLM\r\n",
        "WWW-Authenticate: Basic realm=\"a, b\", nTlM\r\n",
        "WWW-Authenticate: Basic realm=\"a\"\r\nwww-authenticate: NEGOTIATE\r\n",
        "Proxy-Authenticate: NTLM\r\n",
        // The challenge is unknown to stickyd; the client's credentials are not.
        "WWW-Authenticate: Basic realm=\"a\"\r\n",
    ] {
        let (one, two) = (worker(challenge), worker(challenge));
        let proxy = proxy(&[&one, &two], "", "");
        let mut alice = Raw::connect(proxy.address);
        let logged_in = log_in(&mut alice, "");
        assert!(logged_in.text().starts_with("alice@"), "{challenge}: {logged_in:?}");
        for _ in 0..8 {
            assert_eq!(
                get(&mut Raw::connect(proxy.address), "").text().split('@').next(),
                Some("nobody"),
                "{challenge}"
            );
            assert_eq!(get(&mut alice, "").text(), logged_in.text(), "one connection of one worker: {challenge}");
        }
        drop(alice);
        for _ in 0..8 {
            assert_eq!(get(&mut Raw::connect(proxy.address), "").status(), 401, "{challenge}");
        }
    }
}

#[test]
fn credentials_without_a_challenge_count_as_well() {
    let worker = worker("");
    let proxy = proxy(&[&worker], "", "");
    let mut alice = Raw::connect(proxy.address);
    assert!(get(&mut alice, "Authorization: Negotiate whole\r\n").text().starts_with("alice"));
    assert_eq!(get(&mut Raw::connect(proxy.address), "").status(), 401);
    assert!(get(&mut alice, "").text().starts_with("alice"));
}

#[test]
fn connections_without_such_authentication_are_shared() {
    let worker = worker("WWW-Authenticate: Basic realm=\"a\"\r\n");
    let proxy = proxy(&[&worker], "", "");
    for _ in 0..5 {
        assert_eq!(get(&mut Raw::connect(proxy.address), "Authorization: Basic eA==\r\n").status(), 401);
    }
    assert_eq!(worker.connections(), 1);
}

#[test]
fn clients_of_one_front_proxy_are_told_apart() {
    let worker = worker("WWW-Authenticate: NTLM\r\n");
    let proxy = proxy(&[&worker], "trusted_proxies = [\"127.0.0.1\"]", "");
    let mut front = Raw::connect(proxy.address);
    assert!(log_in(&mut front, "X-Forwarded-For: 192.0.2.1\r\n").text().starts_with("alice"));
    assert_eq!(get(&mut front, "X-Forwarded-For: 192.0.2.2\r\n").status(), 401);
    assert!(get(&mut front, "X-Forwarded-For: 192.0.2.1\r\n").text().starts_with("alice"));
}

#[test]
fn an_idle_connection_of_a_client_takes_no_slot() {
    let worker = worker("WWW-Authenticate: NTLM\r\n");
    let proxy = proxy(&[&worker], "", "max_connections = 1\nqueue = 0\n");
    let mut clients = [Raw::connect(proxy.address), Raw::connect(proxy.address), Raw::connect(proxy.address)];
    for client in &mut clients {
        assert!(log_in(client, "").text().starts_with("alice"));
    }
    for client in &mut clients {
        assert!(get(client, "").text().starts_with("alice"));
    }
}

/// The worker closes the connection: the client's next request is sent over a new one, where it has to log in again.
#[test]
fn a_lost_login_is_asked_for_again() {
    let worker = RawWorker::scripted(|leg| {
        while let Some(request) = leg.request() {
            if request.target() == "/last" {
                return leg.until_closed();
            }
            let user = if leg.number == 0 { "alice" } else { "nobody" };
            reply(leg, &request, user, "WWW-Authenticate: Negotiate\r\n", false);
        }
    });
    let proxy = proxy(&[&worker], "", "response_timeout = \"300ms\"\n");
    let mut alice = Raw::connect(proxy.address);
    assert!(get(&mut alice, "Authorization: Negotiate x\r\n").text().starts_with("alice"));
    assert_eq!(alice.get("/last").status(), 504);
    let mut alice = Raw::connect(proxy.address);
    assert_eq!(get(&mut alice, "").status(), 401);
}

#[test]
fn a_websocket_goes_over_the_authenticated_connection() {
    let worker = RawWorker::scripted(|leg| {
        let mut user = "nobody";
        while let Some(request) = leg.request() {
            if request.header("authorization").is_some() {
                user = "alice";
            }
            if request.header("upgrade").is_some() {
                assert_eq!(request.header("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
                leg.send(format!(
                    "HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nX-User: {user}\r\n\r\n"
                ));
                return leg.until_closed();
            }
            reply(leg, &request, user, "WWW-Authenticate: Negotiate\r\n", false);
        }
    });
    let proxy = proxy(&[&worker], "", "");
    let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut alice = Raw::connect(proxy.address);
    assert!(get(&mut alice, "Authorization: Negotiate x\r\n").text().starts_with("alice"));
    let granted = get(&mut alice, upgrade);
    assert_eq!((granted.status(), granted.header("x-user")), (101, Some("alice")));
    let other = get(&mut Raw::connect(proxy.address), upgrade);
    assert_eq!((other.status(), other.header("x-user")), (101, Some("nobody")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_http2_the_clients_connection_owns_it() {
    let workers = [worker("WWW-Authenticate: NTLM\r\n"), worker("WWW-Authenticate: NTLM\r\n")];
    let addresses = workers.each_ref().map(|worker| worker.address.to_string());
    let secured = Secured::with("", &format!("[upstream.app]\nworkers = {addresses:?}\n{CHANCE}"));
    let alice = secured.client().await;
    let with = |credentials: &str| {
        let mut request = ask("GET", "/");
        request.headers_mut().insert("authorization", credentials.parse().unwrap());
        request
    };
    assert_eq!(alice.get("/").await.status, 401);
    assert_eq!(alice.exchange(with("NTLM hello")).await.unwrap().status, 401);
    let logged_in = alice.exchange(with("NTLM answer")).await.unwrap();
    assert!(logged_in.text().starts_with("alice@"), "{logged_in:?}");
    for _ in 0..8 {
        assert_eq!(secured.client().await.get("/").await.status, 401);
        assert_eq!(alice.get("/").await.text(), logged_in.text());
    }
    // Streams of the same client at the same time: each has a connection, and none is shared with another client.
    let (one, two) = tokio::join!(alice.get("/open"), alice.get("/open"));
    assert_eq!((one.status, two.status), (200, 200));
    drop(alice);
    wait_for("the connection of the client that left is closed", || {
        workers.iter().all(|worker| worker.connections() > 0)
    });
    for _ in 0..8 {
        assert_eq!(secured.client().await.get("/").await.status, 401);
    }
}
