//! A plugin's call, passed on to the agent by a unix socket: environment, standard input, and the pod's namespace as a
//! descriptor, so that the agent needs no path of the caller's. Both sides; what the call does is `plugin`'s.
//!
//! ```text
//! caller: u32 bytes of environment, u32 bytes of standard input, the environment as JSON, standard input; 0 or 1 descriptor
//! agent:  u8 exit code, u32 bytes of document, the document, empty for none
//! ```
//! Numbers are in the machine's byte order: both ends are on one machine. A call is a connection.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::{
    mapping::PortMapping,
    node_network::NodeNetwork,
    plugin::{self, Environment, Outcome, Worker},
};

/// Most bytes of an environment; CNI's own variables are some hundred.
const ENVIRONMENT_BYTES_MAX: u32 = 64 << 10;
/// Most bytes of standard input or of an answer, as the plugin itself takes.
pub const DOCUMENT_BYTES_MAX: u32 = 4 << 20;
/// Between two tries to connect.
const RETRY: Duration = Duration::from_millis(50);
/// Longest silence of the other side. A call waits for locks and the kernel at most, which is far below.
const SILENCE: Duration = Duration::from_secs(60);

/// A call as the agent gets it.
#[derive(Debug)]
pub struct Call {
    /// The `CNI_*` variables.
    pub environment: Environment,
    /// The configuration.
    pub stdin: Vec<u8>,
    /// The pod's namespace, if the caller could open it.
    pub netns: Option<OwnedFd>,
}

impl Call {
    /// Does it, by an agent with this network, whose own pods have the `taken` ports of the node.
    pub fn perform(self, network: &NodeNetwork, taken: &[PortMapping]) -> Outcome {
        let netns = self.netns.as_ref();
        let netns = netns.map(|netns| PathBuf::from(format!("/proc/self/fd/{}", netns.as_raw_fd())));
        let worker = Worker {
            network: Some(network),
            netns: netns.as_deref(),
            taken,
        };
        plugin::run_as(worker, &self.environment, || Ok(self.stdin))
    }
}

/// Has the agent at `socket` do a call; tries for so long to reach it.
///
/// # Errors
/// When nobody answers, or not with an answer. Whether the call was done is not known then.
pub fn ask(socket: &Path, call: &Call, patience: Duration) -> io::Result<Outcome> {
    let mut stream = connect(socket, patience)?;
    let environment = serde_json::to_vec(&call.environment)?;
    let mut request = Vec::with_capacity(8 + environment.len() + call.stdin.len());
    for part in [&environment, &call.stdin] {
        let length = u32::try_from(part.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        request.extend(length.to_ne_bytes());
    }
    request.extend(environment);
    request.extend(&call.stdin);
    let sent = send_first(&stream, &request, call.netns.as_ref())?;
    stream.write_all(&request[sent..])?;
    let [code] = array(&mut stream)?;
    let document = sized(&mut stream, DOCUMENT_BYTES_MAX)?;
    let stdout = match document.as_slice() {
        [] => None,
        text => Some(serde_json::from_slice(text)?),
    };
    Ok(Outcome {
        stdout,
        exit_code: code,
    })
}

fn connect(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    let deadline = Instant::now() + patience;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => {
                stream.set_read_timeout(Some(SILENCE))?;
                stream.set_write_timeout(Some(SILENCE))?;
                return Ok(stream);
            }
            Err(error) if Instant::now() + RETRY > deadline => return Err(error),
            Err(_) => thread::sleep(RETRY),
        }
    }
}

/// A descriptor travels with bytes; answers how many of them went along.
fn send_first(stream: &UnixStream, bytes: &[u8], descriptor: Option<&OwnedFd>) -> io::Result<usize> {
    let descriptors = descriptor.map(|descriptor| [descriptor.as_fd()]);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(descriptors) = &descriptors {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    let flags = SendFlags::NOSIGNAL;
    Ok(rustix::net::sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut control,
        flags,
    )?)
}

