//! What waits to be accepted on a socket, taken without asking in vain.
//!
//! tokio's listener accepts until the kernel says that there is nothing more, and the kernel makes a socket and a file before
//! it looks: 1.7 µs for nothing, behind almost every new connection of a server that is not overrun. Here the kernel is asked
//! whether there is one (`poll`, a quarter of that), and a second registration of the socket says when to ask.
//!
//! It also sees to it that connections which came together are not asked together whether they are alive: after a reconnect
//! storm thousands of questions would leave in one instant, more than a queue on their way holds (1,000 for each CPU where
//! they pass `net.core.netdev_max_backlog`), and live silent clients would be taken for dead: 817 of 9,000, measured.
//!
//! Leaves out what becomes of a connection.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{TcpListener, TcpStream};

/// Seconds of silence after which clients' kernels are asked, in turns. With [`super::KEEPALIVE`]'s interval and the user time-out
/// who does not answer is gone 25, 26 or 27 s after its last word.
const ASK_AFTER_S: [u64; 6] = [9, 14, 11, 15, 10, 13];

/// Connections that have the same of these: what comes within the kernel's quarter of a second differs, and the option is set
/// seldom enough to cost nothing (it is inherited; set on each, it would be a system call each).
const ALIKE: u32 = 32;

/// A listening socket.
pub struct Queue {
    socket: TcpListener,
    /// Told of each arrival, also of those that were taken together with the one before.
    arrivals: AsyncFd<OwnedFd>,
    /// Connections taken.
    taken: Cell<u32>,
}

impl Queue {
    /// What waits on this socket.
    ///
    /// # Errors
    /// No descriptor is left for it.
    pub fn of(socket: TcpListener) -> io::Result<Self> {
        #[allow(
            deprecated,
            reason = "an OwnedFd keeps by itself what the unsafe replacement asks its caller to promise"
        )]
        let arrivals = AsyncFd::with_interest(socket.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self { socket, arrivals, taken: Cell::new(0) })
    }

    /// The next connection. Cancelled, it has taken none.
    ///
    /// # Errors
    /// The peer's doing, or want of descriptors or memory.
    pub(super) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let accepted = self.take().await?;
        let taken = self.taken.get().wrapping_add(1);
        self.taken.set(taken);
        if taken.is_multiple_of(ALIKE) {
            self.asks_others_at_another_time(taken / ALIKE);
        }
        Ok(accepted)
    }

    async fn take(&self) -> io::Result<(TcpStream, SocketAddr)> {
        if self.has_one() {
            return self.socket.accept().await;
        }
        self.arrivals.readable().await?.clear_ready();
        // Nobody is there where it came while the one before was being taken, or another thread was faster: then this waits,
        // by the listener's own registration, and what it waited for is news to the other no more.
        let accepted = self.socket.accept().await;
        self.forget_arrivals();
        accepted
    }

    /// That it cannot be set is no reason to refuse anybody: then the time is the one before.
    fn asks_others_at_another_time(&self, turn: u32) {
        if let Some(&seconds) = ASK_AFTER_S.get(turn as usize % ASK_AFTER_S.len()) {
            let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(seconds));
            let _ = SockRef::from(&self.socket).set_tcp_keepalive(&keepalive);
        }
    }

    /// Whether somebody waits. Says yes where it cannot be asked: accept will say why.
    fn has_one(&self) -> bool {
        let mut asked = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
    }

    /// Whoever waits is found by [`Self::has_one`].
    fn forget_arrivals(&self) {
        if let Poll::Ready(Ok(mut told)) = self.arrivals.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
            told.clear_ready();
        }
    }

    /// As it was before.
    pub(super) fn into_std(self) -> io::Result<std::net::TcpListener> {
        self.socket.into_std()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as Client;

    use super::*;

    fn queue() -> (Queue, SocketAddr) {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        (Queue::of(TcpListener::from_std(socket).unwrap()).unwrap(), address)
    }

    async fn takes(queue: &Queue, client: &Client) {
        let (_, peer) = queue.accept().await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }

    /// Lets the driver look for events; nothing else is under way.
    async fn turn() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test]
    async fn all_are_taken_however_they_come() {
        let (queue, address) = queue();
        let connect = || Client::connect(address).unwrap();
        // One by one; two at once; one that comes while another is taken, and whose event is then of nobody.
        for _ in 0..3 {
            takes(&queue, &connect()).await;
            let (first, second) = (connect(), connect());
            takes(&queue, &first).await;
            takes(&queue, &second).await;
            let third = connect();
            turn().await;
            let fourth = connect();
            takes(&queue, &third).await;
            takes(&queue, &fourth).await;
            turn().await;
        }
        assert!(!queue.has_one());
    }

    #[tokio::test]
    async fn those_who_come_together_are_not_asked_together() {
        let (queue, address) = queue();
        let (mut times, mut clients) = (std::collections::BTreeMap::<u64, u32>::new(), Vec::new());
        for _ in 0..8 * ALIKE {
            clients.push(Client::connect(address).unwrap());
            let (accepted, _) = queue.accept().await.unwrap();
            *times.entry(SockRef::from(&accepted).tcp_keepalive_time().unwrap().as_secs()).or_default() += 1;
        }
        times.retain(|time, count| ASK_AFTER_S.contains(time) && *count <= 2 * ALIKE);
        assert_eq!(times.len(), ASK_AFTER_S.len(), "{times:?}");
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_next_also_after_news_of_nobody() {
        let (queue, address) = queue();
        for _ in 0..3 {
            let (first, second) = (Client::connect(address).unwrap(), Client::connect(address).unwrap());
            takes(&queue, &first).await;
            takes(&queue, &second).await;
            // Nobody is there, though both registrations have been told since.
            let waiting = queue.accept();
            let late = async {
                turn().await;
                Client::connect(address).unwrap()
            };
            let (accepted, client) = tokio::join!(waiting, late);
            assert_eq!(accepted.unwrap().1, client.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_loses_nobody() {
        let (queue, address) = queue();
        for _ in 0..3 {
            let gave_up = tokio::time::timeout(Duration::from_millis(5), queue.accept()).await;
            assert!(gave_up.is_err());
            takes(&queue, &Client::connect(address).unwrap()).await;
        }
    }
}
