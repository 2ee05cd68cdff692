//! Workers that do not answer a search: a single one is the owner by elimination, several are probed again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Response;

use super::attempt::AttemptStep;
use super::{OwnerSearch, Verdicts};
use crate::affinity::discoveries::search::ProbeVerdict;
use crate::metrics::Discovery;
use crate::proxy::access_log::Record;
use crate::proxy::discover::{SEARCH_POLL, probe};
use crate::proxy::respond::{self, Problem};
use crate::proxy::response_body::Reply;
use crate::sockets::EndReason;
use crate::upstream::worker::Worker;

/// Maximum pause between two probes of the same silent workers.
const RARE_LOOK: Duration = Duration::from_millis(500);

impl OwnerSearch<'_> {
    /// Handles silent workers: a single one is the owner by elimination; several are probed again until all but one
    /// have answered.
    pub(super) async fn wait_for(
        &mut self,
        mut silent: Vec<Arc<Worker>>,
        deadline: Instant,
        record: &mut Record,
    ) -> Option<(Discovery, Response<Reply>)> {
        let mut pause = SEARCH_POLL;
        loop {
            silent.retain(|worker| worker.serves() && !self.has_refused(worker));
            if silent.len() < 2 {
                break;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Some((Discovery::Undecided, respond::problem(Problem::Undecided)));
            };
            let asked = probe::ask_all(self.job, &self.copies.head, &silent);
            let Ok(verdicts) = tokio::time::timeout(left, asked).await else { continue };
            let spoke: Verdicts =
                verdicts.into_iter().filter(|(_, verdict)| *verdict != ProbeVerdict::Silent).collect();
            self.heed(&spoke);
            let before = silent.len();
            silent.retain(|worker| !spoke.iter().any(|(known, _)| Arc::ptr_eq(known, worker)));
            if let Some(done) = self.walk(spoke, &mut silent, record).await {
                return Some(done);
            }
            if silent.len() == before {
                // Workers that cannot be reached are silent at once, and each probe costs them a connect.
                tokio::time::sleep(pause.min(left)).await;
                pause = (pause * 2).min(RARE_LOOK);
            }
        }
        match silent.pop() {
            Some(owner) => self.eliminate(&owner, record).await,
            None => None,
        }
    }

    /// Takes the only worker that has not refused for the owner.
    pub(super) async fn eliminate(
        &mut self,
        owner: &Arc<Worker>,
        record: &mut Record,
    ) -> Option<(Discovery, Response<Reply>)> {
        // Pinned before it answers: the worker may stay silent for long, and the session's other requests belong there,
        // too.
        self.eliminated = true;
        let pinned_here = self.pin(owner);
        match self.attempt(owner, record).await {
            AttemptStep::Done(result, response) => Some((result, response)),
            // The pin stays, because no other worker can be the owner.
            AttemptStep::Unreached => Some((Discovery::Undecided, respond::problem(Problem::Undecided))),
            AttemptStep::Refused | AttemptStep::Closed => {
                if pinned_here {
                    self.job.conn.thread.shared.sessions.forget(self.key, EndReason::Refused);
                }
                None
            }
        }
    }
}
