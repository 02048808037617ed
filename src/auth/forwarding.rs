//! Decides whether client credentials may be forwarded to a registry, if `client_login` is set.
//!
//! Docker, podman and skopeo send credentials only after `/v2/` has challenged them. Every later
//! request then has the credentials, for every registry in its path. Credentials for one registry
//! must not reach another registry chosen by an image name.

/// Returns whether a client's `Authorization` may be forwarded to a registry. `known` is true for a
/// registry named by the operator and for the default registry. A token is forwarded to any
/// registry, because a client sends a token only to the registry that issued the token.
pub fn may_forward(authorization: &str, known: bool) -> bool {
    let scheme = authorization.split(' ').next().unwrap_or_default();
    known || scheme.eq_ignore_ascii_case("bearer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_are_forwarded_to_unknown_registries() {
        for credential in ["Basic YTpi", "basic YTpi", "Digest x", "YTpi", ""] {
            assert!(may_forward(credential, true), "{credential}");
            assert!(!may_forward(credential, false), "{credential}");
        }
        for token in ["Bearer abc", "bearer abc"] {
            assert!(may_forward(token, false) && may_forward(token, true), "{token}");
        }
    }
}
