//! What Debian's tools write and serve: skopeo's layouts and archives, umoci's layouts, the reference registry.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent::image::{PullOptions, SnapshotId, Source};
use tests::image::{BUSYBOX, Layer};
use tests::{Need, Scratch};

use super::{block_on, contents, name, open};

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn skopeo_copy(from: &str, to: &str) {
    run(Command::new("skopeo").args([
        "copy",
        "--quiet",
        "--insecure-policy",
        "--dest-tls-verify=false",
        from,
        to,
    ]));
}

#[test]
fn layouts_and_archives_of_other_tools_are_loaded() {
    tests::require!(Need::Root, Need::Tool("skopeo"), Need::Tool("umoci"));
    let scratch = Scratch::new("peer-archives");
    let store = open(&scratch);
    let made = tests::image::busybox(&scratch.path("layout")).unwrap();
    let from = format!("oci:{}", made.display());
    let path = |name: &str| scratch.path(name).to_str().unwrap().to_owned();
    skopeo_copy(&from, &format!("oci:{}:localhost/a:oci", path("oci")));
    skopeo_copy(
        &from,
        &format!("oci-archive:{}:localhost/a:oci-archive", path("oci.tar")),
    );
    skopeo_copy(
        &from,
        &format!("docker-archive:{}:localhost/a:docker-archive", path("docker.tar")),
    );
    run(Command::new("gzip").arg("-k").arg(path("docker.tar")));
    skopeo_copy(&from, &format!("oci:{}:bare", path("bare")));
    let umoci = format!("{}:localhost/a:umoci", path("umoci"));
    run(Command::new("umoci").args(["init", "--layout", &path("umoci")]));
    run(Command::new("umoci").args(["new", "--image", &umoci]));
    run(Command::new("umoci").args(["insert", "--image", &umoci, "/bin/busybox", "/bin/sh"]));
    run(Command::new("umoci").args(["insert", "--image", &umoci, "--whiteout", "/bin/sh"]));

    let load = |path: &str, as_name: Option<&str>| {
        let as_name = as_name.map(name);
        let loaded = block_on(store.load(Source::Path(path.into()), as_name.as_ref()));
        loaded.unwrap_or_else(|error| panic!("{path}: {}", super::chain(error)))
    };
    for (source, expected) in [
        ("oci", "oci"),
        ("oci.tar", "oci-archive"),
        ("docker.tar", "docker-archive"),
    ] {
        let images = load(&path(source), None);
        assert_eq!(images[0].reference, name(&format!("localhost/a:{expected}")));
        assert!(images[0].layers[0].join("bin/sh").is_symlink());
    }
    let stream = fs::File::open(path("docker.tar.gz")).unwrap();
    let named = name("localhost/b:gz");
    let image = block_on(store.load(Source::Stream(Box::new(stream)), Some(&named)))
        .unwrap()
        .remove(0);
    assert_eq!(
        image.layers,
        load(&path("oci"), None)[0].layers,
        "the same layers, however they came"
    );
    let nameless = block_on(store.load(Source::Path(path("bare").into()), None));
    assert!(super::chain(nameless.unwrap_err()).contains("carries no usable name"));
    assert_eq!(fs::read_dir(scratch.path("store/layers")).unwrap().count(), 1);
    let image = load(&path("umoci"), None).remove(0);
    assert_eq!(image.layers.len(), 2);
    assert!(image.layers[1].join("bin/sh").is_file() && !image.layers[0].join("bin/sh").is_file());
}

/// Layers with everything that makes layers interact.
fn interacting_layers() -> Vec<Layer> {
    let [mut base, mut middle, mut top] = [Layer::default(), Layer::default(), Layer::default()];
    base.directories(&["usr/", "usr/lib/", "etc/", "opaque/", "replaced/", "sticky/"], 0o755)
        .unwrap();
    base.directories(&["sticky/"], 0o1777).unwrap();
    base.symlink("lib", "usr/lib").unwrap();
    for file in [
        "usr/lib/a",
        "usr/lib/b",
        "etc/kept",
        "etc/gone",
        "opaque/old",
        "replaced/old",
        "file",
    ] {
        base.file(file, 0o644, file.as_bytes()).unwrap();
    }
    middle.file("lib/new", 0o600, b"through the link").unwrap();
    middle.file("usr/lib/.wh.a", 0o644, b"").unwrap();
    middle.file("sticky/implied", 0o644, b"").unwrap();
    middle.file("etc/.wh.gone", 0o644, b"").unwrap();
    middle.directories(&["opaque/"], 0o700).unwrap();
    middle.file("opaque/.wh..wh..opq", 0o644, b"").unwrap();
    middle.file("opaque/new", 0o644, b"new").unwrap();
    middle.file("file", 0o755, b"changed").unwrap();
    top.file(".wh.replaced", 0o644, b"").unwrap();
    top.file("back/again", 0o4755, b"").unwrap();
    top.hard_link("back/linked", "back/again").unwrap();
    top.file("etc/gone", 0o640, b"back").unwrap();
    top.file(".wh.file", 0o644, b"").unwrap();
    vec![base, middle, top]
}

