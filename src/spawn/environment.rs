//! What the process of a worker is given: its environment, and the modules that Node loads before the application. This
//! is the one place where both are put together.
//!
//! Stickyd decides what a worker is given ([`of`]); the spawner knows the environment that the worker inherits and
//! joins the two ([`apply`]), so that the user's own NODE_OPTIONS are kept.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::bus::environment::{PRELOAD, PRELOAD_NAME, link};
use crate::config::Address;
use crate::config::spawn::{PortSource, Spawn};

/// Variables that concern stickyd and its own service manager, never a worker.
const OWN: [&str; 7] =
    ["LISTEN_FDNAMES", "LISTEN_FDS", "LISTEN_PID", "NOTIFY_SOCKET", "STICKYD_UNIT", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// A module that Node loads before the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Preload {
    /// Moves a port that the application has hard-coded to the worker's own.
    ShiftPort,
    /// Links Socket.IO servers to the bus.
    Bus,
}

impl Preload {
    fn file(self) -> (&'static str, &'static str) {
        match self {
            Self::ShiftPort => ("shift-port.cjs", include_str!("shift-port.cjs")),
            Self::Bus => (PRELOAD_NAME, PRELOAD),
        }
    }
}

/// What a worker's process is given.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Given {
    pub(crate) environment: BTreeMap<String, String>,
    pub(crate) preloads: Vec<Preload>,
}

/// Decides what the process of the worker in `slot` is given, which is to listen at `address`. Slots count from 1;
/// NODE_APP_INSTANCE counts from 0, because applications test it for "0" under PM2. `bus` is the hub's socket and the
/// name of the upstream, if the worker is to be linked to the bus.
pub(crate) fn of(spawn: &Spawn, slot: u32, address: &Address, bus: Option<(&Path, &str)>) -> Given {
    let mut given = Given { environment: spawn.environment.clone(), preloads: Vec::new() };
    let mut set = |name: &str, value: String| drop(given.environment.insert(name.to_owned(), value));
    set("PORT", port(address));
    set("NODE_APP_INSTANCE", slot.saturating_sub(1).to_string());
    set("STICKYD_INSTANCE", slot.to_string());
    if let PortSource::Fixed(port) = spawn.port {
        set("STICKYD_SHIFT_PORT", port.to_string());
        given.preloads.push(Preload::ShiftPort);
    }
    if let Some((socket, upstream)) = bus {
        let variables = link(socket, upstream).map(|(name, value)| (name.to_owned(), value));
        given.environment.extend(variables);
        given.preloads.push(Preload::Bus);
    }
    given
}

fn port(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.port().to_string(),
        Address::Unix(path) => path.display().to_string(),
    }
}

/// Gives the command its environment. Writes the preloads into `folder`.
///
/// # Errors
/// A preload cannot be written.
pub(crate) fn apply(
    command: &mut Command,
    environment: &BTreeMap<String, String>,
    preloads: &[Preload],
    folder: &Path,
) -> io::Result<()> {
    for name in OWN {
        command.env_remove(name);
    }
    command.envs(environment);
    if preloads.is_empty() {
        return Ok(());
    }
    let inherited = std::env::var("NODE_OPTIONS").ok();
    let users = environment.get("NODE_OPTIONS").cloned().or(inherited);
    let mut options = users.unwrap_or_default();
    for preload in preloads {
        let path = write(*preload, folder)?;
        options = format!("{options} {}", require(&path));
    }
    command.env("NODE_OPTIONS", options.trim_start());
    Ok(())
}

/// Writes a preload unless it is there already; a file that is in use is never changed.
fn write(preload: Preload, folder: &Path) -> io::Result<PathBuf> {
    let (name, text) = preload.file();
    let path = folder.join(name);
    if std::fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(path);
    }
    let new = folder.join(format!("{name}.new"));
    std::fs::write(&new, text)?;
    std::fs::rename(&new, &path)?;
    Ok(path)
}

/// The option that loads a module, as NODE_OPTIONS needs it: in quotes, in which `\` escapes a quote or itself.
fn require(path: &Path) -> String {
    let path = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"--require={path}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_given_its_port_and_number() {
        let mut spawn = Spawn::plain(vec!["node".to_owned()], 2, "/".into());
        spawn.environment.insert("PORT".to_owned(), "80".to_owned());
        let given = of(&spawn, 2, &Address::Tcp("127.0.0.1:3102".parse().unwrap()), None);
        let get = |name: &str| given.environment.get(name).map(String::as_str);
        assert_eq!(get("PORT"), Some("3102"));
        assert_eq!((get("NODE_APP_INSTANCE"), get("STICKYD_INSTANCE")), (Some("1"), Some("2")));
        assert!(given.preloads.is_empty());
        spawn.port = PortSource::Fixed(3000);
        let given = of(&spawn, 1, &Address::Unix("/run/a.sock".into()), Some((Path::new("/run/bus.sock"), "app")));
        assert_eq!(given.preloads, [Preload::ShiftPort, Preload::Bus]);
        assert_eq!(given.environment.get("STICKYD_BUS").map(String::as_str), Some("/run/bus.sock"));
        assert_eq!(given.environment.get("STICKYD_SHIFT_PORT").map(String::as_str), Some("3000"));
        assert_eq!(given.environment.get("PORT").map(String::as_str), Some("/run/a.sock"));
    }

    #[test]
    fn the_users_node_options_are_kept() {
        let folder = std::env::temp_dir().join(format!("stickyd-environment-{:016x}", crate::random::u64()));
        std::fs::create_dir(&folder).unwrap();
        let mut command = Command::new("node");
        let users = BTreeMap::from([("NODE_OPTIONS".to_owned(), "--max-old-space-size=300".to_owned())]);
        apply(&mut command, &users, &[Preload::ShiftPort], &folder).unwrap();
        let options = command.get_envs().find(|(name, _)| *name == "NODE_OPTIONS").unwrap().1.unwrap();
        let file = folder.join("shift-port.cjs");
        assert_eq!(options.to_str().unwrap(), format!("--max-old-space-size=300 \"--require={}\"", file.display()));
        assert!(file.exists());
        assert_eq!(require(Path::new("/a \"b\\")), "\"--require=/a \\\"b\\\\\"");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
