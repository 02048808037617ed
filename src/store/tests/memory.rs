//! The simplest store that keeps the contract: a map from names to bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sample::{RecordOf, TagName, data_name, pointer_name, record_name, sidecar_name};
use super::{Place, SharedPlace, Shelf, keeps_the_contract, keeps_the_contract_of_machines};
use crate::limits::SIDECAR_BYTES_MAX;
use crate::oci::Digest;
use crate::store::{Key, Meta, ReferrersRecord, Source, TagPointer, Verified};
use crate::sync::{Mutex, MutexGuard};

#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

type Map<'a> = MutexGuard<'a, BTreeMap<String, Vec<u8>>>;

impl Memory {
    fn map(&self) -> Map<'_> {
        self.0.lock()
    }

    /// Returns the entry under `key`. Removes a mismatched entry, and hashes an unmarked one.
    fn look(map: &mut Map<'_>, key: &Key) -> Option<Meta> {
        let json = map.get(&sidecar_name(key))?;
        let json = &json[..json.len().min(SIDECAR_BYTES_MAX as usize)];
        let data = map.get(&data_name(key));
        let sound = Meta::parse(*key.digest(), json).filter(|meta| {
            let hashes = |data: &Vec<u8>| Digest::of(key.digest().algorithm(), data) == *key.digest();
            data.is_some_and(|data| data.len() as u64 == meta.size && (meta.verified || hashes(data)))
        });
        match sound {
            Some(meta) if meta.verified => Some(meta),
            Some(meta) => {
                let meta = Meta {
                    verified: true,
                    ..meta
                };
                map.insert(sidecar_name(key), meta.to_json());
                Some(meta)
            }
            None => {
                map.remove(&sidecar_name(key));
                map.remove(&data_name(key));
                None
            }
        }
    }

    fn learn(map: &mut Map<'_>, key: &Key, sources: &[Source], public: bool) -> bool {
        let Some(meta) = Self::look(map, key) else {
            return false;
        };
        if let Some(more) = meta.with(sources, public) {
            map.insert(sidecar_name(key), more.to_json());
        }
        true
    }
}

impl Shelf for Memory {
    type Ingest = (Key, Vec<u8>);

    async fn begin(&self, key: &Key, _: Option<u64>) -> Self::Ingest {
        (key.clone(), Vec::new())
    }

    async fn write(&self, ingest: &mut Self::Ingest, bytes: &[u8]) {
        ingest.1.extend_from_slice(bytes);
    }

    async fn commit(&self, (key, data): Self::Ingest, verified: Verified, meta: Meta) -> Result<(), String> {
        if data.len() as u64 != verified.size() {
            return Err("wrong size".into());
        }
        let mut map = self.map();
        if !Self::learn(&mut map, &key, &meta.sources, meta.public) {
            map.insert(data_name(&key), data);
            map.insert(sidecar_name(&key), meta.to_json());
        }
        Ok(())
    }

    async fn find(&self, key: &Key) -> Option<Meta> {
        Self::look(&mut self.map(), key)
    }

    async fn read(&self, key: &Key, from: u64, to: u64) -> Vec<u8> {
        self.map()[&data_name(key)][from as usize..to as usize].to_vec()
    }

    async fn record_source(&self, key: &Key, source: &Source, public: bool) {
        Self::learn(&mut self.map(), key, std::slice::from_ref(source), public);
    }

    async fn recheck(&self, key: &Key) {
        let mut map = self.map();
        if let Some(mut meta) = Self::look(&mut map, key) {
            // Makes `look` hash the data again.
            meta.verified = false;
            map.insert(sidecar_name(key), meta.to_json());
            Self::look(&mut map, key);
        }
    }

    async fn tag(&self, tag: &TagName) -> Option<TagPointer> {
        serde_json::from_slice(self.map().get(&pointer_name(tag))?).ok()
    }

    async fn set_tag(&self, tag: &TagName, pointer: &TagPointer) {
        let json = serde_json::to_vec(pointer).unwrap();
        self.map().insert(pointer_name(tag), json);
    }

    async fn record(&self, of: &RecordOf) -> Option<ReferrersRecord> {
        ReferrersRecord::parse(&of.name, self.map().get(&record_name(of))?)
    }

    async fn set_record(&self, of: &RecordOf, record: Option<&ReferrersRecord>) {
        let mut map = self.map();
        match record.and_then(ReferrersRecord::to_json) {
            Some(json) => map.insert(record_name(of), json),
            None => map.remove(&record_name(of)),
        };
    }
}

impl Place for Memory {
    type Shelf = Memory;

    async fn make() -> Self {
        Memory::default()
    }

    async fn open(&self) -> Memory {
        self.clone()
    }

    fn names(&self) -> Vec<String> {
        self.map().keys().cloned().collect()
    }

    fn copies(&self, name: &str) -> Vec<Vec<u8>> {
        self.map().get(name).cloned().into_iter().collect()
    }

    fn plant(&self, name: &str, bytes: &[u8]) {
        self.map().insert(name.to_owned(), bytes.to_vec());
    }

    fn remove(&self, name: &str) {
        self.map().remove(name);
    }
}

impl SharedPlace for Memory {
    async fn machine(&self) -> Memory {
        self.clone()
    }
}

keeps_the_contract!(Memory);
keeps_the_contract_of_machines!(Memory);
