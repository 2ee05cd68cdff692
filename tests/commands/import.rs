//! `stickyd import pm2`: real files of PM2, read by a real Node; what is printed passes `stickyd check`.

use std::path::Path;
use std::process::{Command, Output};

use crate::support::temp::TempDirectory;

fn stickyd(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stickyd")).args(arguments).current_dir(folder).output().unwrap()
}

/// Imports a file with this text; the configuration, which `stickyd check` has accepted without a warning, as a table.
fn imported(name: &str, text: &str, more: &[&str]) -> (String, toml::Table, TempDirectory) {
    let folder = TempDirectory::new("import");
    for script in ["server.js", "api.js", "task.py", "app.js"] {
        folder.write(script, "");
    }
    folder.write(name, text);
    let output = stickyd(folder.root(), &[&["import", "pm2", name], more].concat());
    let (said, printed) = (String::from_utf8(output.stderr).unwrap(), String::from_utf8(output.stdout).unwrap());
    assert!(output.status.success(), "{said}");
    assert_eq!(said.contains("comments in the configuration"), !said.is_empty(), "{said}");
    // In another folder, because nothing in the text may depend on where it is stored.
    let other = TempDirectory::new("imported");
    other.write("stickyd.toml", &printed);
    let checked = stickyd(other.root(), &["check", "--strict", "stickyd.toml"]);
    assert!(checked.status.success(), "{}\n{printed}", String::from_utf8_lossy(&checked.stderr));
    let table = toml::from_str(&printed).unwrap();
    (printed, table, folder)
}

fn spawn<'a>(table: &'a toml::Table, upstream: &str) -> &'a toml::Value {
    &table["upstream"][upstream]["spawn"]
}

#[test]
fn every_setting_of_an_app_is_imported_or_named() {
    let file = r#"
module.exports = {
  apps: [{
    name: 'Shop API', script: './server.js', args: '--verbose --title "a b"', node_args: ['--max-old-space-size=300'],
    cwd: '.', instances: 3, exec_mode: 'cluster', max_memory_restart: '300M', kill_timeout: 5000, wait_ready: true,
    watch: ['src'], cron_restart: '0 3 * * *', increment_var: 'PORT', out_file: '/var/log/out.log', odd_setting: 1,
    env: { PORT: 3001, NODE_ENV: 'development', DEBUG: true, 'with.dot': 'x "y" \\ \u007f\n', LIST: [1] },
    env_production: { NODE_ENV: 'production' }, env_test: { NODE_ENV: 'test' },
  }],
  deploy: { production: {} },
};
console.log('printed by the file');
"#;
    let (text, table, folder) = imported("ecosystem.config.cjs", file, &[]);
    assert_eq!(table["listener"][0]["address"].as_str(), Some("0.0.0.0:3001"));
    let app = spawn(&table, "shop-api");
    let words: Vec<_> = app["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    assert_eq!(words, ["node", "--max-old-space-size=300", "./server.js", "--verbose", "--title", "a b"]);
    assert_eq!((app["instances"].as_integer(), app["stop"].as_str()), (Some(3), Some("5s")));
    assert_eq!((app["max_memory"].as_str(), app["bus"].as_str()), (Some("300MiB"), Some("auto")));
    assert_eq!(app["directory"].as_str(), folder.root().to_str());
    let env = app["env"].as_table().unwrap();
    let value = |name: &str| env.get(name).and_then(toml::Value::as_str);
    assert_eq!((value("NODE_ENV"), value("DEBUG"), value("LIST")), (Some("production"), Some("true"), Some("[1]")));
    assert_eq!((value("with.dot"), value("PORT")), (Some("x \"y\" \\ \u{7f}\n"), None));
    for part in [
        "PM2's name: Shop API",
        "wait_ready has no meaning here: a worker is ready when its health checks pass",
        "watch has no meaning",
        "cron_restart has no meaning",
        "out_file has no meaning",
        "increment_var: each worker is given a port of its own",
        "odd_setting is not known",
        "env_test is not used",
        "deploy has no meaning",
        "SIGINT",
        "port, write `port = 5001` in spawn.",
    ] {
        assert!(text.lines().any(|line| line.starts_with('#') && line.contains(part)), "{part}\n{text}");
    }
    let (_, table, _) = imported("ecosystem.config.cjs", file, &["--env", "test"]);
    assert_eq!(spawn(&table, "shop-api")["env"]["NODE_ENV"].as_str(), Some("test"));
}

#[test]
fn several_apps_become_upstreams_with_routes() {
    let file = "module.exports = { apps: [
        { script: 'server.js', instances: 'max', port: 8000 },
        { name: 'api', script: 'api.js', instances: 0, env: { PORT: '9000' } },
        { name: 'API', script: 'task.py', interpreter: 'python3', max_memory_restart: 1e9 },
        { name: 'шоп', script: 'sh', args: ['-c', 'exit 1'], interpreter: 'none', instances: -100 },
    ] }";
    let (text, table, _folder) = imported("pm2.config.js", file, &[]);
    assert_eq!(table["listener"][0]["address"].as_str(), Some("0.0.0.0:8000"));
    assert!(text.contains("port 9000"), "{text}");
    assert_eq!(spawn(&table, "server")["instances"].as_str(), Some("max"));
    assert_eq!(spawn(&table, "api")["instances"].as_str(), Some("max"));
    let python = spawn(&table, "api-2");
    assert_eq!(python["command"][0].as_str(), Some("python3"));
    assert_eq!(python["env"]["PYTHONUNBUFFERED"].as_str(), Some("1"));
    assert_eq!(python["instances"].as_integer(), Some(1));
    assert_eq!(spawn(&table, "app")["command"][0].as_str(), Some("sh"));
    assert_eq!(spawn(&table, "app")["instances"].as_integer(), Some(1));
    let routes = table["route"].as_array().unwrap();
    let named: Vec<_> = routes.iter().map(|route| route["upstream"].as_str().unwrap()).collect();
    assert_eq!(named, ["api", "api-2", "app", "server"]);
    assert!(routes[3].get("host").is_none());
}

