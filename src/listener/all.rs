//! All listeners of a running stickyd, and how a reload changes them: by value, all or nothing.
//!
//! [`ListenerSet::plan`] binds new listeners and builds the settings of changed ones; only when all of that has
//! succeeded does [`ListenerSet::apply`] remove those that are no longer wanted. A listener that stays keeps its
//! sockets and their queues. Sockets passed by systemd are kept for as long as stickyd runs, so that a listener that
//! was removed can get its own socket back. Threads are not handled here: they get their [`Part`]s from `reload`.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::bind::{BindTerms, adopt, bind};
use super::{BindError, BoundListener, ListenerPart, ListenerSettings};
use crate::config;
use crate::events::tell;
use crate::fleet::tickets::TicketKeys;
use crate::metrics::Metrics;
use crate::systemd::{self, Inherited};

/// One thread's part of one listener: its socket, and what is needed to accept from it.
pub(crate) type Part = (std::net::TcpListener, ListenerPart);

/// Reason why the listeners cannot be set up as configured.
#[derive(Debug, thiserror::Error)]
pub enum ListenerSetError {
    /// An address or a certificate cannot be used.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A socket passed by systemd cannot be used.
    #[error(transparent)]
    Inherited(#[from] systemd::SocketError),
    /// A socket passed by systemd could not be duplicated.
    #[error("cannot duplicate a socket passed by systemd: {0}")]
    Clone(io::Error),
}

impl ListenerSetError {
    /// Returns what helps, if the reason is a common one.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::Bind(error) => error.help(),
            Self::Inherited(_) | Self::Clone(_) => None,
        }
    }
}

/// The listeners that are open now.
pub(crate) struct ListenerSet {
    open: Vec<OpenListener>,
    /// All sockets passed by systemd, whether in use or not.
    given: Vec<Inherited>,
    threads: usize,
    /// Keys of TLS session tickets that the fleet shares.
    tickets: Option<Arc<TicketKeys>>,
    /// Certificates at the last look, to tell which ones were renewed.
    shown: Vec<ShownCertificate>,
}

/// A certificate of a listener, as it was served at the last look.
struct ShownCertificate {
    listener: String,
    /// First name of the certificate.
    name: String,
    leaf: rustls::pki_types::CertificateDer<'static>,
}

struct OpenListener {
    config: config::Listener,
    bound: BoundListener,
    /// Whether the socket was passed by systemd.
    adopted: bool,
    /// Whether it takes no IPv4 clients, although its address is the unspecified one of IPv6.
    only_ipv6: bool,
}

/// Change of a [`ListenerSet`] to a new configuration. Nothing is changed before it is applied; sockets that were bound
/// for it are closed when it is dropped.
pub(crate) struct ListenerPlan {
    /// One slot per listener of the new configuration, in its order.
    slots: Vec<ListenerSlot>,
    left: Vec<Inherited>,
}

enum ListenerSlot {
    /// Keeps the old listener at this index, with new settings if they have changed.
    Kept(usize, Option<ListenerSettings>),
    New(BoundListener, bool),
}

impl ListenerPlan {
    /// Returns whether there are new listeners for the threads.
    pub(crate) fn has_new(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot, ListenerSlot::New(..)))
    }

    /// Takes one thread's parts of the new listeners; to be called once per thread.
    pub(crate) fn parts(&mut self) -> Vec<Part> {
        let bound = self.slots.iter_mut().filter_map(|slot| match slot {
            ListenerSlot::New(bound, _) => Some(bound),
            ListenerSlot::Kept(..) => None,
        });
        bound.filter_map(BoundListener::take).collect()
    }

    /// Returns a socket passed by systemd that no listener matches, if there is one.
    pub(crate) fn left(&self) -> Option<&Inherited> {
        self.left.first()
    }
}

