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

/// The request to a web server, and what its answer must be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Options {}

static URL: LazyLock<Regex> = LazyLock::new(|| Regex::new(concat!("^https?://", host!(), port!(), super::surface::path_and_query!(), "$")).expect("a constant, and a test uses it"));

impl super::Options for Options {
    const URL: UrlForm = UrlForm { pattern: &URL, message: "url must be http://HOST:PORT/PATH?QUERY or https://HOST:PORT/PATH?QUERY, with a port from 1 to 65535 if any, and without user, password, fragment, backslash or whitespace" };
    const URL_USAGE: &'static str = "it is requested as it stands";
    const URL_QUERY: UrlQuery = UrlQuery::AsWritten;
    const FIELDS: &'static [Field] = &[Field::AnyHeaders, Field::Credentials, Field::Tls, Field::Proxy, Field::Addresses];
}

impl super::ProbeOptions for Options {
    fn prober(&self, _: &Url) -> Result<Arc<dyn Prober>, Vec<FieldError>> {
        Ok(Arc::new(HttpProber))
    }
}

/// Every family of this kind.
pub fn families() -> Vec<&'static Desc> {
    [SharedFamilies::ADDRESS, SharedFamilies::TLS].concat()
}

#[derive(Debug)]
struct HttpProber;

impl Prober for HttpProber {
    fn call(&self) -> &'static str {
        "request"
    }

    fn begin(&self, _: &mut Recorder) {}

    fn probe<'p>(&'p self, probe: &'p mut Probe<'_>) -> BoxFuture<'p, Result<(), CallError>> {
        Box::pin(async move {
            let host = probe.host.to_owned();
            probe.resolve(&host).await.0.map(|_| ())
        })
    }
}
