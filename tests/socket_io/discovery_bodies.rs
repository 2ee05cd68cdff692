//! POST bodies during discovery: sent again up to the workers' maxPayload, never to a second worker above it, and
//! bounded in total.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::support::cluster::{upstream, upstream_of};
use crate::support::engine_io::{Ask, Session};
use crate::support::node::NodeServer;
use crate::support::proxy::Proxy;
use crate::support::scripted::{Scripted, Then, answer, refusal};
use crate::support::wait::wait_for_async;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_of_nearly_max_payload_reaches_the_owner_whole() {
    let workers = NodeServer::start_many(3, &[]).await;
    let proxy = Proxy::with(&upstream(&workers));
    for worker in &workers {
        let session = Session::open(Ask::new(([127, 0, 0, 1], worker.port).into())).await.through(proxy.address);
        let text = "0123456789".repeat(95_000);
        let posted = session.post(format!("420[\"echo\",\"{text}\"]")).await;
        assert_eq!(posted.status, 200, "{posted:?}");
        let polled = session.get().await;
        assert!(polled.body.contains(&format!("430[\"{text}\"]")), "{} bytes back", polled.body.len());
    }
    assert_eq!(proxy.metric("stickyd_replay_bytes"), 0.0, "no body is held any more");
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"found\",upstream=\"app\"}"), 3.0);
}

/// Workers whose probes do not tell: two of them read the body and refuse it, then the owner gets it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_is_sent_again_after_a_refusal() {
    let owner = || {
        Scripted::start(|heard| match heard.line.starts_with("PUT") {
            true => Then::Say(answer("405 Method Not Allowed", "", "")),
            false if heard.sid() == Some("AAAAAAAAAAAAAAAAAAAA") => Then::Say(answer("200 OK", "", "ok")),
            false => Then::Say(refusal()),
        })
    };
    for place in 0..3 {
        let mut workers = Vec::new();
        for i in 0..3 {
            workers.push(if i == place { owner().await } else { stranger().await });
        }
        let proxy = Proxy::with(&upstream_of(workers.iter().map(|worker| worker.address.to_string())));
        let session = Session::made_up(Ask::new(proxy.address), "AAAAAAAAAAAAAAAAAAAA");
        let text = "0123456789".repeat(99_999);
        let posted = session.post(text.clone()).await;
        assert_eq!((posted.status, posted.body.as_str()), (200, "ok"));
        let heard: Vec<_> = workers.iter().map(|worker| worker.count("POST")).collect();
        assert_eq!(heard[place], 1, "{heard:?}");
        assert!(heard.iter().all(|&posts| posts <= 1), "{heard:?}");
        for heard in workers.iter().flat_map(Scripted::heard).filter(|heard| heard.line.starts_with("POST")) {
            assert!(heard.body == text.as_bytes(), "{} of {} bytes", heard.body.len(), text.len());
        }
        assert_eq!(proxy.metric(&format!("stickyd_sessions{{upstream=\"app\",worker=\"w{}\"}}", place + 1)), 1.0);
    }
}

