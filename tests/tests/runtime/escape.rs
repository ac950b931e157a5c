//! Images and specs that try to reach the host: refused or kept inside.

use std::fs;

use serde_json::json;
use tests::require_root;

use crate::bundle::{link, with_bundle};

#[test]
fn a_linked_proc_sys_or_dev_is_refused() {
    require_root!();
    for name in ["proc", "sys", "dev"] {
        with_bundle("linked", |bundle| {
            fs::create_dir_all(bundle.rootfs().join("elsewhere")).unwrap();
            link(&bundle.rootfs(), name, "/elsewhere");
            let finished = bundle.run("true");
            assert_eq!(finished.code, Some(1), "{finished:?}");
            let on = format!("on /{name}, which must be mounted on ordinary directory, for mounts[");
            assert!(
                finished.err.contains(&on) && finished.err.contains("symbolic link"),
                "{finished:?}"
            );
        });
    }
}

#[test]
fn the_target_of_a_mount_is_found_inside_the_root() {
    require_root!();
    with_bundle("mount-target", |bundle| {
        let outside = bundle.scratch.input().join("outside");
        fs::create_dir_all(&outside).unwrap();
        bundle.file("data/file", "content");
        link(&bundle.rootfs(), "absolute", outside.to_str().unwrap());
        fs::create_dir_all(bundle.rootfs().join("etc")).unwrap();
        link(&bundle.rootfs(), "relative", "../../../../../../../../../../etc");
        bundle.mount("bind", "data", "/relative/data", &["bind"]);
        bundle.mount("bind", "data", "/relative/../../up", &["bind"]);
        assert_eq!(bundle.say("cat /etc/data/file /up/file"), "contentcontent");
        assert!(!std::path::Path::new("/etc/data").exists());

        bundle.mount("bind", "data", "/absolute/data", &["bind"]);
        let inside = bundle.rootfs().join(outside.strip_prefix("/").unwrap());
        assert_eq!(bundle.say("cat /absolute/data/file"), "content");
        assert!(
            inside.join("data").is_dir(),
            "what the link names is made inside the root"
        );
        assert_eq!(
            fs::read_dir(&outside).unwrap().count(),
            0,
            "the host's directory was touched"
        );
    });
}

#[test]
fn magic_links_of_proc_lead_nowhere() {
    require_root!();
    with_bundle("magic-links", |bundle| {
        for fd in 0..20 {
            bundle.set("/process/cwd", json!(format!("/proc/self/fd/{fd}")));
            let finished = bundle.run("pwd");
            assert_eq!(finished.code, Some(1), "{finished:?}");
        }
        bundle.set("/process/cwd", json!("/"));
        bundle.file("data/file", "content");
        link(&bundle.rootfs(), "through", "/proc/self/cwd");
        bundle.mount("bind", "data", "/through", &["bind"]);
        assert_eq!(bundle.run("true").code, Some(1));
    });
}

#[test]
fn a_linked_working_directory_stays_inside() {
    require_root!();
    with_bundle("linked-cwd", |bundle| {
        fs::create_dir_all(bundle.rootfs().join("etc")).unwrap();
        link(&bundle.rootfs(), "work", "../../../../etc");
        bundle.set("/process/cwd", json!("/work"));
        assert_eq!(bundle.say("readlink /proc/self/cwd; ls"), "/etc\n");
    });
}
