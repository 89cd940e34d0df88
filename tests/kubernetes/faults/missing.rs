//! An API server that does not know ScrapeTargets, from the start or all at once.

use crate::exporter::{PATIENCE, Release, server, target, until};
use crate::support::cluster::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_crd_is_waited_for_with_one_line_that_says_what_to_type() {
    let (cluster, server) = (Cluster::private(), server().await);
    let release = Release::install(&cluster, &[], &["--discovery.mode", "none"]);
    let replica = release.replica();
    let missing = || replica.logged("install their CRD: scrapetarget-exporter crd | kubectl apply --server-side -f -");
    let unanswered = || {
        let lines = release.asked(&cluster);
        lines.iter().filter(|line| line.resource == "scrapetargets" && line.verb == "list" && line.code == 404).count()
    };
    let looked_for = async |times| {
        until(PATIENCE, async || {
            let there = unanswered();
            (there >= times).then_some(()).ok_or_else(|| format!("it was looked for {there} times\n{}", replica.log()))
        })
        .await;
    };
    looked_for(3).await;
    assert_eq!(missing(), 1, "{}", replica.log());
    for path in ["/-/ready", "/sd", "/probe?target=a/b"] {
        assert_eq!(replica.get(path).await.unwrap().0, 503, "{path}");
    }
    assert_eq!(replica.get("/-/healthy").await.unwrap().0, 200);

    for times in 1..=2 {
        cluster.install_crd();
        cluster.apply(&target("default", "a", &server.url(), ""));
        replica.until_up("default/a").await;
        assert_eq!(replica.logged("the CRD of ScrapeTargets is installed now"), times);
        assert_eq!(replica.get("/-/ready").await.unwrap().0, 200);
        assert_eq!(missing(), times, "{}", replica.log());
        let before = unanswered();
        assert_eq!(cluster.kubectl(&["delete", "crd", "scrapetargets.scrapetarget.dev"]).code, Some(0));
        replica.until_gone("default/a").await;
        looked_for(before + 2).await;
    }
    assert_eq!(missing(), 3, "{}", replica.log());
}
