//! What a thread knows of each live connection and tunnel: the order it is under, its silence, and how to wake it.
//!
//! One [`Live`] a connection, on the list of its [`Thread`](super::Thread); [`Registered`] is the connection's own end of it
//! and takes it off the list. Left out: who walks the list, and when.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Poll, Waker};

use super::Thread;

/// What a live connection or tunnel is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    GoOn,
    /// It was silent for longer than its limit.
    Idle,
    /// Its listener was removed: finish what is under way, then close. A tunnel is not told.
    Leave,
    /// stickyd stops: finish what is under way, then close. A tunnel says 1001.
    Stop,
    /// The time to finish is over.
    Cut,
}

/// What an entry is of a connection that has many streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// All of it; or it has none.
    Whole,
    /// All of it, and it carries tunnels: its time to end is theirs.
    Carrier,
    /// One poll, only there to be woken.
    Poll,
}

/// The handle by which the thread reaches a live connection or tunnel.
pub struct Live {
    pub(super) order: Cell<Order>,
    pub(super) waker: RefCell<Option<Waker>>,
    /// Last activity, seconds; as of the tick that saw `moved`.
    pub(super) since: Cell<u32>,
    pub(super) moved: Cell<bool>,
    /// Seconds of silence allowed; 0: no limit now.
    pub(super) limit: Cell<u32>,
    pub(super) tunnel: Cell<bool>,
    pub(super) share: Cell<Share>,
    /// Of the worker a tunnel leads to, or a poll waits at; 0 for none.
    pub(super) worker: Cell<u64>,
    /// A tunnel that is to say its worker's farewell, and end.
    pub(super) closing: Cell<bool>,
    /// No request has begun on it.
    pub(super) fresh: Cell<bool>,
    /// Nothing has happened on it for a second or two: it may give its buffers back.
    pub(super) still: Cell<bool>,
    /// No request is under way on it, nor the head of one: it may make room for another.
    pub(super) spare: Cell<bool>,
    pub(super) listener_removed: Removed,
}

/// Set, for all connections of a listener on one thread, once a reload has removed it.
pub type Removed = Rc<Cell<bool>>;

impl Live {
    /// What it is told now.
    pub fn order(&self) -> Order {
        self.order.get()
    }

    /// Something moved: its silence begins anew, even if it was just found to be too long. The next tick reads the clock
    /// for it: up to a second too late, never too early, and no clock read a message.
    pub fn touch(&self) {
        self.moved.set(true);
        if self.order.get() == Order::Idle {
            self.order.set(Order::GoOn);
        }
    }

    /// A request has begun.
    pub fn begin(&self, stopping: bool) {
        self.limit.set(0);
        self.still.set(false);
        self.spare.set(false);
        if self.fresh.replace(false) {
            if stopping {
                self.tell(Order::Stop);
            } else if self.listener_removed.get() {
                self.tell(Order::Leave);
            }
        }
    }

    /// No more requests: what is under way is the last. Whether that is news.
    pub fn last(&self) -> bool {
        let goes_on = matches!(self.order.get(), Order::GoOn | Order::Idle);
        if goes_on {
            self.tell(Order::Leave);
        }
        goes_on
    }

    /// Ends at once.
    pub fn cut(&self) {
        self.tell(Order::Cut);
    }

    /// No request has begun on it.
    pub fn is_fresh(&self) -> bool {
        self.fresh.get()
    }

    /// Whether nothing has happened for a second or two.
    pub fn is_still(&self) -> bool {
        self.still.get()
    }

    /// It was heeded; said again after the next silent second.
    pub fn stirs(&self) {
        self.still.set(false);
    }

    /// Silence allowed from the last activity on, seconds; 0: no limit.
    pub fn limit(&self, seconds: u32) {
        self.limit.set(seconds);
    }

