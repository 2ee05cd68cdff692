//! Waiting for a condition: the one waiter of all tests.
//!
//! A condition gives a `bool`, or a `Result` whose `Ok` ends the wait and whose `Err` is the state seen so far. The
//! limit is generous, because it only decides how long a failing test takes.

use std::fmt::Debug;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use super::process::PATIENCE;

/// Pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(5);

/// An upper bound on a time that holds on an idle machine. On a loaded one it is longer: by the number of threads that
/// want to run, per core.
pub(crate) fn at_most(idle: Duration) -> Duration {
    idle.mul_f64(load_factor())
}

/// The number of threads that want to run, per core: 1 to 10. Read once per 100 ms, because some tests wait for every
/// byte, and the number of cores is read from a dozen files.
fn load_factor() -> f64 {
    static CORES: LazyLock<f64> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1.0, |cores| cores.get() as f64));
    static LAST: Mutex<Option<(Instant, f64)>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap();
    if let Some((when, factor)) = *last
        && when.elapsed() < Duration::from_millis(100)
    {
        return factor;
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut fields = load.split([' ', '/']);
    let average = fields.next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let running = fields.nth(2).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    let factor = (average.max(running) / *CORES).clamp(1.0, 10.0);
    *last = Some((Instant::now(), factor));
    factor
}

/// How long a wait may take: [`PATIENCE`], on a loaded machine up to three times as long.
pub(crate) fn patience() -> Duration {
    at_most(PATIENCE).min(PATIENCE * 3)
}

/// What a condition gives: whether it holds, and what it saw if it does not.
pub(crate) trait Outcome {
    /// What the wait returns.
    type Value;
    /// What the panic shows.
    type Seen: Debug;

    /// `Ok` if the condition holds.
    fn outcome(self) -> Result<Self::Value, Self::Seen>;
}

impl Outcome for bool {
    type Value = ();
    type Seen = Self;

    fn outcome(self) -> Result<(), Self> {
        if self { Ok(()) } else { Err(self) }
    }
}

impl<T, S: Debug> Outcome for Result<T, S> {
    type Value = T;
    type Seen = S;

    fn outcome(self) -> Self {
        self
    }
}

/// Blocks until `condition` holds; panics with `what` and the last state seen after [`patience`].
#[track_caller]
pub(crate) fn wait_for<O: Outcome>(what: &str, mut condition: impl FnMut() -> O) -> O::Value {
    let began = Instant::now();
    loop {
        match condition().outcome() {
            Ok(value) => return value,
            Err(seen) => assert!(!is_over(began, PATIENCE), "not within {PATIENCE:?}: {what}; last seen: {seen:?}"),
        }
        #[allow(clippy::disallowed_methods, reason = "blocks the test's own thread, which has nothing else to do")]
        std::thread::sleep(POLL);
    }
}

/// Waits like [`wait_for`] without blocking the runtime; the condition is an async closure.
pub(crate) async fn wait_for_async<O: Outcome>(what: &str, condition: impl AsyncFnMut() -> O) -> O::Value {
    wait_within(PATIENCE, what, condition).await
}

/// Waits like [`wait_for_async`] with a limit of its own, for what takes longer by design.
pub(crate) async fn wait_within<O: Outcome>(
    limit: Duration,
    what: &str,
    mut condition: impl AsyncFnMut() -> O,
) -> O::Value {
    let began = Instant::now();
    loop {
        match condition().await.outcome() {
            Ok(value) => return value,
            Err(seen) => assert!(!is_over(began, limit), "not within {limit:?}: {what}; last seen: {seen:?}"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether a wait that began then has exceeded its limit, which on a loaded machine is up to three times as long.
fn is_over(began: Instant, limit: Duration) -> bool {
    let waited = began.elapsed();
    waited > limit && waited > at_most(limit).min(limit * 3)
}

/// Runs `work`, which has to end within [`patience`].
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(patience(), work).await.unwrap_or_else(|_| panic!("not done within {PATIENCE:?}"))
}
