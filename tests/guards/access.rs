//! Guards that read files or take time: lists of networks, passwords, and another service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::SeqCst};

use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::proxy::{Binary, Proxy, free_address};
use crate::support::raw::{Message, Raw, RawWorker, ok};
use crate::support::temp::TempDirectory;
use crate::support::wait::wait_for;

const POLL: &str = "/socket.io/?EIO=4&transport=polling";
const OPEN: &str = "0{\"sid\":\"AAAAAAAAAAAAAAAAAAAA\",\"pingInterval\":25000,\"pingTimeout\":20000}";
const UPGRADE: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

fn route(worker: &RawWorker, keys: &str) -> String {
    format!("[upstream.app]\nworkers = [\"{}\"]\n[[route]]\nupstream = \"app\"\n{keys}\n", worker.address)
}

fn get(proxy: &Proxy, target: &str, fields: &str) -> Message {
    Raw::connect(proxy.address).ask(&format!("GET {target} HTTP/1.1\r\nHost: own.example\r\n{fields}\r\n"))
}

fn guarded(proxy: &Proxy, guard: &str) -> f64 {
    proxy.metric(&format!("stickyd_guarded_total{{guard=\"{guard}\",upstream=\"app\"}}"))
}

#[test]
fn lists_of_networks_in_files_are_watched() {
    let worker = RawWorker::named("a");
    let toml = "state_dir = \".\"\n".to_owned() + &route(&worker, "deny_file = \"drop.txt\"\nallow_file = \"in.txt\"");
    let directory = TempDirectory::new("networks");
    let (deny, allow) = (directory.path("drop.txt"), directory.path("in.txt"));
    std::fs::write(&deny, "# nothing yet\n").unwrap();
    std::fs::write(&allow, "10.0.0.0/8\n127.0.0.0/8 # tests\nfd00::/8\n").unwrap();
    let toml = toml.replace("drop.txt", deny.to_str().unwrap()).replace("in.txt", allow.to_str().unwrap());
    let binary = Binary::with(&toml);
    let status = |last: u8| Raw::connect_from([127, 0, 0, last].into(), binary.address).get("/").status();
    assert_eq!([status(1), status(2)], [200, 200]);
    let many: String = (0..30_000).map(|n| format!("198.{}.{}.0/25\n", 18 + n / 16_384, n / 64 % 256)).collect();
    std::fs::write(&deny, format!("{many}127.0.0.2\n::ffff:127.0.0.4/127\n")).unwrap();
    wait_for("the new list applies", || status(2) == 403);
    assert_eq!([1, 3, 4, 5, 6].map(status), [200, 200, 403, 403, 200]);
    // A bad file changes nothing.
    std::fs::write(&deny, "127.0.0.3\n127.0.0.300\n").unwrap();
    binary.says(&["drop.txt, line 2: `127.0.0.300` is not a valid network"]);
    assert_eq!([1, 2, 3].map(status), [200, 403, 200]);
    std::fs::write(&deny, "127.0.0.3\n").unwrap();
    wait_for("the mended list applies", || status(3) == 403);
    std::fs::write(&allow, "").unwrap();
    wait_for("an empty list of allowed networks lets no client in", || status(1) == 403);
}

#[test]
fn a_password_is_asked_for_and_remembered() {
    let worker = RawWorker::answering(|request| ok(request.header("authorization").unwrap_or("none")));
    let directory = TempDirectory::new("passwords");
    let params = argon2::Params::new(1_024, 1, 1, None).unwrap();
    let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let bob = argon2.hash_password_with_salt("p\u{e4}ss:word".as_bytes(), b"0123456789abcdef").unwrap();
    let users = format!("# people\nann:{}\n\nbob:{bob}\n", bcrypt::hash("secret", 5).unwrap());
    directory.write("users", &users);
    let proxy =
        Proxy::with_files(&route(&worker, "basic = { users_file = \"users\", realm = \"shop\" }"), directory.root());
    let with = |user: &str| format!("Authorization: Basic {}\r\n", STANDARD.encode(user));
    for right in ["ann:secret", "bob:p\u{e4}ss:word"] {
        for _ in 0..3 {
            assert_eq!(get(&proxy, "/", &with(right)).text(), format!("Basic {}", STANDARD.encode(right)));
        }
    }
    let wrong = ["ann:Secret", "ann:", "bob:secret", "zoe:secret", ":", "ann"];
    for wrong in wrong.map(with).into_iter().chain([String::new(), format!("{}{}", with("ann:x"), with("ann:secret"))])
    {
        let answer = get(&proxy, "/", &wrong);
        assert_eq!(answer.status(), 401, "{wrong}");
        assert_eq!(answer.header("www-authenticate"), Some("Basic realm=\"shop\", charset=\"UTF-8\""));
    }
    assert_eq!(get(&proxy, POLL, "").status(), 401, "handshakes are not exempt");
    assert_eq!(get(&proxy, "/socket.io/?EIO=4&transport=websocket", UPGRADE).status(), 401);
    assert_eq!(guarded(&proxy, "basic"), 10.0);
}

