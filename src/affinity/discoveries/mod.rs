//! What finding the owner of an unpinned session costs, and what is known meanwhile: budgets, recent misses, and the
//! searches under way. Left out: the search itself (`proxy::discover`).

pub(crate) mod budget;
mod followed;
pub(crate) mod search;

use std::sync::Mutex;

use crate::clock;
use crate::config::Limits;
use crate::keys::Key;
use crate::locks::lock;
use budget::{Budget, Misses};
use followed::FollowedIds;
use search::Searches;

/// State of discovery, shared by all threads. It is locked for a few operations per *discovery*, never for a request
/// whose session is pinned.
pub struct Discoveries {
    pub(crate) budget: Mutex<Budget>,
    pub(crate) misses: Mutex<Misses<Key>>,
    pub(crate) searches: Searches,
    pub(crate) followed: Mutex<FollowedIds>,
}

impl Discoveries {
    /// Starts with full budgets and without remembered misses.
    pub fn new(limits: &Limits) -> Self {
        Self {
            budget: Mutex::new(Budget::new(limits.discoveries_per_address, limits.discoveries)),
            misses: Mutex::default(),
            searches: Mutex::default(),
            followed: Mutex::default(),
        }
    }

    /// Applies the budgets of a reloaded config.
    pub fn set(&self, limits: &Limits) {
        lock(&self.budget).set(limits.discoveries_per_address, limits.discoveries, clock::now_ms());
    }
}
