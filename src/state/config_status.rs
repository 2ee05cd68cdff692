//! ConfigState of the running configuration and of its file, for the admin listener and the metrics.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::SystemTime;

use crate::locks::lock;

/// Shared state of the configuration; written by the reloader only.
pub struct ConfigStatus(Mutex<ConfigState>);

/// ConfigState of the running configuration and of its file.
#[derive(Debug, Clone)]
pub struct ConfigState {
    /// Path of the configuration file; `None` if stickyd was started without one.
    pub file: Option<PathBuf>,
    /// Time at which the running configuration was loaded.
    pub loaded: SystemTime,
    /// Number of configurations that have run so far, including this one.
    pub generation: u64,
    /// Reason why the file, as last checked, is not running; `None` if it is.
    pub error: Option<String>,
    /// Reason why a certificate or key that the file names cannot be used; `None` if all can.
    pub certificate: Option<String>,
    /// Settings that differ from the file until a restart, by the names of their keys.
    pub needs_restart: Vec<&'static str>,
    /// Addresses on which clients are accepted, in the order of the file.
    pub listeners: Vec<SocketAddr>,
}

impl Default for ConfigStatus {
    fn default() -> Self {
        Self(Mutex::new(ConfigState {
            file: None,
            loaded: SystemTime::now(),
            generation: 1,
            error: None,
            certificate: None,
            needs_restart: Vec::new(),
            listeners: Vec::new(),
        }))
    }
}

impl ConfigStatus {
    /// Returns a copy of the present state.
    pub fn now(&self) -> ConfigState {
        self.lock().clone()
    }

    /// Changes the state under its lock.
    pub(crate) fn set(&self, change: impl FnOnce(&mut ConfigState)) {
        change(&mut self.lock());
    }

    /// Sets the file and the listeners at start, before any reload.
    pub fn begin(&self, file: Option<PathBuf>, listeners: Vec<SocketAddr>) {
        self.set(|state| (state.file, state.listeners) = (file, listeners));
    }

    /// Locks the state. A poisoned lock is safe to use: every field is complete in itself.
    fn lock(&self) -> MutexGuard<'_, ConfigState> {
        lock(&self.0)
    }
}
