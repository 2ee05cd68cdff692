//! `[admin]`: the addresses of the admin listener, the names under which it may be asked, and its token.
//!
//! Left out: an address that something else of stickyd has, which is checked in `addresses`; the rules for
//! requests, which are in `admin::auth`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::check::Context;
use super::error::Span;
use super::file::{ConfigItem, ConfigText, Section};
use super::{Secret, files, routes, state_dir, workers};

/// Name of the admin socket in the state directory.
pub(crate) const SOCKET: &str = "admin.sock";

/// The admin listener. A change needs a restart.
#[derive(Debug, Clone, PartialEq)]
pub struct AdminListener {
    /// First address the admin listener listens on: the first one of the file, or else the socket in `state_dir`.
    pub address: AdminAddress,
    /// Further addresses. The socket in `state_dir` is one of them if the file sets other addresses.
    pub more: Vec<AdminAddress>,
    /// Names, in lower case and without a port, that the Host of a request without a token may have, in addition to IP
    /// addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Bearer token for writes over TCP, read from `token_file` (trimmed, at least 16 bytes). `None`: TCP cannot write.
    pub token: Option<Secret>,
}

impl AdminListener {
    /// Returns the setting of no admin listener at all.
    pub(crate) fn none() -> Self {
        Self::at(AdminAddress::None)
    }

    /// Returns an admin listener at one address, without a token.
    pub(crate) fn at(address: AdminAddress) -> Self {
        Self { address, more: Vec::new(), hosts: Vec::new(), token: None }
    }

    /// All addresses, in the order of the file.
    pub fn addresses(&self) -> impl Iterator<Item = &AdminAddress> {
        let first = Some(&self.address).filter(|address| **address != AdminAddress::None);
        first.into_iter().chain(&self.more)
    }
}

/// Address of the admin listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// There is no admin listener: neither a state directory nor an address is configured.
    None,
    /// IP address and port.
    Tcp(SocketAddr),
    /// Path of a unix socket with mode 0600; by default `admin.sock` in the state directory.
    Unix(PathBuf),
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The admin listener with the place of each address that the file sets.
pub(crate) struct ReadAdmin {
    pub(crate) listener: AdminListener,
    pub(crate) written: Vec<(AdminAddress, Span)>,
}

/// Reads the `[admin]` table. The socket in the state directory is there whatever the table says, so that the commands
/// on this machine need neither a token nor options.
pub(crate) fn read(context: &Context<'_>, root: &mut Section<'_>, state_dir: Option<&Path>) -> ReadAdmin {
    let socket = state_dir.map(|directory| AdminAddress::Unix(directory.join(SOCKET)));
    let Some(mut section) = root.section("admin", "a table") else {
        let listener = AdminListener::at(socket.unwrap_or(AdminAddress::None));
        return ReadAdmin { listener, written: Vec::new() };
    };
    let written = section.take("address").map(|item| addresses(context, item)).unwrap_or_default();
    let hosts = section.take("hosts").map(|item| hosts(context, item)).unwrap_or_default();
    let path = section.text("token_file", "a path");
    section.finish();
    let open = |(address, _): &&(AdminAddress, Span)| match address {
        AdminAddress::Tcp(tcp) => !tcp.ip().to_canonical().is_loopback(),
        AdminAddress::Unix(_) | AdminAddress::None => false,
    };
    if let (Some((_, at)), None) = (written.iter().find(open), &path) {
        let message = "the admin listener would be open to the network without a token";
        context.report.error_help(at, message, "write token_file = \"admin.token\", or use 127.0.0.1");
    }
    let token = path.and_then(|path| files::secret(context, &path));
    let mut all: Vec<_> = written.iter().map(|(address, _)| address.clone()).collect();
    if let Some(socket) = socket.filter(|socket| !all.contains(socket)) {
        all.push(socket);
    }
    let mut all = all.into_iter();
    let listener =
        AdminListener { address: all.next().unwrap_or(AdminAddress::None), more: all.collect(), hosts, token };
    ReadAdmin { listener, written }
}

/// Reads `address`: one address, or a list of them.
fn addresses(context: &Context<'_>, item: ConfigItem<'_>) -> Vec<(AdminAddress, Span)> {
    const EXPECTED: &str = "an address such as \"127.0.0.1:9145\" or \"unix:/run/stickyd/admin.sock\"";
    if !item.is_list() {
        return item.text(EXPECTED).and_then(|text| address(context, &text)).into_iter().collect();
    }
    let at = item.span.clone();
    let items = item.list(EXPECTED, "an address").unwrap_or_default();
    if items.is_empty() {
        let help = "leave `address` out for the socket in state_dir alone";
        context.report.error_help(&at, "`address` is an empty list", help);
    }
    let texts = items.into_iter().filter_map(|item| item.text(EXPECTED));
    texts.filter_map(|text| address(context, &text)).collect()
}

fn address(context: &Context<'_>, text: &ConfigText) -> Option<(AdminAddress, Span)> {
    let address = match text.value.starts_with("unix:") {
        true => workers::unix(context, text).map(AdminAddress::Unix),
        false => workers::socket(context, text).map(AdminAddress::Tcp),
    };
    if let Some(AdminAddress::Unix(path)) = &address
        && path.parent().is_none_or(|directory| state_dir::can_be_directory(context, &text.span, directory))
    {
        state_dir::check_socket(context, &text.span, path);
    }
    Some((address?, text.span.clone()))
}

/// Reads `hosts`: names that a page of another site cannot make its own, such as a service name in a private network.
fn hosts(context: &Context<'_>, item: ConfigItem<'_>) -> Vec<String> {
    let items = item.list("a list of names such as [\"stickyd\"]", "a host").unwrap_or_default();
    let texts = items.into_iter().filter_map(|item| item.text("a string such as \"stickyd\""));
    let host = |text: ConfigText| {
        if text.value.starts_with("*.") {
            let help = "write each name, such as hosts = [\"stickyd\"]: a wildcard admits names that others register";
            context.report.error_help(&text.span, format!("`{}` has a wildcard", text.value), help);
            return text.value;
        }
        routes::check_host(context, &text)
    };
    texts.map(host).collect()
}
