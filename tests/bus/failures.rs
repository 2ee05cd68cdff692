//! The bus while workers and the hub stop, die and come back: no call rejects, no message is lost or doubled.

use std::time::{Duration, Instant};

use crate::support::wait::{at_most, wait_for};

use super::{BusWorker, Clients, Fleet};

/// A hub that is killed and started again: what is emitted meanwhile comes once, in order, to all clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_is_lost_when_the_hub_is_killed() {
    let mut fleet = Fleet::start(2, &[]).await;
    // Directly to the workers: the clients of a killed proxy would be cut off.
    let urls: Vec<_> = fleet.workers.iter().map(|worker| format!("http://{}", worker.address)).collect();
    let (mut clients, _) = Clients::connect(6, &urls, &[]).await;
    for n in 0..300 {
        match n {
            100 => fleet.stickyd.kill(),
            200 => fleet.stickyd.start_again(),
            _ => {}
        }
        fleet.workers[n % 2].ask(&format!("/emit?text=w{}-{}", n % 2, n / 2));
    }
    for prefix in ["w0-", "w1-"] {
        assert_eq!(clients.ask(&format!("series {prefix} 150")).await["whole"], 6, "{prefix}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_hub_calls_answer_for_their_own_worker() {
    let mut fleet = Fleet::start(2, &[]).await;
    let urls: Vec<_> = fleet.workers.iter().map(|worker| format!("http://{}", worker.address)).collect();
    let (mut clients, _) = Clients::connect(6, &urls, &[]).await;
    fleet.stickyd.kill();
    let began = Instant::now();
    let own = |path: &str| fleet.workers[0].ask(path).as_array().map(Vec::len);
    assert_eq!(
        [own("/fetch"), own("/ids"), own("/ack?text=x"), own("/side?text=x")],
        [Some(3), Some(3), Some(3), Some(0)]
    );
    assert!(began.elapsed() < at_most(Duration::from_secs(4)), "a lost link is known at once");
    fleet.workers[1].ask("/emit?text=own");
    assert_eq!(clients.ask("got own 3").await["total"], 3);
    fleet.stickyd.start_again();
    assert_eq!(clients.ask("got own 6").await["once"], 6, "the others get it when the hub is back");
    assert!(fleet.workers.iter().all(|worker| worker.ask("/count")["rejections"] == 0));
}

/// A worker that is killed while others wait for its answer ends their calls at once, with the answers that came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_while_it_is_asked_ends_the_call() {
    let mut fleet = Fleet::start(3, &[]).await;
    let mut clients = fleet.clients(12).await;
    for path in ["/fetch", "/ack?text=x&ms=20000", "/side?text=x"] {
        clients.ask("connected 12").await;
        let all = fleet.workers[0].ask("/fetch").as_array().unwrap().len();
        let own = fleet.workers[2].ask("/fetch?local=1").as_array().unwrap().len();
        fleet.workers[2].process.signal("STOP").await;
        let (asker, victim) = (&fleet.workers[0], &fleet.workers[2]);
        let (answer, took) = tokio::task::block_in_place(|| asked_while_killed(asker, path, victim.pid));
        assert!(took < at_most(Duration::from_secs(4)), "{path}: {took:?}");
        let expected = if path.starts_with("/side") { 1 } else { all - own };
        assert_eq!(answer.as_array().map(Vec::len), Some(expected), "{path}: {answer}");
        fleet.restart(2).await;
    }
    assert!(fleet.workers.iter().all(|worker| worker.ask("/count")["rejections"] == 0));
}

/// Asks a worker, and kills a stopped one while it is waited for. Returns the answer and how long it took.
fn asked_while_killed(asker: &BusWorker, path: &str, victim: u64) -> (serde_json::Value, Duration) {
    std::thread::scope(|scope| {
        let began = Instant::now();
        let asking = scope.spawn(|| asker.ask(path));
        // There is no event to wait for: the question is under way, and the stopped worker cannot say that it has it.
        #[expect(clippy::disallowed_methods, reason = "a thread of the test, not one of stickyd")]
        std::thread::sleep(Duration::from_millis(300));
        let killed = std::process::Command::new("sh").args(["-c", &format!("kill -KILL {victim}")]).status();
        assert!(killed.unwrap().success());
        (asking.join().unwrap(), began.elapsed())
    })
}

