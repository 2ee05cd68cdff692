//! The user of the workers: the person who runs `sudo`, or the owner of the application, never root by accident.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use super::printed;
use crate::systemd::units::is_user_name;

/// User of the unit as it is shipped, for an application that belongs to root.
const DEFAULT_USER: &str = "app";

/// A user and the user's first group.
pub(super) struct Account {
    pub(super) user: String,
    pub(super) group: String,
    exists: bool,
    is_given: bool,
}

impl Account {
    /// Finds the user: `given`, else the person who runs sudo, else the owner of the folder, else `app`.
    pub(super) fn find(given: Option<&str>, directory: &Path) -> Result<Self, String> {
        let sudo = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty() && name != "root");
        let owner = || {
            let uid = directory.metadata().map_or(0, |found| found.uid());
            if uid == 0 { None } else { id(&["-nu", &uid.to_string()]) }
        };
        let user = given.map(str::to_owned).or(sudo).or_else(owner).unwrap_or_else(|| DEFAULT_USER.to_owned());
        if !is_user_name(&user) {
            return Err(format!("`{user}` is not a valid user name"));
        }
        let group = id(&["-gn", &user]).filter(|group| is_user_name(group));
        let exists = group.is_some();
        Ok(Self { group: group.unwrap_or_else(|| user.clone()), user, exists, is_given: given.is_some() })
    }

    /// The command that makes the user, if there is none.
    pub(super) fn command(&self) -> Option<[&str; 5]> {
        (!self.exists).then_some(["useradd", "--system", "--user-group", "--no-create-home", &self.user])
    }

    /// Makes the default user; one that was named has to exist.
    pub(super) fn make(&self, directory: &Path) -> Result<(), String> {
        let Some([program, arguments @ ..]) = self.command() else { return Ok(()) };
        if self.is_given {
            return Err(format!("there is no user `{}`", self.user));
        }
        let made = Command::new(program).args(arguments).arg("--home-dir").arg(directory).output();
        let made = made.map_err(|error| format!("{program} cannot be run: {error}"))?;
        let said = String::from_utf8_lossy(&made.stderr);
        if made.status.success() { Ok(()) } else { Err(format!("{program} {} failed: {}", self.user, said.trim())) }
    }
}

/// What `id` prints, if the user exists.
fn id(arguments: &[&str]) -> Option<String> {
    printed("id", arguments)
}
