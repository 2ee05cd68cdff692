//! A reload of `[limits]`: new requests and connections have the new limits, and existing ones go on.

use serde_json::{Value, json};

use crate::support::admin::{metric, post_reload, write};
use crate::support::engines::config_of;
use crate::support::proxy::Binary;
use crate::support::raw::{Raw, RawWorker};
use crate::support::wait::wait_for;

#[test]
fn limits_hold_from_a_reload_on() {
    let worker = RawWorker::named("a");
    let binary = Binary::with(&config_of(&[&worker], ""));
    let mut client = Raw::connect(binary.address);
    assert_eq!(client.get(&format!("/{}", "x".repeat(400))).status(), 200);
    let limits = "[limits]\nconnections = 2\nconnections_per_address = 9\ntarget_bytes = 300\nhead_fields = 10\n\
                  requests_per_connection = 4\n\
                  min_rate = 1_000_000\nmin_rate_grace = \"1s\"\nidle_timeout = \"60s\"\nreplay_bytes = \"2MB\"\ndiscoveries = 7\npins_per_address = 7";
    write(&binary, &config_of(&[&worker], limits));
    let (status, said) = post_reload(&binary);
    assert_eq!((status, &said["needs_restart"]), (200, &json!([])));
    assert_eq!(metric(&binary, "stickyd_client_connections_limit"), 2.0);
    // Earlier connections must be gone, because there is room for two.
    let others = |most: f64| metric(&binary, "stickyd_client_connections") <= most;
    // Each thread applies the limits within a second.
    wait_for("the target is too long", || {
        others(1.0) && Raw::connect(binary.address).get(&format!("/{}", "x".repeat(400))).status() == 414
    });
    wait_for("there are too many fields", || {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(10));
        others(1.0) && Raw::connect(binary.address).ask(&head).status() == 431
    });
    // The requests of an existing connection count from its beginning.
    let mut requests = 1;
    while client.get("/").header("connection") != Some("close") {
        requests += 1;
        assert!(requests < 10, "the connection is never closed");
    }
    client.closed();
    wait_for("no other connection is left", || others(0.0));
    let (mut first, mut second) = (Raw::connect(binary.address), Raw::connect(binary.address));
    assert_eq!((first.get("/").status(), second.get("/").status()), (200, 200));
    Raw::connect(binary.address).closed();
    drop(first);
    wait_for("there is room for a connection", || metric(&binary, "stickyd_client_connections") < 1.5);
    // A body that trickles, at a rate limit that did not exist when its connection was made.
    second.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx");
    assert_eq!(second.head().unwrap().status(), 408);
}

#[test]
fn limits_that_need_a_restart_are_reported() {
    let worker = RawWorker::named("a");
    let binary = Binary::with(&config_of(&[&worker], ""));
    write(
        &binary,
        &config_of(&[&worker], "[limits]\npins = 5000\nhandshakes = 7\nreserved_descriptors = 70\nhead_fields = 50"),
    );
    let (status, said) = post_reload(&binary);
    let want: Value = json!(["[limits] pins", "[limits] handshakes", "[limits] reserved_descriptors"]);
    assert_eq!((status, &said["needs_restart"]), (200, &want));
}
