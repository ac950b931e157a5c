//! What the pod network tells a Prometheus.

use std::collections::BTreeMap;

use crate::service::metrics::Page;

/// The pod network in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Packets of pods by what was done with them, since the agent started.
    pub packets: Vec<(&'static str, u64)>,
    /// How many are attached, by network.
    pub attached: BTreeMap<String, usize>,
    /// Of each range of the agent's own network, how many addresses pods have and can have.
    pub addresses: Vec<(String, usize, u32)>,
}

/// The lines.
pub fn text(figures: &Figures) -> String {
    let mut page = Page::default();
    let name = "orlop_network_packets_total";
    page.head(name, "counter", "Packets of pods by what was done with them");
    for (what, count) in &figures.packets {
        page.line(name, &[("what", what)], &count.to_string());
    }
    let name = "orlop_network_attachments";
    page.head(name, "gauge", "Pods and containers that are attached");
    for (network, count) in &figures.attached {
        page.line(name, &[("network", network)], &count.to_string());
    }
    for (name, help, is_held) in [
        ("orlop_network_addresses", "Addresses that pods have", true),
        ("orlop_network_addresses_limit", "Addresses that pods can have", false),
    ] {
        page.head(name, "gauge", help);
        for (range, held, limit) in &figures.addresses {
            let count = if is_held { held.to_string() } else { limit.to_string() };
            page.line(name, &[("range", range)], &count);
        }
    }
    page.into_text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_told_in_lines() {
        let figures = Figures {
            packets: vec![("crossed", 7), ("foreign-source", 0)],
            attached: [("orlop".to_owned(), 2)].into(),
            addresses: vec![("10.244.0.0/24".to_owned(), 2, 253)],
        };
        let text = text(&figures);
        for line in [
            "# TYPE orlop_network_packets_total counter",
            "orlop_network_packets_total{what=\"crossed\"} 7",
            "orlop_network_packets_total{what=\"foreign-source\"} 0",
            "orlop_network_attachments{network=\"orlop\"} 2",
            "orlop_network_addresses{range=\"10.244.0.0/24\"} 2",
            "orlop_network_addresses_limit{range=\"10.244.0.0/24\"} 253",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} is not in\n{text}");
        }
    }
}
