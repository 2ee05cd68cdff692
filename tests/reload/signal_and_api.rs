//! A reload by signal and by API: a good file changes only what differs, and a bad file changes nothing.

use serde_json::Value;

use crate::support::admin::{metric, post_reload, states, workers, write};
use crate::support::engines::{SID, config_of, one_session};
use crate::support::proxy::Binary;
use crate::support::raw::{Message, Raw};
use crate::support::wait::wait_for;

fn poll(client: &mut Raw) -> Message {
    client.get(&format!("/socket.io/?EIO=4&transport=polling&sid={SID}"))
}

#[test]
fn a_good_file_adds_a_worker_and_keeps_sessions() {
    let (one, two) = (one_session("one"), one_session("two"));
    let binary = Binary::with(&config_of(&[&one], ""));
    let mut client = Raw::connect(binary.address);
    client.get("/socket.io/?EIO=4&transport=polling");
    let pair = client.get("/").cookie("stickyd_app").unwrap();
    assert_eq!(poll(&mut client).text(), "4session at one");
    let answered = format!("stickyd_requests_total{{class=\"2xx\",upstream=\"app\",worker=\"{}\"}}", one.address);
    assert!((metric(&binary, &answered) - 3.0).abs() < f64::EPSILON);

    write(&binary, &config_of(&[&one, &two], ""));
    let (status, said) = post_reload(&binary);
    assert_eq!((status, &said["reloaded"], &said["needs_restart"]), (200, &true.into(), &Value::Array(Vec::new())));
    assert_eq!(workers(&binary), [one.address.to_string(), two.address.to_string()]);
    assert!((metric(&binary, &answered) - 3.0).abs() < f64::EPSILON, "counters are kept");
    assert!((metric(&binary, "stickyd_pins") - 1.0).abs() < f64::EPSILON);
    // The same client connection is kept, too.
    assert_eq!(poll(&mut client).text(), "4session at one");
    let answer = client.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {pair}\r\n\r\n"));
    assert_eq!((answer.text(), answer.header("set-cookie")), ("one", None));

    // The session's worker is removed: the pin does not move, and no other worker gets its requests.
    write(&binary, &config_of(&[&two], ""));
    assert_eq!(post_reload(&binary).0, 200);
    assert_eq!(poll(&mut client).text(), "4session at one");
    assert_eq!(client.get("/").text(), "two");
    assert_eq!(
        states(&binary),
        [(two.address.to_string(), "ready".into()), (one.address.to_string(), "removed".into())]
    );
    assert!((metric(&binary, &answered) - 6.0).abs() < f64::EPSILON, "the removed worker is still shown");
    assert!((metric(&binary, "stickyd_reloads_total{result=\"ok\"}") - 2.0).abs() < f64::EPSILON);
}

#[test]
fn a_removed_worker_goes_with_its_last_session_and_can_return() {
    let (one, two) = (one_session("one"), one_session("two"));
    let binary = Binary::with(&config_of(&[&one], ""));
    let mut client = Raw::connect(binary.address);
    client.get("/socket.io/?EIO=4&transport=polling");
    write(&binary, &config_of(&[&two], ""));
    assert_eq!(post_reload(&binary).0, 200);
    let removed = format!("stickyd_worker_admin{{admin=\"removed\",upstream=\"app\",worker=\"{}\"}}", one.address);
    assert!((metric(&binary, &removed) - 1.0).abs() < f64::EPSILON);
    let goodbye =
        format!("POST /socket.io/?EIO=4&transport=polling&sid={SID} HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n1");
    assert_eq!(client.ask(&goodbye).status(), 200);
    wait_for("the removed worker is gone", || workers(&binary) == [two.address.to_string()]);
    let answered = format!("stickyd_requests_total{{class=\"2xx\",upstream=\"app\",worker=\"{}\"}}", one.address);
    assert!(!Raw::connect_unix(&binary.admin()).get("/metrics").text().contains(&answered), "its series are gone, too");
    write(&binary, &config_of(&[&one, &two], ""));
    assert_eq!(post_reload(&binary).0, 200);
    assert_eq!(states(&binary).iter().filter(|(_, state)| state == "ready").count(), 2);
}

