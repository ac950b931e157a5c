//! Clients and shims that die, and what is still true afterwards.

use std::fs;

use runtime::client::Connection;
use runtime::proto::{ExitReason, Status, UnixNanos};
use runtime::shim::record;
use tests::{LeakAudit, Scratch, eventually, require_root};

use crate::pod::{PATIENCE, Pod, is_alive, key, spec, with_pod};

#[test]
fn a_client_that_comes_back_finds_the_same_processes() {
    require_root!();
    with_pod("reconnect", |pod| {
        let pid = pod.run(pod.shell("a", "exec sleep 1000"));
        let before = pod.state("a");
        assert_eq!((before.status, before.pid), (Status::Running, Some(pid)));
        assert_eq!(pod.state("a"), before);
        assert_eq!(pod.connect().welcome().pid, u32::try_from(pod.pid).unwrap());
        // What is on disk says the same.
        assert_eq!(record::read_pod(&pod.dir).unwrap().containers, [before]);
    });
}

#[test]
fn an_exit_while_nobody_is_connected_is_on_record() {
    require_root!();
    with_pod("unattended", |pod| {
        pod.run(pod.shell("a", "sleep 0.2; exit 6"));
        let path = record::container_dir(&pod.dir, &key("a")).join("exit.json");
        eventually(PATIENCE, "the exit is on record", || path.exists());
        assert_eq!(
            record::read_pod(&pod.dir).unwrap().containers[0]
                .exit
                .as_ref()
                .unwrap()
                .exit_code,
            6
        );
        assert_eq!(pod.exit("a").exit_code, 6);
    });
}

#[test]
fn containers_die_with_their_shim_and_the_next_shim_takes_up_the_records() {
    require_root!();
    let scratch = Scratch::new("lost-shim");
    let audit = LeakAudit::begin(&scratch, &[]);
    let pod = Pod::spawn(&scratch);
    // A change of user clears the signal that the kernel sends at a parent's death, if it comes after it.
    let mut spec = spec(&["/bin/sh", "-c", "sleep 1000 & exec sleep 1000"]);
    spec["process"]["user"] = serde_json::json!({"uid": 1000, "gid": 1000});
    let running = pod.run(pod.container_from("a", spec));
    let waiting = pod.connect().create(pod.shell("b", "true"), PATIENCE).unwrap().pid;
    pod.run(pod.shell("c", "exit 2"));
    pod.exit("c");
    pod.kill_shim();
    for pid in [running, waiting] {
        eventually(PATIENCE, "the container dies", || !is_alive(pid.try_into().unwrap()));
    }
    eventually(PATIENCE, "the cgroup is empty", || {
        fs::read_to_string(pod.cgroup("a").join("cgroup.procs"))
            .unwrap()
            .is_empty()
    });
    let gone = Connection::connect(&pod.dir.join("shim.sock"), PATIENCE).unwrap_err();
    assert!(gone.is_shim_gone(), "{gone:?}");

    let states = record::read_pod(&pod.dir).unwrap().containers;
    let seen: Vec<_> = states.iter().map(|state| state.status).collect();
    assert_eq!(seen, [Status::Running, Status::Created, Status::Exited]);
    let lost = record::write_lost(&pod.dir, &key("a"), UnixNanos(1)).unwrap();
    assert_eq!((lost.exit_code, lost.reason), (137, ExitReason::ShimLost));

    let pod = Pod::spawn(&scratch);
    let listed = pod.connect().list(PATIENCE).unwrap();
    let seen: Vec<_> = listed
        .iter()
        .map(|state| (state.key.clone(), state.exit.as_ref().unwrap().reason))
        .collect();
    assert_eq!(seen, [(key("a"), ExitReason::ShimLost), (key("c"), ExitReason::Error)]);
    for name in ["a", "b", "c"] {
        pod.connect().delete(&key(name), PATIENCE).unwrap();
        let _ = fs::remove_dir(pod.cgroup(name));
    }
    pod.connect().shutdown(PATIENCE).unwrap();
    pod.remove();
    audit.finish();
}

#[test]
fn a_shim_without_a_directory_and_without_containers_ends() {
    require_root!();
    let scratch = Scratch::new("vanished");
    let audit = LeakAudit::begin(&scratch, &[]);
    let pod = Pod::spawn(&scratch);
    fs::remove_dir_all(&pod.dir).unwrap();
    eventually(PATIENCE, "the shim ends", || !is_alive(pod.pid));
    audit.finish();
}

#[test]
fn a_shim_whose_place_another_has_taken_ends_and_leaves_the_other_alone() {
    require_root!();
    let scratch = Scratch::new("superseded");
    let audit = LeakAudit::begin(&scratch, &[]);
    let old = Pod::spawn(&scratch);
    let _connection = old.connect();
    let new = Pod::spawn(&scratch);
    eventually(PATIENCE, "the old shim ends", || !is_alive(old.pid));
    assert_eq!(new.connect().list(PATIENCE).unwrap(), []);
    new.finish();
    audit.finish();
}

#[test]
fn an_exit_that_cannot_be_recorded_is_not_reported_until_it_can() {
    require_root!();
    let scratch = Scratch::new("record-first");
    let audit = LeakAudit::begin(&scratch, &[]);
    let dir = scratch.path("pod");
    fs::create_dir(&dir).unwrap();
    nix::mount::mount(
        Some("tmpfs"),
        &dir,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=256k"),
    )
    .unwrap();
    let pod = Pod::spawn(&scratch);
    let pid = pod.run(pod.shell("a", "while ! test -e /tmp/go; do sleep 0.02; done; exit 6"));
    let filler = dir.join("filler");
    assert!(fs::write(&filler, vec![0; 1 << 20]).is_err());
    fs::write(scratch.input().join("rootfs/tmp/go"), "").unwrap();
    eventually(PATIENCE, "the process ends", || !is_alive(pid.try_into().unwrap()));
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(pod.state("a").exit, None);
    fs::remove_file(&filler).unwrap();
    assert_eq!(pod.exit("a").exit_code, 6);
    assert_eq!(
        record::read_pod(&dir).unwrap().containers[0]
            .exit
            .as_ref()
            .unwrap()
            .exit_code,
        6
    );
    pod.end();
    nix::mount::umount(&dir).unwrap();
    pod.remove();
    audit.finish();
}

#[test]
fn a_shim_that_is_asked_to_terminate_waits_for_its_containers() {
    require_root!();
    let scratch = Scratch::new("terminate");
    let audit = LeakAudit::begin(&scratch, &[]);
    let pod = Pod::spawn(&scratch);
    pod.run(pod.shell("a", "exec sleep 1000"));
    let terminate = nix::sys::signal::Signal::SIGTERM;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pod.pid), terminate).unwrap();
    assert_eq!(pod.state("a").status, Status::Running);
    pod.connect().signal(&key("a"), 9, true, PATIENCE).unwrap();
    eventually(PATIENCE, "the shim ends", || !is_alive(pod.pid));
    assert_eq!(
        record::read_pod(&pod.dir).unwrap().containers[0]
            .exit
            .as_ref()
            .unwrap()
            .signal,
        Some(9)
    );
    let _ = fs::remove_dir(pod.cgroup("a"));
    pod.remove();
    audit.finish();
}
