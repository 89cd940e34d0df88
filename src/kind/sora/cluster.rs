//! The cluster that a Sora belongs to: consensus, members, and the traffic between them.

use super::FieldSample;
use super::api::{ClusterNode, RaftState, RelayTraffic, StatsReport};
use crate::kind::{Flag, JsonList};
use crate::metric::Families;

crate::descs! {
    UP = gauge "sora_cluster_up" [] "Whether ListClusterNodes succeeded in the last poll; 0 also on a Sora that is in no cluster.";
    NODE = gauge "sora_cluster_node" ["mode", "node_name", "node_type"] "Whether a node of the cluster is connected.";
    RAFT_STATE = gauge "sora_cluster_raft_state" ["state"] "Always 1; the role of this node in the consensus is in the label.";
    RAFT_TERM = counter "sora_cluster_raft_term" [] "The Raft term that this node is in: it rises with every election.";
    RAFT_COMMIT_INDEX = counter "sora_cluster_raft_commit_index" [] "The last entry of the Raft log that is committed.";
    RELAY_RECEIVED_BYTES = counter "sora_cluster_relay_received_bytes_total" ["node_name"] "Bytes that another node relayed to this one.";
    RELAY_RECEIVED_PACKETS = counter "sora_cluster_relay_received_packets_total" ["node_name"] "Packets that another node relayed to this one.";
    RELAY_SENT_BYTES = counter "sora_cluster_relay_sent_bytes_total" ["node_name"] "Bytes that this node relayed to another one.";
    RELAY_SENT_PACKETS = counter "sora_cluster_relay_sent_packets_total" ["node_name"] "Packets that this node relayed to another one.";
    GRAFT_MISS = counter "sora_cluster_relay_plumtree_graft_miss_total" ["node_name"] "GRAFT requests of Plumtree for a message that was gone.";
    IGNORED = counter "sora_cluster_relay_plumtree_ignored_total" ["node_name"] "Messages of Plumtree that came and were ignored.";
    IHAVE_OVERFLOW = counter "sora_cluster_relay_plumtree_ihave_overflow_total" ["node_name"] "IHAVE messages of Plumtree that came and were lost to a full queue.";
    RECEIVED_GOSSIP = counter "sora_cluster_relay_plumtree_received_gossip_total" ["node_name"] "GOSSIP messages of Plumtree that came.";
    RECEIVED_GOSSIP_HOP = counter "sora_cluster_relay_plumtree_received_gossip_hop_total" ["node_name"] "Hops of the GOSSIP messages of Plumtree that came, added up.";
    RECEIVED_GRAFT = counter "sora_cluster_relay_plumtree_received_graft_total" ["node_name"] "GRAFT messages of Plumtree that came.";
    RECEIVED_IHAVE = counter "sora_cluster_relay_plumtree_received_ihave_total" ["node_name"] "IHAVE messages of Plumtree that came.";
    RECEIVED_PRUNE = counter "sora_cluster_relay_plumtree_received_prune_total" ["node_name"] "PRUNE messages of Plumtree that came.";
    SENT_GOSSIP = counter "sora_cluster_relay_plumtree_sent_gossip_total" ["node_name"] "GOSSIP messages of Plumtree that were sent.";
    SENT_GRAFT = counter "sora_cluster_relay_plumtree_sent_graft_total" ["node_name"] "GRAFT messages of Plumtree that were sent.";
    SENT_IHAVE = counter "sora_cluster_relay_plumtree_sent_ihave_total" ["node_name"] "IHAVE messages of Plumtree that were sent.";
    SENT_PRUNE = counter "sora_cluster_relay_plumtree_sent_prune_total" ["node_name"] "PRUNE messages of Plumtree that were sent.";
    SKIPPED_SEND = counter "sora_cluster_relay_plumtree_skipped_send_total" ["node_name"] "Messages of Plumtree that were not sent.";
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
