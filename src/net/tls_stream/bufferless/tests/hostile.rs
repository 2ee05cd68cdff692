//! Input that no ordinary client sends: records sealed by hand, and a hello in tiny pieces.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::ConnectionTrafficSecrets;

use super::*;

// Content types (RFC 8446 §5.1).
const ALERT: u8 = 21;
const HANDSHAKE_RECORD: u8 = 22;
const DATA: u8 = 23;

/// Seals records with the keys of the client.
struct Sealer {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

/// Opens a connection and takes over its client's keys.
fn taken_over() -> (Sealer, Rig) {
    let (client, rig) = open().without_client();
    let (sequence, secrets) = client.dangerous_extract_secrets().unwrap().tx;
    let ConnectionTrafficSecrets::Aes256Gcm { key, iv } = secrets else { panic!("unexpected cipher suite") };
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key.as_ref()).unwrap());
    (Sealer { key, iv: iv.as_ref().try_into().unwrap(), sequence }, rig)
}

impl Sealer {
    /// Seals one record (RFC 8446 §5.2).
    fn seal(&mut self, kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut body = [payload, &[kind]].concat();
        let length = u16::try_from(body.len() + 16).unwrap().to_be_bytes();
        let header = [DATA, 3, 3, length[0], length[1]];
        let mut nonce = self.iv;
        nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()).for_each(|(iv, byte)| *iv ^= byte);
        self.sequence += 1;
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut body).unwrap();
        [&header[..], &body].concat()
    }
}

impl Rig {
    fn arrives(&self, bytes: &[u8]) {
        self.wire.borrow_mut().to_server.extend(bytes);
    }

    fn breaks(&mut self) -> io::ErrorKind {
        self.read(100).unwrap_err().kind()
    }
}

/// rustls remembers where in our memory the first half is, so a write between the halves must show it again.
#[test]
fn writes_between_the_halves_of_a_key_update_succeed() {
    let (mut sealer, mut rig) = taken_over();
    rig.arrives(&sealer.seal(DATA, b"before"));
    rig.arrives(&sealer.seal(HANDSHAKE_RECORD, &[24, 0]));
    assert_eq!(rig.read(100).unwrap(), Some(6));
    assert_eq!(rig.read(100).unwrap(), None);
    let half = rig.server().owned();
    assert!(half > 0);
    for _ in 0..3 {
        assert_eq!(rig.write(&[10, 5000]).unwrap(), Some(5010));
        assert_eq!(rig.read(100).unwrap(), None);
    }
    assert_eq!(rig.server().owned(), half);
    // The update does not request new keys of the server.
    rig.arrives(&sealer.seal(HANDSHAKE_RECORD, &[0, 1, 0]));
    assert_eq!(rig.read(100).unwrap(), None);
    assert_eq!((rig.server().owned(), rig.write(&[10]).unwrap()), (0, Some(10)));
    // Records under the client's old keys are now rejected.
    rig.arrives(&sealer.seal(DATA, b"after"));
    assert_eq!(rig.breaks(), io::ErrorKind::InvalidData);
}

