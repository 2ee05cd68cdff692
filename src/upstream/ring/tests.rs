//! Balance, minimal movement, bounded load, and a worker that just came back.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::cookie::worker_id;

const SECRET: &[u8] = b"0123456789abcdef";

fn workers(weights: &[u32]) -> Vec<(WorkerId, u32)> {
    let id = |i| worker_id(SECRET, "app", &format!("w{i}"));
    weights.iter().enumerate().map(|(i, &weight)| (id(i), weight)).collect()
}

fn ring(weights: &[u32]) -> Ring {
    Ring::build(SECRET, &workers(weights))
}

fn seats(weights: &[u32]) -> Vec<Seat> {
    weights.iter().map(|&weight| Seat { takes_new: true, weight, load: 0, recent: 0 }).collect()
}

/// Counts how many of `n` keys each worker gets.
fn shares(ring: &Ring, workers: usize, n: u32) -> Vec<u32> {
    let mut counts = vec![0; workers];
    (0..n).for_each(|key| counts[ring.get(&key.to_be_bytes(), 0).unwrap()] += 1);
    counts
}

/// Fraction of `n` keys whose worker, by id, differs.
fn moved(before: &[(WorkerId, u32)], after: &[(WorkerId, u32)], n: u32) -> f64 {
    let (a, b) = (Ring::build(SECRET, before), Ring::build(SECRET, after));
    let differs = |key: &u32| {
        let key = key.to_be_bytes();
        before[a.get(&key, 0).unwrap()].0 != after[b.get(&key, 0).unwrap()].0
    };
    (0..n).filter(differs).count() as f64 / f64::from(n)
}

fn max_over_mean(counts: &[u32]) -> f64 {
    f64::from(*counts.iter().max().unwrap()) * counts.len() as f64 / f64::from(counts.iter().sum::<u32>())
}

#[test]
fn sixteen_equal_workers_are_balanced() {
    for seed in 0..6_u8 {
        let ring = Ring::build(&[seed; 16], &workers(&[1; 16]));
        let spread = max_over_mean(&shares(&ring, 16, 100_000));
        assert!(spread < 1.15, "secret {seed}: {spread}");
    }
}

#[test]
fn weights_are_respected() {
    let counts = shares(&ring(&[1, 2, 5, 0]), 4, 80_000);
    for (count, share) in counts.iter().zip([1.0, 2.0, 5.0]) {
        assert!((f64::from(*count) / 10_000.0 / share - 1.0).abs() < 0.15, "{counts:?}");
    }
    assert_eq!(counts[3], 0);
}

#[test]
fn points_are_bounded() {
    for weights in [vec![1; 512], vec![256; 512], [vec![1; 511], vec![256]].concat()] {
        let ring = ring(&weights);
        assert!(ring.points.len() as u64 <= MAX_POINTS + 512, "{}", ring.points.len());
        let counts = shares(&ring, 512, 100_000);
        assert!(counts.iter().filter(|&&count| count == 0).count() < 5, "{counts:?}");
    }
}

#[test]
fn empty_rings_place_no_session() {
    for ring in [ring(&[]), ring(&[0, 0])] {
        assert_eq!(ring.get(b"key", 0), None);
        assert_eq!(place(&ring, b"key", &[]), None);
    }
    assert_eq!(hash(&ring(&[]), b"key", |_| true), None);
    assert_eq!(hash(&ring(&[0, 0]), b"key", |i| i == 1), Some(1));
}

#[test]
fn attempts_are_independent_candidates() {
    let ring = ring(&[1; 8]);
    let mut seen = HashMap::new();
    (0..PROBES).for_each(|attempt| *seen.entry(ring.get(b"key", attempt)).or_insert(0) += 1);
    assert!(seen.len() >= 7, "{seen:?}");
}

/// The definition of a placement, which looks at every seat.
fn place_by_list(ring: &Ring, key: &[u8], seats: &[Seat]) -> Option<usize> {
    let sums = Sums::of(seats);
    let fits = |index: &usize| seats.get(*index).is_some_and(|seat| sums.fits(seat));
    if let Some(index) = (0..PROBES).filter_map(|attempt| ring.get(key, attempt)).find(fits) {
        return Some(index);
    }
    let least = |limited: bool| {
        let free = seats.iter().enumerate().filter(|(_, seat)| seat.is_open() && (limited || !sums.is_flooded(seat)));
        free.min_by(|(_, a), (_, b)| a.after_one_more(b).cmp(&b.after_one_more(a))).map(|(index, _)| index)
    };
    least(false).or_else(|| least(true))
}

