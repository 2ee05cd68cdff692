//! Watches over tunnels, once a second: clients that owe an answer are suspect, and clients that leave a Ping of ours
//! unanswered for too long are dead and ended.
//!
//! Clients that vanished are found through their kernel (`listener`: keep-alive and user time-out, 25 to 27 s). This
//! module finds clients whose kernel still answers: a frozen process, or a proxy in between that has lost its own
//! client. stickyd sends pings only if configured (`tunnel_ping`); pings of workers that a client leaves unanswered
//! make it suspect, no more. The same walk counts how good connections are. It runs on the control thread, away from
//! traffic. Not covered: sockets that are not listed, and polling sessions, which their workers time out.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{self, Seconds};
use crate::config::Tunnels;
use crate::sockets::{SHARDS, Socket, SocketKind};
use crate::state::Shared;
use crate::websocket::round_trip::Quality;

/// Interval between two walks over all tunnels.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Time for which a ping of a worker may wait before its client becomes suspect.
const PING_PATIENCE: Duration = Duration::from_secs(5);

/// What is known about a tunnel's client. Times are in seconds, on the clock of [`clock::now_s`], each up to one second
/// late.
#[derive(Debug, Clone, Copy)]
struct ClientActivity {
    /// When the client last sent anything.
    heard_s: Seconds,
    /// When our last Ping to the client was sent, if one was.
    asked_s: Option<Seconds>,
    /// How long a ping of the worker has been waiting for the client's answer.
    owes: Option<Duration>,
    /// For an Engine.IO session: the silence after which its worker ends it.
    session: Option<Duration>,
}

/// The action to take for a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Nothing,
    /// Send the client a Ping.
    Ask,
    /// End the tunnel: its client is dead.
    End,
}

/// Decides whether the client is suspect, and which action to take.
fn judge(known: ClientActivity, rules: &Tunnels, now_s: Seconds) -> (bool, Act) {
    // The client's last message may have come a second later than noted.
    let asked_s = known.asked_s.filter(|asked| known.heard_s.plus_s(1) < *asked);
    let silent_s = now_s.since(known.heard_s);
    // One of the two sides pings once per pingInterval; three quarters of the session's lifetime are longer than that
    // with all defaults (docs/reference/protocols.md §1.7).
    let misses_pings = known.session.is_some_and(|session| silent_s > clock::whole_seconds(session * 3 / 4));
    let suspect = misses_pings || known.owes.is_some_and(|owes| owes > PING_PATIENCE);
    match (rules.ping, asked_s) {
        (Some(_), Some(asked)) if now_s.since(asked) > clock::whole_seconds(rules.ping_timeout) => (true, Act::End),
        (Some(_), Some(asked)) => (suspect || now_s > asked.plus_s(1), Act::Nothing),
        (Some(ping), None) if silent_s >= clock::whole_seconds(ping) => (suspect, Act::Ask),
        _ => (suspect, Act::Nothing),
    }
}

/// Walks over all tunnels once a second, until the thread ends.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut timer = tokio::time::interval(CHECK_INTERVAL);
    timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        timer.tick().await;
        look(&shared).await;
    }
}

/// Results of one walk for one upstream, and the rules that apply there.
#[derive(Default)]
struct LivenessTotals {
    rules: Tunnels,
    session: Duration,
    suspects: u32,
    qualities: [u32; Quality::ALL.len()],
}

async fn look(shared: &Shared) {
    let mut found: HashMap<String, LivenessTotals> = HashMap::new();
    for upstream in &shared.snapshot.load().upstreams {
        let (rules, session) = (upstream.config.tunnels, upstream.session_ttl());
        found.insert(upstream.config.name.clone(), LivenessTotals { rules, session, ..LivenessTotals::default() });
    }
    for shard in 0..SHARDS {
        for socket in shared.sessions.sockets.shard(shard) {
            if let Some(found) = found.get_mut(&*socket.worker().upstream) {
                found.see(&socket);
            }
        }
        tokio::task::yield_now().await;
    }
    shared.metrics.care.saw(found.iter().map(|(name, found)| (name.as_str(), found.suspects, found.qualities)));
}

