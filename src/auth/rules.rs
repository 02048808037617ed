//! Decides by the rules of `allow` which repositories a client may read. Pure.

use crate::config::{ANONYMOUS, Allow, AllowRule, Registries};
use crate::oci::{Namespace, Repository};

/// The client of a request, for the evaluation of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A client without credentials, or any client of a cache without client authentication.
    Anonymous,
    User(&'a str),
}

/// A set of rules, as indexes into the list of all rules. Sets of different configurations are not
/// comparable.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RuleSet(Box<[u64]>);

impl AllowRule {
    fn is_for(&self, subject: Subject<'_>) -> bool {
        match (&self.users, subject) {
            (None, _) => true,
            (Some(users), Subject::Anonymous) => users.iter().any(|user| user.as_str() == ANONYMOUS),
            (Some(users), Subject::User(name)) => users.iter().any(|user| user.matches(name)),
        }
    }

    fn is_about(&self, namespace: &Namespace, repository: &Repository) -> bool {
        let registry = self
            .registries
            .as_ref()
            .is_none_or(|names| names.iter().any(|name| name.covers(namespace)));
        registry
            && self.repositories.as_ref().is_none_or(|patterns| {
                patterns
                    .iter()
                    .any(|pattern| pattern.matches(repository.as_str()))
            })
    }
}

impl Allow {
    /// Returns the rules for `subject`.
    pub fn rules_for(&self, subject: Subject<'_>) -> RuleSet {
        let numbers = self.all().zip(0..).filter(|(rule, _)| rule.is_for(subject));
        RuleSet::of(numbers.map(|(_, number)| number))
    }

    /// Returns whether some rule names `anonymous`. A rule without users does not count, because
    /// such a rule applies to accepted clients.
    pub fn names_anonymous(&self) -> bool {
        self.all()
            .any(|rule| rule.users.is_some() && rule.is_for(Subject::Anonymous))
    }

    /// Returns the rules that name [`Subject::Anonymous`], for a cache with client authentication.
    pub fn rules_that_name_anonymous(&self) -> RuleSet {
        let numbers = self
            .all()
            .zip(0..)
            .filter(|(rule, _)| rule.users.is_some() && rule.is_for(Subject::Anonymous));
        RuleSet::of(numbers.map(|(_, number)| number))
    }
}

impl Registries {
    /// Returns whether a client of a cache with or without client authentication may read this
    /// repository.
    pub fn allows(
        &self,
        subject: Subject<'_>,
        has_client_auth: bool,
        namespace: &Namespace,
        repository: &Repository,
    ) -> bool {
        let rules = match subject {
            Subject::User(_) if has_client_auth => self.allow.rules_for(subject),
            Subject::Anonymous if has_client_auth && !self.allow.names_anonymous() => return false,
            Subject::Anonymous if has_client_auth => self.allow.rules_that_name_anonymous(),
            // Without client authentication, every client is anonymous.
            _ => self.allow.rules_for(Subject::Anonymous),
        };
        self.rules_about(namespace, repository)
            .is_none_or(|about| about.intersects(&rules))
    }

    /// Returns the rules that allow reading this repository. Returns `None` if every accepted
    /// client may read.
    pub(super) fn rules_about(&self, namespace: &Namespace, repository: &Repository) -> Option<RuleSet> {
        if self.allow.is_empty() {
            return None;
        }
        let entry = self.entry(namespace).map(|entry| &entry.name);
        let mut first = self.allow.everywhere.as_ref().map_or(0, Vec::len);
        let mut own = None;
        for (name, rules) in &self.allow.own {
            if Some(name) == entry {
                own = Some((first, rules));
            }
            first += rules.len();
        }
        let everywhere = self.allow.everywhere.as_ref().map(|rules| (0, rules));
        let (first, rules) = own.or(everywhere)?;
        let about = rules
            .iter()
            .zip(first..)
            .filter(|(rule, _)| rule.is_about(namespace, repository));
        Some(RuleSet::of(about.map(|(_, number)| number)))
    }
}

impl RuleSet {
    fn of(numbers: impl Iterator<Item = usize>) -> Self {
        let mut words = Vec::new();
        for number in numbers {
            let (word, bit) = (number / 64, number % 64);
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << bit;
        }
        RuleSet(words.into())
    }