/// A flood of wrong passwords is bounded, and delays no other request.
#[test]
fn passwords_that_wait_are_bounded() {
    let worker = RawWorker::named("a");
    let directory = TempDirectory::new("slow-passwords");
    directory.write("users", format!("ann:{}\n", bcrypt::hash("secret", 12).unwrap()));
    let toml = format!(
        "threads = 1\n[upstream.app]\nworkers = [\"{}\"]\n[[route]]\npath = \"/closed\"\nupstream = \"app\"\n\
         basic = {{ users_file = \"users\" }}\n[[route]]\nupstream = \"app\"\n",
        worker.address
    );
    let proxy = Proxy::with_files(&toml, directory.root());
    let flood: Vec<_> = (0..60)
        .map(|number| {
            let coded = STANDARD.encode(format!("ann:{number}"));
            let mut client = Raw::connect(proxy.address);
            client.send(format!("GET /closed HTTP/1.1\r\nHost: a\r\nAuthorization: Basic {coded}\r\n\r\n"));
            client
        })
        .collect();
    wait_for("some are turned away", || guarded(&proxy, "auth_failed") >= 20.0);
    assert!(guarded(&proxy, "basic") < 32.0, "most of the others still wait");
    assert_eq!(get(&proxy, "/", "").text(), "a", "other requests do not wait");
    drop(flood);
    // What waits ends with its clients.
    wait_for("a right password is checked", || {
        get(&proxy, "/closed", &format!("Authorization: Basic {}\r\n", STANDARD.encode("ann:secret"))).status() == 200
    });
}

/// A service that answers with this status, and gives a user to those it lets pass.
fn service(status: &Arc<AtomicU16>) -> RawWorker {
    let status = status.clone();
    RawWorker::answering(move |request| {
        let user = request.header("cookie").unwrap_or("none");
        let status = match (status.load(SeqCst), user) {
            (0, "user=ann") => 200,
            (0, _) => 401,
            (status, _) => status,
        };
        format!(
            "HTTP/1.1 {status} X\r\nX-User: {user}\r\nX-Role: admin\r\nWWW-Authenticate: Bearer\r\nLocation: /login\r\n\
             Content-Length: 0\r\n\r\n"
        )
    })
}

#[test]
fn a_service_decides_about_handshakes_and_upgrades() {
    let worker = RawWorker::answering(|request| {
        let seen = ["x-user", "x_user", "x-role"].map(|name| request.header(name).unwrap_or("-")).join(" ");
        ok(if request.target().contains("EIO=4") { OPEN } else { &seen })
    });
    let status = Arc::new(AtomicU16::new(0));
    let mut service = service(&status);
    let keys = format!(
        "auth = {{ url = \"http://{}/check?from=stickyd\", headers = [\"cookie\"], copy = [\"X-User\"], \
         cache = \"0s\" }}",
        service.address
    );
    let proxy = Proxy::with(&route(&worker, &keys));
    let ann = "Cookie: user=ann\r\nAuthorization: Basic eDp5\r\nX-Forwarded-Uri: /forged\r\n";
    assert_eq!(get(&proxy, POLL, ann).text(), OPEN);
    let (_, question) = service.request();
    assert_eq!(question.start, "GET /check?from=stickyd HTTP/1.1");
    for (name, value) in [
        ("cookie", Some("user=ann")),
        ("x-forwarded-uri", Some(POLL)),
        ("x-forwarded-method", Some("GET")),
        ("x-forwarded-proto", Some("http")),
        ("x-forwarded-host", Some("own.example")),
        ("x-forwarded-for", Some("127.0.0.1")),
        ("authorization", None),
    ] {
        assert_eq!(question.header(name), value, "{name}");
    }
    // The question about an upgrade is none.
    let upgrade = "/socket.io/?EIO=4&transport=websocket";
    assert_eq!(get(&proxy, upgrade, &format!("{UPGRADE}Cookie: user=bob\r\n")).status(), 401);
    let (_, question) = service.request();
    for name in ["upgrade", "sec-websocket-key", "sec-websocket-version"] {
        assert_eq!(question.header(name), None, "{name}");
    }
    let refused = get(&proxy, POLL, "");
    assert_eq!((refused.status(), refused.header("www-authenticate")), (401, Some("Bearer")));
    // Ordinary requests and polls are not asked about, and no client can send what the service would say.
    let before = service.bytes().len();
    let forged = "X-User: root\r\nX_User: root\r\nX-Role: root\r\n";
    assert_eq!(get(&proxy, "/page", forged).text(), "- - root");
    assert_eq!(get(&proxy, &format!("{POLL}&sid=AAAAAAAAAAAAAAAAAAAA"), "").text(), OPEN);
    assert_eq!(service.bytes().len(), before);
    for (says, gives) in [(403, 403), (302, 401), (500, 503), (404, 503), (429, 503)] {
        status.store(says, SeqCst);
        let answer = get(&proxy, POLL, ann);
        assert_eq!(answer.status(), gives, "{says}");
        assert_eq!(answer.header("retry-after").is_some(), gives == 503, "{says}");
    }
    assert_eq!((guarded(&proxy, "auth"), guarded(&proxy, "auth_failed")), (4.0, 3.0));
}

