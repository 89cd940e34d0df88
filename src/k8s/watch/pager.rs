//! Lists in pages that are bounded by bytes as well as by count: any user who may write an object decides how large it is, and a page of a
//! hundred objects of the largest size has 150 MB.
//!
//! Only the text of one page, and the parts of each object that `T` keeps, are in memory at a time.

use futures::AsyncReadExt;
use kube::Client;
use kube::api::{ListParams, Request};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::k8s::client::{ApiClient, ApiError, PolicyRule};

/// A larger page is not read to its end, but requested again with fewer objects.
const LARGEST_PAGE: usize = 8 << 20;

/// The largest page with a single object. The API server takes requests of 3 MiB, and its store 1.5 MiB by default.
const LARGEST_OBJECT: usize = 32 << 20;

/// The number of objects is divided by this when a page was too large.
const SHRINK: u32 = 4;

/// A part of a list.
#[derive(Debug)]
pub(super) struct ListPage<T> {
    pub(super) items: Vec<T>,
    /// The token of the next page; `None`: this was the last one.
    pub(super) next: Option<String>,
    /// The resource version that a watch resumes from.
    pub(super) version: Option<String>,
}

/// Reads the pages of one list, with fewer objects in each while these are large.
pub(super) struct Pager<'a> {
    client: &'a ApiClient,
    rule: PolicyRule,
    path: String,
    params: ListParams,
    page_size: u32,
    limit: u32,
    largest_page: usize,
    largest_object: usize,
}

/// The result of a request for a page.
enum FetchedPage<T> {
    Page(ListPage<T>, usize),
    TooLarge,
    /// The API server does not know the token any more.
    Expired,
}

impl<'a> Pager<'a> {
    /// `params` select the objects; `page_size` is the most that are in one page.
    pub(super) const fn new(
        client: &'a ApiClient,
        rule: PolicyRule,
        path: String,
        params: ListParams,
        page_size: u32,
    ) -> Self {
        let (largest_page, largest_object) = (LARGEST_PAGE, LARGEST_OBJECT);
        Self { client, rule, path, params, page_size, limit: page_size, largest_page, largest_object }
    }

    /// The page of `token`, or the first one; `None`: the list has expired.
    pub(super) async fn page<T: DeserializeOwned + Send + 'static>(
        &mut self,
        token: Option<String>,
    ) -> Result<Option<ListPage<T>>, ApiError> {
        self.params.continue_token = token;
        loop {
            self.params.limit = Some(self.limit);
            let largest = if self.limit == 1 { self.largest_object } else { self.largest_page };
            let page = fetch(self.client.kube(), &self.path, &self.params, largest);
            match self.client.call(self.rule.clone(), page).await? {
                FetchedPage::Page(page, bytes) => {
                    if bytes < largest / 4 {
                        self.limit = self.limit.saturating_mul(2).min(self.page_size);
                    }
                    return Ok(Some(page));
                }
                FetchedPage::Expired => return Ok(None),
                FetchedPage::TooLarge if self.limit == 1 => {
                    return Err(ApiError::Failed(format!("an object is larger than {largest} bytes")));
                }
                FetchedPage::TooLarge => self.limit = (self.limit / SHRINK).max(1),
            }
        }
    }
}

