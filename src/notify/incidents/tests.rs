//! When problems are told, with injected time.

use proptest::prelude::*;

use super::super::sample;
use super::*;

fn rules(after: u64, group: u64, remind: u64) -> NotifyRules {
    let seconds = Duration::from_secs;
    let remind = (remind > 0).then(|| seconds(remind));
    NotifyRules { after: seconds(after), group: seconds(group), remind, ..NotifyRules::default() }
}

fn down(worker: &str) -> Problem {
    sample::down(worker, "connects are refused")
}

/// A run of the machine, one look per second.
struct Run {
    incidents: Incidents,
    rules: NotifyRules,
    second: u64,
    /// The messages, with the second in which each was complete.
    messages: Vec<(u64, Vec<Note>)>,
}

impl Run {
    fn with(rules: NotifyRules) -> Self {
        Self { incidents: Incidents::default(), rules, second: 0, messages: Vec::new() }
    }

    fn look(&mut self, problems: Vec<Problem>) {
        let over = |problem: &Problem| ProblemEnd { how: format!("{} no more", problem.what), detail: String::new() };
        let now = Duration::from_secs(self.second);
        let notes = self.incidents.observe(now, &self.rules, problems, &over);
        if !notes.is_empty() {
            self.messages.push((self.second, notes));
        }
        self.second += 1;
    }

    fn looks(&mut self, seconds: u64, problems: impl Fn(u64) -> Vec<Problem>) {
        (0..seconds).for_each(|second| self.look(problems(second)));
    }

    fn count(&self) -> usize {
        self.messages.len()
    }
}

fn is_over(note: &Note) -> bool {
    matches!(note.state, NoteState::Over(_))
}

#[test]
fn thirty_workers_that_die_at_once_make_one_message() {
    let mut run = Run::with(NotifyRules::default());
    let all = || (0..30).map(|n| down(&format!("w{n}"))).collect::<Vec<_>>();
    run.looks(120, |_| all());
    assert_eq!(run.count(), 1);
    let (at, notes) = &run.messages[0];
    assert_eq!((*at, notes.len()), (40, 30), "after 30 s, and 10 s of grouping");
    // They come back, one after the other within half a minute.
    run.looks(30, |second| all().split_off(usize::try_from(second).unwrap()));
    run.looks(60, |_| Vec::new());
    let over: usize =
        run.messages[1..].iter().map(|(_, notes)| notes.iter().filter(|note| is_over(note)).count()).sum();
    assert_eq!(over, 30);
    assert!(run.count() <= 5, "{}", run.count());
}

#[test]
fn workers_that_die_within_the_check_interval_share_a_message() {
    let mut run = Run::with(NotifyRules::default());
    run.looks(120, |second| (0..30).filter(|n| second >= n % 25).map(|n| down(&format!("w{n}"))).collect());
    assert_eq!(run.count(), 1, "{:?}", run.messages.iter().map(|(at, notes)| (*at, notes.len())).collect::<Vec<_>>());
    assert_eq!(run.messages[0].1.len(), 30);
}

#[test]
fn a_worker_that_flaps_makes_two_messages_at_most() {
    // 20 flaps per minute, for ten minutes; with `after = "0s"` each would be told.
    for after in [0, 1, 2, 30] {
        let mut run = Run::with(rules(after, 10, 0));
        run.looks(600, |second| if second % 3 == 2 { Vec::new() } else { vec![down("w1")] });
        run.looks(600, |_| Vec::new());
        assert!(run.count() <= 2, "after = {after}s: {} messages", run.count());
        let told = if after <= 1 { 2 } else { 0 };
        assert_eq!(run.count(), told, "after = {after}s");
    }
}

#[test]
fn what_heals_in_time_is_never_told() {
    let mut run = Run::with(NotifyRules::default());
    run.looks(30, |_| vec![down("w1")]);
    run.looks(600, |_| Vec::new());
    assert_eq!(run.count(), 0);
}

#[test]
fn the_end_is_told_with_the_downtime() {
    let mut run = Run::with(rules(30, 10, 0));
    run.looks(252, |_| vec![down("w1")]);
    run.looks(100, |_| Vec::new());
    let [(begun_at, begun), (over_at, over)] = run.messages.as_slice() else { panic!("{:?}", run.messages) };
    assert_eq!((*begun_at, &begun[0].state), (40, &NoteState::Begun));
    assert_eq!((*over_at, is_over(&over[0])), (252 + 30 + 10, true));
    assert_eq!(over[0].lasted, Duration::from_secs(252), "without the time in which its end had to last");
}

#[test]
fn a_problem_that_lasts_is_remembered_and_one_that_heals_is_not() {
    let mut run = Run::with(rules(30, 10, 3_600));
    run.looks(3 * 3_600 + 100, |_| vec![down("w1")]);
    let states: Vec<_> = run.messages.iter().map(|(_, notes)| notes[0].state.clone()).collect();
    assert_eq!(states, [NoteState::Begun, NoteState::Lasts, NoteState::Lasts, NoteState::Lasts]);
}

#[test]
fn a_problem_that_ends_within_the_group_is_told_as_over_only() {
    let mut run = Run::with(rules(0, 10, 0));
    run.looks(5, |_| vec![down("w1")]);
    run.looks(100, |_| Vec::new());
    assert_eq!(run.count(), 1);
    assert!(run.messages[0].1.len() == 1 && is_over(&run.messages[0].1[0]));
}

#[test]
fn an_alarm_has_its_own_time() {
    let mut run = Run::with(rules(30, 0, 0));
    run.looks(400, |_| vec![Problem { hold: Some(Duration::from_secs(300)), ..down("w1") }]);
    assert_eq!(run.messages[0].0, 300);
}

#[test]
fn incidents_are_bounded() {
    let mut run = Run::with(rules(0, 0, 0));
    run.look((0..5_000).map(|n| down(&n.to_string())).collect());
    assert_eq!(run.messages[0].1.len(), INCIDENTS);
    assert_eq!(run.incidents.left_out, 904);
}

proptest! {
    #[test]
    fn every_beginning_has_one_end_and_nothing_is_told_twice(
        states in prop::collection::vec(any::<(bool, bool, bool)>(), 1..400), after in 0..40u64, group in 0..20u64,
    ) {
        let mut run = Run::with(rules(after, group, 0));
        for (a, b, c) in states {
            let all = [(a, "a"), (b, "b"), (c, "c")];
            // Each state lasts for a while, so that problems have a chance to be told.
            let problems: Vec<_> = all.iter().filter(|(on, _)| *on).map(|(_, name)| down(name)).collect();
            run.looks(17, |_| problems.clone());
        }
        run.looks(1_000, |_| Vec::new());
        for name in ["a", "b", "c"] {
            let of = |note: &&Note| note.problem.key.subject == name;
            let notes: Vec<_> = run.messages.iter().flat_map(|(_, notes)| notes).filter(of).collect();
            prop_assert!(notes.is_empty() || is_over(notes[notes.len() - 1]), "the end is told last");
            let twice = notes.windows(2).any(|two| !is_over(two[0]) && !is_over(two[1]));
            prop_assert!(!twice, "two beginnings without an end between them");
        }
        prop_assert!(run.incidents.all.is_empty() && run.incidents.notes.is_empty());
    }
}
