//! What the files of /proc say of processes (proc(5)): pure readers of their text.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// What is of interest in `/proc/PID/stat` (proc_pid_stat(5)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) state: char,
    /// In clock ticks since boot; with the pid it names the process for good.
    pub(crate) start_time: u64,
}

impl Stat {
    pub(crate) fn read(pid: u32) -> io::Result<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a stat file"))
    }

    /// The second field, the command, may hold spaces and brackets; the 22nd is the 20th behind its end.
    fn parse(text: &str) -> Option<Self> {
        let (_, fields) = text.rsplit_once(')')?;
        let mut fields = fields.split_whitespace();
        let state = fields.next()?.chars().next()?;
        let start_time = fields.nth(18)?.parse().ok()?;
        Some(Self { state, start_time })
    }
}

/// `Pid:` of the `fdinfo` of a pidfd (proc_pid_fdinfo(5)); none when the process has ended and been waited for, or is in
/// a pid namespace out of sight.
pub(crate) fn pid_of_pidfd(fdinfo: &str) -> Option<u32> {
    number_of(fdinfo, "Pid:").filter(|pid| *pid != 0)
}

fn number_of(text: &str, name: &str) -> Option<u32> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))?
        .trim()
        .parse()
        .ok()
}

/// The path below the cgroup v2 root in `/proc/PID/cgroup` (cgroups(7)).
pub(crate) fn cgroup_path(list: &str) -> Option<&str> {
    list.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// Whether `/proc/PID/uid_map` is that of the first user namespace: only there every id is mapped to itself.
pub(crate) fn maps_every_id(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Where a filesystem of `kind` is mounted first, by a list as `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
pub(crate) fn mount_of(list: &[u8], kind: &str) -> Option<PathBuf> {
    list.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let place = fields.nth(4)?;
        // Behind any number of optional fields.
        fields.find(|field| *field == b"-")?;
        let is_its = fields.next()? == kind.as_bytes();
        is_its.then(|| PathBuf::from(OsString::from_vec(unescaped(place))))
    })
}

/// Where whole filesystems of `kinds` are mounted, in order, by a list as `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
pub(crate) fn whole_mounts_of(list: &[u8], kinds: &[&str]) -> Vec<PathBuf> {
    let place = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let root = fields.nth(3)?;
        let place = fields.next()?;
        fields.find(|field| *field == b"-")?;
        let kind = fields.next()?;
        let is_one = root == b"/" && kinds.iter().any(|of| of.as_bytes() == kind);
        is_one.then(|| PathBuf::from(OsString::from_vec(unescaped(place))))
    };
    list.split(|byte| *byte == b'\n').filter_map(place).collect()
}

/// How many of the mounts in a list as `/proc/PID/mountinfo` (proc_pid_mountinfo(5)) are on `directory`.
pub(crate) fn mounts_on(list: &[u8], directory: &Path) -> usize {
    let place = |line: &[u8]| line.split(|byte| *byte == b' ').nth(4).map(unescaped);
    let is_there = |line: &&[u8]| place(line).is_some_and(|place| place == directory.as_os_str().as_bytes());
    list.split(|byte| *byte == b'\n').filter(is_there).count()
}

/// Without the octal numbers that stand for spaces, ends of lines and backslashes.
fn unescaped(mut text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    while let Some((byte, rest)) = text.split_first() {
        let digits = rest.get(..3).filter(|_| *byte == b'\\');
        let number = digits.and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        plain.push(number.unwrap_or(*byte));
        text = if number.is_some() { &rest[3..] } else { rest };
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_counted_by_their_directory() {
        let list = b"22 1 0:20 / /b/root rw shared:1 - ext4 x rw\n23 22 0:21 /r /b/root rw - tmpfs t rw\n\
            24 1 0:22 / /a\\040b\\134c rw - proc p rw\n25 1 0:22 / /b/root/proc rw - proc p rw\nshort\n";
        for (directory, count) in [("/b/root", 2), ("/a b\\c", 1), ("/b", 0), ("/b/root/proc", 1)] {
            assert_eq!(mounts_on(list, Path::new(directory)), count, "{directory}");
        }
    }

    #[test]
    fn a_mount_is_found_by_its_kind() {
        let list = b"22 1 0:20 / / rw shared:1 - ext4 x rw\n23 22 0:21 / /a\\040b rw - resctrl r rw\nshort\n";
        assert_eq!(mount_of(list, "ext4").as_deref(), Some(Path::new("/")));
        assert_eq!(mount_of(list, "resctrl").as_deref(), Some(Path::new("/a b")));
        assert_eq!(mount_of(list, "x"), None);
    }

    #[test]
    fn whole_mounts_are_found_in_their_order() {
        let list = b"22 1 0:20 / / rw shared:1 - ext4 x rw\n23 22 0:21 / /proc rw - proc p rw\n\
            24 23 0:21 /sys /s rw - proc p rw\n25 23 0:22 / /proc rw master:1 - proc p rw\n26 22 0:23 / /a\\040b rw - sysfs s rw\n";
        let places = ["/proc", "/proc", "/a b"].map(PathBuf::from);
        assert_eq!(whole_mounts_of(list, &["proc", "sysfs"]), places);
    }

    #[test]
    fn a_command_with_brackets_and_spaces_does_not_confuse() {
        let text = "7 (a) Z (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 0\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.state, stat.start_time), ('S', 4242));
        assert!(Stat::parse("7 (sh").is_none());
    }

    #[test]
    fn a_pidfd_of_nobody_has_no_pid() {
        assert_eq!(pid_of_pidfd("pos:\t0\nPid:\t42\nNSpid:\t42\n"), Some(42));
        for none in ["Pid:\t0\n", "Pid:\t-1\n", "pos:\t0\n"] {
            assert_eq!(pid_of_pidfd(none), None, "{none}");
        }
    }

    #[test]
    fn random_files_are_read_or_not() {
        crate::random::inputs("proc", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            let _ = (Stat::parse(&text), pid_of_pidfd(&text));
            let _ = (cgroup_path(&text), maps_every_id(&text));
            let _ = (mounts_on(bytes, Path::new("/a b")), mount_of(bytes, "proc"));
            let _ = whole_mounts_of(bytes, &["proc"]);
        });
    }
}
