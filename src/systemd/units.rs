//! The shipped unit files with what differs per machine: the program, the user of the workers, and their PATH; and the
//! service manager that is told about them.
//!
//! The units are part of the program, so that what is installed always fits it. Left out: drop-ins, which belong to the
//! operator (`systemctl edit`) and outlive what is installed here.

use std::path::Path;
use std::process::Command;

/// Name of the unit of stickyd itself.
pub(crate) const SERVICE: &str = "stickyd.service";

/// Name of the unit of the workers.
pub(crate) const WORKERS: &str = "stickyd-workers.service";

/// Folder of units that belong to the operator, not to a package.
pub(crate) const FOLDER: &str = "etc/systemd/system";

/// Folder with links to the units that start with the machine.
pub(crate) const WANTS: &str = "etc/systemd/system/multi-user.target.wants";

const SERVICE_TEXT: &str = include_str!("../../systemd/stickyd.service");
const WORKERS_TEXT: &str = include_str!("../../systemd/stickyd-workers.service");

/// What differs per machine.
#[derive(Debug)]
pub(crate) struct UnitFacts {
    /// Path of the program, which is stickyd.
    pub(crate) program: String,
    /// User that the workers and stickyd run as.
    pub(crate) user: String,
    /// Group of that user, whose members may use the socket of the spawner.
    pub(crate) group: String,
    /// PATH of the workers, if it has to be another than systemd's.
    pub(crate) path: Option<String>,
}

impl UnitFacts {
    /// The text of the unit of stickyd.
    pub(crate) fn service(&self) -> String {
        // The bus is only for processes of stickyd's own user (docs/messages.md), so the dynamic user gives way.
        let user = format!("User={}\nGroup={}\n", self.user, self.group);
        SERVICE_TEXT
            .replace("/usr/bin/stickyd", &self.program)
            .replace("DynamicUser=yes\n", &user)
            .replace("Wants=network-online.target\n", &format!("Wants=network-online.target {WORKERS}\n"))
    }

    /// The text of the unit of the workers.
    pub(crate) fn workers(&self) -> String {
        let path = self.path.as_deref().and_then(assignment).map(|text| format!("Environment={text}\n"));
        let user = format!("\n{}User={}\nGroup={}\n", path.unwrap_or_default(), self.user, self.group);
        WORKERS_TEXT.replace("/usr/bin/stickyd", &self.program).replace("\nUser=app\nGroup=app\n", &user)
    }
}

/// `"PATH=…"` for Environment= (systemd.exec(5), systemd.syntax(7)); `None` for a value that a unit cannot have.
fn assignment(path: &str) -> Option<String> {
    if path.contains(char::is_control) {
        return None;
    }
    let path = path.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
    Some(format!("\"PATH={path}\""))
}

/// Whether a path can stand in a unit as it is: no quotes, no white space, none of systemd's specifiers.
pub(crate) fn is_plain_path(path: &str) -> bool {
    path.starts_with('/') && path.chars().all(|c| c.is_ascii_alphanumeric() || "/._+-".contains(c))
}

/// Whether a user name can stand in a unit as it is (systemd's strict names, and dots).
pub(crate) fn is_user_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && name.len() <= 31
        && chars.all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Checks that systemd runs on this machine and can be spoken to.
///
/// # Errors
/// The reason, for the operator.
pub(crate) fn check_manager() -> Result<(), String> {
    // sd_booted(3) asks the same.
    if !Path::new("/run/systemd/system").is_dir() {
        return Err("systemd does not run on this machine (there is no /run/systemd/system)".to_owned());
    }
    if !rustix::process::geteuid().is_root() {
        return Err("only root may install units: run the command with sudo".to_owned());
    }
    systemctl(&["--version"])
}

/// Runs `systemctl` with these arguments; what it says comes with the error.
///
/// # Errors
/// It cannot be run, or it fails.
pub(crate) fn systemctl(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.map_err(|error| format!("systemctl cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("systemctl {} failed: {}", arguments.join(" "), said.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_have_what_differs_per_machine() {
        let facts = UnitFacts {
            program: "/opt/bin/stickyd".to_owned(),
            user: "ann".to_owned(),
            group: "staff".to_owned(),
            path: Some("/a b/50%:/\"x\"".to_owned()),
        };
        let (service, workers) = (facts.service(), facts.workers());
        for (unit, line) in [
            (&service, "ExecStart=/opt/bin/stickyd run --config /etc/stickyd/stickyd.toml"),
            (&service, "ExecReload=/opt/bin/stickyd check /etc/stickyd/stickyd.toml"),
            (&service, "User=ann"),
            (&service, "Group=staff"),
            (&service, "Wants=network-online.target stickyd-workers.service"),
            (&workers, "ExecStart=/opt/bin/stickyd spawn --socket /run/stickyd-workers/spawn.sock"),
            (&workers, "Environment=\"PATH=/a b/50%%:/\\\"x\\\"\""),
            (&workers, "User=ann"),
            (&workers, "Group=staff"),
        ] {
            assert_eq!(unit.lines().filter(|found| *found == line).count(), 1, "{line}\n{unit}");
        }
        assert!(!service.contains("/usr/bin/stickyd") && !workers.contains("/usr/bin/stickyd"));
        assert!(!workers.contains("User=app"));
    }

    #[test]
    fn names_and_paths_that_a_unit_cannot_have_are_known() {
        for good in ["/usr/bin/stickyd", "/opt/stickyd-1.0+x/bin_a"] {
            assert!(is_plain_path(good), "{good}");
        }
        for bad in ["stickyd", "/a b/stickyd", "/50%/stickyd", "/a\n/stickyd", "/\"/stickyd", "/$x"] {
            assert!(!is_plain_path(bad), "{bad}");
        }
        for good in ["app", "www-data", "_x", "a.b"] {
            assert!(is_user_name(good), "{good}");
        }
        for bad in ["", "-a", "a b", "a\nUser=root", "1a", "%i", "ä"] {
            assert!(!is_user_name(bad), "{bad}");
        }
    }
}
