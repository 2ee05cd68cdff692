//! The binary, as a table of contents: command line → logging → limits → server → signals → exit code.

use std::process::ExitCode;

use clap::Parser;
use stickyd::program::{
    Cli, Command, Parent, ReloadSender, RunCommand, Server, SpawnHandle, Stop, StopOutcome, flush_log, raise_limit,
    start_log,
};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// jemalloc returns the memory of a reconnect storm to the system (its decay is set in .cargo/config.toml) and needs
/// half as much as mimalloc per idle tunnel (docs/reference/performance.md §4).
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(check) => ExitCode::from(check.run()),
        Command::Run(run) => {
            let code = self::run(&run);
            flush_log();
            code
        }
        Command::Reload(reload) => ExitCode::from(reload.run()),
        Command::Status(status) => ExitCode::from(status.run()),
        Command::Workers(workers) => ExitCode::from(workers.run()),
        Command::Fleet(fleet) => ExitCode::from(fleet.run()),
        Command::Sockets(sockets) => ExitCode::from(sockets.run()),
        Command::Page(page) => ExitCode::from(page.run()),
        Command::Top(top) => ExitCode::from(top.run()),
        Command::Broadcast(broadcast) => ExitCode::from(broadcast.run()),
        Command::Emit(emit) => ExitCode::from(emit.run()),
        Command::Label(label) => ExitCode::from(label.run()),
        Command::Close(close) => ExitCode::from(close.run()),
        Command::Stats(stats) => ExitCode::from(stats.run()),
        Command::Events(events) => ExitCode::from(events.run()),
        Command::Pin(pin) => ExitCode::from(pin.run()),
        Command::Explain(explain) => ExitCode::from(explain.run()),
        Command::Drain(drain) => ExitCode::from(drain.run()),
        Command::Maint(maint) => ExitCode::from(maint.run()),
        Command::Ready(ready) => ExitCode::from(ready.run()),
        Command::Notify(notify) => ExitCode::from(notify.run()),
        Command::Queue(queue) => ExitCode::from(queue.run()),
        Command::Logs(logs) => ExitCode::from(logs.run()),
        Command::Scale(scale) => ExitCode::from(scale.run()),
        Command::Stop(stop) => ExitCode::from(stop.stop()),
        Command::Start(start) => ExitCode::from(start.start()),
        Command::Import(import) => ExitCode::from(import.run()),
        Command::Service(service) => ExitCode::from(service.run()),
        Command::Spawn(spawn) => ExitCode::from(spawn.run()),
        Command::Shim(shim) => ExitCode::from(shim.run()),
        Command::Log(log) => ExitCode::from(log.run()),
        Command::Bus(bus) => ExitCode::from(bus.run()),
        Command::Completions(completions) => ExitCode::from(completions.run()),
        Command::Reference(reference) => ExitCode::from(reference.run()),
        Command::Man(man) => ExitCode::from(man.run()),
    }
}

/// Exit code of a command line that is incomplete, as clap has it.
const USAGE: u8 = 2;

fn run(run: &RunCommand) -> ExitCode {
    if let Some(why) = run.usage_error() {
        eprintln!("{why}");
        return ExitCode::from(USAGE);
    }
    let (sources, loaded) = run.load();
    let (config, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(error) = run.check_unit(&config) {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    // Must run while this is the only thread: it removes environment variables.
    let parent = match Parent::find() {
        Ok(parent) => parent,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    start_log(&config.log);
    if let (None, Some(admin)) = (&sources, config.admin.addresses().next()) {
        let command = format!("stickyd status --admin {admin}");
        tracing::info!(%command, "started without a configuration file; the command shows its state");
    }
    for warning in warnings {
        tracing::warn!("{}", warning.one_line());
    }
    raise_limit();
    // Must run before systemd is notified of readiness: it may answer with SIGHUP at once.
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "cannot install signal handlers");
            return ExitCode::FAILURE;
        }
    };
    let server = match Server::start(config, sources, parent) {
        Ok(server) => server,
        Err(error) => {
            match error.help() {
                Some(help) => tracing::error!(help, "{error}"),
                None => tracing::error!("{error}"),
            }
            return ExitCode::FAILURE;
        }
    };
    for address in &server.addresses {
        tracing::info!(%address, "listening");
    }
    let admins: Vec<_> = server.admins.iter().map(ToString::to_string).collect();
    let admin = if admins.is_empty() { "none".to_owned() } else { admins.join(", ") };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), %admin, "ready");
    signals.watch(server.stop(), server.reload(), server.spawned());
    report(server.wait())
}

