//! Seats new sessions by bounded load (docs/reference/routing.md §2), without a look at every worker.
//!
//! The seats of all workers are kept in a [`SeatTable`] under the lock that seats one session after the other. A worker
//! whose load or state changes puts itself on a list ([`MovedWorkers`]), once until the next placement, and the next
//! placement reads these workers anew. What changes by time alone (the end of an ejection or of slow requests, the
//! growth after a return, the sessions of the last 10 s) is read for all workers by one placement per second, whatever
//! their number is (`tests`). The chosen worker is asked again whether it takes the session.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

#[cfg(test)]
use super::eject;
use super::ring::{Seat, SeatTable};
use super::serial::WorkerSerial;
use super::worker::{SessionSeat, Worker};
use super::{Member, Upstream};
use crate::clock::{self, Seconds};
use crate::locks::lock;

/// Number of new sessions that cookies may always bring a worker beyond its share: with so few sessions no worker is
/// full.
const RETURNS_ALWAYS: u64 = 50;

/// The workers of an upstream whose load or state has changed since the last placement; each is on the list once.
#[derive(Debug, Default)]
pub(crate) struct MovedWorkers(Mutex<Vec<MovedWorker>>);

#[derive(Debug)]
struct MovedWorker {
    serial: WorkerSerial,
    is_listed: Arc<AtomicBool>,
}

/// A worker's entry on the list of its upstream.
#[derive(Debug, Default)]
pub(crate) struct MovedMark {
    is_listed: Arc<AtomicBool>,
    list: OnceLock<Arc<MovedWorkers>>,
}

impl MovedMark {
    /// Sets the list of the worker's upstream, which outlives reloads as the worker does.
    pub(crate) fn report_to(&self, list: &Arc<MovedWorkers>) {
        let _ = self.list.set(list.clone());
    }

    /// Puts the worker on the list. Must be called after the change.
    pub(crate) fn mark(&self, serial: WorkerSerial) {
        let Some(list) = self.list.get() else { return };
        // A swap, not a load: only a swap sees for sure that a placement has just taken the worker off the list.
        if !self.is_listed.swap(true, Ordering::AcqRel) {
            lock(&list.0).push(MovedWorker { serial, is_listed: self.is_listed.clone() });
        }
    }
}

/// What the placement of sessions knows of the pool.
#[derive(Default)]
pub(crate) struct Seating {
    /// Number of the snapshot's upstream that the seats belong to.
    number: u64,
    /// The second in which all seats were last read.
    second: Option<Seconds>,
    /// Places in the table, by worker.
    places: HashMap<WorkerSerial, usize>,
    /// Largest part of its share that any worker may get (`eject`).
    best: u32,
    /// Sum of the configured weights of all workers that take new sessions.
    open_weight: u64,
    seats: SeatTable,
    /// The seats of workers that take sessions in the worst case; read when they are needed.
    at_worst: Option<SeatTable>,
    /// An empty list, kept for its room.
    moved: Vec<MovedWorker>,
    /// Number of times that the seats of all workers were read.
    #[cfg(test)]
    whole_reads: u32,
}

