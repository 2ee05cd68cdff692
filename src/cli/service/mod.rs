//! `stickyd service install` and `stickyd service remove`: the units of systemd and a configuration, for an application
//! that has to start with the machine.
//!
//! All checks come before the first change, and `--dry-run` prints exactly what would be written and run. Removal
//! undoes only what an installation has written (`files`). Left out: other service managers, and several applications,
//! which one configuration can have.

mod account;
mod files;
mod reader;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Subcommand};

use self::account::Account;
use self::files::{ServiceFile, Standing};
use super::current_folder;
use crate::config::{self, quoted};
use crate::printable::printable_lines;
use crate::systemd::units::{FOLDER, SERVICE, UnitFacts, WANTS, WORKERS, check_manager, is_plain_path, systemctl};
pub(super) use reader::ServiceReader;

/// The configuration, below the root.
const CONFIG: &str = "etc/stickyd/stickyd.toml";

/// What is printed after the reason why systemd cannot be used.
const WITHOUT_SYSTEMD: &str =
    "\n  = help: nothing was changed; --dry-run prints the units, and --root DIR works on a folder";

/// Folders that stickyd.service cannot see (ProtectHome=, PrivateTmp=).
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// What a command prints, without the white space around it, if it succeeds and prints anything. The standard library
/// cannot look up users, whose names may come from anywhere (nsswitch.conf(5)).
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Arguments of `stickyd service`.
#[derive(Debug, Args)]
pub struct ServiceCommand {
    /// Whether the units are installed or removed.
    #[command(subcommand)]
    pub action: ServiceAction,
}

/// What is done with the units; the doc comments are help texts.
#[derive(Debug, Subcommand)]
pub enum ServiceAction {
    /// Write, enable and start the units for an application in the current folder
    ///
    /// Writes stickyd.service, stickyd-workers.service and /etc/stickyd/stickyd.toml. Without a command, the existing
    /// configuration is used. Does what `pm2 startup` and `pm2 save` do.
    ///
    /// Example: sudo stickyd service install -- node server.js
    Install(ServiceInstallCommand),
    /// Stop and disable the units, and remove what `stickyd service install` has written
    ///
    /// A configuration that was edited since is kept.
    Remove(ServiceRemoveCommand),
}

/// Arguments of `stickyd service install`.
#[derive(Debug, Args)]
pub struct ServiceInstallCommand {
    /// Address to accept clients on, also :PORT; may be given several times [default: PORT of the environment, else
    /// 3000]
    #[arg(short, long, value_name = "IP:PORT", requires = "command")]
    pub listen: Vec<String>,
    /// Number of workers, or one per core with max
    #[arg(short, long, value_name = "N|max", default_value = "max", value_parser = instances)]
    pub spawn: String,
    /// User of the workers [default: the user who runs sudo, else the owner of the current folder, else app]
    #[arg(short, long, value_name = "NAME")]
    pub user: Option<String>,
    /// Environment variable for the workers; may be given several times. The file is readable for every user
    #[arg(short, long, value_name = "NAME=VALUE", requires = "command", value_parser = variable)]
    pub env: Vec<(String, String)>,
    /// Replace files that others have written or edited
    #[arg(long)]
    pub force: bool,
    /// Where the files are, and whether anything is changed.
    #[command(flatten)]
    pub place: ServicePlace,
    /// The command of a worker, with its arguments, run in the current folder
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Arguments of `stickyd service remove`.
#[derive(Debug, Args)]
pub struct ServiceRemoveCommand {
    /// Where the files are, and whether anything is changed.
    #[command(flatten)]
    pub place: ServicePlace,
}

/// Where the files are, and whether anything is changed.
#[derive(Debug, Args)]
pub struct ServicePlace {
    /// Only print what would be written and run
    #[arg(long)]
    pub dry_run: bool,
    /// Folder that stands for /, such as the root of an image; nothing is started there
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

fn instances(text: &str) -> Result<String, String> {
    config::spawn::parse_instances(text).map(|_| text.to_owned())
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or_default();
    let good = config::spawn::is_name(name) && !value.contains('\0');
    if good { Ok((name.to_owned(), value.to_owned())) } else { Err("expected NAME=VALUE".to_owned()) }
}

impl ServiceCommand {
    /// Installs or removes the units and returns the exit code.
    pub fn run(&self) -> u8 {
        let done = match &self.action {
            ServiceAction::Install(install) => install.run(),
            ServiceAction::Remove(remove) => remove.run(),
        };
        match done {
            Ok(text) => u8::from(std::io::stdout().write_all(text.as_bytes()).is_err()),
            Err(why) => {
                eprintln!("error: {}", printable_lines(&why));
                1
            }
        }
    }
}

impl ServicePlace {
    fn path(&self, below: &str) -> PathBuf {
        self.root.as_deref().unwrap_or_else(|| Path::new("/")).join(below)
    }

