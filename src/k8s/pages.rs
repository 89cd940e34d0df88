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
    largest: usize,
    largest_object: usize,
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
        Self { most, limit: most, largest: LARGEST, largest_object: LARGEST_OBJECT }
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
            let largest = if self.limit == 1 { self.largest_object } else { self.largest };
            match cluster.call(rule.clone(), get(&cluster.client(), path, &params, largest)).await? {
                Got::Page(page, bytes) => {
                    if bytes < largest / 4 {
                        self.limit = self.limit.saturating_mul(2).min(self.most);
                    }
                    return Ok(Some(page));
                }
                Got::Expired => return Ok(None),
                Got::TooLarge if self.limit == 1 => {
                    return Err(ApiError::Failed(format!("an object is larger than {largest} bytes")));
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::{Arc, Mutex};

    use http::{Request as HttpRequest, Response, Uri};
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Deserialize)]
    struct Name {
        metadata: Named,
    }

    #[derive(Deserialize)]
    struct Named {
        name: String,
    }

    /// A hundredth of what it is, to be quick.
    const PAGE: usize = LARGEST / 100;
    const OBJECT: usize = LARGEST_OBJECT / 100;

    fn asked(uri: &Uri) -> HashMap<String, String> {
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
    }

    /// An API server with objects of these sizes, the number of each its name, and the limits that it was asked with.
    fn server(sizes: Vec<usize>) -> (Cluster, Arc<Mutex<Vec<usize>>>) {
        let limits = Arc::<Mutex<Vec<usize>>>::default();
        let seen = Arc::clone(&limits);
        let sizes: Arc<[usize]> = sizes.into();
        let service = tower::service_fn(move |request: HttpRequest<Body>| {
            let (asked, sizes, seen) = (asked(request.uri()), Arc::clone(&sizes), Arc::clone(&seen));
            async move {
                let limit: usize = asked["limit"].parse().unwrap();
                seen.lock().unwrap().push(limit);
                let from: usize = asked.get("continue").map_or(0, |token| token.parse().unwrap());
                let to = (from + limit).min(sizes.len());
                let object = |i: usize| json!({ "metadata": { "name": i.to_string(), "annotations": { "a": "x".repeat(sizes[i]) } }, "spec": {} });
                let items: Vec<Value> = (from..to).map(object).collect();
                let next = if to < sizes.len() { to.to_string() } else { String::new() };
                let list = json!({ "metadata": { "continue": next, "resourceVersion": "7" }, "items": items });
                let answer = Response::new(Body::from(list.to_string().into_bytes()));
                Ok::<_, kube::Error>(answer)
            }
        });
        (Cluster::behind(Client::new(service, "default")), limits)
    }

    async fn list(cluster: &Cluster) -> Result<Vec<usize>, ApiError> {
        let (mut token, mut names) = (None, Vec::new());
        let mut pages = Pages { largest: PAGE, largest_object: OBJECT, ..Pages::of(200) };
        let rule = Rule::new("list", "", "x", None);
        loop {
            let page = pages.page::<Name>(cluster, &rule, "/x", None, token.as_deref()).await?.unwrap();
            names.extend(page.items.iter().map(|object| object.metadata.name.parse::<usize>().unwrap()));
            token = page.next;
            if token.is_none() {
                assert_eq!(page.version.as_deref(), Some("7"));
                return Ok(names);
            }
        }
    }

    #[tokio::test]
    async fn large_objects_come_in_small_pages_and_small_ones_in_large_pages_again() {
        let sizes = [vec![10; 300], vec![6760; 30], vec![10; 1000]].concat();
        let (cluster, limits) = server(sizes);
        assert_eq!(list(&cluster).await.unwrap(), (0..1330).collect::<Vec<_>>());
        let limits = limits.lock().unwrap();
        assert!(limits.contains(&12) && limits.last() == Some(&200), "{limits:?}");
        assert!(limits.len() < 30, "{limits:?}");
    }

    #[tokio::test]
    async fn an_object_that_is_larger_than_a_page_is_read_alone_and_no_object_is_read_without_a_bound() {
        let (cluster, _) = server(vec![100, PAGE + 1, 100]);
        assert_eq!(list(&cluster).await.unwrap(), [0, 1, 2]);
        let (cluster, _) = server(vec![100, OBJECT]);
        let error = list(&cluster).await.unwrap_err();
        assert!(error.to_string().contains("an object is larger than"), "{error}");
    }
}
