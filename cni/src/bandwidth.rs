//! Limits on what a pod receives and sends. Nothing here acts.
//!
//! What a pod receives waits in a queue of the node's end of its link, what it sends in one of the pod's own end, where a
//! full queue holds the sender back instead of dropping packets. With a [`crate::pacer::Pacer`], a program tells each packet
//! when it departs and the queue (`fq`) holds it until then; without one, or where the kernel has no such queue, it is a
//! token bucket (`tbf`) of the same numbers.

/// Nanoseconds that a packet waits at most before it is dropped, as CNI's `bandwidth` plugin has it.
const LATENCY_MILLISECONDS: u64 = 25;
/// Bytes of the largest packet that a link hands over at once before it is cut into segments; a smaller bucket than one
/// segment would let nothing through.
const BUCKET_BYTES_MIN: u64 = 64 << 10;

/// One direction's limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Bits a second on average.
    pub bits_per_second: u64,
    /// Bits that may go at once after a rest.
    pub burst_bits: u64,
}

/// Both directions, as seen from the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bandwidth {
    /// Of what the pod receives.
    pub ingress: Option<Rate>,
    /// Of what the pod sends.
    pub egress: Option<Rate>,
}

impl Bandwidth {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// These limits, and those of `other` where there are none.
    pub fn or(self, other: Self) -> Self {
        Self {
            ingress: self.ingress.or(other.ingress),
            egress: self.egress.or(other.egress),
        }
    }
}

/// The numbers that `tbf` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes of tokens.
    pub burst: u32,
    /// Bytes of the queue.
    pub limit: u32,
}

impl Rate {
    /// The bucket for this rate. A burst of nearly everything, as containerd asks for, becomes what the kernel can hold.
    pub fn bucket(self) -> Bucket {
        let rate = (self.bits_per_second / 8).max(1);
        let burst = (self.burst_bits / 8).clamp(BUCKET_BYTES_MIN, u64::from(u32::MAX / 8));
        let limit = (rate.saturating_mul(LATENCY_MILLISECONDS) / 1000)
            .saturating_add(burst)
            .min(u64::from(u32::MAX));
        let narrow = |bytes: u64| u32::try_from(bytes).unwrap_or(u32::MAX);
        Bucket {
            rate,
            burst: narrow(burst),
            limit: narrow(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_a_segment_at_least_and_what_the_kernel_can_at_most() {
        for (bits_per_second, burst_bits, rate, burst) in [
            (8_000_000, 800_000, 1_000_000, 100_000),
            (8_000_000, 8, 1_000_000, 65_536),
            (1, u64::from(u32::MAX), 1, u32::MAX / 8),
            (u64::MAX, u64::MAX, u64::MAX / 8, u32::MAX / 8),
        ] {
            let bucket = Rate {
                bits_per_second,
                burst_bits,
            }
            .bucket();
            assert_eq!((bucket.rate, bucket.burst), (rate, burst));
            assert!(bucket.limit >= bucket.burst);
        }
    }
}
