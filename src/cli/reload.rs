//! `stickyd reload`: does what SIGHUP does, and reports the result.

use std::io::Write;

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::remote::Remote;

/// Arguments of `stickyd reload`.
#[derive(Debug, Args)]
pub struct ReloadCommand {
    /// The stickyd to reload.
    #[command(flatten)]
    pub remote: Remote,
}

impl ReloadCommand {
    /// Requests a reload, prints the result, and returns the exit code: 0, or 1 if nothing was reloaded.
    pub fn run(&self) -> u8 {
        let asked = self.remote.find().and_then(|admin| admin.ask(Method::POST, "/api/v1/reload"));
        match asked {
            Ok((status, said)) if status.is_success() => {
                print(&said, &mut std::io::stdout(), &mut std::io::stderr());
                0
            }
            Ok((status, said)) => {
                let error = said.get("error").and_then(Value::as_str);
                eprintln!("{}", error.map_or_else(|| format!("error: stickyd answered {status}"), str::to_owned));
                eprintln!("\nnot reloaded, the old configuration stays in use");
                1
            }
            Err(refusal) => {
                eprintln!("{refusal}");
                1
            }
        }
    }
}

/// Prints the result of a reload; a closed output is ignored.
fn print(said: &Value, out: &mut dyn Write, err: &mut dyn Write) {
    let texts = |key: &str| said.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for warning in texts("warnings") {
        let _ = writeln!(err, "warning: {warning}");
    }
    let _ = writeln!(out, "reloaded");
    for what in texts("needs_restart") {
        let _ = writeln!(out, "{what} has changed in the file but needs a restart");
    }
}
