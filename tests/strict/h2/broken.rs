//! A deliberately simple translation of HTTP/2 to HTTP/1: names and values become lines, DATA becomes bytes, and
//! nothing is checked. The table has to show that it is broken.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use crate::support::h2::frame;
use crate::support::raw::patient;

/// Starts the translation in front of `worker`.
pub(super) fn start(worker: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // The thread ends with the process of the test.
    std::thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            std::thread::spawn(move || serve(patient(client), worker));
        }
    });
    address
}

/// Serves one connection until it ends, or until a field block cannot be read.
fn serve(mut client: TcpStream, worker: SocketAddr) -> Option<()> {
    client.read_exact(&mut [0; 24]).ok()?;
    client.write_all(&frame(4, 0, 0, b"")).ok()?;
    let mut legs: HashMap<u32, TcpStream> = HashMap::new();
    let mut blocks: HashMap<u32, (bool, Vec<u8>)> = HashMap::new();
    loop {
        let mut head = [0; 9];
        client.read_exact(&mut head).ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        client.read_exact(&mut payload).ok()?;
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut ends = kind == 0 && flags & 1 == 1;
        match kind {
            0 => {
                let _ = legs.get_mut(&stream)?.write_all(&payload);
            }
            1 | 9 => {
                let (end, block) = blocks.entry(stream).or_default();
                *end |= kind == 1 && flags & 1 == 1;
                block.extend(payload);
                if flags & 4 == 4 {
                    let (end, block) = blocks.remove(&stream)?;
                    let fields = fields(&block)?;
                    let leg = legs.entry(stream).or_insert_with(|| patient(TcpStream::connect(worker).unwrap()));
                    let _ = leg.write_all(&lines(&fields));
                    ends = end;
                }
            }
            7 => return None,
            _ => {}
        }
        if ends {
            let mut leg = legs.remove(&stream)?;
            let mut answer = Vec::new();
            let _ = (leg.shutdown(Shutdown::Write), leg.read_to_end(&mut answer));
            // 200 or 502, from the static table or as a literal.
            let said: &[u8] = if answer.starts_with(b"HTTP/1.1 200") { b"\x88" } else { b"\x48\x03502" };
            client.write_all(&frame(1, 5, stream, said)).ok()?;
        }
    }
}

fn lines(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let of = |name: &str| fields.iter().rfind(|field| field.0 == name.as_bytes()).map(|field| &field.1[..]);
    let mut out = Vec::new();
    if let (Some(method), Some(path)) = (of(":method"), of(":path")) {
        out = [method, b" ", path, b" HTTP/1.1\r\nhost: ", of(":authority").unwrap_or_default(), b"\r\n"].concat();
    }
    for (name, value) in fields.iter().filter(|field| !field.0.starts_with(b":")) {
        out.extend([name, &b": "[..], value, b"\r\n"].concat());
    }
    out.extend(b"\r\n");
    out
}

/// Decodes literals, and those entries of the static table that `/last` uses.
fn fields(mut block: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut fields = Vec::new();
    while let [first, rest @ ..] = block {
        block = rest;
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let field = match first {
            0x82 => pair(":method", "GET"),
            0x84 => pair(":path", "/"),
            0x86 => pair(":scheme", "http"),
            0x87 => pair(":scheme", "https"),
            0x41 => (b":authority".to_vec(), string(&mut block)?),
            0x04 => (b":path".to_vec(), string(&mut block)?),
            0x00 | 0x10 | 0x40 => (string(&mut block)?, string(&mut block)?),
            _ => return None,
        };
        fields.push(field);
    }
    Some(fields)
}

fn string(block: &mut &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = block.split_first()?;
    *block = rest;
    let mut length = usize::from(*first);
    if length == 127 {
        let mut shift = 0;
        loop {
            let (next, rest) = block.split_first()?;
            *block = rest;
            length += usize::from(next & 0x7f) << shift;
            shift += 7;
            if next & 0x80 == 0 || shift > 28 {
                break;
            }
        }
    }
    let text = block.get(..length)?.to_vec();
    *block = &block[length..];
    Some(text)
}
