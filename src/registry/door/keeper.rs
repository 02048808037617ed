//! One core's keeper of the door: looks at what a request shows, and remembers whom it has let in.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::desk::Outcome;
use super::locks::{Locks, Proof, basic};
use super::{FrontDoor, is_guarded};
use crate::cache::Lru;
use crate::config::{Allow, RuleSet, Visitor};
use crate::http::RequestHead;
use crate::limits::{GUEST_LIFE, GUESTS_PER_CORE_MAX};
use crate::runtime::clock::monotonic_seconds;

/// Who a request comes from, as far as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guest {
    /// There is no door, or not in front of this.
    Anybody,
    /// Has shown nothing at a door, which some rule lets by.
    Stranger,
    Named(Rc<str>),
}

/// Why a request stays outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turned {
    /// No password was shown; one would help.
    Away,
    /// The user name is not known, or the password is not the user's: the same in both cases.
    Wrong,
    /// The same, where only certificates open.
    Uncertified,
    /// Too many passwords are being checked.
    Busy,
}

pub struct Keeper {
    door: FrontDoor,
    state: RefCell<State>,
}

struct State {
    generation: u64,
    locks: Option<Arc<Locks>>,
    /// Whom this core has let in, or, of certificates, not. As the rules stood when it was renewed.
    known: Lru<Proof, Known>,
    /// The rules for those who show nothing.
    anonymous: Option<Rc<RuleSet>>,
}

#[derive(Clone)]
struct Known {
    /// `None`: a certificate that opens nothing.
    guest: Option<(Rc<str>, Rc<RuleSet>)>,
    /// Second of the clock that never jumps.
    until: u32,
}

fn turned_away(locks: &Locks) -> Turned {
    if locks.takes_passwords() {
        Turned::Away
    } else {
        Turned::Uncertified
    }
}

/// What a guest may be given out of memory.
#[derive(Debug)]
pub struct Pass {
    /// The rules for them.
    pub rules: Rc<RuleSet>,
    /// Whether they came in, so that what no rule is about is for them.
    pub inside: bool,
}

impl Keeper {
    /// With the rules of `allow`.
    pub fn new(door: FrontDoor, allow: &Allow) -> Self {
        let keeper = Keeper {
            door,
            state: RefCell::new(State {
                generation: 0,
                locks: None,
                known: Lru::new(GUESTS_PER_CORE_MAX as u64, GUESTS_PER_CORE_MAX),
                anonymous: None,
            }),
        };
        keeper.renew(allow);
        keeper
    }

    /// Whether what is remembered was under the door as it is.
    pub fn is_current(&self) -> bool {
        self.state.borrow().generation == self.door.generation()
    }

    /// Forgets everybody, and goes by the door as it is and the rules of `allow` from now on.
    pub fn renew(&self, allow: &Allow) {
        let mut state = self.state.borrow_mut();
        // The generation first: a change in between is seen as one later.
        state.generation = self.door.generation();
        state.locks = self.door.locks();
        state.known.clear();
        let rules = match &state.locks {
            None => Some(allow.rules_for(Visitor::Anonymous)),
            Some(_) => allow.names_anonymous().then(|| allow.rules_that_name_anonymous()),
        };
        state.anonymous = rules.map(Rc::new);
    }

    /// What to say to a stranger who has to stay outside.
    pub fn turn_away(&self) -> Turned {
        let state = self.state.borrow();
        state.locks.as_deref().map_or(Turned::Away, turned_away)
    }

    pub fn has_door(&self) -> bool {
        self.state.borrow().locks.is_some()
    }

    /// What `head` may be given out of memory, as far as that is known without asking anybody; `None`: ask. Allocates
    /// nothing.
    pub fn pass(&self, head: &RequestHead<'_>) -> Option<Pass> {
        let state = &mut *self.state.borrow_mut();
        let Some(locks) = &state.locks else {
            return state.anonymous.clone().map(|rules| Pass { rules, inside: true });
        };
        let now = monotonic_seconds();
        let fresh = |known: &mut Known| (now < known.until).then(|| known.guest.clone());
        if let Some(proof) = head.certificate.and_then(|shown| locks.certificate_proof(shown)) {
            // One that is not known yet may open.
            if let Some((_, rules)) = state.known.get(&proof).and_then(fresh)? {
                return Some(Pass { rules, inside: true });
            }
        }
        match head.authorization {
            None => state.anonymous.clone().map(|rules| Pass { rules, inside: false }),
            Some(authorization) => {
                let proof = locks.proof(basic(authorization)?);
                let (_, rules) = state.known.get(&proof).and_then(fresh)??;
                Some(Pass { rules, inside: true })
            }
        }
    }

