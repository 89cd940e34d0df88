//! With which credentials a probe asks for an allocation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Options;
use crate::failure::{CallError, Reason};
use crate::stun::SharedSecretCredentials;
use crate::time::PromDuration;

/// The longest name of a user in a message, in bytes, as by RFC 8489.
const LONGEST_NAME: usize = 508;

/// Where the credentials of a target come from. What the fields name are keys of Secrets, so their values are known only when a probe begins.
#[derive(Debug)]
pub(super) enum TurnCredentialSource {
    /// `username` and `password`.
    LongTerm,
    /// `sharedSecret`.
    SharedSecret { user: String, ttl: Duration },
}

/// The credentials of one probe.
pub(super) struct TurnCredentials {
    pub(super) username: String,
    /// Never printed.
    pub(super) password: String,
}

impl TurnCredentialSource {
    /// None if the target has none.
    pub(super) fn new(options: &Options) -> Option<Self> {
        const USER: &str = "scrapetarget-exporter";
        const TTL: Duration = Duration::from_secs(600);
        if options.shared_secret.is_some() {
            let user = options.user_id.clone().unwrap_or_else(|| USER.to_owned());
            return Some(Self::SharedSecret { user, ttl: options.ttl.map_or(TTL, PromDuration::get) });
        }
        options.username.is_some().then_some(Self::LongTerm)
    }

    /// The credentials, from the values of the Secrets in the order in which the options name them. None if an optional one is missing.
    pub(super) fn credentials(&self, secrets: &[Option<&[u8]>]) -> Result<Option<TurnCredentials>, CallError> {
        match (self, secrets) {
            (Self::LongTerm, [Some(username), Some(password)]) => {
                let username = text(username, "turn.username")?;
                if username.len() > LONGEST_NAME {
                    let message = format!("the value of turn.username has more than {LONGEST_NAME} bytes, write a shorter one");
                    return Err(CallError::new(Reason::Config, message));
                }
                Ok(Some(TurnCredentials { username, password: text(password, "turn.password")? }))
            }
            (Self::SharedSecret { user, ttl }, [Some(secret)]) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let SharedSecretCredentials { username, password } =
                    SharedSecretCredentials::new(secret, (now + *ttl).as_secs(), user);
                Ok(Some(TurnCredentials { username, password }))
            }
            _ => Ok(None),
        }
    }
}

/// A value that must be text, of which nothing is told if it is none.
fn text(value: &[u8], field: &str) -> Result<String, CallError> {
    let text = std::str::from_utf8(value).map(str::to_owned);
    text.map_err(|_| CallError::new(Reason::Config, format!("the value of {field} is no text in UTF-8, correct the Secret")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::SecretKeyRef;

    fn key() -> SecretKeyRef {
        SecretKeyRef { name: "a".to_owned(), key: "b".to_owned(), optional: None }
    }

    #[test]
    fn credentials_are_those_of_the_secrets_or_made_of_one() {
        assert!(TurnCredentialSource::new(&Options::default()).is_none());
        let options = Options { username: Some(key()), password: Some(key()), ..Options::default() };
        let source = TurnCredentialSource::new(&options).unwrap();
        let found = source.credentials(&[Some(b"alice"), Some(b"secret")]).unwrap().unwrap();
        assert_eq!((&*found.username, &*found.password), ("alice", "secret"));
        assert!(source.credentials(&[Some(b"alice"), None]).unwrap().is_none());
        for (name, password) in [(&b"\xff"[..], &b"p"[..]), (b"a", b"\xff"), (&[b'x'; 509], b"p")] {
            let error = source.credentials(&[Some(name), Some(password)]).err().unwrap();
            assert_eq!(error.reason, Reason::Config, "{error}");
        }

        let options = Options { shared_secret: Some(key()), user_id: Some("probe".to_owned()), ..Options::default() };
        let source = TurnCredentialSource::new(&options).unwrap();
        let found = source.credentials(&[Some(b"shared")]).unwrap().unwrap();
        let (until, user) = found.username.split_once(':').unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(user, "probe");
        assert!((1..=600).contains(&(until.parse::<u64>().unwrap() - now)));
        assert_eq!(found.password.len(), 28);
    }
}
