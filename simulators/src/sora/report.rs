//! The stats report of a simulated Sora, with every field that a real one has.

use serde_json::{Map, Value, json};

use super::traffic::{BOUNDS_MS, CLIENTS, Flow, Relay, Traffic, Webhook};

/// The version that the servers report.
pub(super) const VERSION: &str = "2026.1.0";

/// The report of now. It takes the traffic as mutable since some values are "since the last call".
pub(super) fn of(traffic: &mut Traffic) -> Value {
    let t = traffic;
    let mut report = json!({
        "version": VERSION,
        "total_connection_created": t.created,
        "total_connection_updated": t.updated,
        "total_connection_destroyed": t.destroyed,
        "total_successful_connections": t.successful,
        "total_failed_connections": t.failed,
        "total_ongoing_connections": t.ongoing,
        "total_duration_sec": t.duration_sec,
        "average_duration_sec": t.duration_sec.checked_div(t.successful).unwrap_or(0),
        "average_setup_time_msec": t.setup_ms.checked_div(t.successful).unwrap_or(0),
        "total_turn_udp_connections": t.turn_udp,
        "total_turn_tcp_connections": t.turn_tcp,
        "total_received_invalid_turn_tcp_packet": t.invalid_turn_tcp,
        "total_session_created": t.sessions_created,
        "total_session_destroyed": t.sessions_destroyed,
        "total_auth_webhook_allowed": t.allowed,
        "total_auth_webhook_denied": t.denied,
        "total_sent_srtp_sfu_delay_us": t.sfu_delay_us,
        "sora_client": {
            "total_failed_sora_client_type": clients(&t.clients_failed),
            "total_successful_sora_client_type": clients(&t.clients_successful),
        },
        "error": { "sdp_generation_error": t.sdp_errors, "signaling_error": t.signaling_errors },
        "erlang_vm": erlang_vm(t),
        "cluster_relay": t.relays.iter().map(relay).collect::<Value>(),
    });
    if let Some(report) = report.as_object_mut() {
        flow(report, "received_srtp", t.srtp_received);
        flow(report, "sent_srtp", t.srtp_sent);
        flow(report, "decrypted_srtp", t.srtp_decrypted);
        flow(report, "received_sctp", t.sctp_received);
        flow(report, "sent_sctp", t.sctp_sent);
        webhook(report, "auth", &t.auth);
        webhook(report, "session", &t.session);
        webhook(report, "event", &t.event);
        webhook(report, "stats", &t.stats);
        report.remove("total_ignored_auth_webhook"); // authentication cannot be left out
    }
    report
}

fn flow(report: &mut Map<String, Value>, name: &str, flow: Flow) {
    report.insert(format!("total_{name}"), json!(flow.packets));
    report.insert(format!("total_{name}_byte_size"), json!(flow.bytes));
}

fn webhook(report: &mut Map<String, Value>, name: &str, webhook: &Webhook) {
    report.insert(format!("total_successful_{name}_webhook"), json!(webhook.successful));
    report.insert(format!("total_failed_{name}_webhook"), json!(webhook.failed));
    report.insert(format!("total_ignored_{name}_webhook"), json!(webhook.ignored));
    report.insert(format!("total_{name}_webhook_response_time_ms"), json!(webhook.total_ms));
    let buckets =
        BOUNDS_MS.iter().zip(webhook.buckets).map(|(bound, count)| json!({ "upper_bound": bound, "count": count }));
    report.insert(format!("{name}_webhook_response_time_ms_buckets"), buckets.collect());
}

fn clients(counts: &[u64; CLIENTS.len()]) -> Value {
    CLIENTS.iter().zip(counts).map(|(key, count)| ((*key).to_owned(), json!(count))).collect::<Map<_, _>>().into()
}

/// The name of the other node is the cluster's to give.
fn relay(relay: &Relay) -> Value {
    json!({
        "node_name": "",
        "total_received_byte_size": relay.received.bytes,
        "total_sent_byte_size": relay.sent.bytes,
        "total_received": relay.received.packets,
        "total_sent": relay.sent.packets,
        "plumtree": {
            "total_sent_gossip": relay.sent_gossip,
            "total_received_gossip": relay.received_gossip,
            "total_received_gossip_hop": relay.received_gossip_hop,
            "total_sent_ihave": relay.sent_ihave,
            "total_received_ihave": relay.received_ihave,
            "total_sent_graft": relay.sent_graft,
            "total_received_graft": relay.received_graft,
            "total_sent_prune": relay.sent_prune,
            "total_received_prune": relay.received_prune,
            "total_graft_miss": relay.graft_miss,
            "total_skipped_send": relay.skipped_send,
            "total_ihave_overflow": relay.ihave_overflow,
            "total_ignored": relay.ignored,
        },
    })
}

fn erlang_vm(t: &mut Traffic) -> Value {
    let before = std::mem::replace(&mut t.reported, t.machine);
    let mut noise = t.noise.clone(); // the load of an instant must not move the traffic
    let processes = 48_000_000 + t.ongoing * 900_000 + noise.below(4_000_000);
    let (binary, ets, code) = (6_000_000 + t.ongoing * 150_000, 9_000_000, 31_000_000);
    let (atom, atom_used) = (1_300_000, 1_290_000);
    let system = binary + ets + code + atom + 14_000_000;
    let queues = [noise.below(2), noise.below(2), 0, 0];
    let waiting: u64 = queues.iter().sum();
    let tasks = queues.map(|length| length + 1);
    let active: u64 = tasks.iter().sum();
    json!({
        "memory": {
            "total": processes + system,
            "processes": processes,
            "processes_used": processes - 20_000,
            "system": system,
            "atom": atom,
            "atom_used": atom_used,
            "binary": binary,
            "code": code,
            "ets": ets,
        },
        "statistics": {
            "active_tasks": tasks,
            "active_tasks_all": [tasks[0], tasks[1], tasks[2], tasks[3], 0],
            "context_switches": t.context_switches,
            "exact_reductions": {
                "exact_reductions_since_last_call": t.machine.exact_reductions - before.exact_reductions,
                "total_exact_reductions": t.machine.exact_reductions,
            },
            "garbage_collection": { "number_of_gcs": t.garbage_collections, "words_reclaimed": t.words_reclaimed },
            "io": { "input": t.io_input, "output": t.io_output },
            "reductions": {
                "reductions_since_last_call": t.machine.reductions - before.reductions,
                "total_reductions": t.machine.reductions,
            },
            "run_queue": waiting,
            "run_queue_lengths": queues,
            "run_queue_lengths_all": [queues[0], queues[1], queues[2], queues[3], 0],
            "runtime": {
                "time_since_last_call": t.machine.runtime_ms - before.runtime_ms,
                "total_run_time": t.machine.runtime_ms,
            },
            "total_active_tasks": active,
            "total_active_tasks_all": active,
            "total_run_queue_lengths": waiting,
            "total_run_queue_lengths_all": waiting,
            "wall_clock": {
                "total_wallclock_time": t.machine.wallclock_ms,
                "wallclock_time_since_last_call": t.machine.wallclock_ms - before.wallclock_ms,
            },
        },
    })
}
