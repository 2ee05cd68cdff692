//! `stickyd broadcast`: a text, or a Socket.IO event, to all WebSockets or to those that fit.

#![allow(clippy::indexing_slicing, reason = "a field that a JSON value lacks is null: nothing panics")]

use clap::Args;
use hyper::Method;
use serde_json::{Map, Value};

use super::remote::{Asking, Refusal};
use super::sockets::Filters;
use super::table::cell;

/// `stickyd broadcast`.
#[derive(Debug, Args)]
pub struct Broadcast {
    /// For plain WebSockets: this text
    #[arg(long, value_name = "TEXT", required_unless_present = "event")]
    pub text: Option<String>,
    /// For Socket.IO clients: an event of this name
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// An argument of the event, as JSON; what is none is taken as text; may be given several times
    #[arg(long = "arg", value_name = "JSON", requires = "event", allow_hyphen_values = true)]
    pub args: Vec<String>,
    /// The event's namespace [default: /]
    #[arg(long, value_name = "NAMESPACE", requires = "event")]
    pub namespace: Option<String>,
    /// To whom.
    #[command(flatten)]
    pub filters: Filters,
    /// To all there are
    #[arg(long)]
    pub all: bool,
    /// Whom, and how.
    #[command(flatten)]
    pub asking: Asking,
}

impl Broadcast {
    /// Tells it, and says who was reached; the exit code.
    pub fn run(&self) -> u8 {
        let said = self.check().and_then(|()| self.asking.remote.find());
        let said = said.and_then(|admin| admin.done(Method::POST, "/api/v1/broadcast", Some(&self.body())));
        self.asking.finish(said, told)
    }

    fn check(&self) -> Result<(), Refusal> {
        match (self.filters.given().is_empty(), self.all) {
            (true, false) => Err(Refusal::new("to whom? give a filter such as --label store=7, or --all")),
            (false, true) => Err(Refusal::new("a filter and --all exclude each other")),
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
        ("denied", "of routes and upstreams without `broadcast = true`"),
        ("polling", "polling"),
        ("not_ready", "before the end of their upgrade"),
        ("other_kind", "of the other kind: --text is for plain WebSockets, --event for Socket.IO"),
        ("closing", "closing, or no WebSocket"),
        ("slow", "did not take it within 5 s"),
    ];
    for (key, words) in why {
        if let Some(count) = said["not_reached"][key].as_u64().filter(|count| *count > 0) {
            text.push_str(&format!("{count} {words}\n"));
        }
    }
    text
}
