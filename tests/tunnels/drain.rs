//! The tunnels of a drained worker: they get their farewell one after the other over the grace, and are cut if no
//! answer

use std::time::{Duration, Instant};

use stickyd::testing::config::{AdminState, Upstream};
use stickyd::testing::upstream::AdminChange;
use tokio::io::AsyncWriteExt as _;

use crate::support::node::WsEcho;
use crate::support::proxy::Proxy;
use crate::support::tunnels::{CLOSE_1012, TunnelWorker, closed, connect, frame, masked, read, read_all, tunnel};
use crate::support::wait::{at_most, wait_for_async, within};

/// Sets an admin state as the admin listener does, with the keys of the first upstream.
fn say(proxy: &Proxy, worker: &str, state: AdminState, grace: Option<Duration>) {
    let config: Upstream = proxy.server().shared().snapshot.load().upstreams[0].config.clone();
    proxy.worker(worker).change(AdminChange::Say(state, grace), &config);
}

fn closes(proxy: &Proxy) -> f64 {
    proxy.metric("stickyd_drain_closed_total{kind=\"tunnel\",upstream=\"app\"}")
}

#[tokio::test]
async fn the_configured_farewell_reaches_client_and_worker() {
    let worker = WsEcho::start(&[]).await;
    let proxy = Proxy::with(&format!(
        "[upstream.app]\nworkers = [{:?}]\ndrain = {{ code = 4007, reason = \"come back\" }}",
        worker.address()
    ));
    let mut client = connect(proxy.address, "/").await;
    say(&proxy, &worker.address(), AdminState::Maint, None);
    assert_eq!(closed(&mut client).await, Some((4007, "come back".to_owned())));
    let stats = worker.stats_when(|stats| stats["open"] == 0).await;
    assert_eq!(stats["closes"], serde_json::json!({"4007": 1}));
    assert_eq!(closes(&proxy), 1.0);
    wait_for_async("no tunnel is left", async || proxy.worker(&worker.address()).tunnels() == 0).await;
}

#[tokio::test]
async fn a_close_waits_for_the_end_of_a_frame_then_for_an_answer() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let name = worker.address.to_string();
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    let (mut silent, _far_of_silent) = tunnel(&proxy, &worker).await;
    let whole = frame(0x82, b"0123456789");
    far.write_all(&whole[..5]).await.unwrap();
    assert_eq!(read(&mut client, 5).await, whole[..5]);
    let began = Instant::now();
    say(&proxy, &name, AdminState::Drain, Some(Duration::ZERO));
    wait_for_async("both clients have been closed", async || closes(&proxy) == 2.0).await;
    far.write_all(&whole[5..]).await.unwrap();
    let echo = masked(0x88, &[0x03, 0xf4]);
    assert_eq!(read(&mut client, whole.len() - 5 + CLOSE_1012.len()).await, [&whole[5..], CLOSE_1012].concat());
    client.write_all(&echo).await.unwrap();
    assert_eq!(read_all(&mut far).await, echo);
    assert_eq!(read(&mut silent, 4).await, CLOSE_1012);
    let mut rest = Vec::new();
    // Cut, by a close or by a reset.
    let _ = within(tokio::io::AsyncReadExt::read_to_end(&mut silent, &mut rest)).await;
    assert_eq!(rest, b"");
    assert!(
        began.elapsed() >= Duration::from_secs(5),
        "{:?}: the client has five seconds for its answer",
        began.elapsed()
    );
    wait_for_async("no tunnel is left", async || proxy.worker(&name).tunnels() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tunnels_end_evenly_over_the_grace_and_others_stay() {
    const COUNT: usize = 120;
    let workers = [WsEcho::start(&[]).await, WsEcho::start(&[]).await];
    let names = workers.each_ref().map(|w| format!("\"{}\"", w.address())).join(", ");
    let proxy = Proxy::with(&format!("[upstream.app]\nworkers = [{names}]"));
    let (one, two) = (workers[0].address(), workers[1].address());
    // Requests of one address go to one worker, but sessions of Engine.IO are spread.
    let mut clients = Vec::new();
    while proxy.worker(&one).tunnels() < u32::try_from(COUNT).unwrap() {
        clients.push(connect(proxy.address, "/socket.io/?EIO=4&transport=websocket").await);
    }
    let stay = proxy.worker(&two).tunnels();
    let mut ends = tokio::task::JoinSet::new();
    for mut client in clients {
        ends.spawn(async move { (closed(&mut client).await.map(|(code, _)| code), Instant::now()) });
    }
    let began = Instant::now();
    say(&proxy, &one, AdminState::Drain, Some(Duration::from_secs(4)));
    wait_for_async("all clients have been closed", async || closes(&proxy) == COUNT as f64).await;
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(3_500) && took < at_most(Duration::from_secs(8)), "{took:?}");
    wait_for_async("all tunnels have ended", async || proxy.worker(&one).tunnels() == 0).await;
    assert_eq!((proxy.worker(&one).sessions(), proxy.worker(&two).tunnels()), (0, stay));
    drop(proxy);
    let mut quarters = [0; 4];
    let mut others = 0;
    while let Some(end) = ends.join_next().await {
        match end.unwrap() {
            (Some(1012), at) => {
                let quarter = at.duration_since(began).as_millis() / 1_000;
                quarters[usize::try_from(quarter).unwrap().min(3)] += 1;
            }
            (Some(1001) | None, _) => others += 1,
            (Some(code), _) => panic!("{code}"),
        }
    }
    assert_eq!((quarters.iter().sum::<usize>(), others), (COUNT, usize::try_from(stay).unwrap()));
    // Exact counts are tested with the spread itself; a busy machine may be late.
    assert!(quarters[0] <= COUNT * 2 / 5 && quarters[3] < COUNT * 2 / 3, "{quarters:?}");
}

#[tokio::test]
async fn a_drain_that_is_called_off_stops() {
    let worker = TunnelWorker::start().await;
    let proxy = Proxy::before(&[worker.address]);
    let name = worker.address.to_string();
    let (mut client, mut far) = tunnel(&proxy, &worker).await;
    say(&proxy, &name, AdminState::Drain, Some(Duration::from_secs(3600)));
    say(&proxy, &name, AdminState::Ready, None);
    let hello = frame(0x81, b"hello");
    far.write_all(&hello).await.unwrap();
    assert_eq!(read(&mut client, hello.len()).await, hello);
    assert_eq!(closes(&proxy), 0.0);
    assert!(proxy.worker(&name).takes_new());
}
