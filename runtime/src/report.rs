//! What the child tells its parent: eight bytes a message over a socket that exec closes.
//!
//! The end of the stream after [`Report::Ready`] and the start byte means that the exec succeeded.

use nix::errno::Errno;

/// Length of every message.
pub(crate) const LENGTH: usize = 8;

/// Says "go on" to a child that waits.
pub(crate) const START: u8 = b's';

/// Says "wait at the gate" to a child that its parent leaves behind.
pub(crate) const LEAVE: u8 = b'l';
/// Says that the ids of the user namespace are mapped.
pub(crate) const MAPPED: u8 = b'm';

/// Stands where an errno does, and is none.
const LISTENER: i32 = -1;

/// One message of the child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// Everything is set up; it waits for the start byte.
    Ready,
    /// The message carries the master of the terminal.
    Terminal,
    /// Everything before the change of root is done; it waits for the start byte.
    Hooks,
    /// The message carries the pidfd of the process that was made in existing namespaces.
    Born,
    /// Its descriptor of this number is the listener of its seccomp filter; it waits for the start byte.
    Listener { number: u32 },
    /// This step of the plan failed, and the child has ended.
    Failed { step: u32, errno: Errno },
}

impl Report {
    pub(crate) fn encode(self) -> [u8; LENGTH] {
        let (step, errno) = match self {
            Self::Ready => (0, 0),
            Self::Terminal => (1, 0),
            Self::Hooks => (2, 0),
            Self::Born => (3, 0),
            Self::Listener { number } => (number, LISTENER),
            Self::Failed { step, errno } => (step, errno as i32),
        };
        let mut bytes = [0; LENGTH];
        let (first, second) = bytes.split_at_mut(LENGTH / 2);
        first.copy_from_slice(&step.to_ne_bytes());
        second.copy_from_slice(&errno.to_ne_bytes());
        bytes
    }

    /// None for bytes that no child of ours sends.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; LENGTH] = bytes.try_into().ok()?;
        let step = u32::from_ne_bytes(bytes[..4].try_into().ok()?);
        match (step, i32::from_ne_bytes(bytes[4..].try_into().ok()?)) {
            (0, 0) => Some(Self::Ready),
            (1, 0) => Some(Self::Terminal),
            (2, 0) => Some(Self::Hooks),
            (3, 0) => Some(Self::Born),
            (_, 0) => None,
            (number, LISTENER) => Some(Self::Listener { number }),
            (step, errno) => Some(Self::Failed {
                step,
                errno: Errno::from_raw(errno),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_survive_the_wire() {
        for report in [
            Report::Ready,
            Report::Terminal,
            Report::Hooks,
            Report::Born,
            Report::Listener { number: 7 },
            Report::Failed {
                step: 0,
                errno: Errno::EPERM,
            },
        ] {
            assert_eq!(Report::decode(&report.encode()), Some(report));
        }
        assert_eq!(Report::decode(b"short"), None);
        assert_eq!(Report::decode(&[9, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
