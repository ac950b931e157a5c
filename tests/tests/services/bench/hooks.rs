//! What a hook takes of a system call, by the kernel's own clock.

use std::time::Duration;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{ProgramInfo, loaded_programs};
use aya::sys::{Stats, enable_stats};

use crate::node::Node;
use crate::outside::shell;

/// Whatever interrupts a program counts as the program's: so many short rounds, of which the middle one counts.
const ROUNDS: usize = 40;
const CONNECTS: u32 = 100;

/// Nanoseconds that the program of a hook takes for one of the connections to `target`.
pub(super) fn time(node: &Node<'_>, hook: &str, target: &str) -> u64 {
    measure(node, hook, &format!("connects {target} {CONNECTS}"))
}

/// Nanoseconds that the kernel counts for a program of connect(2) that looks at the protocol and has nothing to do: what it
/// takes to read the clock twice, and to come and go.
pub(super) fn empty(node: &Node<'_>) -> u64 {
    shell(node.namespace(), "echo 0 0 > /proc/sys/net/ipv4/ping_group_range");
    measure(node, "connect4", &format!("connect-pings 127.0.0.1:1 {CONNECTS}"))
}

fn measure(node: &Node<'_>, hook: &str, question: &str) -> u64 {
    let _stats = enable_stats(Stats::RunTime).unwrap();
    let mut client = node.client();
    let mut times: Vec<u64> = (0..ROUNDS)
        .map(|_| {
            let before = run(node, hook);
            client.ask(question);
            let after = run(node, hook);
            let time = u64::try_from((after.0 - before.0).as_nanos()).unwrap();
            time / (after.1 - before.1).max(1)
        })
        .collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

/// How long the program of a hook has run in all, and how often.
fn run(node: &Node<'_>, hook: &str) -> (Duration, u64) {
    let pin = node.bpf_dir().join("v3/links").join(hook);
    let link = FdLink::from(PinnedLink::from_pin(pin).unwrap());
    let id = link.info().unwrap().program_id();
    let is_it = |info: &ProgramInfo| info.id() == id;
    let info = loaded_programs().filter_map(Result::ok).find(is_it).unwrap();
    (info.run_time(), info.run_count())
}
