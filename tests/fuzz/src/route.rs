//! The route of a request, and the guards that it must pass.
//!
//! Input: a byte that chooses the host, one with the number of steps of a worker, the steps, then the path. The oracle
//! is that worker: it changes the path as the steps say, and has a table of its own. Whatever path it ends with, the
//! guard of that path's route was asked, or the request was refused.

use std::io;
use std::path::Path;
use std::sync::Arc;

use stickyd::testing::config;
use stickyd::testing::keys::Keys;
use stickyd::testing::route::find;
use stickyd::testing::state::Shared;

use super::bytes::Choices;

/// Hosts and paths of the routes, in their order.
const ROUTES: [(&str, &str); 6] =
    [("admin.example", "/"), ("*.inner.example", "/"), ("", "/admin"), ("", "/a/b"), ("", "/%7eu"), ("", "/")];

const HOSTS: [(&str, &str); 8] = [
    ("own.example", "own.example"),
    ("admin.example", "admin.example"),
    ("ADMIN.example.:80", "admin.example"),
    ("admin.example:", "admin.example"),
    ("x.Inner.Example.", "x.inner.example"),
    ("inner.example", "inner.example"),
    ("admin.example.x", "admin.example.x"),
    ("", ""),
];

thread_local! {
    static SHARED: Arc<Shared> = shared();
}

fn shared() -> Arc<Shared> {
    let mut text =
        "[[listener]]\naddress = \"127.0.0.1:8080\"\n[upstream.app]\nworkers = [\"127.0.0.1:1\"]\n".to_owned();
    for (number, (host, path)) in ROUTES.iter().enumerate() {
        let host = if host.is_empty() { String::new() } else { format!("host = \"{host}\"\n") };
        text += &format!("[[route]]\n{host}path = \"{path}\"\nupstream = \"app\"\ndeny = [\"192.0.2.{number}\"]\n");
    }
    let nobody = |_: &str| Err(io::ErrorKind::NotFound.into());
    let (config, _) = config::parse_with(&text, Path::new("/fuzz.toml"), &nobody).expect("it is one");
    Shared::new(&config, b"fuzzing fuzzing fuzzing".to_vec(), Keys::random().expect("chance"))
}

/// Checks that no worker sees a path whose guard was not asked.
pub fn check(data: &[u8]) {
    let mut choices = Choices(data);
    let (host, name) = choices.of(&HOSTS);
    let steps: Vec<u8> = (0..choices.byte() % 8).map(|_| choices.byte()).collect();
    // hyper passes on text only.
    let Ok(path) = std::str::from_utf8(choices.0) else { return };
    if !path.starts_with('/') || path.contains(['?', '#', ' ']) || path.contains(char::is_control) {
        return;
    }
    let snapshot = SHARED.with(|shared| shared.snapshot.load_full());
    let routes = &snapshot.rules.routes;
    // A refused request reaches no worker.
    let Ok(found) = find(routes, &snapshot.upstreams, host, path) else { return };
    let found = found.expect("the last route takes every path");
    assert!(found.place.is_some() && found.watch.is_some(), "{path:?}");
    let Some(seen) = worker(path.as_bytes(), &steps) else { return };
    let place = ROUTES.iter().position(|(host, rule)| {
        let host = match host.strip_prefix('*') {
            Some(end) => name.len() > end.len() && name.ends_with(end),
            None => host.is_empty() || *host == name,
        };
        let rule = rule.trim_end_matches('/').replace("%7e", "~");
        host && (seen == rule.as_bytes() || seen.starts_with(format!("{rule}/").as_bytes()))
    });
    let Some(place) = place else { return };
    let guard = routes[place].watch.as_deref().expect("each route has one");
    let is_asked = found.place == Some(place) || found.others.iter().any(|other| std::ptr::eq(*other, guard));
    assert!(is_asked, "{path:?} is {:?} for a worker: route {place}", String::from_utf8_lossy(&seen));
}

/// The path as a worker sees it after these steps; `None` if it refuses it.
fn worker(path: &[u8], steps: &[u8]) -> Option<Vec<u8>> {
    // Characters without a meaning in paths are the same in both spellings.
    let mut path = decode(path, b"%/\\;?#");
    for step in steps {
        path = match step % 7 {
            0 => decode(&path, b""),
            1 => path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect(),
            2 => join(path.split(|byte| *byte == b'/').map(|one| one.split(|byte| *byte == b';').next().unwrap())),
            3 => {
                let last = path.last() == Some(&b'/');
                let mut parts: Vec<_> = path.split(|byte| *byte == b'/').filter(|one| !one.is_empty()).collect();
                parts.insert(0, b"");
                if last || parts.len() == 1 {
                    parts.push(b"");
                }
                join(parts.into_iter())
            }
            4 => dots(&path)?,
            5 => match path.strip_prefix(b"//") {
                Some(rest) => {
                    let start = rest.iter().position(|byte| *byte != b'/').unwrap_or(rest.len());
                    let end = rest[start..].iter().position(|byte| *byte == b'/').map_or(rest.len(), |end| start + end);
                    if end == rest.len() { b"/".to_vec() } else { rest[end..].to_vec() }
                }
                None => path,
            },
            _ => path.split(|byte| matches!(byte, b'?' | b'#' | 0)).next().unwrap().to_vec(),
        };
    }
    Some(path)
}

/// Decodes escapes once, except those of `kept` bytes. Malformed escapes stay.
fn decode(path: &[u8], kept: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        let digits = path.get(at + 1..at + 3).filter(|two| two.iter().all(u8::is_ascii_hexdigit));
        let byte = digits
            .filter(|_| path[at] == b'%')
            .map(|two| u8::from_str_radix(std::str::from_utf8(two).unwrap(), 16).unwrap());
        match byte.filter(|byte| !kept.contains(byte)) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    out
}

fn dots(path: &[u8]) -> Option<Vec<u8>> {
    let parts: Vec<_> = path.split(|byte| *byte == b'/').skip(1).collect();
    let mut kept: Vec<&[u8]> = vec![b""];
    for (number, part) in parts.iter().enumerate() {
        let last = number + 1 == parts.len();
        match *part {
            b"." => {}
            b".." if kept.len() == 1 => return None,
            b".." => _ = kept.pop(),
            part => kept.push(part),
        }
        if last && matches!(*part, b"." | b"..") {
            kept.push(b"");
        }
    }
    Some(join(kept.into_iter()))
}

fn join<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    parts.collect::<Vec<_>>().join(&b'/')
}
