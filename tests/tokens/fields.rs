//! Claims in header fields for workers, which no client can forge, and claims in labels.

use serde_json::json;

use super::{guarded, routed};
use crate::support::h2::{Secured, ask, whole};
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::raw::{Message, Raw, RawWorker};
use crate::support::tokens::{Guarded, token};
use crate::support::wait::wait_for;

#[test]
fn claims_reach_workers_and_forged_ones_do_not() {
    let mut worker = RawWorker::named("w");
    let open_route = "[[route]]\npath = \"/open\"\nupstream = \"app\"\n";
    let jwt = "from = [\"header:authorization\"]\nheaders = { \"x-user-id\" = \"sub\", \"X-Roles\" = \"roles\" }";
    let trusting = "[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let toml = format!("[upstream.app]\nworkers = [\"{}\"]\n{open_route}{}", worker.address, routed("", jwt));
    for listener in ["", trusting] {
        let proxy = Proxy::with(&format!("{listener}{toml}"));
        let good = token(json!({"sub": "u1", "roles": ["a", "b"]}));
        let forged = "X-User-Id: root\r\nx-user-id: root2\r\nX_User_Id: root\r\nx_user-id: root\r\nX-USER_ID: root\r\n\
                      x.user.id: root\r\nX-Roles: root\r\nX_Roles: root\r\nConnection: x-user-id, x-roles\r\n";
        for target in
            ["/socket.io/?EIO=4&transport=polling", "/page", "/open", "/socket.io/?EIO=4&transport=polling&sid=x"]
        {
            let fields = format!("{forged}Authorization: Bearer {good}\r\n");
            let answer = Raw::connect(proxy.address).ask(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            assert_eq!(answer.text(), "w", "{target}");
            let (_, request) = worker.request();
            let told: Vec<_> = request
                .headers
                .iter()
                .filter(|(name, _)| name.contains("user") || name.contains("roles"))
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            // The token of a request with a made-up session id counts, the id does not.
            let is_checked = target.contains("EIO=4");
            let expected: &[&str] = if is_checked { &["x-user-id=u1", "x-roles=a,b"] } else { &[] };
            assert_eq!(told, expected, "{target}");
        }
        // Trailers are fields, too.
        let chunked = "POST /page HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x-user-id, x-sum\r\n\r\n\
                       1\r\na\r\n0\r\nx-user-id: root\r\nx-sum: 7\r\n\r\n";
        assert_eq!(Raw::connect(proxy.address).ask(chunked).text(), "w");
        let (_, request) = worker.request();
        assert!(!format!("{:?} {:?}", request.headers, request.trailers).contains("root"), "{request:?}");
    }
}

/// What of a request speaks of the user, as `name=value`.
fn told(request: &Message) -> Vec<String> {
    let fields = request.headers.iter().chain(&request.trailers);
    let ours = fields.filter(|(name, value)| name.contains("user") || name.contains("roles") || value.contains("root"));
    ours.map(|(name, value)| format!("{name}={value}")).collect()
}

#[tokio::test]
async fn claims_cannot_be_forged_over_http_2() {
    let mut worker = RawWorker::named("w");
    let jwt = "from = [\"header:authorization\"]\nheaders = { \"x-user-id\" = \"sub\", \"X-Roles\" = \"roles\" }";
    let stickyd =
        Secured::with("", &format!("[upstream.app]\nworkers = [\"{}\"]\n{}", worker.address, routed("", jwt)));
    let client = stickyd.client().await;
    let good = format!("Bearer {}", token(json!({"sub": "u1", "roles": ["a"]})));
    let forge = |fields: &mut hyper::HeaderMap| {
        for name in ["x-user-id", "x_user_id", "x_user-id", "x.user.id", "x-roles", "x_roles", "x~user!id"] {
            fields.append(name, "root".parse().unwrap());
        }
    };
    for (path, expected) in
        [("/socket.io/?EIO=4&transport=polling", &["x-user-id=u1", "x-roles=a"][..]), ("/page", &[])]
    {
        let mut request = ask("GET", path);
        forge(request.headers_mut());
        request.headers_mut().insert("authorization", good.parse().unwrap());
        assert_eq!(client.exchange(request).await.unwrap().text(), "w");
        assert_eq!(told(&worker.request().1), expected, "{path}");
    }
    let mut request = ask("POST", "/page");
    request.headers_mut().insert("trailer", "x-user-id, x_user_id, x-sum".parse().unwrap());
    let (answer, mut body) = client.begin(request).await;
    body.send_data("a".into(), false).unwrap();
    let mut trailers = hyper::HeaderMap::new();
    forge(&mut trailers);
    trailers.insert("x-sum", "7".parse().unwrap());
    body.send_trailers(trailers).unwrap();
    assert_eq!(whole(answer).await.unwrap().text(), "w");
    let (_, request) = worker.request();
    assert_eq!(told(&request), [""; 0], "{request:?}");
    assert!(request.trailers.iter().any(|(name, _)| name == "x-sum"), "other trailers pass: {request:?}");
}

/// The labels of all live sockets, as `name=value`.
fn labels(proxy: &Proxy) -> Vec<String> {
    let sockets = &proxy.server().shared().sessions.sockets;
    let all = (0..stickyd::testing::sockets::SHARDS).flat_map(|shard| sockets.shard(shard));
    let mut found = Vec::new();
    for socket in all {
        socket.with_texts(|_, labels| {
            found.extend(labels.iter().map(|(name, value)| format!("{name}={}", value.unwrap_or("-"))));
        });
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_become_labels_wherever_the_token_is() {
    for (from, place) in [("header:authorization", "header"), ("auth:token", "auth")] {
        for transports in [json!(["polling"]), json!(["websocket"]), json!(["polling", "websocket"])] {
            let workers = NodeServer::start_many(1, &[]).await;
            let route = routed("", &format!("from = [\"{from}\"]"));
            let toml = format!(
                "[upstream.app]\nworkers = [\"{}\"]\nlabels = {{ user = \"jwt:sub\", store = \"query:store\" }}\n{route}",
                workers[0].address()
            );
            let proxy = Proxy::with(&toml);
            let good = token(json!({"sub": "u1"}));
            let mut options =
                json!({"url": proxy.url(""), "transports": transports, "query": {"store": "7"}, "stays": true});
            match place {
                "auth" => options["auth"] = json!({"token": good}),
                _ => options["extraHeaders"] = json!({"authorization": format!("Bearer {good}")}),
            }
            let mut client = Guarded::start(&options);
            client.event("echo").await;
            wait_for("the socket has its labels", || {
                let found = labels(&proxy);
                if found == ["user=u1", "store=7"] { Ok(()) } else { Err(found) }
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_ends_when_its_token_expires_if_the_route_says_so() {
    let workers = NodeServer::start_many(1, &[]).await;
    for from in ["header:authorization", "auth:token"] {
        let proxy = guarded(&workers, "", &format!("from = [\"{from}\"]\nexpire = \"close\"\nleeway = \"0s\""));
        for transports in [json!(["websocket"]), json!(["polling"])] {
            let soon = token(json!({"sub": "u", "exp": crate::support::tokens::now_s() + 12}));
            let mut options = json!({"url": proxy.url(""), "transports": transports, "stays": true});
            match from {
                "auth:token" => options["auth"] = json!({"token": soon}),
                _ => options["extraHeaders"] = json!({"authorization": format!("Bearer {soon}")}),
            }
            let mut client = Guarded::start(&options);
            client.event("echo").await;
            let end = client.event("disconnect").await;
            if transports == json!(["websocket"]) {
                assert_eq!(end["code"], 4401, "{end}");
            }
            // The client comes back, and is told that its token has expired.
            let told = client.event("error").await;
            assert_eq!(told["code"], "token_expired", "{told}");
        }
    }
}
