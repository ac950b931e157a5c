//! What Services tell a Prometheus: under kube-proxy's names where it has one, so that its dashboards work, and what became
//! of the connections of each Service under ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::catalog::{Objects, other_pods};
use super::table::{Scope, ServiceTable};
use super::{Counters, ServiceName, ServicePort, ServicesStatus};

/// How long updates took, how often they failed, and what they were about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measures {
    /// How long each update of the kernel's maps took.
    pub updates: Histogram,
    /// How many failed.
    pub failures: u64,
    /// The updates that looked at everything.
    full: Histogram,
    /// Those that looked at what had changed.
    partial: Histogram,
    /// Changes of Services.
    services: Tally,
    /// Changes of endpoints.
    endpoints: Tally,
    /// How long it took from a change in the cluster until the kernel had it, where the slice tells when that was.
    programming: Histogram,
    /// When the changes were made that the kernel does not have yet; beyond [`MOST_WAITING`] none is added.
    waiting: Vec<Timestamp>,
}

/// Changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    total: u64,
    /// Those that the kernel does not have yet.
    pending: u64,
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// How many Services have come, gone or are another object.
    pub services: usize,
    /// The same of EndpointSlices, and of the node's pods.
    pub endpoints: usize,
    /// When those who changed endpoints did so, as far as they tell.
    pub triggers: Vec<Timestamp>,
}

/// Times, sorted by size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    bounds: &'static [Duration],
    /// Those up to each bound and above the one before; at the end those above all.
    counts: Vec<u64>,
    sum: Duration,
}

/// kube-proxy's bounds for the times of updates: 1 ms, 2 ms, 4 ms … 16 s.
static UPDATE_BOUNDS: [Duration; 15] = {
    let mut bounds = [Duration::ZERO; 15];
    let mut place = 0;
    while place < bounds.len() {
        bounds[place] = Duration::from_millis(1 << place);
        place += 1;
    }
    bounds
};
/// kube-proxy's bounds for the times from a change in the cluster on: 0.25 s, 0.5 s, 1 s, 2 s … 59 s, 60 s, 65 s … 115 s,
/// 2 min, 2.5 min … 5 min.
static PROGRAMMING_BOUNDS: [Duration; 80] = {
    let mut bounds = [Duration::from_millis(250); 80];
    bounds[1] = Duration::from_millis(500);
    let mut place = 2;
    while place < bounds.len() {
        let number = place as u64;
        bounds[place] = Duration::from_secs(match number {
            2..61 => number - 1,
            61..73 => 60 + 5 * (number - 61),
            _ => 120 + 30 * (number - 73),
        });
        place += 1;
    }
    bounds
};
/// Most times that are kept for one update.
const MOST_WAITING: usize = 4096;

impl Default for Measures {
    fn default() -> Self {
        Self {
            updates: Histogram::new(&UPDATE_BOUNDS),
            failures: 0,
            full: Histogram::new(&UPDATE_BOUNDS),
            partial: Histogram::new(&UPDATE_BOUNDS),
            services: Tally::default(),
            endpoints: Tally::default(),
            programming: Histogram::new(&PROGRAMMING_BOUNDS),
            waiting: Vec::new(),
        }
    }
}

impl Measures {
    /// Takes note of changes that the kernel is to have.
    pub fn queue(&mut self, changes: &Changes) {
        self.services.queue(changes.services);
        self.endpoints.queue(changes.endpoints);
        let room = MOST_WAITING - self.waiting.len();
        self.waiting.extend(changes.triggers.iter().take(room));
    }

    /// Takes note that the kernel has every change at `now`, after an update that `took` so long.
    pub fn finish(&mut self, now: Timestamp, took: Duration, is_full: bool) {
        self.updates.observe(took);
        let kind = if is_full { &mut self.full } else { &mut self.partial };
        kind.observe(took);
        self.services.pending = 0;
        self.endpoints.pending = 0;
        for trigger in std::mem::take(&mut self.waiting) {
            // A clock that is ahead of ours has changed nothing in the future.
            let time = Duration::try_from(now.duration_since(trigger)).unwrap_or_default();
            self.programming.observe(time);
        }
    }
}

