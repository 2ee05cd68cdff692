//! The forms of the access log, as the tools that read them see it: goaccess, fail2ban-regex and jq; a file that is
//! rotated; polls and samples that are left out.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::engines::{begin_session, many_sessions, path};
use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker};
use crate::support::wait::wait_for;

/// A stickyd that writes `access.log` in its folder, in this form; clients name their address themselves.
fn logging(worker: &RawWorker, access: &str) -> (Binary, PathBuf) {
    let binary = Binary::with(&format!(
        "state_dir = \".\"\n[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n\
         [upstream.app]\nworkers = [{{ address = \"{}\", name = \"w1\" }}]\n\
         [[route]]\npath = \"/closed\"\nupstream = \"app\"\ndeny = [\"192.0.2.66\"]\n\
         [[route]]\nupstream = \"app\"\n\
         [log]\n{access}\naccess_file = \"access.log\"",
        worker.address
    ));
    let file = binary.directory.join("access.log");
    (binary, file)
}

fn ask(binary: &Binary, from: &str, target: &str, more: &str) -> u16 {
    let request = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: {from}\r\n{more}\r\n");
    Raw::connect(binary.address).ask(&request).status()
}

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn lines_of(file: &Path, count: usize) -> Vec<String> {
    wait_for(&format!("{count} lines in the access log"), || {
        let lines = lines(file);
        if lines.len() == count { Ok(lines) } else { Err(lines) }
    })
}

/// Requests with something that could break a line: quotes, a forged line, a secret in the query.
fn requests(binary: &Binary) {
    assert_eq!(ask(binary, "192.0.2.1", "/first?token=secret", "User-Agent: Quoted \"x\" \\y\r\n"), 200);
    assert_eq!(ask(binary, "192.0.2.2", "/second", "Referer: https://b.example/page?token=secret\r\n"), 200);
    let forged = "User-Agent: access: client=198.51.100.9 reason=\"too many requests of this address\"\r\n";
    assert_eq!(ask(binary, "192.0.2.66", "/closed/x", forged), 403);
}

