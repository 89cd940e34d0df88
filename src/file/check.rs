//! The command `check`: validates manifests in files as the API server would, without a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::document::{YamlDocument, documents};
use super::input::{InputFile, Inputs};
use super::load::{FileProblem, Loaded, MAX_PROBLEMS, Origin};
use super::manifest::{self, FileObjects};
use crate::crd::{self, ParsedTarget};
use crate::target::{Lookup as _, LookupError, Target, TargetId};

/// What `check` found. The command prints it: one line for each problem, then one for each note, then a count.
#[derive(Debug)]
pub struct CheckReport {
    /// What is wrong. The command fails if there is any.
    pub problems: Vec<FileProblem>,
    /// What may be a mistake: references to objects that are not in these files, manifests of other kinds.
    pub notes: Vec<FileProblem>,
    /// The number of valid targets.
    pub targets: usize,
}

impl CheckReport {
    /// Whether every manifest is valid.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.problems.iter().try_for_each(|problem| writeln!(f, "{problem}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "{note} (note)"))?;
        let (targets, problems) = (self.targets, self.problems.len());
        if (targets, problems) == (0, 0) {
            writeln!(f, "there is no ScrapeTarget in what was read (note)")?;
        }
        let plural = |count: usize| if count == 1 { "" } else { "s" };
        writeln!(f, "{targets} good target{}, {problems} problem{}", plural(targets), plural(problems))
    }
}

/// What is checked in addition to the manifests.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions<'d> {
    /// A directory with values of Secrets.
    pub secrets: Option<&'d Path>,
    /// Whether every Secret and ConfigMap that a target refers to must be in the files.
    pub all_references: bool,
}

/// A problem of a target, or a note about it, before its line is known.
struct TargetProblem<'l> {
    id: &'l TargetId,
    origin: &'l Origin,
    path: String,
    message: String,
    /// Only a note.
    is_note: bool,
}

/// Checks every manifest.
pub fn check(inputs: &Inputs, options: CheckOptions<'_>) -> CheckReport {
    let mut loaded = Loaded::of(inputs);
    if let Some(folder) = options.secrets {
        loaded.add_secrets(folder);
    }
    let Loaded { targets, objects, mut problems, others } = loaded;
    let mut notes = others;
    let mut found = Vec::new();
    let mut good = 0;
    for (id, (target, origin)) in &targets {
        let begin = found.len();
        for (path, message, is_note) in problems_of(id, target, &objects, options) {
            found.push(TargetProblem { id, origin, path, message, is_note });
        }
        good += usize::from(found.iter().skip(begin).all(|problem| problem.is_note));
    }
    let lines = lines(inputs, &found);
    for (TargetProblem { id, origin, path, message, is_note }, line) in found.into_iter().zip(lines) {
        let whole = FileProblem::of_document(origin, Some(format!("ScrapeTarget {id}")), message);
        let list = if is_note { &mut notes } else { &mut problems };
        list.push(FileProblem { line: Some(line), path, ..whole });
    }
    problems.sort();
    notes.sort();
    CheckReport { problems, notes, targets: good }
}

/// What is wrong with a target whose manifest is valid: the field, the message, and whether it is only a note.
fn problems_of(
    id: &TargetId,
    target: &ParsedTarget,
    objects: &FileObjects,
    options: CheckOptions<'_>,
) -> Vec<(String, String, bool)> {
    let mut found = Vec::new();
    // Values of Secrets come from a directory only where targets come from files. Otherwise these may be meant for a cluster.
    if let Some(error) = target.needs_kubernetes() {
        found.push((error.path, error.message, options.secrets.is_none()));
    }
    let unresolved = found.len();
    for reference in target.spec.references() {
        match objects.value(reference.kind, &id.namespace, reference.name, reference.key) {
            Ok(_) => {}
            // An object in the cluster would not help, and `run` does not poll the target even if the reference is optional.
            Err(bad @ LookupError::BadFile { .. }) => found.push((reference.path, bad.to_string(), false)),
            Err(_) if reference.optional => {}
            Err(missing) if options.all_references => found.push((reference.path, missing.to_string(), false)),
            Err(missing) => {
                found.push((reference.path, format!("{missing}; or it must be in the cluster"), true));
            }
        }
    }
    // Whether the values are usable shows only when all of them are there.
    if found.len() == unresolved {
        let error = Target::check_values(&id.namespace, target, objects).err();
        found.extend(error.map(|error| (error.path, error.message, false)));
    }
    found
}

