//! From text to [`Config`]: reads every table, then checks rules that span several tables. Reports all errors at once.
//!
//! Entry points: [`parse`] (a text), [`for_command_line`] (no file at all); for files see `load`. Small tables are read
//! here; listeners, upstreams, workers, routes and others have files of their own. Left out: errors that only the
//! running system can find (an address in use, a worker that does not answer).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use super::error::{Diagnostic, Errors, Report, Span};
use super::file::{ConfigItem, ConfigText, Section};
use super::resolve::patient;
use super::sources::Noted;
use super::upstream::ReadUpstream;
use super::workers::WorkerEntry;
use super::{
    AdminAddress, AdminListener, Config, Limits, Listener, Log, SameSite, Secret, Upstream, file, files, limits,
    listener, log, routes, rules, spawn, upstream, workers,
};

/// A function that looks up a DNS name; it is an argument so that tests need no network.
pub(crate) type Resolve<'a> = &'a dyn Fn(&str) -> io::Result<Vec<IpAddr>>;

/// The environment that the readers of all tables share.
pub(crate) struct Context<'a> {
    pub(crate) report: &'a Report<'a>,
    /// Absolute path of the folder in which relative paths begin.
    pub(crate) base: PathBuf,
    pub(crate) resolve: Resolve<'a>,
    /// Record of every file that was read or looked for.
    pub(crate) noted: &'a Noted,
}

/// Checks the text of a configuration; `file` is its name in messages, and relative paths begin in its folder.
#[cfg(any(test, feature = "testing"))]
pub fn parse(text: &str, file: &Path) -> Result<Config, Errors> {
    parse_with(text, file, &patient()).map(log_warnings)
}

/// Like [`parse`], but with a given resolver, and returns the warnings instead of logging them.
#[cfg(any(test, feature = "testing"))]
pub fn parse_with(text: &str, file: &Path, resolve: Resolve<'_>) -> Result<(Config, Vec<Diagnostic>), Errors> {
    parse_noting(text, file, resolve, &Noted::default())
}

/// Like [`parse_with`], and records in `noted` every file that is read.
pub(crate) fn parse_noting(
    text: &str,
    file: &Path,
    resolve: Resolve<'_>,
    noted: &Noted,
) -> Result<(Config, Vec<Diagnostic>), Errors> {
    let report = Report::new(file.display().to_string(), text);
    let context = Context { report: &report, base: base(file.parent()), resolve, noted };
    let config = file::root(&report).map(|root| read(&context, root));
    conclude(report, config)
}

/// The configuration of `stickyd run --listen A --worker B`: one upstream named `app`, no state directory, no admin
/// listener. Errors point into the arguments.
pub fn for_command_line(listen: &[String], workers: &[String]) -> Result<Config, Errors> {
    let (line, listen, workers) = written(listen, workers);
    let report = Report::new("command line".to_owned(), &line);
    let context = Context { report: &report, base: base(None), resolve: &patient(), noted: &Noted::default() };
    let listeners: Vec<_> = listen
        .iter()
        .filter_map(|text| Some((Listener::plain(workers::socket(&context, text)?), text.span.clone())))
        .collect();
    if listen.is_empty() {
        report.missing("there is no listener", "add --listen 0.0.0.0:80");
    }
    let entries: Vec<_> = workers.into_iter().map(WorkerEntry::plain).collect();
    let (groups, found, spans) = workers::all(&context, &entries);
    if entries.is_empty() {
        report.missing("there is no worker", "add --worker 127.0.0.1:3001-3004");
    }
    let upstream = Upstream::new("app".to_owned(), groups, found);
    let upstreams = vec![ReadUpstream {
        upstream,
        name: 0..0,
        same_site: None,
        affinity: Vec::new(),
        follow: None,
        entries: spans,
        spawn: None,
    }];
    let admin = AdminListener { address: AdminAddress::None, token: None };
    listeners_differ(&context, &listeners, &admin);
    no_loops(&context, &listeners, &upstreams);
    let listeners = listeners.into_iter().map(|(listener, _)| listener).collect();
    let config = without_file(listeners, upstreams.into_iter().map(|read| read.upstream).collect());
    conclude(report, Some(config)).map(log_warnings)
}

