//! Passwords of `basic_auth_users`: bcrypt, asked one at a time, remembered, and equally slow for a user who does not exist.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use axum::http::HeaderValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::Semaphore;

/// Verdicts that are remembered, of good and of bad credentials each.
const REMEMBERED: usize = 256;

/// Requests that may wait for their turn: a flood of guesses must not make those who know a password wait for minutes.
const WAITING: usize = 64;

/// The most expensive hash that is taken: each step doubles the time, and 15 is two seconds already.
const MOST_COSTLY: u32 = 15;

/// What becomes of a request with credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// User and password are right.
    Admitted,
    /// They are wrong, or not there.
    Refused,
    /// Too many others are being asked for theirs.
    Busy,
}

/// The users, and what is known of credentials that were tried.
#[derive(Debug)]
pub(super) struct Users {
    hashes: BTreeMap<String, String>,
    /// The hash that an unknown user's password is compared with, in vain: the answer must not come sooner.
    decoy: String,
    one_at_a_time: Semaphore,
    waiting: Semaphore,
    verdicts: Verdicts,
}

impl Users {
    /// The users with their bcrypt hashes; `None` if there is no user. Fails with the name of a user whose hash is none.
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Result<Option<Self>, String> {
        for (user, hash) in &hashes {
            let known = ["$2a$", "$2b$", "$2y$"].iter().any(|version| hash.starts_with(version));
            let parts = bcrypt::HashParts::from_str(hash).ok().filter(|_| known);
            let Some(parts) = parts else {
                return Err(format!("basic_auth_users.{user} is no bcrypt hash ($2a$, $2b$ or $2y$)"));
            };
            if parts.get_cost() > MOST_COSTLY {
                let cost = parts.get_cost();
                return Err(format!(
                    "basic_auth_users.{user} has a hash of cost {cost}, more than {MOST_COSTLY}; write 10 to 12"
                ));
            }
        }
        let decoy = hashes.values().next().cloned();
        Ok(decoy.map(|decoy| Self {
            hashes,
            decoy,
            one_at_a_time: Semaphore::new(1),
            waiting: Semaphore::new(WAITING),
            verdicts: Verdicts::default(),
        }))
    }

    /// Whether an `Authorization` header names a user and the password.
    pub(super) async fn judge(&self, authorization: Option<&HeaderValue>) -> Verdict {
        let verdict = |admitted: bool| if admitted { Verdict::Admitted } else { Verdict::Refused };
        let Some(authorization) = authorization else { return Verdict::Refused };
        if let Some(admitted) = self.verdicts.of(authorization) {
            return verdict(admitted);
        }
        let Some((user, password)) = credentials(authorization) else { return Verdict::Refused };
        let known = self.hashes.get(&user);
        let exists = known.is_some();
        let hash = known.unwrap_or(&self.decoy).clone();
        let Ok(_place) = self.waiting.try_acquire() else { return Verdict::Busy };
        // The semaphore is never closed.
        let Ok(_turn) = self.one_at_a_time.acquire().await else { return Verdict::Refused };
        if let Some(admitted) = self.verdicts.of(authorization) {
            return verdict(admitted); // somebody with the same credentials was first
        }
        let compared = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash).unwrap_or(false));
        let admitted = compared.await.unwrap_or(false) && exists;
        self.verdicts.remember(authorization, admitted);
        verdict(admitted)
    }
}

/// User and password of `Basic …`.
fn credentials(authorization: &HeaderValue) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = authorization.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|byte| *byte == b':')?;
    let (user, password) = decoded.split_at(colon);
    Some((String::from_utf8(user.to_vec()).ok()?, password.get(1..)?.to_vec()))
}

/// Verdicts by a keyed 128-bit hash of the header, so that no password lies in memory. The keys are new at each start.
#[derive(Debug, Default)]
struct Verdicts {
    keys: (RandomState, RandomState),
    by_verdict: Mutex<[HashMap<u64, u64>; 2]>,
}

impl Verdicts {
    fn key(&self, authorization: &HeaderValue) -> (u64, u64) {
        let bytes = authorization.as_bytes();
        (self.keys.0.hash_one(bytes), self.keys.1.hash_one(bytes))
    }

    fn of(&self, authorization: &HeaderValue) -> Option<bool> {
        let (key, check) = self.key(authorization);
        let [bad, good] = &*self.by_verdict.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |verdicts: &HashMap<u64, u64>| verdicts.get(&key) == Some(&check);
        if is(good) { Some(true) } else { is(bad).then_some(false) }
    }

    fn remember(&self, authorization: &HeaderValue, verdict: bool) {
        let (key, check) = self.key(authorization);
        let [bad, good] = &mut *self.by_verdict.lock().unwrap_or_else(PoisonError::into_inner);
        // Guesses cannot push out the credentials that are in use: they are kept apart.
        let verdicts = if verdict { good } else { bad };
        if verdicts.len() >= REMEMBERED {
            verdicts.clear();
        }
        verdicts.insert(key, check);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `open sesame` at the lowest cost.
    fn users() -> Users {
        let hash = bcrypt::hash("open sesame", 4).unwrap();
        Users::new(BTreeMap::from([("alice".to_owned(), hash)])).unwrap().unwrap()
    }

    fn basic(user: &str, password: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))).unwrap()
    }

    #[tokio::test]
    async fn whoever_comes_while_too_many_wait_is_told_to_come_again() {
        let users = users();
        let others = users.waiting.acquire_many(u32::try_from(WAITING).unwrap()).await.unwrap();
        assert_eq!(users.judge(Some(&basic("alice", "open sesame"))).await, Verdict::Busy);
        drop(others);
        assert_eq!(users.judge(Some(&basic("alice", "open sesame"))).await, Verdict::Admitted);
        assert_eq!(users.judge(Some(&basic("alice", "guess"))).await, Verdict::Refused);
    }

    #[test]
    fn a_hash_that_takes_minutes_is_refused() {
        let hash = bcrypt::hash("x", 4).unwrap().replacen("$04$", "$31$", 1);
        let error = Users::new(BTreeMap::from([("alice".to_owned(), hash)])).unwrap_err();
        assert!(error.contains("alice") && error.contains("10 to 12"), "{error}");
    }
}
