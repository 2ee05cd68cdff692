//! `stickyd top` on a terminal: keys, orders, sizes, and the terminal as it was before, however the command ends.

use serde_json::{Value, json};

use crate::support::admin;
use crate::support::load::Load;
use crate::support::node::NodeServer;
use crate::support::process::{Process, clients_dir};
use crate::support::proxy::Binary;

/// A program on a terminal of its own (`tests/clients/terminal.py`).
struct Terminal(Process);

impl Terminal {
    fn start(size: &str, binary: &Binary) -> Self {
        let admin = format!("unix:{}", binary.admin().display());
        let command =
            ["terminal.py", size, env!("CARGO_BIN_EXE_stickyd"), "top", "--every", "200ms", "--admin", &admin];
        Self(Process::start(clients_dir().join(".venv/bin/python"), command))
    }

    async fn ask(&mut self, command: Value) -> Value {
        self.0.command(&command.to_string()).await;
        let answer = self.0.line().await.expect("the terminal runs");
        assert!(
            answer["error"].is_null(),
            "{command}: {}\n{}",
            answer["error"],
            answer["screen"].as_str().unwrap_or_default()
        );
        answer
    }

    async fn see(&mut self, text: &str) -> String {
        self.ask(json!({"do": "see", "text": text})).await["screen"].as_str().unwrap().to_owned()
    }

    async fn keys(&mut self, text: &str) {
        self.ask(json!({"do": "keys", "text": text})).await;
    }

    /// Waits for the end, after which the terminal has to be as it was before; the exit code.
    async fn end(&mut self) -> i64 {
        let answer = self.ask(json!({"do": "end"})).await;
        for what in ["restored", "left", "cursor"] {
            assert_eq!(answer[what], true, "{what}: {answer}");
        }
        answer["code"].as_i64().unwrap()
    }
}

async fn stickyd(clients: u64) -> (Vec<crate::support::node::Worker>, Binary, Load) {
    let workers = NodeServer::start_many(2, &[]).await;
    let list = workers.iter().map(|one| format!("{{ address = \"{}\", name = \"{}\" }}", one.address(), one.name));
    let list = list.collect::<Vec<_>>().join(", ");
    let binary = Binary::with(&format!(
        "state_dir = \".\"\n[upstream.app]\nworkers = [{list}]\nhealth = {{ kind = \"tcp\", interval = \"500ms\" }}"
    ));
    let options = json!({"urls": [binary.url("")], "n": clients, "messages": 1, "keep": true, "timeout": 120_000,
        "io": {"reconnection": false}});
    let mut load = Load::start(options);
    load.event("all-upgraded").await;
    (workers, binary, load)
}

#[tokio::test]
async fn top_sorts_filters_shows_drains_and_closes() {
    let (_workers, binary, mut load) = stickyd(6).await;
    let mut top = Terminal::start("80x24", &binary);
    let screen = top.see("6 sockets").await;
    assert!(screen.contains("2 of 2 workers take new sessions"), "{screen}");
    assert!(screen.contains("> app/w1"), "{screen}");
    assert!(screen.contains("q quit"), "{screen}");
    // Details, and back.
    top.keys("j\r").await;
    top.see("Worker app/w2").await;
    top.see("its checks pass").await;
    top.keys("\u{1b}").await;
    top.see("> app/w2").await;
    // Sort and filter.
    top.keys("s").await;
    top.see("WORKERS 2, by name").await;
    top.keys("/w1\r").await;
    top.see("WORKERS 1,").await;
    top.keys("\u{1b}").await;
    top.see("WORKERS 2,").await;
    // A drain asks for its grace, and can be called off.
    top.keys("d").await;
    top.see("drain app/w2, grace: 60s").await;
    top.keys("\u{1b}").await;
    top.see("nothing was done").await;
    assert_eq!(admin::worker(&binary, "w2")["admin"], "ready");
    top.keys("d\r").await;
    top.see("up, drain").await;
    assert_eq!(admin::worker(&binary, "w2")["admin"], "drain");
    top.keys("ry").await;
    top.see("app/w2 is in ready").await;
    assert_eq!(admin::worker(&binary, "w2")["admin"], "ready");
    // Closing asks first; only y is yes.
    top.keys("\tcn").await;
    top.see("nothing was done").await;
    top.keys("c").await;
    top.see("y: yes").await;
    top.keys("y").await;
    load.event("disconnect").await;
    top.see("5 sockets").await;
    top.keys("?").await;
    top.see("drain the selected worker").await;
    top.keys("qq").await;
    assert_eq!(top.end().await, 0);
}

#[tokio::test]
async fn top_fits_any_size_and_shows_a_stickyd_that_left() {
    let (mut workers, mut binary, _load) = stickyd(3).await;
    let mut top = Terminal::start("132x40", &binary);
    top.see("RESTARTS").await;
    top.ask(json!({"do": "resize", "columns": 60, "rows": 14})).await;
    top.ask(json!({"do": "gone", "text": "RESTARTS"})).await;
    let screen = top.see("> app/w1").await;
    assert!(screen.lines().count() <= 14 && screen.lines().all(|line| line.chars().count() <= 60), "{screen}");
    top.ask(json!({"do": "resize", "columns": 30, "rows": 5})).await;
    top.see("the terminal is too small").await;
    top.ask(json!({"do": "resize", "columns": 80, "rows": 24})).await;
    workers[1].kill().await;
    top.see("app/w2 is gone: connects are refused").await;
    binary.terminate();
    top.see("not connected: no stickyd answers").await;
    binary.start_again();
    top.ask(json!({"do": "gone", "text": "not connected"})).await;
    top.keys("\u{3}").await;
    assert_eq!(top.end().await, 0, "Ctrl-C");
}

#[tokio::test]
async fn top_gives_the_terminal_back_at_a_signal() {
    let (_workers, binary, _load) = stickyd(1).await;
    for name in ["TERM", "HUP", "INT"] {
        let mut top = Terminal::start("80x24", &binary);
        top.see("q quit").await;
        top.ask(json!({"do": "signal", "name": name})).await;
        assert_eq!(top.end().await, 0, "{name}");
    }
}
