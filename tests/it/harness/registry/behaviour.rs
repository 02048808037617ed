//! Deviations of real registries: locations of blobs, unsupported requests, pull limits.
//!
//! [`Registry::preset`] imitates a real registry. A test may then change single properties.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::access::{Auth, Scheme, TokenField};
use super::{Answer, Framing, Kind, RecordedRequest, Registry, Reply, split_path};
use crate::harness::content::Content;

/// Real registries in common use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    DockerHub,
    Ghcr,
    EcrPublic,
    /// With the user `AWS`. The test sets the password.
    EcrPrivate,
    Gar,
    Quay,
    Mcr,
    Acr,
    Artifactory,
}

/// Deviations of a complete registry from the default behaviour. Rules of a test take precedence.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// The status for HEAD of a manifest, or of a blob, if HEAD is unsupported.
    pub head_manifest: Option<u16>,
    pub head_blob: Option<u16>,
    /// An index returns 404 unless the client accepts indexes.
    pub strict_accept: bool,
    /// Manifest responses have neither a digest nor a length.
    pub bare_manifests: bool,
    /// The object store that blobs are redirected to.
    pub store: Option<Store>,
    /// The base URL that manifests are redirected to, followed by the repository:
    /// `http://host/v2/some/where`.
    pub manifests_at: Option<String>,
    /// The status for a request with several ranges.
    pub multi_range: Option<u16>,
    /// Header fields of every answer.
    pub fields: Vec<(String, String)>,
    pub budget: Option<Budget>,
    /// The redirect target of `/referrers/`, an HTML page.
    pub referrers_page: Option<String>,
    /// Blobs are readable only in the repositories that contain the blob.
    pub blobs_belong: bool,
}

/// An object store behind redirects with signed URLs. Each URL is valid for a single method and a
/// limited time.
#[derive(Clone)]
pub struct Store {
    /// The store's origin, or empty for redirects without a host.
    pub origin: String,
    pub status: u16,
    pub ttl: Duration,
    /// Whether HEAD of a blob redirects to a URL signed for HEAD. Otherwise the URL is signed for
    /// GET.
    pub signs_head: bool,
}

impl Store {
    pub fn at(addr: SocketAddr) -> Self {
        Store {
            origin: format!("http://{addr}"),
            status: 307,
            ttl: Duration::from_secs(300),
            signs_head: true,
        }
    }
}

/// A pull budget. A GET of a manifest counts as a pull, a HEAD does not.
#[derive(Clone, Debug)]
pub struct Budget {
    pub limit: u64,
    pub window: Duration,
    pub left: u64,
    pub retry_after: Option<u64>,
}

impl Budget {
    pub fn hub(left: u64) -> Self {
        Budget {
            limit: 100,
            window: Duration::from_secs(21_600),
            left,
            retry_after: None,
        }
    }
}

/// The body of Docker Hub's answer after the pull limit is reached.
pub const PULL_LIMIT_BODY: &str = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"}]}"#;

/// The valid signed URLs. Maps each signature to digest, method and expiry.
#[derive(Default)]
pub(super) struct Signatures {
    good: HashMap<String, (String, String, Instant)>,
    given: u64,
}

impl Signatures {
    pub fn forget(&mut self) {
        self.good.clear();
    }

    fn sign(&mut self, digest: &str, method: &str, ttl: Duration) -> String {
        self.given += 1;
        let signature = format!("sig{}", crate::harness::content::mix(self.given));
        let until = Instant::now() + ttl;
        self.good
            .insert(signature.clone(), (digest.into(), method.into(), until));
        signature
    }

