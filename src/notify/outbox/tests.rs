//! Deliveries with injected time.

use std::time::SystemTime;

use proptest::prelude::*;

use super::super::incidents::{NoteState, Problem, ProblemKey};
use super::super::message::Message;
use super::*;
use crate::config::notify::{Carrier, Receiver};
use crate::config::{Authorities, OutboundTarget};

fn at(s: u64) -> Moment {
    Duration::from_secs(s)
}

fn note(topic: Topic, worker: &str) -> Note {
    let key = ProblemKey { topic, event: "worker_down", upstream: "app".to_owned(), subject: worker.to_owned() };
    let problem = Problem {
        key,
        hold: None,
        what: format!("app/{worker} is down"),
        many: "workers of app are down".to_owned(),
        why: String::new(),
        sessions: 0,
        meaning: String::new(),
        todo: String::new(),
        mark: 0,
    };
    Note { state: NoteState::Begun, problem, since: at(0), lasted: at(30), times: 1 }
}

fn receiver(name: &str, topics: &[Topic]) -> Receiver {
    let url = "http://127.0.0.1/".parse().unwrap();
    let by = Carrier::Slack(OutboundTarget { url, authorities: Authorities::default() });
    Receiver { name: name.to_owned(), topics: topics.to_vec(), by }
}

fn rules(per_hour: u32, to: Vec<Receiver>) -> NotifyRules {
    NotifyRules { per_hour, to, ..NotifyRules::default() }
}

fn outbox(per_hour: u32) -> Outbox {
    let mut outbox = Outbox::default();
    let to = vec![receiver("all", &[Topic::Worker, Topic::Config]), receiver("config", &[Topic::Config])];
    outbox.follow(&rules(per_hour, to));
    outbox
}

fn write(notes: &[Note]) -> Option<Message> {
    Message::of("id".to_owned(), "web-1", SystemTime::UNIX_EPOCH + at(100), at(0), notes)
}

fn post(outbox: &mut Outbox, s: u64, worker: &str) -> Counted {
    outbox.post(at(s), &[note(Topic::Worker, worker)], &mut write)
}

fn later(wait: Option<u64>) -> Verdict {
    Verdict::Later("away".to_owned(), wait.map(Duration::from_secs))
}

/// Runs second by second; `verdict` decides each attempt. Returns the attempts with their titles.
fn run(outbox: &mut Outbox, seconds: std::ops::Range<u64>, verdict: impl Fn(u64) -> Verdict) -> Vec<(u64, String)> {
    let mut attempts = Vec::new();
    for s in seconds {
        for (name, message) in outbox.due(at(s), false) {
            attempts.push((s, message.title.clone()));
            outbox.done(at(s), &name, &verdict(s));
        }
    }
    attempts
}

#[test]
fn a_receiver_that_is_away_for_three_minutes_gets_the_message_once() {
    let mut outbox = outbox(20);
    post(&mut outbox, 0, "w1");
    let attempts = run(&mut outbox, 0..3_600, |s| if s < 180 { later(None) } else { Verdict::Sent });
    let taken: Vec<_> = attempts.iter().filter(|(s, _)| *s >= 180).collect();
    assert_eq!(taken.len(), 1, "{attempts:?}");
    assert!(taken[0].0 < 180 * 2, "{attempts:?}");
    assert_eq!(attempts.len(), 9, "1, 2, 4 … s apart: {attempts:?}");
    assert_eq!((outbox.waiting(), outbox.lanes[0].last.as_ref().unwrap().result), (0, LetterResult::Sent));
}

#[test]
fn a_message_is_given_up_after_an_hour_and_the_next_one_is_tried() {
    let mut outbox = outbox(20);
    post(&mut outbox, 0, "w1");
    let attempts = run(&mut outbox, 0..3_600, |_| later(None));
    assert!(attempts.len() < 20, "ten minutes apart at most: {}", attempts.len());
    assert_eq!(outbox.lanes[0].last.as_ref().unwrap().result, LetterResult::Expired);
    post(&mut outbox, 3_600, "w2");
    let attempts = run(&mut outbox, 3_600..5_000, |_| Verdict::Sent);
    assert_eq!(attempts.len(), 1);
}

#[test]
fn the_wait_that_a_receiver_asks_for_is_kept() {
    let mut outbox = outbox(20);
    post(&mut outbox, 0, "w1");
    let attempts = run(&mut outbox, 0..600, |s| if s == 0 { later(Some(90)) } else { Verdict::Sent });
    assert_eq!(attempts.iter().map(|(s, _)| *s).collect::<Vec<_>>(), [0, 90]);
    post(&mut outbox, 1_000, "w2");
    run(&mut outbox, 1_000..1_001, |_| later(Some(7_200)));
    assert_eq!(outbox.lanes[0].last.as_ref().unwrap().result, LetterResult::Expired, "longer than a message may wait");
}

