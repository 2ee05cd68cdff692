//! The settings of one PM2 app by name, and what becomes of those that stickyd does not have.

use serde_json::{Map, Value};

/// Settings without a meaning for stickyd, with what to do instead; the aliases are those of PM2's schema.
const WITHOUT_MEANING: &[(&[&str], &str)] = &[
    (&["wait_ready", "listen_timeout"], "a worker is ready when its health checks pass (`health`)"),
    (&["shutdown_with_message"], "a worker is told to end by SIGTERM"),
    (
        &["watch", "ignore_watch", "watch_delay", "watch_options"],
        "run `stickyd workers restart` after a change of the code",
    ),
    (
        &[
            "autorestart",
            "max_restarts",
            "min_uptime",
            "restart_delay",
            "exp_backoff_restart_delay",
            "stop_exit_codes",
            "autostart",
        ],
        "a worker that ends is always started again, at once and then after growing pauses",
    ),
    (&["cron_restart", "cron"], "let cron or a systemd timer run `stickyd workers restart`"),
    (
        &[
            "out_file",
            "out",
            "output",
            "out_log",
            "error_file",
            "error",
            "err",
            "err_file",
            "err_log",
            "log_file",
            "log",
            "disable_logs",
            "log_type",
            "log_date_format",
            "time",
            "merge_logs",
            "combine_logs",
        ],
        "output goes to stickyd's own, and to `stickyd logs`; times and JSON: [log]",
    ),
    (&["pid_file", "pid"], "`stickyd workers` shows the process ids"),
    (
        &["uid", "user", "gid", "username"],
        "workers run as the user of stickyd, or of stickyd-workers.service (`stickyd service install --user`)",
    ),
    (&["instance_var"], "the number of a worker is in STICKYD_INSTANCE (from 1) and NODE_APP_INSTANCE (from 0)"),
    (&["filter_env"], "a worker inherits the environment of stickyd, or of stickyd-workers.service"),
    (&["source_map_support"], "add --enable-source-maps to the command"),
    (&["append_env_to_name", "name_prefix", "namespace"], "the name of the upstream is the only one"),
    (&["treekill"], "all processes of a worker are ended together"),
    (
        &[
            "vizion",
            "pmx",
            "automation",
            "trace",
            "disable_trace",
            "v8",
            "event_loop_inspector",
            "deep_monitoring",
            "io",
            "post_update",
            "install_url",
            "force",
            "write",
            "disable_source_map_support",
            "windows_hide",
            "kill_retry_time",
            "execute_command",
        ],
        "it concerns only PM2 itself",
    ),
];

/// The settings of one app; what is taken is understood, the rest is named at the end.
pub(super) struct Settings(Map<String, Value>);

impl Settings {
    /// Reads the settings; names in camel case are spellings of the others, as for PM2.
    pub(super) fn new(app: Map<String, Value>) -> Self {
        Self(app.into_iter().map(|(name, value)| (snake_case(name), value)).collect())
    }

    /// Takes the setting with one of these names; null counts as left out.
    pub(super) fn take(&mut self, names: &[&str]) -> Option<Value> {
        let mut found = names.iter().filter_map(|name| self.0.remove(*name));
        let first = found.find(|value| !value.is_null());
        found.for_each(drop);
        first
    }

    /// Takes a text; a number is its digits.
    pub(super) fn text(&mut self, names: &[&str]) -> Option<String> {
        self.take(names).and_then(|value| scalar(&value)).filter(|text| !text.is_empty())
    }

    /// Takes a list of words, which may be written as one text.
    pub(super) fn words(&mut self, names: &[&str]) -> Vec<String> {
        match self.take(names) {
            Some(Value::Array(all)) => all.iter().filter_map(scalar).collect(),
            Some(Value::String(text)) => split(&text),
            Some(other) => scalar(&other).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Takes the variables of `env` or of `env_NAME`.
    pub(super) fn variables(&mut self, name: &str, notes: &mut Vec<String>) -> Option<Map<String, Value>> {
        match self.take(&[name])? {
            Value::Object(all) => Some(all),
            _ => {
                notes.push(format!("{name}: expected an object with variables, so it is left out"));
                None
            }
        }
    }

    /// Says what becomes of the settings that were not taken.
    pub(super) fn left(self, notes: &mut Vec<String>) {
        for (name, value) in self.0 {
            let does_nothing = match &value {
                Value::Null | Value::Bool(false) => name != "autorestart",
                // What stickyd does anyway.
                Value::Bool(true) => matches!(&*name, "autorestart" | "autostart" | "treekill" | "vizion" | "pmx"),
                Value::Array(all) => all.is_empty(),
                Value::Object(all) => all.is_empty(),
                Value::String(text) => text.is_empty(),
                Value::Number(_) => false,
            };
            if does_nothing {
                continue;
            }
            let known = WITHOUT_MEANING.iter().find(|(names, _)| names.contains(&&*name));
            notes.push(match known {
                Some((_, instead)) => format!("{name} has no meaning here: {instead}"),
                None if name.starts_with("env_") => {
                    format!("{name} is not used: choose it with --env {}", name.trim_start_matches("env_"))
                }
                None => format!("{name} is not known to stickyd"),
            });
        }
    }
}

/// The text of a value that is not a list or an object.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// `maxMemoryRestart` as `max_memory_restart`; the names of environments are the user's own.
fn snake_case(name: String) -> String {
    if name.starts_with("env") {
        return name;
    }
    let mut out = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// Splits a text into words at white space outside of quotes; quotes around a word or a part of it are dropped.
pub(super) fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => word.get_or_insert_default().push(c),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (None, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn settings(value: Value) -> Settings {
        let Value::Object(map) = value else { panic!("no object") };
        Settings::new(map)
    }

    #[test]
    fn words_are_split_outside_of_quotes() {
        assert_eq!(split("--port 3000  --name='a b' \"c d\""), ["--port", "3000", "--name=a b", "c d"]);
        assert_eq!(split("  "), [""; 0]);
    }

    #[test]
    fn settings_have_aliases_and_spellings() {
        let mut all = settings(json!({ "maxMemoryRestart": "1G", "interpreter_args": ["-r", "a"], "args": 5 }));
        assert_eq!(all.text(&["max_memory_restart"]).as_deref(), Some("1G"));
        assert_eq!(all.words(&["node_args", "interpreter_args"]), ["-r", "a"]);
        assert_eq!(all.words(&["args"]), ["5"]);
    }

    #[test]
    fn what_is_left_is_named_unless_it_does_nothing() {
        let mut notes = Vec::new();
        let off = json!({ "watch": false, "autorestart": true, "ignore_watch": [], "namespace": "", "uid": null });
        settings(off).left(&mut notes);
        assert_eq!(notes, [""; 0]);
        let on = json!({ "autorestart": false, "env_test": { "A": 1 }, "no_such": 1, "wait_ready": true });
        settings(on).left(&mut notes);
        assert_eq!(notes.len(), 4);
        let all = notes.join("\n");
        for part in ["wait_ready has no meaning", "--env test", "no_such is not known", "autorestart has no meaning"] {
            assert!(all.contains(part), "{all}");
        }
    }
}
