//! Families that show faults of the process, its certificates and its stores.

use std::fmt;

use prometheus_client::registry::Unit;

use super::{Families, Scrape, labels};
use crate::metrics::{self, StoreOperation};
use crate::server::tls::Acceptor;
use crate::store::S3State;

impl Scrape {
    pub(super) fn encode_core_stalls(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let stalls = self.core_stalls.iter().enumerate();
        let stalls: Vec<_> = stalls.map(|(core, stall)| (core.to_string(), stall)).collect();
        families.float_gauges(
            "core_stall_max",
            "Longest delay of the loop of a core within the last minute",
            &Unit::Seconds,
            stalls
                .iter()
                .map(|(core, stall)| (labels([("core", core.as_str())]), stall.as_secs_f64())),
        )
    }

    pub(super) fn encode_certificates(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let expiries = self.parts.tls.as_ref().map(Acceptor::expiries);
        let server = expiries.and_then(|expiries| expiries.server);
        let authorities = expiries.and_then(|expiries| expiries.client_authorities);
        let expiries = [("server", server), ("client-authorities", authorities)];
        // Certificates that expired before 1970 have the time 0.
        let expiries = expiries.into_iter().filter_map(|(name, expiry)| {
            Some((labels([("use", name)]), u64::try_from(expiry?).unwrap_or(0)))
        });
        families.gauges(
            "certificate_expiry_timestamp",
            "End of the validity of the certificates of the listeners, in seconds since 1970",
            Some(&Unit::Seconds),
            expiries,
        )
    }

    pub(super) fn encode_store_failures(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let has = |backend: &str| match backend {
            "s3" => self.parts.bucket.is_some(),
            _ => !self.stores.is_empty(),
        };
        let failures = StoreOperation::ALL.into_iter();
        let failures = failures
            .filter(|operation| has(operation.labels().0))
            .map(|operation| {
                let (backend, name) = operation.labels();
                let labels = labels([("backend", backend), ("operation", name)]);
                (labels, metrics::store_failures(operation))
            });
        families.counters(
            "store_failures",
            "Operations that a disk or the bucket has failed",
            None,
            failures,
        )?;
        let bucket = self.parts.bucket.iter();
        let states = bucket.flat_map(|bucket| {
            let current = bucket.state();
            S3State::ALL.map(|state| (labels([("state", state.word())]), u64::from(state == current)))
        });
        families.gauges("s3_state", "1 for the state of the bucket", None, states)
    }
}
