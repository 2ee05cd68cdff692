//! The filter that selects sockets, for lists, for closing, and for other actions on many sockets.
//!
//! A filter is made from named texts, as they appear in a query or in a JSON object; a socket must match all of them.
//! The caller checks whether the upstream or label exists at all.

use std::collections::HashMap;
use std::time::Duration;

use ipnet::IpNet;

use super::socket::Socket;
use crate::clock::Seconds;
use crate::config::parse_network;
use crate::metrics::socket_labels::{SocketKind, SocketState, Transport};

/// Conditions on a socket, which must all hold; an empty filter matches every socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Name of the socket's upstream.
    pub upstream: Option<String>,
    /// Name or address of the worker.
    pub worker: Option<String>,
    /// Address or network of the client.
    pub address: Option<IpNet>,
    /// State of the socket.
    pub state: Option<SocketState>,
    /// Transport of the socket.
    pub transport: Option<Transport>,
    /// Protocol of the socket.
    pub kind: Option<SocketKind>,
    /// Session id (sid) of the socket.
    pub sid: Option<String>,
    /// Route that led to the upstream.
    pub route: Option<String>,
    /// Minimum age of the socket, in seconds.
    pub min_age_s: u32,
    /// Required values of labels, by label name.
    pub labels: Vec<(String, String)>,
}

impl Filter {
    /// Names of all conditions except `label.NAME`.
    pub(crate) const NAMES: [&str; 9] =
        ["upstream", "worker", "address", "state", "transport", "protocol", "sid", "route", "min_age"];

    /// Takes the conditions of a filter out of `given`, and leaves the rest.
    ///
    /// # Errors
    /// A message about the first invalid value.
    pub(crate) fn take(given: &mut HashMap<String, String>) -> Result<Self, String> {
        let mut names: Vec<String> = given.keys().filter(|name| name.starts_with("label.")).cloned().collect();
        names.sort_unstable();
        let label = |name: String| {
            let value = given.remove(&name)?;
            Some((name.strip_prefix("label.")?.to_owned(), value))
        };
        let labels = names.into_iter().filter_map(label).collect();
        let mut text = |name: &str| given.remove(name);
        Ok(Self {
            upstream: text("upstream"),
            worker: text("worker"),
            address: text("address").map(|text| network(&text)).transpose()?,
            state: text("state")
                .map(|text| one_of("state", &text, &SocketState::ALL, SocketState::word))
                .transpose()?,
            transport: text("transport")
                .map(|text| one_of("transport", &text, &Transport::ALL, Transport::word))
                .transpose()?,
            kind: text("protocol")
                .map(|text| one_of("protocol", &text, &[SocketKind::EngineIo, SocketKind::Plain], SocketKind::word))
                .transpose()?,
            sid: text("sid"),
            route: text("route"),
            min_age_s: text("min_age").map(|text| age(&text)).transpose()?.unwrap_or(0),
            labels,
        })
    }

    /// Whether the filter matches every socket.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a socket matches the filter at this second.
    pub(crate) fn fits(&self, socket: &Socket, now_s: Seconds) -> bool {
        let worker = socket.worker();
        let is = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        socket.has_begun()
            && is(&self.upstream, &worker.upstream)
            && self.worker.as_ref().is_none_or(|name| *name == worker.name || *name == worker.address.to_string())
            && self.transport.is_none_or(|transport| transport == socket.transport())
            && self.kind.is_none_or(|kind| kind == socket.kind())
            && is(&self.route, socket.route().unwrap_or_default())
            && now_s.since(socket.since_s()) >= self.min_age_s
            && self.state.is_none_or(|state| state == socket.state(now_s))
            && self.address.is_none_or(|network| network.contains(&socket.address()))
            && self.fits_texts(socket)
    }

    /// Checks the conditions on the socket's texts, which need its lock.
    fn fits_texts(&self, socket: &Socket) -> bool {
        if self.sid.is_none() && self.labels.is_empty() {
            return true;
        }
        socket.with_texts(|sid, labels| {
            let has = |(name, value): &(String, String)| labels.contains(&(name, Some(value)));
            self.sid.as_ref().is_none_or(|wanted| wanted.as_bytes() == sid) && self.labels.iter().all(has)
        })
    }
}

/// Parses an address, or a network such as 10.0.0.0/8.
fn network(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("`address` must be an IP address or a network such as 10.0.0.0/8, not `{text}`");
    parse_network(text).ok_or_else(wrong)
}

fn one_of<T: Copy>(name: &str, text: &str, all: &[T], word: fn(T) -> &'static str) -> Result<T, String> {
    let words = || all.iter().map(|one| word(*one)).collect::<Vec<_>>().join(", ");
    all.iter()
        .find(|one| word(**one) == text)
        .copied()
        .ok_or_else(|| format!("`{name}` must be one of {}, not `{text}`", words()))
}

/// Parses a duration such as `90s` or `2h`, or a number of seconds.
fn age(text: &str) -> Result<u32, String> {
    let seconds = || text.parse().ok().map(Duration::from_secs);
    let age = seconds().or_else(|| humantime::parse_duration(text).ok());
    age.and_then(|age| u32::try_from(age.as_secs()).ok())
        .ok_or_else(|| format!("`min_age` must be a duration such as 90s or 2h, not `{text}`"))
}
