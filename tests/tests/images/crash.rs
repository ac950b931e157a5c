//! The store after `kill -9`, at moments that nobody chose.
//!
//! The test runs itself as another process that loads, snapshots and removes in a loop, and kills it.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use agent::image::{SnapshotId, Source, Store};
use tests::Scratch;
use tests::image::{BUSYBOX, Layer, Layout};

use super::{block_on, contents, name, open};

const CHILD: &str = "ORLOP_TEST_STORE";
/// The child makes this file, in the scratch directory, when it has opened the store.
const STARTED: &str = "input/started";

/// Not a test of its own: what is killed by the one below.
#[test]
fn child_that_works_until_it_is_killed() {
    let Some(dir) = env::var_os(CHILD).map(PathBuf::from) else {
        return;
    };
    let store = Store::open(&dir.join("store")).unwrap();
    fs::write(dir.join(STARTED), "").unwrap();
    for attempt in 0.. {
        let image = block_on(store.load(Source::Path(dir.join("input/layout")), None))
            .unwrap()
            .remove(0);
        let id = SnapshotId::new("uid", "web", attempt).unwrap();
        store.create_snapshot(&id, &image).unwrap();
        assert!(block_on(store.remove(&name(BUSYBOX))).unwrap());
        store.remove_snapshot(&id).unwrap();
    }
}

fn layout(dir: &Path) {
    let layer = |files: usize| {
        let mut layer = Layer::default();
        (0..files).for_each(|i| {
            layer
                .file(&format!("dir{}/file{i}", i % 10), 0o644, &[b'x'; 5000])
                .unwrap()
        });
        layer.finish().unwrap()
    };
    Layout::new(BUSYBOX)
        .gzip(&layer(200))
        .unwrap()
        .plain(layer(20))
        .write(dir)
        .unwrap();
}

#[test]
fn a_store_is_whole_after_a_kill_at_any_moment() {
    tests::require_root!();
    let scratch = Scratch::new("store-crash");
    layout(&scratch.input().join("layout"));
    let dir = scratch.path("store");
    for round in 0..20_u64 {
        let mut child = Command::new(env::current_exe().unwrap());
        child
            .args(["--exact", "crash::child_that_works_until_it_is_killed"])
            .env(CHILD, scratch.dir());
        let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = scratch.path(STARTED);
        tests::eventually(Duration::from_secs(30), "the child opens the store", || {
            started.exists()
        });
        fs::remove_file(started).unwrap();
        std::thread::sleep(Duration::from_millis(round * 17 % 101));
        let is_at_work = child.try_wait().unwrap().is_none();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_at_work, "the child failed by itself");

        let store = open(&scratch);

        let (images, snapshots) = (store.list(), store.snapshots());
        let layers = fs::read_dir(dir.join("layers")).unwrap().count();
        assert_eq!(
            layers,
            if images.is_empty() && snapshots.is_empty() {
                0
            } else {
                2
            },
            "round {round}"
        );
        for layer in images.iter().flat_map(|image| &image.layers) {
            assert!(layer.join("dir9/file19").is_file(), "a layer is whole or not there");
        }
        assert_eq!(fs::read_dir(dir.join("tmp")).unwrap().count(), 0);
        snapshots.iter().for_each(|id| store.remove_snapshot(id).unwrap());
        for image in &images {
            block_on(store.remove(&image.reference)).unwrap();
        }
        drop(store);
        open(&scratch);
        assert_eq!(contents(&dir), BTreeSet::new(), "round {round}");
    }
}
