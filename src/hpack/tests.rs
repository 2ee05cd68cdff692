//! The decoder against the examples of RFC 7541, against the encoder of the h2 crate, and with wrong blocks.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// A name and a value.
type Pair = (Vec<u8>, Vec<u8>);

/// Decodes one block as a whole.
fn decode(decoder: &mut Decoder<()>, block: &[u8]) -> Result<Vec<Pair>, CompressionError> {
    let mut fields = Vec::new();
    decoder.decode(block, true, |field| fields.push((field.name.to_vec(), field.value.to_vec())))?;
    Ok(fields)
}

fn decoder() -> Decoder<()> {
    Decoder::new(|_, _| ())
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn texts(fields: &[Pair]) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    fields.iter().map(|(name, value)| format!("{}: {}", text(name), text(value))).collect()
}

/// RFC 7541, Appendix C.2.
#[test]
fn single_representations_are_decoded() {
    for (hex, field) in [
        ("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572", "custom-key: custom-header"),
        ("040c 2f73 616d 706c 652f 7061 7468", ":path: /sample/path"),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", "password: secret"),
        ("82", ":method: GET"),
    ] {
        assert_eq!(texts(&decode(&mut decoder(), &bytes(hex)).unwrap()), [field]);
    }
}

/// RFC 7541, Appendix C.3 (without Huffman code) and C.4 (with it): three requests on one connection.
#[test]
fn requests_that_use_the_table_are_decoded() {
    const FIRST: [&str; 4] = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
    let third = [":method: GET", ":scheme: https", ":path: /index.html", ":authority: www.example.com"];
    for blocks in [
        [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ],
        [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ],
    ] {
        let mut decoder = decoder();
        let mut next = |block| texts(&decode(&mut decoder, &bytes(block)).unwrap());
        assert_eq!(next(blocks[0]), FIRST);
        assert_eq!(next(blocks[1]), [&FIRST[..], &["cache-control: no-cache"]].concat());
        assert_eq!(next(blocks[2]), [&third[..], &["custom-key: custom-value"]].concat());
    }
}

/// RFC 7541, Appendix C.5 and C.6: the table holds 256 bytes, so that entries are evicted.
#[test]
fn evicted_entries_are_no_longer_found() {
    let mut decoder = decoder();
    let first = "3f e101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a \
                 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d";
    let fields = decode(&mut decoder, &bytes(first)).unwrap();
    assert_eq!(texts(&fields)[..2], [":status: 302", "cache-control: private"]);
    let second = texts(&decode(&mut decoder, &bytes("4803 3330 37c1 c0bf")).unwrap());
    assert_eq!(
        second,
        [
            ":status: 307",
            "cache-control: private",
            "date: Mon, 21 Oct 2013 20:13:21 GMT",
            "location: https://www.example.com"
        ]
    );
    assert_eq!(decode(&mut decoder, &bytes("c2")), Err(CompressionError), "`:status: 302` was evicted");
}

#[test]
fn blocks_that_violate_the_rfc_are_errors() {
    for (hex, why) in [
        ("80", "index 0, §6.1"),
        ("be", "an index after the end of the tables, §2.3.3"),
        ("7e 01 61", "an index of a name after the end of the tables"),
        ("82 20", "a new size after a field, §4.2"),
        ("3f e2 1f", "a size above the limit, §6.3"),
        ("ff ff ff ff ff 0f", "an integer that is too long, §5.1"),
        ("00 01", "no name"),
        ("00 01 61", "no value"),
        ("00 01 61 05 61", "a value that ends early"),
        ("00 81 ff 00", "wrong padding, §5.2"),
        ("00 84 ff ff ff ff 00", "the end of a string in a string, §5.2"),
    ] {
        assert_eq!(decode(&mut decoder(), &bytes(hex)), Err(CompressionError), "{why}");
    }
    // Two new sizes at the beginning are right (§4.2), and so are empty blocks and empty strings.
    for (hex, count) in [("20 3f e1 1f 82", 1), ("", 0), ("20", 0), ("00 00 00", 1)] {
        assert_eq!(decode(&mut decoder(), &bytes(hex)).unwrap().len(), count, "{hex}");
    }
}

