//! `spawn` of an upstream: the command of its workers, how many there are, and what each of them is given.
//!
//! Values that need the running system are left out: which ports are free, and whether a worker becomes healthy
//! (`crate::spawn`). Whether the command exists is checked here, because a mistyped command must be an error with a
//! place, not a worker that never starts.

mod env_file;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::check::Context;
use super::error::Span;
use super::file::{ConfigItem, ConfigText, Section};
use super::values::{duration, size};
use super::{files, workers};

pub(crate) use env_file::is_name;

/// Maximum number of workers that one upstream starts.
pub(crate) const MOST_INSTANCES: u32 = 256;

/// Default time over which the sessions of a worker end that is replaced.
pub(crate) const DEFAULT_GRACE: Duration = Duration::from_secs(60);

/// Default time from SIGTERM to SIGKILL.
const DEFAULT_STOP: Duration = Duration::from_secs(30);

/// Range of `stop`, the time from SIGTERM to SIGKILL.
pub(crate) const STOPS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const GRACES: RangeInclusive<Duration> = Duration::ZERO..=super::LONGEST_GRACE;
/// Range of `max_memory`, in bytes: below 16 MB no runtime starts.
pub(crate) const MEMORY: RangeInclusive<u64> = 16_000_000..=1_000_000_000_000;

/// The workers that stickyd starts for an upstream. A reload applies it: a changed `command`, `directory`, environment
/// or `port` replaces the workers one after the other; all else applies to workers that start later.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spawn {
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
    /// Number of workers, 1..=256; default: one per core.
    pub instances: u32,
    /// Working directory of the workers; default: the folder of the configuration file.
    pub directory: PathBuf,
    /// Environment variables in addition to those of stickyd: those of `env_file`, then those of `env`.
    pub environment: BTreeMap<String, String>,
    /// Addresses that workers are given; `None`: free ports of 127.0.0.1.
    pub ports: Option<PortRange>,
    /// Resident memory above which a worker is replaced, in bytes; `None`: no limit.
    pub max_memory: Option<u64>,
    /// Time from SIGTERM to SIGKILL; default 30 s.
    pub stop: Duration,
    /// How a worker learns where to listen.
    pub port: PortSource,
}

/// Ports of one IP address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortRange {
    /// Address that workers listen on.
    pub ip: IpAddr,
    /// First and last port.
    pub ports: RangeInclusive<u16>,
}

/// How a worker learns where to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortSource {
    /// The environment variable PORT has a port number.
    Env,
    /// The application always listens on this port; a preload for Node moves it to the worker's own port.
    Fixed(u16),
    /// The environment variable PORT has the path of a unix socket.
    Socket,
}

impl Spawn {
    /// The workers of `stickyd run --spawn`: everything at its default.
    pub(crate) fn plain(command: Vec<String>, instances: u32, directory: PathBuf) -> Self {
        Self {
            command,
            instances,
            directory,
            environment: BTreeMap::new(),
            ports: None,
            max_memory: None,
            stop: DEFAULT_STOP,
            port: PortSource::Env,
        }
    }

    /// Whether a running worker must be replaced to become what `new` says.
    pub(crate) fn differs(&self, new: &Self) -> bool {
        (&self.command, &self.directory, &self.environment, self.port)
            != (&new.command, &new.directory, &new.environment, new.port)
    }
}

/// A `spawn` table, and what later checks need of it.
pub(crate) struct ReadSpawn {
    pub(crate) spawn: Spawn,
    /// Whether the workers may share their messages over the bus.
    pub(crate) bus: bool,
    pub(crate) grace: Option<Duration>,
    /// Place of the program in the command.
    pub(crate) command: Span,
    /// Place of the table.
    pub(crate) at: Span,
}

