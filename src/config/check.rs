//! From text to [`Config`]: reads every table, then checks rules that span several tables. Reports all errors at once.
//!
//! Entry points: [`parse`] (a text), [`for_command_line`] (no file at all); for files see `load`. Small tables are read
//! here; listeners, upstreams, workers, routes and others have files of their own. Left out: errors that only the
//! running system can find (an address in use, a worker that does not answer).

use std::cell::OnceCell;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::admin::{self, ReadAdmin};
use super::error::{Diagnostic, Errors, Report, Span};
use super::file::{ConfigItem, ConfigText, Section};
use super::resolve::patient;
use super::sources::Noted;
use super::tls::Leaves;
use super::upstream::ReadUpstream;
use super::workers::WorkerEntry;
use super::{
    AdminListener, Authorities, Config, HistoryConfig, Limits, Listener, Log, SameSite, Upstream, addresses, fleet,
    history, labels, limits, listener, log, notify, offline_queue, quick_spawn, routes, rules, secret, state_dir,
    telemetry, upstream, workers,
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
    /// Dates of the certificates that were read.
    pub(crate) leaves: Leaves,
    /// The authorities that this machine trusts, once something has asked for them; `None` inside: there are none.
    pub(crate) systems: OnceCell<Option<Authorities>>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(report: &'a Report<'a>, base: PathBuf, resolve: Resolve<'a>, noted: &'a Noted) -> Self {
        Self { report, base, resolve, noted, leaves: Leaves::default(), systems: OnceCell::new() }
    }
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
    let context = Context::new(&report, base(file.parent()), resolve, noted);
    let config = super::file::root(&report).map(|root| read(&context, root, file));
    conclude(report, config)
}

/// The configuration of `stickyd run --listen A --worker B`: one upstream named `app`, no state directory, no admin
/// listener. Errors point into the arguments.
pub fn for_command_line(listen: &[String], workers: &[String]) -> Result<Config, Errors> {
    let (line, listen, workers) = written(listen, workers);
    let report = Report::new("command line".to_owned(), &line);
    let (resolve, noted) = (patient(), Noted::default());
    let context = Context::new(&report, base(None), &resolve, &noted);
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
        offline_queue: None,
        entries: spans,
        spawn: None,
    }];
    let none = ReadAdmin { listener: AdminListener::none(), written: Vec::new() };
    addresses::differ(&context, &listeners, &none);
    addresses::no_loops(&context, &listeners, &upstreams);
    let listeners = listeners.into_iter().map(|(listener, _)| listener).collect();
    let config = without_file(listeners, upstreams.into_iter().map(|read| read.upstream).collect());
    conclude(report, Some(config)).map(log_warnings)
}

/// A configuration with these listeners and upstreams, and every other setting at its default.
pub(crate) fn without_file(listeners: Vec<Listener>, upstreams: Vec<Upstream>) -> Config {
    Config {
        secret: None,
        state_dir: None,
        spawner: None,
        watch: false,
        introduces: false,
        threads: cores(),
        listeners,
        upstreams,
        routes: Vec::new(),
        admin: AdminListener::none(),
        fleet: None,
        limits: Limits::default(),
        history: HistoryConfig::default(),
        log: Log::default(),
        notify: Arc::default(),
        telemetry: None,
    }
}

/// The arguments as one line that errors can point into, and the place of each value in it.
pub(crate) fn written(listen: &[String], workers: &[String]) -> (String, Vec<ConfigText>, Vec<ConfigText>) {
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

pub(crate) fn read(context: &Context<'_>, mut root: Section<'_>, file: &Path) -> Config {
    let secret = secret::read(context, &mut root, file);
    let state_dir = state_dir::read(context, &mut root, secret.is_none());
    let spawner = quick_spawn::spawner(context, &mut root);
    let watch = root.take("watch").and_then(ConfigItem::boolean).unwrap_or(true);
    let threads = root.integer("threads", 1..=256).unwrap_or_else(cores);
    let listeners = listener::all(context, &mut root);
    let customs = rules::customs(context, &mut root);
    let upstreams = upstreams(context, &customs, &mut root);
    customs.finish(context);
    let routes = routes::read(context, &mut root, &upstreams);
    rules::check_across(context, &upstreams, &routes);
    let admin = admin::read(context, &mut root, state_dir.as_deref());
    let fleet = fleet::read(context, &mut root, secret.is_some(), &upstreams);
    offline_queue::need_a_fleet(context, &upstreams, fleet.is_some());
    labels::need_certificates(context, &upstreams, &listeners);
    let limits = limits::read(&mut root);
    let history = history::read(&mut root);
    let log = log::read(context, &mut root);
    let notify = notify::read(context, &mut root);
    let telemetry = telemetry::read(context, &mut root);
    root.finish();
    addresses::differ(context, &listeners, &admin);
    addresses::no_loops(context, &listeners, &upstreams);
    context.leaves.report(context.report);
    addresses::no_way_to_admin(context, &admin.listener, &upstreams);
    cookies_need_tls(context, &listeners, &upstreams);
    quick_spawn::check(context, &listeners, &upstreams, spawner.is_some());
    let mut upstreams: Vec<_> = upstreams.into_iter().map(|read| read.upstream).collect();
    if let Some(fleet) = &fleet {
        let started = upstreams.iter_mut().filter(|upstream| upstream.spawn.is_some());
        started.for_each(|upstream| upstream.machine = Some(fleet.name.as_str().into()));
    }
    Config {
        secret,
        state_dir,
        spawner,
        watch,
        introduces: false,
        threads,
        listeners: listeners.into_iter().map(|(listener, _)| listener).collect(),
        upstreams,
        routes,
        admin: admin.listener,
        fleet,
        limits,
        history,
        log,
        notify,
        telemetry,
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

pub(crate) fn conclude(report: Report<'_>, config: Option<Config>) -> Result<(Config, Vec<Diagnostic>), Errors> {
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
