//! One request to the admin listener of a running stickyd, one answer, and clear errors if there is no answer.
//!
//! The first of several addresses that accepts a connection is used. Left out: which addresses there are (`remote`).

use std::fmt;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::admin::api::ErrorAnswer;
use crate::admin::auth::OWN_FIELD;
use crate::admin::layers::HEAD_OF_ANSWER;
use crate::config::{AdminAddress, Secret};
use crate::printable::{printable, printable_lines};

/// Time to wait for an answer: a little longer than stickyd takes for one, so that its own words about a time-out are
/// shown.
const ANSWER_PATIENCE: Duration = HEAD_OF_ANSWER.saturating_add(Duration::from_secs(10));

/// Maximum size of an answer, in bytes; a list of ten thousand workers has three million.
const ANSWER: usize = 64 << 20;

/// Addresses and token of an admin listener.
pub struct AdminClient {
    /// The addresses to try, in this order; the first that accepts a connection is used.
    addresses: Vec<AdminAddress>,
    token: Option<Secret>,
    patience: Duration,
}

/// An answer as it was received.
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    body: Bytes,
}

/// The body of a request that has none.
pub(crate) const NO_BODY: Option<&()> = None;

/// Reason why there is no answer; `Display` writes it as the error message of the command.
#[derive(Debug)]
pub struct RemoteError(pub(super) String);

impl fmt::Display for RemoteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Answers may contain what peers wrote, such as a session id.
        f.write_str(&printable_lines(&self.0))
    }
}

impl RemoteError {
    pub(crate) fn new(why: &str) -> Self {
        Self(format!("error: {why}"))
    }

    /// The error of a command that has done a part before, in these lines, which stays done.
    pub(crate) fn after(self, done: &str) -> Self {
        Self(format!("{done}{}", self.0))
    }
}

impl AdminClient {
    pub(super) fn new(addresses: Vec<AdminAddress>, token: Option<Secret>) -> Self {
        Self { addresses, token, patience: ANSWER_PATIENCE }
    }

    /// Sends a request with an optional body, and returns the answer; one with an error status is returned as an error.
    pub(crate) fn done<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<T, RemoteError> {
        let answer = self.ask(method, path, body)?;
        if answer.status.is_success() {
            return self.read(&answer);
        }
        Err(RemoteError(format!("error: {}", self.read::<ErrorAnswer>(&answer)?.error)))
    }

    /// Reads the JSON of an answer.
    pub(crate) fn read<T: DeserializeOwned>(&self, answer: &Answered) -> Result<T, RemoteError> {
        serde_json::from_slice(&answer.body).map_err(|error| {
            let Answered { status, body } = answer;
            if error.is_data() {
                let of = "is not the answer of this version of stickyd";
                return RemoteError(format!("error: {} answered {status}, which {of}: {error}", self.name()));
            }
            // The layers around the API answer in plain text.
            let said: String = String::from_utf8_lossy(body).trim().chars().take(200).collect();
            RemoteError(format!("error: {} answered {status}: {}", self.name(), printable(&said)))
        })
    }

    /// Sends a request with an optional body, and waits for the whole answer.
    pub(crate) fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answered, RemoteError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| RemoteError(format!("error: {error}")))?;
        let request = self.request(method, path, body)?;
        runtime.block_on(async {
            match tokio::time::timeout(self.patience, self.exchange(request)).await {
                Ok(answer) => answer,
                Err(_) => Err(self.silent(&format!("no answer in {} s", self.patience.as_secs_f64()))),
            }
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Request<Full<Bytes>>, RemoteError> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| RemoteError::new(&error.to_string()))?;
        let mut request = Request::new(Full::from(body.unwrap_or_default()));
        let writes = method != Method::GET;
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| RemoteError::new(&format!("`{path}` is not a valid path")))?;
        // The rules for Host allow this name at every address.
        request.headers_mut().insert(header::HOST, HeaderValue::from_static("localhost"));
        if writes {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            request.headers_mut().insert(OWN_FIELD, HeaderValue::from_static("1"));
        }
        if let Some(token) = &self.token {
            request.headers_mut().insert(header::AUTHORIZATION, bearer(token)?);
        }
        Ok(request)
    }

    /// Sends the request to the first address that accepts a connection. The error is the first one.
    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answered, RemoteError> {
        let mut first = None;
        for address in &self.addresses {
            let answered = match address {
                AdminAddress::Tcp(tcp) => match tokio::net::TcpStream::connect(tcp).await {
                    Ok(stream) => over(stream, request.clone()).await,
                    Err(error) => {
                        first.get_or_insert_with(|| unreachable(address, &error));
                        continue;
                    }
                },
                AdminAddress::Unix(path) => match tokio::net::UnixStream::connect(path).await {
                    Ok(stream) => over(stream, request.clone()).await,
                    Err(error) => {
                        first.get_or_insert_with(|| unreachable(address, &error));
                        continue;
                    }
                },
                AdminAddress::None => continue,
            };
            return answered.map_err(|error| self.silent(&error));
        }
        Err(first.unwrap_or_else(|| self.silent("none is configured")))
    }

    /// Passes a request of another program on, with this client's token unless the request has one, and returns the
    /// answer while its body is still arriving. To be called within a `LocalSet`, where the connection runs until both
    /// bodies have ended.
    pub(crate) async fn pass(&self, mut request: Request<Incoming>) -> Result<Response<Incoming>, RemoteError> {
        if let (Some(token), false) = (&self.token, request.headers().contains_key(header::AUTHORIZATION)) {
            request.headers_mut().insert(header::AUTHORIZATION, bearer(token)?);
        }
        let mut first = None;
        for address in &self.addresses {
            let connected = match address {
                AdminAddress::Tcp(tcp) => tokio::net::TcpStream::connect(tcp).await.map(Either::Left),
                AdminAddress::Unix(path) => tokio::net::UnixStream::connect(path).await.map(Either::Right),
                AdminAddress::None => continue,
            };
            let passed = match connected {
                Ok(Either::Left(stream)) => pass_over(stream, request).await,
                Ok(Either::Right(stream)) => pass_over(stream, request).await,
                Err(error) => {
                    first.get_or_insert_with(|| unreachable(address, &error));
                    continue;
                }
            };
            return passed.map_err(|error| self.silent(&error.to_string()));
        }
        Err(first.unwrap_or_else(|| self.silent("none is configured")))
    }

    /// Returns the first address as a name of the listener for messages.
    pub(crate) fn name(&self) -> String {
        self.addresses.first().unwrap_or(&AdminAddress::None).to_string()
    }

    fn silent(&self, why: &str) -> RemoteError {
        RemoteError(format!("error: no answer from the admin listener {}: {why}", self.name()))
    }
}

