//! `stickyd page`: opens the page of a running stickyd in a browser, by a bridge from a port of this machine to its
//! admin listener.
//!
//! A user that may open the admin socket may operate stickyd, but a browser cannot open it. The bridge listens on
//! 127.0.0.1 only, and every process of this machine can reach that; so it asks each request for a key that it has made
//! at its start. The key stands in the fragment of the address, which browsers send to no server; the page takes it
//! from there and sends it in a header field. Only the page's own files, which hold no data, need no key. All rules of
//! the admin listener apply after the bridge. Left out: TLS, since nothing leaves the machine; `ssh -L` brings the port
//! to another one.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use clap::Args;
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;

use super::remote::{AdminClient, NO_BODY, Remote, RemoteError};
use crate::admin::auth::is_own_host;
use crate::admin::page;
use crate::random;

/// Header field in which the page sends the key.
const KEY: &str = "x-stickyd-key";

/// Maximum number of connections at once: some tabs of a browser.
const CONNECTIONS: usize = 64;

/// Time for a request's head to arrive.
const HEAD: Duration = Duration::from_secs(10);

/// Arguments of `stickyd page`.
#[derive(Debug, Args)]
pub struct PageCommand {
    /// Open the page in this machine's browser
    #[arg(long)]
    pub open: bool,
    /// Port on 127.0.0.1; 0 lets the system choose
    #[arg(short, long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,
    /// The stickyd to connect to.
    #[command(flatten)]
    pub remote: Remote,
}

/// The running bridge: the admin listener after it, and the key before it.
struct Bridge {
    admin: AdminClient,
    key: String,
}

type BridgeAnswer = Response<Either<Incoming, Full<Bytes>>>;

impl PageCommand {
    /// Bridges requests until it is interrupted, and returns the exit code.
    pub fn run(&self) -> u8 {
        match self.bridge() {
            Ok(()) => 0,
            Err(error) => {
                // A closed output does not change the result.
                let _ = writeln!(io::stderr(), "{error}");
                1
            }
        }
    }

    fn bridge(&self) -> Result<(), RemoteError> {
        let admin = self.remote.find()?;
        if admin.ask(Method::GET, page::ROOT, NO_BODY)?.status == StatusCode::NOT_FOUND {
            return Err(RemoteError::new("the running stickyd is older than the page: restart it"));
        }
        let failed = |error: io::Error| RemoteError::new(&format!("cannot listen on 127.0.0.1:{}: {error}", self.port));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            let bridge = Bridge { admin, key: key() };
            let url = format!("http://{address}/#key={}", bridge.key);
            let said = words(&url, address, &bridge.admin.name(), SshLogin::of_environment().as_ref());
            let _ = io::stdout().write_all(said.as_bytes()).and_then(|()| io::stdout().flush());
            if self.open {
                open(&url);
            }
            let (mut interrupt, mut terminate) =
                (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?);
            tokio::select! {
                () = serve(listener, Arc::new(bridge)) => {}
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            Ok(())
        })
    }
}

