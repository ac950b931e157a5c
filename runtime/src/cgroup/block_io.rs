//! `linux.resources.blockIO` and `rdma` as values of cgroup v2 files. Pure.

use oci_spec::runtime::{LinuxBlockIo, LinuxRdma, LinuxThrottleDevice};

use super::limits::{Limits, refuse};
use crate::plan::FieldError;

/// A field's list of limits, and the key of `io.max` that it sets.
type Throttle<'a> = (&'static str, &'static str, &'a Option<Vec<LinuxThrottleDevice>>);

impl Limits {
    /// Weights go to BFQ, which has the same scale as version 1, or to `io.weight`, which has another.
    pub(super) fn block_io(&mut self, block_io: &LinuxBlockIo) -> Result<(), FieldError> {
        let has_leaves = block_io.weight_device().iter().flatten();
        let has_leaves = has_leaves
            .clone()
            .any(|device| device.leaf_weight().is_some_and(|weight| weight != 0));
        refuse(&[
            (
                "blockIO.leafWeight",
                block_io.leaf_weight().is_some_and(|weight| weight != 0),
            ),
            ("blockIO.weightDevice.leafWeight", has_leaves),
        ])?;
        if let Some(weight) = block_io.weight().filter(|weight| *weight != 0) {
            self.io_weight("default", weight, "blockIO.weight")?;
        }
        for (index, device) in block_io.weight_device().iter().flatten().enumerate() {
            let name = format!("{}:{}", device.major(), device.minor());
            if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
                self.io_weight(&name, weight, &format!("blockIO.weightDevice[{index}]"))?;
            }
        }
        let throttles: [Throttle<'_>; 4] = [
            ("throttleReadBpsDevice", "rbps", block_io.throttle_read_bps_device()),
            ("throttleWriteBpsDevice", "wbps", block_io.throttle_write_bps_device()),
            ("throttleReadIOPSDevice", "riops", block_io.throttle_read_iops_device()),
            (
                "throttleWriteIOPSDevice",
                "wiops",
                block_io.throttle_write_iops_device(),
            ),
        ];
        for (field, key, devices) in throttles {
            for (index, device) in devices.iter().flatten().enumerate() {
                let rate = if device.rate() == 0 {
                    "max".into()
                } else {
                    device.rate().to_string()
                };
                let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
                self.set("io.max", value, &format!("blockIO.{field}[{index}]"));
            }
        }
        Ok(())
    }

    fn io_weight(&mut self, device: &str, weight: u16, field: &str) -> Result<(), FieldError> {
        let converted = io_weight(weight)
            .ok_or_else(|| FieldError::new(format!("linux.resources.{field}"), "is not between 10 and 1000"))?;
        let otherwise = ("io.weight".into(), format!("{device} {converted}"));
        self.set_or("io.bfq.weight", format!("{device} {weight}"), Some(otherwise), field);
        Ok(())
    }

    pub(super) fn rdma<'a>(
        &mut self,
        devices: impl Iterator<Item = (&'a String, &'a LinuxRdma)>,
    ) -> Result<(), FieldError> {
        let mut devices: Vec<_> = devices.collect();
        devices.sort_by_key(|(name, _)| *name);
        for (name, limit) in devices {
            let field = format!("rdma.{name}");
            if name.is_empty() || name.contains(char::is_whitespace) {
                return Err(FieldError::new(
                    format!("linux.resources.{field}"),
                    "is not the name of a device",
                ));
            }
            let or_max = |limit: Option<u32>| limit.map_or_else(|| "max".into(), |limit| limit.to_string());
            let (handles, objects) = (or_max(limit.hca_handles()), or_max(limit.hca_objects()));
            self.set(
                "rdma.max",
                format!("{name} hca_handle={handles} hca_object={objects}"),
                &field,
            );
        }
        Ok(())
    }
}

/// `io.weight` for a weight of version 1: 10 to 1000 become 1 to 10000, linearly (opencontainers/cgroups,
/// `ConvertBlkIOToIOWeightValue`). None outside of that.
pub fn io_weight(weight: u16) -> Option<u32> {
    (10..=1000)
        .contains(&weight)
        .then(|| 1 + (u32::from(weight) - 10) * 9999 / 990)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(json: &str) -> Result<Vec<String>, FieldError> {
        let limits = Limits::of(&serde_json::from_str(json).unwrap())?;
        let line = |setting: &super::super::Setting| {
            let otherwise = setting
                .otherwise
                .as_ref()
                .map(|(file, value)| format!(" else {file} {value}"));
            format!("{} {}{}", setting.file, setting.value, otherwise.unwrap_or_default())
        };
        Ok(limits.settings().iter().map(line).collect())
    }

    #[test]
    fn weights_keep_their_ends() {
        for (weight, converted) in [
            (9, None),
            (10, Some(1)),
            (500, Some(4950)),
            (1000, Some(10_000)),
            (1001, None),
        ] {
            assert_eq!(io_weight(weight), converted, "{weight}");
        }
    }

    #[test]
    fn block_devices_become_lines() {
        let json = r#"{"blockIO":{"weight":500,"weightDevice":[{"major":8,"minor":0,"weight":10}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1000}],
            "throttleWriteBpsDevice":[{"major":8,"minor":16,"rate":2000}],
            "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":0}],
            "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":4}]}}"#;
        let expected = [
            "io.bfq.weight default 500 else io.weight default 4950",
            "io.bfq.weight 8:0 10 else io.weight 8:0 1",
            "io.max 8:0 rbps=1000",
            "io.max 8:16 wbps=2000",
            "io.max 8:0 riops=max",
            "io.max 8:0 wiops=4",
        ];
        assert_eq!(settings(json).unwrap(), expected);
    }

    #[test]
    fn rdma_devices_become_lines() {
        let json = r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":4},"mlx5_0":{"hcaObjects":5}}}"#;
        let expected = [
            "rdma.max mlx5_0 hca_handle=max hca_object=5",
            "rdma.max mlx5_1 hca_handle=3 hca_object=4",
        ];
        assert_eq!(settings(json).unwrap(), expected);
    }

    #[test]
    fn what_is_out_of_range_is_refused_by_name() {
        for (json, field) in [
            (r#"{"blockIO":{"weight":5}}"#, "blockIO.weight"),
            (
                r#"{"blockIO":{"weightDevice":[{"major":8,"minor":0,"leafWeight":10}]}}"#,
                "blockIO.weightDevice.leafWeight",
            ),
            (r#"{"rdma":{"a b":{}}}"#, "rdma.a b"),
        ] {
            assert_eq!(
                settings(json).unwrap_err().field,
                format!("linux.resources.{field}"),
                "{json}"
            );
        }
    }
}
