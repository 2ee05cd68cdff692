//! Structured input from a fuzzer's bytes: choices from the front, and what is left. Past the end all is zero.

/// Takes choices from bytes.
pub struct Choices<'a>(pub &'a [u8]);

impl<'a> Choices<'a> {
    /// The next byte.
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

    /// One of these.
    pub fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }

    /// Up to `most` bytes, their number first.
    pub fn some(&mut self, most: usize) -> &'a [u8] {
        let count = self.below(most + 1).min(self.0.len());
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    /// Whether there is more to take.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}
