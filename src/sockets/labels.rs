//! Facts about a socket from the request that opens it: route, user agent and labels, read once from the head.
//!
//! Labels are configured by operators (`[upstream.app] labels`): a query parameter, a cookie, a header field, a claim,
//! or a part of the client's certificate. Values that a client can choose are cut and made printable; stickyd's own
//! cookie never becomes a label, wherever it is sent.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hyper::header::{self, HeaderMap};

use super::common::CommonKey;
use super::socket_id::{pack_label, printable};
use crate::client::Client;
use crate::config::labels::{CertificatePart, LabelRules, LabelSource};
use crate::cookie::Jar;
use crate::engine_io;

/// Maximum number of bytes of a sid that are stored: all that a sid can have.
pub(crate) const LONGEST_SID: usize = engine_io::MAX_SID;

/// Maximum number of bytes of a label's value that are stored.
pub(crate) const LONGEST_LABEL: usize = 64;

/// Maximum number of bytes of a user agent that are stored; the common ones fit.
const LONGEST_AGENT: usize = 120;

/// Facts about a socket that are known from its request.
#[derive(Debug, Clone)]
pub struct SocketFacts {
    pub(crate) common: CommonKey,
    /// Label values, encoded by [`pack_label`].
    pub(crate) labels: Box<[u8]>,
    pub(crate) address: IpAddr,
    pub(crate) tls: bool,
    engine_io: bool,
}

/// The request that opens a socket, and what its upstream wants to know of it.
pub struct OpeningRequest<'a> {
    /// Fields of the head, either as the client sent it or as its worker gets it.
    pub headers: &'a HeaderMap,
    /// Query of the request's target.
    pub query: Option<&'a str>,
    /// Whether the query is Engine.IO's.
    pub is_engine_io: bool,
    /// Client that sent the request.
    pub client: Client,
    /// Name of the matching route.
    pub route: Option<Arc<str>>,
    /// Labels that the upstream's sockets have.
    pub labels: &'a Arc<LabelRules>,
    /// Recognises stickyd's own cookie, which never becomes a label.
    pub jar: Option<&'a Jar>,
    /// Gives the claims of the client's token.
    pub claims: ClaimTexts<'a>,
    /// The client's certificate, if its connection was opened with one.
    pub certificate: Option<CertificateTexts<'a>>,
}

/// What the certificate of a client says, which the listener has checked.
#[derive(Debug, Clone, Copy)]
pub struct CertificateTexts<'a> {
    pub(crate) subject: &'a str,
    pub(crate) fingerprint: &'a str,
}

impl<'a> CertificateTexts<'a> {
    /// The whole text of a part.
    pub(crate) fn text(self, part: CertificatePart) -> &'a str {
        match part {
            CertificatePart::Subject => self.subject,
            CertificatePart::Fingerprint => self.fingerprint,
        }
    }
}

/// Gives the text of a claim, by its name.
pub(crate) type ClaimTexts<'a> = &'a dyn Fn(&str) -> Option<String>;

impl SocketFacts {
    /// Reads the facts from a request head.
    pub fn read(opening: OpeningRequest<'_>) -> Self {
        let OpeningRequest { headers, query, is_engine_io, client, route, labels, jar, claims, certificate } = opening;
        let agent = headers.get(header::USER_AGENT).map_or(&b""[..], |agent| agent.as_bytes());
        let mut packed = Vec::new();
        for label in labels.iter() {
            let value = value(&label.from, headers, query, claims, certificate)
                .filter(|value| !jar.is_some_and(|jar| jar.signed(value)));
            pack_label(&mut packed, value.map(|value| printable(&value, LONGEST_LABEL)).as_deref());
        }
        Self {
            common: CommonKey { route, agent: printable(agent, LONGEST_AGENT).into(), labels: labels.clone() },
            labels: packed.into_boxed_slice(),
            address: client.address,
            tls: client.secure,
            engine_io: is_engine_io,
        }
    }

    /// Whether the query is Engine.IO's, even if its upstream does not recognise sessions.
    pub fn engine_io(&self) -> bool {
        self.engine_io
    }
}

impl SocketFacts {
    /// Facts of a socket whose request was not read.
    pub(crate) fn nothing() -> Self {
        let common = CommonKey { route: None, agent: Box::default(), labels: Arc::default() };
        Self {
            common,
            labels: Box::default(),
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            tls: false,
            engine_io: false,
        }
    }
}

/// Maximum number of bytes read of a query parameter: more than a label stores, so that a cut value is not taken for a
/// complete one.
const ENOUGH: usize = 256;

/// Reads the value of a label from a request; `claims` gives those of its token, and `certificate` is the client's.
pub(crate) fn value(
    from: &LabelSource,
    headers: &HeaderMap,
    query: Option<&str>,
    claims: ClaimTexts<'_>,
    certificate: Option<CertificateTexts<'_>>,
) -> Option<Vec<u8>> {
    match from {
        // The backend sets it later (`backend_labels`).
        LabelSource::Backend => None,
        LabelSource::Claim(name) => claims(name).map(String::into_bytes),
        LabelSource::Certificate(part) => certificate.map(|known| known.text(*part).as_bytes().to_vec()),
        LabelSource::Query(name) => engine_io::query_value(query?, name.as_bytes(), ENOUGH),
        LabelSource::Header(name) => headers.get(name).map(|value| value.as_bytes().to_vec()),
        LabelSource::Cookie(name) => headers
            .get_all(header::COOKIE)
            .iter()
            .flat_map(|value| value.as_bytes().split(|&b| b == b';'))
            .find_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="))
            .map(<[u8]>::to_vec),
    }
}
