//! The bus while workers and the hub stop, die and come back: no call rejects, no message is lost or doubled.

use std::time::{Duration, Instant};

use crate::support::wait::wait_for;

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
    assert!(began.elapsed() < Duration::from_secs(4), "a lost link is known at once");
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
        assert!(took < Duration::from_secs(4), "{path}: {took:?}");
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
    assert!(began.elapsed() < Duration::from_secs(3), "not waited for again: {:?}", began.elapsed());
    fleet.workers[0].ask("/emit?text=meanwhile");
    fleet.workers[2].process.signal("CONT").await;
    assert_eq!(clients.ask("got meanwhile 9").await["once"], 9, "it got the message when it went on");
    wait_for("it is asked again", || if count() == Some(9) { Ok(()) } else { Err(count()) });
}
