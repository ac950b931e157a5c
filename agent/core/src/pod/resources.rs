//! Requests and limits to cgroup numbers: QoS class, weights, quotas, `oom_score_adj`. The formulas are a kubelet's
//! (pkg/kubelet/cm, pkg/kubelet/qos).

use super::{DesiredContainer, DesiredPod, Resources};

/// The shortest CPU period share that the kernel takes, in µs.
const MIN_QUOTA: u64 = 1000;
/// The CPU period, in µs.
pub const CPU_PERIOD: u64 = 100_000;
/// The fewest and the most `cpu.shares`.
const SHARES: (u64, u64) = (2, 262_144);

/// The quality-of-service class of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QosClass {
    /// Every container has equal requests and limits of cpu and memory.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

/// The limits of one cgroup, in the kernel's units; none leaves a file as it is born.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CgroupLimits {
    /// `cpu.weight`, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// The quota of `cpu.max`, in µs per [`CPU_PERIOD`].
    pub cpu_quota: Option<u64>,
    /// `memory.max`, in bytes.
    pub memory_max: Option<u64>,
}

/// The cgroup of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PodCgroup {
    /// Below which tier it stands: `kubepods`, `kubepods/burstable`, `kubepods/besteffort`.
    pub class: QosClass,
    /// Its limits.
    pub limits: CgroupLimits,
}

impl QosClass {
    /// As `status.qosClass` writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// The tier's directory, relative to the cgroup parent.
    pub const fn tier(self) -> &'static str {
        match self {
            Self::Guaranteed => "kubepods",
            Self::Burstable => "kubepods/burstable",
            Self::BestEffort => "kubepods/besteffort",
        }
    }
}

/// The class of a pod.
pub fn qos_class(pod: &DesiredPod) -> QosClass {
    let all = || pod.containers.iter().map(|container| &container.resources);
    if all()
        .all(|r| nothing(r.cpu_request) && nothing(r.cpu_limit) && nothing(r.memory_request) && nothing(r.memory_limit))
    {
        QosClass::BestEffort
    } else if all().all(is_guaranteed) {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

fn nothing(amount: Option<u64>) -> bool {
    amount.unwrap_or(0) == 0
}

fn is_guaranteed(resources: &Resources) -> bool {
    let equal = |request: Option<u64>, limit: Option<u64>| !nothing(limit) && request.or(limit) == limit;
    equal(resources.cpu_request, resources.cpu_limit) && equal(resources.memory_request, resources.memory_limit)
}

/// The pod's own cgroup: weight by the sum of requests; a limit only where every container has one.
pub fn pod_cgroup(pod: &DesiredPod) -> PodCgroup {
    let class = qos_class(pod);
    let total = |amount: fn(&Resources) -> Option<u64>| pod.containers.iter().map(|c| amount(&c.resources)).sum();
    let requested: Option<u64> = pod
        .containers
        .iter()
        .map(|c| Some(c.resources.cpu_request.or(c.resources.cpu_limit).unwrap_or(0)))
        .sum();
    let quota: Option<u64> = total(|r| r.cpu_limit.filter(|&milli| milli > 0));
    let weight = match class {
        QosClass::BestEffort => 1,
        QosClass::Guaranteed | QosClass::Burstable => cpu_weight(requested.unwrap_or(0)),
    };
    let limits = CgroupLimits {
        cpu_weight: Some(weight),
        cpu_quota: quota.map(cpu_quota),
        memory_max: total(|r| r.memory_limit.filter(|&bytes| bytes > 0)),
    };
    PodCgroup { class, limits }
}

/// A container's own cgroup.
pub fn container_limits(container: &DesiredContainer) -> CgroupLimits {
    let resources = &container.resources;
    CgroupLimits {
        cpu_weight: Some(cpu_weight(resources.cpu_request.or(resources.cpu_limit).unwrap_or(0))),
        cpu_quota: resources.cpu_limit.filter(|&milli| milli > 0).map(cpu_quota),
        memory_max: resources.memory_limit.filter(|&bytes| bytes > 0),
    }
}

/// `cpu.shares` of a request in thousandths of a core: 1024 for a core.
pub fn cpu_shares(milli: u64) -> u64 {
    (milli.saturating_mul(1024) / 1000).clamp(SHARES.0, SHARES.1)
}

/// `cpu.weight` of a request in thousandths of a core, by the quadratic map that runc and crun use for containers. The
/// kubelet's linear one for pods and tiers would make siblings hard to compare; upstream's tests take either.
pub fn cpu_weight(milli: u64) -> u64 {
    shares_to_weight(cpu_shares(milli))
}

/// ⌈10^((l² + 125 l) / 612 − 7/34)⌉ with l = log₂ of the shares (opencontainers/cgroups, `ConvertCPUSharesToCgroupV2Value`).
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "2 to 262144 in, 1 to 10000 out"
)]
fn shares_to_weight(shares: u64) -> u64 {
    if shares <= SHARES.0 {
        return 1;
    }
    if shares >= SHARES.1 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as u64
}

