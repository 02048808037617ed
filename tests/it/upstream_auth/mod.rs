//! Authentication at registries: tokens, the operator's credentials, logins of clients.

/// Token flow, credentials, refusals, redirects.
mod tokens;

/// Logins of clients for registries.
mod client_login;

/// Secrets stay at their origin: canaries over realms, redirects and mirrors; helpers and files.
mod credentials;

/// Fronts that redirect the API into a registry with challenges of its own.
mod fronts;

/// Registries that challenge at `/v2/` only.
mod pings;

/// A real registry as upstream, with passwords and with tokens.
mod real_registry;
