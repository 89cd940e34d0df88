//! The answers of Sora's HTTP API: only the fields that become metrics, each read leniently.
//!
//! Fields came with versions of Sora, so a missing one is absent here and never a zero.
#![expect(clippy::struct_field_names, reason = "the names are those on the wire")]

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

pub use super::lenient::{Flag, List, Object};
use crate::kind::json::keep_item;
use crate::kind::{Number, Text};

/// The answer of `Sora_20171010.GetStatsReport`. Counters run since Sora was started.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct StatsReport {
    pub(super) version: Text,
    pub(super) total_connection_created: Number,
    pub(super) total_connection_updated: Number,
    pub(super) total_connection_destroyed: Number,
    pub(super) total_successful_connections: Number,
    pub(super) total_failed_connections: Number,
    pub(super) total_ongoing_connections: Number,
    pub(super) total_duration_sec: Number,
    pub(super) average_duration_sec: Number,
    pub(super) average_setup_time_msec: Number,
    pub(super) total_turn_udp_connections: Number,
    pub(super) total_turn_tcp_connections: Number,
    pub(super) total_received_invalid_turn_tcp_packet: Number,
    pub(super) total_session_created: Number,
    pub(super) total_session_destroyed: Number,
    pub(super) total_auth_webhook_allowed: Number,
    pub(super) total_auth_webhook_denied: Number,
    pub(super) total_successful_auth_webhook: Number,
    pub(super) total_failed_auth_webhook: Number,
    pub(super) total_successful_session_webhook: Number,
    pub(super) total_failed_session_webhook: Number,
    pub(super) total_ignored_session_webhook: Number,
    pub(super) total_successful_event_webhook: Number,
    pub(super) total_failed_event_webhook: Number,
    pub(super) total_ignored_event_webhook: Number,
    pub(super) total_successful_stats_webhook: Number,
    pub(super) total_failed_stats_webhook: Number,
    pub(super) total_ignored_stats_webhook: Number,
    pub(super) total_received_srtp: Number,
    pub(super) total_received_srtp_byte_size: Number,
    pub(super) total_sent_srtp: Number,
    pub(super) total_sent_srtp_byte_size: Number,
    pub(super) total_decrypted_srtp: Number,
    pub(super) total_decrypted_srtp_byte_size: Number,
    pub(super) total_sent_srtp_sfu_delay_us: Number,
    pub(super) total_received_sctp: Number,
    pub(super) total_received_sctp_byte_size: Number,
    pub(super) total_sent_sctp: Number,
    pub(super) total_sent_sctp_byte_size: Number,
    pub(super) total_auth_webhook_response_time_ms: Number,
    pub(super) auth_webhook_response_time_ms_buckets: List<Object<Bucket>>,
    pub(super) total_session_webhook_response_time_ms: Number,
    pub(super) session_webhook_response_time_ms_buckets: List<Object<Bucket>>,
    pub(super) total_event_webhook_response_time_ms: Number,
    pub(super) event_webhook_response_time_ms_buckets: List<Object<Bucket>>,
    pub(super) total_stats_webhook_response_time_ms: Number,
    pub(super) stats_webhook_response_time_ms_buckets: List<Object<Bucket>>,
    pub(super) sora_client: Object<ClientTypes>,
    pub(super) error: Object<Errors>,
    pub(super) erlang_vm: Object<ErlangVm>,
    pub(super) cluster: Object<Raft>,
    pub(super) cluster_relay: List<Object<Relay>>,
}

/// A bucket of a webhook's response times: how many calls took `upper_bound` milliseconds or less.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Bucket {
    pub(super) upper_bound: Number,
    pub(super) count: Number,
}

/// Connections by the software of the client.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ClientTypes {
    pub(super) total_failed_sora_client_type: Object<Clients>,
    pub(super) total_successful_sora_client_type: Object<Clients>,
}

/// Connections that failed, by the reason.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Errors {
    pub(super) sdp_generation_error: Number,
    pub(super) signaling_error: Number,
}

/// The virtual machine that Sora runs on.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ErlangVm {
    pub(super) memory: Object<Memory>,
    pub(super) statistics: Object<Statistics>,
}

/// Bytes by use.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Memory {
    pub(super) total: Number,
    pub(super) processes: Number,
    pub(super) processes_used: Number,
    pub(super) system: Number,
    pub(super) atom: Number,
    pub(super) atom_used: Number,
    pub(super) binary: Number,
    pub(super) code: Number,
    pub(super) ets: Number,
}

/// What the scheduler and the collector did.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Statistics {
    pub(super) context_switches: Number,
    pub(super) exact_reductions: Object<ExactReductions>,
    pub(super) garbage_collection: Object<GarbageCollection>,
    pub(super) io: Object<Io>,
    pub(super) reductions: Object<Reductions>,
    pub(super) run_queue: Number,
    pub(super) runtime: Object<Runtime>,
    pub(super) total_active_tasks: Number,
    pub(super) total_active_tasks_all: Number,
    pub(super) total_run_queue_lengths: Number,
    pub(super) total_run_queue_lengths_all: Number,
    pub(super) wall_clock: Object<WallClock>,
}

