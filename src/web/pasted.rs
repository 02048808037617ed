//! Image names in pasted texts, such as a name or a whole command. `files/reference.js` has the same
//! rules. Pure.

use crate::config::BaseUrl;
use crate::limits::PASTED_TEXT_BYTES_MAX;
use crate::oci::{ImageName, ParseImageNameError};

/// Words before the image in commands and files.
const WORDS: [&str; 19] = [
    "sudo", "docker", "podman", "nerdctl", "ctr", "crictl", "skopeo", "crane", "helm", "oras", "image",
    "images", "pull", "run", "copy", "create", "inspect", "from", "image:",
];

/// Options that are followed by a value.
const OPTIONS: [&str; 6] = [
    "--platform",
    "--version",
    "--namespace",
    "-n",
    "--name",
    "--network",
];

const SCHEMES: [&str; 4] = ["docker://", "oci://", "https://", "http://"];

/// Returns the image of a text. The name of the cache at the beginning of the image is removed.
///
/// # Errors
///
/// The text contains no name of an image.
pub fn image_in(text: &str, address: Option<&BaseUrl>) -> Result<ImageName, ParseImageNameError> {
    let cut = text
        .char_indices()
        .map(|(at, _)| at)
        .find(|at| *at >= PASTED_TEXT_BYTES_MAX);
    let name = name_in(&text[..cut.unwrap_or(text.len())]);
    let own = address.and_then(|address| name.strip_prefix(address.authority())?.strip_prefix('/'));
    own.unwrap_or(name).parse()
}

/// Returns the first word that is neither a command nor an option, without quotes and scheme.
fn name_in(text: &str) -> &str {
    let mut is_value = false;
    let mut words = text.split_ascii_whitespace().filter(|word| {
        let is_skipped =
            is_value || word.starts_with('-') || WORDS.contains(&word.to_ascii_lowercase().as_str());
        is_value = !is_value && OPTIONS.contains(word);
        !is_skipped
    });
    // A repository of Docker Hub may have the name of a command.
    let word = words
        .next()
        .or_else(|| text.split_ascii_whitespace().last())
        .unwrap_or_default();
    let word = word.trim_matches(['"', '\'', '`']);
    SCHEMES
        .iter()
        .find_map(|scheme| word.strip_prefix(scheme))
        .unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_commands() {
        let address = BaseUrl::parse("http://cache:8080");
        for (text, image) in [
            ("nginx", "docker.io/library/nginx"),
            (" docker.io/library/nginx:1.27 ", "docker.io/library/nginx:1.27"),
            ("docker pull nginx", "docker.io/library/nginx"),
            (
                "sudo docker run -it --platform linux/arm64 alpine:3.20 sh",
                "docker.io/library/alpine:3.20",
            ),
            ("helm pull oci://ghcr.io/x/y --version 1.0", "ghcr.io/x/y"),
            ("skopeo copy docker://quay.io/a/b:v1 dir:x", "quay.io/a/b:v1"),
            ("image: \"nginx:1.27\"", "docker.io/library/nginx:1.27"),
            ("FROM golang:1.25", "docker.io/library/golang:1.25"),
            ("docker", "docker.io/library/docker"),
            ("cache:8080/quay.io/a/b:v1", "quay.io/a/b:v1"),
            ("https://ghcr.io/a/b", "ghcr.io/a/b"),
        ] {
            let found = image_in(text, address.as_ref()).unwrap();
            assert_eq!(found.to_string(), image, "{text}");
        }
    }

    #[test]
    fn other_texts_contain_no_name() {
        for text in [
            "",
            "docker pull",
            "<script>alert(1)</script>",
            "$(reboot)",
            "a;b",
            "Ä",
            &"ä".repeat(3000),
        ] {
            let found = image_in(text, None).map(|image| image.to_string());
            assert!(found.is_err() || text == "docker pull", "{text}: {found:?}");
        }
    }
}
