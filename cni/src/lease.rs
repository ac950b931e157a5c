//! Hints about which addresses are free, shared by every process of the node: one file, read and written under a lock.
//!
//! It is not the record of leases: that is the kernel's (see `identity`). A lost, stale or broken file costs the
//! cool-down and a second look, never an address given twice. So nothing here is synced, and what can't be read is begun
//! anew.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read},
    net::IpAddr,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use rustix::system::sysinfo;

use crate::{cidr::Cidr, hints::Pools};

/// Longest wait for the lock; a holder needs far below a millisecond, so beyond this one is stopped.
const LOCK_WAIT: Duration = Duration::from_secs(10);
/// Most bytes that are read; a longer file is not ours and begun anew.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The file of hints.
#[derive(Debug)]
pub struct Leases {
    path: PathBuf,
}

/// Why the hints can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The file can't be opened, read or written.
    #[error("use the address file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another process holds the lock and does not let go.
    #[error("the address file {0} is locked by another process that does not let go")]
    Locked(PathBuf),
}

impl Leases {
    /// The hints below `run_dir`, which is made when it is missed.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join("addresses"),
        }
    }

    /// Takes one address of each range for `link`; the first exhausted range is the inner error.
    ///
    /// # Errors
    /// When the file can't be used.
    pub fn take(&self, cidrs: &[Cidr], link: &str) -> Result<Result<Vec<IpAddr>, Cidr>, LeaseError> {
        self.change(|pools| {
            let now = seconds_since_boot();
            let taken: Result<Vec<IpAddr>, Cidr> = cidrs
                .iter()
                .map(|cidr| pools.pool(cidr).take(cidr, link, now).ok_or(*cidr))
                .collect();
            if taken.is_err() {
                release(pools, link, now);
            }
            taken
        })
    }

    /// Notes addresses that `link` has by request.
    ///
    /// # Errors
    /// When the file can't be used.
    pub fn note(&self, cidrs: &[Cidr], addresses: &[IpAddr], link: &str) -> Result<(), LeaseError> {
        self.change(|pools| note(pools, cidrs, addresses, link))
    }

    /// Releases what the links hold; it cools from now on.
    ///
    /// # Errors
    /// When the file can't be used.
    pub fn release(&self, links: &[&str]) -> Result<(), LeaseError> {
        self.change(|pools| {
            let now = seconds_since_boot();
            links.iter().for_each(|link| release(pools, link, now));
        })
    }

    /// Makes the hints what the kernel says: `held` is every address by the link that holds it.
    ///
    /// # Errors
    /// When the file can't be used.
    pub fn correct(&self, cidrs: &[Cidr], held: &[(String, Vec<IpAddr>)]) -> Result<(), LeaseError> {
        self.change(|pools| {
            cidrs.iter().for_each(|cidr| pools.pool(cidr).forget_holders());
            held.iter()
                .for_each(|(link, addresses)| note(pools, cidrs, addresses, link));
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Pools) -> T) -> Result<T, LeaseError> {
        let mut file = self.lock(LOCK_WAIT)?;
        let (mut pools, length) = read(&mut file).map_err(|source| self.error(source))?;
        let result = change(&mut pools);
        write(&file, &pools, length).map_err(|source| self.error(source))?;
        Ok(result)
    }

    /// Opens the file and locks it until it is closed; waits so long at most.
    fn lock(&self, wait: Duration) -> Result<File, LeaseError> {
        let file = self.open().map_err(|source| self.error(source))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::Error(source)) => Err(self.error(source)),
            Err(TryLockError::WouldBlock) => self.wait_for_lock(file, wait),
        }
    }

    fn open(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        match (options.open(&self.path), self.path.parent()) {
            (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(dir)?;
                options.open(&self.path)
            }
            (opened, _) => opened,
        }
    }

    /// Waits in the kernel's queue, where everybody has a turn. `flock` knows no timeout, so a thread waits; one that
    /// waits in vain closes the file when its turn comes at last.
    fn wait_for_lock(&self, file: File, wait: Duration) -> Result<File, LeaseError> {
        let (answer, answers) = mpsc::sync_channel(1);
        let waiting = move || drop(answer.try_send(file.lock().map(|()| file)));
        thread::Builder::new()
            .spawn(waiting)
            .map_err(|source| self.error(source))?;
        match answers.recv_timeout(wait) {
            Ok(locked) => locked.map_err(|source| self.error(source)),
            Err(_) => Err(LeaseError::Locked(self.path.clone())),
        }
    }

    fn error(&self, source: io::Error) -> LeaseError {
        LeaseError::File {
            path: self.path.clone(),
            source,
        }
    }
}