/// A configuration with these listeners and upstreams, and every other setting at its default.
fn without_file(listeners: Vec<Listener>, upstreams: Vec<Upstream>) -> Config {
    Config {
        secret: None,
        state_dir: None,
        spawner: None,
        watch: false,
        threads: cores(),
        listeners,
        upstreams,
        routes: Vec::new(),
        admin: AdminListener { address: AdminAddress::None, token: None },
        limits: Limits::default(),
        log: Log::default(),
    }
}

/// The configuration of `stickyd run --spawn N -- COMMAND`: one upstream named `app`, whose workers stickyd starts in
/// the current folder. Without `--listen` it listens where the application itself would: at PORT, else 3000.
pub(crate) fn for_spawn(listen: &[String], instances: u32, command: &[String]) -> Result<Config, Errors> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse::<u16>().ok()).unwrap_or(3000);
    let default = [format!("0.0.0.0:{port}")];
    let listen = if listen.is_empty() { &default[..] } else { listen };
    // `--listen :3000` means every address, as in other programs.
    let every = |text: &String| if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.clone() };
    let listen: Vec<String> = listen.iter().map(every).collect();
    let (line, listen, _) = written(&listen, &[]);
    let report = Report::new("command line".to_owned(), &line);
    let context = Context { report: &report, base: base(None), resolve: &patient(), noted: &Noted::default() };
    let listeners = listen.iter().filter_map(|text| Some((workers::socket(&context, text)?, text.span.clone())));
    let listeners: Vec<_> = listeners.map(|(address, span)| (Listener::plain(address), span)).collect();
    let spawn = spawn::Spawn::plain(command.to_vec(), instances, context.base.clone());
    if let Err(why) = spawn::check_plain(&spawn) {
        report.missing(&*why, "write the program and its arguments after --, such as -- node server.js");
    }
    let upstream = upstream::spawned(Upstream::new("app".to_owned(), Vec::new(), Default::default()), spawn, None);
    listeners_differ(&context, &listeners, &AdminListener { address: AdminAddress::None, token: None });
    let listeners = listeners.into_iter().map(|(listener, _)| listener).collect();
    conclude(report, Some(without_file(listeners, vec![upstream]))).map(log_warnings)
}

fn spawner_socket(context: &Context<'_>, text: &ConfigText) -> Option<PathBuf> {
    if !text.value.starts_with("unix:") {
        let help = "write spawner = \"unix:/run/stickyd-workers/spawn.sock\"";
        context.report.error_help(&text.span, "`spawner` must be the path of a unix socket", help);
        return None;
    }
    workers::unix(context, text)
}

/// Reports ports for spawned workers that are a listener's own.
fn spawned_ports_are_free(context: &Context<'_>, listeners: &[(Listener, Span)], upstreams: &[ReadUpstream]) {
    for read in upstreams.iter().filter_map(|read| read.spawn.as_ref()) {
        let Some(range) = &read.spawn.ports else { continue };
        let taken = listeners.iter().map(|(listener, _)| listener.address).find(|listener| {
            let worker = super::Address::Tcp(SocketAddr::new(range.ip, listener.port()));
            range.ports.contains(&listener.port()) && is_listener(&worker, *listener)
        });
        if let Some(address) = taken {
            let message = format!("`ports` contains stickyd's own listener {address}");
            context.report.error_help(&read.at, message, "give the workers ports of their own");
        }
    }
}

/// The arguments as one line that errors can point into, and the place of each value in it.
fn written(listen: &[String], workers: &[String]) -> (String, Vec<ConfigText>, Vec<ConfigText>) {
    let mut line = String::new();
    let mut put = |flag: &str, values: &[String]| -> Vec<ConfigText> {
        let mut texts = Vec::new();
        for value in values {
            let gap = if line.is_empty() { "" } else { " " };
            line.push_str(&format!("{gap}{flag} {value}"));
            texts.push(ConfigText { span: line.len() - value.len()..line.len(), value: value.clone() });
        }
        texts
    };
    let listen = put("--listen", listen);
    let workers = put("--worker", workers);
    (line, listen, workers)
}

