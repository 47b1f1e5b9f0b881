//! Arguments, and what is shown, without a node.

use std::os::unix::fs::PermissionsExt as _;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use super::{Cli, code, create, expose, invite, invites, join, output, ping, status};
use crate::control::{
    Exit, Failure,
    members::{InviteState, InviteStatus, Invites},
    protocol::{Hidden, Pong},
    reach::{Exposed, Named, Reachable},
    status::{MemberState, MemberStatus, PathKind, PathStatus, Status, Time, VpiStatus},
};
use crate::{loopback::Transport, store::reach::Policy};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split_whitespace())
}

fn exit_of(error: &anyhow::Error) -> Exit {
    error.downcast_ref::<Failure>().map_or(Exit::Failed, |failure| failure.exit)
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_command_that_only_a_node_runs_is_not_shown() {
    assert!(parse("vpi index-keeper /tmp/index").is_ok());
    assert!(!Cli::command().render_long_help().to_string().contains("keeper"));
}

#[test]
fn right_usage_is_understood() {
    for line in [
        "vpi up",
        "vpi up --config /etc/vpi.toml --user vpi --state /tmp/a --control /tmp/a.sock",
        "vpi down",
        "vpi down home",
        "vpi create home",
        "vpi create home --name nas --port 41414 --endpoint 203.0.113.5:41414 --endpoint [2001:db8::1]:41414 \
         --beacon /ip4/203.0.113.5/tcp/4001/p2p/12D3KooW --json",
        "vpi invite home --name laptop --uses 1000 --expires 30d --out /tmp/token --qr --offline",
        "vpi --json join --name laptop --port 41414 --token-file /tmp/token",
        "vpi status home --drops --json",
        "vpi ping nas.home -c 3",
        "vpi request-code --json",
        "vpi whois 127.80.3.9",
        "vpi expose home tcp/22",
        "vpi expose home udp/53 --to nas --to laptop.home --json",
        "vpi unexpose home tcp/22",
        "vpi exposures",
        "vpi exposures home",
        "vpi policy home",
        "vpi policy home own-alias",
        "vpi policy home exposed-only",
        "vpi metrics",
        "vpi leave home",
        "vpi remove home nas --reason lost --offline",
        "vpi revoke home 00ff --offline",
        "vpi invites home --json",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
    let code = "ab".repeat(32);
    assert!(parse(&format!("vpi invite home --device {code}")).is_ok());
    let code = code::write(&[0xab; 32].into());
    assert!(parse(&format!("vpi invite home --device {code}")).is_ok());
}

#[test]
fn wrong_usage_ends_with_code_2() {
    for line in [
        "vpi fly",
        "vpi create",
        "vpi create Home",
        "vpi create home-is-far-away",
        "vpi create home --name Nas",
        "vpi create home --port 0",
        "vpi create home --port 65536",
        "vpi create home --endpoint nas:41414",
        "vpi create home --beacon 203.0.113.5",
        "vpi invite",
        "vpi invite home --uses 0",
        "vpi invite home --uses 1001",
        "vpi invite home --expires 31d",
        "vpi invite home --expires soon",
        "vpi invite home --device nas",
        "vpi ping",
        "vpi ping nas -c 0",
        "vpi status home --colour",
        "vpi whois",
        "vpi whois nas",
        "vpi whois ::1",
        "vpi expose home",
        "vpi expose home 22",
        "vpi expose home tcp/0",
        "vpi expose home icmp/1",
        "vpi unexpose home ssh",
        "vpi policy",
        "vpi policy home open",
        "vpi metrics home",
        "vpi leave",
        "vpi remove home",
        "vpi remove home nas --reason because",
        "vpi revoke home",
        "vpi invites",
    ] {
        assert_eq!(parse(line).expect_err(line).exit_code(), 2, "{line}");
    }
    assert_eq!(parse("vpi --help").unwrap_err().kind(), ErrorKind::DisplayHelp);
    assert_eq!(parse("vpi --version").unwrap_err().exit_code(), 0);
}

#[test]
fn a_token_on_the_command_line_is_refused_and_not_repeated() {
    let error = parse("vpi join vpi1secret").unwrap().run().unwrap_err();
    assert_eq!(exit_of(&error), Exit::Usage);
    assert!(!format!("{error:?}").contains("secret"));
}

#[test]
fn without_a_node_the_exit_code_is_3() {
    let dir = tempfile::tempdir().unwrap();
    let asking = [
        "status",
        "ping nas",
        "invite home",
        "request-code",
        "whois 127.80.3.9",
        "exposures",
        "metrics",
        "remove home nas",
        "revoke home 00ff",
        "invites home",
    ];
    for line in asking {
        let line = format!("vpi --state {} {line}", dir.path().display());
        assert_eq!(exit_of(&parse(&line).unwrap().run().unwrap_err()), Exit::NoNode, "{line}");
    }
}

#[test]
fn a_token_is_read_without_its_white_space() {
    let read = |text: &str| join::read_token(text.as_bytes());
    assert_eq!(read("  vpi1abc\n  def\r\n").unwrap(), Hidden("vpi1abcdef".into()));
    assert_eq!(read("VPI1ABC").unwrap(), Hidden("VPI1ABC".into()));
    assert_eq!(exit_of(&read(" \n").unwrap_err()), Exit::Usage);
    for damaged in ["ypi1abc", "vpi", "vpi1ab-c", "vpi1abé", &format!("vpi1{}", "a".repeat(9_000))] {
        assert_eq!(exit_of(&read(damaged).unwrap_err()), Exit::Refused, "{damaged}");
    }
    assert!(join::read_token(&b"vpi1\xff\xfe"[..]).is_err());
}

#[test]
fn a_token_file_is_private_and_never_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let file = invite::create_private(&path).unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(invite::create_private(&path).unwrap_err().to_string().contains("token"));
}

#[test]
fn a_refused_invite_leaves_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let (state, path) = (dir.path().display(), dir.path().join("token"));
    let line = format!("vpi --state {state} invite home --out {}", path.display());
    assert_eq!(exit_of(&parse(&line).unwrap().run().unwrap_err()), Exit::NoNode);
    assert!(!path.exists());
}

