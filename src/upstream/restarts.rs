//! The lives of a worker: a restarted process on the same address is a new one (docs/reference/routing.md §8).
//!
//! A life is over when the worker is gone, or when all connections to it end within a second. Under PM2's cluster mode
//! the master process holds the port, so a crash never shows as a refused connect. A worker that restarts before the
//! next connect is noticed in the same way. The next connect then begins a new life. A new life is counted and logged,
//! but ends no pin: a wrongly detected restart would end every session of a healthy worker.
//!
//! The end of a connection is a [`Loss`] when it was unexpected. Connections that were idle for long are closed by the
//! worker's own time-out; they only add to losses that other connections began. A worker that closes its connections
//! whenever it likes causes losses as well, but one after the other. A response over an older connection therefore
//! shows that the process is alive. One connection proves nothing: a quiet worker may end its only WebSocket without a
//! Close. Neither do broken requests of one client: their page may break every one of them. Connections of health
//! checks, which come and go, are not counted.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use crate::clock::{AtomicMillis, Millis};
use crate::locks::lock;
use crate::upstream::eject::ClientKey;

/// Time in milliseconds within which all connections of a worker must end to count as a restart
/// (docs/reference/routing.md §8).
const TOGETHER_MS: u64 = 1_000;

/// The lives of one worker, as detected from its connections.
pub(crate) struct Life {
    generation: AtomicU32,
    /// When the present life was first seen.
    since: AtomicMillis,
    /// Whether the worker has accepted a connect at least once.
    seen: AtomicBool,
    /// Whether the next connect begins a new life.
    over: AtomicBool,
    /// Number of connections made so far, which is the number of the next one; wraps around.
    made: AtomicU32,
    established: AtomicU32,
    /// End of the second in which losses are counted; none without losses. It is a copy that is read without the lock.
    looks_until: AtomicMillis,
    /// Losses of the current second. Locked only when a connection ends, and only if it or another one was just lost.
    losses: Mutex<Losses>,
}

/// How a connection ended, as a sign of the worker's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The connection ended as it should: one side was done with it.
    None,
    /// The connection ended during an exchange of this client or soon after one. Servers that do not announce their
    /// close end connections like this, too.
    Light(ClientKey),
    /// A tunnel ended without a close, or an open poll was cut.
    Grave,
}

/// What a successful connect showed about the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectSample {
    /// Whether the worker had accepted a connect before.
    pub again: bool,
    /// The new generation, if a new life of the worker began with this connect.
    pub restarted: Option<u32>,
}

impl Life {
    /// Creates the first life of a worker, which begins at `now_ms`.
    pub(crate) fn new(now_ms: Millis) -> Self {
        Self {
            generation: AtomicU32::new(1),
            since: AtomicMillis::new(now_ms),
            seen: AtomicBool::new(false),
            over: AtomicBool::new(false),
            made: AtomicU32::new(0),
            established: AtomicU32::new(0),
            looks_until: AtomicMillis::default(),
            losses: Mutex::default(),
        }
    }

    /// Returns the number of lives seen so far.
    pub(crate) fn generation(&self) -> u32 {
        self.generation.load(Relaxed)
    }

    /// Returns when the present life was first seen.
    pub(crate) fn since_ms(&self) -> Millis {
        self.since.get().unwrap_or_default()
    }

    /// Whether the worker has ever accepted a connect.
    pub(crate) fn was_seen(&self) -> bool {
        self.seen.load(Relaxed)
    }

    /// Returns the number of established connections, without those of health checks.
    pub(crate) fn established(&self) -> u32 {
        self.established.load(Relaxed)
    }

    /// Whether connections were lost within the last second, so that idle ones need a check.
    pub(crate) fn has_losses(&self, now_ms: Millis) -> bool {
        self.looks_until.get().is_some_and(|until| until > now_ms)
    }

    /// Records that the worker refuses connects and no connection to it is left.
    pub(crate) fn gone(&self) {
        self.over.store(true, Relaxed);
    }

    /// Records a successful connect, which begins a new life if the last one is over.
    pub(crate) fn connected(&self, now_ms: Millis) -> ConnectSample {
        let again = self.seen.swap(true, Relaxed);
        let anew = self.over.load(Relaxed) && self.over.swap(false, Relaxed);
        if anew {
            self.since.set(Some(now_ms));
        }
        ConnectSample { again, restarted: (anew && again).then(|| self.begin()) }
    }

