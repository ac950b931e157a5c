//! `process.capabilities`: five sets of names, as bit masks.

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::guard::Guard;
use crate::step::CapabilitySets;
use crate::sys::capability::Mask;

/// Capabilities of a process and what could not be given of those asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) bounding: Mask,
    pub(crate) sets: CapabilitySets,
    /// One sentence for each set that lost something.
    pub(crate) unenforced: Vec<String>,
}

impl Granted {
    /// The sets of `asked` within `available`; none at all when the spec has no capabilities. An ambient capability
    /// must be permitted and inheritable, the kernel knows no other.
    pub(crate) fn of(asked: Option<&LinuxCapabilities>, available: Mask) -> Self {
        let Some(asked) = asked else { return Self::default() };
        let mut unenforced = Vec::new();
        let mut grant = |name: &str, set: &Option<Capabilities>, within: Mask, reason: &str| {
            let asked = mask(set.as_ref());
            if asked & !within != 0 {
                let lost = names(asked & !within);
                let sentence = match name {
                    // As runc has it.
                    "ambient" => format!("can't raise ambient capability {lost}"),
                    _ => format!("{lost} left out"),
                };
                unenforced.push(format!("process.capabilities.{name}: {sentence}: {reason}"));
            }
            asked & within
        };
        let unheld = "this process does not hold it";
        let bounding = grant("bounding", asked.bounding(), available, unheld);
        let permitted = grant("permitted", asked.permitted(), available, unheld);
        let effective = grant("effective", asked.effective(), permitted, "it is not permitted");
        let inheritable = match Guard::PlainCapabilities.is_out() {
            true => permitted,
            false => grant("inheritable", asked.inheritable(), available, unheld),
        };
        let ambient = grant(
            "ambient",
            asked.ambient(),
            permitted & inheritable,
            "it is not permitted and inheritable",
        );
        Self {
            bounding,
            sets: CapabilitySets {
                effective,
                permitted,
                inheritable,
                ambient,
            },
            unenforced,
        }
    }
}

fn mask(set: Option<&Capabilities>) -> Mask {
    set.into_iter()
        .flatten()
        .fold(0, |mask, capability| mask | 1 << number(*capability))
}

/// The capabilities in a mask as the kernel writes it, for instance `CapBnd` of proc_pid_status(5).
pub fn capabilities_of(mask: u64) -> Capabilities {
    ALL.into_iter()
        .filter(|capability| mask & (1 << number(*capability)) != 0)
        .collect()
}

/// The names of all capabilities that there are, by number.
pub(crate) fn known() -> Vec<String> {
    (0..u64::from(Mask::BITS))
        .flat_map(|number| capabilities_of(1 << number))
        .map(|capability| name(&capability))
        .collect()
}

fn names(mask: Mask) -> String {
    let names: Vec<_> = ALL
        .iter()
        .filter(|capability| mask & (1 << number(**capability)) != 0)
        .map(name)
        .collect();
    names.join(" ")
}

fn name(capability: &Capability) -> String {
    let name = capability.to_string();
    if name.starts_with("CAP_") {
        name
    } else {
        format!("CAP_{name}")
    }
}

/// Number of a capability in linux/capability.h: its place in [`ALL`].
fn number(capability: Capability) -> usize {
    ALL.iter()
        .position(|known| *known == capability)
        .expect("ALL lists every capability that oci-spec has")
}

/// Every capability in the order of linux/capability.h.
const ALL: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];