impl ListenerSet {
    /// Creates a set without listeners. `given` holds the sockets passed by systemd, `tickets` the keys of TLS session
    /// tickets that the fleet shares.
    pub(crate) fn new(given: Vec<Inherited>, threads: usize, tickets: Option<Arc<TicketKeys>>) -> Self {
        Self { open: Vec::new(), given, threads, tickets, shown: Vec::new() }
    }

    /// Returns the addresses of the listeners, in the order of the configuration.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.open.iter().map(|open| open.bound.address).collect()
    }

    /// Begins the metrics of all listeners at 0, and exports the expiry of all certificates.
    pub(crate) fn show(&mut self, metrics: &Metrics) {
        let settings: Vec<_> = self.open.iter().map(|open| open.bound.settings.load_full()).collect();
        for one in &settings {
            metrics.begin_listener(&one.label, one.tls.is_some());
        }
        metrics.certificates_expire(settings.iter().flat_map(|settings| settings.expiries()));
        self.tell_renewed(metrics);
    }

    /// Tells which certificates of a listener that stays are others than at the last call.
    fn tell_renewed(&mut self, metrics: &Metrics) {
        let mut shown = Vec::new();
        for open in &self.open {
            let label = open.bound.settings.load().label.clone();
            for one in open.config.tls.iter().flat_map(|tls| &tls.certificates) {
                let (Some(name), Some(leaf)) = (one.hosts.first(), one.chain.first()) else { continue };
                shown.push(ShownCertificate { listener: label.clone(), name: name.clone(), leaf: leaf.clone() });
                let mut before = self.shown.iter().filter(|old| old.listener == label && old.name == *name).peekable();
                if before.peek().is_some() && before.all(|old| old.leaf != *leaf) {
                    let days = one.not_after.saturating_sub(crate::history::now_s()) / 86_400;
                    tell!(metrics.events, CertificateRenewed, info, listener = %label, name = %name,
                        expires_in_days = days, "a certificate was read anew");
                }
            }
        }
        self.shown = shown;
    }

    /// Binds new listeners and builds new settings, as far as `wanted` differs from the open listeners.
    ///
    /// # Errors
    /// The error of the first listener that cannot be opened; nothing has changed then.
    pub(crate) fn plan(&self, wanted: &[config::Listener]) -> Result<ListenerPlan, ListenerSetError> {
        let kept = self.keep(wanted);
        let going: Vec<&OpenListener> =
            (0..).zip(&self.open).filter(|(i, _)| !kept.contains(&Some(*i))).map(|(_, o)| o).collect();
        let stays = |one: &&Inherited| {
            let mut kept = kept.iter().flatten().filter_map(|index| self.open.get(*index));
            kept.any(|open| open.adopted && open.bound.address == one.address)
        };
        let free = self.given.iter().filter(|one| !stays(one));
        let mut left =
            free.map(Inherited::try_clone).collect::<Result<Vec<_>, _>>().map_err(ListenerSetError::Clone)?;
        let fresh: Vec<_> = wanted.iter().zip(&kept).filter(|(_, kept)| kept.is_none()).map(|(one, _)| one).collect();
        let mut given = systemd::choose(&fresh, &mut left)?.into_iter();
        let slot = |(config, kept): (&config::Listener, &Option<usize>)| match *kept {
            Some(index) => Ok(ListenerSlot::Kept(index, self.changed(index, config)?)),
            None => match given.next().flatten() {
                Some(given) => Ok(ListenerSlot::New(
                    adopt(config, self.settings(config, None)?, &given.socket, self.threads)?,
                    true,
                )),
                None => {
                    let port = config.address.port();
                    let ours = going.iter().any(|open| !open.adopted && port != 0 && open.bound.address.port() == port);
                    let terms = BindTerms { shared: ours, only_ipv6: config.takes_only_ipv6(wanted) };
                    Ok(ListenerSlot::New(bind(config, self.settings(config, None)?, self.threads, terms)?, false))
                }
            },
        };
        let slots = wanted.iter().zip(&kept).map(slot).collect::<Result<_, ListenerSetError>>()?;
        Ok(ListenerPlan { slots, left })
    }

    /// Finds the old listener that each new one continues: by the address as written (of several on port 0, by their
    /// order) and the name. For a socket of our own, a different name does not matter.
    fn keep(&self, wanted: &[config::Listener]) -> Vec<Option<usize>> {
        let mut kept = vec![None; wanted.len()];
        for by_name in [true, false] {
            for at in 0..wanted.len() {
                let Some((one, None)) = wanted.get(at).zip(kept.get(at).copied()) else { continue };
                let same = |open: &OpenListener| {
                    let same_name = open.config.name == one.name;
                    // A bound socket cannot be changed to take other clients.
                    let same_clients = open.adopted || open.only_ipv6 == one.takes_only_ipv6(wanted);
                    let fits = if by_name { same_name } else { !open.adopted };
                    open.config.address == one.address && same_clients && fits
                };
                let found = (0..).zip(&self.open).find(|(i, open)| same(open) && !kept.contains(&Some(*i)));
                if let (Some(slot), Some((index, _))) = (kept.get_mut(at), found) {
                    *slot = Some(index);
                }
            }
        }
        kept
    }

    fn changed(&self, index: usize, new: &config::Listener) -> Result<Option<ListenerSettings>, BindError> {
        match self.open.get(index) {
            Some(open) if open.config == *new => Ok(None),
            Some(open) => self.settings(new, Some(&open.bound.settings.load())).map(Some),
            None => self.settings(new, None).map(Some),
        }
    }

    fn settings(
        &self,
        config: &config::Listener,
        before: Option<&ListenerSettings>,
    ) -> Result<ListenerSettings, BindError> {
        ListenerSettings::of(config, before, self.tickets.as_ref())
    }

    /// Carries out the plan. `wanted` must be the list that the plan was made from.
    pub(crate) fn apply(&mut self, wanted: Vec<config::Listener>, plan: ListenerPlan) -> Going {
        let mut old: Vec<Option<OpenListener>> = std::mem::take(&mut self.open).into_iter().map(Some).collect();
        let only_ipv6: Vec<_> = wanted.iter().map(|one| one.takes_only_ipv6(&wanted)).collect();
        for ((config, slot), only_ipv6) in wanted.into_iter().zip(plan.slots).zip(only_ipv6) {
            match slot {
                ListenerSlot::New(bound, adopted) => {
                    self.open.push(OpenListener { config, bound, adopted, only_ipv6 });
                }
                ListenerSlot::Kept(index, settings) => {
                    // `keep` names each old listener at most once.
                    let Some(open) = old.get_mut(index).and_then(Option::take) else { continue };
                    if let Some(settings) = settings {
                        open.bound.settings.store(Arc::new(settings));
                    }
                    self.open.push(OpenListener { config, ..open });
                }
            }
        }
        let mut going = Going::default();
        for open in old.into_iter().flatten() {
            open.bound.removed.cancel();
            open.bound.accepting.close();
            going.threads.push(open.bound.accepting);
            let again = self.open.iter().any(|one| one.bound.address == open.bound.address);
            if open.adopted && !again {
                going.waiting.push(open.bound.address);
            }
            going.addresses.push(open.bound.address);
        }
        going
    }
}

