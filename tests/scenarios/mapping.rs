//! Ports that gateways map: whoever is behind one is reached first, by anybody, and nothing of it stays.
//!
//! ```text
//!   a random ─┐                        b … g: each kind of one layer, with miniupnpd in its gateway
//!             ├── "net" ── p1          (PCP and NAT-PMP for 20 s at most, or UPnP)
//!   b … g  ───┘
//! ```

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::capture::Capture;
use tests::member::{Member, find_member};
use tests::{Host, Lab, Maps, Nat, Node, Site, nats, wait};

const LIMIT: Duration = Duration::from_secs(20);
/// The longest lease of PCP in the lab (`netns-scripts/topologies/nats.sh`), and as long for the gateway to look again.
const LEASE: Duration = Duration::from_secs(20);
const GONE_WITHIN: Duration = Duration::from_secs(45);
/// The lease that a node asks for (protocol/README §14).
const LEASE_ASKED_SECS: u64 = 3_600;

#[test]
fn every_nat_that_maps_ports_lets_a_stranger_in_and_forgets_at_the_end() {
    let kinds = [
        (Nat::Independent, Maps::Upnp),
        (Nat::AddressDependent, Maps::Pcp),
        (Nat::PortPreserving, Maps::All),
        (Nat::Translating, Maps::Upnp),
        (Nat::Random, Maps::Pcp),
        (Nat::Sequential, Maps::Upnp),
    ];
    let mapping = kinds.map(|(nat, maps)| Site::mapping(nat, maps));
    let sites: Vec<_> = [Site::behind(Nat::Random)].into_iter().chain(mapping).collect();
    nats("mapping", 1, &sites, |lab| {
        let mut founder = Member::found(lab.host("p1")?, &[])?;
        let token = founder.invite(&["--uses", "7"])?;
        let mut behind = Vec::new();
        for name in ["b", "c", "d", "e", "f", "g"] {
            let member = Member::join(lab.host(name)?, &token, &[])?;
            let mapped = mapped_port(lab, &member.host)?;
            behind.push((member, mapped));
        }
        let mapped_at = Instant::now();
        let mut stranger = Member::join(lab.host("a")?, &token, &[])?;
        for (member, _) in &behind {
            // What it learns of the others it must know before the founder is gone.
            direct(&stranger, member)?;
        }
        founder.stop()?;
        // It comes anew, from ports that nobody has seen: nothing but a mapped port lets it in.
        stranger.stop()?;
        stranger.restart()?;
        for ((member, port), (nat, maps)) in behind.iter().zip(kinds) {
            let took = direct(&stranger, member)?;
            let status = find_member(&stranger.host, &member.host.name)?.context("a member")?;
            let remote = status["path"]["remote"].as_str().unwrap_or_default().to_owned();
            println!("{nat} with {maps:?}: {remote}, direct after {:.2} s", took.as_secs_f64());
            let outside = member.host.outside;
            // Where anybody may use the mapping of what it sent, its port is as good.
            let is_there = remote == format!("{outside}:{port}")
                || nat == Nat::Independent && remote.starts_with(&format!("{outside}:"));
            ensure!(is_there, "{nat}: {remote} is not {outside}:{port}");
        }
        println!("mapped for {:.0} s", mapped_at.elapsed().as_secs_f64());
        thread::sleep((LEASE + LEASE / 2).saturating_sub(mapped_at.elapsed()));
        for ((member, port), (nat, maps)) in behind.iter_mut().zip(kinds) {
            ensure!(rules(lab, &member.host)?.contains(&port.to_string()), "{nat}: not renewed");
            let name = member.host.name.clone();
            if maps == Maps::Pcp {
                member.kill()?;
                let since = Instant::now();
                wait_until_gone(lab, &member.host, GONE_WITHIN)?;
                println!("{name}: gone {:.1} s after kill -9", since.elapsed().as_secs_f64());
            } else {
                if maps == Maps::Upnp {
                    let lease = upnp_lease(&member.host, *port)?;
                    ensure!((1..=LEASE_ASKED_SECS).contains(&lease), "{nat}: mapped for {lease} s");
                }
                ensure!(member.stop()? == 0, "{name} did not end well");
                ensure!(rules(lab, &member.host)?.is_empty(), "{nat}: still mapped after the end");
            }
        }
        Ok(())
    });
}

/// Nobody is public: the member whose gateway maps lets others join, and passes on for two that do not reach each other.
#[test]
fn behind_a_gateway_that_maps_ports_a_member_admits_and_relays_without_any_beacon() {
    let sites = [Site::mapping(Nat::Random, Maps::Pcp), Site::behind(Nat::Random), Site::behind(Nat::Random)];
    nats("mapping-relay", 0, &sites, |lab| {
        let founder = Member::found(lab.host("a")?, &[])?;
        mapped_port(lab, &founder.host)?;
        let token = founder.invite(&["--uses", "2"])?;
        let b = Member::join(lab.host("b")?, &token, &[])?;
        let c = Member::join(lab.host("c")?, &token, &[])?;
        for member in [&b, &c] {
            println!("{}: direct after {:.2} s", member.host.name, direct(member, &founder)?.as_secs_f64());
        }
        let alias = b.alias_of("c")?.to_string();
        b.host.run("ping", &["-c", "1", "-W", "10", &alias], LIMIT)?.success()?;
        let status = find_member(&b.host, "c")?.context("a member")?;
        ensure!(status["path"]["via"] == "a", "not by way of a: {status}");
        Ok(())
    });
}

