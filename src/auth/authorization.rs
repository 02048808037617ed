//! Decides whether a client may read content, by the rules of `allow`. Pure.

use super::authenticator::{CachedAccess, Identity};
use super::rules::{RuleSet, Subject};
use crate::config::Registries;
use crate::oci::Origin;

/// The clients that may read content: a permit of the client that requested the content.
#[derive(Clone, Debug)]
pub struct Readers {
    /// The rules that allow reading; `None`: every authenticated client may read.
    rules: Option<RuleSet>,
}

/// The rules do not allow the client to read the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forbidden;

impl Readers {
    /// Permits a request that is not for content of a repository. An anonymous client needs a rule, so none permits it.
    pub fn of_service(identity: &Identity) -> Result<Self, Forbidden> {
        match identity {
            Identity::Anonymous => Err(Forbidden),
            Identity::Open | Identity::User(_) => Ok(Readers { rules: None }),
        }
    }

    /// Returns whether every authenticated client may read the content.
    pub fn are_all(&self) -> bool {
        self.rules.is_none()
    }

    /// Returns whether a client may read the content from the response cache. Allocates nothing.
    pub fn include(&self, access: &CachedAccess) -> bool {
        match &self.rules {
            None => access.authenticated,
            Some(rules) => rules.intersects(&access.rules),
        }
    }
}

impl Registries {
    /// Decides whether a client may read content of `origin`. Runs once per request, before any lookup.
    ///
    /// # Errors
    ///
    /// [`Forbidden`], whether the content exists or not.
    pub fn authorize(&self, identity: &Identity, origin: &Origin) -> Result<Readers, Forbidden> {
        let allow = &self.allow;
        let rules = self.rules_about(&origin.namespace, &origin.repository);
        let may = match (&rules, identity) {
            (None, Identity::Open | Identity::User(_)) => true,
            (None, Identity::Anonymous) => false,
            (Some(about), Identity::Open) => about.intersects(&allow.rules_for(Subject::Anonymous)),
            (Some(about), Identity::Anonymous) => about.intersects(&allow.rules_that_name_anonymous()),
            (Some(about), Identity::User(name)) => about.intersects(&allow.rules_for(Subject::User(name))),
        };
        if may {
            Ok(Readers { rules })
        } else {
            Err(Forbidden)
        }
    }
}