/// Listeners that were removed, and whose sockets the threads are about to close.
#[derive(Default)]
pub(crate) struct Going {
    threads: Vec<TaskTracker>,
    /// Addresses of the removed listeners.
    pub addresses: Vec<SocketAddr>,
    /// The addresses among them whose sockets systemd keeps open: clients can still connect there, but get no answer.
    pub waiting: Vec<SocketAddr>,
}

impl Going {
    /// Waits until no thread accepts from the removed listeners any more.
    pub(crate) async fn closed(&self) {
        for thread in &self.threads {
            thread.wait().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, name: Option<&str>) -> config::Listener {
        config::Listener { name: name.map(str::to_owned), ..config::Listener::plain(address.parse().unwrap()) }
    }

    /// Changes the set to `wanted` and returns the addresses that were removed.
    fn becomes(set: &mut ListenerSet, wanted: Vec<config::Listener>) -> Vec<SocketAddr> {
        let plan = set.plan(&wanted).unwrap();
        set.apply(wanted, plan).addresses
    }

    #[test]
    fn listeners_on_port_0_match_by_order_and_keep_their_ports() {
        let mut set = ListenerSet::new(Vec::new(), 1, None);
        let any = || listener("127.0.0.1:0", None);
        becomes(&mut set, vec![any(), any(), any()]);
        let first = set.addresses();
        assert!(becomes(&mut set, vec![any(), any(), any()]).is_empty());
        assert_eq!(set.addresses(), first);
        // A listener that now has a name keeps its socket; the last listener is removed.
        assert_eq!(becomes(&mut set, vec![any(), listener("127.0.0.1:0", Some("web"))]), first[2..]);
        assert_eq!(set.addresses(), first[..2]);
        // A listener is found by its name, at whatever position it is now.
        assert!(becomes(&mut set, vec![listener("127.0.0.1:0", Some("web")), any()]).is_empty());
        assert_eq!(set.addresses(), [first[1], first[0]]);
    }

    #[test]
    fn a_wider_address_on_the_same_port_replaces_a_narrower_one() {
        let mut set = ListenerSet::new(Vec::new(), 2, None);
        becomes(&mut set, vec![listener("127.0.0.1:0", None)]);
        let narrow = set.addresses();
        let wide = format!("0.0.0.0:{}", narrow[0].port());
        // Both at once are an error, as they are without a reload.
        assert!(set.plan(&[listener("127.0.0.1:0", None), listener(&wide, None)]).is_err());
        assert_eq!(becomes(&mut set, vec![listener(&wide, None)]), narrow);
        assert_eq!(set.addresses(), [wide.parse().unwrap()]);
    }

    /// RFC 3493 §5.3: with IPV6_V6ONLY, the unspecified address of IPv6 takes no IPv4 clients.
    #[test]
    fn both_unspecified_addresses_can_be_bound_in_any_order() {
        let port = std::net::TcpListener::bind("[::]:0").unwrap().local_addr().unwrap().port();
        let (four, six) = (format!("0.0.0.0:{port}"), format!("[::]:{port}"));
        let both = || vec![listener(&four, None), listener(&six, None)];
        let mut set = ListenerSet::new(Vec::new(), 2, None);
        becomes(&mut set, both());
        assert_eq!(set.addresses().len(), 2);
        // Alone, the one of IPv6 takes IPv4 clients, too.
        becomes(&mut set, vec![listener(&six, None)]);
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        becomes(&mut set, both());
        assert_eq!(set.addresses().len(), 2);
    }

    #[test]
    fn a_listener_that_comes_back_gets_its_systemd_socket_again() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let mut set = ListenerSet::new(vec![Inherited { name: "web".to_owned(), address, socket }], 1, None);
        let web = || listener("127.0.0.1:1", Some("web"));
        becomes(&mut set, vec![web()]);
        assert_eq!(set.addresses(), [address]);
        let other = || listener("127.0.0.1:0", None);
        let wanted = vec![other()];
        let plan = set.plan(&wanted).unwrap();
        assert_eq!(plan.left().map(|left| left.address), Some(address));
        assert_eq!(set.apply(wanted, plan).waiting, [address]);
        assert!(becomes(&mut set, vec![other(), web()]).is_empty());
        assert_eq!(set.addresses()[1], address);
        // The listener now matches by its address: it gets the same socket, and no clients are left waiting there.
        let wanted = vec![listener(&address.to_string(), None)];
        let plan = set.plan(&wanted).unwrap();
        assert!(set.apply(wanted, plan).waiting.is_empty());
        assert_eq!(set.addresses(), [address]);
    }
}
