//! The image store on a real file system: what comes in, from where, what stays and what goes.
//!
//! Hostile layers are in `hostile.rs`, pulls from a registry of our own making in `pull.rs`, and what other tools write
//! and serve in `peers.rs`.
#![expect(clippy::unwrap_used, reason = "the helpers of tests panic like the tests")]

mod crash;
mod hostile;
mod peers;
mod pull;
mod registry;
mod tls;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::image::{Image, LoadError, Reference, SnapshotId, Source, Store, StoreError};
use tests::Scratch;
use tests::image::{BUSYBOX, Layer, Layout};

/// Runs a future to its end, with the threads that blocking work needs.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime can be made").block_on(future)
}

fn open(scratch: &Scratch) -> Store {
    Store::open(&scratch.path("store")).expect("the store opens")
}

fn load(store: &Store, path: &Path) -> Result<Vec<Arc<Image>>, LoadError> {
    block_on(store.load(Source::Path(path.to_owned()), None))
}

fn name(name: &str) -> Reference {
    name.parse().expect("the test's name is well formed")
}

/// The error with all its causes.
fn chain(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

/// What the store holds of content: layers, blobs, records, unfinished things.
fn contents(store: &Path) -> BTreeSet<PathBuf> {
    let entries = |name: &str| {
        fs::read_dir(store.join(name))
            .unwrap()
            .map(|entry| entry.unwrap().path())
    };
    ["layers", "blobs/sha256", "images", "tmp"]
        .into_iter()
        .flat_map(entries)
        .collect()
}

/// A layout of one image made of these layers.
fn layout(dir: &Path, layers: Vec<Layer>) -> PathBuf {
    let layers = layers.into_iter().map(|layer| layer.finish().unwrap());
    layers.fold(Layout::new(BUSYBOX), Layout::plain).write(dir).unwrap()
}

#[test]
fn busybox_is_made_the_same_twice() {
    let scratch = Scratch::new("busybox-image");
    let [one, two] = ["one", "two"].map(|name| tests::image::busybox(&scratch.path(name)).unwrap());
    let index = |dir: &Path| fs::read(dir.join("index.json")).unwrap();
    assert_eq!(index(&one), index(&two));
}

#[test]
fn a_layout_is_loaded_found_kept_and_removed() {
    tests::require_root!();
    let scratch = Scratch::new("load");
    let store = open(&scratch);
    let layout = tests::image::busybox(&scratch.path("layout")).unwrap();

    let images = load(&store, &layout).unwrap();

    let image = store.resolve(&name(BUSYBOX)).expect("it is found by its name");
    assert_eq!(images, std::slice::from_ref(&image));
    assert_eq!(store.list(), images);
    assert_eq!(
        store.resolve(&name(&image.repo_digest())).as_ref(),
        Some(&image),
        "and by its digest"
    );
    let root = &image.layers[0];
    assert_eq!(fs::read_link(root.join("bin/sh")).unwrap(), Path::new("busybox"));
    assert_eq!(
        fs::metadata(root.join("tmp")).unwrap().permissions().mode() & 0o7777,
        0o1777
    );
    assert_eq!(fs::metadata(root.join("bin/busybox")).unwrap().mtime(), 0);
    assert_eq!(fs::metadata(root).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(
        fs::metadata(scratch.path("store/layers")).unwrap().permissions().mode() & 0o7777,
        0o700
    );
    assert!(image.accounts().unwrap().passwd.starts_with("root:x:0:0:"));
    assert_eq!(
        contents(&scratch.path("store")).len(),
        3,
        "one layer, one configuration, one record"
    );

    drop(store);
    let store = open(&scratch);
    assert_eq!(
        store.resolve(&name(BUSYBOX)),
        Some(image),
        "it is there after a restart"
    );
    assert!(block_on(store.remove(&name(BUSYBOX))).unwrap());
    assert!(!block_on(store.remove(&name(BUSYBOX))).unwrap());
    assert_eq!(contents(&scratch.path("store")), BTreeSet::new());
}

#[test]
fn two_agents_do_not_share_a_store() {
    let scratch = Scratch::new("store-lock");
    let store = open(&scratch);
    let second = Store::open(&scratch.path("store"));
    assert!(matches!(second, Err(StoreError::InUse(_))));
    drop(store);
    open(&scratch);
}

#[test]
fn layers_are_shared_and_go_with_their_last_user() {
    tests::require_root!();
    let scratch = Scratch::new("shared-layers");
    let store = open(&scratch);
    let base = || {
        let mut layer = Layer::default();
        layer.file("base", 0o644, b"base").unwrap();
        layer.finish().unwrap()
    };
    let top = |text: &[u8]| {
        let mut layer = Layer::default();
        layer.file("top", 0o644, text).unwrap();
        layer.finish().unwrap()
    };
    let [one, two] = ["localhost/a:1", "localhost/b:1"].map(|name| {
        let layout = Layout::new(name).plain(base()).plain(top(name.as_bytes()));
        load(
            &store,
            &layout.write(&scratch.path(name.replace(['/', ':'], "-"))).unwrap(),
        )
        .unwrap()
        .remove(0)
    });
    assert_eq!(one.layers[1], two.layers[1]);
    assert_ne!(one.layers[0], two.layers[0]);

    // A container keeps its layers even when the image is gone.
    let id = SnapshotId::new("uid", "web", 0).unwrap();
    let snapshot = store.create_snapshot(&id, &one).unwrap();
    assert_eq!(store.create_snapshot(&id, &one).unwrap(), snapshot, "again is the same");
    assert_eq!(
        fs::metadata(&snapshot.upper).unwrap().permissions().mode() & 0o7777,
        0o755
    );
    for reference in ["localhost/a:1", "localhost/b:1"] {
        assert!(block_on(store.remove(&name(reference))).unwrap());
    }
    assert!(snapshot.lower.iter().all(|layer| layer.exists()));
    assert!(!two.layers[0].exists());
    assert!(matches!(
        store.create_snapshot(&SnapshotId::new("uid", "web", 1).unwrap(), &two),
        Err(StoreError::Gone(_))
    ));

    drop(store);
    let store = open(&scratch);
    assert_eq!(store.snapshots(), std::slice::from_ref(&id));
    assert!(
        snapshot.lower.iter().all(|layer| layer.exists()),
        "also after a restart"
    );
    fs::write(snapshot.upper.join("written"), "by the container").unwrap();
    store.remove_snapshot(&id).unwrap();
    store.remove_snapshot(&id).unwrap();
    assert_eq!(store.snapshots(), []);
    assert_eq!(fs::read_dir(scratch.path("store/snapshots")).unwrap().count(), 0);
    drop(store);
    open(&scratch);
    assert_eq!(contents(&scratch.path("store")), BTreeSet::new());
}

#[test]
fn leftovers_of_a_killed_agent_are_gone_after_open() {
    tests::require_root!();
    let scratch = Scratch::new("leftovers");
    let store = open(&scratch);
    load(&store, &tests::image::busybox(&scratch.path("layout")).unwrap()).unwrap();
    drop(store);
    let dir = scratch.path("store");
    let before = contents(&dir);
    // A download under way, a layer half unpacked, a blob and a layer that no record names, a record half removed.
    fs::write(dir.join("tmp/7"), "half a blob").unwrap();
    fs::create_dir_all(dir.join("tmp/8/fs/etc")).unwrap();
    fs::write(dir.join("blobs/sha256").join("a".repeat(64)), "a blob").unwrap();
    fs::create_dir_all(dir.join("layers").join("b".repeat(64)).join("fs")).unwrap();
    fs::write(dir.join("images").join("c".repeat(64) + ".json"), "{\"reference\":").unwrap();
    fs::write(dir.join("images").join("d".repeat(64) + ".tmp"), "{}").unwrap();

    let store = open(&scratch);

    assert_eq!(contents(&dir), before);
    assert_eq!(store.list().len(), 1);
}

#[test]
fn an_image_that_lost_its_layer_or_whose_configuration_changed_is_dropped() {
    tests::require_root!();
    let scratch = Scratch::new("damaged");
    let layout = tests::image::busybox(&scratch.path("layout")).unwrap();
    let damage: [fn(&Image, &Path); 2] = [
        |image, _| fs::remove_dir_all(image.layers[0].parent().unwrap()).unwrap(),
        |image, dir| fs::write(dir.join("blobs/sha256").join(image.id.hex()), "{}").unwrap(),
    ];
    for damage in damage {
        let store = open(&scratch);
        let image = load(&store, &layout).unwrap().remove(0);
        drop(store);
        damage(&image, &scratch.path("store"));
        assert_eq!(open(&scratch).list(), [], "it is not offered");
        assert_eq!(contents(&scratch.path("store")), BTreeSet::new());
    }
}

#[test]
fn whiteouts_and_implied_directories_become_what_overlay_expects() {
    tests::require_root!();
    let scratch = Scratch::new("whiteouts");
    let store = open(&scratch);
    let mut base = Layer::default();
    base.directories(&["tmp", "old", "opaque", "both"], 0o1777).unwrap();
    base.file("old/file", 0o644, b"old").unwrap();
    base.file("gone", 0o644, b"gone").unwrap();
    let mut top = Layer::default();
    top.file("tmp/new", 0o644, b"new").unwrap();
    top.file(".wh.gone", 0o644, b"").unwrap();
    top.file("old/.wh.file", 0o644, b"").unwrap();
    top.file("opaque/.wh..wh..opq", 0o644, b"").unwrap();
    top.file("nothing/.wh.below", 0o644, b"").unwrap();
    top.file(".wh.both", 0o644, b"").unwrap();
    top.directories(&["both"], 0o755).unwrap();
    top.file(".wh..wh.plnk", 0o644, b"").unwrap();

    let image = load(&store, &layout(&scratch.path("layout"), vec![base, top]))
        .unwrap()
        .remove(0);

    let top = &image.layers[0];
    let mode = |path: &str| fs::metadata(top.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("tmp"), 0o1777, "implied, so as below");
    for whiteout in ["gone", "old/file"] {
        let metadata = fs::symlink_metadata(top.join(whiteout)).unwrap();
        assert!(
            metadata.file_type().is_char_device() && metadata.rdev() == 0,
            "{whiteout}"
        );
    }
    assert!(is_opaque(&top.join("opaque")) && is_opaque(&top.join("both")) && !is_opaque(&top.join("tmp")));
    assert!(!top.join("nothing").exists(), "what hides nothing is left out");
    let names: BTreeSet<_> = fs::read_dir(top)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(
        names,
        BTreeSet::from(["tmp", "gone", "old", "opaque", "both"].map(Into::into))
    );
}

#[test]
fn links_of_the_layers_below_lead_on_within_the_image() {
    tests::require_root!();
    let scratch = Scratch::new("links-below");
    let store = open(&scratch);
    let mut base = Layer::default();
    base.directories(&["usr/lib"], 0o711).unwrap();
    base.file("usr/lib/old", 0o644, b"old").unwrap();
    base.symlink("lib", "usr/lib").unwrap();
    base.symlink("usr/climbing", "../../../usr/lib").unwrap();
    base.symlink("absolute", "/usr/lib").unwrap();
    base.symlink("outside", "/etc").unwrap();
    base.symlink("loop", "loop").unwrap();
    base.symlink("opaque/link", "/usr").unwrap();
    let mut top = Layer::default();
    top.file("lib/one", 0o644, b"").unwrap();
    top.hard_link("lib/again", "usr/lib/one").unwrap();
    top.file("usr/climbing/two", 0o644, b"").unwrap();
    top.file("absolute/deep/three", 0o644, b"").unwrap();
    top.file("outside/escaped", 0o644, b"").unwrap();
    top.file("lib/.wh.old", 0o644, b"").unwrap();
    top.file("opaque/.wh..wh..opq", 0o644, b"").unwrap();
    top.file("opaque/link/four", 0o644, b"").unwrap();

    let image = load(&store, &layout(&scratch.path("layout"), vec![base, top]))
        .unwrap()
        .remove(0);

    let top = &image.layers[0];
    for file in ["one", "again", "two", "deep/three"] {
        assert!(top.join("usr/lib").join(file).is_file(), "{file}");
    }
    assert_eq!(
        fs::metadata(top.join("usr/lib")).unwrap().permissions().mode() & 0o7777,
        0o711
    );
    assert!(
        fs::symlink_metadata(top.join("usr/lib/old"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    assert!(top.join("etc/escaped").is_file() && !Path::new("/etc/escaped").exists());
    assert!(
        top.join("opaque/link/four").is_file(),
        "an opaque directory has no links from below"
    );
    let names: BTreeSet<_> = fs::read_dir(top)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(
        names,
        BTreeSet::from(["usr", "etc", "opaque"].map(Into::into)),
        "no directory hides a link"
    );

    let mut looping = Layer::default();
    looping.file("loop/file", 0o644, b"").unwrap();
    let mut base = Layer::default();
    base.symlink("loop", "loop").unwrap();
    let error = load(&store, &layout(&scratch.path("loop"), vec![base, looping])).unwrap_err();
    assert!(chain(error).contains(r#"entry "loop/file": its path leads through a symbolic link"#));
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0; 8];
    rustix::fs::getxattr(directory, "trusted.overlay.opaque", &mut value).is_ok_and(|length| value[..length] == *b"y")
}

#[test]
fn accounts_are_read_as_overlay_would_show_them() {
    tests::require_root!();
    let scratch = Scratch::new("accounts");
    let store = open(&scratch);
    let accounts = |layers: Vec<Layer>| {
        let image = load(&store, &layout(&scratch.path("layout"), layers))
            .unwrap()
            .remove(0);
        image.accounts()
    };
    let file = |path: &str, content: &[u8]| {
        let mut layer = Layer::default();
        layer.file(path, 0o644, content).unwrap();
        layer
    };
    let link = |path: &str, target: &str| {
        let mut layer = Layer::default();
        layer.symlink(path, target).unwrap();
        layer
    };
    let passwd = |layers| accounts(layers).unwrap().passwd;
    assert_eq!(
        passwd(vec![file("etc/passwd", b"low"), file("etc/passwd", b"high")]),
        "high"
    );
    assert_eq!(
        passwd(vec![file("etc/passwd", b"low"), file("etc/.wh.passwd", b"")]),
        ""
    );
    assert_eq!(
        passwd(vec![file("etc/passwd", b"low"), file("etc/.wh..wh..opq", b"")]),
        ""
    );
    assert_eq!(
        passwd(vec![file("data/p", b"linked"), link("etc/passwd", "../../../data/p")]),
        "linked"
    );
    assert_eq!(
        passwd(vec![link("etc/passwd", "/proc/self/environ")]),
        "",
        "never the host's"
    );
    let error = chain(accounts(vec![link("etc/passwd", "passwd")]).unwrap_err());
    assert!(
        error.contains("/etc/passwd of image localhost/busybox:demo: Too many levels"),
        "{error}"
    );
    let error = chain(accounts(vec![file("etc/passwd", &[b'x'; (1 << 20) + 1])]).unwrap_err());
    assert!(error.contains("larger than 1048576 bytes"), "{error}");
    let mut fifo = Layer::default();
    fifo.entry("etc/group", tar::EntryType::Fifo, 0o644, b"").unwrap();
    let error = chain(accounts(vec![fifo]).unwrap_err());
    assert!(
        error.contains("/etc/group") && error.contains("not a regular file"),
        "{error}"
    );
}
