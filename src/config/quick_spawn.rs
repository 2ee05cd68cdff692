//! `stickyd run --spawn`, which needs no file, and the checks of `spawn` that span several tables.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::addresses::is_listener;
use super::check::{Context, base, conclude, log_warnings, without_file, written};
use super::error::{Errors, Report, Span};
use super::file::{ConfigText, Section};
use super::resolve::patient;
use super::sources::Noted;
use super::upstream::ReadUpstream;
use super::{Address, Config, Listener, ResolvedNames, Upstream, spawn, upstream, workers};

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
    let (resolve, noted) = (patient(), Noted::default());
    let context = Context::new(&report, base(None), &resolve, &noted);
    let socket = |text: &ConfigText| workers::socket(&context, text).map(Listener::plain);
    let listeners: Vec<_> = listen.iter().filter_map(socket).collect();
    let spawn = spawn::Spawn::plain(command.to_vec(), instances, context.base.clone());
    if let Err(why) = spawn::check_plain(&spawn) {
        report.missing(&*why, "write the program and its arguments after --, such as -- node server.js");
    }
    let upstream = Upstream::new("app".to_owned(), Vec::new(), ResolvedNames::default());
    let upstream = upstream::spawned(upstream, spawn, None);
    conclude(report, Some(without_file(listeners, vec![upstream]))).map(log_warnings)
}

/// Reads the key `spawner`, the socket of a spawner that is a service of its own.
pub(crate) fn spawner(context: &Context<'_>, root: &mut Section<'_>) -> Option<PathBuf> {
    let text = root.text("spawner", "a unix socket such as \"unix:/run/stickyd-workers/spawn.sock\"")?;
    if !text.value.starts_with("unix:") {
        let help = "write spawner = \"unix:/run/stickyd-workers/spawn.sock\"";
        context.report.error_help(&text.span, "`spawner` must be the path of a unix socket", help);
        return None;
    }
    workers::unix(context, &text)
}

/// Checks all `spawn` tables. A spawner of its own may run as another user, with folders that stickyd cannot see, so
/// commands are then not looked for.
pub(crate) fn check(
    context: &Context<'_>,
    listeners: &[(Listener, Span)],
    upstreams: &[ReadUpstream],
    has_spawner: bool,
) {
    for read in upstreams.iter().filter_map(|read| read.spawn.as_ref()) {
        if !has_spawner {
            spawn::check_command(context, read);
        }
        let Some(range) = &read.spawn.ports else { continue };
        let taken = listeners.iter().map(|(listener, _)| listener.address).find(|listener| {
            let worker = Address::Tcp(SocketAddr::new(range.ip, listener.port()));
            range.ports.contains(&listener.port()) && is_listener(&worker, *listener)
        });
        if let Some(address) = taken {
            let message = format!("`ports` contains stickyd's own listener {address}");
            context.report.error_help(&read.at, message, "give the workers ports of their own");
        }
    }
}
