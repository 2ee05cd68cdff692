//! A configuration file: any text.
//!
//! It is accepted or refused, twice in the same way. A refusal names places inside the text, in order, and prints no
//! control characters. DNS names resolve by a fixed rule; an input may name any file of this machine (reading is
//! bounded).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use stickyd::testing::config::{Config, Diagnostic, Errors, Severity, parse_with};

/// Checks the result of parsing a text.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    // Devices and pipes of this machine would block the fuzzer.
    if ["/dev", "/proc", "/sys", "/run"].iter().any(|place| text.contains(place)) {
        return;
    }
    let first = parse(text);
    assert_eq!(first, parse(text), "read twice");
    match &first {
        Ok((config, warnings)) => {
            assert!(warnings.iter().all(|one| one.severity == Severity::Warning));
            warnings.iter().for_each(|one| sound(one, text));
            sane(config);
        }
        Err(errors) => {
            assert!(errors.all().len() <= 100);
            assert!(
                errors.all().iter().any(|one| one.severity == Severity::Error),
                "refused without a reason: {errors}"
            );
            errors.all().iter().for_each(|one| sound(one, text));
            let printed = errors.to_string();
            assert!(!printed.contains(|c: char| c.is_control() && c != '\n'), "{printed:?}");
        }
    }
}

fn parse(text: &str) -> Result<(Config, Vec<Diagnostic>), Errors> {
    let resolve = |name: &str| match name.len() % 3 {
        0 => Err(io::ErrorKind::NotFound.into()),
        1 => Ok(vec![]),
        _ => Ok(vec![IpAddr::from(Ipv4Addr::new(10, 1, 1, 1)), IpAddr::from(Ipv4Addr::new(10, 1, 1, 2))]),
    };
    parse_with(text, Path::new("/nowhere/stickyd.toml"), &resolve)
}

/// Checks that a finding is about a place that exists.
fn sound(one: &Diagnostic, text: &str) {
    assert!(!one.message.is_empty());
    let Some(place) = &one.place else { panic!("about no file: {one}") };
    assert_eq!(place.file, "/nowhere/stickyd.toml");
    let Some(line) = &place.line else { return };
    // `lines` has no line after the last line end; a finding may have one.
    let lines: Vec<_> = text.split('\n').collect();
    assert!((1..=lines.len()).contains(&line.number), "{line:?}");
    let there = lines[line.number - 1].chars().count();
    assert!((1..=there + 1).contains(&line.column), "{line:?} of {there}");
    let shown = line.text.chars().count();
    assert!(shown <= 240, "{line:?}");
    assert!(line.width >= 1 && line.indent <= shown.max(line.column) && line.width <= shown.max(1), "{line:?}");
    assert!(!one.one_line().contains('\n'), "{:?}", one.one_line());
}

/// Checks what every accepted configuration promises to the rest of stickyd.
fn sane(config: &Config) {
    assert!((1..=256).contains(&config.threads));
    assert!(!config.listeners.is_empty() && !config.upstreams.is_empty());
    assert!(config.secret.as_ref().is_none_or(|secret| secret.0.len() >= 16));
    assert!(config.routes.iter().all(|route| route.upstream < config.upstreams.len() && route.path.starts_with('/')));
    for upstream in &config.upstreams {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
        assert!((1..=32).contains(&upstream.name.len()) && upstream.name.bytes().all(fits), "{}", upstream.name);
        assert!(!upstream.affinity.is_empty());
        let mut names: Vec<_> = upstream.workers.iter().map(|worker| &worker.name).collect();
        let mut addresses: Vec<_> = upstream.workers.iter().map(|worker| &worker.address).collect();
        names.sort_unstable();
        names.dedup();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!((names.len(), addresses.len()), (upstream.workers.len(), upstream.workers.len()));
        assert!(upstream.workers.iter().all(|worker| (1..=256).contains(&worker.weight)));
    }
}
