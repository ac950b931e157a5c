//! What load balancers and a Prometheus are told: over real connections to the ports that kube-proxy has.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use tests::{NetworkNamespace, eventually};

use super::node::{HEALTHZ, METRICS};
use super::server::tcp;

const PATIENCE: Duration = Duration::from_secs(20);
const BALANCED: &str = "apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  clusterIPs: [10.96.0.1, \"fd00:96::1\"]
  selector: {app: web}
  externalTrafficPolicy: Local
  healthCheckNodePort: 30081
  ports: [{port: 80, targetPort: serves}]
";

/// The head and the body of what is answered to `GET path`.
fn get(namespace: &NetworkNamespace, address: &str, path: &str) -> std::io::Result<(String, String)> {
    let address: SocketAddr = address.parse().unwrap();
    let mut stream = namespace.run(|| TcpStream::connect_timeout(&address, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok((head.to_lowercase(), body.to_owned()))
}

#[track_caller]
fn status(namespace: &NetworkNamespace, port: u16, path: &str) -> String {
    let (head, _) = get(namespace, &format!("127.0.0.1:{port}"), path).unwrap();
    head.split(' ').nth(1).unwrap_or_default().to_owned()
}

#[test]
fn health_is_told_to_load_balancers() {
    node!("healthz", node);
    let backend = node.serve(tcp("127.0.0.1:0"));
    node.set("10.96.0.1 TCP 80", &[&backend]);
    let (head, body) = get(node.namespace(), &format!("127.0.0.1:{HEALTHZ}"), "/healthz").unwrap();
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains("content-type: application/json\r\n"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff\r\n"), "{head}");
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&body["healthy"], &body["nodeEligible"]), (&true.into(), &true.into()));
    assert_eq!(status(node.namespace(), HEALTHZ, "/livez"), "200");
    assert_eq!(status(node.namespace(), HEALTHZ, "/metrics"), "404");
    // A node that leaves works on, but gets no new traffic.
    node.apply_with(BALANCED, &[&backend], |facts| facts.node.leaving = true);
    assert_eq!(status(node.namespace(), HEALTHZ, "/healthz"), "503");
    assert_eq!(status(node.namespace(), HEALTHZ, "/livez"), "200");
}

#[test]
fn what_became_of_connections_is_counted_for_a_prometheus() {
    node!("metrics", node);
    let backend = node.serve(tcp("127.0.0.1:0"));
    node.set("10.96.0.1 TCP 80", &[&backend]);
    let mut client = node.client();
    client.ask("tcp 10.96.0.1:80");
    node.set("10.96.0.1 TCP 80", &[]);
    client.ask("tcp 10.96.0.1:80");
    assert_eq!(status(node.namespace(), HEALTHZ, "/healthz"), "200");
    let (head, page) = get(node.namespace(), &format!("127.0.0.1:{METRICS}"), "/metrics").unwrap();
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    let web = "namespace=\"default\",service=\"web\",port=\"80\",protocol=\"TCP\"";
    for line in [
        format!("orlop_service_connections_total{{{web}}} 1"),
        format!("orlop_service_drops_total{{{web},reason=\"no_endpoint\"}} 1"),
        "kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 2".to_owned(),
        "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1".to_owned(),
        "kubeproxy_sync_proxy_rules_service_changes_total{ip_family=\"IPv4\"} 2".to_owned(),
        "kubeproxy_sync_proxy_rules_endpoint_changes_total{ip_family=\"IPv4\"} 2".to_owned(),
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending{ip_family=\"IPv6\"} 0".to_owned(),
        "kubeproxy_proxy_healthz_total{code=\"200\"} 1".to_owned(),
        "orlop_service_unreadable_packets_total 0".to_owned(),
    ] {
        assert!(page.lines().any(|other| other == line), "{line} is not in\n{page}");
    }
    assert_eq!(status(node.namespace(), METRICS, "/proxyMode"), "200");
}

#[test]
fn a_load_balancer_is_told_which_nodes_have_an_endpoint() {
    node!("health-check", node);
    let script = "ip address add 192.0.2.1/32 dev lo; ip address add 2001:db8::1/128 dev lo";
    assert!(
        node.namespace()
            .run(|| Command::new("sh").args(["-c", script]).status())
            .unwrap()
            .success()
    );
    let (four, six) = (node.serve(tcp("127.0.0.1:0")), node.serve(tcp("[::1]:0")));
    node.apply(BALANCED, &[&four]);
    let place = node.namespace();
    let ask = |address: &str| get(place, address, "/whatever");
    // Each family is a Service of its own, and each address of the node answers.
    for (address, code, count) in [
        ("192.0.2.1:30081", "200", 1),
        ("127.0.0.1:30081", "200", 1),
        ("[2001:db8::1]:30081", "503", 0),
        ("[::1]:30081", "503", 0),
    ] {
        let (head, body) = eventually(PATIENCE, "the port is open", || ask(address));
        assert!(head.starts_with(&format!("http/1.1 {code}")), "{address}: {head}");
        let weight = format!("x-load-balancing-endpoint-weight: {count}\r\n");
        assert!(format!("{head}\r\n").contains(&weight), "{address}: {head}");
        let expected = format!(
            "{{\n\t\"service\": {{\n\t\t\"namespace\": \"default\",\n\t\t\"name\": \"web\"\n\t}},\n\t\"localEndpoints\": {count},\n\t\"serviceProxyHealthy\": true\n}}"
        );
        assert_eq!(body, expected, "{address}");
    }
    node.apply(BALANCED, &[&six]);
    assert!(ask("192.0.2.1:30081").unwrap().0.starts_with("http/1.1 503"));
    assert!(ask("[2001:db8::1]:30081").unwrap().0.starts_with("http/1.1 200"));
    // Another port, then none.
    node.apply(&BALANCED.replace("30081", "30082"), &[&four]);
    eventually(PATIENCE, "the port is another one", || {
        ask("192.0.2.1:30082").map_err(|error| error.kind())?;
        refused(ask("192.0.2.1:30081"))
    });
    node.clear();
    eventually(PATIENCE, "the port is closed", || refused(ask("192.0.2.1:30082")));
}

fn refused<T>(answer: std::io::Result<T>) -> Result<(), ErrorKind> {
    match answer {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(error.kind()),
        Ok(_) => Err(ErrorKind::Other),
    }
}

#[test]
fn clients_that_say_nothing_keep_nobody_else_out_for_long() {
    node!("silent", node);
    node.clear();
    let address: SocketAddr = SocketAddr::from(([127, 0, 0, 1], HEALTHZ));
    let silent: Vec<TcpStream> = (0..100)
        .map(|_| node.namespace().run(|| TcpStream::connect(address)).unwrap())
        .collect();
    assert_eq!(status(node.namespace(), HEALTHZ, "/healthz"), "200");
    drop(silent);
    let long = "x".repeat(1 << 16);
    assert_ne!(
        get(node.namespace(), &address.to_string(), &long).map_or("none".into(), |(head, _)| head[9..12].to_owned()),
        "200"
    );
    assert_eq!(status(node.namespace(), HEALTHZ, "/healthz"), "200");
}
