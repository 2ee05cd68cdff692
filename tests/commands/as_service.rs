//! `stickyd check --as-service`: files are read as the service of a systemd unit may read them. Only root can do that,
//! as the tests of a container usually run; as another user these tests are skipped and say so.

use std::os::unix::fs::chown;
use std::process::{Command, Output};

use crate::support::temp::TempDirectory;
use crate::support::tls::Certificates;

/// A group of every Debian, for files that a unit may read.
const GROUP: &str = "adm";

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A folder with a configuration for TLS whose key belongs to root, and a unit that can see temporary folders, in which
/// the test is. Nothing if the tests do not run as root, which is said.
fn folder(settings: &str) -> Option<TempDirectory> {
    let folder = TempDirectory::new("as-service");
    let made = Certificates::new();
    made.issue("chat", &["chat.example"]);
    let bytes = |name: &str| std::fs::read(made.directory.join(name)).unwrap();
    folder.write_mode("chain.pem", bytes("chat.pem"), 0o644);
    folder.write("key.pem", bytes("chat.key"));
    let key = "tls = { certificate = \"chain.pem\", key = \"key.pem\" }";
    let text = format!("[[listener]]\naddress = \"0.0.0.0:443\"\n{key}\n[upstream.app]\nworkers = [\"127.0.0.1:9\"]\n");
    folder.write_mode("stickyd.toml", text, 0o644);
    folder.write("stickyd.service", format!("[Unit]\nUser=root\n[Service]\n{settings}\n"));
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can read files as another user");
        return None;
    }
    Some(folder)
}

fn check(folder: &TempDirectory) -> (i32, String) {
    let unit = folder.path("stickyd.service");
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let output = command.arg("check").arg(folder.path("stickyd.toml")).arg(format!("--as-service={}", unit.display()));
    let output = output.output().unwrap();
    (output.status.code().unwrap(), said(&output))
}

/// As DynamicUser= chooses, but not the hidden temporary folders that come with it.
const USER: &str = "User=65534\nGroup=65534";

#[test]
fn a_key_that_only_root_may_read_is_an_error() {
    let Some(folder) = folder(USER) else { return };
    let plain = Command::new(env!("CARGO_BIN_EXE_stickyd")).arg("check").arg(folder.path("stickyd.toml")).output();
    assert!(plain.unwrap().status.success(), "root may read it");
    let (code, text) = check(&folder);
    assert_eq!(code, 1, "{text}");
    let key = folder.path("key.pem");
    assert!(text.contains(&format!("cannot read {}: Permission denied", key.display())), "{text}");
    assert!(text.contains("it is read as user 65534") && text.contains("stickyd.toml:3:"), "{text}");
    assert!(text.contains("\nread as stickyd.service: user 65534 (65534), group 65534"), "{text}");
    // A group that the unit gets by a drop-in may read it.
    let group = succeed(Command::new("getent").args(["group", GROUP]));
    let group: u32 = group.split(':').nth(2).unwrap().parse().unwrap();
    folder.write_mode("key.pem", std::fs::read(&key).unwrap(), 0o640);
    chown(&key, None, Some(group)).unwrap();
    assert_eq!(check(&folder).0, 1, "the unit does not have the group yet");
    std::fs::create_dir(folder.path("stickyd.service.d")).unwrap();
    folder.write("stickyd.service.d/override.conf", format!("[Service]\nSupplementaryGroups={GROUP}\n"));
    let (code, text) = check(&folder);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("ok: 1 listener, 1 upstream, 1 worker\n"), "{text}");
    assert!(text.ends_with(&format!(", groups {GROUP} ({group})\n")), "{text}");
}

fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_credential_of_the_unit_is_read_where_systemd_puts_it() {
    let Some(folder) = folder("") else { return };
    let from = folder.path("key.pem");
    folder.write("stickyd.service", format!("[Service]\n{USER}\nLoadCredential=key.pem:{}\n", from.display()));
    let text = std::fs::read_to_string(folder.path("stickyd.toml")).unwrap();
    let text = text.replace("\"key.pem\"", "\"/run/credentials/stickyd.service/key.pem\"");
    folder.write_mode("stickyd.toml", text, 0o644);
    let (code, text) = check(&folder);
    assert_eq!(code, 0, "{text}");
    // Each file of a folder is a credential. What systemd looks up itself says nothing about whether the unit starts.
    std::fs::create_dir(folder.path("keys")).unwrap();
    std::fs::rename(&from, folder.path("keys/pem")).unwrap();
    let folder_line = format!("LoadCredential=key:{}\nLoadCredential=api:token", folder.path("keys").display());
    folder.write("stickyd.service", format!("[Service]\n{USER}\n{folder_line}\n"));
    let text = std::fs::read_to_string(folder.path("stickyd.toml")).unwrap();
    folder.write_mode("stickyd.toml", text.replace("service/key.pem", "service/key_pem"), 0o644);
    let (code, text) = check(&folder);
    assert_eq!(code, 0, "{text}");
    folder.write("stickyd.service", format!("[Service]\n{USER}\nLoadCredential=key.pem:{}\n", from.display()));
    let (code, text) = check(&folder);
    assert!(code == 1 && text.contains("stickyd.service cannot start: LoadCredential= names"), "{text}");
}

