//! What a thread knows about each live connection and tunnel: its current order, its idle time, and its waker.
//!
//! There is one [`LiveHandle`] per connection, in the list of its [`Thread`](super::Thread). [`Registered`] is the
//! connection's own handle, and removes it from the list on drop. Left out: the walks over the list.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Waker;

use super::Thread;
use crate::clock::Seconds;
use crate::keys::AddressHash;
use crate::upstream::serial::WorkerSerial;

/// Order that a live connection or tunnel is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadOrder {
    /// No order: the connection goes on.
    GoOn,
    /// The connection was silent for longer than its limit.
    Idle,
    /// The listener was removed: finish what is under way, then close. Tunnels never get this order.
    Leave,
    /// stickyd stops: finish what is under way, then close. A tunnel sends a Close with 1001.
    Stop,
    /// The time to finish is over: end at once.
    Cut,
}

/// Part of a client connection that an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// The whole connection, and it carries no tunnel over HTTP/2.
    Whole,
    /// The whole connection, and it carries tunnels over HTTP/2: it has as long to end as tunnels have.
    Carrier,
    /// One poll of an HTTP/2 connection, registered only so that it can be woken.
    Poll,
}

/// The handle by which the thread reaches a live connection or tunnel.
pub struct LiveHandle {
    pub(crate) order: Cell<ThreadOrder>,
    pub(crate) waker: RefCell<Option<Waker>>,
    /// Time of the last activity in seconds, as of the tick that saw `moved`.
    pub(crate) since: Cell<Seconds>,
    pub(crate) moved: Cell<bool>,
    /// Seconds of silence allowed; 0 for no limit at present.
    pub(crate) limit: Cell<u32>,
    pub(crate) tunnel: Cell<bool>,
    pub(crate) share: Cell<Share>,
    /// Serial of the worker that a tunnel leads to or a poll waits at.
    pub(crate) worker: Cell<Option<WorkerSerial>>,
    /// Whether this tunnel has to send its worker's farewell and end.
    pub(crate) closing: Cell<bool>,
    /// Whether no request has begun on the connection yet.
    pub(crate) fresh: Cell<bool>,
    /// Whether nothing has happened for a second or two, so that the connection may release its buffers.
    pub(crate) still: Cell<bool>,
    /// Whether no request is under way, nor the head of one, so that the connection may be ended to make room.
    pub(crate) spare: Cell<bool>,
    pub(crate) listener_removed: ListenerRemoved,
}

/// Flag of all connections of one listener on one thread; set once a reload has removed the listener.
pub(crate) type ListenerRemoved = Rc<Cell<bool>>;

impl LiveHandle {
    /// Returns the order it is under now.
    pub fn order(&self) -> ThreadOrder {
        self.order.get()
    }

    /// Records activity: the idle time starts again, even if the limit was just found to be exceeded. The clock is read
    /// by the next tick, so no message costs a clock reading; the idle time may end up to a second late, never early.
    pub fn touch(&self) {
        self.moved.set(true);
        if self.order.get() == ThreadOrder::Idle {
            self.order.set(ThreadOrder::GoOn);
        }
    }

    /// Records that a request has begun.
    pub fn begin(&self, stopping: bool) {
        self.limit.set(0);
        self.still.set(false);
        self.spare.set(false);
        if self.fresh.replace(false) {
            if stopping {
                self.tell(ThreadOrder::Stop);
            } else if self.listener_removed.get() {
                self.tell(ThreadOrder::Leave);
            }
        }
    }

    /// Makes the request under way the last one of the connection; returns whether no such order was given before.
    pub fn leave_after_this(&self) -> bool {
        let goes_on = matches!(self.order.get(), ThreadOrder::GoOn | ThreadOrder::Idle);
        if goes_on {
            self.tell(ThreadOrder::Leave);
        }
        goes_on
    }

    /// Ends the connection or tunnel at once.
    pub fn cut(&self) {
        self.tell(ThreadOrder::Cut);
    }

    /// Whether no request has begun on the connection yet.
    pub fn is_fresh(&self) -> bool {
        self.fresh.get()
    }

    /// Whether nothing has happened for a second or two.
    pub fn is_still(&self) -> bool {
        self.still.get()
    }

    /// Clears the idle mark; the next idle tick sets it again.
    pub fn mark_awake(&self) {
        self.still.set(false);
    }

