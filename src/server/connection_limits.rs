//! Connection limits: counts the connections of the process, of each core and of each client.
//! [`super::accept`] rejects connections above a limit. [`super::rebalance`] hands connections to
//! other cores.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::limits::{CONNECTIONS_MAX, CONNECTIONS_MIN, CONNECTIONS_PER_CORE_MAX, DESCRIPTORS_RESERVED};
use crate::runtime::condition_log::LoggedCondition;
use crate::sync::{Mutex, MutexGuard};

/// The number of locks of the client table. A connection takes a lock at the start and at the end.
const SHARDS: usize = 16;

/// The connection counts and limits of the process. Cheap to clone.
#[derive(Clone)]
pub struct ConnectionLimits(Arc<Shared>);

struct Shared {
    max: usize,
    /// 0 means no limit.
    per_client_max: usize,
    cores: Box<[Core]>,
    clients: [Mutex<HashMap<Client, usize>>; SHARDS],
    events: OverloadEvents,
}

/// The state that a core shares with other cores, on a separate cache line. Written when a
/// connection starts, moves or ends.
#[repr(align(128))]
#[derive(Default)]
struct Core {
    connections: AtomicUsize,
}

#[derive(Default)]
pub struct OverloadEvents {
    /// Connections rejected by the limit of the process.
    pub process_limit: LoggedCondition,
    /// Connections rejected by the limit of a client.
    pub client_limit: LoggedCondition,
    /// Connections rejected because no descriptor was free.
    pub descriptors: LoggedCondition,
    /// Idle connections closed for new connections.
    pub evicted: AtomicU64,
}

/// The unit of the per-client limit: an IPv4 address, or the 64-bit network prefix of an IPv6
/// address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Client(u64);

/// The limit that a connection exceeds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LimitExceeded {
    Process,
    Client,
}

/// A connection slot, counted for the lifetime of the value.
pub struct ConnectionSlot {
    limits: ConnectionLimits,
    core: usize,
    client: Option<Client>,
}

/// Returns the default connection limit: [`CONNECTIONS_MAX`], or fewer if `descriptors` do not
/// suffice.
pub fn default_max(descriptors: u64) -> usize {
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    (descriptors.saturating_sub(DESCRIPTORS_RESERVED) / 5 * 4).clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

impl ConnectionLimits {
    /// Limits `cores` cores to `max` connections, and each client to `per_client_max` unless 0.
    pub fn new(max: usize, per_client_max: usize, cores: usize) -> Self {
        ConnectionLimits(Arc::new(Shared {
            max: max.min(cores.saturating_mul(CONNECTIONS_PER_CORE_MAX)),
            per_client_max,
            cores: (0..cores).map(|_| Core::default()).collect(),
            clients: Default::default(),
            events: OverloadEvents::default(),
        }))
    }

    pub fn max(&self) -> usize {
        self.0.max
    }

    /// Returns the limit per client. 0 means no limit.
    pub fn per_client_max(&self) -> usize {
        self.0.per_client_max
    }

    pub fn events(&self) -> &OverloadEvents {
        &self.0.events
    }

    /// Returns whether the process is at the connection limit.
    pub fn is_full(&self) -> bool {
        self.total() >= self.0.max
    }

    /// Returns the number of open connections.
    pub fn total(&self) -> usize {
        self.0
            .cores
            .iter()
            .map(|core| core.connections.load(Ordering::Relaxed))
            .sum()
    }

    /// Returns the number of connections on `core`.
    pub fn count(&self, core: usize) -> usize {
        self.0.cores[core].connections.load(Ordering::Relaxed)
    }

    /// Acquires a connection slot for `client` on `core`.
    ///
    /// # Errors
    ///
    /// A limit is exceeded. At the limit, several concurrent calls may all fail.
    pub fn acquire(&self, core: usize, client: Option<IpAddr>) -> Result<ConnectionSlot, LimitExceeded> {
        let client = client.map(Client::of).filter(|_| self.0.per_client_max > 0);
        if let Some(client) = client {
            let mut clients = self.shard(client);
            let count = clients.entry(client).or_default();
            if *count >= self.0.per_client_max {
                return Err(LimitExceeded::Client);
            }
            *count += 1;
        }
        // From here on, the drop of the slot undoes the counting.
        self.0.cores[core].connections.fetch_add(1, Ordering::Relaxed);
        let slot = ConnectionSlot {
            limits: self.clone(),
            core,
            client,
        };
        if self.total() > self.0.max {
            return Err(LimitExceeded::Process);
        }
        Ok(slot)
    }

    /// Returns the target core for a connection just counted on `core`, if `core` is overloaded. An
    /// overloaded core has a quarter more connections than the mean, and two more than the least
    /// loaded core.
    pub fn less_loaded_core(&self, core: usize) -> Option<usize> {
        let counts = self
            .0
            .cores
            .iter()
            .map(|core| core.connections.load(Ordering::Relaxed));
        choose_core(core, counts)
    }

    fn shard(&self, client: Client) -> MutexGuard<'_, HashMap<Client, usize>> {
        // Adjacent clients differ in the low bits of the IPv4 address or of the IPv6 network.
        let shard = &self.0.clients[client.0 as usize % SHARDS];
        shard.lock()
    }
}

