//! What a fleet costs the API server when nothing happens.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::stage::Stage;
use crate::exporter::{server, targets, told};
use crate::support::cluster::{AuditLine, Cluster};

const MANY: usize = 20;

/// Longer than the slow looks at everything are apart.
const CALM: Duration = Duration::from_secs(65);

/// A change of anything, the Lease apart, which is renewed for ever.
fn is_write(line: &AuditLine) -> bool {
    line.resource != "leases" && ["create", "update", "patch", "delete", "deletecollection"].contains(&&*line.verb)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_steady_fleet_causes_no_write_no_list_and_few_requests() {
    let (stage, server) = (Stage::new(Cluster::shared()), server().await);
    for number in 0..MANY {
        let spec = json!({ "type": "Mediasoup", "url": server.url(), "interval": "1h", "suspend": number % 4 == 0 });
        stage.declare(&format!("t{number}"), &spec);
    }
    let exporter = stage.run(&[]);
    let api = targets(stage.cluster, &stage.team);
    let all_told = async || {
        let list = api.list(&kube::api::ListParams::default()).await.unwrap().items;
        let done = list.iter().map(told).filter(|told| {
            let says = |kind, wanted: &[&str]| told.get(kind).is_some_and(|(verdict, _)| wanted.contains(&&**verdict));
            says("Up", &["True/Succeeded", "Unknown/Suspended"])
                && says("MonitorReady", &["True/Written", "True/Disabled"])
        });
        (done.count() == MANY).then_some(())
    };
    stage.until("a word about each target", &exporter, all_told).await;
    let settled = async || {
        let since = Timestamp::now() - SignedDuration::from_secs(10);
        let asked = stage.asked_at_all();
        (!asked.iter().any(|line| line.at > since && is_write(line))).then_some(())
    };
    stage.until("end of the writes", &exporter, settled).await;

    let since = Timestamp::now();
    tokio::time::sleep(CALM).await;
    let mut asked = stage.asked_at_all();
    asked.retain(|line| line.at > since);
    assert!(asked.iter().any(|line| line.resource == "leases"), "it leads no more:\n{}", exporter.log());
    let wrong: Vec<_> = asked.iter().filter(|line| is_write(line) || line.verb == "list").collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(u64::try_from(asked.len()).unwrap() <= CALM.as_secs(), "{} requests: {asked:#?}", asked.len());
}
