//! Checkpoints and their restoration by [CRIU](https://criu.org), the only program that can do it: `criu swrk`, one
//! request over a socket, as runc and crun call it.
//!
//! What is asked is decided here, without a look at anything: [`dump`] and [`restore`]. [`service`] does the talking.

pub mod service;
mod wire;

use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;

use wire::Message;

/// What of a container's and its processes' connections with the outside a checkpoint accepts, and how it treats
/// cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tolerance {
    /// Established TCP connections.
    pub tcp_established: bool,
    /// TCP connections that are not there yet are left out.
    pub tcp_skip_in_flight: bool,
    /// Unix sockets whose other end is outside.
    pub external_unix_sockets: bool,
    /// A terminal that is somebody else's.
    pub shell_job: bool,
    /// Locks of files.
    pub file_locks: bool,
    /// Files without a name get one.
    pub link_remap: bool,
    /// Memory that a later checkpoint has is removed from earlier ones.
    pub auto_dedup: bool,
    /// What becomes of cgroups.
    pub cgroups: CgroupMode,
}

/// `manage-cgroups-mode`: how far CRIU restores cgroups.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupMode {
    /// Not at all.
    Ignore,
    /// What is not there already.
    Soft,
    /// All of them.
    Full,
    /// All of them, none of which may be there.
    Strict,
    /// As CRIU likes.
    #[default]
    Default,
}

impl CgroupMode {
    /// The mode by the name that runc and CRIU have for it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "" => Some(Self::Default),
            "ignore" => Some(Self::Ignore),
            "soft" => Some(Self::Soft),
            "full" => Some(Self::Full),
            "strict" => Some(Self::Strict),
            _ => None,
        }
    }

    /// `criu_cg_mode` of CRIU's rpc.proto.
    fn number(self) -> u64 {
        match self {
            Self::Ignore => 0,
            Self::Soft => 3,
            Self::Full => 4,
            Self::Strict => 5,
            Self::Default => 6,
        }
    }
}

/// What both directions have.
#[derive(Debug)]
pub(crate) struct Common<'a> {
    /// Where the images are.
    pub(crate) images: BorrowedFd<'a>,
    /// Where the log and scratch files go; to the images else.
    pub(crate) work: Option<BorrowedFd<'a>>,
    pub(crate) log: &'a str,
    /// The root of the container, outside.
    pub(crate) root: &'a Path,
    pub(crate) tolerance: Tolerance,
    /// A file of more settings.
    pub(crate) config: Option<&'a str>,
    /// Mounts that are made of what is outside: where, and from what.
    pub(crate) mounts: &'a [(String, String)],
}

/// What a checkpoint is of.
#[derive(Debug)]
pub(crate) struct Dump<'a> {
    pub(crate) pid: u32,
    /// The memory only, of processes that go on.
    pub(crate) memory_only: bool,
    pub(crate) leave_running: bool,
    /// Earlier images, from the new ones.
    pub(crate) parent: Option<&'a str>,
    /// How its processes are held.
    pub(crate) freezer: Option<&'a Path>,
    /// What stays outside: namespaces and files by CRIU's names.
    pub(crate) external: &'a [String],
}

/// What is given to a restored container.
#[derive(Debug)]
pub(crate) struct Restore<'a> {
    /// Its cgroup, from the root of the tree.
    pub(crate) cgroup: Option<&'a str>,
    /// Descriptors that take the place of what was outside, by CRIU's names; CRIU inherits them.
    pub(crate) inherited: &'a [(String, i32)],
    /// Namespaces of others to join, by CRIU's names.
    pub(crate) joined: &'a [(&'static str, String)],
    pub(crate) lsm_profile: Option<&'a str>,
    pub(crate) lsm_mount_context: Option<&'a str>,
}

/// The network namespace's devices are the business of whoever set them up.
const EMPTY_NAMESPACES: u64 = libc::CLONE_NEWNET.cast_unsigned() as u64;