    /// Whether the machine's own systemd is told, not only files written.
    fn is_live(&self) -> bool {
        self.root.is_none() && !self.dry_run
    }

    fn check_manager(&self) -> Result<(), String> {
        if self.is_live() { check_manager().map_err(|why| why + WITHOUT_SYSTEMD) } else { Ok(()) }
    }
}

impl ServiceInstallCommand {
    fn run(&self) -> Result<String, String> {
        let directory = current_folder().map_err(|error| format!("there is no current folder: {error}"))?;
        let account = Account::find(self.user.as_deref(), &directory)?;
        let files = self.files(&account, &directory)?;
        if self.place.dry_run {
            return Ok(self.plan(&files, &account));
        }
        self.place.check_manager()?;
        let conflicts = files.iter().filter(|file| !self.force && file.standing().is_foreign());
        let conflicts: Vec<_> = conflicts.map(|file| file.path.display().to_string()).collect();
        if !conflicts.is_empty() {
            let help = "--force replaces it; without a command, the existing configuration is used";
            let named = conflicts.join(", ");
            return Err(format!(
                "not written by `stickyd service install`, or edited since: {named}\n  = help: {help}"
            ));
        }
        if self.place.is_live() {
            account.make(&directory)?;
        }
        let replaced = files.iter().any(|file| file.standing() == Standing::Older);
        for file in &files {
            file.write()?;
        }
        self.enable()?;
        let mut said = String::new();
        for file in &files {
            let _ = writeln!(said, "wrote {}", file.path.display());
        }
        if self.place.root.is_some() {
            let _ = writeln!(said, "enabled {SERVICE} and {WORKERS}");
            return Ok(said);
        }
        let _ = writeln!(said, "enabled and started {SERVICE} and {WORKERS}; see: stickyd workers");
        if replaced {
            let _ = writeln!(said, "units that run already change at: systemctl restart {WORKERS} {SERVICE}");
        }
        Ok(said)
    }

    fn files(&self, account: &Account, directory: &Path) -> Result<Vec<ServiceFile>, String> {
        let facts = UnitFacts {
            program: self.program()?,
            user: account.user.clone(),
            group: account.group.clone(),
            path: std::env::var("PATH").ok(),
        };
        let unit = |name: &str, text: String| ServiceFile::new(self.place.path(FOLDER).join(name), &text);
        let mut files = vec![unit(SERVICE, facts.service()), unit(WORKERS, facts.workers())];
        let path = self.place.path(CONFIG);
        if self.command.is_empty() {
            check_existing(&path)?;
        } else {
            files.push(ServiceFile::new(path, &self.configuration(directory)?));
        }
        Ok(files)
    }

    /// The path of this program, which the units run.
    fn program(&self) -> Result<String, String> {
        let program = std::env::current_exe().map_err(|error| format!("the path of stickyd is unknown: {error}"))?;
        let is_hidden = HIDDEN.iter().any(|folder| program.starts_with(folder));
        let program = program.display().to_string();
        let help = format!("sudo install {program} /usr/bin/stickyd, and use that one");
        if !is_plain_path(&program) {
            return Err(format!("a unit cannot have the path {program}\n  = help: {help}"));
        }
        if is_hidden && self.place.is_live() {
            return Err(format!("{SERVICE} cannot see {program} (ProtectHome=, PrivateTmp=)\n  = help: {help}"));
        }
        Ok(program)
    }

    /// The configuration for the command, after the checks that a start would do.
    fn configuration(&self, directory: &Path) -> Result<String, String> {
        let number = config::spawn::parse_instances(&self.spawn)?;
        let checked = config::for_spawn(&self.listen, number, &self.command).map_err(|errors| {
            let text = errors.to_string();
            text.strip_prefix("error: ").unwrap_or(&text).to_owned()
        })?;
        let directory = directory.to_str().ok_or("the path of the current folder is not valid UTF-8")?;
        let mut text = String::from("# For more, see docs/run.md and conf/stickyd.toml of stickyd.\n");
        let _ = writeln!(text, "state_dir = \"/var/lib/stickyd\"");
        let _ = writeln!(text, "spawner = \"unix:/run/stickyd-workers/spawn.sock\"");
        for listener in &checked.listeners {
            let _ = writeln!(text, "\n[[listener]]\naddress = {}", quoted(&listener.address.to_string()));
        }
        let words: Vec<_> = self.command.iter().map(|word| quoted(word)).collect();
        let instances = if self.spawn == "max" { quoted("max") } else { self.spawn.clone() };
        let _ = writeln!(text, "\n[upstream.app.spawn]\ncommand = [{}]", words.join(", "));
        let _ = writeln!(text, "instances = {instances}\ndirectory = {}", quoted(directory));
        if !self.env.is_empty() {
            let _ = writeln!(text, "\n[upstream.app.spawn.env]");
        }
        // TOML allows no name twice; the last one counts, as for a shell.
        for (name, value) in self.env.iter().cloned().collect::<BTreeMap<_, _>>() {
            let _ = writeln!(text, "{} = {}", quoted(&name), quoted(&value));
        }
        Ok(text)
    }