#[test]
fn data_between_the_halves_of_a_key_update_is_an_error() {
    let (mut sealer, mut rig) = taken_over();
    rig.arrives(&sealer.seal(HANDSHAKE_RECORD, &[24]));
    assert_eq!(rig.read(100).unwrap(), None);
    rig.arrives(&sealer.seal(DATA, b"x"));
    assert_eq!(rig.breaks(), io::ErrorKind::InvalidData);
    assert_eq!(rig.write(&[10]).unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn an_endless_series_of_empty_records_is_an_error() {
    let (mut sealer, mut rig) = taken_over();
    // As many empty records as rustls allows in a row, twice.
    for _ in 0..2 {
        (0..32).for_each(|_| rig.arrives(&sealer.seal(DATA, b"")));
        assert_eq!(rig.read(100).unwrap(), None);
        rig.arrives(&sealer.seal(DATA, b"x"));
        assert_eq!(rig.read(100).unwrap(), Some(1));
    }
    (0..33).for_each(|_| rig.arrives(&sealer.seal(DATA, b"")));
    assert_eq!(rig.breaks(), io::ErrorKind::InvalidData);
}

/// A handshake message that claims to be large and never ends: no more of it is kept than rustls itself would keep.
#[test]
fn a_handshake_message_that_never_ends_is_an_error() {
    let (mut sealer, mut rig) = taken_over();
    rig.arrives(&sealer.seal(HANDSHAKE_RECORD, &[24, 0, 0xff, 0xff]));
    let mut most = 0;
    let error = loop {
        match rig.read(100) {
            Ok(read) => assert_eq!(read, None),
            Err(error) => break error,
        }
        most = most.max(rig.server().input.len());
        rig.arrives(&sealer.seal(HANDSHAKE_RECORD, &[0; 300]));
    };
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!((HANDSHAKE - 400..HANDSHAKE).contains(&most), "{most}");
    assert_eq!(rig.server().owned(), 0);
}

#[test]
fn bytes_after_a_close_notify_are_ignored() {
    let (mut sealer, mut rig) = taken_over();
    rig.arrives(&sealer.seal(DATA, b"last"));
    rig.arrives(&sealer.seal(ALERT, &[1, 0]));
    rig.arrives(&sealer.seal(DATA, b"more"));
    rig.arrives(b"not even a record");
    assert_eq!(rig.read(100).unwrap(), Some(4));
    assert_eq!((rig.read(100).unwrap(), rig.read(100).unwrap()), (Some(0), Some(0)));
    assert_eq!((rig.server().owned(), rig.write(&[10]).unwrap()), (0, Some(10)));
}

/// Reads records with less room than one of them has bytes.
#[test]
fn plaintext_waits_until_its_reader_has_room() {
    let (mut sealer, mut rig) = taken_over();
    for round in 0..10 {
        rig.arrives(&sealer.seal(DATA, &[round; 1000]));
    }
    for round in 0..10 {
        let reads = [400, 400, 200].map(|_| rig.read(400).unwrap());
        assert_eq!((reads, &rig.heard), ([Some(400), Some(400), Some(200)], &vec![round; 1000]));
        rig.heard.clear();
    }
    assert_eq!((rig.read(400).unwrap(), rig.server().owned()), (None, 0));
}

/// A hello in records of one byte each, also read byte by byte, is accepted.
#[test]
fn a_hello_in_tiny_pieces_is_accepted() {
    for crumb in [1, 7, 100] {
        let mut rig = Rig::new(&rustls::version::TLS13, vec![crumb], None);
        let mut hello = Vec::new();
        rig.client.write_tls(&mut hello).unwrap();
        for crumb in hello[5..].chunks(crumb) {
            let header = [HANDSHAKE_RECORD, 3, 1, 0, u8::try_from(crumb.len()).unwrap()];
            rig.arrives(&[&header, crumb].concat());
        }
        rig.handshake().unwrap();
        rig.client_says(10);
        rig.client.send_close_notify();
        rig.hear_all().unwrap();
        assert_eq!(rig.heard, rig.said);
    }
}

#[test]
fn a_client_that_speaks_plain_http_gets_an_alert() {
    let mut rig = Rig::new(&rustls::version::TLS13, vec![usize::MAX], None);
    // Drop the real hello, so that only the bytes below are sent.
    rig.client.write_tls(&mut Vec::new()).unwrap();
    rig.arrives(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!(rig.handshake().unwrap_err().kind(), io::ErrorKind::InvalidData);
    let wire = rig.wire.borrow();
    assert_eq!((wire.to_client.len(), wire.to_client[0], wire.to_client[5]), (7, ALERT, 2), "{:?}", wire.to_client);
}
