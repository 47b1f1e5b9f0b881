//! Names of the running node: the block in `/etc/hosts` at start, the DNS server's table after each change.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::node::Node;
use crate::control::{Exit, Failure};
use crate::names::dns::{Sockets, Table};
use crate::names::hosts::{Change, Hosts, PATH};
use crate::names::{of_status, on_disk};

/// A DNS server that runs, until this is dropped.
pub(super) struct Names {
    table: watch::Sender<Arc<Table>>,
    /// The VPIs that the table was made of.
    vpis: usize,
    _serving: JoinSet<()>,
}

impl Names {
    /// Serves on `sockets`, with no name yet.
    pub(super) fn serve(sockets: Sockets) -> std::io::Result<Self> {
        let (table, receiver) = watch::channel(Arc::default());
        let serving = sockets.serve(&receiver)?;
        Ok(Self { table, vpis: 0, _serving: serving })
    }
}

impl Node {
    /// Brings the DNS server's table in line with the members, if they may have changed.
    pub(super) fn refresh_names(&mut self) {
        let mut has_news = false;
        for vpi in self.vpis.values_mut() {
            has_news |= std::mem::take(&mut vpi.has_news);
        }
        let count = self.vpis.len();
        let Some(names) = self.names.as_mut().filter(|names| has_news || names.vpis != count) else { return };
        names.vpis = count;
        // Without the name of a VPI, which cannot be wrong, there is no failure.
        let Ok(status) = self.status(None, false) else { return };
        if let Some(names) = &self.names {
            names.table.send_replace(Arc::new(Table::new(of_status(&status))));
        }
    }
}

/// Binds the address of the setting `dns`.
///
/// # Errors
/// A [`Failure`] that says what to change.
pub(super) fn bind_dns(address: SocketAddr) -> anyhow::Result<Sockets> {
    Sockets::bind(address).map_err(|error| {
        let advice = "stop what uses it, or choose another address or port for `dns` in the settings file";
        Failure::new(Exit::Failed, format!("cannot serve DNS on {address}: {error}"), advice).into()
    })
}

/// Rewrites the block in `/etc/hosts` from what is on disk, if it is installed; a node runs without it, too.
pub(super) fn refresh_hosts(state: &Path) {
    let refreshed = Hosts::new(Path::new(PATH), state).map_err(anyhow::Error::from).and_then(|hosts| {
        if !hosts.is_installed()? {
            return Ok(Change::None);
        }
        Ok(hosts.refresh(&on_disk(state)?)?)
    });
    match refreshed {
        Ok(Change::None) => {}
        Ok(Change::Written) => info!("the names in /etc/hosts were brought up to date"),
        Err(error) => warn!(%error, "the names in /etc/hosts are not those of the members"),
    }
}
