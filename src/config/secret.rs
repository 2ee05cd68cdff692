//! `secret` and `secret_file`: the fleet's secret in the configuration. Left out: the one in the state directory, which
//! `state_dir` checks and `crate::secret` reads.

use std::fmt;
use std::path::Path;

use super::check::Context;
use super::file::Section;
use super::{files, variables};

/// Secret bytes (16 or more), never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Reads `secret` or `secret_file`. `file` is the configuration itself, which holds a secret written inline.
pub(crate) fn read(context: &Context<'_>, root: &mut Section<'_>, file: &Path) -> Option<Secret> {
    let second = root.key("secret_file");
    let inline = root.text("secret", "a string");
    let path = root.text("secret_file", "a path");
    if let (Some(_), Some(at)) = (&inline, second) {
        context.report.error_help(&at, "`secret` and `secret_file` cannot be used together", "remove one of the two");
    }
    if let Some(text) = &inline {
        let help = "write secret_file = \"secret\": a file with the secret";
        let is_reference = variables::refuse(context, "`secret`", text, help);
        if !is_reference && text.value.len() < files::MIN_SECRET {
            let message = format!("`secret` has {} bytes; it needs at least {}", text.value.len(), files::MIN_SECRET);
            context.report.error_help(&text.span, message, "make one with: openssl rand -hex 32");
        }
        files::warn_if_public(context, &text.span, file);
    }
    match (inline, path) {
        (Some(text), _) => Some(Secret(text.value.into_bytes())),
        (None, Some(path)) => files::secret(context, &path),
        (None, None) => None,
    }
}
