//! Tests of ejection against simple models of the same rules.

use std::collections::{HashSet, VecDeque};

use proptest::prelude::*;

use super::AttemptOutcome::{Answer, Broken, Connect, ServerError, TimedOut};
use super::EjectionVerdict::{Ejects, Stays, TooFewClients};
use super::*;

const RULES: EjectionRules = EjectionRules {
    failures: 3,
    errors: 50,
    volume: 10,
    cell_ms: 1_000,
    time_ms: 1_000,
    max_time_ms: 8_000,
    max_share: 50,
    slow_start_ms: 10_000,
};

fn client(number: u64) -> ClientKey {
    [number.to_be_bytes(), [0; 8]].concat().try_into().unwrap()
}

/// Returns the result for each of these outcomes, which follow each other at intervals of 1 ms; each is another
/// client's.
fn verdicts(outcomes: &[AttemptOutcome]) -> Vec<EjectionVerdict> {
    let eject = EjectionState::default();
    let note = |(now_ms, outcome): (u64, &AttemptOutcome)| {
        eject.note(*outcome, true, client(now_ms), Millis::new(now_ms), &RULES)
    };
    (50_000..).zip(outcomes).map(note).collect()
}

#[test]
fn one_client_cannot_eject_a_worker() {
    for addresses in 1..=4_u64 {
        for outcome in [Broken, TimedOut, ServerError] {
            let eject = EjectionState::default();
            let note = |number| eject.note(outcome, true, client(number % addresses), Millis::new(50_000), &RULES);
            let all: Vec<_> = (0..100).map(note).collect();
            assert_eq!(all.contains(&Ejects(outcome)), addresses >= 3, "{addresses} {outcome:?}");
            assert_eq!(all.contains(&TooFewClients), addresses < 3, "{addresses} {outcome:?}");
        }
    }
    let eject = EjectionState::default();
    let all = [Connect; 3].map(|outcome| eject.note(outcome, true, client(1), Millis::new(50_000), &RULES));
    assert_eq!(all, [Stays, Stays, Ejects(Connect)], "no client makes a connect fail");
}

#[test]
fn failures_of_one_client_do_not_turn_a_few_of_others_into_an_ejection() {
    let eject = EjectionState::default();
    let note = |outcome, number| eject.note(outcome, true, client(number), Millis::new(50_000), &RULES);
    for other in 2..42 {
        note(if other % 10 == 0 { ServerError } else { Answer }, other);
    }
    assert!((0..200).all(|_| note(ServerError, 1) != Ejects(ServerError)));
    assert!((0..200).any(|other| note(ServerError, other) == Ejects(ServerError)), "everybody's failures do eject");
}

#[test]
fn the_memory_for_clients_is_bounded_and_keeps_the_worst() {
    let eject = EjectionState::default();
    for number in 0..10_000 {
        for who in [number + 10, 1] {
            eject.note(ServerError, true, client(who), Millis::new(50_000), &EjectionRules { errors: 0, ..RULES });
        }
    }
    assert!(!lock(&eject.witnesses).confirm_window(20_000, 10_200, 50, &RULES), "the worst is subtracted");
}

#[test]
fn failures_in_a_row_eject_and_a_response_ends_the_row() {
    assert_eq!(verdicts(&[Connect, Broken, TimedOut]), [Stays, Stays, Ejects(TimedOut)]);
    assert_eq!(verdicts(&[Broken, Broken, Answer, Broken, Broken, Broken])[4..], [Stays, Ejects(Broken)]);
    assert_eq!(verdicts(&[Broken, Broken, ServerError, Broken, Broken]), [Stays; 5], "a server error ends the row");
    assert_eq!(
        verdicts(&[Broken; 7]).iter().filter(|verdict| **verdict == Ejects(Broken)).count(),
        2,
        "an ejection resets the counts"
    );
    let eject = EjectionState::default();
    let slowly =
        [0, 10_000, 20_001, 30_001, 40_001].map(|ms| eject.note(Broken, true, client(ms), Millis::new(ms), &RULES));
    assert_eq!(slowly[..4], [Stays; 4], "a whole window without a failure also ends the row");
    assert_eq!(slowly[4], Ejects(Broken));
}

#[test]
fn a_share_of_failures_needs_enough_requests() {
    assert_eq!(verdicts(&[ServerError; 10])[8..], [Stays, Ejects(ServerError)]);
    let half = [[Answer, ServerError]; 5].concat();
    assert_eq!(verdicts(&half)[9], Ejects(ServerError));
    let below = [vec![Answer; 11], vec![ServerError; 10]].concat();
    assert_eq!(verdicts(&below), [Stays; 21]);
}

