//! Refusals in a real Chromium: a page whose client is refused for good makes one attempt and gets the code, on its own
//! host and across origins; every other refusal ends, and the client gets in by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};

use serde_json::{Value, json};
use stickyd::testing::config::AdminState;
use stickyd::testing::upstream::AdminChange;

use super::keys::{Issuer, KeyServer};
use super::{SECRET, turned};
use crate::support::browser::Browser;
use crate::support::cluster::upstream;
use crate::support::node::{NodeServer, Worker};
use crate::support::process::clients_dir;
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker, ok};
use crate::support::tokens::{expired, token};
use crate::support::wait::wait_for_async;

/// What a page does: `open` starts a client, `said` has what the application has seen so far.
const SCRIPT: &str = "
globalThis.said = null;
globalThis.open = (url, { namespaces = ['/'], auth, ...options }) => {
  globalThis.said = { attempts: 1, connects: 0, errors: [], echoes: 0, transport: null };
  const { said } = globalThis;
  const manager = new io.Manager(url || location.origin, { reconnectionDelay: 50, reconnectionDelayMax: 100, ...options });
  manager.on('reconnect_attempt', () => { said.attempts += 1; });
  globalThis.sockets = namespaces.map((ns) => {
    const socket = manager.socket(ns, auth && { auth });
    socket.on('connect', () => {
      said.connects += 1;
      said.transport = manager.engine.transport.name;
      socket.emit('echo', 'x', () => { said.echoes += 1; });
    });
    const failed = (error) => said.errors.push({ ns, message: error.message ?? error, code: error.data?.code ?? null, active: socket.active ?? null });
    socket.on('connect_error', failed);
    socket.on('error', failed);
    socket.connect();
    return socket;
  });
};
";

