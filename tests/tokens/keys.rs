//! Keys from files and servers: `jose` signs, a server publishes, keys rotate, and servers fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::node::NodeServer;
use crate::support::process::Process;
use crate::support::proxy::{Binary, Proxy};
use crate::support::raw::{Raw, RawWorker};
use crate::support::temp::TempDirectory;
use crate::support::tokens::Guarded;
use crate::support::wait::wait_for;

/// An issuer (`tests/clients/issuer.mjs`): `jose` makes keys and tokens.
pub(super) struct Issuer(Process);

impl Issuer {
    pub(super) fn start() -> Self {
        Self(Process::start("node", ["issuer.mjs"]))
    }

    /// A new key of this algorithm: its public JWK and a PEM of it.
    pub(super) async fn key(&mut self, alg: &str, kid: &str) -> Value {
        self.0.command(&json!({"make": alg, "kid": kid}).to_string()).await;
        self.0.line().await.unwrap()
    }

    pub(super) async fn token(&mut self, kid: &str, claims: &Value) -> String {
        self.0.command(&json!({"sign": kid, "claims": claims}).to_string()).await;
        self.0.line().await.unwrap()["token"].as_str().unwrap().to_owned()
    }
}

/// A server of keys whose answer the test chooses; `None`: it closes the connection.
pub(super) struct KeyServer {
    worker: RawWorker,
    answer: Arc<Mutex<Option<String>>>,
}

impl KeyServer {
    pub(super) fn start() -> Self {
        let answer: Arc<Mutex<Option<String>>> = Arc::default();
        let given = answer.clone();
        let worker = RawWorker::scripted(move |leg| {
            while leg.request().is_some() {
                let Some(text) = given.lock().unwrap().clone() else { return };
                if !leg.send(text) {
                    return;
                }
            }
        });
        Self { worker, answer }
    }

    pub(super) fn gives(&self, keys: &[&Value]) {
        self.says(&crate::support::raw::ok(&json!({ "keys": keys }).to_string()));
    }

    /// Answers with these bytes from now on.
    fn says(&self, answer: &str) {
        *self.answer.lock().unwrap() = Some(answer.to_owned());
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/jwks.json", self.worker.address)
    }
}

fn toml(worker: &str, keys: &str, more: &str) -> String {
    format!(
        "[upstream.app]\nworkers = [\"{worker}\"]\n[[route]]\nupstream = \"app\"\n[route.jwt]\n{keys}\n\
         from = [\"header:authorization\"]\nrefuse = \"http\"\non = \"all\"\n{more}\n"
    )
}