    /// Lets `head` in, or not. `allow` has the rules as they are.
    ///
    /// # Cancellation
    ///
    /// A password that is being checked is remembered all the same.
    pub async fn admit(
        &self,
        head: &RequestHead<'_>,
        allow: &dyn Fn(Visitor<'_>) -> RuleSet,
    ) -> Result<Guest, Turned> {
        let Some(locks) = self
            .state
            .borrow()
            .locks
            .clone()
            .filter(|_| is_guarded(head.path))
        else {
            return Ok(Guest::Anybody);
        };
        let remember = |proof: Proof, name: Option<&str>| {
            let guest = name.map(|name| (Rc::from(name), Rc::new(allow(Visitor::Named(name)))));
            let named = guest.as_ref().map(|(name, _)| Rc::clone(name));
            self.remember(&locks, proof, guest);
            named
        };
        if let Some(shown) = head.certificate
            && let Some(proof) = locks.certificate_proof(shown)
            && let Some(name) = remember(proof, locks.opened_by(shown).as_deref())
        {
            return Ok(Guest::Named(name));
        }
        let away = turned_away(&locks);
        let Some(authorization) = head.authorization else {
            let strangers = self.state.borrow().anonymous.is_some();
            return if strangers { Ok(Guest::Stranger) } else { Err(away) };
        };
        let outcome = match basic(authorization) {
            Some(credentials) => self.check(&locks, credentials, head.peer).await,
            None => Outcome::No,
        };
        match (outcome, basic(authorization)) {
            (Outcome::Yes(name), Some(credentials)) => {
                let proof = locks.proof(credentials);
                Ok(Guest::Named(
                    remember(proof, Some(&name)).unwrap_or_else(|| Rc::from(&*name)),
                ))
            }
            (Outcome::Busy, _) => Err(Turned::Busy),
            (Outcome::No | Outcome::Yes(_), _) => {
                // Where no password opens, whatever is shown was meant for somebody else.
                if locks.takes_passwords() {
                    self.door.0.attempts.note(head.peer);
                }
                // A token or the like is no wrong password.
                let is_password = locks.takes_passwords() && basic(authorization).is_some();
                Err(if is_password { Turned::Wrong } else { away })
            }
        }
    }

    async fn check(&self, locks: &Locks, credentials: &str, peer: Option<IpAddr>) -> Outcome {
        if let Some(name) = locks.user(credentials) {
            return Outcome::Yes(name.into());
        }
        match locks.question(credentials) {
            Some(question) => {
                let proof = locks.proof(credentials);
                self.door.0.desk.ask(proof, question, peer).await
            }
            None => Outcome::No,
        }
    }

    /// Unless the door has changed meanwhile.
    fn remember(&self, locks: &Arc<Locks>, proof: Proof, guest: Option<(Rc<str>, Rc<RuleSet>)>) {
        let mut state = self.state.borrow_mut();
        let unchanged = state.locks.as_ref().is_some_and(|now| Arc::ptr_eq(now, locks));
        if unchanged {
            let until = monotonic_seconds().saturating_add(GUEST_LIFE.as_secs() as u32);
            state.known.insert(proof, Known { guest, until }, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::config::{AllowRule, CertificatePattern, FrontAuth, Glob, SecretText};
    use crate::http::Certificate;

    fn auth(password: bool, certificates: bool) -> Option<FrontAuth> {
        let pattern = CertificatePattern::new("CN=builder-*").unwrap();
        Some(FrontAuth {
            user: password.then(|| ("alice".into(), SecretText::new("p".into()))),
            certificates: if certificates { vec![pattern] } else { Vec::new() },
            ..FrontAuth::default()
        })
    }

    fn certificate(common_name: &str) -> Certificate {
        Certificate {
            common_name: Some(common_name.to_owned()),
            ..Certificate::default()
        }
    }

    /// `alice:p`, and `alice:q`.
    const RIGHT: &str = "Basic YWxpY2U6cA==";
    const WRONG: &str = "Basic YWxpY2U6cQ==";

    /// What somebody is told who shows these, at first and from memory.
    fn told(
        keeper: &Keeper,
        allow: &Allow,
        authorization: Option<&str>,
        common_name: Option<&str>,
    ) -> (Result<Guest, Turned>, Option<bool>) {
        let certificate = common_name.map(certificate);
        let head = RequestHead {
            path: "/v2/",
            authorization,
            certificate: certificate.as_ref(),
            ..RequestHead::refused()
        };
        let rules = |visitor: Visitor<'_>| allow.rules_for(visitor);
        let admitted = keeper.admit(&head, &rules).now_or_never();
        let admitted = admitted.expect("nothing here takes long");
        (admitted, keeper.pass(&head).map(|pass| pass.inside))
    }

    fn named(name: &str) -> (Result<Guest, Turned>, Option<bool>) {
        (Ok(Guest::Named(name.into())), Some(true))
    }

    #[test]
    fn either_proof_is_enough_and_a_certificate_counts_before_a_password() {
        let allow = Allow::default();
        let (away, none) = (Turned::Away, Turned::Uncertified);
        let stays = |turned| (Err(turned), None);
        for (auth, authorization, common_name, expected) in [
            (None, None, None, (Ok(Guest::Anybody), Some(true))),
            (None, Some(WRONG), Some("x"), (Ok(Guest::Anybody), Some(true))),
            (auth(true, false), None, Some("builder-1"), stays(away)),
            (auth(true, false), Some(RIGHT), None, named("alice")),
            (auth(true, true), Some(RIGHT), None, named("alice")),
            (auth(true, true), Some(RIGHT), Some("x"), named("alice")),
            (
                auth(true, true),
                Some(RIGHT),
                Some("builder-1"),
                named("cert:builder-1"),
            ),
            (
                auth(true, true),
                Some(WRONG),
                Some("builder-1"),
                named("cert:builder-1"),
            ),
            (auth(true, true), None, Some("builder-1"), named("cert:builder-1")),
            (auth(true, true), None, Some("x"), stays(away)),
            (auth(true, true), Some(WRONG), Some("x"), stays(Turned::Wrong)),
            (auth(true, false), Some(WRONG), None, stays(Turned::Wrong)),
            (auth(true, true), Some("Bearer x"), None, stays(away)),
            (
                auth(false, true),
                None,
                Some("builder-1"),
                named("cert:builder-1"),
            ),
            (auth(false, true), None, None, stays(none)),
            (auth(false, true), Some(RIGHT), Some("x"), stays(none)),
        ] {
            let keeper = Keeper::new(FrontDoor::new(auth.clone()).unwrap(), &allow);
            for _ in 0..2 {
                let told = told(&keeper, &allow, authorization, common_name);
                assert_eq!(told, expected, "{auth:?} {authorization:?} {common_name:?}");
            }
        }
    }

    #[test]
    fn whom_a_core_has_let_in_it_forgets_with_the_door() {
        let allow = Allow::default();
        let door = FrontDoor::new(auth(true, true)).unwrap();
        let keeper = Keeper::new(door.clone(), &allow);
        assert_eq!(told(&keeper, &allow, Some(RIGHT), None), named("alice"));
        door.replace(auth(false, true)).unwrap();
        assert!(!keeper.is_current());
        keeper.renew(&allow);
        assert!(keeper.is_current());
        assert_eq!(
            told(&keeper, &allow, Some(RIGHT), None),
            (Err(Turned::Uncertified), None)
        );
        door.replace(None).unwrap();
        keeper.renew(&allow);
        assert_eq!(
            told(&keeper, &allow, None, None),
            (Ok(Guest::Anybody), Some(true))
        );
    }

    #[test]
    fn a_stranger_is_let_by_where_a_rule_names_them() {
        let rule = |users: Option<&str>| AllowRule {
            users: users.map(|name| vec![Glob::new(name, None).unwrap()]),
            ..AllowRule::default()
        };
        let rules = |rules: Vec<AllowRule>| Allow {
            everywhere: Some(rules),
            ..Allow::default()
        };
        let told = |allow: &Allow| {
            let keeper = Keeper::new(FrontDoor::new(auth(true, false)).unwrap(), allow);
            told(&keeper, allow, None, None)
        };
        let stays = (Err(Turned::Away), None);
        assert_eq!(
            told(&rules(vec![rule(Some("anonymous"))])),
            (Ok(Guest::Stranger), Some(false))
        );
        assert_eq!(
            told(&rules(vec![rule(None)])),
            stays,
            "a rule for all is no hole in the door"
        );
        assert_eq!(told(&rules(vec![rule(Some("*"))])), stays);
    }
}