#[test]
fn a_removed_upstream_goes_with_its_last_session() {
    let (one, two) = (one_session("one"), one_session("two"));
    let second = format!("[upstream.old]\nworkers = [\"{}\"]\n", one.address);
    let routes = |first: &str| format!("[[route]]\nupstream = \"{first}\"\n");
    let binary = Binary::with(&config_of(&[&two], &format!("{second}{}", routes("old"))));
    let mut client = Raw::connect(binary.address);
    client.get("/socket.io/?EIO=4&transport=polling");
    write(&binary, &config_of(&[&two], ""));
    assert_eq!(post_reload(&binary).0, 200);
    assert_eq!(client.get("/").text(), "two");
    assert_eq!(
        states(&binary),
        [(two.address.to_string(), "ready".into()), (one.address.to_string(), "removed".into())]
    );
    // When it is listed again, it still has its sessions.
    write(&binary, &config_of(&[&two], &format!("{second}{}", routes("old"))));
    assert_eq!(post_reload(&binary).0, 200);
    assert_eq!(poll(&mut client).text(), "4session at one");
    assert!(states(&binary).iter().all(|(_, state)| state == "ready"));
}

#[test]
fn a_signal_reloads() {
    let (one, two) = (one_session("one"), one_session("two"));
    let binary = Binary::with(&config_of(&[&one], ""));
    assert_eq!(Raw::connect(binary.address).get("/").text(), "one");
    write(&binary, &config_of(&[&two], "[log]\naccess = true"));
    binary.signal("HUP");
    binary.says(&["reloaded", "stickyd.toml"]);
    assert_eq!(Raw::connect(binary.address).get("/logged").text(), "two");
    binary.says(&["path=/logged"]);
}

#[test]
fn a_bad_file_changes_nothing_and_every_mistake_is_reported() {
    let one = one_session("one");
    let binary = Binary::with(&config_of(&[&one], ""));
    write(&binary, &config_of(&[&one], "affinty = [\"cookie\"]\nresponse_timeout = 5"));
    let (status, said) = post_reload(&binary);
    assert_eq!((status, &said["reloaded"]), (422, &false.into()));
    let error = said["error"].as_str().unwrap();
    assert!(error.contains("stickyd.toml:8:") && error.contains("affinty"), "{error}");
    assert!(error.contains("stickyd.toml:9:") && error.contains("needs a unit"), "every mistake is reported: {error}");
    binary.says(&["not reloaded, the old configuration stays in use"]);
    binary.signal("HUP");
    wait_for("both failures are counted", || {
        (metric(&binary, "stickyd_reloads_total{result=\"failed\"}") - 2.0).abs() < f64::EPSILON
    });
    assert_eq!(Raw::connect(binary.address).get("/").text(), "one");
    assert_eq!(workers(&binary), [one.address.to_string()]);
}

#[test]
fn keys_that_need_a_restart_are_named() {
    let one = one_session("one");
    let binary = Binary::with(&config_of(&[&one], ""));
    write(
        &binary,
        &config_of(&[&one], "[limits]\npins = 5000").replace("state_dir", "secret = \"0123456789abcdef\"\nstate_dir"),
    );
    let (status, said) = post_reload(&binary);
    assert_eq!(status, 200);
    assert_eq!(said["needs_restart"], serde_json::json!(["secret", "[limits] pins"]));
    binary.says(&["setting has changed in the file but needs a restart", "[limits] pins"]);
}

#[test]
fn routes_and_drains_are_reloaded() {
    let (one, two) = (one_session("one"), one_session("two"));
    let binary = Binary::with(&config_of(&[&one, &two], ""));
    let drained = config_of(&[&two], "")
        .replace("workers = [", &format!("workers = [{{ address = \"{}\", admin = \"drain\" }}, ", one.address));
    write(&binary, &format!("{drained}[[route]]\npath = \"/only\"\nupstream = \"app\"\n"));
    assert_eq!(post_reload(&binary).0, 200);
    let mut client = Raw::connect(binary.address);
    for n in 0..20 {
        assert_eq!(client.get(&format!("/only/{n}")).text(), "two");
    }
    assert_eq!(client.get("/").status(), 404);
}

