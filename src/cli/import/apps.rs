//! The apps of a PM2 file as upstreams, with notes about what has no meaning or another one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::settings::{Settings, scalar};
use super::start::Start;
use crate::config::spawn::{MEMORY, MOST_INSTANCES, STOPS, cores, is_name};

/// One app as an upstream.
#[derive(Debug)]
pub(super) struct ImportedApp {
    /// The name for PM2.
    pub(super) name: String,
    /// The name of the upstream, unique in the file.
    pub(super) upstream: String,
    pub(super) command: Vec<String>,
    /// `None`: one per core.
    pub(super) instances: Option<u32>,
    pub(super) directory: PathBuf,
    /// Resident memory above which a worker is replaced, in bytes.
    pub(super) max_memory: Option<u64>,
    pub(super) stop_ms: Option<u64>,
    /// The port on which the application always listens.
    pub(super) port: Option<u16>,
    pub(super) environment: BTreeMap<String, String>,
    /// Where clients found the app.
    pub(super) listen: Option<u16>,
    /// What the person has to know, one sentence each.
    pub(super) notes: Vec<String>,
}

/// Everything that was read from a PM2 file.
#[derive(Debug)]
pub(super) struct ImportedFile {
    pub(super) apps: Vec<ImportedApp>,
    pub(super) notes: Vec<String>,
}

/// Reads the apps of a file in `folder`, with the variables of the environment named `env`.
pub(super) fn all(value: Value, folder: &Path, env: &str) -> Result<ImportedFile, String> {
    let expected = "expected module.exports = { apps: [{ script: 'server.js' }] }";
    let mut notes = Vec::new();
    let apps = match value {
        Value::Object(mut root) => match root.remove("apps").or_else(|| root.remove("pm2")) {
            Some(apps) => {
                let left = root.keys().map(|name| match &**name {
                    "deploy" => {
                        "deploy has no meaning here: copy the code, then run `stickyd workers restart`".to_owned()
                    }
                    "static" => "static has no meaning here: stickyd serves no files".to_owned(),
                    other => format!("{other} is not known to stickyd"),
                });
                notes.extend(left);
                apps
            }
            None => Value::Object(root),
        },
        other => other,
    };
    let apps = match apps {
        Value::Array(apps) => apps,
        one @ Value::Object(_) => vec![one],
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    };
    if apps.is_empty() {
        return Err(format!("there are no apps; {expected}"));
    }
    let mut imported: Vec<ImportedApp> = Vec::new();
    for (number, app) in (1..).zip(apps) {
        let Value::Object(app) = app else { return Err(format!("app {number} is not an object; {expected}")) };
        let taken = |name: &str| imported.iter().any(|other| other.upstream == name);
        let app = one(Settings::new(app), folder, env, &taken).map_err(|why| format!("app {number}: {why}"))?;
        imported.push(app);
    }
    Ok(ImportedFile { apps: imported, notes })
}

fn one(mut app: Settings, folder: &Path, env: &str, taken: &dyn Fn(&str) -> bool) -> Result<ImportedApp, String> {
    let mut notes = Vec::new();
    let script = app.text(&["script", "exec", "cmd", "command"]).ok_or("it has no `script`")?;
    let name = app.text(&["name"]).unwrap_or_else(|| stem(&script));
    let directory = app.text(&["cwd"]).map_or_else(|| folder.to_owned(), |cwd| folder.join(cwd));
    // `/srv/app/.` is written without the dot; links are kept, because a deployment may change them.
    let directory: PathBuf = directory.components().collect();
    let mut node_args = app.words(&["node_args", "interpreter_args"]);
    let mut environment = environment(&mut app, env, &mut notes);
    let mut ports = ports(&mut app, &mut environment, &mut notes);
    if let Some(port) = own_shift(&mut node_args, &mut environment) {
        notes.push("portshift.cjs is left out: stickyd moves the port itself (`port`)".to_owned());
        ports.fixed = Some(port);
    }
    let interpreter = app.text(&["exec_interpreter", "interpreter"]);
    let start = Start { script, interpreter, node_args, args: app.words(&["args"]) };
    let command = start.command(&directory, &mut notes);
    unbuffered(&command, &mut environment);
    if app.text(&["exec_mode"]).is_some_and(|mode| mode.starts_with("cluster")) {
        notes.push("exec_mode: each worker is a process of its own, with a port of its own".to_owned());
    }
    let instances = instances(app.take(&["instances"]), &mut notes);
    if !directory.is_dir() {
        notes.push(format!("cwd {} does not exist", directory.display()));
    }
    let max_memory = app.take(&["max_memory_restart"]).and_then(|value| memory(&value, &mut notes));
    let stop_ms = app.take(&["kill_timeout"]).and_then(|value| stop(&value, &mut notes));
    app.left(&mut notes);
    Ok(ImportedApp {
        upstream: upstream_name(&name, taken),
        name,
        command,
        instances,
        directory,
        max_memory,
        stop_ms,
        port: ports.fixed,
        environment,
        listen: ports.listen.or(ports.fixed),
        notes,
    })
}

/// Sets what PM2 sets for Python, whose output to a pipe is held back otherwise.
fn unbuffered(command: &[String], environment: &mut BTreeMap<String, String>) {
    if command.first().is_some_and(|program| program.contains("python")) {
        environment.entry("PYTHONUNBUFFERED".to_owned()).or_insert_with(|| "1".to_owned());
    }
}

