//! `stickyd man`: the manual pages of all commands, for packages.

use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;

/// Arguments of `stickyd man`.
#[derive(Debug, Args)]
pub struct ManCommand {
    /// Folder to write stickyd.1, stickyd-run.1 and so on into; it is made if it does not exist
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
}

impl ManCommand {
    /// Writes the pages and returns the exit code.
    pub fn run(&self) -> u8 {
        match pages(&self.folder) {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("error: cannot write manual pages to {}: {error}", self.folder.display());
                1
            }
        }
    }
}

fn pages(folder: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    let mut all = Cli::command().disable_help_subcommand(true);
    all.build();
    page(folder, &all)
}

/// Writes the page of a command and of those below it; hidden ones have none.
fn page(folder: &Path, command: &Command) -> std::io::Result<()> {
    let page = Man::new(command.clone()).manual("stickyd").source(format!("stickyd {}", env!("CARGO_PKG_VERSION")));
    page.generate_to(folder)?;
    command.get_subcommands().filter(|below| !below.is_hide_set()).try_for_each(|below| self::page(folder, below))
}
