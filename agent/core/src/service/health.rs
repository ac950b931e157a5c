//! Whether Services are kept up to date, told as kube-proxy tells it: `/healthz`, `/livez`, and the health-check node ports
//! by which load balancers find the nodes that have a backend.

use std::time::{Duration, Instant};

use k8s_openapi::jiff::Timestamp;
use serde_json::json;

use super::ServiceName;

/// A change that waits for so long makes the node unhealthy: twice the time after which kube-proxy looks again.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// What Go writes for a time that has not been.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// When changes came in and when the kernel had them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Since when a change has been waiting.
    pending_since: Option<Instant>,
    /// When a change came in last.
    queued: Option<Timestamp>,
    /// When the kernel had all that was wanted.
    updated: Option<Timestamp>,
}

/// An HTTP answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 or 503.
    pub status: u16,
    /// Headers besides those of every answer.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: String,
}

/// The node port on which a load balancer asks whether to send this node the traffic of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// `spec.healthCheckNodePort`.
    pub port: u16,
    /// How many endpoints of IPv4 and of IPv6 the Service has on this node.
    pub local_endpoints: [usize; 2],
}

impl Progress {
    /// Takes note of a change.
    pub fn queue(&mut self, now: Instant, at: Timestamp) {
        self.pending_since.get_or_insert(now);
        self.queued = Some(at);
    }

    /// Takes note that the kernel has every change.
    pub fn finish(&mut self, at: Timestamp) {
        self.pending_since = None;
        self.updated = Some(at);
    }

    /// When a change came in last.
    pub fn queued(&self) -> Option<Timestamp> {
        self.queued
    }

    /// When the kernel had all that was wanted.
    pub fn updated(&self) -> Option<Timestamp> {
        self.updated
    }

    /// Whether no change has been waiting for too long. A node that starts is healthy, as for kube-proxy.
    pub fn is_healthy(&self, now: Instant) -> bool {
        let is_late = |since| now.saturating_duration_since(since) >= PATIENCE;
        self.updated.is_none() || !self.pending_since.is_some_and(is_late)
    }
}

/// The answer to `/healthz`: whether a load balancer should send this node traffic of policy `Cluster`. It should not when
/// the node is about to leave the cluster, though everything works.
pub fn healthz(progress: &Progress, is_leaving: bool, now: Instant, at: Timestamp) -> Answer {
    let is_healthy = progress.is_healthy(now);
    let mut body = body(progress, is_healthy, is_healthy && !is_leaving, at);
    body["nodeEligible"] = json!(!is_leaving);
    answer(is_healthy && !is_leaving, body.to_string())
}

/// The answer to `/livez`: whether this agent should be replaced.
pub fn livez(progress: &Progress, now: Instant, at: Timestamp) -> Answer {
    let is_healthy = progress.is_healthy(now);
    answer(is_healthy, body(progress, is_healthy, is_healthy, at).to_string())
}

/// The answer on a health-check node port of a Service with `count` endpoints on this node.
pub fn check(service: &ServiceName, count: usize, progress: &Progress, now: Instant) -> Answer {
    let is_healthy = progress.is_healthy(now);
    let ServiceName { namespace, name } = service;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": \
         {count},\n\t\"serviceProxyHealthy\": {is_healthy}\n}}"
    );
    let mut answer = answer(count != 0 && is_healthy, body);
    let weight = ("X-Load-Balancing-Endpoint-Weight", count.to_string());
    answer.headers.push(weight);
    answer
}

/// `lastUpdated` is now where all is well, as it was when kube-proxy wrote its rules anew every few seconds.
fn body(progress: &Progress, is_healthy: bool, is_good: bool, at: Timestamp) -> serde_json::Value {
    let written = progress.updated.map(|updated| updated.to_string());
    let family = |updated: &String| json!({"lastUpdated": updated, "healthy": is_healthy});
    let mut body = json!({
        "lastUpdated": written.clone().unwrap_or_else(|| NEVER.into()),
        "currentTime": at.to_string(),
        "healthy": is_healthy,
    });
    if is_good {
        body["lastUpdated"] = json!(at.to_string());
    }
    if let Some(updated) = &written {
        body["status"] = json!({"IPv4": family(updated), "IPv6": family(updated)});
    }
    body
}