/// A server of pages at an address of its own: `/page/4` and `/page/2` have clients of these versions.
fn pages() -> RawWorker {
    let client = |name: &str| {
        let file = clients_dir().join("node_modules").join(name).join("dist/socket.io.js");
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    let (four, two) = (client("socket.io-client"), client("socket.io-client-2"));
    RawWorker::answering(move |request| {
        let page = |version: u8| {
            format!(
                "<!doctype html><meta charset=utf-8><link rel=icon href=data:,><title>client</title>\
                 <script src=/page/client{version}.js></script><script>{SCRIPT}</script><p>ready</p>"
            )
        };
        let (kind, body) = match request.target() {
            "/page/client4.js" => ("text/javascript; charset=utf-8", four.clone()),
            "/page/client2.js" => ("text/javascript; charset=utf-8", two.clone()),
            "/page/2" => ("text/html", page(2)),
            _ => ("text/html", page(4)),
        };
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
    })
}

/// A proxy with a guard for the application, and pages on the same host.
fn site(workers: &[Worker], pages: &RawWorker, route: &str) -> Proxy {
    let app = upstream(workers);
    Proxy::with(&format!(
        "{app}\n[upstream.pages]\nworkers = [\"{}\"]\n[[route]]\npath = \"/page\"\nupstream = \"pages\"\n\
         [[route]]\nupstream = \"app\"\n{route}\n",
        pages.address
    ))
}

fn jwt(keys: &str) -> String {
    format!("[route.jwt]\nsecret = \"{SECRET}\"\n{keys}")
}

/// Opens a client in the page.
async fn open(browser: &mut Browser, url: &str, options: &Value) {
    browser.run(&format!("open({}, {options})", json!(url))).await;
}

async fn said(browser: &mut Browser) -> Value {
    browser.run("said").await
}

/// Waits until the application has seen an error, and then a while longer for what must not come.
async fn refused(browser: &mut Browser) -> Value {
    wait_for_async("the application gets an error", async || {
        let said = said(browser).await;
        if said["errors"] == json!([]) { Err(said) } else { Ok(()) }
    })
    .await;
    browser.run("new Promise((done) => setTimeout(() => done(said), 1500))").await
}

/// Waits until the client has got in.
async fn gets_in(browser: &mut Browser) -> Value {
    wait_for_async("the client gets in", async || {
        let said = said(browser).await;
        if said["echoes"] == 0 { Err(said) } else { Ok(said) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_refused_makes_one_attempt_and_gets_the_code() {
    let (workers, pages) = (NodeServer::start_many(1, &["--allow-eio3"]).await, pages());
    let proxy = site(&workers, &pages, &jwt("from = [\"query:token\", \"auth:token\"]"));
    let mut browser = Browser::open(&proxy.url("/page/4")).await;
    for transports in [json!(["polling"]), json!(["websocket"]), json!(["polling", "websocket"])] {
        for (what, code, label) in [
            (json!({"query": {"token": expired("u")}}), "token_expired", "jwt_expired"),
            (json!({"auth": {"token": "nonsense"}}), "token_malformed", "jwt_malformed"),
            (json!({}), "token_missing", "jwt_missing"),
        ] {
            let before = turned(&proxy, label);
            let mut options = what.clone();
            options["transports"] = transports.clone();
            browser.goto(&proxy.url("/page/4"), json!({})).await;
            open(&mut browser, "", &options).await;
            let said = refused(&mut browser).await;
            assert_eq!((&said["attempts"], &said["connects"]), (&json!(1), &json!(0)), "{options} {said}");
            let error = &said["errors"][0];
            assert_eq!((&error["code"], &error["active"]), (&json!(code), &json!(false)), "{options} {said}");
            assert_eq!(said["errors"].as_array().unwrap().len(), 1, "{options} {said}");
            assert_eq!(turned(&proxy, label) - before, 1.0, "{options} {said}");
        }
        // A client of version 2 is told in its own words.
        browser.goto(&proxy.url("/page/2"), json!({})).await;
        open(&mut browser, "", &json!({"query": {"token": expired("u")}, "transports": transports})).await;
        let said = refused(&mut browser).await;
        assert_eq!((&said["attempts"], &said["errors"][0]["message"]), (&json!(1), &json!("token expired")), "{said}");
        // With a good token, the same page gets in.
        for (version, place) in [(4, "query"), (4, "auth"), (2, "query")] {
            browser.goto(&proxy.url(&format!("/page/{version}")), json!({})).await;
            let good = json!({"token": token(json!({"sub": "u"}))});
            open(&mut browser, "", &json!({place: good, "transports": transports})).await;
            let said = gets_in(&mut browser).await;
            assert_eq!((&said["attempts"], &said["errors"]), (&json!(1), &json!([])), "{version} {place} {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_one_socket_too_many_is_told() {
    let (workers, pages) = (NodeServer::start_many(1, &[]).await, pages());
    let route = format!(
        "users = {{ by = \"jwt:sub\", sockets = 1, over = \"refuse\" }}\n{}",
        jwt("from = [\"query:token\", \"auth:token\"]")
    );
    let proxy = site(&workers, &pages, &route);
    for (number, place) in ["query", "auth"].into_iter().enumerate() {
        let good = json!({"token": token(json!({"sub": format!("u{number}")}))});
        let mut first = Browser::open(&proxy.url("/page/4")).await;
        open(&mut first, "", &json!({place: good})).await;
        gets_in(&mut first).await;
        let mut second = Browser::open(&proxy.url("/page/4")).await;
        open(&mut second, "", &json!({place: good, "transports": ["websocket"]})).await;
        let said = refused(&mut second).await;
        assert_eq!(
            (&said["attempts"], &said["errors"][0]["code"]),
            (&json!(1), &json!("too_many_connections")),
            "{said}"
        );
    }
}

/// A page of another origin that may connect is told like any other; one that may not gets nothing it could read by
/// polling, and the code over a WebSocket, for which browsers have no such rule.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_another_origin_reads_only_what_it_may() {
    let (friend, stranger) = (pages(), pages());
    let friends = format!("http://{}", friend.address);
    let workers = NodeServer::start_many(1, &["--cors", &format!("{friends},credentials")]).await;
    let route = format!(
        "origins = {{ allow = [\"{friends}\"], refuse = \"told\" }}\n{}",
        jwt("from = [\"query:token\", \"auth:token\"]")
    );
    let proxy = site(&workers, &friend, &route);
    let mut browser = Browser::open(&format!("{friends}/page/4")).await;
    for transports in [json!(["polling"]), json!(["websocket"]), json!(["polling", "websocket"])] {
        for credentials in [false, true] {
            for place in ["query", "auth"] {
                let options = json!({place: {"token": expired("u")}, "transports": transports,
                    "withCredentials": credentials});
                browser.goto(&format!("{friends}/page/4"), json!({})).await;
                open(&mut browser, &proxy.url(""), &options).await;
                let said = refused(&mut browser).await;
                assert_eq!(said["attempts"], 1, "{options} {said}");
                assert_eq!(said["errors"][0]["code"], "token_expired", "{options} {said}");
            }
        }
        let good = json!({"query": {"token": token(json!({"sub": "u"}))}, "transports": transports});
        browser.goto(&format!("{friends}/page/4"), json!({})).await;
        open(&mut browser, &proxy.url(""), &good).await;
        gets_in(&mut browser).await;
    }
    let strange = format!("http://{}/page/4", stranger.address);
    browser.goto(&strange, json!({})).await;
    let good = json!({"token": token(json!({"sub": "u"}))});
    open(&mut browser, &proxy.url(""), &json!({"query": good, "transports": ["websocket"]})).await;
    let said = refused(&mut browser).await;
    assert_eq!((&said["attempts"], &said["errors"][0]["code"]), (&json!(1), &json!("origin_not_allowed")), "{said}");
    browser.goto(&strange, json!({})).await;
    open(&mut browser, &proxy.url(""), &json!({"query": good, "transports": ["polling"]})).await;
    let said = refused(&mut browser).await;
    assert!(said["errors"].as_array().unwrap().iter().all(|error| error["code"] == Value::Null), "{said}");
    assert_eq!(said["connects"], 0, "{said}");
    let url = proxy.url("/socket.io/?EIO=4&transport=polling");
    let read = |mode: &str| {
        format!("fetch({}, {{ mode: '{mode}' }}).then((answer) => answer.text(), (error) => error.name)", json!(url))
    };
    assert_eq!(browser.run(&read("cors")).await, "TypeError", "the page must not read the answer");
    assert_eq!(browser.run(&read("no-cors")).await, "");
}

/// A page whose client was turned away for the moment comes back by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_is_turned_away_for_the_moment_gets_in() {
    let (workers, pages) = (NodeServer::start_many(1, &[]).await, pages());
    let status = Arc::new(AtomicU16::new(500));
    let answers = status.clone();
    let service = RawWorker::answering(move |_| ok("").replace("200 OK", &format!("{} X", answers.load(SeqCst))));
    let mut issuer = Issuer::start();
    let key = issuer.key("ES256", "one").await;
    let good = issuer.token("one", &json!({"sub": "u"})).await;
    let rate = site(&workers, &pages, "rate = { handshakes = \"4/m\", handshakes_burst = 1 }");
    let drained = site(&workers, &pages, "");
    let asks = site(&workers, &pages, &format!("auth = {{ url = \"http://{}/\" }}", service.address));
    let say = |state| {
        let config = drained.server().shared().snapshot.load().upstreams[0].config.clone();
        drained.worker("w1").change(AdminChange::Say(state, None), &config);
    };
    for transports in [json!(["polling"]), json!(["websocket"]), json!(["polling", "websocket"])] {
        for (proxy, why) in
            [(Some(&rate), "a rate"), (Some(&drained), "maintenance"), (Some(&asks), "a service"), (None, "keys")]
        {
            // A server of keys that is not there yet.
            let server = KeyServer::start();
            let keys = format!("[route.jwt]\nkeys = \"{}\"\nfrom = [\"query:token\", \"auth:token\"]", server.url());
            let keyless = proxy.is_none().then(|| site(&workers, &pages, &keys));
            let proxy = proxy.or(keyless.as_ref()).unwrap();
            status.store(500, SeqCst);
            say(AdminState::Maint);
            let mut browser = Browser::open(&proxy.url("/page/4")).await;
            if why == "a rate" {
                wait_for_async("the rate is used up", async || {
                    Raw::connect(proxy.address).get("/socket.io/?EIO=4&transport=polling").status() == 429
                })
                .await;
            }
            let options = json!({"transports": transports, "query": {"token": good}, "auth": {"token": good}});
            open(&mut browser, "", &options).await;
            wait_for_async("the client is turned away", async || {
                let said = said(&mut browser).await;
                if said["errors"] == json!([]) { Err(said) } else { Ok(()) }
            })
            .await;
            status.store(200, SeqCst);
            say(AdminState::Ready);
            server.gives(&[&key["jwk"]]);
            let said = gets_in(&mut browser).await;
            assert!(said["attempts"].as_u64().unwrap() > 1, "{why} {transports} {said}");
            assert!(said["errors"].as_array().unwrap().iter().all(|error| error["active"] == true), "{why} {said}");
        }
    }
}
