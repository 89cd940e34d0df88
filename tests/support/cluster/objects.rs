//! What tests put into a cluster: namespaces, identities, manifests, CRDs.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, ResourceExt};
use scrapetarget_exporter::crd;
use scrapetarget_exporter::file::documents;
use serde_json::{Value, json};

use super::super::eventually::{PATIENCE, eventually};
use super::super::program::{Said, said};
use super::super::tools;
use super::{Cluster, block, rights};

const MANAGER: &str = "tests";

/// Somebody has written the object since it was read.
const CONFLICT: u16 = 409;
const TOO_MANY_REQUESTS: u16 = 429;

impl Cluster {
    /// Makes a namespace that no other test has; its name begins with `prefix`.
    pub fn namespace(&self, prefix: &str) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let name = format!("{prefix}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let config = self.config();
        block(async || {
            let api = Api::<Namespace>::all(Client::try_from(config).unwrap());
            let namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
            api.create(&PostParams::default(), &namespace).await.unwrap();
        });
        name
    }

    /// A token of this service account, which is made if it is not there. It is good for an hour.
    pub fn token_of(&self, namespace: &str, account: &str) -> String {
        let config = self.config();
        block(async || {
            let api = Api::<ServiceAccount>::namespaced(Client::try_from(config).unwrap(), namespace);
            let body = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": account } });
            api.patch(account, &PatchParams::apply(MANAGER), &Patch::Apply(body)).await.unwrap();
            let spec = TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() };
            let request = TokenRequest { spec, ..TokenRequest::default() };
            let answer = api.create_token_request(account, &PostParams::default(), &request).await.unwrap();
            answer.status.unwrap().token
        })
    }

    /// A kubeconfig with a token of this service account, which is made if it is not there.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> PathBuf {
        let token = self.token_of(namespace, account);
        let name = format!("{namespace}.{account}.kubeconfig");
        self.files.write_kubeconfig(&name, &self.url(), namespace, &token)
    }

    /// Runs kubectl as one who may do everything.
    pub fn kubectl(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(tools::kubectl());
        command.arg("--kubeconfig").arg(self.admin_kubeconfig()).arg("--cache-dir").arg(self.files.path("kubectl"));
        // Without the settings of whoever runs the tests.
        command.env("HOME", &self.files.folder).env_remove("KUBECONFIG");
        said(command.args(arguments))
    }

    /// Applies every document of `yaml` by server-side apply. A document without a namespace goes into `default`. What bindings among them
    /// permit is in force afterwards.
    pub fn apply(&self, yaml: &str) {
        self.try_apply(yaml).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Applies documents one after another until one is refused: the server's words.
    pub fn try_apply(&self, yaml: &str) -> Result<(), String> {
        let config = self.config();
        block(async || {
            let client = Client::try_from(config).unwrap();
            let mut applied = Vec::new();
            for document in documents(yaml) {
                let value = document.value().map_err(|error| format!("line {}: {error}", error.line))?;
                let object: DynamicObject = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
                apply_object(&client, &object).await.map_err(|error| match error {
                    kube::Error::Api(status) => status.message,
                    other => other.to_string(),
                })?;
                applied.push(value);
            }
            rights::until_answered(&client, &rights::permitted(&client, &applied).await, true).await;
            Ok(())
        })
    }

    /// Reads the object at this path of the API, changes it and writes it back as a whole. Whoever writes it in between is no reason to
    /// fail: all that is done again.
    pub fn change(&self, path: &str, change: impl Fn(&mut Value) + Send + Sync) -> Value {
        let config = self.config();
        block(async || {
            let client = Client::try_from(config).unwrap();
            let ask = async |builder: http::request::Builder, body: Vec<u8>| {
                let builder = builder.uri(path).header("content-type", "application/json");
                client.request::<Value>(builder.body(body).unwrap()).await
            };
            eventually(PATIENCE, async || {
                let mut object = ask(http::Request::builder(), Vec::new()).await.unwrap();
                change(&mut object);
                let put = http::Request::builder().method(http::Method::PUT);
                ask(put, object.to_string().into_bytes()).await.map_err(|error| match error {
                    kube::Error::Api(status) if status.code == CONFLICT => status.message,
                    other => panic!("{path}: {other}"),
                })
            })
            .await
        })
    }

    /// Lets the service accounts of the namespace `home` do in `namespace` what these rules permit, a list in YAML, and takes away what
    /// the role permitted before. Both are in force afterwards.
    pub fn grant(&self, namespace: &str, role: &str, home: &str, rules: &str) {
        let manifests = format!(
            r"
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{ name: {role}, namespace: {namespace} }}
rules: {rules}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{ name: {role}, namespace: {namespace} }}
roleRef: {{ apiGroup: rbac.authorization.k8s.io, kind: Role, name: {role} }}
subjects: [{{ apiGroup: rbac.authorization.k8s.io, kind: Group, name: 'system:serviceaccounts:{home}' }}]
"
        );
        let bindings: Vec<Value> = documents(&manifests).map(|document| document.value().unwrap()).collect();
        let permitted = || {
            let config = self.config();
            block(async || rights::permitted(&Client::try_from(config).unwrap(), &bindings).await)
        };
        let before = permitted();
        self.apply(&manifests);
        let taken_away = rights::taken_away(&before, &permitted());
        let config = self.config();
        block(async || rights::until_answered(&Client::try_from(config).unwrap(), &taken_away, false).await);
    }

    /// What the API server refuses of these manifests, by a dry run of an apply: its words about each. Those without a namespace go
    /// into `namespace`. A server that has no time to judge is asked again.
    pub fn refusals(&self, manifests: &[Value], namespace: &str) -> Vec<String> {
        let config = self.config();
        let mut manifests = manifests.to_vec();
        block(async || {
            let client = Client::try_from(config).unwrap();
            let mut refusals = Vec::new();
            for manifest in &mut manifests {
                if manifest["metadata"].get("namespace").is_none() {
                    manifest["metadata"]["namespace"] = namespace.into();
                }
                let object: DynamicObject = serde_json::from_value(manifest.clone()).unwrap();
                let how = PatchParams { dry_run: true, ..how() };
                let judged = eventually(PATIENCE, async || match patch_object(&client, &object, &how).await {
                    Err(error) if is_no_verdict(&error) => Err(error.to_string()),
                    judged => Ok(judged),
                });
                if let Err(error) = judged.await {
                    refusals.push(format!("{} {}: {error}", manifest["kind"], object.name_any()));
                }
            }
            refusals
        })
    }

    /// Our CRD, established and served.
    pub fn install_crd(&self) {
        self.apply(&crd::print().unwrap());
        self.wait_for_crd("scrapetargets.scrapetarget.dev");
    }

    /// Our CRD without any of the rules that stand in CEL, as one that is older than they are. It takes a moment until all is let in.
    pub fn install_crd_without_rules(&self) {
        let mut crd: Value = serde_saphyr::from_str(&crd::print().unwrap()).unwrap();
        remove_rules(&mut crd);
        self.apply(&crd.to_string());
        self.wait_for_crd("scrapetargets.scrapetarget.dev");
    }

    /// CRDs of the Prometheus Operator by their plural names (`servicemonitors`), established and served.
    pub fn install_operator_crds(&self, names: &[&str]) {
        for name in names {
            let file = tools::operator_crds().join(format!("monitoring.coreos.com_{name}.yaml"));
            self.apply(&std::fs::read_to_string(file).unwrap());
            self.wait_for_crd(&format!("{name}.monitoring.coreos.com"));
        }
    }

    /// All other CRDs of which the chart can make objects, established and served.
    pub fn install_crds_of_others(&self) {
        for entry in std::fs::read_dir(tools::crds_of_others()).unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            self.apply(&text);
            for document in documents(&text) {
                self.wait_for_crd(document.value().unwrap()["metadata"]["name"].as_str().unwrap());
            }
        }
    }

    /// Deletes a CRD by its name, and waits until it is gone with all its objects.
    pub fn remove_crd(&self, name: &str) {
        let config = self.config();
        block(async || {
            let crds = Api::<CustomResourceDefinition>::all(Client::try_from(config).unwrap());
            crds.delete(name, &DeleteParams::default()).await.unwrap();
            while crds.get_opt(name).await.unwrap().is_some() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
    }

    /// Waits until objects of a CRD, by its name, can be listed: that is a little later than it is established.
    pub fn wait_for_crd(&self, name: &str) {
        let config = self.config();
        block(async || {
            let client = Client::try_from(config).unwrap();
            let crds = Api::<CustomResourceDefinition>::all(client.clone());
            await_condition(crds.clone(), name, conditions::is_crd_established()).await.unwrap();
            let spec = crds.get(name).await.unwrap().spec;
            let version = spec.versions.iter().find(|version| version.served).unwrap();
            let uri = format!("/apis/{}/{}/{}?limit=1", spec.group, version.name, spec.names.plural);
            let asked = || client.request_text(axum::http::Request::get(&uri).body(Vec::new()).unwrap());
            while asked().await.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        });
    }
}

fn how() -> PatchParams {
    PatchParams::apply(MANAGER).force().validation_strict()
}

async fn apply_object(client: &Client, object: &DynamicObject) -> Result<(), kube::Error> {
    patch_object(client, object, &how()).await
}

/// Whether the server has not judged what was sent: it was busy, was interrupted, or somebody wrote the object meanwhile.
fn is_no_verdict(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => matches!(status.code, CONFLICT | TOO_MANY_REQUESTS | 500..),
        kube::Error::Service(_) | kube::Error::HyperError(_) => true,
        _ => false,
    }
}

async fn patch_object(client: &Client, object: &DynamicObject, how: &PatchParams) -> Result<(), kube::Error> {
    let types = object.types.clone().unwrap_or_default();
    let kind = GroupVersionKind::try_from(&types).map_err(|error| kube::Error::Service(error.into()))?;
    let (resource, capabilities) = pinned_kind(client, &kind).await?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object.namespace().unwrap_or_else(|| "default".to_owned());
            Api::namespaced_with(client.clone(), &namespace, &resource)
        }
    };
    api.patch(&object.name_any(), how, &Patch::Apply(object)).await.map(|_| ())
}

fn remove_rules(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("x-kubernetes-validations");
            fields.values_mut().for_each(remove_rules);
        }
        Value::Array(items) => items.iter_mut().for_each(remove_rules),
        _ => {}
    }
}
