//! podshim with real containers: what it answers, what it writes, what it survives.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of tests panic like the tests")]

#[path = "shim/execs.rs"]
mod execs;
#[path = "shim/limits.rs"]
mod limits;
#[path = "shim/logs.rs"]
mod logs;
#[path = "shim/overlay.rs"]
mod overlay;
#[path = "shim/pod.rs"]
mod pod;
#[path = "shim/survival.rs"]
mod survival;

use pod::{PATIENCE, key, refusal, spec, with_pod};
use runtime::proto::{Event, ExitReason, FailureKind, Status};
use runtime::shim::record;
use serde_json::json;
use tests::{Need, eventually, require_root};

#[test]
fn a_container_is_created_started_and_ends_with_its_code() {
    require_root!();
    with_pod("lifecycle", |pod| {
        let mut events = pod.connect().subscribe(PATIENCE).unwrap();
        let mut connection = pod.connect();
        let created = connection
            .create(pod.shell("a", "echo out; echo err >&2; exit 7"), PATIENCE)
            .unwrap();
        let state = pod.state("a");
        assert_eq!(
            (state.status, state.pid, state.started_at),
            (Status::Created, Some(created.pid), None)
        );
        connection.start(&key("a"), PATIENCE).unwrap();

        let Some(Event::Exited { key: ended, exit }) = events.wait(PATIENCE).unwrap() else {
            panic!("no exit")
        };
        assert_eq!(
            (&ended, exit.exit_code, exit.signal, exit.reason),
            (&key("a"), 7, None, ExitReason::Error)
        );
        let started_at = exit.started_at.unwrap();
        assert!(state.created_at <= started_at && started_at <= exit.finished_at);
        // On record before it is reported, and the log is complete by then.
        assert_eq!(
            record::read_pod(&pod.dir).unwrap().containers[0].exit.as_ref(),
            Some(&exit)
        );
        let mut log = pod.log("a");
        log.sort();
        let entry = |stream: &str, text: &str| (stream.to_owned(), "F".to_owned(), text.to_owned());
        assert_eq!(log, [entry("stderr", "err"), entry("stdout", "out")]);
    });
}

#[test]
fn requests_may_be_repeated() {
    require_root!();
    with_pod("repeated", |pod| {
        let mut connection = pod.connect();
        pod.run(pod.shell("a", "exec sleep 1000"));
        assert_eq!(
            refusal(connection.create(pod.shell("a", "true"), PATIENCE)),
            FailureKind::Exists
        );
        connection.start(&key("a"), PATIENCE).unwrap();
        assert_eq!(refusal(connection.delete(&key("a"), PATIENCE)), FailureKind::State);
        assert_eq!(refusal(pod.connect().shutdown(PATIENCE)), FailureKind::State);
        connection.signal(&key("a"), 9, false, PATIENCE).unwrap();
        let exit = pod.exit("a");
        assert_eq!((exit.exit_code, exit.signal, exit.oom_killed), (137, Some(9), false));
        connection.signal(&key("a"), 9, true, PATIENCE).unwrap();
        assert_eq!(refusal(connection.start(&key("a"), PATIENCE)), FailureKind::State);
        connection.delete(&key("a"), PATIENCE).unwrap();
        connection.delete(&key("a"), PATIENCE).unwrap();
        assert_eq!(
            refusal(connection.signal(&key("a"), 9, false, PATIENCE)),
            FailureKind::NotFound
        );
        assert!(!pod.cgroup("a").exists());
        assert!(!record::container_dir(&pod.dir, &key("a")).exists());
    });
}

#[test]
fn a_program_that_cannot_run_is_a_start_error_on_record() {
    require_root!();
    with_pod("start-error", |pod| {
        let mut connection = pod.connect();
        connection
            .create(pod.container("a", &["/bin/nothing"]), PATIENCE)
            .unwrap();
        let Err(runtime::client::ClientError::Refused(failure)) = connection.start(&key("a"), PATIENCE) else {
            panic!("started")
        };
        assert_eq!(failure.exit_code, Some(127));
        let exit = pod.exit("a");
        assert_eq!(
            (exit.exit_code, exit.reason, exit.started_at),
            (127, ExitReason::StartError, None)
        );
        assert!(!exit.message.is_empty());
    });
}