/// Returns a number that no other live upstream of this process has.
pub(crate) fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Upstream {
    /// Seats a new session by bounded load on the ring. The returned guard counts the session, which is then already
    /// part of the worker's load.
    pub fn place(&self, key: &[u8], tried: &[WorkerSerial]) -> Option<SessionSeat> {
        let now_s = clock::now_s();
        let mut seating = lock(&self.carried.seating);
        let worker = self.pick(&mut seating, key, tried, now_s)?;
        worker.recent.note(now_s);
        Some(worker.session())
    }

    /// Returns the worker at which a new session would be seated in this second, without seating one.
    pub fn would_place(&self, key: &[u8], tried: &[WorkerSerial], now_s: Seconds) -> Option<&Arc<Worker>> {
        self.pick(&mut lock(&self.carried.seating), key, tried, now_s)
    }

    /// Whether a cookie may still bring this worker a new session. The limit is one and a half times its share of the
    /// sessions of all workers that take new ones, plus 50. Cookies are signed, but their owner may give one to
    /// thousands of clients, or collect those that name one worker. Beyond the limit such sessions are placed by
    /// bounded load, like those without a cookie.
    pub fn may_return(&self, worker: &Worker) -> bool {
        let mut seating = lock(&self.carried.seating);
        self.follow_seats(&mut seating, clock::now_s());
        let place = seating.places.get(&worker.serial).copied();
        let is_open = place.and_then(|place| seating.seats.get(place)).is_some_and(Seat::is_open);
        let own = place.filter(|_| is_open).and_then(|place| self.members.get(place)).map_or(0, |own| own.weight);
        let (total, weights) = (seating.seats.load(), seating.open_weight);
        drop(seating);
        let share = (total + 1).saturating_mul(u64::from(own)).div_ceil(weights.max(1));
        u64::from(worker.load()) < share + share / 2 + RETURNS_ALWAYS
    }

    fn pick(&self, seating: &mut Seating, key: &[u8], tried: &[WorkerSerial], now_s: Seconds) -> Option<&Arc<Worker>> {
        self.follow_seats(seating, now_s);
        let at_worst = |worker: &Worker| worker.takes_new_at_worst();
        let best = seating.best;
        // While workers are replaced one after the other, clients that reconnect must not be cut twice.
        let stays = self.pick_from(&mut seating.seats, key, tried, Worker::takes_new_and_stays);
        let outdated = || {
            let replaces = self.members.iter().any(|member| member.worker.is_outdated());
            let mut seats = replaces.then(|| self.read_seats(best, now_s, Worker::takes_new))?;
            self.pick_from(&mut seats, key, tried, Worker::takes_new)
        };
        let index = stays.or_else(outdated).or_else(|| {
            let read = || self.read_seats(best, now_s, at_worst);
            self.pick_from(seating.at_worst.get_or_insert_with(read), key, tried, at_worst)
        })?;
        self.members.get(index).map(|member| &member.worker)
    }

    /// Chooses a worker by its seat, except those that were tried or have closed since their seats were read.
    fn pick_from(
        &self,
        table: &mut SeatTable,
        key: &[u8],
        tried: &[WorkerSerial],
        takes: impl Fn(&Worker) -> bool,
    ) -> Option<usize> {
        let mut taken_out = Vec::new();
        for (index, member) in self.members.iter().enumerate().filter(|_| !tried.is_empty()) {
            if tried.contains(&member.worker.serial) {
                taken_out.extend(table.take_out(index).map(|seat| (index, seat)));
            }
        }
        let found = loop {
            let Some(index) = table.place(&self.ring, key) else { break None };
            let Some(member) = self.members.get(index) else { break None };
            if takes(&member.worker) {
                break Some(index);
            }
            member.worker.mark_moved();
            taken_out.extend(table.take_out(index).map(|seat| (index, seat)));
        };
        for (index, seat) in taken_out {
            table.set(index, seat);
        }
        found
    }

    /// Brings the seats up to date.
    fn follow_seats(&self, seating: &mut Seating, now_s: Seconds) {
        let mut moved = std::mem::take(&mut seating.moved);
        std::mem::swap(&mut moved, &mut lock(&self.carried.moved.0));
        // Before anything is read: a later change puts its worker on the list again.
        for moved in &moved {
            moved.is_listed.swap(false, Ordering::AcqRel);
        }
        if seating.number != self.number || seating.second != Some(now_s) {
            self.read_all_seats(seating, now_s);
        } else {
            for moved in &moved {
                let index = seating.places.get(&moved.serial).copied();
                if let Some((index, member)) = index.and_then(|index| Some((index, self.members.get(index)?))) {
                    self.read_seat(seating, index, member, now_s);
                }
            }
        }
        moved.clear();
        seating.moved = moved;
    }

    fn read_all_seats(&self, seating: &mut Seating, now_s: Seconds) {
        if seating.number != self.number {
            seating.places = self.members.iter().zip(0..).map(|(member, at)| (member.worker.serial, at)).collect();
            seating.number = self.number;
        }
        seating.second = Some(now_s);
        #[cfg(test)]
        {
            seating.whole_reads += 1;
        }
        seating.best = self.most_eased_in();
        seating.seats = self.read_seats(seating.best, now_s, Worker::takes_new_and_stays);
        seating.at_worst = None;
        let open = self.members.iter().zip(0..).filter(|(_, at)| seating.seats.get(*at).is_some_and(Seat::is_open));
        seating.open_weight = open.map(|(member, _)| u64::from(member.weight)).sum();
    }

    fn read_seats(&self, best: u32, now_s: Seconds, takes: impl Fn(&Worker) -> bool) -> SeatTable {
        SeatTable::new(self.members.iter().map(|member| self.seat(member, best, now_s, &takes)).collect())
    }

    fn read_seat(&self, seating: &mut Seating, index: usize, member: &Member, now_s: Seconds) {
        let seat = self.seat(member, seating.best, now_s, &Worker::takes_new_and_stays);
        let was_open = seating.seats.get(index).is_some_and(Seat::is_open);
        seating.seats.set(index, seat);
        match (was_open, seat.is_open()) {
            (true, false) => seating.open_weight = seating.open_weight.saturating_sub(u64::from(member.weight)),
            (false, true) => seating.open_weight += u64::from(member.weight),
            _ => {}
        }
        if let Some(at_worst) = &mut seating.at_worst {
            at_worst.set(index, self.seat(member, seating.best, now_s, &Worker::takes_new_at_worst));
        }
    }

    fn seat(&self, member: &Member, best: u32, now_s: Seconds, takes: &impl Fn(&Worker) -> bool) -> Seat {
        let Member { worker, weight } = member;
        Seat {
            takes_new: takes(worker),
            weight: weight * self.part(worker, best),
            load: worker.load(),
            // Without a slow start, a worker far below the mean may have every new session until it has caught up.
            recent: if self.eject.slow_start_ms == 0 { 0 } else { worker.recent.count(now_s) },
        }
    }
}

#[cfg(test)]
mod tests;
