//! Clients that are many, slow, or do not speak the language.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use runtime::proto::frame::{self, Decoder, FRAME_LIMIT};
use runtime::proto::{FailureKind, Request, ServerFrame, Status};
use tests::{binary, eventually, require_root};

use crate::pod::{PATIENCE, Pod, exec, key, process, refusal, with_pod};

fn raw(pod: &Pod<'_>) -> UnixStream {
    let stream = UnixStream::connect(pod.dir.join("shim.sock")).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ask(stream: &mut UnixStream, json: &str) -> Option<ServerFrame> {
    let length = u32::try_from(json.len()).unwrap();
    stream
        .write_all(&[&length.to_le_bytes(), json.as_bytes()].concat())
        .unwrap();
    let (mut decoder, mut buffer) = (Decoder::default(), [0; 4096]);
    loop {
        if let Some(json) = decoder.next_frame().unwrap() {
            return Some(frame::decode(&json).unwrap());
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(length) => decoder.push(&buffer[..length]),
        }
    }
}

fn failure_kind(frame: Option<ServerFrame>) -> Option<(u64, FailureKind)> {
    match frame {
        Some(ServerFrame::Reply {
            id,
            outcome: Err(failure),
        }) => Some((id, failure.kind)),
        Some(ServerFrame::Reply { .. } | ServerFrame::Event(_)) | None => None,
    }
}

#[test]
fn bad_requests_get_errors_and_the_shim_goes_on() {
    require_root!();
    with_pod("bad-requests", |pod| {
        let mut stream = raw(pod);
        let unwelcome = ask(&mut stream, r#"{"id":1,"request":"list"}"#);
        assert_eq!(failure_kind(unwelcome), Some((1, FailureKind::Version)));
        let future = ask(
            &mut stream,
            r#"{"id":2,"request":{"hello":{"oldest":1000,"newest":1001}}}"#,
        );
        assert_eq!(failure_kind(future), Some((2, FailureKind::Version)));
        assert!(
            ask(
                &mut stream,
                r#"{"id":3,"request":{"hello":{"oldest":0,"newest":1000}}}"#
            )
            .is_some()
        );
        for (json, expected) in [
            (r#"{"id":4,"request":"dance"}"#, FailureKind::Malformed),
            (
                r#"{"id":4,"request":{"start":{"container":"../x","attempt":0}}}"#,
                FailureKind::Malformed,
            ),
            (
                r#"{"id":4,"request":{"start":{"container":"x","attempt":-1}}}"#,
                FailureKind::Malformed,
            ),
            (
                r#"{"id":4,"request":{"start":{"container":"x","attempt":0}}}"#,
                FailureKind::NotFound,
            ),
            (
                r#"{"id":4,"request":{"signal":{"key":{"container":"x","attempt":0},"signal":99,"all":true}}}"#,
                FailureKind::Malformed,
            ),
            (r#"{"id":4,"request":{"create":{}}}"#, FailureKind::Malformed),
        ] {
            assert_eq!(failure_kind(ask(&mut stream, json)), Some((4, expected)), "{json}");
        }
        // What can't be answered ends the connection, and only this one.
        assert!(ask(&mut stream, "nonsense").is_none());
        let mut stream = raw(pod);
        stream
            .write_all(&u32::try_from(FRAME_LIMIT + 1).unwrap().to_le_bytes())
            .unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        let mut create = pod.shell("a", "true");
        create.log_path = "relative.log".into();
        assert_eq!(refusal(pod.connect().create(create, PATIENCE)), FailureKind::Malformed);
        assert_eq!(pod.connect().list(PATIENCE).unwrap(), []);
    });
}

#[test]
fn two_clients_are_served_at_once_and_both_hear() {
    require_root!();
    with_pod("two-clients", |pod| {
        let mut first = pod.connect().subscribe(PATIENCE).unwrap();
        let mut second = pod.connect().subscribe(PATIENCE).unwrap();
        // A client that has sent half a request keeps nobody waiting.
        raw(pod).write_all(&[200, 0, 0, 0, b'{']).unwrap();
        pod.run(pod.shell("a", "true"));
        let (heard, too) = (first.wait(PATIENCE).unwrap(), second.wait(PATIENCE).unwrap());
        assert!(heard.is_some() && heard == too);
        assert_eq!(first.poll().unwrap(), None);
        assert_eq!(first.wait(Duration::from_millis(20)).unwrap(), None);
    });
}

#[test]
fn more_clients_than_the_limit_are_closed_and_there_is_room_again() {
    require_root!();
    with_pod("many-clients", |pod| {
        let clients: Vec<_> = (0..16).map(|_| pod.connect()).collect();
        assert_eq!(raw(pod).read(&mut [0; 1]).unwrap(), 0);
        drop(clients);
        let socket = pod.dir.join("shim.sock");
        eventually(PATIENCE, "there is room", || {
            runtime::client::Connection::connect(&socket, PATIENCE).is_ok()
        });
    });
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    require_root!();
    with_pod("slow-client", |pod| {
        for index in 0..8 {
            pod.connect()
                .create(pod.shell(&format!("c{index}"), "true"), PATIENCE)
                .unwrap();
        }
        let mut stream = raw(pod);
        let hello = Request::Hello { oldest: 1, newest: 1 };
        stream
            .write_all(&frame::encode(&runtime::proto::ClientFrame { id: 1, request: hello }).unwrap())
            .unwrap();
        let list = frame::encode(&runtime::proto::ClientFrame {
            id: 2,
            request: Request::List,
        })
        .unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let end = (0..1_000_000)
            .find_map(|_| stream.write_all(&list).err())
            .expect("it is cut off");
        assert!(
            matches!(
                end.kind(),
                std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::ConnectionReset
            ),
            "{end}"
        );
        assert_eq!(pod.connect().list(PATIENCE).unwrap().len(), 8);
    });
}

#[test]
fn more_containers_than_the_limit_are_refused() {
    require_root!();
    with_pod("many-containers", |pod| {
        let mut connection = pod.connect();
        for index in 0..64 {
            connection
                .create(pod.shell(&format!("c{index}"), "true"), PATIENCE)
                .unwrap();
        }
        assert_eq!(
            refusal(connection.create(pod.shell("more", "true"), PATIENCE)),
            FailureKind::Limit
        );
        connection.signal(&key("c0"), 9, false, PATIENCE).unwrap();
        pod.exit("c0");
        connection.delete(&key("c0"), PATIENCE).unwrap();
        connection.create(pod.shell("more", "true"), PATIENCE).unwrap();
    });
}

#[test]
fn a_shim_without_a_socket_says_so_and_ends() {
    let output = binary("podshim")
        .args(["--pod-dir", "/nowhere"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, "podshim ends: standard input is not a listening unix socket\n");
}

#[test]
fn random_bytes_harm_nobody() {
    require_root!();
    with_pod("random", |pod| {
        pod.run(pod.shell("a", "exec sleep 1000"));
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..64)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    seed.to_be_bytes()[0]
                })
                .collect();
            // Half of them say a length that could be true.
            let length = if bytes[0].is_multiple_of(2) {
                vec![60, 0, 0, 0]
            } else {
                Vec::new()
            };
            let _ = raw(pod).write_all(&[length, bytes].concat());
        }
        assert_eq!(pod.state("a").status, Status::Running);
    });
}

#[test]
fn execs_without_a_client_make_room_for_others() {
    require_root!();
    with_pod("many-execs", |pod| {
        pod.run(pod.shell("a", "exec sleep 1000"));
        let sleep = || process(&["/bin/sleep", "1000"], false);
        let mut connection = pod.connect();
        let first = pod.exec(&mut connection, "a", "orphan", sleep());
        drop(connection);
        let mut connection = pod.connect();
        let _held: Vec<_> = (1..64)
            .map(|index| pod.exec(&mut connection, "a", &format!("e{index}"), sleep()))
            .collect();
        assert_eq!(pod.state("a").execs.len(), 64);
        pod.exec(&mut connection, "a", "one-more", sleep());
        eventually(PATIENCE, "the orphan ends", || {
            pod.state("a").execs[0].exit_code == Some(137)
        });
        drop(first);
        let refused = connection.exec(exec("a", "too-many", sleep()), PATIENCE);
        assert_eq!(refusal(refused), FailureKind::Limit);
    });
}