/// Reads the table `spawn`.
pub(crate) fn read(context: &Context<'_>, mut section: Section<'_>) -> Option<ReadSpawn> {
    let at = section.span.clone();
    let command = command(&mut section);
    let instances = section.take("instances").map_or_else(|| Some(cores()), instances);
    let directory = section.text("directory", "a path");
    let directory = directory.map_or_else(|| context.base.clone(), |text| context.base.join(text.value));
    let mut environment = BTreeMap::new();
    if let Some(path) = section.text("env_file", "a path such as \".env\"") {
        environment = env_file::read(context, &path).unwrap_or_default();
    }
    if let Some(env) = section.section("env", "a table such as { NODE_ENV = \"production\" }") {
        environment.extend(variables(env));
    }
    let ports = section.text("ports", "a range such as \"127.0.0.1:3101-3132\"");
    let max_memory = section.take("max_memory").and_then(|item| size(item, MEMORY));
    let stop = section.take("stop").and_then(|item| duration(item, STOPS)).unwrap_or(DEFAULT_STOP);
    let grace = section.take("grace").and_then(|item| duration(item, GRACES));
    let bus = section.take("bus").is_none_or(super::upstream::bus);
    let port = section.take("port").map_or(Some(PortSource::Env), port);
    let report = section.report;
    section.finish();
    let ports = match ports {
        Some(text) => Some(port_range(context, &text, instances.unwrap_or(1), port)?),
        None => None,
    };
    let (words, command) = command?;
    if !environment.is_empty() && environment.contains_key("PORT") {
        report.warn(&at, "`PORT` in the environment has no effect", "each worker is given a port of its own");
    }
    let spawn =
        Spawn { command: words, instances: instances?, directory, environment, ports, max_memory, stop, port: port? };
    Some(ReadSpawn { spawn, grace, bus, command, at })
}

fn command(section: &mut Section<'_>) -> Option<(Vec<String>, Span)> {
    let expected = "a list such as [\"node\", \"server.js\"]";
    let (report, at) = (section.report, section.span.clone());
    let Some(item) = section.take("command") else {
        report.error_help(&at, "`spawn` needs `command`", "write command = [\"node\", \"server.js\"]");
        return None;
    };
    let at = item.span.clone();
    let words = item.list(expected, "a word of `command`")?;
    let words: Option<Vec<ConfigText>> = words.into_iter().map(|word| word.text("a string")).collect();
    let words = words?;
    if let Some(bad) = words.iter().find(|word| word.value.contains('\0')) {
        report.error(&bad.span, "a word of `command` cannot contain a NUL");
        return None;
    }
    let first = words.first().filter(|first| !first.value.is_empty());
    let Some(first) = first.map(|first| first.span.clone()) else {
        report.error_help(&at, "`command` is empty", "write command = [\"node\", \"server.js\"]");
        return None;
    };
    Some((words.into_iter().map(|word| word.value).collect(), first))
}

/// Reads `instances`: a number, or `"max"` for one per core.
fn instances(item: ConfigItem<'_>) -> Option<u32> {
    if item.is_integer() {
        return item.integer(1..=u64::from(MOST_INSTANCES));
    }
    let report = item.report;
    let text = item.text("a number of workers or \"max\"")?;
    if text.value == "max" {
        return Some(cores());
    }
    let help = "write a number such as 4, or \"max\" for one worker per core";
    report.error_help(&text.span, format!("`{}` is not a valid number of workers", text.value), help);
    None
}

/// Reads the value of `--spawn N|max`.
pub(crate) fn parse_instances(text: &str) -> Result<u32, String> {
    if text == "max" {
        return Ok(cores());
    }
    let number = text.parse().ok().filter(|number| (1..=MOST_INSTANCES).contains(number));
    number.ok_or_else(|| format!("expected a number from 1 to {MOST_INSTANCES}, or max for one worker per core"))
}

fn variables(env: Section<'_>) -> BTreeMap<String, String> {
    let report = env.report;
    let mut all = BTreeMap::new();
    for (name, item) in env.named() {
        if !is_name(&name.value) {
            report.error(&name.span, format!("`{}` is not a valid name of an environment variable", name.value));
        }
        let number = item.is_integer() || item.is_boolean();
        let at = item.span.clone();
        if number {
            let written = report.text().get(at.clone()).unwrap_or_default();
            let help = format!("write it in quotes: {} = \"{written}\"", name.value);
            report.error_help(&at, format!("`{}` must be a string", name.value), help);
            continue;
        }
        let Some(value) = item.text("a string") else { continue };
        if value.value.contains('\0') {
            report.error(&value.span, "an environment variable cannot contain a NUL");
            continue;
        }
        all.insert(name.value, value.value);
    }
    all
}

fn port(item: ConfigItem<'_>) -> Option<PortSource> {
    if item.is_integer() {
        return item.integer(1..=65_535).map(PortSource::Fixed);
    }
    let report = item.report;
    let text = item.text("\"env\", \"socket\", or the port on which the application always listens")?;
    match text.value.as_str() {
        "env" => Some(PortSource::Env),
        "socket" => Some(PortSource::Socket),
        other => {
            let help = "write \"env\", \"socket\", or a number such as 3000 if the application ignores PORT";
            report.error_help(&text.span, format!("`{other}` is not a valid `port`"), help);
            None
        }
    }
}

