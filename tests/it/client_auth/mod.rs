//! Permissions of clients: authentication at the cache, and access to repositories.

/// Client authentication by password and htpasswd file.
mod passwords;

/// Access by rules of the configuration.
mod allow;

/// Private content: access by the upstream's permission for each user.
mod private;