fn status(proxy: &Proxy, token: &str) -> u16 {
    let head = format!("GET /page HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    Raw::connect(proxy.address).ask(&head).status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_jose_are_verified_with_every_algorithm() {
    let mut issuer = Issuer::start();
    let worker = RawWorker::named("w");
    let directory = TempDirectory::new("jwt-keys");
    let mut set = Vec::new();
    for alg in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"] {
        let made = issuer.key(alg, alg).await;
        directory.write(&format!("{alg}.pem"), made["pem"].as_str().unwrap());
        set.push(made["jwk"].clone());
    }
    directory.write("jwks.json", json!({ "keys": set }).to_string());
    let address = worker.address.to_string();
    let all_keys = Proxy::with_files(&toml(&address, "keys = \"jwks.json\"", ""), directory.root());
    for alg in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"] {
        let token = issuer.token(alg, &json!({"sub": "u"})).await;
        assert_eq!(status(&all_keys, &token), 200, "{alg}");
        let keys = format!("keys = \"{alg}.pem\"\nalgorithms = [\"{alg}\"]");
        let one = Proxy::with_files(&toml(&address, &keys, ""), directory.root());
        assert_eq!(status(&one, &token), 200, "{alg}.pem");
        let other = issuer.token(if alg == "ES256" { "RS256" } else { "ES256" }, &json!({"sub": "u"})).await;
        assert_eq!(status(&one, &other), 401, "{alg}.pem");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_wait_for_a_server_that_is_not_there_at_start() {
    let (mut issuer, server, worker) = (Issuer::start(), KeyServer::start(), RawWorker::named("w"));
    let proxy = Proxy::with(&toml(&worker.address.to_string(), &format!("keys = \"{}\"", server.url()), ""));
    let key = issuer.key("ES256", "one").await;
    let token = issuer.token("one", &json!({"sub": "u"})).await;
    let head = format!("GET /page HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
    let answer = Raw::connect(proxy.address).ask(&head);
    assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")));
    server.gives(&[&key["jwk"]]);
    wait_for("the keys are there", || status(&proxy, &token) == 200);
    // A dead server takes nothing away.
    *server.answer.lock().unwrap() = None;
    assert_eq!(status(&proxy, &token), 200);
}

/// Whatever is wrong with the answer of a server, its keys are not used, clients are asked to come back, and the next
/// good answer lets them in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_wrongly_gives_no_keys() {
    let mut issuer = Issuer::start();
    let worker = RawWorker::named("w");
    let (key, pem) = (issuer.key("ES256", "one").await, issuer.key("RS256", "two").await);
    let token = issuer.token("one", &json!({"sub": "u"})).await;
    let with = |status: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let set = json!({"keys": [key["jwk"]]}).to_string();
    let mut encrypts = key["jwk"].clone();
    encrypts["use"] = json!("enc");
    let many = json!({"keys": vec![key["jwk"].clone(); 65]}).to_string();
    let secret = json!({"keys": [{"kty": "oct", "k": "AAAA", "kid": "one"}]}).to_string();
    let answers = [
        with("500 Internal Server Error", &set),
        with("404 Not Found", &set),
        with("302 Found", &set),
        with("200 OK", "<html>sign in</html>"),
        with("200 OK", "{\"keys\":[]}"),
        with("200 OK", &secret),
        with("200 OK", &many),
        with("200 OK", &json!({"keys": [encrypts]}).to_string()),
        with("200 OK", &format!("{}{}", " ".repeat(70_000), set)),
        with("200 OK", &set)[..100].to_owned(),
        with("200 OK", pem["pem"].as_str().unwrap()),
    ];
    let places: Vec<_> = answers
        .iter()
        .map(|answer| {
            let mut server = KeyServer::start();
            server.says(answer);
            let proxy = Proxy::with(&toml(&worker.address.to_string(), &format!("keys = \"{}\"", server.url()), ""));
            assert!(server.worker.request().1.start.starts_with("GET /jwks.json "), "{answer}");
            (server, proxy)
        })
        .collect();
    for (server, proxy) in &places {
        let head = format!("GET /page HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
        let answer = Raw::connect(proxy.address).ask(&head);
        assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("1")), "{:?}", server.answer);
        server.gives(&[&key["jwk"]]);
    }
    for (server, proxy) in &places {
        wait_for("the keys are there", || if status(proxy, &token) == 200 { Ok(()) } else { Err(server.url()) });
    }
}

/// A server that accepts connections and says nothing: clients are answered at once, and its keys are used when they
/// come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_server_makes_no_client_wait() {
    let mut issuer = Issuer::start();
    let (key, worker) = (issuer.key("ES256", "one").await, RawWorker::named("w"));
    let token = issuer.token("one", &json!({"sub": "u"})).await;
    let (is_slow, answer) = (Arc::new(AtomicBool::new(true)), json!({"keys": [key["jwk"]]}).to_string());
    let mut server = RawWorker::scripted({
        let is_slow = is_slow.clone();
        move |leg| {
            leg.request();
            wait_for("the server wakes up", || !is_slow.load(Ordering::SeqCst));
            leg.send(crate::support::raw::ok(&answer));
        }
    });
    let keys = format!("keys = \"http://{}/jwks.json\"", server.address);
    let proxy = Proxy::with(&toml(&worker.address.to_string(), &keys, ""));
    server.request();
    for _ in 0..3 {
        assert_eq!(status(&proxy, &token), 503, "no client waits for the server");
    }
    is_slow.store(false, Ordering::SeqCst);
    wait_for("the keys have come", || status(&proxy, &token) == 200);
}

