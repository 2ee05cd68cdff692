//! The layers of `src/`: a module imports only modules of lower layers. `ARCHITECTURE.md` explains the list.
//!
//! The check reads the text of the sources: every path that begins with `crate::` outside of comments, strings and test
//! modules. Left out: imports between the files of one top-level module.

use std::collections::BTreeSet;
use std::path::Path;

use super::support::sources;

/// Every top-level module, from bottom to top.
const LAYERS: &[&str] = &[
    "clock",
    "locks",
    "random",
    "printable",
    "x509",
    "descriptors",
    "watch",
    "secret",
    "header_list",
    "readings",
    "keys",
    "networks",
    "client",
    "rate_limit",
    "min_rate",
    "engine_io",
    "hpack",
    "websocket",
    "broadcast",
    "jwt",
    "config",
    "processes",
    "telemetry",
    "events",
    "outbound",
    "metrics",
    "traces",
    "bus",
    "fleet",
    "emit",
    "net",
    "body",
    "cookie",
    "rules",
    "upstream",
    "sockets",
    "affinity",
    "queue",
    "route",
    "client_limits",
    "history",
    "state",
    "thread",
    "tunnel",
    "drain",
    "control",
    "spawn",
    "notify",
    "systemd",
    "listener",
    "proxy",
    "reload",
    "admin",
    "cli",
    "server",
    "testing",
];

/// The one import upwards, on purpose: a connection hands its requests to `proxy::handle`, which needs the connection.
const ALLOWED: (&str, &str) = ("listener", "proxy");

/// One import of a top-level module by a file.
struct Import {
    line: usize,
    module: String,
}

/// The modules that `text` imports, without comments, strings and everything after the first test module.
fn imports(text: &str) -> Vec<Import> {
    let code = sources::without_comments_and_strings(text);
    let code = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut found = Vec::new();
    for (line, text) in code.lines().enumerate() {
        for (at, _) in text.match_indices("crate::") {
            let rest = &text[at + "crate::".len()..];
            let module: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !module.is_empty() {
                found.push(Import { line: line + 1, module });
            }
        }
    }
    found
}

/// What is wrong with the imports of the file `path` (below `src/`), one line per import.
fn violations(path: &Path, text: &str) -> Vec<String> {
    let own = path.iter().next().unwrap_or_default().to_string_lossy().trim_end_matches(".rs").to_owned();
    let place = |module: &str| LAYERS.iter().position(|layer| *layer == module);
    let Some(own_place) = place(&own) else { return vec![format!("src/{}: `{own}` is in no layer", path.display())] };
    let is_wrong = |module: &str| {
        module != own && (own.as_str(), module) != ALLOWED && place(module).is_none_or(|other| other >= own_place)
    };
    let imports = imports(text).into_iter().filter(|import| is_wrong(&import.module));
    imports.map(|import| format!("src/{}:{}: {own} imports {}", path.display(), import.line, import.module)).collect()
}

#[test]
fn modules_import_only_lower_layers() {
    let mut wrong = Vec::new();
    let mut modules = BTreeSet::new();
    for (path, text) in sources::below("src", "rs") {
        let path = path.strip_prefix("src").unwrap();
        // The two crate roots name every module; unit tests may build what they need.
        if path == Path::new("lib.rs") || path == Path::new("main.rs") || path.ends_with("tests.rs") {
            continue;
        }
        if path.iter().any(|part| part == "tests") {
            continue;
        }
        modules.insert(path.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned());
        wrong.extend(violations(path, &text));
    }
    assert!(wrong.is_empty(), "imports against the layers:\n{}", wrong.join("\n"));
    let listed: BTreeSet<_> = LAYERS.iter().map(|layer| (*layer).to_owned()).collect();
    assert_eq!(listed.difference(&modules).collect::<Vec<_>>(), Vec::<&String>::new(), "listed, but not in src/");
}

#[test]
fn an_import_of_a_higher_layer_is_found() {
    let found = |path: &str, text: &str| violations(Path::new(path), text);
    assert_eq!(
        found("config/mod.rs", "use crate::upstream::Upstream;"),
        ["src/config/mod.rs:1: config imports upstream"]
    );
    assert_eq!(found("clock.rs", "\nfn now() { crate::random::u64() }"), ["src/clock.rs:2: clock imports random"]);
    assert_eq!(found("unheard_of.rs", "").len(), 1);
    assert_eq!(
        found("upstream/mod.rs", "use crate::config;\n// crate::proxy\nconst A: &str = \"crate::proxy\";"),
        [""; 0]
    );
    assert_eq!(found("listener/conn.rs", "use crate::proxy;"), [""; 0]);
}

#[test]
fn the_architecture_page_lists_the_same_layers() {
    let page = std::fs::read_to_string("ARCHITECTURE.md").unwrap();
    let list = page.split("```text").nth(1).and_then(|after| after.split("```").next()).unwrap();
    // The names stand before the explanation, which at least four spaces set apart.
    let names = list.lines().filter_map(|line| line.trim().split("    ").next()).flat_map(str::split_whitespace);
    let named: Vec<_> = names.filter(|name| LAYERS.contains(name)).collect();
    assert_eq!(named, LAYERS, "ARCHITECTURE.md, section 2, has another order or other modules");
}
