//! The lives of a worker: a restarted process on the same address is a new one (design.md §7, *generation*).
//!
//! A life is over when the worker is gone, or when all connections to it end within a second: under PM2's cluster mode
//! the master holds the port, so a crash is never a refused connect, and a worker that is back before anybody asks is not
//! missed either. The next connect then begins a new life. That counts, is logged, and ends no pin: were it wrong, every
//! session of a healthy worker would end with it.
//!
//! The end of a connection is a [`Loss`] when nothing called for it. Old idle ones end by the worker's own time-out; they
//! only count in a loss that others have begun. A worker that closes its connections as it likes loses them, too, and one
//! after the other: an answer over an older connection shows that the process lives, and one light loss alone says nothing.
//! Left out: connections of checks, which come and go.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

/// All connections of a worker that end within this time end together (design.md §7).
const TOGETHER_MS: u64 = 1_000;

/// The lives of one worker.
pub struct Life {
    generation: AtomicU32,
    /// When this life was first seen.
    since_ms: AtomicU64,
    /// It accepted a connect at least once.
    seen: AtomicBool,
    /// The next connect begins a new life.
    over: AtomicBool,
    /// Connections made so far: the number of the next one.
    made: AtomicU32,
    established: AtomicU32,
    /// The end of the second in which a loss is looked into; 0: none. A copy, to be read without the lock.
    looks_until_ms: AtomicU64,
    /// Locked only when a connection ends, and then only if it is lost or others just were.
    losses: Mutex<Losses>,
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// As it should: one side was done with it.
    None,
    /// In an exchange, or soon after one: also servers that do not say when they close end them so.
    Light,
    /// A tunnel without a close, or an exchange that had been waiting for a while.
    Grave,
}

/// What a connect showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// The worker had been seen before.
    pub again: bool,
    /// A new life began with it, of this generation.
    pub restarted: Option<u32>,
}

impl Life {
    /// The first one, from `now_ms` on.
    pub fn new(now_ms: u64) -> Self {
        Self {
            generation: AtomicU32::new(1),
            since_ms: AtomicU64::new(now_ms),
            seen: AtomicBool::new(false),
            over: AtomicBool::new(false),
            made: AtomicU32::new(0),
            established: AtomicU32::new(0),
            looks_until_ms: AtomicU64::new(0),
            losses: Mutex::default(),
        }
    }

    /// Lives seen so far.
    pub fn generation(&self) -> u32 {
        self.generation.load(Relaxed)
    }

    /// When the present life was first seen.
    pub fn since_ms(&self) -> u64 {
        self.since_ms.load(Relaxed)
    }

    /// Whether anybody ever listened there.
    pub fn was_seen(&self) -> bool {
        self.seen.load(Relaxed)
    }

    /// Established connections to it, those of checks excepted.
    pub fn established(&self) -> u32 {
        self.established.load(Relaxed)
    }

    /// Connections were lost within the last second: idle ones want a look.
    pub fn has_losses(&self, now_ms: u64) -> bool {
        self.looks_until_ms.load(Relaxed) > now_ms
    }

    /// Nobody listens there, and nothing of it is left.
    pub fn gone(&self) {
        self.over.store(true, Relaxed);
    }

    /// A connect succeeded.
    pub fn connected(&self, now_ms: u64) -> Connected {
        let again = self.seen.swap(true, Relaxed);
        let anew = self.over.load(Relaxed) && self.over.swap(false, Relaxed);
        if anew {
            self.since_ms.store(now_ms, Relaxed);
        }
        Connected { again, restarted: (anew && again).then(|| self.begin()) }
    }

    fn begin(&self) -> u32 {
        self.generation.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// Counts a connection in; its number, to be given back when it ends.
    pub fn opened(&self) -> u32 {
        self.established.fetch_add(1, Relaxed);
        self.made.fetch_add(1, Relaxed)
    }

    /// An answer came over connection `number`: an older one than the losses of the last second, and its process lives.
    pub fn spoke(&self, number: u32, now_ms: u64) {
        if !self.has_losses(now_ms) {
            return;
        }
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        losses.spoke(number);
        self.looks_until_ms.store(losses.until_ms, Relaxed);
    }

    /// Counts connection `number` out. The generation that has begun, if that was the last connection of a life and others
    /// have been made since.
    pub fn ended(&self, number: u32, loss: Loss, now_ms: u64) -> Option<u32> {
        if loss == Loss::None && !self.has_losses(now_ms) {
            self.established.fetch_sub(1, Relaxed);
            return None;
        }
        let mut losses = self.losses.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = self.established.fetch_sub(1, Relaxed);
        let made = self.made.load(Relaxed);
        let all = losses.add(number, loss, alive, made, now_ms);
        self.looks_until_ms.store(losses.until_ms, Relaxed);
        match all {
            None => None,
            Some(before) if before == made => {
                self.over.store(true, Relaxed);
                None
            }
            Some(_) => {
                self.since_ms.store(now_ms, Relaxed);
                Some(self.begin())
            }
        }
    }
}

/// Connections that end within a second. Pure: counts and time are arguments.
#[derive(Debug, Default)]
struct Losses {
    /// The end of the second; 0: none runs.
    until_ms: u64,
    /// Connections made before it; later ones may be another life's.
    made: u32,
    /// Of those, how many live.
    left: u32,
    /// Losses in it; a grave one counts double.
    weight: u32,
}

impl Losses {
    /// Adds the end of connection `number`, of `alive` that were established (itself included) and `made` in all. How
    /// many had been made before the first loss, if all of them have ended now.
    fn add(&mut self, number: u32, loss: Loss, alive: u32, made: u32, now_ms: u64) -> Option<u32> {
        if now_ms >= self.until_ms {
            if loss == Loss::None {
                return None;
            }
            *self = Self { until_ms: now_ms + TOGETHER_MS, made, left: alive, weight: 0 };
        }
        if self.is_older(number) {
            self.left = self.left.saturating_sub(1);
            self.weight = self.weight.saturating_add(loss as u32);
        }
        if self.left > 0 {
            return None;
        }
        let Self { made, weight, .. } = std::mem::take(self);
        (weight >= Loss::Grave as u32).then_some(made)
    }