impl Tally {
    fn queue(&mut self, count: usize) {
        self.total += count as u64;
        self.pending += count as u64;
    }
}

/// What has changed between two lists of objects. What the first list holds may be old: its triggers do not count.
pub fn changes(before: Objects<'_>, now: Objects<'_>) -> Changes {
    let services = before.services.difference(now.services);
    let slices = before.slices.difference(now.slices);
    let (gone, new) = if before.pods == now.pods {
        Default::default()
    } else {
        other_pods(before.pods, now.pods)
    };
    let is_first = before.slices.is_empty() && before.services.is_empty();
    let triggers = slices
        .new
        .iter()
        .filter(|_| !is_first)
        .filter_map(|slice| slice.trigger());
    Changes {
        services: services.gone.len().max(services.new.len()),
        endpoints: slices.gone.len().max(slices.new.len()) + gone.len().max(new.len()),
        triggers: triggers.collect(),
    }
}

/// What is told at once.
#[derive(Clone, Debug, Default)]
pub struct Scrape {
    /// The Services with their counters.
    pub status: ServicesStatus,
    /// Services with a policy `Local` and no endpoint on this node.
    pub without_local: WithoutLocal,
    /// Packets that could not be read.
    pub unreadable: u64,
    /// Answers of `healthz` and `livez` by their status.
    pub answers: BTreeMap<(&'static str, u16), u64>,
}

/// How many Services drop the connections that arrive here, by family and policy, `internal` or `external`.
pub type WithoutLocal = BTreeMap<(&'static str, &'static str), usize>;

impl Histogram {
    fn new(bounds: &'static [Duration]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: Duration::ZERO,
        }
    }

    /// Takes note of a time.
    pub fn observe(&mut self, time: Duration) {
        let place = self.bounds.partition_point(|bound| *bound < time);
        self.counts[place] += 1;
        self.sum += time;
    }

