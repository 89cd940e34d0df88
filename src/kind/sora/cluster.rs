//! The cluster that a Sora belongs to: consensus, members, and the traffic between them.

use super::FieldSample;
use super::api::{ClusterNode, RaftState, RelayTraffic, StatsReport};
use crate::kind::{Flag, JsonList};
use crate::metric::Families;

crate::descs! {
    UP = gauge "sora_cluster_up" [] "Whether ListClusterNodes succeeded in the last poll; also 0 if Sora is not part of a cluster.";
    NODE = gauge "sora_cluster_node" ["mode", "node_name", "node_type"] "Whether a node of the cluster is connected.";
    RAFT_STATE = gauge "sora_cluster_raft_state" ["state"] "Role of this node in the Raft consensus, in the label. Always 1.";
    RAFT_TERM = counter "sora_cluster_raft_term" [] "Current Raft term of this node; it increases with every election.";
    RAFT_COMMIT_INDEX = counter "sora_cluster_raft_commit_index" [] "Index of the last committed entry of the Raft log.";
    RELAY_RECEIVED_BYTES = counter "sora_cluster_relay_received_bytes_total" ["node_name"] "Bytes relayed from another node to this node.";
    RELAY_RECEIVED_PACKETS = counter "sora_cluster_relay_received_packets_total" ["node_name"] "Packets relayed from another node to this node.";
    RELAY_SENT_BYTES = counter "sora_cluster_relay_sent_bytes_total" ["node_name"] "Bytes relayed from this node to another node.";
    RELAY_SENT_PACKETS = counter "sora_cluster_relay_sent_packets_total" ["node_name"] "Packets relayed from this node to another node.";
    GRAFT_MISS = counter "sora_cluster_relay_plumtree_graft_miss_total" ["node_name"] "Plumtree GRAFT requests for a message that no longer existed.";
    IGNORED = counter "sora_cluster_relay_plumtree_ignored_total" ["node_name"] "Plumtree messages that were received and ignored.";
    IHAVE_OVERFLOW = counter "sora_cluster_relay_plumtree_ihave_overflow_total" ["node_name"] "Plumtree IHAVE messages that were received and dropped because the queue was full.";
    RECEIVED_GOSSIP = counter "sora_cluster_relay_plumtree_received_gossip_total" ["node_name"] "Plumtree GOSSIP messages received.";
    RECEIVED_GOSSIP_HOP = counter "sora_cluster_relay_plumtree_received_gossip_hop_total" ["node_name"] "Total number of hops of received Plumtree GOSSIP messages.";
    RECEIVED_GRAFT = counter "sora_cluster_relay_plumtree_received_graft_total" ["node_name"] "Plumtree GRAFT messages received.";
    RECEIVED_IHAVE = counter "sora_cluster_relay_plumtree_received_ihave_total" ["node_name"] "Plumtree IHAVE messages received.";
    RECEIVED_PRUNE = counter "sora_cluster_relay_plumtree_received_prune_total" ["node_name"] "Plumtree PRUNE messages received.";
    SENT_GOSSIP = counter "sora_cluster_relay_plumtree_sent_gossip_total" ["node_name"] "Plumtree GOSSIP messages sent.";
    SENT_GRAFT = counter "sora_cluster_relay_plumtree_sent_graft_total" ["node_name"] "Plumtree GRAFT messages sent.";
    SENT_IHAVE = counter "sora_cluster_relay_plumtree_sent_ihave_total" ["node_name"] "Plumtree IHAVE messages sent.";
    SENT_PRUNE = counter "sora_cluster_relay_plumtree_sent_prune_total" ["node_name"] "Plumtree PRUNE messages sent.";
    SKIPPED_SEND = counter "sora_cluster_relay_plumtree_skipped_send_total" ["node_name"] "Plumtree messages that were not sent.";
}

static RAFT: &[FieldSample<RaftState>] = &[
    (&RAFT_TERM, &[], |raft| raft.raft_term),
    (&RAFT_COMMIT_INDEX, &[], |raft| raft.raft_commit_index),
];

/// The labels are those of the relay, so the rows have none.
static RELAY: &[FieldSample<RelayTraffic>] = &[
    (&RELAY_RECEIVED_BYTES, &[], |relay| relay.total_received_byte_size),
    (&RELAY_RECEIVED_PACKETS, &[], |relay| relay.total_received),
    (&RELAY_SENT_BYTES, &[], |relay| relay.total_sent_byte_size),
    (&RELAY_SENT_PACKETS, &[], |relay| relay.total_sent),
    (&GRAFT_MISS, &[], |relay| relay.plumtree.fields().total_graft_miss),
    (&IGNORED, &[], |relay| relay.plumtree.fields().total_ignored),
    (&IHAVE_OVERFLOW, &[], |relay| relay.plumtree.fields().total_ihave_overflow),
    (&RECEIVED_GOSSIP, &[], |relay| relay.plumtree.fields().total_received_gossip),
    (&RECEIVED_GOSSIP_HOP, &[], |relay| relay.plumtree.fields().total_received_gossip_hop),
    (&RECEIVED_GRAFT, &[], |relay| relay.plumtree.fields().total_received_graft),
    (&RECEIVED_IHAVE, &[], |relay| relay.plumtree.fields().total_received_ihave),
    (&RECEIVED_PRUNE, &[], |relay| relay.plumtree.fields().total_received_prune),
    (&SENT_GOSSIP, &[], |relay| relay.plumtree.fields().total_sent_gossip),
    (&SENT_GRAFT, &[], |relay| relay.plumtree.fields().total_sent_graft),
    (&SENT_IHAVE, &[], |relay| relay.plumtree.fields().total_sent_ihave),
    (&SENT_PRUNE, &[], |relay| relay.plumtree.fields().total_sent_prune),
    (&SKIPPED_SEND, &[], |relay| relay.plumtree.fields().total_skipped_send),
];

/// This node's part in the consensus.
pub(super) fn write_raft(report: &StatsReport, out: &mut Families) {
    let Some(raft) = report.cluster.read(out) else { return };
    if let Some(state) = raft.raft_state.read(out) {
        out.set(&RAFT_STATE, &[state], 1.0);
    }
    super::write_rows(RAFT, raft, out);
}

/// The members of the cluster: one series each.
pub(super) fn write_nodes(nodes: &JsonList<ClusterNode>, out: &mut Families) {
    for node in nodes.read(out) {
        let Some(connected) = node.connected.read(out) else { continue };
        // Sora 2021.2 called the field `cluster_node_name`.
        let name = match node.cluster_node_name.label(out) {
            "" => node.node_name.label(out),
            name => name,
        };
        let mode = node.mode.label(out);
        node.temporary_node.count_invalid(out);
        let node_type = if node.temporary_node == Flag::Value(true) { "temporary" } else { "regular" };
        out.set(&NODE, &[mode, name, node_type], f64::from(u8::from(*connected)));
    }
}

/// Traffic to and from the other nodes: 17 series for each of them.
pub(super) fn write_relays(relays: &JsonList<RelayTraffic>, out: &mut Families) {
    let relays: Vec<(&RelayTraffic, &str)> = relays
        .read(out)
        .iter()
        .map(|relay| {
            relay.plumtree.count_invalid(out);
            (relay, relay.node_name.label(out))
        })
        .collect();
    for (desc, _, field) in RELAY {
        for (relay, name) in &relays {
            out.number(desc, &[name], field(relay));
        }
    }
}