fn read(context: &Context<'_>, mut root: Section<'_>) -> Config {
    let secret = secret(context, &mut root);
    let state_dir = state_dir(context, &mut root);
    let spawner = root.text("spawner", "a unix socket such as \"unix:/run/stickyd-workers/spawn.sock\"");
    let spawner = spawner.and_then(|text| spawner_socket(context, &text));
    let watch = root.take("watch").and_then(ConfigItem::boolean).unwrap_or(true);
    let threads = root.integer("threads", 1..=256).unwrap_or_else(cores);
    let listeners = listener::all(context, &mut root);
    let customs = rules::customs(context, &mut root);
    let upstreams = upstreams(context, &customs, &mut root);
    customs.finish(context);
    let routes = routes::read(context, &mut root, &upstreams);
    rules::check_across(context, &upstreams, &routes);
    let admin = admin(context, &mut root, state_dir.as_deref());
    let limits = limits::read(&mut root);
    let log = log::read(&mut root);
    root.finish();
    listeners_differ(context, &listeners, &admin);
    no_loops(context, &listeners, &upstreams);
    no_way_to_admin(context, &admin, &upstreams);
    cookies_need_tls(context, &listeners, &upstreams);
    spawned_ports_are_free(context, &listeners, &upstreams);
    // A spawner of its own may run as another user, with folders that stickyd cannot see.
    for read in upstreams.iter().filter_map(|read| read.spawn.as_ref()).filter(|_| spawner.is_none()) {
        spawn::check_command(context, read);
    }
    Config {
        secret,
        state_dir,
        spawner,
        watch,
        threads,
        listeners: listeners.into_iter().map(|(listener, _)| listener).collect(),
        upstreams: upstreams.into_iter().map(|read| read.upstream).collect(),
        routes,
        admin,
        limits,
        log,
    }
}

pub(crate) fn state_dir(context: &Context<'_>, root: &mut Section<'_>) -> Option<PathBuf> {
    root.text("state_dir", "a path").map(|text| context.base.join(text.value))
}

fn secret(context: &Context<'_>, root: &mut Section<'_>) -> Option<Secret> {
    let second = root.key("secret_file");
    let inline = root.text("secret", "a string");
    let file = root.text("secret_file", "a path");
    if let (Some(_), Some(at)) = (&inline, second) {
        context.report.error_help(&at, "`secret` and `secret_file` cannot be used together", "remove one of the two");
    }
    if let Some(text) = &inline
        && text.value.len() < files::MIN_SECRET
    {
        let message = format!("`secret` has {} bytes; it needs at least {}", text.value.len(), files::MIN_SECRET);
        context.report.error_help(&text.span, message, "make one with: openssl rand -hex 32");
    }
    match (inline, file) {
        (Some(text), _) => Some(Secret(text.value.into_bytes())),
        (None, Some(path)) => files::secret(context, &path),
        (None, None) => None,
    }
}

fn upstreams(context: &Context<'_>, customs: &rules::Customs, root: &mut Section<'_>) -> Vec<ReadUpstream> {
    let help = "write [upstream.app] and below it workers = [\"127.0.0.1:3001-3004\"]";
    let Some(item) = root.take("upstream") else {
        context.report.missing("there is no upstream", help);
        return Vec::new();
    };
    let at = item.span.clone();
    let expected = "tables with names, each headed [upstream.NAME]";
    let Some(section) = item.section("[upstream]", expected) else { return Vec::new() };
    let named = section.named();
    if named.is_empty() {
        context.report.error_help(&at, "there is no upstream", help);
    }
    named.into_iter().filter_map(|(name, item)| upstream::read(context, customs, name, item)).collect()
}

pub(crate) fn admin(context: &Context<'_>, root: &mut Section<'_>, state_dir: Option<&Path>) -> AdminListener {
    let default = state_dir.map_or(AdminAddress::None, |dir| AdminAddress::Unix(dir.join("admin.sock")));
    let Some(mut section) = root.section("admin", "a table") else {
        return AdminListener { address: default, token: None };
    };
    let text = section.text("address", "an address such as \"127.0.0.1:9145\" or \"unix:/run/stickyd/admin.sock\"");
    let path = section.text("token_file", "a path");
    section.finish();
    let address = text.as_ref().and_then(|text| match text.value.starts_with("unix:") {
        true => workers::unix(context, text).map(AdminAddress::Unix),
        false => workers::socket(context, text).map(AdminAddress::Tcp),
    });
    if let (Some(AdminAddress::Tcp(tcp)), Some(text), None) = (&address, &text, &path)
        && !tcp.ip().is_loopback()
    {
        let message = "the admin listener would be open to the network without a token";
        context.report.error_help(&text.span, message, "write token_file = \"admin.token\", or use 127.0.0.1");
    }
    let token = path.and_then(|path| files::secret(context, &path));
    AdminListener { address: address.unwrap_or(default), token }
}

