//! What proves to a server who asks: the long-term credentials of STUN, and those that are made of a secret that is shared with the server.

use std::fmt;

use aws_lc_rs::hmac::{self, HMAC_SHA1_FOR_LEGACY_USE_ONLY};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};

use super::INTEGRITY;

/// What messages are authenticated with; never printed.
#[derive(Clone)]
pub struct CredentialKey(hmac::Key);

impl CredentialKey {
    /// The key of long-term credentials. The password is taken as it is: one beyond ASCII must be given in the form of SASLprep.
    pub fn long_term(username: &str, realm: &[u8], password: &str) -> Self {
        Self::of(&long_term(username, realm, password))
    }

    /// The key of short-term credentials.
    pub fn short_term(password: &str) -> Self {
        Self::of(password.as_bytes())
    }

    fn of(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, bytes))
    }

    /// The value of MESSAGE-INTEGRITY of a message up to that attribute, whose length counts it.
    pub(super) fn sign(&self, message: &[u8]) -> [u8; INTEGRITY] {
        let tag = hmac::sign(&self.0, message);
        tag.as_ref().try_into().unwrap_or_default()
    }

    /// Compares in a time that tells nothing of the value.
    pub(super) fn verify(&self, message: &[u8], value: &[u8]) -> bool {
        hmac::verify(&self.0, message, value).is_ok()
    }
}

impl fmt::Debug for CredentialKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

fn long_term(username: &str, realm: &[u8], password: &str) -> [u8; 16] {
    let mut hash = Md5::new();
    for part in [username.as_bytes(), b":", realm, b":", password.as_bytes()] {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Credentials that end by themselves, made of a secret that the server knows as well: the "REST API" of TURN servers.
pub struct SharedSecretCredentials {
    /// When they end, and for whom they are: `EXPIRY:USER`.
    pub username: String,
    /// Never printed.
    pub password: String,
}

impl SharedSecretCredentials {
    /// Valid until `expiry`, a Unix time. A colon stands only before a user.
    pub fn new(secret: &[u8], expiry: u64, user: &str) -> Self {
        let username = if user.is_empty() { expiry.to_string() } else { format!("{expiry}:{user}") };
        let key = hmac::Key::new(HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
        let password = STANDARD.encode(hmac::sign(&key, username.as_bytes()));
        Self { username, password }
    }
}

impl fmt::Debug for SharedSecretCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedSecretCredentials")
            .field("username", &self.username)
            .field("password", &"<secret>")
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_a_hash_of_user_realm_and_password() {
        let hex = |key: [u8; 16]| key.map(|byte| format!("{byte:02x}")).concat();
        assert_eq!(hex(long_term("alice", b"example.org", "secret")), "543e1aec5d3614f03141652d6ada51b2");
        assert_eq!(hex(long_term("user", b"realm", "pass")), "8493fbc53ba582fb4c044c456bdc40eb"); // RFC 8489, 9.2.2
    }

    #[test]
    fn credentials_of_a_secret_are_those_that_servers_expect() {
        let made = SharedSecretCredentials::new(b"shared", 1_800_000_000, "probe");
        assert_eq!((&*made.username, &*made.password), ("1800000000:probe", "8LBmdrLmxWJrPjMYrpyIoJWLzU0="));
        assert_eq!(SharedSecretCredentials::new(b"shared", 7, "").username, "7");
    }

    #[test]
    fn secrets_are_not_printed() {
        let shown =
            format!("{:?}{:?}", CredentialKey::short_term("hunter2"), SharedSecretCredentials::new(b"hunter2", 7, "u"));
        assert!(!shown.contains("hunter2") && !shown.contains('='), "{shown}");
    }
}
