//! What a reload takes over, and what it cannot.

use super::{Config, StorageConfig};

impl Config {
    /// The keys whose values in `new` differ and are read at the start only. Everything in
    /// [`Registries`](super::Registries), and client authentication, can be taken over at any time.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        // Each field by name: a new one must be thought about here.
        let Config {
            listen,
            tls,
            kernel_tls,
            storage,
            cores,
            io_driver,
            helper_threads,
            max_connections,
            max_connections_per_client,
            memory_budget,
            default_registry,
            cache_tag_manifests,
            cache_latest_tag,
            tag_ttl,
            log_level,
            access_log,
            drain_timeout,
            drain_delay,
            systemd: _,
            memory_cache_bytes,
            registries: _,
            proxies,
            always_pull_latest,
            stale_while_revalidate,
            registry_header,
            client_login,
            client_auth: _,
            warnings: _,
        } = self;
        let root = |storage: &StorageConfig| storage.root().map(|(root, _)| root.to_owned());
        let changed = [
            ("listen_addr", *listen != new.listen),
            // Its certificates are taken over; that there is TLS at all is not.
            ("tls_cert_file", tls.is_some() != new.tls.is_some()),
            ("kernel_tls", *kernel_tls != new.kernel_tls),
            ("storage_backend", storage.backend() != new.storage.backend()),
            ("fs_root", root(storage) != root(&new.storage)),
            ("s3", storage.s3() != new.storage.s3()),
            ("spool_dir", spool(storage) != spool(&new.storage)),
            ("cores", *cores != new.cores),
            ("io_driver", *io_driver != new.io_driver),
            ("helper_threads", *helper_threads != new.helper_threads),
            ("max_connections", *max_connections != new.max_connections),
            (
                "max_connections_per_client",
                *max_connections_per_client != new.max_connections_per_client,
            ),
            ("memory_budget", *memory_budget != new.memory_budget),
            ("default_registry", *default_registry != new.default_registry),
            (
                "cache_tag_manifests",
                *cache_tag_manifests != new.cache_tag_manifests,
            ),
            ("cache_latest_tag", *cache_latest_tag != new.cache_latest_tag),
            ("tag_ttl", *tag_ttl != new.tag_ttl),
            ("log_level", *log_level != new.log_level),
            ("access_log", *access_log != new.access_log),
            ("drain_timeout", *drain_timeout != new.drain_timeout),
            ("drain_delay", *drain_delay != new.drain_delay),
            ("memory_cache", *memory_cache_bytes != new.memory_cache_bytes),
            ("the proxies of the environment", *proxies != new.proxies),
            (
                "always_pull_latest",
                *always_pull_latest != new.always_pull_latest,
            ),
            (
                "stale_while_revalidate",
                *stale_while_revalidate != new.stale_while_revalidate,
            ),
            ("registry_header", *registry_header != new.registry_header),
            ("client_login", *client_login != new.client_login),
        ];
        let changed = changed.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(key, _)| key).collect()
    }
}

fn spool(storage: &StorageConfig) -> Option<&std::path::Path> {
    match storage {
        StorageConfig::S3 { spool, .. } | StorageConfig::Tiered { spool, .. } => Some(spool),
        StorageConfig::Fs { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::config::tests::Machine;

    #[test]
    fn registries_and_client_auth_are_taken_over_without_a_restart() {
        let old = Machine::with_file("tag_ttl: 5\nauth: {user: u, password: p}\n").config();
        let text = "tag_ttl: 6\nauth: {user: u, password: q}\nwhitelist_mode: true\nair_gapped: true\nregistries: {a: }\n";
        let new = Machine::with_file(text).config();
        assert_eq!(old.needs_restart(&new), ["tag_ttl"]);
        assert_eq!(old.needs_restart(&old), [""; 0]);
    }
}
