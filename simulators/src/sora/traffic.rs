//! The traffic of a simulated Sora, second by second: clients connect and disconnect, and all counters follow from that.

use crate::Noise;

/// The upper bounds of the webhooks' response times, in milliseconds.
pub(super) const BOUNDS_MS: [u64; 4] = [100, 500, 1000, 5000];
/// The keys of client software, the most common ones first.
pub(super) const CLIENTS: [&str; 13] = [
    "sora_js_sdk",
    "sora_ios_sdk",
    "sora_android_sdk",
    "sora_unity_sdk",
    "sora_python_sdk",
    "sora_flutter_sdk",
    "obs_studio_whip",
    "webrtc_native_client_momo",
    "sora_cpp_sdk",
    "sora_c_sdk",
    "obs_studio_whep",
    "webrtc_load_testing_tool_zakuro",
    "unknown",
];
/// Between these the number of connections wanders.
const CONNECTIONS: std::ops::Range<u64> = 4..90;

/// Calls of one webhook.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Webhook {
    /// No call is answered.
    pub(super) broken: bool,
    pub(super) successful: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
    pub(super) total_ms: u64,
    /// How many calls took up to each of [`BOUNDS_MS`].
    pub(super) buckets: [u64; BOUNDS_MS.len()],
}

impl Webhook {
    /// One call; whether it was answered.
    fn call(&mut self, noise: &mut Noise) -> bool {
        let answered = noise.below(200) != 0 && !self.broken;
        let ms = if answered { 8 + noise.below(60) + noise.below(40) * noise.below(20) } else { 5000 };
        if answered {
            self.successful += 1;
        } else {
            self.failed += 1;
        }
        self.total_ms += ms;
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS_MS) {
            *bucket += u64::from(ms <= bound);
        }
        answered
    }

    /// One event that the webhook either takes or is set to leave out.
    fn call_or_ignore(&mut self, noise: &mut Noise) {
        if noise.below(10) == 0 {
            self.ignored += 1;
        } else {
            self.call(noise);
        }
    }
}

/// Packets and their bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Flow {
    fn add(&mut self, packets: u64, size: u64) {
        self.packets += packets;
        self.bytes += packets * size;
    }
}

/// What goes between two nodes of a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Relay {
    pub(super) received: Flow,
    pub(super) sent: Flow,
    pub(super) received_gossip: u64,
    pub(super) received_gossip_hop: u64,
    pub(super) received_ihave: u64,
    pub(super) received_graft: u64,
    pub(super) received_prune: u64,
    pub(super) sent_gossip: u64,
    pub(super) sent_ihave: u64,
    pub(super) sent_graft: u64,
    pub(super) sent_prune: u64,
    pub(super) graft_miss: u64,
    pub(super) ihave_overflow: u64,
    pub(super) skipped_send: u64,
    pub(super) ignored: u64,
}

/// The counters of the Erlang virtual machine that others are compared with at every call.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Machine {
    pub(super) reductions: u64,
    pub(super) exact_reductions: u64,
    pub(super) runtime_ms: u64,
    pub(super) wallclock_ms: u64,
}

/// A simulated Sora's state: `ongoing == created - destroyed`, and `successful + failed == created`, at any time.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    pub(super) noise: Noise,
    seconds: u64,
    pub(super) created: u64,
    pub(super) updated: u64,
    pub(super) destroyed: u64,
    pub(super) successful: u64,
    pub(super) failed: u64,
    pub(super) ongoing: u64,
    pub(super) duration_sec: u64,
    pub(super) setup_ms: u64,
    pub(super) turn_udp: u64,
    pub(super) turn_tcp: u64,
    pub(super) invalid_turn_tcp: u64,
    pub(super) sessions_created: u64,
    pub(super) sessions_destroyed: u64,
    pub(super) allowed: u64,
    pub(super) denied: u64,
    pub(super) auth: Webhook,
    pub(super) session: Webhook,
    pub(super) event: Webhook,
    pub(super) stats: Webhook,
    pub(super) srtp_received: Flow,
    pub(super) srtp_decrypted: Flow,
    pub(super) srtp_sent: Flow,
    pub(super) sfu_delay_us: u64,
    pub(super) sctp_received: Flow,
    pub(super) sctp_sent: Flow,
    pub(super) clients_successful: [u64; CLIENTS.len()],
    pub(super) clients_failed: [u64; CLIENTS.len()],
    pub(super) sdp_errors: u64,
    pub(super) signaling_errors: u64,
    pub(super) relays: Vec<Relay>,
    pub(super) context_switches: u64,
    pub(super) garbage_collections: u64,
    pub(super) words_reclaimed: u64,
    pub(super) io_input: u64,
    pub(super) io_output: u64,
    pub(super) machine: Machine,
    /// The machine's counters at the last report.
    pub(super) reported: Machine,
}

