//! What a request says of the socket it opens: its route, user agent and labels, read once from its head.
//!
//! Labels are an operator's choice (`[upstream.app] labels`): a value of the query, a cookie or a field. What a client can
//! choose is cut and made printable; stickyd's own cookie never becomes a label, whatever it is sent as.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hyper::header::{self, HeaderMap, HeaderName};

use super::common::Key;
use super::text::{pack_label, printable};
use crate::affinity::cookie::Jar;
use crate::affinity::session;
use crate::proxy::headers::Client;

/// Bytes of a sid that are kept: all there can be.
pub(super) const LONGEST_SID: usize = session::MAX_SID;

/// Bytes of a label's value that are kept.
pub const LONGEST_LABEL: usize = 64;

/// Bytes of a user agent that are kept: the common ones whole.
const LONGEST_AGENT: usize = 120;

/// The rules of an upstream's labels, in the order of the file.
pub type Labels = Vec<Label>;

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label {
    /// `[a-z0-9_]{1,32}`.
    pub name: String,
    /// Where its value stands.
    pub from: From,
}

/// Where a label's value stands in a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum From {
    /// This key of the query; of several the last, percent-decoded.
    Query(String),
    /// The cookie of this name; of several the first.
    Cookie(String),
    /// This field; of several the first.
    Header(HeaderName),
}

/// What is known of a socket from its request.
#[derive(Debug, Clone)]
pub struct Facts {
    pub(super) common: Key,
    /// As [`pack_label`] has them.
    pub(super) labels: Box<[u8]>,
    pub(super) address: IpAddr,
    pub(super) tls: bool,
    engine_io: bool,
}

impl Facts {
    /// Reads a head, as the client sent it or as its worker gets it.
    pub fn read(
        (headers, query): (&HeaderMap, Option<&str>),
        client: Client,
        route: Option<Arc<str>>,
        (labels, jar): (&Arc<Labels>, Option<&Jar>),
    ) -> Self {
        let agent = headers.get(header::USER_AGENT).map_or(&b""[..], |agent| agent.as_bytes());
        let mut packed = Vec::new();
        for label in labels.iter() {
            let value = value(&label.from, headers, query).filter(|value| !jar.is_some_and(|jar| jar.signed(value)));
            pack_label(&mut packed, value.map(|value| printable(&value, LONGEST_LABEL)).as_deref());
        }
        Self {
            common: Key { route, agent: printable(agent, LONGEST_AGENT).into(), labels: labels.clone() },
            labels: packed.into_boxed_slice(),
            address: client.address,
            tls: client.secure,
            engine_io: session::recognise(query).is_some(),
        }
    }

    /// Whether its query is Engine.IO's, also where its upstream does not look at sessions.
    pub fn engine_io(&self) -> bool {
        self.engine_io
    }
}

impl Facts {
    /// Of a socket whose request was not looked at.
    pub(super) fn nothing() -> Self {
        let common = Key { route: None, agent: Box::default(), labels: Arc::default() };
        Self {
            common,
            labels: Box::default(),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            tls: false,
            engine_io: false,
        }
    }
}

/// More than a label keeps, so that a cut value is not taken for a whole one elsewhere.
const ENOUGH: usize = 256;

fn value(from: &From, headers: &HeaderMap, query: Option<&str>) -> Option<Vec<u8>> {
    match from {
        From::Query(name) => session::query_value(query?, name.as_bytes(), ENOUGH),
        From::Header(name) => headers.get(name).map(|value| value.as_bytes().to_vec()),
        From::Cookie(name) => headers
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&b| b == b';'))
            .find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .map(<[u8]>::to_vec),
    }
}
