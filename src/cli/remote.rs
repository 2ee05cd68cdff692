//! Options of every command that queries or changes a running stickyd: which one it is, and how the answer is printed.
//!
//! The address of the admin listener is given on the command line or read from the configuration file, of which only
//! that part has to be valid. Left out: the request itself (`admin_client`).

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use super::admin_client::{AdminClient, NO_BODY, RemoteError};
use super::fleet_wide::FleetText;
use super::{FILE, quick};
use crate::config::{self, AdminAddress};
use crate::printable::{printable_json, printable_lines};

/// Options that select a running stickyd.
#[derive(Debug, Args)]
pub struct Remote {
    /// Configuration file of the running stickyd, read for its admin listener [default: /etc/stickyd/stickyd.toml]
    #[arg(short, long, value_name = "FILE", conflicts_with = "admin")]
    pub config: Option<PathBuf>,
    /// Admin listener of the running stickyd, such as unix:/var/lib/stickyd/admin.sock or 127.0.0.1:9145
    #[arg(short, long, value_name = "ADDRESS", value_parser = address)]
    pub admin: Option<AdminAddress>,
    /// File with the token that writes over TCP need; with --config, the file named there is used
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub token_file: Option<PathBuf>,
}

fn address(text: &str) -> Result<AdminAddress, String> {
    match text.strip_prefix("unix:") {
        Some(path) if path.starts_with('/') => Ok(AdminAddress::Unix(path.into())),
        Some(_) => Err("the path of a socket must begin with /".to_owned()),
        None => text.parse().map(AdminAddress::Tcp).map_err(|_| "expected unix:/PATH or IP:PORT".to_owned()),
    }
}

/// Options that select a running stickyd and the format of the output.
#[derive(Debug, Args)]
pub struct RemoteArgs {
    /// The stickyd to connect to.
    #[command(flatten)]
    pub remote: Remote,
    /// Print the API's answer as JSON
    #[arg(long)]
    pub json: bool,
}

impl RemoteArgs {
    /// Gets the answer at `path` and prints it; returns the exit code. With `--json` everything that the server sent is
    /// printed, also fields that this version does not know.
    pub(crate) fn show<T: DeserializeOwned>(&self, path: &str, words: impl FnOnce(&T) -> String) -> u8 {
        let admin = self.remote.find();
        let text = admin.and_then(|admin| match self.json {
            true => admin.done::<serde_json::Value>(Method::GET, path, NO_BODY).map(|said| pretty(&said)),
            false => admin.done(Method::GET, path, NO_BODY).map(|said| words(&said)),
        });
        print(text)
    }

    /// Prints an answer or an error; returns the exit code, 0 or 1.
    pub(crate) fn finish<T: Serialize>(&self, said: Result<T, RemoteError>, words: impl FnOnce(&T) -> String) -> u8 {
        print(said.map(|said| if self.json { pretty(&said) } else { words(&said) }))
    }
}

impl RemoteArgs {
    /// Prints what the stickyds of a fleet answered, and who did not; returns the exit code, 1 if an answer is missing.
    /// With `--json` a missing answer is also said on standard error.
    pub(super) fn finish_fleet(&self, said: Result<FleetText, RemoteError>) -> u8 {
        let is_partial = said.as_ref().is_ok_and(|said| said.said.is_partial());
        let text = said.map(|FleetText { said, text }| match self.json {
            true => {
                if is_partial {
                    let _ = io::stderr().write_all(printable_lines(&said.summary()).as_bytes());
                }
                pretty(&said)
            }
            false => text + &said.summary(),
        });
        print(text).max(u8::from(is_partial))
    }
}

/// Writes the text of an answer to standard output, or an error to standard error; returns the exit code, 0 or 1.
fn print(text: Result<String, RemoteError>) -> u8 {
    match text {
        Ok(text) => {
            // A closed output does not change the result.
            let _ = io::stdout().write_all(printable_lines(&text).as_bytes());
            0
        }
        Err(refusal) => {
            let _ = writeln!(io::stderr(), "{refusal}");
            1
        }
    }
}

/// Formats an answer as indented JSON.
fn pretty(said: &impl Serialize) -> String {
    // This cannot fail: all keys are strings, and no number is infinite.
    let json = serde_json::to_string_pretty(said).unwrap_or_default() + "\n";
    printable_json(&json).into_owned()
}

impl Remote {
    /// Finds the admin listener.
    ///
    /// # Errors
    /// The file cannot be read, or configures no admin listener.
    pub fn find(&self) -> Result<AdminClient, RemoteError> {
        if let Some(address) = &self.admin {
            let token = self.token_file.as_ref().map(|file| config::token(file).map_err(RemoteError)).transpose()?;
            return Ok(AdminClient::new(vec![address.clone()], token));
        }
        let file = self.config.as_deref().unwrap_or_else(|| Path::new(FILE));
        if self.config.is_none() && !file.exists() {
            return without_file(file, quick::running());
        }
        let admin = config::load_admin(file).map_err(|errors| RemoteError(errors.to_string()))?;
        let mut addresses: Vec<_> = admin.addresses().cloned().collect();
        if addresses.is_empty() {
            let no = "sets neither state_dir nor [admin] address, so there is no admin listener";
            let help = "set state_dir and restart stickyd; until then only SIGHUP (reload) and SIGTERM (stop) reach it";
            return Err(RemoteError(format!("error: {} {no}\n  = help: {help}", file.display())));
        }
        // A socket needs no token.
        addresses.sort_by_key(|address| !matches!(address, AdminAddress::Unix(_)));
        Ok(AdminClient::new(addresses, admin.token))
    }
}

/// Finds the one stickyd that this user has started without a file.
fn without_file(file: &Path, mut running: Vec<PathBuf>) -> Result<AdminClient, RemoteError> {
    match (running.pop(), running.as_slice()) {
        (Some(only), []) => Ok(AdminClient::new(vec![AdminAddress::Unix(only)], None)),
        (None, _) => Err(RemoteError(format!(
            "error: {} does not exist, and this user runs no stickyd without a file: use --config FILE or --admin ADDRESS",
            file.display()
        ))),
        (Some(last), others) => {
            let all = others.iter().chain([&last]).map(|path| format!("\n  --admin unix:{}", path.display()));
            Err(RemoteError(format!(
                "error: several stickyds run without a file: choose one with{}",
                all.collect::<String>()
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_several_stickyds_without_a_file_must_be_chosen() {
        let file = Path::new("/nonexistent/s.toml");
        let error = without_file(file, vec!["/a/1.sock".into(), "/a/2.sock".into()]).err().unwrap().to_string();
        assert!(error.contains("--admin unix:/a/1.sock\n") && error.contains("--admin unix:/a/2.sock"), "{error}");
        assert!(
            without_file(file, Vec::new()).err().unwrap().to_string().contains("/nonexistent/s.toml does not exist")
        );
        assert!(without_file(file, vec!["/a/1.sock".into()]).is_ok());
    }
}
