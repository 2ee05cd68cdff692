//! Removes expired messages, counts the others, mends their numbers, and looks after users from time to time. Left out:
//! delivery (`postman`).

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::count::{self, CountWalk, UpstreamKeys};
use super::list::{self, MailList};
use super::message;
use super::postman::Postman;
use crate::fleet::StoreFault;
use crate::metrics::MailResult;

/// Interval at which expired messages are removed and messages are counted.
const SWEEP: Duration = Duration::from_secs(5);

/// Interval at which all users with sockets are looked after: word from another stickyd may have been lost.
const LOOK_AFTER_ALL: Duration = Duration::from_secs(60);

impl Postman {
    /// Removes expired messages and counts the others, for as long as the thread lives.
    pub(super) async fn sweep(self: Rc<Self>, upstreams: impl Fn() -> Vec<String>) {
        let mut looked = Instant::now();
        // One per upstream with a queue; those of upstreams that a reload has removed go with the next sweep.
        let mut walks: HashMap<String, CountWalk> = HashMap::new();
        loop {
            tokio::time::sleep(SWEEP).await;
            self.queues.tidy();
            if self.fleet.has_store() {
                let looks_after_all = looked.elapsed() >= LOOK_AFTER_ALL;
                if looks_after_all {
                    looked = Instant::now();
                }
                self.queues.wake_all(looks_after_all);
            }
            let mut counts = Vec::new();
            let upstreams = upstreams();
            walks.retain(|upstream, _| upstreams.contains(upstream));
            for upstream in upstreams {
                self.queues.tell_dropped(&upstream, 0);
                let keys = self.queues.keys(&self.fleet, &upstream);
                let walk = walks.entry(upstream.clone()).or_default();
                if self.fleet.has_store()
                    && self.sweep_one(&keys).await.is_ok()
                    && walk.go_on(&self.fleet, &keys).await.is_ok()
                    && let Ok((messages, _)) = count::stored(&self.fleet, &keys).await
                {
                    counts.push((upstream, messages));
                }
            }
            if !counts.is_empty() {
                *crate::locks::lock(&self.queues.stored) = counts;
            }
        }
    }

    async fn sweep_one(&self, keys: &UpstreamKeys) -> Result<(), StoreFault> {
        loop {
            let now_ms = self.fleet.fleet_ms();
            let users = list::overdue(&self.fleet, keys, now_ms).await?;
            for user in &users {
                let list = MailList::new(&self.fleet, keys, *user);
                let page = list.page(0, list::USERS).await?;
                let is_over = |raw: &Vec<u8>| message::expires_ms(raw).is_none_or(|at| at <= now_ms);
                let over: Vec<_> = page.into_iter().filter(is_over).collect();
                self.queues.count(MailResult::Expired, list.remove(&over).await?);
                list.order_anew().await?;
            }
            if users.len() < list::USERS {
                return Ok(());
            }
        }
    }
}
