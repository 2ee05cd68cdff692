//! References to environment variables, such as `${APP_SECRET}`, where a secret belongs: the configuration reads none.
//!
//! Taken as it is, the text would be a secret that others can guess. Left out: addresses of listeners and workers,
//! which are refused for their form, and texts that a worker reads (`command`, `env`).

use super::check::Context;
use super::error::Span;
use super::file::ConfigText;

/// What is said about such a text in a file that the configuration names.
pub(crate) const IN_FILE: &str = "it has the name of an environment variable, and none is read here";

/// What helps against [`IN_FILE`].
pub(crate) const WRITE_VALUE: &str = "write the value itself into the file";

/// Whether the whole text is a reference: `${NAME}`, with a default or without.
pub(crate) fn is_reference(text: &str) -> bool {
    let text = text.trim();
    text.ends_with('}') && text.starts_with("${") && has_reference(text)
}

/// Whether the text has a reference in it.
pub(crate) fn has_reference(text: &str) -> bool {
    text.split("${").skip(1).any(|rest| {
        let begins = rest.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        begins && rest.contains('}')
    })
}

/// Reports a value of the file that is a reference as a whole, also `$NAME` in capitals; returns whether it is.
pub(crate) fn refuse(context: &Context<'_>, key: &str, text: &ConfigText, help: &str) -> bool {
    let is_capital = |name: &str| {
        let fits = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_') && name.chars().all(fits)
    };
    let found = is_reference(&text.value) || text.value.trim().strip_prefix('$').is_some_and(is_capital);
    if found {
        report(context, &text.span, key, help);
    }
    found
}

/// Reports an address that has a reference in it; returns whether it has.
pub(crate) fn refuse_in_address(context: &Context<'_>, at: &Span, address: &str, help: &str) -> bool {
    let found = has_reference(address);
    if found {
        report(context, at, "the address", help);
    }
    found
}

fn report(context: &Context<'_>, at: &Span, what: &str, help: &str) {
    let message = format!("{what} names an environment variable, and none is read here");
    context.report.error_help(at, message, help);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_recognised() {
        for text in ["${APP_SECRET}", " ${app_secret}\n", "${A:-default}", "${A?not set}"] {
            assert!(is_reference(text), "{text}");
        }
        for text in ["", "$", "${}", "${1}", "$(pass show app)", "a${B}", "${A", "{A}", "0123456789abcdef"] {
            assert!(!is_reference(text), "{text}");
        }
        assert!(has_reference("redis://:${PASSWORD}@redis:6379") && has_reference("${A}"));
        assert!(!has_reference("https://a.example/${}") && !has_reference("https://a.example/$x"));
    }
}
