//! A worker that records every byte and answers everything that its judge accepts as a request.

use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use socket2::SockRef;

use super::judge::{self, Seen};
use crate::support::wait::wait_for;

/// `MSG_PEEK | MSG_DONTWAIT` of Linux.
const LOOK_ONLY: i32 = 0x02 | 0x40;

struct Leg {
    stream: TcpStream,
    bytes: Vec<u8>,
    /// The number of bytes that have been judged.
    judged: usize,
    answered: usize,
    over: bool,
}

impl Leg {
    fn new(stream: TcpStream) -> Self {
        Self { stream, bytes: Vec::new(), judged: 0, answered: 0, over: false }
    }

    /// Whether nothing waits in the socket and all that was read is answered. Bytes are read under the lock, so none
    /// are between the socket and `bytes` here.
    fn is_idle(&self) -> bool {
        let waits = SockRef::from(&self.stream).recv_with_flags(&mut [MaybeUninit::uninit()], LOOK_ONLY);
        self.over || (self.answered == self.bytes.len() && !matches!(waits, Ok(1..)))
    }
}

/// The recording worker and what it has received.
pub(super) struct Recorder {
    pub(super) address: SocketAddr,
    legs: Arc<Mutex<Vec<Arc<Mutex<Leg>>>>>,
}

impl Recorder {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let legs: Arc<Mutex<Vec<Arc<Mutex<Leg>>>>> = Arc::default();
        let all = legs.clone();
        // The thread ends with the process of the test.
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let leg = Arc::new(Mutex::new(Leg::new(stream.try_clone().unwrap())));
                all.lock().unwrap().push(leg.clone());
                std::thread::spawn(move || serve(stream, &leg));
            }
        });
        Self { address, legs }
    }

    /// What has arrived since the last call, once all connections are idle: complete requests, or why they are
    /// dangerous.
    pub(super) fn since(&self) -> Result<Vec<Seen>, String> {
        wait_for("the worker's connections are idle", || {
            let legs = self.legs.lock().unwrap();
            legs.iter().all(|leg| leg.lock().unwrap().is_idle())
        });
        let mut seen = Vec::new();
        let mut danger = None;
        for leg in &*self.legs.lock().unwrap() {
            let mut leg = leg.lock().unwrap();
            loop {
                match judge::request(&leg.bytes[leg.judged..]) {
                    Ok(Some((request, length))) => {
                        seen.push(request);
                        leg.judged += length;
                    }
                    Ok(None) => break,
                    Err(why) => {
                        danger = Some(why);
                        break;
                    }
                }
            }
            leg.judged = leg.bytes.len();
        }
        danger.map_or(Ok(seen), Err)
    }
}

fn serve(mut stream: TcpStream, leg: &Mutex<Leg>) {
    let mut chunk = [0; 16 * 1024];
    while let Ok(1..) = stream.peek(&mut chunk[..1]) {
        let mut leg = leg.lock().unwrap();
        let Ok(count @ 1..) = stream.read(&mut chunk) else { break };
        leg.bytes.extend_from_slice(&chunk[..count]);
        loop {
            match judge::request(&leg.bytes[leg.answered..]) {
                Ok(Some((request, length))) => {
                    leg.answered += length;
                    let body = if request.method == "HEAD" { "" } else { "ok" };
                    let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}").as_bytes());
                }
                Ok(None) => break,
                Err(_) => {
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
                    let _ = stream.shutdown(Shutdown::Write);
                    leg.answered = usize::MAX;
                    break;
                }
            }
            if leg.answered >= leg.bytes.len() {
                break;
            }
        }
        if leg.answered == usize::MAX {
            break;
        }
    }
    // Later bytes are evidence, too.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    // The leg has a descriptor of its own, which would keep the connection open.
    let _ = stream.shutdown(Shutdown::Both);
    let mut leg = leg.lock().unwrap();
    leg.bytes.append(&mut rest);
    leg.over = true;
}
