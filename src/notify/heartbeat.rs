//! The heartbeat: a regular GET request by which an outside watcher knows that stickyd lives.
//!
//! It comes from the control thread, between two looks at the workers, so it stops if that thread hangs. A failure is
//! logged when it begins and when it is over.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use http_body_util::Full;
use hyper::http::Request;
use tokio_util::task::TaskTracker;

use super::deliver;
use super::handle::BeatState;
use super::incidents::Moment;
use crate::config::notify::Heartbeat;
use crate::outbound::Outbound;

/// The last request: when it ended, and why it failed.
type LastBeat = Rc<RefCell<Option<(Instant, Option<String>)>>>;

/// The heartbeat as configured, and how it goes.
#[derive(Default)]
pub(super) struct Beats {
    beat: Option<(Heartbeat, Option<Outbound>)>,
    next: Moment,
    last: LastBeat,
    tasks: TaskTracker,
}

impl Beats {
    /// Follows a changed configuration.
    pub(super) fn follow(&mut self, heartbeat: Option<&Heartbeat>, tasks: &TaskTracker) {
        if self.beat.as_ref().map(|(old, _)| old) == heartbeat {
            return;
        }
        let client = |heartbeat: &Heartbeat| (heartbeat.clone(), deliver::client(&heartbeat.target, tasks));
        *self = Self { beat: heartbeat.map(client), tasks: tasks.clone(), ..Self::default() };
    }

    /// Sends the request if it is time for it.
    pub(super) fn look(&mut self, now: Moment) {
        let Some((heartbeat, Some(client))) = &self.beat else { return };
        if now < self.next {
            return;
        }
        self.next = now.saturating_add(heartbeat.every);
        let request = Request::get(heartbeat.target.url.clone()).body(Full::default());
        let (client, last) = (client.clone(), self.last.clone());
        let Ok(request) = request else { return };
        self.tasks.spawn_local(async move {
            let error = match client.send(request).await {
                Ok(answer) if answer.status.is_success() => None,
                Ok(answer) => Some(format!("the answer was {}", answer.status.as_u16())),
                Err(fault) => Some(fault.to_string()),
            };
            let had_failed = last.borrow().as_ref().is_some_and(|(_, error)| error.is_some());
            match &error {
                Some(error) if !had_failed => tracing::warn!(%error, "heartbeat failed"),
                None if had_failed => tracing::info!("heartbeat succeeds again"),
                Some(_) | None => {}
            }
            *last.borrow_mut() = Some((Instant::now(), error));
        });
    }

    /// Returns the heartbeat as operators see it.
    pub(super) fn state(&self) -> Option<BeatState> {
        let (heartbeat, _) = self.beat.as_ref()?;
        let last = self.last.borrow().as_ref().map(|(at, error)| (at.elapsed(), error.clone()));
        Some(BeatState { host: heartbeat.target.host().to_owned(), every: heartbeat.every, last })
    }
}