fn answer(is_good: bool, body: String) -> Answer {
    Answer {
        status: if is_good { 200 } else { 503 },
        headers: vec![
            ("Content-Type", "application/json".into()),
            ("X-Content-Type-Options", "nosniff".into()),
        ],
        body,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const BEFORE: &str = "2026-01-02T03:04:05Z";
    const AT: &str = "2026-01-02T03:05:06Z";

    fn time(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// What has been done: `u` updated, `q` a change that waits since this many seconds.
    fn progress(updated: bool, waits: Option<u64>, now: Instant) -> Progress {
        let mut progress = Progress::default();
        if updated {
            progress.finish(time(BEFORE));
        }
        if let Some(seconds) = waits {
            progress.queue(now.checked_sub(Duration::from_secs(seconds)).unwrap(), time(BEFORE));
        }
        progress
    }

    #[test]
    fn health_is_told_as_kube_proxy_tells_it() {
        let now = Instant::now() + PATIENCE * 2;
        // Updated, seconds that a change has been waiting, leaving: healthz, livez, the healthz body's lastUpdated.
        let rows = [
            (false, None, false, 200, 200, AT),
            (false, Some(600), false, 200, 200, AT),
            (true, None, false, 200, 200, AT),
            (true, Some(59), false, 200, 200, AT),
            (true, Some(60), false, 503, 503, BEFORE),
            (true, None, true, 503, 200, BEFORE),
            (false, None, true, 503, 200, NEVER),
        ];
        for (updated, waits, leaving, healthy, live, last) in rows {
            let row = format!("updated {updated}, waits {waits:?}, leaving {leaving}");
            let progress = progress(updated, waits.map(|seconds: u64| seconds.min(100)), now);
            let healthz = healthz(&progress, leaving, now, time(AT));
            let body: Value = serde_json::from_str(&healthz.body).unwrap();
            assert_eq!(healthz.status, healthy, "{row}");
            assert_eq!(body["lastUpdated"], last, "{row}");
            assert_eq!(body["currentTime"], AT, "{row}");
            assert_eq!(body["nodeEligible"], !leaving, "{row}");
            assert_eq!(body["healthy"], live == 200, "{row}");
            assert_eq!(body["status"]["IPv4"].is_object(), updated, "{row}");
            let livez = livez(&progress, now, time(AT));
            assert_eq!(livez.status, live, "{row}");
            assert!(!livez.body.contains("nodeEligible"), "{row}");
        }
    }

    #[test]
    fn a_change_waits_from_the_first_on() {
        let now = Instant::now();
        let mut progress = progress(true, None, now);
        progress.queue(now, time(AT));
        progress.queue(now + PATIENCE / 2, time(AT));
        assert!(!progress.is_healthy(now + PATIENCE));
        progress.finish(time(AT));
        assert!(progress.is_healthy(now + PATIENCE * 9));
    }

    #[test]
    fn a_health_check_says_how_many_endpoints_are_here() {
        let now = Instant::now() + PATIENCE * 2;
        let service = ServiceName {
            namespace: "default".into(),
            name: "web".into(),
        };
        let body = |count: usize, healthy: bool| {
            format!(
                "{{\n\t\"service\": {{\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
            )
        };
        for (count, waits, status) in [(2, None, 200), (0, None, 503), (2, Some(60), 503)] {
            let answer = check(&service, count, &progress(true, waits, now), now);
            assert_eq!(answer.status, status);
            assert_eq!(answer.body, body(count, waits.is_none()));
            let weight = ("X-Load-Balancing-Endpoint-Weight", count.to_string());
            assert!(answer.headers.contains(&weight));
        }
    }
}