fn choose_core(core: usize, counts: impl Iterator<Item = usize> + Clone) -> Option<usize> {
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

impl ConnectionSlot {
    /// Moves the slot to the count of another core.
    pub fn move_to(&mut self, core: usize) {
        let cores = &self.limits.0.cores;
        cores[core].connections.fetch_add(1, Ordering::Relaxed);
        cores[self.core].connections.fetch_sub(1, Ordering::Relaxed);
        self.core = core;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.limits.0.cores[self.core]
            .connections
            .fetch_sub(1, Ordering::Relaxed);
        if let Some(client) = self.client {
            let mut clients = self.limits.shard(client);
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
            // The high 64 bits. No network of the internet is below 2^32, so IPv4 addresses do not
            // collide.
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
        let limits = ConnectionLimits::new(3, 0, 2);
        let slots: Vec<_> = [0, 1, 1]
            .into_iter()
            .map(|core| limits.acquire(core, None).unwrap())
            .collect();
        assert!(limits.is_full());
        for core in [0, 1] {
            assert_eq!(limits.acquire(core, None).err(), Some(LimitExceeded::Process));
        }
        assert_eq!((limits.count(0), limits.count(1)), (1, 2));
        drop(slots);
        assert_eq!((limits.count(0), limits.count(1)), (0, 0));
        assert!(limits.acquire(0, None).is_ok());
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_ipv6() {
        let limits = ConnectionLimits::new(100, 1, 1);
        let _held = [
            limits.acquire(0, address("192.0.2.1")).unwrap(),
            limits.acquire(0, address("192.0.2.2")).unwrap(),
            limits.acquire(0, address("2001:db8:0:1::1")).unwrap(),
            limits.acquire(0, address("2001:db8:0:2::1")).unwrap(),
            limits.acquire(0, None).unwrap(),
            limits.acquire(0, None).unwrap(),
        ];
        for other in ["192.0.2.1", "::ffff:192.0.2.2", "2001:db8:0:1:ffff::"] {
            assert_eq!(
                limits.acquire(0, address(other)).err(),
                Some(LimitExceeded::Client),
                "{other}"
            );
        }
        assert_eq!(limits.count(0), 6);
    }

    #[test]
    fn released_connection_slot_is_reusable_and_leaves_no_entry() {
        let limits = ConnectionLimits::new(1, 1, 1);
        let slot = limits.acquire(0, address("192.0.2.1")).unwrap();
        assert_eq!(
            limits.acquire(0, address("192.0.2.2")).err(),
            Some(LimitExceeded::Process)
        );
        drop(slot);
        drop(limits.acquire(0, address("192.0.2.1")).unwrap());
        assert!(limits.0.clients.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn overloaded_core_moves_connections_to_the_least_loaded_core() {
        let of = |core, counts: &[usize]| choose_core(core, counts.iter().copied());
        assert_eq!(of(0, &[1, 0, 0, 0]), None, "a single connection is no imbalance");
        assert_eq!(of(0, &[2, 0, 0, 1]), Some(1));
        assert_eq!(of(0, &[2, 1, 1, 1]), None);
        assert_eq!(of(2, &[4, 4, 6, 3]), Some(3));
        assert_eq!(of(2, &[100, 100, 110, 100]), None, "within a quarter of the mean");
        assert_eq!(of(2, &[100, 100, 140, 100]), Some(0));
        assert_eq!(of(0, &[9]), None, "alone");
    }

    #[test]
    fn connections_accepted_on_one_core_are_spread_evenly() {
        for connections in [8, 16, 100, 1_000] {
            let limits = ConnectionLimits::new(10_000, 0, 4);
            let slots: Vec<_> = (0..connections)
                .map(|_| {
                    let mut slot = limits.acquire(3, None).unwrap();
                    if let Some(core) = limits.less_loaded_core(3) {
                        slot.move_to(core);
                    }
                    slot
                })
                .collect();
            let most = (0..4).map(|core| limits.count(core)).max().unwrap();
            assert!(2 * 4 * most <= 3 * slots.len(), "{most} of {connections}");
        }
    }

    #[test]
    fn the_default_leaves_descriptors_for_content() {
        assert_eq!(default_max(1 << 20), CONNECTIONS_MAX);
        assert_eq!(default_max(1_024), 716);
        assert_eq!(default_max(64), CONNECTIONS_MIN);
    }
}
