//! `allow`: who may read what. The rules as the operator writes them, and sets of them.

use super::draft::Entry;
use super::entry::parse_name;
use super::glob::Glob;
use super::key::{ALLOW, ALLOW_HERE, KeySpec};
use super::reader::{Field, Reader, Told};
use super::registry::{Registries, RegistryName};
use crate::limits::ALLOW_RULES_MAX;
use crate::oci::{Namespace, Repository};

/// The word for whoever has shown nothing.
pub const ANONYMOUS: &str = "anonymous";

/// Some users, some registries, some repositories. What is not said means all of them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AllowRule {
    pub users: Option<Vec<Glob>>,
    pub registries: Option<Vec<RegistryName>>,
    pub repositories: Option<Vec<Glob>>,
}

/// All rules there are. None at all: everybody who came in reads everything.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Allow {
    /// For registries without rules of their own.
    pub everywhere: Option<Vec<AllowRule>>,
    /// For these entries, in place of those above.
    pub own: Vec<(RegistryName, Vec<AllowRule>)>,
}

/// Who asks, as rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visitor<'a> {
    /// Has shown nothing, or there is nobody to show it to.
    Anonymous,
    Named(&'a str),
}

/// A set of rules, by their number among all. Sets of different configurations have nothing to do with each other.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct RuleSet(Box<[u64]>);

impl AllowRule {
    fn is_for(&self, visitor: Visitor<'_>) -> bool {
        match (&self.users, visitor) {
            (None, _) => true,
            (Some(users), Visitor::Anonymous) => users.iter().any(|user| user.as_str() == ANONYMOUS),
            (Some(users), Visitor::Named(name)) => users.iter().any(|user| user.matches(name)),
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
    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.everywhere.is_none() && self.own.is_empty()
    }

    fn all(&self) -> impl Iterator<Item = &AllowRule> {
        let own = self.own.iter().flat_map(|(_, rules)| rules);
        self.everywhere.iter().flatten().chain(own)
    }

    /// The rules for `visitor`.
    pub fn rules_for(&self, visitor: Visitor<'_>) -> RuleSet {
        let numbers = self.all().zip(0..).filter(|(rule, _)| rule.is_for(visitor));
        RuleSet::of(numbers.map(|(_, number)| number))
    }

    /// Whether some rule is for people with a name.
    pub fn names_users(&self) -> bool {
        self.all()
            .any(|rule| rule.users.is_some() && !rule.is_for(Visitor::Anonymous))
    }

    /// Whether some rule says that those who have shown nothing are let in. A rule for all does not: it is about
    /// those who came in.
    pub fn names_anonymous(&self) -> bool {
        self.all()
            .any(|rule| rule.users.is_some() && rule.is_for(Visitor::Anonymous))
    }

    /// The rules that [`Visitor::Anonymous`] is named by, where a door stands before them.
    pub fn rules_that_name_anonymous(&self) -> RuleSet {
        let numbers = self
            .all()
            .zip(0..)
            .filter(|(rule, _)| rule.users.is_some() && rule.is_for(Visitor::Anonymous));
        RuleSet::of(numbers.map(|(_, number)| number))
    }
}

impl Registries {
    /// The rules that let somebody read this repository; `None` where everybody may.
    pub fn rules_about(&self, namespace: &Namespace, repository: &Repository) -> Option<RuleSet> {
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

    /// Whether some rule is in both. Allocates nothing.
    pub fn meets(&self, other: &RuleSet) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .any(|(ours, theirs)| ours & theirs != 0)
    }
}

/// What the file says about `allow`, all of it.
pub(super) fn collect(everywhere: Option<&Told<Vec<AllowRule>>>, entries: &[Entry]) -> Allow {
    let own = entries.iter().filter_map(|entry| {
        let rules = entry.allow.as_ref()?;
        Some((entry.name.value.clone(), rules.value.clone()))
    });
    Allow {
        everywhere: everywhere.map(|told| told.value.clone()),
        own: own.collect(),
    }
}

impl Reader<'_> {
    /// Rules for all registries.
    pub(super) fn allow(&mut self, field: Option<Field>) -> Option<Told<Vec<AllowRule>>> {
        self.rules(field, ALLOW)
    }

    /// Rules of one registry, which do not name it again.
    pub(super) fn allow_here(&mut self, field: Option<Field>) -> Option<Told<Vec<AllowRule>>> {
        self.rules(field, ALLOW_HERE)
    }

