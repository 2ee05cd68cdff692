//! `stickyd import pm2`: prints PM2's file as a configuration of stickyd.
//!
//! The file is a program, so Node runs it (`read-pm2.cjs`); all else works on the JSON that comes out. What has no
//! meaning for stickyd is named in comments above the upstream, because a setting that is dropped silently is found in
//! production. Left out: YAML, for which Node has no reader; and what PM2 itself knows of running processes.

mod apps;
mod settings;
mod start;
mod text;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand};
use serde_json::Value;

use super::current_folder;
use super::table::counted;
use crate::printable::printable_lines;

/// The program that runs inside Node.
const READER: &str = include_str!("read-pm2.cjs");

/// Maximum number of lines shown of what Node says about a file that it cannot read.
const MAX_LINES: usize = 12;

/// Arguments of `stickyd import`.
#[derive(Debug, Args)]
pub struct ImportCommand {
    /// The program whose configuration is read.
    #[command(subcommand)]
    pub source: ImportSource,
}

/// Programs whose configuration can be read; the doc comments are help texts.
#[derive(Debug, Subcommand)]
pub enum ImportSource {
    /// Print the apps of PM2's file as a configuration of stickyd
    ///
    /// The file is run by Node, as PM2 does. Settings without a meaning for stickyd are named in comments.
    ///
    /// Example: stickyd import pm2 ecosystem.config.cjs > stickyd.toml
    Pm2(Pm2Command),
}

/// Arguments of `stickyd import pm2`.
#[derive(Debug, Args)]
pub struct Pm2Command {
    /// PM2's file: ecosystem.config.cjs, .js, .mjs or .json
    #[arg(value_name = "FILE", default_value = "ecosystem.config.cjs")]
    pub file: PathBuf,
    /// Environment whose variables are added to `env`, as by pm2 start --env; `env_NAME` in the file
    #[arg(long, value_name = "NAME", default_value = "production")]
    pub env: String,
}

impl ImportCommand {
    /// Prints the configuration and returns the exit code.
    pub fn run(&self) -> u8 {
        let ImportSource::Pm2(pm2) = &self.source;
        match pm2.import() {
            Ok((text, notes)) => {
                // The configuration itself usually goes into a file.
                if notes > 0 && !std::io::stdout().is_terminal() {
                    eprintln!("note: comments in the configuration explain {}", noted(notes));
                }
                u8::from(std::io::stdout().write_all(text.as_bytes()).is_err())
            }
            Err(why) => {
                eprintln!("error: {}", printable_lines(&why));
                1
            }
        }
    }
}

impl Pm2Command {
    /// The configuration, and the number of notes in its comments.
    fn import(&self) -> Result<(String, usize), String> {
        let named = self.file.display();
        let here = current_folder().map_err(|error| format!("there is no current folder: {error}"))?;
        let file: PathBuf = here.join(&self.file).components().collect();
        file.metadata().map_err(|error| format!("cannot read {named}: {error}"))?;
        // Node would search for a folder's index.js.
        if file.is_dir() {
            return Err(format!("{named} is a folder; name the file in it, such as {named}/ecosystem.config.cjs"));
        }
        if file.extension().is_some_and(|kind| kind == "yml" || kind == "yaml") {
            return Err(format!("{named} is YAML, which Node cannot read; write the same as ecosystem.config.cjs"));
        }
        let folder = file.parent().unwrap_or_else(|| Path::new("/"));
        let value = read_by_node(&file, folder).map_err(|why| format!("{why}\n(while reading {named})"))?;
        let imported = apps::all(value, folder, &self.env).map_err(|why| format!("{named}: {why}"))?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let notes = imported.notes.len() + imported.apps.iter().map(|app| app.notes.len()).sum::<usize>();
        Ok((text::configuration(&name, &imported), notes))
    }
}

/// The number of settings that comments explain.
fn noted(notes: usize) -> String {
    format!("{} of PM2", counted(notes as u64, "setting"))
}

/// Lets Node load the file, and returns the file's value.
fn read_by_node(file: &Path, folder: &Path) -> Result<Value, String> {
    let mark = format!("stickyd-{:016x}:", crate::random::u64());
    let mut node = Command::new("node");
    let node = node.arg("-e").arg(READER).arg(file).arg(&mark).current_dir(folder).stdin(Stdio::null());
    let output = node.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            "there is no program `node` in PATH, which has to read PM2's file: install Node, or add its folder to PATH"
                .to_owned()
        }
        _ => format!("cannot run `node`: {error}"),
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    let Some((_, json)) = said.rsplit_once(&*mark) else {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).take(MAX_LINES).collect();
        return Err(format!("node cannot load the file ({}):\n  {}", output.status, lines.join("\n  ")));
    };
    serde_json::from_str(json).map_err(|error| format!("the value of the file is not valid JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use super::noted;

    #[test]
    fn one_setting_is_singular() {
        assert_eq!([1, 2].map(noted), ["1 setting of PM2", "2 settings of PM2"]);
    }
}
