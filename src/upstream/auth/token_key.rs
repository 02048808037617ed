//! The key of a token: the requester, the token service, and the scope of a challenge.

use std::sync::Arc;

use reqwest::Url;

use super::challenge::Challenge;
use super::credential::CredentialId;
use crate::oci::{Namespace, Repository};
use crate::upstream::redirect::upgraded;

/// The maximum lengths of the challenge parameters in requests and in the cache.
const REALM_BYTES_MAX: usize = 2_048;
const SERVICE_BYTES_MAX: usize = 512;
const SCOPE_BYTES_MAX: usize = 2_048;

/// The requester of a token. Tokens are not shared between registries, even with an identical
/// realm. Neither are they shared between a registry and its mirrors, nor between owners of
/// credentials.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::upstream) struct Requester {
    pub namespace: Namespace,
    /// Scheme, host, port, and the path before `/v2/`.
    pub place: Arc<str>,
    pub principal: Principal,
}

/// The owner of the credentials of a token request, if the token service may receive them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::upstream) enum Principal {
    Anonymous,
    Operator,
    Client(CredentialId),
}

/// The subject of a token: requester, realm, service, scope and credential.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::upstream) struct TokenKey {
    requester: Requester,
    realm: Url,
    service: Option<String>,
    /// Scopes separated by single spaces.
    scope: String,
    /// The credential of the token; `None` for an anonymous token.
    credential: Option<CredentialId>,
}

impl TokenKey {
    /// Parses the token key from a Bearer challenge of `origin`. The default scope is pulling from
    /// `repository`.
    ///
    /// The policy on the realm is checked later, on contact.
    pub fn new(
        requester: &Requester,
        origin: &Url,
        repository: &Repository,
        challenge: &Challenge,
    ) -> Result<Self, &'static str> {
        let realm = challenge.param("realm").ok_or("the challenge has no realm")?;
        let service = challenge.param("service");
        let scope = challenge.param("scope").unwrap_or_default();
        if realm.len() > REALM_BYTES_MAX
            || service.is_some_and(|service| service.len() > SERVICE_BYTES_MAX)
            || scope.len() > SCOPE_BYTES_MAX
        {
            return Err("the challenge is too long");
        }
        let mut realm = Url::parse(realm).map_err(|_| "the realm of the challenge is no URL")?;
        realm.set_fragment(None);
        let realm = upgraded(realm, origin);
        let mut scope = scope.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        if scope.is_empty() {
            scope = format!("repository:{repository}:pull");
        }
        Ok(TokenKey {
            requester: requester.clone(),
            realm,
            service: service.map(str::to_owned),
            scope,
            credential: None,
        })
    }

    /// Returns the registry of the content.
    pub fn registry(&self) -> &Namespace {
        &self.requester.namespace
    }

    /// Returns the key with `credential`.
    pub fn with_credential(mut self, credential: CredentialId) -> Self {
        self.credential = Some(credential);
        self
    }

    /// Returns whether both keys are equal except for the credential.
    pub fn is_for_same_token(&self, other: &TokenKey) -> bool {
        let TokenKey {
            requester,
            realm,
            service,
            scope,
            credential: _,
        } = self;
        (requester, realm, service, scope) == (&other.requester, &other.realm, &other.service, &other.scope)
    }

    pub fn requester(&self) -> &Requester {
        &self.requester
    }

    /// Returns the credential of the token; `None` for an anonymous token.
    pub fn credential(&self) -> Option<CredentialId> {
        self.credential
    }

    pub fn realm(&self) -> &Url {
        &self.realm
    }

    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// Returns the scopes, separated by single spaces.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// Returns the URL of the token request by GET. The query of the realm is kept.
    pub fn url(&self) -> Url {
        let mut url = self.realm.clone();
        let mut query = url.query_pairs_mut();
        if let Some(service) = &self.service {
            query.append_pair("service", service);
        }
        for scope in self.scope.split(' ') {
            query.append_pair("scope", scope);
        }
        drop(query);
        url
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::header::WWW_AUTHENTICATE;
    use http::{HeaderMap, HeaderValue};

    use super::super::challenge::parse_challenges;
    use super::*;

    pub fn requester() -> Requester {
        Requester {
            namespace: "r.example".parse().unwrap(),
            place: "https://r.example".into(),
            principal: Principal::Anonymous,
        }
    }

    pub fn key(challenge: &str) -> Result<TokenKey, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_str(challenge).unwrap());
        let origin = "https://r.example".parse().unwrap();
        let challenges = parse_challenges(&headers);
        TokenKey::new(&requester(), &origin, &"a/b".parse().unwrap(), &challenges[0])
    }

    #[test]
    fn the_token_request_is_made_of_the_challenge() {
        let url = |challenge: &str| key(challenge).map(|key| key.url().to_string()).ok();
        let table = [
            (
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:x/y:pull""#,
                "https://auth.example/token?service=r.example&scope=repository%3Ax%2Fy%3Apull",
            ),
            (
                r#"Bearer realm="https://auth.example/token""#,
                "https://auth.example/token?scope=repository%3Aa%2Fb%3Apull",
            ),
            (
                r#"Bearer realm="https://auth.example/t?account=me&x=%20#frag",service="",scope="""#,
                "https://auth.example/t?account=me&x=%20&service=&scope=repository%3Aa%2Fb%3Apull",
            ),
            (
                r#"Bearer realm="https://auth.example/",scope=" repository:a:pull  repository:b:pull ""#,
                "https://auth.example/?scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull",
            ),
            (
                r#"Bearer realm="https://auth.example",service="a&b=c",scope="aws""#,
                "https://auth.example/?service=a%26b%3Dc&scope=aws",
            ),
            // The registry's own host, behind a TLS proxy.
            (
                r#"Bearer realm="http://r.example/t",scope="aws""#,
                "https://r.example/t?scope=aws",
            ),
        ];
        for (challenge, expected) in table {
            assert_eq!(url(challenge).as_deref(), Some(expected), "{challenge}");
        }
        assert_eq!(url(r#"Bearer realm="/token""#), None, "a relative realm");
        assert_eq!(
            url(&format!(
                r#"Bearer realm="https://a.example/{}""#,
                "x".repeat(REALM_BYTES_MAX)
            )),
            None
        );
        assert_eq!(
            url(&format!(
                r#"Bearer realm="https://a.example/",scope="{}""#,
                "x".repeat(SCOPE_BYTES_MAX + 1)
            )),
            None
        );
    }
}
