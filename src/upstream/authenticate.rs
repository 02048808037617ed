//! An authenticated request to one endpoint. Answers the endpoint's challenges with credentials and
//! tokens.

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;

use super::auth::Secret;
use super::auth::challenge::{self, Challenge};
use super::auth::credential_source::{CredentialSource, LoadedCredential};
use super::auth::realm::may_see_credentials;
use super::auth::token::{First, Slot, Token, Tokens};
use super::auth::token_key::{Principal, Requester, TokenKey};
use super::endpoint::Endpoint;
use super::error::{Phase, Refusal, UpstreamError, host_of};
use super::exchange::{self, Answer, OutgoingRequest, Redirects};
use super::registries::RegistryTable;
use super::response::UpstreamResponse;
use super::verdict::ResponseVerdict;
use super::{Shared, UpstreamRequest, cure};
use crate::metrics::UpstreamKind;

/// The maximum number of requests for one answer, not counting redirects. The four are anonymous,
/// with the cached token, with a new token, and with the password if a token failed.
const ROUNDS_MAX: usize = 4;

/// Public ECR answers 400 to an expired token. Other registries answer 401.
const ANSWERS_400_TO_OLD_TOKENS: &str = "public.ecr.aws";

/// The owner of the credentials of a request.
#[derive(Clone, Copy)]
pub(super) enum CredentialOwner<'a> {
    Anonymous,
    Operator(&'a CredentialSource),
    /// The client's `Authorization`, forwarded unchanged. A user name with a password is also
    /// exchanged for a token if the registry requires a token. Other schemes are never exchanged.
    Client(&'a Secret, Option<&'a LoadedCredential>),
}

/// An authenticated request to one endpoint.
pub(super) struct AuthenticatedRequest<'a> {
    pub shared: &'a Shared,
    pub table: &'a RegistryTable,
    pub endpoint: &'a Endpoint,
    pub request: &'a UpstreamRequest,
    pub owner: CredentialOwner<'a>,
}

/// The progress of an authenticated request.
struct Attempt {
    started: Instant,
    /// Whether a token fetched for this request was refused.
    token_refused: bool,
}

/// The credential that was sent with a request.
enum SentCredential {
    Token(Arc<Slot>, Token),
    Credential(LoadedCredential, Secret),
}

impl SentCredential {
    fn secret(&self) -> &Secret {
        match self {
            SentCredential::Token(_, token) => &token.secret,
            SentCredential::Credential(_, secret) => secret,
        }
    }

    /// Returns whether the request is authenticated with a credential, rather than anonymous.
    fn has_credential(&self) -> bool {
        match self {
            SentCredential::Token(slot, _) => slot.credential().is_some(),
            SentCredential::Credential(..) => true,
        }
    }

    /// Returns whether a newer credential may exist, for a request started at `started`.
    fn may_be_old(&self, started: Instant) -> bool {
        match self {
            SentCredential::Token(_, token) => token.fetched < started,
            SentCredential::Credential(loaded, _) => loaded.may_be_old(started),
        }
    }
}

