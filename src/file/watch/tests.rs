//! Edits as editors, mounted ConfigMaps and accidents make them.

use super::*;
use std::fs;
use std::os::unix::fs::symlink;
use tempfile::TempDir;

fn target(name: &str, interval: &str) -> String {
    format!(
        "---\napiVersion: scrapetarget.dev/v1alpha1\nkind: ScrapeTarget\nmetadata: {{name: {name}}}\nspec:\n  type: Sora\n  \
         url: http://{name}:3000/\n  interval: {interval}\n"
    )
}

/// A source on one directory, looked at by hand instead of by the clock.
struct Rig {
    folder: TempDir,
    state: WatchState,
    now: Option<TargetSet>,
}

impl Rig {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let state = WatchState { paths: vec![folder.path().to_owned()], ..WatchState::default() };
        let mut rig = Self { folder, state, now: None };
        for (name, text) in files {
            rig.write(name, text);
        }
        rig.refresh();
        rig
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// As editors do: a new file, renamed over the old one.
    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(".new"), text).unwrap();
        fs::rename(self.path(".new"), self.path(name)).unwrap();
    }

    fn refresh(&mut self) -> bool {
        let first = !self.state.started;
        let news = self.state.refresh(first);
        let any = news.is_some();
        if news.is_some() {
            self.now = news;
        }
        any
    }

    /// Two looks: what is at rest is taken.
    fn settle(&mut self) -> String {
        self.refresh();
        self.refresh();
        self.shown()
    }

    fn shown(&self) -> String {
        let targets = &self.now.as_ref().unwrap().targets;
        let shown = targets.iter().map(|(id, target)| format!("{}={}", id.name, target.spec.interval));
        shown.collect::<Vec<_>>().join(" ")
    }

    fn problems(&self) -> Vec<String> {
        self.state.logged.iter().map(|problem| problem.message.clone()).collect()
    }
}

#[test]
fn a_file_renamed_over_another_takes_effect_after_the_second_look() {
    let mut rig = Rig::new(&[("a.yaml", &target("a", "10s"))]);
    assert_eq!(rig.shown(), "a=10s");
    assert!(!rig.refresh());
    rig.write("a.yaml", &target("a", "20s"));
    assert!(!rig.refresh(), "read before it came to rest");
    assert!(rig.refresh());
    assert_eq!(rig.shown(), "a=20s");
    assert!(!rig.refresh());
}

#[test]
fn a_file_that_is_still_being_written_is_left_in_peace() {
    let mut rig = Rig::new(&[("a.yaml", &target("a", "10s"))]);
    let text = target("a", "20s") + &target("b", "20s");
    for end in [20, 60, 100] {
        fs::write(rig.path("a.yaml"), &text[..end]).unwrap();
        assert!(!rig.refresh());
    }
    fs::write(rig.path("a.yaml"), &text).unwrap();
    assert_eq!(rig.settle(), "a=20s b=20s");
    assert_eq!(rig.problems(), Vec::<String>::new());
}

#[test]
fn the_symlink_swap_of_a_mounted_config_map_is_seen() {
    let mut rig = Rig::new(&[]);
    for (version, interval) in [("..1", "10s"), ("..2", "20s")] {
        fs::create_dir(rig.path(version)).unwrap();
        fs::write(rig.path(version).join("t.yaml"), target("a", interval)).unwrap();
    }
    symlink("..1", rig.path("..data")).unwrap();
    symlink("..data/t.yaml", rig.path("t.yaml")).unwrap();
    assert_eq!(rig.settle(), "a=10s");
    symlink("..2", rig.path("..data_tmp")).unwrap();
    fs::rename(rig.path("..data_tmp"), rig.path("..data")).unwrap();
    assert_eq!(rig.settle(), "a=20s");
}

#[test]
fn a_target_whose_document_became_invalid_keeps_its_last_good_version() {
    let mut rig = Rig::new(&[("a.yaml", &(target("a", "10s") + &target("b", "10s")))]);
    rig.write("a.yaml", &(target("a", "99h") + &target("b", "20s")));
    assert_eq!(rig.settle(), "a=10s b=20s");
    assert_eq!(rig.problems(), ["must be from 1s to 1h"]);
    rig.write("a.yaml", &(target("a", "5") + &target("b", "30s")));
    assert_eq!(rig.settle(), "a=10s b=30s");
    rig.write("a.yaml", &(target("a", "30s") + &target("b", "30s")));
    assert_eq!(rig.settle(), "a=30s b=30s");
    assert_eq!(rig.problems(), Vec::<String>::new());
}

#[test]
fn a_target_whose_document_was_removed_is_gone() {
    let mut rig = Rig::new(&[("a.yaml", &(target("a", "10s") + &target("b", "10s"))), ("c.yml", &target("c", "10s"))]);
    assert_eq!(rig.shown(), "a=10s b=10s c=10s");
    rig.write("a.yaml", &target("b", "10s"));
    assert_eq!(rig.settle(), "b=10s c=10s");
    fs::remove_file(rig.path("c.yml")).unwrap();
    assert_eq!(rig.settle(), "b=10s");
}

