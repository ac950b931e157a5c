//! `process.rlimits`.

use oci_spec::runtime::{PosixRlimit, PosixRlimitType};

use crate::plan::{FieldError, Steps};
use crate::step::InitStep;

/// Plans each limit once.
pub(crate) fn plan(limits: &[PosixRlimit], steps: &mut Steps) -> Result<(), FieldError> {
    for (index, limit) in limits.iter().enumerate() {
        let field = format!("process.rlimits[{index}]");
        if limits[..index].iter().any(|earlier| earlier.typ() == limit.typ()) {
            return Err(FieldError::new(field, "the limit is given twice"));
        }
        if limit.soft() > limit.hard() {
            return Err(FieldError::new(field, "the soft limit is above the hard limit"));
        }
        let (name, resource) = resource(limit.typ());
        steps.push(
            &field,
            InitStep::SetRlimit {
                name,
                resource,
                soft: limit.soft(),
                hard: limit.hard(),
            },
        );
    }
    Ok(())
}

/// The hard limits, by the number of their resource.
pub(crate) fn hard(limits: &[PosixRlimit]) -> Vec<(i32, u64)> {
    limits
        .iter()
        .map(|limit| (resource(limit.typ()).1, limit.hard()))
        .collect()
}

fn resource(kind: PosixRlimitType) -> (&'static str, i32) {
    let (name, resource) = match kind {
        PosixRlimitType::RlimitCpu => ("RLIMIT_CPU", libc::RLIMIT_CPU),
        PosixRlimitType::RlimitFsize => ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE),
        PosixRlimitType::RlimitData => ("RLIMIT_DATA", libc::RLIMIT_DATA),
        PosixRlimitType::RlimitStack => ("RLIMIT_STACK", libc::RLIMIT_STACK),
        PosixRlimitType::RlimitCore => ("RLIMIT_CORE", libc::RLIMIT_CORE),
        PosixRlimitType::RlimitRss => ("RLIMIT_RSS", libc::RLIMIT_RSS),
        PosixRlimitType::RlimitNproc => ("RLIMIT_NPROC", libc::RLIMIT_NPROC),
        PosixRlimitType::RlimitNofile => ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE),
        PosixRlimitType::RlimitMemlock => ("RLIMIT_MEMLOCK", libc::RLIMIT_MEMLOCK),
        PosixRlimitType::RlimitAs => ("RLIMIT_AS", libc::RLIMIT_AS),
        PosixRlimitType::RlimitLocks => ("RLIMIT_LOCKS", libc::RLIMIT_LOCKS),
        PosixRlimitType::RlimitSigpending => ("RLIMIT_SIGPENDING", libc::RLIMIT_SIGPENDING),
        PosixRlimitType::RlimitMsgqueue => ("RLIMIT_MSGQUEUE", libc::RLIMIT_MSGQUEUE),
        PosixRlimitType::RlimitNice => ("RLIMIT_NICE", libc::RLIMIT_NICE),
        PosixRlimitType::RlimitRtprio => ("RLIMIT_RTPRIO", libc::RLIMIT_RTPRIO),
        PosixRlimitType::RlimitRttime => ("RLIMIT_RTTIME", libc::RLIMIT_RTTIME),
    };
    (name, resource as i32)
}