#[test]
fn classes_are_kept_with_the_entries_of_the_table() {
    let mut decoder = Decoder::new(|name, value| (name.len(), value.len()));
    let mut classes = Vec::new();
    for block in [&b"\x40\x01a\x02bc"[..], b"\xbe", b"\x7e\x00", b"\xbe\x82"] {
        decoder.decode(block, true, |field| classes.push(field.class)).unwrap();
    }
    assert_eq!(classes, [(1, 2), (1, 2), (1, 0), (1, 0), (7, 3)]);
}

/// Fields that the h2 crate encodes: it refuses `te` and the fields of connections (RFC 9113 §8.2.2).
fn fields() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let value = vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..=0xff], 0..60);
    vec(("x[a-z0-9-]{0,20}|cookie|accept|etag", value), 0..12)
}

/// The blocks that the h2 crate's client sends for these requests.
fn encoded_by_h2(requests: &[Vec<(String, Vec<u8>)>]) -> Vec<Vec<u8>> {
    use tokio::io::AsyncReadExt as _;

    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (io, mut peer) = tokio::io::duplex(1 << 20);
        let (mut send, connection) = h2::client::handshake(io).await.unwrap();
        let mut answers = Vec::new();
        for fields in requests {
            let mut request = hyper::Request::builder().uri("https://localhost/some/path?query");
            for (name, value) in fields {
                request = request.header(name, &value[..]);
            }
            answers.push(send.send_request(request.body(()).unwrap(), true).unwrap());
        }
        let mut all = vec![0; 1 << 20];
        let mut length = 0;
        let mut connection = std::pin::pin!(connection);
        // It waits for answers as soon as everything is written.
        std::future::poll_fn(|cx| {
            let _ = connection.as_mut().poll(cx);
            std::task::Poll::Ready(())
        })
        .await;
        while let Some(Ok(more)) = futures_util::FutureExt::now_or_never(peer.read(&mut all[length..])) {
            length += more;
        }
        blocks(&all[24..length])
    })
}

/// The blocks of the HEADERS frames, with their CONTINUATIONs.
fn blocks(mut frames: &[u8]) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    while let Some((head, rest)) = frames.split_at_checked(9) {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        match head[3] {
            1 => found.push(rest[..length].to_vec()),
            9 => found.last_mut().unwrap().extend_from_slice(&rest[..length]),
            _ => {}
        }
        frames = &rest[length..];
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What the h2 crate encodes, with its table and Huffman code, is decoded to the same fields.
    #[test]
    fn what_h2_encodes_is_decoded(requests in vec(fields(), 1..8)) {
        let blocks = encoded_by_h2(&requests);
        prop_assert_eq!(blocks.len(), requests.len());
        let mut decoder = decoder();
        for (block, fields) in blocks.iter().zip(&requests) {
            let got = decode(&mut decoder, block).unwrap();
            let mut got: Vec<_> = got.into_iter().filter(|(name, _)| !name.starts_with(b":")).collect();
            let mut wanted: Vec<Pair> =
                fields.iter().map(|(name, value)| (name.clone().into_bytes(), value.clone())).collect();
            got.sort();
            wanted.sort();
            prop_assert_eq!(got, wanted);
        }
    }

    /// A block in pieces has the same fields as the whole, and the same errors.
    #[test]
    fn blocks_are_decoded_in_pieces_of_any_size(
        block in vec(prop_oneof![0_u8..=255, Just(0), Just(0x40), Just(1), 0x80_u8..0xc0], 0..60),
        cut in 1_usize..20,
    ) {
        let whole = decode(&mut decoder(), &block);
        let (mut one, mut fields, mut left) = (decoder(), Vec::new(), Vec::new());
        let mut pieces = block.chunks(cut).peekable();
        let result = loop {
            let Some(piece) = pieces.next() else { break Ok(fields) };
            left.extend_from_slice(piece);
            let each = |field: Field<'_, ()>| fields.push((field.name.to_vec(), field.value.to_vec()));
            match one.decode(&left, pieces.peek().is_none(), each) {
                Ok(used) => drop(left.drain(..used)),
                Err(error) => break Err(error),
            }
        };
        prop_assert_eq!(result, whole);
    }

    /// Literals that are written are read again.
    #[test]
    fn written_literals_are_decoded(fields in vec((vec(0_u8..=255, 0..20), vec(0_u8..=255, 0..20_000)), 0..4)) {
        let mut block = Vec::new();
        fields.iter().for_each(|(name, value)| write_literal(&mut block, name, value));
        prop_assert_eq!(decode(&mut decoder(), &block).unwrap(), fields);
    }
}