    /// How many times there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The Services of a table whose policy `Local` leaves nobody here.
pub fn without_local(table: &ServiceTable) -> WithoutLocal {
    let mut found: BTreeMap<_, BTreeSet<&ServicePort>> = BTreeMap::new();
    let dropping = table
        .frontends
        .iter()
        .filter(|(_, entry)| entry.rules.local && entry.rules.drops);
    for (frontend, entry) in dropping {
        let family = if frontend.address.is_ipv4() { "IPv4" } else { "IPv6" };
        let policy = match frontend.scope {
            Scope::Inside => "internal",
            Scope::Outside => "external",
        };
        found.entry((family, policy)).or_default().insert(&entry.owner);
    }
    found.into_iter().map(|(key, ports)| (key, ports.len())).collect()
}

/// The text of a scrape, in Prometheus' format 0.0.4.
pub fn text(scrape: &Scrape) -> String {
    let mut page = Page::default();
    let (progress, measures) = (&scrape.status.progress, &scrape.status.measures);
    for (name, help, histogram) in [
        (
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds",
            &measures.updates,
        ),
        (
            "kubeproxy_sync_full_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for full resyncs",
            &measures.full,
        ),
        (
            "kubeproxy_sync_partial_proxy_rules_duration_seconds",
            "SyncProxyRules latency in seconds for partial resyncs",
            &measures.partial,
        ),
        (
            "kubeproxy_network_programming_duration_seconds",
            "In Cluster Network Programming Latency in seconds",
            &measures.programming,
        ),
    ] {
        page.head(name, "histogram", help);
        for family in FAMILIES {
            page.histogram(name, family, histogram);
        }
    }
    for (name, kind, help, count) in [
        (
            "kubeproxy_sync_proxy_rules_service_changes_total",
            "counter",
            "Cumulative proxy rules Service changes",
            measures.services.total,
        ),
        (
            "kubeproxy_sync_proxy_rules_service_changes_pending",
            "gauge",
            "Pending proxy rules Service changes",
            measures.services.pending,
        ),
        (
            "kubeproxy_sync_proxy_rules_endpoint_changes_total",
            "counter",
            "Cumulative proxy rules Endpoint changes",
            measures.endpoints.total,
        ),
        (
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
            "gauge",
            "Pending proxy rules Endpoint changes",
            measures.endpoints.pending,
        ),
    ] {
        page.head(name, kind, help);
        for family in FAMILIES {
            page.line(name, &[("ip_family", family)], &count.to_string());
        }
    }
    for (name, help, time) in [
        (
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
            "The last time proxy rules were successfully synced",
            progress.updated(),
        ),
        (
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
            "The last time a sync of proxy rules was queued",
            progress.queued(),
        ),
    ] {
        page.head(name, "gauge", help);
        for family in FAMILIES {
            page.line(name, &[("ip_family", family)], &seconds(time));
        }
    }
    let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    page.head(
        name,
        "gauge",
        "Number of services with a Local traffic policy and no endpoints",
    );
    for family in FAMILIES {
        for policy in ["internal", "external"] {
            let count = scrape.without_local.get(&(family, policy)).copied().unwrap_or(0);
            page.line(
                name,
                &[("ip_family", family), ("traffic_policy", policy)],
                &count.to_string(),
            );
        }
    }
    for (path, name, help) in [
        (
            "healthz",
            "kubeproxy_proxy_healthz_total",
            "Cumulative proxy healthz HTTP status",
        ),
        (
            "livez",
            "kubeproxy_proxy_livez_total",
            "Cumulative proxy livez HTTP status",
        ),
    ] {
        page.head(name, "counter", help);
        for ((_, status), count) in scrape.answers.iter().filter(|((asked, _), _)| *asked == path) {
            page.line(name, &[("code", &status.to_string())], &count.to_string());
        }
    }
    ours(&mut page, scrape);
    page.0
}

/// What kube-proxy has no name for.
fn ours(page: &mut Page, scrape: &Scrape) {
    let name = "orlop_service_sync_failures_total";
    page.head(name, "counter", "Updates of the kernel's Service maps that failed");
    page.line(name, &[], &scrape.status.measures.failures.to_string());
    let name = "orlop_service_unreadable_packets_total";
    page.head(name, "counter", "Packets for no Service because they could not be read");
    page.line(name, &[], &scrape.unreadable.to_string());
    let name = "orlop_service_connections_total";
    page.head(name, "counter", "Connections to a Service that were sent to a backend");
    page.each(scrape, name, |counters| [("forwarded", counters.forwarded)]);
    let name = "orlop_service_drops_total";
    page.head(
        name,
        "counter",
        "Connections to a Service that were refused or dropped, by reason",
    );
    page.each(scrape, name, drops);
}

fn drops(counters: &Counters) -> [(&'static str, u64); 4] {
    [
        ("no_endpoint", counters.refused),
        ("no_local_endpoint", counters.no_local),
        ("source_range", counters.not_allowed),
        ("no_room", counters.no_room),
    ]
}

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];

fn seconds(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "0".into(), |time| format!("{:.3}", time.as_duration().as_secs_f64()))
}

/// A page that is being written.
#[derive(Default)]
pub(crate) struct Page(String);

impl Page {
    pub(crate) fn into_text(self) -> String {
        self.0
    }

