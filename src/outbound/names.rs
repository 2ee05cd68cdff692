//! Looks up the names of hosts on threads of their own.
//!
//! The system's resolver may block for any time. On the runtime's own blocking threads it would delay the end of the
//! process; these threads are never joined.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::{Semaphore, oneshot};
use tower::Service;

use crate::config;

/// Maximum number of lookups of one client at a time: a name server that does not answer must not fill the process
/// with threads.
const LOOKUPS: usize = 4;

/// The system's resolver, with a bound.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Semaphore>);

impl Default for Resolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKUPS)))
    }
}

/// Why a name has no address.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NameError(pub(super) String);

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = NameError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, NameError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NameError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(look_up(self.0.clone(), name.as_str().to_owned()))
    }
}

/// Every address of a name, with a port.
pub(crate) async fn addresses(name: &str, port: u16) -> Result<Vec<SocketAddr>, NameError> {
    let found = look_up(Resolver::default().0, name.to_owned()).await?;
    Ok(found.map(|address| SocketAddr::new(address.ip(), port)).collect())
}

async fn look_up(room: Arc<Semaphore>, name: String) -> Result<std::vec::IntoIter<SocketAddr>, NameError> {
    let permit = room.try_acquire_owned().map_err(|_| NameError("too many lookups are under way".to_owned()))?;
    let (sender, answer) = oneshot::channel();
    let work = move || {
        let found = config::look_up(&name);
        drop(permit);
        // The error is that the request has ended.
        let _ = sender.send(found);
    };
    let thread = std::thread::Builder::new().name("dns".to_owned()).spawn(work);
    thread.map_err(|error| NameError(error.to_string()))?;
    let gone = |_| Err(io::Error::other("the lookup ended without a result"));
    let found = answer.await.unwrap_or_else(gone).map_err(|error| NameError(error.to_string()))?;
    if found.is_empty() {
        return Err(NameError("it has no address".to_owned()));
    }
    // The client sets the port of the URL.
    Ok(found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
}
