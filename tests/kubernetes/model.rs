//! Whatever is done to targets, Secrets, servers, CRDs, the API server and the exporter: a model says what must hold in the end at
//! `/probe`, at `/sd`, in every status and of every ServiceMonitor. Sequences are found at random, and cut down to what matters.

mod bulk;
mod operation;
mod stage;
mod world;

use proptest::prelude::{ProptestConfig, any};
use proptest::test_runner::{TestCaseError, TestRunner};

use crate::support::cluster::Cluster;
use operation::{Operation, Sequence, sequence};
use stage::Stage;
use world::World;

#[test]
fn whatever_happens_the_end_is_as_the_model_says() {
    // By their owners, monitors beside targets are garbage when their target is gone.
    let cluster = Cluster::with_controllers(&["garbage-collector-controller"]);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let setting = |name: &str, usual| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual);
    // A sequence that fails takes minutes each time.
    let config = ProptestConfig {
        cases: setting("PROPTEST_CASES", 3),
        failure_persistence: None,
        max_shrink_time: 900_000,
        max_shrink_iters: setting("PROPTEST_MAX_SHRINK_ITERS", 100),
        ..ProptestConfig::default()
    };
    let result = TestRunner::new(config).run(&(any::<bool>(), sequence()), |(in_release, Sequence(operations))| {
        runtime.block_on(play(&cluster, in_release, &operations)).map_err(TestCaseError::fail)
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

/// Does one thing after another, and compares what is with what should be.
async fn play(cluster: &Cluster, in_release: bool, operations: &[Operation]) -> Result<(), String> {
    cluster.install_crd();
    cluster.install_operator_crds(&["servicemonitors"]);
    let mut stage = Stage::set_up(cluster, in_release).await;
    let mut world = World::default();
    for (number, operation) in operations.iter().enumerate() {
        if world.change(operation) {
            stage.perform(operation).await;
        }
        if matches!(operation, Operation::Look) {
            stage.settle(&mut world).await.map_err(|error| format!("after operation {number}: {error}"))?;
        }
    }
    stage.settle(&mut world).await
}