#[test]
fn a_file_with_an_unreadable_document_loses_nothing() {
    let mut rig = Rig::new(&[("a.yaml", &(target("a", "10s") + &target("b", "10s")))]);
    rig.write("a.yaml", &("---\nkind: ScrapeTarget\nmetadata: {name: a\nspec: ]\n".to_owned() + &target("b", "20s")));
    assert_eq!(rig.settle(), "a=10s b=20s");
    assert_eq!(rig.problems().len(), 1);
}

#[test]
fn a_file_that_cannot_be_read_keeps_its_targets_and_is_logged_once() {
    let mut rig = Rig::new(&[("a.yaml", &target("a", "10s"))]);
    fs::remove_file(rig.path("a.yaml")).unwrap();
    fs::create_dir(rig.path("a.yaml")).unwrap();
    assert_eq!(rig.settle(), "a=10s");
    assert_eq!(rig.problems(), ["cannot be read: it is not a plain file"]);
    assert!(!rig.refresh());
    fs::remove_dir(rig.path("a.yaml")).unwrap();
    rig.write("a.yaml", &target("a", "20s"));
    assert_eq!(rig.settle(), "a=20s");
    rig.write("a.yaml", "a: \u{1}");
    fs::write(rig.path("a.yaml"), [0xff, 0xfe, b'a']).unwrap();
    assert_eq!(rig.settle(), "a=20s");
    assert_eq!(rig.problems(), ["cannot be read: it is not UTF-8"]);
}

#[test]
fn a_directory_that_vanishes_keeps_its_targets() {
    let mut rig = Rig::new(&[("a.yaml", &target("a", "10s"))]);
    let (from, to) = (rig.folder.path().to_owned(), rig.folder.path().with_extension("away"));
    fs::rename(&from, &to).unwrap();
    assert_eq!(rig.settle(), "a=10s");
    assert_eq!(rig.problems().len(), 1);
    fs::rename(&to, &from).unwrap();
    rig.settle();
    assert_eq!(rig.problems(), Vec::<String>::new());
}

#[test]
fn of_two_targets_of_one_name_the_first_stays_until_it_goes() {
    let mut rig = Rig::new(&[("a.yaml", &target("x", "10s")), ("b.yaml", &target("x", "20s"))]);
    assert_eq!(rig.shown(), "x=10s");
    let problem = rig.state.logged.first().unwrap().to_string();
    assert!(problem.contains("b.yaml:2: document 1 (ScrapeTarget default/x)"), "{problem}");
    assert!(problem.contains("a.yaml:2 (document 1)"), "{problem}");
    fs::remove_file(rig.path("a.yaml")).unwrap();
    assert_eq!(rig.settle(), "x=20s");
}

#[test]
fn a_target_that_moves_to_another_file_follows_that_file_even_if_its_old_one_is_broken() {
    let mut rig = Rig::new(&[("a.yaml", &target("x", "10s"))]);
    rig.write("a.yaml", "a: [");
    rig.write("b.yaml", &target("x", "20s"));
    assert_eq!(rig.settle(), "x=20s");
}

#[test]
fn a_bad_secret_keeps_its_last_good_keys() {
    let secret = |data: &str| format!("apiVersion: v1\nkind: Secret\nmetadata: {{name: s}}\ndata: {{k: {data}}}\n");
    let mut rig = Rig::new(&[("s.yaml", &secret("eA=="))]);
    let read =
        |rig: &Rig| rig.now.as_ref().unwrap().objects.value(crate::target::ObjectKind::Secret, "default", "s", "k");
    assert_eq!(read(&rig).unwrap(), b"x");
    rig.write("s.yaml", &secret("'?'"));
    rig.settle();
    assert_eq!(read(&rig).unwrap(), b"x");
    rig.write("s.yaml", &secret("eQ=="));
    rig.settle();
    assert_eq!(read(&rig).unwrap(), b"y");
    rig.write("s.yaml", "# empty\n");
    rig.settle();
    assert!(read(&rig).is_err());
}

#[test]
fn a_target_that_is_declared_badly_is_told_with_what_goes_on_instead() {
    let refused = |rig: &Rig| -> Vec<String> {
        let refused = &rig.now.as_ref().unwrap().refused;
        let folder = format!("{}/", rig.folder.path().display());
        refused.iter().map(|bad| format!("{} {}", bad.id, bad.message.replace(&folder, ""))).collect()
    };
    let mut rig = Rig::new(&[("a.yaml", &target("a", "10s")), ("b.yaml", &target("b", "99h"))]);
    assert_eq!(refused(&rig), ["default/b b.yaml:8: spec.interval: must be from 1s to 1h"]);
    rig.write("a.yaml", &(target("a", "99h") + "  timeout: 5x\n"));
    rig.write("c.yaml", &target("b", "20s"));
    assert_eq!(rig.settle(), "a=10s b=20s");
    let [a, b] = &refused(&rig)[..] else { panic!("{:?}", refused(&rig)) };
    assert!(
        a.contains("spec.timeout: ")
            && a.contains("; spec.interval: ")
            && a.ends_with("; its last good version stays in use"),
        "{a}"
    );
    assert!(b.ends_with("; the one at c.yaml:2 is used"), "{b}");
    rig.write("a.yaml", &target("a", "30s"));
    rig.write("b.yaml", "# nothing");
    rig.settle();
    assert_eq!(refused(&rig), Vec::<String>::new());
}

