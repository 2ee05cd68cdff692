//! What a reader of the configuration asks of a key or a value: noted while `survey` reads, and at no other time.

use std::cell::RefCell;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::Span;

/// One question of a reader.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    /// The reader looks for this key in a table.
    Key(&'static str),
    /// The reader insists on this key; the second value is an example of its value.
    Required(&'static str, String),
    /// The keys of a table are names chosen by the user.
    Names,
    /// The value may be true or false.
    Boolean,
    /// The value may be an integer in a range.
    Integer(RangeInclusive<u64>),
    /// The value may be a duration in a range.
    Duration(RangeInclusive<Duration>),
    /// The value may be a percentage in a range.
    Percent(RangeInclusive<u32>),
    /// The value may be a size in a range of bytes.
    Size(RangeInclusive<u64>),
    /// The value may be one of these words.
    Words(Vec<&'static str>),
    /// The value may be a string, described as in error messages.
    Text(String),
    /// The value may be a list, described as in error messages.
    List(String),
    /// The value may be a table.
    Table,
}

/// The questions of all readers in one pass, each with the place of the table or value that it is about.
#[derive(Debug, Default)]
pub(crate) struct Questions(RefCell<Vec<(Span, Asked)>>);

impl Questions {
    /// Notes a question about what stands at a place.
    pub(crate) fn note(&self, at: &Span, asked: Asked) {
        self.0.borrow_mut().push((at.clone(), asked));
    }

    /// The questions about what stands at a place, each once.
    pub(crate) fn about(&self, at: &Span) -> Vec<Asked> {
        let mut all: Vec<Asked> = Vec::new();
        for (place, asked) in self.0.borrow().iter() {
            if place == at && !all.contains(asked) {
                all.push(asked.clone());
            }
        }
        all
    }
}