    /// Returns the error for an invalid store request. `Authorization` is allowed only if the store
    /// is on the registry's own host.
    pub fn refuse(&self, store: &Store, seen: &RecordedRequest, digest: &str) -> Option<Answer> {
        let refuse = |status, code: &str| {
            let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
            let mut answer = Answer::ok("application/xml", Content::from(body.as_str()));
            answer.status = status;
            Some(answer)
        };
        if !store.origin.is_empty() && seen.field("authorization").is_some() {
            return refuse(400, "InvalidArgument");
        }
        let signature = seen.target.split_once("signature=").map_or("", |(_, rest)| rest);
        match self.good.get(signature) {
            Some((of, method, until)) if of == digest && *method == seen.method => {
                if Instant::now() < *until {
                    None
                } else {
                    refuse(403, "ExpiredToken")
                }
            }
            Some(_) => refuse(403, "SignatureDoesNotMatch"),
            None => refuse(403, "AccessDenied"),
        }
    }
}

impl Behaviour {
    /// Answers requests that this registry does not support, before authentication.
    pub(super) fn reject(&self, seen: &RecordedRequest) -> Option<Answer> {
        if let Some(page) = &self.referrers_page
            && seen.target.contains("/referrers/")
        {
            return Some(Answer::redirect(303, page));
        }
        let head = seen.method == "HEAD";
        match seen.kind {
            Kind::Blob if head => self.head_blob.map(Answer::error),
            Kind::Manifest if head => self.head_manifest.map(Answer::error),
            _ => None,
        }
    }

    /// Redirects an authorized client to the location of the content.
    pub(super) fn redirect(&self, seen: &RecordedRequest, signatures: &mut Signatures) -> Option<Answer> {
        let path = seen.target.split('?').next().unwrap_or_default();
        match (seen.kind, &self.store, &self.manifests_at) {
            (Kind::Blob, Some(store), _) => {
                let (_, digest) = split_path(path)?;
                let method = if store.signs_head { &seen.method } else { "GET" };
                let signature = signatures.sign(digest, method, store.ttl);
                let location = format!("{}/cdn/{digest}?signature={signature}", store.origin);
                Some(Answer::redirect(store.status, &location))
            }
            (Kind::Manifest, _, Some(base)) => {
                let location = format!("{base}/{}", path.strip_prefix("/v2/")?);
                Some(Answer::redirect(307, &location))
            }
            _ => None,
        }
    }

    /// Counts a pull. Returns an error if no pulls are left.
    pub(super) fn charge(&mut self, seen: &RecordedRequest) -> Option<Answer> {
        let budget = self.budget.as_mut()?;
        if seen.kind != Kind::Manifest || seen.method != "GET" {
            return None;
        }
        if budget.left > 0 {
            budget.left -= 1;
            return None;
        }
        let mut answer = Answer::ok("application/json", Content::from(PULL_LIMIT_BODY));
        answer.status = 429;
        if let Some(seconds) = budget.retry_after {
            answer = answer.with("Retry-After", seconds.to_string());
        }
        Some(answer)
    }

    /// Applies the final changes to an answer.
    pub(super) fn finish(&self, seen: &RecordedRequest, answer: &mut Answer, reply: &mut Reply) {
        if let Some(budget) = &self.budget
            && seen.kind == Kind::Manifest
        {
            let window = budget.window.as_secs();
            for (name, value) in [
                ("ratelimit-limit", format!("{};w={window}", budget.limit)),
                ("ratelimit-remaining", format!("{};w={window}", budget.left)),
                ("docker-ratelimit-source", "192.0.2.7".into()),
            ] {
                answer.fields.push((name.into(), value.into()));
            }
        }
        for (name, value) in &self.fields {
            answer.fields.push((name.clone(), value.clone().into()));
        }
        if self.bare_manifests && seen.kind == Kind::Manifest && answer.status == 200 {
            answer
                .fields
                .retain(|(name, _)| name != "Docker-Content-Digest" && name != "ETag");
            reply.framing.get_or_insert(Framing::Chunked);
        }
        if let Some(status) = self.multi_range
            && seen.field("range").is_some_and(|range| range.contains(','))
        {
            *answer = Answer::error(status);
        }
    }

