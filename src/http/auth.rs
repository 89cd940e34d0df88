//! Passwords of `basic_auth_users`: bcrypt, one at a time, remembered, and equally slow whatever the user is called.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use super::peer::Peer;
use super::turns::{Turn, Turns};

/// Verdicts that are remembered, of good and of bad credentials each.
const REMEMBERED: usize = 256;

/// Credentials that may wait for their turn, of all addresses together.
const WAITING: usize = 64;

/// Of one address: at a cost of 10 the last of them waits for about a second.
const WAITING_PER_PEER: usize = 16;

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

impl From<bool> for Verdict {
    fn from(admitted: bool) -> Self {
        if admitted { Self::Admitted } else { Self::Refused }
    }
}

/// The users of one version of the file.
#[derive(Debug)]
pub(super) struct Users {
    hashes: BTreeMap<String, Hash>,
    /// The most expensive of the hashes. An unknown user's password is compared with it, in vain: the answer must not come sooner.
    decoy: Hash,
}

/// A bcrypt hash and its cost.
#[derive(Clone, Debug)]
struct Hash {
    text: String,
    cost: u32,
}

/// What is known of credentials that were tried, and those that are being tried. It outlives the versions of the file: a verdict is about
/// a password and a hash, so it holds as long as a user has this hash.
#[derive(Debug)]
pub(super) struct Checks {
    turns: Arc<Turns>,
    verdicts: Verdicts,
    /// Whoever comes with the same credentials meanwhile waits for the same comparison. It ends when nobody waits for it any more.
    running: Mutex<HashMap<Key, WeakShared<BoxFuture<'static, Verdict>>>>,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            turns: Turns::new(1, WAITING, WAITING_PER_PEER),
            verdicts: Verdicts::default(),
            running: Mutex::default(),
        }
    }
}

impl Users {
    /// The users with their bcrypt hashes; `None` if there is no user. Fails with the name of a user whose hash is none.
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let mut users = BTreeMap::new();
        for (user, text) in hashes {
            let known = ["$2a$", "$2b$", "$2y$"].iter().any(|version| text.starts_with(version));
            let parts = bcrypt::HashParts::from_str(&text).ok().filter(|_| known);
            let Some(parts) = parts else {
                return Err(format!("basic_auth_users.{user} is no bcrypt hash ($2a$, $2b$ or $2y$)"));
            };
            let cost = parts.get_cost();
            if cost > MOST_COSTLY {
                return Err(format!(
                    "basic_auth_users.{user} has a hash of cost {cost}, more than {MOST_COSTLY}; write 10 to 12"
                ));
            }
            users.insert(user, Hash { text, cost });
        }
        let decoy = users.values().max_by_key(|hash| hash.cost).cloned();
        Ok(decoy.map(|decoy| Self { hashes: users, decoy }))
    }

    /// Whether an `Authorization` header is known to be good, without asking bcrypt.
    pub(super) fn know(&self, checks: &Checks, authorization: Option<&HeaderValue>) -> bool {
        let Some((user, password)) = authorization.and_then(credentials) else { return false };
        let known = self.hashes.get(&user);
        known.is_some() && checks.verdicts.of(checks.verdicts.key(&user, &password, known)) == Some(true)
    }

    /// Whether an `Authorization` header of `peer` names a user and the password.
    pub(super) async fn judge(&self, checks: &Arc<Checks>, peer: Peer, authorization: Option<&HeaderValue>) -> Verdict {
        let Some((user, password)) = authorization.and_then(credentials) else { return Verdict::Refused };
        let known = self.hashes.get(&user).cloned();
        let key = checks.verdicts.key(&user, &password, known.as_ref());
        if let Some(admitted) = checks.verdicts.of(key) {
            return admitted.into();
        }
        let comparison = Comparison { password, known, decoy: self.decoy.clone() };
        checks.check(peer, key, comparison).await
    }
}

impl Checks {
    /// The verdict of a comparison that is begun or joined now.
    async fn check(self: &Arc<Self>, peer: Peer, key: Key, comparison: Comparison) -> Verdict {
        let check = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|_, check| check.upgrade().is_some());
            running.get(&key).and_then(WeakShared::upgrade).unwrap_or_else(|| {
                let check: Shared<BoxFuture<'static, Verdict>> =
                    Arc::clone(self).compare(peer, key, comparison).boxed().shared();
                running.extend(check.downgrade().map(|check| (key, check)));
                check
            })
        };
        check.await
    }

    async fn compare(self: Arc<Self>, peer: Peer, key: Key, comparison: Comparison) -> Verdict {
        let Ok(turn) = self.turns.take(peer).await else { return Verdict::Busy };
        if let Some(admitted) = self.verdicts.of(key) {
            return admitted.into(); // somebody with the same credentials was first
        }
        // The job has the turn: if the client goes away now, the next comparison still begins only after this one.
        let job = move || {
            let _turn: Turn = turn;
            let admitted = comparison.run();
            self.verdicts.remember(key, admitted);
            admitted
        };
        tokio::task::spawn_blocking(job).await.unwrap_or(false).into()
    }
}

/// A password that is to be compared.
struct Comparison {
    password: Vec<u8>,
    known: Option<Hash>,
    decoy: Hash,
}

