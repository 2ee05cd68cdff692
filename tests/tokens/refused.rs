//! Refusals: told ones end after one attempt with the exact error; others by HTTP, which clients try again.

use serde_json::json;

use super::{guarded, routed, turned};
use crate::support::cluster::upstream;
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::raw::{Message, Raw, RawWorker, ok};
use crate::support::tokens::{Guarded, all, expired, token};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_clients_make_one_attempt_and_get_the_code() {
    let workers = NodeServer::start_many(1, &["--allow-eio3"]).await;
    let proxy = guarded(&workers, "", "from = [\"query:token\"]");
    let mut before = 0.0;
    for version in [4, 2] {
        for transports in [json!(["polling"]), json!(["websocket"]), json!(["polling", "websocket"])] {
            for namespaces in [json!(["/"]), json!(["/chat"]), json!(["/", "/chat"])] {
                let options = json!({"url": proxy.url(""), "version": version, "transports": transports,
                    "namespaces": namespaces, "query": {"token": expired("u1")}});
                let said = Guarded::start(&options).end().await;
                let errors = all(&said, "error");
                assert_eq!(all(&said, "end")[0]["attempts"], 1, "{version} {transports} {namespaces}: {said:?}");
                assert!(errors.len() >= namespaces.as_array().unwrap().len(), "{options} {said:?}");
                for error in errors {
                    assert_eq!(error["message"], "token expired", "{options} {said:?}");
                    if version == 4 {
                        assert_eq!((&error["code"], &error["active"]), (&json!("token_expired"), &json!(false)));
                    }
                }
                assert!(all(&said, "connect").is_empty(), "{said:?}");
                let now = turned(&proxy, "jwt_expired");
                assert_eq!(now - before, 1.0, "one attempt: {version} {transports} {namespaces}");
                before = now;
            }
        }
    }
    assert_eq!(workers[0].stats().await["handshakes"], 0, "no worker was asked");
    // The same clients get in with a good token.
    for version in [4, 2] {
        let query = json!({"token": token(json!({"sub": "u1"}))});
        let mut client = Guarded::start(&json!({"url": proxy.url(""), "version": version, "query": query}));
        client.event("echo").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_clients_are_told_as_well() {
    let workers = NodeServer::start_many(1, &[]).await;
    let proxy = guarded(&workers, "", "from = [\"header:authorization\"]");
    for transports in [json!(["polling"]), json!(["websocket"])] {
        let header = |token: String| json!({"Authorization": format!("Bearer {token}")});
        let before = turned(&proxy, "jwt_expired");
        let options = json!({"url": proxy.url(""), "transports": transports, "extraHeaders": header(expired("u"))});
        let said = Guarded::start_python(&options).end().await;
        let errors = all(&said, "error");
        assert_eq!((errors.len(), &errors[0]["code"]), (1, &json!("token_expired")), "{said:?}");
        assert_eq!(turned(&proxy, "jwt_expired") - before, 1.0, "{said:?}");
        let good = token(json!({"sub": "u"}));
        let options = json!({"url": proxy.url(""), "transports": transports, "extraHeaders": header(good)});
        Guarded::start_python(&options).event("echo").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_has_its_code() {
    let workers = NodeServer::start_many(1, &[]).await;
    let proxy = guarded(
        &workers,
        "",
        "from = [\"query:token\", \"cookie:jwt\"]\nissuer = \"https://id.example\"\naudience = \"chat\"\n\
         claims = { role = [\"agent\", \"admin\"] }",
    );
    let good = json!({"sub": "u", "iss": "https://id.example", "aud": "chat", "role": "agent"});
    let with = |key: &str, value: serde_json::Value| {
        let mut claims = good.clone();
        claims[key] = value;
        token(claims)
    };
    for (text, code, label) in [
        (String::new(), "token_missing", "jwt_missing"),
        ("x.y.z".to_owned(), "token_malformed", "jwt_malformed"),
        (with("exp", json!(1)), "token_expired", "jwt_expired"),
        (with("nbf", json!(9_999_999_999_u64)), "token_not_yet", "jwt_not_yet"),
        (with("iss", json!("x")), "token_wrong_issuer", "jwt_wrong_issuer"),
        (with("aud", json!("x")), "token_wrong_audience", "jwt_wrong_audience"),
        (format!("{}AAAA", with("sub", json!("v"))), "token_wrong_signature", "jwt_wrong_signature"),
        (with("role", json!("guest")), "forbidden", "jwt_forbidden"),
    ] {
        let options = json!({"url": proxy.url(""), "query": {"token": text}, "settle": 300});
        let said = Guarded::start(&options).end().await;
        assert_eq!(all(&said, "error")[0]["code"], code, "{said:?}");
        assert_eq!(turned(&proxy, label), 1.0, "{code}");
    }
    let cookie = format!("a=b; jwt={}", token(good.clone()));
    Guarded::start(&json!({"url": proxy.url(""), "extraHeaders": {"cookie": cookie}})).event("echo").await;
}

fn behind(worker: &RawWorker, route: &str, jwt: &str) -> Proxy {
    Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\n{}", worker.address, routed(route, jwt)))
}

fn ask(proxy: &Proxy, line: &str, fields: &str) -> Message {
    Raw::connect(proxy.address).ask(&format!("{line} HTTP/1.1\r\nHost: own.example\r\n{fields}\r\n"))
}

const POLL: &str = "GET /socket.io/?EIO=4&transport=polling";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn refusals_by_http_name_the_code_everywhere() {
    let worker = RawWorker::named("w");
    let proxy = behind(&worker, "", "from = [\"header:authorization\"]\nrefuse = \"http\"");
    let bearer = format!("Authorization: Bearer {}\r\nOrigin: https://a.example\r\n", expired("u"));
    let answer = ask(&proxy, POLL, &bearer);
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.text(), r#"{"code":4,"message":"token expired","data":{"code":"token_expired"}}"#);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"token_expired\""));
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(answer.header("access-control-allow-credentials"), Some("true"));
    assert_eq!(answer.header("set-cookie"), None);
    let upgrade = ask(&proxy, "GET /socket.io/?EIO=4&transport=websocket", &format!("{UPGRADE}{bearer}"));
    assert_eq!((upgrade.status(), upgrade.text()), (401, "token_expired"));
    // A plain WebSocket gets a status before any 101, whatever `refuse` says.
    let told = behind(&worker, "", "from = [\"header:authorization\"]");
    let plain = ask(&told, "GET /chat", UPGRADE);
    assert_eq!((plain.status(), plain.text()), (401, "token_missing"));
    assert_eq!(plain.header("www-authenticate"), Some("Bearer error=\"token_missing\""));
    // JSONP and unknown protocols cannot be told anything.
    for odd in ["&j=0", "&EIO=9"] {
        assert_eq!(ask(&told, &format!("{POLL}{odd}"), "").status(), 401, "{odd}");
    }
    // Ordinary requests need no token, unless `on` says so.
    assert_eq!(ask(&told, "GET /page", "").text(), "w");
    let all = behind(&worker, "", "from = [\"header:authorization\"]\non = \"all\"");
    assert_eq!(
        (ask(&all, "GET /page", "").status(), ask(&all, "GET /page", "").text()),
        (401, "401 Unauthorized: token_missing\n")
    );
    let good = format!("authorization: bearer {}\r\n", token(json!({"sub": "u"})));
    assert_eq!(ask(&all, "GET /page", &good).text(), "w");
}

#[test]
fn a_told_session_is_answered_by_any_stickyd_with_the_secret_and_no_worker() {
    let worker = RawWorker::answering(|_| ok("reached"));
    let toml = |jwt: &str| {
        format!(
            "secret = \"the secret of the fleet\"\n[upstream.app]\nworkers = [\"{}\"]\n{}",
            worker.address,
            routed("", jwt)
        )
    };
    let (one, two) = (Proxy::with(&toml("from = [\"query:token\"]")), Proxy::with(&toml("from = [\"query:token\"]")));
    let open = ask(&one, POLL, "Origin: https://a.example\r\n");
    assert_eq!((open.status(), open.header("set-cookie")), (200, None));
    assert_eq!(open.header("access-control-allow-origin"), Some("https://a.example"));
    let sid = open.text().split('"').nth(3).unwrap().to_owned();
    assert!(sid.starts_with("stickyd."), "{sid}");
    let target = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let body = "40/chat,{\"token\":\"x\"}";
    let post = format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    assert_eq!(Raw::connect(two.address).ask(&post).text(), "ok");
    let told = Raw::connect(two.address).get(&target);
    let packet = "44/chat,{\"message\":\"token missing\",\"data\":{\"code\":\"token_missing\"}}";
    assert_eq!((told.status(), told.text()), (200, packet));
    assert_eq!(Raw::connect(two.address).get(&target).text(), "1", "no further namespace has come");
    // Without a CONNECT packet, which another stickyd may have got, the namespace `/` is told.
    let root = "44{\"message\":\"token missing\",\"data\":{\"code\":\"token_missing\"}}";
    assert_eq!(Raw::connect(one.address).get(&target).text(), root);
    let preflight = format!(
        "OPTIONS {target} HTTP/1.1\r\nHost: a\r\nOrigin: https://a.example\r\n\
         Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\r\n"
    );
    let preflight = Raw::connect(one.address).ask(&preflight);
    assert_eq!((preflight.status(), preflight.header("access-control-allow-headers")), (204, Some("authorization")));
    assert_eq!(worker.connections(), 0);
    // An id that is not sealed by this fleet is a session like any other.
    let forged = format!("/socket.io/?EIO=4&transport=polling&sid={}A", &sid[..sid.len() - 1]);
    let _ = Raw::connect(one.address).get(&forged);
}

#[test]
fn a_page_of_a_refused_origin_reads_nothing() {
    let worker = RawWorker::named("w");
    let route = "[[route]]\nupstream = \"app\"\norigins = { allow = [\"https://a.example\"], refuse = \"told\" }\n";
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [\"{}\"]\n{route}", worker.address));
    let evil = "Origin: https://evil.example\r\n";
    let open = ask(&proxy, POLL, evil);
    assert_eq!((open.status(), open.header("access-control-allow-origin")), (200, None));
    let sid = open.text().split('"').nth(3).unwrap();
    let target = format!("{POLL}&sid={sid}");
    let told = ask(&proxy, &target, evil);
    assert!(told.text().contains("origin_not_allowed"), "{told:?}");
    assert_eq!(told.header("access-control-allow-origin"), None);
    assert_eq!(worker.connections(), 0);
    assert_eq!(turned(&proxy, "origin"), 1.0);
}

/// No answer to a page whose origin is refused lets that page read it, whatever else there is to say.
#[test]
fn a_refused_origin_never_gets_permission_to_read() {
    let worker = RawWorker::named("w");
    let evil = "Origin: https://evil.example\r\n";
    let good = format!("{evil}Authorization: Bearer {}\r\n", token(json!({"sub": "u"})));
    for refuse in ["told", "http"] {
        for more in
            ["", "rate = { handshakes = \"1/h\" }", "users = { by = \"jwt:sub\", sockets = 1, over = \"refuse\" }"]
        {
            let route = format!("origins = {{ allow = [\"https://a.example\"], refuse = \"{refuse}\" }}\n{more}");
            let proxy = behind(&worker, &route, &format!("from = [\"header:authorization\"]\nrefuse = \"{refuse}\""));
            let own = ask(&proxy, POLL, "Origin: https://a.example\r\n");
            assert!(own.header("access-control-allow-origin").is_some(), "an allowed page reads: {own:?}");
            let mut targets = vec![POLL.to_owned(), format!("{POLL}&sid=AAAAAAAAAAAAAAAAAAAA"), format!("{POLL}&j=0")];
            if refuse == "told" {
                let open = ask(&proxy, POLL, evil);
                targets.push(format!("{POLL}&sid={}", open.text().split('"').nth(3).unwrap()));
                // The session of a page that may read, named by one that may not.
                targets.push(format!("{POLL}&sid={}", own.text().split('"').nth(3).unwrap()));
            }
            for target in targets {
                for fields in [evil, &good] {
                    for method in ["GET", "POST", "OPTIONS"] {
                        let line = target.replace("GET", method);
                        let more = if method == "OPTIONS" { "Access-Control-Request-Method: POST\r\n" } else { "" };
                        let fields = format!("{fields}{more}Content-Length: 0\r\n");
                        let answer = ask(&proxy, &line, &fields);
                        assert_eq!(answer.header("access-control-allow-origin"), None, "{line} {fields} {answer:?}");
                    }
                }
            }
            let upgrade = ask(&proxy, "GET /socket.io/?EIO=4&transport=websocket", &format!("{UPGRADE}{good}"));
            assert_eq!(upgrade.header("access-control-allow-origin"), None, "{upgrade:?}");
        }
    }
    assert_eq!(worker.connections(), 0);
}

/// Sessions that stickyd refuses itself are requests like others for networks and rates.
#[test]
fn told_sessions_count_for_rates_and_networks() {
    let worker = RawWorker::named("w");
    let route = "rate = { requests = \"4/h\" }\ndeny = [\"127.0.0.9\"]";
    let proxy = behind(&worker, route, "from = [\"query:token\"]");
    let open = ask(&proxy, POLL, "");
    let sid = open.text().split('"').nth(3).unwrap();
    let told = format!("/socket.io/?EIO=4&transport=polling&sid={sid}");
    let denied = Raw::connect_from([127, 0, 0, 9].into(), proxy.address).get(&told);
    assert_eq!(denied.status(), 403, "{denied:?}");
    let taken = "Content-Length: 2\r\n\r\n40";
    let post = || Raw::connect(proxy.address).ask(&format!("POST {told} HTTP/1.1\r\nHost: own.example\r\n{taken}"));
    assert_eq!([post(), post(), post(), post()].map(|answer| answer.status()), [200, 200, 200, 429]);
    assert!(post().header("retry-after").is_some());
    assert_eq!((turned(&proxy, "network"), turned(&proxy, "rate_requests")), (1.0, 2.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_origin_is_told_over_websockets() {
    let workers = NodeServer::start_many(1, &[]).await;
    let route = "\n[[route]]\nupstream = \"app\"\norigins = { allow = [\"https://a.example\"], refuse = \"told\" }\n";
    let proxy = Proxy::with(&format!("{}{route}", upstream(&workers)));
    let options = json!({"url": proxy.url(""), "transports": ["websocket"],
        "extraHeaders": {"origin": "https://evil.example"}});
    let said = Guarded::start(&options).end().await;
    assert_eq!(all(&said, "end")[0]["attempts"], 1, "{said:?}");
    assert_eq!(all(&said, "error")[0]["code"], "origin_not_allowed", "{said:?}");
}
