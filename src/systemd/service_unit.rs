//! What the unit of a service says about its user, and about what that user cannot see: the unit with its drop-ins.
//!
//! Read from the files and not asked of systemd, so that it works before the first start, and in an image.
//!
//! Left out: settings that change the file system by other means (RootDirectory=, RootImage=, MountImages=,
//! BindPaths=, TemporaryFileSystem=, PrivateDevices=); credentials that systemd finds itself, gets from a socket or
//! decrypts (LoadCredential= without an absolute path, ImportCredential=, LoadCredentialEncrypted=, SetCredential=);
//! capabilities (AmbientCapabilities=, CapabilityBoundingSet=), PrivateUsers= and security modules; specifiers (`%n`),
//! quoted values, templates, drop-ins for several units (service.d), and units that only systemd knows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::Config;

/// Folders of unit files; an earlier one has priority (systemd.unit(5)).
const FOLDERS: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Says that stickyd's own hardened unit cannot start workers: it forbids memory that is written and then run (Node's
/// compiler), and folders below /home.
const CONFINED: &str = "stickyd.service is too confined to start workers (MemoryDenyWriteExecute, ProtectHome)\n  \
    = help: start stickyd-workers.service, and write spawner = \"unix:/run/stickyd-workers/spawn.sock\" in the \
    configuration";

/// Checks that a stickyd in the hardened unit would have no worker to start itself.
///
/// # Errors
/// The message for the operator.
pub(crate) fn check_confined(config: &Config) -> Result<(), String> {
    let is_spawning = config.spawner.is_none() && config.upstreams.iter().any(|upstream| upstream.spawn.is_some());
    if is_spawning { Err(CONFINED.to_owned()) } else { Ok(()) }
}

/// A unit of a service: its name, and the settings of its section [Service], in order.
#[derive(Debug)]
pub(crate) struct ServiceUnit {
    pub(crate) name: String,
    settings: Vec<(String, String)>,
}

/// A credential of a unit: the path at which the service reads it, and the file that systemd copies there.
#[derive(Debug, PartialEq)]
pub(crate) struct UnitCredential {
    pub(crate) at: PathBuf,
    pub(crate) from: PathBuf,
}

/// A folder that a service cannot see, with the setting that hides it.
#[derive(Debug, PartialEq)]
pub(crate) struct HiddenFolder {
    pub(crate) folder: PathBuf,
    pub(crate) setting: String,
}

impl ServiceUnit {
    /// Reads a unit by its name (`stickyd.service` or `stickyd`), or by the path of its file.
    ///
    /// # Errors
    /// There is no such unit, it is masked, or it cannot be read.
    pub(crate) fn find(named: &str) -> Result<Self, String> {
        let folders = FOLDERS.map(PathBuf::from);
        let (name, folders) = match Path::new(named).parent().filter(|_| named.contains('/')) {
            Some(folder) => (named.rsplit('/').next().unwrap_or(named).to_owned(), vec![folder.to_owned()]),
            None if named.ends_with(".service") => (named.to_owned(), folders.to_vec()),
            None => (format!("{named}.service"), folders.to_vec()),
        };
        let Some(file) = folders.iter().map(|folder| folder.join(&name)).find(|file| file.exists()) else {
            let help = "name the unit of stickyd, or the path of its file: --as-service=UNIT";
            let places = folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(format!("there is no unit {name} in {places}\n  = help: {help}"));
        };
        if is_masked(&file) {
            let help = format!("systemctl unmask {name}");
            return Err(format!("{name} is masked by {}, so that it cannot start\n  = help: {help}", file.display()));
        }
        let mut settings = Vec::new();
        for part in std::iter::once(file).chain(drop_ins(&folders, &name)) {
            let text =
                std::fs::read_to_string(&part).map_err(|why| format!("cannot read {}: {why}", part.display()))?;
            settings.extend(service_settings(&text));
        }
        Ok(Self { name, settings })
    }

    /// The name without `.service`.
    pub(crate) fn stem(&self) -> &str {
        self.name.strip_suffix(".service").unwrap_or(&self.name)
    }

    /// The last value of a setting; an empty value is none.
    pub(crate) fn last(&self, key: &str) -> Option<&str> {
        self.values(key).last().copied()
    }

    pub(crate) fn is_on(&self, key: &str) -> bool {
        self.last(key).is_some_and(is_yes)
    }