    fn begin(&self) -> u32 {
        self.generation.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// Counts a new connection. Returns its number, which [`Self::ended`] needs.
    pub(crate) fn opened(&self) -> u32 {
        self.established.fetch_add(1, Relaxed);
        self.made.fetch_add(1, Relaxed)
    }

    /// Records a response over connection `number`. If the connection is older than the losses of the last second, its
    /// process is alive and these losses are forgotten.
    pub(crate) fn spoke(&self, number: u32, now_ms: Millis) {
        if !self.has_losses(now_ms) {
            return;
        }
        let mut losses = lock(&self.losses);
        losses.spoke(number);
        self.looks_until.set(losses.until);
    }

    /// Counts the end of connection `number`. Returns the new generation if this was the last connection of a life and
    /// newer connections exist already.
    pub(crate) fn ended(&self, number: u32, loss: Loss, now_ms: Millis) -> Option<u32> {
        if loss == Loss::None && !self.has_losses(now_ms) {
            self.established.fetch_sub(1, Relaxed);
            return None;
        }
        let mut losses = lock(&self.losses);
        let alive = self.established.fetch_sub(1, Relaxed);
        let made = self.made.load(Relaxed);
        let all = losses.add(number, loss, alive, made, now_ms);
        self.looks_until.set(losses.until);
        match all {
            None => None,
            Some(before) if before == made => {
                self.over.store(true, Relaxed);
                None
            }
            Some(_) => {
                self.since.set(Some(now_ms));
                Some(self.begin())
            }
        }
    }
}

/// Connections that end within the same second. The code is pure: counts and time are arguments.
#[derive(Debug, Default)]
struct Losses {
    /// End of the second; `None` if none has begun.
    until: Option<Millis>,
    /// Number of connections made before the second began; later ones may belong to another life.
    made: u32,
    /// Number of connections from before the second that are still established.
    left: u32,
    /// Number of those that have ended in this second.
    ended: u32,
    /// The client of the first light loss in this second.
    client: Option<ClientKey>,
    /// Whether the losses in this second are more than the doing of one client: one is grave, or two clients have light
    /// ones.
    is_sign: bool,
}

impl Losses {
    /// Adds the end of connection `number`, out of `alive` established ones including itself and `made` ones ever made.
    /// If all connections from before the first loss have now ended, returns how many had been made before it.
    fn add(&mut self, number: u32, loss: Loss, alive: u32, made: u32, now_ms: Millis) -> Option<u32> {
        if self.until.is_none_or(|until| now_ms >= until) {
            if loss == Loss::None {
                return None;
            }
            *self = Self { until: Some(now_ms.plus_ms(TOGETHER_MS)), made, left: alive, ..Self::default() };
        }
        if self.is_older(number) {
            self.left = self.left.saturating_sub(1);
            self.ended = self.ended.saturating_add(1);
            self.weigh(loss);
        }
        if self.left > 0 {
            return None;
        }
        let Self { made, ended, is_sign, .. } = std::mem::take(self);
        (ended > 1 && is_sign).then_some(made)
    }

    fn weigh(&mut self, loss: Loss) {
        match loss {
            Loss::None => {}
            Loss::Light(client) => self.is_sign |= *self.client.get_or_insert(client) != client,
            Loss::Grave => self.is_sign = true,
        }
    }

    fn spoke(&mut self, number: u32) {
        if self.is_older(number) {
            *self = Self::default();
        }
    }