    pub(crate) fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Names of Kubernetes have nothing that a label's value would have to escape.
    pub(crate) fn line(&mut self, name: &str, labels: &[(&str, &str)], value: &str) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{}}} {value}", labels.join(",")),
        };
    }

    fn histogram(&mut self, name: &str, family: &str, histogram: &Histogram) {
        let mut total = 0;
        for (place, count) in histogram.counts.iter().enumerate() {
            total += count;
            let bound = histogram.bounds.get(place);
            let limit = bound.map_or_else(|| "+Inf".into(), |bound| bound.as_secs_f64().to_string());
            let labels = [("ip_family", family), ("le", limit.as_str())];
            self.line(&format!("{name}_bucket"), &labels, &total.to_string());
        }
        let labels = [("ip_family", family)];
        self.line(
            &format!("{name}_sum"),
            &labels,
            &histogram.sum.as_secs_f64().to_string(),
        );
        self.line(&format!("{name}_count"), &labels, &total.to_string());
    }

    /// A line for each port of a Service and each reason that has counted anything: thousands of Services have as many
    /// lines as are in use.
    fn each<const N: usize>(
        &mut self,
        scrape: &Scrape,
        name: &str,
        pick: impl Fn(&Counters) -> [(&'static str, u64); N],
    ) {
        for (
            ServiceName {
                namespace,
                name: service,
            },
            status,
        ) in &scrape.status.services
        {
            for port in &status.ports {
                for (reason, count) in pick(&port.counters).into_iter().filter(|(_, count)| *count > 0) {
                    let (number, protocol) = (port.port.to_string(), port.protocol.to_string());
                    let mut labels = vec![
                        ("namespace", &**namespace),
                        ("service", &**service),
                        ("port", &number),
                        ("protocol", &protocol),
                    ];
                    if N > 1 {
                        labels.push(("reason", reason));
                    }
                    self.line(name, &labels, &count.to_string());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{PortStatus, Protocol, ServiceStatus};
    use super::*;

    #[test]
    fn a_time_is_counted_up_to_its_bound() {
        let mut histogram = Histogram::new(&UPDATE_BOUNDS);
        for micros in [1, 1000, 1001, 16_384_000, 16_384_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        assert_eq!(histogram.counts, [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        let told = [0, 2, 60, 61, 72, 73, 79].map(|place| PROGRAMMING_BOUNDS[place].as_secs_f64());
        assert_eq!(told, [0.25, 1.0, 59.0, 60.0, 115.0, 120.0, 300.0]);
    }

    #[test]
    fn a_page_has_kube_proxys_names_and_what_became_of_connections() {
        let mut scrape = Scrape::default();
        scrape.status.progress.finish("2026-01-02T03:04:05.5Z".parse().unwrap());
        let queued = Changes {
            services: 3,
            endpoints: 2,
            triggers: vec!["2026-01-02T03:04:03.5Z".parse().unwrap()],
        };
        scrape.status.measures.queue(&queued);
        let (at, took) = ("2026-01-02T03:04:05.5Z".parse().unwrap(), Duration::from_millis(3));
        scrape.status.measures.finish(at, took, false);
        scrape.status.measures.queue(&Changes {
            services: 1,
            ..Changes::default()
        });
        scrape.without_local.insert(("IPv4", "external"), 2);
        scrape.answers.insert(("healthz", 503), 4);
        let port = PortStatus {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            backends: Default::default(),
            counters: Counters {
                forwarded: 5,
                no_local: 1,
                ..Counters::default()
            },
        };
        let status = ServiceStatus {
            ports: vec![port],
            ..ServiceStatus::default()
        };
        let name = ServiceName {
            namespace: "default".into(),
            name: "web".into(),
        };
        scrape.status.services.insert(name, status.into());
        let page = text(&scrape);
        for line in [
            "# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.002\"} 0",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv4\",le=\"0.004\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv6\",le=\"+Inf\"} 1",
            "kubeproxy_sync_proxy_rules_duration_seconds_sum{ip_family=\"IPv4\"} 0.003",
            "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"1\"} 0",
            "kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv4\",le=\"2\"} 1",
            "kubeproxy_sync_proxy_rules_service_changes_total{ip_family=\"IPv4\"} 4",
            "kubeproxy_sync_proxy_rules_service_changes_pending{ip_family=\"IPv6\"} 1",
            "kubeproxy_sync_proxy_rules_endpoint_changes_total{ip_family=\"IPv4\"} 2",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending{ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=\"IPv4\"} 1767323045.500",
            "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"} 0",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv4\",traffic_policy=\"external\"} 2",
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=\"IPv6\",traffic_policy=\"internal\"} 0",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 4",
            "orlop_service_sync_failures_total 0",
            "orlop_service_connections_total{namespace=\"default\",service=\"web\",port=\"80\",protocol=\"TCP\"} 5",
            "orlop_service_drops_total{namespace=\"default\",service=\"web\",port=\"80\",protocol=\"TCP\",reason=\"no_local_endpoint\"} 1",
        ] {
            assert!(page.lines().any(|other| other == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains("source_range"));
    }
}