/// Takes one call from a connection, has it done, and answers.
///
/// # Errors
/// When the caller goes away, or sends what is no call.
pub fn answer(mut stream: UnixStream, work: impl FnOnce(Call) -> Outcome) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let (lengths, netns) = receive_first(&mut stream)?;
    let [environment, stdin] = lengths;
    if environment > ENVIRONMENT_BYTES_MAX || stdin > DOCUMENT_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let environment = exactly(&mut stream, environment)?;
    let call = Call {
        environment: serde_json::from_slice(&environment)?,
        stdin: exactly(&mut stream, stdin)?,
        netns,
    };
    let outcome = work(call);
    let document = outcome.stdout.map(|document| document.to_string()).unwrap_or_default();
    let length = u32::try_from(document.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let head = [&[outcome.exit_code][..], &length.to_ne_bytes()].concat();
    stream.write_all(&[&head, document.as_bytes()].concat())
}

fn receive_first(stream: &mut UnixStream) -> io::Result<([u32; 2], Option<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut head = [0; 8];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(&*stream, &mut [IoSliceMut::new(&mut head)], &mut control, flags)?;
    let mut netns = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            netns = descriptors.next();
        }
    }
    stream.read_exact(&mut head[received.bytes..])?;
    let [a, b, c, d, e, f, g, h] = head;
    Ok((
        [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])],
        netns,
    ))
}

fn array<const LENGTH: usize>(stream: &mut UnixStream) -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn sized(stream: &mut UnixStream, longest: u32) -> io::Result<Vec<u8>> {
    let length = u32::from_ne_bytes(array(stream)?);
    if length > longest {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    exactly(stream, length)
}

fn exactly(stream: &mut UnixStream, length: u32) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(length.into()).read_to_end(&mut bytes)?;
    match bytes.len() == length as usize {
        true => Ok(bytes),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, os::unix::net::UnixListener};

    use serde_json::json;

    use super::*;

    fn socket(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("orlop-relay-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    #[test]
    fn a_call_arrives_whole_with_its_descriptor_and_is_answered() {
        let path = socket("whole");
        let listener = UnixListener::bind(&path).unwrap();
        let file = std::fs::File::open("/proc/self/status").unwrap();
        let inode = file.metadata().unwrap().ino();
        let call = Call {
            environment: [("CNI_COMMAND".to_owned(), "ADD".to_owned())].into(),
            stdin: vec![0xff; 300_000],
            netns: Some(file.into()),
        };
        let outcome = Outcome {
            stdout: Some(json!({"cniVersion": "1.0.0"})),
            exit_code: 1,
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let (stream, _) = listener.accept().unwrap();
                let work = |call: Call| {
                    assert_eq!((call.environment.len(), call.stdin.len()), (1, 300_000));
                    let file = std::fs::File::from(call.netns.unwrap());
                    assert_eq!(file.metadata().unwrap().ino(), inode);
                    outcome.clone()
                };
                answer(stream, work).unwrap();
            });
            assert_eq!(ask(&path, &call, Duration::ZERO).unwrap(), outcome);
        });
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_no_call_is_an_error() {
        for bytes in [
            &[][..],
            &[1, 0],
            &[255; 8],
            &[2, 0, 0, 0, 0, 0, 0, 0, b'{'],
            &[2, 0, 0, 0, 0, 0, 0, 0, b'[', b']'],
        ] {
            let (mut caller, agent) = UnixStream::pair().unwrap();
            caller.write_all(bytes).unwrap();
            drop(caller);
            assert!(answer(agent, |_| panic!("a call was made")).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn nobody_there_is_an_error_in_time() {
        let call = Call {
            environment: Environment::new(),
            stdin: Vec::new(),
            netns: None,
        };
        ask(&socket("nobody"), &call, Duration::from_millis(120)).unwrap_err();
    }
}