fn release(pools: &mut Pools, link: &str, now: u64) {
    pools.all().for_each(|pool| pool.release(link, now));
}

fn note(pools: &mut Pools, cidrs: &[Cidr], addresses: &[IpAddr], link: &str) {
    for cidr in cidrs {
        addresses
            .iter()
            .for_each(|address| pools.pool(cidr).note(cidr, *address, link));
    }
}

/// The pools, and how many bytes the file has.
fn read(file: &mut File) -> io::Result<(Pools, u64)> {
    // One byte more than there are, so that the second read finds the end without more room.
    let length = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(FILE_BYTES_MAX)).unwrap_or_default() + 1);
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok((Pools::parse(&bytes), length))
}

/// Writes over the `length` bytes that are there.
fn write(file: &File, pools: &Pools, length: u64) -> io::Result<()> {
    let bytes = pools.to_bytes();
    file.write_all_at(&bytes, 0)?;
    if length > bytes.len() as u64 {
        file.set_len(bytes.len() as u64)?;
    }
    Ok(())
}

/// The one clock that all processes share and nobody sets. By a system call: the clock that the kernel lays into each
/// process would have to be found there first, and its pages be mapped, for one look at it.
fn seconds_since_boot() -> u64 {
    u64::try_from(sysinfo().uptime).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("orlop-lease-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn cidrs() -> Vec<Cidr> {
        vec!["10.0.0.0/29".parse().unwrap(), "fd00::/64".parse().unwrap()]
    }

    #[test]
    fn a_broken_file_is_begun_anew() {
        let dir = Dir::new("broken");
        let leases = Leases::new(&dir.0);
        for content in [&b""[..], b"ipam\x02\0\0\0\x03", b"\xff\xff", b"[1,2,3]"] {
            fs::write(dir.0.join("addresses"), content).unwrap();
            let taken = leases.take(&cidrs(), "a").unwrap().unwrap();
            assert_eq!(
                taken,
                ["10.0.0.2".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]
            );
        }
    }

    #[test]
    fn exhaustion_of_one_range_takes_nothing_from_the_other() {
        let dir = Dir::new("exhausted");
        let leases = Leases::new(&dir.0);
        for link in ["a", "b", "c", "d", "e"] {
            leases.take(&cidrs(), link).unwrap().unwrap();
        }
        assert_eq!(leases.take(&cidrs(), "f").unwrap(), Err(cidrs()[0]));
        leases.release(&["c"]).unwrap();
        assert_eq!(
            leases.take(&cidrs(), "f").unwrap().unwrap()[0],
            "10.0.0.4".parse::<IpAddr>().unwrap()
        );
    }

    #[test]
    fn what_the_kernel_says_replaces_the_hints() {
        let dir = Dir::new("correct");
        let leases = Leases::new(&dir.0);
        leases.take(&cidrs(), "dead").unwrap().unwrap();
        leases
            .correct(&cidrs(), &[("live".to_owned(), vec!["10.0.0.3".parse().unwrap()])])
            .unwrap();
        let taken: Vec<IpAddr> = (0..4)
            .map(|n| leases.take(&cidrs(), &n.to_string()).unwrap().unwrap()[0])
            .collect();
        assert!(!taken.contains(&"10.0.0.3".parse().unwrap()) && taken.contains(&"10.0.0.2".parse().unwrap()));
    }

    #[test]
    fn a_lock_that_is_not_let_go_is_an_error_in_time() {
        let dir = Dir::new("locked");
        let leases = Leases::new(&dir.0);
        let holder = leases.lock(LOCK_WAIT).unwrap();
        assert!(matches!(
            leases.lock(Duration::from_millis(50)),
            Err(LeaseError::Locked(_))
        ));
        drop(holder);
        leases.release(&["a"]).unwrap();
    }

    #[test]
    fn threads_never_take_the_same_address() {
        let dir = Dir::new("threads");
        let range: Vec<Cidr> = vec!["10.0.0.0/24".parse().unwrap()];
        let taken: Vec<IpAddr> = thread::scope(|scope| {
            let takers: Vec<_> = (0..8)
                .map(|taker| {
                    let (dir, range) = (&dir, &range);
                    scope.spawn(move || {
                        let leases = Leases::new(&dir.0);
                        (0..20)
                            .map(|n| leases.take(range, &format!("{taker}-{n}")).unwrap().unwrap()[0])
                            .collect()
                    })
                })
                .collect();
            takers
                .into_iter()
                .flat_map(|taker| -> Vec<IpAddr> { taker.join().unwrap() })
                .collect()
        });
        assert_eq!(taken.iter().collect::<std::collections::BTreeSet<_>>().len(), 160);
    }
}
