//! Limits per user: the number of sockets, and rates.

use serde_json::json;

use super::{guarded, routed, turned};
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker};
use crate::support::tokens::{Guarded, all, token};

fn options(proxy: &Proxy, user: &str, transports: &serde_json::Value) -> serde_json::Value {
    let header = json!({"authorization": format!("Bearer {}", token(json!({"sub": user})))});
    json!({"url": proxy.url(""), "transports": transports, "extraHeaders": header, "stays": true})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_socket_too_many_closes_the_oldest() {
    let workers = NodeServer::start_many(1, &[]).await;
    let jwt = "from = [\"header:authorization\"]";
    let proxy = guarded(&workers, "users = { by = \"jwt:sub\", sockets = 2, over = \"oldest\" }", jwt);
    let transports = json!(["websocket"]);
    let mut clients = Vec::new();
    // They end when they are told to, however long that takes on a busy machine.
    let mut settings = options(&proxy, "u1", &transports);
    settings["settle"] = json!(600_000);
    for _ in 0..3 {
        let mut client = Guarded::start(&settings);
        client.event("echo").await;
        clients.push(client);
    }
    let mut other = Guarded::start(&options(&proxy, "u2", &transports));
    other.event("echo").await;
    let end = clients[0].event("disconnect").await;
    assert_eq!((&end["code"], &end["text"]), (&json!(4409), &json!("too_many_connections")), "{end}");
    clients[0].command("finish").await;
    clients[0].event("end").await;
    assert!(turned(&proxy, "users") >= 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_socket_too_many_is_refused_and_told() {
    for (from, place) in [("header:authorization", "jwt:sub"), ("query:token", "jwt:sub"), ("auth:token", "jwt:sub")] {
        let workers = NodeServer::start_many(1, &[]).await;
        let route = format!("users = {{ by = \"{place}\", sockets = 1, over = \"refuse\" }}");
        let proxy = guarded(&workers, &route, &format!("from = [\"{from}\"]"));
        for (number, transports) in [json!(["websocket"]), json!(["polling"])].iter().enumerate() {
            let with = |user: &str| {
                let token = token(json!({"sub": format!("{user}{number}")}));
                let mut options = json!({"url": proxy.url(""), "transports": transports, "stays": true, "settle": 500});
                match from {
                    "auth:token" => options["auth"] = json!({"token": token}),
                    "query:token" => options["query"] = json!({"token": token}),
                    _ => options["extraHeaders"] = json!({"authorization": format!("Bearer {token}")}),
                }
                options
            };
            let mut first = Guarded::start(&with("u"));
            first.event("echo").await;
            Guarded::start(&with("v")).event("echo").await;
            let second = Guarded::start(&with("u"));
            let said = second.end().await;
            assert_eq!(all(&said, "end")[0]["attempts"], 1, "{said:?}");
            assert_eq!(all(&said, "error")[0]["code"], "too_many_connections", "{said:?}");
            first.command("emit /").await;
            first.event("echo").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_can_name_the_user_without_tokens() {
    let workers = NodeServer::start_many(1, &[]).await;
    let route = "[[route]]\nupstream = \"app\"\nusers = { by = \"uid\", sockets = 1, over = \"refuse\" }\n";
    let address = workers[0].address();
    let proxy =
        Proxy::with(&format!("[upstream.app]\nworkers = [\"{address}\"]\nlabels = {{ uid = \"query:uid\" }}\n{route}"));
    let of = |user: &str| json!({"url": proxy.url(""), "query": {"uid": user}, "stays": true, "settle": 500});
    let mut first = Guarded::start(&of("1"));
    first.event("echo").await;
    let said = Guarded::start(&of("1")).end().await;
    assert_eq!(all(&said, "error")[0]["code"], "too_many_connections", "{said:?}");
    Guarded::start(&of("2")).event("echo").await;
}

#[test]
fn rates_count_by_user() {
    let worker = RawWorker::named("w");
    let route = "rate = { by = \"jwt:sub\", requests = \"2/h\" }";
    let jwt = "from = [\"header:authorization\"]\non = \"all\"";
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\n{}", worker.address, routed(route, jwt)));
    let ask = |user: &str| {
        let token = token(json!({"sub": user}));
        Raw::connect(proxy.address)
            .ask(&format!("GET /page HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"))
    };
    assert_eq!([ask("u1"), ask("u1"), ask("u1"), ask("u2")].map(|answer| answer.status()), [200, 200, 429, 200]);
    assert!(ask("u1").header("retry-after").is_some());
    assert_eq!(turned(&proxy, "user_requests"), 2.0);
}
