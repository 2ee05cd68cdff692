//! Errors of wrong addresses: the place is inside the string, at the part that is wrong.

use std::path::Path;

use super::{TempDir, errors, errors_of, errors_of_workers, resolve, text_of_workers, warnings};
use insta::assert_snapshot;
use stickyd::testing::config::parse_with;

#[test]
fn a_reversed_port_range_is_marked_inside_the_string() {
    assert_snapshot!(errors_of_workers("[\"127.0.0.1:3000\", \"127.0.0.1:3004-3001\"]"), @r#"
    error: the range of ports ends before it begins
     --> s.toml:4:41
      |
    4 | workers = ["127.0.0.1:3000", "127.0.0.1:3004-3001"]
      |                                         ^^^^^^^^^
      = help: write 3001-3004
    "#);
}

#[test]
fn an_invalid_port_is_an_error() {
    assert_snapshot!(errors_of("[[listener]]\naddress = \"0.0.0.0:99999\"\n[upstream.app]\nworkers = [\"127.0.0.1:http\", \"10.0.0.1:0\"]"), @r#"
    error: `99999` is not a valid port (0 to 65535)
     --> s.toml:2:20
      |
    2 | address = "0.0.0.0:99999"
      |                    ^^^^^

    error: `http` is not a valid port
     --> s.toml:4:23
      |
    4 | workers = ["127.0.0.1:http", "10.0.0.1:0"]
      |                       ^^^^
      = help: write a port such as 3000, or a range such as 3001-3004

    error: a worker cannot be reached at port 0
     --> s.toml:4:40
      |
    4 | workers = ["127.0.0.1:http", "10.0.0.1:0"]
      |                                        ^
      = help: write a port such as 3000, or a range such as 3001-3004
    "#);
}

#[test]
fn an_address_needs_host_and_port_and_is_not_a_url() {
    assert_snapshot!(errors_of("[[listener]]\naddress = \":80\"\n[upstream.app]\nworkers = [\"127.0.0.1\", \"http://127.0.0.1:3000\"]"), @r#"
    error: the address needs a host
     --> s.toml:2:11
      |
    2 | address = ":80"
      |           ^^^^^
      = help: write 127.0.0.1:3000, 0.0.0.0:443 or [::]:443

    error: the address needs a port
     --> s.toml:4:12
      |
    4 | workers = ["127.0.0.1", "http://127.0.0.1:3000"]
      |            ^^^^^^^^^^^
      = help: write 127.0.0.1:3000, [::1]:3000 or unix:/run/app.sock

    error: an address is not a URL
     --> s.toml:4:25
      |
    4 | workers = ["127.0.0.1", "http://127.0.0.1:3000"]
      |                         ^^^^^^^^^^^^^^^^^^^^^^^
      = help: write host:port, without http:// or a path
    "#);
}

#[test]
fn ipv6_needs_brackets_and_ipv4_four_numbers() {
    assert_snapshot!(errors_of_workers("[\"::1:3000\", \"127.0.0:3000\"]"), @r#"
    error: an IPv6 address must be in brackets
     --> s.toml:4:12
      |
    4 | workers = ["::1:3000", "127.0.0:3000"]
      |            ^^^^^^^^^^
      = help: write [::1]:3000

    error: `127.0.0` is not a valid host
     --> s.toml:4:25
      |
    4 | workers = ["::1:3000", "127.0.0:3000"]
      |                         ^^^^^^^
      = help: write an IP address (IPv6 in brackets), a DNS name, or unix:/path
    "#);
}

#[test]
fn a_port_range_has_a_maximum() {
    assert_snapshot!(errors_of_workers("[\"127.0.0.1:3000-30010\"]"), @r#"
    error: this range has 27011 ports; the maximum is 1024
     --> s.toml:4:23
      |
    4 | workers = ["127.0.0.1:3000-30010"]
      |                       ^^^^^^^^^^
    "#);
}

#[test]
fn a_unix_path_must_be_there_and_not_too_long() {
    let long = format!("[\"unix:\", \"unix:/{}\"]", "x".repeat(107));
    assert_snapshot!(errors_of_workers(&long), @r#"
    error: the path of the unix socket is missing
     --> s.toml:4:18
      |
    4 | workers = ["unix:", "unix:/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]
      |                  ^
      = help: write unix:/run/app/1.sock

    error: the path of the unix socket is too long: Linux allows 107 bytes
     --> s.toml:4:27
      |
    4 | workers = ["unix:", "unix:/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"]
      |                           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = help: write unix:/run/app/1.sock
    "#);
}

#[test]
fn a_name_that_does_not_resolve_is_a_warning() {
    let dir = TempDir::new("unresolved");
    assert_snapshot!(warnings(&dir, &text_of_workers("[\"absent.test:3000\", { address = \"empty.test:3000\", name = \"e\" }]")), @r#"
    warning: cannot resolve `absent.test`: no such name
     --> DIR/s.toml:4:13
      |
    4 | workers = ["absent.test:3000", { address = "empty.test:3000", name = "e" }]
      |             ^^^^^^^^^^^
      = help: it is looked up again and again; until it resolves, a start is without its workers and a reload keeps them

    warning: `empty.test` resolves to no address
     --> DIR/s.toml:4:45
      |
    4 | workers = ["absent.test:3000", { address = "empty.test:3000", name = "e" }]
      |                                             ^^^^^^^^^^
      = help: it is looked up again and again; until it resolves, a start is without its workers and a reload keeps them
    "#);
}

#[test]
fn two_entries_for_one_address_by_dns_are_one_worker() {
    let dir = TempDir::new("twice");
    let list = "[\n  { address = \"one.test:80\", weight = 2 },\n  \"10.0.0.1:80-81\",\n  \"ONE.test:80\",\n]";
    assert_snapshot!(warnings(&dir, &text_of_workers(list)), @r#"
    warning: worker 10.0.0.1:80 is already listed, on line 5
     --> DIR/s.toml:6:3
      |
    6 |   "10.0.0.1:80-81",
      |   ^^^^^^^^^^^^^^^^
      = help: it is one worker, with the settings of the first entry

    warning: worker 10.0.0.1:80 is already listed, on line 5
     --> DIR/s.toml:7:3
      |
    7 |   "ONE.test:80",
      |   ^^^^^^^^^^^^^
      = help: it is one worker, with the settings of the first entry
    "#);
    let config = parse_with(&text_of_workers(list), Path::new("s.toml"), &resolve).unwrap().0;
    let workers: Vec<_> = config.upstreams[0].workers.iter().map(|w| (w.name.as_str(), w.weight)).collect();
    assert_eq!(workers, [("10.0.0.1:80", 2), ("10.0.0.1:81", 1)]);
}

/// Whether the file is correct must not depend on how many addresses a DNS name has today.
#[test]
fn two_entries_with_one_name_are_an_error_whatever_dns_says() {
    for name in ["one.test:80", "two.test:80", "absent.test:80"] {
        let list = format!(
            "[\n  {{ address = \"10.9.9.9:1\", name = \"a\" }},\n  {{ address = \"{name}\", name = \"a\" }},\n]"
        );
        let said = errors_of_workers(&list);
        assert!(said.contains("error: a worker is already named `a`, on line 5\n --> s.toml:6:"), "{said}");
        assert_eq!(said.matches("error: ").count(), 1, "{said}");
    }
}

#[test]
fn a_name_with_too_many_addresses_is_cut_with_a_warning() {
    let many = |_: &str| Ok((0..700).map(|i: u16| [10, 0, i.to_be_bytes()[0], i.to_be_bytes()[1]].into()).collect());
    let text = text_of_workers("[\"many.test:1-2\"]");
    let (config, warnings) = parse_with(&text, Path::new("s.toml"), &many).unwrap();
    assert_eq!(config.upstreams[0].workers.len(), 1024);
    assert_snapshot!(warnings[0].to_string(), @r#"
    warning: `many.test:1-2` expands to more than 1024 workers
     --> s.toml:4:12
      |
    4 | workers = ["many.test:1-2"]
      |            ^^^^^^^^^^^^^^^
      = help: the first 1024 are used
    "#);
}

#[test]
fn dns_interval_has_a_range() {
    assert_snapshot!(errors("dns_interval = \"500ms\""), @r#"
    error: `dns_interval` must be from 1s to 1day
     --> s.toml:5:16
      |
    5 | dns_interval = "500ms"
      |                ^^^^^^^
    "#);
}

#[test]
fn a_listener_needs_an_ip_address() {
    assert_snapshot!(errors_of("[[listener]]\naddress = \"www.example.com:80\"\n[upstream.app]\nworkers = [\"127.0.0.1:3000\"]"), @r#"
    error: `www.example.com` is not an IP address
     --> s.toml:2:12
      |
    2 | address = "www.example.com:80"
      |            ^^^^^^^^^^^^^^^
      = help: write an IP address: 0.0.0.0 or [::] for every address of this host, 127.0.0.1 for local clients
    "#);
}

#[test]
fn a_worker_needs_an_address_and_valid_values() {
    assert_snapshot!(errors_of_workers("[\n  { name = \"a\" },\n  { address = \"127.0.0.1:1\", admin = \"drained\", weight = 0 },\n  7,\n]"), @r#"
    error: a worker needs `address`
     --> s.toml:5:3
      |
    5 |   { name = "a" },
      |   ^^^^^^^^^^^^^^
      = help: write address = "10.0.0.7:3000"

    error: unknown admin state `drained`
     --> s.toml:6:38
      |
    6 |   { address = "127.0.0.1:1", admin = "drained", weight = 0 },
      |                                      ^^^^^^^^^
      = help: use one of `ready`, `drain`, `maint`

    error: `weight` must be an integer from 1 to 256
     --> s.toml:6:58
      |
    6 |   { address = "127.0.0.1:1", admin = "drained", weight = 0 },
      |                                                          ^

    error: a worker must be an address or a table such as { address = "10.0.0.7:3000", weight = 2 }, not an integer
     --> s.toml:7:3
      |
    7 |   7,
      |   ^
    "#);
}
