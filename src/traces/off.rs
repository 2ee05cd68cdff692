//! Types that a build without traces uses in place of the real ones. They have no size, and their methods do nothing.

#![allow(clippy::needless_pass_by_ref_mut, reason = "the same signatures as with traces")]

use std::net::IpAddr;

use hyper::header::HeaderValue;
use hyper::{Request, StatusCode};

use crate::config::Address;

/// Stands for the trace of a request; there is none in this build.
#[derive(Clone)]
pub(crate) struct NoTrace;

impl NoTrace {
    #[inline]
    pub(crate) fn own_context(&self) -> Option<HeaderValue> {
        None
    }

    #[inline]
    pub(crate) fn comes_from(&self, _client: IpAddr) {}

    #[inline]
    pub(crate) fn decided(&self, _upstream: &str, _why: &'static str) {}

    #[inline]
    pub(crate) fn answered(&self, _status: StatusCode, _reason: Option<&'static str>) {}

    #[inline]
    pub(crate) fn end(&self, _is_cut: bool) {}

    #[inline]
    pub(crate) fn attempt<B>(&self, _request: &mut Request<B>, _worker: &str, _address: &Address) -> NoSpan {
        NoSpan
    }
}

/// Stands for the span of an attempt; there is none in this build.
pub(crate) struct NoSpan;

impl NoSpan {
    #[inline]
    pub(crate) fn answered(&mut self, _status: StatusCode) {}

    #[inline]
    pub(crate) fn failed(&mut self, _why: &'static str) {}
}
