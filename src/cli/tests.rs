//! The command line as a whole: its help, its options, its summary of a file.

use std::path::Path;

use super::*;
use crate::config::AdminAddress;

fn run(args: &[&str]) -> Result<RunCommand, String> {
    let line = ["stickyd", "run"].iter().chain(args);
    match Cli::try_parse_from(line).map_err(|error| error.to_string())?.command {
        Command::Run(run) => Ok(run),
        _ => Err("not the run command".to_owned()),
    }
}

fn load(file: &str) -> Loaded {
    crate::config::load_with_warnings(Path::new(file))
}

#[test]
fn the_command_line_definition_is_valid() {
    <Cli as CommandFactory>::command().debug_assert();
}

#[test]
fn run_takes_a_file_or_addresses_but_not_both() {
    for args in [&["--config", "a.toml"][..], &["-c", "a.toml"], &["a.toml"]] {
        assert_eq!(run(args).unwrap().config_file(), Some(Path::new("a.toml")), "{args:?}");
    }
    for (args, option) in [
        (&["a.toml", "--config", "b.toml"][..], "--config <FILE>"),
        (&["a.toml", "--listen", "127.0.0.1:0", "--worker", "127.0.0.1:1"], "--listen <IP:PORT>"),
        (&["a.toml", "--spawn", "2", "--", "node"], "--spawn <N|max>"),
    ] {
        let said = run(args).unwrap_err();
        assert!(said.contains("'[FILE]' cannot be used with") && said.contains(option), "{said}");
    }
    let quick =
        run(&["--listen", "127.0.0.1:0", "--worker", "127.0.0.1:3001-3002", "--worker", "unix:/run/a"]).unwrap();
    let (config, warnings) = quick.load().1.unwrap();
    assert_eq!(summary(&config), "1 listener, 1 upstream, 3 workers");
    assert!(matches!(config.admin.address, AdminAddress::Unix(_)) && warnings.is_empty(), "{warnings:?}");
    let said = run(&["--listen", "127.0.0.1:0"]).unwrap_err();
    assert!(said.contains("--worker <ADDRESS>") && !said.contains("--config <FILE>"), "{said}");
    let said = run(&["--worker", "127.0.0.1:1"]).unwrap_err();
    assert!(said.contains("--listen <IP:PORT>"), "{said}");
    assert!(run(&["--config", "a.toml", "--worker", "127.0.0.1:1"]).is_err());
}

#[test]
fn run_alone_uses_the_default_file_or_shows_what_to_write() {
    let alone = run(&[]).unwrap();
    let said = alone.usage_error_without(Path::new("/nonexistent/s.toml")).unwrap();
    for part in ["/nonexistent/s.toml does not exist", "--listen 0.0.0.0:8080 --worker 127.0.0.1", "--config"] {
        assert!(said.contains(part), "{said}");
    }
    assert_eq!(alone.usage_error_without(Path::new("/dev/null")), None);
    for args in [&["--config", "a"][..], &["a"]] {
        assert_eq!(run(args).unwrap().usage_error_without(Path::new("/nonexistent")), None);
    }
}

#[test]
fn check_takes_its_file_like_other_commands_too() {
    let parse = |args: &[&str]| Cli::try_parse_from(["stickyd", "check"].iter().chain(args));
    for args in [&["a.toml"][..], &["-c", "a.toml"], &["--config", "a.toml", "--strict"], &[]] {
        assert!(parse(args).is_ok(), "{args:?}");
    }
    assert!(parse(&["a.toml", "-c", "a.toml"]).is_err());
}

#[test]
fn checking_a_missing_file_fails_and_names_it() {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(report(load("/nonexistent/s.toml"), false, &mut out, &mut err), 1);
    assert!(out.is_empty());
    insta::assert_snapshot!(
        String::from_utf8(err).unwrap(),
        @"error: cannot read /nonexistent/s.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn checking_without_a_file_says_how_to_name_one() {
    let missing = Path::new("/nonexistent/s.toml");
    let said = |named| check::load(named, missing).unwrap_err().to_string();
    let why = "error: cannot read /nonexistent/s.toml: No such file or directory (os error 2)";
    assert_eq!(said(None), format!("{why}\n  = help: name a file: stickyd check stickyd.toml"));
    assert_eq!(said(Some(missing)), why);
}

#[test]
fn a_check_prints_the_summary() {
    let file = std::env::temp_dir().join(format!("stickyd-check-{}.toml", std::process::id()));
    std::fs::write(&file, "listener = [{ address = \"0.0.0.0:80\" }]\nupstream.a.workers = [\"127.0.0.1:1-9\"]")
        .unwrap();
    let check = |strict| {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = report(load(file.to_str().unwrap()), strict, &mut out, &mut err);
        (code, String::from_utf8(out).unwrap(), err)
    };
    let (said, strict) = (check(false), check(true));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("state_dir = {:?}\n{text}", std::env::temp_dir())).unwrap();
    let kept = check(false);
    std::fs::remove_file(&file).unwrap();
    let summary = "ok: 1 listener, 1 upstream, 9 workers\n";
    let note = "note: no secret and no state_dir: cookies are signed with a secret in memory and become invalid at a \
                restart\n";
    assert_eq!(said, (0, format!("{summary}{note}"), Vec::new()));
    assert_eq!(strict, said, "--strict accepts it");
    assert_eq!(kept.1, summary);
}
