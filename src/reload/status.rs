//! What is known of the configuration that runs and of the file it came from: for the admin listener and the metrics.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Written by the reloader, read by whoever is asked.
pub struct Status(Mutex<State>);

/// The state of the configuration.
#[derive(Debug, Clone)]
pub struct State {
    /// `None`: stickyd was started without one.
    pub file: Option<PathBuf>,
    /// When what runs now was loaded.
    pub loaded: SystemTime,
    /// Configurations that ran so far, this one included.
    pub generation: u64,
    /// Why the file as it was last looked at does not run. `None`: it does.
    pub error: Option<String>,
    /// What differs from the file until a restart, in its words.
    pub needs_restart: Vec<&'static str>,
    /// Where clients are accepted, in the order of the file.
    pub listeners: Vec<SocketAddr>,
}

impl Default for Status {
    fn default() -> Self {
        Self(Mutex::new(State {
            file: None,
            loaded: SystemTime::now(),
            generation: 1,
            error: None,
            needs_restart: Vec::new(),
            listeners: Vec::new(),
        }))
    }
}

impl Status {
    /// As it is now.
    pub fn now(&self) -> State {
        self.lock().clone()
    }

    /// Changes it.
    pub(super) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
    }

    /// Before anything is reloaded.
    pub fn begin(&self, file: Option<PathBuf>, listeners: Vec<SocketAddr>) {
        self.set(|state| (state.file, state.listeners) = (file, listeners));
    }

    /// Whether a panic came between does not matter: each field is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
