//! The `affinity` list of an upstream: words, presets and the user's own rules.

use std::cell::RefCell;
use std::sync::Arc;

use super::presets::PRESETS;
use super::{Affinity, MAX_AFFINITIES, Rule};
use crate::config::check::Context;
use crate::config::error::Span;
use crate::config::file::{ConfigItem, ConfigText};
use crate::config::values::suggest;

/// Stands for the rules that need no configuration.
pub(super) const AUTO: &str = "auto";

/// The rules defined by the user, by name.
pub(crate) struct Customs {
    rules: Vec<(ConfigText, Option<Arc<Rule>>)>,
    used: RefCell<Vec<String>>,
}

impl Customs {
    /// The rules of these `[affinity.NAME]` tables; `None` for one with mistakes.
    pub(super) fn of(rules: Vec<(ConfigText, Option<Arc<Rule>>)>) -> Self {
        Self { rules, used: RefCell::default() }
    }

    /// An empty set of rules, for files without `[affinity.NAME]`.
    pub(super) fn none() -> Self {
        Self::of(Vec::new())
    }

    /// Warns of rules that no upstream uses.
    pub(crate) fn finish(self, context: &Context<'_>) {
        let used = self.used.into_inner();
        for (name, _) in self.rules.iter().filter(|(name, _)| !used.contains(&name.value)) {
            let message = format!("no upstream uses [affinity.{}]", name.value);
            let help = format!("write affinity = [\"{}\", \"cookie\", \"address\"] in an upstream", name.value);
            context.report.warn(&name.span, message, help);
        }
    }

    /// Reads the affinities of an upstream, each with its place in the file.
    pub(crate) fn affinity(&self, item: ConfigItem<'_>) -> Option<Vec<(Affinity, Span)>> {
        let (report, at) = (item.report, item.span.clone());
        let items = item.list("a list such as [\"auto\", \"cookie\", \"address\"]", "an affinity")?;
        if items.is_empty() {
            let help = "[\"auto\", \"cookie\", \"address\"] is the default; [\"address\"] alone is IP hash";
            report.error_help(&at, "`affinity` is empty: nothing would choose a worker", help);
        }
        if items.len() > MAX_AFFINITIES {
            report.error(&at, format!("`affinity` has {} entries; the maximum is {MAX_AFFINITIES}", items.len()));
        }
        let mut chosen: Vec<(Affinity, Span)> = Vec::new();
        let mut automatic = false;
        for item in items {
            let report = item.report;
            let Some(text) = item.text("a string") else { continue };
            let same = chosen.iter().position(|(one, _)| one.word() == text.value);
            let is_replaced = same.and_then(|at| chosen.get(at)).is_some_and(|(one, _)| is_auto(one, automatic));
            if (same.is_some() && !is_replaced) || (text.value == AUTO && automatic) {
                report.error(&text.span, format!("affinity `{}` is listed twice", text.value));
                continue;
            }
            if text.value == AUTO {
                automatic = true;
                let missing = |one: &Affinity| !chosen.iter().any(|(known, _)| known.word() == one.word());
                let new: Vec<_> = Affinity::automatic().into_iter().filter(missing).collect();
                chosen.extend(new.into_iter().map(|one| (one, text.span.clone())));
                continue;
            }
            // The rule that the file names takes the place of the one of "auto".
            if let Some(at) = same {
                chosen.remove(at);
            }
            match self.find(&text.value) {
                Some(Some(one)) => chosen.push((one, text.span)),
                // Its mistakes were reported where it is defined.
                Some(None) => {}
                None => {
                    let message = format!("unknown affinity `{}`", text.value);
                    report.error_help(&text.span, message, suggest(&text.value, &self.words()));
                }
            }
        }
        Some(chosen)
    }

    fn find(&self, word: &str) -> Option<Option<Affinity>> {
        match word {
            "cookie" => return Some(Some(Affinity::Cookie)),
            "address" => return Some(Some(Affinity::Address)),
            _ => {}
        }
        if let Some((_, preset)) = PRESETS.iter().find(|(name, _)| *name == word) {
            return Some(Some(Affinity::Rule(Arc::new(preset()))));
        }
        let (_, rule) = self.rules.iter().find(|(name, _)| name.value == word)?;
        self.used.borrow_mut().push(word.to_owned());
        Some(rule.clone().map(Affinity::Rule))
    }

    fn words(&self) -> Vec<&str> {
        let presets = PRESETS.iter().map(|(name, _)| *name);
        presets
            .chain([AUTO, "cookie", "address"])
            .chain(self.rules.iter().map(|(name, _)| name.value.as_str()))
            .collect()
    }
}

/// Whether an affinity is one that `"auto"` has added.
fn is_auto(one: &Affinity, automatic: bool) -> bool {
    automatic && (one.is_guarded() || *one == Affinity::socket_io())
}
