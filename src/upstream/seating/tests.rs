//! The kept seats against seats that are read anew for each placement.

use proptest::prelude::*;

use super::*;
use crate::config::{self, AdminState};
use crate::metrics::Metrics;
use crate::upstream::admin_state::AdminChange;
use crate::upstream::ring;

fn upstream(workers: usize, before: Option<&Upstream>) -> Upstream {
    let addresses: Vec<String> = (0..workers).map(|number| format!("127.0.0.1:{}", 3_000 + number)).collect();
    let config = config::for_command_line(&["127.0.0.1:0".into()], &addresses).unwrap();
    let config = config::Upstream { slow_start: std::time::Duration::ZERO, ..config.upstreams[0].clone() };
    Upstream::build(&config, b"0123456789abcdef", &Metrics::new(), before)
}

fn read_anew(upstream: &Upstream, key: &[u8], tried: &[WorkerSerial], now_s: Seconds) -> Option<WorkerSerial> {
    let seats = |takes: fn(&Worker) -> bool| -> Vec<Seat> {
        let free = move |worker: &Worker| takes(worker) && !tried.contains(&worker.serial);
        upstream.members.iter().map(|member| upstream.seat(member, eject::WHOLE, now_s, &free)).collect()
    };
    let index = ring::place(&upstream.ring, key, &seats(Worker::takes_new))
        .or_else(|| ring::place(&upstream.ring, key, &seats(Worker::takes_new_at_worst)));
    index.map(|index| upstream.members[index].worker.serial)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Sessions begin and end, workers are drained and come back, a reload builds the upstream anew: each placement is
    /// the one that a look at every worker gives.
    #[test]
    fn placements_equal_those_of_seats_read_anew(
        steps in prop::collection::vec((0u8..7, any::<prop::sample::Index>(), any::<[u8; 4]>()), 1..120),
    ) {
        let now_s = Seconds::new(10);
        let mut upstream = upstream(7, None);
        let mut sessions = Vec::new();
        for (step, which, key) in steps {
            let worker = upstream.members[which.index(7)].worker.clone();
            match step {
                0 | 1 => sessions.push(worker.session()),
                2 if !sessions.is_empty() => drop(sessions.swap_remove(which.index(sessions.len()))),
                3 => worker.change(AdminChange::File(AdminState::Drain), &upstream.config),
                4 => worker.change(AdminChange::File(AdminState::Ready), &upstream.config),
                5 => upstream = self::upstream(7, Some(&upstream)),
                _ => worker.set_checks(if key[0] < 128 {
                    crate::upstream::worker::Checks::Passing
                } else {
                    crate::upstream::worker::Checks::Failing
                }),
            }
            let placed = |tried: &[WorkerSerial]| upstream.would_place(&key, tried, now_s).map(|worker| worker.serial);
            prop_assert_eq!(placed(&[]), read_anew(&upstream, &key, &[], now_s));
            let tried = [worker.serial];
            prop_assert_eq!(placed(&tried), read_anew(&upstream, &key, &tried, now_s));
            prop_assert_eq!(placed(&[]), read_anew(&upstream, &key, &[], now_s), "a worker that was tried is back");
        }
    }
}

#[test]
fn a_cookie_brings_a_worker_half_more_than_its_share_and_fifty() {
    let upstream = upstream(2, None);
    let worker = upstream.members[0].worker.clone();
    let mut sessions = Vec::new();
    while upstream.may_return(&worker) {
        sessions.push(worker.session());
    }
    // Of n sessions, all of them here, the share is (n + 1) / 2, rounded up.
    let count = sessions.len() as u64;
    let share = (count + 1).div_ceil(2);
    assert!(count >= share + share / 2 + RETURNS_ALWAYS && count < 210, "{count}");
}

/// What a placement costs does not depend on the number of workers, except once per second.
#[test]
fn one_placement_per_second_reads_all_workers() {
    let upstream = upstream(1_024, None);
    let reads = || lock(&upstream.carried.seating).whole_reads;
    let mut sessions = Vec::new();
    for second in 1..=3 {
        for key in 0..300_u32 {
            let placed = upstream.would_place(&key.to_be_bytes(), &[], Seconds::new(second));
            sessions.push(placed.unwrap().session());
        }
        assert_eq!(reads(), second, "{} sessions", sessions.len());
    }
    let time = |second| {
        let began = std::time::Instant::now();
        upstream.would_place(b"key", &[], Seconds::new(second)).unwrap();
        began.elapsed()
    };
    println!("1,024 workers: the first placement of a second took {:?}, the next one {:?}", time(4), time(4));
}

/// The last worker of a roll gets the sessions of the one that it replaces, and the others keep theirs.
#[test]
fn without_a_slow_start_an_empty_worker_catches_up_at_once() {
    let newcomers = |slow_start: u64| {
        let with_slow_start =
            config::Upstream { slow_start: std::time::Duration::from_secs(slow_start), ..upstream(4, None).config };
        let upstream = Upstream::build(&with_slow_start, b"0123456789abcdef", &Metrics::new(), None);
        let (last, others) = upstream.members.split_last().unwrap();
        let _others: Vec<_> = others.iter().flat_map(|other| (0..50).map(|_| other.worker.session())).collect();
        let _placed: Vec<_> = (0..50u32).filter_map(|key| upstream.place(&key.to_le_bytes(), &[])).collect();
        last.worker.sessions()
    };
    assert!(newcomers(0) >= 40, "{}", newcomers(0));
    assert!(newcomers(10) <= 30, "{}", newcomers(10));
}
