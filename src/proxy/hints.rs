//! Informational responses of a worker, such as 103 (Early Hints): passed on to the client while its response is waited
//! for.

use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::header;

use super::{Job, headers};
use crate::upstream::exchange::Exchange;

/// An exchange whose informational responses go to its client's connection, which sends them.
pub(crate) struct HintedExchange<'a> {
    job: &'a Job,
    exchange: Exchange,
}

impl<'a> HintedExchange<'a> {
    /// Wraps an exchange made for `job`.
    pub(crate) fn new(job: &'a Job, exchange: Exchange) -> Self {
        Self { job, exchange }
    }

    /// The exchange itself, which no longer needs its client.
    pub(crate) fn into_inner(self) -> Exchange {
        self.exchange
    }

    /// Takes the request's head as it was written; see [`Exchange::take_head`].
    pub(crate) fn take_head(&mut self) -> Option<Vec<u8>> {
        self.exchange.take_head()
    }
}

impl Future for HintedExchange<'_> {
    type Output = <Exchange as Future>::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = Pin::new(&mut self.exchange).poll(cx);
        for mut head in self.exchange.take_interim() {
            headers::to_client(&mut head.fields, false);
            // It has no body (RFC 9110 §15.2), whatever it declares.
            for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::TE, header::TRAILER] {
                head.fields.remove(name);
            }
            self.job.conn.interim.borrow_mut().push(head);
        }
        polled
    }
}
