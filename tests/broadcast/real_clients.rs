//! Broadcasts to real clients: Socket.IO of both generations, `ws`, and WebSockets over HTTP/2, all with other traffic.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use stickyd::testing::net::StreamIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{Said, allowing, fates};
use crate::support::h2::{Secured, connect};
use crate::support::load::Load;
use crate::support::node::{NodeServer, WsEcho};
use crate::support::wait::within;

/// Clients that stay connected, keep sending, and listen for the event `news`.
async fn talking(url: &str, n: u64, more: Value) -> Load {
    let mut options = json!({"urls": [url], "n": n, "messages": "endless", "interval": 5, "keep": true,
        "timeout": 120_000, "listen": "news"});
    options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut load = Load::start(options);
    load.event("all-connected").await;
    load
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn socket_io_clients_get_an_event_once() {
    let args = json!([7, "zwei", {"drei": [true, null]}]);
    for (version, server) in [(4, "4"), (2, "2")] {
        let workers = NodeServer::start_many(2, &["--version", server]).await;
        let addresses: Vec<_> = workers.iter().map(|worker| worker.address()).collect();
        let (proxy, said) = allowing(&addresses);
        let url = proxy.url("");
        let mut upgrading = talking(&url, 8, json!({"version": version})).await;
        upgrading.event("all-upgraded").await;
        let mut first = talking(&url, 4, json!({"version": version, "transports": ["websocket"]})).await;
        let mut polling =
            talking(&url, 3, json!({"version": version, "transports": ["polling"], "keepAlive": true})).await;
        // Version 2 is connected by the answer to its handshake, and is listed with its first request.
        polling.echo(1).await;
        let (status, answer) = said.broadcasting(json!({"event": "news", "args": args.clone(), "all": true})).await;
        assert_eq!((status, fates(&answer)), (200, json!({"reached": 12, "polling": 3})), "{answer}");
        for (load, n) in [(&mut upgrading, 8), (&mut first, 4)] {
            for _ in 0..n {
                let heard = load.event("heard").await;
                assert_eq!(heard["args"], args);
            }
        }
        // All their own messages still arrive in order, and no client gets the event twice.
        for (load, n) in [(upgrading, 8), (first, 4), (polling, 0)] {
            let mut load = load;
            load.echo(20).await;
            let mut clients: Vec<_> = load.said("heard").iter().map(|one| one["client"].as_u64()).collect();
            clients.sort_unstable();
            assert_eq!(clients, (0..n).map(Some).collect::<Vec<_>>());
            let result = load.stop().await;
            let echoes = &result["echoes"];
            assert_eq!(
                (&echoes["lost"], &echoes["duplicated"], &echoes["reordered"]),
                (&json!(0), &json!(0), &json!(0)),
                "{result}"
            );
            assert_eq!(result["reconnects"], 0, "{result}");
        }
    }
}

/// Echoes messages over a WebSocket; how often the broadcast text came until all messages were echoed.
async fn echo_until_told<S>(mut io: S) -> usize
where
    S: futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>>
        + futures_util::Sink<Message, Error = tokio_tungstenite::tungstenite::Error>
        + Unpin,
{
    let (mut sent, mut echoed, mut told, mut behind) = (0u32, 0u32, 0, 0);
    // A few more messages after the text, so that a second copy would be seen.
    while behind < 20 {
        let text = format!("{sent}:{}", "x".repeat(usize::try_from(sent % 3_000).unwrap()));
        io.send(Message::text(text)).await.unwrap();
        sent += 1;
        loop {
            let message = within(io.next()).await.unwrap().unwrap();
            match message.to_text().unwrap() {
                "to all" => told += 1,
                echo => {
                    assert_eq!(echo.split(':').next().unwrap(), echoed.to_string());
                    echoed += 1;
                    break;
                }
            }
        }
        behind += u32::from(told > 0);
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_clients_get_a_text_once_over_http_2_as_well() {
    let worker = WsEcho::start(&[]).await;
    let (said, admin) = Said::new();
    let stickyd =
        Secured::with("", &format!("[upstream.app]\nworkers = [\"{}\"]\nbroadcast = true{admin}", worker.address()));
    let client = stickyd.client().await;
    let mut echoing = Vec::new();
    for _ in 0..5 {
        let (io, _): (StreamIo<()>, _) =
            client.tunnel(connect("websocket", "/ws")).await.unwrap_or_else(|e| panic!("{e:?}"));
        let io = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        echoing.push(echo_until_told(io));
    }
    let asked = said.broadcasting(json!({"text": "to all", "all": true}));
    let ((status, answer), told) = tokio::join!(asked, futures_util::future::join_all(echoing));
    assert_eq!((status, fates(&answer)), (200, json!({"reached": 5})), "{answer}");
    assert_eq!(told, [1; 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_clients_get_a_text_once() {
    let worker = WsEcho::start(&[]).await;
    let (proxy, said) = allowing(&[worker.address()]);
    let mut echoing = Vec::new();
    for _ in 0..20 {
        let url = format!("ws://{}/ws", proxy.address);
        let (io, _) = within(tokio_tungstenite::connect_async(url)).await.unwrap();
        echoing.push(echo_until_told(io));
    }
    let asked = said.broadcasting(json!({"text": "to all", "protocol": "plain"}));
    let ((status, answer), told) = tokio::join!(asked, futures_util::future::join_all(echoing));
    assert_eq!((status, fates(&answer)), (200, json!({"reached": 20})), "{answer}");
    assert_eq!(told, [1; 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_prints_how_many_were_reached() {
    let worker = WsEcho::start(&[]).await;
    let (proxy, said) = allowing(&[worker.address()]);
    let url = format!("ws://{}/ws", proxy.address);
    let (mut client, _) = within(tokio_tungstenite::connect_async(url)).await.unwrap();
    client.send(Message::text("x")).await.unwrap();
    within(client.next()).await.unwrap().unwrap();
    let run = |arguments: &[&str]| {
        let admin = format!("unix:{}", said.0.display());
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stickyd"));
        let done = command.arg("broadcast").args(arguments).args(["--admin", &admin]).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (done.status.code(), text(&done.stdout), text(&done.stderr))
    };
    let (code, out, err) = run(&["--text", "to all", "--all"]);
    assert_eq!((code, out.as_str(), err.as_str()), (Some(0), "1 of 1 sockets were reached\n", ""));
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::text("to all"));
    let (_, out, _) =
        run(&["--event", "news", "--arg", "7", "--arg", "{\"a\": 1}", "--arg", "plain words", "--upstream", "app"]);
    assert!(out.starts_with("0 of 1 sockets were reached\n1 of the other protocol"), "{out}");
    let (code, _, err) = run(&["--text", "to none", "--address", "10.0.0.0/8"]);
    assert_eq!((code, err.trim()), (Some(1), "error: no live socket matches: nothing was sent"));
    assert_eq!(run(&["--text", "no selection"]).0, Some(1));
    assert_eq!(run(&["--all"]).0, Some(2), "nothing to send");
}

/// A reload changes what is allowed, also for clients that are already connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_allows_it() {
    let worker = WsEcho::start(&[]).await;
    let toml = format!("state_dir = \".\"\n[upstream.app]\nworkers = [{:?}]\n", worker.address());
    let binary = tokio::task::block_in_place(|| crate::support::proxy::Binary::with(&toml));
    let said = Said(binary.admin());
    let url = format!("ws://{}/ws", binary.address);
    let (mut client, _) = within(tokio_tungstenite::connect_async(url)).await.unwrap();
    client.send(Message::text("x")).await.unwrap();
    within(client.next()).await.unwrap().unwrap();
    let hello = json!({"text": "hello", "all": true});
    assert_eq!(said.broadcasting(hello.clone()).await.0, 403);
    let file = binary.directory.join("stickyd.toml");
    let text = std::fs::read_to_string(&file).unwrap() + "broadcast = true\n";
    std::fs::write(&file, text).unwrap();
    tokio::task::block_in_place(|| binary.says(&["reloaded"]));
    let (status, answer) = said.broadcasting(hello).await;
    assert_eq!((status, fates(&answer)), (200, json!({"reached": 1})), "{answer}");
    assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::text("hello"));
}
