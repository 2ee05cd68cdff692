//! `check` and `run` agree: what a start refuses because of the file, `check` refuses with the same words.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::proxy::{Binary, free_address};
use crate::support::raw::{Raw, RawWorker};
use crate::support::temp::TempDirectory;
use crate::support::tls::Certificates;

fn stickyd(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stickyd")).args(arguments).current_dir(directory).output().unwrap()
}

fn error_of(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const APP: &str = "[upstream.app]\nworkers = [\"127.0.0.1:9\"]\n";

/// Both refuse the file; the error.
fn both_refuse(directory: &TempDirectory, text: &str) -> String {
    directory.write("s.toml", text);
    let (check, run) =
        (stickyd(directory.root(), &["check", "s.toml"]), stickyd(directory.root(), &["run", "-c", "s.toml"]));
    let said = error_of(&check);
    assert_eq!((check.status.code(), run.status.code()), (Some(1), Some(1)), "{text}\n{said}\n{}", error_of(&run));
    assert_eq!(said, error_of(&run), "{text}");
    said
}

#[test]
fn addresses_that_overlap_are_refused_by_both() {
    let directory = TempDirectory::new("overlap");
    let port = free_address().port();
    let listeners = |addresses: &[&str]| {
        let one = |address: &&str| format!("[[listener]]\naddress = \"{address}:{port}\"\n");
        addresses.iter().map(one).collect::<String>()
    };
    for addresses in [
        ["0.0.0.0", "127.0.0.1"],
        ["127.0.0.1", "0.0.0.0"],
        ["[::]", "[::1]"],
        ["[::1]", "[::]"],
        ["[::ffff:127.0.0.1]", "127.0.0.1"],
        ["[::ffff:127.0.0.1]", "0.0.0.0"],
    ] {
        let said = both_refuse(&directory, &format!("{}{APP}", listeners(&addresses)));
        assert!(said.contains("overlaps with") || said.contains("already has a listener"), "{said}");
    }
    for (listener, admin) in [
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.1", "[::]"),
        ("[::]", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
    ] {
        let text =
            format!("{}{APP}[admin]\naddress = \"{admin}:{port}\"\ntoken_file = \"token\"", listeners(&[listener]));
        directory.write("token", "0123456789abcdef");
        let said = both_refuse(&directory, &text);
        assert!(said.contains("admin listener's address"), "{said}");
    }
    let twice = format!("address = [\"127.0.0.1:{port}\", \"127.0.0.1:{port}\"]");
    let said = both_refuse(&directory, &format!("{}{APP}[admin]\n{twice}", listeners(&["127.0.0.2"])));
    assert!(said.contains("is in the list twice"), "{said}");
}

#[test]
fn a_state_dir_that_cannot_work_is_refused_by_both() {
    let directory = TempDirectory::new("state");
    directory.write("file", "");
    std::fs::create_dir_all(directory.path("short")).unwrap();
    directory.write("short/secret", "too short");
    std::fs::create_dir_all(directory.path("taken")).unwrap();
    directory.write("taken/admin.sock", "precious");
    std::fs::create_dir_all(directory.path("folder/secret")).unwrap();
    std::os::unix::fs::symlink("nowhere", directory.path("link")).unwrap();
    let long = "d".repeat(100);
    for (state_dir, words) in [
        ("file", "is not a directory"),
        ("file/below", "is not a directory"),
        ("link", "is a link to nothing"),
        ("short", "is shorter than 16 bytes"),
        ("taken", "exists and is not a socket"),
        ("folder", "Is a directory"),
        (long.as_str(), "`state_dir` is too long"),
        ("", "`state_dir` is empty"),
    ] {
        let text = format!("state_dir = \"{state_dir}\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n{APP}");
        let said = both_refuse(&directory, &text);
        assert!(said.contains(words) && said.contains("s.toml:1:13"), "{state_dir}: {said}");
    }
    for (socket, words) in [("taken/admin.sock", "exists and is not a socket"), ("file/x", "file is not a directory")] {
        let text = format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{APP}[admin]\naddress = \"unix:{socket}\"\n");
        let said = both_refuse(&directory, &text);
        assert!(said.contains(words) && said.contains("s.toml:6:11"), "{said}");
    }
    assert_eq!(std::fs::read_to_string(directory.path("taken/admin.sock")).unwrap(), "precious");
}

#[test]
fn secrets_that_everybody_can_read_are_warned_of() {
    let files = Certificates::new();
    files.issue("site", &["a.example"]);
    let directory = TempDirectory::new("public");
    for name in ["site.pem", "site.key"] {
        directory.write_mode(name, std::fs::read(files.directory.join(name)).unwrap(), 0o644);
    }
    directory.write_mode("secret", "0123456789abcdef", 0o644);
    directory.write_mode("token", "0123456789abcdef", 0o640);
    std::fs::create_dir_all(directory.path("state")).unwrap();
    let text = "secret_file = \"secret\"\nstate_dir = \"state\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n\
        tls = { certificate = \"site.pem\", key = \"site.key\" }\n[upstream.app]\nworkers = [\"127.0.0.1:9\"]\n\
        [admin]\ntoken_file = \"token\"\n";
    let warned = |text: &str, arguments: &[&str], mode| {
        directory.write_mode("s.toml", text, mode);
        let output = stickyd(directory.root(), &[&["check", "s.toml"], arguments].concat());
        (output.status.code().unwrap(), error_of(&output))
    };
    let (code, said) = warned(text, &[], 0o644);
    assert_eq!((code, said.matches("every user of this machine can read").count()), (0, 2), "{said}");
    assert!(said.contains("public") && said.contains("/secret\n") && said.contains("/site.key\n"), "{said}");
    let (code, said) = warned(text, &["--strict"], 0o644);
    assert_eq!((code, said.matches("error: every user of this machine").count()), (1, 2), "{said}");
    let inline = text.replace("secret_file = \"secret\"", "secret = \"0123456789abcdef\"");
    assert!(warned(&inline, &[], 0o644).1.contains("s.toml\n"), "the file itself holds a secret");
    assert!(!warned(&inline, &[], 0o600).1.contains("can read s.toml"));
    directory.write_mode("state/secret", "0123456789abcdef", 0o604);
    assert!(warned(&text.replace("secret_file = \"secret\"\n", ""), &[], 0o644).1.contains("state/secret"));
    // No other user gets as far as the file.
    std::os::unix::fs::symlink("site.key", directory.path("link")).unwrap();
    std::fs::set_permissions(directory.root(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    assert_eq!(warned(text, &["--strict"], 0o644), (0, String::new()));
}

#[test]
fn one_expired_certificate_of_several_is_loud_and_the_others_are_served() {
    let (worker, files) = (RawWorker::named("a"), Certificates::new());
    files.issue_expired("old", &["old.example"]);
    files.issue("new", &["new.example"]);
    let pair = |name: &str| format!("{{ certificate = \"{name}.pem\", key = \"{name}.key\" }}");
    let text = |certificates: &str| {
        let workers = format!("[upstream.app]\nworkers = [\"{}\"]\n", worker.address);
        format!("[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificates = [{certificates}] }}\n{workers}")
    };
    let both = text(&[pair("old"), pair("new")].join(", "));
    let directory = &files.directory;
    let check = |text: &str, strict: &[&str]| {
        std::fs::write(directory.join("s.toml"), text).unwrap();
        let output = stickyd(directory, &[&["check", "s.toml"], strict].concat());
        (output.status.code().unwrap(), error_of(&output))
    };
    let (code, said) = check(&both, &[]);
    assert!(code == 0 && said.contains("warning: the certificate old.pem expired at"), "{said}");
    let (code, said) = check(&both, &["--strict"]);
    assert!(code == 1 && said.contains("error: the certificate old.pem expired at"), "{said}");
    let (code, said) = check(&text(&pair("old")), &[]);
    assert!(code == 1 && said.contains("error: the certificate old.pem expired at"), "no other is left: {said}");

    let proxy = crate::support::proxy::Proxy::with_files(&both, directory);
    let mut made = files.client().connect(proxy.address, "new.example");
    assert_eq!(made.raw.ask("GET / HTTP/1.1\r\nHost: new.example\r\n\r\n").text(), "a");
    let until =
        proxy.metric("stickyd_tls_certificate_expiry_timestamp_seconds{listener=\"127.0.0.1:0\",name=\"old.example\"}");
    assert!(until > 0.0 && until < 2e9, "{until}");
}

#[test]
fn a_state_dir_that_is_created_is_named() {
    let worker = RawWorker::named("a");
    let binary = Binary::with(&format!("state_dir = \".\"\n[upstream.app]\nworkers = [\"{}\"]", worker.address));
    assert_eq!(Raw::connect(binary.address).get("/").text(), "a");
    let directory = TempDirectory::new("typo");
    let taken = binary.address;
    // The listener cannot be bound, so the start ends by itself; the directory is made before.
    directory.write("s.toml", format!("state_dir = \"stikcyd\"\n[[listener]]\naddress = \"{taken}\"\n{APP}"));
    let said = error_of(&stickyd(directory.root(), &["run", "--config", "s.toml"]));
    assert!(said.contains("state_dir did not exist and was created") && said.contains("/stikcyd"), "{said}");
    let port = taken.port();
    assert!(said.contains("Address already in use") && said.contains(&format!("ss -ltnp 'sport = :{port}'")), "{said}");
}
