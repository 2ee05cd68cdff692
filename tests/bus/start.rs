//! What the preload does before there is a Socket.IO server: nothing. And which processes may use the bus.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use crate::support::process::clients_dir;

use super::Fleet;

/// Runs JavaScript with the preload; returns what it printed, and fails if it does not end by itself.
fn run(fleet: &Fleet, script: &str) -> String {
    let command = format!("export {} && exec timeout 20 node -e \"$0\"", fleet.bus_env());
    let output = Command::new("sh").args(["-c", &command, script]).current_dir(clients_dir()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{script}: {:?} {errors}", output.status);
    assert_eq!(errors, "", "nothing is written");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A process that creates no Socket.IO server has no handle, no socket and no timer because of the preload: it ends as
/// soon as its own work is done. The same in a forked process and in a thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_without_a_server_is_left_alone() {
    let fleet = Fleet::start(0, &[]).await;
    let handles =
        "console.log(JSON.stringify(process.getActiveResourcesInfo().filter((name) => !/TTY|Pipe/.test(name))))";
    assert_eq!(run(&fleet, handles), "[]");
    assert_eq!(run(&fleet, &format!("require('socket.io'); {handles}")), "[]", "loaded, but no server");
    let fork = "const { fork } = require('node:child_process');
        if (process.argv[1] !== 'child') fork('./bus_worker.cjs', { env: { ...process.env, PORT: 0 }, stdio: 'ignore' });";
    assert_eq!(run(&fleet, fork), "", "a forked server ends with its stdin");
    let thread = "new (require('node:worker_threads').Worker)('console.log(1)', { eval: true })";
    assert_eq!(run(&fleet, thread), "1");
    assert_eq!(fleet.linked(), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_sets_its_own_adapter_keeps_it() {
    let fleet = Fleet::start(0, &[]).await;
    let script = "const { Server } = require('socket.io'); const { Adapter } = require('socket.io-adapter');
        class Own extends Adapter {}
        const io = new Server({ adapter: Own }); console.log(io.of('/').adapter.constructor.name);
        const plain = new Server(); console.log(plain.of('/').adapter.constructor.name);";
    assert_eq!(run(&fleet, script), "Own\nBusAdapter");
}

/// `io.adapter(…)` after the server was created, as the documentation of the Redis adapters shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_adapter_that_is_set_later_wins_and_is_logged() {
    let fleet = Fleet::start(1, &[]).await;
    fleet.wait_linked(1.0);
    let script = "const { Server } = require('socket.io'); const { Adapter } = require('socket.io-adapter');
        class LateAdapter extends Adapter {}
        const io = new Server(); const chat = io.of('/chat'); io.emit('news', 'before');
        setTimeout(() => {
            io.adapter(LateAdapter); io.emit('news', 'after');
            console.log(io.of('/').adapter.constructor.name, chat.adapter.constructor.name);
            setTimeout(() => {}, 1000);
        }, 500);";
    assert_eq!(run(&fleet, script), "LateAdapter LateAdapter");
    fleet.stickyd.says(&["a worker uses an adapter of its own, not the bus", "upstream=app", "adapter=LateAdapter"]);
    fleet.wait_linked(1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_same_user_may_use_the_bus() {
    let fleet = Fleet::start(0, &[]).await;
    let socket = fleet.stickyd.directory.join("bus.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    // Root may open it all the same, as any other file, so the hub looks at the user of the process.
    if rustix::process::geteuid().is_root() {
        let script = format!("require('net').connect('{}').on('close', () => console.log('closed'))", socket.display());
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
        let mut node = Command::new("setpriv");
        node.args(["--reuid=65534", "--clear-groups", "node", "-e", &script]).env_clear();
        let output = node.env("PATH", std::env::var_os("PATH").unwrap()).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "closed");
        fleet.stickyd.says(&["only user", "may use the bus"]);
    }
}

#[test]
fn without_a_state_directory_there_is_no_bus() {
    let folder = std::env::temp_dir();
    let file = folder.join(format!("stickyd-no-bus-{}.toml", std::process::id()));
    let text = "[[listener]]\naddress = \"127.0.0.1:0\"\n[upstream.app]\nworkers = [\"127.0.0.1:1\"]\n";
    let missing = folder.join("stickyd-no-such-folder");
    for (text, error) in [
        (text.to_owned(), "the bus needs `state_dir`"),
        (format!("state_dir = {missing:?}\n{text}"), "help: start stickyd first, which makes this folder"),
        (format!("state_dir = {folder:?}\n{text}bus = false\n"), "upstream app has bus = false"),
        (format!("{text}bus = \"sometimes\"\n"), "unknown value of `bus` `sometimes`"),
    ] {
        std::fs::write(&file, text).unwrap();
        let output =
            Command::new(env!("CARGO_BIN_EXE_stickyd")).args(["bus", "env", "-c"]).arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(error), "{said}");
        assert!(said.starts_with("error: ") && !said.contains("error: error: "), "{said}");
    }
    std::fs::remove_file(&file).unwrap();
}
