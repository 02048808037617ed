//! Where clients' logins may go when the cache has asked for them. What registries make of them is theirs to say.
//!
//! Docker, podman and skopeo show a login only where `/v2/` asks for one, and then with every request, whatever registry
//! its path names. What was meant for one registry must not be sent to any that an image's name can name.

/// Whether a client's `Authorization` may go on to a registry. `known`: the operator has named it, or it is the
/// default registry. A token goes on to any: clients get it for one registry and send it for no other.
pub fn may_go_on(authorization: &str, known: bool) -> bool {
    let scheme = authorization.split(' ').next().unwrap_or_default();
    known || scheme.eq_ignore_ascii_case("bearer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_go_on_to_registries_that_nobody_knows() {
        for login in ["Basic YTpi", "basic YTpi", "Digest x", "YTpi", ""] {
            assert!(may_go_on(login, true), "{login}");
            assert!(!may_go_on(login, false), "{login}");
        }
        for token in ["Bearer abc", "bearer abc"] {
            assert!(may_go_on(token, false) && may_go_on(token, true), "{token}");
        }
    }
}
