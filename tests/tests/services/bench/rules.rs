//! Rules of the shape that kube-proxy 1.36 gives its own, for Services of `super::objects`: in nftables a verdict map of all
//! addresses, in iptables a list that is gone through; in both a chain for each Service and each endpoint.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tests::NetworkNamespace;

use super::objects::{BACKENDS, NODE_PORT, PORT, address};

/// Who takes rules.
pub(super) struct Rules {
    /// A program that reads them from its standard input.
    program: &'static [&'static str],
    whole: fn(u32) -> String,
    /// Gives one Service other endpoints.
    one: fn(u32, u8) -> String,
}

pub(super) const NFTABLES: Rules = Rules {
    program: &["nft", "-f", "-"],
    whole: nft,
    one: nft_one,
};

pub(super) const IPTABLES: Rules = Rules {
    program: &["iptables-legacy-restore", "--noflush"],
    whole: iptables,
    one: iptables_one,
};

impl Rules {
    /// How long it takes to load the rules of so many Services.
    pub(super) fn load(&self, namespace: &NetworkNamespace, size: u32) -> Duration {
        self.feed(namespace, &(self.whole)(size))
    }

    /// How long it takes to give a Service other endpoints.
    pub(super) fn change(&self, namespace: &NetworkNamespace, number: u32, endpoints: u8) -> Duration {
        self.feed(namespace, &(self.one)(number, endpoints))
    }

    fn feed(&self, namespace: &NetworkNamespace, rules: &str) -> Duration {
        let (program, arguments) = self.program.split_first().unwrap();
        let start = Instant::now();
        let mut loader = namespace
            .run(|| Command::new(program).args(arguments).stdin(Stdio::piped()).spawn())
            .unwrap();
        loader.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
        assert!(loader.wait().unwrap().success());
        start.elapsed()
    }
}

fn nft(size: u32) -> String {
    let mut text = String::from(
        "add table ip kube-proxy\n\
         add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict; }\n\
         add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict; }\n\
         add chain ip kube-proxy services\n\
         add chain ip kube-proxy mark-for-masquerade\n\
         add rule ip kube-proxy mark-for-masquerade mark set mark or 0x4000\n\
         add chain ip kube-proxy nat-output { type nat hook output priority -100; }\n\
         add rule ip kube-proxy nat-output jump services\n\
         add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority dstnat; }\n\
         add rule ip kube-proxy nat-prerouting jump services\n\
         add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority srcnat; }\n\
         add rule ip kube-proxy nat-postrouting mark & 0x4000 != 0 mark set mark xor 0x4000 masquerade fully-random\n",
    );
    for number in 0..size {
        let _ = writeln!(text, "add chain ip kube-proxy service-{number}");
        for end in 0..BACKENDS {
            let chain = format!("endpoint-{number}-{end}");
            let _ = writeln!(
                text,
                "add chain ip kube-proxy {chain}\n\
                 add rule ip kube-proxy {chain} ip saddr 10.244.{end}.1 jump mark-for-masquerade\n\
                 add rule ip kube-proxy {chain} meta l4proto tcp dnat to 10.0.0.{}:{PORT}",
                end + 1
            );
        }
        text += &nft_choice(number, BACKENDS);
        let _ = writeln!(
            text,
            "add element ip kube-proxy service-ips {{ {} . tcp . 80 : goto service-{number} }}",
            address(number)
        );
    }
    let _ = writeln!(
        text,
        "add chain ip kube-proxy external\n\
         add rule ip kube-proxy external jump mark-for-masquerade\n\
         add rule ip kube-proxy external meta l4proto udp dnat to 10.0.0.1:{PORT}\n\
         add element ip kube-proxy service-nodeports {{ udp . {NODE_PORT} : goto external }}\n\
         add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips\n\
         add rule ip kube-proxy services fib daddr type local meta l4proto . th dport vmap @service-nodeports"
    );
    text
}

fn nft_choice(number: u32, endpoints: u8) -> String {
    let ends: Vec<String> = (0..endpoints)
        .map(|end| format!("{end} : goto endpoint-{number}-{end}"))
        .collect();
    let all = ends.join(", ");
    format!("add rule ip kube-proxy service-{number} numgen random mod {endpoints} vmap {{ {all} }}\n")
}

fn nft_one(number: u32, endpoints: u8) -> String {
    format!("flush chain ip kube-proxy service-{number}\n") + &nft_choice(number, endpoints)
}

fn iptables(size: u32) -> String {
    let mut text = String::from("*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-EXT - [0:0]\n");
    text += ":KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n";
    for number in 0..size {
        let _ = writeln!(text, ":KUBE-SVC-{number} - [0:0]");
        for end in 0..BACKENDS {
            let _ = writeln!(text, ":KUBE-SEP-{number}-{end} - [0:0]");
        }
    }
    text += "-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
             -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
             -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
             -A KUBE-EXT -j KUBE-MARK-MASQ\n";
    for number in 0..size {
        let _ = writeln!(
            text,
            "-A KUBE-SERVICES -d {}/32 -p tcp -m comment --comment \"default/s{number} cluster IP\" -m tcp --dport 80 -j KUBE-SVC-{number}",
            address(number)
        );
        text += &iptables_choice(number, BACKENDS);
        for end in 0..BACKENDS {
            let chain = format!("KUBE-SEP-{number}-{end}");
            let _ = writeln!(
                text,
                "-A {chain} -s 10.244.{end}.1/32 -m comment --comment default/s{number} -j KUBE-MARK-MASQ\n\
                 -A {chain} -p tcp -m comment --comment default/s{number} -m tcp -j DNAT --to-destination 10.0.0.{}:{PORT}",
                end + 1
            );
        }
    }
    let _ = writeln!(
        text,
        "-A KUBE-EXT -p udp -j DNAT --to-destination 10.0.0.1:{PORT}\n\
         -A KUBE-NODEPORTS -p udp -m udp --dport {NODE_PORT} -j KUBE-EXT\n\
         -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT"
    );
    text
}

fn iptables_choice(number: u32, endpoints: u8) -> String {
    let mut text = String::new();
    for end in 0..endpoints {
        let share = match endpoints - end {
            1 => String::new(),
            left => format!(
                "-m statistic --mode random --probability {:.10} ",
                1.0 / f64::from(left)
            ),
        };
        let _ = writeln!(
            text,
            "-A KUBE-SVC-{number} -m comment --comment default/s{number} {share}-j KUBE-SEP-{number}-{end}"
        );
    }
    text
}

/// A chain that is declared is emptied first.
fn iptables_one(number: u32, endpoints: u8) -> String {
    format!(
        "*nat\n:KUBE-SVC-{number} - [0:0]\n{}COMMIT\n",
        iptables_choice(number, endpoints)
    )
}
