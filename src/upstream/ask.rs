//! The conversation with one place about one request: what it asks for in the way of credentials, and what it gets.

use std::sync::Arc;

use http::HeaderMap;
use tokio::time::Instant;

use super::auth::Secret;
use super::auth::challenge::{self, Challenge};
use super::auth::logins::{Held, Logins};
use super::auth::realm::may_see_credentials;
use super::auth::token::{Asker, First, Slot, Token, TokenKey, Tokens, Who};
use super::endpoint::Endpoint;
use super::error::{Phase, Refusal, UpstreamError};
use super::exchange::{self, Answer, Question, Redirects, host_of};
use super::response::Response;
use super::table::Table;
use super::verdict::Verdict;
use super::{Request, Shared, cure};

/// Answers one request may cost, redirects aside: without anything, with what was kept, with a new one, and with the
/// credentials where a token did not do.
const ROUNDS_MAX: usize = 4;

/// Answers a kept token that has expired with 400, where others answer 401.
const ANSWERS_400_TO_OLD_TOKENS: &str = "public.ecr.aws";

/// With whose credentials a place is asked.
#[derive(Clone, Copy)]
pub(super) enum Whose<'a> {
    Nobody,
    Ours(&'a Logins),
    /// Sent as it is. A name with a password also gets the token that the registry wants instead; anything else
    /// gets none.
    Client(&'a Secret, Option<&'a Held>),
}

/// One request to one place.
pub(super) struct Asked<'a> {
    pub shared: &'a Shared,
    pub table: &'a Table,
    pub endpoint: &'a Endpoint,
    pub request: &'a Request,
    pub whose: Whose<'a>,
}

/// What has happened in a conversation.
struct SoFar {
    started: Instant,
    /// A token that was fetched for this request did not help.
    token_refused: bool,
}

/// What was sent to prove that we may read.
enum Proof {
    Token(Arc<Slot>, Token),
    Login(Held, Secret),
}

impl Proof {
    fn secret(&self) -> &Secret {
        match self {
            Proof::Token(_, token) => &token.secret,
            Proof::Login(_, secret) => secret,
        }
    }

    /// Whether credentials are behind it.
    fn is_with_login(&self) -> bool {
        match self {
            Proof::Token(slot, _) => slot.login().is_some(),
            Proof::Login(..) => true,
        }
    }

    /// Whether there may be a newer one, for a request that began at `started`.
    fn may_be_old(&self, started: Instant) -> bool {
        match self {
            Proof::Token(_, token) => token.fetched < started,
            Proof::Login(held, _) => held.may_be_old(started),
        }
    }
}