/// The line of each problem. Every file is parsed once more for all of its problems; beyond the limit they get the line of their document.
fn lines(inputs: &Inputs, found: &[TargetProblem<'_>]) -> Vec<usize> {
    let mut lines: Vec<usize> = found.iter().map(|problem| problem.origin.line).collect();
    let mut of_files: BTreeMap<&Path, Vec<(&TargetProblem<'_>, &mut usize)>> = BTreeMap::new();
    for (problem, line) in found.iter().zip(&mut lines) {
        let of_file = of_files.entry(&problem.origin.file).or_default();
        if of_file.len() < MAX_PROBLEMS {
            of_file.push((problem, line));
        }
    }
    for input in &inputs.0 {
        let InputFile::File(file, Ok(text)) = input else { continue };
        let Some(of_file) = of_files.remove(&**file) else { continue };
        let mut of_documents: BTreeMap<usize, Vec<(&TargetProblem<'_>, &mut usize)>> = BTreeMap::new();
        for (problem, line) in of_file {
            of_documents.entry(problem.origin.document).or_default().push((problem, line));
        }
        for document in documents(text) {
            if let Some(of_document) = of_documents.remove(&document.index) {
                find_lines(&document, of_document);
            }
        }
    }
    lines
}

/// Sets the line of each problem of one document.
fn find_lines(document: &YamlDocument, problems: Vec<(&TargetProblem<'_>, &mut usize)>) {
    let Ok(node) = &document.content else { return };
    let value = node.to_value();
    let wanted: BTreeSet<&TargetId> = problems.iter().map(|(problem, _)| problem.id).collect();
    let mut prefixes = BTreeMap::new();
    for (prefix, item) in manifest::items(&value) {
        if item.get("kind").and_then(Value::as_str) != Some("ScrapeTarget") {
            continue;
        }
        // The first valid one is used.
        if let Some(id) = manifest::id(&item)
            && wanted.contains(&id)
            && !prefixes.contains_key(&id)
            && crd::judge(&item).is_ok()
        {
            prefixes.insert(id, prefix);
        }
    }
    for (problem, line) in problems {
        let Some(prefix) = prefixes.get(problem.id) else { continue };
        let path = if prefix.is_empty() { problem.path.clone() } else { format!("{prefix}.{}", problem.path) };
        if let Some(found) = node.line_of(&path) {
            *line = found;
        }
    }
}

/// The manifest of a ScrapeTarget as it is written, to be validated by the API server.
#[derive(Clone, Debug)]
pub struct UncheckedTarget {
    /// Its place.
    pub origin: Origin,
    /// Its content.
    pub manifest: Value,
}

impl UncheckedTarget {
    /// A message about it, with its place and its name.
    pub fn problem(&self, message: impl Into<String>) -> FileProblem {
        let text = |field: &str| self.manifest.pointer(field).and_then(Value::as_str).filter(|text| !text.is_empty());
        let namespace = text("/metadata/namespace").map(|namespace| format!("{namespace}/")).unwrap_or_default();
        let name = text("/metadata/name").unwrap_or_default();
        FileProblem::of_document(&self.origin, Some(format!("ScrapeTarget {namespace}{name}")), message)
    }
}

/// Every ScrapeTarget with a well-formed name, whatever else is wrong with it. What cannot be read is left out: [`check`] reports it.
pub fn unchecked_targets(inputs: &Inputs) -> Vec<UncheckedTarget> {
    let mut found = Vec::new();
    for input in &inputs.0 {
        let InputFile::File(file, Ok(text)) = input else { continue };
        for document in documents(text) {
            let Ok(node) = &document.content else { continue };
            for (path, manifest) in manifest::items(&node.to_value()) {
                if manifest.get("kind").and_then(Value::as_str) != Some("ScrapeTarget") || !is_named(&manifest) {
                    continue;
                }
                // Only an item of a List begins elsewhere than its document.
                let line = node.line_of(&path).unwrap_or(document.line);
                let origin = Origin { file: Arc::clone(file), document: document.index, line };
                found.push(UncheckedTarget { origin, manifest: manifest.into_owned() });
            }
        }
    }
    found
}

fn is_named(manifest: &Value) -> bool {
    let mut problems = Vec::new();
    crd::check_names(manifest, &mut problems);
    !problems.iter().any(|problem| matches!(problem.path.as_str(), "metadata" | "metadata.name" | "metadata.namespace"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn report(files: &[(&str, &str)]) -> (CheckReport, String) {
        let folder = tempfile::TempDir::new().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let report = check(&Inputs::read(&[folder.path().to_owned()]), CheckOptions::default());
        let shown = report.to_string().replace(&format!("{}/", folder.path().display()), "");
        (report, shown)
    }

    const GOOD: &str = "apiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {name: good}\nspec:\n  type: Sora\n  \
        url: http://sora:3000/\n";

    #[test]
    fn every_problem_is_one_line_with_file_line_document_object_and_field() {
        let bad = format!(
            "# first\n{GOOD}---\n{}  interval: 10s\n  timeout: 11s\n  uri: x\n",
            GOOD.replace("name: good", "name: bad, namespace: media")
        );
        let (report, shown) = report(&[("a.yaml", &bad)]);
        assert!(!report.is_good());
        assert_eq!(
            shown,
            "a.yaml:16: document 2 (ScrapeTarget media/bad): spec.timeout: timeout must be at most interval, write a shorter timeout or a \
             longer interval\n\
             a.yaml:17: document 2 (ScrapeTarget media/bad): spec.uri: unknown field \"spec.uri\", did you mean \"url\"?\n\
             1 good target, 2 problems\n"
        );
    }

    #[test]
    fn documents_that_cannot_be_read_are_problems_and_hide_no_others() {
        let (report, shown) = report(&[("a.yaml", &format!("a: [\n---\n{GOOD}---\njust a text\n")), ("b.json", "{}")]);
        assert_eq!((report.targets, report.problems.len()), (1, 3));
        assert!(shown.contains("a.yaml:10: document 3: kind: Required value"), "{shown}");
        assert!(shown.contains("b.json:1: document 1: kind: Required value"), "{shown}");
    }

    #[test]
    fn a_reference_that_leads_out_of_the_files_is_a_note() {
        let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {user: u}\n";
        let auth = "  basicAuth:\n    username: {name: s, key: user}\n    password: {name: s, key: password}\n  headers:\n  - name: x-a\n    \
            secretKeyRef: {name: t, key: k, optional: true}\n";
        let (report, shown) =
            report(&[("a.yaml", &format!("{GOOD}{auth}---\n{secret}---\napiVersion: apps/v1\nkind: Deployment\n"))]);
        assert!(report.is_good());
        assert_eq!(
            shown,
            "a.yaml:9: document 1 (ScrapeTarget default/good): spec.basicAuth.password: Secret default/s has no key \"password\": add it \
             to the manifest; or it must be in the cluster (note)\n\
             a.yaml:19: document 3: apps/v1 Deployment is ignored (note)\n\
             1 good target, 0 problems\n"
        );
    }

    #[test]
    fn a_target_with_values_that_it_cannot_be_polled_with_is_a_problem_as_it_is_for_run() {
        let https = GOOD.replace("http:", "https:");
        let object = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
        let certificate = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let indented = |pem: String| pem.replace('\n', "\n    ");
        let (pem, key) = (indented(certificate.cert.pem()), indented(certificate.signing_key.serialize_pem()));
        let other = indented(rcgen::KeyPair::generate().unwrap().serialize_pem());
        let identity = "  tlsConfig:\n    cert: {secret: {name: s, key: c}}\n    keySecret: {name: s, key: k}\n";
        let pair = |key: &str| format!("stringData:\n  c: |\n    {pem}\n  k: |\n    {key}\n");
        let token = "  authorization:\n    credentials: {name: s, key: token}\n";
        for (spec, data, wanted) in [
            (
                token,
                "stringData: {token: ''}\n".to_owned(),
                "8: spec.authorization.credentials: the key \"token\" of Secret",
            ),
            (
                token,
                "stringData: {token: \"a\\u0001\"}\n".to_owned(),
                "8: spec.authorization.credentials: the value of",
            ),
            (
                "  headers:\n  - name: x-a\n    secretKeyRef: {name: s, key: k}\n",
                "stringData: {k: \"a\\nb\"}\n".to_owned(),
                "9: spec.headers[0].secretKeyRef: the value of header \"x-a\" contains characters",
            ),
            (
                "  tlsConfig:\n    ca: {secret: {name: s, key: c}}\n",
                "stringData: {c: nothing}\n".to_owned(),
                "8: spec.tlsConfig.ca: tlsConfig.ca holds no PEM certificate",
            ),
            (identity, pair("nothing"), "9: spec.tlsConfig.keySecret: tlsConfig.keySecret holds no PEM private key"),
            (identity, pair(&other), "8: spec.tlsConfig.cert: tlsConfig.cert and tlsConfig.keySecret cannot be used"),
            (identity, pair(&key), ""),
        ] {
            let (report, shown) = report(&[("a.yaml", &format!("{https}{spec}---\n{object}{data}"))]);
            if wanted.is_empty() {
                assert_eq!(shown, "1 good target, 0 problems\n");
                continue;
            }
            assert_eq!((report.targets, report.problems.len()), (0, 1), "{shown}");
            let wanted = wanted.replacen(": ", ": document 1 (ScrapeTarget default/good): ", 1);
            assert!(shown.starts_with(&format!("a.yaml:{wanted}")), "{shown}");
        }
    }

    #[test]
    fn a_missing_secret_that_must_be_there_has_its_own_line_also_in_a_list_and_its_target_is_not_good() {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("a.yaml");
        let item = |name: &str| {
            GOOD.replace("name: good", &format!("name: {name}")).replace('\n', "\n  ").trim_end().to_owned()
        };
        let token = "    authorization:\n      credentials: {name: s, key: token}\n";
        let list = format!("kind: List\napiVersion: v1\nitems:\n- {}\n- {}\n{token}", item("a"), item("b"));
        fs::write(&file, list).unwrap();
        let inputs = Inputs::read(std::slice::from_ref(&file));
        let options = CheckOptions { all_references: true, ..CheckOptions::default() };
        let shown = check(&inputs, options).to_string();
        let line = "a.yaml:17: document 1 (ScrapeTarget default/b): spec.authorization.credentials: Secret default/s is not in any";
        assert!(shown.contains(line), "{shown}");
        assert!(shown.ends_with("1 good target, 1 problem\n"), "{shown}");
        let secrets = folder.path().join("secrets");
        fs::create_dir(&secrets).unwrap();
        std::os::unix::fs::symlink("default_s_token", secrets.join("default_s_token")).unwrap();
        let options = CheckOptions { secrets: Some(&secrets), all_references: false };
        let shown = check(&inputs, options).to_string();
        assert!(shown.contains("default_s_token: cannot be read: Too many levels"), "{shown}");
        assert!(shown.ends_with("1 good target, 2 problems\n"), "{shown}");
    }

    #[test]
    fn each_problem_of_several_documents_and_lists_has_the_line_of_its_own_target() {
        let token = |name: &str, secret: &str| {
            format!(
                "{}  authorization:\n    credentials: {{name: {secret}, key: token}}\n",
                GOOD.replace("name: good", &format!("name: {name}"))
            )
        };
        let item = |name: &str, secret: &str| format!("- {}\n", token(name, secret).trim_end().replace('\n', "\n  "));
        let invalid = item("b", "s").replace("type: Sora", "type: None");
        let list = format!("kind: List\napiVersion: v1\nitems:\n{invalid}{}{}", item("c", "t"), item("b", "u"));
        let (_, shown) = report(&[("a.yaml", &format!("{}---\n{list}---\n{}", token("a", "r"), token("d", "v")))]);
        for wanted in [
            "a.yaml:8: document 1 (ScrapeTarget default/a): spec.authorization.credentials: Secret default/r",
            "a.yaml:28: document 2 (ScrapeTarget default/c): spec.authorization.credentials: Secret default/t",
            "a.yaml:36: document 2 (ScrapeTarget default/b): spec.authorization.credentials: Secret default/u",
            "a.yaml:45: document 3 (ScrapeTarget default/d): spec.authorization.credentials: Secret default/v",
        ] {
            assert!(shown.contains(wanted), "{wanted}: {shown}");
        }
    }

    #[test]
    fn a_number_that_kubectl_writes_without_a_fraction_is_good_for_a_field_of_whole_numbers() {
        for number in ["1e3", "08", "!!float 5", "5.0", "1__000"] {
            let (_, shown) = report(&[("a.yaml", &format!("{GOOD}  sampleLimit: {number}\n"))]);
            assert_eq!(shown, "1 good target, 0 problems\n", "{number}");
        }
        let (_, shown) = report(&[("a.yaml", &format!("{GOOD}  sampleLimit: 5.5\n"))]);
        assert!(
            shown.starts_with("a.yaml:7: document 1 (ScrapeTarget default/good): spec.sampleLimit: must be"),
            "{shown}"
        );
    }

    #[test]
    fn lists_are_read_item_by_item() {
        let item = |name: &str, url: &str| {
            format!(
                "{{\"apiVersion\": \"scrapetarget.dev/v1alpha1\", \"kind\": \"ScrapeTarget\", \"metadata\": {{\"name\": \"{name}\"}},\n\"spec\": {{\"type\": \"Sora\", \"url\": \"{url}\"}}}}"
            )
        };
        let list = format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [\n{},\n{}]}}",
            item("a", "http://a/"),
            item("b", "ftp://b/")
        );
        let (report, shown) = report(&[("list.json", &list)]);
        assert_eq!(report.targets, 1);
        assert!(
            shown.starts_with("list.json:5: document 1 (ScrapeTarget default/b): spec.url: url must be"),
            "{shown}"
        );
    }

    #[test]
    fn a_file_of_something_else_does_not_bring_a_line_for_each_of_its_documents() {
        let (report, shown) = report(&[("a.yaml", &format!("{GOOD}{}", "---\na: 1\n".repeat(3000)))]);
        assert_eq!((report.targets, report.problems.len()), (1, 1001));
        assert!(shown.contains("a.yaml: 2000 more problems are omitted"), "{shown}");
    }

    #[test]
    fn a_path_that_is_not_there_is_a_problem() {
        let report = check(&Inputs::read(&["/nowhere/at/all.yaml".into()]), CheckOptions::default());
        assert!(report.to_string().starts_with("/nowhere/at/all.yaml: cannot be read: No such file"), "{report}");
        assert!(!report.is_good());
    }

    #[test]
    fn a_name_that_is_there_twice_is_a_problem_that_names_both_places() {
        let (_, shown) = report(&[("a.yaml", GOOD), ("b.yaml", &format!("---\n{GOOD}"))]);
        assert!(
            shown
                .starts_with("b.yaml:2: document 1 (ScrapeTarget default/good): metadata.name: is already declared at"),
            "{shown}"
        );
        assert!(shown.contains("a.yaml:1 (document 1), which is used"), "{shown}");
    }

    #[test]
    fn targets_are_found_also_in_lists_and_whatever_is_wrong_with_them() {
        let folder = tempfile::TempDir::new().unwrap();
        let text = "# two\n{kind: ScrapeTarget, metadata: {name: a, namespace: media}}\n---\nkind: List\nitems:\n\
            - {kind: Secret, metadata: {name: s}}\n- {kind: ScrapeTarget, metadata: {name: b}, spec: 5}\n---\nkind: [\n";
        fs::write(folder.path().join("a.yaml"), text).unwrap();
        let unnamed = "{kind: ScrapeTarget}\n---\n{kind: ScrapeTarget, metadata: {name: c, namespace: ../d}}\n";
        fs::write(folder.path().join("b.yaml"), unnamed).unwrap();
        let found = unchecked_targets(&Inputs::read(&[folder.path().to_owned(), "/nowhere/at/all.yaml".into()]));
        let shown: Vec<String> = found.iter().map(|target| target.problem("no").to_string()).collect();
        let place = |rest: &str| format!("{}/a.yaml:{rest}", folder.path().display());
        assert_eq!(
            shown,
            [place("2: document 1 (ScrapeTarget media/a): no"), place("7: document 2 (ScrapeTarget b): no"),]
        );
    }
}
