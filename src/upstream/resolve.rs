//! The resolver of the HTTP client, with an address filter.
//!
//! The filter is part of the resolver, so the client connects to the checked addresses. There is no
//! second lookup with perhaps other addresses.

use std::net::SocketAddr;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;

use super::error::Refusal;
use super::policy::{Policy, ip_literal};
use super::proxy::Routes;
use crate::limits::NAME_LOOKUPS_MAX;

/// The maximum number of addresses tried per name. Each connection attempt may use its whole share
/// of the connect deadline.
const ADDRESSES_MAX: usize = 16;

/// The resolver of the operating system. At most [`NAME_LOOKUPS_MAX`] lookups block a thread at
/// once; further lookups wait.
pub(super) struct SystemResolver(Arc<Semaphore>);

impl Default for SystemResolver {
    fn default() -> Self {
        SystemResolver(Arc::new(Semaphore::new(NAME_LOOKUPS_MAX)))
    }
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let slots = self.0.clone();
        Box::pin(async move {
            let _slot = slots.acquire().await?;
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(Box::new(found.collect::<Vec<_>>().into_iter()) as Addrs)
        })
    }
}

/// Filters the answers of another resolver by the policy.
pub(super) struct FilteredResolver {
    pub policy: Policy,
    /// The addresses of configured proxies are not filtered.
    pub routes: Routes,
    pub inner: Arc<dyn Resolve>,
}

/// All addresses of a name were refused. Found in the client's error to distinguish a refusal from
/// a DNS failure.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct AddressesRefused(pub Refusal);

impl Resolve for FilteredResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        // An address reaches the resolver only for connections through a SOCKS proxy.
        if let Some(address) = ip_literal(&host) {
            let outcome = self.policy.check_address(&host, address);
            return Box::pin(async move {
                outcome.map_err(AddressesRefused)?;
                Ok(Box::new(std::iter::once(SocketAddr::new(address, 0))) as Addrs)
            });
        }
        if self.routes.is_proxy(&host) {
            return self.inner.resolve(name);
        }
        let (policy, found) = (self.policy.clone(), self.inner.resolve(name));
        Box::pin(async move {
            let mut refused = None;
            let mut allowed: Vec<SocketAddr> = Vec::new();
            for address in found.await? {
                match policy.check_address(&host, address.ip()) {
                    Ok(()) if allowed.len() < ADDRESSES_MAX => allowed.push(address),
                    Ok(()) => {}
                    Err(reason) => refused = Some(reason),
                }
            }
            match refused {
                Some(reason) if allowed.is_empty() => Err(AddressesRefused(reason).into()),
                _ if allowed.is_empty() => Err("the name has no address".into()),
                _ => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}
