//! The pull commands of clients. `files/pull.js` fills the same templates in the browser. Pure.

use super::markup::filled;
use crate::config::BaseUrl;
use crate::oci::{ImageName, Namespace, Reference};

/// A client, with the commands that pull an image through the cache.
pub struct Tool {
    pub id: &'static str,
    pub name: &'static str,
    /// The option for a cache without TLS. Empty if the client has no such option.
    pub plain_http: &'static str,
    pub commands: &'static [Command],
}

/// A command with the places `{option}`, `{reference}`, `{repository}`, `{tag}` and `{original}`.
pub struct Command {
    pub label: &'static str,
    pub by_tag: &'static str,
    /// `None` if the client has no such command for a digest.
    pub by_digest: Option<&'static str>,
}

const fn pull(by_tag: &'static str) -> Command {
    Command {
        label: "Pull",
        by_tag,
        by_digest: Some(by_tag),
    }
}

const fn rename(by_tag: &'static str) -> Command {
    Command {
        label: "Then use the original name",
        by_tag,
        by_digest: None,
    }
}

/// The clients, in the order of the page.
pub const TOOLS: [Tool; 9] = [
    Tool {
        id: "docker",
        name: "Docker",
        plain_http: "",
        commands: &[
            pull("docker pull {reference}"),
            rename("docker tag {reference} {original} \\\n  && docker rmi {reference}"),
        ],
    },
    Tool {
        id: "podman",
        name: "Podman",
        plain_http: "--tls-verify=false ",
        commands: &[
            pull("podman pull {option}{reference}"),
            rename("podman tag {reference} {original} \\\n  && podman rmi {reference}"),
        ],
    },
    Tool {
        id: "nerdctl",
        name: "nerdctl",
        plain_http: "--insecure-registry ",
        commands: &[
            pull("nerdctl {option}pull {reference}"),
            rename("nerdctl tag {reference} {original} \\\n  && nerdctl rmi {reference}"),
        ],
    },
    Tool {
        id: "containerd",
        name: "containerd",
        plain_http: "--plain-http ",
        commands: &[pull("ctr images pull {option}{reference}")],
    },
    Tool {
        id: "kubernetes",
        name: "Kubernetes",
        plain_http: "",
        commands: &[Command {
            label: "Field of a container",
            by_tag: "image: {reference}",
            by_digest: Some("image: {reference}"),
        }],
    },
    Tool {
        id: "skopeo",
        name: "skopeo",
        plain_http: "--src-tls-verify=false ",
        commands: &[pull("skopeo copy {option}docker://{reference} dir:image")],
    },
    Tool {
        id: "crane",
        name: "crane",
        plain_http: "--insecure ",
        commands: &[pull("crane pull {option}{reference} image.tar")],
    },
    Tool {
        id: "helm",
        name: "Helm",
        plain_http: "--plain-http ",
        commands: &[Command {
            label: "Pull a chart",
            by_tag: "helm pull {option}oci://{repository} --version {tag}",
            by_digest: Some("helm pull {option}oci://{reference}"),
        }],
    },
    Tool {
        id: "oras",
        name: "ORAS",
        plain_http: "--plain-http ",
        commands: &[pull("oras pull {option}{reference}")],
    },
];

impl Tool {
    /// Returns a template with the option that the address needs.
    pub fn with_option(&self, template: &str, address: &BaseUrl) -> String {
        let option = if address.is_https() { "" } else { self.plain_http };
        filled(template, &[("option", option)])
    }
}

/// The names of an image behind the cache.
pub struct PulledNames {
    repository: String,
    reference: String,
    /// `None` for an image by digest.
    tag: Option<String>,
    original: String,
}

