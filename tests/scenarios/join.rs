//! Invites and joins: one use each, whatever is lost or killed on the way.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tests::process::finish;
use tests::topology::vpi_binary;
use tests::{Answer, Host, Member, Node, scenario, wait};

const USED_UP: i32 = 5;
const REFUSED: i32 = 5;
/// How long a joiner may go on asking.
const JOIN_LIMIT: Duration = Duration::from_secs(30);
const LOST_ANSWERS: u64 = 2;

#[test]
fn an_invite_for_one_use_admits_one_device_and_refuses_the_second() {
    scenario("twice", 3, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let token = a.invite(&[])?;
        let _b = Member::join(lab.host("b")?, &token, &[])?;
        second_is_refused(lab.host("c")?, &token)
    });
}

#[test]
fn a_token_with_one_wrong_character_is_refused() {
    scenario("damaged", 2, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let token = a.invite(&[])?;
        let host = lab.host("b")?;
        let _node = Node::start(host, &[])?;
        let last = token.trim().len() - 1;
        for at in [4, 5, 60, last / 2, last - 8, last - 1, last] {
            join(host, &damaged(&token, at))?
                .refused(REFUSED, &["token"])
                .with_context(|| format!("at {at}"))?;
        }
        join(host, &token[..last])?.refused(REFUSED, &["token"])?;
        join(host, &token)?.success()?;
        Ok(())
    });
}

#[test]
fn an_expired_invite_is_refused() {
    scenario("expired", 2, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let token = a.invite(&["--expires", "1s"])?;
        let host = lab.host("b")?;
        let _node = Node::start(host, &[])?;
        // Expiry is in whole seconds: two later it has come, however the second was rounded.
        std::thread::sleep(Duration::from_secs(2));
        join(host, &token)?.refused(REFUSED, &["expired"])
    });
}

#[test]
fn a_join_whose_answers_are_lost_succeeds_when_one_gets_through_and_is_one_use() {
    scenario("lost", 3, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let token = a.invite(&[])?;
        let host = lab.host("b")?;
        let _node = Node::start(host, &[])?;
        let answers = LostAnswers::drop_at(host, a.host.address, a.port()?)?;
        let joining = std::thread::spawn({
            let (host, token) = (host.clone(), token.clone());
            move || join(&host, &token)
        });
        answers.wait_for(LOST_ANSWERS)?;
        answers.let_through()?;
        joining.join().map_err(|_| anyhow!("the join panicked"))??.success()?;
        a.alias_of("b")?;
        second_is_refused(lab.host("c")?, &token)
    });
}

#[test]
fn a_joiner_killed_between_question_and_answer_joins_at_the_retry_and_is_one_use() {
    scenario("midway", 3, |lab| {
        let a = Member::found(lab.host("a")?, &[])?;
        let token = a.invite(&[])?;
        let host = lab.host("b")?;
        let node = Node::start(host, &[])?;
        let answers = LostAnswers::drop_at(host, a.host.address, a.port()?)?;
        let command = host.command(&vpi_binary()?, &["join", "--name", "b"]);
        let mut joining = start_with_input(command, &token)?;
        answers.wait_for(1)?;
        node.kill()?;
        // It may have ended by itself, with its node gone.
        let _ = joining.kill();
        joining.wait()?;
        answers.let_through()?;
        let _node = Node::start(host, &[])?;
        join(host, &token)?.success()?;
        a.alias_of("b")?;
        second_is_refused(lab.host("c")?, &token)
    });
}

fn join(host: &Host, token: &str) -> Result<Answer> {
    finish(host.command(&vpi_binary()?, &["join", "--name", &host.name, "--json"]), token, JOIN_LIMIT)
}

fn second_is_refused(host: &Host, token: &str) -> Result<()> {
    let _node = Node::start(host, &[])?;
    join(host, token)?.refused(USED_UP, &["used"])
}

/// The token with the character at `at` replaced by another of its alphabet.
fn damaged(token: &str, at: usize) -> String {
    let mut bytes = token.trim().as_bytes().to_vec();
    bytes[at] = if bytes[at].eq_ignore_ascii_case(&b'a') { b'b' } else { b'a' };
    String::from_utf8_lossy(&bytes).into_owned()
}

fn start_with_input(mut command: std::process::Command, input: &str) -> Result<std::process::Child> {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    child.stdin.take().context("standard input is piped")?.write_all(input.as_bytes())?;
    Ok(child)
}

/// Datagrams from the witness that are lost on their way into the joiner: dropped by nftables before any socket, so
/// that neither end is told.
struct LostAnswers {
    host: Host,
}

impl LostAnswers {
    fn drop_at(host: &Host, witness: std::net::Ipv4Addr, port: u16) -> Result<Self> {
        let rules = format!(
            "table ip lost {{ chain in {{ type filter hook prerouting priority raw; \
             ip saddr {witness} udp sport {port} counter drop; }}; }}"
        );
        host.run("nft", &[&rules], JOIN_LIMIT)?.success()?;
        Ok(Self { host: host.clone() })
    }

    fn wait_for(&self, answers: u64) -> Result<()> {
        wait::until(&format!("{answers} lost answers"), JOIN_LIMIT, || {
            let rules = self.host.run("nft", &["list", "table", "ip", "lost"], JOIN_LIMIT)?.success()?.stdout;
            let mut words = rules.split_whitespace().skip_while(|word| *word != "packets").skip(1);
            let lost: u64 = words.next().context("the rule counts packets")?.parse()?;
            Ok((lost >= answers).then_some(()))
        })
    }

    fn let_through(self) -> Result<()> {
        self.host.run("nft", &["delete", "table", "ip", "lost"], JOIN_LIMIT)?.success()?;
        Ok(())
    }
}
