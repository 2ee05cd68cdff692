//! A request's body while it comes from its client: how fast, and how much of it.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use hyper::Response;
use hyper::body::{Body, Incoming};

use super::body::Reply;
use super::respond::{self, Problem};
use crate::listener::conn::Conn;
use crate::metrics::Limit;
use crate::pace::{Pace, Paced, Verdict};

/// Goes with a body to whoever reads it.
pub struct Upload {
    paced: Paced,
    conn: Rc<Conn>,
    /// What it may still bring.
    left: u64,
}

impl Upload {
    /// Of a body that may have this many bytes; `None` for one that is over already.
    pub fn of(conn: &Rc<Conn>, body: &Incoming, most: Option<u64>) -> Option<Box<Self>> {
        if body.is_end_stream() {
            return None;
        }
        conn.uploads.set(conn.uploads.get() + 1);
        Some(Box::new(Self { paced: Paced::begin(&conn.thread), conn: conn.clone(), left: most.unwrap_or(u64::MAX) }))
    }

    /// For who answers.
    pub fn pace(&self) -> Rc<Pace> {
        self.paced.pace().clone()
    }

    /// The next piece is the client's to send. An answer that has begun cannot say why it ends: the connection is cut.
    pub fn waits(&self, cx: &Context<'_>) {
        self.paced.waits(cx.waker());
        if self.paced.verdict().is_some() {
            self.conn.cut_if_answering();
        }
    }

    /// A piece came; `false` when it is too much, and must go nowhere.
    pub fn brought(&mut self, bytes: usize, cx: &Context<'_>) -> bool {
        self.paced.moved(bytes);
        match self.left.checked_sub(bytes as u64) {
            Some(left) => self.left = left,
            None => {
                self.paced.waits(cx.waker());
                self.paced.give_up(Verdict::TooLarge);
                self.conn.cut_if_answering();
                return false;
            }
        }
        true
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.conn.uploads.set(self.conn.uploads.get().saturating_sub(1));
    }
}

/// The answer, or — once its body is given up — the word for that; whatever was under way is dropped then.
pub(super) async fn unless_given_up(
    conn: &Conn,
    pace: Option<Rc<Pace>>,
    answer: impl Future<Output = Response<Reply>>,
) -> Response<Reply> {
    let Some(pace) = pace else { return answer.await };
    let mut answer = pin!(answer);
    let answered = poll_fn(|cx| match pace.verdict() {
        Some(verdict) => Poll::Ready(Err(verdict)),
        None => answer.as_mut().poll(cx).map(Ok),
    });
    let (limit, problem) = match answered.await {
        Ok(answer) => {
            conn.answering.set(true);
            return answer;
        }
        Err(Verdict::Slow) => (Limit::SlowBody, Problem::Slow),
        Err(Verdict::TooLarge) => (Limit::MaxBody, Problem::TooLarge),
    };
    conn.thread.shared.metrics.limits.reached(limit);
    respond::problem(problem)
}
