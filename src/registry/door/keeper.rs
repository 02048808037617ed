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
    /// Nothing was shown, or something wrong; a password would help.
    Away,
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
                Err(away)
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