impl LivenessTotals {
    fn see(&mut self, socket: &Arc<Socket>) {
        if !socket.has_tunnel() {
            return;
        }
        let now_s = clock::now_s();
        let trips = socket.round_trips();
        let known = ClientActivity {
            heard_s: socket.up.last_s().unwrap_or_else(|| socket.since_s()),
            asked_s: socket.asked_s(),
            owes: trips.client.waits_since(clock::now_tenths()),
            session: (socket.kind() == SocketKind::EngineIo).then_some(self.session),
        };
        let (suspect, act) = judge(known, &self.rules, now_s);
        socket.set_suspect(suspect);
        self.suspects += u32::from(suspect);
        match act {
            Act::Nothing => {}
            Act::Ask => socket.ask(),
            Act::End => socket.give_up(),
        }
        if let Some(measured) = trips.client.measured() {
            let quality = self.rules.round_trip.quality(measured.smoothed);
            socket.set_quality(quality);
            if let Some(count) = self.qualities.get_mut(quality as usize) {
                *count += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Tunnels = Tunnels {
        ping: Some(Duration::from_secs(20)),
        ping_timeout: Duration::from_secs(10),
        round_trip: crate::websocket::round_trip::Thresholds {
            excellent: Duration::from_millis(80),
            good: Duration::from_millis(250),
        },
        broadcast: false,
    };

    fn silent_since(heard_s: u32, asked_s: Option<u32>) -> ClientActivity {
        let (heard_s, asked_s) = (Seconds::new(heard_s), asked_s.map(Seconds::new));
        ClientActivity { heard_s, asked_s, owes: None, session: None }
    }

    fn judge(known: ClientActivity, rules: &Tunnels, now_s: u32) -> (bool, Act) {
        super::judge(known, rules, Seconds::new(now_s))
    }

    #[test]
    fn pinged_after_silence_and_dead_after_the_ping_timeout() {
        assert_eq!(judge(silent_since(100, None), &RULES, 119), (false, Act::Nothing));
        assert_eq!(judge(silent_since(100, None), &RULES, 120), (false, Act::Ask));
        assert_eq!(judge(silent_since(100, Some(120)), &RULES, 121), (false, Act::Nothing));
        assert_eq!(judge(silent_since(100, Some(120)), &RULES, 122), (true, Act::Nothing));
        assert_eq!(judge(silent_since(100, Some(120)), &RULES, 130), (true, Act::Nothing));
        assert_eq!(judge(silent_since(100, Some(120)), &RULES, 131), (true, Act::End));
        // The client answered in the same second, by a clock that was late.
        assert_eq!(judge(silent_since(119, Some(120)), &RULES, 131), (false, Act::Nothing));
        assert_eq!(judge(silent_since(119, Some(120)), &RULES, 139), (false, Act::Ask));
    }

    #[test]
    fn without_our_pings_a_client_is_at_most_suspect() {
        let rules = Tunnels::default();
        let of = |owes, session, now_s| judge(ClientActivity { owes, session, ..silent_since(0, None) }, &rules, now_s);
        assert_eq!(of(None, None, u32::MAX), (false, Act::Nothing), "silence alone is not suspect");
        assert_eq!(of(Some(PING_PATIENCE), None, 9), (false, Act::Nothing));
        assert_eq!(of(Some(PING_PATIENCE * 2), None, 9), (true, Act::Nothing));
        // 25 s between pings, 20 s to answer, and 5 s added by stickyd.
        let session = Some(Duration::from_secs(50));
        assert_eq!(of(None, session, 30), (false, Act::Nothing));
        assert_eq!(of(None, session, 39), (true, Act::Nothing));
    }

    proptest! {
        /// For all times: a client that answers each Ping within the time-out is never ended; one that does not is
        /// ended within the sum of both times and the lateness of the clocks.
        #[test]
        fn only_clients_that_stop_answering_are_ended(
            ping in 1u32..60,
            timeout in 1u32..30,
            delays in prop::collection::vec(0u32..30, 1..20),
            late in 0u32..2,
        ) {
            let seconds = |s: u32| Duration::from_secs(s.into());
            let rules = Tunnels { ping: Some(seconds(ping)), ping_timeout: seconds(timeout), ..RULES };
            let mut known = silent_since(1_000, None);
            let mut delays = delays.into_iter();
            let mut answers_at = None;
            let mut last_word = 1_000;
            for now in 1_000..6_000 {
                if answers_at == Some(now) {
                    known.heard_s = Seconds::new(now - late);
                    last_word = now;
                    answers_at = None;
                }
                match judge(known, &rules, now).1 {
                    Act::Nothing => {}
                    Act::Ask => {
                        known.asked_s = Some(Seconds::new(now));
                        // The client answers in time while a delay is left, then never again.
                        answers_at = answers_at.or_else(|| delays.next().map(|delay| now + 1 + delay % timeout));
                    }
                    Act::End => {
                        prop_assert!(delays.next().is_none() && answers_at.is_none(), "a live client ended at {}", now);
                        prop_assert!(now > last_word + timeout);
                        prop_assert!(now <= last_word + ping + timeout + 4, "{} after {}", now, last_word);
                        return Ok(());
                    }
                }
            }
            prop_assert!(false, "the dead client was never ended");
        }
    }
}
