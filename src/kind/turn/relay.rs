//! Packets through the relay: sent to the own relayed address, they should come back over the same channel.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::request::CHANNEL;
use super::{JITTER, Options, RECEIVED, ROUND_TRIP, SENT};
use crate::failure::{CallError, Reason};
use crate::kind::Recorder;
use crate::kind::probe::StunLink;
use crate::stun::{ChannelData, StunFrame};
use crate::time::PromDuration;

/// How long packets are waited for after the last one was sent, if enough have come.
const LATE: Duration = Duration::from_secs(1);

/// So much that is no packet of the probe is passed over before it ends: a flood must not keep a thread busy until the deadline.
const MOST_OTHERS: u32 = 1000;

/// What is sent in mode Relay.
#[derive(Clone, Copy, Debug)]
pub(super) struct RelaySettings {
    packets: u8,
    size: u16,
    interval: Duration,
    min_received: u8,
    /// A server that forbids it fails the probe.
    pub(super) is_required: bool,
}

impl RelaySettings {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            packets: options.packets.unwrap_or(10),
            size: options.packet_size.unwrap_or(160),
            interval: options.packet_interval.map_or(Duration::from_millis(20), PromDuration::get),
            min_received: options.min_received.unwrap_or(1),
            is_required: options.require_relay.unwrap_or(false),
        }
    }

    /// Writes them into the options.
    pub(super) fn show(self, options: &mut Options) {
        options.packets = Some(self.packets);
        options.packet_size = Some(self.size);
        options.packet_interval = Some(self.interval.into());
        options.min_received = Some(self.min_received);
        options.require_relay = Some(self.is_required);
    }

    /// Sends the packets over the channel, and waits for them.
    pub(super) async fn exchange(
        &self,
        link: &mut StunLink,
        record: &mut Recorder,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let mut packets = Packets::new(*self);
        let exchanged = packets.exchange(link, record, deadline).await;
        packets.record(record);
        record.event(format!("{} of {} packets came back", packets.received, packets.sent.len()));
        match packets.verdict() {
            Ok(()) => Ok(()),
            Err(error) => exchanged.and(Err(error)),
        }
    }
}

/// A packet on its way.
#[derive(Debug)]
struct SentPacket {
    at: Instant,
    payload: Vec<u8>,
    round_trip: Option<Duration>,
}

/// The packets of one probe.
#[derive(Debug)]
struct Packets {
    settings: RelaySettings,
    sent: Vec<SentPacket>,
    received: usize,
    /// What came over the channel and is no packet that was sent, and over another channel.
    changed: u32,
    of_other_channels: u32,
    others: u32,
}

impl Packets {
    const fn new(settings: RelaySettings) -> Self {
        Self { settings, sent: Vec::new(), received: 0, changed: 0, of_other_channels: 0, others: 0 }
    }

    async fn exchange(
        &mut self,
        link: &mut StunLink,
        record: &mut Recorder,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let count = usize::from(self.settings.packets);
        let mut next = Instant::now();
        // One timer for all packets: each new one would wake the thread that waits, twice as often as packets do.
        let timer = sleep_until(next);
        tokio::pin!(timer);
        loop {
            let all_sent = self.sent.len() >= count;
            if all_sent && self.received >= count {
                return Ok(());
            }
            let until = if all_sent { self.end(deadline) } else { next.min(deadline) };
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            tokio::select! {
                biased;
                arrival = link.receive() => {
                    let at = Instant::now();
                    let arrival = arrival?;
                    record.received(arrival.len());
                    if !self.arrived(arrival, at) {
                        if self.others >= MOST_OTHERS {
                            let message = format!("the server sent {MOST_OTHERS} packets that were not asked for");
                            return Err(CallError::new(Reason::Protocol, message));
                        }
                        tokio::task::yield_now().await;
                    }
                }
                () = &mut timer => {
                    if all_sent || Instant::now() >= deadline {
                        return Ok(());
                    }
                    next += self.settings.interval;
                    self.send(link, deadline).await?;
                }
            }
        }
    }

    async fn send(&mut self, link: &mut StunLink, deadline: Instant) -> Result<(), CallError> {
        let payload = self.payload()?;
        let data = ChannelData { number: CHANNEL, data: &payload }.write(link.is_stream());
        let data = data.ok_or_else(|| CallError::new(Reason::Internal, "a packet is too long"))?;
        let at = Instant::now();
        link.send(&data, deadline).await?;
        self.sent.push(SentPacket { at, payload, round_trip: None });
        Ok(())
    }

    /// The number of the packet, and bytes that nobody can guess.
    fn payload(&self) -> Result<Vec<u8>, CallError> {
        let mut payload = vec![0; usize::from(self.settings.size)];
        aws_lc_rs::rand::fill(&mut payload)
            .map_err(|_| CallError::new(Reason::Internal, "the system has no random numbers"))?;
        let number = u32::try_from(self.sent.len()).unwrap_or_default();
        if let Some(place) = payload.first_chunk_mut() {
            *place = number.to_be_bytes();
        }
        Ok(payload)
    }

    /// When packets are no longer waited for: once there are enough, those that take much longer are lost.
    fn end(&self, deadline: Instant) -> Instant {
        if self.received < usize::from(self.settings.min_received) {
            return deadline;
        }
        let last = self.sent.last().map_or(deadline, |packet| packet.at);
        let longest = self.sent.iter().filter_map(|packet| packet.round_trip).max().unwrap_or_default();
        deadline.min(last + LATE.max(longest * 2))
    }

