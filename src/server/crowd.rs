//! How many connections there are, on which core, and from whom. Not here: what becomes of those that are too many
//! ([`super::accept`]), and how they travel between cores ([`super::handover`]).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::handover::Mailbox;
use crate::limits::{CONNECTIONS_MAX, CONNECTIONS_MIN, CONNECTIONS_PER_CORE_MAX, DESCRIPTORS_RESERVED};
use crate::runtime::episode::Episode;

/// Locks of the table of clients; a connection takes one when it begins and when it ends.
const SHARDS: usize = 16;

/// The connections of the process; cheap to clone.
#[derive(Clone)]
pub struct Crowd(Arc<Shared>);

struct Shared {
    max: usize,
    /// 0: any number.
    per_client_max: usize,
    cores: Box<[Core]>,
    clients: [Mutex<HashMap<Client, usize>>; SHARDS],
    trouble: Trouble,
}

/// What a core shows the others, in a cache line of its own: written when a connection begins, moves or ends.
#[repr(align(128))]
#[derive(Default)]
struct Core {
    connections: AtomicUsize,
    mailbox: OnceLock<Mailbox>,
}

/// What goes wrong with connections.
#[derive(Default)]
pub struct Trouble {
    /// Refused because there are too many.
    pub crowded: Episode,
    /// Refused because their client has too many.
    pub greedy: Episode,
    /// Refused because there was no descriptor for them.
    pub descriptors: Episode,
    /// Closed while idle, to make room.
    pub made_room: AtomicU64,
}

/// Whom a limit per client counts: an IPv4 address, or the 64 bits of an IPv6 address that name a network.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Client(u64);

/// Why a connection is too many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    Process,
    Client,
}

/// One connection, counted as long as it lives.
pub struct Place {
    crowd: Crowd,
    core: usize,
    client: Option<Client>,
}

