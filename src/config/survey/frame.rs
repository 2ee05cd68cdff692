//! Configurations around one value: the tables on the way to it, with the keys that they need.

use super::Place;

/// One step from the top of the file to a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum PathStep {
    /// To the value of a key; with the keys that its table needs, and an example of each.
    Key(&'static str, Vec<(&'static str, String)>),
    /// To an element of a list.
    Item,
    /// To the value of a name that the user chooses.
    Name,
}

/// The name that stands for all names.
const NAME: &str = "app";

/// What a table needs that its reader does not insist on by `Section::required`.
fn needs(table: &str, next: Option<&str>, path: &str) -> &'static [(&'static str, &'static str)] {
    match (table, next) {
        ("", _) if path.starts_with("affinity") => &[
            ("listener", "[{ address = \"127.0.0.1:8080\" }]"),
            ("upstream", "{ app = { workers = [\"127.0.0.1:3001\"], affinity = [\"app\"] } }"),
        ],
        ("", _) => &[
            ("listener", "[{ address = \"127.0.0.1:8080\" }]"),
            ("upstream", "{ app = { workers = [\"127.0.0.1:3001\"] } }"),
        ],
        ("upstream.NAME", Some("spawn" | "workers")) => &[],
        ("upstream.NAME", Some("tunnel_ping_timeout")) => {
            &[("workers", "[\"127.0.0.1:3001\"]"), ("tunnel_ping", "\"20s\"")]
        }
        ("upstream.NAME", _) => &[("workers", "[\"127.0.0.1:3001\"]")],
        ("upstream.NAME.spawn", _) => &[("command", "[\"sh\"]")],
        ("upstream.NAME.emit", None | Some("via")) => &[("via", "\"bus\"")],
        ("upstream.NAME.emit", Some("tls")) => {
            &[("via", "\"redis-adapter\""), ("redis", "\"rediss://127.0.0.1:6379\"")]
        }
        ("upstream.NAME.emit", Some("streams")) => {
            &[("via", "\"redis-adapter\""), ("redis", "\"redis://127.0.0.1:6379\""), ("adapter", "\"streams\"")]
        }
        ("upstream.NAME.emit", _) => &[("via", "\"redis-adapter\""), ("redis", "\"redis://127.0.0.1:6379\"")],
        ("upstream.NAME.health", _) => &[("path", "\"/\"")],
        ("listener[].tls.hsts", _) => &[("max_age", "\"365d\"")],
        ("log", Some("access_file" | "skip" | "sample")) => &[("access", "true")],
        ("notify.to[]", Some("name" | "events")) => &[("slack", "{ url = \"http://127.0.0.1/\" }")],
        ("notify.to[].mail", _) => &[("tls", "\"none\""), ("to", "[\"ops@example.com\"]")],
        ("notify.heartbeat", None | Some("ca" | "every")) => &[("url", "\"http://127.0.0.1/\"")],
        (
            "notify.to[].webhook" | "notify.to[].discord" | "notify.to[].slack" | "notify.to[].ntfy",
            None | Some("ca" | "secret_file" | "token_file"),
        ) => &[("url", "\"http://127.0.0.1/\"")],
        ("telemetry", _) => &[("otlp", "\"http://127.0.0.1:4318\"")],
        ("affinity.NAME", _) => &[("lookup", "[\"query:a\"]"), ("learn", "[{ from = \"header:x-a\" }]")],
        _ => &[],
    }
}

/// The table at a path with the keys that it needs, as a text.
pub(super) fn of(path: &[PathStep]) -> String {
    let (table, whole) = (dotted(path), dotted(path));
    let pairs = needs(&table, None, &whole).iter().map(|(key, value)| format!("{key} = {value}"));
    let pairs = pairs.collect::<Vec<_>>();
    if path.is_empty() { pairs.join("\n") } else { format!("{{ {} }}", pairs.join(", ")) }
}

/// A file in which the value at the path is `leaf`, and the place of the value.
pub(super) fn text(path: &[PathStep], leaf: &str) -> (String, Place) {
    let mut out = String::new();
    let mut place = 0..0;
    if path.is_empty() {
        let frame = of(path);
        return (if leaf == "{}" { String::new() } else { frame }, 0..0);
    }
    write(&mut out, &[], path, Some(leaf), &mut place);
    (out, place)
}

/// The same file without the key that the path ends with.
pub(super) fn without(path: &[PathStep]) -> String {
    let mut out = String::new();
    write(&mut out, &[], path, None, &mut (0..0));
    out
}

/// Writes the value at `done`, on the way to the end of `todo`; without a leaf, the last key is left out.
fn write(out: &mut String, done: &[PathStep], todo: &[PathStep], leaf: Option<&str>, place: &mut Place) {
    let Some((step, rest)) = todo.split_first() else {
        let start = out.len();
        out.push_str(leaf.unwrap_or_default());
        *place = start..out.len();
        return;
    };
    let next = [done, std::slice::from_ref(step)].concat();
    match step {
        PathStep::Item => {
            out.push('[');
            write(out, &next, rest, leaf, place);
            out.push(']');
        }
        PathStep::Name => {
            out.push_str(&format!("{{ {NAME} = "));
            write(out, &next, rest, leaf, place);
            out.push_str(" }");
        }
        PathStep::Key(key, required) => {
            let is_top = done.is_empty();
            let mut separator = if is_top { "" } else { "{ " };
            let whole = dotted(&[done, todo].concat());
            let needs = needs(&dotted(done), Some(key), &whole).iter().map(|(key, value)| (*key, *value));
            let required = required.iter().map(|(key, value)| (*key, value.as_str()));
            for (other, value) in needs.chain(required).filter(|(other, _)| other != key) {
                out.push_str(&format!("{separator}{other} = {value}"));
                separator = if is_top { "\n" } else { ", " };
            }
            if !rest.is_empty() || leaf.is_some() {
                out.push_str(&format!("{separator}{key} = "));
                write(out, &next, rest, leaf, place);
            } else if separator == "{ " {
                out.push_str("{ ");
            }
            if !is_top {
                out.push_str(" }");
            }
        }
    }
}

/// A path as it is written in messages: `upstream.NAME.health.interval`, `listener[].tls`.
pub(super) fn dotted(path: &[PathStep]) -> String {
    let mut out = String::new();
    for step in path {
        let dot = if out.is_empty() { "" } else { "." };
        match step {
            PathStep::Key(key, _) => out.push_str(&format!("{dot}{key}")),
            PathStep::Item => out.push_str("[]"),
            PathStep::Name => out.push_str(&format!("{dot}NAME")),
        }
    }
    out
}

/// The table of a key as it has a header in the file, and the key with the inline tables around it.
pub(super) fn names(path: &[PathStep]) -> (String, String) {
    let header = match path {
        [PathStep::Key(..), PathStep::Item | PathStep::Name, _, ..] => 2,
        [PathStep::Key(..), PathStep::Key(..), ..] => 1,
        _ => 0,
    };
    let (table, key) = path.split_at(header);
    (dotted(table), dotted(key))
}
