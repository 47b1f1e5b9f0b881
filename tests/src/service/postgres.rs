//! A PostgreSQL cluster of its own, run as the user `nobody` (it refuses root), and `psql`.

use std::fmt::Display;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{CLIENT_LIMIT, SERVER_LIMIT, Server};
use crate::{Host, wait};

const PORT: &str = "5432";
const AS_NOBODY: [&str; 5] = ["--reuid", "nobody", "--regid", "nogroup", "--clear-groups"];

/// A server that trusts whoever comes from a loopback address.
pub struct Postgres {
    _server: Server,
    folder: PathBuf,
}

impl Postgres {
    /// Makes a cluster and starts it on every address of `host`; returns when it answers.
    ///
    /// # Errors
    /// It is not installed, or does not answer.
    pub fn start(host: &Host) -> Result<Self> {
        // Under /run, where every user may pass, unlike through the folders above a source tree.
        let folder = host.state.with_file_name("postgres");
        fs::create_dir(&folder)?;
        host.run("chown", &["nobody:nogroup", &folder.to_string_lossy()], CLIENT_LIMIT)?.success()?;
        let data = folder.join("data").to_string_lossy().into_owned();
        let programs = programs()?;
        let initdb = programs.join("initdb").to_string_lossy().into_owned();
        let words = [&initdb, "-D", &data, "-U", "postgres", "-A", "trust", "-N", "--locale=C"];
        host.run("setpriv", &[&AS_NOBODY[..], &words].concat(), CLIENT_LIMIT)?.success()?;
        fs::write(folder.join("data/pg_hba.conf"), "host all all 127.0.0.0/8 trust\n")?;
        let (postgres, sockets) = (programs.join("postgres"), folder.to_string_lossy().into_owned());
        let postgres = postgres.to_string_lossy();
        let words = [&postgres, "-D", &data, "-h", "0.0.0.0", "-p", PORT, "-k", &sockets, "-F"];
        let server = Server::spawn(host.command("setpriv", &[&AS_NOBODY[..], &words].concat()), "postgres")?;
        let postgres = Self { _server: server, folder };
        wait::until("PostgreSQL to answer", SERVER_LIMIT, || {
            Ok(postgres.query(host, Ipv4Addr::LOCALHOST, "select 1").ok())
        })?;
        Ok(postgres)
    }

    /// What `psql` on `host` prints for a query to the server at `address`: a line a row, `|` between columns.
    ///
    /// # Errors
    /// psql's own sentence.
    pub fn query(&self, host: &Host, address: impl Display, query: &str) -> Result<String> {
        let address = address.to_string();
        let words = [
            "-X", "-A", "-t", "-w", "-h", &address, "-p", PORT, "-U", "postgres", "-d", "postgres", "-c",
            query,
        ];
        Ok(host.run("psql", &words, CLIENT_LIMIT)?.success()?.stdout.trim().to_owned())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The lab removes the folder above it as well.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where the server's programs lie: Debian keeps each version in a folder of its own, outside the path.
fn programs() -> Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").map(|entries| entries.flatten().collect::<Vec<_>>());
    let folders = versions.unwrap_or_default().into_iter().map(|entry| entry.path().join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = folders.chain(std::env::split_paths(&path));
    let found = all.find(|folder| Path::new(folder).join("initdb").exists());
    found.context("PostgreSQL's server is missing (Debian: apt-get install postgresql)")
}
