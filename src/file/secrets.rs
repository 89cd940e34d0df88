//! Values of Secrets from the files of a directory, so that a password need not be written into a manifest: as Kubernetes mounts Secrets,
//! or as systemd and Docker pass credentials.
//!
//! Only files of keys that a target refers to are opened, whatever else the directory holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use secrecy::SecretSlice;

use super::input::{Signature, read_plain_file, signature};
use super::load::FileProblem;
use super::manifest::DEFAULT_NAMESPACE;
use crate::crd::ParsedTarget;
use crate::target::{ObjectKind, TargetId};

/// The largest value, as in a Secret of Kubernetes.
const LARGEST: u64 = 1 << 20;

/// A key of a Secret: the Secret's name, and the key.
pub(super) type SecretKey = (TargetId, String);

/// The keys of Secrets that a target refers to.
pub(super) fn secret_keys_of<'t>(id: &'t TargetId, target: &'t ParsedTarget) -> impl Iterator<Item = SecretKey> + 't {
    let secrets = target.spec.references().into_iter().filter(|reference| reference.kind == ObjectKind::Secret);
    secrets.map(|secret| (TargetId::new(&id.namespace, secret.name), secret.key.to_owned()))
}

/// The files that may hold the value of a key; the first that exists is used.
///
/// In the flat form `_` separates the parts, which neither a namespace nor the name of a Secret can contain. It has no form without the
/// namespace: that would be ambiguous.
fn candidates(folder: &Path, (secret, key): &SecretKey) -> Vec<PathBuf> {
    let (namespace, name) = (&*secret.namespace, &*secret.name);
    let leads_elsewhere = |part: &str| part.is_empty() || part == "." || part.starts_with("..") || part.contains('/');
    if [namespace, name, key].into_iter().any(leads_elsewhere) {
        return Vec::new();
    }
    let mut candidates =
        vec![folder.join(namespace).join(name).join(key), folder.join(format!("{namespace}_{name}_{key}"))];
    if namespace == DEFAULT_NAMESPACE {
        candidates.push(folder.join(name).join(key));
    }
    candidates
}

/// The values that were read from a directory.
#[derive(Clone, Debug)]
pub(super) struct SecretValues {
    folder: Arc<Path>,
    values: HashMap<SecretKey, Arc<SecretSlice<u8>>>,
    /// Keys without a value whose file exists and cannot be used.
    problems: HashMap<SecretKey, FileProblem>,
}

impl SecretValues {
    pub(super) fn get(&self, key: &SecretKey) -> Option<&SecretSlice<u8>> {
        self.values.get(key).map(|value| &**value)
    }

    /// Why the file of a key without a value cannot be used.
    pub(super) fn problem(&self, key: &SecretKey) -> Option<&FileProblem> {
        self.problems.get(key)
    }

    /// The files that could hold the value of a key, for an error message.
    pub(super) fn candidates_text(&self, key: &SecretKey) -> String {
        let candidates = candidates(&self.folder, key);
        candidates.iter().map(|candidate| candidate.display().to_string()).collect::<Vec<_>>().join(" or ")
    }
}

/// A directory of values that is read again as it changes.
#[derive(Debug)]
pub(super) struct SecretFiles {
    folder: Arc<Path>,
    found: BTreeMap<SecretKey, ValueFile>,
    not_listed: Option<FileProblem>,
}

/// A file and its version; `None` where there is no file.
type FileVersion = Option<(PathBuf, Signature)>;

/// The value of one key, and the file that it came from.
#[derive(Debug)]
struct ValueFile {
    /// The version that the last scan saw. As with manifests, a file is read once two scans saw the same.
    seen: FileVersion,
    /// The version that was read.
    read: FileVersion,
    value: Option<Arc<SecretSlice<u8>>>,
    problem: Option<FileProblem>,
}

