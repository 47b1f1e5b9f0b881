//! Names of members: lines for `/etc/hosts`, a block in it, and the DNS server.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{Host, Member, Node, Pair, scenario, wait};

const PATIENCE: Duration = Duration::from_secs(20);
const DNS: &str = "127.0.0.1:5354";
/// A query for an A record, without its name: id, recursion desired, one question.
const HEAD: [u8; 12] = [0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
const NAME_ERROR: u8 = 3;
const REFUSED: u8 = 5;

#[test]
fn the_block_in_etc_hosts_follows_the_members_and_goes_without_a_trace() {
    scenario("hosts", 3, |lab| {
        let mut pair = Pair::join(lab, &[])?;
        let a = pair.a.host.clone();
        let lines = a.vpi(&["hosts"])?.success()?.stdout;
        let mut expected = [(pair.a.alias, "a.home.vpi"), (pair.a_to_b, "b.home.vpi")];
        expected.sort_unstable();
        ensure!(lines == expected.map(|(alias, name)| format!("{alias} {name}\n")).concat(), "{lines}");

        let file = lab.evidence().join("hosts");
        let before = "127.0.0.1 localhost\n10.0.0.9 printer";
        fs::write(&file, before)?;
        let a = a.seeing(&file, "/etc/hosts");
        a.vpi(&["hosts", "--install"])?.success()?;
        let installed = fs::read_to_string(&file)?;
        ensure!(installed.starts_with(before) && installed.contains(&lines), "{installed}");
        let found = a.run("getent", &["hosts", "b.home.vpi"], PATIENCE)?.success()?.stdout;
        ensure!(found.starts_with(&pair.a_to_b.to_string()), "{found}");

        // A member that comes later is there when the node was started again.
        let c = Member::join(lab.host("c")?, &pair.a.invite(&[])?, &[])?;
        let a_to_c = pair.a.alias_of("c")?;
        pair.a.stop()?;
        let node = Node::start(&a, &[])?;
        let refreshed = fs::read_to_string(&file)?;
        ensure!(refreshed.contains(&format!("{a_to_c} c.home.vpi\n")), "{refreshed}");
        ensure!(a.vpi(&["down", "home"])?.success()?.stdout.contains("vpi-home"));
        let down = fs::read_to_string(&file)?;
        ensure!(down.contains("# vpi begin") && !down.contains(".home.vpi\n"), "{down}");
        a.vpi(&["hosts", "--uninstall"])?.success()?;
        ensure!(fs::read_to_string(&file)? == before, "{}", fs::read_to_string(&file)?);
        drop((node, c));
        Ok(())
    });
}

#[test]
fn a_damaged_block_is_refused_with_what_to_do() {
    scenario("hosts-bad", 1, |lab| {
        let member = Member::found(lab.host("a")?, &[])?;
        let file = lab.evidence().join("hosts");
        let state = fs::canonicalize(&member.host.state)?;
        let damaged = format!("127.0.0.1 localhost\n# vpi begin {}\n10.0.0.9 printer\n", state.display());
        fs::write(&file, &damaged)?;
        let refused = member.host.seeing(&file, "/etc/hosts").vpi(&["hosts", "--install"])?;
        refused.refused(1, &["/etc/hosts", "line 2", "remove"])?;
        ensure!(fs::read_to_string(&file)? == damaged, "the file was changed");
        Ok(())
    });
}

#[test]
fn a_dns_query_for_a_member_is_answered_on_loopback_only() {
    scenario("dns", 2, |lab| {
        let settings = lab.evidence().join("settings.toml");
        fs::write(&settings, format!("dns = \"{DNS}\"\n"))?;
        let pair = Pair::join(lab, &["--config", &settings.to_string_lossy()])?;
        let a = &pair.a.host;
        let question = query("b.home.vpi");
        let answer = over_udp(a, &question)?;
        ensure!(address_in(&answer)? == pair.a_to_b, "{answer:02x?}");
        ensure!(address_in(&over_tcp(a, &question)?)? == pair.a_to_b);
        for (name, code) in [("nobody.home.vpi", NAME_ERROR), ("example.com", REFUSED)] {
            let answer = over_udp(a, &query(name))?;
            ensure!(answer[3] & 0x0f == code, "{name}: {answer:02x?}");
        }
        let sockets = a.run("ss", &["-lntuH"], PATIENCE)?.success()?.stdout;
        let dns: Vec<_> = sockets.lines().filter(|line| line.contains(":5354")).collect();
        ensure!(dns.len() == 2 && dns.iter().all(|line| line.contains(DNS)), "{sockets}");
        Ok(())
    });
}

/// A query for the IPv4 address of `name` (RFC 1035 §4).
fn query(name: &str) -> Vec<u8> {
    let mut bytes = HEAD.to_vec();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap_or_default());
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.extend_from_slice(&[0, 0, 1, 0, 1]);
    bytes
}

/// The address of an answer with one record at its end.
fn address_in(answer: &[u8]) -> Result<Ipv4Addr> {
    ensure!(
        answer.starts_with(&[0x12, 0x34, 0x85, 0, 0, 1, 0, 1]),
        "no answer with one address: {answer:02x?}"
    );
    let last: [u8; 4] = *answer.last_chunk().context("an answer of no length")?;
    Ok(last.into())
}

fn over_udp(host: &Host, query: &[u8]) -> Result<Vec<u8>> {
    let socket = host.enter(|| Ok(UdpSocket::bind("127.0.0.1:0")?))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    wait::until("an answer of the DNS server", PATIENCE, || {
        socket.send_to(query, DNS)?;
        let mut buffer = [0; 1_500];
        Ok(socket.recv_from(&mut buffer).ok().map(|(length, _)| buffer[..length].to_vec()))
    })
}

fn over_tcp(host: &Host, query: &[u8]) -> Result<Vec<u8>> {
    let address: SocketAddr = DNS.parse()?;
    let mut stream = host.enter(|| Ok(TcpStream::connect_timeout(&address, PATIENCE)?))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&u16::try_from(query.len())?.to_be_bytes())?;
    stream.write_all(query)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}
