//! Root filesystems made of image layers.

use std::fs;
use std::path::{Path, PathBuf};

use runtime::proto::{Create, Rootfs};
use tests::require_root;

use crate::pod::{Pod, with_pod};

/// As many layers as an image of the field has at most, give or take; older kernels have one page for all their names.
const LAYERS: usize = 50;

/// `count` layers below the last one, which is the busybox of the other tests; each has a file of its own and writes its
/// number to a file that all have. The topmost first.
fn layers(pod: &Pod<'_>, base: &Path, count: usize) -> Vec<PathBuf> {
    let layer = |number: usize| {
        let path = pod.scratch.input().join(format!("layers/sha256:{number:064}"));
        fs::create_dir_all(path.join("layer")).unwrap();
        fs::write(path.join(format!("layer/{number}")), "").unwrap();
        fs::write(path.join("top"), format!("{number}\n")).unwrap();
        path
    };
    (0..count).map(layer).chain([base.to_owned()]).collect()
}

fn overlaid(pod: &Pod<'_>, script: &str) -> (Create, PathBuf) {
    let mut create = pod.shell("a", script);
    let Rootfs::Directory(base) = create.rootfs.clone() else {
        panic!("not a directory")
    };
    let place = |name: &str| {
        let path = pod.scratch.input().join("container").join(name);
        fs::create_dir_all(&path).unwrap();
        path
    };
    let upper = place("upper");
    create.rootfs = Rootfs::Overlay {
        lower: layers(pod, &base, LAYERS - 1),
        upper: upper.clone(),
        work: place("work"),
        target: place("target"),
    };
    (create, upper)
}

fn overlays_here() -> usize {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    mounts.lines().filter(|line| line.contains(" - overlay ")).count()
}

#[test]
fn fifty_layers_are_one_root_that_the_host_does_not_see() {
    require_root!();
    with_pod("overlay", |pod| {
        let before = overlays_here();
        let (create, upper) = overlaid(
            pod,
            "ls /layer | busybox wc -l; cat /top; echo new > /file; exec cat /proc/self/mounts",
        );
        pod.run(create);
        assert_eq!(pod.exit("a").exit_code, 0);
        let lines: Vec<_> = pod.log("a").into_iter().map(|(_, _, line)| line).collect();
        assert_eq!(lines[..2], ["49", "0"], "{lines:?}");
        assert!(lines[2].starts_with("overlay / overlay rw,"), "{lines:?}");
        assert_eq!(overlays_here(), before);
        assert_eq!(fs::read_to_string(upper.join("file")).unwrap(), "new\n");
        assert!(
            !pod.scratch.input().join("rootfs/file").exists(),
            "a layer was written to"
        );
    });
}

#[test]
fn a_layer_that_is_not_there_is_named_by_its_step() {
    require_root!();
    with_pod("no-layer", |pod| {
        let (mut create, _) = overlaid(pod, "true");
        if let Rootfs::Overlay { lower, .. } = &mut create.rootfs {
            lower.push("/not/there".into());
        }
        let error = pod.connect().create(create, crate::pod::PATIENCE).unwrap_err();
        assert!(
            format!("{error} {error:?}").contains("mount the root filesystem"),
            "{error:?}"
        );
    });
}