impl SecretFiles {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.into(), found: BTreeMap::new(), not_listed: None }
    }

    /// Scans for the files of these keys. Reads those of new keys, and those that changed and are stable since the last scan (with `at_once`
    /// all that changed). Returns whether anything is different now.
    pub(super) fn refresh(&mut self, wanted: &BTreeSet<SecretKey>, at_once: bool) -> bool {
        let not_listed = match fs::read_dir(&self.folder) {
            Ok(_) => None,
            Err(error) => Some(FileProblem::of_file(&self.folder, format!("cannot be read: {error}"))),
        };
        let mut news = not_listed != self.not_listed;
        self.not_listed = not_listed;
        if self.not_listed.is_some() {
            return news; // the values are kept until the directory is there again
        }
        let before = self.found.len();
        self.found.retain(|key, _| wanted.contains(key));
        news |= self.found.len() != before;
        for key in wanted {
            let now = find_file(&self.folder, key);
            match self.found.get_mut(key) {
                None => {
                    let mut found = ValueFile { seen: None, read: None, value: None, problem: None };
                    found.load(now);
                    self.found.insert(key.clone(), found);
                    news = true;
                }
                Some(found) if found.read == now => found.seen = now,
                Some(found) if at_once || found.seen == now => {
                    found.load(now);
                    news = true;
                }
                Some(found) => found.seen = now,
            }
        }
        news
    }

    /// The values as they are now.
    pub(super) fn values(&self) -> SecretValues {
        let value = |(key, found): (&SecretKey, &ValueFile)| Some((key.clone(), Arc::clone(found.value.as_ref()?)));
        let bad = self.found.iter().filter(|(_, found)| found.value.is_none());
        let problem = |(key, found): (&SecretKey, &ValueFile)| Some((key.clone(), found.problem.clone()?));
        SecretValues {
            folder: Arc::clone(&self.folder),
            values: self.found.iter().filter_map(value).collect(),
            problems: bad.filter_map(problem).collect(),
        }
    }

    /// What is wrong. A file that does not exist is not listed: the target that refers to it reports that.
    pub(super) fn problems(&self) -> impl Iterator<Item = &FileProblem> {
        self.not_listed.iter().chain(self.found.values().filter_map(|found| found.problem.as_ref()))
    }
}

/// The file of a key, if there is one. A file that exists and cannot be examined counts as one.
fn find_file(folder: &Path, key: &SecretKey) -> FileVersion {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, NotFound};
    candidates(folder, key).into_iter().find_map(|candidate| match fs::metadata(&candidate) {
        Ok(data) if data.is_dir() => None,
        Err(error) if matches!(error.kind(), InvalidFilename | IsADirectory | NotADirectory | NotFound) => None,
        _ => Some((candidate.clone(), signature(&candidate))),
    })
}

impl ValueFile {
    /// Reads the file in this version. If that fails, the last good value is kept.
    fn load(&mut self, now: FileVersion) {
        self.problem = None;
        let too_large = "the most that a Secret can hold";
        match now.as_ref().map(|(file, _)| (file, read_plain_file(file, LARGEST, too_large))) {
            None => self.value = None,
            Some((_, Ok(value))) => self.value = Some(Arc::new(value.into())),
            Some((file, Err(error))) => {
                let file = Arc::from(file.as_path());
                self.problem = Some(FileProblem::of_file(&file, format!("cannot be read: {error}")));
            }
        }
        self.seen.clone_from(&now);
        self.read = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Lookup as _, LookupError};
    use secrecy::ExposeSecret as _;
    use tempfile::TempDir;

    fn key(namespace: &str, name: &str, key: &str) -> SecretKey {
        (TargetId::new(namespace, name), key.to_owned())
    }

    struct Rig {
        folder: TempDir,
        files: SecretFiles,
        wanted: BTreeSet<SecretKey>,
    }

    impl Rig {
        fn new(wanted: &[SecretKey]) -> Self {
            let folder = TempDir::new().unwrap();
            let files = SecretFiles::new(folder.path());
            Self { folder, files, wanted: wanted.iter().cloned().collect() }
        }

        fn write(&self, name: &str, value: &str) {
            let file = self.folder.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, value).unwrap();
        }

        fn refresh(&mut self) -> bool {
            self.files.refresh(&self.wanted, false)
        }