#[test]
fn with_port_mapping_off_the_gateway_is_asked_nothing() {
    nats("mapping-off", 0, &[Site::mapping(Nat::PortPreserving, Maps::All)], |lab| {
        let host = lab.host("a")?;
        let file = host.state.with_file_name("off.toml");
        std::fs::write(&file, "port_mapping = false\n")?;
        let asked = "udp port 5351 or udp port 1900 or net 224.0.0.0/4 and not igmp and not port 41413";
        let wire = Capture::on_device(lab, host, "eth0", asked, "asked")?;
        let mut member = Member::found(host, &["--config", &file.to_string_lossy()])?;
        thread::sleep(Duration::from_secs(3));
        ensure!(rules(lab, host)?.is_empty(), "a port is mapped");
        member.stop()?;
        let said: Vec<_> = wire.finish_packets()?;
        // What the gateway's device announces by itself is none of ours.
        let own = said.iter().filter(|packet| packet.get(12..16) == Some(&host.address.octets()[..]));
        ensure!(own.count() == 0, "the gateway was asked");
        // Else it would be, there.
        let _node = Node::start(host, &[])?;
        mapped_port(lab, host).map(drop)
    });
}

/// What the gateway of this host maps.
fn rules(lab: &Lab, host: &Host) -> Result<String> {
    let place = format!("{}-nat", host.name);
    let words = ["list", "chain", "inet", "mapper", "prerouting_miniupnpd"];
    let listed = lab.run_in(&place, "nft", &words)?.success()?.stdout;
    Ok(listed.lines().filter(|line| line.contains("dnat")).collect())
}

/// The port outside that leads to the host; waits until there is one.
fn mapped_port(lab: &Lab, host: &Host) -> Result<u16> {
    wait::until(&format!("a port of the gateway of {}", host.name), LIMIT, || {
        let rules = rules(lab, host)?;
        let mut words = rules.split_whitespace().skip_while(|word| *word != "dport");
        Ok(words.nth(1).and_then(|port| port.parse().ok()))
    })
}

fn wait_until_gone(lab: &Lab, host: &Host, limit: Duration) -> Result<()> {
    wait::until("the mapping to be gone", limit, || Ok(rules(lab, host)?.is_empty().then_some(())))
}

/// `from` pings `to` until it is answered over a direct path; returns after what time that was.
fn direct(from: &Member, to: &Member) -> Result<Duration> {
    let name = &to.host.name;
    let alias = from.alias_of(name)?.to_string();
    let since = Instant::now();
    wait::until(&format!("a direct path to {name}"), LIMIT, || {
        let reply = from.host.run("ping", &["-c", "1", "-W", "1", &alias], LIMIT)?;
        let status = find_member(&from.host, name)?.context("a member")?;
        Ok((reply.code == 0 && status["state"] == "direct").then(|| since.elapsed()))
    })
}

/// For how many seconds the gateway of a host maps a port to it by UPnP, by its own word.
fn upnp_lease(host: &Host, port: u16) -> Result<u64> {
    let script = format!(
        r#"gateway=$(ip route show default | awk '{{ print $3 }}')
        place=$(printf 'M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: "ssdp:discover"\r\nMX: 1\r\nST: upnp:rootdevice\r\n\r\n' |
            python3 -c 'import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5)
s.sendto(sys.stdin.buffer.read(), (sys.argv[1], 1900))
print([l for l in s.recv(2048).decode().splitlines() if l.lower().startswith("location")][0].split(":", 2)[2].split("/")[2])' "$gateway")
        curl -s --max-time 5 --data '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body><u:GetSpecificPortMappingEntry xmlns:u="urn:schemas-upnp-org:service:WANIPConnection:1"><NewRemoteHost></NewRemoteHost><NewExternalPort>{port}</NewExternalPort><NewProtocol>UDP</NewProtocol></u:GetSpecificPortMappingEntry></s:Body></s:Envelope>' -H 'SOAPAction: "urn:schemas-upnp-org:service:WANIPConnection:1#GetSpecificPortMappingEntry"' "http://$place/ctl/IPConn""#
    );
    let said = host.run("bash", &["-c", &script], LIMIT)?.success()?.stdout;
    let lease =
        said.split_once("<NewLeaseDuration>").and_then(|(_, rest)| rest.split('<').next()?.parse().ok());
    lease.with_context(|| format!("the gateway names no lease: {said}"))
}