/// Reads `IP:FIRST-LAST`. One port more than there are workers is needed, because a successor starts beside the worker
/// that it replaces.
fn port_range(
    context: &Context<'_>,
    text: &ConfigText,
    instances: u32,
    source: Option<PortSource>,
) -> Option<PortRange> {
    if source == Some(PortSource::Socket) {
        let help = "remove `ports`, or write port = \"env\"";
        context.report.error_help(&text.span, "workers on unix sockets need no `ports`", help);
        return None;
    }
    let range = workers::port_range(context, text)?;
    let count = u32::from(range.ports.end() - range.ports.start()) + 1;
    if count <= instances {
        let message = format!("{count} ports are not enough for {instances} workers");
        let help = "give at least one more than `instances`: a successor starts beside the worker it replaces";
        context.report.error_help(&text.span, message, help);
    }
    Some(range)
}

/// Reports a command that cannot be run, and a directory that does not exist.
pub(crate) fn check_command(context: &Context<'_>, read: &ReadSpawn) {
    let spawn = &read.spawn;
    if !spawn.directory.is_dir() {
        let message = format!("{} is not a directory", spawn.directory.display());
        context.report.error_help(&read.at, message, "set `directory` to the folder in which the command is run");
        return;
    }
    let Some(program) = spawn.command.first() else { return };
    if let Err(why) = find_program(program, &spawn.directory, spawn.environment.get("PATH").map(String::as_str)) {
        let help = "write the program and its arguments, each as a string of its own";
        context.report.error_help(&read.command, why, help);
    }
}

/// Checks that a program can be run: by its path, or found in PATH.
pub(crate) fn find_program(program: &str, directory: &Path, path: Option<&str>) -> Result<(), String> {
    let runs = |file: &Path| file.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0);
    if program.contains('/') {
        let file = directory.join(program);
        return match (runs(&file), file.exists()) {
            (true, _) => Ok(()),
            (false, true) => Err(format!("`{program}` is not an executable file")),
            (false, false) => Err(format!("there is no program `{program}`")),
        };
    }
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let path = path.map_or(inherited, Into::into);
    // The search begins in the directory of the worker if an entry of PATH is relative.
    let found = std::env::split_paths(&path).any(|folder| runs(&directory.join(folder).join(program)));
    if found { Ok(()) } else { Err(format!("there is no program `{program}` in PATH")) }
}

/// Checks the command of `stickyd run --spawn`.
pub(crate) fn check_plain(spawn: &Spawn) -> Result<(), String> {
    let program = spawn.command.first().ok_or("there is no command")?;
    find_program(program, &spawn.directory, None)
}

/// Number of workers for `"max"`: one per core.
pub(crate) fn cores() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(MOST_INSTANCES).min(MOST_INSTANCES)
}

/// Any free port of 127.0.0.1 in a part that Linux does not use for outgoing connections by default
/// (`net.ipv4.ip_local_port_range` begins at 32768).
pub(crate) const FREE_PORTS: PortRange = PortRange { ip: IpAddr::V4(Ipv4Addr::LOCALHOST), ports: 20_000..=32_000 };

/// Reads a file of environment variables, noting that it was read.
fn read_noted(context: &Context<'_>, path: &ConfigText) -> Option<String> {
    let bytes = files::named(context, path)?;
    String::from_utf8(bytes).ok().or_else(|| {
        context.report.error(&path.span, format!("{} is not valid UTF-8", path.value));
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_workers_is_at_least_one() {
        assert_eq!(parse_instances("4"), Ok(4));
        assert_eq!(parse_instances("max"), Ok(cores()));
        for wrong in ["0", "-1", "257", "", "all", "1.5"] {
            assert!(parse_instances(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_program_is_found_by_path_or_by_name() {
        let root = Path::new("/");
        assert_eq!(find_program("sh", root, None), Ok(()));
        assert_eq!(find_program("/bin/sh", root, None), Ok(()));
        assert_eq!(find_program("./bin/sh", root, None), Ok(()));
        assert!(find_program("no-such-program-here", root, None).unwrap_err().contains("in PATH"));
        assert!(find_program("/etc/passwd", root, None).unwrap_err().contains("not an executable"));
        assert!(find_program("sh", root, Some("/nowhere")).is_err());
    }
}
