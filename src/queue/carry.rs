//! Carries messages to one socket: over its tunnel, or in the answers to its polls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::list::MailList;
use super::postman::{DeliveryOutcome, LOOK, Postman, Then, may_take};
use crate::broadcast::{Broadcast, Fate};
use crate::fleet::StoreFault;
use crate::sockets::{MailUser, Mailbag, OfferProgress, Socket};
use crate::websocket::frames::{Mark, ping_frame, text_frame};

/// Time in which a WebSocket has to take messages.
const TAKES: Duration = Duration::from_secs(5);

/// Time in which a client has to confirm messages where another socket can get them, and otherwise: what was sent
/// before may take a slow connection long.
const CONFIRMS: Duration = Duration::from_secs(10);
const CONFIRMS_SLOWLY: Duration = Duration::from_secs(60);

/// Pause of a client that polls, so that another stickyd gets the claim.
const GIVES_WAY: Duration = Duration::from_secs(3);

/// Interval at which a claim is kept.
const KEEP: Duration = Duration::from_secs(5);

impl Postman {
    /// Offers packets to the polls of a client, and waits until it has read them.
    pub(super) async fn by_poll(
        &self,
        list: &MailList<'_>,
        token: &str,
        socket: &Arc<Socket>,
        bag: &Arc<Mailbag>,
        packets: Vec<String>,
    ) -> Result<DeliveryOutcome, StoreFault> {
        if !bag.offer(list.user, packets) {
            return Ok(DeliveryOutcome::NotTaken);
        }
        bag.asks(false);
        let mut kept = Instant::now();
        loop {
            bag.changed(LOOK).await;
            let has_moved = !matches!(socket.takes_messages(), Err(Fate::Polling | Fate::NotReady));
            let is_over = !socket.is_live() || socket.is_ordered() || bag.user() != Some(list.user);
            match bag.progress() {
                // Withdrawn, because the socket belongs to another user by now.
                None => return Ok(DeliveryOutcome::Unconfirmed),
                Some(OfferProgress::Arrived) => {
                    bag.take_back();
                    return Ok(DeliveryOutcome::Confirmed);
                }
                // A client moves to its WebSocket only after it has read the answer to its poll.
                Some(OfferProgress::Sent) if has_moved && !is_over && socket.has_tunnel() => {
                    bag.take_back();
                    return Ok(DeliveryOutcome::Confirmed);
                }
                // It may have been taken since: then the client can still read and confirm it.
                Some(OfferProgress::Waits) if (has_moved || is_over) && bag.withdraw() => {
                    return Ok(DeliveryOutcome::NotTaken);
                }
                _ if is_over => {
                    bag.take_back();
                    return Ok(DeliveryOutcome::Unconfirmed);
                }
                Some(OfferProgress::Waits) => {
                    if let Some(then) = self.gives_way(list.user, socket)
                        && bag.withdraw()
                    {
                        return Ok(DeliveryOutcome::GaveWay(then));
                    }
                }
                _ => {}
            }
            if kept.elapsed() >= KEEP {
                kept = Instant::now();
                if let Err(fault) = list.keep_claim(token).await {
                    bag.take_back();
                    return Err(fault);
                }
            }
        }
    }

    /// Whether a client that polls should leave its messages to another socket, and what comes then.
    fn gives_way(&self, user: MailUser, socket: &Arc<Socket>) -> Option<Then> {
        if self.wanted.borrow_mut().remove(&user) {
            return Some(Then::Later(GIVES_WAY));
        }
        if self.busy.borrow().get(&user) != Some(&true) {
            return None;
        }
        self.has_better(user, socket).then_some(Then::Now)
    }

    /// Whether a newer socket of the user can get messages.
    fn has_better(&self, user: MailUser, socket: &Arc<Socket>) -> bool {
        let Some((_, sockets)) = self.queues.sockets(user) else { return false };
        sockets.iter().rev().take_while(|other| !Arc::ptr_eq(other, socket)).any(|other| may_take(other))
    }

    /// Sends packets over a tunnel with a Ping after them, and waits for its Pong.
    pub(super) async fn by_tunnel(
        &self,
        list: &MailList<'_>,
        token: &str,
        socket: &Arc<Socket>,
        bag: &Arc<Mailbag>,
        packets: &[String],
    ) -> Result<DeliveryOutcome, StoreFault> {
        let payload = (crate::random::u64() | 1).to_be_bytes();
        let mark = Mark::of(&payload);
        let mut frames: Vec<u8> = packets.iter().flat_map(|packet| text_frame(packet)).collect();
        frames.extend_from_slice(ping_frame(&payload).as_ref());
        let until = Instant::now() + TAKES;
        let broadcast = Broadcast::of_frames(Bytes::from(frames));
        let Some(mut posted) = broadcast.post(false) else { return Ok(DeliveryOutcome::NotTaken) };
        while let Err(back) = socket.try_post(posted) {
            if Instant::now() >= until || bag.user() != Some(list.user) {
                return Ok(DeliveryOutcome::NotTaken);
            }
            posted = back;
            tokio::time::sleep(LOOK).await;
        }
        let is_decided = tokio::select! {
            decided = tokio::time::timeout(TAKES, broadcast.decided()) => decided.is_ok(),
            () = bag.left_by(list.user) => false,
            () = ended(socket) => false,
        };
        // What the tunnel has not taken by now is not sent any more, and needs no memory.
        let counts = broadcast.finish();
        socket.drop_late_posts();
        let is_sent = counts.get(Fate::Reached as usize).is_some_and(|reached| *reached > 0);
        let is_confirmed = match (is_sent, is_decided) {
            (true, _) => self.is_confirmed(list, token, socket, bag, mark).await?,
            // A part of it may be on its way.
            (false, false) => bag.confirmed(mark, LOOK).await,
            (false, true) => return Ok(DeliveryOutcome::NotTaken),
        };
        Ok(if is_confirmed { DeliveryOutcome::Confirmed } else { DeliveryOutcome::Unconfirmed })
    }

    /// Waits for the Pong of a client: long if its connection is slow, unless another socket can get the messages.
    async fn is_confirmed(
        &self,
        list: &MailList<'_>,
        token: &str,
        socket: &Arc<Socket>,
        bag: &Arc<Mailbag>,
        mark: Mark,
    ) -> Result<bool, StoreFault> {
        let began = Instant::now();
        loop {
            let confirmed = tokio::select! {
                confirmed = bag.confirmed(mark, KEEP) => confirmed,
                () = ended(socket) => return Ok(false),
            };
            let is_wanted = || self.wanted.borrow().contains(&list.user) || self.has_better(list.user, socket);
            if confirmed || began.elapsed() >= CONFIRMS_SLOWLY || (began.elapsed() >= CONFIRMS && is_wanted()) {
                return Ok(confirmed);
            }
            list.keep_claim(token).await?;
        }
    }
}

/// Waits until a tunnel has ended, which nothing tells.
async fn ended(socket: &Socket) {
    while socket.is_live() && socket.has_tunnel() {
        tokio::time::sleep(LOOK).await;
    }
}
