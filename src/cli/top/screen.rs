//! The terminal of `stickyd top`: raw mode and the alternate screen, given back however the command ends; and the loop
//! over keys, looks and signals.
//!
//! Looks and orders run on a thread of their own, so that keys are answered at once while stickyd is slow or away.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use crossterm::style::{Attribute, Color, Print, SetAttribute, SetForegroundColor};
use crossterm::terminal::{self, BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate};
use crossterm::{cursor, execute, queue};
use tokio::signal::unix::{SignalKind, signal};

use super::link::{TopLink, TopOrder};
use super::model::{Action, Model};
use super::view::{self, Line};

/// What the loop waits for.
enum ScreenEvent {
    Key(KeyEvent),
    Resized,
    /// Boxed, since a look is much larger than a key.
    Looked(Box<Result<super::link::TopSnapshot, String>>),
    Told(Result<String, String>),
    /// The terminal has gone away, or a signal ends the command.
    End,
    /// A thread has panicked, and its message is on the terminal.
    Panicked,
}

/// What the thread that talks to stickyd waits for.
enum LinkOrder {
    Look,
    Do(TopOrder),
}

/// Shows the tables until the user quits; returns the exit code.
pub(super) fn run(link: TopLink, every: Duration) -> u8 {
    match show(link, every) {
        Ok(()) => 0,
        Err(error) => {
            // A closed output does not change the result.
            let _ = writeln!(io::stderr(), "error: cannot use the terminal: {error}");
            1
        }
    }
}

fn show(link: TopLink, every: Duration) -> io::Result<()> {
    let (tell, messages) = channel();
    let (wish, wishes) = channel();
    // Signals are taken before the terminal is: one in between would leave it as it is.
    let (ready, is_ready) = channel();
    let to_signals = tell.clone();
    thread::Builder::new().name("signals".to_owned()).spawn(move || wait_for_signal(&to_signals, &ready))?;
    let _ = is_ready.recv();
    let _given_back = Screen::take()?;
    for (name, work) in threads(link, every, wishes, &tell) {
        start(name, work, tell.clone())?;
    }
    let (mut model, mut before) = (Model::new(), Vec::new());
    loop {
        let (columns, rows) = terminal::size()?;
        draw(&view::draw(&model, columns, rows), &mut before)?;
        let Ok(message) = messages.recv() else { return Ok(()) };
        match message {
            ScreenEvent::Key(key) => match model.key(key, view::page(&model, rows)) {
                Action::Quit => return Ok(()),
                Action::None => {}
                // The thread runs as long as this loop.
                Action::Refresh => drop(wish.send(LinkOrder::Look)),
                Action::Do(order) => drop(wish.send(LinkOrder::Do(order))),
            },
            ScreenEvent::Resized => {
                before.clear();
                execute!(io::stdout(), Clear(ClearType::All))?;
            }
            ScreenEvent::Looked(look) => model.update(*look),
            ScreenEvent::Told(outcome) => model.told(outcome),
            ScreenEvent::End => return Ok(()),
            ScreenEvent::Panicked => return Err(io::Error::other("a thread of this command has panicked")),
        }
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// Returns the threads that fill the channel. They end with the process: a blocked read of the terminal has no other
/// end.
fn threads(
    link: TopLink,
    every: Duration,
    wishes: Receiver<LinkOrder>,
    tell: &Sender<ScreenEvent>,
) -> [(&'static str, Work); 2] {
    let (to_keys, to_link) = (tell.clone(), tell.clone());
    [("keys", Box::new(move || read_keys(&to_keys))), ("link", Box::new(move || talk(link, every, &wishes, &to_link)))]
}

/// Starts a thread whose panic ends the loop: the terminal was given back for the message, so nothing may be drawn.
fn start(name: &str, work: Work, tell: Sender<ScreenEvent>) -> io::Result<()> {
    struct Ends(Sender<ScreenEvent>);
    impl Drop for Ends {
        fn drop(&mut self) {
            if thread::panicking() {
                // The loop may have ended.
                let _ = self.0.send(ScreenEvent::Panicked);
            }
        }
    }
    let ends = Ends(tell);
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _ends = ends;
        work();
    })?;
    Ok(())
}

fn read_keys(tell: &Sender<ScreenEvent>) {
    loop {
        let message = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => ScreenEvent::Key(key),
            Ok(Event::Resize(..)) => ScreenEvent::Resized,
            Ok(_) => continue,
            Err(_) => ScreenEvent::End,
        };
        let is_end = matches!(message, ScreenEvent::End);
        if tell.send(message).is_err() || is_end {
            return;
        }
    }
}