    /// It waits for a request, for so many seconds.
    pub fn waits_for_request(&self, seconds: u32) {
        self.limit.set(seconds);
        self.spare.set(true);
    }

    /// A request's head has begun to come; the rest may take so many seconds.
    pub fn head_begins(&self, seconds: u32) {
        self.touch();
        self.limit.set(seconds);
        self.spare.set(false);
    }

    /// It waits for a request, and has done nothing for a second or two.
    pub(super) fn is_spare(&self) -> bool {
        self.spare.get() && self.still.get() && !self.moved.get() && self.order.get() != Order::Cut
    }

    /// From now on it is a tunnel to the worker of this serial, which has longer to end than a request, and its own limit of
    /// silence. It outlives its listener.
    pub fn become_tunnel(&self, limit: u32, worker: u64) {
        self.tunnel.set(true);
        self.worker.set(worker);
        if self.order.get() == Order::Leave {
            self.order.set(Order::GoOn);
        }
        self.limit.set(limit);
        self.spare.set(false);
        self.touch();
    }

    /// Whether tunnels go on over it (HTTP/2); they have longer to end than requests.
    pub fn carries_tunnels(&self, carries: bool) {
        self.share.set(if carries { Share::Carrier } else { Share::Whole });
    }

    /// A poll waits at the worker of this serial; 0 for none.
    pub fn waits_at(&self, worker: u64) {
        self.worker.set(worker);
    }

    /// Its worker is drained, and it is this tunnel's turn to end.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Whom to wake when the order changes; `true`: it is another one. Not the same for life: a tunnel is another task than
    /// the connection it was.
    pub fn watch(&self, waker: &Waker) -> bool {
        let mut slot = self.waker.borrow_mut();
        let is_new = !slot.as_ref().is_some_and(|known| known.will_wake(waker));
        if is_new {
            *slot = Some(waker.clone());
        }
        is_new
    }

    /// Ready once it is cut, or was silent for too long: for what has nothing to finish.
    pub async fn given_up(&self) {
        poll_fn(|cx| {
            self.watch(cx.waker());
            match self.order.get() {
                Order::GoOn | Order::Leave | Order::Stop => Poll::Pending,
                Order::Idle | Order::Cut => Poll::Ready(()),
            }
        })
        .await;
    }

    pub(super) fn tell(&self, order: Order) {
        if self.order.get() == Order::Cut {
            return;
        }
        self.order.set(order);
        self.wake();
    }

    pub(super) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// A [`Live`] entry; dropping it takes it off the thread's list.
pub struct Registered {
    pub(super) live: Rc<Live>,
    pub(super) thread: Rc<Thread>,
    pub(super) index: u32,
}

impl std::ops::Deref for Registered {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.live
    }
}

impl Registered {
    /// The thread it lives on.
    pub fn thread(&self) -> &Rc<Thread> {
        &self.thread
    }

    /// It is one of this address's connections, until it is dropped.
    pub fn counted_for(&self, address: u64) {
        if let Some(entry) = self.thread.live.borrow_mut().get_mut(self.index as usize) {
            entry.address = address;
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let entry = self.thread.live.borrow_mut().try_remove(self.index as usize);
        if self.live.share.get() != Share::Poll {
            self.thread.shared.clients.fetch_sub(1, Relaxed);
        }
        if let Some(address) = entry.map(|entry| entry.address).filter(|address| *address != 0) {
            self.thread.shared.caps.connection_over(address);
        }
    }
}

/// A place on a thread's list.
pub(super) struct Entry {
    pub(super) live: Rc<Live>,
    /// The key of the address it is counted for; 0 for none. Here, because the list has room for it, and a tunnel's task
    /// must stay small.
    pub(super) address: u64,
}

impl std::ops::Deref for Entry {
    type Target = Live;

    fn deref(&self) -> &Live {
        &self.live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every idle tunnel has one.
    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<Live>() <= 56, "{} bytes", size_of::<Live>());
    }
}