impl AuthenticatedRequest<'_> {
    /// Returns the content or an error.
    pub async fn fetch(&self, outgoing: &OutgoingRequest) -> Result<UpstreamResponse, UpstreamError> {
        let outcome = self.fetched(outgoing).await;
        outcome.map_err(|error| cure::named(error, &self.request.namespace))
    }

    async fn fetched(&self, outgoing: &OutgoingRequest) -> Result<UpstreamResponse, UpstreamError> {
        let (answer, public) = self.run(outgoing).await?;
        let mut response = exchange::conclude(answer, outgoing, &self.shared.options.deadlines).await?;
        response.public = public;
        Ok(response)
    }

    /// Sends the request until another credential cannot change the answer. Returns whether an
    /// anonymous client gets the same answer.
    async fn run(&self, outgoing: &OutgoingRequest) -> Result<(Answer, bool), UpstreamError> {
        if let CredentialOwner::Client(secret, None) = self.owner {
            return Ok((self.follow(outgoing, Some(secret)).await?, false));
        }
        let mut attempt = Attempt {
            started: Instant::now(),
            token_refused: false,
        };
        let mut sent = self.first_credential().await;
        let mut round = 1;
        loop {
            let answer = self
                .follow(outgoing, sent.as_ref().map(SentCredential::secret))
                .await?;
            let public = !self.endpoint.certified
                && !matches!(self.owner, CredentialOwner::Client(..))
                && !sent.as_ref().is_some_and(SentCredential::has_credential);
            let challenges = match round {
                ROUNDS_MAX => None,
                _ => self.challenges(&answer, sent.as_ref(), attempt.started).await,
            };
            let Some(challenges) = challenges else {
                return Ok((answer, public));
            };
            let next = match self
                .next_credential(&answer.host, &challenges, sent, &mut attempt)
                .await
            {
                // The token service refused a token to this client. A client with credentials needs
                // the challenge to get a token, so the challenge is the answer.
                Err(error)
                    if !matches!(self.owner, CredentialOwner::Operator(_)) && is_refused_token(&error) =>
                {
                    None
                }
                outcome => outcome?,
            };
            let Some(next) = next else {
                return Ok((answer, public));
            };
            // Reading the body to its end keeps the connection for the next round.
            exchange::read_error_body(answer.response).await;
            sent = Some(next);
            round += 1;
        }
    }

    async fn follow(
        &self,
        outgoing: &OutgoingRequest,
        secret: Option<&Secret>,
    ) -> Result<Answer, UpstreamError> {
        let url = self.endpoint.url(&self.request.repository, &self.request.target);
        let deadlines = &self.shared.options.deadlines;
        let answer = exchange::follow(self.endpoint, url, outgoing, secret, deadlines).await?;
        self.through_challengers(answer, outgoing).await
    }

    /// Returns the challenges of `answer` to `sent`, or `None` if no credential can change the
    /// answer.
    async fn challenges(
        &self,
        answer: &Answer,
        sent: Option<&SentCredential>,
        started: Instant,
    ) -> Option<Arc<[Challenge]>> {
        let challenges = challenge::parse_challenges(answer.response.headers());
        if challenges.is_empty() && self.may_hide(answer, sent).await {
            let hidden = self.challenges_of_ping().await;
            return (!hidden.is_empty()).then_some(hidden);
        }
        self.is_challenged(answer, sent, started)
            .then(|| challenges.into())
    }

    /// Returns whether a configured credential may turn a refusal without a challenge into an
    /// answer. Some registries challenge at `/v2/` only, and answer anonymous clients as if the
    /// content did not exist.
    async fn may_hide(&self, answer: &Answer, sent: Option<&SentCredential>) -> bool {
        let is_anonymous = match sent {
            None => true,
            // A client's password is sent before any challenge, perhaps to a registry with
            // mandatory tokens.
            Some(SentCredential::Credential(..)) => matches!(self.owner, CredentialOwner::Client(..)),
            Some(SentCredential::Token(..)) => false,
        };
        let refused = matches!(answer.response.status().as_u16(), 401 | 403 | 404);
        is_anonymous && refused && !answer.foreign && matches!(self.load_credential(None).await, Ok(Some(_)))
    }

    /// Returns the challenges of `/v2/`. A single request serves all repositories.
    async fn challenges_of_ping(&self) -> Arc<[Challenge]> {
        let ping = async {
            let outgoing = OutgoingRequest {
                method: http::Method::GET,
                headers: HeaderMap::new(),
                body: None,
                redirects: Redirects::Follow,
                registry: self.request.namespace.clone(),
                kind: UpstreamKind::Token,
            };
            let deadlines = &self.shared.options.deadlines;
            let url = self.endpoint.ping();
            let answer = exchange::follow(self.endpoint, url, &outgoing, None, deadlines)
                .await
                .ok()?;
            let is_challenge = !answer.foreign && answer.response.status() == http::StatusCode::UNAUTHORIZED;
            let challenges = challenge::parse_challenges(answer.response.headers());
            exchange::read_error_body(answer.response).await;
            // The scope of this challenge is for `/v2/`, but the token must be for a repository.
            let ours = challenges.into_iter().map(|challenge| challenge.without("scope"));
            Some(if is_challenge { ours.collect() } else { Vec::new() })
        };
        let place = self.requester().place;
        let slot = self.tokens().ping(&self.request.namespace, &place);
        slot.challenges(ping).await
    }

    /// Returns whether a credential, or another credential, may change the answer.
    fn is_challenged(&self, answer: &Answer, sent: Option<&SentCredential>, started: Instant) -> bool {
        // Redirect targets never receive our credentials, even if they challenge.
        !answer.foreign
            && match answer.response.status().as_u16() {
                401 => true,
                // ECR answers 403 to an expired password. Other registries answer 403 to a token
                // with insufficient rights by now.
                403 => sent.is_some_and(|credential| credential.may_be_old(started)),
                400 => sent.is_some() && self.request.namespace.as_str() == ANSWERS_400_TO_OLD_TOKENS,
                _ => false,
            }
    }

    /// Returns the credential to send before a challenge: the last successful one, or else the
    /// client's `Authorization`.
    async fn first_credential(&self) -> Option<SentCredential> {
        let kept = self.cached_credential().await;
        match self.owner {
            CredentialOwner::Client(secret, Some(loaded)) => {
                Some(kept.unwrap_or_else(|| SentCredential::Credential(loaded.clone(), secret.clone())))
            }
            _ => kept,
        }
    }

    /// Returns the last successful credential, renewed if expired.
    async fn cached_credential(&self) -> Option<SentCredential> {
        let requester = self.requester();
        let repository = &self.request.repository;
        let first = self.tokens().first(&requester, repository)?;
        let credential = match first {
            First::Credential => self.registry_credential(None).await.ok().flatten(),
            First::Token(slot) => self.renewed(slot).await,
        };
        if credential.is_none() {
            // The registry may have a new token service, or the operator new credentials. The next
            // challenge clarifies the case.
            self.tokens().forget(&requester, repository);
        }
        credential
    }

    async fn renewed(&self, slot: Arc<Slot>) -> Option<SentCredential> {
        if let Some(token) = slot.cached() {
            return Some(SentCredential::Token(slot, token));
        }
        let loaded = self.load_credential(None).await.ok()?;
        if loaded.as_ref().map(|loaded| loaded.id) != slot.credential() {
            return None;
        }
        let credential = loaded.as_ref().map(|loaded| &*loaded.credential);
        let token = slot
            .token(self.endpoint, credential, &self.shared.options.deadlines)
            .await;
        token.ok().map(|token| SentCredential::Token(slot, token))
    }

    /// Returns the credential to send after `sent` was challenged, or `None` if no other credential
    /// can help.
    async fn next_credential(
        &self,
        host: &Arc<str>,
        challenges: &[Challenge],
        sent: Option<SentCredential>,
        attempt: &mut Attempt,
    ) -> Result<Option<SentCredential>, UpstreamError> {
        let started = attempt.started;
        let basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
        let wanted = challenge::bearer(challenges).map(|bearer| self.key(host, bearer));
        let wanted = wanted.transpose()?;
        match sent {
            None => match wanted {
                Some(key) => self.token_credential(key, basic, started).await,
                None if basic => self.registry_credential(None).await,
                // The registry requires an unsupported scheme.
                None => Ok(None),
            },
            Some(SentCredential::Token(slot, token)) => {
                let new = token.fetched >= started;
                // The token matches the challenge and was fetched for this request. Another token
                // would be refused too.
                if new && wanted.as_ref().is_none_or(|key| slot.is_for(key)) {
                    attempt.token_refused = true;
                    return match basic {
                        true => self.registry_credential(None).await,
                        false => Ok(None),
                    };
                }
                slot.discard(&token).await;
                match wanted {
                    Some(key) => self.token_credential(key, basic, started).await,
                    None => Ok(self.renewed(slot).await),
                }
            }
            Some(SentCredential::Credential(loaded, _)) => {
                if loaded.may_be_old(started) {
                    let newer = self.registry_credential(Some(started)).await?;
                    if matches!(&newer, Some(SentCredential::Credential(newer, _)) if newer.id != loaded.id) {
                        return Ok(newer);
                    }
                }
                match wanted {
                    Some(key) if !attempt.token_refused && !loaded.credential.is_token() => {
                        self.token_credential(key, false, started).await
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    fn key(&self, host: &Arc<str>, bearer: &Challenge) -> Result<TokenKey, UpstreamError> {
        let origin = self.endpoint.origin();
        TokenKey::new(&self.requester(), origin, &self.request.repository, bearer)
            .map_err(|what| UpstreamError::protocol(host, what))
    }

    /// Returns the token for `key`. If the token service may not receive the credentials and
    /// `basic` is set, the credentials go to the registry itself.
    async fn token_credential(
        &self,
        key: TokenKey,
        basic: bool,
        started: Instant,
    ) -> Result<Option<SentCredential>, UpstreamError> {
        let deadlines = &self.shared.options.deadlines;
        let trusted = may_see_credentials(key.realm(), self.endpoint.origin(), &self.endpoint.realm_hosts);
        let (slot, token) = match self.load_credential(None).await? {
            Some(loaded) if loaded.credential.is_token() => return self.registry_credential(None).await,
            Some(loaded) if trusted => self.token_with(key, loaded, started).await?,
            Some(_) if basic => return self.registry_credential(None).await,
            // The anonymous request has failed. The client gets the challenge and may contact the
            // token service itself.
            Some(_) if matches!(self.owner, CredentialOwner::Client(..)) => return Ok(None),
            Some(_) => self.anonymous_token(key).await?,
            None => {
                let slot = self.tokens().slot(key);
                let token = slot.token(self.endpoint, None, deadlines).await?;
                (slot, token)
            }
        };
        self.remember(First::Token(slot.clone()));
        Ok(Some(SentCredential::Token(slot, token)))
    }

    /// Returns a token for `loaded`. If the token service refuses cached credentials, retries once
    /// with newer credentials.
    async fn token_with(
        &self,
        key: TokenKey,
        loaded: LoadedCredential,
        started: Instant,
    ) -> Result<(Arc<Slot>, Token), UpstreamError> {
        let deadlines = &self.shared.options.deadlines;
        let slot = self.tokens().slot(key.clone().with_credential(loaded.id));
        let refusal = match slot
            .token(self.endpoint, Some(&loaded.credential), deadlines)
            .await
        {
            Ok(token) => return Ok((slot, token)),
            Err(error) => error,
        };
        if !is_refused_token(&refusal) || !loaded.may_be_old(started) {
            return Err(refusal);
        }
        match self.load_credential(Some(started)).await? {
            Some(newer) if newer.id != loaded.id => {
                let slot = self.tokens().slot(key.with_credential(newer.id));
                let token = slot
                    .token(self.endpoint, Some(&newer.credential), deadlines)
                    .await?;
                Ok((slot, token))
            }
            _ => Err(refusal),
        }
    }

    /// Returns an anonymous token of a service without the right to our credentials. The request is
    /// sent only if the policy for unlisted registries allows it. A service without this right must
    /// not choose internal hosts to probe.
    async fn anonymous_token(&self, key: TokenKey) -> Result<(Arc<Slot>, Token), UpstreamError> {
        let unlisted = self.table.as_unlisted(self.endpoint);
        let host = host_of(key.realm());
        // The policy may allow plain http for unlisted registries, but not for a realm of an https
        // registry.
        let plain = self.endpoint.origin().scheme() == "https" && key.realm().scheme() != "https";
        if plain || unlisted.policy.check_url(key.realm()).is_err() {
            let reason = Refusal::Realm;
            return Err(UpstreamError::Refused { host, reason });
        }
        tracing::warn!(
            registry = %self.request.namespace, realm = %host,
            "credentials withheld from an unlisted token service"
        );
        let slot = self.tokens().slot(key);
        let token = slot
            .token(&unlisted, None, &self.shared.options.deadlines)
            .await?;
        Ok((slot, token))
    }

    /// Returns the credentials themselves, for the registry. Operator credentials are recorded, to
    /// be sent first from now on. Client credentials are always sent first.
    async fn registry_credential(
        &self,
        not_before: Option<Instant>,
    ) -> Result<Option<SentCredential>, UpstreamError> {
        let Some(loaded) = self.load_credential(not_before).await? else {
            return Ok(None);
        };
        let credential = loaded
            .credential
            .for_registry()
            .map(|secret| SentCredential::Credential(loaded, secret));
        if credential.is_some() && matches!(self.owner, CredentialOwner::Operator(_)) {
            self.remember(First::Credential);
        }
        Ok(credential)
    }

    fn remember(&self, first: First) {
        let requester = self.requester();
        self.tokens()
            .remember(&requester, &self.request.repository, first);
    }

    async fn load_credential(
        &self,
        not_before: Option<Instant>,
    ) -> Result<Option<LoadedCredential>, UpstreamError> {
        match self.owner {
            CredentialOwner::Operator(source) => {
                let UpstreamRequest {
                    namespace,
                    repository,
                    ..
                } = self.request;
                source.find(namespace, repository, not_before).await
            }
            CredentialOwner::Client(_, loaded) => Ok(loaded.cloned()),
            CredentialOwner::Anonymous => Ok(None),
        }
    }

    /// Returns the token cache of the request's registry.
    pub(super) fn tokens(&self) -> &Tokens {
        &self.table.entry(&self.request.namespace).tokens
    }

    fn requester(&self) -> Requester {
        Requester {
            namespace: self.request.namespace.clone(),
            place: self.endpoint.base.as_str().into(),
            principal: match self.owner {
                CredentialOwner::Operator(_) => Principal::Operator,
                CredentialOwner::Client(_, Some(loaded)) => Principal::Client(loaded.id),
                CredentialOwner::Client(_, None) | CredentialOwner::Anonymous => Principal::Anonymous,
            },
        }
    }
}

/// Returns whether a token service has refused a token.
fn is_refused_token(error: &UpstreamError) -> bool {
    matches!(
        error,
        UpstreamError::Status {
            verdict: ResponseVerdict::Challenge | ResponseVerdict::Forbidden,
            phase: Phase::Token,
            ..
        }
    )
}
