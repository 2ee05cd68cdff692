//! `stickyd reload`: it finds the running stickyd and reports the result.

use std::process::{Command, Output};

use crate::support::admin::write;
use crate::support::engines::{config_of, one_session};
use crate::support::proxy::{Binary, free_address};
use crate::support::raw::{Raw, RawWorker};

fn reload(binary: &Binary, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    command.arg("reload").args(arguments).current_dir(&binary.directory).output().unwrap()
}

/// The exit code, standard output and standard error.
fn said(output: &Output) -> (i32, &str, &str) {
    let text = |bytes| std::str::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

const BY_FILE: &[&str] = &["--config", "stickyd.toml"];

#[test]
fn found_by_the_file_with_good_and_bad_changes() {
    let (one, two) = (one_session("one"), one_session("two"));
    let binary = Binary::with(&config_of(&[&one], ""));
    write(&binary, &config_of(&[&two], "[limits]\npins = 5000"));
    let output = reload(&binary, BY_FILE);
    assert_eq!(said(&output), (0, "reloaded\n[limits] pins has changed in the file but needs a restart\n", ""));
    assert_eq!(Raw::connect(binary.address).get("/").text(), "two");

    write(&binary, &config_of(&[&one], "affinty = 1"));
    let output = reload(&binary, BY_FILE);
    let (code, out, err) = said(&output);
    assert_eq!((code, out), (1, ""));
    assert!(err.contains("unknown key `affinty`") && err.contains(" --> stickyd.toml:8:1"), "{err}");
    assert!(err.ends_with("not reloaded, the old configuration stays in use\n"), "{err}");
    // Even in a file that is not TOML, the place of the mistake is shown.
    write(&binary, &config_of(&[&one], "= 1"));
    let output = reload(&binary, BY_FILE);
    assert!(said(&output).0 == 1 && said(&output).2.contains(" --> stickyd.toml:8:1"), "{output:?}");
    assert_eq!(Raw::connect(binary.address).get("/").text(), "two");
}

#[test]
fn over_tcp_with_the_token() {
    let (worker, admin) = (RawWorker::named("a"), free_address());
    let token = std::env::temp_dir().join(format!("stickyd-token-{}", std::process::id()));
    std::fs::write(&token, "0123456789abcdef\n").unwrap();
    std::fs::set_permissions(&token, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let tables = format!("[upstream.app]\nworkers = [\"{}\"]\n[admin]\naddress = \"{admin}\"\n", worker.address);
    let binary = Binary::with(&format!("watch = false\n{tables}token_file = {token:?}"));
    assert_eq!(said(&reload(&binary, BY_FILE)), (0, "reloaded\n", ""));
    let (admin, token) = (admin.to_string(), token.to_str().unwrap().to_owned());
    let output = reload(&binary, &["--admin", &admin]);
    assert!(said(&output).0 == 1 && said(&output).2.contains("bearer token"), "{output:?}");
    assert_eq!(said(&reload(&binary, &["--admin", &admin, "--token-file", &token])), (0, "reloaded\n", ""));
    std::fs::remove_file(token).unwrap();
}

#[test]
fn no_stickyd_at_the_address_is_an_error() {
    let binary = Binary::with(&config_of(&[&one_session("one")], ""));
    let output = reload(&binary, &["--admin", "unix:/nonexistent/admin.sock"]);
    let (code, _, err) = said(&output);
    assert_eq!(code, 1);
    assert!(err.starts_with("error: no stickyd answers at unix:/nonexistent/admin.sock: is it running?"), "{err}");
    let free = free_address().to_string();
    assert!(said(&reload(&binary, &["--admin", &free])).2.contains("is it running?"));
    std::fs::write(binary.directory.join("none.toml"), "[upstream.app]\n").unwrap();
    let output = reload(&binary, &["--config", "none.toml"]);
    assert!(said(&output).0 == 1 && said(&output).2.contains("there is no admin listener"), "{output:?}");
}
