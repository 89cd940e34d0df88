//! `basic_auth_users` of exporter-toolkit. bcrypt is slow on purpose, so passwords are compared one at a time, results are cached, and a
//! comparison takes the same time for every user name, known or not.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::HeaderValue;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};

use crate::http::fair_semaphore::{ClientNetwork, FairLimits, FairPermit, FairSemaphore, QueueFull};

/// Results that are cached, of good and of bad credentials each.
const MAX_CACHED: usize = 256;

/// Comparisons, one at a time. At a cost of 10, the last of one client waits for about a second.
const COMPARISONS: FairLimits = FairLimits { permits: 1, queued: 64, queued_per_client: 16 };

/// The highest cost of a hash that is accepted: each step doubles the time, and 15 is two seconds already.
const MAX_COST: u32 = 15;

/// The result of an authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Authentication {
    Succeeded,
    /// The credentials are wrong or missing.
    Failed,
    /// Too many comparisons are queued.
    Busy,
}

impl From<bool> for Authentication {
    fn from(is_valid: bool) -> Self {
        if is_valid { Self::Succeeded } else { Self::Failed }
    }
}

/// The users of one version of the file.
#[derive(Debug)]
pub(super) struct BasicAuthUsers {
    hashes: BTreeMap<String, BcryptHash>,
    /// The hash of the highest cost. The password of an unknown user is compared with it, so that the answer does not come sooner.
    decoy: BcryptHash,
}

/// A bcrypt hash and its cost.
#[derive(Clone, Debug)]
struct BcryptHash {
    text: String,
    cost: u32,
}

/// Compares passwords and caches the results. It outlives the versions of the file: a result is about a password and a hash, so it holds as
/// long as the user has this hash.
#[derive(Debug)]
pub(super) struct PasswordChecker {
    semaphore: Arc<FairSemaphore>,
    cache: PasswordCache,
    /// Requests with the same credentials wait for the same comparison. It is dropped when none waits for it any more.
    running: Mutex<HashMap<AuthenticationKey, WeakShared<BoxFuture<'static, Authentication>>>>,
}

impl Default for PasswordChecker {
    fn default() -> Self {
        Self { semaphore: FairSemaphore::new(COMPARISONS), cache: PasswordCache::default(), running: Mutex::default() }
    }
}

impl BasicAuthUsers {
    /// Parses users and their bcrypt hashes; `None` if there is no user. The error names the user whose hash is invalid.
    pub(super) fn new(hashes: BTreeMap<String, String>) -> Result<Option<Self>, String> {
        let mut users = BTreeMap::new();
        for (user, text) in hashes {
            let known = ["$2a$", "$2b$", "$2y$"].iter().any(|version| text.starts_with(version));
            let parts = bcrypt::HashParts::from_str(&text).ok().filter(|_| known);
            let Some(parts) = parts else {
                return Err(format!("basic_auth_users.{user} is not a bcrypt hash ($2a$, $2b$ or $2y$)"));
            };
            let cost = parts.get_cost();
            if cost > MAX_COST {
                return Err(format!(
                    "basic_auth_users.{user} has a hash of cost {cost}, more than {MAX_COST}; write 10 to 12"
                ));
            }
            users.insert(user, BcryptHash { text, cost });
        }
        let decoy = users.values().max_by_key(|hash| hash.cost).cloned();
        Ok(decoy.map(|decoy| Self { hashes: users, decoy }))
    }

    /// Whether the cache knows that an `Authorization` header is valid.
    pub(super) fn is_cached_valid(&self, checker: &PasswordChecker, authorization: Option<&HeaderValue>) -> bool {
        let Some((user, password)) = authorization.and_then(credentials) else { return false };
        let hash = self.hashes.get(&user);
        hash.is_some() && checker.cache.get(checker.cache.key(&user, &password, hash)) == Some(true)
    }

