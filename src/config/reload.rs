//! The settings that a reload cannot apply.

use super::options::Reload;
use super::{Config, StoreDirs};

impl Config {
    /// Returns the keys whose values differ in `new` and are read at start only. A reload applies
    /// [`Registries`](super::Registries), client authentication, and the rules of `prune` and `warm`.
    pub fn needs_restart(&self, new: &Config) -> Vec<&'static str> {
        // Without `..`: a new field needs a decision here.
        let Config {
            values,
            listen,
            tls,
            storage,
            systemd: _,
            registries,
            proxies,
            traces,
            client_auth: _,
            prune: _,
            warm: _,
            warnings: _,
        } = self;
        let root = |config: &Config| config.storage.root().map(|(root, _)| root.to_owned());
        // Values of several settings: `Reload::Part`.
        let parts = [
            ("listen_addr", *listen != new.listen),
            // A reload applies new certificates, but cannot enable or disable TLS.
            ("tls_cert_file", tls.is_some() != new.tls.is_some()),
            ("storage_backend", storage.backend() != new.storage.backend()),
            ("fs_root", root(self) != root(new)),
            ("s3", storage.s3() != new.storage.s3()),
            ("spool_dir", storage.spool() != new.storage.spool()),
            (
                "registries.cache_dir",
                StoreDirs::of(registries) != StoreDirs::of(&new.registries),
            ),
            ("the proxies of the environment", *proxies != new.proxies),
            ("the variables of traces", *traces != new.traces),
        ];
        let parts = parts.into_iter().filter(|(_, changed)| *changed);
        let single = values.changed(&new.values).into_iter();
        let single = single.filter(|setting| setting.reload() == Reload::Restart);
        parts
            .map(|(key, _)| key)
            .chain(single.filter_map(|setting| setting.key()))
            .collect()
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
    #[test]
    fn changed_directory_of_a_registry_needs_a_restart() {
        let config = |registries: &str| Machine::with_file(&format!("registries: {registries}\n")).config();
        let old = config("{a: {cache_dir: /disk/a}, b: }");
        for same in [
            "{b: , a: {cache_dir: /disk/a/}}",
            "{a: {cache_dir: /disk/a}, b: , c: }",
        ] {
            assert_eq!(old.needs_restart(&config(same)), [""; 0], "{same}");
        }
        for other in [
            "{a: {cache_dir: /disk/b}, b: }",
            "{a: , b: }",
            "{a: {cache_dir: /disk/a}, b: {cache_dir: /disk/a}}",
        ] {
            assert_eq!(
                old.needs_restart(&config(other)),
                ["registries.cache_dir"],
                "{other}"
            );
        }
    }
}
