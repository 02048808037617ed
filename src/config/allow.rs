//! `allow`: who may read what. The rules as the operator writes them, and sets of them.

use super::entry::parse_name;
use super::glob::Glob;
use super::partial_registry::Entry;
use super::reader::{Field, Reader, Spanned};
use super::registry::RegistryName;
use super::schema_tables::{ALLOW, ALLOW_HERE, KeySpec};
use crate::limits::ALLOW_RULES_MAX;
use crate::oci::Repository;

/// The user name that stands for anonymous clients in a rule.
pub const ANONYMOUS: &str = "anonymous";

/// Some users, some registries, some repositories. What is not said means all of them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AllowRule {
    pub users: Option<Vec<Glob>>,
    pub registries: Option<Vec<RegistryName>>,
    pub repositories: Option<Vec<Glob>>,
}

/// All rules there are. Without any rule, every accepted client reads everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Allow {
    /// For registries without rules of their own.
    pub everywhere: Option<Vec<AllowRule>>,
    /// For these entries, in place of those above.
    pub own: Vec<(RegistryName, Vec<AllowRule>)>,
}

impl Allow {
    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.everywhere.is_none() && self.own.is_empty()
    }

    /// Every rule, in the order of their numbers in a `RuleSet`.
    pub fn all(&self) -> impl Iterator<Item = &AllowRule> {
        let own = self.own.iter().flat_map(|(_, rules)| rules);
        self.everywhere.iter().flatten().chain(own)
    }

    /// Whether some rule is for people with a name.
    pub fn names_users(&self) -> bool {
        self.all().any(|rule| {
            let users = rule.users.as_ref();
            users.is_some_and(|users| !users.iter().any(|user| user.as_str() == ANONYMOUS))
        })
    }
}

/// What the file says about `allow`, all of it.
pub(super) fn collect(everywhere: Option<&Spanned<Vec<AllowRule>>>, entries: &[Entry]) -> Allow {
    let own = entries.iter().filter_map(|entry| {
        let rules = entry.allow.as_ref()?;
        Some((entry.name.value.clone(), rules.value.clone()))
    });
    Allow {
        everywhere: everywhere.map(|spanned| spanned.value.clone()),
        own: own.collect(),
    }
}

impl Reader<'_> {
    /// Rules for all registries.
    pub(super) fn allow(&mut self, field: Option<Field>) -> Option<Spanned<Vec<AllowRule>>> {
        self.rules(field, ALLOW)
    }

    /// Rules of one registry, which do not name it again.
    pub(super) fn allow_here(&mut self, field: Option<Field>) -> Option<Spanned<Vec<AllowRule>>> {
        self.rules(field, ALLOW_HERE)
    }

    fn rules(&mut self, field: Option<Field>, table: &'static [KeySpec]) -> Option<Spanned<Vec<AllowRule>>> {
        let key = field.as_ref().map(|field| field.path.clone())?;
        let before = self.diagnostics.len();
        let maps = self.maps(field, table, None)?;
        let line = maps.line;
        let mut rules = Vec::new();
        for (place, mut fields) in maps.value {
            let rule = AllowRule {
                users: self.some(fields.take("users"), |text| Glob::new(text, None)),
                registries: self.some(fields.take("registries"), parse_name),
                repositories: self.some(fields.take("repositories"), parse_repositories),
            };
            if rule == AllowRule::default() && self.diagnostics.len() == before {
                let why = "a rule names users, registries or repositories";
                self.record_error_at(place.line, &place.value, why);
            }
            rules.push(rule);
        }
        if rules.is_empty() && self.diagnostics.len() == before {
            let why = "would let nobody read anything; leave it out, or name somebody";
            self.record_error_at(line, &key, why);
        }
        if rules.len() > ALLOW_RULES_MAX {
            self.record_error_at(line, &key, &format!("more than {ALLOW_RULES_MAX} rules"));
        }
        // A diagnostic rejects the configuration as a whole.
        Some(Spanned { value: rules, line })
    }

    /// A list that must not be empty: in a rule, nothing said means all.
    fn some<T>(&mut self, field: Option<Field>, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let path = field.as_ref().map(|field| field.path.clone())?;
        let before = self.diagnostics.len();
        let spanned = self.list(field, parse)?;
        if spanned.value.is_empty() && self.diagnostics.len() == before {
            self.record_error_at(spanned.line, &path, "is empty; leave it out to mean all");
        }
        Some(spanned.value)
    }
}

/// A pattern that some repository could match.
fn parse_repositories(text: &str) -> Result<Glob, String> {
    let mut example = String::new();
    for c in text.chars() {
        match c {
            '*' if example.ends_with('*') => {}
            other => example.push(other),
        }
    }
    if !Repository::is_valid(&example.replace('*', "a")) {
        return Err(
            "accepted is a repository's name without its registry and its tag, with `*` within a part and `**` across parts"
                .to_owned(),
        );
    }
    Glob::new(text, Some('/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::Machine;

    #[test]
    fn diagnostics_of_rules_have_their_place() {
        for (text, expected) in [
            ("allow: []", "f.yaml:1: allow: would let nobody read"),
            ("allow: [{}]", "f.yaml:1: allow[0]: a rule names users"),
            ("allow: [{users: []}]", "allow[0].users: is empty"),
            ("allow: [{users: ['']}]", "allow[0].users: is empty"),
            (
                "allow: [{registries: 'a/b'}]",
                "allow[0].registries: \"a/b\": a registry is",
            ),
            (
                "allow: [{repositories: 'Team/*'}]",
                "allow[0].repositories: \"Team/*\": accepted is",
            ),
            (
                "allow: [{repositories: '/x'}]",
                "allow[0].repositories: \"/x\": accepted is",
            ),
            (
                "allow: [{repositories: 'x:1'}]",
                "allow[0].repositories: \"x:1\": accepted is",
            ),
            ("allow: [{user: x}]", "did you mean users?"),
            ("allow: everything", "allow[0]: accepted is a map of users, "),
            (
                "registries: {a: {allow: []}}",
                "registries.a.allow: would let nobody",
            ),
            ("registries: {a: {allow: [{registries: [a]}]}}", "unknown key"),
        ] {
            let diagnostics = Machine::with_file(text).diagnostics();
            assert_eq!(diagnostics.len(), 1, "{text}: {diagnostics:#?}");
            assert!(diagnostics[0].contains(expected), "{text}: {diagnostics:#?}");
        }
        let many = "{users: a}, ".repeat(ALLOW_RULES_MAX + 1);
        assert_eq!(
            Machine::with_file(&format!("allow: [{many}]"))
                .diagnostics()
                .len(),
            1
        );
    }
}
