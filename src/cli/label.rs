//! `stickyd label`: sets labels of the backend on a socket, as the application does over the API.

use clap::Args;
use hyper::Method;

use super::remote::{RemoteArgs, RemoteError};
use crate::admin::api::{LabelledSocket, LabelsOrder, paths};

/// Arguments of `stickyd label`.
#[derive(Debug, Args)]
pub struct LabelCommand {
    /// Engine.IO session (sid) of the socket, or its socket.id if its worker is linked to the bus
    #[arg(value_name = "SID")]
    pub sid: String,
    /// Label to set, such as user=7; one without a value, such as user=, is removed
    #[arg(value_name = "NAME=VALUE", required = true)]
    pub labels: Vec<String>,
    /// Upstream of the socket [default: any]
    #[arg(long, value_name = "NAME")]
    pub upstream: Option<String>,
    /// Namespace of the socket.id [default: /]
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Connection to stickyd, and output format.
    #[command(flatten)]
    pub asking: RemoteArgs,
}

impl LabelCommand {
    /// Sets the labels, prints all labels of the socket, and returns the exit code.
    pub fn run(&self) -> u8 {
        let said = self.order().and_then(|order| {
            let admin = self.asking.remote.find()?;
            admin.done(Method::PUT, &paths::socket_labels(&self.sid), Some(&order))
        });
        self.asking.finish(said, told)
    }

    fn order(&self) -> Result<LabelsOrder, RemoteError> {
        let label = |text: &String| {
            let (name, value) = text.split_once('=')?;
            Some((name.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty())))
        };
        let labels: Option<_> = self.labels.iter().map(label).collect();
        let labels = labels.ok_or_else(|| RemoteError::new("write labels as NAME=VALUE, such as user=7"))?;
        Ok(LabelsOrder { labels, namespace: self.namespace.clone(), upstream: self.upstream.clone() })
    }
}

fn told(said: &LabelledSocket) -> String {
    let labels: Vec<_> = said.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    format!("{} ({}, {}): {}\n", said.id, said.upstream, said.transport, labels.join(" "))
}
