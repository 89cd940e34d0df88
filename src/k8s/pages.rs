//! Lists in pages that are bounded by bytes as well as by count: whoever may write an object decides how large it is, and a hundred that
//! are as large as they can be make a page of 150 MB.
//!
//! Of an object only what `T` keeps of it is ever in memory beside the text of one page.

use futures::AsyncReadExt;
use kube::Client;
use kube::api::{ListParams, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::access::{ApiError, Cluster, Rule};

/// A page of more bytes is not read to its end, but asked for again with fewer objects.
const LARGEST: usize = 8 << 20;

/// What a single object may have. The API server takes requests of 3 MiB, and its store 1.5 MiB by default.
const LARGEST_OBJECT: usize = 32 << 20;

/// How much less is asked for after a page that was too large.
const FEWER: u32 = 4;

/// A part of a list.
#[derive(Debug)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// How to go on; `None`: this was the last one.
    pub(super) next: Option<String>,
    /// The version that a watch can go on from.
    pub(super) version: Option<String>,
}

/// The pages of one list: as many objects as there may be, and fewer while these are large.
#[derive(Debug)]
pub(super) struct Pages {
    most: u32,
    limit: u32,
}

/// What became of one request.
enum Got<T> {
    Page(Page<T>, usize),
    TooLarge,
    /// The server does not know any more what is asked for.
    Expired,
}

impl Pages {
    /// Of at most so many objects each.
    pub(super) const fn of(most: u32) -> Self {
        Self { most, limit: most }
    }

    /// The page after `token`, the first one without it, of what is at `path`; `None` if the list has expired.
    pub(super) async fn page<T: DeserializeOwned + Send + 'static>(
        &mut self,
        cluster: &Cluster,
        rule: &Rule,
        path: &str,
        selector: Option<&str>,
        token: Option<&str>,
    ) -> Result<Option<Page<T>>, ApiError> {
        loop {
            let params = ListParams {
                label_selector: selector.map(str::to_owned),
                continue_token: token.map(str::to_owned),
                limit: Some(self.limit),
                ..ListParams::default()
            };
            let largest = if self.limit == 1 { LARGEST_OBJECT } else { LARGEST };
            match cluster.call(rule.clone(), get(&cluster.client(), path, &params, largest)).await? {
                Got::Page(page, bytes) => {
                    if bytes < largest / 4 {
                        self.limit = self.limit.saturating_mul(2).min(self.most);
                    }
                    return Ok(Some(page));
                }
                Got::Expired => return Ok(None),
                Got::TooLarge if self.limit == 1 => {
                    return Err(ApiError::Failed(format!("an object is larger than {LARGEST_OBJECT} bytes")));
                }
                Got::TooLarge => self.limit = (self.limit / FEWER).max(1),
            }
        }
    }
}

async fn get<T: DeserializeOwned + Send + 'static>(
    client: &Client,
    path: &str,
    params: &ListParams,
    largest: usize,
) -> kube::Result<Got<T>> {
    let request = Request::new(path).list(params).map_err(kube::Error::BuildRequest)?;
    let body = match client.request_stream(request).await {
        Err(kube::Error::Api(status)) if status.code == 410 => return Ok(Got::Expired),
        body => body?,
    };
    let mut text = Vec::new();
    let mut body = std::pin::pin!(body.take(u64::try_from(largest).unwrap_or(u64::MAX).saturating_add(1)));
    body.read_to_end(&mut text).await.map_err(|error| kube::Error::Service(error.into()))?;
    if text.len() > largest {
        return Ok(Got::TooLarge);
    }
    // Some milliseconds for each MiB, most of them for what nobody keeps.
    let parsed =
        tokio::task::spawn_blocking(move || Ok::<_, serde_json::Error>((serde_json::from_slice(&text)?, text.len())));
    let (List { metadata, items }, bytes) =
        parsed.await.map_err(|error| kube::Error::Service(error.into()))?.map_err(kube::Error::SerdeError)?;
    let present = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (next, version) = (present(metadata.next), present(metadata.resource_version));
    Ok(Got::Page(Page { items: items.unwrap_or_default(), next, version }, bytes))
}

#[derive(Deserialize)]
struct List<T> {
    #[serde(default)]
    metadata: Metadata,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(rename = "continue")]
    next: Option<String>,
    resource_version: Option<String>,
}
