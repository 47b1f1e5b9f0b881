//! `vpi netcheck`: what stands between this machine and the internet.

use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Args;

use super::why::ago;
use super::{Context, node, output};
use crate::control::{
    Exit,
    netcheck::Netcheck,
    protocol::{Reply, Request},
};

/// Servers and gateway have given up by then (protocol/README §14), where they do not answer sooner.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// Between two questions to the node, whether they have.
const STEP: Duration = Duration::from_millis(250);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The VPI whose socket is looked through; the first if there are several.
    vpi: Option<String>,
}

/// Has the node look around, waits until it has, and prints what it found.
pub(crate) fn run(context: &Context, arguments: &Arguments) -> anyhow::Result<Exit> {
    let begun = Instant::now();
    let mut netcheck = ask(context, (&arguments.vpi, true))?;
    while begun.elapsed() < SETTLED_WITHIN && !netcheck.is_settled {
        sleep(STEP);
        netcheck = ask(context, (&arguments.vpi, false))?;
    }
    if context.json {
        output::json(&netcheck)?;
    } else {
        for line in lines(&netcheck) {
            output::line(&line)?;
        }
    }
    Ok(Exit::Done)
}

fn ask(context: &Context, (vpi, looks): (&Option<String>, bool)) -> anyhow::Result<Netcheck> {
    match node::ask(context, &Request::Netcheck { vpi: vpi.clone(), looks })? {
        Reply::Netcheck(netcheck) => Ok(netcheck),
        _ => Err(node::unexpected()),
    }
}

fn lines(netcheck: &Netcheck) -> Vec<String> {
    let Netcheck { vpi, port, addresses, nat, stun, port_mapping, ipv6, beacons, .. } = netcheck;
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        format!("{vpi}: UDP port {port} at {}", addresses.join(", ")),
        format!(
            "  NAT mapping {}, ports {}, filtering {}; UDP {}",
            nat.mapping, nat.ports, nat.filtering, nat.udp
        ),
    ];
    for server in &stun.servers {
        let said = server.observed.map_or("did not answer".to_owned(), |observed| format!("saw {observed}"));
        lines.push(format!(
            "  {:>9} ago  STUN server {} {said}",
            ago(stun.ago_s.unwrap_or_default()),
            server.server
        ));
    }
    match port_mapping.gateway {
        Some(gateway) => lines.extend(port_mapping.tried.iter().map(|tried| {
            format!(
                "  {:>9} ago  {} at the gateway {gateway}: {}",
                ago(tried.ago_s),
                tried.protocol,
                tried.text
            )
        })),
        None => lines.push("  no gateway was asked to map a port".to_owned()),
    }
    lines.push(match (ipv6.has_address, ipv6.is_seen) {
        (false, _) => "  IPv6: no address of the internet".to_owned(),
        (true, true) => "  IPv6: seen outside".to_owned(),
        (true, false) => "  IPv6: an address, which no server was reached by".to_owned(),
    });
    for beacon in beacons {
        let rtt = beacon.rtt_ms.map(|rtt| format!(", {rtt:.1} ms")).unwrap_or_default();
        lines.push(format!("  beacon {} {}{rtt}", beacon.address, beacon.state));
    }
    lines.push(netcheck.advice.clone());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::netcheck::{
        Ipv6Report, MappingReport, NatReport, StunReport, StunServer, TriedProtocol,
    };
    use crate::control::status::BeaconStatus;

    #[test]
    fn what_was_tried_stands_between_the_nat_and_the_advice() {
        let word = str::to_owned;
        let silent = StunServer { server: "192.0.2.9:3478".parse().unwrap(), observed: None };
        let seen = StunServer {
            server: "192.0.2.7:3478".parse().unwrap(),
            observed: Some("198.51.100.7:41414".parse().unwrap()),
        };
        let tried = TriedProtocol {
            protocol: word("PCP"),
            outcome: word("silent"),
            text: word("no answer"),
            ago_s: 90.0,
        };
        let netcheck = Netcheck {
            vpi: word("home"),
            port: 41_414,
            addresses: vec!["192.168.1.2".parse().unwrap()],
            nat: NatReport {
                mapping: word("unknown"),
                filtering: word("unknown"),
                ports: word("unknown"),
                udp: word("passes"),
            },
            stun: StunReport { ago_s: Some(1.25), servers: vec![seen, silent] },
            port_mapping: MappingReport {
                gateway: Some([192, 168, 1, 1].into()),
                outside: None,
                lease_s: None,
                tried: vec![tried],
            },
            ipv6: Ipv6Report { has_address: false, is_seen: false },
            beacons: vec![BeaconStatus {
                address: word("/ip4/192.0.2.7/tcp/41415"),
                state: word("answers"),
                rtt_ms: Some(12.06),
            }],
            is_settled: true,
            advice: word("name more beacons"),
        };
        assert_eq!(
            lines(&netcheck),
            [
                "home: UDP port 41414 at 192.168.1.2",
                "  NAT mapping unknown, ports unknown, filtering unknown; UDP passes",
                "      1.2 s ago  STUN server 192.0.2.7:3478 saw 198.51.100.7:41414",
                "      1.2 s ago  STUN server 192.0.2.9:3478 did not answer",
                "      2 min ago  PCP at the gateway 192.168.1.1: no answer",
                "  IPv6: no address of the internet",
                "  beacon /ip4/192.0.2.7/tcp/41415 answers, 12.1 ms",
                "name more beacons",
            ]
        );
    }
}
