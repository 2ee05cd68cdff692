//! Guards of routes and upstreams: their values, and the errors for wrong ones.

use std::time::Duration;

use stickyd::testing::config::guards::{ConfiguredRate, Origin};

use super::{HEAD, TempDir, errors, errors_in, good};

fn route(keys: &str) -> String {
    format!("{HEAD}[[route]]\nupstream = \"app\"\n{keys}")
}

#[test]
fn every_key_is_read_into_its_field() {
    let config = good(&route(
        "origins = [\"same\", \"null\", \"HTTPS://*.Example.com\", \"http://[::1]:3000\", \"capacitor://localhost\"]\n\
         allow = [\"10.1.2.3/8\", \"::1\"]\ndeny = [\"10.0.0.7\"]\n\
         rate = { requests = \"100/m\", handshakes = \"5/s\", handshakes_burst = 20 }",
    ));
    let guards = &config.routes[0].guards;
    let site = |scheme: &str, host: &str, below, port| Origin::Site {
        scheme: scheme.to_owned(),
        host: host.to_owned(),
        below,
        port,
    };
    let origins = [
        Origin::Same,
        Origin::Null,
        site("https", ".example.com", true, Some(443)),
        site("http", "[::1]", false, Some(3000)),
        site("capacitor", "localhost", false, None),
    ];
    assert_eq!(guards.origins.as_deref(), Some(&origins[..]));
    assert_eq!(format!("{:?} {:?}", guards.allow, guards.deny), "[10.0.0.0/8, ::1/128] [10.0.0.7/32]");
    let rate = |count, seconds, burst| Some(ConfiguredRate { count, per: Duration::from_secs(seconds), burst });
    assert_eq!((guards.rate.requests, guards.rate.handshakes), (rate(100, 60, 100), rate(5, 1, 20)));
    let config = good(&format!("{HEAD}rate = {{ requests = \"7/h\" }}"));
    assert_eq!((config.upstreams[0].rate.requests, config.upstreams[0].rate.handshakes), (rate(7, 3_600, 7), None));
    assert_eq!(good(&route("")).routes[0].guards, stickyd::testing::config::guards::Guards::default());
}

#[test]
fn every_mistake_is_reported_with_its_place() {
    for (keys, message, help) in [
        ("origins = \"same\"", "`origins` must be a list such as", ""),
        ("origins = [\"*\"]", "`*` is not a valid origin", "leave `origins` out"),
        ("origins = [\"example.com\"]", "`example.com` is not a valid origin", "write \"https://example.com\""),
        ("origins = [\"https://a.example/\"]", "is not a valid origin", "no path, not even a /"),
        ("origins = [\"https://a.example:x\"]", "is not a valid origin", "write \"https://"),
        ("origins = [\"https://a*.example\"]", "`a*.example` is not a valid host", "stands for the first label only"),
        ("origins = [\"https://\"]", "is not a valid host", ""),
        ("allow = [\"10.0.0.0/33\"]", "`10.0.0.0/33` is not a valid network", "write \"10.0.0.0/8\""),
        ("deny = [7]", "a network must be a string", ""),
        ("rate = \"10/s\"", "`rate` must be a table such as", ""),
        ("rate = { requests = 10 }", "`requests` must be a rate such as", ""),
        ("rate = { requests = \"10\" }", "`requests` is not a valid rate: `10`", "per second, minute or hour"),
        ("rate = { handshakes_burst = 5 }", "has no effect without `handshakes`", "write handshakes = "),
        ("rate = { requests = \"1/s\", requests_burst = 0 }", "must be an integer from 1 to 1_000_000", ""),
        ("rate = { request = \"1/s\" }", "unknown key `request`", "did you mean `requests`?"),
        ("orgins = []", "unknown key `orgins`", "did you mean `origins`?"),
    ] {
        let said = errors(&format!("[[route]]\nupstream = \"app\"\n{keys}"));
        assert!(said.contains(message) && said.contains(help) && said.contains("s.toml:7:"), "{keys}: {said}");
        assert_eq!(said.matches("error:").count(), 1, "{said}");
    }
}

/// A bad line of a file is named with its number, and no hash of a password is shown.
#[test]
fn files_of_guards_are_checked_line_by_line() {
    let dir = TempDir::new("guard-files");
    dir.write("nets", "10.0.0.0/8\n# fine\n10.0.0.0/40 # too long\nhost.example\n");
    dir.write(
        "users",
        "ann:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\nbob:{SHA}5en6G6MezRroT3XK\nzoe\n",
    );
    dir.write("twice", "ann:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n".repeat(2).as_str());
    dir.write("empty", "# no user\n");
    let said = |keys: &str| errors_in(&dir, &route(keys));
    for (keys, parts) in [
        ("allow_file = \"nets\"", &["nets, line 3: `10.0.0.0/40` is not", "nets, line 4: `host.example` is not"][..]),
        ("deny_file = \"absent\"", &["cannot read", "absent"]),
        ("basic = {}", &["`basic` needs `users_file`"]),
        ("basic = { users_file = \"empty\" }", &["it has no user", "htpasswd -B"]),
        ("basic = { users_file = \"twice\" }", &["it has the user `ann` twice"]),
        (
            "basic = { users_file = \"users\", realm = \"a\\\"b\" }",
            &["line 2: its hash is neither", "line 3: it is not of", "is not a valid realm"],
        ),
    ] {
        let said = said(keys);
        for part in parts {
            assert!(said.contains(part), "{keys}: {part} in {said}");
        }
        assert!(!said.contains("5en6G6") && !said.contains("c4WoMP"), "{said}");
    }
}

#[test]
fn a_service_is_given_by_address_and_gets_no_field_of_the_connection() {
    let said = |keys: &str| errors(&format!("[[route]]\nupstream = \"app\"\n{keys}"));
    for (keys, part) in [
        ("auth = {}", "`auth` needs `url`"),
        ("auth = { url = \"127.0.0.1:4180\" }", "the address"),
        ("auth = { url = \"http://a/\", headers = [\"Upgrade\"] }", "`Upgrade` cannot be passed on"),
        ("auth = { url = \"http://a/\", headers = [\"sec-websocket-key\"] }", "cannot be passed on"),
        ("auth = { url = \"http://a/\", copy = [\"Authorization\"] }", "`Authorization` cannot be passed on"),
        ("auth = { url = \"http://a/\", copy = [\"a b\"] }", "`a b` is not the name"),
        ("auth = { url = \"http://a/\", timeout = \"1m\" }", "timeout"),
        ("auth = { url = \"http://a/\", ca = \"ca.pem\" }", "has no effect"),
        ("auth = { url = \"http://a/\", chace = \"1s\" }", "chace"),
    ] {
        let said = said(keys);
        assert!(said.contains(part), "{keys}: {said}");
    }
}

#[test]
fn passwords_and_tokens_do_not_share_a_field() {
    let dir = TempDir::new("two-in-one");
    dir.write("users", "ann:$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC\n");
    let jwt = "basic = { users_file = \"users\" }\n[route.jwt]\nsecret = \"0123456789abcdef0123456789abcdef\"\n";
    let said = errors_in(&dir, &route(&format!("{jwt}from = [\"cookie:a\", \"header:authorization\"]")));
    assert!(said.contains("`basic` and [route.jwt] both read the Authorization field"), "{said}");
}