        fn value(&self, key: &SecretKey) -> Option<String> {
            let values = self.files.values();
            values.get(key).map(|value| String::from_utf8(value.expose_secret().to_vec()).unwrap())
        }
    }

    #[test]
    fn a_value_is_found_as_kubernetes_mounts_it_and_as_systemd_hands_it_over() {
        for (file, found) in [
            ("media/agent/token", true),
            ("media_agent_token", true),
            ("agent/token", false),
            ("agent_token", false),
            ("default/agent/token", false),
        ] {
            let wanted = key("media", "agent", "token");
            let mut rig = Rig::new(std::slice::from_ref(&wanted));
            rig.write(file, "x");
            rig.refresh();
            assert_eq!(rig.value(&wanted).is_some(), found, "{file}");
        }
        for file in ["agent/token", "default/agent/token", "default_agent_token"] {
            let wanted = key("default", "agent", "token");
            let mut rig = Rig::new(std::slice::from_ref(&wanted));
            rig.write(file, "x");
            rig.refresh();
            assert_eq!(rig.value(&wanted).as_deref(), Some("x"), "{file}");
        }
    }

    #[test]
    fn no_key_leads_out_of_the_directory() {
        for key in
            [key("..", "a", "b"), key("a", "..", "b"), key("a", "b", "../c"), key("a", "b", "..data"), key("", "", "")]
        {
            assert_eq!(candidates(Path::new("/run/secrets"), &key), Vec::<PathBuf>::new(), "{key:?}");
        }
    }

    #[test]
    fn a_new_value_is_taken_when_it_has_come_to_rest_and_a_lost_one_is_gone() {
        let wanted = key("media", "agent", "token");
        let mut rig = Rig::new(std::slice::from_ref(&wanted));
        assert!(rig.refresh() && rig.value(&wanted).is_none());
        assert!(!rig.refresh());
        rig.write("media/agent/token", "one");
        assert!(!rig.refresh(), "read before it came to rest");
        assert!(rig.refresh());
        assert_eq!(rig.value(&wanted).as_deref(), Some("one"));
        rig.write("media/agent/token", "second");
        assert!(rig.files.refresh(&rig.wanted, true), "a server refused the one before");
        assert_eq!(rig.value(&wanted).as_deref(), Some("second"));
        fs::remove_file(rig.folder.path().join("media/agent/token")).unwrap();
        rig.refresh();
        assert!(rig.refresh() && rig.value(&wanted).is_none());
    }

    #[test]
    fn what_cannot_be_read_is_told_and_keeps_its_last_good_value() {
        let wanted = key("media", "agent", "token");
        let mut rig = Rig::new(std::slice::from_ref(&wanted));
        rig.write("media_agent_token", "good");
        rig.refresh();
        rig.write("media_agent_token", &"x".repeat(usize::try_from(LARGEST).unwrap() + 1));
        rig.refresh();
        rig.refresh();
        assert_eq!(rig.value(&wanted).as_deref(), Some("good"));
        let problems: Vec<_> = rig.files.problems().map(|problem| problem.message.clone()).collect();
        assert_eq!(problems, ["cannot be read: it is larger than 1 MiB, the most that a Secret can hold"]);
        let away = rig.folder.path().with_extension("away");
        fs::rename(rig.folder.path(), &away).unwrap();
        assert!(rig.refresh() && !rig.refresh());
        assert_eq!(rig.value(&wanted).as_deref(), Some("good"));
        assert!(rig.files.problems().next().unwrap().to_string().contains("cannot be read: No such file"));
        fs::rename(&away, rig.folder.path()).unwrap();
        rig.write("media_agent_token", "better");
        rig.refresh();
        rig.refresh();
        assert_eq!(rig.value(&wanted).as_deref(), Some("better"));
        assert_eq!(rig.files.problems().count(), 0);
        assert!(!format!("{:?}", rig.files).contains("better"));
    }

    #[test]
    fn a_key_without_a_value_is_told_with_what_is_wrong_with_its_file() {
        let keys = [key("media", "agent", "loop"), key("media", "agent", "large"), key("media", "agent", "..data")];
        let mut rig = Rig::new(&keys);
        std::os::unix::fs::symlink("media_agent_loop", rig.folder.path().join("media_agent_loop")).unwrap();
        rig.write("media_agent_large", &"x".repeat(usize::try_from(LARGEST).unwrap() + 1));
        rig.refresh();
        let mut objects = crate::file::FileObjects::default();
        objects.add_values(rig.files.values());
        for (key, wanted) in [
            ("loop", "media_agent_loop: cannot be read: Too many levels of symbolic links"),
            ("large", "media_agent_large: cannot be read: it is larger than 1 MiB"),
            ("..data", "no manifest has it, and no file name can represent it: write it into a manifest, or"),
            ("none", "there is no file "),
        ] {
            let error = objects.value(ObjectKind::Secret, "media", "agent", key).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
            assert_eq!(matches!(error, LookupError::BadFile { .. }), wanted.contains("cannot be read"), "{error}");
        }
    }

    #[test]
    fn what_no_target_names_any_more_is_forgotten() {
        let wanted = key("media", "agent", "token");
        let mut rig = Rig::new(std::slice::from_ref(&wanted));
        rig.write("media_agent_token", "good");
        rig.refresh();
        rig.wanted.clear();
        assert!(rig.refresh());
        assert_eq!(rig.value(&wanted), None);
    }
}
