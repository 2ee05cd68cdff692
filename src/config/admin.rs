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
    /// Bearer token that can only read, from `read_token_file`.
    pub read_token: Option<Secret>,
    /// Bearer token that can only send messages to clients, from `emit_token_file`.
    pub emit_token: Option<Secret>,
    /// Group whose members may use the unix sockets. `None`: only the user that stickyd runs as, and root.
    pub group: Option<AdminGroup>,
}

/// A group of users of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminGroup {
    /// Name as in the file, or the number.
    pub name: String,
    /// Number of the group.
    pub id: u32,
}

impl AdminGroup {
    /// Returns what helps if stickyd may not give its socket to the group.
    pub(crate) fn help(&self) -> String {
        let name = &self.name;
        format!("stickyd must run as root or be a member of {name} (systemd: SupplementaryGroups={name})")
    }
}

impl AdminListener {
    /// Returns the setting of no admin listener at all.
    pub(crate) fn none() -> Self {
        Self::at(AdminAddress::None)
    }

    /// Returns an admin listener at one address, without a token.
    pub(crate) fn at(address: AdminAddress) -> Self {
        Self {
            address,
            more: Vec::new(),
            hosts: Vec::new(),
            token: None,
            read_token: None,
            emit_token: None,
            group: None,
        }
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
    let tokens = TOKEN_KEYS.map(|key| (key, section.text(key, "a path")));
    let group = section.text("group", "the name of a group").and_then(|name| group(context, &name));
    section.finish();
    let open = |(address, _): &&(AdminAddress, Span)| match address {
        AdminAddress::Tcp(tcp) => !tcp.ip().to_canonical().is_loopback(),
        AdminAddress::Unix(_) | AdminAddress::None => false,
    };
    let can_read = matches!(&tokens, [(_, write), (_, read), _] if write.is_some() || read.is_some());
    if let Some((_, at)) = written.iter().find(open)
        && !can_read
    {
        let message = "the admin listener would be open to the network without a token";
        context.report.error_help(at, message, "write token_file = \"admin.token\", or use 127.0.0.1");
    }
    let [token, read_token, emit_token] = read_tokens(context, tokens);
    let mut all: Vec<_> = written.iter().map(|(address, _)| address.clone()).collect();
    if let Some(socket) = socket.filter(|socket| !all.contains(socket)) {
        all.push(socket);
    }
    let mut all = all.into_iter();
    let address = all.next().unwrap_or(AdminAddress::None);
    let listener = AdminListener { address, more: all.collect(), hosts, token, read_token, emit_token, group };
    ReadAdmin { listener, written }
}

/// The keys of token files: of the token that may do everything, and of those that may do less.
const TOKEN_KEYS: [&str; 3] = ["token_file", "read_token_file", "emit_token_file"];

/// Reads the files of the tokens, which must differ: a token that is in two files would have the rights of both.
fn read_tokens(context: &Context<'_>, paths: [(&str, Option<ConfigText>); 3]) -> [Option<Secret>; 3] {
    let mut known: Vec<(&str, Secret)> = Vec::new();
    paths.map(|(key, path)| {
        let path = path?;
        let token = files::secret(context, &path)?;
        if let Some((other, _)) = known.iter().find(|(_, known)| *known == token) {
            let message = format!("`{key}` has the same token as `{other}`");
            context.report.error_help(&path.span, message, "make another one with: openssl rand -hex 32");
        }
        known.push((key, token.clone()));
        Some(token)
    })
}

/// Path of the file with the groups of this machine (group(5)).
const GROUPS: &str = "/etc/group";

/// Finds a group by its name or number.
fn group(context: &Context<'_>, name: &ConfigText) -> Option<AdminGroup> {
    let groups = files::read(Path::new(GROUPS)).unwrap_or_default();
    let id = name.value.parse().ok().or_else(|| group_id(&String::from_utf8_lossy(&groups), &name.value));
    if id.is_none() {
        let help = "write a group of this machine, such as \"adm\", or the number of a group that is not in that file";
        context.report.error_help(&name.span, format!("there is no group `{}` in {GROUPS}", name.value), help);
    }
    Some(AdminGroup { name: name.value.clone(), id: id? })
}

/// Returns the number of a group from the text of group(5).
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_by_their_whole_name() {
        let groups = "root:x:0:\nadm:x:4:syslog,ann\nadmin:x:900:\nbroken\nhalf:x:\n";
        assert_eq!(["root", "adm", "admin"].map(|name| group_id(groups, name)), [Some(0), Some(4), Some(900)]);
        for unknown in ["ad", "", "broken", "half", "x", "ann"] {
            assert_eq!(group_id(groups, unknown), None, "{unknown}");
        }
    }
}
