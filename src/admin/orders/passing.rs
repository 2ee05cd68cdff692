//! Where a request to the API comes from: a client, or another stickyd that has passed it on.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::super::Api;
use super::super::auth::AdminOperator;

/// Marks a request that another stickyd has passed on, or this one to itself: it is not passed on again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassedOn;

/// Where a request comes from: it is passed on to the fleet if it comes from a client of the API.
pub(crate) struct Passing(Option<String>);

impl Passing {
    /// The sender of a request that comes from a client of the API; `None`: another stickyd has passed it on.
    pub(crate) fn sender(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// The sender of a request that is to be passed on; `None` if this stickyd is to execute it alone.
    pub(crate) fn of_backend(self, api: &Api) -> Option<String> {
        self.0.filter(|_| api.shared.sessions.fleet().is_some())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Passing {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let is_passed_on = parts.extensions.get::<PassedOn>().is_some();
        let who = parts.extensions.get::<AdminOperator>().map(|operator| operator.0.clone());
        Ok(Self(who.filter(|_| !is_passed_on)))
    }
}
