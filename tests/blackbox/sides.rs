//! The two programs, each with all rows in its configuration.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::row::{NAMESPACE, Row};
use crate::support::exposition::{Family, parse};
use crate::support::program::{Running, folder_with, said};
use crate::support::tools;

/// The version that the list of differences is about.
pub const VERSION: &str = "0.23.0";

pub struct Sides {
    theirs: Running,
    ours: Running,
    _folder: TempDir,
}

/// Files that rows refer to, by their names.
pub type Files = BTreeMap<&'static str, String>;

impl Sides {
    pub async fn start(rows: &[Row], files: &Files) -> Self {
        let folder = folder_with(files.iter().map(|(name, text)| (*name, text.as_str())));
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let modules: Map<String, Value> = rows.iter().map(|row| (row.name.clone(), row.module())).collect();
        assert_eq!(modules.len(), rows.len(), "each row has a name of its own");
        let config = write("blackbox.yml", &json!({ "modules": modules }).to_string());
        let mut command = Command::new(tools::blackbox_exporter());
        let version = said(command.arg("--version"));
        let is = format!("version {VERSION} ");
        assert!(version.stdout.contains(&is) || version.stderr.contains(&is), "{}{}", version.stdout, version.stderr);
        let mut command = Command::new(tools::blackbox_exporter());
        command.current_dir(&folder).arg("--web.listen-address=127.0.0.1:0").arg("--history.limit=1");
        command.arg(format!("--config.file={}", config.display()));
        let theirs = Running::saying(command, "msg=\"Listening on\"");
        theirs.until_status("/-/healthy", 200).await;

        let object = |kind: &str, data: &str| {
            let metadata = json!({ "name": "files", "namespace": NAMESPACE });
            json!({ "apiVersion": "v1", "kind": kind, "metadata": metadata, data: files })
        };
        let documents = [object("ConfigMap", "data"), object("Secret", "stringData")];
        let documents: Vec<String> =
            documents.into_iter().chain(rows.iter().flat_map(Row::manifest)).map(|value| value.to_string()).collect();
        let targets = write("targets.yaml", &documents.join("\n---\n"));
        let ours = Running::ready(&targets, ["--max-probes-per-address", "0", "--icmp-max-payload", "65507"]).await;
        Self { theirs, ours, _folder: folder }
    }

    pub async fn theirs(&self, row: &Row) -> Vec<Family> {
        let encoded = url::form_urlencoded::byte_serialize(row.target.as_bytes()).collect::<String>();
        let answer = self.theirs.body(&format!("/probe?module={}&target={encoded}", row.name)).await;
        parse(&answer).unwrap_or_else(|error| panic!("{}: {error}\n{answer}", row.name))
    }

    /// The error says why the target cannot be probed at all.
    pub async fn ours(&self, row: &Row) -> Result<Vec<Family>, String> {
        let answer = self.ours.get(&format!("/probe?target={NAMESPACE}/{}", row.name)).await;
        match answer {
            Some((200, answer)) => parse(&answer).map_err(|error| format!("{error}\n{answer}")),
            other => Err(format!("{other:?}")),
        }
    }

    /// What each of them has to say about a row, for people.
    pub async fn debug(&self, row: &Row) -> String {
        let encoded = url::form_urlencoded::byte_serialize(row.target.as_bytes()).collect::<String>();
        let theirs = self.theirs.body(&format!("/probe?debug=true&module={}&target={encoded}", row.name)).await;
        let ours = self.ours.get(&format!("/probe?debug=true&target={NAMESPACE}/{}", row.name)).await;
        let ours = ours.map(|(_, body)| body).unwrap_or_default();
        let of_theirs = theirs.split("Metrics that would have been returned:").next().unwrap_or_default();
        format!("theirs:\n{of_theirs}\nours:\n{ours}")
    }
}
