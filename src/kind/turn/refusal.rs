//! What the error codes of a TURN server mean for a probe.

use std::net::{IpAddr, SocketAddr};

use super::TurnPhase;
use crate::failure::{CallError, Reason};
use crate::stun::{StunAttribute, StunMessage};

/// The failure of a probe to which the server says no. Of the server's own words nothing is told: the codes have names.
///
/// The reason is `auth` if it rejects the credentials, and else `response`.
pub(super) fn refusal(step: TurnPhase, code: u16, answer: &StunMessage<'_>) -> CallError {
    let has_asked = step != TurnPhase::Challenge; // for credentials, which then were sent
    let (reason, meaning) = match code {
        300 => (Reason::Response, alternate(answer)),
        400 if step == TurnPhase::Allocate => {
            (Reason::Auth, "it asked for credentials and does not accept these, as some versions of pion say it: correct them".to_owned())
        }
        400 => (Reason::Response, "bad request: it may be a server for STUN alone".to_owned()),
        401 if step == TurnPhase::Permission => (Reason::Response, "forbidden, as pion says it".to_owned()),
        401 | 441 if has_asked => (
            Reason::Auth,
            "it does not accept the credentials: correct them; those made of a shared secret also fail if the clocks differ".to_owned(),
        ),
        401 => (Reason::Response, "it asks for credentials".to_owned()),
        403 => (Reason::Response, "forbidden".to_owned()),
        420 => {
            let unknown: Vec<String> = answer.unknown_attributes().iter().map(|kind| format!("0x{kind:04x}")).collect();
            (Reason::Response, format!("it does not know the attributes {}", unknown.join(", ")))
        }
        437 => (Reason::Response, "it says that there is an allocation already, or none any more".to_owned()),
        438 => (Reason::Response, "stale nonce, also with the newest one".to_owned()),
        440 => (Reason::Response, "it does not relay with this IP version".to_owned()),
        442 => (Reason::Response, "it does not relay UDP".to_owned()),
        486 => (Reason::Response, "the quota of allocations of this user is reached".to_owned()),
        508 => (Reason::Response, "it has no capacity for another allocation".to_owned()),
        500..600 => (Reason::Response, "it has a problem of its own".to_owned()),
        _ => (Reason::Response, "an error that TURN does not know".to_owned()),
    };
    CallError::new(reason, format!("the server answered with error {code}: {meaning}"))
}

/// Another server should be asked. That is not done: it is for the author of the target to say who is probed.
fn alternate(answer: &StunMessage<'_>) -> String {
    let named = answer.value(StunAttribute::ALTERNATE_SERVER).and_then(plain_address);
    let named = named.map_or_else(|| "another server".to_owned(), |address| format!("{address} (ALTERNATE-SERVER)"));
    format!("{named} should be asked, which is not done: write it into url to probe it")
}

/// An address that is not combined with the cookie.
fn plain_address(value: &[u8]) -> Option<SocketAddr> {
    let (&[_, family, high, low], address) = value.split_first_chunk()?;
    let ip: IpAddr = match family {
        1 => <[u8; 4]>::try_from(address).ok()?.into(),
        2 => <[u8; 16]>::try_from(address).ok()?.into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes([high, low])))
}
