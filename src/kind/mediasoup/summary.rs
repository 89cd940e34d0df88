//! What every poll of an agent shows: its health, how many objects there are, and the worker processes.

use std::collections::BTreeMap;

use super::document::{StatsDocument, ResourceUsage, Worker, flag_label};
use super::short;
use crate::kind::{JsonEntries, Number};
use crate::metric::{Desc, Families};

crate::descs! {
    COLLECTION = gauge "mediasoup_snapshot_collection_seconds" []
        "Time that the agent took to collect the statistics.";
    TIMESTAMP = gauge "mediasoup_snapshot_timestamp_seconds" []
        "Unix time by the clock of the agent when it began to collect the statistics.";
    AGENT_START = gauge "mediasoup_agent_start_time_seconds" []
        "Unix time at which the agent started with its application.";
    OBJECT_ERRORS = gauge "mediasoup_snapshot_object_errors" ["object"]
        "Objects whose statistics could not be collected because they were closed or did not answer in time.";
    BUILD_INFO = gauge "mediasoup_build_info" ["version"]
        "The version of mediasoup in the application; always 1.";
    WORKERS = gauge "mediasoup_workers" []
        "Live worker processes.";
    ROUTERS = gauge "mediasoup_routers" ["pid"]
        "Live routers of each worker.";
    TRANSPORTS = gauge "mediasoup_transports" ["type"]
        "Live transports.";
    WEBRTC_TRANSPORTS = gauge "mediasoup_webrtc_transports" ["ice_state", "dtls_state"]
        "Live WebRTC transports by ICE and DTLS state.";
    PRODUCERS = gauge "mediasoup_producers" ["kind", "type", "paused"]
        "Live producers.";
    CONSUMERS = gauge "mediasoup_consumers" ["kind", "type", "paused"]
        "Live consumers.";
    DATA_PRODUCERS = gauge "mediasoup_data_producers" ["type"]
        "Live data producers.";
    DATA_CONSUMERS = gauge "mediasoup_data_consumers" ["type"]
        "Live data consumers.";
    CREATED = counter "mediasoup_objects_created_total" ["object"]
        "Objects created since the agent started.";
    CLOSED = counter "mediasoup_objects_closed_total" ["object"]
        "Objects closed since the agent started, for any reason.";
    DEATHS = counter "mediasoup_worker_deaths_total" []
        "Worker processes that died unexpectedly since the agent started.";
    ICE_CHANGES = counter "mediasoup_ice_state_changes_total" ["state"]
        "Changes of a WebRTC transport to this ICE state, since the agent started.";
    DTLS_CHANGES = counter "mediasoup_dtls_state_changes_total" ["state"]
        "Changes of a WebRTC transport to this DTLS state, since the agent started.";
    CPU = counter "mediasoup_worker_cpu_seconds_total" ["pid", "mode"]
        "CPU time used by the worker process.";
    MAX_MEMORY = gauge "mediasoup_worker_max_resident_memory_bytes" ["pid"]
        "Maximum resident memory of the worker process.";
    MEMORY = gauge "mediasoup_worker_resident_memory_bytes" ["pid"]
        "Resident memory of the worker process.";
    PAGE_FAULTS = counter "mediasoup_worker_page_faults_total" ["pid", "kind"]
        "Page faults of the worker process, without (minor) and with (major) I/O.";
    CONTEXT_SWITCHES = counter "mediasoup_worker_context_switches_total" ["pid", "kind"]
        "Context switches of the worker process, voluntary and involuntary.";
    WORKER_START = gauge "mediasoup_worker_start_time_seconds" ["pid"]
        "Unix time at which the worker process was created.";
}

// Counts are exported also where they are 0: an alert cannot see a series that is missing.
const OBJECTS: [&str; 7] =
    ["worker", "router", "transport", "producer", "consumer", "data_producer", "data_consumer"];