/// Addresses that the shipped filter of fail2ban finds in a file.
fn banned(file: &Path, mode: &str) -> Vec<String> {
    let filter = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/fail2ban/filter.d/stickyd.conf");
    let filter = format!("{}[mode={mode}]", filter.display());
    // Debian's package, unpacked: installing it would start a service.
    let unpacked = crate::support::process::clients_dir().join(".fail2ban/usr");
    let mut tool = match unpacked.is_dir() {
        true => Command::new(unpacked.join("bin/fail2ban-regex")),
        false => Command::new("fail2ban-regex"),
    };
    tool.env("PYTHONPATH", unpacked.join("lib/python3/dist-packages"));
    let done = tool.args(["--out", "ip", &file.display().to_string(), &filter]).output();
    let done = done.unwrap_or_else(|error| panic!("fail2ban-regex: {error}; tests/run installs it"));
    let said = String::from_utf8(done.stdout).unwrap();
    said.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// What goaccess counts in a file: valid lines, and the paths it has found.
fn goaccess(file: &Path, format: &str) -> (u64, Vec<String>) {
    let report = file.with_extension("report.json");
    let mut tool = Command::new("goaccess");
    let options = ["--no-global-config", "-o"];
    let done = tool.arg(file).arg(format!("--log-format={format}")).args(options).arg(&report).output();
    let done = done.unwrap_or_else(|error| panic!("goaccess: {error}; tests/run installs it"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let said: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert_eq!(said["general"]["failed_requests"], 0, "{said:#}");
    let paths = said["requests"]["data"].as_array().unwrap().iter().map(|one| one["data"].as_str().unwrap().to_owned());
    (said["general"]["valid_requests"].as_u64().unwrap(), paths.collect())
}

/// What jq prints for a file.
fn jq(file: &Path, program: &str) -> Vec<String> {
    let done = Command::new("jq").args(["-r", program]).arg(file).output();
    let done = done.unwrap_or_else(|error| panic!("jq: {error}; tests/run installs it"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn combined_lines_are_read_by_goaccess_and_fail2ban() {
    let worker = RawWorker::named("hello");
    let (binary, file) = logging(&worker, "access = \"combined\"");
    requests(&binary);
    let lines = lines_of(&file, 3);
    assert!(
        lines[0].starts_with("192.0.2.1 - - [") && lines[0].contains("\"GET /first HTTP/1.1\" 200 5 \"-\""),
        "{lines:#?}"
    );
    assert!(lines[0].ends_with("\"Quoted \\x22x\\x22 \\x5Cy\""), "{lines:#?}");
    assert!(lines[1].contains("\"https://b.example/page\""), "{lines:#?}");
    assert!(!lines.concat().contains("secret"));
    let (valid, paths) = goaccess(&file, "COMBINED");
    assert_eq!(valid, 3);
    assert!(paths.contains(&"/first".to_owned()) && paths.contains(&"/second".to_owned()), "{paths:?}");
    assert_eq!(banned(&file, "combined"), ["192.0.2.66"]);
    assert!(!binary.log().contains("/first"), "lines go to the file only");
}

#[test]
fn json_lines_are_read_by_goaccess_fail2ban_and_jq() {
    let worker = RawWorker::named("hello");
    let (binary, file) = logging(&worker, "access = \"json\"");
    requests(&binary);
    lines_of(&file, 3);
    let (valid, paths) = goaccess(&file, "CADDY");
    assert_eq!(valid, 3);
    assert!(paths.contains(&"/first".to_owned()), "{paths:?}");
    assert_eq!(banned(&file, "reasons"), ["192.0.2.66"]);
    let program = "[.request.client_ip, .request.method, .status, .worker, .why, .request.host, .size] | @csv";
    let told = jq(&file, program);
    assert_eq!(told[0], "\"192.0.2.1\",\"GET\",200,\"w1\",\"address\",\"a.example\",5");
    assert_eq!(jq(&file, ".reason")[2], "the client's network is not allowed");
    assert_eq!(jq(&file, "select(.duration < 0 or .ttfb > .duration + 1)").len(), 0);
    assert_eq!(jq(&file, ".request.headers[\"User-Agent\"][0]")[0], "Quoted \"x\" \\y");
}

#[test]
fn ecs_and_text_lines_are_read_by_fail2ban_and_jq() {
    let worker = RawWorker::named("hello");
    let (binary, file) = logging(&worker, "access = \"ecs\"");
    requests(&binary);
    lines_of(&file, 3);
    let told =
        jq(&file, "[.[\"client.ip\"], .[\"http.response.status_code\"], .[\"url.path\"], .[\"url.domain\"]] | @csv");
    assert_eq!(told[0], "\"192.0.2.1\",200,\"/first\",\"a.example\"");
    assert_eq!(jq(&file, ".[\"ecs.version\"]")[0], "8.11.0");
    assert_eq!(banned(&file, "reasons"), ["192.0.2.66"]);
    let (binary, file) = logging(&worker, "access = true");
    requests(&binary);
    let lines = lines_of(&file, 3);
    assert!(
        lines[0].contains(" INFO access: client=192.0.2.1 http=1 method=GET path=/first status=200 "),
        "{lines:#?}"
    );
    assert!(lines[0].contains(" worker=\"w1\" why=\"address\" ") && !lines.concat().contains("secret"), "{lines:#?}");
    assert_eq!(banned(&file, "reasons"), ["192.0.2.66"], "a forged reason bans no other address");
}

#[test]
fn a_rotated_file_is_opened_again_by_a_reload() {
    let worker = RawWorker::named("hello");
    let (binary, file) = logging(&worker, "access = \"combined\"");
    ask(&binary, "192.0.2.1", "/before", "");
    lines_of(&file, 1);
    let moved = file.with_extension("log.1");
    std::fs::rename(&file, &moved).unwrap();
    ask(&binary, "192.0.2.1", "/between", "");
    lines_of(&moved, 2);
    binary.signal("HUP");
    binary.says(&["reloaded"]);
    ask(&binary, "192.0.2.1", "/after", "");
    assert!(lines_of(&file, 1)[0].contains("/after"));
    assert_eq!(lines(&moved).len(), 2);
}

#[test]
fn polls_and_samples_are_left_out_and_failures_are_not() {
    let worker = many_sessions("w1");
    let (binary, file) = logging(&worker, "access = \"combined\"\nskip = [\"polls\"]");
    let sid = begin_session(binary.address, "");
    let mut poll = Raw::connect(binary.address);
    poll.send(format!("GET {} HTTP/1.1\r\nHost: a.example\r\n\r\n", path(&sid)));
    crate::support::engines::post_message(binary.address, &path(&sid));
    drop(poll);
    ask(&binary, "192.0.2.66", "/closed/x", "");
    wait_for("the refusal is logged", || lines(&file).iter().any(|line| line.contains("/closed/x")));
    let polls = lines(&file).iter().filter(|line| line.contains("GET /socket.io/") && line.contains(" 200 ")).count();
    assert!(polls <= 1, "the handshake only: {:#?}", lines(&file));
    assert!(lines(&file).iter().any(|line| line.contains("POST /socket.io/")));
    let worker = RawWorker::named("hello");
    let (binary, file) = logging(&worker, "access = \"combined\"\nsample = \"10%\"");
    (0..200).for_each(|n| _ = ask(&binary, "192.0.2.1", &format!("/{n}"), ""));
    ask(&binary, "192.0.2.66", "/closed/x", "");
    wait_for("the refusal is logged", || lines(&file).iter().any(|line| line.contains("/closed/x")));
    // 200 requests at 10 %: fewer than 2 or more than 60 do not happen by chance.
    assert!((2..60).contains(&lines(&file).len()), "{}", lines(&file).len());
}
