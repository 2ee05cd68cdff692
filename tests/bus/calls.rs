//! Calls in unusual forms: what works without the bus works with it, and reaches all workers.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Clients, Fleet};
use crate::support::wait::at_most;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_one_worker_has_is_not_waited_for() {
    let fleet = Fleet::start(3, &[]).await;
    fleet.wait_linked(3.0);
    let began = Instant::now();
    assert_eq!(fleet.workers[0].ask("/fetch?nsp=/only-here"), json!([]));
    assert_eq!(fleet.workers[0].ask("/side?nsp=/only-here&text=x"), json!([]));
    assert_eq!(fleet.workers[0].ask("/ack?nsp=/only-here&text=x&ms=4000"), json!([]));
    assert!(began.elapsed() < at_most(Duration::from_secs(3)), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_volatile_broadcast_and_binary_calls_work() {
    let fleet = Fleet::start(2, &[]).await;
    let mut clients = fleet.clients(6).await;
    let own = fleet.workers[0].ask("/fetch?local=1").as_array().unwrap().len();
    let answers = fleet.workers[0].ask("/ack?local=1&text=x&ms=5000");
    assert_eq!(answers.as_array().map(Vec::len), Some(own), "{answers}");
    fleet.workers[0].ask("/emit?text=local&local=1");
    assert_eq!(clients.ask(&format!("got local {own}")).await["total"], own);
    fleet.workers[0].ask("/emit?text=volatile&volatile=1");
    assert_eq!(clients.ask("got volatile 6").await["once"], 6);
    for binary in ["array", "floats"] {
        fleet.workers[1].ask(&format!("/emit?text={binary}&binary={binary}"));
        assert_eq!(clients.ask(&format!("got {binary} 6")).await["once"], 6, "{binary}");
    }
    assert_eq!(clients.ask("others hello").await["once"], 5, "socket.broadcast leaves out its own client");
    assert!(fleet.workers.iter().all(|worker| worker.ask("/count")["rejections"] == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_parser_works_with_all_calls() {
    let parser = ("PARSER", "socket.io-msgpack-parser");
    let fleet = Fleet::start(2, &[parser]).await;
    let (mut clients, workers) =
        Clients::connect(6, &[fleet.stickyd.url("")], &[&format!("{}={}", parser.0, parser.1)]).await;
    assert_eq!(workers, 2);
    fleet.workers[0].ask("/emit?text=all");
    assert_eq!(clients.ask("got all 6").await["once"], 6);
    fleet.workers[1].ask("/emit?text=bytes&binary=1&room=red");
    assert_eq!(clients.ask("got bytes 3").await, json!({"once": 3, "total": 3, "red": 3}));
    let count = |path: &str| fleet.workers[0].ask(path).as_array().map(Vec::len);
    assert_eq!([count("/fetch"), count("/ack?text=x"), count("/side?text=x")], [Some(6), Some(6), Some(1)]);
}

/// The last words of a process reach the clients of the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_just_before_exit_is_delivered() {
    let fleet = Fleet::start(2, &[]).await;
    let urls = [format!("http://{}", fleet.workers[1].address)];
    let (mut clients, _) = Clients::connect(4, &urls, &[]).await;
    fleet.wait_linked(2.0);
    fleet.workers[0].tell("/exit?text=goodbye");
    assert_eq!(clients.ask("got goodbye 4").await["once"], 4);
}

/// As tests of applications do. The process keeps no link of a server that it has closed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_closed_leave_nothing_behind() {
    for version in ["socket.io", "socket.io-4.5"] {
        let fleet = Fleet::start(1, &[("SOCKET_IO", version)]).await;
        fleet.wait_linked(1.0);
        let before = fleet.workers[0].ask("/again?text=0");
        assert_eq!(fleet.workers[0].ask("/again?text=20"), before, "{version}: open sockets");
        fleet.wait_linked(1.0);
    }
}

/// Clients choose the names of rooms and what an application keeps about them. None of it may cut a worker's link:
/// half of a surrogate pair, which JSON.stringify writes as an escape that does not stand for Unicode, and data that is
/// nested too deeply.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_of_a_client_cuts_the_link() {
    let fleet = Fleet::start(2, &[("RECOVERY", "1")]).await;
    let mut clients = fleet.clients(4).await;
    clients.ask("hostile").await;
    assert_eq!(fleet.workers[0].ask("/ids").as_array().map(Vec::len), Some(4));
    for n in 0..4 {
        fleet.workers[n % 2].ask(&format!("/emit?text=after{n}"));
        assert_eq!(clients.ask(&format!("got after{n} 4")).await["once"], 4);
    }
    assert!(!fleet.stickyd.log().contains("cut a worker's link"), "{}", fleet.stickyd.log());
}

/// Sixteen workers, and clients of which half only poll.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_workers_are_one_application() {
    let fleet = Fleet::start(16, &[]).await;
    fleet.wait_linked(16.0);
    let (mut polls, _) = Clients::connect(32, &[fleet.stickyd.url("")], &["TRANSPORT=polling"]).await;
    let (mut sockets, _) = Clients::connect(32, &[fleet.stickyd.url("")], &["TRANSPORT=websocket"]).await;
    for (n, worker) in fleet.workers.iter().enumerate() {
        worker.ask(&format!("/emit?text=from{n}"));
        worker.ask(&format!("/emit?text=red{n}&room=red"));
    }
    for clients in [&mut polls, &mut sockets] {
        for n in 0..16 {
            let all = json!({"once": 32, "total": 32, "red": 16});
            assert_eq!(clients.ask(&format!("got from{n} 32")).await, all);
            assert_eq!(clients.ask(&format!("got red{n} 16")).await["red"], Value::from(16));
        }
    }
    assert_eq!(fleet.workers[7].ask("/fetch").as_array().map(Vec::len), Some(64));
    assert_eq!(fleet.workers[8].ask("/side?text=x").as_array().map(Vec::len), Some(15));
    assert_eq!(fleet.workers[9].ask("/ack?text=x").as_array().map(Vec::len), Some(64));
}
