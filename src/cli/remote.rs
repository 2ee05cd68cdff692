//! Talks to a running stickyd through its admin listener: one request, one answer, and clear errors if there is no
//! answer.
//!
//! The address of the listener is given on the command line or read from the configuration file, of which only that
//! part has to be valid. Used by every command that queries or changes a running stickyd.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Either, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{FILE, quick};
use crate::admin::api::ErrorAnswer;
use crate::admin::auth::OWN_FIELD;
use crate::admin::layers::HEAD_OF_ANSWER;
use crate::config::{self, AdminAddress, Secret};
use crate::printable::{printable, printable_json, printable_lines};

/// Time to wait for an answer: a little longer than stickyd takes for one, so that its own words about a time-out are
/// shown.
const ANSWER_PATIENCE: Duration = HEAD_OF_ANSWER.saturating_add(Duration::from_secs(10));

/// Maximum size of an answer, in bytes; a list of ten thousand workers has three million.
const ANSWER: usize = 64 << 20;

/// Options that select a running stickyd.
#[derive(Debug, Args)]
pub struct Remote {
    /// Configuration file of the running stickyd, read for its admin listener [default: /etc/stickyd/stickyd.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with = "admin")]
    pub config: Option<PathBuf>,
    /// Admin listener of the running stickyd, such as unix:/var/lib/stickyd/admin.sock or 127.0.0.1:9145
    #[arg(short, long, value_name = "ADDRESS", value_parser = address)]
    pub admin: Option<AdminAddress>,
    /// File with the token that writes over TCP need; with --config, the file named there is used
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub token_file: Option<PathBuf>,
}

fn address(text: &str) -> Result<AdminAddress, String> {
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Ok(AdminAddress::Unix(path.into())),
        Some(_) => Err("the path of a socket must begin with /".to_owned()),
        None => text.parse().map(AdminAddress::Tcp).map_err(|_| "expected unix:/PATH or IP:PORT".to_owned()),
    }
}

/// Options that select a running stickyd and the format of the output.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// The stickyd to connect to.
    #[command(flatten)]
    pub remote: Remote,
    /// Print the API's answer as JSON
    #[arg(long)]
    pub json: bool,
}

impl RemoteArgs {
    /// Gets the answer at `path` and prints it; returns the exit code. With `--json` everything that the server sent is
    /// printed, also fields that this version does not know.
    pub(crate) fn show<T: DeserializeOwned>(&self, path: &str, words: impl FnOnce(&T) -> String) -> u8 {
        let admin = self.remote.find();
        let text = admin.and_then(|admin| match self.json {
            true => admin.done::<serde_json::Value>(Method::GET, path, NO_BODY).map(|said| pretty(&said)),
            false => admin.done(Method::GET, path, NO_BODY).map(|said| words(&said)),
        });
        print(text)
    }

    /// Prints an answer or an error; returns the exit code, 0 or 1.
    pub(crate) fn finish<T: Serialize>(&self, said: Result<T, RemoteError>, words: impl FnOnce(&T) -> String) -> u8 {
        print(said.map(|said| if self.json { pretty(&said) } else { words(&said) }))
    }
}

/// Writes the text of an answer to standard output, or an error to standard error; returns the exit code, 0 or 1.
fn print(text: Result<String, RemoteError>) -> u8 {
    match text {
        Ok(text) => {
            // A closed output does not change the result.
            let _ = io::stdout().write_all(printable_lines(&text).as_bytes());
            0
        }
        Err(refusal) => {
            let _ = writeln!(io::stderr(), "{refusal}");
            1
        }
    }
}

/// Formats an answer as indented JSON.
fn pretty(said: &impl Serialize) -> String {
    // This cannot fail: all keys are strings, and no number is infinite.
    let json = serde_json::to_string_pretty(said).unwrap_or_default() + "\n";
    printable_json(&json).into_owned()
}

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
pub struct RemoteError(String);

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
}

impl Remote {
    /// Finds the admin listener.
    ///
    /// # Errors
    /// The file cannot be read, or configures no admin listener.
    pub fn find(&self) -> Result<AdminClient, RemoteError> {
        if let Some(address) = &self.admin {
            let token = self.token_file.as_ref().map(|file| config::token(file).map_err(RemoteError)).transpose()?;
            return Ok(AdminClient::new(vec![address.clone()], token));
        }
        let file = self.config.as_deref().unwrap_or_else(|| Path::new(FILE));
        if self.config.is_none() && !file.exists() {
            return without_file(file, quick::running());
        }
        let admin = config::load_admin(file).map_err(|errors| RemoteError(errors.to_string()))?;
        let mut addresses: Vec<_> = admin.addresses().cloned().collect();
        if addresses.is_empty() {
            let no = "sets neither state_dir nor [admin] address, so there is no admin listener";
            let help = "set state_dir and restart stickyd; until then only SIGHUP (reload) and SIGTERM (stop) reach it";
            return Err(RemoteError(format!("error: {} {no}\n  = help: {help}", file.display())));
        }
        // A socket needs no token.
        addresses.sort_by_key(|address| !matches!(address, AdminAddress::Unix(_)));
        Ok(AdminClient::new(addresses, admin.token))
    }
}

/// Finds the one stickyd that this user has started without a file.
fn without_file(file: &Path, mut running: Vec<PathBuf>) -> Result<AdminClient, RemoteError> {
    match (running.pop(), running.as_slice()) {
        (Some(only), []) => Ok(AdminClient::new(vec![AdminAddress::Unix(only)], None)),
        (None, _) => Err(RemoteError(format!(
            "error: {} does not exist, and this user runs no stickyd without a file: use --config FILE or --admin ADDRESS",
            file.display()
        ))),
        (Some(last), others) => {
            let all = others.iter().chain([&last]).map(|path| format!("\n  --admin unix:{}", path.display()));
            Err(RemoteError(format!(
                "error: several stickyds run without a file: choose one with{}",
                all.collect::<String>()
            )))
        }
    }
}

impl AdminClient {
    fn new(addresses: Vec<AdminAddress>, token: Option<Secret>) -> Self {
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
        io::ErrorKind::PermissionDenied => {
            format!("error: only root and stickyd's own user may open {at} ({error})")
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
    fn an_address_that_answers_is_used() {
        let said = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}";
        assert_eq!(asked(Some(said), ANSWER_PATIENCE).unwrap()["a"], 1);
        let gone = |name: &str| AdminAddress::Unix(format!("/nonexistent/{name}.sock").into());
        let admin = AdminClient::new(vec![gone("first"), gone("second")], None);
        let error = admin.ask(Method::GET, "/", NO_BODY).err().unwrap().to_string();
        assert!(error.contains("no stickyd answers at unix:/nonexistent/first.sock"), "{error}");
    }

    #[test]
    fn one_of_several_stickyds_without_a_file_must_be_chosen() {
        let file = Path::new("/nonexistent/s.toml");
        let error = without_file(file, vec!["/a/1.sock".into(), "/a/2.sock".into()]).err().unwrap().to_string();
        assert!(error.contains("--admin unix:/a/1.sock\n") && error.contains("--admin unix:/a/2.sock"), "{error}");
        assert!(
            without_file(file, Vec::new()).err().unwrap().to_string().contains("/nonexistent/s.toml does not exist")
        );
        assert!(without_file(file, vec!["/a/1.sock".into()]).is_ok());
    }
}
