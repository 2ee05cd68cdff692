//! Tokens of every algorithm, and what forgers try.
