//! `broadcast` of a route: it overrides the upstream's, and a reload applies it to sockets that are already open.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::{Said, fates};
use crate::support::node::WsEcho;
use crate::support::proxy::Binary;
use crate::support::wait::within;

pub(super) type Client = WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>;

/// A client of this path whose tunnel is open.
pub(super) async fn client(binary: &Binary, path: &str) -> Client {
    let (mut client, _) =
        within(tokio_tungstenite::connect_async(format!("ws://{}{path}", binary.address))).await.unwrap();
    client.send(Message::text("x")).await.unwrap();
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::text("x"));
    client
}

/// The client got exactly these texts: after them comes the message that it sends now.
pub(super) async fn has_heard(client: &mut Client, expected: &[&str]) {
    client.send(Message::text("last")).await.unwrap();
    for text in expected.iter().chain(&["last"]) {
        assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::text(*text));
    }
}

/// Three routes to one upstream: one allows broadcasts, one denies them, one leaves it to the upstream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_overrides_its_upstream_also_after_a_reload() {
    let worker = WsEcho::start(&[]).await;
    let toml = |upstream: bool, loud: &str, still: &str| {
        format!(
            "[upstream.app]\nworkers = [{:?}]\nbroadcast = {upstream}\n\
             [[route]]\npath = \"/loud\"\nupstream = \"app\"\n{loud}\n\
             [[route]]\npath = \"/still\"\nupstream = \"app\"\n{still}\n\
             [[route]]\nupstream = \"app\"\n",
            worker.address()
        )
    };
    let begins = format!("state_dir = \".\"\n{}", toml(false, "broadcast = true", "broadcast = false"));
    let binary = tokio::task::block_in_place(|| Binary::with(&begins));
    let said = Said(binary.admin());
    let mut loud = client(&binary, "/loud").await;
    let mut still = client(&binary, "/still").await;
    let mut other = client(&binary, "/other").await;

    let (status, answer) = said.broadcasting(json!({"text": "one", "all": true})).await;
    assert_eq!((status, fates(&answer)), (200, json!({"reached": 1, "denied": 2})), "{answer}");
    let (status, answer) = said.broadcasting(json!({"text": "none", "route": "/still"})).await;
    assert_eq!(status, 403, "{answer}");

    // Now the upstream allows it, and one route no longer does.
    let file = binary.directory.join("stickyd.toml");
    let before = std::fs::read_to_string(&file).unwrap();
    let head = before.split_once("[upstream.app]").unwrap().0;
    std::fs::write(&file, format!("{head}{}", toml(true, "", "broadcast = false"))).unwrap();
    tokio::task::block_in_place(|| binary.says(&["reloaded"]));
    let (status, answer) = said.broadcasting(json!({"text": "two", "all": true})).await;
    assert_eq!((status, fates(&answer)), (200, json!({"reached": 2, "denied": 1})), "{answer}");

    has_heard(&mut loud, &["one", "two"]).await;
    has_heard(&mut other, &["two"]).await;
    has_heard(&mut still, &[]).await;
}
