//! A spawner that is a service of its own keeps the workers while stickyd is killed, restarted or upgraded.

use std::process::{Child, Command, Stdio};

use super::support::{all_ready, command, config, none_runs, pids, pool, runs, signal, text};
use crate::support::admin::write;
use crate::support::proxy::Binary;
use crate::support::wait::wait_for;

/// A spawner as the unit starts it.
struct Service {
    child: Child,
    socket: std::path::PathBuf,
}

impl Service {
    fn start(name: &str) -> Self {
        let socket = std::env::temp_dir().join(format!("stickyd-{name}-{}.sock", std::process::id()));
        let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
        let child = command.args(["spawn", "--socket"]).arg(&socket).stdout(Stdio::null()).spawn().unwrap();
        wait_for("the spawner listens", || socket.exists());
        Self { child, socket }
    }

    fn config(&self, keys: &str) -> String {
        format!("spawner = \"unix:{}\"\n{}", self.socket.display(), config(keys))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[test]
fn workers_outlive_a_killed_and_a_stopped_stickyd() {
    let mut service = Service::start("outlive");
    let mut binary = Binary::with(&service.config("instances = 2, grace = \"1s\""));
    all_ready(&binary, 2);
    let before = pids(&binary);
    binary.kill();
    binary.start_again();
    all_ready(&binary, 2);
    assert_eq!(pids(&binary), before, "the same processes");
    assert_eq!(binary.terminate().0, Some(0));
    assert!(before.iter().all(|pid| runs(*pid)));
    binary.start_again();
    all_ready(&binary, 2);
    assert_eq!(pids(&binary), before);
    // A stickyd that finds workers of another command replaces them.
    assert_eq!(binary.terminate().0, Some(0));
    write(&binary, &service.config("instances = 2, grace = \"1s\", env = { APP_VERSION = \"2\" }"));
    binary.start_again();
    wait_for("the workers were replaced", || {
        pool(&binary)["roll"]["state"] == "done" || no_roll_left(&binary, &before)
    });
    wait_for("all processes are new", || pids(&binary).iter().all(|pid| !before.contains(pid)));
    all_ready(&binary, 2);
    let said = command(&binary, &["workers", "restart"]);
    assert!(said.status.success(), "{}", text(&said));
    let all = pids(&binary);
    // The unit's stop ends them.
    signal(service.child.id(), "TERM");
    assert!(service.child.wait().unwrap().success());
    none_runs(&all);
}

fn no_roll_left(binary: &Binary, before: &[u32]) -> bool {
    pids(binary).iter().all(|pid| !before.contains(pid))
}

#[test]
fn workers_of_a_killed_service_are_started_by_the_next() {
    let mut service = Service::start("killed");
    let binary = Binary::with(&service.config("instances = 1"));
    all_ready(&binary, 1);
    let before = pids(&binary);
    service.child.kill().unwrap();
    service.child.wait().unwrap();
    none_runs(&before);
    let _next = Service::start("killed");
    wait_for("there is a new worker", || pids(&binary).first().is_some_and(|pid| !before.contains(pid)));
    all_ready(&binary, 1);
}