/// The limit when nobody chose one: [`CONNECTIONS_MAX`], or what `descriptors` leave.
pub fn default_max(descriptors: u64) -> usize {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    (descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 5 * 4).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

impl Crowd {
    /// At most `max` connections on `cores` cores, and `per_client_max` of one client unless that is 0.
    pub fn new(max: usize, per_client_max: usize, cores: usize) -> Self {
        Crowd(Arc::new(Shared {
            max: max.min(cores.saturating_mul(CONNECTIONS_PER_CORE_MAX)),
            per_client_max,
            cores: (0..cores).map(|_| Core::default()).collect(),
            clients: Default::default(),
            trouble: Trouble::default(),
        }))
    }

    pub fn max(&self) -> usize {
        self.0.max
    }

    pub fn trouble(&self) -> &Trouble {
        &self.0.trouble
    }

    /// Whether there is no room for another one.
    pub fn is_full(&self) -> bool {
        self.total() >= self.0.max
    }

    fn total(&self) -> usize {
        self.0
            .cores
            .iter()
            .map(|core| core.connections.load(Ordering::Relaxed))
            .sum()
    }

    /// Connections of `core`.
    pub fn count(&self, core: usize) -> usize {
        self.0.cores[core].connections.load(Ordering::Relaxed)
    }

    /// Counts a connection from `client` on `core`.
    ///
    /// # Errors
    ///
    /// It is one too many. Of several that come at the edge at once all may be.
    pub fn enter(&self, core: usize, client: Option<IpAddr>) -> Result<Place, Full> {
        let client = client.map(Client::of).filter(|_| self.0.per_client_max > 0);
        if let Some(client) = client {
            let mut clients = self.shard(client);
            let count = clients.entry(client).or_default();
            if *count >= self.0.per_client_max {
                return Err(Full::Client);
            }
            *count += 1;
        }
        // From here on the drop takes back what was counted.
        self.0.cores[core].connections.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            crowd: self.clone(),
            core,
            client,
        };
        if self.total() > self.0.max {
            return Err(Full::Process);
        }
        Ok(place)
    }

    /// The core that a connection just counted on `core` should go to, when `core` has more than its share: a quarter
    /// above the mean, and two more than the core with the fewest.
    pub fn better_core(&self, core: usize) -> Option<usize> {
        let counts = self
            .0
            .cores
            .iter()
            .map(|core| core.connections.load(Ordering::Relaxed));
        choose(core, counts)
    }

    /// Makes `mailbox` the way to `core`.
    pub(super) fn install(&self, core: usize, mailbox: Mailbox) {
        // A core is started once; a second mailbox would be read by nobody.
        let _ = self.0.cores[core].mailbox.set(mailbox);
    }

    /// The way to `core`; `None` while it is starting.
    pub(super) fn mailbox(&self, core: usize) -> Option<&Mailbox> {
        self.0.cores[core].mailbox.get()
    }

    fn shard(&self, client: Client) -> MutexGuard<'_, HashMap<Client, usize>> {
        // Neighbours differ in their last bits: of IPv4 those of the address, of IPv6 those of the network.
        let shard = &self.0.clients[client.0 as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn choose(core: usize, counts: impl Iterator<Item = usize> + Clone) -> Option<usize> {
    let (mut total, mut cores, mut here) = (0, 0, 0);
    let (mut least, mut best) = (usize::MAX, core);
    for (index, count) in counts.enumerate() {
        total += count;
        cores += 1;
        if index == core {
            here = count;
        } else if count < least {
            (least, best) = (count, index);
        }
    }
    let above_share = 4 * here * cores > 5 * total;
    (above_share && here >= least.saturating_add(2)).then_some(best)
}

impl Place {
    /// Counts it on another core.
    pub fn move_to(&mut self, core: usize) {
        let cores = &self.crowd.0.cores;
        cores[core].connections.fetch_add(1, Ordering::Relaxed);
        cores[self.core].connections.fetch_sub(1, Ordering::Relaxed);
        self.core = core;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.0.cores[self.core]
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = self.client {
            let mut clients = self.crowd.shard(client);
            if let Entry::Occupied(mut entry) = clients.entry(client) {
                *entry.get_mut() -= 1;
                if *entry.get() == 0 {
                    entry.remove();
                }
            }
        }
    }
}

impl Client {
    fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Client(u64::from(address.to_bits())),
            // The high bits; no network of the internet is below 2^32.
            IpAddr::V6(address) => Client((address.to_bits() >> 64) as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn the_limit_holds_for_all_cores_together() {
        let crowd = Crowd::new(3, 0, 2);
        let places: Vec<_> = [0, 1, 1]
            .into_iter()
            .map(|core| crowd.enter(core, None).unwrap())
            .collect();
        assert!(crowd.is_full());
        for core in [0, 1] {
            assert_eq!(crowd.enter(core, None).err(), Some(Full::Process));
        }
        assert_eq!((crowd.count(0), crowd.count(1)), (1, 2));
        drop(places);
        assert_eq!((crowd.count(0), crowd.count(1)), (0, 0));
        assert!(crowd.enter(0, None).is_ok());
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_ipv6() {
        let crowd = Crowd::new(100, 1, 1);
        let _held = [
            crowd.enter(0, address("192.0.2.1")).unwrap(),
            crowd.enter(0, address("192.0.2.2")).unwrap(),
            crowd.enter(0, address("2001:db8:0:1::1")).unwrap(),
            crowd.enter(0, address("2001:db8:0:2::1")).unwrap(),
            crowd.enter(0, None).unwrap(),
            crowd.enter(0, None).unwrap(),
        ];
        for other in ["192.0.2.1", "::ffff:192.0.2.2", "2001:db8:0:1:ffff::"] {
            assert_eq!(
                crowd.enter(0, address(other)).err(),
                Some(Full::Client),
                "{other}"
            );
        }
        assert_eq!(crowd.count(0), 6);
    }

    #[test]
    fn a_client_may_come_again_and_leaves_nothing() {
        let crowd = Crowd::new(1, 1, 1);
        let place = crowd.enter(0, address("192.0.2.1")).unwrap();
        assert_eq!(crowd.enter(0, address("192.0.2.2")).err(), Some(Full::Process));
        drop(place);
        drop(crowd.enter(0, address("192.0.2.1")).unwrap());
        assert!(
            crowd
                .0
                .clients
                .iter()
                .all(|shard| shard.lock().unwrap().is_empty())
        );
    }

    #[test]
    fn a_core_with_more_than_its_share_gives_to_the_one_with_the_fewest() {
        let of = |core, counts: &[usize]| choose(core, counts.iter().copied());
        assert_eq!(of(0, &[1, 0, 0, 0]), None, "one is nobody's excess");
        assert_eq!(of(0, &[2, 0, 0, 1]), Some(1));
        assert_eq!(of(0, &[2, 1, 1, 1]), None);
        assert_eq!(of(2, &[4, 4, 6, 3]), Some(3));
        assert_eq!(of(2, &[100, 100, 110, 100]), None, "within a quarter of the mean");
        assert_eq!(of(2, &[100, 100, 140, 100]), Some(0));
        assert_eq!(of(0, &[9]), None, "alone");
    }

    #[test]
    fn whatever_core_they_come_to_they_are_spread_evenly() {
        for connections in [8, 16, 100, 1_000] {
            let crowd = Crowd::new(10_000, 0, 4);
            let places: Vec<_> = (0..connections)
                .map(|_| {
                    let mut place = crowd.enter(3, None).unwrap();
                    if let Some(core) = crowd.better_core(3) {
                        place.move_to(core);
                    }
                    place
                })
                .collect();
            let most = (0..4).map(|core| crowd.count(core)).max().unwrap();
            assert!(2 * 4 * most <= 3 * places.len(), "{most} of {connections}");
        }
    }

    #[test]
    fn the_default_leaves_descriptors_for_content() {
        assert_eq!(default_max(1 << 20), CONNECTIONS_MAX);
        assert_eq!(default_max(1_024), 716);
        assert_eq!(default_max(64), CONNECTIONS_MIN);
    }
}
