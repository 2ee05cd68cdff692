//! A worker whose connections all end at once has restarted, even if no connect was ever refused.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::tungstenite::Message;

use crate::support::node::WsEcho;
use crate::support::proxy::Proxy;
use crate::support::tunnels::connect;
use crate::support::wait::{wait_for_async, within};

#[tokio::test]
async fn the_end_of_all_connections_at_once_is_a_restart() {
    let mut worker = WsEcho::start(&[]).await;
    let address = worker.address();
    // No health check may notice it.
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
    // A client may leave by a close or vanish.
    clients.pop().unwrap().close(None).await.unwrap();
    drop(clients.pop());
    wait_for_async("the clients have left", async || live.tunnels() == 3).await;
    worker.command("close-all 1001 bye").await;
    for client in &mut clients {
        while within(client.next()).await.is_some() {}
    }
    wait_for_async("all tunnels are closed", async || live.tunnels() == 0).await;
    drop(open(1).await);
    assert_eq!(live.generation(), 1, "none of this was a restart of the worker");

    let _clients = open(5).await;
    worker.command("terminate-all").await;
    wait_for_async("all tunnels have ended", async || live.tunnels() == 0).await;
    drop(open(1).await);
    assert_eq!(live.generation(), 2);
    assert!(live.takes_new());
}
