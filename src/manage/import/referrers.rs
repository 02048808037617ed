//! Manifests of an archive that refer to images, such as signatures. A referrer without a tag is found by
//! the list of referrers of its subject.

use serde_json::value::RawValue;

use super::ImportError;
use super::admit::{Admission, Refused};
use super::images::ArchiveImage;
use crate::manage::bundle::format::{BundledReferrer, OciDescriptor, OciIndex};
use crate::oci::{Digest, MANIFEST_TYPES, Origin};
use crate::runtime::clock::unix_millis;
use crate::store::{RecordName, ReferrersRecord};

/// A manifest that refers to another manifest of its repository.
#[derive(Clone, Debug)]
pub(super) struct Referrer {
    pub origin: Origin,
    pub subject: Digest,
    pub descriptor: OciDescriptor,
}

impl From<BundledReferrer> for Referrer {
    fn from(referrer: BundledReferrer) -> Self {
        Referrer {
            origin: referrer.repository.origin,
            subject: referrer.subject,
            descriptor: referrer.descriptor,
        }
    }
}

impl Referrer {
    /// Returns the name by digest.
    pub fn name(&self) -> String {
        let Origin {
            namespace,
            repository,
        } = &self.origin;
        format!("{namespace}/{repository}@{}", self.descriptor.digest)
    }

    pub fn image(&self) -> ArchiveImage {
        ArchiveImage {
            name: None,
            root: Ok(self.descriptor.digest),
            descriptor: Some(self.descriptor.clone()),
        }
    }
}

impl Admission<'_> {
    /// Stores the content of a referrer, and adds the referrer to the list of its subject.
    pub(super) fn referrer(&mut self, referrer: &Referrer) -> Result<Result<(), Refused>, ImportError> {
        let descriptor = &referrer.descriptor;
        let named_type = Some(&*descriptor.media_type);
        if let Err(refused) = self.tree(&referrer.origin, &descriptor.digest, named_type)? {
            return Ok(Err(refused));
        }
        if !self.rule.is_dry_run {
            self.list(referrer)?;
        }
        Ok(Ok(()))
    }

    fn list(&self, referrer: &Referrer) -> Result<(), ImportError> {
        let store = &self.importer.store;
        let Origin {
            namespace,
            repository,
        } = &referrer.origin;
        let name = RecordName::Page {
            subject: referrer.subject,
            query: String::new(),
        };
        let known = store.record(namespace, repository, &name)?;
        let is_public = self.rule.is_public || known.as_ref().is_some_and(|record| record.public);
        let known = known.and_then(|record| record.index);
        let known = known.and_then(|index| OciIndex::parse(index.get().as_bytes()).ok());
        let mut index = known.unwrap_or(OciIndex {
            schema_version: 2,
            media_type: Some(MANIFEST_TYPES[0].to_owned()),
            manifests: Vec::new(),
        });
        let descriptor = &referrer.descriptor;
        if index
            .manifests
            .iter()
            .all(|known| known.digest != descriptor.digest)
        {
            index.manifests.push(descriptor.clone());
        }
        let json = String::from_utf8_lossy(&index.to_json()).trim_end().to_owned();
        let index = RawValue::from_string(json).map_err(|error| ImportError::Archive(error.to_string()))?;
        let record = ReferrersRecord {
            checked_at_ms: unix_millis(),
            public: is_public,
            query: String::new(),
            next: None,
            filtered: false,
            index: Some(index),
        };
        Ok(store.set_record(namespace, repository, &name, &record)?)
    }
}