#[test]
fn an_upstream_is_emptied_only_on_purpose() {
    let one = one_session("one");
    let binary = Binary::with(&config_of(&[&one], ""));
    let mut client = Raw::connect(binary.address);
    client.get("/socket.io/?EIO=4&transport=polling");
    write(&binary, &config_of(&[], ""));
    let (status, said) = post_reload(&binary);
    let error = said["error"].as_str().unwrap();
    assert!(
        status == 422 && error.contains("[upstream.app] has no worker") && error.contains("allow_empty"),
        "{error}"
    );
    assert_eq!(client.get("/").text(), "one");

    write(&binary, &config_of(&[], "allow_empty = true"));
    let (status, said) = post_reload(&binary);
    assert_eq!(status, 200);
    let lost = "upstream `app` no longer has any workers while it has live sessions: 1, tunnels: 0";
    assert_eq!(said["warnings"], serde_json::json!([lost]));
    binary.says(&[lost]);
    assert_eq!(client.get("/").status(), 503);
    assert_eq!(poll(&mut client).text(), "4session at one", "its sessions go on");
    write(&binary, &config_of(&[&one], "allow_empty = true"));
    assert_eq!(post_reload(&binary).1["warnings"], serde_json::json!([]));
    assert_eq!(client.get("/").text(), "one");
}

#[test]
fn a_reload_that_replaces_every_worker_warns() {
    let (one, two) = (one_session("one"), one_session("two"));
    let binary = Binary::with(&config_of(&[&one], ""));
    // There are no sessions, so there is no warning.
    write(&binary, &config_of(&[&two], ""));
    assert_eq!(post_reload(&binary).1["warnings"], serde_json::json!([]));
    Raw::connect(binary.address).get("/socket.io/?EIO=4&transport=polling");
    write(&binary, &config_of(&[&one, &two], ""));
    assert_eq!(post_reload(&binary).1["warnings"], serde_json::json!([]));
    write(&binary, &config_of(&[&one_session("three")], ""));
    let said = post_reload(&binary).1["warnings"][0].as_str().unwrap().to_owned();
    assert!(said.starts_with("every worker of upstream `app` was replaced") && said.contains("sessions: 1"), "{said}");
}

#[test]
fn the_running_configuration_and_errors_of_the_file_are_shown() {
    let one = one_session("one");
    let binary = Binary::with(&config_of(&[&one], ""));
    let config = || {
        let status = Raw::connect_unix(&binary.admin()).get("/api/v1/status");
        serde_json::from_slice::<Value>(&status.body).unwrap()["config"].clone()
    };
    let first = config();
    assert_eq!((&first["file"], &first["generation"]), (&"stickyd.toml".into(), &1.into()));
    assert_eq!((&first["error"], &first["needs_restart"]), (&Value::Null, &serde_json::json!([])));
    let loaded = metric(&binary, "stickyd_config_loaded_timestamp_seconds");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(loaded > now - 600.0 && loaded <= now, "{loaded}, now {now}");
    write(&binary, &config_of(&[&one], "affinty = 1"));
    post_reload(&binary);
    let bad = config();
    assert!(bad["error"].as_str().unwrap().contains("affinty"), "{bad}");
    assert_eq!((&bad["loaded_at"], &bad["generation"]), (&first["loaded_at"], &1.into()));
    assert!(metric(&binary, "stickyd_config_ok").abs() < f64::EPSILON);
    write(&binary, &config_of(&[&one], "[limits]\npins = 5000"));
    post_reload(&binary);
    let good = config();
    assert_eq!((&good["error"], &good["generation"]), (&Value::Null, &2.into()));
    assert_eq!(good["needs_restart"], serde_json::json!(["[limits] pins"]));
    assert_ne!(good["loaded_at"], first["loaded_at"]);
    assert!((metric(&binary, "stickyd_config_ok") - 1.0).abs() < f64::EPSILON);
}

#[test]
fn the_log_level_is_reloaded() {
    let one = one_session("one");
    // The kit sets RUST_LOG, which has precedence over the file.
    let binary = Binary::started_by(&config_of(&[&one], "[log]\naccess = true"), |_| {
        let stickyd = Binary::command();
        let mut command = std::process::Command::new("env");
        command.args(["-u", "RUST_LOG"]).arg(stickyd.get_program()).args(stickyd.get_args());
        command
    });
    let mut client = Raw::connect(binary.address);
    for (level, path) in [("error", "/silent"), ("info", "/heard")] {
        write(&binary, &config_of(&[&one], &format!("[log]\naccess = true\nlevel = \"{level}\"")));
        assert_eq!(post_reload(&binary).1["needs_restart"], serde_json::json!([]));
        client.get(path);
    }
    binary.says(&["path=/heard"]);
    assert!(!binary.log().contains("path=/silent"));
}