/// Seats of a pool in which some workers are closed, and some are far below the others and were given many sessions.
fn any_seat() -> impl Strategy<Value = Seat> {
    let load = prop_oneof![3 => 0u32..6, 2 => 90u32..110, 1 => Just(u32::MAX)];
    let recent = prop_oneof![2 => 0u32..3, 2 => 10u32..40];
    (prop::bool::weighted(0.8), 0u32..4, load, recent).prop_map(|(takes_new, weight, load, recent)| Seat {
        takes_new,
        weight,
        load,
        recent,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// However seats change, the table chooses as the definition does.
    #[test]
    fn the_table_chooses_as_a_list_would(
        seats in prop::collection::vec(any_seat(), 0..40),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any_seat(), any::<[u8; 4]>()), 1..60),
    ) {
        let weights: Vec<u32> = seats.iter().map(|seat| seat.weight).collect();
        let ring = Ring::build(SECRET, &workers(&weights));
        let (mut list, mut table) = (seats.clone(), SeatTable::new(seats));
        for (which, seat, key) in changes {
            if !list.is_empty() {
                let index = which.index(list.len());
                list[index] = seat;
                table.set(index, seat);
            }
            prop_assert_eq!(table.place(&ring, &key), place_by_list(&ring, &key, &list));
            prop_assert_eq!(place(&ring, &key, &list), place_by_list(&ring, &key, &list));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn worker_order_is_irrelevant(
        weights in prop::collection::vec(1u32..5, 1..10),
        key in any::<[u8; 12]>(),
        turn in 0usize..10,
    ) {
        let before = workers(&weights);
        let mut after = before.clone();
        after.rotate_left(turn % weights.len());
        let (a, b) = (Ring::build(SECRET, &before), Ring::build(SECRET, &after));
        for attempt in 0..4 {
            prop_assert_eq!(before[a.get(&key, attempt).unwrap()].0, after[b.get(&key, attempt).unwrap()].0);
        }
        let odd = |all: &[(WorkerId, u32)], i: usize| all[i].0.0 % 2 == 1;
        let pick = |ring, all: &[(WorkerId, u32)]| hash(ring, &key, |i| odd(all, i)).map(|i| all[i].0);
        prop_assert_eq!(pick(&a, &before), pick(&b, &after));
    }

    /// Below the cap, a change moves the share of the changed worker and nothing else.
    #[test]
    fn a_change_moves_only_its_share(
        weights in prop::collection::vec(1u32..5, 2..10),
        which in any::<prop::sample::Index>(),
        new in 0u32..6,
    ) {
        let before = workers(&weights);
        let which = which.index(weights.len());
        let mut after = before.clone();
        after[which].1 = new;
        let total: u32 = weights.iter().sum();
        let changed = f64::from(weights[which].abs_diff(new)) / f64::from(total.max(total - weights[which] + new));
        let moved = moved(&before, &after, 4_000);
        prop_assert!(moved <= changed * 1.25 + 0.02, "{} moved for {}", moved, changed);

        let (a, b) = (Ring::build(SECRET, &before), Ring::build(SECRET, &after));
        for key in 0..500_u32 {
            let (from, to) = (a.get(&key.to_be_bytes(), 0).unwrap(), b.get(&key.to_be_bytes(), 0).unwrap());
            prop_assert!(from == to || from == which || to == which, "an unchanged worker's key moved");
        }
    }

    #[test]
    fn place_finds_any_worker_that_is_left(
        seats in prop::collection::vec((any::<bool>(), 0u32..4, 0u32..50, 0u32..50), 0..12),
        key in any::<[u8; 12]>(),
    ) {
        let seats: Vec<Seat> =
            seats
                .into_iter()
                .map(|(takes_new, weight, load, recent)| Seat { takes_new, weight, load, recent })
                .collect();
        let ring = ring(&seats.iter().map(|seat| seat.weight).collect::<Vec<_>>());
        match place(&ring, &key, &seats) {
            Some(index) => prop_assert!(seats[index].takes_new && seats[index].weight > 0),
            None => prop_assert!(seats.iter().all(|seat| !seat.takes_new || seat.weight == 0)),
        }
    }
}

/// Above the cap every worker loses or gains a few points at each change: about twice the changed share moves, not
/// more.
#[test]
fn a_change_above_the_cap_moves_twice_its_share() {
    let before = workers(&[100; 16]);
    let mut after = before.clone();
    after[3].1 = 200;
    let moved = moved(&before, &after, 20_000);
    assert!(moved < 0.14, "{moved}");
}

#[test]
fn one_more_worker_moves_only_its_share() {
    let after = workers(&[1; 17]);
    let moved = moved(&after[..16], &after, 20_000);
    assert!((moved - 1.0 / 17.0).abs() < 0.015, "{moved}");
}

#[test]
fn two_hundred_sessions_of_one_address_are_spread() {
    for n in [2_usize, 3, 5, 16] {
        let (ring, mut seats) = (ring(&vec![1; n]), seats(&vec![1; n]));
        for _ in 0..200 {
            let chosen = place(&ring, b"192.0.2.7", &seats).unwrap();
            seats[chosen].load += 1;
            seats[chosen].recent += 1;
        }
        let loads: Vec<u32> = seats.iter().map(|seat| seat.load).collect();
        assert!(max_over_mean(&loads) <= 1.1, "{loads:?}");
    }
}

#[test]
fn a_key_keeps_its_worker_while_there_is_room() {
    let (ring, seats) = (ring(&[1; 5]), seats(&[1; 5]));
    let home = ring.get(b"client", 0);
    assert_eq!(place(&ring, b"client", &seats), home);
    assert_eq!(hash(&ring, b"client", |_| true), home);
    let other = hash(&ring, b"client", |index| Some(index) != home);
    assert!(other.is_some() && other != home);
    assert_eq!(hash(&ring, b"client", |_| false), None);
}

#[test]
fn loads_follow_weights() {
    let weights = [1, 2, 5];
    let (ring, mut seats) = (ring(&weights), seats(&weights));
    for key in 0..800_u32 {
        let chosen = place(&ring, &key.to_be_bytes(), &seats).unwrap();
        seats[chosen].load += 1;
    }
    for seat in &seats {
        assert!(f64::from(seat.load) <= f64::from(seat.weight) * 100.0 * 1.06, "{seats:?}");
        // The lower bound depends only on the ring and the chance of 100 keys.
        assert!(f64::from(seat.load) >= f64::from(seat.weight) * 100.0 * 0.7, "{seats:?}");
    }
}

#[test]
fn a_worker_just_back_is_not_flooded() {
    let mut seats = seats(&[1; 4]);
    seats.iter_mut().take(3).for_each(|seat| seat.load = 1_000);
    let ring = ring(&[1; 4]);
    for placed in 1..=200_u32 {
        let chosen = place(&ring, &placed.to_be_bytes(), &seats).unwrap();
        seats[chosen].load += 1;
        seats[chosen].recent += 1;
        assert!(seats[3].recent <= (2 * placed).div_ceil(4), "{placed}: {seats:?}");
    }
    assert!(seats[3].recent >= 95, "it does catch up: {seats:?}");
    let others: Vec<u32> = seats.iter().take(3).map(|seat| seat.load).collect();
    assert!(
        others.iter().max().unwrap() - others.iter().min().unwrap() <= 1,
        "the rest goes to the least loaded: {others:?}"
    );
}

#[test]
fn draining_workers_do_not_count_in_the_sums() {
    let (ring, mut seats) = (ring(&[1; 3]), seats(&[1; 3]));
    seats[0] = Seat { takes_new: false, load: 10_000, ..seats[0] };
    for key in 0..100_u32 {
        let chosen = place(&ring, &key.to_be_bytes(), &seats).unwrap();
        seats[chosen].load += 1;
    }
    assert!(seats[1].load <= 53 && seats[2].load <= 53 && seats[0].load == 10_000, "{seats:?}");
}

#[test]
fn extreme_numbers_do_not_overflow() {
    let seat = Seat { takes_new: true, weight: u32::MAX, load: u32::MAX, recent: u32::MAX };
    assert!(place(&ring(&[256; 3]), b"key", &[seat; 3]).is_some());
}

#[test]
fn recent_looks_back_ten_seconds() {
    let recent = Recent::default();
    assert_eq!(recent.count(Seconds::new(0)), 0);
    for second in 0..30 {
        (0..second).for_each(|_| recent.note(Seconds::new(second)));
        let expected: u32 = (second.saturating_sub(9)..=second).sum();
        assert_eq!(recent.count(Seconds::new(second)), expected, "{second}");
    }
    assert_eq!(recent.count(Seconds::new(38)), 29);
    assert_eq!(recent.count(Seconds::new(39)), 0);
    recent.note(Seconds::new(1_000_000));
    assert_eq!(recent.count(Seconds::new(1_000_000)), 1);
    assert_eq!(recent.count(Seconds::new(999_999)), 1, "a thread whose clock is slightly late");
}