/// Handlers of the signals stickyd knows, installed at start; signals are acted on only from [`Signals::watch`] on.
struct Signals {
    runtime: tokio::runtime::Runtime,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    ignored: Vec<(&'static str, Signal)>,
}

/// A signal that is ignored, by its name and its kind.
type IgnoredSignal = (&'static str, fn() -> SignalKind);

/// Signals without a meaning here whose default action would end the process without a word: other servers rotate logs,
/// print states or stop gently on them, and scripts written for those send them. (SIGPIPE is ignored by Rust's
/// runtime.)
const IGNORED: [IgnoredSignal; 9] = [
    ("SIGUSR1", SignalKind::user_defined1),
    ("SIGUSR2", SignalKind::user_defined2),
    ("SIGQUIT", SignalKind::quit),
    ("SIGALRM", SignalKind::alarm),
    ("SIGVTALRM", || SignalKind::from_raw(rustix::process::Signal::VTALARM.as_raw())),
    ("SIGPROF", || SignalKind::from_raw(rustix::process::Signal::PROF.as_raw())),
    ("SIGIO", SignalKind::io),
    ("SIGPWR", || SignalKind::from_raw(rustix::process::Signal::POWER.as_raw())),
    // A write beyond RLIMIT_FSIZE fails with an error then.
    ("SIGXFSZ", || SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())),
];

impl Signals {
    fn catch() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (hangup, terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
        let interrupt = signal(SignalKind::interrupt())?;
        let ignored = IGNORED.into_iter().map(|(name, kind)| Ok((name, signal(kind())?)));
        let ignored = ignored.collect::<std::io::Result<_>>()?;
        drop(entered);
        Ok(Self { runtime, hangup, terminate, interrupt, ignored })
    }

    /// Blocks this thread until the first SIGTERM or SIGINT, and reloads on each SIGHUP meanwhile; after a reload
    /// without errors the workers that stickyd has started are replaced. A second SIGTERM or
    /// SIGINT stops at once; a thread that lives as long as the process waits for it.
    fn watch(self, stop: Stop, asks: ReloadSender, spawned: SpawnHandle) {
        let Self { runtime, mut hangup, mut terminate, mut interrupt, ignored } = self;
        let mut reloads = JoinSet::new();
        for (name, mut signal) in ignored {
            runtime.spawn(async move {
                while signal.recv().await.is_some() {
                    tracing::warn!(signal = name, "signal ignored: SIGTERM stops, SIGHUP reloads");
                }
            });
        }
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = hangup.recv() => {
                        // The reloader logs its result, so nothing waits for it here and SIGTERM is handled meanwhile.
                        // A full queue already holds a reload that has not begun; it will read the same file.
                        let (answer, outcome) = oneshot::channel();
                        if asks.try_send(answer).is_ok() {
                            reloads.spawn(renew(outcome, spawned.clone()));
                        }
                    }
                    Some(_) = reloads.join_next() => {}
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    // A data or control thread ended unexpectedly.
                    () = stop.gently.cancelled() => break,
                }
            }
        });
        tracing::info!("stopping: requests may finish, tunnels are closed");
        stop.gently.cancel();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            });
            stop.now.cancel();
        });
    }
}

/// Replaces the workers that stickyd has started, unless the file has errors.
async fn renew(outcome: oneshot::Receiver<stickyd::program::ReloadOutcome>, spawned: SpawnHandle) {
    if let Ok(Ok(_)) = outcome.await {
        spawned.restart_all();
    }
}

fn report(ended: StopOutcome) -> ExitCode {
    match ended {
        StopOutcome { panicked: true, .. } => {
            tracing::error!("stopped, but a thread failed");
            ExitCode::FAILURE
        }
        StopOutcome { cut: 0, .. } => {
            tracing::info!("stopped: everything ended before the deadline");
            ExitCode::SUCCESS
        }
        StopOutcome { cut, .. } => {
            tracing::info!(cut, "stopped: connections still open at the deadline were cut");
            ExitCode::SUCCESS
        }
    }
}
