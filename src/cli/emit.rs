//! `stickyd emit`: sends a Socket.IO event to the clients of an upstream, as the backend does over the API.

use clap::Args;
use hyper::Method;
use serde_json::Value;

use super::remote::RemoteArgs;
use super::table::counted;
use crate::admin::api::{EmitAnswer, EmitOrder, paths};

/// Arguments of `stickyd emit`.
#[derive(Debug, Args)]
pub struct EmitCommand {
    /// Name of the event
    #[arg(value_name = "EVENT")]
    pub event: String,
    /// Arguments of the event, as JSON; anything else is sent as a string
    #[arg(value_name = "JSON", allow_negative_numbers = true)]
    pub args: Vec<String>,
    /// Room that the clients are in, with emit = { via = "frames" } a label with its value such as user:7; may be given
    /// several times [default: all clients of the namespace]
    #[arg(long = "room", value_name = "ROOM")]
    pub rooms: Vec<String>,
    /// Room whose clients do not get it; may be given several times
    #[arg(long, value_name = "ROOM")]
    pub except: Vec<String>,
    /// Namespace of the event [default: /]
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Upstream whose clients get it [default: the only one]
    #[arg(long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Text for plain WebSockets, with emit = { via = "frames" } [default: the event and its arguments as JSON]
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// Path of the Socket.IO server, with emit = { via = "bus" } [default: /socket.io]
    #[arg(long, value_name = "PATH")]
    pub path: Option<String>,
    /// Wait for the answers of the clients, with emit = { via = "bus" }, and print them
    #[arg(long)]
    pub ack: bool,
    /// Time in which clients are to answer, up to 30s [default: 5s]
    #[arg(long, value_name = "TIME", requires = "ack")]
    pub timeout: Option<String>,
    /// How long the message is kept for users that are away, such as 2h, or `no`, with an `offline_queue` [default: as
    /// the file says]
    #[arg(long, value_name = "TIME")]
    pub queue: Option<String>,
    /// Name of the message for clients that get it from the queue [default: a new one]
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl EmitCommand {
    /// Sends the event, prints what became of it, and returns the exit code.
    pub fn run(&self) -> u8 {
        let said = self.asking.remote.find();
        let said = said.and_then(|admin| admin.done(Method::POST, paths::EMIT, Some(&self.order())));
        let is_partial = said.as_ref().is_ok_and(|said: &EmitAnswer| said.missing.is_some());
        self.asking.finish(said, told).max(u8::from(is_partial))
    }

    fn order(&self) -> EmitOrder {
        let arg = |text: &String| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.clone()));
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        EmitOrder {
            ack: self.ack.then_some(true),
            args: (!self.args.is_empty()).then(|| self.args.iter().map(arg).collect()),
            event: Some(self.event.clone()),
            except: some(&self.except),
            id: self.id.clone(),
            namespace: self.namespace.clone(),
            path: self.path.clone(),
            queue: self.queue.as_ref().map(|text| if text == "no" { Value::from(false) } else { text.clone().into() }),
            rooms: some(&self.rooms),
            text: self.text.clone(),
            timeout: self.timeout.clone(),
            upstream: self.upstream.clone(),
        }
    }
}

fn told(said: &EmitAnswer) -> String {
    let mut text = sent(said);
    if let (Some(queued @ 1..), Some(id)) = (said.queued, &said.id) {
        text.push_str(&format!("stored for {}, with the id {id}\n", counted(queued as u64, "user")));
    }
    text
}

fn sent(said: &EmitAnswer) -> String {
    if let Some((reached, matched)) = said.reached.zip(said.matched) {
        let missing = said.missing.iter().flatten().map(|why| format!("{why}\n"));
        return format!("{reached} of {matched} sockets were reached\n") + &missing.collect::<String>();
    }
    let Some((workers, sockets)) = said.workers.zip(said.sockets) else {
        if said.queued.is_some() {
            return String::new();
        }
        return "published: the adapter of the application hands it to its clients\n".to_owned();
    };
    let mut text = format!("{workers} workers handed it to {sockets} sockets\n");
    if let Some(silent) = said.silent.filter(|silent| *silent > 0) {
        text.push_str(&format!("{silent} workers did not answer\n"));
    }
    if let Some(acks) = &said.acks {
        text.push_str(&format!("{} clients answered\n", acks.len()));
        acks.iter().for_each(|ack| text.push_str(&format!("{ack}\n")));
        if let Some(dropped) = said.acks_dropped {
            text.push_str(&format!("{dropped} more answers were dropped: there are too many, or over 4 MiB\n"));
        }
    }
    text
}
