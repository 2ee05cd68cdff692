//! Reads a configuration as the service of a systemd unit would: as its user, with its groups, its credentials, and
//! without the folders that the unit hides.
//!
//! Only this thread changes its user, for good: the command ends afterwards. The kernel decides about each file, so
//! access control lists count, too. Left out: what the unit's mount namespace hides by other settings than those that
//! `service_unit` knows.

use std::fmt;
use std::path::Path;

use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::printed;
use crate::config::{self, AdminAddress, AdminListener, Loaded, StandIn};
use crate::systemd::service_unit::{ServiceUnit, UnitCredential, check_confined};

/// A user for a dynamic user that has no number yet: the first of those that systemd gives (systemd.exec(5)). No file
/// should belong to it.
const DYNAMIC: u32 = 61_184;

/// A user and the groups with which a service reads files.
pub(in crate::cli) struct ServiceReader {
    unit: ServiceUnit,
    user: Named,
    is_dynamic: bool,
    group: u32,
    groups: Vec<Named>,
}

/// A user or a group.
struct Named {
    name: String,
    id: u32,
}

/// What a service would read.
pub(in crate::cli) struct ServiceView {
    /// The configuration, or its errors.
    pub(in crate::cli) loaded: Loaded,
    /// What the service could not see or do, though its user may read all files.
    pub(in crate::cli) hidden: Vec<String>,
}

impl fmt::Display for ServiceReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Named { name, id } = &self.user;
        let kind = if self.is_dynamic { ", dynamic" } else { "" };
        write!(f, "{}: user {name} ({id}{kind}), group {}", self.unit.name, self.group)?;
        for (at, Named { name, id }) in self.groups.iter().enumerate() {
            write!(f, "{}{name} ({id})", if at == 0 { ", groups " } else { ", " })?;
        }
        Ok(())
    }
}

impl ServiceReader {
    /// Finds the unit and the numbers of its user and groups.
    ///
    /// # Errors
    /// The message for the operator.
    pub(in crate::cli) fn find(named: &str) -> Result<Self, String> {
        let unit = ServiceUnit::find(named)?;
        let is_dynamic = unit.is_on("DynamicUser");
        let name = unit.last("User").unwrap_or_else(|| if is_dynamic { unit.stem() } else { "root" }).to_owned();
        let known = number(&name).or_else(|| number(&printed("id", &["-u", &name])?));
        let Some(id) = known.or_else(|| is_dynamic.then_some(DYNAMIC)) else {
            return Err(format!("there is no user `{name}`, which {} runs as", unit.name));
        };
        let own = || printed("id", &["-g", &name]).and_then(|id| number(&id)).unwrap_or(id);
        let group = match unit.last("Group") {
            // systemd makes the group of a dynamic user, too.
            Some(group) if is_dynamic => group_id(group).unwrap_or(id),
            Some(group) => find_group(&unit, group)?.id,
            None => own(),
        };
        let mut groups = Vec::new();
        for group in unit.words("SupplementaryGroups") {
            groups.push(find_group(&unit, group)?);
        }
        // The groups in which the user is anyway, as at a login.
        for id in printed("id", &["-G", &name]).unwrap_or_default().split_whitespace().filter_map(number) {
            if id != group && groups.iter().all(|known| known.id != id) {
                let line = printed("getent", &["group", &id.to_string()]).unwrap_or_default();
                let name = line.split(':').next().unwrap_or_default().to_owned();
                groups.push(Named { name, id });
            }
        }
        Ok(Self { unit, user: Named { name, id }, is_dynamic, group, groups })
    }

    /// What helps if a file cannot be read, beyond the help of the error itself.
    pub(in crate::cli) fn help(&self) -> Option<String> {
        let stem = self.unit.stem();
        self.is_dynamic.then(|| {
            format!(
                "a dynamic user owns no file: give it to a group, and the group to the unit (systemctl edit {stem}: \
                 [Service] SupplementaryGroups=GROUP)"
            )
        })
    }

    /// Reads a file as the service would. From then on this thread has the rights of the service.
    ///
    /// # Errors
    /// This process may not change its user, or a credential cannot be read.
    pub(in crate::cli) fn load(&self, file: &Path) -> Result<ServiceView, String> {
        if !rustix::process::geteuid().is_root() {
            let help = "sudo stickyd check --as-service";
            return Err(format!("only root may read files as another user\n  = help: {help}"));
        }
        let mut stand_ins = Vec::new();
        for credential in self.unit.credentials().into_iter().flat_map(UnitCredential::files) {
            let from = credential.from.display().to_string();
            let why = |why| format!("{} cannot start: LoadCredential= names {from}: {why}", self.unit.name);
            stand_ins.push(StandIn::read(credential.at, &credential.from).map_err(why)?);
        }
        self.become_user().map_err(|why| format!("cannot become user {}: {why}", self.user.id))?;
        let (sources, loaded) = config::load_with(file, stand_ins);
        let mut hidden = Vec::new();
        let folders = self.unit.hidden();
        for path in sources.trail() {
            if let Some(found) = folders.iter().find(|hides| path.starts_with(&hides.folder)) {
                let help = "move it, for example to /etc/stickyd, and name it there";
                let (unit, path) = (&self.unit.name, path.display());
                hidden.push(format!("{unit} cannot see {path} ({})\n  = help: {help}", found.setting));
            }
        }
        if let Ok((config, _)) = &loaded {
            hidden.extend(self.refused_group(&config.admin));
            hidden.extend(if self.unit.is_hardened() { check_confined(config).err() } else { None });
        }
        Ok(ServiceView { loaded, hidden })
    }

    /// Why the service could not give its admin socket to the group of `[admin]`, if it could not: without root, a
    /// process may do that for its own groups only.
    fn refused_group(&self, admin: &AdminListener) -> Option<String> {
        let group = admin.group.as_ref()?;
        let has_socket = admin.addresses().any(|address| matches!(address, AdminAddress::Unix(_)));
        let is_member = self.group == group.id || self.groups.iter().any(|own| own.id == group.id);
        let may_give = self.user.id == 0 || self.unit.words("AmbientCapabilities").contains(&"CAP_CHOWN");
        (has_socket && !is_member && !may_give).then(|| {
            let (unit, name, help) = (&self.unit.name, &group.name, group.help());
            format!("{unit} cannot start: it may not give the admin socket to the group {name}\n  = help: {help}")
        })
    }

    fn become_user(&self) -> rustix::io::Result<()> {
        let groups: Vec<_> = self.groups.iter().map(|group| Gid::from_raw(group.id)).collect();
        let (user, group) = (Uid::from_raw(self.user.id), Gid::from_raw(self.group));
        set_thread_groups(&groups)?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)
    }
}

fn find_group(unit: &ServiceUnit, name: &str) -> Result<Named, String> {
    let id = group_id(name).ok_or_else(|| {
        let help = format!("groupadd --system {name}, or take it from the unit: systemctl edit {}", unit.stem());
        format!("{} cannot start: there is no group `{name}`\n  = help: {help}", unit.name)
    })?;
    Ok(Named { name: name.to_owned(), id })
}

fn group_id(name: &str) -> Option<u32> {
    number(name).or_else(|| number(printed("getent", &["group", name])?.split(':').nth(2)?))
}

/// A number of a user or group; the highest one means none (setresuid(2)).
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|id| *id != u32::MAX)
}
