//! Flows from outside that are spread by Maglev: nodes agree about each, and few move when a backend goes.

use std::net::SocketAddr;

use super::{Bench, Frame, SYN, at};

const BACKENDS: u8 = 10;
const FLOWS: u16 = 300;
const NODE_PORT: &str = "203.0.113.1:30080";

fn service(backends: impl Iterator<Item = u8>) -> String {
    let endpoint = |last| format!("{{addresses: [\"10.244.0.{last}\"], nodeName: here}}");
    let endpoints: Vec<String> = backends.map(endpoint).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, annotations: {{orlop.dev/balance: maglev}}}}\nspec:\n  \
         type: NodePort\n  ports: [{{port: 80, nodePort: 30080}}]\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

/// Whom each of many flows gets to, none of which is known yet.
fn spread(bench: &mut Bench) -> Vec<SocketAddr> {
    let from = |flow| SocketAddr::new([198, 51, 100, 2].into(), 20_000 + flow);
    (0..FLOWS)
        .map(|flow| bench.arrived(&Frame::tcp(from(flow), at(NODE_PORT), SYN)).to)
        .collect()
}

#[test]
fn nodes_agree_about_each_flow_and_few_move_when_a_backend_goes() {
    let all = service(1..=BACKENDS);
    bench!("fr-maglev", bench, all);
    let before = spread(&mut bench);
    assert_eq!(before, spread(&mut Bench::new("fr-maglev-other", &all)), "another node");
    let gone = at("10.244.0.10:8080");
    let share = before.iter().filter(|backend| **backend == gone).count();
    assert!((10..=60).contains(&share), "a tenth, more or less: {share}");
    bench.set(&service(1..BACKENDS));
    let now = spread(&mut bench);
    assert!(!now.contains(&gone));
    let moved = before.iter().zip(&now).filter(|(before, now)| before != now).count();
    assert!(moved < share + usize::from(FLOWS) / 20, "{moved} moved, {share} had to");
}