/// The name of a script without folder and extension.
fn stem(script: &str) -> String {
    let first = script.split(' ').next().unwrap_or_default();
    Path::new(first).file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// A name that an upstream may have: a-z, 0-9, `_` and `-`, at most 32 characters.
fn upstream_name(name: &str, taken: &dyn Fn(&str) -> bool) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' };
    let plain: String = name.chars().map(fits).take(28).collect();
    let plain = plain.trim_matches('-');
    let plain = if plain.is_empty() { "app" } else { plain };
    let numbered = (2..).map(|number| format!("{plain}-{number}"));
    std::iter::once(plain.to_owned()).chain(numbered).find(|name| !taken(name)).unwrap_or_default()
}

/// The variables of `env`, and over them those of `env_NAME`.
fn environment(app: &mut Settings, env: &str, notes: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut variables = app.variables("env", notes).unwrap_or_default();
    let name = format!("env_{env}");
    if let Some(more) = app.variables(&name, notes) {
        notes.push(format!("env has the variables of {name}, as with pm2 start --env {env}"));
        variables.extend(more);
    }
    texts(variables, notes)
}

fn texts(variables: Map<String, Value>, notes: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, value) in variables {
        // PM2 writes objects as JSON.
        let text = match &value {
            Value::Null => continue,
            Value::Array(_) | Value::Object(_) => value.to_string(),
            Value::Bool(_) | Value::Number(_) | Value::String(_) => scalar(&value).unwrap_or_default(),
        };
        if is_name(&name) && !text.contains('\0') {
            all.insert(name, text);
        } else {
            notes.push(format!("{name} is left out of env: it is not a valid variable"));
        }
    }
    all
}

/// Where an app listens.
struct AppPorts {
    listen: Option<u16>,
    fixed: Option<u16>,
}

/// Takes PORT out of the environment, because each worker is given its own, and understands `increment_var`.
fn ports(app: &mut Settings, environment: &mut BTreeMap<String, String>, notes: &mut Vec<String>) -> AppPorts {
    let written = app.text(&["port"]).or_else(|| environment.get("PORT").cloned());
    environment.remove("PORT");
    let listen = written.as_deref().and_then(port);
    if let (Some(written), None) = (&written, listen) {
        notes.push(format!("PORT {written} is not a port: each worker is given its own in PORT"));
    }
    let mut fixed = None;
    match app.text(&["increment_var"]).as_deref() {
        None => {}
        Some("PORT") => notes.push("increment_var: each worker is given a port of its own in PORT".to_owned()),
        Some(other) => {
            fixed = environment.get(other).and_then(|value| port(value));
            notes.push(match fixed {
                Some(port) => format!(
                    "increment_var {other}: stickyd moves port {port} in each worker, which works for Node only; \
                     an application that reads PORT needs no `port`"
                ),
                None => {
                    format!("increment_var {other}: it is the same in all workers; their number is STICKYD_INSTANCE")
                }
            });
        }
    }
    AppPorts { listen, fixed }
}

fn port(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|port| *port != 0)
}

/// Takes stickyd's own portshift.cjs (conf/examples/pm2) out of the arguments; returns the port that it shifts.
fn own_shift(node_args: &mut Vec<String>, environment: &mut BTreeMap<String, String>) -> Option<u16> {
    let port = port(environment.get("STICKYD_PORT")?)?;
    let at = node_args.iter().position(|word| word.ends_with("portshift.cjs"))?;
    let is_option = |word: &String| word == "-r" || word == "--require";
    let from = if at > 0 && node_args.get(at - 1).is_some_and(is_option) { at - 1 } else { at };
    node_args.drain(from..=at);
    environment.remove("STICKYD_PORT");
    Some(port)
}

/// PM2's number of instances: "max" and 0 are one per core, negative numbers leave cores free.
fn instances(value: Option<Value>, notes: &mut Vec<String>) -> Option<u32> {
    let Some(text) = value.as_ref().and_then(scalar) else { return Some(1) };
    if text == "max" {
        return None;
    }
    match text.parse::<i64>() {
        Ok(0) => None,
        Ok(number) => {
            let own = u32::try_from(number).unwrap_or(MOST_INSTANCES);
            let free = || cores().saturating_sub(u32::try_from(number.unsigned_abs()).unwrap_or(u32::MAX));
            let count = if number < 0 { free() } else { own }.clamp(1, MOST_INSTANCES);
            if i64::from(count) != number {
                notes.push(format!("instances {text}: {count} (below 0 as on this machine; {MOST_INSTANCES} at most)"));
            }
            Some(count)
        }
        Err(_) => {
            notes.push(format!("instances {text} is not a number of workers"));
            Some(1)
        }
    }
}

/// PM2's size: bytes, or a number with K, M or G, which are powers of 1024.
fn memory(value: &Value, notes: &mut Vec<String>) -> Option<u64> {
    let text = scalar(value)?;
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text.strip_prefix(number).unwrap_or_default().to_ascii_uppercase();
    let factor = match unit.trim_end_matches('B') {
        "" => Some(1),
        "K" => Some(1 << 10),
        "M" => Some(1 << 20),
        "G" => Some(1 << 30),
        _ => None,
    };
    let number: Option<u64> = number.trim().parse().ok();
    let bytes = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    let fits = bytes.filter(|bytes| MEMORY.contains(bytes));
    if fits.is_none() {
        notes.push(format!("max_memory_restart {text} is left out: stickyd takes 16 MB to 1 TB"));
    }
    fits
}

/// PM2's `kill_timeout`, in ms.
fn stop(value: &Value, notes: &mut Vec<String>) -> Option<u64> {
    let text = scalar(value)?;
    let longest = u64::try_from(STOPS.end().as_millis()).unwrap_or(u64::MAX);
    let Ok(time) = text.parse::<u64>() else {
        notes.push(format!("kill_timeout {text} is not a number of milliseconds"));
        return None;
    };
    if time > longest {
        notes.push(format!("kill_timeout {text}: an hour is the most"));
    }
    Some(time.min(longest))
}