/// Looks each `every`, and carries out orders at once, with a look after each.
fn talk(mut link: TopLink, every: Duration, wishes: &Receiver<LinkOrder>, tell: &Sender<ScreenEvent>) {
    let words = |error: super::RemoteError| error.to_string().trim_start_matches("error: ").to_owned();
    loop {
        let next = Instant::now() + every;
        if tell.send(ScreenEvent::Looked(Box::new(link.look().map_err(words)))).is_err() {
            return;
        }
        match wishes.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(LinkOrder::Do(order)) => drop(tell.send(ScreenEvent::Told(link.order(&order).map_err(words)))),
            Ok(LinkOrder::Look) | Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Ends the loop at SIGTERM, SIGHUP and SIGINT, so that the terminal is given back. Tells when signals are taken.
fn wait_for_signal(tell: &Sender<ScreenEvent>, ready: &Sender<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let kinds = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()];
        let [Ok(mut term), Ok(mut hangup), Ok(mut interrupt)] = kinds.map(signal) else { return };
        let _ = ready.send(());
        tokio::select! {
            _ = term.recv() => {}
            _ = hangup.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    let _ = tell.send(ScreenEvent::End);
}

/// The terminal while it is taken; dropping this gives it back.
struct Screen;

impl Screen {
    fn take() -> io::Result<Self> {
        // A panic prints its message after the terminal is given back, so that it can be read.
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            give_back();
            before(panic);
        }));
        terminal::enable_raw_mode()?;
        let taken = Self;
        execute!(io::stdout(), terminal::EnterAlternateScreen, cursor::Hide, Clear(ClearType::All))?;
        Ok(taken)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back();
    }
}

/// Gives the terminal back; harmless if it was given back before.
fn give_back() {
    // A terminal that has gone away needs nothing.
    let _ = execute!(io::stdout(), SetAttribute(Attribute::Reset), cursor::Show, terminal::LeaveAlternateScreen);
    let _ = terminal::disable_raw_mode();
}

/// Writes the lines that differ from those on the screen.
fn draw(lines: &[Line], before: &mut Vec<Line>) -> io::Result<()> {
    let mut out = Vec::new();
    queue!(out, BeginSynchronizedUpdate)?;
    for (at, line) in lines.iter().enumerate() {
        if before.get(at) == Some(line) {
            continue;
        }
        queue!(out, cursor::MoveTo(0, u16::try_from(at).unwrap_or(u16::MAX)), SetAttribute(Attribute::Reset))?;
        style(line.look, &mut out)?;
        queue!(out, Print(&line.text), SetAttribute(Attribute::Reset), Clear(ClearType::UntilNewLine))?;
    }
    if before.len() > lines.len() {
        let end = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        queue!(out, cursor::MoveTo(0, end), Clear(ClearType::FromCursorDown))?;
    }
    queue!(out, EndSynchronizedUpdate)?;
    *before = lines.to_vec();
    let mut terminal = io::stdout().lock();
    terminal.write_all(&out)?;
    terminal.flush()
}

fn style(look: view::Look, out: &mut Vec<u8>) -> io::Result<()> {
    match look {
        view::Look::Plain => Ok(()),
        view::Look::Title => queue!(out, SetAttribute(Attribute::Bold)),
        view::Look::Head => queue!(out, SetAttribute(Attribute::Bold), SetForegroundColor(Color::Cyan)),
        view::Look::Selected => queue!(out, SetAttribute(Attribute::Reverse)),
        view::Look::Bad => queue!(out, SetForegroundColor(Color::Red)),
        view::Look::Warn => queue!(out, SetForegroundColor(Color::Yellow)),
        view::Look::Quiet => queue!(out, SetAttribute(Attribute::Dim)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use serde_json::{Value, json};

    use super::*;

    /// Set in the process that panics on a terminal of its own: which of its threads does.
    const WHICH: &str = "STICKYD_TEST_PANICS";

    /// Takes the terminal and panics on the main thread of the loop, or on another one.
    fn panics(which: &str) {
        let given_back = Screen::take().unwrap();
        assert_ne!(which, "main", "the loop has a defect");
        let (tell, messages) = channel();
        start("link", Box::new(|| panic!("the link has a defect")), tell).unwrap();
        let message = messages.recv().unwrap();
        assert!(matches!(message, ScreenEvent::Panicked), "the loop is told");
        drop(given_back);
        panic!("the loop ends");
    }

    /// Runs this test again on a terminal of its own (`tests/clients/terminal.py`), where it panics.
    fn on_a_terminal(which: &str) -> Value {
        let clients = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        let this = std::env::current_exe().unwrap();
        let name = "cli::top::screen::tests::a_panic_gives_the_terminal_back";
        let mut python = Command::new(clients.join(".venv/bin/python"))
            .args(["terminal.py", "100x30"])
            .arg(this)
            .args([name, "--exact", "--nocapture"])
            .env(WHICH, which)
            .env("RUST_BACKTRACE", "0")
            .current_dir(&clients)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/run installs Python");
        let mut commands = python.stdin.take().unwrap();
        writeln!(commands, "{}", json!({ "do": "end" })).unwrap();
        let mut answer = String::new();
        BufReader::new(python.stdout.take().unwrap()).read_line(&mut answer).unwrap();
        drop(commands);
        python.wait().unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    #[test]
    fn a_panic_gives_the_terminal_back() {
        if let Ok(which) = std::env::var(WHICH) {
            return panics(&which);
        }
        for (which, message) in [("main", "the loop has a defect"), ("link", "the link has a defect")] {
            let ended = on_a_terminal(which);
            for what in ["restored", "left", "cursor"] {
                assert_eq!(ended[what], true, "{which}: {what}: {ended}");
            }
            assert_eq!(ended["code"], 101, "{which}: {ended}");
            let screen = ended["screen"].as_str().unwrap();
            assert!(screen.contains(message) && screen.contains("panicked at"), "{which}: {screen}");
        }
    }
}