#[test]
fn the_worker_gets_what_the_service_says_of_the_client() {
    let worker = RawWorker::answering(|request| {
        let (user, uri) = (request.all("x-user").collect::<Vec<_>>().join(","), request.target().to_owned());
        ok(if uri.contains("EIO=4") { &user } else { "a" })
    });
    let service = service(&Arc::default());
    let keys = format!("auth = {{ url = \"http://{}/\", copy = [\"x-user\"] }}", service.address);
    let proxy = Proxy::with(&route(&worker, &keys));
    assert_eq!(get(&proxy, POLL, "Cookie: user=ann\r\nX-User: root\r\n").text(), "user=ann");
    // The answer holds for equal requests: of the same client, with the same fields, whatever `t` is.
    let before = service.bytes().len();
    for t in ["a", "b"] {
        assert_eq!(get(&proxy, &format!("{POLL}&t={t}"), "Cookie: user=ann\r\n").text(), "user=ann");
    }
    assert_eq!(service.bytes().len(), before);
    assert_eq!(get(&proxy, POLL, "Cookie: user=bob\r\n").status(), 401);
    assert_eq!(get(&proxy, &format!("{POLL}&token=x"), "Cookie: user=ann\r\n").text(), "user=ann");
    assert!(service.bytes().len() > before, "other requests are asked about");
}

#[test]
fn without_a_verdict_no_handshake_passes() {
    let worker = RawWorker::answering(|_| ok(OPEN));
    let silent = RawWorker::scripted(|leg| {
        leg.request();
        leg.until_closed();
    });
    for service in [free_address(), silent.address] {
        let keys = format!("auth = {{ url = \"http://{service}/\", timeout = \"200ms\" }}");
        let proxy = Proxy::with(&route(&worker, &keys));
        let answer = get(&proxy, POLL, "");
        assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")), "{service}");
        assert_eq!(get(&proxy, "/socket.io/?EIO=4&transport=websocket", UPGRADE).status(), 503);
        assert_eq!(guarded(&proxy, "auth_failed"), 2.0);
        assert_eq!(get(&proxy, "/page", "").status(), 200, "other requests pass");
    }
    assert!(!String::from_utf8_lossy(&worker.bytes()).contains("EIO=4"));
}

/// Real clients come back while the service is away, and get in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_get_in_once_the_service_lets_them() {
    let worker = NodeServer::start(&[]).await;
    let status = Arc::new(AtomicU16::new(500));
    let service = service(&status);
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [{{ address = {:?}, name = \"w\" }}]\n[[route]]\nupstream = \"app\"\n\
         auth = {{ url = \"http://{}/\" }}",
        worker.address(),
        service.address
    ));
    for transports in [json!(["polling", "websocket"]), json!(["websocket"])] {
        status.store(500, SeqCst);
        let mut load = Load::start(json!({"urls": [proxy.url("")], "n": 3, "messages": 2, "timeout": 30_000,
            "transports": transports}));
        crate::support::wait::wait_for_async("a client is turned away", async || {
            load.status().await["connect_errors"] != json!({})
        })
        .await;
        status.store(200, SeqCst);
        let result = load.finish().await;
        assert_eq!(result["connected"], json!(3), "{result}");
    }
}
