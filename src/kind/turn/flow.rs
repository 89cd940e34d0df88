//! The way of a probe: challenge, allocation, permission, packets, release.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::allocation::Allocation;
use super::credentials::TurnCredentials;
use super::refusal::refusal;
use super::request::{Proof, Wish};
use super::{AUTHENTICATION, DURATION, ERROR_CODE, FORBIDDEN, LIFETIME, TurnMode, TurnPhase, TurnProber};
use crate::failure::{CallError, Reason};
use crate::kind::Probe;
use crate::kind::probe::{StunLink, record_software};
use crate::stun::{Integrity, StunAttribute, StunClass, StunMessage};

/// What is kept of the time of a probe for giving back the allocation.
pub(super) fn for_release(time: Duration) -> Duration {
    LEAST_FOR_RELEASE.max(time / PART_FOR_RELEASE)
}

/// At least this, and this part of the time.
pub(super) const LEAST_FOR_RELEASE: Duration = Duration::from_millis(200);
pub(super) const PART_FOR_RELEASE: u32 = 20;

impl TurnProber {
    pub(super) async fn run(&self, probe: &mut Probe<'_>) -> Result<(), CallError> {
        let credentials = self.credentials(probe)?;
        let (resolved, took) = probe.resolve(probe.host).await;
        TurnPhase::Resolve.took(probe.record, took);
        let address = resolved?;
        // Whoever cannot give something back must not ask for it.
        let room = probe.aftercare.room().ok_or_else(|| {
            let message = "not probed: too many probes of this namespace have allocations to give back to servers that do not answer; probe \
                           fewer of them, or with a longer interval";
            CallError::new(Reason::Limit, message)
        })?;
        let link = StunLink::open(probe, (address, self.port), self.transport, &DURATION).await?;
        let asked = format!("asked port {} of {} over {}", self.port, address.ip(), self.transport.as_str());
        probe.record.event(asked);
        let reserve = for_release(probe.left()).min(probe.left() / 2);
        let deadline = probe.deadline.checked_sub(reserve).unwrap_or(probe.deadline);
        let mut session = Session { probe, allocation: Allocation::new(link, room), deadline };
        let outcome = self.use_server(&mut session, credentials.as_ref()).await;
        let released = if session.allocation.is_given() { session.release().await } else { Ok(()) };
        outcome.and_then(|()| self.in_step(TurnPhase::Release, released))
    }

    fn credentials(&self, probe: &Probe<'_>) -> Result<Option<TurnCredentials>, CallError> {
        let found = match &self.credentials {
            Some(source) => source.credentials(probe.secrets)?,
            None => None,
        };
        if found.is_none() && self.mode != TurnMode::Challenge {
            let message = "the Secret of the credentials is missing, although it is optional: create it, or write mode: Challenge";
            return Err(CallError::new(Reason::Config, message));
        }
        Ok(found)
    }

    async fn use_server(
        &self,
        session: &mut Session<'_, '_>,
        credentials: Option<&TurnCredentials>,
    ) -> Result<(), CallError> {
        let open = self.in_step(TurnPhase::Challenge, session.challenge(credentials).await)?;
        let relayed = match (self.mode, open) {
            (TurnMode::Challenge, _) => return Ok(()),
            // Anybody may use it, so credentials are not needed.
            (_, Some(granted)) => self.in_step(TurnPhase::Challenge, granted)?,
            (_, None) => self.in_step(TurnPhase::Allocate, session.allocate().await)?,
        };
        if self.mode == TurnMode::Allocate {
            return Ok(());
        }
        let permitted = session.permit(relayed, self.relay.is_required).await;
        if !self.in_step(TurnPhase::Permission, permitted)? {
            return Ok(());
        }
        let start = Instant::now();
        let deadline = session.deadline;
        let relay = match session.allocation.link() {
            Some(link) => self.relay.exchange(link, session.probe.record, deadline).await,
            None => Ok(()),
        };
        TurnPhase::Relay.took(session.probe.record, start.elapsed());
        self.in_step(TurnPhase::Relay, relay)
    }
}

/// A probe with its way to the server.
struct Session<'s, 'p> {
    probe: &'s mut Probe<'p>,
    allocation: Allocation,
    /// When all but the release must be over.
    deadline: Instant,
}

/// An answer, and its error code if it is one.
struct TurnAnswer {
    bytes: Vec<u8>,
    code: Option<u16>,
}

impl TurnAnswer {
    fn message(&self) -> Result<StunMessage<'_>, CallError> {
        StunMessage::read(&self.bytes).map_err(|fault| unreadable(&fault))
    }

    fn refusal(&self, step: TurnPhase, code: u16) -> CallError {
        self.message().map_or_else(|error| error, |message| refusal(step, code, &message))
    }
}

fn unreadable(fault: &dyn std::fmt::Display) -> CallError {
    CallError::new(Reason::Protocol, format!("the server sent {fault}"))
}

impl Session<'_, '_> {
    /// Asks for an allocation without credentials. The server should want some; if it does not, the allocation is returned.
    async fn challenge(
        &mut self,
        credentials: Option<&TurnCredentials>,
    ) -> Result<Option<Result<SocketAddr, CallError>>, CallError> {
        const STEP: TurnPhase = TurnPhase::Challenge;
        self.allocation.asked();
        let answer = self.ask(STEP, Wish::Allocation).await?;
        self.allocation.answered(answer.code.is_none());
        let message = answer.message()?;
        record_software(self.probe.record, &message);
        match answer.code {
            None => {
                self.probe.record.set(&AUTHENTICATION, &[], 0.0);
                self.probe.record.event("got an allocation without credentials");
                Ok(Some(self.granted(&message)))
            }
            Some(401) => {
                let [realm, nonce] = [StunAttribute::REALM, StunAttribute::NONCE].map(|kind| message.value(kind).is_some());
                if !(realm && nonce) {
                    return Err(unreadable(&"a challenge without REALM or NONCE"));
                }
                self.probe.record.set(&AUTHENTICATION, &[], 1.0);
                self.probe.record.event("was asked for credentials");
                self.allocation.proof = credentials.and_then(|credentials| Proof::new(credentials, &message));
                Ok(None)
            }
            Some(code) => {
                self.probe.record.set(&ERROR_CODE, &[STEP.as_str()], f64::from(code));
                Err(answer.refusal(STEP, code))
            }
        }
    }

