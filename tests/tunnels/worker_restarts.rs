//! A worker whose connections all end at once was restarted, although no connect was ever refused.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use crate::support::node::WsEcho;
use crate::support::proxy::Proxy;
use crate::support::tunnels::connect;
use crate::support::wait::{wait_for_async, within};

#[tokio::test]
async fn all_connections_that_end_at_once_are_a_restart_and_one_is_none() {
    let mut worker = WsEcho::start(&[]).await;
    let address = worker.address();
    // No check may notice it.
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [\"{address}\"]\nhealth = {{ kind = \"tcp\", interval = \"1h\" }}"
    ));
    let live = proxy.worker(&address);
    let open = async |count: usize| {
        let mut open = Vec::new();
        for _ in 0..count {
            let mut client = connect(proxy.address, "/chat").await;
            client.send(Message::text("a")).await.unwrap();
            assert_eq!(within(client.next()).await.unwrap().unwrap(), Message::text("a"));
            open.push(client);
        }
        open
    };
    let mut clients = open(5).await;
    // Whichever way a client leaves: closed, or vanished.
    clients.pop().unwrap().close(None).await.unwrap();
    drop(clients.pop());
    wait_for_async("they have left", async || live.tunnels() == 3).await;
    worker.command("close-all 1001 bye").await;
    for client in &mut clients {
        while within(client.next()).await.is_some() {}
    }
    wait_for_async("all were closed", async || live.tunnels() == 0).await;
    drop(open(1).await);
    assert_eq!(live.generation(), 1, "nothing of that was the worker's end");

    let _clients = open(5).await;
    worker.command("terminate-all").await;
    wait_for_async("all have ended", async || live.tunnels() == 0).await;
    drop(open(1).await);
    assert_eq!(live.generation(), 2);
    assert!(live.takes_new());
}