    fn rules(&mut self, field: Option<Field>, table: &'static [KeySpec]) -> Option<Told<Vec<AllowRule>>> {
        let key = field.as_ref().map(|field| field.path.clone())?;
        let before = self.mistakes.len();
        let maps = self.maps(field, table, None)?;
        let line = maps.line;
        let mut rules = Vec::new();
        for (place, mut fields) in maps.value {
            let rule = AllowRule {
                users: self.some(fields.take("users"), |text| Glob::new(text, None)),
                registries: self.some(fields.take("registries"), parse_name),
                repositories: self.some(fields.take("repositories"), parse_repositories),
            };
            if rule == AllowRule::default() && self.mistakes.len() == before {
                let why = "a rule names users, registries or repositories";
                self.note_unseen(place.line, &place.value, why);
            }
            rules.push(rule);
        }
        if rules.is_empty() && self.mistakes.len() == before {
            let why = "would let nobody read anything; leave it out, or name somebody";
            self.note_unseen(line, &key, why);
        }
        if rules.len() > ALLOW_RULES_MAX {
            self.note_unseen(line, &key, &format!("more than {ALLOW_RULES_MAX} rules"));
        }
        // With a mistake the configuration is refused as a whole.
        Some(Told { value: rules, line })
    }

    /// A list that must not be empty: in a rule, nothing said means all.
    fn some<T>(&mut self, field: Option<Field>, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let path = field.as_ref().map(|field| field.path.clone())?;
        let before = self.mistakes.len();
        let told = self.list(field, parse)?;
        if told.value.is_empty() && self.mistakes.len() == before {
            self.note_unseen(told.line, &path, "is empty; leave it out to mean all");
        }
        Some(told.value)
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

    fn registries(text: &str) -> Registries {
        Machine::with_file(text).config().registries
    }

    /// Whether `visitor` (`-`: anonymous) may read `registry/repository`.
    fn may(registries: &Registries, visitor: &str, what: &str) -> bool {
        let (registry, repository) = what.split_once('/').unwrap();
        let visitor = match visitor {
            "-" => Visitor::Anonymous,
            name => Visitor::Named(name),
        };
        registries
            .rules_about(&registry.parse().unwrap(), &repository.parse().unwrap())
            .is_none_or(|about| about.meets(&registries.allow.rules_for(visitor)))
    }

    #[test]
    fn a_rule_needs_the_user_the_registry_and_the_repository() {
        let all = registries(
            "allow:\n- {users: [ci-*, 'cert:builder-*'], registries: ['registry.lan:5000', '*.corp'], repositories: ['team/*', 'library/**']}\n- {users: [boss]}\n",
        );
        for (visitor, what, expected) in [
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
            assert_eq!(may(&all, visitor, what), expected, "{visitor} {what}");
        }
    }

    #[test]
    fn without_users_a_rule_is_for_everybody_and_without_rules_everything_is() {
        let open = registries("registries: {a.io: }\n");
        assert!(may(&open, "-", "a.io/x") && may(&open, "u", "b.io/x"));
        let listed = registries("allow: [{repositories: 'library/**'}]\n");
        for visitor in ["-", "u"] {
            assert!(may(&listed, visitor, "docker.io/library/nginx"));
            assert!(!may(&listed, visitor, "docker.io/other/nginx"));
        }
        let named = registries("allow: [{users: anonymous, repositories: pub/*}, {users: ['*']}]\n");
        assert!(may(&named, "-", "a.io/pub/x") && !may(&named, "-", "a.io/priv/x"));
        assert!(may(&named, "u", "a.io/priv/x"));
        assert!(named.allow.names_anonymous() && !listed.allow.names_anonymous());
    }

    #[test]
    fn rules_of_a_registry_stand_in_for_those_of_all() {
        let own = "registries:\n  a.io: {allow: [{users: alice}]}\n  '*.lan': {allow: {repositories: x/*}}\n  b.lan:\n";
        let both = registries(&format!("allow: [{{users: boss}}]\n{own}"));
        for (visitor, what, expected) in [
            ("alice", "a.io/x", true),
            ("boss", "a.io/x", false),
            ("boss", "other.io/x", true),
            ("alice", "other.io/x", false),
            ("alice", "c.lan/x/y", true),
            ("alice", "c.lan/y", false),
            ("boss", "b.lan/y", true),
            ("alice", "b.lan/y", false),
        ] {
            assert_eq!(may(&both, visitor, what), expected, "{visitor} {what}");
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
    fn mistakes_of_rules_have_their_place() {
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
            let mistakes = Machine::with_file(text).mistakes();
            assert_eq!(mistakes.len(), 1, "{text}: {mistakes:#?}");
            assert!(mistakes[0].contains(expected), "{text}: {mistakes:#?}");
        }
        let many = "{users: a}, ".repeat(ALLOW_RULES_MAX + 1);
        assert_eq!(
            Machine::with_file(&format!("allow: [{many}]")).mistakes().len(),
            1
        );
    }

    #[test]
    fn sets_of_many_rules_meet_where_they_share_one() {
        let set = |numbers: &[usize]| RuleSet::of(numbers.iter().copied());
        assert!(set(&[0, 64, 700]).meets(&set(&[700])));
        assert!(!set(&[0, 64, 700]).meets(&set(&[1, 63, 65, 701])));
        assert!(!set(&[]).meets(&set(&[0])) && !set(&[]).meets(&set(&[])));
    }
}