#[test]
fn a_masked_unit_is_an_error() {
    let Some(folder) = folder("") else { return };
    let unit = folder.path("stickyd.service");
    std::fs::remove_file(&unit).unwrap();
    std::os::unix::fs::symlink("/dev/null", &unit).unwrap();
    let (code, text) = check(&folder);
    assert!(code == 1 && text.contains(&format!("stickyd.service is masked by {}", unit.display())), "{text}");
    std::fs::remove_file(&unit).unwrap();
    folder.write("stickyd.service", "");
    let (code, text) = check(&folder);
    assert!(code == 1 && text.contains("help: systemctl unmask stickyd.service"), "{text}");
}

#[test]
fn what_the_unit_hides_is_an_error() {
    let Some(folder) = folder(USER) else { return };
    let hides = format!("InaccessiblePaths={}", folder.root().display());
    folder.write("stickyd.service", format!("[Service]\n{USER}\n{hides}\n"));
    folder.write_mode("key.pem", std::fs::read(folder.path("key.pem")).unwrap(), 0o644);
    let (code, text) = check(&folder);
    // The file, the chain and the key.
    let hidden = text.matches("stickyd.service cannot see ").count();
    assert!(code == 1 && hidden == 3 && text.contains(&format!("key.pem ({hides})")), "{text}");
    // The shipped unit starts no workers itself.
    let shipped = std::fs::read_to_string("systemd/stickyd.service").unwrap();
    folder.write("stickyd.service", shipped);
    let spawn = "[[listener]]\naddress = \"0.0.0.0:80\"\n[upstream.app.spawn]\ncommand = [\"sleep\", \"1\"]\n";
    folder.write_mode("stickyd.toml", spawn, 0o644);
    let (code, text) = check(&folder);
    assert!(code == 1 && text.contains("too confined to start workers"), "{text}");
    assert!(text.contains(", dynamic)") && text.contains("SupplementaryGroups=GROUP"), "{text}");
}

#[test]
fn an_admin_group_that_the_unit_does_not_have_is_an_error() {
    let Some(folder) = folder(USER) else { return };
    let socket = folder.path("admin.sock");
    let admin = format!("[admin]\naddress = \"unix:{}\"\ngroup = \"{GROUP}\"\n", socket.display());
    let app = "[[listener]]\naddress = \"0.0.0.0:80\"\n[upstream.app]\nworkers = [\"127.0.0.1:9\"]\n";
    folder.write_mode("stickyd.toml", format!("{app}{admin}"), 0o644);
    let (code, text) = check(&folder);
    let why = format!("stickyd.service cannot start: it may not give the admin socket to the group {GROUP}\n");
    assert!(code == 1 && text.contains(&why), "{text}");
    let help = format!("be a member of {GROUP} (systemd: SupplementaryGroups={GROUP})\n");
    assert!(text.contains(&help), "{text}");
    for more in [format!("{USER}\nSupplementaryGroups={GROUP}"), format!("{USER}\nAmbientCapabilities=CAP_CHOWN")] {
        folder.write("stickyd.service", format!("[Service]\n{more}\n"));
        let (code, text) = check(&folder);
        assert_eq!(code, 0, "{more}: {text}");
    }
}

#[test]
fn what_cannot_be_found_is_named() {
    let Some(folder) = folder(&format!("{USER}\nSupplementaryGroups=no-such-group")) else { return };
    let (code, text) = check(&folder);
    assert!(code == 1 && text.contains("there is no group `no-such-group`"), "{text}");
    folder.write("stickyd.service", "[Service]\nUser=no-such-user\n");
    let (code, text) = check(&folder);
    assert!(code == 1 && text.contains("there is no user `no-such-user`, which stickyd.service runs as"), "{text}");
    std::fs::remove_file(folder.path("stickyd.service")).unwrap();
    let (code, text) = check(&folder);
    assert!(code == 1 && text.contains("there is no unit stickyd.service in "), "{text}");
}

/// As root by way of another user, so that it is tested wherever the tests run.
#[test]
fn another_user_than_root_is_told_so() {
    let folder = TempDirectory::new("as-service-other");
    folder.write_mode("stickyd.service", format!("[Service]\n{USER}\n"), 0o644);
    let unit = format!("--as-service={}", folder.path("stickyd.service").display());
    let binary = env!("CARGO_BIN_EXE_stickyd");
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--clear-groups", binary]);
        command
    } else {
        Command::new(binary)
    };
    let output = command.arg("check").arg(folder.path("stickyd.toml")).arg(unit).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = said(&output);
    assert!(text.contains("only root may read files as another user"), "{text}");
    assert!(text.contains("help: sudo stickyd check --as-service"), "{text}");
}