    /// Sets the silence allowed from the last activity on, in seconds; 0 for no limit.
    pub fn limit(&self, seconds: u32) {
        self.limit.set(seconds);
    }

    /// Marks the connection as waiting for a request, for at most this many seconds.
    pub fn start_idle_timer(&self, seconds: u32) {
        self.limit.set(seconds);
        self.spare.set(true);
    }

    /// Marks that the head of a request has begun to arrive; the rest of it may take this many seconds.
    pub fn start_head_timer(&self, seconds: u32) {
        self.touch();
        self.limit.set(seconds);
        self.spare.set(false);
    }

    /// Whether the connection waits for a request and has done nothing for a second or two.
    pub(crate) fn is_spare(&self) -> bool {
        self.spare.get() && self.still.get() && !self.moved.get() && self.order.get() != ThreadOrder::Cut
    }

    /// Turns the entry into a tunnel to the worker with this serial. A tunnel has its own limit of silence, has longer
    /// to end than a request, and outlives its listener.
    pub fn become_tunnel(&self, limit: u32, worker: WorkerSerial) {
        self.tunnel.set(true);
        self.worker.set(Some(worker));
        if self.order.get() == ThreadOrder::Leave {
            self.order.set(ThreadOrder::GoOn);
        }
        self.limit.set(limit);
        self.spare.set(false);
        self.touch();
    }

    /// Sets whether the connection carries tunnels over HTTP/2; these have longer to end than requests.
    pub fn carries_tunnels(&self, carries: bool) {
        self.share.set(if carries { Share::Carrier } else { Share::Whole });
    }

    /// Sets the serial of the worker at which a poll waits.
    pub fn set_worker(&self, worker: Option<WorkerSerial>) {
        self.worker.set(worker);
    }

    /// Whether the worker is drained and it is this tunnel's turn to end.
    pub fn is_closing(&self) -> bool {
        self.closing.get()
    }

    /// Sets the task to wake when the order changes; returns whether it is a new one. It can change: a tunnel runs in
    /// another task than the connection it came from.
    pub fn watch(&self, waker: &Waker) -> bool {
        let mut slot = self.waker.borrow_mut();
        let is_new = !slot.as_ref().is_some_and(|known| known.will_wake(waker));
        if is_new {
            *slot = Some(waker.clone());
        }
        is_new
    }

    pub(crate) fn tell(&self, order: ThreadOrder) {
        if self.order.get() == ThreadOrder::Cut {
            return;
        }
        self.order.set(order);
        self.wake();
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// Handle of a [`LiveHandle`] entry; dropping it removes the entry from the thread's list.
pub struct Registered {
    pub(crate) live: Rc<LiveHandle>,
    pub(crate) thread: Rc<Thread>,
    pub(crate) index: u32,
}

impl std::ops::Deref for Registered {
    type Target = LiveHandle;

    fn deref(&self) -> &LiveHandle {
        &self.live
    }
}

impl Registered {
    /// Returns the thread the entry lives on.
    pub fn thread(&self) -> &Rc<Thread> {
        &self.thread
    }

    /// Counts the connection for this address until the handle is dropped.
    pub fn counted_for(&self, address: AddressHash) {
        if let Some(entry) = self.thread.live.borrow_mut().get_mut(self.index as usize) {
            entry.address = Some(address);
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let entry = self.thread.live.borrow_mut().try_remove(self.index as usize);
        if self.live.share.get() != Share::Poll {
            self.thread.shared.clients.fetch_sub(1, Relaxed);
        }
        if let Some(address) = entry.and_then(|entry| entry.address) {
            self.thread.shared.caps.connection_over(address);
        }
    }
}

/// One entry of a thread's list.
pub(crate) struct ThreadEntry {
    pub(crate) live: Rc<LiveHandle>,
    /// Key of the address that the connection is counted for, if any. It is kept here because the list has room for
    /// it, whereas a tunnel's task must stay small.
    pub(crate) address: Option<AddressHash>,
}

impl std::ops::Deref for ThreadEntry {
    type Target = LiveHandle;

    fn deref(&self) -> &LiveHandle {
        &self.live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every idle tunnel has an entry, so its size matters.
    #[test]
    fn an_entry_is_small() {
        assert!(size_of::<LiveHandle>() <= 56, "{} bytes", size_of::<LiveHandle>());
    }
}
