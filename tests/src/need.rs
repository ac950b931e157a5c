//! What a test needs from the machine, and the loud skip when it is not there.
//!
//! A skip prints `SKIP: reason` on standard error, which `cargo xtask test` counts. With `ORLOP_NO_SKIP=1` (the VM) a
//! skip is a failure: there everything can be had.

use std::path::Path;

/// One thing that a test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    /// Effective user id 0.
    Root,
    /// A kernel of at least this major and minor version.
    Kernel(u32, u32),
    /// cgroup v2 controllers at the root of the hierarchy, for instance `memory`.
    Controllers(&'a [&'a str]),
    /// A program in `PATH`.
    Tool(&'a str),
    /// A command, a program in `PATH` and its arguments, that succeeds.
    Success(&'a [&'a str]),
    /// A file or directory that the kernel shows, for instance `/sys/kernel/security/apparmor`.
    Path(&'a str),
}

impl Need<'_> {
    /// Why the machine does not have it; `None` when it does.
    pub fn missing(&self) -> Option<String> {
        match self {
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "needs root".to_owned()),
            Self::Kernel(major, minor) => {
                let have = kernel_version();
                (have < (*major, *minor))
                    .then(|| format!("needs kernel {major}.{minor}, this is {}.{}", have.0, have.1))
            }
            Self::Controllers(wanted) => {
                let have = crate::cgroup_controllers();
                let lacking: Vec<_> = wanted
                    .iter()
                    .filter(|name| !have.iter().any(|have| have == *name))
                    .collect();
                (!lacking.is_empty()).then(|| format!("needs the cgroup v2 controllers {lacking:?}"))
            }
            Self::Tool(name) => (!is_in_path(name)).then(|| format!("needs the program {name}")),
            Self::Success(command) => (!succeeds(command)).then(|| format!("needs {command:?} to succeed")),
            Self::Path(path) => (!Path::new(path).exists()).then(|| format!("needs {path}")),
        }
    }
}

fn succeeds(command: &[&str]) -> bool {
    let [program, arguments @ ..] = command else {
        return false;
    };
    let output = std::process::Command::new(program).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// Whether every need is met; says `SKIP` when not, and panics instead where nothing may skip.
///
/// Tests call it through [`require!`](crate::require).
pub fn is_met(test: &str, needs: &[Need<'_>]) -> bool {
    let strict = std::env::var_os("ORLOP_NO_SKIP").is_some_and(|value| value == "1");
    for need in needs {
        let Some(reason) = need.missing() else { continue };
        assert!(!strict, "{test} may not skip here, but it {reason}");
        eprintln!("SKIP: {test} {reason}");
        return false;
    }
    true
}

/// Returns from the test, loudly, unless the machine has all of the given [`Need`]s.
#[macro_export]
macro_rules! require {
    ($($need:expr),+ $(,)?) => {
        if !$crate::is_met(module_path!(), &[$($need),+]) {
            return;
        }
    };
}

/// Returns from the test, loudly, unless it runs as root.
#[macro_export]
macro_rules! require_root {
    () => {
        $crate::require!($crate::Need::Root)
    };
}

fn kernel_version() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is mounted");
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn is_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_kernel_is_missing_and_an_old_one_is_there() {
        assert_eq!(Need::Kernel(2, 6).missing(), None);
        assert!(Need::Kernel(999, 0).missing().unwrap().contains("needs kernel 999.0"));
    }

    #[test]
    fn a_tool_is_looked_up_in_the_path() {
        assert_eq!(Need::Tool("sh").missing(), None);
        assert!(Need::Tool("no-such-program").missing().is_some());
    }
}
