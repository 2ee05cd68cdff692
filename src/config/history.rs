//! `[history]`: the memory for the numbers of the last day.

use super::file::Section;
use super::values;

/// Settings of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryConfig {
    /// Maximum memory for the history in bytes, 1 MiB to 4 GiB; default 32 MiB, which holds 300 workers. A change needs
    /// a restart.
    pub memory: usize,
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self { memory: 32 << 20 }
    }
}

/// Reads the `[history]` table.
pub(crate) fn read(root: &mut Section<'_>) -> HistoryConfig {
    let mut history = HistoryConfig::default();
    let Some(mut section) = root.section("history", "a table") else { return history };
    let memory = section.take("memory").and_then(|item| values::size(item, 1 << 20..=4 << 30));
    history.memory = memory.and_then(|bytes| bytes.try_into().ok()).unwrap_or(history.memory);
    section.finish();
    history
}
