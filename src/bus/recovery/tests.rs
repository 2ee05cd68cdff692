//! Recovery against a model of workers that deliver their own messages at once and those of others later.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const X: MemberId = MemberId(1);
const Y: MemberId = MemberId(2);
const KEEP_MS: u64 = 60_000;

fn message(id: &str, after: u64, rooms: &[&str], except: &[&str]) -> Publish {
    let values = |texts: &[&str]| texts.iter().map(|text| Value::from(*text)).collect();
    let audience = Audience { nsp: "/".into(), id: id.into(), rooms: values(rooms), except: values(except) };
    let payload = Bytes::copy_from_slice(id.as_bytes());
    Publish { sequence: 0, after, audience: Some(audience), broadcast: true, payload }
}

fn session(ended: bool, dropped: bool) -> SessionUpdate {
    let (nsp, pid, sid) = ("/".into(), "p".into(), "s".into());
    SessionUpdate { nsp, pid, sid, rooms: vec!["s".into(), "room".into()], data: json!({"n": 1}), ended, dropped }
}

fn query(offset: &str) -> RestoreQuery {
    RestoreQuery { request: 1, nsp: "/".into(), pid: "p".into(), offset: offset.into() }
}

fn texts(payloads: &[Bytes]) -> Vec<String> {
    payloads.iter().map(|payload| String::from_utf8(payload.to_vec()).unwrap()).collect()
}

fn with_sessions() -> Recovery {
    let mut recovery = Recovery::default();
    recovery.wanted(KEEP_MS);
    recovery
}

#[test]
fn a_client_of_a_dead_worker_gets_what_its_rooms_got() {
    let (mut recovery, now) = (with_sessions(), Instant::now());
    recovery.update(now, X, session(false, false));
    for (position, publish) in [
        message("seen", 0, &[], &[]),
        message("all", 1, &[], &[]),
        message("own room", 2, &["room", "other"], &[]),
        message("other room", 3, &["other"], &[]),
        message("all but the room", 4, &[], &["room"]),
    ]
    .iter()
    .enumerate()
    {
        recovery.log(now, position as u64 + 1, Y, publish);
    }
    assert_eq!(recovery.restore(now, 5, Y, &query("seen")), None, "the session is still live");
    recovery.left(now, X);
    let (found, missed) = recovery.restore(now, 5, Y, &query("seen")).unwrap();
    assert_eq!((texts(&missed), &found["data"]), (vec!["all".into(), "own room".into()], &json!({"n": 1})));
}

#[test]
fn a_session_that_is_over_or_too_old_is_not_recovered() {
    let (mut recovery, now) = (with_sessions(), Instant::now());
    recovery.log(now, 1, X, &message("a", 0, &[], &[]));
    assert_eq!(recovery.restore(now, 1, Y, &query("a")), None, "no such session");
    recovery.update(now, X, session(true, false));
    let late = now + Duration::from_millis(KEEP_MS + 1);
    assert_eq!(recovery.restore(late, 1, Y, &query("a")), None, "too old");
    assert_eq!(recovery.restore(now, 1, Y, &query("b")), None, "an unknown message");
    recovery.update(now, X, session(false, true));
    assert_eq!(recovery.restore(now, 1, Y, &query("a")), None, "the client said goodbye");
    recovery.sweep(late);
    assert_eq!((recovery.bytes(), recovery.log.len()), (0, 0));
}

/// The minute begins when the connection is lost, however long the session had lived.
#[test]
fn a_session_is_kept_for_a_minute_after_its_loss() {
    let (mut recovery, start) = (with_sessions(), Instant::now());
    let minute = Duration::from_millis(KEEP_MS);
    recovery.update(start, X, session(false, false));
    recovery.log(start, 1, X, &message("early", 0, &[], &[]));
    let lost = start + 10 * minute;
    recovery.sweep(lost);
    recovery.log(lost, 2, X, &message("late", 1, &[], &[]));
    recovery.left(lost, X);
    let almost = lost + minute;
    recovery.sweep(almost);
    assert_eq!(recovery.restore(almost, 2, Y, &query("early")), None, "the message is no longer known");
    assert!(recovery.restore(almost, 2, Y, &query("late")).is_some());
    recovery.left(almost, Y);
    let over = almost + Duration::from_millis(1);
    recovery.sweep(over);
    assert_eq!(recovery.restore(over, 2, X, &query("late")), None);
    assert_eq!(recovery.bytes(), 0, "nothing is kept");
}

#[test]
fn a_worker_cannot_drop_a_session_that_moved() {
    let (mut recovery, now) = (with_sessions(), Instant::now());
    recovery.log(now, 1, X, &message("a", 0, &[], &[]));
    recovery.update(now, X, session(true, false));
    assert!(recovery.restore(now, 1, Y, &query("a")).is_some());
    recovery.update(now, X, session(false, true));
    recovery.left(now, Y);
    assert!(recovery.restore(now, 1, X, &query("a")).is_some());
}