    fn plan(&self, files: &[ServiceFile], account: &Account) -> String {
        let mut text = String::new();
        for file in files {
            let _ = writeln!(text, "# {}\n{}", file.path.display(), file.text);
        }
        text.push_str("# Then:\n");
        if let Some(command) = account.command() {
            let _ = writeln!(text, "#     {}", command.join(" "));
        }
        match &self.place.root {
            None => text.push_str(&format!(
                "#     systemctl daemon-reload\n#     systemctl enable --now {WORKERS} {SERVICE}\n"
            )),
            Some(_) => text.push_str(&format!("#     links in {}\n", self.place.path(WANTS).display())),
        }
        text
    }

    fn enable(&self) -> Result<(), String> {
        if self.place.is_live() {
            systemctl(&["daemon-reload"])?;
            return systemctl(&["enable", "--now", WORKERS, SERVICE]);
        }
        [SERVICE, WORKERS].iter().try_for_each(|unit| files::link(&self.place.path(WANTS).join(unit), unit))
    }
}

/// Checks a configuration that exists already: it must be valid, start workers, and leave them to the other unit.
fn check_existing(path: &Path) -> Result<(), String> {
    let named = path.display();
    if !path.exists() {
        return Err(format!(
            "there is no command, and no {named}\n  = help: stickyd service install -- node server.js"
        ));
    }
    let (config, _) = config::load_with_warnings(path).map_err(|errors| format!("{named} is not valid:\n{errors}"))?;
    if config.upstreams.iter().all(|upstream| upstream.spawn.is_none()) {
        return Err(format!("no upstream in {named} has `spawn`; for other upstreams see docs/operating.md, systemd"));
    }
    if config.spawner.is_none() {
        let help = "write spawner = \"unix:/run/stickyd-workers/spawn.sock\"";
        return Err(format!("{named} has no `spawner`, and {SERVICE} may not start workers\n  = help: {help}"));
    }
    Ok(())
}

impl ServiceRemoveCommand {
    fn run(&self) -> Result<String, String> {
        let units = [SERVICE, WORKERS].map(|unit| self.place.path(FOLDER).join(unit));
        let config = self.place.path(CONFIG);
        // A unit that another has written is not this command's; one that was edited is.
        let units: Vec<_> =
            units.into_iter().filter(|path| !matches!(files::standing(path), Standing::Absent)).collect();
        let (units, kept): (Vec<_>, Vec<_>) =
            units.into_iter().partition(|path| files::standing(path) != Standing::Foreign);
        let mut said = String::new();
        let mut gone = units.clone();
        match files::standing(&config) {
            Standing::Older => gone.push(config.clone()),
            Standing::Edited => said.push_str(&format!("kept {}, which was edited\n", config.display())),
            Standing::Foreign | Standing::Absent => {}
        }
        for path in kept {
            let _ = writeln!(said, "kept {}, which `stickyd service install` has not written", path.display());
        }
        if gone.is_empty() {
            return Ok(said + "there is nothing to remove\n");
        }
        if !self.place.dry_run {
            self.place.check_manager()?;
            self.remove(&units, &gone)?;
        }
        let word = if self.place.dry_run { "would remove" } else { "removed" };
        for path in &gone {
            let _ = writeln!(said, "{word} {}", path.display());
        }
        Ok(said)
    }

    fn remove(&self, units: &[PathBuf], gone: &[PathBuf]) -> Result<(), String> {
        let names: Vec<_> = units.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        if self.place.is_live() && !names.is_empty() {
            systemctl(&[&["disable", "--now"], &names[..]].concat())?;
        }
        if self.place.root.is_some() {
            names.iter().try_for_each(|unit| files::remove(&self.place.path(WANTS).join(unit)))?;
        }
        gone.iter().try_for_each(|path| files::remove(path))?;
        // Only if it is empty.
        let _ = self.place.path(CONFIG).parent().map(std::fs::remove_dir);
        if self.place.is_live() { systemctl(&["daemon-reload"]) } else { Ok(()) }
    }
}
