//! `stickyd queue`: messages for users whose clients are away, counted, shown and deleted.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use hyper::Method;

use super::remote::{RemoteArgs, RemoteError};
use super::table::{Column, TableArgs, cell, counted, span, table};
use crate::admin::api::{
    QueueAnswer, QueueDeleteOrder, QueueDeleted, QueueMessages, QueueShowOrder, QueueUpstream, paths,
};

/// Arguments of `stickyd queue`.
#[derive(Debug, Args)]
pub struct QueueCommand {
    /// What to do with the messages.
    #[command(subcommand)]
    pub action: QueueAction,
}

/// What can be done with queued messages.
#[derive(Debug, Subcommand)]
pub enum QueueAction {
    /// Count the messages, and list the users that they wait for
    List(QueueListCommand),
    /// Show the messages of a user, without what they say
    ///
    /// Example: stickyd queue show app user=7
    Show(QueueShowCommand),
    /// Delete the messages of a user, or one of them
    ///
    /// Example: stickyd queue delete app user=7
    Delete(QueueDeleteCommand),
}

/// Arguments of `stickyd queue list`.
#[derive(Debug, Args)]
pub struct QueueListCommand {
    /// Name of the upstream [default: all]
    #[arg(value_name = "UPSTREAM")]
    pub upstream: Option<String>,
    /// Maximum number of users per upstream
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: usize,
    /// Form of the table.
    #[command(flatten)]
    pub tables: TableArgs,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

/// A user of an upstream.
#[derive(Debug, Args)]
pub struct UserArgs {
    /// Name of the upstream
    #[arg(value_name = "UPSTREAM")]
    pub upstream: String,
    /// The label of `offline_queue` and its value
    #[arg(value_name = "LABEL=VALUE", value_parser = label)]
    pub user: (String, String),
}

impl UserArgs {
    fn label(&self) -> BTreeMap<String, String> {
        BTreeMap::from([self.user.clone()])
    }
}

/// Arguments of `stickyd queue show`.
#[derive(Debug, Args)]
pub struct QueueShowCommand {
    /// The user whose messages are shown.
    #[command(flatten)]
    pub user: UserArgs,
    /// Show what the messages say, too
    #[arg(long)]
    pub payload: bool,
    /// Maximum number of messages
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    pub limit: usize,
    /// Form of the table.
    #[command(flatten)]
    pub tables: TableArgs,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

/// Arguments of `stickyd queue delete`.
#[derive(Debug, Args)]
pub struct QueueDeleteCommand {
    /// The user whose messages are deleted.
    #[command(flatten)]
    pub user: UserArgs,
    /// Delete only the message with this id
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected LABEL=VALUE, such as user=7")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl QueueCommand {
    /// Runs the command and returns the exit code.
    pub fn run(&self) -> u8 {
        match &self.action {
            QueueAction::List(list) => {
                let upstream = list.upstream.iter().map(|name| ("upstream", name.clone()));
                let given = upstream.chain([("limit", list.limit.to_string())]);
                let path = paths::with_query(paths::QUEUE, given);
                list.asking.show(&path, |said| all(said, list.tables.width()))
            }
            QueueAction::Show(show) => {
                let order = QueueShowOrder {
                    label: show.user.label(),
                    limit: Some(show.limit),
                    payload: show.payload,
                    upstream: show.user.upstream.clone(),
                };
                let said: Result<QueueMessages, RemoteError> = show
                    .asking
                    .remote
                    .find()
                    .and_then(|admin| admin.done(Method::POST, paths::QUEUE_SHOW, Some(&order)));
                show.asking.finish(said, |said| messages(said, show.payload, show.tables.width()))
            }
            QueueAction::Delete(delete) => {
                let order = QueueDeleteOrder {
                    id: delete.id.clone(),
                    label: delete.user.label(),
                    upstream: delete.user.upstream.clone(),
                };
                let admin = delete.asking.remote.find();
                let said: Result<QueueDeleted, RemoteError> =
                    admin.and_then(|admin| admin.done(Method::POST, paths::QUEUE_DELETE, Some(&order)));
                delete.asking.finish(said, |said| format!("{} deleted\n", counted(said.deleted, "message")))
            }
        }
    }
}

fn all(said: &QueueAnswer, width: Option<u16>) -> String {
    if said.upstreams.is_empty() {
        return "No upstream has an `offline_queue`.\n".to_owned();
    }
    said.upstreams.iter().map(|upstream| one(upstream, width)).collect::<Vec<_>>().join("\n")
}

fn one(upstream: &QueueUpstream, width: Option<u16>) -> String {
    let columns = [
        Column::text("USER", 0),
        Column::amount("MESSAGES", 0),
        Column::amount("OLDEST", 0),
        Column::amount("EXPIRES IN", 1),
    ];
    let head = format!(
        "{}: {} of at most {} for {}\n",
        upstream.name,
        counted(upstream.messages, "message"),
        upstream.total,
        counted(upstream.users, "user"),
    );
    if upstream.waiting.is_empty() {
        return head;
    }
    let row = |user: &crate::admin::api::QueueUser| {
        vec![cell(user.user.as_ref()), user.messages.to_string(), span(user.age_s), span(user.expires_s)]
    };
    let rows: Vec<_> = upstream.waiting.iter().map(row).collect();
    head + &table(&columns, &rows, width)
}

fn messages(said: &QueueMessages, has_payload: bool, width: Option<u16>) -> String {
    if said.messages.is_empty() {
        return "No message waits for this user.\n".to_owned();
    }
    let mut columns = vec![
        Column::text("ID", 0),
        Column::text("KIND", 0),
        Column::text("NAMESPACE", 1),
        Column::amount("BYTES", 0),
        Column::amount("AGE", 0),
        Column::amount("EXPIRES IN", 1),
    ];
    if has_payload {
        columns.push(Column::text("PAYLOAD", 0));
    }
    let row = |one: &crate::admin::api::QueueMessageView| {
        let namespace = cell(one.namespace.as_ref());
        let mut row = vec![one.id.clone(), one.kind.clone(), namespace, one.bytes.to_string()];
        row.extend([span(one.age_s), span(one.expires_s)]);
        if has_payload {
            row.push(cell(one.payload.as_ref()));
        }
        row
    };
    table(&columns, &said.messages.iter().map(row).collect::<Vec<_>>(), width)
}
