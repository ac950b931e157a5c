//! `spec`, `features` and `plan`: what the runtime says of itself and of a bundle.

use std::fs;

use serde_json::{Value, json};
use tests::require_root;

use crate::bundle::with_bundle;

#[test]
fn the_example_runs_as_it_is() {
    require_root!();
    with_bundle("spec", |bundle| {
        let dir = bundle.dir();
        let dir = dir.to_str().unwrap();
        bundle.ok("spec", &["--bundle", dir]);
        assert!(bundle.fails("spec", &["-b", dir]).contains("File exists"));
        let text = fs::read_to_string(bundle.dir().join("config.json")).unwrap();
        bundle.config = serde_json::from_str(&text).unwrap();
        let cgroup = json!(format!("/{}/c1", bundle.scratch.cgroup_parent()));
        bundle.set("/linux/cgroupsPath", cgroup);
        bundle.set("/process/terminal", json!(false));
        let finished = bundle.run("id -u; hostname 2>/dev/null; touch /x 2>/dev/null || echo read-only");
        assert!(
            finished.code == Some(0) && finished.out.starts_with("0\n"),
            "{finished:?}"
        );
        assert!(finished.out.ends_with("read-only\n"), "{finished:?}");
    });
}

#[test]
fn the_rootless_example_has_a_user_namespace() {
    with_bundle("spec-rootless", |bundle| {
        let dir = bundle.dir();
        bundle.ok("spec", &["--rootless", "--bundle", dir.to_str().unwrap()]);
        let spec: Value = serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap();
        assert!(
            spec["linux"]["namespaces"]
                .as_array()
                .unwrap()
                .contains(&json!({ "type": "user" }))
        );
        assert_eq!(
            spec["linux"]["uidMappings"][0]["hostID"],
            nix::unistd::getuid().as_raw()
        );
    });
}

#[test]
fn features_are_a_document_of_the_specification() {
    with_bundle("features", |bundle| {
        let features: Value = serde_json::from_str(&bundle.ok("features", &[])).unwrap();
        assert_eq!(
            (&features["ociVersionMin"], &features["ociVersionMax"]),
            (&json!("1.0.0"), &json!("1.3.0"))
        );
        assert_eq!(features["linux"]["cgroup"]["v2"], true);
        assert!(features["mountOptions"].as_array().unwrap().len() > 50);
    });
}

#[test]
fn a_plan_says_what_would_be_done_and_does_nothing() {
    require_root!();
    with_bundle("plan", |bundle| {
        bundle.set("/hooks", json!({ "prestart": [{ "path": "/not/there" }] }));
        bundle.file("config.json", &bundle.config.to_string());
        let dir = bundle.dir();
        let text = bundle.ok("plan", &[dir.to_str().unwrap()]);
        assert!(
            text.contains("mounts[0]") && text.contains("mount proc on /proc"),
            "{text}"
        );
        let json: Value = serde_json::from_str(&bundle.ok("plan", &["--json", dir.to_str().unwrap()])).unwrap();
        let steps = json["steps"].as_array().unwrap();
        assert_eq!(steps.len(), text.lines().count());
        assert_eq!(steps[0]["field"], "linux.cgroupsPath");
        assert!(
            steps
                .iter()
                .any(|step| step["field"] == "hooks.prestart[0]" && step["by"] == "runtime")
        );
        assert!(!bundle.scratch.cgroup().join("c1").exists());
        bundle.set("/linux/cgroupsPath", json!("../x"));
        bundle.file("config.json", &bundle.config.to_string());
        assert!(
            bundle
                .fails("plan", &[dir.to_str().unwrap()])
                .contains("linux.cgroupsPath")
        );
    });
}
