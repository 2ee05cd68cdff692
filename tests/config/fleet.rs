//! `[fleet]`: its errors, and what it asks of the rest of the file.

use std::path::Path;

use stickyd::testing::config::{Config, parse_with};

use super::{errors_of, resolve};

fn parse_ok(text: &str) -> Config {
    parse_with(text, Path::new("s.toml"), &resolve).unwrap_or_else(|errors| panic!("{errors}")).0
}

const SECRET: &str = "secret = \"0123456789abcdef\"\n";
const REST: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.a]\nworkers = [\"10.0.0.1:80\"]\n";

fn errors(fleet: &str) -> String {
    errors_of(&format!("{SECRET}{REST}[fleet]\n{fleet}\n"))
}

#[test]
fn a_fleet_needs_a_redis_and_a_common_secret() {
    let text = errors_of(&format!("{REST}[fleet]\nredis = \"redis://a\"\n"));
    assert!(
        text.contains("a fleet needs `secret` or `secret_file`") && text.contains("openssl rand -hex 32"),
        "{text}"
    );
    assert!(errors("").contains("[fleet] needs `redis`"));
}

#[test]
fn wrong_values_are_explained_without_the_password() {
    let wrong = [
        ("redis = \"redis.internal:6379\"", "has no scheme"),
        ("redis = \"http://u:hunter2@a\"", "scheme is unknown"),
        ("redis = []", "1 to 64 addresses"),
        ("redis = [\"redis://a\", \"redis://a:6379\"]", "listed twice"),
        ("redis = [\"redis://a\", \"redis+cluster://b\"]", "a cluster spreads the keys itself"),
        ("redis = \"redis://a\"\nlookup_timeout = \"2s\"", "`lookup_timeout` must be from 1ms to 1s"),
        ("redis = \"redis://a\"\nname = \"edge 1\"", "`name` must have 1 to 64"),
        ("redis = \"redis://a\"\nprefix = \"a:b\"", "`prefix` must have 1 to 32"),
        ("redis = \"redis://a\"\npassword_file = \"none\"", "cannot read"),
        ("redis = \"redis://a\"\ntls = {}", "`tls` has no effect"),
        ("redis = \"rediss://a\"\ntls = { certificate = \"c\" }", "must be given together"),
        ("redis = \"rediss+cluster://a\"\ntls = { server_name = \"b\" }", "`server_name` has no effect"),
        ("redis = \"redis://a\"\npins = 1", "`pins` must be true or false"),
        ("redis = \"redis://a\"\ncontrol = \"no\"", "`control` must be true or false"),
        ("redis = \"redis://a\"\ntickets = 12", "`tickets` must be true or false"),
    ];
    for (fleet, why) in wrong {
        let text = errors(fleet);
        assert!(text.contains(why), "{fleet}: {text}");
    }
    // The line of the file is quoted; the message itself never has the password.
    let first = errors("redis = \"http://u:hunter2@a\"").lines().next().unwrap().to_owned();
    assert!(!first.contains("hunter2"), "{first}");
}

#[test]
fn workers_that_look_alike_everywhere_need_a_name() {
    for address in ["127.0.0.1:3001", "[::1]:3001", "unix:/run/a.sock", "localhost:3001"] {
        let text = format!(
            "{SECRET}[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.a]\nworkers = [{address:?}]\n[fleet]\nredis = \"redis://a\"\n"
        );
        let said = errors_of(&text);
        assert!(said.contains("needs a `name` in a fleet") && said.contains("name = \"edge-1-w1\""), "{said}");
        let named =
            text.replace(&format!("{address:?}"), &format!("{{ address = {address:?}, name = \"edge-1-w1\" }}"));
        assert!(parse_ok(&named).fleet.is_some());
    }
}

#[test]
fn every_setting_arrives_and_a_change_needs_a_restart() {
    let with = |more: &str| parse_ok(&format!("{SECRET}{REST}[fleet]\nredis = \"redis://a\"\n{more}"));
    let plain = with("");
    let fleet = plain.fleet.clone().unwrap();
    assert_eq!((fleet.prefix.as_str(), fleet.lookup_timeout.as_millis(), fleet.pins), ("stickyd", 20, true));
    assert!(!fleet.name.is_empty(), "the host's name");
    assert!(fleet.control && !with("control = false").fleet.unwrap().control);
    assert!(fleet.tickets && !with("tickets = false").fleet.unwrap().tickets);
    let other = with("name = \"edge-1\"\nprefix = \"p\"\nlookup_timeout = \"5ms\"\npins = false\nusername = \"u\"\n");
    let fleet = other.fleet.clone().unwrap();
    assert_eq!((fleet.name.as_str(), fleet.prefix.as_str(), fleet.pins), ("edge-1", "p", false));
    assert_eq!((fleet.lookup_timeout.as_millis(), fleet.redis[0].username.as_deref()), (5, Some("u")));
    assert_eq!(plain.needs_restart(&other), ["[fleet]"]);
}
