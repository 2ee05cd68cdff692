//! Workers that answer by script and show what reached them.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::super::wait::patience;
use super::{Message, Raw, reset};

/// One connection, as a script sees it.
pub(crate) struct Leg {
    /// The bytes of the connection.
    pub(crate) raw: Raw,
    /// The number of this connection among those that brought bytes, from 0. Health checks bring none.
    pub(crate) number: usize,
    tcp: Option<TcpStream>,
    told: mpsc::Sender<Seen>,
}

impl Leg {
    /// The next request, which the test can also take from [`RawWorker::request`]; `None` at the end of the connection.
    pub(crate) fn request(&mut self) -> Option<Message> {
        let request = self.raw.request()?;
        let _ = self.told.send(Seen::Request(self.number, request.clone()));
        Some(request)
    }

    /// Sends an answer or a part of one; `false` if the proxy has left.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.raw.try_send(bytes).is_ok()
    }

    /// Makes the connection end with a reset.
    pub(crate) fn reset(&self) {
        reset(self.tcp.as_ref().unwrap());
    }

    /// Waits until the proxy closes the connection; [`RawWorker::closed`] then returns.
    pub(crate) fn until_closed(&mut self) {
        self.raw.rest();
    }
}

enum Seen {
    Request(usize, Message),
    Closed(usize),
}

/// A worker on a free port or unix socket that runs a script for every connection, each on its own thread.
pub(crate) struct RawWorker {
    /// The address at which it listens; for a unix socket, 0.0.0.0:0.
    pub(crate) address: SocketAddr,
    seen: mpsc::Receiver<Seen>,
    requests: Vec<(usize, Message)>,
    closed: Vec<usize>,
    bytes: Arc<Mutex<Vec<Bytes>>>,
}

/// The bytes that have come on one connection so far.
type Bytes = Arc<Mutex<Vec<u8>>>;

/// A `HTTP/1.1 200 OK` with this body.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

impl RawWorker {
    /// A worker that answers every request with `answer` and keeps connections.
    pub(crate) fn answering(answer: impl Fn(&Message) -> String + Send + Sync + 'static) -> Self {
        Self::scripted(move |leg| {
            while let Some(request) = leg.request() {
                if !leg.send(answer(&request)) {
                    return;
                }
            }
        })
    }

    /// A worker that answers every request with its own name.
    pub(crate) fn named(name: &str) -> Self {
        let answer = ok(name);
        Self::answering(move |_| answer.clone())
    }

    /// A worker that runs `script` for every connection that brings bytes.
    pub(crate) fn scripted(script: impl Fn(&mut Leg) + Send + Sync + 'static) -> Self {
        Self::scripted_at("127.0.0.1:0".parse().unwrap(), script)
    }

    /// A scripted worker at this address.
    pub(crate) fn scripted_at(address: SocketAddr, script: impl Fn(&mut Leg) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let accept = move || {
            let stream = patient_forever(listener.accept().ok()?.0);
            Some((Raw::on(stream.try_clone().unwrap()), Some(stream)))
        };
        Self::accepting(address, accept, script)
    }

    /// A scripted worker with TLS; a failed handshake counts as a connection without bytes.
    pub(crate) fn secured(config: Arc<ServerConfig>, script: impl Fn(&mut Leg) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let accept = move || {
            let stream = patient_forever(listener.accept().ok()?.0);
            let connection = ServerConnection::new(config.clone()).unwrap();
            Some((Raw::on(StreamOwned::new(connection, stream.try_clone().unwrap())), Some(stream)))
        };
        Self::accepting(address, accept, script)
    }

    /// A scripted worker on a unix socket.
    pub(crate) fn scripted_unix(path: &Path, script: impl Fn(&mut Leg) + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let accept = move || Some((Raw::on(listener.accept().ok()?.0), None));
        Self::accepting(([0, 0, 0, 0], 0).into(), accept, script)
    }

    fn accepting(
        address: SocketAddr,
        accept: impl Fn() -> Option<(Raw, Option<TcpStream>)> + Send + 'static,
        script: impl Fn(&mut Leg) + Send + Sync + 'static,
    ) -> Self {
        let (told, seen) = mpsc::channel();
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let (script, numbers, all) = (Arc::new(script), Arc::new(AtomicUsize::new(0)), bytes.clone());
        // The thread ends with the process of the test, of which nextest starts one per test.
        std::thread::spawn(move || {
            while let Some((mut raw, tcp)) = accept() {
                let (script, told, numbers, all) = (script.clone(), told.clone(), numbers.clone(), all.clone());
                std::thread::spawn(move || {
                    if !raw.fill() {
                        return;
                    }
                    let number = numbers.fetch_add(1, Ordering::SeqCst);
                    all.lock().unwrap().push(raw.seen.clone());
                    let mut leg = Leg { raw, number, tcp, told: told.clone() };
                    script(&mut leg);
                    drop(leg);
                    let _ = told.send(Seen::Closed(number));
                });
            }
        });
        Self { address, seen, requests: Vec::new(), closed: Vec::new(), bytes }
    }

    /// The next request that reached the worker, with the number of its connection.
    pub(crate) fn request(&mut self) -> (usize, Message) {
        while self.requests.is_empty() {
            self.wait();
        }
        self.requests.remove(0)
    }

    /// Waits until the script of connection `number` has ended.
    pub(crate) fn closed(&mut self, number: usize) {
        while !self.closed.contains(&number) {
            self.wait();
        }
    }

    fn wait(&mut self) {
        match self.seen.recv_timeout(patience()).expect("the worker gets a request or a close") {
            Seen::Request(number, request) => self.requests.push((number, request)),
            Seen::Closed(number) => self.closed.push(number),
        }
    }

    /// The number of connections that brought bytes.
    pub(crate) fn connections(&self) -> usize {
        self.bytes.lock().unwrap().len()
    }

    /// Every byte that came, on all connections.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let legs = self.bytes.lock().unwrap();
        legs.iter().flat_map(|leg| leg.lock().unwrap().clone()).collect()
    }
}

/// A stream without a limit for reads: a worker waits as long as its proxy does, and the test's limits end it.
fn patient_forever(stream: TcpStream) -> TcpStream {
    stream.set_nodelay(true).unwrap();
    stream
}