    /// All values of a setting since the last empty one, which takes back those before it.
    pub(crate) fn values(&self, key: &str) -> Vec<&str> {
        let mut values = Vec::new();
        for (_, value) in self.settings.iter().filter(|(name, _)| name == key) {
            if value.is_empty() { values.clear() } else { values.push(value.as_str()) }
        }
        values
    }

    /// The words of all values of a setting.
    pub(crate) fn words(&self, key: &str) -> Vec<&str> {
        self.values(key).into_iter().flat_map(str::split_whitespace).collect()
    }

    /// Whether this is stickyd's own confined unit, in which no worker can be started.
    pub(crate) fn is_hardened(&self) -> bool {
        self.words("Environment").contains(&"STICKYD_UNIT=hardened")
    }

    /// The folders that the service cannot see.
    pub(crate) fn hidden(&self) -> Vec<HiddenFolder> {
        let mut all = Vec::new();
        let mut hide = |folders: &[&str], setting: String| {
            all.extend(folders.iter().map(|folder| HiddenFolder { folder: folder.into(), setting: setting.clone() }));
        };
        if let Some(value) = self.last("ProtectHome").filter(|value| is_yes(value) || *value == "tmpfs") {
            hide(&["/home", "/root", "/run/user"], format!("ProtectHome={value}"));
        }
        // DynamicUser= implies a private /tmp (systemd.exec(5)).
        let is_private = |value: &&str| is_yes(value) || *value == "disconnected";
        let private = self.last("PrivateTmp").filter(is_private);
        if let Some(value) = private.or_else(|| self.is_on("DynamicUser").then_some("yes")) {
            hide(&["/tmp", "/var/tmp"], format!("PrivateTmp={value}"));
        }
        for path in self.words("InaccessiblePaths") {
            hide(&[path.trim_start_matches(['-', '+'])], format!("InaccessiblePaths={path}"));
        }
        all
    }

    /// The credentials that systemd copies for the service from absolute paths. One that has a value in the unit, too,
    /// is left out, because its file may be missing.
    pub(crate) fn credentials(&self) -> Vec<UnitCredential> {
        let folder = Path::new("/run/credentials").join(&self.name);
        let name_of = |value: &str| value.split(':').next().map(str::to_owned);
        let given: Vec<_> = self.values("SetCredential").into_iter().filter_map(name_of).collect();
        let one = |value: &str| {
            let (name, from) = value.split_once(':')?;
            let is_known = from.starts_with('/') && !from.contains('%') && !given.iter().any(|given| given == name);
            is_known.then(|| UnitCredential { at: folder.join(name), from: PathBuf::from(from) })
        };
        self.values("LoadCredential").into_iter().filter_map(one).collect()
    }
}

impl UnitCredential {
    /// The files of the credential: itself; the files of a folder, each as `NAME_FILE`; nothing for a socket.
    pub(crate) fn files(self) -> Vec<Self> {
        let Ok(kind) = std::fs::metadata(&self.from) else { return vec![self] };
        if !kind.is_dir() {
            return if kind.is_file() { vec![self] } else { Vec::new() };
        }
        let entries = std::fs::read_dir(&self.from).into_iter().flatten().flatten();
        // Links are left out, as systemd does.
        let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        let one = |entry: std::fs::DirEntry| {
            let mut at = self.at.clone().into_os_string();
            at.push("_");
            at.push(entry.file_name());
            Self { at: at.into(), from: entry.path() }
        };
        files.map(one).collect()
    }
}

/// Whether a value of a setting means yes (`parse_boolean` of systemd).
fn is_yes(value: &str) -> bool {
    ["1", "yes", "y", "true", "t", "on"].iter().any(|yes| value.eq_ignore_ascii_case(yes))
}

/// Whether a unit is turned off: its file is empty, or a link to /dev/null (systemd.unit(5)).
fn is_masked(file: &Path) -> bool {
    let is_null = std::fs::canonicalize(file).is_ok_and(|file| file == Path::new("/dev/null"));
    is_null || std::fs::metadata(file).is_ok_and(|kind| kind.is_file() && kind.len() == 0)
}

/// The drop-ins of a unit: in the order of their names, each from the first folder that has one of its name.
fn drop_ins(folders: &[PathBuf], name: &str) -> Vec<PathBuf> {
    let mut found = BTreeMap::new();
    for folder in folders {
        let entries = std::fs::read_dir(folder.join(format!("{name}.d"))).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|kind| kind == "conf"))
        {
            found.entry(path.file_name().map(ToOwned::to_owned)).or_insert(path);
        }
    }
    found.into_values().collect()
}