    /// Returns whether both sets share a rule. Allocates nothing.
    pub(super) fn intersects(&self, other: &RuleSet) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .any(|(ours, theirs)| ours & theirs != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::Machine;

    fn registries(text: &str) -> Registries {
        Machine::with_file(text).config().registries
    }

    /// Returns whether `subject` (`-` for anonymous) may read `registry/repository`.
    fn may(registries: &Registries, subject: &str, what: &str) -> bool {
        let (registry, repository) = what.split_once('/').unwrap();
        let subject = match subject {
            "-" => Subject::Anonymous,
            name => Subject::User(name),
        };
        registries
            .rules_about(&registry.parse().unwrap(), &repository.parse().unwrap())
            .is_none_or(|about| about.intersects(&registries.allow.rules_for(subject)))
    }

    #[test]
    fn a_rule_needs_the_user_the_registry_and_the_repository() {
        let all = registries(
            "allow:\n- {users: [ci-*, 'cert:builder-*'], registries: ['registry.lan:5000', '*.corp'], repositories: ['team/*', 'library/**']}\n- {users: [boss]}\n",
        );
        for (subject, what, expected) in [
            ("ci-1", "registry.lan:5000/team/app", true),
            ("ci-", "registry.lan:5000/library/a/b/c", true),
            ("cert:builder-7", "a.b.corp/team/app", true),
            ("ci-1", "registry.lan:5000/team/a/b", false),
            ("ci-1", "registry.lan:5000/team", false),
            ("ci-1", "registry.lan:5000/other", false),
            ("ci-1", "registry.lan:5001/team/app", false),
            ("ci-1", "corp/team/app", false),
            ("xci-1", "registry.lan:5000/team/app", false),
            ("builder-7", "registry.lan:5000/team/app", false),
            ("-", "registry.lan:5000/team/app", false),
            ("boss", "any.io/thing/at/all", true),
            ("-", "any.io/thing", false),
        ] {
            assert_eq!(may(&all, subject, what), expected, "{subject} {what}");
        }
    }

    #[test]
    fn rule_without_users_matches_every_client_and_no_rules_allow_everything() {
        let open = registries("registries: {a.io: }\n");
        assert!(may(&open, "-", "a.io/x") && may(&open, "u", "b.io/x"));
        let listed = registries("allow: [{repositories: 'library/**'}]\n");
        for subject in ["-", "u"] {
            assert!(may(&listed, subject, "docker.io/library/nginx"));
            assert!(!may(&listed, subject, "docker.io/other/nginx"));
        }
        let named = registries("allow: [{users: anonymous, repositories: pub/*}, {users: ['*']}]\n");
        assert!(may(&named, "-", "a.io/pub/x") && !may(&named, "-", "a.io/priv/x"));
        assert!(may(&named, "u", "a.io/priv/x"));
        assert!(named.allow.names_anonymous() && !listed.allow.names_anonymous());
    }

    #[test]
    fn rules_of_a_registry_replace_the_global_rules() {
        let own = "registries:\n  a.io: {allow: [{users: alice}]}\n  '*.lan': {allow: {repositories: x/*}}\n  b.lan:\n";
        let both = registries(&format!("allow: [{{users: boss}}]\n{own}"));
        for (subject, what, expected) in [
            ("alice", "a.io/x", true),
            ("boss", "a.io/x", false),
            ("boss", "other.io/x", true),
            ("alice", "other.io/x", false),
            ("alice", "c.lan/x/y", true),
            ("alice", "c.lan/y", false),
            ("boss", "b.lan/y", true),
            ("alice", "b.lan/y", false),
        ] {
            assert_eq!(may(&both, subject, what), expected, "{subject} {what}");
        }
        let alone = registries(own);
        assert!(may(&alone, "-", "other.io/x") && may(&alone, "-", "b.lan/y"));
        assert!(!may(&alone, "-", "a.io/x") && may(&alone, "alice", "a.io/x"));
    }

    #[test]
    fn docker_hub_is_one_registry_by_all_its_names() {
        let hub = registries("allow: [{registries: index.docker.io, repositories: library/*}]\n");
        assert!(may(&hub, "-", "docker.io/library/nginx"));
        assert!(may(&hub, "-", "registry-1.docker.io/library/nginx"));
    }

    #[test]
    fn rule_sets_intersect_only_if_they_share_a_rule() {
        let set = |numbers: &[usize]| RuleSet::of(numbers.iter().copied());
        assert!(set(&[0, 64, 700]).intersects(&set(&[700])));
        assert!(!set(&[0, 64, 700]).intersects(&set(&[1, 63, 65, 701])));
        assert!(!set(&[]).intersects(&set(&[0])) && !set(&[]).intersects(&set(&[])));
    }
}
