//! The command `check`: what the API server would say about files of manifests, said without one.

use std::fmt;
use std::path::Path;

use super::input::Inputs;
use super::load::{FileProblem, Loaded};
use crate::target::Lookup;

/// What `check` found. Its Display is what the command prints: one line for each problem, then one for each note, then a count.
#[derive(Debug)]
pub struct Report {
    /// What is wrong; any makes the command fail.
    pub problems: Vec<FileProblem>,
    /// What may be right but deserves a look: references to objects that are not in these files, manifests of other kinds.
    pub notes: Vec<FileProblem>,
    /// How many good targets there are.
    pub targets: usize,
}

impl Report {
    /// Whether every manifest is good.
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }
}

impl fmt::Display for Report {
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

/// What must be there beside good manifests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Demands<'d> {
    /// A directory of values of Secrets.
    pub secrets: Option<&'d Path>,
    /// Whether every Secret and ConfigMap that a target names must be there.
    pub all_references: bool,
}

/// Judges every manifest.
pub fn check(inputs: &Inputs, demands: Demands<'_>) -> Report {
    let mut loaded = Loaded::of(inputs);
    if let Some(folder) = demands.secrets {
        loaded.add_secrets(folder);
    }
    let Loaded { targets, objects, mut problems, others } = loaded;
    let mut notes = others;
    for (id, (target, origin)) in &targets {
        for reference in target.spec.references().into_iter().filter(|reference| !reference.optional) {
            if let Err(missing) = objects.value(reference.kind, &id.namespace, reference.name, reference.key) {
                let place = if demands.all_references { &mut problems } else { &mut notes };
                let or = if demands.all_references { "" } else { "; or it must be in the cluster" };
                place.push(FileProblem {
                    file: origin.file.clone(),
                    line: Some(origin.line),
                    document: Some(origin.document),
                    object: Some(format!("ScrapeTarget {id}")),
                    path: reference.path.clone(),
                    message: format!("{missing}{or}"),
                });
            }
        }
    }
    problems.sort();
    notes.sort();
    Report { problems, notes, targets: targets.len() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn report(files: &[(&str, &str)]) -> (Report, String) {
        let folder = tempfile::TempDir::new().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let report = check(&Inputs::read(&[folder.path().to_owned()]), Demands::default());
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
            "a.yaml:1: document 1 (ScrapeTarget default/good): spec.basicAuth.password: Secret default/s has no key \"password\": add it \
             to the manifest; or it must be in the cluster (note)\n\
             a.yaml:19: document 3: apps/v1 Deployment is left alone (note)\n\
             1 good target, 0 problems\n"
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
        assert!(shown.contains("a.yaml: 2000 more problems are left out"), "{shown}");
    }

    #[test]
    fn a_path_that_is_not_there_is_a_problem() {
        let report = check(&Inputs::read(&["/nowhere/at/all.yaml".into()]), Demands::default());
        assert!(report.to_string().starts_with("/nowhere/at/all.yaml: cannot be read: No such file"), "{report}");
        assert!(!report.is_good());
    }

    #[test]
    fn a_name_that_is_there_twice_is_a_problem_that_names_both_places() {
        let (_, shown) = report(&[("a.yaml", GOOD), ("b.yaml", &format!("---\n{GOOD}"))]);
        assert!(
            shown
                .starts_with("b.yaml:2: document 1 (ScrapeTarget default/good): metadata.name: is declared already at"),
            "{shown}"
        );
        assert!(shown.contains("a.yaml:1 (document 1), which stays"), "{shown}");
    }
}
