//! Alarms of an upstream, with real sockets and processes.

use serde_json::json;

use super::{Receiver, body, state};
use crate::support::engines::{begin_session, many_sessions};
use crate::support::proxy::Binary;
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
