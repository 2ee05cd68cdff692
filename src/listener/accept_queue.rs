//! The queue of connections that wait on a listening socket, accepted without calls that find nothing.
//!
//! tokio's listener accepts until the kernel reports that nothing is left, and the kernel creates a socket and a file
//! before it looks: 1.7 µs wasted after almost every new connection of a server that is not overloaded. Here the kernel
//! is first asked whether a connection waits (`poll`, a quarter of that cost), and a second registration of the socket
//! tells when to ask.
//!
//! The queue also makes sure that connections which arrived together are not probed together by keep-alive: after a
//! reconnect storm thousands of probes would leave at one instant, more than a queue on their path holds (1,000 per CPU
//! where they pass `net.core.netdev_max_backlog`), and live but silent clients would be taken for dead: 817 of 9,000,
//! measured.
//!
//! What becomes of an accepted connection is not decided here.

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

/// Seconds of silence before the first keep-alive probe, used in turn. With the interval in [`super::KEEPALIVE`] and
/// the user time-out, a client that does not answer is gone 25, 26 or 27 s after the last packet from it.
const ASK_AFTER_S: [u64; 6] = [9, 14, 11, 15, 10, 13];

/// Number of successive connections that get the same of these times. Connections that arrive within the kernel's timer
/// granularity, a quarter of a second, then get different times; and the option is set seldom enough to cost nothing.
/// It is inherited from the listening socket; setting it on each connection would cost a system call per connection.
const ALIKE: u32 = 32;

/// A listening socket and its queue of waiting connections.
pub(crate) struct AcceptQueue {
    socket: TcpListener,
    /// Second registration of the socket. It is notified of each arrival, also of connections that were accepted
    /// together with the one before.
    arrivals: AsyncFd<OwnedFd>,
    /// Number of connections accepted so far; wraps around.
    taken: Cell<u32>,
}

impl AcceptQueue {
    /// Wraps a listening socket.
    ///
    /// # Errors
    /// No descriptor is left for the second registration.
    pub(crate) fn of(socket: TcpListener) -> io::Result<Self> {
        #[allow(
            deprecated,
            reason = "an OwnedFd guarantees by itself what the unsafe replacement requires its caller to promise"
        )]
        let arrivals = AsyncFd::with_interest(socket.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self { socket, arrivals, taken: Cell::new(0) })
    }

    /// Waits for the next connection. If the call is cancelled, it has taken none.
    ///
    /// # Errors
    /// The peer aborted the connection, or descriptors or memory have run out.
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
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
        // There may be no connection after all: it came while the one before was being accepted, or another thread was
        // faster. Then this call waits on the listener's own registration. The second registration is notified of the
        // same arrival, so that notification is cleared afterwards.
        let accepted = self.socket.accept().await;
        self.forget_arrivals();
        accepted
    }

    /// Sets the keep-alive time that the next connections inherit. A failure is ignored: they then inherit the previous
    /// time.
    fn asks_others_at_another_time(&self, turn: u32) {
        if let Some(&seconds) = ASK_AFTER_S.get(turn as usize % ASK_AFTER_S.len()) {
            let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(seconds));
            let _ = SockRef::from(&self.socket).set_tcp_keepalive(&keepalive);
        }
    }

    /// Returns whether a connection waits. Also true if the kernel cannot be asked, since accept then reports the
    /// error.
    fn has_one(&self) -> bool {
        let mut asked = [PollFd::new(&self.socket, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
    }

    /// Clears the notification of arrivals; a connection that waits is found by [`Self::has_one`].
    fn forget_arrivals(&self) {
        if let Poll::Ready(Ok(mut told)) = self.arrivals.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
            told.clear_ready();
        }
    }

    /// Returns the plain listening socket.
    pub(crate) fn into_std(self) -> io::Result<std::net::TcpListener> {
        self.socket.into_std()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as Client;

    use super::*;

    fn queue() -> (AcceptQueue, SocketAddr) {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        (AcceptQueue::of(TcpListener::from_std(socket).unwrap()).unwrap(), address)
    }

    async fn takes(queue: &AcceptQueue, client: &Client) {
        let (_, peer) = queue.accept().await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }

    /// Lets the I/O driver process events; nothing else is running.
    async fn turn() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    #[tokio::test]
    async fn all_connections_are_accepted_however_they_arrive() {
        let (queue, address) = queue();
        let connect = || Client::connect(address).unwrap();
        // One by one; two at once; and one that arrives while another is being accepted, so that its event finds no
        // connection.
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
    async fn connections_that_arrive_together_are_not_probed_together() {
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
    async fn a_waiting_accept_is_woken_even_after_a_stale_notification() {
        let (queue, address) = queue();
        for _ in 0..3 {
            let (first, second) = (Client::connect(address).unwrap(), Client::connect(address).unwrap());
            takes(&queue, &first).await;
            takes(&queue, &second).await;
            // No connection waits, although both registrations have been notified since.
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
    async fn a_cancelled_accept_loses_no_connection() {
        let (queue, address) = queue();
        for _ in 0..3 {
            let gave_up = tokio::time::timeout(Duration::from_millis(5), queue.accept()).await;
            assert!(gave_up.is_err());
            takes(&queue, &Client::connect(address).unwrap()).await;
        }
    }
}
