//! The running node: starts, feeds the engines, stops. The only reader of the clock.
//!
//! ```text
//! control::Server ── Call ──┐
//! pump ── Seen ─────────────┤──► Node ──► Vpi: Engine ──► store, socket, pump, swarm
//! swarm ── Told ────────────┤
//! timer, signals ───────────┘
//! ```
//!
//! One task on one thread does all of it; packets of running sessions do not come here. In every turn the machine's own
//! wishes go first, then members, then whatever strangers sent; after each wish some of the others' have their turn.

mod call;
mod carry;
mod cause;
mod enter;
mod lan;
mod members;
mod metrics;
mod names;
mod netcheck;
mod node;
mod ping;
mod reach;
mod resolve;
mod sides;
mod statics;
mod status;
mod vpi;
mod way;
mod why;

use std::io::Write as _;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use protocol::engine::Time;
use tracing::{info, warn};

use crate::config::NodeOptions;
use crate::control::server::Server;
use crate::control::{Exit, Failure};
use crate::loopback::{self, Firewall};
use crate::names::dns::Sockets;
use crate::privilege;
use crate::service;
use crate::store::journal::{Installed, Journal};
use crate::store::settings::VpiSettings;
use crate::store::state::{Owner, State};
use crate::udp::AddressWatch;

use node::Node;

/// Runs the node until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, or from keeping its promises.
pub(crate) fn run(options: NodeOptions) -> anyhow::Result<Exit> {
    let user = options.user.as_deref().map(privilege::user).transpose()?;
    let state = State::open(&options.state, user)?;
    let owner = user.unwrap_or(state.owner());
    if owner != state.owner() {
        let message = format!("{} belongs to another user", options.state.display());
        return Err(Failure::new(Exit::Failed, message, "chown -R it to the user of --user").into());
    }
    state.finish_departures()?;
    VpiSettings::mend(state.dir(), state.owner())?;
    let vpis = VpiSettings::list(state.dir())?;
    runtime()?.block_on(prepare(state.dir(), &vpis, owner))?;
    if privilege::is_root() {
        names::refresh_hosts(state.dir());
    }
    // Before privileges go, so that the port may be 53.
    let dns = options.settings.dns.map(names::bind_dns).transpose()?;
    privilege::give_up(owner)?;
    runtime()?.block_on(serve(options, state, vpis, dns))
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Sets the machine up for every VPI, or finds out that it is.
async fn prepare(dir: &Path, vpis: &[VpiSettings], owner: Owner) -> anyhow::Result<()> {
    for vpi in vpis {
        let plan = loopback::Plan::of(vpi)?;
        if privilege::is_root() {
            Journal::begin(dir, &Installed::from(&plan))?;
            let firewall = loopback::install(&plan, owner.user).await;
            if firewall.with_context(|| format!("cannot set this machine up for {}", vpi.name))?
                == Firewall::NoNft
            {
                warn!(vpi = vpi.name, "nft is not installed: set up without the firewall table");
            }
        } else if let Some(missing) = loopback::missing(&plan).await?.first() {
            let message = format!("this machine is not set up for {}: {missing} is missing", vpi.name);
            return Err(Failure::new(Exit::Failed, message, "run `vpi up` as root once: sudo vpi up").into());
        }
    }
    Ok(())
}

/// The node's life after its privileges are gone.
async fn serve(
    options: NodeOptions,
    state: State,
    vpis: Vec<VpiSettings>,
    dns: Option<Sockets>,
) -> anyhow::Result<Exit> {
    state.keys().mend()?;
    let server = Server::bind(&options.control)?;
    let watch = AddressWatch::start().await.context("cannot watch this machine's addresses")?;
    let mut node = Node::new(options, state, watch);
    node.names = dns.map(names::Names::serve).transpose()?;
    node.index.recall(&vpis.iter().map(|vpi| vpi.id).collect::<Vec<_>>()).await;
    for settings in vpis {
        node.open(settings)?;
    }
    let (calls, received) = tokio::sync::mpsc::channel(crate::control::server::MAX_CONNECTIONS);
    let serving = tokio::spawn(async move { server.serve(calls).await });
    announce_ready(&node)?;
    let outcome = node.run(received).await;
    serving.abort();
    let _ = serving.await;
    info!("stopped");
    outcome
}

/// Tells whoever waits that commands are answered and packets move.
fn announce_ready(node: &Node) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "vpi is ready: {}", node.summary())?;
    out.flush()?;
    service::tell_ready();
    Ok(())
}

/// Reads both clocks.
fn time() -> Time {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time { now: Instant::now(), wall_ms: wall.as_millis() as u64 }
}
