//! What a polling client sends while its worker is being replaced, before it knows that its session has ended.

use serde_json::json;

use super::support::{command, none_runs, pids, pool, started, text};
use crate::support::load::Load;
use crate::support::proxy::Binary;
use crate::support::raw::{Message, Raw};
use crate::support::wait::wait_for;

const PATH: &str = "/socket.io/?EIO=4&transport=polling";

/// A polling client of Socket.IO, byte by byte: what it sends, and when, is the test's own choice.
struct PollingClient {
    binary: Binary,
    path: String,
    poll: Raw,
}

impl PollingClient {
    /// Connects to the only worker, and leaves a poll open there.
    fn connected() -> Self {
        let binary = started(1, "instances = 1, grace = \"1s\"");
        let mut poll = Raw::connect(binary.address);
        let opened = poll.get(PATH);
        let sid = opened.text().split('"').nth(3).unwrap().to_owned();
        let client = Self { path: format!("{PATH}&sid={sid}"), binary, poll };
        assert_eq!(client.post("40").text(), "ok");
        let mut client = client;
        let path = client.path.clone();
        assert!(client.poll.get(&path).text().starts_with("40{"));
        client.poll.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client
    }

    fn post(&self, packet: &str) -> Message {
        let Self { path, .. } = self;
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n");
        Raw::connect(self.binary.address).ask(&format!("{head}Content-Length: {}\r\n\r\n{packet}", packet.len()))
    }

    /// Replaces the worker, and waits until the client's poll is answered with the close packet.
    fn replaced() -> (Self, Vec<u32>) {
        let mut client = Self::connected();
        let before = pids(&client.binary);
        assert!(command(&client.binary, &["workers", "restart", "--no-wait"]).status.success());
        let answer = client.poll.answer();
        assert_eq!((answer.status(), answer.text()), (200, "1"));
        (client, before)
    }

    /// Waits until the application has written this.
    fn wrote(&self, words: &str) {
        wait_for(words, || {
            let lines = text(&command(&self.binary, &["logs"]));
            if lines.contains(words) { Ok(()) } else { Err(lines) }
        });
    }

    /// Waits until the application has seen the disconnect and its old process has ended.
    fn left(&self, before: &[u32]) {
        self.wrote("app/1 | gone: transport close");
        none_runs(before);
        wait_for("the roll is over", || pool(&self.binary)["roll"]["state"] == "done");
    }
}

#[test]
fn a_message_on_its_way_at_the_end_of_a_session_arrives() {
    let (mut client, before) = PollingClient::replaced();
    let answer = client.post("42[\"note\",\"late\"]");
    assert_eq!((answer.status(), answer.text()), (200, "ok"));
    client.wrote("app/1 | noted: late");
    let path = client.path.clone();
    assert_eq!(client.poll.get(&path).text(), "1", "a poll learns of the end");
    // The worker has answered the client's last poll, and waits for the next one.
    client.left(&before);
    let refused = client.post("42[\"note\",\"too late\"]");
    assert_eq!(refused.status(), 400, "{}", refused.text());
}

#[test]
fn a_client_that_sends_nothing_more_leaves_its_old_worker() {
    let (client, before) = PollingClient::replaced();
    client.left(&before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_of_a_polling_client_is_refused_in_a_roll() {
    let command = "command = [\"node\", \"server.js\", \"--daemon\", \"--allow-eio3\"]";
    let binary = started(2, &format!("instances = 2, grace = \"2s\", {command}"));
    for version in [4, 2] {
        // Each client has a message on its way at nearly every moment.
        let options = json!({"urls": [binary.url("")], "n": 40, "messages": "endless", "interval": 5, "keep": true,
            "transports": ["polling"], "version": version, "timeout": 120_000});
        let mut load = Load::start(options);
        load.event("all-connected").await;
        let said = tokio::task::block_in_place(|| super::support::command(&binary, &["workers", "restart"]));
        assert!(said.status.success(), "{}", text(&said));
        let result = load.stop().await;
        assert_eq!(result["refusals"]["total"], 0, "{result}");
        assert_eq!(result["connect_errors"], json!({}), "{result}");
    }
}