/// The application's own list, which an agent can fail to report as well.
const ROOMS: &str = "rooms";
const TRANSPORT_TYPES: [&str; 4] = ["webrtc", "plain", "pipe", "direct"];
const ICE_STATES: [&str; 5] = ["new", "connected", "completed", "disconnected", "closed"];
const DTLS_STATES: [&str; 5] = ["new", "connecting", "connected", "failed", "closed"];
const KINDS: [&str; 2] = ["audio", "video"];
const PRODUCER_TYPES: [&str; 3] = ["simple", "simulcast", "svc"];
const CONSUMER_TYPES: [&str; 4] = ["simple", "simulcast", "svc", "pipe"];
const DATA_TYPES: [&str; 2] = ["sctp", "direct"];
const PAUSED: [&str; 2] = ["false", "true"];

/// Most states that a server may make up.
const MAX_STATES: usize = 16;

/// Writes health, counts and workers.
pub(super) fn write(document: &StatsDocument, out: &mut Families) {
    write_health(document, out);
    write_counts(document, out);
    if let Some(lifetime) = document.lifetime.as_ref() {
        write_lifetime(lifetime, out);
    }
    for worker in &document.workers.items {
        write_worker(worker, out);
    }
}

fn seconds(milliseconds: Number) -> Number {
    milliseconds.map(|ms| ms / 1000.0)
}

fn write_health(document: &StatsDocument, out: &mut Families) {
    out.number(&COLLECTION, &[], seconds(document.collection_ms));
    out.number(&TIMESTAMP, &[], seconds(document.timestamp_ms));
    out.number(&AGENT_START, &[], seconds(document.started_ms));
    out.set(&BUILD_INFO, &[short(document.mediasoup_version.as_str())], 1.0);
    let mut errors = LabelCounts::new(OBJECTS.into_iter().chain([ROOMS]).map(|object| [object]));
    for failure in &document.errors.items {
        let object = failure.object.as_str();
        errors.add([if object == ROOMS || OBJECTS.contains(&object) { object } else { "other" }]);
    }
    errors.write(&OBJECT_ERRORS, out);
}

fn write_counts(document: &StatsDocument, out: &mut Families) {
    out.set(&WORKERS, &[], count(document.workers.items.len()));
    for worker in &document.workers.items {
        out.set(&ROUTERS, &[worker.pid.as_str()], count(worker.routers.items.len()));
    }
    let mut transports = LabelCounts::new(TRANSPORT_TYPES.map(|class| [class]));
    let mut webrtc = LabelCounts::new(ICE_STATES.iter().flat_map(|ice| DTLS_STATES.map(|dtls| [*ice, dtls])));
    let media = |classes: &'static [&'static str]| {
        let of_kind = move |kind| classes.iter().flat_map(move |class| PAUSED.map(|paused| [kind, *class, paused]));
        LabelCounts::new(KINDS.into_iter().flat_map(of_kind))
    };
    let (mut producers, mut consumers) = (media(&PRODUCER_TYPES), media(&CONSUMER_TYPES));
    let data = || LabelCounts::new(DATA_TYPES.map(|class| [class]));
    let (mut data_producers, mut data_consumers) = (data(), data());
    for located in document.transports() {
        let transport = located.transport;
        transports.add([transport.class.as_str()]);
        if transport.class.as_str() == "webrtc" {
            let stats = transport.stats.as_ref();
            let ice = stats.and_then(|stats| stats.ice_state.get());
            let dtls = stats.and_then(|stats| stats.dtls_state.get());
            webrtc.add([ice.unwrap_or("unknown"), dtls.unwrap_or("unknown")]);
        }
        for p in &transport.producers.items {
            producers.add([p.kind.as_str(), p.class.as_str(), flag_label(p.paused)]);
        }
        for c in &transport.consumers.items {
            consumers.add([c.kind.as_str(), c.class.as_str(), flag_label(c.paused)]);
        }
        transport.data_producers.items.iter().for_each(|d| data_producers.add([d.class.as_str()]));
        transport.data_consumers.items.iter().for_each(|d| data_consumers.add([d.class.as_str()]));
    }
    transports.write(&TRANSPORTS, out);
    webrtc.write(&WEBRTC_TRANSPORTS, out);
    producers.write(&PRODUCERS, out);
    consumers.write(&CONSUMERS, out);
    data_producers.write(&DATA_PRODUCERS, out);
    data_consumers.write(&DATA_CONSUMERS, out);
}

