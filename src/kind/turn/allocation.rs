//! What a probe borrows from the server: an allocation. It is given back on every way out. Where the probe itself cannot do that any more,
//! since its time is over or it was cut off, the way to the server is left to others, who do: see [`Aftercare`](crate::kind::Aftercare).
//!
//! A server keeps what is not given back for ten minutes, and has a quota for each user.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::request::{Proof, Wish};
use crate::failure::CallError;
use crate::kind::probe::{StunLink, StunRequest};
use crate::kind::{AftercareRoom, Recorder};
use crate::stun::{StunClass, StunMessage};

/// How long a server is asked to take back what it may have given, when the probe is over.
const PATIENCE: Duration = Duration::from_secs(4);

/// The same of a server that was not told of any credentials: it hardly gives anything.
const LESS_PATIENCE: Duration = Duration::from_secs(1);

/// Whether the server has given something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loan {
    /// It has not.
    Nothing,
    /// It was asked to, and has not answered.
    Unanswered,
    /// It has.
    Given,
}

/// The way to a server, and what it has lent. Dropping it gives that back.
pub(super) struct Allocation {
    /// There until it is dropped.
    link: Option<StunLink>,
    room: Option<Box<dyn AftercareRoom>>,
    loan: Loan,
    pub(super) proof: Option<Proof>,
}

impl Allocation {
    pub(super) const fn new(link: StunLink, room: Box<dyn AftercareRoom>) -> Self {
        Self { link: Some(link), room: Some(room), loan: Loan::Nothing, proof: None }
    }

    /// The way to the server; none never.
    pub(super) const fn link(&mut self) -> Option<&mut StunLink> {
        self.link.as_mut()
    }

    /// From now on, the server may lend something.
    pub(super) const fn asked(&mut self) {
        self.loan = Loan::Unanswered;
    }

    /// It has answered, and lent something or not.
    pub(super) const fn answered(&mut self, has_given: bool) {
        self.loan = if has_given { Loan::Given } else { Loan::Nothing };
    }

    /// Whether there is something to give back.
    pub(super) fn is_given(&self) -> bool {
        self.loan == Loan::Given
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        if self.loan == Loan::Nothing {
            return;
        }
        if let (Some(link), Some(room)) = (self.link.take(), self.room.take()) {
            let proof = self.proof.take();
            room.leave(Box::pin(give_back(link, proof, self.loan)));
        }
    }
}

/// Asks a server to take back what it may have given. Nobody hears of it: the probe is over.
async fn give_back(mut link: StunLink, mut proof: Option<Proof>, loan: Loan) {
    /// Between two attempts, at first and at last.
    const PAUSE: Duration = Duration::from_millis(50);
    const LONGEST_PAUSE: Duration = Duration::from_millis(400);
    /// A server may find the nonce too old, and the next one again.
    const MOST_RENEWALS: u32 = 2;
    let patience = if proof.is_some() || loan == Loan::Given { PATIENCE } else { LESS_PATIENCE };
    let deadline = Instant::now() + patience;
    let (mut pause, mut renewals) = (PAUSE, 0);
    while Instant::now() < deadline {
        let Ok(request) = Wish::Release.request(proof.as_ref()) else { return };
        match ask(&mut link, &request, deadline).await {
            // The request for it may still be on its way, or be worked on.
            Ok(Answered::NoAllocation) if loan == Loan::Unanswered => {
                sleep(pause).await;
                pause = LONGEST_PAUSE.min(pause * 2);
            }
            Ok(Answered::StaleNonce(answer)) if renewals < MOST_RENEWALS => {
                renewals += 1;
                let renewed = StunMessage::read(&answer).ok().zip(proof.as_mut());
                if !renewed.is_some_and(|(answer, proof)| proof.renew(&answer)) {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// What a server says to whoever gives something back.
enum Answered {
    /// There is nothing, by 437.
    NoAllocation,
    /// 438, in this answer.
    StaleNonce(Vec<u8>),
    /// It was taken back, or cannot be.
    Otherwise,
}

async fn ask(link: &mut StunLink, request: &StunRequest, deadline: Instant) -> Result<Answered, CallError> {
    let mut unseen = Recorder::new(Instant::now());
    let bytes = link.ask(request, &mut unseen, deadline, |_| Ok(())).await?;
    let code = match StunMessage::read(&bytes) {
        Ok(answer) if answer.class == StunClass::Error => answer.error_code().ok().flatten(),
        _ => None,
    };
    Ok(match code {
        Some(437) => Answered::NoAllocation,
        Some(438) => Answered::StaleNonce(bytes),
        _ => Answered::Otherwise,
    })
}
