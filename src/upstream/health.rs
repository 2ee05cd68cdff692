//! Active checks: one task per worker, on the control thread, so that a busy data thread never makes a worker look sick.
//!
//! A check says passed, failed, timed out or refused; `rise` and `fall` in a row make a state of it. A refused connect
//! counts at once: nobody listens, and no second look changes that. While a worker's state is unsure it is asked four
//! times as often. Left out: ejection from live traffic.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;

use bytes::Bytes;

use super::connect::{self, ConnectError};
use super::io::WorkerIo;
use super::worker::{Checks, Worker};
use crate::clock;
use crate::config::{Address, Health, HealthKind};

/// The shortest time between two checks of an unsure worker.
const SHORTEST: Duration = Duration::from_millis(100);

/// What one check showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Passed,
    /// An answer, but the wrong one, or a broken connection.
    Failed,
    /// No answer in time.
    TimedOut,
    /// Nobody listens.
    Refused,
}

/// Outcomes in a row, and the state they make. Pure.
#[derive(Debug, Clone, Copy)]
pub struct Streak {
    state: Checks,
    passed: u32,
    failed: u32,
    timed_out: u32,
}

impl Streak {
    /// Goes on from a state. A worker nobody has checked is taken for up until a check says otherwise; one that was
    /// checked before a reload stays what it was (invariant 8).
    pub fn from(state: Checks) -> Self {
        Self { state, passed: 0, failed: 0, timed_out: 0 }
    }

    /// Adds an outcome; returns the state after it.
    pub fn add(&mut self, outcome: Outcome, rise: u32, fall: u32) -> Checks {
        if outcome == Outcome::Passed {
            (self.passed, self.failed, self.timed_out) = (self.passed.saturating_add(1), 0, 0);
            if self.passed >= rise {
                self.state = Checks::Passing;
            } else if self.state == Checks::TimingOut {
                self.state = Checks::Failing;
            }
            return self.state;
        }
        self.passed = 0;
        self.failed = self.failed.saturating_add(1);
        self.timed_out = if outcome == Outcome::TimedOut { self.timed_out.saturating_add(1) } else { 0 };
        if self.timed_out >= fall {
            self.state = Checks::TimingOut;
        } else if self.failed >= fall || outcome == Outcome::Refused {
            self.state = Checks::Failing;
        }
        self.state
    }

    /// Between two states, or in a bad one: look again soon.
    pub fn is_unsure(&self) -> bool {
        self.state != Checks::Passing || self.failed > 0
    }
}

/// Starts the checks of a worker; they end with the task (the caller cancels it by dropping the runtime or the token the
/// future is wrapped in).
pub async fn watch(worker: Arc<Worker>, health: Health) {
    let mut streak = Streak::from(worker.checks());
    // Spread over the interval, so that a hundred workers are not asked in one millisecond.
    tokio::time::sleep(jitter(health.interval.min(Duration::from_secs(1)))).await;
    loop {
        let outcome = tokio::time::timeout(health.timeout, check(&worker, &health.kind));
        let outcome = outcome.await.unwrap_or(Outcome::TimedOut);
        report(&worker, outcome);
        let before = worker.health();
        worker.set_checks(streak.add(outcome, health.rise, health.fall));
        let after = worker.health();
        if before != after {
            tracing::warn!(upstream = %worker.upstream, worker = %worker.name, from = before.word(), to = after.word(),
                check = ?outcome, "worker changed state");
        }
        let pause = if streak.is_unsure() { (health.interval / 4).max(SHORTEST) } else { health.interval };
        // A refused connect of a request is a reason to look at once: nothing else would see the worker come back soon.
        let _ = tokio::time::timeout(pause.mul_f64(0.9) + jitter(pause / 5), worker.refusal()).await;
    }
}

/// A random part of `span`.
fn jitter(span: Duration) -> Duration {
    #[allow(clippy::cast_precision_loss, reason = "a random fraction needs no more than 53 bits")]
    let part = (crate::random::u64() >> 11) as f64 / (1u64 << 53) as f64;
    span.mul_f64(part)
}

fn report(worker: &Worker, outcome: Outcome) {
    match outcome {
        Outcome::Refused => worker.connect_refused(),
        Outcome::Passed | Outcome::Failed => worker.connected(),
        Outcome::TimedOut => {}
    }
}

