//! Alarms of an upstream, with real sockets and processes.

use serde_json::{Value, json};

use super::{Receiver, Target, body, state};
use crate::support::admin::{healths, metric};
use crate::support::engines::{begin_session, many_sessions};
use crate::support::process::Process;
use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker};
use crate::support::scripted::refusal;
use crate::support::wait::wait_for;

fn config(receiver: &Receiver, worker: &str, alarm: &str) -> String {
    let health = "health = { kind = \"tcp\", interval = \"200ms\", fast_interval = \"200ms\" }";
    format!(
        "state_dir = \".\"\n[upstream.app]\nworkers = [\"{worker}\"]\n{health}\nlabels = {{ store = \"query:store\" }}\n\
         alarm = {alarm}\n[notify]\nafter = \"0s\"\ngroup = \"0s\"\n[[notify.to]]\nwebhook = {{ url = \"{}\" }}\n",
        receiver.url("webhook/x")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_sockets_of_an_upstream_and_of_a_label_are_told() {
    let mut receiver = Receiver::start().await;
    let worker = many_sessions("one");
    let alarm = "{ sockets_below = 2, for = \"0s\", labels = { \"store=7\" = { sockets_below = 1 } } }";
    let binary = Binary::with(&config(&receiver, &worker.address.to_string(), alarm));
    let mut events = Vec::new();
    while events.len() < 2 {
        for problem in body(&receiver.next().await)["problems"].as_array().unwrap() {
            assert_eq!(problem["state"], "begun");
            events.push((problem["event"].clone(), problem["subject"].clone()));
        }
    }
    events.sort_by_key(|(_, subject)| subject.to_string());
    assert_eq!(events, [(json!("sockets_low"), json!("")), (json!("sockets_low"), json!("store=7"))]);
    // One socket with the label, and one without: both problems are over.
    begin_session(binary.address, "&store=7");
    begin_session(binary.address, "&store=8");
    let mut over = 0;
    while over < 2 {
        let told = body(&receiver.next().await);
        over += told["problems"].as_array().unwrap().iter().filter(|problem| problem["state"] == "over").count();
    }
    assert_eq!(state(&binary)["problems"], json!([]));
    binary.says(&["alarm ended", "sockets_low"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_of_a_worker_is_compared_with_its_alarm() {
    let mut receiver = Receiver::start().await;
    // The worker is a thread of this process, which is larger than 1 MiB.
    let worker = many_sessions("one");
    let alarm = "{ memory = \"2MB\", cpu = \"6400%\", for = \"0s\", restarts = \"2/h\", refusals = \"10/m\" }";
    let binary = Binary::with(&config(&receiver, &worker.address.to_string(), alarm));
    let told = body(&receiver.next().await);
    assert_eq!(told["problems"][0]["event"], "worker_memory", "{told:#}");
    assert!(told["problems"][0]["why"].as_str().unwrap().ends_with(", more than 2 MB"), "{told:#}");
    wait_for("the problem is listed", || state(&binary)["problems"][0]["told"] == true);
    binary.says(&["alarm began", "worker_memory", "more than 2 MB"]);
}

/// Waits until this event is told in this state; the problem.
async fn told(receiver: &mut Receiver, event: &str, state: &str) -> Value {
    loop {
        let told = body(&receiver.next().await);
        let problems = told["problems"].as_array().unwrap();
        if let Some(one) = problems.iter().find(|one| one["event"] == event && one["state"] == state) {
            return one.clone();
        }
    }
}

/// An open WebSocket of a worker of `many_sessions`.
fn web_socket(binary: &Binary) -> Raw {
    let mut raw = Raw::connect(binary.address);
    let upgrade = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(raw.send(upgrade).head().expect("an answer").status(), 101);
    raw
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_of_the_sockets_is_told_until_they_are_back() {
    let mut receiver = Receiver::start().await;
    let worker = many_sessions("one");
    let alarm = "{ sockets_below = 6, sockets_drop = \"50%\", for = \"0s\" }";
    let binary = Binary::with(&config(&receiver, &worker.address.to_string(), alarm));
    told(&mut receiver, "sockets_low", "begun").await;
    let mut sockets: Vec<_> = (0..6).map(|_| web_socket(&binary)).collect();
    // All six are counted once this is over.
    told(&mut receiver, "sockets_low", "over").await;
    sockets.truncate(2);
    let dropped = told(&mut receiver, "sockets_dropped", "begun").await;
    let what = "the sockets of app have dropped by more than 50%: 2 are left of 6, the most in the last 15 minutes";
    assert_eq!(dropped["what"], what);
    assert_eq!(dropped["todo"], "stickyd sockets --upstream app");
    sockets.extend((0..2).map(|_| web_socket(&binary)));
    told(&mut receiver, "sockets_dropped", "over").await;
    binary.says(&["alarm ended", "sockets_dropped"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_a_worker_are_counted() {
    let mut receiver = Receiver::start().await;
    let mut target = Target::start();
    let name = target.address.to_string();
    let alarm = "{ sockets_below = 1, for = \"0s\", restarts = \"1/h\" }";
    let binary = Binary::with(&config(&receiver, &name, alarm));
    // Before its first check a worker counts as up. It ends only after that check, so that its end is noticed.
    binary.says(&["first health checks done", "up=1"]);
    // stickyd counts from its first look on.
    told(&mut receiver, "sockets_low", "begun").await;
    let of_worker = |series: &str| metric(&binary, &format!("{series}{{upstream=\"app\",worker=\"{name}\"}}"));
    for restarts in [1.0, 2.0] {
        wait_for("the worker is up", || healths(&binary)[0].1 == "up");
        target.die();
        // Before it refuses a connect it is only down, and what follows does not count as a restart.
        wait_for("the worker is gone", || healths(&binary)[0].1 == "gone");
        target.rise();
        wait_for("the restart is counted", || of_worker("stickyd_worker_restarts_total") == restarts);
    }
    let problem = told(&mut receiver, "worker_restarts", "begun").await;
    assert_eq!(problem["why"], "2 restarts in an hour, more than 1");
    assert_eq!(problem["subject"], name);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_sessions_are_counted() {
    let mut receiver = Receiver::start().await;
    let worker = RawWorker::answering(|_| refusal());
    let alarm = "{ sockets_below = 1, for = \"0s\", refusals = \"2/m\" }";
    let binary = Binary::with(&config(&receiver, &worker.address.to_string(), alarm));
    // stickyd counts from its first look on.
    told(&mut receiver, "sockets_low", "begun").await;
    for number in 0..3 {
        let path = format!("/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAA{number}");
        assert_eq!(Raw::connect(binary.address).get(&path).status(), 400);
    }
    let lost = told(&mut receiver, "sessions_lost", "begun").await;
    assert_eq!(lost["why"], "3 requests of sessions were refused in a minute, more than 2");
    assert_eq!((&lost["topic"], &lost["upstream"]), (&json!("sessions"), &json!("app")));
}

#[tokio::test(flavor = "multi_thread")]
async fn cpu_of_a_worker_is_compared_with_its_alarm() {
    let mut receiver = Receiver::start().await;
    // A process that is busy for half of its time.
    let busy = "const s = require('net').createServer().listen(0, '127.0.0.1', () => {
        console.log(JSON.stringify({ port: s.address().port }));
        setInterval(() => { for (const end = Date.now() + 50; Date.now() < end;); }, 100); })";
    let mut process = Process::start("node", ["-e", busy]);
    let port = process.line().await.expect("the process starts")["port"].clone();
    let alarm = "{ cpu = \"1%\", for = \"0s\" }";
    let binary = Binary::with(&config(&receiver, &format!("127.0.0.1:{port}"), alarm));
    let hot = told(&mut receiver, "worker_cpu", "begun").await;
    assert!(hot["why"].as_str().unwrap().ends_with("% of a core, more than 1%"), "{hot:#}");
    assert_eq!(hot["subject"], format!("127.0.0.1:{port}"));
    binary.says(&["alarm began", "worker_cpu", "more than 1%"]);
}