impl Asked<'_> {
    /// The content, or why there is none.
    pub async fn fetch(&self, question: &Question) -> Result<Response, UpstreamError> {
        let outcome = self.fetched(question).await;
        outcome.map_err(|error| cure::named(error, &self.request.namespace))
    }

    async fn fetched(&self, question: &Question) -> Result<Response, UpstreamError> {
        let (answer, public) = self.converse(question).await?;
        let mut response = exchange::conclude(answer, question, &self.shared.options.deadlines).await?;
        response.public = public;
        Ok(response)
    }

    /// Asks until the answer is one that another proof would not change, and says whether anybody would get it.
    async fn converse(&self, question: &Question) -> Result<(Answer, bool), UpstreamError> {
        if let Whose::Client(secret, None) = self.whose {
            return Ok((self.follow(question, Some(secret)).await?, false));
        }
        let mut so_far = SoFar {
            started: Instant::now(),
            token_refused: false,
        };
        let mut sent = self.first_proof().await;
        let mut round = 1;
        loop {
            let answer = self.follow(question, sent.as_ref().map(Proof::secret)).await?;
            let public = !self.endpoint.certified
                && !matches!(self.whose, Whose::Client(..))
                && !sent.as_ref().is_some_and(Proof::is_with_login);
            let challenges = match round {
                ROUNDS_MAX => None,
                _ => self.challenges(&answer, sent.as_ref(), so_far.started).await,
            };
            let Some(challenges) = challenges else {
                return Ok((answer, public));
            };
            let next = match self
                .next_proof(&answer.host, &challenges, sent, &mut so_far)
                .await
            {
                // There is no token for this client. One who has a login needs the challenge to get one, and so it is
                // the answer.
                Err(error) if !matches!(self.whose, Whose::Ours(_)) && is_refused_token(&error) => None,
                outcome => outcome?,
            };
            let Some(next) = next else {
                return Ok((answer, public));
            };
            // Read to its end, the refusal leaves its connection for the next round.
            exchange::read_bounded(answer.response, exchange::ERROR_BODY_BYTES_MAX).await;
            sent = Some(next);
            round += 1;
        }
    }

    async fn follow(&self, question: &Question, secret: Option<&Secret>) -> Result<Answer, UpstreamError> {
        let url = self.endpoint.url(&self.request.repository, &self.request.target);
        let deadlines = &self.shared.options.deadlines;
        let answer = exchange::follow(self.endpoint, url, question, secret, deadlines).await?;
        self.through_challengers(answer, question).await
    }

    /// What the registry wants to see after `answer` to `sent`; `None` where nothing would change the answer.
    async fn challenges(
        &self,
        answer: &Answer,
        sent: Option<&Proof>,
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

    /// Whether a refusal without a challenge may be for want of a login that we have. Some registries challenge at `/v2/`
    /// only, and answer to a stranger as if there were nothing.
    async fn may_hide(&self, answer: &Answer, sent: Option<&Proof>) -> bool {
        let stranger = match sent {
            None => true,
            // A client's password is sent unasked, to a registry that may want a token.
            Some(Proof::Login(..)) => matches!(self.whose, Whose::Client(..)),
            Some(Proof::Token(..)) => false,
        };
        let refused = matches!(answer.response.status().as_u16(), 401 | 403 | 404);
        stranger && refused && !answer.foreign && matches!(self.login(None).await, Ok(Some(_)))
    }

    /// The challenges of `/v2/`, which is asked once for all repositories.
    async fn challenges_of_ping(&self) -> Arc<[Challenge]> {
        let ask = async {
            let question = Question {
                method: http::Method::GET,
                headers: HeaderMap::new(),
                body: None,
                redirects: Redirects::Follow,
            };
            let deadlines = &self.shared.options.deadlines;
            let url = self.endpoint.ping();
            let answer = exchange::follow(self.endpoint, url, &question, None, deadlines)
                .await
                .ok()?;
            let asks = !answer.foreign && answer.response.status() == http::StatusCode::UNAUTHORIZED;
            let challenges = challenge::parse_challenges(answer.response.headers());
            exchange::read_bounded(answer.response, exchange::ERROR_BODY_BYTES_MAX).await;
            // Its scope is about `/v2/`; the token is to be for a repository.
            let ours = challenges.into_iter().map(|challenge| challenge.without("scope"));
            Some(if asks { ours.collect() } else { Vec::new() })
        };
        let place = self.asker().place;
        let slot = self.tokens().ping(&self.request.namespace, &place);
        slot.challenges(ask).await
    }

    /// Whether a proof, or another one, may change the answer.
    fn is_challenged(&self, answer: &Answer, sent: Option<&Proof>, started: Instant) -> bool {
        // A redirect target that wants credentials is broken: it must never see ours.
        !answer.foreign
            && match answer.response.status().as_u16() {
                401 => true,
                // ECR's answer to a password that has expired, and others' to a token that knows too little by now.
                403 => sent.is_some_and(|proof| proof.may_be_old(started)),
                400 => sent.is_some() && self.request.namespace.as_str() == ANSWERS_400_TO_OLD_TOKENS,
                _ => false,
            }
    }

    /// What to send before there is a challenge: what worked last time, or else what the client has sent.
    async fn first_proof(&self) -> Option<Proof> {
        let kept = self.kept_proof().await;
        match self.whose {
            Whose::Client(secret, Some(held)) => {
                Some(kept.unwrap_or_else(|| Proof::Login(held.clone(), secret.clone())))
            }
            _ => kept,
        }
    }

    /// What worked last time, renewed if it has expired.
    async fn kept_proof(&self) -> Option<Proof> {
        let asker = self.asker();
        let repository = &self.request.repository;
        let first = self.tokens().first(&asker, repository)?;
        let proof = match first {
            First::Login => self.login_proof(None).await.ok().flatten(),
            First::Token(slot) => self.renewed(slot).await,
        };
        if proof.is_none() {
            // The registry may have moved its token service, and the operator may have changed the credentials; the
            // next challenge says.
            self.tokens().forget(&asker, repository);
        }
        proof
    }

    async fn renewed(&self, slot: Arc<Slot>) -> Option<Proof> {
        if let Some(token) = slot.kept() {
            return Some(Proof::Token(slot, token));
        }
        let held = self.login(None).await.ok()?;
        if held.as_ref().map(|held| held.id) != slot.login() {
            return None;
        }
        let login = held.as_ref().map(|held| &*held.login);
        let token = slot
            .token(self.endpoint, login, &self.shared.options.deadlines)
            .await;
        token.ok().map(|token| Proof::Token(slot, token))
    }

    /// What to send after `sent` was answered with these challenges; `None` when nothing is left that could help.
    async fn next_proof(
        &self,
        host: &Arc<str>,
        challenges: &[Challenge],
        sent: Option<Proof>,
        so_far: &mut SoFar,
    ) -> Result<Option<Proof>, UpstreamError> {
        let started = so_far.started;
        let basic = challenges.iter().any(|challenge| challenge.scheme == "basic");
        let wanted = challenge::bearer(challenges).map(|bearer| self.key(host, bearer));
        let wanted = wanted.transpose()?;
        match sent {
            None => match wanted {
                Some(key) => self.token_proof(key, basic, started).await,
                None if basic => self.login_proof(None).await,
                // It wants something that we do not have.
                None => Ok(None),
            },
            Some(Proof::Token(slot, token)) => {
                let new = token.fetched >= started;
                // The very token it wants, fetched for this request: another would be refused as well.
                if new && wanted.as_ref().is_none_or(|key| slot.is_for(key)) {
                    so_far.token_refused = true;
                    return match basic {
                        true => self.login_proof(None).await,
                        false => Ok(None),
                    };
                }
                slot.discard(&token).await;
                match wanted {
                    Some(key) => self.token_proof(key, basic, started).await,
                    None => Ok(self.renewed(slot).await),
                }
            }
            Some(Proof::Login(held, _)) => {
                if held.may_be_old(started) {
                    let newer = self.login_proof(Some(started)).await?;
                    if matches!(&newer, Some(Proof::Login(newer, _)) if newer.id != held.id) {
                        return Ok(newer);
                    }
                }
                match wanted {
                    Some(key) if !so_far.token_refused && !held.login.is_token() => {
                        self.token_proof(key, false, started).await
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    fn key(&self, host: &Arc<str>, bearer: &Challenge) -> Result<TokenKey, UpstreamError> {
        let origin = self.endpoint.origin();
        TokenKey::new(&self.asker(), origin, &self.request.repository, bearer)
            .map_err(|what| UpstreamError::protocol(host, what))
    }

    /// The token for `key`. With `basic`, credentials that its token service may not see go to the registry itself
    /// instead.
    async fn token_proof(
        &self,
        key: TokenKey,
        basic: bool,
        started: Instant,
    ) -> Result<Option<Proof>, UpstreamError> {
        let deadlines = &self.shared.options.deadlines;
        let trusted = may_see_credentials(key.realm(), self.endpoint.origin(), &self.endpoint.realm_hosts);
        let (slot, token) = match self.login(None).await? {
            Some(held) if held.login.is_token() => return self.login_proof(None).await,
            Some(held) if trusted => self.token_with(key, held, started).await?,
            Some(_) if basic => return self.login_proof(None).await,
            // Anybody has been tried, and the client may be trusted there itself.
            Some(_) if matches!(self.whose, Whose::Client(..)) => return Ok(None),
            Some(_) => self.token_of_anybody(key).await?,
            None => {
                let slot = self.tokens().slot(key);
                let token = slot.token(self.endpoint, None, deadlines).await?;
                (slot, token)
            }
        };
        self.remember(First::Token(slot.clone()));
        Ok(Some(Proof::Token(slot, token)))
    }

    /// A token got with credentials; once more with newer ones, if a token service refuses those that were kept.
    async fn token_with(
        &self,
        key: TokenKey,
        held: Held,
        started: Instant,
    ) -> Result<(Arc<Slot>, Token), UpstreamError> {
        let deadlines = &self.shared.options.deadlines;
        let slot = self.tokens().slot(key.clone().with_login(held.id));
        let refusal = match slot.token(self.endpoint, Some(&held.login), deadlines).await {
            Ok(token) => return Ok((slot, token)),
            Err(error) => error,
        };
        if !is_refused_token(&refusal) || !held.may_be_old(started) {
            return Err(refusal);
        }
        match self.login(Some(started)).await? {
            Some(newer) if newer.id != held.id => {
                let slot = self.tokens().slot(key.with_login(newer.id));
                let token = slot.token(self.endpoint, Some(&newer.login), deadlines).await?;
                Ok((slot, token))
            }
            _ => Err(refusal),
        }
    }

    /// An anonymous token of a service that may not see our credentials. It is contacted only if it would be for a
    /// registry nobody named: who is not trusted with the credentials must not choose where inside we knock.
    async fn token_of_anybody(&self, key: TokenKey) -> Result<(Arc<Slot>, Token), UpstreamError> {
        let anybody = self.table.as_anybody(self.endpoint);
        let host = host_of(key.realm());
        // Plain http may be allowed for registries that nobody named, but not for what an https registry is sent.
        let plain = self.endpoint.origin().scheme() == "https" && key.realm().scheme() != "https";
        if plain || anybody.policy.check_url(key.realm()).is_err() {
            let reason = Refusal::Realm;
            return Err(UpstreamError::Refused { host, reason });
        }
        tracing::warn!(
            registry = %self.request.namespace, realm = %host,
            "a token service of another domain gets no credentials; list it in realm_hosts if it should"
        );
        let slot = self.tokens().slot(key);
        let token = slot.token(&anybody, None, &self.shared.options.deadlines).await?;
        Ok((slot, token))
    }

    /// The credentials themselves, for the registry; ours are to be sent first from now on, as a client's are anyway.
    async fn login_proof(&self, not_before: Option<Instant>) -> Result<Option<Proof>, UpstreamError> {
        let Some(held) = self.login(not_before).await? else {
            return Ok(None);
        };
        let proof = held.login.for_registry().map(|secret| Proof::Login(held, secret));
        if proof.is_some() && matches!(self.whose, Whose::Ours(_)) {
            self.remember(First::Login);
        }
        Ok(proof)
    }

    fn remember(&self, first: First) {
        let asker = self.asker();
        self.tokens().remember(&asker, &self.request.repository, first);
    }

    async fn login(&self, not_before: Option<Instant>) -> Result<Option<Held>, UpstreamError> {
        match self.whose {
            Whose::Ours(logins) => {
                let Request {
                    namespace,
                    repository,
                    ..
                } = self.request;
                logins.find(namespace, repository, not_before).await
            }
            Whose::Client(_, held) => Ok(held.cloned()),
            Whose::Nobody => Ok(None),
        }
    }

    /// The tokens of the request's registry.
    pub(super) fn tokens(&self) -> &Tokens {
        &self.table.entry(&self.request.namespace).tokens
    }

    fn asker(&self) -> Asker {
        Asker {
            namespace: self.request.namespace.clone(),
            place: self.endpoint.base.as_str().into(),
            who: match self.whose {
                Whose::Ours(_) => Who::Ours,
                Whose::Client(_, Some(held)) => Who::Client(held.id),
                Whose::Client(_, None) | Whose::Nobody => Who::Nobody,
            },
        }
    }
}

/// Whether a token service said no, rather than nothing.
fn is_refused_token(error: &UpstreamError) -> bool {
    matches!(
        error,
        UpstreamError::Status {
            verdict: Verdict::Challenge | Verdict::Forbidden,
            phase: Phase::Token,
            ..
        }
    )
}