/// Reductions, those of running processes included.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ExactReductions {
    pub(super) exact_reductions_since_last_call: Number,
    pub(super) total_exact_reductions: Number,
}

/// Garbage collection.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct GarbageCollection {
    pub(super) number_of_gcs: Number,
    pub(super) words_reclaimed: Number,
}

/// Bytes through ports.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Io {
    pub(super) input: Number,
    pub(super) output: Number,
}

/// Reductions of processes that are not running.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Reductions {
    pub(super) reductions_since_last_call: Number,
    pub(super) total_reductions: Number,
}

/// CPU time in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Runtime {
    pub(super) time_since_last_call: Number,
    pub(super) total_run_time: Number,
}

/// Real time in milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct WallClock {
    pub(super) total_wallclock_time: Number,
    pub(super) wallclock_time_since_last_call: Number,
}

/// This node's part in the Raft consensus of its cluster.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Raft {
    pub(super) raft_state: Text,
    pub(super) raft_term: Number,
    pub(super) raft_commit_index: Number,
}

/// Traffic between this node and one other.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Relay {
    pub(super) node_name: Text,
    pub(super) total_received_byte_size: Number,
    pub(super) total_sent_byte_size: Number,
    pub(super) total_received: Number,
    pub(super) total_sent: Number,
    pub(super) plumtree: Object<Plumtree>,
}

/// The broadcast protocol between this node and one other.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Plumtree {
    pub(super) total_sent_gossip: Number,
    pub(super) total_received_gossip: Number,
    pub(super) total_received_gossip_hop: Number,
    pub(super) total_sent_ihave: Number,
    pub(super) total_received_ihave: Number,
    pub(super) total_sent_graft: Number,
    pub(super) total_received_graft: Number,
    pub(super) total_sent_prune: Number,
    pub(super) total_received_prune: Number,
    pub(super) total_graft_miss: Number,
    pub(super) total_skipped_send: Number,
    pub(super) total_ihave_overflow: Number,
    pub(super) total_ignored: Number,
}

/// The answer of `Sora_20171218.GetLicense`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct License {
    pub(super) expired_at: Text,
    pub(super) max_connections: Number,
    pub(super) max_nodes: Number,
    pub(super) product_name: Text,
    pub(super) serial_code: Text,
    pub(super) r#type: Text,
}

/// One item of the answer of `Sora_20211215.ListClusterNodes`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ClusterNode {
    pub(super) cluster_node_name: Text,
    pub(super) node_name: Text,
    pub(super) mode: Text,
    pub(super) connected: Flag,
    pub(super) temporary_node: Flag,
}

/// The answer of `Sora_20211215.GetMode`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct ServerMode {
    pub(super) mode: Text,
}

/// Connections by client software, each under the value of the label `client`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Clients(pub(super) Vec<(Client, Number)>);

/// The value of the label `client`: a name of ours where Sora's key is known, otherwise the key itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client(pub(super) Cow<'static, str>);

impl Client {
    fn of_key(key: &str) -> Self {
        Self(match key {
            "sora_android_sdk" => Cow::Borrowed("android_sdk"),
            "sora_c_sdk" => Cow::Borrowed("c_sdk"),
            "sora_cpp_sdk" => Cow::Borrowed("cpp_sdk"),
            "sora_flutter_sdk" => Cow::Borrowed("flutter_sdk"),
            "sora_ios_sdk" => Cow::Borrowed("ios_sdk"),
            "sora_js_sdk" => Cow::Borrowed("js_sdk"),
            "sora_python_sdk" => Cow::Borrowed("python_sdk"),
            "sora_unity_sdk" => Cow::Borrowed("unity_sdk"),
            "obs_studio_whip" => Cow::Borrowed("obs_studio_whip"),
            "obs_studio_whep" => Cow::Borrowed("obs_studio_whep"),
            "unknown" => Cow::Borrowed("unknown"),
            "webrtc_load_testing_tool_zakuro" => Cow::Borrowed("zakuro"),
            "webrtc_native_client_momo" => Cow::Borrowed("momo"),
            other => Cow::Owned(other.to_owned()),
        })
    }
}

impl<'de> Deserialize<'de> for Client {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl Visitor<'_> for KeyVisitor {
            type Value = Client;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_str<E>(self, key: &str) -> Result<Client, E> {
                Ok(Client::of_key(key))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

impl<'de> Deserialize<'de> for Clients {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ClientsVisitor;
        impl<'de> Visitor<'de> for ClientsVisitor {
            type Value = Clients;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of numbers")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Clients, A::Error> {
                let mut clients = Vec::with_capacity(16);
                while let Some((client, connections)) = map.next_entry::<Client, Number>()? {
                    keep_item(size_of::<(Client, Number)>() + client.0.len())?;
                    clients.push((client, connections));
                }
                Ok(Clients(clients))
            }
        }
        deserializer.deserialize_map(ClientsVisitor)
    }
}