#[test]
fn a_container_that_cannot_be_created_leaves_nothing() {
    require_root!();
    with_pod("create-error", |pod| {
        let mut connection = pod.connect();
        let mut broken = spec(&["/bin/true"]);
        broken["mounts"] =
            json!([{"destination": "/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}]);
        let mut idle = spec(&["/bin/true"]);
        idle.as_object_mut().unwrap().remove("process");
        for cannot_be in [broken, idle] {
            assert!(connection.create(pod.container_from("a", cannot_be), PATIENCE).is_err());
            assert_eq!(connection.list(PATIENCE).unwrap(), []);
            assert!(!record::container_dir(&pod.dir, &key("a")).exists());
        }
        pod.run(pod.shell("a", "true"));
        assert_eq!(pod.exit("a").reason, ExitReason::Completed);
        let _ = std::fs::remove_dir(pod.cgroup("a"));
    });
}

#[test]
fn a_created_container_may_be_killed_before_its_start() {
    require_root!();
    with_pod("kill-created", |pod| {
        pod.connect().create(pod.shell("a", "true"), PATIENCE).unwrap();
        pod.connect().signal(&key("a"), 9, false, PATIENCE).unwrap();
        let exit = pod.exit("a");
        assert_eq!((exit.exit_code, exit.started_at), (137, None));
    });
}

#[test]
fn a_signal_reaches_the_first_process_or_all() {
    require_root!();
    with_pod("signals", |pod| {
        let script = "trap 'echo term; exit 3' TERM; echo ready; while true; do sleep 0.05; done";
        pod.run(pod.shell("a", script));
        eventually(PATIENCE, "the trap is set", || !pod.log("a").is_empty());
        pod.connect().signal(&key("a"), 15, false, PATIENCE).unwrap();
        assert_eq!(pod.exit("a").exit_code, 3);

        pod.run(pod.shell("b", "sleep 1000 & sleep 1000 & wait; wait; echo survived"));
        eventually(PATIENCE, "three processes", || {
            let text = std::fs::read_to_string(pod.cgroup("b").join("cgroup.procs")).unwrap();
            text.lines().count() == 3
        });
        // The shell is the first process of a PID namespace and so ignores what it does not handle; the others do not.
        pod.connect().signal(&key("b"), 15, true, PATIENCE).unwrap();
        assert_eq!(pod.exit("b").exit_code, 0);
        assert_eq!(pod.log("b").last().unwrap().2, "survived");
    });
}

#[test]
fn a_container_beyond_its_memory_is_oom_killed() {
    tests::require!(Need::Root, Need::Controllers(&["memory"]));
    with_pod("oom", |pod| {
        // The second one's shell survives, and passes on how its child ended.
        let greedy = "dd if=/dev/zero of=/dev/null bs=256M count=1";
        for (name, script) in [("a", format!("exec {greedy}")), ("b", format!("{greedy}; exit $?"))] {
            let mut spec = spec(&["/bin/sh", "-c", &script]);
            spec["linux"]["resources"] = json!({"memory": {"limit": 32 << 20, "swap": 32 << 20}});
            pod.run(pod.container_from(name, spec));
            let exit = pod.exit(name);
            assert_eq!(
                (exit.exit_code, exit.oom_killed, exit.reason),
                (137, true, ExitReason::OomKilled),
                "{name}"
            );
        }
        pod.run(pod.shell("c", "exec sleep 1000"));
        pod.connect().signal(&key("c"), 9, false, PATIENCE).unwrap();
        assert!(!pod.exit("c").oom_killed);
    });
}

#[test]
fn memory_of_one_shim() {
    require_root!();
    with_pod("memory", |pod| {
        pod.run(pod.shell("a", "exec sleep 1000"));
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", pod.pid)).unwrap();
        for line in rollup
            .lines()
            .filter(|line| line.starts_with("Pss:") || line.starts_with("Rss:"))
        {
            println!("podshim with one container: {line}");
        }
    });
}
