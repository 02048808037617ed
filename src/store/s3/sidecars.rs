//! A cache of sidecars, so that a hit does not request its sidecar each time. Misses are not
//! cached.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::store::{Key, Meta};
use crate::sync::Mutex;

pub(super) struct Sidecars {
    held: Mutex<HashMap<Key, Held>>,
    life: Duration,
    most: usize,
}

struct Held {
    meta: Arc<Meta>,
    since: Instant,
}

impl Sidecars {
    pub fn new(life: Duration, most: usize) -> Self {
        Sidecars {
            held: Mutex::default(),
            life,
            most,
        }
    }

    pub fn get(&self, key: &Key, now: Instant) -> Option<Arc<Meta>> {
        let held = self.held.lock();
        let found = held.get(key)?;
        (now < found.since + self.life).then(|| found.meta.clone())
    }

    pub fn insert(&self, key: &Key, meta: Arc<Meta>, now: Instant) {
        let mut held = self.held.lock();
        if held.len() >= self.most && !held.contains_key(key) {
            held.retain(|_, held| now < held.since + self.life);
            // Evicts an arbitrary eighth. Each evicted sidecar costs one request.
            let surplus = (held.len() + 1).saturating_sub(self.most - self.most / 8);
            if held.len() >= self.most {
                let leaving: Vec<Key> = held.keys().take(surplus).cloned().collect();
                for key in &leaving {
                    held.remove(key);
                }
            }
        }
        held.insert(key.clone(), Held { meta, since: now });
    }

    pub fn forget(&self, key: &Key) {
        self.held.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};

    fn key(n: usize) -> Key {
        Key::Blob(Digest::of(Algorithm::Sha256, &n.to_le_bytes()))
    }

    fn meta(key: &Key) -> Arc<Meta> {
        Arc::new(Meta::parse(*key.digest(), br#"{"Content-Length":["3"]}"#).unwrap())
    }

    #[test]
    fn cached_sidecar_expires_after_its_ttl() {
        let sidecars = Sidecars::new(Duration::from_secs(60), 8);
        let now = Instant::now();
        sidecars.insert(&key(1), meta(&key(1)), now);
        assert!(sidecars.get(&key(1), now + Duration::from_secs(59)).is_some());
        assert!(sidecars.get(&key(1), now + Duration::from_secs(60)).is_none());
        sidecars.forget(&key(1));
        assert!(sidecars.get(&key(1), now).is_none());
    }

    #[test]
    fn there_are_never_more_than_the_bound() {
        let sidecars = Sidecars::new(Duration::from_secs(60), 64);
        let now = Instant::now();
        for n in 0..1_000 {
            sidecars.insert(&key(n), meta(&key(n)), now);
            assert!(sidecars.held.lock().len() <= 64);
            assert!(sidecars.get(&key(n), now).is_some());
        }
    }
}