/// A worker that refuses every sid, and whose probes do not tell.
async fn stranger() -> Scripted {
    Scripted::start(|heard| match heard.line.starts_with("PUT") {
        true => Then::Say(answer("405 Method Not Allowed", "", "")),
        false => Then::Say(refusal()),
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_larger_body_goes_to_the_first_candidate_only() {
    let workers = [stranger().await, stranger().await, stranger().await];
    let proxy = Proxy::with(&upstream_of(workers.iter().map(|worker| worker.address.to_string())));
    let session = Session::made_up(Ask::new(proxy.address), "AAAAAAAAAAAAAAAAAAAA");
    let refused = session.post(vec![b'x'; 900_000]).await;
    assert_eq!(refused.status, 400, "{refused:?}");
    let posts = || workers.iter().map(|worker| worker.count("POST")).sum::<usize>();
    assert_eq!(posts(), 3, "within maxPayload every worker gets the body");
    for worker in &workers {
        for heard in worker.heard().iter().filter(|heard| heard.line.starts_with("POST")) {
            assert_eq!(heard.body.len(), 900_000, "the body is complete each time");
        }
    }
    let session = Session::made_up(Ask::new(proxy.address), "BBBBBBBBBBBBBBBBBBBB");
    let too_large = session.post(vec![b'x'; 1_200_000]).await;
    assert_eq!(too_large.status, 503, "{too_large:?}");
    assert!(
        !too_large.body.contains("Session ID unknown"),
        "the session may be known to another worker: {too_large:?}"
    );
    assert_eq!(posts(), 4);
    assert_eq!(proxy.metric("stickyd_pins"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_held_bodies_together_are_bounded() {
    let workers = [stranger().await, stranger().await];
    let upstream = upstream_of(workers.iter().map(|worker| worker.address.to_string()));
    let proxy = Proxy::with(&format!("{upstream}[limits]\nreplay_bytes = \"1MB\"\n"));
    // A client that sends 700 kB and then pauses.
    let mut slow = Ask::new(proxy.address).connect().await.unwrap();
    let path = "/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA";
    let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 800000\r\n\r\n");
    slow.write_all(head.as_bytes()).await.unwrap();
    slow.write_all(&vec![b'x'; 700_000]).await.unwrap();
    wait_for_async("the first body is held", async || proxy.metric("stickyd_replay_bytes") >= 700_000.0).await;

    let second = Session::made_up(Ask::new(proxy.address), "BBBBBBBBBBBBBBBBBBBB").post(vec![b'x'; 500_000]).await;
    assert_eq!(second.status, 503, "{second:?}");
    assert_eq!(proxy.metric("stickyd_discoveries_total{result=\"no_room\",upstream=\"app\"}"), 1.0);
    let small = Session::made_up(Ask::new(proxy.address), "CCCCCCCCCCCCCCCCCCCC").post("40").await;
    assert_eq!(small.status, 400, "there is room for small ones: {small:?}");

    slow.write_all(&vec![b'x'; 100_000]).await.unwrap();
    let mut status = [0; 12];
    timeout(Duration::from_secs(10), slow.read_exact(&mut status)).await.unwrap().unwrap();
    assert_eq!(&status, b"HTTP/1.1 400", "the first request goes on");
    drop(slow);
    wait_for_async("the held bytes are free again", async || proxy.metric("stickyd_replay_bytes") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_breaks_off_is_not_counted_as_lack_of_room() {
    let workers = [stranger().await, stranger().await];
    let proxy = Proxy::with(&upstream_of(workers.iter().map(|worker| worker.address.to_string())));
    let result = |word| proxy.metric(&format!("stickyd_discoveries_total{{result=\"{word}\",upstream=\"app\"}}"));
    let mut client = Ask::new(proxy.address).connect().await.unwrap();
    let path = "/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA";
    let begun = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 800\r\n\r\nhalf");
    client.write_all(begun.as_bytes()).await.unwrap();
    client.shutdown().await.unwrap();
    wait_for_async("the request is counted", async || result("failed") + result("no_room") == 1.0).await;
    assert_eq!(result("no_room"), 0.0);
}

/// One address holds an eighth of the room, or one body; the others find room all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_hold_all_the_room() {
    let workers = [stranger().await, stranger().await];
    let upstream = upstream_of(workers.iter().map(|worker| worker.address.to_string()));
    let proxy = Proxy::with(&format!("{upstream}[limits]\nreplay_bytes = \"4MB\"\n"));
    let mut slow = Vec::new();
    for i in 0..6 {
        let mut client = Ask::new(proxy.address).connect().await.unwrap();
        let path = format!("/socket.io/?EIO=4&transport=polling&sid=made-up-{i:012}");
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 900000\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; 800_000]).await.unwrap();
        slow.push(client);
    }
    wait_for_async("one body of the address is held", async || proxy.metric("stickyd_replay_bytes") >= 800_000.0).await;
    let other = Ask::new(proxy.address).from([127, 0, 0, 9]);
    let posted = Session::made_up(other, "BBBBBBBBBBBBBBBBBBBB").post(vec![b'x'; 900_000]).await;
    assert_eq!(posted.status, 400, "the body was held, and sent to both workers: {posted:?}");
    assert!(proxy.metric("stickyd_replay_bytes") <= 1_000_000.0, "{}", proxy.metric("stickyd_replay_bytes"));
}
