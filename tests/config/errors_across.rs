//! Errors that need several tables, or other files, to be found; and the warnings.

use super::{HEAD, TempDir, errors, errors_in, errors_of, errors_of_workers, warnings};
use insta::assert_snapshot;

#[test]
fn an_empty_file_lacks_a_listener_and_an_upstream() {
    assert_snapshot!(errors_of(""), @r#"
    error: there is no listener
     --> s.toml
      = help: write [[listener]] and below it address = "0.0.0.0:80"

    error: there is no upstream
     --> s.toml
      = help: write [upstream.app] and below it workers = ["127.0.0.1:3001-3004"]
    "#);
}

#[test]
fn an_upstream_needs_workers() {
    assert_snapshot!(errors("[upstream.b]\n[upstream.c]\nworkers = []\n[[route]]\nupstream = \"b\""), @r#"
    warning: no route leads to upstream `app`
     --> s.toml:3:11
      |
    3 | [upstream.app]
      |           ^^^
      = help: its workers are health-checked, but get no requests

    error: [upstream.b] needs `workers`
     --> s.toml:5:1
      |
    5 | [upstream.b]
      | ^^^^^^^^^^^^
      = help: write workers = ["127.0.0.1:3001-3004"]

    warning: no route leads to upstream `c`
     --> s.toml:6:11
      |
    6 | [upstream.c]
      |           ^
      = help: its workers are health-checked, but get no requests

    error: [upstream.c] has no workers
     --> s.toml:7:11
      |
    7 | workers = []
      |           ^^
      = help: if this is intended, write allow_empty = true: all its requests are answered with 503
    "#);
}

#[test]
fn several_upstreams_need_a_route() {
    assert_snapshot!(errors("[upstream.b]\nworkers = [\"127.0.0.1:4000\"]"), @r#"
    error: there are several upstreams and no route
     --> s.toml:5:11
      |
    5 | [upstream.b]
      |           ^
      = help: write [[route]] with path = "/" and upstream = "b"
    "#);
}

#[test]
fn a_route_to_an_unknown_upstream_is_an_error() {
    assert_snapshot!(errors("[upstream.chat]\nworkers = [\"127.0.0.1:4000\"]\n[[route]]\nupstream = \"chta\"\n[[route]]\nupstream = \"web\""), @r#"
    error: unknown upstream `chta`
     --> s.toml:8:12
      |
    8 | upstream = "chta"
      |            ^^^^^^
      = help: did you mean `chat`?

    error: unknown upstream `web`
      --> s.toml:10:12
       |
    10 | upstream = "web"
       |            ^^^^^
       = help: use one of `app`, `chat`
    "#);
}

#[test]
fn a_route_needs_a_valid_host_and_path() {
    assert_snapshot!(errors("[[route]]\nhost = \"chat.example.com:443\"\npath = \"api\"\nupstream = \"app\"\n[[route]]\nhost = \"a.*.com\"\n"), @r#"
    error: `chat.example.com:443` is not a valid host
     --> s.toml:6:8
      |
    6 | host = "chat.example.com:443"
      |        ^^^^^^^^^^^^^^^^^^^^^^
      = help: write the host without a port or scheme

    error: `api` is not a valid path
     --> s.toml:7:8
      |
    7 | path = "api"
      |        ^^^^^
      = help: write "/" or "/socket.io": a path begins with / and matches everything below it

    error: [[route]] needs `upstream`
     --> s.toml:9:1
      |
    9 | [[route]]
      | ^^^^^^^^^
      = help: write upstream = "app"

    error: `a.*.com` is not a valid host
      --> s.toml:10:8
       |
    10 | host = "a.*.com"
       |        ^^^^^^^^^
       = help: a `*` stands for the first label only: "*.example.com"
    "#);
}

#[test]
fn a_worker_listed_twice_is_an_error() {
    assert_snapshot!(errors_of_workers("[\n  \"127.0.0.1:3001-3004\",\n  \"localhost:3003-3009\",\n]"), @r#"
    error: worker 127.0.0.1:3003 is already listed, on line 5
     --> s.toml:6:3
      |
    6 |   "localhost:3003-3009",
      |   ^^^^^^^^^^^^^^^^^^^^^
      = help: list it once; to give it a larger share, set its `weight`
    "#);
}

#[test]
fn a_worker_name_used_twice_is_an_error() {
    assert_snapshot!(errors_of_workers("[\n  { address = \"127.0.0.1:3001\", name = \"a\" },\n  { address = \"127.0.0.1:3002\", name = \"a\" },\n]"), @r#"
    error: a worker is already named `a`, on line 5
     --> s.toml:6:40
      |
    6 |   { address = "127.0.0.1:3002", name = "a" },
      |                                        ^^^
    "#);
}

#[test]
fn two_listeners_on_one_address_are_an_error() {
    assert_snapshot!(errors("[[listener]]\naddress = \"0.0.0.0:80\""), @r#"
    error: 0.0.0.0:80 already has a listener, on line 2
     --> s.toml:6:11
      |
    6 | address = "0.0.0.0:80"
      |           ^^^^^^^^^^^^
    "#);
    assert_snapshot!(errors("[admin]\naddress = \"127.0.0.1:81\"\n[[listener]]\naddress = \"127.0.0.1:81\""), @r#"
    error: 127.0.0.1:81 is already the admin listener's address
     --> s.toml:8:11
      |
    8 | address = "127.0.0.1:81"
      |           ^^^^^^^^^^^^^^
    "#);
}

/// What the system refuses to bind together is an error of the configuration; see `all.rs` of the listeners.
#[test]
fn overlapping_listeners_are_an_error() {
    let with = |one: &str, two: &str| {
        let toml = format!(
            "[[listener]]\naddress = \"{one}\"\n[[listener]]\naddress = \"{two}\"\n\
             [upstream.app]\nworkers = [\"127.0.0.1:1\"]"
        );
        stickyd::testing::config::parse(&toml, std::path::Path::new("s.toml"))
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    for (one, two) in [("0.0.0.0:80", "127.0.0.1:80"), ("127.0.0.1:80", "0.0.0.0:80"), ("[::1]:80", "[::]:80")] {
        let error = with(one, two).unwrap_err();
        assert!(error.contains(&format!("{two} overlaps with the listener {one}")), "{error}");
    }
    for (one, two) in [("0.0.0.0:80", "[::]:80"), ("[::]:80", "127.0.0.1:80"), ("0.0.0.0:80", "127.0.0.1:81")] {
        assert_eq!(with(one, two), Ok(()), "{one} {two}");
    }
    for (listener, admin, is_error) in
        [("0.0.0.0:80", "127.0.0.1:80", true), ("[::]:80", "127.0.0.1:80", true), ("0.0.0.0:80", "127.0.0.1:81", false)]
    {
        let toml = format!(
            "[admin]\naddress = \"{admin}\"\n[[listener]]\naddress = \"{listener}\"\n\
             [upstream.app]\nworkers = [\"127.0.0.1:1\"]"
        );
        let read = stickyd::testing::config::parse(&toml, std::path::Path::new("s.toml"));
        assert_eq!(read.is_err(), is_error, "{listener} {admin}");
    }
}

#[test]
fn a_worker_must_not_be_our_own_listener() {
    assert_snapshot!(errors_of("[[listener]]\naddress = \"0.0.0.0:3000\"\n[upstream.app]\nworkers = [\"127.0.0.1:2999-3003\"]"), @r#"
    error: worker 127.0.0.1:3000 is stickyd's own listener 0.0.0.0:3000
     --> s.toml:4:12
      |
    4 | workers = ["127.0.0.1:2999-3003"]
      |            ^^^^^^^^^^^^^^^^^^^^^
      = help: give the application ports of its own
    "#);
}

#[test]
fn an_admin_listener_on_the_network_needs_a_token() {
    assert_snapshot!(errors("[admin]\naddress = \"0.0.0.0:9145\""), @r#"
    error: the admin listener would be open to the network without a token
     --> s.toml:6:11
      |
    6 | address = "0.0.0.0:9145"
      |           ^^^^^^^^^^^^^^
      = help: write token_file = "admin.token", or use 127.0.0.1
    "#);
    // An IPv4 address inside IPv6 is that address (RFC 4291 §2.5.5.2).
    for (address, is_error) in [("[::ffff:127.0.0.1]", false), ("[::1]", false), ("[::ffff:10.0.0.1]", true)] {
        let toml = format!(
            "[admin]\naddress = \"{address}:9145\"\n[[listener]]\naddress = \"127.0.0.1:80\"\n\
             [upstream.app]\nworkers = [\"127.0.0.1:1\"]"
        );
        let read = stickyd::testing::config::parse(&toml, std::path::Path::new("s.toml"));
        assert_eq!(read.is_err(), is_error, "{address}");
    }
}

#[test]
fn two_secrets_and_missing_files_are_errors() {
    let dir = TempDir::new("absent");
    let text = format!(
        "secret = \"0123456789abcdef\"\nsecret_file = \"nope\"\n{HEAD}[admin]\ntoken_file = \"token\"\n[[listener]]\naddress = \"0.0.0.0:443\"\ntls = {{ certificate = \"c.pem\" }}"
    );
    assert_snapshot!(errors_in(&dir, &text), @r#"
    error: `secret` and `secret_file` cannot be used together
     --> DIR/s.toml:2:1
      |
    2 | secret_file = "nope"
      | ^^^^^^^^^^^
      = help: remove one of the two

    error: cannot read DIR/token: No such file or directory (os error 2)
     --> DIR/s.toml:8:14
      |
    8 | token_file = "token"
      |              ^^^^^^^

    error: `tls` needs `key`
      --> DIR/s.toml:11:7
       |
    11 | tls = { certificate = "c.pem" }
       |       ^^^^^^^^^^^^^^^^^^^^^^^^^
       = help: write key = "privkey.pem"

    error: cannot read DIR/c.pem: No such file or directory (os error 2)
      --> DIR/s.toml:11:23
       |
    11 | tls = { certificate = "c.pem" }
       |                       ^^^^^^^
    "#);
}

#[test]
fn a_short_token_is_an_error() {
    let dir = TempDir::new("token");
    dir.write("token", "  hunter2  \n");
    assert_snapshot!(errors_in(&dir, &format!("{HEAD}[admin]\ntoken_file = \"token\"")), @r#"
    error: token has 7 bytes; a secret needs at least 16
     --> DIR/s.toml:6:14
      |
    6 | token_file = "token"
      |              ^^^^^^^
      = help: make one with: openssl rand -hex 32
    "#);
}

#[test]
fn tokens_for_less_are_other_tokens() {
    let dir = TempDir::new("same-token");
    dir.write("one", "0123456789abcdef");
    dir.write("two", "0123456789abcdef\n");
    let keys = "token_file = \"one\"\nread_token_file = \"two\"\ngroup = \"no-such-group\"";
    assert_snapshot!(errors_in(&dir, &format!("{HEAD}[admin]\n{keys}")), @r#"
    error: `read_token_file` has the same token as `token_file`
     --> DIR/s.toml:7:19
      |
    7 | read_token_file = "two"
      |                   ^^^^^
      = help: make another one with: openssl rand -hex 32

    error: there is no group `no-such-group` in /etc/group
     --> DIR/s.toml:8:9
      |
    8 | group = "no-such-group"
      |         ^^^^^^^^^^^^^^^
      = help: write a group of this machine, such as "adm", or the number of a group that is not in that file
    "#);
}

#[test]
fn certificate_files_of_the_wrong_kind_are_errors() {
    let dir = TempDir::new("wrong-kind");
    dir.write("c.pem", "not PEM at all");
    dir.write("k.pem", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let text =
        format!("{HEAD}[[listener]]\naddress = \"0.0.0.0:443\"\ntls = {{ certificate = \"c.pem\", key = \"k.pem\" }}");
    assert_snapshot!(errors_in(&dir, &text), @r#"
    error: cannot use c.pem: it contains no certificate
     --> DIR/s.toml:7:23
      |
    7 | tls = { certificate = "c.pem", key = "k.pem" }
      |                       ^^^^^^^
      = help: use a file with -----BEGIN CERTIFICATE-----

    error: cannot use k.pem: the key is encrypted
     --> DIR/s.toml:7:38
      |
    7 | tls = { certificate = "c.pem", key = "k.pem" }
      |                                      ^^^^^^^
      = help: decrypt it: openssl pkey -in KEY -out plain.pem
    "#);
}

#[test]
fn the_key_of_another_certificate_is_an_error() {
    let dir = TempDir::new("mismatch");
    dir.certificate("a", 2000..4000);
    dir.certificate("b", 2000..4000);
    let text =
        format!("{HEAD}[[listener]]\naddress = \"0.0.0.0:443\"\ntls = {{ certificate = \"a.crt\", key = \"b.key\" }}");
    assert_snapshot!(errors_in(&dir, &text), @r#"
    error: b.key is not the key of a.crt
     --> DIR/s.toml:7:38
      |
    7 | tls = { certificate = "a.crt", key = "b.key" }
      |                                      ^^^^^^^
      = help: the key must belong to the chain's first certificate, the server's own
    "#);
}

#[test]
fn damaged_certificate_files_are_errors() {
    let dir = TempDir::new("torn");
    dir.certificate("a", 2000..4000);
    dir.write("a.crt", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    dir.write("a.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n");
    let text =
        format!("{HEAD}[[listener]]\naddress = \"0.0.0.0:443\"\ntls = {{ certificate = \"a.crt\", key = \"a.key\" }}");
    assert_snapshot!(errors_in(&dir, &text), @r#"
    error: cannot use a.crt: its first certificate is damaged
     --> DIR/s.toml:7:23
      |
    7 | tls = { certificate = "a.crt", key = "a.key" }
      |                       ^^^^^^^
      = help: use a PEM file with the whole chain, leaf first

    error: cannot use a.key: its -----END line is missing: the file is cut off
     --> DIR/s.toml:7:38
      |
    7 | tls = { certificate = "a.crt", key = "a.key" }
      |                                      ^^^^^^^
      = help: use a PEM file with one unencrypted key
    "#);
}

#[test]
fn same_site_none_without_tls_is_a_warning() {
    let dir = TempDir::new("same-site");
    assert_snapshot!(warnings(&dir, &format!("{HEAD}cookie = {{ same_site = \"none\" }}")), @r#"
    warning: no listener has TLS, and browsers reject SameSite=None cookies over plain HTTP
     --> DIR/s.toml:5:24
      |
    5 | cookie = { same_site = "none" }
      |                        ^^^^^^
      = help: add `tls` to a listener; if a proxy before stickyd terminates TLS, list it in `trusted_proxies`
    "#);
}

#[test]
fn same_site_none_behind_a_trusted_proxy_is_accepted() {
    let dir = TempDir::new("same-site-proxy");
    let trusting = HEAD.replace("[upstream", "trusted_proxies = [\"10.0.0.0/8\"]\n[upstream");
    assert_eq!(warnings(&dir, &format!("{trusting}cookie = {{ same_site = \"none\" }}")), "");
}

#[test]
fn unreachable_routes_and_upstreams_are_warnings() {
    let dir = TempDir::new("routes");
    let text = format!(
        "{HEAD}[upstream.b]\nworkers = [\"127.0.0.1:4000\"]\n[[route]]\nhost = \"*.example.com\"\npath = \"/api\"\nupstream = \"app\"\n[[route]]\nhost = \"a.example.com\"\npath = \"/api/v2\"\nupstream = \"app\"\n[[route]]\nhost = \"a.example.com\"\npath = \"/apis\"\nupstream = \"app\""
    );
    assert_snapshot!(warnings(&dir, &text), @"
    warning: no route leads to upstream `b`
     --> DIR/s.toml:5:11
      |
    5 | [upstream.b]
      |           ^
      = help: its workers are health-checked, but get no requests

    warning: this route is never reached: the one on line 7 matches all its requests
      --> DIR/s.toml:11:1
       |
    11 | [[route]]
       | ^^^^^^^^^
       = help: the first route that matches wins: put the narrower one first
    ");
}
