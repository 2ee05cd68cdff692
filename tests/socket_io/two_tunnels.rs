//! Two WebSockets of one session: the second one takes nothing from the first.

use futures_util::{SinkExt as _, StreamExt as _};

use crate::support::cluster::upstream;
use crate::support::engine_io::{Ask, Session};
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::wait::wait_for_async;

/// An upgraded session's second upgrade gets a 101 and an empty Close (docs/reference/protocols.md §1.3).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_second_websocket_leaves_the_first_one_listed() {
    let workers = NodeServer::start_many(2, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    let session = Session::open(Ask::new(proxy.address)).await;
    let mut first = session.upgrade().await.unwrap();
    first.send("2probe".into()).await.unwrap();
    assert_eq!(first.next().await.unwrap().unwrap(), "3probe".into());
    first.send("5".into()).await.unwrap();
    let sockets = || &proxy.server().shared().sessions.sockets;
    let tunnels = || {
        proxy.metric("stickyd_tunnels{upstream=\"app\",worker=\"w1\"}")
            + proxy.metric("stickyd_tunnels{upstream=\"app\",worker=\"w2\"}")
    };
    // The worker answers on the WebSocket once it is the transport.
    first.send("42[\"n\",7]".into()).await.unwrap();
    assert!(first.next().await.unwrap().unwrap().to_text().unwrap().starts_with("42["));
    assert_eq!((sockets().len(), tunnels()), (1, 1.0));

    let mut second = session.upgrade().await.unwrap();
    while let Some(Ok(_)) = second.next().await {}
    drop(second);
    wait_for_async("the second tunnel is over", async || if tunnels() == 1.0 { Ok(()) } else { Err(tunnels()) }).await;
    assert_eq!(sockets().len(), 1, "the session is still listed");
    let key = proxy.server().shared().sessions.keys.key("app", session.sid.as_bytes());
    let has_tunnel = proxy.server().shared().sessions.pins.peek(key, std::time::Instant::now(), |pin| pin.has_tunnel());
    assert_eq!(has_tunnel, Some(true), "and has its tunnel");
    first.send("42[\"n\",8]".into()).await.unwrap();
    assert!(first.next().await.unwrap().unwrap().to_text().unwrap().starts_with("42["));
}
