//! The requests of a probe, and what proves who makes them.

use std::net::SocketAddr;

use super::credentials::TurnCredentials;
use crate::failure::{CallError, Reason};
use crate::kind::probe::StunRequest;
use crate::stun::{CredentialKey, StunAttribute, StunClass, StunMessage, StunMethod, StunWriter, TransactionId};

/// The channel of a probe: the first of those that there are.
pub(super) const CHANNEL: u16 = 0x4000;

/// What a probe asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// A relayed address that takes UDP.
    Allocation,
    /// That packets to this address are relayed, and those from it, over a channel.
    Channel { peer: SocketAddr },
    /// The end of the allocation.
    Release,
}

impl Wish {
    pub(super) const fn method(self) -> StunMethod {
        match self {
            Self::Allocation => StunMethod::ALLOCATE,
            Self::Channel { .. } => StunMethod::CHANNEL_BIND,
            Self::Release => StunMethod::REFRESH,
        }
    }

    /// A new request for it, signed if the server wants that.
    pub(super) fn request(self, proof: Option<&Proof>) -> Result<StunRequest, CallError> {
        /// The number of UDP, and three bytes that are reserved.
        const OVER_UDP: [u8; 4] = [17, 0, 0, 0];
        let internal =
            |what: &str| CallError::new(Reason::Internal, format!("the request could not be made: {what}"));
        let transaction = TransactionId::random().ok_or_else(|| internal("the system has no random numbers"))?;
        let method = self.method();
        let mut writer = StunWriter::new(StunClass::Request, method, transaction);
        match self {
            Self::Allocation => {
                writer.attribute(StunAttribute::REQUESTED_TRANSPORT, &OVER_UDP);
            }
            Self::Channel { peer } => {
                let [high, low] = CHANNEL.to_be_bytes();
                writer
                    .attribute(StunAttribute::CHANNEL_NUMBER, &[high, low, 0, 0])
                    .xor_address(StunAttribute::XOR_PEER_ADDRESS, peer);
            }
            Self::Release => {
                writer.attribute(StunAttribute::LIFETIME, &[0; 4]);
            }
        }
        if let Some(proof) = proof {
            writer
                .attribute(StunAttribute::USERNAME, proof.username.as_bytes())
                .attribute(StunAttribute::REALM, &proof.realm)
                .attribute(StunAttribute::NONCE, &proof.nonce)
                .integrity(&proof.key);
        }
        let bytes = writer.finish_with_fingerprint().map_err(|error| internal(&error.to_string()))?;
        Ok(StunRequest { method, transaction, bytes })
    }
}

/// What proves to a server who asks: the credentials, for its realm and its nonce.
#[derive(Clone, Debug)]
pub(super) struct Proof {
    username: String,
    realm: Vec<u8>,
    nonce: Vec<u8>,
    key: CredentialKey,
}

impl Proof {
    /// For the realm and the nonce of this answer; none if it has not both.
    pub(super) fn new(credentials: &TurnCredentials, answer: &StunMessage<'_>) -> Option<Self> {
        let (realm, nonce) = (answer.value(StunAttribute::REALM)?, answer.value(StunAttribute::NONCE)?);
        let TurnCredentials { username, password } = credentials;
        let key = CredentialKey::long_term(username, realm, password);
        Some(Self { username: username.clone(), realm: realm.to_vec(), nonce: nonce.to_vec(), key })
    }

    /// The same with the nonce of this answer; `false`: it has none.
    pub(super) fn renew(&mut self, answer: &StunMessage<'_>) -> bool {
        let nonce = answer.value(StunAttribute::NONCE);
        if let Some(nonce) = nonce {
            self.nonce = nonce.to_vec();
        }
        nonce.is_some()
    }

    pub(super) const fn key(&self) -> &CredentialKey {
        &self.key
    }
}