    /// Whether it is a packet that has not come back before.
    fn arrived(&mut self, arrival: &[u8], at: Instant) -> bool {
        let is_own = match StunFrame::read(arrival) {
            Ok(StunFrame::Channel(ChannelData { number: CHANNEL, data })) => {
                let number = data.first_chunk().map(|number| u32::from_be_bytes(*number));
                let packet = number.and_then(|number| self.sent.get_mut(usize::try_from(number).ok()?));
                if let Some(packet) = packet.filter(|packet| packet.payload == data) {
                    let is_first = packet.round_trip.is_none();
                    packet.round_trip.get_or_insert_with(|| at.duration_since(packet.at));
                    is_first
                } else {
                    self.changed += 1;
                    false
                }
            }
            Ok(StunFrame::Channel(_)) => {
                self.of_other_channels += 1;
                false
            }
            // Late answers to requests that were sent twice, for instance.
            Ok(StunFrame::Message(_)) | Err(_) => false,
        };
        if is_own {
            self.received += 1;
        } else {
            self.others += 1;
        }
        is_own
    }

    fn record(&self, record: &mut Recorder) {
        #[expect(clippy::cast_precision_loss, reason = "at most 50")]
        let number = |count: usize| count as f64;
        record.set(&SENT, &[], number(self.sent.len()));
        record.set(&RECEIVED, &[], number(self.received));
        let times: Vec<f64> =
            self.sent.iter().filter_map(|packet| packet.round_trip).map(|time| time.as_secs_f64()).collect();
        if times.is_empty() {
            return;
        }
        let least = times.iter().copied().fold(f64::INFINITY, f64::min);
        let greatest = times.iter().copied().fold(0.0, f64::max);
        let average = times.iter().sum::<f64>() / number(times.len());
        for (stat, value) in [("min", least), ("avg", average), ("max", greatest)] {
            record.set(&ROUND_TRIP, &[stat], value);
        }
        record.set(&JITTER, &[], jitter(&times));
    }

    fn verdict(&self) -> Result<(), CallError> {
        let RelaySettings { packets, min_received, .. } = self.settings;
        if self.received >= usize::from(min_received) {
            return Ok(());
        }
        let (reason, message) = if self.received > 0 {
            let (received, sent) = (self.received, self.sent.len());
            let unsent = if sent < usize::from(packets) {
                format!(", for only {sent} could be sent before the timeout")
            } else {
                String::new()
            };
            let message =
                format!("only {received} of {packets} packets came back{unsent}, and turn.minReceived is {min_received}");
            (Reason::Timeout, message)
        } else if self.changed > 0 {
            (Reason::Match, format!("{} packets came back changed, and none as it was sent", self.changed))
        } else if self.of_other_channels > 0 {
            let message = format!("{} packets came over channels that were not asked for, and none over the own one", self.of_other_channels);
            (Reason::Protocol, message)
        } else {
            let message = "no packet came back in time: the server does not relay, or a firewall or NAT does not let it send to its own \
                           relayed address; mode Allocate does not try that";
            (Reason::Timeout, message.to_owned())
        };
        Err(CallError::new(reason, message))
    }
}

/// How much neighbours differ on average.
fn jitter(times: &[f64]) -> f64 {
    let differences = times.windows(2).map(|pair| match pair {
        [before, after] => (after - before).abs(),
        _ => 0.0,
    });
    #[expect(clippy::cast_precision_loss, reason = "at most 50")]
    let count = times.len().saturating_sub(1).max(1) as f64;
    differences.sum::<f64>() / count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(count: u8) -> Packets {
        let mut packets = Packets::new(RelaySettings::new(&Options { packets: Some(count), ..Options::default() }));
        for _ in 0..count {
            let payload = packets.payload().unwrap();
            packets.sent.push(SentPacket { at: Instant::now(), payload, round_trip: None });
        }
        packets
    }

    fn data(number: u16, payload: &[u8]) -> Vec<u8> {
        ChannelData { number, data: payload }.write(false).unwrap()
    }

    #[test]
    fn jitter_is_the_mean_difference_of_neighbours() {
        assert_eq!(jitter(&[7.0]), 0.0);
        assert_eq!(jitter(&[1.0, 3.0, 2.0]), 1.5);
    }

    #[tokio::test]
    async fn each_packet_counts_once_in_any_order() {
        let mut packets = packets(3);
        let payloads: Vec<Vec<u8>> = packets.sent.iter().map(|packet| packet.payload.clone()).collect();
        for (number, is_new) in [(2, true), (0, true), (2, false)] {
            assert_eq!(packets.arrived(&data(CHANNEL, &payloads[number]), Instant::now()), is_new);
        }
        assert_eq!((packets.received, packets.verdict()), (2, Ok(())));
    }

    #[tokio::test]
    async fn what_comes_instead_of_packets_is_told() {
        let reason = |packets: &Packets| packets.verdict().unwrap_err().reason;
        let mut none = packets(2);
        assert_eq!(reason(&none), Reason::Timeout);
        let payload = none.sent[0].payload.clone();
        assert!(!none.arrived(&data(0x4001, &payload), Instant::now()));
        assert_eq!(reason(&none), Reason::Protocol);
        for changed in [&payload[..20], b"", &[0xff; 40]] {
            assert!(!none.arrived(&data(CHANNEL, changed), Instant::now()));
        }
        assert_eq!(reason(&none), Reason::Match);
        assert!(!none.arrived(b"HTTP/1.1", Instant::now()));
        assert_eq!(none.others, 5);
    }
}
