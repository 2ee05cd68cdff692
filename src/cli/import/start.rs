//! The command that starts an app: script, interpreter and arguments of PM2, as one list of words.
//!
//! PM2 chooses the interpreter by the name of the script, and runs a script with spaces in a shell; so does this.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::config::spawn::find_program;

/// Interpreters by the extension of the script, as PM2 has them; the first one in PATH is taken.
const INTERPRETERS: &[(&str, &[&str])] = &[
    ("js", &["node"]),
    ("cjs", &["node"]),
    ("mjs", &["node"]),
    ("ts", &["bun", "node"]),
    ("tsx", &["bun"]),
    ("py", &["python", "python3"]),
    ("sh", &["bash", "sh"]),
    ("rb", &["ruby"]),
    ("php", &["php"]),
    ("pl", &["perl"]),
    ("coffee", &["coffee"]),
    ("ls", &["lsc"]),
];

/// How PM2 starts an app.
pub(super) struct Start {
    pub(super) script: String,
    pub(super) interpreter: Option<String>,
    pub(super) node_args: Vec<String>,
    pub(super) args: Vec<String>,
}

impl Start {
    /// The words of the command, which is run in `directory`.
    pub(super) fn command(self, directory: &Path, notes: &mut Vec<String>) -> Vec<String> {
        if self.script.contains(' ') {
            if !self.args.is_empty() {
                notes.push("args are left out, because the script is a command line for a shell".to_owned());
            }
            return vec![first_found(&["bash", "sh"], directory), "-c".to_owned(), self.script];
        }
        let file: PathBuf = directory.join(&self.script).components().collect();
        let in_path = !file.is_file() && !self.script.contains('/') && is_found(&self.script, directory);
        if !file.is_file() && !in_path {
            notes.push(format!("script {} does not exist", file.display()));
        }
        let script = if in_path { self.script.clone() } else { as_path(&self.script) };
        let interpreter = match self.interpreter.as_deref() {
            Some("none") => None,
            Some(named) if named.starts_with("node@") => {
                notes.push(format!("interpreter {named}: PM2 would install it; write the path of that node instead"));
                Some("node".to_owned())
            }
            Some(named) => Some(named.to_owned()),
            None if in_path => None,
            None => interpreter(&file, directory),
        };
        let Some(interpreter) = interpreter else {
            if !self.node_args.is_empty() {
                notes.push("node_args are left out, because the script is run without an interpreter".to_owned());
            }
            return [vec![script], self.args].concat();
        };
        if !is_found(&interpreter, directory) {
            notes.push(format!("there is no program {interpreter} in PATH"));
        }
        // An interpreter opens a file; it does not search PATH for it.
        let script = match in_path.then(|| path_of(&self.script)).flatten() {
            Some(path) => path.display().to_string(),
            None => self.script,
        };
        [vec![interpreter], self.node_args, vec![script], self.args].concat()
    }
}

/// The interpreter for a script that names none; `None`: the script is a program.
fn interpreter(file: &Path, directory: &Path) -> Option<String> {
    let extension = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if let Some((_, names)) = INTERPRETERS.iter().find(|(known, _)| *known == extension) {
        return Some(first_found(names, directory));
    }
    let mut start = Vec::new();
    if let Ok(file) = std::fs::File::open(file) {
        let _ = file.take(512).read_to_end(&mut start);
    }
    // A program, or a script that names its own interpreter. PM2 gives every other text to Node.
    let first = start.split(|b| *b == b'\n').next().unwrap_or_default();
    let names_another = first.starts_with(b"#!") && !first.windows(4).any(|word| word == b"node");
    (!start.contains(&0) && !names_another).then(|| "node".to_owned())
}

/// A program in a folder needs a path with a slash, because PATH is searched for a bare name.
fn as_path(script: &str) -> String {
    if script.contains('/') { script.to_owned() } else { format!("./{script}") }
}

fn is_found(program: &str, directory: &Path) -> bool {
    find_program(program, directory, None).is_ok()
}

/// The first of the names that is in PATH, else the first.
fn first_found(names: &[&str], directory: &Path) -> String {
    let found = names.iter().find(|name| is_found(name, directory)).or_else(|| names.first());
    found.map_or_else(String::new, |name| (*name).to_owned())
}

fn path_of(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(script: &str, interpreter: Option<&str>, args: &[&str]) -> (String, String) {
        let start = Start {
            script: script.to_owned(),
            interpreter: interpreter.map(str::to_owned),
            node_args: vec!["--x".to_owned()],
            args: args.iter().map(|word| (*word).to_owned()).collect(),
        };
        let mut notes = Vec::new();
        let words = start.command(Path::new("/"), &mut notes);
        (words.join("␣"), notes.join("\n"))
    }

    #[test]
    fn the_interpreter_is_chosen_as_by_pm2() {
        let sh = first_found(&["bash", "sh"], Path::new("/"));
        assert_eq!(command("app.js", None, &["-p", "a b"]).0, "node␣--x␣app.js␣-p␣a b");
        assert_eq!(command("sub/app.mjs", None, &[]).0, "node␣--x␣sub/app.mjs");
        assert_eq!(command("a.sh", None, &[]).0, format!("{sh}␣--x␣a.sh"));
        assert_eq!(command("app", Some("deno"), &[]).0, "deno␣--x␣app");
        assert_eq!(command("bin/sh", None, &["-c"]).0, "bin/sh␣-c", "a program has no interpreter");
        assert_eq!(command("app", Some("none"), &[]).0, "./app");
        assert_eq!(command("sh", None, &["-c", "x"]).0, "sh␣-c␣x", "a program in PATH");
        assert_eq!(command("npm run start", None, &["lost"]).0, format!("{sh}␣-c␣npm run start"));
        let (words, notes) = command("app.js", Some("node@18.0.0"), &[]);
        assert!(words.starts_with("node␣") && notes.contains("node@18.0.0"), "{words} {notes}");
        assert!(command("no-such.js", None, &[]).1.contains("does not exist"));
    }
}
