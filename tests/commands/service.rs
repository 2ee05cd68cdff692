//! `stickyd service`: units and a configuration below a folder that stands for the root; the error without systemd.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::temp::TempDirectory;

const SERVICE: &str = "etc/systemd/system/stickyd.service";
const WORKERS: &str = "etc/systemd/system/stickyd-workers.service";
const CONFIG: &str = "etc/stickyd/stickyd.toml";

/// Runs `stickyd service` in the folder, with `root` as the root.
fn service(folder: &Path, root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let (action, more) = arguments.split_first().unwrap();
    command.args(["service", action, "--root"]).arg(root).args(more).current_dir(folder);
    command.env_remove("SUDO_USER").env_remove("PORT").output().unwrap()
}

fn done(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Everything below a folder, by path.
fn below(root: &Path) -> Vec<String> {
    let output = Command::new("find").arg(root).args(["!", "-type", "d", "-printf", "%P\n"]).output().unwrap();
    let mut all: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    all.sort();
    all
}

#[test]
fn an_installation_writes_and_enables_what_a_removal_undoes() {
    let (app, root) = (TempDirectory::new("app"), TempDirectory::new("root"));
    let command = ["--env", "NODE_ENV=production", "--user", "ann", "--", "node", "server.js"];
    let install = [&["install", "--listen", ":8080", "--spawn", "2"], &command[..]].concat();
    let planned = done(&service(app.root(), root.root(), &[&["install", "--dry-run"], &install[1..]].concat()));
    assert_eq!(below(root.root()), [""; 0], "a dry run changes nothing");
    let said = done(&service(app.root(), root.root(), &install));
    assert!(said.contains("enabled stickyd.service and stickyd-workers.service"), "{said}");
    let wants = "etc/systemd/system/multi-user.target.wants";
    let links = [format!("{wants}/stickyd-workers.service"), format!("{wants}/stickyd.service")];
    assert_eq!(below(root.root()), [CONFIG, &links[0], &links[1], WORKERS, SERVICE]);
    let link = std::fs::read_link(root.path(&links[1])).unwrap();
    assert_eq!(link, Path::new("/etc/systemd/system/stickyd.service"));
    let read = |path: &str| std::fs::read_to_string(root.path(path)).unwrap();
    for path in [CONFIG, SERVICE, WORKERS] {
        assert!(planned.contains(&read(path)), "{planned}");
    }
    assert!(read(WORKERS).contains("\nUser=ann\n") && read(SERVICE).contains("\nUser=ann\n"));
    // The configuration is valid, and says what the command line says.
    let mut check = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    done(&check.args(["check", "--strict"]).arg(root.path(CONFIG)).output().unwrap());
    let table: toml::Table = toml::from_str(&read(CONFIG)).unwrap();
    assert_eq!(table["listener"][0]["address"].as_str(), Some("0.0.0.0:8080"));
    let spawn = &table["upstream"]["app"]["spawn"];
    assert_eq!(spawn["directory"].as_str(), app.root().to_str());
    assert_eq!((spawn["instances"].as_integer(), spawn["env"]["NODE_ENV"].as_str()), (Some(2), Some("production")));
    // Again, and with other values: the files are this command's own.
    done(&service(app.root(), root.root(), &install));
    done(&service(app.root(), root.root(), &["install", "--user", "ann", "--", "node", "other.js"]));
    assert!(read(CONFIG).contains("other.js") && read(CONFIG).contains("instances = \"max\""));
    let would = done(&service(app.root(), root.root(), &["remove", "--dry-run"]));
    assert!(would.contains("would remove") && root.path(SERVICE).exists(), "{would}");
    done(&service(app.root(), root.root(), &["remove"]));
    assert_eq!(below(root.root()), [""; 0]);
    assert!(!root.path("etc/stickyd").exists());
    assert!(done(&service(app.root(), root.root(), &["remove"])).contains("nothing to remove"));
}

#[test]
fn files_of_others_are_neither_replaced_nor_removed() {
    let (app, root) = (TempDirectory::new("app"), TempDirectory::new("root"));
    let install = ["install", "--", "node", "server.js"];
    done(&service(app.root(), root.root(), &install));
    let edited = std::fs::read_to_string(root.path(CONFIG)).unwrap() + "# mine\n";
    root.write(CONFIG, &edited);
    let said = refused(&service(app.root(), root.root(), &["install", "--", "node", "other.js"]));
    assert!(said.contains("etc/stickyd/stickyd.toml") && said.contains("--force"), "{said}");
    assert!(!said.contains("stickyd.service\n"), "{said}");
    // Without a command, the edited configuration is used.
    done(&service(app.root(), root.root(), &["install"]));
    assert_eq!(std::fs::read_to_string(root.path(CONFIG)).unwrap(), edited);
    let said = done(&service(app.root(), root.root(), &["remove"]));
    assert!(said.contains("kept") && below(root.root()) == [CONFIG], "{said}");
    // A unit from elsewhere.
    root.write(WORKERS, "[Service]\n");
    let said = refused(&service(app.root(), root.root(), &["install"]));
    assert!(said.contains("stickyd-workers.service"), "{said}");
    let said = done(&service(app.root(), root.root(), &["remove"]));
    assert!(said.contains("has not written") && root.path(WORKERS).exists(), "{said}");
    done(&service(app.root(), root.root(), &["install", "--force", "--", "node", "server.js"]));
    assert!(!std::fs::read_to_string(root.path(CONFIG)).unwrap().contains("# mine"));
}

#[test]
fn an_installation_that_cannot_work_is_refused_before_a_change() {
    let (app, root) = (TempDirectory::new("app"), TempDirectory::new("root"));
    for (arguments, why) in [
        (&["install", "--", "no-such-program"][..], "there is no program `no-such-program` in PATH"),
        (&["install", "--listen", "nonsense", "--", "node"], "nonsense"),
        (&["install", "--user", "a b", "--", "node"], "`a b` is not a valid user name"),
        (&["install"], "there is no command, and no"),
    ] {
        let said = refused(&service(app.root(), root.root(), arguments));
        assert!(said.starts_with("error: ") && said.contains(why), "{said}");
    }
    root.write("stickyd.toml", "");
    std::fs::create_dir_all(root.path("etc/stickyd")).unwrap();
    for (text, why) in [
        ("[upstream.a]\nworkers = [\"127.0.0.1:2\"]\n", "has `spawn`"),
        ("[upstream.a]\nspawn = { command = [\"node\"] }\n", "write spawner = "),
        ("nonsense", "is not valid"),
    ] {
        root.write(
            CONFIG,
            format!("state_dir = \"/var/lib/stickyd\"\n[[listener]]\naddress = \"127.0.0.1:1\"\n{text}"),
        );
        let said = refused(&service(app.root(), root.root(), &["install"]));
        assert!(said.contains(why), "{said}");
    }
    assert_eq!(below(root.root()), [CONFIG, "stickyd.toml"]);
    for (arguments, code) in
        [(&["install", "--spawn", "0", "--", "node"][..], 2), (&["install", "--env", "A", "--", "b"], 2)]
    {
        assert_eq!(service(app.root(), root.root(), arguments).status.code(), Some(code));
    }
}

#[test]
fn a_machine_without_systemd_is_told_so() {
    // On a machine with systemd, this would install.
    if Path::new("/run/systemd/system").exists() || Path::new("/etc/systemd/system/stickyd.service").exists() {
        return;
    }
    let app = TempDirectory::new("app");
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let command = command.args(["service", "install", "--", "node", "server.js"]).current_dir(app.root());
    let said = refused(&command.output().unwrap());
    // The test's own binary may be in a folder that the unit cannot see, which is said first.
    let hidden = said.contains("cannot see");
    assert!(hidden || said.contains("systemd does not run on this machine") && said.contains("--dry-run"), "{said}");
    assert!(!Path::new("/etc/systemd/system/stickyd.service").exists());
}