    /// Whether an `Authorization` header of `client` names a user and its password.
    pub(super) async fn authenticate(
        &self,
        checker: &Arc<PasswordChecker>,
        client: ClientNetwork,
        authorization: Option<&HeaderValue>,
    ) -> Authentication {
        let Some((user, password)) = authorization.and_then(credentials) else { return Authentication::Failed };
        let hash = self.hashes.get(&user).cloned();
        let key = checker.cache.key(&user, &password, hash.as_ref());
        if let Some(is_valid) = checker.cache.get(key) {
            return is_valid.into();
        }
        let comparison = PasswordComparison { password, hash, decoy: self.decoy.clone() };
        checker.check(client, key, comparison).await
    }
}

impl PasswordChecker {
    /// Starts a comparison, or joins the one that runs for the same credentials.
    async fn check(
        self: &Arc<Self>,
        client: ClientNetwork,
        key: AuthenticationKey,
        comparison: PasswordComparison,
    ) -> Authentication {
        let check = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            running.retain(|_, check| check.upgrade().is_some());
            running.get(&key).and_then(WeakShared::upgrade).unwrap_or_else(|| {
                let check: Shared<BoxFuture<'static, Authentication>> =
                    Arc::clone(self).compare(client, key, comparison).boxed().shared();
                running.extend(check.downgrade().map(|check| (key, check)));
                check
            })
        };
        check.await
    }

    async fn compare(
        self: Arc<Self>,
        client: ClientNetwork,
        key: AuthenticationKey,
        comparison: PasswordComparison,
    ) -> Authentication {
        let permit = match self.semaphore.acquire(client).await {
            Ok(permit) => permit,
            Err(QueueFull) => return Authentication::Busy,
        };
        if let Some(is_valid) = self.cache.get(key) {
            return is_valid.into(); // an earlier request had the same credentials
        }
        // The job owns the permit: even if the client goes away now, the next comparison begins only after this one.
        let job = move || {
            let _permit: FairPermit = permit;
            let is_valid = comparison.run();
            self.cache.insert(key, is_valid);
            is_valid
        };
        tokio::task::spawn_blocking(job).await.unwrap_or(false).into()
    }
}

struct PasswordComparison {
    password: Vec<u8>,
    /// `None` for an unknown user.
    hash: Option<BcryptHash>,
    decoy: BcryptHash,
}

impl PasswordComparison {
    /// Takes as long for every user, known or not, as for the one with the hash of the highest cost: otherwise the time would tell which
    /// user names exist. A step of cost doubles the time, so a cheaper hash is made up for by one hash of each cost from its own up to the
    /// highest.
    fn run(&self) -> bool {
        let hash = self.hash.as_ref().unwrap_or(&self.decoy);
        let same = bcrypt::verify(&self.password, &hash.text).unwrap_or(false);
        for cost in hash.cost..self.decoy.cost {
            let _ = std::hint::black_box(bcrypt::hash_with_salt(&self.password, cost, [0; 16]));
        }
        same && self.hash.is_some()
    }
}

/// The user and the password of `Basic …`.
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

/// A 128-bit hash of user, password and bcrypt hash, keyed with random numbers of this process.
type AuthenticationKey = (u64, u64);

/// The results of comparisons. It holds no passwords, only the keys of credentials.
#[derive(Debug, Default)]
struct PasswordCache {
    hashers: (RandomState, RandomState),
    /// Invalid and valid credentials, kept apart so that guesses cannot evict the credentials that are in use.
    results: Mutex<[HashMap<u64, u64>; 2]>,
}

impl PasswordCache {
    fn key(&self, user: &str, password: &[u8], hash: Option<&BcryptHash>) -> AuthenticationKey {
        let all = (user, password, hash.map(|hash| &hash.text));
        (self.hashers.0.hash_one(all), self.hashers.1.hash_one(all))
    }

    fn get(&self, (high, low): AuthenticationKey) -> Option<bool> {
        let [invalid, valid] = &*self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let is_in = |results: &HashMap<u64, u64>| results.get(&high) == Some(&low);
        if is_in(valid) { Some(true) } else { is_in(invalid).then_some(false) }
    }

