//! Writes JSON values as MessagePack (msgpack.org, "Formats"), as the classic Redis adapter of Socket.IO reads them.
//!
//! Reading is left out, and so are the types that JSON does not have.

use serde_json::Value;

/// Encodes a value with all that it contains.
pub(super) fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, value);
    out
}

fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(0xc0),
        Value::Bool(false) => out.push(0xc2),
        Value::Bool(true) => out.push(0xc3),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(whole), _) if whole < 0x80 => out.extend(whole.to_be_bytes().last()),
            (Some(whole), _) => framed(out, 0xcf, &whole.to_be_bytes()),
            (None, Some(whole)) => framed(out, 0xd3, &whole.to_be_bytes()),
            (None, None) => framed(out, 0xcb, &number.as_f64().unwrap_or_default().to_be_bytes()),
        },
        Value::String(text) => {
            // The shortest forms are fixstr (up to 31 bytes) and str 32; those between are only shorter.
            length(out, text.len(), (0xa0, 31), 0xdb);
            out.extend_from_slice(text.as_bytes());
        }
        Value::Array(items) => {
            length(out, items.len(), (0x90, 15), 0xdd);
            items.iter().for_each(|item| write(out, item));
        }
        Value::Object(fields) => {
            length(out, fields.len(), (0x80, 15), 0xdf);
            for (name, field) in fields {
                length(out, name.len(), (0xa0, 31), 0xdb);
                out.extend_from_slice(name.as_bytes());
                write(out, field);
            }
        }
    }
}

fn framed(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(bytes);
}

/// Writes a length: in the type's byte up to `most`, else in four bytes after the type `long`.
fn length(out: &mut Vec<u8>, length: usize, (short, most): (u8, u8), long: u8) {
    match u8::try_from(length).ok().filter(|length| *length <= most) {
        Some(length) => out.push(short | length),
        // A message has at most 64 KiB.
        None => framed(out, long, &u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_have_the_bytes_of_the_format() {
        assert_eq!(encode(&json!([null, false, true, 7, -1])), {
            let mut bytes = vec![0x95, 0xc0, 0xc2, 0xc3, 7, 0xd3];
            bytes.extend([0xff; 8]);
            bytes
        });
        assert_eq!(encode(&json!({"a": "b"})), [0x81, 0xa1, b'a', 0xa1, b'b']);
        assert_eq!(encode(&json!(128)), [0xcf, 0, 0, 0, 0, 0, 0, 0, 128]);
        assert_eq!(encode(&json!(1.5))[..2], [0xcb, 0x3f]);
        let long = encode(&json!("x".repeat(32)));
        assert_eq!(long[..5], [0xdb, 0, 0, 0, 32]);
        assert_eq!(encode(&json!(vec![0; 16]))[..5], [0xdd, 0, 0, 0, 16]);
    }
}
