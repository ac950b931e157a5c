//! The root filesystem of a container without a mount namespace of its own: mounted on its directory for others to see,
//! until the container is deleted.

use std::fs;
use std::path::Path;

use nix::mount::{MntFlags, umount2};

use super::error::{VerbError, file};
use super::{Named, Record};
use crate::plan::has_own_mounts;
use crate::proc::mounts_on;
use crate::spec::Spec;

const MOUNTS: &str = "/proc/self/mountinfo";

impl Record {
    /// Writes down what is on the directory before the container is made.
    pub(super) fn count_mounts(&mut self, spec: &Spec) -> Result<(), VerbError> {
        if !has_own_mounts(spec) {
            self.mounts_before = Some(self.mounts()?);
        }
        Ok(())
    }

    fn mounts(&self) -> Result<usize, VerbError> {
        let list = fs::read(MOUNTS).map_err(file("read", Path::new(MOUNTS)))?;
        Ok(mounts_on(&list, &self.rootfs))
    }
}

impl Named {
    /// Takes away what was mounted there since, with everything below it. In a mount namespace that the container has
    /// joined it stays as long as that: nobody here sees it.
    pub(super) fn unmount_root(&self) -> Result<(), VerbError> {
        let Some(before) = self.record.mounts_before else {
            return Ok(());
        };
        for _ in before..self.record.mounts()? {
            let rootfs = &self.record.rootfs;
            umount2(rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|errno| file("unmount", rootfs)(errno.into()))?;
        }
        Ok(())
    }
}