/// `DUMP`, `RESTORE`, `PRE_DUMP`, `NOTIFY` and `FEATURE_CHECK` of `criu_req_type`.
const DUMP: u64 = 1;
const RESTORE: u64 = 2;
const PRE_DUMP: u64 = 4;
const NOTIFY: u64 = 6;
const FEATURE_CHECK: u64 = 9;

/// How much CRIU logs: what explains a failure.
const LOG_LEVEL: u64 = 4;

/// The request for a checkpoint. Numbers of fields are those of CRIU's rpc.proto.
pub(crate) fn dump(common: &Common<'_>, dump: &Dump<'_>) -> Vec<u8> {
    let mut options = options(common);
    options.number(2, dump.pid.into());
    options.flag(3, dump.leave_running);
    if let Some(parent) = dump.parent {
        options.text(14, parent);
        options.flag(15, true);
    }
    options.texts(37, dump.external);
    if let Some(freezer) = dump.freezer {
        options.path(44, freezer);
    }
    request(if dump.memory_only { PRE_DUMP } else { DUMP }, &options)
}

/// The request for a restoration.
pub(crate) fn restore(common: &Common<'_>, restore: &Restore<'_>) -> Vec<u8> {
    let mut options = options(common);
    // It may open devices that another process has; and its processes are ours, not CRIU's.
    options.flag(6, true);
    options.flag(12, true);
    options.flag(26, true);
    if let Some(cgroup) = restore.cgroup {
        let mut root = Message::default();
        root.text(1, "");
        root.text(2, cgroup);
        options.message(25, &root);
    }
    for (key, descriptor) in restore.inherited {
        let mut inherited = Message::default();
        inherited.text(1, key);
        inherited.number(2, descriptor.unsigned_abs().into());
        options.message(27, &inherited);
    }
    for (kind, path) in restore.joined {
        let mut joined = Message::default();
        joined.text(1, kind);
        joined.text(2, path);
        options.message(39, &joined);
    }
    for (field, label) in [(53, restore.lsm_profile), (63, restore.lsm_mount_context)] {
        if let Some(label) = label {
            options.text(field, label);
        }
    }
    request(RESTORE, &options)
}

fn options(common: &Common<'_>) -> Message {
    let Tolerance {
        tcp_established,
        tcp_skip_in_flight,
        external_unix_sockets,
        shell_job,
        file_locks,
        link_remap,
        auto_dedup,
        cgroups,
    } = common.tolerance;
    let mut options = Message::default();
    options.number(1, common.images.as_raw_fd().unsigned_abs().into());
    options.flag(4, external_unix_sockets);
    options.flag(5, tcp_established);
    options.flag(7, shell_job);
    options.flag(8, file_locks);
    options.number(9, LOG_LEVEL);
    options.text(10, common.log);
    options.path(13, common.root);
    options.flag(16, auto_dedup);
    if let Some(work) = common.work {
        options.number(17, work.as_raw_fd().unsigned_abs().into());
    }
    options.flag(18, link_remap);
    for (target, source) in common.mounts {
        let mut mount = Message::default();
        mount.text(1, target);
        mount.text(2, source);
        options.message(23, &mount);
    }
    options.flag(24, true);
    options.number(34, cgroups.number());
    options.number(38, EMPTY_NAMESPACES);
    options.flag(46, tcp_skip_in_flight);
    // The master of a terminal is not in the container; it comes to us.
    options.flag(50, true);
    if let Some(config) = common.config {
        options.text(51, config);
    }
    options
}

fn request(kind: u64, options: &Message) -> Vec<u8> {
    let mut request = Message::default();
    request.number(1, kind);
    request.message(2, options);
    request.into_bytes()
}

/// The request to say whether this kernel tracks changes of memory, without which there are no checkpoints of it alone.
pub(crate) fn has_tracking() -> Vec<u8> {
    let mut features = Message::default();
    features.flag(1, true);
    let mut request = Message::default();
    request.number(1, FEATURE_CHECK);
    request.message(5, &features);
    request.into_bytes()
}

/// The answer to a notification.
fn noted() -> Vec<u8> {
    let mut request = Message::default();
    request.number(1, NOTIFY);
    request.flag(3, true);
    request.into_bytes()
}