#[test]
fn targets_are_not_known_while_one_of_several_files_was_never_read() {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("a.yaml"), target("a", "10s")).unwrap();
    let mut state = WatchState { paths: vec![path("a.yaml"), path("more")], ..WatchState::default() };
    let unknown = |desired: Option<TargetSet>| {
        let desired = desired.unwrap();
        (desired.targets.len(), desired.incomplete.unwrap_or_default())
    };
    let (targets, why) = unknown(state.refresh(true));
    assert!(targets == 1 && why.contains("more: cannot be read"), "{targets} {why}");
    // A mount comes with what is in it. One of its files cannot be read.
    fs::create_dir(path("staged")).unwrap();
    fs::write(path("staged").join("b.yaml"), target("b", "10s")).unwrap();
    fs::write(path("staged").join("c.yaml"), [0xff]).unwrap();
    fs::rename(path("staged"), path("more")).unwrap();
    let (targets, why) = unknown(state.refresh(false));
    assert!(targets == 1 && why.contains("b.yaml: not read yet"), "{targets} {why}");
    let (targets, why) = unknown(state.refresh(false));
    assert!(targets == 2 && why.contains("c.yaml: cannot be read: it is not UTF-8"), "{targets} {why}");
    fs::write(path("more").join("c.yaml"), target("c", "10s")).unwrap();
    state.refresh(false);
    assert_eq!(unknown(state.refresh(false)), (3, String::new()));
    fs::remove_dir_all(path("more")).unwrap();
    state.refresh(false);
    let after = state.refresh(false).or_else(|| state.refresh(true));
    assert!(
        after.is_none_or(|desired| desired.incomplete.is_none() && desired.targets.len() == 3),
        "known once, and kept"
    );
}

// The clock of these stands still while files are read: they show how often the source looks, however busy the machine is. The lengths
// differ because two writes within a tick of the file system's clock refresh the same.

#[tokio::test(start_paused = true)]
async fn a_running_source_takes_an_edit_within_two_seconds() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, target("a", "10s")).unwrap();
    let source = FileWatcher::new(vec![file.clone()], None);
    let (sender, mut receiver) = watch::channel(None);
    let stop = CancellationToken::new();
    let task = tokio::spawn(source.run(sender, stop.clone()));
    let interval = |desired: &Option<TargetSet>| {
        desired.as_ref().map(|d| d.targets.values().next().unwrap().spec.interval.to_string())
    };
    receiver.wait_for(|desired| interval(desired).as_deref() == Some("10s")).await.unwrap();
    fs::write(&file, target("a", "5s")).unwrap();
    let seen = receiver.wait_for(|desired| interval(desired).as_deref() == Some("5s"));
    tokio::time::timeout(Duration::from_secs(2), seen).await.unwrap().unwrap();
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_rescan_does_not_wait() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("a.yaml");
    fs::write(&file, target("a", "10s")).unwrap();
    let source = FileWatcher::new(vec![file.clone()], None);
    let rescan = source.rescan();
    let (sender, mut receiver) = watch::channel(None);
    let stop = CancellationToken::new();
    let task = tokio::spawn(source.run(sender, stop.clone()));
    receiver.changed().await.unwrap();
    fs::write(&file, target("a", "5s")).unwrap();
    rescan.notify_one();
    tokio::time::timeout(PERIOD / 2, receiver.changed()).await.unwrap().unwrap();
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_path_that_was_never_there_leaves_the_list_incomplete_until_it_appears() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later.yaml");
    let (sender, mut receiver) = watch::channel(None);
    let stop = CancellationToken::new();
    let task = tokio::spawn(FileWatcher::new(vec![path.clone()], None).run(sender, stop.clone()));
    receiver.changed().await.unwrap();
    let why = receiver.borrow_and_update().as_ref().unwrap().incomplete.clone().unwrap();
    assert!(why.contains("later.yaml: cannot be read"), "{why}");
    std::fs::write(&path, "a: [").unwrap();
    let nothing = |desired: &Option<TargetSet>| desired.as_ref().is_some_and(|desired| desired.incomplete.is_some());
    tokio::time::timeout(Duration::from_secs(2), receiver.changed()).await.unwrap().unwrap();
    assert!(nothing(&receiver.borrow_and_update()), "not even read");
    tokio::time::timeout(Duration::from_secs(2), receiver.changed()).await.unwrap().unwrap();
    assert!(nothing(&receiver.borrow_and_update()), "the only file is no YAML");
    std::fs::write(&path, "# no targets, on purpose").unwrap();
    let complete = receiver.wait_for(|desired| desired.as_ref().is_some_and(|desired| desired.incomplete.is_none()));
    tokio::time::timeout(Duration::from_secs(3), complete).await.unwrap().unwrap();
    stop.cancel();
    task.await.unwrap();
}