    /// Whether connection `number` was made before the second began. The comparison is modular, because numbers wrap
    /// after four billion connections.
    fn is_older(&self, number: u32) -> bool {
        number.wrapping_sub(self.made) > u32::MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Opens connections within one life; returns their numbers.
    fn connect(life: &Life, count: u32) -> Vec<u32> {
        (0..count)
            .map(|_| {
                assert_eq!(life.connected(Millis::new(0)).restarted, None);
                life.opened()
            })
            .collect()
    }

    #[test]
    fn losing_all_connections_is_a_restart_at_the_next_connect() {
        let life = Life::new(Millis::new(0));
        for (number, client) in connect(&life, 3).into_iter().zip(0..) {
            assert_eq!(life.ended(number, Loss::Light([client; 16]), Millis::new(10)), None);
        }
        assert_eq!(life.generation(), 1, "no connect has succeeded yet");
        assert_eq!(life.connected(Millis::new(300)), ConnectSample { again: true, restarted: Some(2) });
        assert_eq!((life.connected(Millis::new(301)).restarted, life.since_ms()), (None, Millis::new(300)));
    }

    #[test]
    fn newer_connections_do_not_hide_a_restart() {
        let life = Life::new(Millis::new(0));
        let old = connect(&life, 2);
        assert_eq!(life.ended(old[0], Loss::Grave, Millis::new(10)), None);
        let new = connect(&life, 1);
        assert_eq!(
            life.ended(old[1], Loss::None, Millis::new(900)),
            Some(2),
            "an idle connection that is found dead later"
        );
        assert_eq!(life.ended(new[0], Loss::None, Millis::new(950)), None);
        assert_eq!(life.connected(Millis::new(960)).restarted, None, "the restart is counted once");
    }

    #[test]
    fn a_connection_that_stays_means_the_same_life() {
        let life = Life::new(Millis::new(0));
        let old = connect(&life, 3);
        life.ended(old[0], Loss::Grave, Millis::new(10));
        life.ended(old[1], Loss::Light([1; 16]), Millis::new(20));
        assert!(life.has_losses(Millis::new(1_009)) && !life.has_losses(Millis::new(1_010)));
        assert_eq!(
            life.ended(old[2], Loss::Grave, Millis::new(1_500)),
            None,
            "it is the last one, but in another second"
        );
        assert_eq!(life.connected(Millis::new(1_600)).restarted, None, "one connection does not mean a restart");
    }

    #[test]
    fn expected_ends_of_connections_do_not_count() {
        let life = Life::new(Millis::new(0));
        for number in connect(&life, 3) {
            assert_eq!(life.ended(number, Loss::None, Millis::new(10)), None);
        }
        assert_eq!((life.connected(Millis::new(20)).restarted, life.established()), (None, 0));
    }

    #[test]
    fn the_loss_of_one_connection_does_not_mean_a_restart() {
        let life = Life::new(Millis::new(0));
        for round in 0..6 {
            let (only, loss) = (connect(&life, 1), if round % 2 == 0 { Loss::Light([1; 16]) } else { Loss::Grave });
            assert_eq!(life.ended(only[0], loss, Millis::new(round * 100)), None);
        }
        assert_eq!(life.connected(Millis::new(600)).restarted, None);
    }

    #[test]
    fn broken_requests_of_one_client_are_not_a_restart() {
        let life = Life::new(Millis::new(0));
        let lose_all = |clients: [u8; 4]| {
            for (number, client) in connect(&life, 4).into_iter().zip(clients) {
                assert_eq!(life.ended(number, Loss::Light([client; 16]), Millis::new(10)), None);
            }
            life.connected(Millis::new(20)).restarted
        };
        assert_eq!(lose_all([1, 1, 1, 1]), None);
        assert_eq!(lose_all([1, 1, 2, 1]), Some(2), "two clients see the same");
    }

    #[test]
    fn a_response_over_an_old_connection_shows_a_live_worker() {
        let life = Life::new(Millis::new(0));
        let old = connect(&life, 3);
        life.ended(old[0], Loss::Light([1; 16]), Millis::new(10));
        life.spoke(old[1], Millis::new(20));
        assert!(!life.has_losses(Millis::new(20)));
        life.ended(old[1], Loss::Light([1; 16]), Millis::new(30));
        let new = connect(&life, 1);
        life.spoke(new[0], Millis::new(40));
        assert!(life.has_losses(Millis::new(40)), "the response may come from another process");
        assert_eq!(life.ended(old[2], Loss::Light([2; 16]), Millis::new(50)), Some(2));
    }

    fn loss() -> impl Strategy<Value = Loss> {
        prop_oneof![Just(Loss::None), (0u8..2).prop_map(|client| Loss::Light([client; 16])), Just(Loss::Grave)]
    }

    proptest! {
        /// However connections come and go, counts stay exact, and a life is over only when each connection made before
        /// the first loss has ended within its second.
        #[test]
        fn a_life_ends_only_with_all_its_connections(
            steps in prop::collection::vec((0u64..600, 0usize..4, loss()), 0..80),
        ) {
            let life = Life::new(Millis::new(0));
            let (mut now, mut live, mut second) = (0, Vec::<u32>::new(), None::<(u64, Vec<u32>, Vec<Loss>)>);
            let (mut over, mut many) = (false, false);
            for (pause, which, loss) in steps {
                now += pause;
                if second.as_ref().is_some_and(|(until, ..)| now >= *until) {
                    second = None;
                }
                if which == 0 || live.is_empty() {
                    prop_assert_eq!(life.connected(Millis::new(now)).restarted.is_some(), over);
                    over = false;
                    live.push(life.opened());
                    continue;
                }
                let number = live.remove(which % live.len());
                if second.is_none() && loss != Loss::None {
                    many = live.len() + 1 > 1;
                    second = Some((now + TOGETHER_MS, live.iter().copied().chain([number]).collect(), Vec::new()));
                }
                let mut all = false;
                let mut done = false;
                if let Some((_, old, losses)) = &mut second {
                    if old.contains(&number) && loss != Loss::None && !losses.contains(&loss) {
                        losses.push(loss);
                    }
                    old.retain(|one| *one != number);
                    done = old.is_empty();
                    all = done && many && (losses.len() > 1 || losses.contains(&Loss::Grave));
                }
                let begun = life.ended(number, loss, Millis::new(now));
                if done {
                    second = None;
                }
                prop_assert_eq!(life.established() as usize, live.len());
                prop_assert!(begun.is_none() || all);
                over |= all && begun.is_none();
            }
        }
    }
}