/// Makes a key that cannot be guessed.
fn key() -> String {
    random::bytes::<16>().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The login by SSH that this session belongs to: its user, and the server's address.
struct SshLogin {
    user: String,
    host: String,
    port: String,
}

impl SshLogin {
    fn of_environment() -> Option<Self> {
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
        Self::read(&std::env::var("SSH_CONNECTION").ok()?, user)
    }

    /// Reads `SSH_CONNECTION`: address and port of the client, then of the server.
    fn read(connection: &str, user: String) -> Option<Self> {
        let mut words = connection.split_ascii_whitespace().skip(2).map(str::to_owned);
        Some(Self { user, host: words.next()?, port: words.next()? })
    }

    /// Returns the command that brings the port to the user's own machine.
    fn command(&self, port: u16) -> String {
        let at = if self.user.is_empty() { String::new() } else { format!("{}@", self.user) };
        let option = if self.port == "22" { String::new() } else { format!("-p {} ", self.port) };
        format!("ssh {option}-N -L {port}:127.0.0.1:{port} {at}{}", self.host)
    }
}

/// Returns what the command prints.
fn words(url: &str, address: SocketAddr, admin: &str, ssh: Option<&SshLogin>) -> String {
    let mut text = format!("page of the stickyd at {admin}:\n\n  {url}\n\n");
    if let Some(login) = ssh {
        let _ = write!(
            text,
            "You are logged in by SSH. Run this on your own machine first, then open the address there:\n\n  {}\n\n",
            login.command(address.port())
        );
    }
    text + "The address holds a key, with which this stickyd can be operated until the command ends (Ctrl-C).\n"
}

/// Opens the address in a browser; a failure is told and changes nothing.
fn open(url: &str) {
    let mut command = Command::new("xdg-open");
    command.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if let Err(error) = command.spawn() {
        let _ = writeln!(io::stderr(), "no browser was opened: xdg-open: {error}");
    }
}

#[allow(clippy::disallowed_methods, reason = "a command of its own: the tasks end with it")]
async fn serve(listener: TcpListener, bridge: Arc<Bridge>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(seat) = room.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let bridge = bridge.clone();
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_headers(64).max_buf_size(16 * 1024);
        let service = service_fn(move |request| {
            let bridge = bridge.clone();
            async move { Ok::<_, hyper::Error>(bridge.answer(request).await) }
        });
        tokio::task::spawn_local(async move {
            let _seat = seat;
            // A connection that a browser has broken needs no handling.
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

impl Bridge {
    async fn answer(&self, mut request: Request<Incoming>) -> BridgeAnswer {
        if let Some((status, why)) = self.refuses(&request) {
            return refusal(status, why);
        }
        request.headers_mut().remove(KEY);
        match self.admin.pass(request).await {
            Ok(answer) => answer.map(Either::Left),
            Err(error) => refusal(StatusCode::BAD_GATEWAY, &format!("{error}\n")),
        }
    }

    /// Returns why a request goes no further. The Host is checked here as well, because the bridge gives the admin
    /// listener a token where one is needed, and a request with a token may have any Host there.
    fn refuses(&self, request: &Request<Incoming>) -> Option<(StatusCode, &'static str)> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| is_own_host(host, &[])) {
            return Some((StatusCode::FORBIDDEN, "Host must be an IP address or localhost\n"));
        }
        let reads = request.method() == Method::GET || request.method() == Method::HEAD;
        if reads && page::is_of_page(request.uri().path()) {
            return None;
        }
        let why = "wrong or missing key: open the whole address that `stickyd page` has printed\n";
        (!bears(request.headers(), &self.key)).then_some((StatusCode::UNAUTHORIZED, why))
    }
}

fn bears(headers: &HeaderMap, key: &str) -> bool {
    headers.get(KEY).is_some_and(|given| verify_slices_are_equal(given.as_bytes(), key.as_bytes()).is_ok())
}

fn refusal(status: StatusCode, why: &str) -> BridgeAnswer {
    let mut answer = Response::new(Either::Right(Full::from(why.to_owned())));
    *answer.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, text);
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_ssh_the_command_for_the_own_machine_is_printed() {
        let login = SshLogin::read("198.51.100.7 50312 203.0.113.9 2222", "ops".to_owned()).unwrap();
        assert_eq!(login.command(41_000), "ssh -p 2222 -N -L 41000:127.0.0.1:41000 ops@203.0.113.9");
        let usual = SshLogin::read("::1 1 2001:db8::1 22", String::new()).unwrap();
        assert_eq!(usual.command(1), "ssh -N -L 1:127.0.0.1:1 2001:db8::1");
        assert!(SshLogin::read("198.51.100.7 50312", String::new()).is_none());
        let address = SocketAddr::from(([127, 0, 0, 1], 41_000));
        let with = words("http://127.0.0.1:41000/#key=k", address, "unix:/a", Some(&login));
        assert!(with.contains(&login.command(41_000)) && with.contains("/#key=k\n"), "{with}");
        assert!(!words("u", address, "unix:/a", None).contains("ssh"));
    }

    #[test]
    fn keys_are_long_and_never_the_same() {
        let (one, other) = (key(), key());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
        let given = |key: &str| HeaderMap::from_iter([(KEY.parse().unwrap(), HeaderValue::from_str(key).unwrap())]);
        assert!(bears(&given(&one), &one));
        assert!(!bears(&given(&other), &one) && !bears(&given(""), &one) && !bears(&HeaderMap::new(), &one));
    }
}
