//! The answers of Sora's HTTP API: only the fields that become metrics.
//!
//! Fields came with versions of Sora, so a missing one is absent here and never a zero.
#![expect(clippy::struct_field_names, reason = "the names are those on the wire")]

use crate::kind::json::json_objects;
use crate::kind::{Flag, JsonEntries, JsonField, JsonList, Number, Text};

json_objects! {
    /// The answer of `Sora_20171010.GetStatsReport`. Counters run since Sora was started.
    #[derive(Clone, Debug, Default, PartialEq)]
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
        pub(super) auth_webhook_response_time_ms_buckets: JsonList<ResponseTimeBucket>,
        pub(super) total_session_webhook_response_time_ms: Number,
        pub(super) session_webhook_response_time_ms_buckets: JsonList<ResponseTimeBucket>,
        pub(super) total_event_webhook_response_time_ms: Number,
        pub(super) event_webhook_response_time_ms_buckets: JsonList<ResponseTimeBucket>,
        pub(super) total_stats_webhook_response_time_ms: Number,
        pub(super) stats_webhook_response_time_ms_buckets: JsonList<ResponseTimeBucket>,
        pub(super) sora_client: JsonField<ClientTypes>,
        pub(super) error: JsonField<ConnectionErrors>,
        pub(super) erlang_vm: JsonField<ErlangVm>,
        pub(super) cluster: JsonField<RaftState>,
        pub(super) cluster_relay: JsonList<RelayTraffic>,
    }

    /// A bucket of a webhook's response times: how many calls took `upper_bound` milliseconds or less.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct ResponseTimeBucket {
        pub(super) upper_bound: Number,
        pub(super) count: Number,
    }

    /// Connections by the software of the client.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct ClientTypes {
        pub(super) total_failed_sora_client_type: JsonField<JsonEntries<Number>>,
        pub(super) total_successful_sora_client_type: JsonField<JsonEntries<Number>>,
    }

    /// Connections that failed, by the reason.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct ConnectionErrors {
        pub(super) sdp_generation_error: Number,
        pub(super) signaling_error: Number,
    }

    /// The virtual machine that Sora runs on.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct ErlangVm {
        pub(super) memory: JsonField<VmMemory>,
        pub(super) statistics: JsonField<VmStatistics>,
    }

    /// Bytes by use.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct VmMemory {
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
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct VmStatistics {
        pub(super) context_switches: Number,
        pub(super) exact_reductions: JsonField<ExactReductions>,
        pub(super) garbage_collection: JsonField<GarbageCollection>,
        pub(super) io: JsonField<VmIo>,
        pub(super) reductions: JsonField<Reductions>,
        pub(super) run_queue: Number,
        pub(super) runtime: JsonField<VmRuntime>,
        pub(super) total_active_tasks: Number,
        pub(super) total_active_tasks_all: Number,
        pub(super) total_run_queue_lengths: Number,
        pub(super) total_run_queue_lengths_all: Number,
        pub(super) wall_clock: JsonField<WallClock>,
    }

    /// Reductions, those of running processes included.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct ExactReductions {
        pub(super) exact_reductions_since_last_call: Number,
        pub(super) total_exact_reductions: Number,
    }

    /// Garbage collection.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct GarbageCollection {
        pub(super) number_of_gcs: Number,
        pub(super) words_reclaimed: Number,
    }

    /// Bytes through ports.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct VmIo {
        pub(super) input: Number,
        pub(super) output: Number,
    }

    /// Reductions of processes that are not running.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct Reductions {
        pub(super) reductions_since_last_call: Number,
        pub(super) total_reductions: Number,
    }

    /// CPU time in milliseconds.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct VmRuntime {
        pub(super) time_since_last_call: Number,
        pub(super) total_run_time: Number,
    }

    /// Real time in milliseconds.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct WallClock {
        pub(super) total_wallclock_time: Number,
        pub(super) wallclock_time_since_last_call: Number,
    }

    /// This node's part in the Raft consensus of its cluster.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct RaftState {
        pub(super) raft_state: Text,
        pub(super) raft_term: Number,
        pub(super) raft_commit_index: Number,
    }

    /// Traffic between this node and one other.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct RelayTraffic {
        pub(super) node_name: Text,
        pub(super) total_received_byte_size: Number,
        pub(super) total_sent_byte_size: Number,
        pub(super) total_received: Number,
        pub(super) total_sent: Number,
        pub(super) plumtree: JsonField<PlumtreeTraffic>,
    }

    /// The broadcast protocol between this node and one other.
    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    pub struct PlumtreeTraffic {
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
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct License {
        pub(super) expired_at: Text,
        pub(super) max_connections: Number,
        pub(super) max_nodes: Number,
        pub(super) product_name: Text,
        pub(super) serial_code: Text,
        pub(super) kind: Text as "type",
    }

    /// One item of the answer of `Sora_20211215.ListClusterNodes`.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct ClusterNode {
        pub(super) cluster_node_name: Text,
        pub(super) node_name: Text,
        pub(super) mode: Text,
        pub(super) connected: Flag,
        pub(super) temporary_node: Flag,
    }

    /// The answer of `Sora_20211215.GetMode`.
    #[derive(Clone, Debug, Default, PartialEq)]
    pub struct ServerMode {
        pub(super) mode: Text,
    }
}
