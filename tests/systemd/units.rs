//! The unit files: systemd reports no fault, and the security score stated in the service is the real one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::temp::TempDirectory;

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd")
}

fn service() -> String {
    std::fs::read_to_string(units().join("stickyd.service")).unwrap()
}

/// The output of `systemd-analyze`, and whether it succeeded. `None`: it is not installed.
fn analyze(args: &[&str], files: &[PathBuf]) -> Option<(String, bool)> {
    let Ok(output) = Command::new("systemd-analyze").args(args).args(files).output() else {
        eprintln!("no systemd-analyze here; tests/run installs it");
        return None;
    };
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    Some((said, output.status.success()))
}

#[test]
fn the_units_verify() {
    let directory = std::env::temp_dir().join(format!("stickyd-units-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    // The program is looked for, and is not installed in a test.
    let here = service().replace("/usr/bin/stickyd", env!("CARGO_BIN_EXE_stickyd"));
    let files = [directory.join("stickyd.service"), directory.join("stickyd.socket")];
    std::fs::write(&files[0], &here).unwrap();
    std::fs::copy(units().join("stickyd.socket"), &files[1]).unwrap();
    let verify = || analyze(&["verify", "--man=no", "--recursive-errors=no"], &files);
    let mut verified = verify();
    // systemd before 253 reports the same without success.
    if verified.as_ref().is_some_and(|(said, _)| said.contains("service type, ignoring: notify-reload")) {
        std::fs::write(&files[0], here.replace("Type=notify-reload\n", "")).unwrap();
        verified = verify();
    }
    std::fs::remove_dir_all(directory).unwrap();
    let Some((said, good)) = verified else { return };
    assert!(good && !said.contains("stickyd"), "{said}");
}

#[test]
fn the_stated_score_is_the_real_one() {
    let text = service();
    let (_, stated) = text.split_once("--offline=yes: ").unwrap();
    let stated: f32 = stated.split(' ').next().unwrap().parse().unwrap();
    let Some((said, good)) = analyze(&["security", "--offline=yes", "--no-pager"], &[units().join("stickyd.service")])
    else {
        return;
    };
    let score = said.split("exposure level for stickyd.service: ").nth(1).and_then(|rest| rest.split(' ').next());
    let score: f32 = score.unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    // Other versions of systemd weigh settings a little differently.
    assert!(good && (score - stated).abs() < 0.35, "{score} is not {stated}: {said}");
}

#[test]
fn the_units_fit_the_shipped_configuration() {
    let socket = std::fs::read_to_string(units().join("stickyd.socket")).unwrap();
    let config = std::fs::read_to_string(units().join("../conf/stickyd.toml")).unwrap();
    let value = |key: &str| socket.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    assert!(config.contains(&format!("\naddress = \"{}\"", value("ListenStream="))));
    assert!(config.contains(&format!("# name = \"{}\"", value("FileDescriptorName="))));
    assert!(config.contains("state_dir = \"/var/lib/stickyd\"") && service().contains("StateDirectory=stickyd"));
}

#[test]
fn the_units_of_service_install_verify() {
    let (app, root) = (TempDirectory::new("units-app"), TempDirectory::new("units-root"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    command.args(["service", "install", "--root"]).arg(root.root()).args(["--", "node", "server.js"]);
    let output = command.current_dir(app.root()).env("PATH", format!("{}:/50% of it", env!("PATH"))).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = ["stickyd.service", "stickyd-workers.service"].map(|name| root.path("etc/systemd/system").join(name));
    // systemd before 253 does not know this type, which the test above handles in the same way.
    let service = std::fs::read_to_string(&files[0]).unwrap();
    std::fs::write(&files[0], service.replace("Type=notify-reload\n", "")).unwrap();
    let Some((said, good)) = analyze(&["verify", "--man=no", "--recursive-errors=no"], &files) else { return };
    assert!(good && !said.contains("stickyd"), "{said}");
}
