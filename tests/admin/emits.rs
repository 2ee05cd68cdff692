//! Bounds on the messages of a sender, over the API.

use std::net::SocketAddr;

use serde_json::{Value, json};
use stickyd::testing::clock;

use super::roles::{EMIT, OWN, WRITE, bearer};
use crate::bus::emit::is_as_described;
use crate::support::proxy::Proxy;
use crate::support::raw::{Raw, RawWorker};
use crate::support::temp::TempDirectory;

/// Sends a message; the status, `Retry-After` and the answer.
fn emit(mut connection: Raw, fields: &str) -> (u16, Option<u64>, Value) {
    let body = json!({"event": "news", "text": "x"}).to_string();
    let length = body.len();
    let answer = connection.ask(&format!(
        "POST /api/v1/emit HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n{fields}\r\n{body}"
    ));
    let said: Value = serde_json::from_slice(&answer.body).unwrap();
    is_as_described("/api/v1/emit", "post", answer.status(), &said);
    (answer.status(), answer.header("retry-after").map(|text| text.parse().unwrap()), said)
}

/// A sender that has sent too many is refused, and no other one.
#[test]
fn a_sender_that_sends_too_many_messages_gets_429() {
    let (worker, directory) = (RawWorker::named("a"), TempDirectory::new("admin-emits"));
    directory.write("write", WRITE);
    directory.write("emit", EMIT);
    let proxy = Proxy::with_files(
        &format!(
            "[upstream.app]\nworkers = [\"{}\"]\nemit = {{ via = \"frames\" }}\n[admin]\n\
             address = [\"127.0.0.1:0\", \"unix:{}\"]\ntoken_file = \"write\"\nemit_token_file = \"emit\"",
            worker.address,
            directory.path("a.sock").display()
        ),
        directory.root(),
    );
    let address: SocketAddr = proxy.server().admins[0].to_string().parse().unwrap();
    let sent = |token: &str| emit(Raw::connect(address), &format!("{}{OWN}", bearer(token)));
    assert_eq!(sent(EMIT).0, 200);
    // It has sent as many as are allowed until an hour from now.
    let rates = &proxy.server().shared().emit_rates;
    let hour = clock::now_ms().plus_ms(3_600_000);
    assert_eq!(rates.admit("the bearer of the emit token", hour), Ok(()));
    let (status, retry_after, said) = sent(EMIT);
    assert_eq!(status, 429, "{said}");
    assert!(retry_after.is_some_and(|seconds| (3_500..=3_600).contains(&seconds)), "{retry_after:?}");
    let words = said["error"].as_str().unwrap();
    assert!(words.starts_with("the bearer of the emit token has sent more than 1000 messages per second"), "{words}");
    assert!(words.ends_with(&format!("nothing was sent; try again in {} s", retry_after.unwrap())), "{words}");
    assert_eq!(sent(WRITE).0, 200);
    assert_eq!(emit(Raw::connect_unix(&directory.path("a.sock")), OWN).0, 200);
    let count = |result: &str| proxy.metric(&format!("stickyd_emits_total{{result=\"{result}\",via=\"frames\"}}"));
    assert_eq!([count("published"), count("limited"), count("failed")], [3.0, 1.0, 0.0]);
}