/// A client with a new key's token is asked to come back until the key is fetched, and gets in by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_rotate_under_load() {
    let (mut issuer, server) = (Issuer::start(), KeyServer::start());
    let workers = NodeServer::start_many(1, &[]).await;
    let one = issuer.key("ES256", "one").await;
    server.gives(&[&one["jwk"]]);
    let keys = format!("keys = \"{}\"", server.url());
    let told = toml(&workers[0].address(), &keys, "").replace("refuse = \"http\"\non = \"all\"\n", "");
    let proxy = Proxy::with(&told);
    let options = |token: &str| json!({"url": proxy.url(""), "stays": true, "extraHeaders": {"authorization": format!("Bearer {token}")}});
    let old = issuer.token("one", &json!({"sub": "u"})).await;
    let mut before = Guarded::start(&options(&old));
    before.event("echo").await;
    let two = issuer.key("ES256", "two").await;
    server.gives(&[&one["jwk"], &two["jwk"]]);
    let new = issuer.token("two", &json!({"sub": "u"})).await;
    let mut after = Guarded::start(&options(&new));
    // The pause between two fetches is 30 s. Until then the client is asked to come back, and tries again.
    after.event("again").await;
    after.event_within("echo", Duration::from_secs(60)).await;
    before.command("emit /").await;
    before.event("echo").await;
    Guarded::start(&options(&old)).event("echo").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_key_file_is_used_without_a_restart() {
    let mut issuer = Issuer::start();
    let worker = RawWorker::named("w");
    let (one, two) = (issuer.key("ES256", "one").await, issuer.key("ES256", "two").await);
    let binary = Binary::started_by(&toml(&worker.address.to_string(), "keys = \"jwks.json\"", ""), {
        let first = json!({"keys": [one["jwk"]]}).to_string();
        move |_| {
            let mut command = std::process::Command::new("sh");
            command.env("FIRST", &first).arg("-c").arg(format!(
                "[ -e jwks.json ] || printf %s \"$FIRST\" > jwks.json; exec {} run --config stickyd.toml",
                env!("CARGO_BIN_EXE_stickyd")
            ));
            command
        }
    });
    let ask = |token: &str| {
        let head = format!("GET /page HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
        Raw::connect(binary.address).ask(&head).status()
    };
    let (old, new) = (issuer.token("one", &json!({"sub": "u"})).await, issuer.token("two", &json!({"sub": "u"})).await);
    assert_eq!((ask(&old), ask(&new)), (200, 401));
    std::fs::write(binary.directory.join("jwks.json"), json!({"keys": [two["jwk"]]}).to_string()).unwrap();
    wait_for("the new key is used", || ask(&new) == 200);
    assert_eq!(ask(&old), 401);
}

/// A real OpenID Connect provider: its keys by URL, and its tokens by client credentials.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_of_a_real_provider_are_accepted() {
    let mut provider = Process::start("node", ["oidc.mjs"]);
    let said = provider.line().await.unwrap();
    let (issuer, token) = (said["issuer"].as_str().unwrap(), said["token"].as_str().unwrap());
    let workers = NodeServer::start_many(1, &[]).await;
    let keys = format!(
        "keys = \"{issuer}/jwks\"\nissuer = \"{issuer}\"\naudience = \"urn:chat\"\nalgorithms = [\"RS256\"]\n\
         claims = {{ scope = [\"chat\"] }}"
    );
    let told = toml(&workers[0].address(), &keys, "").replace("refuse = \"http\"\non = \"all\"\n", "");
    let proxy = Proxy::with(&told);
    let options = json!({"url": proxy.url(""), "extraHeaders": {"authorization": format!("Bearer {token}")}});
    Guarded::start(&options).event("echo").await;
}
