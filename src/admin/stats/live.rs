//! Statistics of live sockets, added up over the list of sockets: by transport, by worker, and by the values of labels.

use std::collections::{BTreeMap, HashMap};

use super::super::api::{LabelCount, LabelCounts, SocketCounts};
use crate::clock::{self, Seconds};
use crate::sockets::{SHARDS, Socket, SocketRow, Sockets, Transport};
use crate::upstream::serial::WorkerSerial;
use crate::upstream::worker::Worker;

/// Maximum number of distinct label values that are counted; sockets with further values are counted together.
const VALUES: usize = 10_000;

/// Number of values shown per label: those with the most sockets.
const SHOWN: usize = 50;

/// Numbers of the sockets of one worker, or of several.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Sum {
    transports: [u64; 3],
    /// Sum of the sockets' ages, in seconds.
    age_s: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.transports.iter_mut().zip(other.transports).for_each(|(all, more)| *all += more);
        self.age_s += other.age_s;
    }

    pub(crate) fn describe(&self) -> SocketCounts {
        let live: u64 = self.transports.iter().sum();
        let of = |transport: Transport| self.transports.get(transport as usize).copied().unwrap_or(0);
        SocketCounts {
            average_age_s: self.age_s.checked_div(live),
            live,
            polling: of(Transport::Polling),
            websocket: of(Transport::WebSocket),
            websocket_h2: of(Transport::WebSocketH2),
        }
    }
}

/// Numbers of all live sockets. Computing them takes about 0.1 µs per socket, more with labels; shards are copied one
/// at a time.
#[derive(Default)]
pub(crate) struct LiveTotals {
    /// Sums by the worker's serial.
    workers: HashMap<WorkerSerial, Sum>,
    /// Number of sockets per value, by upstream and label; values beyond [`VALUES`] are counted under `None`.
    labels: BTreeMap<(String, String), HashMap<Option<String>, u64>>,
    values: usize,
}

impl LiveTotals {
    /// Counts all sockets that are live now; yields to other tasks in between.
    pub(crate) async fn of(sockets: &Sockets) -> Self {
        let (mut live, mut told, now_s) = (Self::default(), SocketRow::default(), clock::now_s());
        for shard in 0..SHARDS {
            for socket in sockets.shard(shard) {
                live.count(&socket, &mut told, now_s);
            }
            tokio::task::yield_now().await;
        }
        live
    }

    fn count(&mut self, socket: &Socket, told: &mut SocketRow, now_s: Seconds) {
        let mut transports = [0; 3];
        if let Some(count) = transports.get_mut(socket.transport() as usize) {
            *count = 1;
        }
        let age_s = now_s.since(socket.since_s()).into();
        self.workers.entry(socket.worker().serial).or_default().add(Sum { transports, age_s });
        socket.tell(told);
        for (name, value) in told.labels(socket) {
            self.count_label(&socket.worker().upstream, name, value);
        }
    }

    fn count_label(&mut self, upstream: &str, name: &str, value: &str) {
        let values = self.labels.entry((upstream.to_owned(), name.to_owned())).or_default();
        let value = Some(value.to_owned());
        if !values.contains_key(&value) && self.values >= VALUES {
            *values.entry(None).or_default() += 1;
            return;
        }
        let count = values.entry(value).or_default();
        self.values += usize::from(*count == 0);
        *count += 1;
    }

    /// Returns the sum over these workers.
    pub(crate) fn sum(&self, workers: &[&Worker]) -> Sum {
        let mut sum = Sum::default();
        workers.iter().filter_map(|worker| self.workers.get(&worker.serial)).for_each(|one| sum.add(*one));
        sum
    }

    /// Describes the labels of an upstream, each with the values that most sockets have.
    pub(crate) fn labels(&self, upstream: &str) -> BTreeMap<String, LabelCounts> {
        let own = self.labels.iter().filter(|((name, _), _)| name == upstream);
        let told = own.map(|((_, label), values)| {
            let mut known: Vec<_> =
                values.iter().filter_map(|(value, count)| Some((value.as_deref()?, *count))).collect();
            known.sort_by(|a, b| (b.1, a.0).cmp(&(a.1, b.0)));
            let others: u64 = known.iter().skip(SHOWN).map(|(_, count)| count).sum();
            let others = others + values.get(&None).copied().unwrap_or(0);
            let count = |(value, sockets): (&str, u64)| LabelCount { sockets, value: value.to_owned() };
            (label.clone(), LabelCounts { others, values: known.into_iter().take(SHOWN).map(count).collect() })
        });
        told.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_bounded_and_the_most_frequent_come_first() {
        let mut live = LiveTotals::default();
        for n in 0..VALUES + 7 {
            live.count_label("app", "user", &n.to_string());
        }
        for _ in 0..3 {
            live.count_label("app", "user", "5");
            live.count_label("other", "user", "x");
        }
        let told = live.labels("app");
        let user = told.get("user").unwrap();
        assert_eq!(user.values.first(), Some(&LabelCount { sockets: 4, value: "5".to_owned() }));
        assert_eq!(user.values.len(), SHOWN);
        assert_eq!(user.others, u64::try_from(VALUES + 7 - SHOWN).unwrap());
        let none = LabelCounts { others: 3, values: Vec::new() };
        assert_eq!(live.labels("other"), BTreeMap::from([("user".to_owned(), none)]), "the limit was reached");
    }
}