async fn check(worker: &Arc<Worker>, kind: &HealthKind) -> Outcome {
    let io = match connect::open(&worker.address).await.map_err(connect::classify) {
        Ok(io) => io,
        Err(ConnectError::Refused) => return Outcome::Refused,
        Err(ConnectError::TimedOut | ConnectError::Full) => return Outcome::TimedOut,
        Err(ConnectError::Io(_)) => return Outcome::Failed,
    };
    let HealthKind::Http { path } = kind else { return Outcome::Passed };
    match get(TokioIo::new(io), path, host(&worker.address)).await {
        Some(status) => {
            worker.answered(clock::now_ms());
            if status.is_success() || status.is_redirection() { Outcome::Passed } else { Outcome::Failed }
        }
        None => Outcome::Failed,
    }
}

/// The status of `GET path`; the connection is closed with it.
async fn get(io: TokioIo<WorkerIo>, path: &str, host: HeaderValue) -> Option<StatusCode> {
    let (mut sender, connection) = http1::handshake(io).await.ok()?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = path.parse::<Uri>().ok()?;
    request.headers_mut().insert(header::HOST, host);
    request.headers_mut().insert(header::USER_AGENT, HeaderValue::from_static("stickyd-health"));
    request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    let answer = sender.send_request(request);
    let mut answer = pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer.ok(),
        // An answer without a body and the end of its connection come in one poll.
        _ = connection => answer.await.ok(),
    }
    .map(|answer| answer.status())
}

fn host(address: &Address) -> HeaderValue {
    match address {
        Address::Tcp(address) => HeaderValue::from_str(&address.to_string()).ok(),
        Address::Unix(_) => None,
    }
    .unwrap_or_else(|| HeaderValue::from_static("localhost"))
}

/// Checks every worker of a snapshot until `stop`; a reload stops the old watch and starts a new one.
pub fn watch_all(tasks: &TaskTracker, snapshot: &crate::state::Snapshot, stop: &tokio_util::sync::CancellationToken) {
    for upstream in &snapshot.upstreams {
        for member in &upstream.members {
            let watched = watch(member.worker.clone(), upstream.config.health.clone());
            tasks.spawn_local(stop.clone().run_until_cancelled_owned(watched));
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn states(outcomes: &[Outcome]) -> Vec<Checks> {
        let mut streak = Streak::from(Checks::Passing);
        outcomes.iter().map(|&outcome| streak.add(outcome, 2, 3)).collect()
    }

    #[test]
    fn rise_and_fall() {
        use Checks::{Failing as F, Passing as P, TimingOut as T};
        use Outcome::{Failed, Passed, Refused, TimedOut};
        assert_eq!(states(&[Failed, Failed, Passed, Failed, Failed, Failed]), [P, P, P, P, P, F]);
        assert_eq!(states(&[Failed, Failed, Failed, Passed, Passed]), [P, P, F, F, P]);
        assert_eq!(states(&[TimedOut, TimedOut, TimedOut, Passed, Passed]), [P, P, T, F, P]);
        assert_eq!(states(&[TimedOut, Failed, TimedOut]), [P, P, F], "not answering at all is what hung means");
        assert_eq!(states(&[Refused, Passed, Passed]), [F, F, P]);
        assert_eq!(
            states(&[TimedOut, TimedOut, TimedOut, Failed]),
            [P, P, T, F],
            "an answer, even a wrong one, is no hang"
        );
    }

    #[test]
    fn a_reload_does_not_heal() {
        let mut streak = Streak::from(Checks::TimingOut);
        assert_eq!(streak.add(Outcome::TimedOut, 2, 3), Checks::TimingOut);
    }

    #[tokio::test]
    async fn answers_without_a_body_count() {
        for answer in ["HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"] {
            let (near, mut far) = tokio::net::UnixStream::pair().unwrap();
            let worker = async {
                let mut head = [0; 1024];
                assert!(far.read(&mut head).await.unwrap() > 0);
                far.write_all(answer.as_bytes()).await.unwrap();
                far
            };
            let asked = get(TokioIo::new(WorkerIo::Unix(near)), "/", HeaderValue::from_static("a"));
            let (status, _) = tokio::join!(asked, worker);
            assert!(status.is_some_and(|status| status.is_success()), "{answer}");
        }
    }

    #[test]
    fn jitter_stays_inside_its_span() {
        for _ in 0..1_000 {
            assert!(jitter(Duration::from_millis(10)) <= Duration::from_millis(10));
        }
    }
}
