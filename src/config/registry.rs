//! One entry of `registries:`.

use reqwest::Url;

use crate::oci::Namespace;

/// An upstream the operator has named. Being named lifts the rule that only public addresses are contacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryConfig {
    /// What clients call it.
    pub name: Namespace,
    /// Plain http instead of https, when `url` does not say.
    pub insecure: bool,
    /// Where it really is; without one, `https://<name>` (Docker Hub: `https://registry-1.docker.io`).
    pub url: Option<Url>,
}