#[test]
fn requests_with_a_session_count_for_the_row_only() {
    let eject = EjectionState::default();
    assert!((0..100).all(|n| eject.note(ServerError, false, client(n), Millis::new(50_000), &RULES) == Stays));
    let row = [1, 2, 3].map(|number| eject.note(Broken, false, client(number), Millis::new(50_000), &RULES));
    assert_eq!(row, [Stays, Stays, Ejects(Broken)]);
}

#[test]
fn disabled_rules_never_eject() {
    let rules = EjectionRules { failures: 0, errors: 0, ..RULES };
    let eject = EjectionState::default();
    for outcome in [ServerError, Connect, Broken, TimedOut] {
        assert!(
            (0..100).all(|n| eject.note(outcome, true, client(n), Millis::new(50_000), &rules) == Stays),
            "{outcome:?}"
        );
    }
}

#[test]
fn no_more_of_the_pool_is_ejected_than_allowed() {
    let out_at_most = |pool, max_share| {
        let rules = EjectionRules { max_share, ..RULES };
        (0..pool).take_while(|out| rules.leaves_enough(pool, *out)).count()
    };
    assert_eq!([1, 2, 3, 4, 10].map(|pool| out_at_most(pool, 50)), [0, 1, 1, 2, 5]);
    assert_eq!([1, 2, 9, 10].map(|pool| out_at_most(pool, 10)), [0, 0, 0, 1]);
    assert_eq!(out_at_most(3, 100), 3);
}

#[test]
fn an_end_is_reported_once_and_followed_by_a_slow_start() {
    let eject = EjectionState::default();
    assert!(!eject.is_out(|| unreachable!("the clock is not read for a worker that is not ejected")));
    assert_eq!(eject.part(|| unreachable!(), &RULES), WHOLE);
    assert_eq!(eject.begin(Millis::new(5_000), &RULES), 1_000);
    assert_eq!((eject.is_out(|| Millis::new(5_999)), eject.left_ms(Millis::new(5_999))), (true, Some(1)));
    assert!(!eject.is_out(|| Millis::new(6_000)), "it ends by time, also before that is noticed");
    assert_eq!(eject.part(|| Millis::new(7_000), &RULES), 100, "so does the growth begin");
    assert_eq!([5_999, 7_000, 7_001].map(|now_ms| eject.end_if_over(Millis::new(now_ms))), [false, true, false]);
    let parts = [6_000, 7_000, 8_000, 11_000, 15_999].map(|now_ms| eject.part(|| Millis::new(now_ms), &RULES));
    assert_eq!(parts, [100, 100, 200, 500, 999]);
    assert_eq!(eject.part(|| Millis::new(16_000), &RULES), WHOLE);
    assert_eq!(eject.part(|| unreachable!("the slow start is over"), &RULES), WHOLE);
    eject.ease_in(Millis::new(20_000));
    assert_eq!(eject.part(|| Millis::new(20_000), &EjectionRules { slow_start_ms: 0, ..RULES }), WHOLE);
}

#[test]
fn a_restart_ends_an_ejection_unless_it_is_the_second() {
    let eject = EjectionState::default();
    eject.begin(Millis::new(10_000), &RULES);
    eject.new_life(Millis::new(10_100));
    assert!(!eject.is_out(|| Millis::new(10_100)));
    assert!(eject.part(|| Millis::new(10_100), &RULES) < WHOLE);
    assert_eq!(eject.begin(Millis::new(11_000), &RULES), 2_000);
    eject.new_life(Millis::new(11_100));
    assert!(eject.is_out(|| Millis::new(11_100)), "a worker that flaps stays ejected");
}