impl Traffic {
    /// A server that has just been started and has `peers` in its cluster.
    pub(super) fn new(seed: u64, peers: usize) -> Self {
        Self { noise: Noise::new(seed), relays: vec![Relay::default(); peers], ..Self::default() }
    }

    /// Catches up with the clock, in steps of a second. Time never goes back.
    pub(super) fn advance_to(&mut self, seconds: u64) {
        while self.seconds < seconds {
            self.seconds += 1;
            self.second();
        }
    }

    fn second(&mut self) {
        // Clients come and go alike often, so their number wanders; at its bounds only one of the two happens.
        let (coming, going) = (self.noise.below(3), self.noise.below(3));
        for _ in 0..coming {
            if self.ongoing < CONNECTIONS.end {
                self.connect();
            }
        }
        for _ in 0..going {
            if self.ongoing > CONNECTIONS.start {
                self.disconnect();
            }
        }
        self.sessions();
        self.media();
        self.cluster();
        self.machine();
    }

    fn connect(&mut self) {
        if self.auth.call(&mut self.noise) {
            if self.noise.below(40) == 0 {
                self.denied += 1;
                return;
            }
            self.allowed += 1;
        } else {
            return;
        }
        let client = self.noise.below(CLIENTS.len() as u64).min(self.noise.below(CLIENTS.len() as u64));
        let client = usize::try_from(client).unwrap_or(0);
        self.created += 1;
        self.event.call_or_ignore(&mut self.noise);
        if self.noise.below(50) == 0 {
            self.failed += 1;
            self.destroyed += 1;
            self.clients_failed[client] += 1;
            if self.noise.below(3) == 0 {
                self.sdp_errors += 1;
            } else {
                self.signaling_errors += 1;
            }
            return;
        }
        self.successful += 1;
        self.ongoing += 1;
        self.setup_ms += 120 + self.noise.below(500);
        self.clients_successful[client] += 1;
        if self.noise.below(8) == 0 {
            self.turn_tcp += 1;
        } else {
            self.turn_udp += 1;
        }
    }

    fn disconnect(&mut self) {
        self.destroyed += 1;
        self.ongoing -= 1;
        self.event.call_or_ignore(&mut self.noise);
    }

    /// A session holds three connections or so.
    fn sessions(&mut self) {
        let wanted = self.ongoing.div_ceil(3);
        while self.sessions_created - self.sessions_destroyed < wanted {
            self.sessions_created += 1;
            self.session.call_or_ignore(&mut self.noise);
        }
        while self.sessions_created - self.sessions_destroyed > wanted {
            self.sessions_destroyed += 1;
            self.session.call_or_ignore(&mut self.noise);
        }
    }

