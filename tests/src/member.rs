//! Members of the VPI `home`: founding, inviting, joining, and what `vpi status --json` says about them.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;

use crate::{Host, Lab, Node, wait};

/// How long two members may take until each sees the other.
const MEET_LIMIT: Duration = Duration::from_secs(10);

/// A host whose node is a member of `home`, under the host's name.
pub struct Member {
    /// Where it runs.
    pub host: Host,
    /// Its node, unless it was ended.
    pub node: Option<Node>,
    /// The alias of this member on its own machine.
    pub alias: Ipv4Addr,
    arguments: Vec<String>,
}

impl Member {
    /// Starts a node on `host` and founds `home`.
    ///
    /// # Errors
    /// A command fails.
    pub fn found(host: &Host, arguments: &[&str]) -> Result<Self> {
        Self::found_with(host, &[], arguments)
    }

    /// Starts a node on `host` and founds `home` as `words` say to `vpi create`.
    ///
    /// # Errors
    /// A command fails.
    pub fn found_with(host: &Host, words: &[&str], arguments: &[&str]) -> Result<Self> {
        let node = Node::start(host, arguments)?;
        let create = [&["create", "home", "--name", &host.name, "--json"], words].concat();
        let answer = host.vpi(&create)?.json()?;
        Self::new(host, node, arguments, &answer)
    }

    /// Starts a node on `host` and joins with `token`.
    ///
    /// # Errors
    /// A command fails.
    pub fn join(host: &Host, token: &str, arguments: &[&str]) -> Result<Self> {
        let node = Node::start(host, arguments)?;
        let answer = host.vpi_reading(token, &["join", "--name", &host.name, "--json"])?.json()?;
        Self::new(host, node, arguments, &answer)
    }

    /// A token for one use; `arguments` as `vpi invite` takes them.
    ///
    /// # Errors
    /// The command fails.
    pub fn invite(&self, arguments: &[&str]) -> Result<String> {
        let mut words = vec!["invite", "home", "--json"];
        words.extend_from_slice(arguments);
        let answer = self.host.vpi(&words)?.json()?;
        Ok(answer["token"].as_str().context("vpi invite --json has no token")?.to_owned())
    }

    /// Takes back the invite of the name `name`, as `vpi invite --name` gives it.
    ///
    /// # Errors
    /// There is none, or a command fails.
    pub fn revoke(&self, name: &str) -> Result<()> {
        let invites = self.host.vpi(&["invites", "home", "--json"])?.json()?["invites"].take();
        let mut invites = invites.as_array().context("vpi invites --json has no list")?.iter();
        let invite = invites.find(|invite| invite["name"] == name).context("no such invite")?;
        let id = invite["invite"].as_str().context("an id is a text")?;
        self.host.vpi(&["revoke", "home", id])?.success().map(drop)
    }

    /// The alias by which this machine knows the member `name`; waits until it knows one.
    ///
    /// # Errors
    /// It knows none within 10 s.
    pub fn alias_of(&self, name: &str) -> Result<Ipv4Addr> {
        wait::until(&format!("{} to know an alias of {name}", self.host.name), MEET_LIMIT, || {
            let member = find_member(&self.host, name)?;
            Ok(member.and_then(|member| member["alias"].as_str()?.parse().ok()))
        })
    }

    /// The UDP port of this member's node.
    ///
    /// # Errors
    /// The command fails or says none.
    pub fn port(&self) -> Result<u16> {
        let status = self.host.vpi(&["status", "--json"])?.json()?;
        let port = status["vpis"][0]["port"].as_u64().context("vpi status --json has no port")?;
        Ok(u16::try_from(port)?)
    }

    /// Ends the node with SIGTERM, and returns its exit code.
    ///
    /// # Errors
    /// It had ended before, or does not end.
    pub fn stop(&mut self) -> Result<i32> {
        self.node.take().with_context(|| format!("no node on {}", self.host.name))?.stop()
    }

    /// Ends the node with kill -9.
    ///
    /// # Errors
    /// It had ended before.
    pub fn kill(&mut self) -> Result<()> {
        self.node.take().with_context(|| format!("no node on {}", self.host.name))?.kill()
    }

    /// Starts the node again, as it was started first, and returns it when it is ready.
    ///
    /// # Errors
    /// It does not get ready.
    pub fn restart(&mut self) -> Result<&Node> {
        let arguments: Vec<_> = self.arguments.iter().map(String::as_str).collect();
        Ok(self.node.insert(Node::start(&self.host, &arguments)?))
    }

    fn new(host: &Host, node: Node, arguments: &[&str], answer: &Value) -> Result<Self> {
        let alias = answer["alias"].as_str().ok_or_else(|| anyhow!("no alias in {answer}"))?.parse()?;
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Ok(Self { host: host.clone(), node: Some(node), alias, arguments })
    }
}

/// Two members that see each other.
pub struct Pair {
    /// The founder, on host `a`.
    pub a: Member,
    /// The joiner, on host `b`.
    pub b: Member,
    /// The alias by which `a` knows `b`.
    pub a_to_b: Ipv4Addr,
    /// The alias by which `b` knows `a`.
    pub b_to_a: Ipv4Addr,
}

impl Pair {
    /// Founds on `a`, joins on `b`, waits until each knows the other. `arguments` go to both `vpi up`.
    ///
    /// # Errors
    /// A command fails, or they do not meet within 10 s.
    pub fn join(lab: &Lab, arguments: &[&str]) -> Result<Self> {
        let a = Member::found(lab.host("a")?, arguments)?;
        let b = Member::join(lab.host("b")?, &a.invite(&[])?, arguments)?;
        let (a_to_b, b_to_a) = (a.alias_of("b")?, b.alias_of("a")?);
        Ok(Self { a, b, a_to_b, b_to_a })
    }
}

/// The first of `names` founds, all others join at once by one invite of its; in their order.
///
/// # Errors
/// A command fails, or the lab has no such host.
pub fn group(lab: &Lab, names: &[&str]) -> Result<Vec<Member>> {
    let (founder, joiners) = names.split_first().context("a VPI has a founder")?;
    let founder = Member::found(lab.host(founder)?, &[])?;
    let token = founder.invite(&["--uses", &joiners.len().max(1).to_string()])?;
    let mut members = vec![founder];
    thread::scope(|scope| {
        let joining: Vec<_> = joiners
            .iter()
            .map(|name| lab.host(name))
            .map(|host| scope.spawn(|| Member::join(host?, &token, &[])))
            .collect();
        for join in joining {
            members.push(join.join().map_err(|_| anyhow!("a join panicked"))??);
        }
        Ok(members)
    })
}

/// What the node on `host` says about the member `name` of its first VPI.
///
/// # Errors
/// The command fails.
pub fn find_member(host: &Host, name: &str) -> Result<Option<Value>> {
    let mut status = host.vpi(&["status", "--json"])?.json()?;
    let members = status["vpis"][0]["members"].take();
    let found = members.as_array().and_then(|members| members.iter().find(|member| member["name"] == name));
    Ok(found.cloned())
}