proptest! {
    /// Without a pause each ejection is twice as long as the one before, up to the limit. Each period without an
    /// ejection of four times the last length takes back one step.
    #[test]
    fn ejections_grow_and_are_forgiven(pauses in prop::collection::vec(0u64..200_000, 1..30)) {
        let eject = EjectionState::default();
        let (mut now_ms, mut last, mut steps) = (1_000, 0, 0_u64);
        for pause in pauses {
            now_ms += last + pause;
            let forgiven = if last == 0 { 0 } else { pause / (FORGIVES * last) };
            steps = steps.saturating_sub(forgiven);
            let ms = eject.begin(Millis::new(now_ms), &RULES);
            prop_assert_eq!(ms, (1_000 << steps.min(20)).min(8_000));
            prop_assert_eq!(eject.left_ms(Millis::new(now_ms)), Some(ms));
            (last, steps) = (ms, (steps + 1).min(40));
        }
    }

    /// The results equal those computed from the rows and shares of the whole history.
    #[test]
    fn results_equal_those_of_a_list(
        steps in prop::collection::vec(
            (0u64..3_000, prop_oneof![4 => Just(Answer), 2 => Just(ServerError), 1 => Just(Connect), 1 => Just(Broken),
                1 => Just(TimedOut)], prop::bool::ANY, 0u64..6), 1..200),
        failures in 0u32..6, errors in 0u32..=100, volume in 1u32..20,
    ) {
        let rules = EjectionRules { failures, errors, volume, ..RULES };
        let eject = EjectionState::default();
        let mut now_ms = 100_000;
        let mut seen: VecDeque<(u64, AttemptOutcome, bool, u64)> = VecDeque::new();
        for (pause, outcome, in_window, who) in steps {
            now_ms += pause;
            seen.push_back((now_ms, outcome, in_window, who));
            let slot = now_ms / rules.cell_ms;
            let failed = |o: &AttemptOutcome| matches!(o, Connect | Broken | TimedOut);
            let (mut row, mut connects, mut clients) = (0, 0, HashSet::<u64>::new());
            let mut next = now_ms;
            for (at, o, _, who) in seen.iter().rev() {
                if !failed(o) || next - at > 10_000 { break }
                (row, next) = (row + 1, *at);
                connects += u32::from(*o == Connect);
                clients.extend((*o != Connect).then_some(*who));
            }
            let window: Vec<_> =
                seen.iter().filter(|(at, _, counts, _)| *counts && at / rules.cell_ms + 10 > slot).collect();
            let bad = window.iter().filter(|(_, o, ..)| *o != Answer).count() as u64;
            let saw = |o: &AttemptOutcome| ![Answer, Connect].contains(o);
            let of = |who: u64| window.iter().filter(|(_, o, _, w)| saw(o) && *w == who).count();
            let counts: Vec<_> = (0..6).map(|who| of(who) as u64).filter(|count| *count > 0).collect();
            let most = counts.iter().copied().max().unwrap_or(0);
            let alone = window.iter().filter(|(_, o, ..)| *o == Connect).count() as u64;
            let by_row = failures > 0 && failed(&outcome) && row >= failures;
            let by_share = in_window && outcome != Answer && errors > 0 && window.len() as u64 >= u64::from(volume)
                && bad * 100 >= window.len() as u64 * u64::from(errors);
            let all = window.len() as u64;
            let witnesses = connects as usize + clients.len();
            let row_confirmed = by_row && (connects >= failures || witnesses >= failures.clamp(2, 3) as usize);
            let share_confirmed = by_share && (alone * 100 >= all * u64::from(errors)
                || counts.len() as u64 + alone >= u64::from(volume.clamp(2, 3))
                    && (bad - most) * 200 >= (all - most) * u64::from(errors));
            let expected = match (row_confirmed, share_confirmed) {
                (true, _) => Ejects(outcome),
                (_, true) => Ejects(ServerError),
                _ if by_row || by_share => TooFewClients,
                _ => Stays,
            };
            prop_assert_eq!(eject.note(outcome, in_window, client(who), Millis::new(now_ms), &rules), expected);
            if matches!(expected, Ejects(_)) {
                seen.clear();
            }
        }
    }

    /// The part is never above the whole, never below the first part, and never shrinks.
    #[test]
    fn a_share_only_grows(
        start in 0u64..1_000_000, slow_start_ms in 0u64..100_000, steps in prop::collection::vec(0u64..5_000, 1..40),
    ) {
        let rules = EjectionRules { slow_start_ms, ..RULES };
        let eject = EjectionState::default();
        eject.ease_in(Millis::new(start));
        let (mut now_ms, mut last) = (start, FIRST);
        for step in steps {
            now_ms += step;
            let part = eject.part(|| Millis::new(now_ms), &rules);
            prop_assert!((last..=WHOLE).contains(&part));
            prop_assert_eq!(part == WHOLE, now_ms - start >= slow_start_ms || part >= WHOLE);
            last = part;
        }
    }

    /// The window counts as a list of all events would, also after the length of a cell has changed.
    #[test]
    fn a_window_counts_what_is_in_it(
        before in prop::collection::vec(0u32..10_000, 0..20), steps in prop::collection::vec(0u32..4, 1..100),
    ) {
        let window = Window::default();
        for slot in before {
            window.note(slot);
        }
        let mut slot = 20_000;
        let mut all = Vec::new();
        for step in steps {
            slot += step;
            window.note(slot);
            all.push(slot);
            prop_assert_eq!(window.count(slot), all.iter().filter(|at| **at + CELLS > slot).count() as u64);
        }
    }
}

#[test]
fn a_window_of_longer_cells_starts_anew() {
    let window = Window::default();
    (0..5).for_each(|_| window.note(600_000));
    (0..3).for_each(|_| window.note(6_000));
    assert_eq!(window.count(6_000), 3, "6,000 and 600,000 share a cell");
}