impl PulledNames {
    /// Returns the names of `image` at `address`. `None` if no image name can contain the registry,
    /// because the registry has a port and a host without a dot.
    pub fn new(address: &BaseUrl, image: &ImageName) -> Option<Self> {
        let registry = path_part(&image.origin.namespace)?;
        let repository = format!("{}/{registry}/{}", address.authority(), image.origin.repository);
        let (suffix, tag) = match &image.reference {
            Some(Reference::Digest(digest)) => (format!("@{digest}"), None),
            Some(Reference::Tag(tag)) => (format!(":{tag}"), Some(tag.to_string())),
            None => (":latest".to_owned(), Some("latest".to_owned())),
        };
        Some(PulledNames {
            reference: format!("{repository}{suffix}"),
            original: format!("{}/{}{suffix}", image.origin.namespace, image.origin.repository),
            repository,
            tag,
        })
    }

    /// Returns whether the image has a digest instead of a tag.
    pub fn is_by_digest(&self) -> bool {
        self.tag.is_none()
    }

    /// Fills a template.
    pub fn command(&self, template: &str) -> String {
        filled(
            template,
            &[
                ("reference", &self.reference),
                ("repository", &self.repository),
                ("original", &self.original),
                ("tag", self.tag.as_deref().unwrap_or_default()),
            ],
        )
    }
}

/// Returns the registry as a part of an image name, where a port follows an underscore.
fn path_part(namespace: &Namespace) -> Option<String> {
    let text = namespace.as_str();
    let part = match text.rsplit_once(':') {
        Some((host, port)) => format!("{host}_{port}"),
        None => text.to_owned(),
    };
    let is_same = part.parse().is_ok_and(|parsed: Namespace| parsed == *namespace);
    (is_same && !part.contains('[')).then_some(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(address: &str, image: &str, tool: &str, at: usize) -> Option<String> {
        let address = BaseUrl::parse(address).unwrap();
        let names = PulledNames::new(&address, &image.parse().unwrap())?;
        let tool = TOOLS.iter().find(|known| known.id == tool).unwrap();
        let command = &tool.commands[at];
        let template = match names.is_by_digest() {
            true => command.by_digest?,
            false => command.by_tag,
        };
        Some(names.command(&tool.with_option(template, &address)))
    }

    #[test]
    fn commands_name_the_cache_and_the_registry() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let by_digest = format!("ghcr.io/x/y@{digest}");
        for (address, image, tool, at, expected) in [
            (
                "http://cache:8080",
                "nginx",
                "docker",
                0,
                "docker pull cache:8080/docker.io/library/nginx:latest",
            ),
            (
                "http://cache:8080",
                "nginx:1.27",
                "docker",
                1,
                "docker tag cache:8080/docker.io/library/nginx:1.27 docker.io/library/nginx:1.27 \\\n  && docker rmi cache:8080/docker.io/library/nginx:1.27",
            ),
            (
                "http://cache:8080",
                "quay.io/a/b:1",
                "podman",
                0,
                "podman pull --tls-verify=false cache:8080/quay.io/a/b:1",
            ),
            (
                "https://cache",
                "quay.io/a/b:1",
                "podman",
                0,
                "podman pull cache/quay.io/a/b:1",
            ),
            (
                "https://cache",
                "ghcr.io/x/chart:2.0.1",
                "helm",
                0,
                "helm pull oci://cache/ghcr.io/x/chart --version 2.0.1",
            ),
            (
                "http://cache:8080",
                &by_digest,
                "helm",
                0,
                &format!("helm pull --plain-http oci://cache:8080/{by_digest}"),
            ),
            (
                "https://cache",
                "registry.internal:5000/app:v1",
                "kubernetes",
                0,
                "image: cache/registry.internal_5000/app:v1",
            ),
        ] {
            assert_eq!(
                command(address, image, tool, at).as_deref(),
                Some(expected),
                "{image}"
            );
        }
    }

    #[test]
    fn a_digest_has_no_tag_command_and_a_short_host_with_a_port_has_no_name() {
        let by_digest = format!("nginx@sha256:{}", "a".repeat(64));
        assert_eq!(command("http://cache", &by_digest, "docker", 1), None);
        for image in ["registry:5000/app", "[::1]:5000/app"] {
            assert_eq!(command("http://cache", image, "docker", 0), None, "{image}");
        }
    }
}
