//! The places that one test may use: a directory, a cgroup and a directory for pinned BPF objects.
//!
//! All of them carry the test's own id in their names. That is what makes the leak audit exact while other tests run
//! beside it: whatever carries the id in its path, command line or cgroup belongs to this test.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags};

use crate::cgroup;

const BPF_ROOT: &str = "/sys/fs/bpf";

/// A test's own places; all of them are removed on drop.
#[derive(Debug)]
pub struct Scratch {
    id: String,
    dir: PathBuf,
}

impl Scratch {
    /// New places for the test `name`. Only the directory is made now. The name is cut to 16 bytes, so that paths of
    /// unix sockets below the directory stay within their 108 bytes.
    ///
    /// # Panics
    /// When the directory cannot be made.
    #[track_caller]
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let short: String = name
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
            .take(16)
            .collect();
        let id = format!(
            "ot-{short}-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let dir = std::env::temp_dir().join(&id);
        std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
        Self { id, dir }
    }

    /// The id that everything of this test carries.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The test's directory. What is in it at the end counts as left behind, but for [`Scratch::input`].
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path below [`Scratch::dir`], as it is; nothing is made.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.dir.join(relative)
    }

    /// A directory, made now, for the files that the test itself writes; the audit does not look into it.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn input(&self) -> PathBuf {
        let dir = self.dir.join(INPUT);
        std::fs::create_dir_all(&dir).expect("the test's directory is writable");
        dir
    }

    /// The name of the test's cgroup, relative to the v2 root: what `--cgroup-parent` takes. Nothing is made.
    pub fn cgroup_parent(&self) -> &str {
        &self.id
    }

    /// The path of the test's cgroup, directly below the v2 root, made if it is missing.
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn cgroup(&self) -> PathBuf {
        let path = self.cgroup_path();
        std::fs::create_dir_all(&path).expect("root may make a cgroup below the v2 root");
        path
    }

    /// A directory for pinned BPF objects, made now, on the bpf file system (mounted if the machine has not done so).
    ///
    /// # Panics
    /// When it cannot be made.
    #[track_caller]
    pub fn bpf_dir(&self) -> PathBuf {
        if !is_mount_point(BPF_ROOT) {
            let kind = Some("bpf");
            let mounted = nix::mount::mount(kind, BPF_ROOT, kind, MsFlags::empty(), None::<&str>);
            mounted.expect("root may mount the bpf file system");
        }
        let path = self.bpf_path();
        std::fs::create_dir_all(&path).expect("root may write to the bpf file system");
        path
    }

    pub(crate) fn cgroup_path(&self) -> PathBuf {
        crate::cgroup_root().join(&self.id)
    }

    pub(crate) fn bpf_path(&self) -> PathBuf {
        Path::new(BPF_ROOT).join(&self.id)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        cgroup::remove_tree(&self.cgroup_path());
        let _ = std::fs::remove_dir_all(self.bpf_path());
        for mount_point in mount_points_below(&self.dir).into_iter().rev() {
            let _ = nix::mount::umount2(&mount_point, MntFlags::MNT_DETACH);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Name of the directory that the audit does not look into.
pub(crate) const INPUT: &str = "input";

fn is_mount_point(path: &str) -> bool {
    !mount_points_below(Path::new(path)).is_empty()
}

/// Mount points at or below `dir` in the order of mounting.
fn mount_points_below(dir: &Path) -> Vec<PathBuf> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    points.filter(|point| point.starts_with(dir)).collect()
}