#[test]
fn the_oldest_messages_go_first() {
    let (mut recovery, now) = (with_sessions(), Instant::now());
    let long = "x".repeat(1024 * 1024);
    for position in 0..100 {
        let mut publish = message(&format!("{position}"), 0, &[], &[]);
        publish.payload = Bytes::copy_from_slice(long.as_bytes());
        recovery.log(now, position, X, &publish);
    }
    assert!(recovery.bytes() <= KEPT_BYTES);
    assert_eq!(recovery.dropped, 100 - recovery.log.len() as u64);
    assert_eq!(recovery.log.back().unwrap().audience.id, "99");
}

/// A worker of the model: what it delivered, in order, and what the hub has sent to it and it has not handled yet.
#[derive(Default)]
struct Worker {
    position: u64,
    delivered: Vec<String>,
    inbox: VecDeque<(u64, String)>,
    outgoing: VecDeque<(u64, String)>,
}

impl Worker {
    fn publish(&mut self, id: String) {
        self.delivered.push(id.clone());
        self.outgoing.push_back((self.position, id));
    }

    fn handle(&mut self) {
        if let Some((position, id)) = self.inbox.pop_front() {
            self.position = position;
            self.delivered.push(id);
        }
    }
}

/// The other two workers of the model.
fn others(who: usize) -> impl Iterator<Item = usize> {
    (0..3).filter(move |other| *other != who)
}

proptest! {
    /// Whatever the order of events, a client sees each message once: before it was lost, as missed, or live.
    #[test]
    fn each_message_is_seen_once(
        steps in proptest::collection::vec((0..6u8, 0..3usize), 1..120),
        lost_at in 0..120usize,
        back_at in 0..60usize,
    ) {
        let (mut recovery, now) = (with_sessions(), Instant::now());
        let mut workers: [Worker; 3] = Default::default();
        let ids = [MemberId(1), MemberId(2), MemberId(3)];
        let (mut home, mut seen, mut position, mut count) = (0, Vec::new(), 0, 0);
        let mut from = Some(0);
        recovery.update(now, ids[0], session(false, false));
        for (step, (action, who)) in steps.iter().copied().enumerate() {
            match action {
                0 | 1 => {
                    count += 1;
                    workers[who].publish(format!("m{count}"));
                }
                2 | 3 => {
                    if let Some((after, id)) = workers[who].outgoing.pop_front() {
                        position += 1;
                        recovery.log(now, position, ids[who], &message(&id, after, &[], &[]));
                        others(who).for_each(|other| workers[other].inbox.push_back((position, id.clone())));
                    }
                }
                _ => workers[who].handle(),
            }
            let lost = lost_at == step;
            if lost && let Some(start) = from.take() {
                seen.extend_from_slice(&workers[home].delivered[start..]);
                recovery.update(now, ids[home], session(true, false));
            }
            // By the time a client is back, what its old worker had published is at the hub, and what the new one
            // published precedes its question.
            if from.is_none() && step >= lost_at + back_at {
                let next = (home + 1 + who % 2) % 3;
                for origin in [home, next] {
                    while let Some((after, id)) = workers[origin].outgoing.pop_front() {
                        position += 1;
                        recovery.log(now, position, ids[origin], &message(&id, after, &[], &[]));
                        others(origin).for_each(|other| workers[other].inbox.push_back((position, id.clone())));
                    }
                }
                let Some(last) = seen.last() else { return Ok(()) };
                let Some((_, missed)) = recovery.restore(now, position, ids[next], &query(last)) else { return Ok(()) };
                seen.extend(texts(&missed));
                // The worker handles what was sent before the answer, then the client is there.
                while !workers[next].inbox.is_empty() {
                    workers[next].handle();
                }
                home = next;
                from = Some(workers[home].delivered.len());
                recovery.update(now, ids[home], session(false, false));
            }
        }
        let Some(start) = from else { return Ok(()) };
        for who in 0..3 {
            while let Some((_, id)) = workers[who].outgoing.pop_front() {
                others(who).for_each(|other| workers[other].inbox.push_back((0, id.clone())));
            }
        }
        while !workers[home].inbox.is_empty() {
            workers[home].handle();
        }
        seen.extend_from_slice(&workers[home].delivered[start..]);
        let mut sorted = seen.clone();
        sorted.sort_by_key(|id| id[1..].parse::<u32>().unwrap());
        let all: Vec<_> = (1..=count).map(|n| format!("m{n}")).collect();
        prop_assert_eq!(sorted, all, "seen: {:?}", seen);
    }
}
