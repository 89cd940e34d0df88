//! SKELETON
use std::sync::{Arc, LazyLock};

use futures::future::BoxFuture;
use regex::Regex;
use reqwest::Url;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{CallError, Field, Probe, Prober, Recorder, SharedFamilies, UrlForm, UrlQuery};
use crate::metric::Desc;
use crate::rule::{FieldError, host, port};

/// The query to a DNS server, and what its answer must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {}

static URL: LazyLock<Regex> = LazyLock::new(|| Regex::new(concat!("^dns://", host!(), port!(), super::surface::path_and_query!(), "$")).expect("a constant, and a test uses it"));

impl super::Options for Options {
    const URL: UrlForm = UrlForm { pattern: &URL, message: "url must be dns://SERVER:PORT/NAME?type=TYPE" };
    const URL_USAGE: &'static str = "dns://SERVER:PORT/NAME?type=TYPE";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const FIELDS: &'static [Field] = &[Field::Tls, Field::Addresses];
}

impl super::ProbeOptions for Options {
    fn prober(&self, _: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>> {
        Ok(Arc::new(DnsProber))
    }
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    [SharedFamilies::ADDRESS, SharedFamilies::TLS].concat()
}

#[derive(Debug)]
struct DnsProber;

impl Prober for DnsProber {
    fn call(&self) -> &'static str {
        "query"
    }

    fn begin(&self, _: &mut Recorder) {}

    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>> {
        Box::pin(async move {
            let host = probe.host.to_owned();
            probe.resolve(&host).await.0.map(|_| ())
        })
    }
}
