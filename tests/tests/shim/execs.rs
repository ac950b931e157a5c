//! Further processes in a running container.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use runtime::client::{Events, ExecStreams};
use runtime::proto::{Event, FailureKind};
use tests::{eventually, require_root};

use crate::pod::{PATIENCE, Pod, exec, key, process, refusal, with_pod};

fn exit_code(events: &mut Events, id: &str) -> i32 {
    loop {
        match events.wait(PATIENCE).unwrap().expect("an event") {
            Event::ExecExited { exec_id, exit_code, .. } if exec_id.as_str() == id => return exit_code,
            Event::ExecExited { .. } | Event::Exited { .. } => {}
        }
    }
}

fn read_all(descriptor: OwnedFd) -> String {
    let mut text = Vec::new();
    // A terminal ends with EIO, after everything that was written to it.
    let _ = File::from(descriptor).read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

fn with_sleeper(name: &str, test: impl FnOnce(&Pod<'_>)) {
    with_pod(name, |pod| {
        pod.run(pod.shell("a", "exec sleep 1000"));
        test(pod);
    });
}

#[test]
fn an_exec_has_streams_and_an_exit_code() {
    require_root!();
    with_sleeper("exec", |pod| {
        let mut events = pod.connect().subscribe(PATIENCE).unwrap();
        let mut connection = pod.connect();
        let script = "cat; echo to stderr >&2; exit 9";
        let executed = pod.exec(&mut connection, "a", "e1", process(&["/bin/sh", "-c", script], false));
        let ExecStreams::Pipes { stdin, stdout, stderr } = executed.streams else {
            panic!("a terminal")
        };
        File::from(stdin.unwrap()).write_all(b"through stdin").unwrap();
        assert_eq!(read_all(stdout), "through stdin");
        assert_eq!(read_all(stderr), "to stderr\n");
        assert_eq!(exit_code(&mut events, "e1"), 9);
        // Who missed the event finds the code in the list; the name stays taken as long.
        assert_eq!(pod.state("a").execs[0].exit_code, Some(9));
        let again = connection.exec(exec("a", "e1", process(&["/bin/true"], false)), PATIENCE);
        assert_eq!(refusal(again), FailureKind::Exists);
    });
}

#[test]
fn an_exec_on_a_terminal_can_be_resized() {
    require_root!();
    with_sleeper("exec-tty", |pod| {
        let mut connection = pod.connect();
        let script = "tty >/dev/null || exit 1; read line; stty size";
        let executed = pod.exec(&mut connection, "a", "e1", process(&["/bin/sh", "-c", script], true));
        let ExecStreams::Terminal(terminal) = executed.streams else {
            panic!("no terminal")
        };
        let id = "e1".try_into().unwrap();
        connection.resize(&key("a"), Some(&id), (33, 77), PATIENCE).unwrap();
        File::from(terminal.try_clone().unwrap()).write_all(b"go\n").unwrap();
        assert_eq!(read_all(terminal), "go\r\n33 77\r\n");
        eventually(PATIENCE, "the exec ends well", || {
            pod.state("a").execs[0].exit_code == Some(0)
        });
        assert_eq!(
            refusal(connection.resize(&key("a"), None, (1, 1), PATIENCE)),
            FailureKind::State
        );
    });
}

#[test]
fn an_exec_can_be_signalled_and_not_only_by_its_own_client() {
    require_root!();
    with_sleeper("exec-signal", |pod| {
        let mut events = pod.connect().subscribe(PATIENCE).unwrap();
        let mut connection = pod.connect();
        let _streams = pod.exec(&mut connection, "a", "e1", process(&["/bin/sleep", "1000"], false));
        let id = "e1".try_into().unwrap();
        pod.connect().signal_exec(&key("a"), &id, 9, PATIENCE).unwrap();
        assert_eq!(exit_code(&mut events, "e1"), 137);
        connection.signal_exec(&key("a"), &id, 9, PATIENCE).unwrap();
        let other = "e2".try_into().unwrap();
        assert_eq!(
            refusal(connection.signal_exec(&key("a"), &other, 9, PATIENCE)),
            FailureKind::NotFound
        );
    });
}

#[test]
fn an_exec_that_cannot_run_says_why() {
    require_root!();
    with_sleeper("exec-missing", |pod| {
        let mut connection = pod.connect();
        let missing = connection.exec(exec("a", "e1", process(&["/bin/nothing"], false)), PATIENCE);
        let Err(runtime::client::ClientError::Refused(failure)) = missing else {
            panic!("it ran")
        };
        assert_eq!(failure.exit_code, Some(127), "{failure:?}");
        assert!(pod.state("a").execs.is_empty());
        let elsewhere = connection.exec(exec("b", "e1", process(&["/bin/true"], false)), PATIENCE);
        assert_eq!(refusal(elsewhere), FailureKind::NotFound);
    });
}

#[test]
fn a_terminal_is_hung_up_when_its_client_goes() {
    require_root!();
    with_sleeper("exec-hangup", |pod| {
        let mut connection = pod.connect();
        let executed = pod.exec(&mut connection, "a", "e1", process(&["/bin/cat"], true));
        assert_eq!(pod.state("a").execs[0].exit_code, None);
        drop((executed, connection));
        eventually(PATIENCE, "the exec ends", || {
            pod.state("a").execs[0].exit_code.is_some()
        });
    });
}

#[test]
fn an_exec_without_a_client_runs_on_until_it_speaks() {
    require_root!();
    with_sleeper("exec-orphan", |pod| {
        let mut connection = pod.connect();
        let script = "cat >/dev/null; sleep 0.2; echo nobody hears this; exit 3";
        let executed = pod.exec(&mut connection, "a", "e1", process(&["/bin/sh", "-c", script], false));
        drop((executed, connection));
        eventually(PATIENCE, "the exec ends", || {
            pod.state("a").execs[0].exit_code.is_some()
        });
        assert_ne!(pod.state("a").execs[0].exit_code, Some(0));
    });
}

#[test]
fn an_exec_dies_with_its_container() {
    require_root!();
    with_sleeper("exec-fate", |pod| {
        let mut connection = pod.connect();
        let _streams = pod.exec(&mut connection, "a", "e1", process(&["/bin/sleep", "1000"], false));
        connection.signal(&key("a"), 9, false, PATIENCE).unwrap();
        pod.exit("a");
        eventually(PATIENCE, "the exec ends", || {
            pod.state("a").execs[0].exit_code == Some(137)
        });
    });
}