    fn spoke(&mut self, number: u32) {
        if self.is_older(number) {
            *self = Self::default();
        }
    }

    /// Numbers wrap after four billion connections.
    fn is_older(&self, number: u32) -> bool {
        number.wrapping_sub(self.made) > u32::MAX / 2
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Connections of one life; → their numbers.
    fn connect(life: &Life, count: u32) -> Vec<u32> {
        (0..count)
            .map(|_| {
                assert_eq!(life.connected(0).restarted, None);
                life.opened()
            })
            .collect()
    }

    #[test]
    fn all_at_once_is_a_restart_at_the_next_connect() {
        let life = Life::new(0);
        for number in connect(&life, 3) {
            assert_eq!(life.ended(number, Loss::Light, 10), None);
        }
        assert_eq!(life.generation(), 1, "nobody is there yet");
        assert_eq!(life.connected(300), Connected { again: true, restarted: Some(2) });
        assert_eq!((life.connected(301).restarted, life.since_ms()), (None, 300));
    }

    #[test]
    fn it_is_one_also_when_others_connected_before_the_last_was_missed() {
        let life = Life::new(0);
        let old = connect(&life, 2);
        assert_eq!(life.ended(old[0], Loss::Grave, 10), None);
        let new = connect(&life, 1);
        assert_eq!(life.ended(old[1], Loss::None, 900), Some(2), "an idle one, found dead later");
        assert_eq!(life.ended(new[0], Loss::None, 950), None);
        assert_eq!(life.connected(960).restarted, None, "counted once");
    }

    #[test]
    fn one_that_lives_on_is_the_same_life() {
        let life = Life::new(0);
        let old = connect(&life, 3);
        life.ended(old[0], Loss::Grave, 10);
        life.ended(old[1], Loss::Light, 20);
        assert!(life.has_losses(1_009) && !life.has_losses(1_010));
        assert_eq!(life.ended(old[2], Loss::Grave, 1_500), None, "of another second, and alone: the last one");
        assert_eq!(life.connected(1_600).restarted, Some(2));
    }

    #[test]
    fn what_ends_as_it_should_says_nothing() {
        let life = Life::new(0);
        for number in connect(&life, 3) {
            assert_eq!(life.ended(number, Loss::None, 10), None);
        }
        assert_eq!((life.connected(20).restarted, life.established()), (None, 0));
    }

    #[test]
    fn one_light_loss_is_a_servers_way_to_close() {
        let life = Life::new(0);
        for round in 0..5 {
            let only = connect(&life, 1);
            assert_eq!(life.ended(only[0], Loss::Light, round * 100), None);
        }
        assert_eq!(life.connected(600).restarted, None);
    }

    #[test]
    fn an_answer_over_an_old_connection_shows_that_it_lives() {
        let life = Life::new(0);
        let old = connect(&life, 3);
        life.ended(old[0], Loss::Light, 10);
        life.spoke(old[1], 20);
        assert!(!life.has_losses(20));
        life.ended(old[1], Loss::Light, 30);
        let new = connect(&life, 1);
        life.spoke(new[0], 40);
        assert!(life.has_losses(40), "the answer of what may be another process");
        assert_eq!(life.ended(old[2], Loss::Light, 50), Some(2));
    }

    fn loss() -> impl Strategy<Value = Loss> {
        prop_oneof![Just(Loss::None), Just(Loss::Light), Just(Loss::Grave)]
    }

    proptest! {
        /// However connections come and go: counts stay exact, and a life is over only when each connection made before
        /// the first loss has ended within its second.
        #[test]
        fn only_all_of_them(steps in prop::collection::vec((0u64..600, 0usize..4, loss()), 0..80)) {
            let life = Life::new(0);
            let (mut now, mut live, mut second) = (0, Vec::<u32>::new(), None::<(u64, Vec<u32>, u32)>);
            let mut over = false;
            for (pause, which, loss) in steps {
                now += pause;
                if second.as_ref().is_some_and(|(until, ..)| now >= *until) {
                    second = None;
                }
                if which == 0 || live.is_empty() {
                    prop_assert_eq!(life.connected(now).restarted.is_some(), over);
                    over = false;
                    live.push(life.opened());
                    continue;
                }
                let number = live.remove(which % live.len());
                if second.is_none() && loss != Loss::None {
                    second = Some((now + TOGETHER_MS, live.iter().copied().chain([number]).collect(), 0));
                }
                let mut all = false;
                let mut done = false;
                if let Some((_, old, weight)) = &mut second {
                    *weight += if old.contains(&number) { loss as u32 } else { 0 };
                    old.retain(|one| *one != number);
                    done = old.is_empty();
                    all = done && *weight >= 2;
                }
                let begun = life.ended(number, loss, now);
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
