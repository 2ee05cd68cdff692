//! How many tunnels there may be per client address and per worker.

use std::net::SocketAddr;

use crate::support::proxy::Proxy;
use crate::support::tunnels::{ASK, TunnelWorker, head_of, tunnel};
use crate::support::wait::wait_for_async;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

async fn refused(address: SocketAddr) {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(ASK.as_bytes()).await.unwrap();
    let head = head_of(&mut client).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
}

#[tokio::test]
async fn past_a_limit_an_upgrade_is_a_503_until_a_tunnel_ends() {
    for (of_upstream, of_all, limit) in
        [("", "tunnels_per_address = 1", "tunnels_per_address"), ("max_tunnels = 1", "", "max_tunnels")]
    {
        let worker = TunnelWorker::start().await;
        let config = format!("[upstream.app]\nworkers = [\"{}\"]\n{of_upstream}\n[limits]\n{of_all}", worker.address);
        let proxy = Proxy::with(&config);
        let first = tunnel(&proxy, &worker).await;
        refused(proxy.address).await;
        assert_eq!(proxy.metric(&format!("stickyd_limited_total{{limit=\"{limit}\"}}")), 1.0);
        let gauge = format!("stickyd_tunnels{{upstream=\"app\",worker=\"{}\"}}", worker.address);
        drop(first);
        wait_for_async("the tunnel has ended", async || proxy.metric(&gauge) < 0.5).await;
        let _second = tunnel(&proxy, &worker).await;
    }
}