async fn fetch<T: DeserializeOwned + Send + 'static>(
    client: Client,
    path: &str,
    params: &ListParams,
    largest: usize,
) -> kube::Result<FetchedPage<T>> {
    let request = Request::new(path).list(params).map_err(kube::Error::BuildRequest)?;
    let body = match client.request_stream(request).await {
        Err(kube::Error::Api(status)) if status.code == 410 => return Ok(FetchedPage::Expired),
        body => body?,
    };
    let mut text = Vec::new();
    let mut body = std::pin::pin!(body.take(u64::try_from(largest).unwrap_or(u64::MAX).saturating_add(1)));
    body.read_to_end(&mut text).await.map_err(|error| kube::Error::Service(error.into()))?;
    if text.len() > largest {
        return Ok(FetchedPage::TooLarge);
    }
    // Parsing takes some milliseconds for each MiB, most of them for fields that are dropped.
    let parsed =
        tokio::task::spawn_blocking(move || Ok::<_, serde_json::Error>((serde_json::from_slice(&text)?, text.len())));
    let (ListBody { metadata, items }, bytes) =
        parsed.await.map_err(|error| kube::Error::Service(error.into()))?.map_err(kube::Error::SerdeError)?;
    let present = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (next, version) = (present(metadata.next), present(metadata.resource_version));
    Ok(FetchedPage::Page(ListPage { items: items.unwrap_or_default(), next, version }, bytes))
}

#[derive(Deserialize)]
struct ListBody<T> {
    #[serde(default)]
    metadata: ListMetadata,
    items: Option<Vec<T>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListMetadata {
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

    /// A hundredth of the real limits, so that the tests are fast.
    const PAGE: usize = LARGEST_PAGE / 100;
    const OBJECT: usize = LARGEST_OBJECT / 100;

    fn query(uri: &Uri) -> HashMap<String, String> {
        url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect()
    }

    /// An API server with objects of these sizes, the number of each its name, and the limits that were requested.
    fn server(sizes: Vec<usize>) -> (ApiClient, Arc<Mutex<Vec<usize>>>) {
        let limits = Arc::<Mutex<Vec<usize>>>::default();
        let requested = Arc::clone(&limits);
        let sizes: Arc<[usize]> = sizes.into();
        let service = tower::service_fn(move |request: HttpRequest<Body>| {
            let (query, sizes, requested) = (query(request.uri()), Arc::clone(&sizes), Arc::clone(&requested));
            async move {
                let limit: usize = query["limit"].parse().unwrap();
                requested.lock().unwrap().push(limit);
                let from: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
                let to = (from + limit).min(sizes.len());
                let object = |i: usize| json!({ "metadata": { "name": i.to_string(), "annotations": { "a": "x".repeat(sizes[i]) } }, "spec": {} });
                let items: Vec<Value> = (from..to).map(object).collect();
                let next = if to < sizes.len() { to.to_string() } else { String::new() };
                let list = json!({ "metadata": { "continue": next, "resourceVersion": "7" }, "items": items });
                let answer = Response::new(Body::from(list.to_string().into_bytes()));
                Ok::<_, kube::Error>(answer)
            }
        });
        (ApiClient::answered_by(Client::new(service, "default")), limits)
    }

    async fn list(client: &ApiClient) -> Result<Vec<usize>, ApiError> {
        let (mut token, mut names) = (None, Vec::new());
        let rule = PolicyRule::new("list", "", "x", None);
        let pager = Pager::new(client, rule, "/x".to_owned(), ListParams::default(), 200);
        let mut pager = Pager { largest_page: PAGE, largest_object: OBJECT, ..pager };
        loop {
            let page = pager.page::<Name>(token).await?.unwrap();
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
        let (client, limits) = server(sizes);
        assert_eq!(list(&client).await.unwrap(), (0..1330).collect::<Vec<_>>());
        let limits = limits.lock().unwrap();
        assert!(limits.contains(&12) && limits.last() == Some(&200), "{limits:?}");
        assert!(limits.len() < 30, "{limits:?}");
    }

    #[tokio::test]
    async fn an_object_that_is_larger_than_a_page_is_read_alone_and_no_object_is_read_without_a_bound() {
        let (client, _) = server(vec![100, PAGE + 1, 100]);
        assert_eq!(list(&client).await.unwrap(), [0, 1, 2]);
        let (client, _) = server(vec![100, OBJECT]);
        let error = list(&client).await.unwrap_err();
        assert!(error.to_string().contains("an object is larger than"), "{error}");
    }
}