#[test]
fn messages_keep_their_order_and_a_refused_one_is_skipped() {
    let mut outbox = outbox(20);
    ["w1", "w2", "w3"].into_iter().for_each(|worker| _ = post(&mut outbox, 0, worker));
    let attempts = run(&mut outbox, 0..5, |s| if s == 1 { Verdict::Refused("404".to_owned()) } else { Verdict::Sent });
    let titles: Vec<_> = attempts.iter().map(|(_, title)| title.as_str()).collect();
    assert_eq!(titles, ["app/w1 is down", "app/w2 is down", "app/w3 is down"]);
}

#[test]
fn a_receiver_is_told_about_its_topics_only() {
    let mut outbox = outbox(20);
    outbox.post(at(0), &[note(Topic::Worker, "w1"), note(Topic::Config, "file")], &mut write);
    assert_eq!(outbox.lanes.iter().map(ReceiverLane::waiting).collect::<Vec<_>>(), [1, 1]);
    let due = outbox.due(at(0), false);
    assert_eq!((due[0].1.parts.len(), due[1].1.parts.len()), (2, 1));
    post(&mut outbox, 1, "w2");
    assert_eq!(outbox.lanes[1].waiting(), 1);
}

#[test]
fn beyond_the_limit_messages_are_counted_and_summed_up() {
    let mut outbox = outbox(3);
    let results: Vec<_> = (0..10).flat_map(|s| post(&mut outbox, s, "w1")).collect();
    assert_eq!(results.len(), 7);
    assert!(results.iter().all(|(name, result)| name == "all" && *result == LetterResult::Limited));
    let mut sums = Vec::new();
    for s in 0..4_000 {
        let mut sum = |_: &[Topic], count: u64| {
            sums.push((s, count));
            Message::all_well("sum".to_owned(), "web-1", SystemTime::UNIX_EPOCH)
        };
        outbox.sum_up(at(s), &mut sum);
    }
    assert_eq!(sums, [(3_600, 7)], "one message, when the hour of the first is over");
    let texts: Vec<_> = outbox.lanes[0].queue.iter().map(|letter| letter.message.text()).collect();
    assert!(texts[2].contains("This is message 3 of this hour") && !texts[1].contains("of this hour"));
}

#[test]
fn the_queue_is_bounded() {
    let mut outbox = outbox(1_000);
    let dropped: Vec<_> = (0..300).flat_map(|_| post(&mut outbox, 0, "w1")).collect();
    assert_eq!((outbox.waiting(), dropped.len()), (QUEUE, 300 - QUEUE));
    assert!(dropped.iter().all(|(_, result)| *result == LetterResult::Dropped));
}

#[test]
fn a_reload_keeps_the_messages_of_receivers_that_stay() {
    let mut outbox = outbox(20);
    post(&mut outbox, 0, "w1");
    outbox.follow(&rules(20, vec![receiver("new", &[Topic::Worker]), receiver("all", &[Topic::Worker])]));
    assert_eq!(outbox.lanes.iter().map(ReceiverLane::waiting).collect::<Vec<_>>(), [0, 1]);
    outbox.follow(&rules(20, Vec::new()));
    assert_eq!(outbox.waiting(), 0);
}

proptest! {
    #[test]
    fn each_message_is_sent_once_at_most_whatever_the_receiver_does(
        verdicts in prop::collection::vec(0..4u8, 1..200), posts in prop::collection::vec(0..600u64, 1..30),
    ) {
        let mut outbox = outbox(1_000);
        let (mut turn, mut sent, mut ended) = (0, Vec::new(), 0);
        for s in 0..20_000 {
            for (number, _) in posts.iter().enumerate().filter(|(_, when)| **when == s) {
                post(&mut outbox, s, &format!("w{number}"));
            }
            for (name, message) in outbox.due(at(s), false) {
                prop_assert!(outbox.due(at(s), true).is_empty(), "one at a time");
                let verdict = match verdicts[turn % verdicts.len()] {
                    0 => Verdict::Sent,
                    1 => later(None),
                    2 => later(Some(30)),
                    _ => Verdict::Refused("no".to_owned()),
                };
                turn += 1;
                if verdict == Verdict::Sent {
                    sent.push(message.title.clone());
                }
                let result = outbox.done(at(s), &name, &verdict).unwrap();
                ended += usize::from(result != LetterResult::Retried);
            }
        }
        prop_assert_eq!(outbox.waiting(), 0);
        prop_assert_eq!(ended, posts.len(), "each message comes to an end");
        let all = sent.len();
        sent.sort();
        sent.dedup();
        prop_assert_eq!(sent.len(), all, "none is sent twice");
    }
}
