//! The Prometheus Operator at work on a cluster of its own, for the tests that run at the same time.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tempfile::TempDir;

use crate::support::cluster::{Cluster, Guarded};
use crate::support::tools;

/// A cluster with the Operator and our CRD. No kubelet: what the Operator wants to run is run by the tests.
pub(super) struct Stage {
    // In the order in which they must end.
    _operator: Guarded,
    pub(super) cluster: Cluster,
    folder: TempDir,
}

/// Of the Operator's CRDs those without which it makes no configuration for a Prometheus.
const CRDS: [&str; 5] = ["prometheuses", "servicemonitors", "podmonitors", "probes", "prometheusrules"];

/// The first removes the monitor of a target that is deleted; without the second, a Service without selector has no `EndpointSlices`.
const CONTROLLERS: [&str; 2] = ["garbage-collector-controller", "endpointslice-mirroring-controller"];

impl Stage {
    /// The stage of all tests that run now. It is set up by the first of them, and ends with the last.
    pub(super) fn enter() -> Arc<Self> {
        static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());
        Self::share(&SHARED, Cluster::install_crd)
    }

    /// Another one, for those whose CRD is so old that it has none of our rules.
    pub(super) fn enter_without_rules() -> Arc<Self> {
        static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());
        Self::share(&SHARED, Cluster::install_crd_without_rules)
    }

    fn share(shared: &Mutex<Weak<Self>>, install: fn(&Cluster)) -> Arc<Self> {
        let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let stage = Arc::new(Self::set_up(install));
            *shared = Arc::downgrade(&stage);
            stage
        })
    }

    fn set_up(install: fn(&Cluster)) -> Self {
        let mut cluster = Cluster::private();
        cluster.install_operator_crds(&CRDS);
        install(&cluster);
        cluster.start_controllers(&CONTROLLERS);
        let folder = TempDir::with_prefix("operator-").unwrap();
        // The Operator has no flag for it.
        let variable = format!("KUBECONFIG={}", cluster.admin_kubeconfig().display());
        let program = tools::prometheus_operator();
        let arguments = [variable, program.display().to_string(), "--web.listen-address=127.0.0.1:0".to_owned()];
        let operator = Guarded::spawn(Path::new("env"), &arguments, &folder.path().join("log"), None);
        Self { _operator: operator, cluster, folder }
    }

    /// What the Operator has logged so far.
    pub(super) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

/// An address of this machine that may stand in Endpoints: the API server refuses loopback and link-local ones.
pub(crate) fn own_address() -> IpAddr {
    // Nothing is sent: the system only tells from which address it would.
    let destinations =
        [[192, 0, 2, 1], [198, 51, 100, 1], [10, 255, 255, 254], [172, 31, 255, 254], [192, 168, 255, 254]];
    let source = |destination: [u8; 4]| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::from(destination), 9)).ok()?;
        match socket.local_addr().ok()?.ip() {
            IpAddr::V4(address) if !address.is_loopback() && !address.is_link_local() => Some(IpAddr::V4(address)),
            _ => None,
        }
    };
    destinations.into_iter().find_map(source).expect(
        "this test needs a network interface with an IPv4 address other than loopback: \
         the API server takes no loopback address for Endpoints",
    )
}
