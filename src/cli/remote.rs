//! Talks to a running stickyd through its admin listener: one request, one answer, and clear errors if there is no
//! answer.
//!
//! The address of the listener is given on the command line or read from the configuration file, of which only that
//! part has to be valid. Used by every command that queries or changes a running stickyd.

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::admin::api::ErrorAnswer;
use crate::admin::auth::OWN_FIELD;
use crate::config::{self, AdminAddress, Secret};

/// Configuration file of the package.
pub(crate) const FILE: &str = "/etc/stickyd/stickyd.toml";

/// Time to wait for an answer; a reload may have to wait for DNS lookups.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

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
            let _ = io::stdout().write_all(text.as_bytes());
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
    serde_json::to_string_pretty(said).unwrap_or_default() + "\n"
}

/// Address and token of an admin listener.
pub struct AdminClient {
    address: AdminAddress,
    token: Option<Secret>,
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
        f.write_str(&self.0)
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
            return Ok(AdminClient { address: address.clone(), token });
        }
        let file = self.config.clone().unwrap_or_else(|| FILE.into());
        let config::AdminListener { address, token } =
            config::load_admin(&file).map_err(|errors| RemoteError(errors.to_string()))?;
        if address == AdminAddress::None {
            let no = "sets neither state_dir nor [admin] address, so there is no admin listener; use kill -HUP";
            return Err(RemoteError(format!("error: {} {no}", file.display())));
        }
        Ok(AdminClient { address, token })
    }
}

impl AdminClient {
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
                return RemoteError(format!("error: {} answered {status}, which {of}: {error}", self.address));
            }
            // The layers around the API answer in plain text.
            let said = String::from_utf8_lossy(body);
            let said: String = said.trim().chars().filter(|c| !c.is_control()).take(200).collect();
            RemoteError(format!("error: {} answered {status}: {said}", self.address))
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
        let request = self.request(method, path, body).map_err(|error| RemoteError(format!("error: {error}")))?;
        runtime.block_on(async {
            match tokio::time::timeout(ANSWER_PATIENCE, self.exchange(request)).await {
                Ok(answer) => answer,
                Err(_) => Err(self.silent(&format!("no answer in {} s", ANSWER_PATIENCE.as_secs()))),
            }
        })
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let body = body.map(serde_json::to_vec).transpose().map_err(|error| error.to_string())?;
        let mut request = Request::new(Full::from(body.unwrap_or_default()));
        let writes = method != Method::GET;
        *request.method_mut() = method;
        *request.uri_mut() = path.parse().map_err(|_| format!("`{path}` is not a valid path"))?;
        let host = match &self.address {
            AdminAddress::Tcp(address) => HeaderValue::from_str(&address.to_string()).ok(),
            AdminAddress::Unix(_) | AdminAddress::None => None,
        };
        request.headers_mut().insert(header::HOST, host.unwrap_or_else(|| HeaderValue::from_static("localhost")));
        if writes {
            request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            request.headers_mut().insert(OWN_FIELD, HeaderValue::from_static("1"));
        }
        if let Some(token) = &self.token {
            let mut value = HeaderValue::from_bytes(&[b"Bearer ", &*token.0].concat())
                .map_err(|_| "the token cannot be sent: it contains control characters".to_owned())?;
            value.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        Ok(request)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answered, RemoteError> {
        let answered = match &self.address {
            AdminAddress::Tcp(address) => match tokio::net::TcpStream::connect(address).await {
                Ok(stream) => over(stream, request).await,
                Err(error) => return Err(self.unreachable(&error)),
            },
            AdminAddress::Unix(path) => match tokio::net::UnixStream::connect(path).await {
                Ok(stream) => over(stream, request).await,
                Err(error) => return Err(self.unreachable(&error)),
            },
            AdminAddress::None => return Err(self.silent("none is configured")),
        };
        answered.map_err(|error| self.silent(&error))
    }

    fn unreachable(&self, error: &io::Error) -> RemoteError {
        let at = &self.address;
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

    fn silent(&self, why: &str) -> RemoteError {
        RemoteError(format!("error: no answer from the admin listener {}: {why}", self.address))
    }
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