/// What CRIU says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) is_success: bool,
    /// Its words for a failure.
    pub(crate) message: Option<String>,
    pub(crate) errno: Option<u32>,
    pub(crate) notification: Option<Notification>,
    /// This kernel tracks changes of memory.
    pub(crate) tracks_memory: bool,
}

/// Something has been reached, and CRIU waits for us.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Notification {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

impl Answer {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut answer = Self::default();
        let mut kind = 0;
        for field in wire::fields(bytes) {
            match field? {
                (1, wire::Value::Number(number)) => kind = number,
                (2, wire::Value::Number(number)) => answer.is_success = number != 0,
                (5, wire::Value::Bytes(bytes)) => answer.notification = Some(Notification::read(bytes)?),
                (7, wire::Value::Number(number)) => answer.errno = u32::try_from(number).ok(),
                (8, wire::Value::Bytes(features)) => {
                    let mut features = wire::fields(features).flatten();
                    answer.tracks_memory = features.any(|feature| feature == (1, wire::Value::Number(1)));
                }
                (9, wire::Value::Bytes(bytes)) => answer.message = Some(String::from_utf8_lossy(bytes).into_owned()),
                _ => {}
            }
        }
        answer.notification = answer.notification.filter(|_| kind == NOTIFY);
        Some(answer)
    }
}

impl Notification {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut notification = Self::default();
        for field in wire::fields(bytes) {
            match field? {
                (1, wire::Value::Bytes(name)) => notification.name = String::from_utf8_lossy(name).into_owned(),
                (2, wire::Value::Number(pid)) => notification.pid = u32::try_from(pid).ok()?,
                _ => {}
            }
        }
        Some(notification)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    /// The numbers of the fields of a request's options, as they come.
    fn asked(request: &[u8]) -> Vec<u32> {
        let fields: Vec<_> = wire::fields(request).map(Option::unwrap).collect();
        let [(1, wire::Value::Number(_)), (2, wire::Value::Bytes(options))] = fields.as_slice() else {
            panic!("{fields:?}")
        };
        wire::fields(options).map(|field| field.unwrap().0).collect()
    }

    #[test]
    fn only_what_is_tolerated_is_asked_for() {
        let images = File::open("/").unwrap();
        let mut common = Common {
            images: images.as_fd(),
            work: None,
            log: "dump.log",
            root: Path::new("/r"),
            tolerance: Tolerance::default(),
            config: None,
            mounts: &[],
        };
        let plain = Dump {
            pid: 5,
            memory_only: false,
            leave_running: false,
            parent: None,
            freezer: None,
            external: &[],
        };
        assert_eq!(asked(&dump(&common, &plain)), [1, 9, 10, 13, 24, 34, 38, 50, 2]);
        common.tolerance.tcp_established = true;
        common.tolerance.file_locks = true;
        let all = Dump {
            leave_running: true,
            parent: Some("../p"),
            external: &["net[1]:n".into()],
            ..plain
        };
        assert_eq!(
            asked(&dump(&common, &all)),
            [1, 5, 8, 9, 10, 13, 24, 34, 38, 50, 2, 3, 14, 15, 37]
        );
    }

    #[test]
    fn answers_are_read() {
        let mut notification = Message::default();
        notification.text(1, "post-restore");
        notification.number(2, 300);
        let mut answer = Message::default();
        answer.number(1, NOTIFY);
        answer.flag(2, true);
        answer.message(5, &notification);
        let read = Answer::read(&answer.into_bytes()).unwrap();
        assert!(read.is_success);
        let notification = read.notification.unwrap();
        assert_eq!((notification.name.as_str(), notification.pid), ("post-restore", 300));
        assert_eq!(Answer::read(&[0x0a, 200]), None, "cut off");
    }

    #[test]
    fn random_answers_are_read_or_not() {
        let mut seed = 1_u64;
        let mut bytes = Vec::new();
        for _ in 0..20_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            bytes.push(seed.to_be_bytes()[0]);
            bytes.drain(..bytes.len().saturating_sub(24));
            let _ = Answer::read(&bytes);
        }
    }
}
