//! Errors of a wrong configuration: the exact text, place and hint of each mistake inside one table.

use super::{HEAD, errors, errors_of};
use insta::assert_snapshot;

#[test]
fn an_unknown_key_near_a_known_one_suggests_it() {
    assert_snapshot!(errors("afinity = [\"cookie\"]"), @r#"
    error: unknown key `afinity` in [upstream.app]
     --> s.toml:5:1
      |
    5 | afinity = ["cookie"]
      | ^^^^^^^
      = help: did you mean `affinity`?
    "#);
}

#[test]
fn any_other_unknown_key_has_three_known_ones_and_where_all_are() {
    assert_snapshot!(errors("[limits]\nmemory = 3"), @"
    error: unknown key `memory` in `limits`
     --> s.toml:6:1
      |
    6 | memory = 3
      | ^^^^^^
      = help: use for example `pins`, `min_rate` or `sockets`; `stickyd reference keys` lists all
    ");
}

#[test]
fn unknown_keys_of_all_tables_are_reported_at_once() {
    assert_snapshot!(errors_of("treads = 2\n[[listener]]\naddress = \"0.0.0.0:80\"\nport = 80\n[upstream.app]\nworkers = [{ address = \"127.0.0.1:3000\", wieght = 2 }]\nhealth = { pth = \"/\" }\n[admin]\ncolour = \"x\"\n[log]\nacces = true"), @r#"
    error: unknown key `treads` in the file
     --> s.toml:1:1
      |
    1 | treads = 2
      | ^^^^^^
      = help: did you mean `threads`?

    error: unknown key `port` in [[listener]]
     --> s.toml:4:1
      |
    4 | port = 80
      | ^^^^
      = help: use one of `address`, `name`, `tls`, `http2`, `websocket_over_http2`, `redirect`, `health`, `trusted_proxies`, `proxy_protocol`

    error: unknown key `wieght` in a worker
     --> s.toml:6:42
      |
    6 | workers = [{ address = "127.0.0.1:3000", wieght = 2 }]
      |                                          ^^^^^^
      = help: did you mean `weight`?

    error: a health check of kind "http" needs `path`
     --> s.toml:7:10
      |
    7 | health = { pth = "/" }
      |          ^^^^^^^^^^^^^
      = help: write path = "/health", or kind = "tcp" to only connect

    error: unknown key `pth` in `health`
     --> s.toml:7:12
      |
    7 | health = { pth = "/" }
      |            ^^^
      = help: did you mean `path`?

    error: unknown key `colour` in `admin`
     --> s.toml:9:1
      |
    9 | colour = "x"
      | ^^^^^^
      = help: use one of `address`, `hosts`, `token_file`, `read_token_file`, `emit_token_file`, `group`

    error: unknown key `acces` in `log`
      --> s.toml:11:1
       |
    11 | acces = true
       | ^^^^^
       = help: did you mean `access`?
    "#);
}

#[test]
fn several_mistakes_in_one_table_are_reported_at_once() {
    assert_snapshot!(errors("affinity = [\"cokie\"]\nconnect_timeout = 5\ncookie = { same_site = \"laxx\" }"), @r#"
    error: unknown affinity `cokie`
     --> s.toml:5:13
      |
    5 | affinity = ["cokie"]
      |             ^^^^^^^
      = help: did you mean `cookie`?

    error: `connect_timeout` needs a unit
     --> s.toml:6:19
      |
    6 | connect_timeout = 5
      |                   ^
      = help: write a duration such as "5s"

    error: unknown same_site `laxx`
     --> s.toml:7:24
      |
    7 | cookie = { same_site = "laxx" }
      |                        ^^^^^^
      = help: did you mean `lax`?
    "#);
}

#[test]
fn a_value_of_the_wrong_type_is_an_error() {
    assert_snapshot!(errors_of(&format!("threads = \"four\"\n{HEAD}")), @r#"
    error: `threads` must be an integer from 1 to 256, not a string
     --> s.toml:1:11
      |
    1 | threads = "four"
      |           ^^^^^^
    "#);
}

#[test]
fn an_integer_out_of_range_is_an_error() {
    assert_snapshot!(errors("[limits]\npins = 10\nhandshakes = -1"), @"
    error: `pins` must be an integer from 1_000 to 100_000_000
     --> s.toml:6:8
      |
    6 | pins = 10
      |        ^^

    error: `handshakes` must be an integer from 1 to 100_000
     --> s.toml:7:14
      |
    7 | handshakes = -1
      |              ^^
    ");
}

#[test]
fn a_duration_needs_a_unit() {
    assert_snapshot!(errors("response_timeout = \"60\""), @r#"
    error: `response_timeout` is not a valid duration: time unit needed, for example 60sec or 60ms
     --> s.toml:5:20
      |
    5 | response_timeout = "60"
      |                    ^^^^
      = help: write a duration such as "500ms", "5s" or "1m 30s"
    "#);
}

#[test]
fn a_duration_needs_a_known_unit_and_has_a_range() {
    assert_snapshot!(errors("tunnel_idle = \"5 fortnights\"\nhealth = { kind = \"tcp\", interval = \"10ms\" }"), @r#"
    error: `tunnel_idle` is not a valid duration: unknown time unit "fortnights", supported units: ns, us/µs, ms, sec, min, hours, days, weeks, months, years (and few variations)
     --> s.toml:5:15
      |
    5 | tunnel_idle = "5 fortnights"
      |               ^^^^^^^^^^^^^^
      = help: write a duration such as "500ms", "5s" or "1m 30s"

    error: `interval` must be from 100ms to 1h
     --> s.toml:6:37
      |
    6 | health = { kind = "tcp", interval = "10ms" }
      |                                     ^^^^^^
    "#);
}

#[test]
fn a_size_needs_a_known_unit_and_has_a_range() {
    assert_snapshot!(errors("[limits]\nreplay_bytes = \"64M\""), @r#"
    error: `replay_bytes` is not a valid size
     --> s.toml:6:16
      |
    6 | replay_bytes = "64M"
      |                ^^^^^
      = help: write bytes (65536), or a whole number with kB, MB, GB (1000) or KiB, MiB, GiB (1024)
    "#);
    assert_snapshot!(errors("[limits]\nreplay_bytes = \"1kB\""), @r#"
    error: `replay_bytes` must be from 1_000_000 to 64_000_000_000 bytes
     --> s.toml:6:16
      |
    6 | replay_bytes = "1kB"
      |                ^^^^^
    "#);
}

#[test]
fn affinity_must_not_be_empty_or_list_an_entry_twice() {
    assert_snapshot!(errors("affinity = []"), @r#"
    error: `affinity` is empty: nothing would choose a worker
     --> s.toml:5:12
      |
    5 | affinity = []
      |            ^^
      = help: ["auto", "cookie", "address"] is the default; ["address"] alone is IP hash
    "#);
    assert_snapshot!(errors("affinity = [\"cookie\", \"cookie\"]"), @r#"
    error: affinity `cookie` is listed twice
     --> s.toml:5:23
      |
    5 | affinity = ["cookie", "cookie"]
      |                       ^^^^^^^^
    "#);
}

#[test]
fn an_invalid_network_is_an_error() {
    assert_snapshot!(errors_of("[[listener]]\naddress = \"0.0.0.0:80\"\ntrusted_proxies = [\"10.0.0.0/33\", \"10.1.2.3\"]\n[upstream.app]\nworkers = [\"127.0.0.1:3000\"]"), @r#"
    error: `10.0.0.0/33` is not a valid network
     --> s.toml:3:20
      |
    3 | trusted_proxies = ["10.0.0.0/33", "10.1.2.3"]
      |                    ^^^^^^^^^^^^^
      = help: write "10.0.0.0/8", "10.1.2.3" or "fd00::/8"
    "#);
}

#[test]
fn a_misspelt_log_level_is_an_error() {
    assert_snapshot!(errors("[log]\nlevel = \"inof\""), @r#"
    error: `inof` is not a log level
     --> s.toml:6:9
      |
    6 | level = "inof"
      |         ^^^^^^
      = help: did you mean `info`?
    "#);
    assert_snapshot!(errors("[log]\nlevel = \"info,stickyd=loud\""), @r#"
    error: `level` is not a valid log filter: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
     --> s.toml:6:9
      |
    6 | level = "info,stickyd=loud"
      |         ^^^^^^^^^^^^^^^^^^^
      = help: write "info", or directives such as "info,stickyd::affinity=debug"
    "#);
}

#[test]
fn a_short_secret_is_an_error_that_does_not_show_it() {
    assert_snapshot!(errors_of(&format!("secret = \"hunter2\"\n{HEAD}")), @"
    error: `secret` has 7 bytes; it needs at least 16
     --> s.toml:1:10
      |
    1 | secret = …
      |          ^
      = help: make one with: openssl rand -hex 32
    ");
}

#[test]
fn an_upstream_name_has_allowed_characters() {
    assert_snapshot!(errors_of("[[listener]]\naddress = \"0.0.0.0:80\"\n[upstream.\"My App\"]\nworkers = [\"127.0.0.1:3000\"]"), @r#"
    error: `My App` is not a valid upstream name
     --> s.toml:3:11
      |
    3 | [upstream."My App"]
      |           ^^^^^^^^
      = help: use 1 to 32 characters of a-z, 0-9, `_` and `-`: it becomes part of the cookie's name
    "#);
}

#[test]
fn a_single_table_instead_of_a_list_is_an_error() {
    assert_snapshot!(errors_of("[listener]\naddress = \"0.0.0.0:80\"\n[upstream]\nworkers = [\"127.0.0.1:3000\"]"), @r#"
    error: `listener` must be a list of tables, each headed [[listener]], not a table
     --> s.toml:1:1
      |
    1 | [listener]
      | ^^^^^^^^^^

    error: `workers` must be in a named upstream, not in [upstream] itself
     --> s.toml:4:1
      |
    4 | workers = ["127.0.0.1:3000"]
      | ^^^^^^^
      = help: write [upstream.app] above it
    "#);
}

#[test]
fn all_syntax_errors_are_reported() {
    assert_snapshot!(errors_of("[[listener]\naddress = \"0.0.0.0:80\"\n\n[upstream.app]\nworkers = [\"127.0.0.1:3000\n"), @r#"
    error: unclosed array table, expected `]`
     --> s.toml:1:12
      |
    1 | [[listener]
      |            ^

    error: unclosed array, expected `]`
     --> s.toml:5:27
      |
    5 | workers = ["127.0.0.1:3000
      |                           ^
    "#);
}

#[test]
fn a_duplicate_key_is_an_error() {
    assert_snapshot!(errors("connect_timeout = \"1s\"\nconnect_timeout = \"2s\""), @r#"
    error: duplicate key
     --> s.toml:6:1
      |
    6 | connect_timeout = "2s"
      | ^^^^^^^^^^^^^^^
    "#);
}

#[test]
fn a_listener_name_is_unique_and_valid_for_systemd() {
    let one = |name: &str, port| format!("[[listener]]\naddress = \"0.0.0.0:{port}\"\nname = \"{name}\"\n");
    let text = one("a:b", 80) + &one("web", 81) + &one("web", 82) + "[upstream.app]\nworkers = [\"127.0.0.1:3000\"]";
    assert_snapshot!(errors_of(&text), @r#"
    error: `a:b` is not a valid listener name
     --> s.toml:3:8
      |
    3 | name = "a:b"
      |        ^^^^^
      = help: use 1 to 255 ASCII characters without spaces and `:`, as FileDescriptorName= in the socket unit

    error: a listener is already named `web`, on line 6
     --> s.toml:9:8
      |
    9 | name = "web"
      |        ^^^^^
    "#);
}

#[test]
fn http2_needs_tls_and_websockets_over_it_need_http2() {
    assert_snapshot!(errors_of("[[listener]]\naddress = \"0.0.0.0:80\"\nhttp2 = true\n[upstream.app]\nworkers = [\"127.0.0.1:3000\"]\n[limits]\nhttp2_streams = 0"), @"
    error: `http2` cannot be true: clients can choose HTTP/2 only in the TLS handshake
     --> s.toml:3:9
      |
    3 | http2 = true
      |         ^^^^
      = help: add `tls` to this listener, or remove this

    error: `http2_streams` must be an integer from 1 to 10_000
     --> s.toml:7:17
      |
    7 | http2_streams = 0
      |                 ^
    ");
    assert_snapshot!(errors_of("[[listener]]\naddress = \"0.0.0.0:80\"\nhttp2 = false\nwebsocket_over_http2 = true\n[upstream.app]\nworkers = [\"127.0.0.1:3000\"]"), @"
    error: `websocket_over_http2` cannot be true: this listener does not offer HTTP/2
     --> s.toml:4:24
      |
    4 | websocket_over_http2 = true
      |                        ^^^^
      = help: set http2 = true, or remove this
    ");
}
