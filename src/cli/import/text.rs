//! The imported apps as the text of a configuration.

use std::fmt::Write;

use super::apps::{ImportedApp, ImportedFile};
use crate::config::quoted;
use crate::printable::printable;

/// Port of the listener if no app says where clients find it; the usual one of Node's applications.
const DEFAULT_PORT: u16 = 3000;

/// Maximum columns of a comment.
const COLUMNS: usize = 110;

/// Writes the configuration; `file` is the name of PM2's file.
pub(super) fn configuration(file: &str, imported: &ImportedFile) -> String {
    let mut out = String::new();
    comment(&mut out, &format!("From PM2's {file}, by `stickyd import pm2`."));
    comment(
        &mut out,
        "A worker is told to end by SIGTERM, where PM2 sends SIGINT; the application must listen on PORT; for a fixed \
         port, write `port = 5001` in spawn.",
    );
    imported.notes.iter().for_each(|note| comment(&mut out, note));
    out.push_str("\nstate_dir = \"/var/lib/stickyd\"\n");
    out.push_str("# With stickyd-workers.service:\n# spawner = \"unix:/run/stickyd-workers/spawn.sock\"\n");
    let listen = imported.apps.iter().find_map(|app| app.listen);
    if listen.is_none() {
        out.push('\n');
        comment(&mut out, "No PORT says where clients find the application:");
    } else {
        out.push('\n');
    }
    let listen = listen.unwrap_or(DEFAULT_PORT);
    let _ = writeln!(out, "[[listener]]\naddress = \"0.0.0.0:{listen}\"");
    for app in &imported.apps {
        upstream(&mut out, app, listen);
    }
    routes(&mut out, &imported.apps);
    out
}

fn comment(out: &mut String, text: &str) {
    let text = printable(text);
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() > 1 && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(out, "{line}");
            line = String::from("#  ");
        }
        line.push(' ');
        line.push_str(word);
    }
    let _ = writeln!(out, "{line}");
}

fn upstream(out: &mut String, app: &ImportedApp, listen: u16) {
    out.push('\n');
    if app.name != app.upstream {
        comment(out, &format!("PM2's name: {}", app.name));
    }
    app.notes.iter().for_each(|note| comment(out, note));
    if let Some(port) = app.listen.filter(|port| *port != listen) {
        comment(out, &format!("port {port}: clients find it on the listener above, by the [[route]] below"));
    }
    let _ = writeln!(out, "[upstream.{}.spawn]", app.upstream);
    let words: Vec<_> = app.command.iter().map(|word| quoted(word)).collect();
    let _ = writeln!(out, "command = [{}]", words.join(", "));
    let instances = app.instances.map_or_else(|| quoted("max"), |number| number.to_string());
    let _ = writeln!(out, "instances = {instances}");
    let _ = writeln!(out, "directory = {}", quoted(&app.directory.to_string_lossy()));
    if let Some(bytes) = app.max_memory {
        let _ = writeln!(out, "max_memory = {}", size(bytes));
    }
    if let Some(ms) = app.stop_ms {
        let time = if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") };
        let _ = writeln!(out, "stop = {}", quoted(&time));
    }
    if let Some(port) = app.port {
        let _ = writeln!(out, "port = {port}");
    }
    comment(
        out,
        "Socket.IO's messages reach the clients of all workers; false if the application spreads them itself:",
    );
    let _ = writeln!(out, "bus = \"auto\"");
    if !app.environment.is_empty() {
        let _ = writeln!(out, "[upstream.{}.spawn.env]", app.upstream);
    }
    for (name, value) in &app.environment {
        let is_bare = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
        let name = if is_bare { name.clone() } else { quoted(name) };
        let _ = writeln!(out, "{name} = {}", quoted(value));
    }
}

/// A size as a person would write it.
fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = units.into_iter().find(|(_, factor)| bytes.is_multiple_of(*factor));
    unit.map_or_else(|| bytes.to_string(), |(name, factor)| quoted(&format!("{}{name}", bytes / factor)))
}

/// With several apps, hosts decide between them; the first app gets every other host.
fn routes(out: &mut String, apps: &[ImportedApp]) {
    let Some((first, others)) = apps.split_first().filter(|(_, others)| !others.is_empty()) else { return };
    out.push('\n');
    comment(out, "Hosts or paths decide between the apps: write your own.");
    for app in others {
        let label = app.upstream.replace('_', "-");
        let host = quoted(&format!("{}.example.com", label.trim_matches('-')));
        let _ = writeln!(out, "[[route]]\nhost = {host}\nupstream = {}\n", quoted(&app.upstream));
    }
    let _ = writeln!(out, "[[route]]\nupstream = {}", quoted(&first.upstream));
}