#[test]
fn a_token_fits_a_qr_code() {
    let drawn = invite::draw(&format!("vpi1{}", "abcd2345".repeat(100))).unwrap();
    let widths: Vec<_> = drawn.lines().map(|line| line.chars().count()).collect();
    assert!(widths.iter().all(|width| *width == widths[0]) && widths[0] < 140, "{widths:?}");
}

#[test]
fn a_recovery_key_becomes_24_words() {
    // The vector of BIP 39 for 256 bits of zero.
    let phrase = create::phrase(&Hidden("00".repeat(32))).unwrap();
    assert_eq!(*phrase, format!("{}art", "abandon ".repeat(23)));
    assert!(create::phrase(&Hidden("00".repeat(16))).is_err());
}

#[test]
fn status_is_an_aligned_table() {
    let path = PathStatus {
        kind: PathKind::Host,
        local: "192.0.2.1:41414".into(),
        remote: "192.0.2.2:41414".into(),
        via: None,
        rtt_ms: Some(8.44),
    };
    let own = MemberStatus {
        name: "laptop".into(),
        id: "00".repeat(32),
        alias: [127, 80, 12, 7].into(),
        alias_usual: true,
        state: MemberState::Own,
        path: None,
        rx_bytes: 0,
        tx_bytes: 0,
        last_seen: None,
    };
    let peer = MemberStatus {
        name: "nas".into(),
        alias: [127, 80, 3, 9].into(),
        alias_usual: false,
        state: MemberState::Direct,
        path: Some(path),
        rx_bytes: 1_536,
        last_seen: Some(Time::from_unix(1_767_225_600)),
        ..own.clone()
    };
    let vpi = VpiStatus {
        name: "home".into(),
        id: "f00d".into(),
        alias: own.alias,
        prefix: "127.80.0.0/16".into(),
        device: "vpi-home".into(),
        port: 41_414,
        epoch: 3,
        beacons: Vec::new(),
        members: vec![own, peer],
        policy: Policy::OwnAlias,
        notices: vec!["the recovery phrase was never shown: run `vpi create home` again".into()],
        drops: Some([("forged".to_owned(), 12)].into()),
    };
    let shown = status::describe(&Status { version: "0.1.0".into(), vpis: vec![vpi] });
    let expected = "\
home  127.80.12.7  vpi-home  port 41414  epoch 3  2 members  id f00d
  NAME    ALIAS         STATE   PATH                  RTT     RECEIVED  SENT  LAST SEEN
  laptop  127.80.12.7   self    -                     -       0 B       0 B   -
  nas     127.80.3.9 *  direct  host 192.0.2.2:41414  8.4 ms  1.5 KiB   0 B   2026-01-01T00:00:00Z
  * most other machines know this member under another alias
  ! the recovery phrase was never shown: run `vpi create home` again

  DROPPED  TIMES
  forged   12";
    assert_eq!(shown, expected);
}