fn write_lifetime(lifetime: &JsonEntries<Number>, out: &mut Families) {
    // An agent writes only what has happened.
    let so_far = |name: &str| lifetime.get(name).and_then(|number| number.value());
    for object in OBJECTS {
        out.set(&CREATED, &[object], so_far(&format!("{object}s_created")).unwrap_or(0.0));
        let closed = so_far(&format!("{object}s_closed"));
        // That data producers and data consumers close is not counted by every agent.
        if let Some(closed) = closed.or_else(|| (!object.starts_with("data_")).then_some(0.0)) {
            out.set(&CLOSED, &[object], closed);
        }
    }
    out.set(&DEATHS, &[], so_far("workers_died").unwrap_or(0.0));
    for (desc, prefix, known) in
        [(&ICE_CHANGES, "ice_state_", &ICE_STATES[1..]), (&DTLS_CHANGES, "dtls_state_", &DTLS_STATES[1..])]
    {
        for state in known {
            out.set(desc, &[state], so_far(&format!("{prefix}{state}")).unwrap_or(0.0));
        }
        let others = lifetime.iter().filter_map(|(name, number)| Some((name.strip_prefix(prefix)?, *number)));
        for (state, number) in others.filter(|(state, _)| !known.contains(state)).take(MAX_STATES) {
            out.number(desc, &[short(state)], number);
        }
    }
}

fn write_worker(worker: &Worker, out: &mut Families) {
    let pid = worker.pid.as_str();
    out.number(&WORKER_START, &[pid], seconds(worker.created_ms));
    out.number(&MEMORY, &[pid], worker.rss_bytes);
    let Some(usage) = worker.resource_usage.as_ref() else { return };
    let ResourceUsage { ru_utime, ru_stime, ru_maxrss, ru_minflt, ru_majflt, ru_nvcsw, ru_nivcsw } = *usage;
    out.number(&CPU, &[pid, "user"], seconds(ru_utime));
    out.number(&CPU, &[pid, "system"], seconds(ru_stime));
    out.number(&MAX_MEMORY, &[pid], ru_maxrss.map(|kib| kib * 1024.0));
    out.number(&PAGE_FAULTS, &[pid, "minor"], ru_minflt);
    out.number(&PAGE_FAULTS, &[pid, "major"], ru_majflt);
    out.number(&CONTEXT_SWITCHES, &[pid, "voluntary"], ru_nvcsw);
    out.number(&CONTEXT_SWITCHES, &[pid, "involuntary"], ru_nivcsw);
}

#[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 objects")]
pub(super) fn count(number: usize) -> f64 {
    number as f64
}

/// How many objects there are by their labels, the known ones also when there is none.
struct LabelCounts<const N: usize> {
    known: Vec<([&'static str; N], u32)>,
    /// Values that a newer version may bring.
    others: BTreeMap<[String; N], u32>,
}

impl<const N: usize> LabelCounts<N> {
    fn new(known: impl IntoIterator<Item = [&'static str; N]>) -> Self {
        Self { known: known.into_iter().map(|labels| (labels, 0)).collect(), others: BTreeMap::new() }
    }

    fn add(&mut self, labels: [&str; N]) {
        match self.known.iter_mut().find(|(known, _)| *known == labels) {
            Some((_, count)) => *count += 1,
            None => *self.others.entry(labels.map(|label| short(label).to_owned())).or_default() += 1,
        }
    }

    fn write(self, desc: &'static Desc, out: &mut Families) {
        for (labels, count) in self.known {
            out.set(desc, &labels, f64::from(count));
        }
        for (labels, count) in self.others {
            out.set(desc, &labels.each_ref().map(String::as_str), f64::from(count));
        }
    }
}