/// The settings of the section [Service] (systemd.syntax(7)): comments are left out, and a line that ends with a
/// backslash goes on in the next one.
fn service_settings(text: &str) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    let (mut is_service, mut begun) = (false, String::new());
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if let Some(part) = line.strip_suffix('\\') {
            begun.push_str(part);
            begun.push(' ');
            continue;
        }
        let whole = std::mem::take(&mut begun) + line;
        if whole.starts_with('[') {
            is_service = whole == "[Service]";
        } else if let Some((key, value)) = whole.split_once('=').filter(|_| is_service) {
            settings.push((key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(text: &str) -> ServiceUnit {
        ServiceUnit { name: "stickyd.service".to_owned(), settings: service_settings(text) }
    }

    #[test]
    fn settings_are_read_as_systemd_reads_them() {
        let unit = unit(
            "[Unit]\nUser=none\n[Service]\n# User=no\n User = ann\nSupplementaryGroups=a b\nSupplementaryGroups=\n\
             SupplementaryGroups=c \\\n; between\n  d\nEnvironment=X=1 STICKYD_UNIT=hardened\nbroken\n[Install]\nUser=x",
        );
        assert_eq!((unit.last("User"), unit.last("Group")), (Some("ann"), None));
        assert_eq!(unit.words("SupplementaryGroups"), ["c", "d"]);
        assert!(unit.is_hardened() && !unit.is_on("DynamicUser") && unit.hidden().is_empty());
    }

    #[test]
    fn the_shipped_unit_hides_homes_and_temporary_files() {
        let shipped = unit(include_str!("../../systemd/stickyd.service"));
        let hidden: Vec<_> = shipped.hidden().into_iter().map(|one| one.folder).collect();
        assert_eq!(hidden, ["/home", "/root", "/run/user", "/tmp", "/var/tmp"].map(PathBuf::from));
        assert!(shipped.is_on("DynamicUser") && shipped.is_hardened());
        assert_eq!(shipped.credentials(), [], "the one in the file is a comment");
    }

    #[test]
    fn yes_is_written_as_systemd_takes_it() {
        for yes in ["1", "yes", "y", "Y", "true", "t", "TRUE", "On"] {
            let unit = unit(&format!("[Service]\nDynamicUser={yes}\nProtectHome={yes}"));
            let hidden: Vec<_> = unit.hidden().into_iter().map(|one| one.setting).collect();
            let [home, tmp] = [format!("ProtectHome={yes}"), "PrivateTmp=yes".to_owned()];
            assert_eq!(hidden, [&home, &home, &home, &tmp, &tmp].map(String::clone), "{yes}");
        }
        for (value, count) in [("no", 0), ("n", 0), ("0", 0), ("off", 0), ("read-only", 0), ("tmpfs", 3)] {
            assert_eq!(unit(&format!("[Service]\nProtectHome={value}")).hidden().len(), count, "{value}");
        }
        let unit = unit("[Service]\nPrivateTmp=disconnected");
        assert_eq!(unit.hidden()[0].setting, "PrivateTmp=disconnected");
    }

    #[test]
    fn hidden_folders_and_credentials_have_their_origin() {
        let unit = unit(
            "[Service]\nProtectHome=read-only\nInaccessiblePaths=-/srv/other +/opt/x\n\
             LoadCredential=key.pem:/etc/keys/key.pem\nLoadCredential=found\nLoadCredential=other:relative\n\
             LoadCredential=x:/etc/%n/x\nLoadCredential=y:/etc/y\nSetCredential=y:its value: this",
        );
        let hidden: Vec<_> = unit.hidden().into_iter().map(|one| (one.folder, one.setting)).collect();
        let hides = |folder: &str, path: &str| (PathBuf::from(folder), format!("InaccessiblePaths={path}"));
        assert_eq!(hidden, [hides("/srv/other", "-/srv/other"), hides("/opt/x", "+/opt/x")]);
        let at = PathBuf::from("/run/credentials/stickyd.service/key.pem");
        assert_eq!(unit.credentials(), [UnitCredential { at, from: "/etc/keys/key.pem".into() }]);
    }
}