#[test]
fn invites_are_an_aligned_table() {
    let invite = InviteStatus {
        invite: "00ff".repeat(8),
        name: None,
        device: None,
        admin: None,
        uses: 10,
        uses_left: 1,
        expires: Time::from_unix(1_767_225_600),
        state: InviteState::UsedUp,
    };
    let named = InviteStatus { name: Some("nas".into()), state: InviteState::Open, ..invite.clone() };
    let shown = invites::describe(&Invites { vpi: "home".into(), invites: vec![invite, named] });
    let expected = "\
INVITE    NAME  USES  LEFT  EXPIRES               STATE
00ff00ff  -     10    1     2026-01-01T00:00:00Z  used up
00ff00ff  nas   10    1     2026-01-01T00:00:00Z  open";
    assert_eq!(shown, expected);
    assert!(
        invites::describe(&Invites { vpi: "home".into(), invites: Vec::new() }).contains("vpi invite home")
    );
}

#[test]
fn exposures_are_told_for_people() {
    let named = |member: Option<&str>| Named { member: member.map(Into::into), id: "ab".into() };
    let exposed = |port, to| Exposed { proto: Transport::Tcp, port, to };
    let exposures = vec![exposed(22, Some(vec![named(Some("nas.home")), named(None)])), exposed(8_080, None)];
    let home = Reachable { vpi: "home".into(), policy: Policy::OwnAlias, exposures };
    let work = Reachable { vpi: "work".into(), policy: Policy::ExposedOnly, exposures: Vec::new() };
    let expected = "\
home  own-alias: members reach what listens on the own alias or on 0.0.0.0, and the exposures
  SERVICE   FOR
  tcp/22    nas.home, ab (no member)
  tcp/8080  every member

work  exposed-only: members reach the exposures, and nothing else
  no service on 127.0.0.1 is exposed";
    assert_eq!(expose::describe(&[home, work]), expected);
    assert!(expose::describe(&[]).contains("vpi create"));
}

#[test]
fn ping_sums_up_what_came_back() {
    let mut summary = ping::Summary::new("nas".into());
    for rtt_ms in [Some(4.0), None, Some(1.0), Some(10.0)] {
        summary.add(&Pong { member: "nas.home".into(), rtt_ms, path: rtt_ms.map(|_| PathKind::Host) });
    }
    let json = serde_json::json!({"member": "nas.home", "sent": 4, "received": 3,
        "rtt_ms": {"min": 1.0, "mean": 5.0, "max": 10.0}, "path": "host"});
    assert_eq!(serde_json::to_value(&summary).unwrap(), json);
    assert_eq!(output::rtt(8.44), "8.4 ms");
}