impl Comparison {
    /// Takes as long for every user, known or not, as for the one with the most expensive hash: a time that is a user's own would tell
    /// which names there are. A step of cost doubles the time, so what a cheap hash lacks are the times of its own cost and of every one
    /// up to the highest.
    fn run(&self) -> bool {
        let hash = self.known.as_ref().unwrap_or(&self.decoy);
        let same = bcrypt::verify(&self.password, &hash.text).unwrap_or(false);
        for cost in hash.cost..self.decoy.cost {
            let _ = std::hint::black_box(bcrypt::hash_with_salt(&self.password, cost, [0; 16]));
        }
        same && self.known.is_some()
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

/// A keyed 128-bit hash of user, password and bcrypt hash.
type Key = (u64, u64);

/// Verdicts by such a key, so that no password lies in memory. What it is keyed with is new at each start.
#[derive(Debug, Default)]
struct Verdicts {
    keys: (RandomState, RandomState),
    by_verdict: Mutex<[HashMap<u64, u64>; 2]>,
}

impl Verdicts {
    fn key(&self, user: &str, password: &[u8], known: Option<&Hash>) -> Key {
        let all = (user, password, known.map(|hash| &hash.text));
        (self.keys.0.hash_one(all), self.keys.1.hash_one(all))
    }

    fn of(&self, (key, check): Key) -> Option<bool> {
        let [bad, good] = &*self.by_verdict.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |verdicts: &HashMap<u64, u64>| verdicts.get(&key) == Some(&check);
        if is(good) { Some(true) } else { is(bad).then_some(false) }
    }

    fn remember(&self, (key, check): Key, verdict: bool) {
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
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    use super::*;

    fn peer(number: u8) -> Peer {
        Peer::from(IpAddr::from(Ipv4Addr::new(10, 0, 0, number)))
    }

    fn users(hashes: &[(&str, &str)]) -> Users {
        let owned = hashes.iter().map(|(user, hash)| ((*user).to_owned(), (*hash).to_owned()));
        Users::new(owned.collect()).unwrap().unwrap()
    }

    /// `open sesame` at this cost.
    fn sesame(cost: u32) -> String {
        bcrypt::hash("open sesame", cost).unwrap()
    }

    fn basic(user: &str, password: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))).unwrap()
    }

    #[tokio::test]
    async fn whoever_comes_while_too_many_wait_is_told_to_come_again_and_others_are_not() {
        let (users, checks) = (users(&[("alice", &sesame(4))]), Arc::<Checks>::default());
        let turn = checks.turns.take(peer(1)).await.unwrap();
        let guesses: Vec<_> = (0..WAITING_PER_PEER).map(|guess| basic("alice", &guess.to_string())).collect();
        let mut flood: Vec<_> =
            guesses.iter().map(|guess| Box::pin(users.judge(&checks, peer(1), Some(guess)))).collect();
        assert!(flood.iter_mut().all(|guess| guess.now_or_never().is_none()));
        let good = basic("alice", "open sesame");
        assert_eq!(users.judge(&checks, peer(1), Some(&good)).await, Verdict::Busy);
        let mut other = Box::pin(users.judge(&checks, peer(2), Some(&good)));
        assert!((&mut other).now_or_never().is_none());
        drop(turn);
        let (other, flood) = tokio::join!(other, futures::future::join_all(flood));
        assert_eq!(other, Verdict::Admitted);
        assert!(flood.iter().all(|verdict| *verdict == Verdict::Refused), "{flood:?}");
    }

    #[tokio::test]
    async fn the_same_credentials_are_compared_once_however_many_come_with_them() {
        let (users, checks) = (users(&[("alice", &sesame(4))]), Arc::<Checks>::default());
        let turn = checks.turns.take(peer(1)).await.unwrap();
        let good = basic("alice", "open sesame");
        let many: Vec<_> = (0..4 * WAITING).map(|_| users.judge(&checks, peer(1), Some(&good))).collect();
        let all = futures::future::join_all(many);
        let ((), verdicts) = tokio::join!(async { drop(turn) }, all);
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Admitted), "{verdicts:?}");
    }

    #[tokio::test]
    async fn a_password_is_remembered_as_long_as_the_hash_stays() {
        let (first, second) = (sesame(4), sesame(4));
        let checks = Arc::<Checks>::default();
        let good = basic("alice", "open sesame");
        let old = users(&[("alice", &first), ("bob", &first)]);
        assert_eq!(old.judge(&checks, peer(1), Some(&good)).await, Verdict::Admitted);
        assert!(users(&[("alice", &first), ("carol", &second)]).know(&checks, Some(&good)), "another user has come");
        assert!(!users(&[("alice", &second)]).know(&checks, Some(&good)), "alice has another hash");
        assert!(!users(&[("bob", &first)]).know(&checks, Some(&good)), "alice has gone");
        assert!(!old.know(&checks, Some(&basic("bob", "open sesame"))), "bob was never asked");
    }

    #[test]
    fn every_user_takes_as_long_as_the_most_costly_one() {
        let (cheap, costly) = (sesame(4), sesame(9));
        let users = users(&[("cheap", &cheap), ("costly", &costly)]);
        let time = |known: Option<&str>| {
            let known = known.map(|user| users.hashes[user].clone());
            let comparison = Comparison { password: b"guess".to_vec(), known, decoy: users.decoy.clone() };
            let once = |_| {
                let start = Instant::now();
                assert!(!comparison.run());
                start.elapsed()
            };
            (0..5).map(once).min().unwrap_or(Duration::MAX)
        };
        let times = [time(Some("cheap")), time(Some("costly")), time(None)];
        let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        // On a busy machine none of five may have had a core to itself.
        assert!(*most < 8 * *least, "{times:?}, but 32 times as long without the equal cost");
    }

    #[test]
    fn a_hash_that_takes_minutes_is_refused() {
        let hash = bcrypt::hash("x", 4).unwrap().replacen("$04$", "$31$", 1);
        let error = Users::new(BTreeMap::from([("alice".to_owned(), hash)])).unwrap_err();
        assert!(error.contains("alice") && error.contains("10 to 12"), "{error}");
    }
}