    /// Whether the client does not accept this media type.
    pub(super) fn unacceptable(&self, seen: &RecordedRequest, media_type: &str) -> bool {
        let accepts = |(name, value): &(String, Vec<u8>)| {
            name.eq_ignore_ascii_case("accept") && String::from_utf8_lossy(value).contains(media_type)
        };
        self.strict_accept && media_type.contains("image.index") && !seen.fields.iter().any(accepts)
    }
}

impl Registry {
    /// Creates a registry that imitates a real registry, with separate listeners for tokens and
    /// blobs if needed.
    pub fn preset(which: Preset) -> Self {
        let registry = Registry::new();
        let mut auth = None;
        let mut behaviour = Behaviour {
            blobs_belong: true,
            ..Behaviour::default()
        };
        let elsewhere = || Some(Store::at(registry.add_listener()));
        match which {
            Preset::DockerHub => {
                let tokens = registry.add_listener();
                auth = Some(Auth {
                    service: "registry.docker.io".into(),
                    realm: Some(format!("http://{tokens}/token")),
                    ..Auth::default()
                });
                behaviour.store = elsewhere();
                behaviour.budget = Some(Budget::hub(100));
            }
            Preset::Ghcr => {
                auth = Some(Auth {
                    service: "ghcr.io".into(),
                    token_field: TokenField::Token,
                    tells_expiry: false,
                    token_refused: Some(403),
                    hidden: 403,
                    ..Auth::default()
                });
                behaviour.strict_accept = true;
                behaviour.store = elsewhere().map(|store| Store {
                    signs_head: false,
                    ..store
                });
                behaviour.referrers_page = Some(format!("http://{}/web/page", registry.addr()));
            }
            Preset::EcrPublic => {
                auth = Some(Auth {
                    service: "public.ecr.aws".into(),
                    path: "/token/",
                    scope: Some("aws"),
                    expired: 400,
                    ..Auth::default()
                });
                behaviour.head_blob = Some(401);
                behaviour.store = elsewhere();
            }
            Preset::EcrPrivate => {
                auth = Some(Auth {
                    scheme: Scheme::Basic,
                    hidden: 403,
                    ..Auth::default()
                });
                behaviour.store = elsewhere();
            }
            Preset::Gar => {
                auth = Some(Auth {
                    path: "/v2/token",
                    hidden: 403,
                    post_refused: Some(404),
                    ..Auth::default()
                });
                behaviour.store = Some(Store {
                    origin: String::new(),
                    status: 302,
                    ttl: Duration::from_secs(300),
                    signs_head: true,
                });
                behaviour.multi_range = Some(400);
                behaviour.fields = (0..40)
                    .map(|n| (format!("X-Goog-Meta-{n}"), "g".repeat(200)))
                    .collect();
            }
            Preset::Quay => {
                auth = Some(Auth {
                    path: "/v2/auth",
                    token_field: TokenField::Token,
                    ..Auth::default()
                });
                behaviour.store = elsewhere().map(|store| Store { status: 302, ..store });
            }
            Preset::Mcr => behaviour.store = elsewhere(),
            Preset::Acr => {
                auth = Some(Auth {
                    path: "/oauth2/token",
                    token_field: TokenField::AccessToken,
                    tells_expiry: false,
                    post_refused: Some(400),
                    ..Auth::default()
                });
                behaviour.store = elsewhere();
            }
            Preset::Artifactory => {
                auth = Some(Auth {
                    path: "/v2/token",
                    post_refused: Some(401),
                    other_challenges: vec!["Negotiate"],
                    ..Auth::default()
                });
                behaviour.bare_manifests = true;
            }
        }
        if let Some(auth) = auth {
            registry.require_tokens(auth);
        }
        registry.behaviour(|own| *own = behaviour);
        registry
    }
}

impl Answer {
    fn redirect(status: u16, location: &str) -> Self {
        let mut answer = Answer::empty().with("Location", location);
        answer.status = status;
        answer
    }
}