/// Reports listeners with the same address, the admin listener included.
fn listeners_differ(context: &Context<'_>, listeners: &[(Listener, Span)], admin: &AdminListener) {
    for (i, (listener, at)) in listeners.iter().enumerate() {
        let same = |(other, _): &&(Listener, Span)| other.address == listener.address && listener.address.port() != 0;
        if let Some((_, first)) = listeners.iter().take(i).find(same) {
            let line = context.report.line_of(first);
            let message = format!("{} already has a listener, on line {line}", listener.address);
            context.report.error(at, message);
        }
        if admin.address == AdminAddress::Tcp(listener.address) && listener.address.port() != 0 {
            context.report.error(at, format!("{} is already the admin listener's address", listener.address));
        }
    }
}

/// Reports workers that are one of our own listeners: every request would come back until no descriptor is left.
fn no_loops(context: &Context<'_>, listeners: &[(Listener, Span)], upstreams: &[ReadUpstream]) {
    for read in upstreams {
        let mut said: Option<&Span> = None;
        for (worker, at) in read.upstream.workers.iter().zip(&read.entries) {
            let own = listeners.iter().find(|(listener, _)| is_listener(&worker.address, listener.address));
            if let (Some((listener, _)), true) = (own, said != Some(at)) {
                said = Some(at);
                let message = format!("worker {} is stickyd's own listener {}", worker.address, listener.address);
                context.report.error_help(at, message, "give the application ports of its own");
            }
        }
    }
}

/// Reports workers that are the admin listener: clients would reach it through a route, from an address of this host.
fn no_way_to_admin(context: &Context<'_>, admin: &AdminListener, upstreams: &[ReadUpstream]) {
    for read in upstreams {
        let entries = read.upstream.workers.iter().zip(&read.entries);
        for (worker, at) in entries.filter(|(worker, _)| is_admin(&worker.address, &admin.address)) {
            let message = format!("worker {} is stickyd's own admin listener", worker.address);
            context.report.error_help(
                at,
                message,
                "clients would reach it: give the application an address of its own",
            );
        }
    }
}

fn is_admin(worker: &super::Address, admin: &AdminAddress) -> bool {
    match (worker, admin) {
        (worker, AdminAddress::Tcp(admin)) => is_listener(worker, *admin),
        (super::Address::Unix(worker), AdminAddress::Unix(admin)) => worker == admin,
        (_, AdminAddress::Unix(_) | AdminAddress::None) => false,
    }
}

/// Whether requests sent to this worker would arrive at this listener.
pub(crate) fn is_listener(worker: &super::Address, listener: SocketAddr) -> bool {
    let super::Address::Tcp(worker) = worker else { return false };
    let every = listener.ip().is_unspecified() && worker.ip().is_loopback();
    worker.port() == listener.port() && (worker.ip() == listener.ip() || every)
}

/// Warns of `SameSite=None` without TLS: such cookies are `Secure`, and browsers reject those over plain HTTP.
fn cookies_need_tls(context: &Context<'_>, listeners: &[(Listener, Span)], upstreams: &[ReadUpstream]) {
    // Behind a trusted proxy, the browser's side may use TLS.
    let plain = listeners.iter().all(|(listener, _)| listener.tls.is_none() && listener.trusted_proxies.is_empty());
    for read in upstreams.iter().filter(|read| plain && read.upstream.cookie_same_site == SameSite::None) {
        let message = "no listener has TLS, and browsers reject SameSite=None cookies over plain HTTP";
        let help = "add `tls` to a listener; if a proxy before stickyd terminates TLS, list it in `trusted_proxies`";
        context.report.warn(read.same_site.as_ref().unwrap_or(&read.name), message, help);
    }
}

fn conclude(report: Report<'_>, config: Option<Config>) -> Result<(Config, Vec<Diagnostic>), Errors> {
    let warnings = report.finish()?;
    // A missing config without an error is impossible; an error message is better than a panic.
    config.map(|config| (config, warnings)).ok_or_else(|| Errors::of_file("no configuration was read".to_owned()))
}

pub(crate) fn log_warnings((config, warnings): (Config, Vec<Diagnostic>)) -> Config {
    for warning in warnings {
        tracing::warn!("{}", warning.one_line());
    }
    config
}

pub(crate) fn base(folder: Option<&Path>) -> PathBuf {
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(256)
}