/// Path, kind, mode, owner, size or link target, and link count of all that is not a directory.
const LIST: &str =
    r"cd $ROOT && find . \( -type d -printf '%P %y %m %U:%G\n' \) -o -printf '%P %y %m %U:%G %s %l %n\n' | sort";

fn list(setup: &str, root: &Path) -> String {
    let mut command = Command::new("unshare");
    command
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            &format!("{setup}{LIST}"),
        ])
        .env("ROOT", root);
    let output = command.output().unwrap();
    // A pipe's status is that of its end.
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn overlay_over_our_layers_shows_what_umoci_unpacks() {
    tests::require!(Need::Root, Need::Tool("umoci"));
    let scratch = Scratch::new("peer-overlay");
    let store = open(&scratch);
    let layout = super::layout(&scratch.path("layout"), interacting_layers());
    let bundle = scratch.path("bundle");
    run(Command::new("umoci")
        .args(["unpack", "--image", &format!("{}:demo", layout.display())])
        .arg(&bundle));
    let image = super::load(&store, &layout).unwrap().remove(0);
    let snapshot = store
        .create_snapshot(&SnapshotId::new("uid", "web", 0).unwrap(), &image)
        .unwrap();
    let lower = snapshot
        .lower
        .iter()
        .map(|layer| layer.to_str().unwrap())
        .collect::<Vec<_>>()
        .join(":");
    let (upper, work) = (snapshot.upper.display(), snapshot.work.display());
    let mount = format!("mount -t overlay overlay -o lowerdir={lower},upperdir={upper},workdir={work} $ROOT && ");

    let (ours, theirs) = (list(&mount, &snapshot.target), list("", &bundle.join("rootfs")));

    assert!(ours == theirs, "ours:\n{ours}\numoci's:\n{theirs}");
    assert!(ours.contains("usr/lib/new f 600") && !ours.contains("usr/lib/a ") && !ours.contains("replaced"));
}

/// Debian's docker-registry on a port of 127.0.0.1, killed on drop.
struct Distribution {
    child: Child,
    address: String,
}

impl Distribution {
    fn start(directory: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n",
            directory.join("registry").display()
        );
        let file = directory.join("registry.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let registry = Self {
            child: command.spawn().unwrap(),
            address,
        };
        tests::eventually(Duration::from_secs(10), "the registry listens", || {
            std::net::TcpStream::connect(&registry.address).map(drop)
        });
        registry
    }
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_image_pushed_to_the_reference_registry_is_pulled() {
    tests::require!(Need::Root, Need::Tool("skopeo"), Need::Tool("docker-registry"));
    let scratch = Scratch::new("peer-registry");
    let store = open(&scratch);
    let registry = Distribution::start(scratch.dir());
    let made = tests::image::busybox(&scratch.path("layout")).unwrap();
    let from = format!("oci:{}", made.display());
    let pull = |reference: &str| block_on(store.pull(&name(reference), &PullOptions::default())).map_err(super::chain);
    for (format, tag) in [("oci", "oci"), ("v2s2", "docker")] {
        let to = format!("docker://{}/test/busybox:{tag}", registry.address);
        run(Command::new("skopeo")
            .args(["copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false"])
            .args(["--format", format, &from, &to]));
        let image = pull(&format!("{}/test/busybox:{tag}", registry.address)).unwrap();
        assert!(image.layers[0].join("bin/busybox").is_file());
        assert_eq!(image.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["sh"]);
        let by_digest = pull(&image.repo_digest()).unwrap();
        assert_eq!(by_digest.id, image.id);
    }
    let missing = pull(&format!("{}/test/busybox:none", registry.address)).unwrap_err();
    assert!(missing.contains("is not in the registry"));
    let loaded = block_on(store.load(Source::Path(made), None)).unwrap();
    assert_eq!(loaded[0].reference, name(BUSYBOX));
    assert_eq!(
        fs::read_dir(scratch.path("store/layers")).unwrap().count(),
        1,
        "one layer for all of them"
    );
    assert!(
        contents(&scratch.path("store"))
            .iter()
            .all(|path| !path.starts_with(scratch.path("store/tmp")))
    );
}
