//! Container logs as text: reads the CRI files of a container's attempts, the newest or the one before, and follows them
//! across restarts.

use std::io::{self, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_core::pod::ContainerName;
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::Request;
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::Api;
use super::answer::{Answer, Problem, read_json, stream};
use super::message::LogsRequest;
use crate::hands::files::last_log;
use crate::paths::PodPaths;
use crate::status::PodView;

/// Bytes read at a time.
const BLOCK: usize = 64 * 1024;
/// Between looks at a log that is followed.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest line of a log file: 16 KiB of content and what stands before it. What is longer is not an entry.
const ENTRY: usize = 17 * 1024;

pub(super) async fn logs(api: &Arc<Api>, request: Request<Incoming>) -> Result<Answer, Problem> {
    let request: LogsRequest = read_json(request.into_body()).await?;
    let view = find_pod(api, &request.namespace, &request.pod)?;
    let container = choose_container(&view, request.container.as_deref())?;
    let paths = PodPaths::new(&api.node.config.places, &api.node.cgroup_root, &view.desired);
    let dir = paths.container_logs(&container);
    let attempt = choose_attempt(&dir, &request, &container)?;
    let (sender, body) = Channel::new(8);
    let reader = Reader {
        api: Arc::clone(api),
        view,
        container,
        dir,
        sender,
        timestamps: request.timestamps,
        follow: request.follow && !request.previous,
    };
    tokio::spawn(reader.run(attempt, request.tail));
    Ok(stream(BodyExt::boxed_unsync(body)))
}

/// The pod on the board.
pub(super) fn find_pod(api: &Api, namespace: &str, name: &str) -> Result<Arc<PodView>, Problem> {
    let pods = api.node.board.now();
    let mut found = pods
        .values()
        .filter(|view| view.desired.namespace == namespace && view.desired.name == name);
    found
        .next()
        .cloned()
        .ok_or_else(|| Problem::not_found(format!("pods {name:?} not found")))
}

/// The container that was asked for, or the only one.
pub(super) fn choose_container(view: &PodView, asked: Option<&str>) -> Result<ContainerName, Problem> {
    let names: Vec<&ContainerName> = view
        .desired
        .containers
        .iter()
        .map(|container| &container.name)
        .collect();
    let listed = || names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (asked, names.as_slice()) {
        (Some(asked), names) => names
            .iter()
            .find(|name| name.as_str() == asked)
            .map(|&name| name.clone())
            .ok_or_else(|| {
                Problem::not_found(format!(
                    "container {asked} is not in pod {}; it has {}",
                    view.desired.name,
                    listed()
                ))
            }),
        (None, [only]) => Ok((*only).clone()),
        (None, _) => Err(Problem::invalid(format!(
            "a container name must be specified for pod {}, choose one of: [{}]",
            view.desired.name,
            listed()
        ))),
    }
}

fn choose_attempt(dir: &Path, request: &LogsRequest, container: &ContainerName) -> Result<u32, Problem> {
    let last = last_log(dir);
    let chosen = if request.previous {
        last.and_then(|last| last.checked_sub(1))
    } else {
        last
    };
    let is_there = |attempt: &u32| dir.join(format!("{attempt}.log")).exists();
    match chosen.filter(is_there) {
        Some(attempt) => Ok(attempt),
        None if request.previous => Err(Problem::invalid(format!(
            "previous terminated container {container:?} in pod {:?} not found",
            request.pod
        ))),
        // Following waits for the first attempt.
        None if request.follow => Ok(0),
        None => Err(Problem::invalid(format!(
            "container {container:?} in pod {:?} is waiting to start",
            request.pod
        ))),
    }
}

struct Reader {
    api: Arc<Api>,
    view: Arc<PodView>,
    container: ContainerName,
    dir: PathBuf,
    sender: Sender<Bytes, io::Error>,
    timestamps: bool,
    follow: bool,
}

impl Reader {
    async fn run(mut self, attempt: u32, tail: Option<u64>) {
        match self.read_attempts(attempt, tail).await {
            Ok(()) => {}
            // The reader went away: nobody is left to tell.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Err(error) => self.sender.abort(error),
        }
    }

    async fn read_attempts(&mut self, mut attempt: u32, mut tail: Option<u64>) -> io::Result<()> {
        loop {
            let Some(mut file) = self.open(attempt).await? else {
                return Ok(());
            };
            if let Some(lines) = tail.take() {
                let start = tail_start(&mut file, lines).await?;
                file.seek(SeekFrom::Start(start)).await?;
            }
            let is_over = self.read_file(&mut file, attempt).await?;
            if is_over || !self.follow {
                return Ok(());
            }
            attempt = last_log(&self.dir).unwrap_or(attempt).max(attempt + 1);
        }
    }

    /// Opens an attempt's log, and waits for it when following; none when it will never be.
    async fn open(&self, attempt: u32) -> io::Result<Option<File>> {
        loop {
            let is_over = self.is_over();
            match File::open(self.dir.join(format!("{attempt}.log"))).await {
                Ok(file) => return Ok(Some(file)),
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Err(_) if is_over || !self.follow => return Ok(None),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Sends the rest of one attempt's log; true when no attempt will follow.
    async fn read_file(&mut self, file: &mut File, attempt: u32) -> io::Result<bool> {
        let mut entries = Entries::new(self.timestamps);
        loop {
            // Looked at before reading: what was written before the end is read after it.
            let is_over = self.is_over();
            let has_next = last_log(&self.dir).is_some_and(|last| last > attempt);
            loop {
                let mut block = vec![0; BLOCK];
                let count = file.read(&mut block).await?;
                if count == 0 {
                    break;
                }
                let text = entries.feed(&block[..count]);
                if !text.is_empty() {
                    self.sender
                        .send_data(text.into())
                        .await
                        .map_err(|_| io::ErrorKind::BrokenPipe)?;
                }
            }
            if is_over || has_next || !self.follow {
                return Ok(is_over && !has_next);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Whether the container will write no more.
    fn is_over(&self) -> bool {
        let pods = self.api.node.board.now();
        pods.get(&self.view.desired.uid)
            .is_none_or(|view| has_ended(&view.pod, &self.container))
    }
}

fn has_ended(pod: &Pod, container: &ContainerName) -> bool {
    let status = pod.status.clone().unwrap_or_default();
    let is_leaving = pod.metadata.deletion_timestamp.is_some();
    let has_finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let of_container = status
        .container_statuses
        .iter()
        .flatten()
        .find(|status| status.name == container.as_str());
    let is_terminated = of_container
        .and_then(|status| status.state.as_ref())
        .is_some_and(|state| state.terminated.is_some() && state.running.is_none());
    has_finished || is_leaving && is_terminated
}

/// The offset at which the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: u64) -> io::Result<u64> {
    let mut end = file.metadata().await?.len();
    let mut missing = lines.saturating_add(1);
    let mut block = vec![0; BLOCK];
    while end > 0 {
        let start = end.saturating_sub(BLOCK as u64);
        let size = usize::try_from(end - start).unwrap_or(BLOCK);
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(&mut block[..size]).await?;
        for at in (0..size).rev().filter(|&at| block[at] == b'\n') {
            missing -= 1;
            if missing == 0 {
                return Ok(start + at as u64 + 1);
            }
        }
        end = start;
    }
    Ok(0)
}

/// Turns CRI log entries, however cut into blocks, into what the program wrote.
struct Entries {
    timestamps: bool,
    pending: Vec<u8>,
    is_line_start: bool,
}

impl Entries {
    fn new(timestamps: bool) -> Entries {
        Entries {
            timestamps,
            pending: Vec::new(),
            is_line_start: true,
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.pending.extend_from_slice(bytes);
        let mut out = Vec::with_capacity(self.pending.len());
        let pending = std::mem::take(&mut self.pending);
        let mut rest = pending.as_slice();
        while let Some(at) = rest.iter().position(|&byte| byte == b'\n') {
            self.entry(&rest[..at], &mut out);
            rest = &rest[at + 1..];
        }
        if rest.len() > ENTRY {
            out.extend_from_slice(rest);
        } else {
            self.pending = rest.to_vec();
        }
        out
    }

    fn entry(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |&byte| byte == b' ');
        let (time, _stream, tag, content) = (parts.next(), parts.next(), parts.next(), parts.next());
        let (Some(time), Some(tag), Some(content)) = (time, tag, content) else {
            // Not an entry: somebody else wrote into the file. Shown as it is.
            out.extend_from_slice(line);
            out.push(b'\n');
            return;
        };
        if self.timestamps && self.is_line_start {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(content);
        // A tag may have more parts one day, separated by colons.
        self.is_line_start = tag.split(|&byte| byte == b':').any(|part| part == b"F");
        if self.is_line_start {
            out.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "2026-01-01T00:00:00.000000001Z stdout F one\n\
                       2026-01-01T00:00:00.000000002Z stderr P tw\n\
                       2026-01-01T00:00:00.000000003Z stderr F o  \n\
                       2026-01-01T00:00:00.000000004Z stdout F \n";

    #[test]
    fn entries_become_what_the_program_wrote_however_they_are_cut() {
        for size in [1, 7, 4096] {
            let mut entries = Entries::new(false);
            let text: Vec<u8> = LOG
                .as_bytes()
                .chunks(size)
                .flat_map(|chunk| entries.feed(chunk))
                .collect();
            assert_eq!(String::from_utf8(text).unwrap(), "one\ntwo  \n\n");
        }
    }

    #[test]
    fn a_time_stands_before_a_line_not_before_a_part() {
        let text = Entries::new(true).feed(LOG.as_bytes());
        let lines: Vec<String> = String::from_utf8(text).unwrap().lines().map(str::to_string).collect();
        assert_eq!(lines[1], "2026-01-01T00:00:00.000000002Z two  ");
    }

    #[tokio::test]
    async fn the_tail_begins_at_the_start_of_a_line() {
        let path = std::env::temp_dir().join(format!("orlop-tail-{}", std::process::id()));
        std::fs::write(&path, "a\nb\nc\n").unwrap();
        let mut file = File::open(&path).await.unwrap();
        for (lines, start) in [(0, 6), (1, 4), (2, 2), (3, 0), (9, 0)] {
            assert_eq!(tail_start(&mut file, lines).await.unwrap(), start);
        }
        std::fs::remove_file(path).unwrap();
    }
}