    /// Asks for an allocation with credentials.
    async fn allocate(&mut self) -> Result<SocketAddr, CallError> {
        self.allocation.asked();
        let answer = self.ask_signed(TurnPhase::Allocate, Wish::Allocation).await?;
        self.allocation.answered(answer.code.is_none());
        self.succeeded(TurnPhase::Allocate, &answer)?;
        self.granted(&answer.message()?)
    }

    /// What was granted.
    fn granted(&mut self, answer: &StunMessage<'_>) -> Result<SocketAddr, CallError> {
        let lifetime = answer.number(StunAttribute::LIFETIME).map_err(|fault| unreadable(&fault))?;
        let relayed = answer.xor_address(StunAttribute::XOR_RELAYED_ADDRESS).map_err(|fault| unreadable(&fault))?;
        let record = &mut *self.probe.record;
        if let Some(lifetime) = lifetime {
            record.set(&LIFETIME, &[], f64::from(lifetime));
        }
        let relayed = relayed.ok_or_else(|| unreadable(&"an allocation without its relayed address"))?;
        record.event(format!("got the relayed address {relayed} for {} s", lifetime.unwrap_or_default()));
        Ok(relayed)
    }

    /// Asks for a channel to the own relayed address. `false`: the server forbids that, which is no failure.
    async fn permit(&mut self, relayed: SocketAddr, is_required: bool) -> Result<bool, CallError> {
        const STEP: TurnPhase = TurnPhase::Permission;
        // It is the server that would send there, and only to itself, as it says; but it may say anything.
        self.probe.dialer.judge_relayed(relayed.ip())?;
        let answer = self.ask_signed(STEP, Wish::Channel { peer: relayed }).await?;
        // pion says 401 of a peer, although it has just taken the credentials.
        if let Some(code @ (401 | 403)) = answer.code {
            self.probe.record.set(&FORBIDDEN, &[], 1.0);
            if !is_required {
                self.probe.record.set(&ERROR_CODE, &[STEP.as_str()], f64::from(code));
                self.probe.record.event("the server forbids to relay to its own address");
                return Ok(false);
            }
        }
        self.succeeded(STEP, &answer)?;
        self.probe.record.event("got a channel to the relayed address");
        Ok(true)
    }

    /// Gives the allocation back. What fails is tried again when the probe is over.
    async fn release(&mut self) -> Result<(), CallError> {
        self.deadline = self.probe.deadline;
        let answer = self.ask_signed(TurnPhase::Release, Wish::Release).await?;
        self.succeeded(TurnPhase::Release, &answer)?;
        self.allocation.answered(false);
        self.probe.record.event("gave the allocation back");
        Ok(())
    }

    /// Asks, and if the nonce is too old, asks once again with the new one.
    async fn ask_signed(&mut self, step: TurnPhase, wish: Wish) -> Result<TurnAnswer, CallError> {
        let answer = self.ask(step, wish).await?;
        if answer.code != Some(438) {
            return Ok(answer);
        }
        let message = answer.message()?;
        if !self.allocation.proof.as_mut().is_some_and(|proof| proof.renew(&message)) {
            return Ok(answer);
        }
        self.probe.record.event(format!("{}: the nonce was too old, asked with a new one", step.as_str()));
        self.ask(step, wish).await
    }

    async fn ask(&mut self, step: TurnPhase, wish: Wish) -> Result<TurnAnswer, CallError> {
        let request = wish.request(self.allocation.proof.as_ref())?;
        let start = Instant::now();
        let asked = match self.allocation.link() {
            Some(link) => link.ask(&request, self.probe.record, self.deadline, |_| Ok(())).await,
            None => Err(CallError::new(Reason::Internal, "the connection is gone")),
        };
        step.took(self.probe.record, start.elapsed());
        let bytes = asked?;
        let message = StunMessage::read(&bytes).map_err(|fault| unreadable(&fault))?;
        let code = match message.class {
            StunClass::Error => {
                let code = message.error_code().map_err(|fault| unreadable(&fault))?;
                Some(code.ok_or_else(|| unreadable(&"an error without ERROR-CODE"))?)
            }
            _ => None,
        };
        Ok(TurnAnswer { bytes, code })
    }

    /// Whether the answer is a success that comes from whom it should.
    fn succeeded(&mut self, step: TurnPhase, answer: &TurnAnswer) -> Result<(), CallError> {
        if let Some(code) = answer.code {
            self.probe.record.set(&ERROR_CODE, &[step.as_str()], f64::from(code));
            return Err(answer.refusal(step, code));
        }
        let Some(proof) = &self.allocation.proof else { return Ok(()) };
        let what = match answer.message()?.integrity(proof.key()) {
            Integrity::Valid => return Ok(()),
            Integrity::Invalid => "with a wrong MESSAGE-INTEGRITY",
            Integrity::Absent => "without MESSAGE-INTEGRITY",
        };
        let message = format!("the server sent a success {what}, so that it may be of somebody else");
        Err(CallError::new(Reason::Protocol, message))
    }
}