    fn insert(&self, (high, low): AuthenticationKey, is_valid: bool) {
        let [invalid, valid] = &mut *self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let results = if is_valid { valid } else { invalid };
        if results.len() >= MAX_CACHED {
            results.clear();
        }
        results.insert(high, low);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    use super::*;

    fn client(number: u8) -> ClientNetwork {
        ClientNetwork::from(IpAddr::from(Ipv4Addr::new(10, 0, 0, number)))
    }

    fn users(hashes: &[(&str, &str)]) -> BasicAuthUsers {
        let owned = hashes.iter().map(|(user, hash)| ((*user).to_owned(), (*hash).to_owned()));
        BasicAuthUsers::new(owned.collect()).unwrap().unwrap()
    }

    /// `open sesame` at this cost.
    fn sesame(cost: u32) -> String {
        bcrypt::hash("open sesame", cost).unwrap()
    }

    fn basic(user: &str, password: &str) -> HeaderValue {
        HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))).unwrap()
    }

    #[tokio::test]
    async fn a_client_with_too_many_queued_comparisons_is_refused_and_others_are_not() {
        let (users, checker) = (users(&[("alice", &sesame(4))]), Arc::<PasswordChecker>::default());
        let permit = checker.semaphore.acquire(client(1)).await.unwrap();
        let guesses: Vec<_> =
            (0..COMPARISONS.queued_per_client).map(|guess| basic("alice", &guess.to_string())).collect();
        let mut flood: Vec<_> =
            guesses.iter().map(|guess| Box::pin(users.authenticate(&checker, client(1), Some(guess)))).collect();
        assert!(flood.iter_mut().all(|guess| guess.now_or_never().is_none()));
        let good = basic("alice", "open sesame");
        assert_eq!(users.authenticate(&checker, client(1), Some(&good)).await, Authentication::Busy);
        let mut other = Box::pin(users.authenticate(&checker, client(2), Some(&good)));
        assert!((&mut other).now_or_never().is_none());
        drop(permit);
        let (other, flood) = tokio::join!(other, futures::future::join_all(flood));
        assert_eq!(other, Authentication::Succeeded);
        assert!(flood.iter().all(|result| *result == Authentication::Failed), "{flood:?}");
    }

    #[tokio::test]
    async fn the_same_credentials_are_compared_once_however_many_requests_have_them() {
        let (users, checker) = (users(&[("alice", &sesame(4))]), Arc::<PasswordChecker>::default());
        let permit = checker.semaphore.acquire(client(1)).await.unwrap();
        let good = basic("alice", "open sesame");
        let many: Vec<_> =
            (0..4 * COMPARISONS.queued).map(|_| users.authenticate(&checker, client(1), Some(&good))).collect();
        let all = futures::future::join_all(many);
        let ((), results) = tokio::join!(async { drop(permit) }, all);
        assert!(results.iter().all(|result| *result == Authentication::Succeeded), "{results:?}");
    }

    #[tokio::test]
    async fn a_result_is_cached_as_long_as_the_hash_stays() {
        let (first, second) = (sesame(4), sesame(4));
        let checker = Arc::<PasswordChecker>::default();
        let good = basic("alice", "open sesame");
        let old = users(&[("alice", &first), ("bob", &first)]);
        assert_eq!(old.authenticate(&checker, client(1), Some(&good)).await, Authentication::Succeeded);
        assert!(
            users(&[("alice", &first), ("carol", &second)]).is_cached_valid(&checker, Some(&good)),
            "another user has come"
        );
        assert!(!users(&[("alice", &second)]).is_cached_valid(&checker, Some(&good)), "alice has another hash");
        assert!(!users(&[("bob", &first)]).is_cached_valid(&checker, Some(&good)), "alice has gone");
        assert!(!old.is_cached_valid(&checker, Some(&basic("bob", "open sesame"))), "bob was never compared");
    }

    #[test]
    fn every_user_takes_as_long_as_the_most_costly_one() {
        let (cheap, costly) = (sesame(4), sesame(9));
        let users = users(&[("cheap", &cheap), ("costly", &costly)]);
        let time = |user: Option<&str>| {
            let hash = user.map(|user| users.hashes[user].clone());
            let comparison = PasswordComparison { password: b"guess".to_vec(), hash, decoy: users.decoy.clone() };
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
        let error = BasicAuthUsers::new(BTreeMap::from([("alice".to_owned(), hash)])).unwrap_err();
        assert!(error.contains("alice") && error.contains("10 to 12"), "{error}");
    }
}
