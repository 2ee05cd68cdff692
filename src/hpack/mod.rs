//! HPACK, the compression of field blocks in HTTP/2 (RFC 7541), for reading what a client sends.
//!
//! The h2 crate decodes for itself and does not lend its decoder; the published decoders are unmaintained, or allocate
//! for every field. This one hands out each field as bytes, whatever they are: what a field may contain is not decided
//! here. Left out: encoding, except for literal fields ([`write_literal`]).

mod huffman;
mod table;

use self::table::{Entry, MOST, Table};

/// Size that a field counts in addition to its name and value (RFC 9113 §6.5.2).
pub(crate) const FIELD_OVERHEAD: usize = table::OVERHEAD;

/// Maximum number of bytes of an integer (RFC 7541 §5.1); the h2 crate has the same limit.
const INTEGER_BYTES: u32 = 5;

/// Capacity in bytes that a decoder keeps for strings between blocks.
const KEPT: usize = 512;

/// A block that violates RFC 7541, after which the table is no longer in step with the client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CompressionError;

/// A field of a block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field<'a, C> {
    pub(crate) name: &'a [u8],
    pub(crate) value: &'a [u8],
    /// The class that the caller's function gave it; computed only once for each entry of the table.
    pub(crate) class: C,
}

/// Decodes the blocks of one connection, one after the other.
pub(crate) struct Decoder<C> {
    table: Table<C>,
    classify: fn(name: &[u8], value: &[u8]) -> C,
    /// Room for strings in Huffman code.
    rooms: [Vec<u8>; 2],
    /// Whether the current block has had a field, after which the table may not be resized (RFC 7541 §4.2).
    begun: bool,
}

/// Why a representation was not read.
enum DecodeStop {
    /// More bytes are needed.
    More,
    Wrong,
}

impl<C: Copy> Decoder<C> {
    /// Creates the decoder of a new connection; `classify` gives each field its class.
    pub(crate) fn new(classify: fn(name: &[u8], value: &[u8]) -> C) -> Self {
        Self { table: Table::new(), classify, rooms: [Vec::new(), Vec::new()], begun: false }
    }

    /// Decodes as many fields as are complete, and returns how many bytes they had. `last` marks the end of a block,
    /// where nothing may be left over.
    pub(crate) fn decode(
        &mut self,
        bytes: &[u8],
        last: bool,
        mut each: impl FnMut(Field<'_, C>),
    ) -> Result<usize, CompressionError> {
        let mut reader = Reader { rest: bytes };
        while !reader.rest.is_empty() {
            let before = reader.rest.len();
            match self.representation(&mut reader, &mut each) {
                Ok(()) => {}
                Err(DecodeStop::More) if !last => return Ok(bytes.len() - before),
                Err(DecodeStop::More | DecodeStop::Wrong) => return Err(CompressionError),
            }
        }
        if last {
            self.begun = false;
            self.rooms.iter_mut().for_each(|room| room.shrink_to(KEPT));
        }
        Ok(bytes.len())
    }

    /// Reads one representation (RFC 7541 §6).
    fn representation(
        &mut self,
        reader: &mut Reader<'_>,
        each: &mut impl FnMut(Field<'_, C>),
    ) -> Result<(), DecodeStop> {
        match *reader.rest.first().ok_or(DecodeStop::More)? {
            0x80.. => {
                let index = reader.integer(7)?;
                let (name, value, class) = self.table.get(index).ok_or(DecodeStop::Wrong)?;
                let class = class.unwrap_or_else(|| (self.classify)(name, value));
                self.begun = true;
                each(Field { name, value, class });
                Ok(())
            }
            0x40.. => self.literal(reader, 6, each),
            0x20.. => {
                let most = reader.integer(5)?;
                if self.begun || most > MOST {
                    return Err(DecodeStop::Wrong);
                }
                self.table.resize(most);
                Ok(())
            }
            _ => self.literal(reader, 4, each),
        }
    }

    /// Reads a literal field, whose index has `bits` bits; with six, it enters the table (RFC 7541 §6.2).
    fn literal(
        &mut self,
        reader: &mut Reader<'_>,
        bits: u32,
        each: &mut impl FnMut(Field<'_, C>),
    ) -> Result<(), DecodeStop> {
        let [name_room, value_room] = &mut self.rooms;
        let name = match reader.integer(bits)? {
            0 => reader.string(name_room)?,
            index => self.table.get(index).ok_or(DecodeStop::Wrong)?.0,
        };
        let value = reader.string(value_room)?;
        let class = (self.classify)(name, value);
        self.begun = true;
        each(Field { name, value, class });
        if bits == 6 {
            let entry = Entry::new(name, value, class);
            self.table.insert(entry);
        }
        Ok(())
    }
}

/// Bytes of a block that are not read yet.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, DecodeStop> {
        let (first, rest) = self.rest.split_first().ok_or(DecodeStop::More)?;
        self.rest = rest;
        Ok(*first)
    }

    /// Reads an integer that begins with the lowest `bits` bits of a byte (RFC 7541 §5.1).
    fn integer(&mut self, bits: u32) -> Result<usize, DecodeStop> {
        let mask = (1_usize << bits) - 1;
        let mut value = usize::from(self.byte()?) & mask;
        if value < mask {
            return Ok(value);
        }
        for place in 0..INTEGER_BYTES - 1 {
            let byte = usize::from(self.byte()?);
            // At most 2^28 + 2^7.
            value += (byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeStop::Wrong)
    }

    /// Reads a string (RFC 7541 §5.2), by way of `room` if it is in Huffman code.
    fn string<'s>(&mut self, room: &'s mut Vec<u8>) -> Result<&'s [u8], DecodeStop>
    where
        'a: 's,
    {
        let is_coded = *self.rest.first().ok_or(DecodeStop::More)? & 0x80 != 0;
        let length = self.integer(7)?;
        let (string, rest) = self.rest.split_at_checked(length).ok_or(DecodeStop::More)?;
        self.rest = rest;
        if !is_coded {
            return Ok(string);
        }
        room.clear();
        huffman::decode(string, room).ok_or(DecodeStop::Wrong)?;
        Ok(room)
    }
}

/// Appends a literal field that enters no table, without Huffman code (RFC 7541 §6.2.2).
pub(crate) fn write_literal(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.push(0);
    for string in [name, value] {
        write_length(out, string.len());
        out.extend_from_slice(string);
    }
}

/// Appends the length of a string without Huffman code (RFC 7541 §5.1).
fn write_length(out: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(0x7f) else {
        out.extend(u8::try_from(length));
        return;
    };
    out.push(0x7f);
    while rest > 0x7f {
        out.extend(u8::try_from(rest & 0x7f).map(|low| low | 0x80));
        rest >>= 7;
    }
    out.extend(u8::try_from(rest));
}

#[cfg(test)]
mod tests;
