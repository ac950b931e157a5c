//! What containers say and what of it is in the log.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use runtime::proto::Status;
use tests::{eventually, require_root};

use crate::pod::{PATIENCE, Pod, key, reaches, spec, with_pod};

fn joined(pod: &Pod<'_>, name: &str) -> (Vec<usize>, String, Vec<String>) {
    let log = pod.log(name);
    let lengths = log.iter().map(|entry| entry.2.len()).collect();
    let text = log.iter().map(|entry| entry.2.as_str()).collect();
    (lengths, text, log.into_iter().map(|entry| entry.1).collect())
}

#[test]
fn a_line_of_a_megabyte_is_cut_into_partial_entries() {
    require_root!();
    with_pod("long-line", |pod| {
        pod.run(pod.shell("a", "head -c 1048576 /dev/zero | tr '\\0' x; echo"));
        assert_eq!(pod.exit("a").exit_code, 0);
        let (lengths, text, tags) = joined(pod, "a");
        assert_eq!(lengths, vec![16 << 10; 64]);
        assert!(text.len() == 1 << 20 && text.bytes().all(|byte| byte == b'x'));
        assert!(tags[..63].iter().all(|tag| tag == "P") && tags[63] == "F");
    });
}

#[test]
fn the_last_line_without_a_newline_is_partial() {
    require_root!();
    with_pod("tail", |pod| {
        pod.run(pod.shell("a", "echo first; echo -n last"));
        pod.exit("a");
        let (_, text, tags) = joined(pod, "a");
        assert_eq!(
            (text.as_str(), tags.as_slice()),
            ("firstlast", &["F".to_owned(), "P".to_owned()][..])
        );
    });
}

#[test]
fn a_terminal_is_logged_as_stdout() {
    require_root!();
    with_pod("terminal-log", |pod| {
        let mut spec = spec(&["/bin/sh", "-c", "tty >/dev/null && echo on a terminal; echo err >&2"]);
        spec["process"]["terminal"] = true.into();
        pod.run(pod.container_from("a", spec));
        assert_eq!(pod.exit("a").exit_code, 0);
        let log = pod.log("a");
        assert!(log.iter().all(|entry| entry.0 == "stdout"));
        let text: Vec<&str> = log.iter().map(|entry| entry.2.as_str()).collect();
        assert_eq!(text, ["on a terminal", "err"]);
    });
}

#[test]
fn a_renamed_log_goes_on_in_a_new_file() {
    require_root!();
    with_pod("rotation", |pod| {
        pod.run(pod.shell("a", "echo one; while ! test -e /tmp/go; do sleep 0.02; done; echo two"));
        eventually(PATIENCE, "the first line", || !pod.log("a").is_empty());
        let path = pod.log_path("a");
        fs::rename(&path, path.with_extension("log.20261120-210500")).unwrap();
        pod.connect().reopen_log(&key("a"), PATIENCE).unwrap();
        fs::write(pod.scratch.input().join("rootfs/tmp/go"), "").unwrap();
        assert_eq!(pod.exit("a").exit_code, 0);
        assert_eq!(joined(pod, "a").1, "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
        pod.connect().reopen_log(&key("a"), PATIENCE).unwrap();
    });
}

#[test]
fn a_full_file_system_costs_output_and_nothing_else() {
    require_root!();
    with_pod("log-enospc", |pod| {
        let logs = pod.scratch.path("logs");
        fs::create_dir_all(logs.join("a")).unwrap();
        let size = Some("size=64k");
        nix::mount::mount(
            Some("tmpfs"),
            &logs.join("a"),
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            size,
        )
        .unwrap();
        pod.run(pod.shell("a", "head -c 1000000 /dev/zero | tr '\\0' '\\n'; exit 5"));
        assert_eq!(pod.exit("a").exit_code, 5);
        let counters = pod.state("a").log;
        // A million empty lines of 41 bytes each: all of them are counted as one or the other.
        assert_eq!(counters.written_bytes + counters.dropped_bytes, 41_000_000);
        assert_eq!(fs::metadata(pod.log_path("a")).unwrap().len(), counters.written_bytes);
        assert!(fs::read_to_string(pod.log_path("a")).unwrap().ends_with('\n'));
        pod.connect().delete(&key("a"), PATIENCE).unwrap();
        nix::mount::umount(&logs.join("a")).unwrap();
    });
}

#[test]
fn a_log_that_is_no_regular_file_is_refused() {
    require_root!();
    with_pod("log-link", |pod| {
        let path = pod.log_path("a");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(pod.scratch.input().join("target"), &path).unwrap();
        assert!(pod.connect().create(pod.shell("a", "true"), PATIENCE).is_err());
        assert!(!pod.scratch.input().join("target").exists());
    });
}

#[test]
fn a_process_that_outlives_the_container_does_not_hold_up_its_exit() {
    require_root!();
    with_pod("grandchild", |pod| {
        // Without a PID namespace and a cgroup nothing ends the grandchild with the container.
        let mut spec = spec(&[
            "/bin/sh",
            "-c",
            "(trap '' HUP; sleep 8; echo late) & echo $! started; exit 4",
        ]);
        spec["linux"]["namespaces"] = serde_json::json!([{"type": "mount"}]);
        let mut create = pod.container_from("a", spec);
        create.cgroup = None;
        let before = std::time::Instant::now();
        pod.run(create);
        assert_eq!(pod.exit("a").exit_code, 4);
        assert!(before.elapsed().as_secs() < 5);
        assert_eq!(pod.log("a").len(), 1);
        // The orphan is the shim's child now, and the shim reaps it.
        let orphan: i32 = pod.log("a")[0].2.split(' ').next().unwrap().parse().unwrap();
        eventually(PATIENCE, "the orphan is reaped", || {
            !std::path::Path::new(&format!("/proc/{orphan}")).exists()
        });
    });
}

#[test]
fn loud_containers_do_not_keep_each_other_waiting() {
    require_root!();
    with_pod("loud", |pod| {
        for name in ["a", "b"] {
            pod.run(pod.shell(name, "yes"));
        }
        pod.run(pod.shell("c", "echo heard"));
        assert_eq!(pod.exit("c").exit_code, 0);
        assert_eq!(joined(pod, "c").1, "heard");
        reaches(pod, "a", Status::Running);
        for name in ["a", "b"] {
            pod.connect().signal(&key(name), 9, true, PATIENCE).unwrap();
            pod.exit(name);
        }
    });
}
