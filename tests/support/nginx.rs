//! A real nginx with a configuration of the test's own, on a unix socket: no port, and never the system's service.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::raw::Raw;
use super::wait::wait_for;

/// A running nginx; it is killed when it is dropped.
pub(crate) struct Nginx {
    child: Child,
    folder: PathBuf,
}

impl Nginx {
    /// Starts nginx with these `server` blocks, in which `SOCKET` stands for the address to listen on.
    pub(crate) fn with(servers: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = std::env::temp_dir().join(format!("stickyd-nginx-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir(&folder).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {};\n", path(name)))
            .concat();
        let servers = servers.replace("SOCKET", &format!("unix:{}", path("socket")));
        let config = format!(
            "daemon off;\nmaster_process off;\npid {};\nerror_log stderr;\nevents {{}}\n\
             http {{\naccess_log off;\n{temporary}{servers}\n}}\n",
            path("pid")
        );
        std::fs::write(folder.join("nginx.conf"), config).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let child = Command::new(program())
            .args(["-p", &path(""), "-c", &path("nginx.conf")])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("nginx: {error}; tests/run installs it"));
        let mut nginx = Self { child, folder };
        let socket = nginx.folder.join("socket");
        wait_for("nginx listens", || {
            let ended = nginx.child.try_wait().unwrap();
            let log = || std::fs::read_to_string(nginx.folder.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "nginx has ended: {}", log());
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        nginx
    }

    /// A connection to it.
    pub(crate) fn connect(&self) -> Raw {
        Raw::connect_unix(&self.folder.join("socket"))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The program that tests/run has unpacked, or an installed one; Debian's is not in the path of every user.
fn program() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/.nginx/nginx");
    let places = [ours, "/usr/sbin/nginx".into(), "/usr/local/sbin/nginx".into()];
    places.into_iter().find(|place| place.exists()).unwrap_or_else(|| "nginx".into())
}
