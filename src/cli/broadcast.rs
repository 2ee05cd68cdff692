//! `stickyd broadcast`: sends a text or a Socket.IO event to all WebSockets, or to those that match a filter.

#![allow(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null: nothing panics")]

use clap::Args;
use hyper::Method;
use serde_json::{Map, Value};

use super::remote::{RemoteArgs, RemoteError};
use super::sockets::Filters;
use super::table::cell;

/// Arguments of `stickyd broadcast`.
#[derive(Debug, Args)]
pub struct BroadcastCommand {
    /// Text to send to plain WebSockets
    #[arg(long, value_name = "TEXT", required_unless_present = "event")]
    pub text: Option<String>,
    /// Name of the event to send to Socket.IO clients
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// Argument of the event, as JSON; anything else is sent as a string; may be given several times
    #[arg(long = "arg", value_name = "JSON", requires = "event", allow_hyphen_values = true)]
    pub args: Vec<String>,
    /// Namespace of the event [default: /]
    #[arg(long, value_name = "NAMESPACE", requires = "event")]
    pub namespace: Option<String>,
    /// Filters that select the recipients.
    #[command(flatten)]
    pub filters: Filters,
    /// Send to all sockets
    #[arg(long)]
    pub all: bool,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl BroadcastCommand {
    /// Sends the broadcast, prints how many sockets were reached, and returns the exit code.
    pub fn run(&self) -> u8 {
        let said = self.check().and_then(|()| self.asking.remote.find());
        let said = said.and_then(|admin| admin.done(Method::POST, "/api/v1/broadcast", Some(&self.body())));
        self.asking.finish(said, told)
    }

    fn check(&self) -> Result<(), RemoteError> {
        match (self.filters.given().is_empty(), self.all) {
            (true, false) => {
                Err(RemoteError::new("no recipients given: use a filter such as --label store=7, or --all"))
            }
            (false, true) => Err(RemoteError::new("a filter and --all cannot be combined")),
            _ => Ok(()),
        }
    }

    fn body(&self) -> Value {
        let mut body: Map<String, Value> =
            self.filters.given().into_iter().map(|(name, value)| (name, Value::from(value))).collect();
        let text = |name: &str, value: &Option<String>| Some((name.to_owned(), Value::from(value.clone()?)));
        body.extend(text("text", &self.text));
        body.extend(text("event", &self.event));
        body.extend(text("namespace", &self.namespace));
        if !self.args.is_empty() {
            let arg = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.clone()));
            body.insert("args".to_owned(), self.args.iter().map(arg).collect());
        }
        body.extend(self.all.then(|| ("all".to_owned(), true.into())));
        Value::Object(body)
    }
}

fn told(said: &Value) -> String {
    let mut text = format!("{} of {} sockets were reached\n", cell(&said["reached"]), cell(&said["matched"]));
    let why = [
        ("denied", "on routes or upstreams without `broadcast = true`"),
        ("polling", "polling"),
        ("not_ready", "still upgrading"),
        ("other_kind", "of the other protocol: --text is for plain WebSockets, --event for Socket.IO"),
        ("closing", "closing, or not a WebSocket"),
        ("slow", "too slow: did not take it within 5 s"),
    ];
    for (key, words) in why {
        if let Some(count) = said["not_reached"][key].as_u64().filter(|count| *count > 0) {
            text.push_str(&format!("{count} {words}\n"));
        }
    }
    text
}
