//! Processors, for what is measured.

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// And those that it starts.
const THIS_THREAD: Pid = Pid::from_raw(0);

/// Does `work` on one processor, where whatever it starts stays: between two, what is measured is how long an idle one
/// takes to wake up.
///
/// # Panics
/// Where the kernel does not let a thread choose among its own processors.
pub fn on_one_processor<T>(work: impl FnOnce() -> T) -> T {
    let all = sched_getaffinity(THIS_THREAD).expect("a thread may ask where it may run");
    go_to(&first_of(&all));
    let result = work();
    go_to(&all);
    result
}

fn go_to(processors: &CpuSet) {
    sched_setaffinity(THIS_THREAD, processors).expect("a thread may choose among its processors");
}

fn first_of(all: &CpuSet) -> CpuSet {
    let mut one = CpuSet::new();
    let first = (0..CpuSet::count()).find(|number| all.is_set(*number) == Ok(true));
    one.set(first.expect("a thread runs somewhere"))
        .expect("a set has room for its own members");
    one
}

/// Whether a process sleeps, and has used no processor at all, for a moment.
pub fn rests(pid: u32) -> bool {
    let look = || {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
        let sleeps = read("stat")?.rsplit_once(") ")?.1.starts_with('S');
        // Nanoseconds on a processor come first.
        let used = read("schedstat")?.split(' ').next()?.to_owned();
        sleeps.then_some(used)
    };
    let before = look();
    std::thread::sleep(Duration::from_millis(30));
    before.is_some() && before == look()
}