/// The quota of a limit in thousandths of a core, in µs per [`CPU_PERIOD`].
pub fn cpu_quota(milli: u64) -> u64 {
    (milli.saturating_mul(CPU_PERIOD) / 1000).max(MIN_QUOTA)
}

/// `oom_score_adj` of a container on a node with `node_memory` bytes.
pub fn oom_score_adj(class: QosClass, container: &DesiredContainer, node_memory: u64) -> i32 {
    match class {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = container
                .resources
                .memory_request
                .or(container.resources.memory_limit)
                .unwrap_or(0);
            let share = u128::from(request) * 1000 / u128::from(node_memory.max(1));
            let adjusted = 1000 - i32::try_from(share.min(1000)).unwrap_or(1000);
            adjusted.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::sample;

    const MI: u64 = 1 << 20;

    fn pod(resources: &[[Option<u64>; 4]]) -> DesiredPod {
        let mut pod = sample::pod();
        pod.containers = resources
            .iter()
            .enumerate()
            .map(|(index, &[cpu_request, cpu_limit, memory_request, memory_limit])| {
                let resources = Resources {
                    cpu_request,
                    cpu_limit,
                    memory_request,
                    memory_limit,
                };
                DesiredContainer {
                    resources,
                    ..sample::container(&format!("c{index}"))
                }
            })
            .collect();
        pod
    }

    #[test]
    fn the_class_follows_requests_and_limits() {
        let full = [Some(100), Some(100), Some(MI), Some(MI)];
        for (resources, expected) in [
            (vec![[None; 4]], QosClass::BestEffort),
            (vec![[Some(0), Some(0), None, None]], QosClass::BestEffort),
            (vec![full, full], QosClass::Guaranteed),
            (vec![[None, Some(100), None, Some(MI)]], QosClass::Guaranteed),
            (vec![full, [None; 4]], QosClass::Burstable),
            (vec![[Some(50), Some(100), Some(MI), Some(MI)]], QosClass::Burstable),
            (vec![[None, Some(100), None, None]], QosClass::Burstable),
            (vec![[Some(1), None, None, None]], QosClass::Burstable),
        ] {
            assert_eq!(qos_class(&pod(&resources)), expected, "{resources:?}");
        }
    }

    #[test]
    fn shares_weights_and_quotas_are_those_of_the_peers() {
        for (milli, shares, weight) in [
            (0, 2, 1),
            (1, 2, 1),
            (2, 2, 1),
            (10, 10, 4),
            (100, 102, 17),
            (500, 512, 59),
            (1000, 1024, 100),
            (2000, 2048, 174),
        ] {
            assert_eq!((cpu_shares(milli), cpu_weight(milli)), (shares, weight), "{milli}m");
        }
        assert_eq!((cpu_shares(u64::MAX), cpu_weight(u64::MAX)), (262_144, 10_000));
        for (milli, quota) in [(1, 1000), (10, 1000), (11, 1100), (500, 50_000), (2000, 200_000)] {
            assert_eq!(cpu_quota(milli), quota, "{milli}m");
        }
    }

    #[test]
    fn a_pod_is_limited_only_where_every_container_is() {
        let limited = [Some(100), Some(500), Some(MI), Some(2 * MI)];
        let both = pod_cgroup(&pod(&[limited, limited]));
        let limits = CgroupLimits {
            cpu_weight: Some(cpu_weight(200)),
            cpu_quota: Some(100_000),
            memory_max: Some(4 * MI),
        };
        assert_eq!(
            both,
            PodCgroup {
                class: QosClass::Burstable,
                limits
            }
        );
        let one = pod_cgroup(&pod(&[limited, [Some(100), None, None, None]]));
        assert_eq!((one.limits.cpu_quota, one.limits.memory_max), (None, None));
        assert_eq!(pod_cgroup(&pod(&[[None; 4]])).limits.cpu_weight, Some(1));
    }

    #[test]
    fn the_kernel_kills_by_class_and_by_share_of_memory() {
        let node = 1000 * MI;
        let adj = |class, request: u64| {
            let pod = pod(&[[None, None, Some(request), None]]);
            oom_score_adj(class, &pod.containers[0], node)
        };
        assert_eq!(adj(QosClass::Guaranteed, 0), -997);
        assert_eq!(adj(QosClass::BestEffort, 0), 1000);
        for (request, expected) in [(0, 999), (MI, 999), (100 * MI, 900), (999 * MI, 3), (5000 * MI, 3)] {
            assert_eq!(adj(QosClass::Burstable, request), expected, "{request}");
        }
    }
}
