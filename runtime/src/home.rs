//! HOME of a process whose environment has none: from the container's own /etc/passwd, as Docker and runc do it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;

use crate::init::inside;

/// How much of a passwd file is read; who stands behind that has no home.
const LIMIT: u64 = 1 << 20;

/// The home directory of `uid` by the first of `roots` that has a passwd file; `/` when it says nothing.
pub(crate) fn of(uid: u32, roots: &[BorrowedFd<'_>]) -> String {
    let passwd = roots.iter().find_map(|root| read_passwd(*root)).unwrap_or_default();
    find(&passwd, uid).unwrap_or("/").to_owned()
}

/// Not through links that lead out, and not blocked by a pipe of that name.
fn read_passwd(root: BorrowedFd<'_>) -> Option<String> {
    let file: OwnedFd = inside::open(
        root,
        c"etc/passwd",
        OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY,
    )
    .ok()?;
    let file = File::from(file);
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    file.take(LIMIT).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// passwd(5): name, password, uid, gid, comment, directory, shell.
fn find(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':').skip(2);
        let found = fields.next()?.parse() == Ok(uid);
        let directory = fields.nth(2)?;
        (found && directory.starts_with('/')).then_some(directory)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_of_the_first_line_with_the_uid_is_home() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n\nbroken\nme:x:5:5::/home/me:/bin/sh\nalso:x:5:5::/x:\nno:x:6:6:::\n";
        for (uid, home) in [(0, Some("/root")), (5, Some("/home/me")), (6, None), (7, None)] {
            assert_eq!(find(passwd, uid), home);
        }
    }

    #[test]
    fn random_passwd_files_name_an_absolute_home_or_none() {
        crate::random::inputs("proc", |bytes| {
            let text = String::from_utf8_lossy(bytes);
            for uid in [0, 1000, u32::MAX] {
                assert!(find(&text, uid).is_none_or(|home| home.starts_with('/')));
            }
        });
    }
}