#[test]
fn other_kinds_of_files_are_read() {
    let apps = "{ apps: [{ name: 'app', script: 'app.js' }] }";
    for (name, text) in [
        ("ecosystem.config.mjs", format!("export default {apps}")),
        ("ecosystem.json", format!("// comment\n{apps}")),
        ("one.config.js", "module.exports = { name: 'app', script: 'app.js' }".to_owned()),
        ("list.config.js", "module.exports = [{ name: 'app', script: 'app.js' }]".to_owned()),
        ("function.config.js", format!("module.exports = async () => ({apps})")),
        ("busy.config.js", format!("setInterval(() => {{}}, 1000); module.exports = {apps}")),
    ] {
        let (text, table, _folder) = imported(name, &text, &[]);
        assert_eq!(spawn(&table, "app")["command"][1].as_str(), Some("app.js"), "{name}: {text}");
        assert_eq!(table["listener"][0]["address"].as_str(), Some("0.0.0.0:3000"));
    }
}

#[test]
fn a_port_that_is_not_in_port_is_moved() {
    let file = "module.exports = { apps: [{ name: 'app', script: 'app.js', increment_var: 'APP_PORT',
        env: { APP_PORT: 4000 } }] }";
    let (text, table, _folder) = imported("ecosystem.config.cjs", file, &[]);
    let app = spawn(&table, "app");
    assert_eq!((app["port"].as_integer(), app["env"]["APP_PORT"].as_str()), (Some(4000), Some("4000")), "{text}");
    assert_eq!(table["listener"][0]["address"].as_str(), Some("0.0.0.0:4000"));
}

#[test]
fn the_shipped_examples_for_pm2_are_imported() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples/pm2");
    for (name, port) in [("ecosystem.config.cjs", None), ("ecosystem.portshift.config.cjs", Some(3001))] {
        let file = std::fs::read_to_string(examples.join(name)).unwrap();
        let (text, table, _folder) = imported(name, &file, &[]);
        let app = spawn(&table, "app");
        assert_eq!(app["instances"].as_integer(), Some(4));
        assert_eq!(app.get("port").and_then(toml::Value::as_integer), port, "{text}");
        assert_eq!(app["command"].as_array().unwrap().len(), 2, "{text}");
        assert_eq!(table["listener"][0]["address"].as_str(), Some("0.0.0.0:3001"));
    }
}

#[test]
fn files_that_cannot_be_imported_are_explained() {
    let folder = TempDirectory::new("import-bad");
    std::fs::create_dir(folder.path("sub")).unwrap();
    for (name, text, why) in [
        ("missing.cjs", None, "cannot read missing.cjs: No such file"),
        ("sub", None, "sub is a folder"),
        ("apps.yml", Some("apps: []"), "is YAML, which Node cannot read"),
        ("syntax.cjs", Some("module.exports = {"), "SyntaxError"),
        ("throws.cjs", Some("throw new Error('no database')"), "no database"),
        ("nothing.cjs", Some(""), "it has no `script`"),
        ("empty.cjs", Some("module.exports = { apps: [] }"), "there are no apps"),
        ("text.cjs", Some("module.exports = 'apps'"), "there are no apps"),
        ("number.cjs", Some("module.exports = { apps: [5] }"), "app 1 is not an object"),
        ("script.cjs", Some("module.exports = { apps: [{ script: 'a.js' }, { name: 'b' }] }"), "app 2: it has no"),
        ("ends.cjs", Some("process.exit(0)"), "node cannot load the file (exit status: 0)"),
    ] {
        if let Some(text) = text {
            folder.write(name, text);
        }
        let output = stickyd(folder.root(), &["import", "pm2", name]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(output.stdout.is_empty() && said.starts_with("error: ") && said.contains(why), "{name}: {said}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_stickyd"));
    let output =
        command.args(["import", "pm2", "empty.cjs"]).current_dir(folder.root()).env("PATH", "/nowhere").output();
    let said = String::from_utf8(output.unwrap().stderr).unwrap();
    assert!(said.contains("there is no program `node` in PATH"), "{said}");
}
