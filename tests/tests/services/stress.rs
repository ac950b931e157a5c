//! Connections while everything changes under them.

use std::time::{Duration, Instant};

use super::server::{Backend, tcp};

/// How often the agent is killed and comes back; the acceptance asks for 100 with `ORLOP_STRESS=100`.
const ROUNDS: u32 = 5;
/// How long each agent lives at least.
const LIFE: Duration = Duration::from_millis(500);
/// How often each agent writes to the kernel at least: a slow machine gives it the time for that, up to the limit of a test.
const UPDATES: u64 = 2;
/// Between two changes of the endpoints: with the time that it takes until the next agent is there, a thousand a second.
const CHANGE: Duration = Duration::from_micros(500);
const CLIENTS: usize = 3;

/// A thousand changes of the endpoints a second, and the agent cut off wherever it is: every connection gets to a server.
/// Servers outlive their time as endpoints, as pods that are about to end do.
#[test]
fn no_connection_fails_while_endpoints_change_and_agents_are_killed() {
    node!("stress", node);
    let rounds = std::env::var("ORLOP_STRESS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let servers: Vec<Backend> = (0..6).map(|_| node.serve(tcp("127.0.0.1:0"))).collect();
    node.set("10.96.0.1 TCP 80", &[&servers[0]]);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| node.client()).collect();
    let start = Instant::now();
    clients.iter_mut().for_each(|client| client.start_burst("10.96.0.1:80"));
    let (mut changes, mut updates) = (0, 0);
    for _ in 0..rounds {
        let (born, mut seen) = (Instant::now(), 0);
        let mut due = born;
        while born.elapsed() < LIFE || seen < UPDATES {
            due += CHANGE;
            let first = changes % servers.len();
            let chosen: Vec<&Backend> = servers.iter().cycle().skip(first).take(1 + changes % 4).collect();
            seen = node.change(&chosen);
            changes += 1;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
        }
        updates += seen;
        node.stop_agent();
        node.start_agent();
    }
    let took = start.elapsed().as_secs_f64();
    let counts: Vec<_> = clients.iter_mut().map(super::client::Client::stop_burst).collect();
    let total: u64 = counts.iter().map(super::client::Counts::total).sum();
    println!(
        "{:.0} connections and {:.0} changes a second, {updates} updates, {rounds} agents killed",
        total as f64 / took,
        changes as f64 / took
    );
    assert!(counts.iter().all(|counts| counts.failed == 0), "{counts:?}");
    let labels: usize = counts.iter().map(|counts| counts.by_label.len()).max().unwrap();
    assert_eq!(labels, servers.len(), "every server was an endpoint");
    node.set("10.96.0.1 TCP 80", &[&servers[0]]);
}
