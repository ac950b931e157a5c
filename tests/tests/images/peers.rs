//! What Debian's tools write and serve: skopeo's layouts and archives, umoci's layouts, the reference registry.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use agent::image::{PullOptions, Source};
use tests::image::BUSYBOX;
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
    tests::require!(Need::Root, Need::Peer("skopeo"), Need::Peer("umoci"));
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
    run(Command::new("gzip").arg("--keep").arg(path("docker.tar")));
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
    tests::require!(Need::Root, Need::Peer("skopeo"), Need::Peer("docker-registry"));
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
