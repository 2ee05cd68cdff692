//! What a client received, byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::judge::find;
use crate::support::raw::patient;

/// An answer as a strict client reads it, with its head as text.
#[derive(Debug)]
pub(super) struct JudgedAnswer {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// The answer is complete, and its framing says so.
    pub(super) whole: bool,
}

/// Sends `bytes` and reads until the connection ends. `half`: shuts down the writing side after the bytes.
pub(super) fn exchange(address: SocketAddr, bytes: &[u8], half: bool) -> Vec<u8> {
    let stream = patient(TcpStream::connect(address).unwrap());
    let mut writer = stream.try_clone().unwrap();
    let bytes = bytes.to_vec();
    // On another thread, because an answer may come before everything is written.
    let writing = std::thread::spawn(move || {
        let _ = writer.write_all(&bytes);
        if half {
            let _ = writer.shutdown(Shutdown::Write);
        }
    });
    let got = read_all(stream);
    writing.join().unwrap();
    got
}

/// Everything up to the end of the connection, by close or reset.
pub(super) fn read_all(mut stream: TcpStream) -> Vec<u8> {
    let (mut got, mut chunk) = (Vec::new(), [0; 16 * 1024]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return got,
            Ok(count) => got.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("the connection did not end, after: {}", String::from_utf8_lossy(&got))
            }
            Err(_) => return got,
        }
    }
}

/// Reads the final answers in `bytes`.
///
/// # Errors
/// The reason why some bytes are not an answer.
pub(super) fn answers(mut bytes: &[u8], head_only: bool) -> Result<Vec<JudgedAnswer>, String> {
    let mut answers: Vec<JudgedAnswer> = Vec::new();
    while !bytes.is_empty() {
        let (answer, rest) = answer(bytes, head_only && answers.is_empty())?;
        if !(100..200).contains(&answer.status) || answer.status == 101 {
            answers.push(answer);
        }
        bytes = rest;
    }
    Ok(answers)
}

fn answer(bytes: &[u8], head_only: bool) -> Result<(JudgedAnswer, &[u8]), String> {
    let odd = || format!("no answer: {:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)]));
    let end = find(bytes, b"\r\n\r\n").ok_or_else(odd)?;
    let head = String::from_utf8(bytes[..end].to_vec()).map_err(|_| odd())?.to_ascii_lowercase();
    let rest = &bytes[end + 4..];
    let status = head.strip_prefix("http/1.").and_then(|head| head.get(2..5)?.parse().ok()).ok_or_else(odd)?;
    let values = |name: &str| {
        let line = |line: &str| line.strip_prefix(name)?.strip_prefix(": ").map(str::to_owned);
        head.split("\r\n").filter_map(line).collect::<Vec<_>>()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    if lengths.len() + codings.len() > 1 {
        return Err(format!("two lengths: {head}"));
    }
    let none = head_only || status < 200 || status == 204 || status == 304;
    if none {
        if status == 204 && lengths.len() + codings.len() > 0 {
            return Err(format!("a length where no body may be: {head}"));
        }
        return Ok((JudgedAnswer { status, head, body: Vec::new(), whole: true }, rest));
    }
    if !codings.is_empty() {
        let (body, used, whole) = chunks(rest)?;
        return Ok((JudgedAnswer { status, head, body, whole }, &rest[used..]));
    }
    let length: usize = match lengths.first() {
        Some(length) => length.parse().map_err(|_| odd())?,
        None => rest.len(),
    };
    let (body, left) = rest.split_at(length.min(rest.len()));
    Ok((JudgedAnswer { status, head, body: body.to_vec(), whole: body.len() == length }, left))
}

fn chunks(bytes: &[u8]) -> Result<(Vec<u8>, usize, bool), String> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let Some(end) = find(&bytes[at..], b"\r\n") else { return Ok((body, bytes.len(), false)) };
        let line = String::from_utf8_lossy(&bytes[at..at + end]).into_owned();
        let size = usize::from_str_radix(&line, 16).map_err(|_| format!("a chunk's size: {line:?}"))?;
        at += end + 2;
        if size == 0 {
            let end =
                if bytes[at..].starts_with(b"\r\n") { Some(0) } else { find(&bytes[at..], b"\r\n\r\n").map(|n| n + 2) };
            let Some(end) = end else { return Ok((body, bytes.len(), false)) };
            let trailers = String::from_utf8_lossy(&bytes[at..at + end]).to_ascii_lowercase();
            if ["content-length", "transfer-encoding", "set-cookie", "spoofed"]
                .iter()
                .any(|name| trailers.contains(name))
            {
                return Err(format!("trailers {trailers}"));
            }
            return Ok((body, at + end + 2, true));
        }
        let Some(chunk) = bytes.get(at..at + size + 2) else {
            body.extend_from_slice(&bytes[at..(at + size).min(bytes.len())]);
            return Ok((body, bytes.len(), false));
        };
        body.extend_from_slice(&chunk[..size]);
        at += size + 2;
    }
}
