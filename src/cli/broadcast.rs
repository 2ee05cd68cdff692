//! `stickyd broadcast`: sends a text or a Socket.IO event to all WebSockets, or to those that match a filter.

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::fleet_wide::{FleetArgs, FleetSaid, FleetText};
use super::remote::{AdminClient, RemoteArgs, RemoteError};
use super::sockets::Filters;
use crate::admin::api::{BroadcastAnswer, BroadcastOrder, paths};

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
    /// Sockets of the whole fleet.
    #[command(flatten)]
    pub everywhere: FleetArgs,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl BroadcastCommand {
    /// Sends the broadcast, prints how many sockets were reached, and returns the exit code.
    pub fn run(&self) -> u8 {
        let said = self.check().and_then(|()| self.asking.remote.find());
        if self.everywhere.fleet {
            return self.asking.finish_fleet(said.and_then(|admin| self.everywhere(&admin)));
        }
        let said = said.and_then(|admin| admin.done(Method::POST, paths::BROADCAST, Some(&self.order())));
        self.asking.finish(said, told)
    }

    /// Sends the broadcast to the sockets of all stickyds.
    fn everywhere(&self, admin: &AdminClient) -> Result<FleetText, RemoteError> {
        let said = FleetSaid::order(admin, None, paths::BROADCAST.to_owned(), Some(&self.order()))?;
        let all = said.answers::<BroadcastAnswer>()?.into_iter().map(|one| one.answer).reduce(add);
        let text = all.as_ref().map_or_else(String::new, told);
        Ok(FleetText { said, text })
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

    fn order(&self) -> BroadcastOrder {
        let arg = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.clone()));
        BroadcastOrder {
            all: self.all,
            args: (!self.args.is_empty()).then(|| self.args.iter().map(arg).collect()),
            event: self.event.clone(),
            namespace: self.namespace.clone(),
            text: self.text.clone(),
            filter: self.filters.given().into_iter().collect(),
        }
    }
}

/// Adds what two stickyds have reached.
fn add(mut one: BroadcastAnswer, other: BroadcastAnswer) -> BroadcastAnswer {
    one.not_reached.add(&other.not_reached);
    one.matched += other.matched;
    one.reached += other.reached;
    one.took_ms = one.took_ms.max(other.took_ms);
    one
}

fn told(said: &BroadcastAnswer) -> String {
    let mut text = format!("{} of {} sockets were reached\n", said.reached, said.matched);
    let not = &said.not_reached;
    let why = [
        (not.denied, "on routes or upstreams without `broadcast = true`"),
        (not.polling, "polling"),
        (not.not_ready, "still upgrading"),
        (not.other_kind, "of the other protocol: --text is for plain WebSockets, --event for Socket.IO"),
        (not.closing, "closing, or not a WebSocket"),
        (not.slow, "too slow: did not take it within 5 s"),
    ];
    for (count, words) in why.into_iter().filter(|(count, _)| *count > 0) {
        text.push_str(&format!("{count} {words}\n"));
    }
    text
}
