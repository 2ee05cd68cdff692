//! A complete answer, over HTTP/1.1 or HTTP/2, for clients that are built on a library.
//!
//! Raw connections have [`super::raw::Message`] instead, which keeps the bytes as they came.

use std::time::Duration;

use hyper::header::HeaderMap;

/// A complete answer to one request.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status code of the answer.
    pub(crate) status: u16,
    /// All header fields of the answer.
    pub(crate) headers: HeaderMap,
    /// The body as text.
    pub(crate) body: String,
    /// The trailers after the body, if there were any.
    pub(crate) trailers: Option<HeaderMap>,
    /// The time from the request to the end of the answer.
    pub(crate) took: Duration,
}

impl Answer {
    /// The value of a header; empty if it is missing.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        &self.body
    }

    /// stickyd's cookie as a browser sends it back.
    pub(crate) fn cookie(&self) -> Option<String> {
        let all = self.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap());
        let ours: Vec<_> = all.filter(|value| value.starts_with("stickyd")).collect();
        assert!(ours.len() < 2, "{ours:?}");
        ours.first().map(|value| value.split(';').next().unwrap().to_owned())
    }
}
