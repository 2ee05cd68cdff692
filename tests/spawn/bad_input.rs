//! Commands that cannot run, do not listen where they should, or end again and again: each has a clear message.

use std::net::TcpListener;
use std::process::Command;

use super::support::{all_ready, command, config, none_runs, pids, started, text, workers};
use crate::support::proxy::Binary;
use crate::support::wait::wait_for;

fn stickyd(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_stickyd")).args(arguments).output().unwrap();
    (output.status.code(), text(&output))
}

#[test]
fn a_wrong_command_line_is_an_error_with_a_hint() {
    let (code, said) = stickyd(&["run", "--listen", "127.0.0.1:0", "--spawn", "2", "--", "no-such-program"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("there is no program `no-such-program` in PATH"), "{said}");
    for wrong in [
        &["run", "--spawn", "0", "--", "node"][..],
        &["run", "--spawn", "many", "--", "node"],
        &["run", "--spawn", "2"],
        &["run", "--listen", "127.0.0.1:0", "--", "node"],
        &["run", "--listen", "127.0.0.1:0", "--spawn", "1", "--worker", "127.0.0.1:1", "--", "node"],
    ] {
        assert_eq!(stickyd(wrong).0, Some(2), "{wrong:?}");
    }
}

#[test]
fn the_hardened_unit_is_refused_with_the_name_of_the_other() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let output = command.args(["run", "--spawn", "1", "--", "node"]).env("STICKYD_UNIT", "hardened").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("stickyd-workers.service"), "{}", text(&output));
}

#[test]
fn a_command_that_exits_at_once_is_a_crash_loop_with_its_last_lines() {
    let text_of = config("instances = 1, command = [\"sh\", \"-c\", \"echo it broke >&2; exit 4\"]");
    // The second upstream is untouched.
    let other = config("instances = 1").replace("state_dir = \".\"\n", "").replace("upstream.app", "upstream.web");
    let routes = "[[route]]\npath = \"/a\"\nupstream = \"app\"\n[[route]]\npath = \"/\"\nupstream = \"web\"\n";
    let binary = Binary::with(&format!("{text_of}{other}{routes}"));
    binary.says(&["crash loop", "exited with code 4", "it broke"]);
    let said = wait_for("the crash loop is shown", || {
        let said = text(&command(&binary, &["workers"]));
        if said.contains("crash loop") && said.contains("    it broke") { Ok(said) } else { Err(said) }
    });
    assert!(said.contains("app/1 (crash loop)"), "{said}");
    binary.says(&["worker is ready", "upstream=web"]);
}

#[test]
fn a_worker_on_another_port_is_told_which() {
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = busy.local_addr().unwrap().port();
    drop(busy);
    let binary = Binary::with(&config(&format!("instances = 1, env = {{ LISTEN = \"{port}\" }}")));
    let line =
        binary.says(&["worker was started but is not healthy yet", &format!("it listens on port {port} instead")]);
    assert!(line.contains(&format!("write port = {port}")), "{line}");
    assert_eq!(workers(&binary)[0]["state"], "starting");
}

#[test]
fn a_hard_coded_port_is_moved() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    let binary = started(2, &format!("instances = 2, port = {port}, env = {{ LISTEN = \"{port}\" }}"));
    assert_eq!(pids(&binary).len(), 2);
}

#[test]
fn workers_on_unix_sockets_are_served() {
    let binary = started(2, "instances = 2, port = \"socket\", grace = \"1s\"");
    let address = workers(&binary)[0]["address"].as_str().unwrap().to_owned();
    assert!(address.starts_with("unix:/"), "{address}");
    assert!(command(&binary, &["workers", "restart"]).status.success());
}

#[test]
fn a_range_of_ports_in_use_is_told_and_used_when_free() {
    let first = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = first.local_addr().unwrap().port();
    let Ok(second) = TcpListener::bind(("127.0.0.1", port + 1)) else { return };
    let binary = Binary::with(&config(&format!("instances = 1, ports = \"127.0.0.1:{port}-{}\"", port + 1)));
    binary.says(&["worker cannot be started", "other processes listen there"]);
    drop((first, second));
    all_ready(&binary, 1);
}

#[test]
fn a_worker_that_ignores_sigterm_is_killed_when_it_is_replaced() {
    let binary = started(1, "instances = 1, grace = \"1s\", stop = \"1s\", env = { STUBBORN = \"1\" }");
    let before = pids(&binary);
    assert!(command(&binary, &["workers", "restart"]).status.success());
    none_runs(&before);
}
