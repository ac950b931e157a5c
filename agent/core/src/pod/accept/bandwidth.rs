//! Limits on what a pod receives and sends, from the annotations that a kubelet reads.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::fault::Faults;
use crate::pod::Bandwidth;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
/// Bits a second, as a kubelet bounds them.
const LEAST: u64 = 1_000;
const MOST: u64 = 1_000_000_000_000_000;

/// Reads both.
pub(super) fn accept(meta: &ObjectMeta, faults: &mut Faults) -> Bandwidth {
    Bandwidth {
        ingress: limit(meta, INGRESS, faults),
        egress: limit(meta, EGRESS, faults),
    }
}

fn limit(meta: &ObjectMeta, key: &str, faults: &mut Faults) -> Option<u64> {
    let text = meta.annotations.as_ref()?.get(key)?;
    let path = format!("metadata.annotations[{key}]");
    let bits = faults.amount(&path, text)?.ones();
    let rule = match bits {
        ..LEAST => "resource is unreasonably small (< 1kbit)",
        LEAST..=MOST => return Some(bits),
        _ => "resource is unreasonably large (> 1Pbit)",
    };
    faults.invalid(&path, text, rule);
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_bounded_as_a_kubelet_does() {
        let small = "Invalid value: \"10\": resource is unreasonably small (< 1kbit)";
        let large = "Invalid value: \"2P\": resource is unreasonably large (> 1Pbit)";
        for (text, expected) in [
            ("8M", Ok(8_000_000)),
            ("1k", Ok(1_000)),
            ("1P", Ok(MOST)),
            ("10", Err(small)),
            ("2P", Err(large)),
            ("fast", Err("Invalid value: \"fast\": quantities must match")),
        ] {
            let meta = ObjectMeta {
                annotations: Some([(EGRESS.to_owned(), text.to_owned())].into()),
                ..ObjectMeta::default()
            };
            let mut faults = Faults::default();
            let limits = accept(&meta, &mut faults);
            let found = faults.into_errors();
            assert_eq!((limits.ingress, limits.egress), (None, expected.ok()), "{text}");
            let message = expected.err().unwrap_or_default();
            let told = found.first().map_or("", |fault| fault.message.as_str());
            assert!(
                told.starts_with(message) && found.len() == usize::from(expected.is_err()),
                "{told}"
            );
        }
    }
}