/// Returns the value of Authorization for a token.
fn bearer(token: &Secret) -> Result<HeaderValue, RemoteError> {
    let mut value = HeaderValue::from_bytes(&[b"Bearer ", &*token.0].concat())
        .map_err(|_| RemoteError::new("the token cannot be sent: it contains control characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Sends a request over a new connection, which goes on in a task of its own until the bodies have ended.
#[allow(clippy::disallowed_methods, reason = "a command of its own: the tasks end with it")]
async fn pass_over(
    stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
    request: Request<Incoming>,
) -> hyper::Result<Response<Incoming>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::task::spawn_local(async move {
        // Its error is also that of the request or of the body.
        let _ = connection.await;
    });
    sender.send_request(request).await
}

fn unreachable(at: &AdminAddress, error: &io::Error) -> RemoteError {
    RemoteError(match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            format!("error: no stickyd answers at {at}: is it running? ({error})")
        }
        io::ErrorKind::PermissionDenied if matches!(at, AdminAddress::Unix(_)) => {
            format!(
                "error: only root, stickyd's own user and the members of [admin] group may open {at} ({error})\n  \
                 = help: use sudo, or set [admin] group"
            )
        }
        _ => format!("error: cannot connect to {at}: {error}"),
    })
}

async fn over(stream: impl AsyncRead + AsyncWrite + Unpin, request: Request<Full<Bytes>>) -> Result<Answered, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER).collect().await.map_err(|error| error.to_string())?;
        Ok(Answered { status, body: body.to_bytes() })
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        // The end of the connection may have brought the rest of the answer.
        _ = &mut connection => exchange.await,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Serves one request on a socket of its own with this answer; nothing for `None`.
    fn asked(answer: Option<&'static str>, patience: Duration) -> Result<serde_json::Value, RemoteError> {
        let path = std::env::temp_dir().join(format!("stickyd-remote-{:016x}.sock", crate::random::u64()));
        let listener = UnixListener::bind(&path).unwrap();
        let (done, until) = std::sync::mpsc::channel::<()>();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 4096];
            assert!(stream.read(&mut head).unwrap() > 0);
            if let Some(answer) = answer {
                stream.write_all(answer.as_bytes()).unwrap();
            }
            let _ = until.recv();
        });
        // The first address is that of a stickyd that has ended.
        let gone = AdminAddress::Unix("/nonexistent/admin.sock".into());
        let admin = AdminClient { patience, ..AdminClient::new(vec![gone, AdminAddress::Unix(path.clone())], None) };
        let said = admin.done(Method::GET, "/api/v1/status", NO_BODY);
        drop(done);
        server.join().unwrap();
        std::fs::remove_file(path).unwrap();
        said
    }

    #[test]
    fn stickyds_own_words_about_a_time_out_are_shown() {
        assert!(ANSWER_PATIENCE > HEAD_OF_ANSWER, "the command waits longer than stickyd");
        let said = "HTTP/1.1 504 Gateway Timeout\r\nContent-Length: 34\r\n\r\nthe answer was not ready in 60 s\u{9b}";
        let error = asked(Some(said), ANSWER_PATIENCE).unwrap_err().to_string();
        assert!(error.contains("504 Gateway Timeout: the answer was not ready in 60 s\\u{9b}"), "{error:?}");
        let error = asked(None, Duration::from_millis(50)).unwrap_err().to_string();
        assert!(error.contains("no answer in 0.05 s"), "{error}");
    }

    #[test]
    fn a_socket_that_may_not_be_opened_has_help() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let said = |at: &AdminAddress| unreachable(at, &denied).to_string();
        assert_eq!(
            said(&AdminAddress::Unix("/a.sock".into())),
            "error: only root, stickyd's own user and the members of [admin] group may open unix:/a.sock (permission \
             denied)\n  = help: use sudo, or set [admin] group"
        );
        assert!(said(&AdminAddress::Tcp(([127, 0, 0, 1], 1).into())).contains("cannot connect to 127.0.0.1:1"));
    }

    #[test]
    fn an_address_that_answers_is_used() {
        let said = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}";
        assert_eq!(asked(Some(said), ANSWER_PATIENCE).unwrap()["a"], 1);
        let gone = |name: &str| AdminAddress::Unix(format!("/nonexistent/{name}.sock").into());
        let admin = AdminClient::new(vec![gone("first"), gone("second")], None);
        let error = admin.ask(Method::GET, "/", NO_BODY).err().unwrap().to_string();
        assert!(error.contains("no stickyd answers at unix:/nonexistent/first.sock"), "{error}");
    }
}
