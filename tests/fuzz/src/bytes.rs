//! Structured input from a fuzzer's bytes: choices from the front, then the rest. Past the end all bytes are zero.

/// Takes choices from the front of the bytes.
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// Takes the next byte.
    pub fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        let two = u16::from_be_bytes([self.byte(), self.byte()]);
        usize::from(two) % end
    }

    /// Takes one of these choices.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// Takes up to `most` bytes, after a byte with their number.
    pub fn some(&mut self, most: usize) -> &'a [u8] {
        let count = self.below(most + 1).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// Whether all bytes have been taken.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}
