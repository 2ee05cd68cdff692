//! `[history]` and the status of a route: errors and defaults.

use super::{HEAD, errors, good};
use insta::assert_snapshot;

#[test]
fn the_memory_of_the_history_has_bounds() {
    assert_eq!(good(HEAD).history.memory, 32 << 20);
    assert_eq!(good(&format!("{HEAD}[history]\nmemory = \"1MiB\"")).history.memory, 1 << 20);
    assert!(errors("[history]\nmemory = \"1kB\"").contains("`memory` must be"));
    assert!(errors("[history]\nmemroy = \"1MiB\"").contains("unknown key `memroy`"));
    let changed = good(&format!("{HEAD}[history]\nmemory = \"64MiB\""));
    assert_eq!(good(HEAD).needs_restart(&changed), ["[history] memory"]);
}

#[test]
fn the_status_of_a_route_must_be_below_its_path() {
    let route =
        |path: &str, status: &str| format!("[[route]]\npath = \"{path}\"\nupstream = \"app\"\nstatus = \"{status}\"");
    for (path, status) in [("/", "/status.json"), ("/chat", "/chat/status.json"), ("/chat/", "/chat/x")] {
        assert_eq!(good(&format!("{HEAD}{}", route(path, status))).routes[0].status.as_deref(), Some(status));
    }
    assert_snapshot!(errors(&route("/chat", "/status.json")), @r#"
    error: the route does not match `/status.json`, so its status could not be asked for
     --> s.toml:8:10
      |
    8 | status = "/status.json"
      |          ^^^^^^^^^^^^^^
      = help: write "/chat/status.json"
    "#);
    assert!(errors(&route("/", "status.json")).contains("`status.json` is not a valid path"));
}
