//! The configuration of clients that use the cache as a mirror, so that image names stay unchanged. Pure.

use super::markup::filled;
use crate::config::BaseUrl;

/// A client, with the files that point the client at the cache.
pub struct ClientSetup {
    pub id: &'static str,
    pub name: &'static str,
    pub files: &'static [SetupFile],
    /// A sentence about the scope of the configuration.
    pub note: &'static str,
}

/// A file of a client. The texts have the places `{url}` and `{host}`.
pub struct SetupFile {
    pub path: &'static str,
    /// The text for a cache without TLS.
    pub plain: &'static str,
    /// The text for a cache with TLS.
    pub tls: &'static str,
    /// A command that makes the client read the file. Empty if the client reads the file at each pull.
    pub apply: &'static str,
}

/// The clients, in the order of the page.
pub const CLIENTS: [ClientSetup; 4] = [
    ClientSetup {
        id: "docker",
        name: "Docker",
        files: &[SetupFile {
            path: "/etc/docker/daemon.json",
            plain: "{\"registry-mirrors\": [\"{url}\"]}\n",
            tls: "{\"registry-mirrors\": [\"{url}\"]}\n",
            apply: "systemctl restart docker",
        }],
        note: "Docker uses the mirror for Docker Hub only. \
            Pull images of other registries by the name of the cache.",
    },
    ClientSetup {
        id: "containerd",
        name: "containerd, Kubernetes",
        files: &[SetupFile {
            path: "/etc/containerd/certs.d/_default/hosts.toml",
            plain: "[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
            tls: "[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n",
            apply: "",
        }],
        note: "The file applies to every registry. \
            For Kubernetes, config_path of the CRI plugin is /etc/containerd/certs.d.",
    },
    ClientSetup {
        id: "k3s",
        name: "k3s",
        files: &[SetupFile {
            path: "/etc/rancher/k3s/registries.yaml",
            plain: "mirrors:\n  \"*\":\n    endpoint:\n      - \"{url}\"\n",
            tls: "mirrors:\n  \"*\":\n    endpoint:\n      - \"{url}\"\n",
            apply: "systemctl restart k3s",
        }],
        note: "The file applies to every registry, on each node.",
    },
    ClientSetup {
        id: "podman",
        name: "Podman, CRI-O, Buildah",
        files: &[SetupFile {
            path: "/etc/containers/registries.conf.d/oci-pull-through.conf",
            plain: "[[registry]]\nlocation = \"docker.io\"\n\n\
                [[registry.mirror]]\nlocation = \"{host}/docker.io\"\ninsecure = true\n",
            tls: "[[registry]]\nlocation = \"docker.io\"\n\n\
                [[registry.mirror]]\nlocation = \"{host}/docker.io\"\n",
            apply: "",
        }],
        note: "Repeat both tables for each further registry.",
    },
];

impl SetupFile {
    /// Returns the content of the file for a cache at `address`.
    pub fn content(&self, address: &BaseUrl) -> String {
        let template = if address.is_https() { self.tls } else { self.plain };
        let url = address.to_string();
        filled(template, &[("url", &url), ("host", address.authority())])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(client: &str, address: &str) -> String {
        let client = CLIENTS.iter().find(|known| known.id == client).unwrap();
        client.files[0].content(&BaseUrl::parse(address).unwrap())
    }

    #[test]
    fn files_equal_the_how_to_guides() {
        let guide = |name: &str| {
            let path = format!("{}/docs/how-to/{name}.md", env!("CARGO_MANIFEST_DIR"));
            std::fs::read_to_string(path).unwrap()
        };
        for (client, page) in [
            ("docker", "docker"),
            ("containerd", "containerd-kubernetes"),
            ("podman", "podman-crio"),
        ] {
            let content = content(client, "http://localhost:8080");
            assert!(guide(page).contains(&content), "{page}: {content}");
        }
    }

    #[test]
    fn a_cache_with_tls_is_not_insecure() {
        assert!(content("podman", "http://cache:8080").contains("insecure = true"));
        assert!(!content("podman", "https://cache").contains("insecure"));
    }
}
