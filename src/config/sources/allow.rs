//! `allow`: the access rules of the file.

use super::super::model::{Allow, AllowRule, Glob, RegistryName};
use super::keys::{ALLOW, ALLOW_HERE, Table};
use super::partial_registry::PartialEntry;
use super::reader::{Field, Reader, Spanned};
use crate::limits::ALLOW_RULES_MAX;
use crate::oci::Repository;

/// Collects all access rules of the file.
pub(in crate::config) fn collect_rules(
    everywhere: Option<&Spanned<Vec<AllowRule>>>,
    entries: &[PartialEntry],
) -> Allow {
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
    /// Reads rules for all registries.
    pub(super) fn allow(&mut self, field: Option<Field>) -> Option<Spanned<Vec<AllowRule>>> {
        self.rules(field, ALLOW)
    }

    /// Reads rules of a single registry. These rules do not name registries.
    pub(super) fn allow_here(&mut self, field: Option<Field>) -> Option<Spanned<Vec<AllowRule>>> {
        self.rules(field, ALLOW_HERE)
    }

    fn rules(&mut self, field: Option<Field>, table: Table) -> Option<Spanned<Vec<AllowRule>>> {
        let key = field.as_ref().map(|field| field.path.clone())?;
        let before = self.diagnostics.len();
        let maps = self.maps(field, table, None)?;
        let line = maps.line;
        let mut rules = Vec::new();
        for (place, mut fields) in maps.value {
            let rule = AllowRule {
                users: self.filled(fields.take("users"), |text| Glob::new(text, None)),
                registries: self.filled(fields.take("registries"), RegistryName::parse),
                repositories: self.filled(fields.take("repositories"), parse_repositories),
            };
            if rule == AllowRule::default() && self.diagnostics.len() == before {
                let why = "a rule names users, registries or repositories";
                self.record_error_at(place.line, &place.value, why);
            }
            rules.push(rule);
        }
        if rules.is_empty() && self.diagnostics.len() == before {
            let why = "is empty, so no client could read; add a rule or remove allow";
            self.record_error_at(line, &key, why);
        }
        if rules.len() > ALLOW_RULES_MAX {
            self.record_error_at(line, &key, &format!("more than {ALLOW_RULES_MAX} rules"));
        }
        // A diagnostic rejects the configuration as a whole.
        Some(Spanned { value: rules, line })
    }

    /// Reads a list that must not be empty, because an absent list in a rule means all.
    fn filled<T>(
        &mut self,
        field: Option<Field>,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let path = field.as_ref().map(|field| field.path.clone())?;
        let before = self.diagnostics.len();
        let spanned = self.list(field, parse)?;
        if spanned.value.is_empty() && self.diagnostics.len() == before {
            self.record_error_at(spanned.line, &path, "is empty; remove the key to mean all");
        }
        Some(spanned.value)
    }
}

/// Parses a pattern, and checks that a repository can match.
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
            "expected a repository's name without its registry and its tag, with `*` within a part and `**` across parts"
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
    fn diagnostics_of_rules_name_line_and_key() {
        for (text, expected) in [
            ("allow: []", "f.yaml:1: allow: is empty, so no client"),
            ("allow: [{}]", "f.yaml:1: allow[0]: a rule names users"),
            ("allow: [{users: []}]", "allow[0].users: is empty"),
            ("allow: [{users: ['']}]", "allow[0].users: is empty"),
            (
                "allow: [{registries: 'a/b'}]",
                "allow[0].registries: \"a/b\": expected a registry",
            ),
            (
                "allow: [{repositories: 'Team/*'}]",
                "allow[0].repositories: \"Team/*\": expected",
            ),
            (
                "allow: [{repositories: '/x'}]",
                "allow[0].repositories: \"/x\": expected",
            ),
            (
                "allow: [{repositories: 'x:1'}]",
                "allow[0].repositories: \"x:1\": expected",
            ),
            ("allow: [{user: x}]", "did you mean users?"),
            ("allow: everything", "allow[0]: expected a map of users, "),
            (
                "registries: {a: {allow: []}}",
                "registries.a.allow: is empty, so no",
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
