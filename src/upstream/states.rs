//! The states of a worker on the health axis (docs/reference/routing.md §8), as names. Left out: what moves a worker
//! from one to another (`worker`, `health`).

/// The health of a worker, as shown by checks and connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerHealth {
    /// The worker passes its checks.
    Up,
    /// The worker accepts connections, but has not (yet) passed enough checks.
    Starting,
    /// The worker accepts connections but does not answer.
    Hung,
    /// The worker refuses connects while established connections to it live on.
    Leaving,
    /// The worker refuses connects, and no established connection to it is left.
    Gone,
}

impl WorkerHealth {
    /// Returns the name of this health in metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Starting => "starting",
            Self::Hung => "hung",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
        }
    }
}

/// The verdict of the last health checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Checks {
    /// The last `rise` checks passed, or no check was made yet.
    Passing = 0,
    /// The last `fall` checks failed, or not enough have passed since.
    Failing = 1,
    /// The last `fall` checks timed out.
    TimingOut = 2,
}