/// A stopped worker is waited for once; later calls leave it out until it speaks again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_does_not_hold_up_the_others() {
    let fleet = Fleet::start(3, &[]).await;
    let mut clients = fleet.clients(9).await;
    let own = fleet.workers[2].ask("/fetch?local=1").as_array().unwrap().len();
    fleet.workers[2].process.signal("STOP").await;
    let count = || fleet.workers[0].ask("/fetch").as_array().map(Vec::len);
    assert_eq!(count(), Some(9 - own), "after a wait of five seconds");
    let began = Instant::now();
    assert_eq!(count(), Some(9 - own));
    assert!(began.elapsed() < at_most(Duration::from_secs(3)), "not waited for again: {:?}", began.elapsed());
    fleet.workers[0].ask("/emit?text=meanwhile");
    fleet.workers[2].process.signal("CONT").await;
    assert_eq!(clients.ask("got meanwhile 9").await["once"], 9, "it got the message when it went on");
    wait_for("it is asked again", || if count() == Some(9) { Ok(()) } else { Err(count()) });
}

/// Without the bus, a client that does not answer ends the call with an error. A worker that hangs must not do that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_ends_no_call_with_an_error() {
    let fleet = Fleet::start(3, &[]).await;
    let _clients = fleet.clients(9).await;
    let own = fleet.workers[2].ask("/fetch?local=1").as_array().unwrap().len();
    fleet.workers[2].process.signal("STOP").await;
    let ask = || fleet.workers[0].ask("/ack?text=x&ms=5000").as_array().map(Vec::len);
    let began = Instant::now();
    assert_eq!(ask(), Some(9 - own), "the answers of the others");
    assert!(
        began.elapsed() < at_most(Duration::from_secs(5)),
        "within the time-out of the call: {:?}",
        began.elapsed()
    );
    fleet.workers[2].process.signal("CONT").await;
    wait_for("its clients are asked again", || if ask() == Some(9) { Ok(()) } else { Err(ask()) });
    assert_eq!(fleet.workers[0].ask("/count")["rejections"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_link_again_to_a_hub_that_was_stopped() {
    let mut fleet = Fleet::start(2, &[]).await;
    let urls: Vec<_> = fleet.workers.iter().map(|worker| format!("http://{}", worker.address)).collect();
    let (mut clients, _) = Clients::connect(6, &urls, &[]).await;
    for round in 0..2 {
        assert_eq!(fleet.stickyd.terminate().0, Some(0));
        assert_eq!(fleet.workers[0].ask("/fetch").as_array().map(Vec::len), Some(3), "its own clients");
        fleet.stickyd.start_again();
        fleet.wait_linked(2.0);
        fleet.workers[round].ask(&format!("/emit?text=after{round}"));
        assert_eq!(clients.ask(&format!("got after{round} 6")).await["once"], 6);
        assert_eq!(fleet.workers[0].ask("/fetch").as_array().map(Vec::len), Some(6), "all clients");
    }
    assert!(fleet.workers.iter().all(|worker| worker.ask("/count")["rejections"] == 0));
}

/// A hub that hangs while others are asked: each worker answers for its own clients, and goes on when the hub does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_hangs_ends_no_call_with_an_error() {
    let fleet = Fleet::start(2, &[]).await;
    let urls: Vec<_> = fleet.workers.iter().map(|worker| format!("http://{}", worker.address)).collect();
    let (mut clients, _) = Clients::connect(6, &urls, &[]).await;
    fleet.stickyd.signal("STOP");
    let own = |path: &str| fleet.workers[0].ask(path).as_array().map(Vec::len);
    let began = Instant::now();
    assert_eq!([own("/ack?text=x&ms=5000"), own("/fetch"), own("/side?text=x")], [Some(3), Some(3), Some(0)]);
    assert!(
        began.elapsed() < at_most(Duration::from_secs(12)),
        "the others are waited for once: {:?}",
        began.elapsed()
    );
    fleet.workers[1].ask("/emit?text=meanwhile");
    fleet.stickyd.signal("CONT");
    assert_eq!(clients.ask("got meanwhile 6").await["once"], 6);
    wait_for("all are asked again", || if own("/fetch") == Some(6) { Ok(()) } else { Err(own("/fetch")) });
    assert!(fleet.workers.iter().all(|worker| worker.ask("/count")["rejections"] == 0));
}
