//! The access rules of `allow`.

use super::glob::Glob;
use super::registry_name::RegistryName;

/// The user name of anonymous clients in a rule.
pub const ANONYMOUS: &str = "anonymous";

/// A grant of some users for some repositories of some registries. An absent part means all.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AllowRule {
    pub users: Option<Vec<Glob>>,
    pub registries: Option<Vec<RegistryName>>,
    pub repositories: Option<Vec<Glob>>,
}

/// All rules. Without any rule, every accepted client reads everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Allow {
    /// Rules for registries without own rules.
    pub everywhere: Option<Vec<AllowRule>>,
    /// Rules of single registries. They replace `everywhere` for these registries.
    pub own: Vec<(RegistryName, Vec<AllowRule>)>,
}

impl Allow {
    /// Returns whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.everywhere.is_none() && self.own.is_empty()
    }

    /// Returns every rule, in the order of the rule numbers in a `RuleSet`.
    pub fn all(&self) -> impl Iterator<Item = &AllowRule> {
        let own = self.own.iter().flat_map(|(_, rules)| rules);
        self.everywhere.iter().flatten().chain(own)
    }

    /// Returns whether a rule requires a user name.
    pub fn names_users(&self) -> bool {
        self.all().any(|rule| {
            let users = rule.users.as_ref();
            users.is_some_and(|users| !users.iter().any(|user| user.as_str() == ANONYMOUS))
        })
    }
}