    fn media(&mut self) {
        self.duration_sec += self.ongoing;
        for _ in 0..self.ongoing {
            // Every minute each connection sends its statistics and, now and then, is negotiated anew.
            if self.noise.below(60) == 0 {
                self.stats.call_or_ignore(&mut self.noise);
            }
            if self.noise.below(40) == 0 {
                self.updated += 1;
                self.event.call_or_ignore(&mut self.noise);
            }
        }
        let received = self.ongoing * (140 + self.noise.below(30));
        let size = 850 + self.noise.below(100);
        self.srtp_received.add(received, size);
        self.srtp_decrypted.add(received - received / 1000, size - 14);
        self.srtp_sent.add(received * 2, size);
        self.sfu_delay_us += received * 2 * (90 + self.noise.below(60));
        self.sctp_received.add(self.ongoing * self.noise.below(3), 180);
        self.sctp_sent.add(self.ongoing * self.noise.below(5), 170);
        self.invalid_turn_tcp += u64::from(self.noise.below(900) == 0);
    }

    fn cluster(&mut self) {
        for relay in &mut self.relays {
            relay.received.add(self.ongoing * (20 + self.noise.below(10)), 880);
            relay.sent.add(self.ongoing * (20 + self.noise.below(10)), 880);
            let gossip = self.noise.below(4);
            relay.received_gossip += gossip;
            relay.received_gossip_hop += gossip * (1 + self.noise.below(2));
            relay.sent_gossip += self.noise.below(4);
            relay.received_ihave += self.noise.below(3);
            relay.sent_ihave += self.noise.below(3);
            for counter in [
                &mut relay.received_graft,
                &mut relay.received_prune,
                &mut relay.sent_graft,
                &mut relay.sent_prune,
                &mut relay.skipped_send,
                &mut relay.ignored,
            ] {
                *counter += u64::from(self.noise.below(30) == 0);
            }
            relay.graft_miss += u64::from(self.noise.below(600) == 0);
            relay.ihave_overflow += u64::from(self.noise.below(3000) == 0);
        }
    }

    fn machine(&mut self) {
        let busy = 200 + self.ongoing * 90 + self.noise.below(400);
        self.context_switches += busy * 7;
        self.garbage_collections += busy / 3;
        self.words_reclaimed += busy * 900;
        self.io_input += self.ongoing * 120_000;
        self.io_output += self.ongoing * 250_000;
        self.machine.reductions += busy * 4000;
        self.machine.exact_reductions += busy * 4000;
        self.machine.runtime_ms += (busy / 12).min(3500);
        self.machine.wallclock_ms += 1000;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_tells_the_same_story_however_often_it_is_asked() {
        let at_once = {
            let mut traffic = Traffic::new(1, 2);
            traffic.advance_to(1000);
            traffic
        };
        let mut in_steps = Traffic::new(1, 2);
        let mut other = Traffic::new(2, 2);
        for second in 0..=1000 {
            in_steps.advance_to(second);
            other.advance_to(second);
        }
        assert_eq!(format!("{at_once:?}"), format!("{in_steps:?}"));
        assert_ne!(at_once.created, other.created);
    }

    #[test]
    fn nobody_joins_while_the_auth_webhook_is_broken() {
        let mut traffic = Traffic::new(3, 0);
        traffic.advance_to(1000);
        traffic.auth.broken = true;
        let before = traffic.clone();
        traffic.advance_to(2000);
        assert_eq!((traffic.auth.successful, traffic.created), (before.auth.successful, before.created));
        assert!(traffic.auth.failed > before.auth.failed + 100, "{}", traffic.auth.failed);
        assert_eq!(traffic.ongoing, CONNECTIONS.start);
        traffic.auth.broken = false;
        traffic.advance_to(3000);
        assert!(traffic.created > before.created);
    }

    #[test]
    fn connections_wander_within_their_bounds_for_days() {
        let mut traffic = Traffic::new(5, 0);
        let mut seen = (u64::MAX, 0);
        for minute in 60..3000 {
            traffic.advance_to(minute * 60);
            assert!(traffic.ongoing <= CONNECTIONS.end, "{}", traffic.ongoing);
            assert_eq!(traffic.ongoing, traffic.created - traffic.destroyed);
            seen = (seen.0.min(traffic.ongoing), seen.1.max(traffic.ongoing));
        }
        assert!(seen.0 < 30 && seen.1 > 60, "{seen:?}");
    }
}
