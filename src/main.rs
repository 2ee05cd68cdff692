//! The binary, as a table of contents: command line → logging → limits → server → signals → exit code.

use std::process::ExitCode;

use clap::Parser;
use stickyd::cli::{Cli, Command, Run};
use stickyd::drain::Ended;
use stickyd::server::{Server, Stop};
use stickyd::systemd::Parent;
use stickyd::{descriptors, reload, telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// jemalloc gives a reconnect storm's peak back (decay is set in .cargo/config.toml) and holds half of what mimalloc does
/// per idle tunnel (data-plane study §4).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Check(check) => ExitCode::from(check.run()),
        Command::Run(run) => {
            let code = self::run(&run);
            telemetry::flush();
            code
        }
        Command::Reload(reload) => ExitCode::from(reload.run()),
        Command::Status(status) => ExitCode::from(status.run()),
        Command::Workers(workers) => ExitCode::from(workers.run()),
        Command::Sockets(sockets) => ExitCode::from(sockets.run()),
        Command::Top(top) => ExitCode::from(top.run()),
        Command::Broadcast(broadcast) => ExitCode::from(broadcast.run()),
        Command::Close(close) => ExitCode::from(close.run()),
        Command::Stats(stats) => ExitCode::from(stats.run()),
        Command::Pin(pin) => ExitCode::from(pin.run()),
        Command::Explain(explain) => ExitCode::from(explain.run()),
        Command::Drain(drain) => ExitCode::from(drain.run()),
        Command::Maint(maint) => ExitCode::from(maint.run()),
        Command::Ready(ready) => ExitCode::from(ready.run()),
        Command::Log(log) => ExitCode::from(log.run()),
        Command::Completions(completions) => ExitCode::from(completions.run()),
    }
}

fn run(run: &Run) -> ExitCode {
    let (sources, loaded) = run.load();
    let (config, warnings) = match loaded {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    // Before there is another thread: it takes variables out of the environment.
    let parent = match Parent::find() {
        Ok(parent) => parent,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    telemetry::start(&config.log);
    for warning in warnings {
        tracing::warn!("{}", warning.one_line());
    }
    descriptors::raise_limit();
    // Before systemd hears that we are ready: it may answer with SIGHUP at once.
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            tracing::error!(%error, "signals cannot be watched");
            return ExitCode::FAILURE;
        }
    };
    let server = match Server::start(config, sources, parent) {
        Ok(server) => server,
        Err(error) => {
            tracing::error!("{error}");
            return ExitCode::FAILURE;
        }
    };
    for address in &server.addresses {
        tracing::info!(%address, "listening");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), admin = %server.admin, "ready");
    signals.watch(server.stop(), server.reload());
    report(server.wait())
}

/// The signals we know, caught; nothing happens on one before [`Signals::watch`].
struct Signals {
    runtime: tokio::runtime::Runtime,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let (hangup, terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
        let interrupt = signal(SignalKind::interrupt())?;
        drop(entered);
        Ok(Self { runtime, hangup, terminate, interrupt })
    }

    /// Waits for the first SIGTERM or SIGINT on this thread, reloading meanwhile; the second one ends at once, from a
    /// thread that lives as long as the process.
    fn watch(self, stop: Stop, asks: reload::Ask) {
        let Self { runtime, mut hangup, mut terminate, mut interrupt } = self;
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = hangup.recv() => {
                        // The reloader says everything in the log, so nobody waits for it: SIGTERM may come meanwhile. A
                        // full queue holds a reload that has not begun, and will see what this one would.
                        let _ = asks.try_send(oneshot::channel().0);
                    }
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    // A thread ended by itself.
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

fn report(ended: Ended) -> ExitCode {
    match ended {
        Ended { panicked: true, .. } => {
            tracing::error!("stopped, but a thread did not end by itself");
            ExitCode::FAILURE
        }
        Ended { cut: 0, .. } => {
            tracing::info!("stopped: everything ended by itself");
            ExitCode::SUCCESS
        }
        Ended { cut, .. } => {
            tracing::info!(cut, "stopped: what had not ended at the deadline was cut");
            ExitCode::SUCCESS
        }
    }
}
